"""Apply one event to a schedule's state. It cannot refuse; it asks no calendar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from stepweave_schemas import events

from .state import BACKFILL, REQUEST_IDS_MAX, RUNS_KEPT_MAX, Backfill, Firing, Run, ScheduleState


def evolve(state: ScheduleState, event: events.Event, recorded_at_ms: int) -> ScheduleState:
    """Apply `event`, recorded at `recorded_at_ms`, in place; returns the same state.

    Raises `KeyError` for an event that is none of a schedule's stream.
    """
    state.version += 1
    state.updated_at_ms = recorded_at_ms
    _APPLIERS[type(event)](state, event, recorded_at_ms)
    return state


def _created(state: ScheduleState, event: events.ScheduleCreated, at_ms: int) -> None:
    state.namespace = event.namespace
    state.name = event.name
    state.spec_text = msgspec.json.encode(event.spec).decode()
    state.generation += 1
    state.created_at_ms = at_ms
    state.created_by = event.created_by
    state.is_deleted = state.is_paused = False
    state.paused_at_ms = None
    state.paused_by = state.note = ""
    state.next_at_ms = event.next_at_ms
    state.runs = []
    state.request_ids = []
    state.fired_count = state.skipped_count = state.failed_count = 0


def _updated(state: ScheduleState, event: events.ScheduleUpdated, at_ms: int) -> None:
    state.spec_text = msgspec.json.encode(event.spec).decode()
    state.next_at_ms = event.next_at_ms


def _paused(state: ScheduleState, event: events.SchedulePaused, at_ms: int) -> None:
    state.is_paused = True
    state.paused_at_ms = at_ms
    state.paused_by = event.paused_by
    state.note = event.note


def _resumed(state: ScheduleState, event: events.ScheduleResumed, at_ms: int) -> None:
    state.is_paused = False
    state.paused_at_ms = None
    state.paused_by = ""
    state.note = event.note
    state.next_at_ms = event.next_at_ms


def _fired(state: ScheduleState, event: events.ScheduleFired, at_ms: int) -> None:
    firing = msgspec.structs.replace(_firing(event), number=state.version)
    if event.deferred:
        state.waiting = None
    else:
        _move_on(state, event)
    if event.cause == BACKFILL:
        state.backfills = [
            msgspec.structs.replace(one, fired_count=one.fired_count + 1)
            if one.backfill_id == event.request_id
            else one
            for one in state.backfills
        ]
    state.running[event.task_id] = firing
    state.fired_count += 1
    state.runs = [*state.runs[1 - RUNS_KEPT_MAX :], Run(firing, at_ms)]


def _deferred(state: ScheduleState, event: events.ScheduleDeferred, at_ms: int) -> None:
    state.waiting = _firing(event)
    _move_on(state, event)


def _firing(event: events.ScheduleFired | events.ScheduleDeferred) -> Firing:
    return Firing(event.task_id, event.nominal_at_ms, event.cause, event.request_id, event.fired_by)


def _move_on(state: ScheduleState, event: events.ScheduleFired | events.ScheduleDeferred) -> None:
    """What drives the firing goes on to its next moment."""
    if event.cause == "regular":
        state.next_at_ms = event.next_at_ms
    elif event.cause == BACKFILL:
        state.backfills = [
            msgspec.structs.replace(one, next_at_ms=event.next_at_ms)
            if one.backfill_id == event.request_id
            else one
            for one in state.backfills
        ]
    else:
        _remember(state, event.request_id)


def _remember(state: ScheduleState, request_id: str) -> None:
    state.request_ids = [*state.request_ids[1 - REQUEST_IDS_MAX :], request_id]


def _skipped(state: ScheduleState, event: events.ScheduleSkipped, at_ms: int) -> None:
    state.skipped_count += event.count
    if event.deferred:
        state.waiting = None
    else:
        state.next_at_ms = event.next_at_ms


def _firing_failed(state: ScheduleState, event: events.ScheduleFiringFailed, at_ms: int) -> None:
    state.failed_count += 1
    _end(state, event.task_id, "failed", at_ms, event.error_code, event.error_message)


def _task_ended(state: ScheduleState, event: events.ScheduleTaskEnded, at_ms: int) -> None:
    _end(state, event.task_id, event.status, at_ms, event.error_code, event.error_message)


def _end(
    state: ScheduleState, task_id: str, status: str, at_ms: int, error_code: str | None, error_message: str
) -> None:
    state.running.pop(task_id, None)
    state.cancelled = [one for one in state.cancelled if one != task_id]
    state.runs = [
        Run(one.firing, one.fired_at_ms, status, at_ms, error_code, error_message)
        if one.firing.task_id == task_id
        else one
        for one in state.runs
    ]


def _cancel_requested(state: ScheduleState, event: events.ScheduleTaskCancelRequested, at_ms: int) -> None:
    state.cancelled = [*state.cancelled, event.task_id]


def _backfill_requested(state: ScheduleState, event: events.ScheduleBackfillRequested, at_ms: int) -> None:
    _remember(state, event.backfill_id)
    state.backfills = [
        *state.backfills,
        Backfill(
            event.backfill_id, event.from_ms, event.until_ms, event.count, event.concurrency, event.next_at_ms
        ),
    ]


def _backfill_completed(state: ScheduleState, event: events.ScheduleBackfillCompleted, at_ms: int) -> None:
    state.backfills = [one for one in state.backfills if one.backfill_id != event.backfill_id]


def _deleted(state: ScheduleState, event: events.ScheduleDeleted, at_ms: int) -> None:
    state.is_deleted = True
    state.next_at_ms = None
    state.waiting = None
    state.backfills = []
    state.note = event.reason


_APPLIERS: Final[dict[type[events.Event], Callable[[ScheduleState, Any, int], None]]] = {
    events.ScheduleCreated: _created,
    events.ScheduleUpdated: _updated,
    events.SchedulePaused: _paused,
    events.ScheduleResumed: _resumed,
    events.ScheduleFired: _fired,
    events.ScheduleDeferred: _deferred,
    events.ScheduleSkipped: _skipped,
    events.ScheduleFiringFailed: _firing_failed,
    events.ScheduleTaskEnded: _task_ended,
    events.ScheduleTaskCancelRequested: _cancel_requested,
    events.ScheduleBackfillRequested: _backfill_requested,
    events.ScheduleBackfillCompleted: _backfill_completed,
    events.ScheduleDeleted: _deleted,
}
