"""What operators may ask of a task and of its steps. They travel between orchestrators as they are."""

from __future__ import annotations

import msgspec


class OperatorCommand(msgspec.Struct, frozen=True, kw_only=True, tag_field="action"):
    """Base: who asks, and why."""

    by: str
    reason: str
    #: The request's id: the same one again is a repetition, and is answered like the first time.
    request_id: str = ""


class PauseTask(OperatorCommand, frozen=True, kw_only=True, tag="pause"):
    """Begin nothing any more, until the task is resumed."""


class ResumeTask(OperatorCommand, frozen=True, kw_only=True, tag="resume"):
    """Go on with a paused task."""


class RetryTask(OperatorCommand, frozen=True, kw_only=True, tag="retry"):
    """Try every step again that has failed for good."""


class GiveUpTask(OperatorCommand, frozen=True, kw_only=True, tag="give_up"):
    """A blocked task will not complete: end it in error."""


class ResolveTask(OperatorCommand, frozen=True, kw_only=True, tag="resolve_task"):
    """What the task was for is done: end it."""


class StepCommand(OperatorCommand, frozen=True, kw_only=True):
    """Base of the commands about one step."""

    #: Its name, or its uuid.
    step: str


class ResetStep(StepCommand, frozen=True, kw_only=True, tag="reset_for_retry"):
    """Try a step again that has failed, or waits for its retry."""


class ResolveStep(StepCommand, frozen=True, kw_only=True, tag="resolve_manually"):
    """A step counts as done, without a result."""


class CompleteStep(StepCommand, frozen=True, kw_only=True, tag="complete_manually"):
    """A step is done, and this is its result."""

    #: JSON text.
    result: str
    #: JSON text; empty where there is none.
    metadata: str = ""


class SkipStep(StepCommand, frozen=True, kw_only=True, tag="skip"):
    """A step that may be skipped is not needed."""


TaskAction = PauseTask | ResumeTask | RetryTask | GiveUpTask | ResolveTask
StepAction = ResetStep | ResolveStep | CompleteStep | SkipStep
AnyOperatorCommand = TaskAction | StepAction
