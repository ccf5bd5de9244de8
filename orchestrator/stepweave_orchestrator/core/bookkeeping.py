"""How a step changes its status, and everything that is counted by it; for the appliers of events."""

from __future__ import annotations

import heapq

from stepweave_schemas import events

from .state import ACTIVE, MET, SUSPENDED, StepState, StepStatus, TaskState

#: What the cancellation of a task leaves as it is.
_KEPT = MET | {"error", "absent", "excluded", "expanded"}


def step_of(state: TaskState, event: events.StepEvent, at_ms: int) -> tuple[int, StepState]:
    """The step that an event is about, and its number; raises `KeyError` for one that there is not."""
    number = state.the_plan.index.get(event.step_name, -1)
    if number < 0:
        number = state.made[event.step_name]
    step = state.steps[number]
    step.updated_at_ms = at_ms
    return number, step


def move(state: TaskState, step: StepState, status: StepStatus) -> None:
    """Give a step another status, and keep the counters in step with it."""
    before = step.status
    if before in ACTIVE:
        state.active_count -= 1
    elif before == "waiting_for_retry":
        state.waiting_count -= 1
    elif before in SUSPENDED:
        state.suspended_count -= 1
    step.status = status
    if status in ACTIVE:
        state.active_count += 1
    elif status == "waiting_for_retry":
        state.waiting_count += 1
    elif status in SUSPENDED:
        state.suspended_count += 1


def met(state: TaskState, slot: int) -> None:
    """Nothing has to wait for this step of the plan any more."""
    for dependent in state.the_plan.dependents[slot]:
        state.steps[dependent].unmet -= 1


def is_held(step: StepState) -> bool:
    """Whether the step's try was handed back, or saved its progress, while the task was paused."""
    return step.status == "pending" and step.attempt > 0 and not step.settled_by


def cut_short(state: TaskState, settled_by: str, at_ms: int) -> None:
    """The task ends before its steps have: those that are not done never will be."""
    for step in state.steps:
        if step.status not in _KEPT:
            if step.status in ACTIVE or step.status == "waiting_for_child" or is_held(step):
                step.settled_by = settled_by
            step.status = "cancelled"
            step.due_at_ms = None
            step.updated_at_ms = at_ms
    for batch in state.batches.values():
        batch.running = 0
        batch.again.clear()
    state.due.clear()
    state.active_count = 0
    state.suspended_count = 0
    state.waiting_count = 0
    state.completed_at_ms = at_ms
    state.mailbox.clear()


# -- time ------------------------------------------------------------------------------------------


def set_due(state: TaskState, number: int, step: StepState, due_at_ms: int) -> None:
    """The step wants to be woken at this moment (ms since the Unix epoch)."""
    step.due_at_ms = due_at_ms
    heapq.heappush(state.due, (due_at_ms, number))
    drop_outdated(state)


def clear_due(state: TaskState, step: StepState) -> None:
    """The step does not want to be woken any more."""
    if step.due_at_ms is not None:
        step.due_at_ms = None
        drop_outdated(state)


def drop_outdated(state: TaskState) -> None:
    """Keep the promise about the first entry of `due`, and its size within twice what it is there for."""
    due, steps = state.due, state.steps
    if len(due) > 2 * (state.active_count + state.waiting_count + state.suspended_count) + 16:
        # A sorted list is a heap.
        due[:] = sorted({entry for entry in due if steps[entry[1]].due_at_ms == entry[0]})
    while due and steps[due[0][1]].due_at_ms != due[0][0]:
        heapq.heappop(due)
