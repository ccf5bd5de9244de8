"""Apply one event to a task's state. It cannot refuse; released branches never change their meaning."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from stepweave_schemas import events

from .state import ACTIVE, TIMEOUT_GRACE_MS, EarlierTry, Fault, StepState, TaskState


def evolve(state: TaskState, event: events.Event, recorded_at_ms: int) -> TaskState:
    """Apply `event`, recorded at `recorded_at_ms`, in place; returns the same state.

    Raises `KeyError` for an event that is none of a task's stream.
    """
    state.version += 1
    state.events_since_snapshot += 1
    state.updated_at_ms = recorded_at_ms
    _APPLIERS[type(event)](state, event, recorded_at_ms)
    return state


def _task_created(state: TaskState, event: events.TaskCreated, at_ms: int) -> None:
    state.request_id = event.request_id
    state.request_digest = event.request_digest
    state.context = bytes(event.context).decode()
    state.initiator = event.initiator
    state.source_system = event.source_system
    state.reason = event.reason
    state.tags = event.tags
    state.priority = event.priority
    state.parent_correlation_id = event.parent_correlation_id
    state.traceparent = event.traceparent
    state.start_at_ms = event.start_at_ms
    state.created_at_ms = at_ms
    state.phase = "pending" if event.start_at_ms is not None else "steps_in_process"


def _task_started(state: TaskState, event: events.TaskStarted, at_ms: int) -> None:
    state.phase = "steps_in_process"


def _task_blocked(state: TaskState, event: events.TaskBlocked, at_ms: int) -> None:
    state.phase = "blocked_by_failures"


def _task_completed(state: TaskState, event: events.TaskCompleted, at_ms: int) -> None:
    state.phase = "complete"
    state.completed_at_ms = at_ms


def _task_failed(state: TaskState, event: events.TaskFailed, at_ms: int) -> None:
    state.phase = "error"
    state.completed_at_ms = at_ms


def _task_cancelled(state: TaskState, event: events.TaskCancelled, at_ms: int) -> None:
    for step in state.steps:
        if step.status not in ("complete", "error"):
            if step.status in ACTIVE:
                step.settled_by = "cancel"
            step.status = "cancelled"
            step.due_at_ms = None
            step.updated_at_ms = at_ms
    state.due.clear()
    state.active_count = 0
    state.waiting_count = 0
    state.phase = "cancelled"
    state.completed_at_ms = at_ms


def _step(state: TaskState, event: events.StepEvent, at_ms: int) -> tuple[int, StepState]:
    number = state.the_plan.index[event.step_name]
    step = state.steps[number]
    step.updated_at_ms = at_ms
    return number, step


def _step_enqueued(state: TaskState, event: events.StepEnqueued, at_ms: int) -> None:
    _, step = _step(state, event, at_ms)
    if step.status == "waiting_for_retry":
        state.waiting_count -= 1
    elif step.status in ACTIVE:
        state.active_count -= 1
    if step.attempt and step.attempt != event.attempt:
        step.earlier[step.attempt] = EarlierTry(step.lease_token, step.settled_by)
    state.active_count += 1
    step.status = "enqueued"
    step.attempt = event.attempt
    step.lease_token = event.lease_token
    step.settled_by = ""
    step.worker_id = ""
    step.enqueued_at_ms = at_ms
    step.started_at_ms = None
    _clear_due(state, step)


def _step_started(state: TaskState, event: events.StepStarted, at_ms: int) -> None:
    number, step = _step(state, event, at_ms)
    step.status = "in_progress"
    step.worker_id = event.worker_id
    step.started_at_ms = event.started_at_ms
    timeout_seconds = state.the_plan.steps[number].timeout_seconds
    if timeout_seconds is not None:
        _set_due(state, number, step, at_ms + round(timeout_seconds * 1000) + TIMEOUT_GRACE_MS)


def _step_completed(state: TaskState, event: events.StepCompleted, at_ms: int) -> None:
    number, step = _step(state, event, at_ms)
    step.status = "complete"
    step.settled_by = "success"
    step.result = bytes(event.result).decode()
    step.worker_id = event.worker_id
    if event.started_at_ms is not None:
        step.started_at_ms = event.started_at_ms
    step.completed_at_ms = at_ms
    state.active_count -= 1
    state.done_count += 1
    _clear_due(state, step)
    steps = state.steps
    for dependent in state.the_plan.dependents[number]:
        steps[dependent].unmet -= 1


def _step_retry_scheduled(state: TaskState, event: events.StepRetryScheduled, at_ms: int) -> None:
    number, step = _step(state, event, at_ms)
    _fault(step, event, at_ms)
    step.status = "waiting_for_retry"
    step.retry_delay_ms = event.delay_ms
    state.active_count -= 1
    state.waiting_count += 1
    _set_due(state, number, step, event.retry_at_ms)


def _step_failed(state: TaskState, event: events.StepFailed, at_ms: int) -> None:
    number, step = _step(state, event, at_ms)
    _fault(step, event, at_ms)
    step.status = "error"
    step.completed_at_ms = at_ms
    _clear_due(state, step)
    state.active_count -= 1
    state.failed.append(number)


def _step_released(state: TaskState, event: events.StepReleased, at_ms: int) -> None:
    # The `step.enqueued` of the same append follows and gives out a new token.
    _step(state, event, at_ms)


def _step_result_refused(state: TaskState, event: events.StepResultRefused, at_ms: int) -> None:
    _, step = _step(state, event, at_ms)
    step.refused_attempts = [*step.refused_attempts, event.attempt]


def _fault(step: StepState, event: events.StepRetryScheduled | events.StepFailed, at_ms: int) -> None:
    step.fault = Fault(event.error_type, event.error_message, event.error_code, at_ms)
    step.settled_by = event.settled_by
    step.worker_id = event.worker_id or step.worker_id


def _set_due(state: TaskState, number: int, step: StepState, due_at_ms: int) -> None:
    step.due_at_ms = due_at_ms
    heapq.heappush(state.due, (due_at_ms, number))
    _drop_outdated(state)


def _clear_due(state: TaskState, step: StepState) -> None:
    if step.due_at_ms is not None:
        step.due_at_ms = None
        _drop_outdated(state)


def _drop_outdated(state: TaskState) -> None:
    """Keep the promise about the first entry of `due`, and its size within twice what it is there for."""
    due, steps = state.due, state.steps
    if len(due) > 2 * (state.active_count + state.waiting_count) + 16:
        # A sorted list is a heap.
        due[:] = sorted({entry for entry in due if steps[entry[1]].due_at_ms == entry[0]})
    while due and steps[due[0][1]].due_at_ms != due[0][0]:
        heapq.heappop(due)


_APPLIERS: dict[type[events.Event], Callable[[TaskState, Any, int], None]] = {
    events.TaskCreated: _task_created,
    events.TaskStarted: _task_started,
    events.TaskBlocked: _task_blocked,
    events.TaskCompleted: _task_completed,
    events.TaskFailed: _task_failed,
    events.TaskCancelled: _task_cancelled,
    events.StepEnqueued: _step_enqueued,
    events.StepStarted: _step_started,
    events.StepCompleted: _step_completed,
    events.StepRetryScheduled: _step_retry_scheduled,
    events.StepFailed: _step_failed,
    events.StepReleased: _step_released,
    events.StepResultRefused: _step_result_refused,
}
