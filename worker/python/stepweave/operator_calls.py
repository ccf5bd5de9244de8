"""The client's methods for what operators do to tasks and steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from stepweave_schemas import api
from stepweave_schemas.api import StepSummary
from stepweave_schemas.mint import uuid7

from .calls import Calls
from .encoding import encode_json
from .responses import TaskResponse


class _UpdatedStep(msgspec.Struct):
    """What is of interest of an `api.UpdateStepReply`."""

    step: StepSummary


class OperatorCalls(Calls):
    """Part of `Client`."""

    async def cancel_task(
        self,
        task_id: str,
        *,
        reason: str = "",
        cancelled_by: str = "",
        timeout_seconds: float | None = None,
    ) -> TaskResponse:
        """Cancel a task: running handlers are told, later results are refused. Raises `Conflict` if it ended."""
        request = api.CancelTask(task_id=task_id, reason=reason, cancelled_by=cancelled_by)
        return await self._call("task.cancel", request, TaskResponse, timeout_seconds)

    async def pause_task(
        self, task_id: str, *, reason: str = "", paused_by: str = "", timeout_seconds: float | None = None
    ) -> TaskResponse:
        """Hold a task back: nothing of it begins until it is resumed; what runs ends as usual, and counts.

        Raises `Conflict` where the task has ended or is being undone; one that is paused stays so.
        """
        request = api.PauseTask(task_id=task_id, reason=reason, paused_by=paused_by, request_id=uuid7())
        return await self._call("task.pause", request, TaskResponse, timeout_seconds)

    async def resume_task(
        self, task_id: str, *, reason: str = "", resumed_by: str = "", timeout_seconds: float | None = None
    ) -> TaskResponse:
        """Go on with a paused task: everything that is ready begins. Raises `Conflict` where it is not paused."""
        request = api.ResumeTask(task_id=task_id, reason=reason, resumed_by=resumed_by, request_id=uuid7())
        return await self._call("task.resume", request, TaskResponse, timeout_seconds)

    async def retry_task(
        self, task_id: str, *, reason: str = "", reset_by: str = "", timeout_seconds: float | None = None
    ) -> TaskResponse:
        """Try every step again that has failed for good. Raises `Conflict` where none has."""
        request = api.RetryTask(task_id=task_id, reason=reason, reset_by=reset_by, request_id=uuid7())
        return await self._call("task.retry", request, TaskResponse, timeout_seconds)

    async def give_up_task(
        self, task_id: str, *, reason: str = "", given_up_by: str = "", timeout_seconds: float | None = None
    ) -> TaskResponse:
        """End a blocked task in `error`. Raises `Conflict` where it is not blocked."""
        request = api.GiveUpTask(task_id=task_id, reason=reason, given_up_by=given_up_by, request_id=uuid7())
        return await self._call("task.give_up", request, TaskResponse, timeout_seconds)

    async def resolve_task(
        self, task_id: str, *, reason: str = "", resolved_by: str = "", timeout_seconds: float | None = None
    ) -> TaskResponse:
        """Say that what a task was for is done: it ends in `resolved_manually`, and running handlers are told.

        Raises `Conflict` where it has ended or is being undone.
        """
        request = api.ResolveTask(task_id=task_id, reason=reason, resolved_by=resolved_by, request_id=uuid7())
        return await self._call("task.resolve", request, TaskResponse, timeout_seconds)

    async def reset_step(
        self,
        task_id: str,
        step: str,
        *,
        reason: str = "",
        reset_by: str = "",
        timeout_seconds: float | None = None,
    ) -> StepSummary:
        """Try a step again that has failed, or waits for its retry: now, with all its tries, from its last checkpoint.

        `step` is its name or uuid, here and below. These four raise `NotFound` where there is no such step, and
        `Conflict` where the step does not allow it: `error.state` and `error.allowed_actions` say what is.
        """
        action = api.ResetForRetry(reason=reason, reset_by=reset_by)
        return await self._update_step(task_id, step, action, timeout_seconds)

    async def resolve_step(
        self,
        task_id: str,
        step: str,
        *,
        reason: str = "",
        resolved_by: str = "",
        timeout_seconds: float | None = None,
    ) -> StepSummary:
        """Count a step as done that is not, without a result; what depends on it goes on."""
        action = api.ResolveManually(reason=reason, resolved_by=resolved_by)
        return await self._update_step(task_id, step, action, timeout_seconds)

    async def complete_step(
        self,
        task_id: str,
        step: str,
        result: Any = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        reason: str = "",
        completed_by: str = "",
        timeout_seconds: float | None = None,
    ) -> StepSummary:
        """Complete a step that somebody has done by hand, with its result, which what depends on it reads.

        That of a decision may be an object with `create_steps`: the steps that it chooses.
        """
        data = api.CompletionData(
            result=msgspec.Raw(encode_json(result, "result")),
            metadata=msgspec.Raw(encode_json(dict(metadata or {}), "metadata")),
        )
        action = api.CompleteManually(completion_data=data, reason=reason, completed_by=completed_by)
        return await self._update_step(task_id, step, action, timeout_seconds)

    async def skip_step(
        self,
        task_id: str,
        step: str,
        *,
        reason: str = "",
        skipped_by: str = "",
        timeout_seconds: float | None = None,
    ) -> StepSummary:
        """Skip a step that has not begun or has failed, and whose template says `skippable: true`."""
        action = api.Skip(reason=reason, skipped_by=skipped_by)
        return await self._update_step(task_id, step, action, timeout_seconds)

    async def _update_step(
        self, task_id: str, step: str, action: api.AnyStepAction, timeout_seconds: float | None
    ) -> StepSummary:
        request = api.UpdateStep(task_id=task_id, step=step, action=action, request_id=uuid7())
        return (await self._call("step.update", request, _UpdatedStep, timeout_seconds)).step
