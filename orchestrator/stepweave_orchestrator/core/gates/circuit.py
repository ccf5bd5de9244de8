"""The circuit of a service: while it fails, steps that need it are held; then a few try it out.

Closed, nothing passes here: a step goes straight to its worker, and only failures are reported. Open, steps wait.
When the time is over the circuit is half open and lets probes through; once every probe that was let out has
succeeded it closes, and one that fails opens it again. A probe of which nothing is heard for long does not count: its
worker may be dead, and nobody there to find that out. Another one may try then.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from stepweave_orchestrator.core.commands import Moment, StreamCommand, Wake
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas import events
from stepweave_schemas.gate import JoinCircuit, ReportFailure

from .line import WAITING_MAX, Line, Waiting

#: Let through in one decision once the circuit is closed; the next ones follow at once.
PASSES_MAX: Final = 500
#: Failures that are remembered.
FAILURES_MAX: Final = 10_000
#: How long a probe may be silent before another one may try, at least; otherwise as long as the circuit was open.
PROBE_SILENT_MS_MIN: Final = 60_000
#: Failures that may be the service's fault; one that no other try would mend says nothing about it.
COUNTED_ERRORS: Final = frozenset({"retryable_error", "timeout", "handler_error"})

CircuitStatus = Literal["closed", "open", "half_open"]


class Probe(msgspec.Struct, frozen=True, gc=False):
    """A try that is out to see whether the service is there."""

    task_id: str
    step_name: str
    since_ms: int
    #: Which event of the stream let it out.
    version: int


class CircuitState(msgspec.Struct, kw_only=True):
    """One circuit."""

    version: int = 0
    namespace: str = ""
    service: str = ""
    status: CircuitStatus = "closed"
    #: Moments of the failures in the window by try (`<step uuid>:<attempt>`), in the order of their reports.
    failures: dict[str, int] = {}
    #: The longest window that a template has.
    window_ms: int = 0
    last_error: str = ""
    open_until_ms: int = 0
    #: Who opened it by hand, and why.
    opened_by: str = ""
    reason: str = ""
    #: For how long it opens where a probe fails; 0: no template has said so yet.
    open_ms: int = 0
    half_open_max: int = 1
    probes: dict[str, Probe] = {}
    #: Probes let out since the circuit is half open.
    probes_let_out: int = 0
    line: Line = msgspec.field(default_factory=Line)
    changed_at_ms: int = 0
    updated_at_ms: int = 0


class Join(StreamCommand, frozen=True):
    """Wait for the circuit."""

    order: JoinCircuit


class Leave(StreamCommand, frozen=True):
    """A probe has ended, or a try waits no longer."""

    token: str
    outcome: str


class Report(StreamCommand, frozen=True):
    """A try failed."""

    order: ReportFailure


class Trip(StreamCommand, frozen=True):
    """Open the circuit by hand, for so long."""

    namespace: str
    service: str
    open_ms: int
    reason: str
    opened_by: str


class Reset(StreamCommand, frozen=True):
    """Close the circuit by hand."""

    reason: str
    closed_by: str


def decide_circuit(state: CircuitState, command: Any, moment: Moment) -> list[events.Event] | Rejection:
    """What follows; an empty list where it is known already."""
    if isinstance(command, Report):
        return _report(state, command.order, moment)
    if isinstance(command, Join):
        return _join(state, command.order, moment)
    if isinstance(command, Trip):
        return [
            *_watched(state, command.namespace, command.service),
            events.BreakerOpened(
                cause="operator",
                open_until_ms=moment.now_ms + command.open_ms,
                half_open_max=state.half_open_max,
                open_ms=state.open_ms,
                reason=command.reason,
                opened_by=command.opened_by,
            ),
        ]
    if state.version == 0:
        return Rejection("NOT_FOUND", "there is no such circuit: nothing of it has failed yet")
    if isinstance(command, Leave):
        return _leave(state, command, moment)
    if isinstance(command, Reset):
        if state.status == "closed":
            return []
        closed = events.BreakerClosed(cause="operator", reason=command.reason, closed_by=command.closed_by)
        return [closed, *_passes(state.line.waiting[:PASSES_MAX])]
    assert isinstance(command, Wake)
    return _wake(state, moment)


def _watched(state: CircuitState, namespace: str, service: str) -> list[events.Event]:
    return [] if state.version else [events.BreakerWatched(namespace=namespace, service=service)]


def _report(state: CircuitState, order: ReportFailure, moment: Moment) -> list[events.Event]:
    if state.status != "closed" or f"{order.step_uuid}:{order.attempt}" in state.failures:
        return []
    breaker = order.breaker
    window_ms = round(breaker.window_seconds * 1_000)
    happened = _watched(state, order.namespace, order.service)
    happened.append(
        events.BreakerFailureCounted(
            task_id=order.asker,
            step_name=order.step_name,
            step_uuid=order.step_uuid,
            attempt=order.attempt,
            error_type=order.error_type,
            error_message=order.error_message,
            failed_at_ms=order.failed_at_ms,
            window_ms=window_ms,
        )
    )
    # Reports do not come in the order of the failures: the window is the one that ends with the latest.
    failed_at_ms = (order.failed_at_ms, *state.failures.values())
    since_ms = max(failed_at_ms) - window_ms
    count = sum(since_ms < at_ms for at_ms in failed_at_ms)
    if count >= breaker.failure_threshold:
        open_ms = round(breaker.open_seconds * 1_000)
        happened.append(
            events.BreakerOpened(
                cause="threshold",
                failures_count=count,
                open_until_ms=moment.now_ms + open_ms,
                half_open_max=breaker.half_open_max,
                open_ms=open_ms,
                reason=order.error_message,
            )
        )
    return happened


def _join(state: CircuitState, order: JoinCircuit, moment: Moment) -> list[events.Event] | Rejection:
    if order.token in state.probes or order.token in state.line:
        return []
    happened = _watched(state, order.namespace, order.service)
    own = Waiting(0, 0, order.token, order.asker, order.step_name, order.held_at_ms, order.priority)
    if state.status == "closed":
        return [*happened, *_passes([own])]
    passes_at_once = state.status == "half_open" and not state.line and _room(state, moment.now_ms) > 0
    if passes_at_once and state.open_ms:
        return [*happened, *_passes([own], is_probe=True)]
    if len(state.line) >= WAITING_MAX:
        return Rejection("FULL", f"{WAITING_MAX} wait already")
    # Who comes first to a circuit that was opened by hand, and never before, says what its template wants.
    says = None if state.open_ms else order.breaker
    queued = events.BreakerQueued(
        task_id=order.asker,
        step_name=order.step_name,
        token=order.token,
        priority=order.priority,
        held_at_ms=order.held_at_ms,
        half_open_max=0 if says is None else says.half_open_max,
        open_ms=0 if says is None else round(says.open_seconds * 1_000),
    )
    return [*happened, queued, *(_passes([own], is_probe=True) if passes_at_once else ())]


def _silent(state: CircuitState, now_ms: int) -> set[str]:
    """The probes that have been out for so long that they do not count any more."""
    return {token for token, probe in state.probes.items() if _silent_at_ms(state, probe) <= now_ms}


def _silent_at_ms(state: CircuitState, probe: Probe) -> int:
    return probe.since_ms + max(state.open_ms, PROBE_SILENT_MS_MIN)


def _room(state: CircuitState, now_ms: int) -> int:
    """Probes that may still be let out while the circuit is half open."""
    return max(0, state.half_open_max + len(_silent(state, now_ms)) - state.probes_let_out)


def _leave(state: CircuitState, command: Leave, moment: Moment) -> list[events.Event]:
    probe = state.probes.get(command.token)
    if probe is None:
        own = state.line.get(command.token)
        if own is None:
            return []
        return [events.BreakerDequeued(task_id=own.task_id, step_name=own.step_name, token=own.token)]
    happened: list[events.Event] = [
        events.BreakerDequeued(
            task_id=probe.task_id,
            step_name=probe.step_name,
            token=command.token,
            outcome=command.outcome,
        )
    ]
    if state.status != "half_open":
        return happened
    silent = _silent(state, moment.now_ms) - {command.token}
    if command.outcome == "failure":
        happened.append(
            events.BreakerOpened(
                cause="probe_failed",
                open_until_ms=moment.now_ms + state.open_ms,
                half_open_max=state.half_open_max,
                open_ms=state.open_ms,
            )
        )
    elif command.outcome == "success" and not state.probes.keys() - silent - {command.token}:
        happened.append(events.BreakerClosed(cause="probes_succeeded"))
        happened += _passes(state.line.waiting[:PASSES_MAX])
    elif not command.outcome:
        # It says nothing about the service: another one may try.
        room = state.half_open_max + len(silent) - (state.probes_let_out - 1)
        happened += _passes(state.line.waiting[: max(0, room)], is_probe=True)
    return happened


def _wake(state: CircuitState, moment: Moment) -> list[events.Event]:
    if state.status == "closed":
        return _passes(state.line.waiting[:PASSES_MAX])
    if state.status == "open" and state.open_until_ms <= moment.now_ms:
        probes = _passes(state.line.waiting[: state.half_open_max], is_probe=True)
        return [events.BreakerHalfOpened(), *probes]
    if state.status == "half_open":
        return _passes(state.line.waiting[: _room(state, moment.now_ms)], is_probe=True)
    return []


def _passes(some: list[Waiting], *, is_probe: bool = False) -> list[events.Event]:
    return [
        events.BreakerPassed(task_id=one.task_id, step_name=one.step_name, token=one.token, is_probe=is_probe)
        for one in some
    ]


def evolve_circuit(state: CircuitState, event: events.Event, at_ms: int) -> CircuitState:
    """Apply one event in place."""
    state.version += 1
    state.updated_at_ms = at_ms
    _APPLIERS[type(event)](state, event, at_ms)
    return state


def _applied_watched(state: CircuitState, event: events.BreakerWatched, at_ms: int) -> None:
    state.namespace, state.service = event.namespace, event.service
    state.changed_at_ms = at_ms


def _applied_failure(state: CircuitState, event: events.BreakerFailureCounted, at_ms: int) -> None:
    failures = state.failures
    failures[f"{event.step_uuid}:{event.attempt}"] = event.failed_at_ms
    state.last_error = event.error_message
    state.window_ms = max(state.window_ms, event.window_ms)
    if state.window_ms:
        since_ms = max(failures.values()) - state.window_ms
        for token in [token for token, failed_at_ms in failures.items() if failed_at_ms <= since_ms]:
            del failures[token]
    if len(state.failures) > FAILURES_MAX:
        del state.failures[next(iter(state.failures))]


def _applied_opened(state: CircuitState, event: events.BreakerOpened, at_ms: int) -> None:
    state.status = "open"
    state.changed_at_ms = at_ms
    state.open_until_ms = event.open_until_ms
    state.open_ms = event.open_ms
    state.half_open_max = event.half_open_max
    by_hand = event.cause == "operator"
    state.opened_by, state.reason = (event.opened_by, event.reason) if by_hand else ("", "")
    state.probes_let_out = 0
    state.probes.clear()
    state.failures.clear()


def _applied_half_opened(state: CircuitState, event: events.BreakerHalfOpened, at_ms: int) -> None:
    state.status = "half_open"
    state.changed_at_ms = at_ms
    state.probes_let_out = 0


def _applied_closed(state: CircuitState, event: events.BreakerClosed, at_ms: int) -> None:
    state.status = "closed"
    state.changed_at_ms = at_ms
    state.failures.clear()
    state.probes.clear()
    state.last_error = state.opened_by = state.reason = ""


def _applied_queued(state: CircuitState, event: events.BreakerQueued, at_ms: int) -> None:
    if event.open_ms:
        state.open_ms, state.half_open_max = event.open_ms, event.half_open_max
    state.line.join(
        state.line.joined(event.token, event.task_id, event.step_name, event.held_at_ms, event.priority)
    )


def _applied_passed(state: CircuitState, event: events.BreakerPassed, at_ms: int) -> None:
    state.line.leave(event.token)
    if event.is_probe:
        state.probes[event.token] = Probe(event.task_id, event.step_name, at_ms, state.version)
        state.probes_let_out += 1


def _applied_dequeued(state: CircuitState, event: events.BreakerDequeued, at_ms: int) -> None:
    if state.probes.pop(event.token, None) is None:
        state.line.leave(event.token)
    elif not event.outcome and state.status == "half_open":
        state.probes_let_out -= 1


_APPLIERS: Final[dict[type[events.Event], Any]] = {
    events.BreakerWatched: _applied_watched,
    events.BreakerFailureCounted: _applied_failure,
    events.BreakerOpened: _applied_opened,
    events.BreakerHalfOpened: _applied_half_opened,
    events.BreakerClosed: _applied_closed,
    events.BreakerQueued: _applied_queued,
    events.BreakerPassed: _applied_passed,
    events.BreakerDequeued: _applied_dequeued,
}


def circuit_wake_ms(state: CircuitState) -> int | None:
    """When the circuit is to be half open, or the next ones are let through."""
    if state.status == "open":
        return state.open_until_ms
    if state.status == "half_open" and state.line:
        # So many have to be silent before there is room for another one.
        missing = state.probes_let_out + 1 - state.half_open_max
        silent_at_ms = sorted(_silent_at_ms(state, probe) for probe in state.probes.values())
        return silent_at_ms[missing - 1] if 0 < missing <= len(silent_at_ms) else None
    return state.changed_at_ms if state.status == "closed" and state.line else None
