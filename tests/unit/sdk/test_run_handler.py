"""`stepweave.testing.run_handler`: one try through the worker's code."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import structlog

from stepweave import PermanentError
from stepweave.encoding import NotJson
from stepweave.testing import run_handler, run_handler_async
from stepweave.worker.pool import TryPool
from stepweave.worker.threads import HandlerThreads, Raised


def test_the_result_has_been_to_json() -> None:
    assert run_handler(lambda context: {"t": (1, 2), 3: None}).result == {"t": [1, 2], "3": None}
    failure = run_handler(lambda context: object())
    assert (failure.error_code, failure.retryable) == ("RESULT_NOT_SERIALIZABLE", False)
    large = run_handler(lambda context: "x" * 300_000)
    assert (large.error_code, large.retryable) == ("RESULT_TOO_LARGE", False)
    assert large.metadata["size_bytes"] == 300_002


def test_wrong_input_of_the_test_itself() -> None:
    with pytest.raises(NotJson, match=r"inputs\.a"):
        run_handler(lambda context: None, {"a": object()})
    with pytest.raises(NotJson, match=r"dependencies\.step"):
        run_handler(lambda context: None, dependencies={"step": object()})


def test_timeouts_of_both_kinds() -> None:
    async def slow(context: Any) -> None:
        await asyncio.sleep(3600)

    hang = threading.Event()

    def hangs(context: Any) -> None:
        hang.wait(10)

    before = time.monotonic()
    for handler in (slow, hangs):
        failure = run_handler(handler, timeout_seconds=0.05)
        assert (failure.error_type, failure.error_code) == ("timeout", "STEP_TIMEOUT")
        assert "0.05 s" in failure.error_message
    hang.set()
    assert time.monotonic() - before < 5


def test_an_answer_after_the_timeout_does_not_count() -> None:
    async def late(context: Any) -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            assert context.cancelled
        return "late"

    assert run_handler(late, timeout_seconds=0.02).error_code == "STEP_TIMEOUT"


async def test_inside_a_running_loop() -> None:
    async def handler(context: Any) -> str:
        await asyncio.sleep(0)
        return "fine"

    assert run_handler(handler).result == "fine"
    assert (await run_handler_async(handler)).result == "fine"


def test_logs_of_a_handler_know_the_step() -> None:
    def handler(context: Any) -> Any:
        return structlog.contextvars.get_contextvars()

    seen = run_handler(handler, step_name="pay", correlation_id="corr", attempt=2).result
    assert (seen["step"], seen["correlation_id"], seen["attempt"]) == ("pay", "corr", 2)
    assert seen["task_uuid"]
    assert structlog.contextvars.get_contextvars() == {}


async def test_threads_are_counted_until_they_return() -> None:
    freed: list[int] = []
    threads = HandlerThreads(2, lambda: freed.append(1))
    gate = threading.Event()
    first = threads.call(gate.wait, 10)
    second = threads.call(gate.wait, 10)
    assert (threads.busy, threads.free) == (2, 0)
    with pytest.raises(RuntimeError, match="all 2 threads are busy"):
        threads.call(gate.wait)
    first.cancel()
    assert threads.busy == 2
    gate.set()
    assert await second is True
    while threads.busy:
        await asyncio.sleep(0.001)
    assert freed == [1, 1]

    def fails() -> None:
        raise StopIteration("odd")

    raised = await threads.call(fails)
    assert isinstance(raised, Raised)
    assert isinstance(raised.error, StopIteration)
    threads.close()
    with pytest.raises(ValueError, match="counts from 1"):
        HandlerThreads(0)


def test_bounds_are_checked() -> None:
    with pytest.raises(ValueError, match="concurrency counts from 1"):
        TryPool(
            concurrency=0,
            threads_max=1,
            only_threads=False,
            announce_after_seconds=1,
            spans=None,  # type: ignore[arg-type]
            on_result=lambda *_: None,
            on_dropped=lambda *_: None,
            on_started=lambda *_: None,
            on_room=lambda: None,
        )


def test_permanent_errors_carry_their_metadata() -> None:
    def declined(context: Any) -> None:
        raise PermanentError("declined", error_code="DECLINED", metadata={"odd": object()})

    failure = run_handler(declined)
    assert failure.error_code == "DECLINED"
    assert "object at" in failure.metadata["odd"]
