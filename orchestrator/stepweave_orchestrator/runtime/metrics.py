"""Counters of one orchestrator process; OpenTelemetry reads them when it is configured, nothing else pays."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation


class Metrics:
    """Plain integers, raised once a commit or a flight. `register` offers them to OpenTelemetry."""

    def __init__(self) -> None:
        self.commits = 0
        self.events_committed = 0
        self.events_published = 0
        self.messages_published = 0
        self.steps_dispatched = 0
        self.outcomes_taken = 0
        self.messages_refused = 0
        self.requests = 0
        self.requests_refused = 0
        #: Tasks that were found stale, and that wait for a handler which nobody serves.
        self.tasks_stale = 0
        self.handlers_missing = 0

    def committed(self, events: int) -> None:
        """One commit with so many events."""
        self.commits += 1
        self.events_committed += events

    def published(self, events: int, messages: int) -> None:
        """One flight."""
        self.events_published += events
        self.messages_published += messages

    def dispatched(self, count: int) -> None:
        """So many dispatches were handed to JetStream."""
        self.steps_dispatched += count

    def snapshot(self) -> dict[str, int]:
        """All counters by name."""
        return dict(vars(self))

    def register(self, gauges: dict[str, Callable[[], int]]) -> None:
        """Offer counters and gauges to the OpenTelemetry meter provider in force (none: no cost)."""
        meter = metrics.get_meter("stepweave.orchestrator")

        def observe(read: Callable[[], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
            return lambda _options: (Observation(read()),)

        for name in self.snapshot():
            meter.create_observable_counter(
                f"stepweave.{name}",
                [observe(lambda name=name: int(getattr(self, name)))],  # type: ignore[misc]
            )
        for name, read in gauges.items():
            meter.create_observable_gauge(f"stepweave.{name}", [observe(read)])
