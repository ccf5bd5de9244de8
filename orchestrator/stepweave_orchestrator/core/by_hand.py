"""Apply the events of operators to a task's state; a part of `evolve`."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

from stepweave_schemas import events

from .bookkeeping import clear_due, cut_short, drop_outdated, met, move, step_of
from .state import MET, OPERATOR_REQUESTS_MAX, BatchState, StepState, StepStatus, TaskState


def _task_paused(state: TaskState, event: events.TaskPaused, at_ms: int) -> None:
    _remember(state, event.request_id)
    state.paused_from = "pending" if state.phase == "pending" else "steps_in_process"
    if state.hold is not None:
        state.paused_from = "waiting_for_dependencies"
    state.phase = "paused"
    # Whatever waits before a gate leaves the line (the events after this one say so), and asks again afterwards.
    # So does a try that waits for a worker with its handler: it is with nobody.
    for number, step in enumerate(state.steps):
        if step.status == "held":
            _back_to_pending(state, number, step)
        elif step.status == "enqueued" and not step.lease_token:
            hold(state, number, step)
    # Retries wait until the task is resumed, whenever they are due.
    steps = state.steps
    kept = {entry for entry in state.due if steps[entry[1]].status != "waiting_for_retry"}
    # A sorted list is a heap.
    state.due[:] = sorted(entry for entry in kept if steps[entry[1]].due_at_ms == entry[0])


def _task_resumed(state: TaskState, event: events.TaskResumed, at_ms: int) -> None:
    _remember(state, event.request_id)
    state.phase = "pending" if state.paused_from == "pending" else "steps_in_process"
    for number, step in enumerate(state.steps):
        if step.status == "waiting_for_retry" and step.due_at_ms is not None:
            heapq.heappush(state.due, (step.due_at_ms, number))
    drop_outdated(state)


def _task_given_up(state: TaskState, event: events.TaskGivenUp, at_ms: int) -> None:
    # The `task.failed` of the same append follows.
    _remember(state, event.request_id)


def _task_resolved_manually(state: TaskState, event: events.TaskResolvedManually, at_ms: int) -> None:
    _remember(state, event.request_id)
    cut_short(state, "operator", at_ms)
    state.phase = "resolved_manually"
    state.ending_message = event.reason


def _remember(state: TaskState, request_id: str) -> None:
    """A request of an operator; one that led to several events is remembered once."""
    known = state.operator_requests
    if request_id and request_id not in known[-1:]:
        known.append(request_id)
        del known[:-OPERATOR_REQUESTS_MAX]


def stepped_in(state: TaskState, request_id: str) -> None:
    """An operator has changed a step: what was blocked may go on. Where nothing can, `task.blocked` follows."""
    _remember(state, request_id)
    state.stepped_in = True
    if state.phase == "blocked_by_failures":
        state.phase = "steps_in_process"


def hold(state: TaskState, number: int, step: StepState) -> None:
    """The try was handed back while the task is paused; it is given out again afterwards."""
    _back_to_pending(state, number, step)
    clear_due(state, step)
    step.former_token, step.lease_token = step.lease_token or step.former_token, ""
    step.worker_id = ""
    step.started_at_ms = None


def _back_to_pending(state: TaskState, number: int, step: StepState) -> None:
    move(state, step, "pending")
    if step.made_from >= 0:
        batch = state.batches[step.made_from]
        batch.running -= 1
        batch.again.append(number)


def _step_reset(state: TaskState, event: events.StepReset, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    stepped_in(state, event.request_id)
    step.forgiven = event.attempt
    before = step.status
    if before == "error":
        _take_failure_back(state, number)
    move(state, step, "pending")
    clear_due(state, step)
    step.completed_at_ms = None
    if step.made_from >= 0:
        batch = state.batches[step.made_from]
        if before == "error":
            batch.failed -= 1
        else:
            batch.running -= 1
        batch.again.append(number)
        _start_again_if_mended(state, batch, at_ms)


def _take_failure_back(state: TaskState, number: int) -> None:
    """One that was put up with had counted as done."""
    if number in state.failed:
        state.failed.remove(number)
    elif state.steps[number].compensates < 0:
        state.done_count -= 1


def _start_again_if_mended(state: TaskState, batch: BatchState, at_ms: int) -> None:
    """What was cancelled because of failures in a batch runs after all, once none of them is left."""
    if not batch.stopped or batch.failed:
        return
    batch.stopped = False
    for number in range(batch.first, batch.first + batch.count):
        step = state.steps[number]
        if step.status == "cancelled":
            step.status = "pending"
            step.updated_at_ms = at_ms
            # One that was held before its first try has begun too.
            if number < batch.first + batch.begun:
                batch.again.append(number)


def _step_resolved_manually(state: TaskState, event: events.StepResolvedManually, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    stepped_in(state, event.request_id)
    settled_by_hand(state, number, step, "resolved_manually", at_ms)


def _step_completed_manually(state: TaskState, event: events.StepCompletedManually, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    stepped_in(state, event.request_id)
    step.result = bytes(event.result).decode()
    settled_by_hand(state, number, step, "complete", at_ms)


def settled_by_hand(state: TaskState, number: int, step: StepState, status: StepStatus, at_ms: int) -> None:
    """A step is done because an operator says so."""
    before = step.status
    if step.attempt and not step.settled_by:
        step.settled_by = "operator"
    if before == "error":
        _take_failure_back(state, number)
    move(state, step, status)
    clear_due(state, step)
    step.completed_at_ms = at_ms
    state.done_count += 1
    if step.made_from < 0:
        met(state, number)
        return
    batch = state.batches[step.made_from]
    if before == "error":
        batch.failed -= 1
    elif before != "pending":
        batch.running -= 1
    elif number in batch.again:
        batch.again.remove(number)
    batch.succeeded += 1
    _start_again_if_mended(state, batch, at_ms)
    pass_over_settled(state, batch)


def pass_over_settled(state: TaskState, batch: BatchState) -> None:
    """The next worker to begin is one that no operator has settled, and whose outcome is not that of another task."""
    while batch.begun < batch.count:
        step = state.steps[batch.first + batch.begun]
        if step.status not in MET and step.reused is None:
            return
        batch.begun += 1


#: By event: what applies it.
BY_HAND: Final[dict[type[events.Event], Callable[[TaskState, Any, int], None]]] = {
    events.TaskPaused: _task_paused,
    events.TaskResumed: _task_resumed,
    events.TaskGivenUp: _task_given_up,
    events.TaskResolvedManually: _task_resolved_manually,
    events.StepReset: _step_reset,
    events.StepResolvedManually: _step_resolved_manually,
    events.StepCompletedManually: _step_completed_manually,
}
