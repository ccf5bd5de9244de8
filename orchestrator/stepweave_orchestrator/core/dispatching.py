"""The message for the workers, from the state of a task."""

from __future__ import annotations

import msgspec

from stepweave_schemas.dispatch import INLINE_RESULTS_BYTES_MAX, Dispatch

from .state import ACTIVE, TaskState


def build_dispatch(
    state: TaskState, step_name: str, attempt: int, lease_token: str, result_subject: str
) -> Dispatch | None:
    """The dispatch of one try, or `None` where that try is over already (it was published before)."""
    plan = state.the_plan
    number = plan.index[step_name]
    step = state.steps[number]
    if step.status not in ACTIVE or step.attempt != attempt or step.lease_token != lease_token:
        return None
    spec = plan.steps[number]
    results, complete = _inline_results(state, number)
    return Dispatch(
        task_id=state.task_id,
        step_uuid=step.uuid,
        step_name=step_name,
        attempt=attempt,
        max_attempts=spec.retry.max_attempts,
        lease_token=lease_token,
        namespace=plan.ref.namespace,
        task_name=plan.ref.name,
        template_version=plan.ref.version,
        handler=spec.handler.callable,
        method=spec.handler.method,
        resolver=spec.handler.resolver,
        initialization=spec.handler.initialization,
        context=msgspec.Raw(state.context),
        dependency_results=results,
        dependency_results_complete=complete,
        correlation_id=state.correlation_id,
        parent_correlation_id=state.parent_correlation_id,
        priority=state.priority,
        result_subject=result_subject,
        enqueued_at_ms=step.enqueued_at_ms or 0,
        timeout_ms=None if spec.timeout_seconds is None else round(spec.timeout_seconds * 1000),
        traceparent=state.traceparent,
    )


def _inline_results(state: TaskState, number: int) -> tuple[dict[str, msgspec.Raw], bool]:
    plan = state.the_plan
    ancestors, complete = plan.near_ancestors(number)
    results: dict[str, msgspec.Raw] = {}
    size_bytes = 0
    for ancestor in ancestors:
        text = state.steps[ancestor].result
        if text is None:
            continue
        size_bytes += len(text) if text.isascii() else len(text.encode())
        if size_bytes > INLINE_RESULTS_BYTES_MAX:
            return results, False
        results[plan.steps[ancestor].name] = msgspec.Raw(text)
    return results, complete
