"""The load as metrics: true of the moment in which somebody asks, from whatever thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from stepweave_orchestrator.runtime import load_metrics
from stepweave_orchestrator.runtime.admission import GAUGES
from stepweave_orchestrator.runtime.load_metrics import LoadOnDemand, register_load
from stepweave_orchestrator.runtime.metrics import Metrics
from stepweave_schemas.load import GaugeLoad, NamespaceLoad, OrchestratorLoad

LOAD = OrchestratorLoad(
    owner="me",
    state="closed",
    gauges=(
        GaugeLoad(name="commit_ms", value=7_000, limit=5_000, state="closed"),
        GaugeLoad(name="jetstream_bytes", value=None, limit=9, state="open"),
        GaugeLoad(name="database_bytes", value=None, limit=None, state="open"),
    ),
    namespaces=(
        NamespaceLoad(
            namespace="slow",
            steps=12,
            held_steps=2,
            dispatches_bytes=900,
            drained_per_second=1.0,
            state="closed",
        ),
    ),
    namespace_steps_max=10,
    namespace_bytes_max=1_000,
    creates_admitted=40,
    creates_refused=5,
    refused_by={"commit_ms": 3, "namespace_backlog": 2},
)


def collected(reader: InMemoryMetricReader) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every point: name, attributes, value."""
    data = reader.get_metrics_data()
    assert data is not None
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    yield (
                        metric.name.removeprefix("stepweave."),
                        dict(point.attributes or {}),
                        getattr(point, "value", None),
                    )


def test_what_decides_is_told_with_its_limits_and_reasons() -> None:
    reader = InMemoryMetricReader()
    register_load(MeterProvider([reader]).get_meter("test"), lambda: LOAD)
    told = list(collected(reader))
    # What is not known is not told, and least of all as 0.
    assert sorted(told, key=str) == sorted(
        [
            ("load.commit_ms", {}, 7_000),
            ("load_limit.commit_ms", {}, 5_000),
            ("load_limit.jetstream_bytes", {}, 9),
            ("admission_gauges_closed", {}, 2),
            ("namespace_backlog_steps", {"namespace": "slow"}, 12),
            ("namespace_backlog_bytes", {"namespace": "slow"}, 900),
            ("namespace_backlog_steps_limit", {}, 10),
            ("namespace_backlog_bytes_limit", {}, 1_000),
            ("creates_admitted", {}, 40),
            ("creates_refused", {"reason": "commit_ms"}, 3),
            ("creates_refused", {"reason": "namespace_backlog"}, 2),
        ],
        key=str,
    )


def test_every_metric_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text("utf-8")
    reader = InMemoryMetricReader()
    register_load(MeterProvider([reader]).get_meter("test"), lambda: LOAD)
    names = {name for name, _, _ in collected(reader) if not name.startswith(("load.", "load_limit."))}
    for name in (*names, *Metrics().snapshot()):
        shown = name.replace("backlog_bytes", "backlog_steps")
        assert f"`stepweave.{shown}`" in page, name


async def test_an_exporter_gets_what_the_loop_sees_now(monkeypatch: Any) -> None:
    looks = 0

    def look() -> OrchestratorLoad:
        nonlocal looks
        assert asyncio.get_running_loop().is_running(), "never from an exporter's thread"
        looks += 1
        gauges = tuple(GaugeLoad(name=name, value=looks, limit=None, state="open") for name in GAUGES)
        return OrchestratorLoad(owner="me", state="open", gauges=gauges)

    monkeypatch.setattr(load_metrics, "FRESH_SECONDS", 3600.0)
    reader = InMemoryMetricReader()
    load = LoadOnDemand(look)
    register_load(MeterProvider([reader]).get_meter("test"), load)
    for expected in (1, 1):
        told = await asyncio.to_thread(lambda: {name: value for name, _, value in collected(reader)})
        assert {told[f"load.{name}"] for name in GAUGES} == {expected}, "one look serves all of them"
    monkeypatch.setattr(load_metrics, "FRESH_SECONDS", 0.0)
    seen = await asyncio.to_thread(load)
    assert seen is not None and seen.gauges[0].value == 2
    # On the loop itself nobody waits for the loop.
    seen = load()
    assert seen is not None and seen.gauges[0].value == 3
