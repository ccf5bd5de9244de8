"""What decides whether creates are taken, as metrics: depth, age, lag and room with their limits, refusals by reason, and
what waits for the workers of each namespace.

Readings are taken when somebody asks, so they are true of an orchestrator that stands still too. Exporters ask from
threads of their own, and readings are taken on the loop: whoever asks waits for that.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from stepweave_schemas.load import OrchestratorLoad

from .admission import GAUGES

#: One look serves all metrics of one collection.
FRESH_SECONDS: Final = 1.0
WAIT_SECONDS_MAX: Final = 2.0

Observe = Callable[[OrchestratorLoad], Iterable[Observation]]


class LoadOnDemand:
    """The load of this process, for threads that may not look for themselves."""

    def __init__(self, look: Callable[[], OrchestratorLoad]) -> None:
        """Made on the loop that `look` belongs to."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._look = look
        self._seen: OrchestratorLoad | None = None
        self._seen_at = 0.0

    def __call__(self) -> OrchestratorLoad | None:
        """The load, at most `FRESH_SECONDS` old where the loop answers; `None` where it never has."""
        if self._seen is None or time.monotonic() - self._seen_at >= FRESH_SECONDS:
            if threading.get_ident() == self._thread:
                self._see()
            elif not self._loop.is_closed():
                seen = threading.Event()
                with suppress(RuntimeError):  # it was closed in this moment
                    self._loop.call_soon_threadsafe(self._see, seen)
                    seen.wait(WAIT_SECONDS_MAX)
        return self._seen

    def _see(self, seen: threading.Event | None = None) -> None:
        self._seen = self._look()
        self._seen_at = time.monotonic()
        if seen is not None:
            seen.set()


def register_load(meter: Meter, load: Callable[[], OrchestratorLoad | None]) -> None:
    """Offer the load as metrics."""

    def callback(observe: Observe) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def collect(_options: CallbackOptions) -> Iterable[Observation]:
            found = load()
            return () if found is None else observe(found)

        return collect

    def gauge(name: str, text: str, observe: Observe) -> None:
        meter.create_observable_gauge(f"stepweave.{name}", [callback(observe)], description=text)

    for name, text in GAUGES.items():
        gauge(f"load.{name}", f"{text}.", _value_of(name))
        gauge(f"load_limit.{name}", f"Creates are refused from here on: {text}.", _limit_of(name))
    gauge("admission_gauges_closed", "Gauges and namespaces for which creates are refused.", _closed)
    gauge("namespace_backlog_steps", "Steps that wait for the workers of a namespace.", _namespace_steps)
    gauge("namespace_backlog_bytes", "The bytes of their dispatches.", _namespace_bytes)
    gauge("namespace_backlog_steps_limit", "Of each namespace.", lambda now: _one(now.namespace_steps_max))
    gauge("namespace_backlog_bytes_limit", "Of each namespace.", lambda now: _one(now.namespace_bytes_max))
    meter.create_observable_counter(
        "stepweave.creates_admitted",
        [callback(lambda now: _one(now.creates_admitted))],
        description="Creates that were let in.",
    )
    meter.create_observable_counter(
        "stepweave.creates_refused", [callback(_refused)], description="Refused creates, by reason."
    )


def _value_of(name: str) -> Observe:
    return lambda now: [
        Observation(one.value) for one in now.gauges if one.name == name and one.value is not None
    ]


def _limit_of(name: str) -> Observe:
    return lambda now: [
        Observation(one.limit) for one in now.gauges if one.name == name and one.limit is not None
    ]


def _one(value: int) -> list[Observation]:
    return [Observation(value)]


def _closed(now: OrchestratorLoad) -> list[Observation]:
    gauges = sum(one.state == "closed" for one in now.gauges)
    return _one(gauges + sum(one.state == "closed" for one in now.namespaces))


def _namespace_steps(now: OrchestratorLoad) -> list[Observation]:
    return [Observation(one.steps, {"namespace": one.namespace}) for one in now.namespaces]


def _namespace_bytes(now: OrchestratorLoad) -> list[Observation]:
    return [Observation(one.dispatches_bytes, {"namespace": one.namespace}) for one in now.namespaces]


def _refused(now: OrchestratorLoad) -> list[Observation]:
    return [Observation(count, {"reason": reason}) for reason, count in now.refused_by.items()]
