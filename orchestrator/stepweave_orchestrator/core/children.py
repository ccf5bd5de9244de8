"""A task and the step that started it: what the child is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from stepweave_schemas import result
from stepweave_schemas.child import CancelChild, StartChild
from stepweave_schemas.child_context import MISSING, resolve
from stepweave_schemas.dispatch import CONTEXT_BYTES_MAX, RESULT_BYTES_MAX
from stepweave_schemas.events import ChildCancelRequested, ChildRequested, Event, ParentLink
from stepweave_schemas.identity import derived_uuid
from stepweave_schemas.raw import raw

from .plan import ChildSpec, StepSpec
from .state import MET, ParentStep, TaskState

_NO_RESULT = "null"
#: Why a child cannot begin: there is no task of its id then.
TEMPLATE_NOT_FOUND: Final = "CHILD_TEMPLATE_NOT_FOUND"
CONTEXT_INVALID: Final = "CHILD_CONTEXT_INVALID"
REFUSED: Final = "CHILD_REFUSED"
REFUSALS: Final = frozenset({TEMPLATE_NOT_FOUND, CONTEXT_INVALID, REFUSED})


def child_task_id(step_uuid: str, attempt: int) -> str:
    """The id of the task that one try of a step starts: the same try starts the same task."""
    return derived_uuid("child", step_uuid, str(attempt))


def child_context(
    state: TaskState, spec: ChildSpec, fresh: Mapping[str, msgspec.Raw], child_depth_max: int
) -> tuple[msgspec.Raw, list[str]]:
    """The child's context with the references of the template filled in, and why the child cannot be started.

    `fresh` holds the results that are not in the state yet.
    """

    def result_of(name: str) -> object:
        text: str | msgspec.Raw | None = fresh.get(name)
        if text is None and (number := state.number_of(name)) >= 0:
            text = state.steps[number].result
        return MISSING if text is None else msgspec.json.decode(text)

    problems: list[str] = []
    if state.depth + 1 > child_depth_max:
        problems.append(f"{state.depth + 1} tasks stand above it, and {child_depth_max} at most may")
    value, missing = resolve(
        spec.context,
        msgspec.json.decode(state.context),
        result_of,
        state.the_plan.index,
    )
    problems.extend(f"{reference} has no value" for reference in missing)
    encoded = msgspec.json.encode(value)
    if len(encoded) > CONTEXT_BYTES_MAX:
        problems.append(f"its context has {len(encoded)} bytes, {CONTEXT_BYTES_MAX} at most")
        encoded = b"{}"
    return msgspec.Raw(encoded), problems


def start_order(state: TaskState, event: ChildRequested, result_subject: str) -> StartChild | None:
    """The order to start a child, or `None` where its step does not wait for it any more."""
    step = state.steps[state.number_of(event.step_name)]
    if step.status != "waiting_for_child" or step.lease_token != event.lease_token:
        return None
    namespace = state.the_plan.ref.namespace
    return StartChild(
        task_id=event.child_task_id,
        namespace=event.namespace,
        name=event.name,
        version=event.version,
        context=event.context,
        parent=ParentLink(
            task_id=state.task_id,
            step_name=event.step_name,
            step_uuid=event.step_uuid,
            attempt=event.attempt,
            lease_token=event.lease_token,
            result_subject=result_subject,
        ),
        parent_namespace=namespace,
        correlation_id=state.correlation_id,
        parent_correlation_id=state.correlation_id,
        priority=state.priority,
        depth=event.depth,
        traceparent=state.traceparent,
        problems=event.problems,
    )


def cancel_order(state: TaskState, event: ChildCancelRequested) -> CancelChild:
    """The order to cancel a child."""
    return CancelChild(task_id=event.child_task_id, parent_task_id=state.task_id, reason=event.reason)


def cancel_requests(state: TaskState, reason: str, only: int = -1) -> list[Event]:
    """What orders the cancellation of the children that are waited for, but for those that their steps abandon;
    `only`: the child of this step."""
    if not state.suspended_count:
        return []
    steps = enumerate(state.steps) if only < 0 else [(only, state.steps[only])]
    return [
        ChildCancelRequested(
            step_name=state.name_of(number),
            step_uuid=step.uuid,
            child_task_id=step.child_task_id,
            reason=reason,
        )
        for number, step in steps
        if step.status == "waiting_for_child" and dies_with_parent(state.spec_of(number))
    ]


def dies_with_parent(spec: StepSpec) -> bool:
    """Whether a child is cancelled when its step does not wait for it any more."""
    return spec.child_task is not None and spec.child_task.parent_close == "cancel"


# -- what the child answers ------------------------------------------------------------------------


def _try_of(parent: ParentLink | ParentStep, child_task_id: str) -> dict[str, Any]:
    """What an outcome says of the try that it is about, and of who says so."""
    return {
        "task_id": parent.task_id,
        "step_uuid": parent.step_uuid,
        "step_name": parent.step_name,
        "attempt": parent.attempt,
        "lease_token": parent.lease_token,
        "worker_id": f"child:{child_task_id}",
    }


def begun(task_id: str, parent: ParentLink | ParentStep, at_ms: int) -> result.Started:
    """That the child exists."""
    return result.Started(**_try_of(parent, task_id), started_at_ms=at_ms)


def refused(task_id: str, parent: ParentLink, code: str, message: str, *, retryable: bool) -> result.Failure:
    """That the child cannot begin, and why."""
    return result.Failure(
        **_try_of(parent, task_id),
        error_type="retryable_error" if retryable else "permanent_error",
        error_code=code,
        error_message=message[: result.ERROR_MESSAGE_CHARS_MAX],
        retryable=retryable,
    )


def ended(state: TaskState) -> result.AnyOutcome | None:
    """How a child ended, for the step that waits for it; `None` where it has not ended or is no child."""
    parent = state.parent
    if parent is None or not state.is_terminal:
        return None
    # What an operator has resolved counts as done.
    if state.phase in ("complete", "resolved_manually"):
        text = task_result(state)
        size_bytes = len(text.encode())
        if size_bytes <= RESULT_BYTES_MAX:
            return result.Success(
                **_try_of(parent, state.task_id),
                result=raw(text),
                started_at_ms=state.created_at_ms,
                duration_ms=max(0, (state.completed_at_ms or 0) - state.created_at_ms),
            )
        code = "RESULT_TOO_LARGE"
        message = f"the child task's result has {size_bytes} bytes, {RESULT_BYTES_MAX} at most"
    elif state.phase == "cancelled":
        code, message = "CHILD_TASK_CANCELLED", f"the child task was cancelled: {state.ending_message}"
    else:
        code, message = "CHILD_TASK_FAILED", f"the child task failed: {state.ending_message}"
    ref = state.the_plan.ref
    metadata = {
        "child_task_id": state.task_id,
        "child": f"{ref.namespace}/{ref.name}:{ref.version}",
        "child_status": state.phase,
        "child_error_code": state.ending_code,
    }
    return result.Failure(
        **_try_of(parent, state.task_id),
        error_type="permanent_error",
        error_code=code,
        error_message=message[: result.ERROR_MESSAGE_CHARS_MAX],
        retryable=False,
        metadata=msgspec.Raw(msgspec.json.encode(metadata)),
    )


def task_result(state: TaskState) -> str:
    """What a task has come to, as JSON: the result of its last step, or of its last steps by name.

    A last step is one that is done and that no existing step depends on. The workers of a batch always stand by their
    names, however many they are.
    """
    plan = state.the_plan
    last = tuple(
        number
        for number, step in enumerate(state.steps[: len(plan.steps)])
        if (step.status in MET or step.status == "expanded")
        and all(state.steps[dependent].status == "excluded" for dependent in plan.dependents[number])
    )
    results = {
        state.name_of(number): text
        for number in state.with_results(last)
        if (text := state.steps[number].result) is not None
    }
    if len(results) == 1 and not any(slot in state.batches for slot in last):
        return next(iter(results.values()))
    if not results:
        return _NO_RESULT
    return msgspec.json.encode({name: raw(text) for name, text in results.items()}).decode()
