"""The task as callers see it (interfaces §3), from its state."""

from __future__ import annotations

from collections import Counter

import msgspec

from stepweave_schemas.api import ForkedFrom, StepSummary, TaskResponse
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.identity import derived_uuid

from .allowed import shown_status
from .children import REFUSALS
from .dead_letters import letter_uuid, open_letter
from .plan import COMPENSATION_PREFIX, StepSpec
from .state import ACTIVE, MET, StepState, TaskState

#: Most steps inside a `TaskResponse`; about 500 bytes each.
STEPS_IN_RESPONSE_MAX = 1_000


def _at(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else timestamp(moment_ms)


def step_summary(state: TaskState, number: int) -> StepSummary:
    """One step as callers see it."""
    plan = state.the_plan
    spec: StepSpec = state.spec_of(number)
    name = state.name_of(number)
    step: StepState = state.steps[number]
    slot = state.slot_of(number)
    unmet = state.steps[slot].unmet
    satisfied = unmet == 0
    parents = plan.parents[slot]
    total_parents = len(parents)
    if not plan.plain:
        total_parents -= sum(state.steps[parent].status == "excluded" for parent in parents)
    waiting = step.status == "waiting_for_retry"
    signal = spec.wait_for_signal if step.status == "waiting_for_signal" else None
    undoing = _undoing(state, number, name)
    return StepSummary(
        workflow_step_uuid=step.uuid,
        task_uuid=state.task_id,
        named_step_uuid=derived_uuid("named_step", plan.ref.namespace, plan.ref.name, name),
        name=name,
        current_state=shown_status(step),
        dependencies_satisfied=satisfied,
        retry_eligible=waiting
        and spec.retry.retryable
        and step.attempt - step.forgiven < spec.retry.max_attempts,
        ready_for_execution=satisfied and step.status == "enqueued",
        last_failure_at=_at(step.fault.at_ms) if step.fault else None,
        next_retry_at=_at(step.due_at_ms) if waiting else None,
        total_parents=total_parents,
        completed_parents=total_parents - unmet,
        attempts=step.attempt,
        max_attempts=step.forgiven + spec.retry.max_attempts,
        backoff_request_seconds=None if step.retry_delay_ms is None else step.retry_delay_ms / 1000,
        last_attempted_at=_at(step.started_at_ms or step.enqueued_at_ms),
        error_type=step.fault.error_type if step.fault else None,
        error_code=step.fault.error_code if step.fault else None,
        error_message=step.fault.error_message if step.fault else None,
        worker_id=step.worker_id or None,
        child_task_uuid=step.child_task_id if _has_child(step) else None,
        waiting_for_signal=None if signal is None else signal.name,
        items_processed=None if step.checkpoint is None else step.checkpoint.items_processed,
        requires_manual_cleanup=step.requires_manual_cleanup,
        missing_handler=_missing_handler(state, step, spec),
        compensation_attempts=None if undoing is None else undoing.attempt,
        compensation_next_retry_at=_at(undoing.due_at_ms)
        if undoing is not None and undoing.status == "waiting_for_retry"
        else None,
        reused_from_step_uuid=None if step.reused is None else step.reused.step_uuid,
        compensation_error_message=undoing.fault.error_message if undoing and undoing.fault else None,
    )


def _missing_handler(state: TaskState, step: StepState, spec: StepSpec) -> str | None:
    """The handler that the step waits for, where no worker was found to have it."""
    if step.status != "enqueued":
        return None
    handler = spec.handler.callable
    known = state.watch is not None and handler in state.watch.missing_handlers
    return handler if known or step.handed_back else None


def _has_child(step: StepState) -> bool:
    """Whether the task that the step has asked for exists, or may: one that was refused never began."""
    refused = step.fault is not None and step.fault.error_code in REFUSALS
    return bool(step.child_task_id) and (step.status == "waiting_for_child" or not refused)


def _undoing(state: TaskState, number: int, name: str) -> StepState | None:
    """The compensation of a step, where the task is being undone or was."""
    made = None if state.saga is None else state.made.get(COMPENSATION_PREFIX + name)
    # A handler that only a failure names may be called like another step.
    return None if made is None or state.steps[made].compensates != number else state.steps[made]


def task_response(state: TaskState, *, with_steps: bool = True) -> TaskResponse:
    """The whole task as callers see it."""
    plan = state.the_plan
    numbers = state.shown_steps()
    counts: Counter[str] = Counter(shown_status(state.steps[number]) for number in numbers)
    total = len(numbers)
    status = state.status
    ready = counts["enqueued"]
    shown = min(total, STEPS_IN_RESPONSE_MAX) if with_steps else 0
    execution, action = _execution(state, ready)
    letter = open_letter(state)
    return TaskResponse(
        task_uuid=state.task_id,
        name=plan.ref.name,
        namespace=plan.ref.namespace,
        version=plan.ref.version,
        status=status,
        created_at=timestamp(state.created_at_ms),
        updated_at=timestamp(state.updated_at_ms),
        completed_at=_at(state.completed_at_ms),
        context=msgspec.Raw(state.context),
        initiator=state.initiator,
        source_system=state.source_system,
        reason=state.reason,
        priority=state.priority,
        tags=state.tags,
        correlation_id=state.correlation_id,
        parent_correlation_id=state.parent_correlation_id,
        total_steps=total,
        pending_steps=counts["pending"] + counts["held"],
        in_progress_steps=sum(counts[active] for active in (*ACTIVE, "waiting_for_signal")),
        completed_steps=sum(counts[met] for met in MET),
        failed_steps=counts["error"],
        ready_steps=ready,
        execution_status=execution,
        recommended_action=action,
        completion_percentage=round(100 * state.done_count / total, 2) if total else 100.0,
        health_status=_health(state),
        stream_version=state.version,
        compensation_status=state.compensation_status,
        parent_task_uuid=None if state.parent is None else state.parent.task_id,
        depth=state.depth,
        forked_from=forked_from(state),
        signals_kept=tuple(kept.signal for kept in state.mailbox),
        dlq_entry_uuid=None if letter is None else letter_uuid(state.task_id, letter.number),
        stuck=None if letter is None else letter.error_message,
        steps=tuple(step_summary(state, number) for number in _worth_showing(state, numbers, shown)),
        steps_truncated=shown < total,
    )


def forked_from(state: TaskState) -> ForkedFrom | None:
    """The task that this one is a fork of."""
    origin = state.forked_from
    if origin is None:
        return None
    return ForkedFrom(
        task_uuid=origin.task_id, stream_version=origin.stream_version, from_steps=origin.from_steps
    )


def _worth_showing(state: TaskState, numbers: list[int], shown: int) -> list[int]:
    """As many steps as fit into an answer: those that somebody has to look at in any case, then the first ones."""
    if shown == len(numbers):
        return numbers
    steps = state.steps
    urgent = [
        number
        for number in numbers[shown:]
        if steps[number].status in ("error", "waiting_for_signal", "waiting_for_child", "compensating")
        or steps[number].requires_manual_cleanup
    ][: shown // 2]
    return numbers[: shown - len(urgent)] + urgent


def _execution(state: TaskState, ready: int) -> tuple[str, str | None]:
    """`execution_status` and `recommended_action`, the most urgent first (semantics §6)."""
    if state.phase == "blocked_by_failures" or (state.phase == "error"):
        return "blocked_by_failures", "handle_failures" if state.phase == "blocked_by_failures" else None
    if state.phase == "complete":
        return "all_complete", None
    if state.phase in ("cancelled", "resolved_manually"):
        return "all_complete", None
    if _is_stuck(state):
        return "blocked_by_failures", "handle_failures"
    if ready:
        return "has_ready_steps", "execute_ready_steps"
    if state.active_count or state.phase == "compensating":
        return "processing", "wait_for_completion"
    return "waiting_for_dependencies", "wait_for_dependencies"


def _is_stuck(state: TaskState) -> bool:
    """Whether a paused task would be blocked at once if it were resumed."""
    open_count = state.active_count + state.waiting_count + state.suspended_count
    return state.phase == "paused" and bool(state.failed) and not open_count


def _health(state: TaskState) -> str:
    if state.phase in ("blocked_by_failures", "error") or _is_stuck(state):
        return "blocked"
    if state.waiting_count or any(step.fault and step.status in ACTIVE for step in state.steps):
        return "recovering"
    return "unknown" if state.phase in ("cancelled", "resolved_manually") else "healthy"
