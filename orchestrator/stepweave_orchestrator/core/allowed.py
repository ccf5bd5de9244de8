"""What operators may do with a task and with a step as they stand, and why not with the rest."""

from __future__ import annotations

from typing import Final

from .rejection import Rejection
from .state import MET, StepState, TaskState

#: What may be asked of a task, by the names of the contract.
TASK_ACTIONS: Final = ("retry", "resume", "pause", "give_up", "resolve_manually", "cancel")
#: What may be asked of a step; the `action_type` of a request.
STEP_ACTIONS: Final = ("reset_for_retry", "resolve_manually", "complete_manually", "skip")


def allowed_actions(state: TaskState) -> tuple[str, ...]:
    """What may be asked of the task at the moment, of `TASK_ACTIONS`."""
    return tuple(action for action in TASK_ACTIONS if why_not(state, action) is None)


def allowed_step_actions(state: TaskState, number: int) -> tuple[str, ...]:
    """What may be asked of a step at the moment, of `STEP_ACTIONS`."""
    return tuple(action for action in STEP_ACTIONS if why_not_step(state, number, action) is None)


def refused(state: TaskState, reason: str) -> Rejection:
    """The refusal of something that was asked of a task, with what is allowed instead."""
    return Rejection("CONFLICT", reason, state.status, allowed_actions(state))


def refused_step(state: TaskState, number: int, reason: str) -> Rejection:
    """The refusal of something that was asked of a step, with what is allowed instead."""
    return Rejection(
        "CONFLICT",
        f"step {state.name_of(number)!r}: {reason}",
        shown_status(state.steps[number]),
        allowed_step_actions(state, number),
    )


def unknown_step(state: TaskState, step: str) -> Rejection:
    """The refusal of something that was asked of a step that does not exist (yet)."""
    number = state.number_of(step)
    if number < 0:
        return Rejection("UNKNOWN_STEP", f"the task has no step {step[:100]!r}")
    if state.steps[number].status == "expanded":
        first = state.name_of(state.batches[number].first)
        return Rejection(
            "UNKNOWN_STEP", f"{step!r} stands for its batches: name one of them, such as {first!r}"
        )
    if state.steps[number].status == "excluded":
        return Rejection("UNKNOWN_STEP", f"step {step!r} does not exist in this task: it was not chosen")
    return Rejection(
        "UNKNOWN_STEP", f"step {step!r} does not exist yet: what it depends on decides whether it will"
    )


def shown_status(step: StepState) -> str:
    """A step's status by its name in the contract."""
    return "in_progress" if step.status == "waiting_for_child" else step.status


def why_not(state: TaskState, action: str) -> str | None:
    """Why this cannot be asked of the task at the moment; `None` where it can."""
    general = _why_nothing(state)
    if general is not None:
        return general
    if action == "pause" and state.phase == "paused":
        return "the task is paused already"
    if action == "resume" and state.phase != "paused":
        return "the task is not paused"
    if action == "retry" and not state.failed:
        return "no step of the task has failed for good"
    if action == "give_up" and state.phase != "blocked_by_failures":
        return (
            "only a task that is blocked by failures can be given up; this one can be cancelled, or resolved"
        )
    return None


def why_not_step(state: TaskState, number: int, action: str) -> str | None:
    """Why this cannot be asked of a step that exists at the moment; `None` where it can."""
    step = state.steps[number]
    if step.compensates >= 0:
        return _why_not_compensation(state, step, action)
    general = _why_nothing(state)
    if general is not None:
        return general
    if step.status in MET:
        return f"it is done already: {shown_status(step)}"
    if step.status == "cancelled":
        return "it was cancelled because another batch failed; reset, resolve or complete that one, and this one runs"
    if step.status == "error" and step.made_from >= 0 and state.batches[step.made_from].completed:
        return "its batch is complete without it, and what waits for the batch has gone on"
    if action == "reset_for_retry" and step.status not in ("error", "waiting_for_retry"):
        return f"it has not failed: it is {shown_status(step)}"
    if action == "skip":
        return _why_not_skip(state, number, step)
    return None


def _why_nothing(state: TaskState) -> str | None:
    if state.is_terminal:
        return f"the task has ended already: {state.status}; to use what it has done, fork it from one of its steps"
    if state.phase == "compensating":
        return "the task is being undone, and that is finished first"
    return None


def _why_not_compensation(state: TaskState, step: StepState, action: str) -> str | None:
    if state.phase != "compensating":
        return _why_nothing(state)
    if action != "reset_for_retry":
        return "while a task is being undone, all that can be done is to try a compensation again"
    if step.status == "error":
        return "it failed for good: what it was to undo is noted as to be cleaned up by hand"
    return None if step.status == "waiting_for_retry" else f"it has not failed: it is {shown_status(step)}"


def _why_not_skip(state: TaskState, number: int, step: StepState) -> str | None:
    if not state.spec_of(number).skippable:
        return "its template does not say `skippable: true`; it can be resolved, or completed with a result"
    # A try of a paused task may be held after a checkpoint: it has begun.
    begun = step.status not in ("pending", "held", "error") or (step.attempt and not step.settled_by)
    return f"it has begun: it is {shown_status(step)}" if begun else None
