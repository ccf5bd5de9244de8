"""The task as callers see it (interfaces §3), from its state."""

from __future__ import annotations

from collections import Counter

import msgspec

from stepweave_schemas.api import StepSummary, TaskResponse
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.identity import derived_uuid

from .plan import StepSpec
from .state import ACTIVE, StepState, TaskState

#: Most steps inside a `TaskResponse`; about 500 bytes each.
STEPS_IN_RESPONSE_MAX = 1_000


def _at(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else timestamp(moment_ms)


def step_summary(state: TaskState, number: int) -> StepSummary:
    """One step as callers see it."""
    plan = state.the_plan
    spec: StepSpec = plan.steps[number]
    step: StepState = state.steps[number]
    satisfied = step.unmet == 0
    total_parents = len(plan.parents[number])
    waiting = step.status == "waiting_for_retry"
    return StepSummary(
        workflow_step_uuid=step.uuid,
        task_uuid=state.task_id,
        named_step_uuid=derived_uuid("named_step", plan.ref.namespace, plan.ref.name, spec.name),
        name=spec.name,
        current_state=step.status,
        dependencies_satisfied=satisfied,
        retry_eligible=waiting and spec.retry.retryable and step.attempt < spec.retry.max_attempts,
        ready_for_execution=satisfied and step.status == "enqueued",
        last_failure_at=_at(step.fault.at_ms) if step.fault else None,
        next_retry_at=_at(step.due_at_ms) if waiting else None,
        total_parents=total_parents,
        completed_parents=total_parents - step.unmet,
        attempts=step.attempt,
        max_attempts=spec.retry.max_attempts,
        backoff_request_seconds=None if step.retry_delay_ms is None else step.retry_delay_ms / 1000,
        last_attempted_at=_at(step.started_at_ms or step.enqueued_at_ms),
        error_type=step.fault.error_type if step.fault else None,
        error_code=step.fault.error_code if step.fault else None,
        error_message=step.fault.error_message if step.fault else None,
        worker_id=step.worker_id or None,
    )


def task_response(state: TaskState, *, with_steps: bool = True) -> TaskResponse:
    """The whole task as callers see it."""
    plan = state.the_plan
    counts: Counter[str] = Counter(step.status for step in state.steps)
    total = len(state.steps)
    status = state.status
    ready = counts["enqueued"]
    shown = min(total, STEPS_IN_RESPONSE_MAX) if with_steps else 0
    execution, action = _execution(state, ready)
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
        pending_steps=counts["pending"],
        in_progress_steps=sum(counts[active] for active in ACTIVE),
        completed_steps=counts["complete"],
        failed_steps=counts["error"],
        ready_steps=ready,
        execution_status=execution,
        recommended_action=action,
        completion_percentage=round(100 * state.done_count / total, 2) if total else 100.0,
        health_status=_health(state),
        stream_version=state.version,
        steps=tuple(step_summary(state, number) for number in range(shown)),
        steps_truncated=shown < total,
    )


def _execution(state: TaskState, ready: int) -> tuple[str, str | None]:
    """`execution_status` and `recommended_action`, the most urgent first (semantics §6)."""
    if state.phase == "blocked_by_failures" or (state.phase == "error"):
        return "blocked_by_failures", "handle_failures" if state.phase == "blocked_by_failures" else None
    if state.phase == "complete":
        return "all_complete", None
    if state.phase == "cancelled":
        return "all_complete", None
    if ready:
        return "has_ready_steps", "execute_ready_steps"
    if state.active_count:
        return "processing", "wait_for_completion"
    return "waiting_for_dependencies", "wait_for_dependencies"


def _health(state: TaskState) -> str:
    if state.phase in ("blocked_by_failures", "error"):
        return "blocked"
    if state.waiting_count or any(step.fault and step.status in ACTIVE for step in state.steps):
        return "recovering"
    return "healthy" if state.phase != "cancelled" else "unknown"
