"""What must hold of a task's state at any moment, found by looking at everything."""

from __future__ import annotations

from collections.abc import Callable

from stepweave_orchestrator.core.state import ACTIVE, StepState, TaskState


def check_state(state: TaskState) -> None:
    """Compare every counter and index of the state with what a full scan of its steps says."""
    plan = state.the_plan
    steps = dict(zip((spec.name for spec in plan.steps), state.steps, strict=True))

    def named(*statuses: str) -> list[str]:
        return [name for name, step in steps.items() if step.status in statuses]

    assert state.done_count == len(named("complete"))
    assert state.active_count == len(named(*ACTIVE))
    assert state.waiting_count == len(named("waiting_for_retry"))
    assert sorted(plan.steps[number].name for number in state.failed) == sorted(named("error"))
    for spec in plan.steps:
        step = steps[spec.name]
        assert step.unmet == sum(steps[name].status != "complete" for name in set(spec.dependencies))
        assert step.attempt <= (spec.retry.max_attempts if spec.retry.retryable else 1)
        _check_step(spec.name, step)
    assert state.next_wake_ms() == _next_wake_ms(state), "the next wake-up is another one"
    assert len(state.due) <= 2 * len(named("waiting_for_retry", *ACTIVE)) + 17, "outdated wake-ups pile up"
    _check_task(state, named)


def _check_step(name: str, step: StepState) -> None:
    assert (step.attempt > 0) == bool(step.lease_token), name
    if step.status == "pending":
        assert (step.attempt, step.settled_by, step.due_at_ms) == (0, "", None), name
    if step.status in ACTIVE:
        assert not step.settled_by, name
    if step.status not in ("pending", "cancelled"):
        assert step.unmet == 0, f"{name} ran before its dependencies"
    if step.status in ("enqueued", "complete", "error", "cancelled"):
        assert step.due_at_ms is None, f"{name} would be woken for nothing"
    if step.status == "waiting_for_retry":
        assert step.due_at_ms is not None, f"{name} would never be tried again"
    if step.status in ("waiting_for_retry", "error"):
        assert step.fault is not None, name
    assert (step.result is not None) == (step.status == "complete"), name
    assert len(set(step.refused_attempts)) == len(step.refused_attempts), f"{name}: refused twice"


def _next_wake_ms(state: TaskState) -> int | None:
    if state.phase == "pending":
        return state.start_at_ms
    return min((step.due_at_ms for step in state.steps if step.due_at_ms is not None), default=None)


def _check_task(state: TaskState, named: Callable[..., list[str]]) -> None:
    open_steps = named("waiting_for_retry", *ACTIVE)
    assert (state.completed_at_ms is not None) == state.is_terminal
    match state.status:
        case "complete":
            assert len(named("complete")) == len(state.steps)
        case "blocked_by_failures" | "error":
            assert state.failed, "blocked for no reason"
            assert not open_steps, "blocked while something could go on"
        case "cancelled":
            assert not named("pending"), "cancelled, but steps still wait"
            assert not open_steps
        case "steps_in_process":
            assert named(*ACTIVE), "nothing runs, and nobody says so"
        case "waiting_for_retry":
            assert named("waiting_for_retry")
            assert not named(*ACTIVE)
        case "pending":
            assert not any(step.attempt for step in state.steps)
