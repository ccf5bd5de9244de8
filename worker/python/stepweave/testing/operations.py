"""What an operator does to the task of an in-memory run."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from stepweave.encoding import encode_json
from stepweave.errors import ConfigurationError
from stepweave_orchestrator.core.operator_commands import (
    AnyOperatorCommand,
    CompleteStep,
    GiveUpTask,
    PauseTask,
    ResetStep,
    ResolveStep,
    ResolveTask,
    ResumeTask,
    RetryTask,
    SkipStep,
)

_OF_TASKS: Final = {
    "pause": PauseTask,
    "resume": ResumeTask,
    "retry": RetryTask,
    "give_up": GiveUpTask,
    "resolve_manually": ResolveTask,
}
_OF_STEPS: Final = {
    "reset_for_retry": ResetStep,
    "resolve_manually": ResolveStep,
    "complete_manually": CompleteStep,
    "skip": SkipStep,
}


class Operation(NamedTuple):
    """What an operator does at some moment of `run_workflow`."""

    #: With a `step`: `reset_for_retry`, `resolve_manually`, `complete_manually` or `skip`. Without: `pause`,
    #: `resume`, `retry`, `give_up` or `resolve_manually`.
    action: str
    #: The step's name; empty: the task.
    step: str = ""
    #: Virtual seconds after the task was created.
    after_seconds: float = 0.0
    #: Of `complete_manually`: any value that has a JSON form.
    result: Any = None
    reason: str = ""
    by: str = "test"


def command_of(operation: Operation, number: int) -> AnyOperatorCommand:
    """The command of an operation; raises `ConfigurationError` for an action that there is not."""
    kinds: dict[str, Any] = _OF_STEPS if operation.step else dict(_OF_TASKS)
    kind = kinds.get(operation.action)
    if kind is None:
        what = f"step {operation.step!r}" if operation.step else "the task"
        raise ConfigurationError(
            f"operations: {operation.action!r} is nothing that is done to {what}; there are {', '.join(kinds)}"
        )
    fields: dict[str, Any] = {
        "by": operation.by,
        "reason": operation.reason,
        "request_id": f"operation-{number}",
    }
    if operation.step:
        fields["step"] = operation.step
    if kind is CompleteStep:
        fields["result"] = encode_json(operation.result, f"operations.{operation.step}").decode()
    command: AnyOperatorCommand = kind(**fields)
    return command
