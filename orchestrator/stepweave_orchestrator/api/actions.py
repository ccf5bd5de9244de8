"""What operators ask, checked where it enters and made into commands."""

from __future__ import annotations

import msgspec

from stepweave_orchestrator.core import operator_commands as commands
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import MessageError, json_text
from stepweave_schemas.dispatch import RESULT_BYTES_MAX
from stepweave_schemas.identity import is_uuid
from stepweave_schemas.mint import uuid7

from .creation import check_text

TaskActionRequest = api.PauseTask | api.ResumeTask | api.RetryTask | api.GiveUpTask | api.ResolveTask


def task_command(request: TaskActionRequest) -> commands.TaskAction:
    """The command of a request about a task; raises `ApiError` for whatever is out of bounds."""
    check_text(request, "reason")
    request_id = _request_id(request.request_id)
    match request:
        case api.PauseTask():
            check_text(request, "paused_by")
            return commands.PauseTask(by=request.paused_by, reason=request.reason, request_id=request_id)
        case api.ResumeTask():
            check_text(request, "resumed_by")
            return commands.ResumeTask(by=request.resumed_by, reason=request.reason, request_id=request_id)
        case api.RetryTask():
            check_text(request, "reset_by")
            return commands.RetryTask(by=request.reset_by, reason=request.reason, request_id=request_id)
        case api.GiveUpTask():
            check_text(request, "given_up_by")
            return commands.GiveUpTask(by=request.given_up_by, reason=request.reason, request_id=request_id)
        case api.ResolveTask():
            check_text(request, "resolved_by")
            return commands.ResolveTask(by=request.resolved_by, reason=request.reason, request_id=request_id)


def step_command(request: api.UpdateStep) -> commands.StepAction:
    """The command of a request about a step; raises `ApiError` for whatever is out of bounds."""
    check_text(request, "step")
    if not request.step:
        raise ApiError("BAD_REQUEST", "step: the step's name or uuid is missing")
    action, step = request.action, request.step
    reason, request_id = action.reason, _request_id(request.request_id)
    check_text(action, "reason")
    match action:
        case api.ResetForRetry():
            check_text(action, "reset_by")
            return commands.ResetStep(step=step, by=action.reset_by, reason=reason, request_id=request_id)
        case api.ResolveManually():
            check_text(action, "resolved_by")
            return commands.ResolveStep(
                step=step, by=action.resolved_by, reason=reason, request_id=request_id
            )
        case api.Skip():
            check_text(action, "skipped_by")
            return commands.SkipStep(step=step, by=action.skipped_by, reason=reason, request_id=request_id)
        case api.CompleteManually():
            check_text(action, "completed_by")
            result, metadata = _completion(action.completion_data)
            return commands.CompleteStep(
                step=step,
                by=action.completed_by,
                reason=reason,
                request_id=request_id,
                result=result,
                metadata=metadata,
            )


def _request_id(given: str | None) -> str:
    if given is not None and not is_uuid(given):
        raise ApiError(
            "INVALID_UUID", f"request_id: {given[:100]!r} is no UUID in its canonical lower-case form"
        )
    return given or uuid7()


def _completion(data: api.CompletionData) -> tuple[str, str]:
    """Result and metadata as JSON texts, within the bounds of what a worker may return."""
    size = len(memoryview(data.result)) + len(memoryview(data.metadata))
    if size > RESULT_BYTES_MAX:
        raise ApiError(
            "VALIDATION_FAILED",
            f"completion_data: {size} bytes, {RESULT_BYTES_MAX} at most; keep large data elsewhere and give a "
            "reference",
        )
    result, _ = _sound("result", data.result)
    metadata, value = _sound("metadata", data.metadata)
    if not isinstance(value, dict):
        raise ApiError("VALIDATION_FAILED", "completion_data.metadata: expected an object")
    return result, metadata if value else ""


def _sound(field: str, raw: msgspec.Raw) -> tuple[str, object]:
    try:
        text = json_text(raw)
        return text, msgspec.json.decode(text)
    except (MessageError, msgspec.MsgspecError, RecursionError) as error:
        raise ApiError("BAD_REQUEST", f"completion_data.{field}: {error}") from None
