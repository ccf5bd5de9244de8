"""The message for the workers, from the state of a task."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stepweave_schemas.dispatch import (
    EMPTY_OBJECT,
    INLINE_RESULTS_BYTES_MAX,
    INLINE_TRANSITIVE_RESULTS_MAX,
    Dispatch,
    StepCheckpoint,
)
from stepweave_schemas.raw import raw

from .plan import StepSpec
from .state import ACTIVE, SavedProgress, StepState, TaskState


def build_dispatch(
    state: TaskState, step_name: str, attempt: int, lease_token: str, result_subject: str
) -> Dispatch | None:
    """The dispatch of one try, or `None` where that try is over already (it was published before)."""
    plan = state.the_plan
    number = plan.index.get(step_name, -1)
    if number < 0:
        number = state.made[step_name]
    step = state.steps[number]
    if step.status not in ACTIVE or step.attempt != attempt or step.lease_token != lease_token:
        return None
    spec = plan.steps[number] if not step.name else state.spec_of(number)
    results, complete = _inline_results(state, number)
    return Dispatch(
        task_id=state.task_id,
        step_uuid=step.uuid,
        step_name=step_name,
        attempt=attempt,
        max_attempts=step.forgiven + spec.retry.max_attempts,
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
        step_inputs=EMPTY_OBJECT if spec.type == "standard" else _step_inputs(state, step, spec),
        checkpoint=None if step.checkpoint is None else _checkpoint(step.checkpoint),
        compensates=state.name_of(step.compensates) if step.compensates >= 0 else "",
        compensates_step_uuid=_effects_uuid(state.steps[step.compensates]) if step.compensates >= 0 else "",
        correlation_id=state.correlation_id,
        parent_correlation_id=state.parent_correlation_id,
        priority=state.priority,
        result_subject=result_subject,
        enqueued_at_ms=step.enqueued_at_ms or 0,
        waiting_since_ms=0 if step.waiting_since_ms == step.enqueued_at_ms else step.waiting_since_ms,
        timeout_ms=None if spec.timeout_seconds is None else round(spec.timeout_seconds * 1000),
        traceparent=state.traceparent,
    )


def _effects_uuid(step: StepState) -> str:
    """The idempotency key that the step's effects outside were made with: of the task that ran it."""
    return step.uuid if step.reused is None else step.reused.step_uuid


def _checkpoint(saved: SavedProgress) -> StepCheckpoint:
    return StepCheckpoint(
        cursor=raw(saved.cursor),
        items_processed=saved.items_processed,
        accumulated_results=raw(saved.accumulated_results),
    )


def result_numbers(state: TaskState, number: int) -> tuple[Sequence[int], bool]:
    """The steps whose results travel with a dispatch, nearest first; and whether these are all there are.

    Every worker of a batch that is a direct dependency counts as one; of what lies further back there are at most
    `INLINE_TRANSITIVE_RESULTS_MAX`, so that a batch behind a batch does not carry all of it in each dispatch. A
    compensation reads what the step that it undoes could read, and that step's own result before.
    """
    plan = state.the_plan
    if not state.made:
        return plan.near_ancestors(number)
    compensates = state.steps[number].compensates
    slot = state.slot_of(number)
    slots, complete = plan.near_ancestors(slot)
    direct = len(plan.parents[slot])
    numbers = [] if compensates < 0 else [compensates]
    numbers += state.with_results(slots[:direct])
    room = INLINE_TRANSITIVE_RESULTS_MAX
    for further in slots[direct:]:
        batch = state.batches.get(further)
        room -= 1 if batch is None else batch.count
        if room < 0:
            return numbers, False
        numbers += state.with_results((further,))
    return numbers, complete


def all_result_numbers(state: TaskState, number: int) -> list[int]:
    """As `result_numbers`, without a bound."""
    numbers = state.with_results(state.the_plan.ancestors(state.slot_of(number)))
    compensates = state.steps[number].compensates
    return numbers if compensates < 0 else [compensates, *numbers]


def _step_inputs(state: TaskState, step: StepState, spec: StepSpec) -> msgspec.Raw:
    """What a step of a batch works on, and what a compensation has to undo."""
    if step.compensates >= 0:
        target = state.steps[step.compensates]
        return _step_inputs(state, target, state.spec_of(step.compensates))
    if spec.type == "batchable":
        return _encode({"batch_config": spec.batch_config if bytes(spec.batch_config) else {}})
    if spec.type != "batch_worker":
        return EMPTY_OBJECT
    batch = state.batches[step.made_from]
    plan = state.the_plan
    config = plan.steps[plan.branch_of[step.made_from][0]].batch_config
    return _encode(
        {
            "cursor": None if step.cursor is None else raw(step.cursor),
            "batch_id": step.name.rpartition("_")[2],
            "batch_count": batch.count,
            "is_no_op": batch.is_no_op,
            "batch_config": config if bytes(config) else {},
        }
    )


def _encode(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _inline_results(state: TaskState, number: int) -> tuple[dict[str, msgspec.Raw], bool]:
    numbers, complete = result_numbers(state, number)
    results: dict[str, msgspec.Raw] = {}
    if not numbers:
        return results, complete
    size_bytes = 0
    for ancestor in numbers:
        text = state.steps[ancestor].result
        if text is None:
            continue
        name = state.name_of(ancestor)
        # With the quotes, the colon and the comma around them.
        size_bytes += len(name) + 4 + (len(text) if text.isascii() else len(text.encode()))
        # The nearest one travels in any case: it may have all the bytes there are, and its name besides.
        if results and size_bytes > INLINE_RESULTS_BYTES_MAX:
            return results, False
        results[name] = msgspec.Raw(text)
    return results, complete
