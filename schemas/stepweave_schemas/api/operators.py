"""What operators do to tasks and steps: who and why go with every request."""

from __future__ import annotations

import msgspec

from .request import EMPTY_OBJECT, NULL, Request
from .tasks import StepSummary, TaskResponse


class CancelTask(Request, frozen=True, kw_only=True):
    """`task.cancel`. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    cancelled_by: str = ""


class PauseTask(Request, frozen=True, kw_only=True):
    """`task.pause`: begin nothing any more until the task is resumed. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    paused_by: str = ""
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class ResumeTask(Request, frozen=True, kw_only=True):
    """`task.resume`: go on with a paused task. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    resumed_by: str = ""
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class RetryTask(Request, frozen=True, kw_only=True):
    """`task.retry`: try every step again that has failed for good. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    reset_by: str = ""
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class GiveUpTask(Request, frozen=True, kw_only=True):
    """`task.give_up`: a blocked task will not complete; it ends in `error`. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    given_up_by: str = ""
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class ResolveTask(Request, frozen=True, kw_only=True):
    """`task.resolve`: what the task was for is done; it ends in `resolved_manually`. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    resolved_by: str = ""
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class StepAction(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action_type"
):
    """Base of what may be asked of a step."""

    reason: str = ""


class ResetForRetry(StepAction, frozen=True, kw_only=True, tag="reset_for_retry"):
    """Try a step again that has failed, or waits for its retry; it has all its tries anew."""

    reset_by: str = ""


class ResolveManually(StepAction, frozen=True, kw_only=True, tag="resolve_manually"):
    """A step counts as done, without a result."""

    resolved_by: str = ""


class CompletionData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a step has come to that somebody did by hand."""

    #: Any JSON value. Of a decision, an object that may name the steps it chooses in `create_steps`.
    result: msgspec.Raw = NULL
    metadata: msgspec.Raw = EMPTY_OBJECT


class CompleteManually(StepAction, frozen=True, kw_only=True, tag="complete_manually"):
    """A step was done by hand, and this is its result."""

    completion_data: CompletionData
    completed_by: str = ""


class Skip(StepAction, frozen=True, kw_only=True, tag="skip"):
    """A step is not needed; its template has to say `skippable: true`."""

    skipped_by: str = ""


AnyStepAction = ResetForRetry | ResolveManually | CompleteManually | Skip


class UpdateStep(Request, frozen=True, kw_only=True):
    """`step.update`: an operator's action on a step. Answer: `UpdateStepReply`."""

    task_id: str
    #: The step's name or uuid.
    step: str
    #: What to do, told apart by `action_type`.
    action: AnyStepAction
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class UpdateStepReply(msgspec.Struct, frozen=True, kw_only=True):
    """The step, and the task without its steps, after the action."""

    task: TaskResponse
    step: StepSummary
