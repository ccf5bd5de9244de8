"""What the client gives back: the API's answers with their JSON read."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stepweave_schemas import api
from stepweave_schemas.api import StepSummary

from .api_errors import ApiError

#: Task states after which nothing happens any more.
TERMINAL_STATUSES: Final = frozenset({"complete", "error", "cancelled", "resolved_manually"})
#: Nothing can run until an operator acts.
BLOCKED_STATUS: Final = "blocked_by_failures"


class TaskResponse(api.TaskResponse, frozen=True, kw_only=True):
    """A task as it was when the answer was made."""

    context: dict[str, Any]  # type: ignore[assignment]
    #: From `create_task`: the task existed already, made by the same request.
    replayed: bool = False

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended, well or not."""
        return self.status in TERMINAL_STATUSES

    @property
    def is_blocked(self) -> bool:
        """Whether the task waits for an operator."""
        return self.status == BLOCKED_STATUS

    def step(self, name: str) -> StepSummary:
        """One of `steps`, by its name or uuid; raises `KeyError` naming those there are."""
        for one in self.steps:
            if name in (one.name, one.workflow_step_uuid):
                return one
        listed = ", ".join(one.name for one in self.steps)
        raise KeyError(f"no step {name!r} in this answer; it has: {listed}")


class SignalResponse(api.SignalReply, frozen=True, kw_only=True):
    """What became of a signal: `taken_by` names the step; `None` where it is kept until one waits for it."""

    task: TaskResponse


class DeadLettersResponse(api.TaskDeadLetters, frozen=True, kw_only=True):
    """The dead letters of a task, oldest first; `task_snapshot` is the task as it was when one of them began."""

    task_snapshot: TaskResponse | None = None


class ForkResponse(api.ForkReply, frozen=True, kw_only=True):
    """A fork: what it reuses and what it runs; `task` is `None` after a dry run."""

    task: TaskResponse | None = None


class CreatedTask(msgspec.Struct, frozen=True, kw_only=True):
    """One element of `create_tasks`, in the order of the request.

    Where `error` is `Unavailable` or `ApiTimeout`, the task with this id may exist all the same.
    """

    task_uuid: str | None
    replayed: bool = False
    error: ApiError | None = None


class TemplateResponse(api.TemplateReply, frozen=True, kw_only=True):
    """A template version; `content` is its canonical form."""

    content: dict[str, Any]  # type: ignore[assignment]


class CreateTaskResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `task.create` as it travels."""

    task: TaskResponse
    replayed: bool = False
