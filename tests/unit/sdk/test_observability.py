"""Logs and traces."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import stepweave
from stepweave import PermanentError
from stepweave.telemetry import configure_logging, get_logger
from stepweave.testing import make_dispatch, run_handler
from stepweave.tracing import HandlerSpans, current_traceparent


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in list(root.handlers):
        if handler.get_name() == "stepweave":
            root.removeHandler(handler)


def test_records_carry_their_fields(caplog: pytest.LogCaptureFixture) -> None:
    log = get_logger("stepweave.test")
    with caplog.at_level(logging.INFO, logger="stepweave.test"):
        log.bind(task="t1").info("100% done", step="pay")
        log.debug("not shown")
    (record,) = caplog.records
    assert record.getMessage() == "100% done task=t1 step=pay"
    assert record.fields == {"task": "t1", "step": "pay"}  # type: ignore[attr-defined]


def test_logs_as_json_and_for_people(restored_logging: None) -> None:
    log = get_logger("stepweave.test2")
    stream = io.StringIO()
    configure_logging("INFO", "json", stream)
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("it failed", step="pay", odd=object())
    logging.getLogger("other").warning("plain %s", "text")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["level"], first["event"], first["step"]) == ("error", "it failed", "pay")
    assert "ValueError: boom" in first["exception"]
    assert (second["event"], second["logger"]) == ("plain text", "other")
    people = io.StringIO()
    configure_logging("WARNING", "console", people)
    log.info("hidden")
    log.warning("shown", step="pay")
    assert people.getvalue().strip().endswith("WARNING shown step=pay")
    assert stream.getvalue().count("\n") == 2


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", lambda name: provider.get_tracer(name))
    return exporter


def test_no_spans_where_nobody_records() -> None:
    assert not HandlerSpans().enabled
    assert current_traceparent() is None


def test_a_handler_runs_in_a_span(spans: InMemorySpanExporter) -> None:
    def inside(context: Any) -> str | None:
        return current_traceparent()

    def declined(context: Any) -> None:
        raise PermanentError("declined", error_code="DECLINED")

    seen = run_handler(inside, step_name="pay").result
    run_handler(declined)
    good, bad = spans.get_finished_spans()
    assert good.name == "step pay"
    assert good.context is not None
    assert f"{good.context.trace_id:032x}" in seen
    assert good.attributes is not None
    assert good.attributes["stepweave.step_name"] == "pay"
    assert bad.status.status_code.name == "ERROR"
    assert bad.attributes is not None
    assert bad.attributes["stepweave.error_code"] == "DECLINED"


def test_a_span_continues_the_trace_of_the_request(spans: InMemorySpanExporter) -> None:
    import msgspec

    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    dispatch = msgspec.structs.replace(make_dispatch(), traceparent=parent)
    with HandlerSpans().span(dispatch):
        assert current_traceparent() is not None
    (span,) = spans.get_finished_spans()
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"


def test_public_names_and_the_base_install() -> None:
    for name in stepweave.__all__:
        assert getattr(stepweave, name) is not None
    program = (
        "import sys, stepweave, stepweave.testing, stepweave.messaging\n"
        "from stepweave.testing import run_workflow, assert_events\n"
        "bad = {one.partition('.')[0] for one in sys.modules} & {'asyncpg', 'stepweave_eventstore'}\n"
        "sys.exit(f'imported: {bad}' if bad else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
