"""Running one try: the same code in the worker and in `stepweave.testing`."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Final

import msgspec

from stepweave.context import StepContext
from stepweave.encoding import NotJson, encode_json
from stepweave.error_types import ErrorType
from stepweave.failures import ERROR_CODE_CHARS_MAX, clean_text, encode_metadata, failure_of
from stepweave.invocation import Invocation
from stepweave.results import StepHandlerResult
from stepweave_schemas.dispatch import RESULT_BYTES_MAX, Dispatch
from stepweave_schemas.raw import NO_RAW
from stepweave_schemas.result import ERROR_MESSAGE_CHARS_MAX, Failure, Success

from .threads import HandlerThreads, Raised

#: Most bytes of a failure's metadata; more is dropped, the failure stands.
FAILURE_METADATA_BYTES_MAX: Final = 64 * 1024
#: Ten years: a wished delay beyond it is a mistake, and the orchestrator caps it anyway.
_RETRY_AFTER_MS_MAX: Final = 10 * 365 * 24 * 3600 * 1000


async def run_handler_once(
    invocation: Invocation, context: StepContext, threads: HandlerThreads
) -> StepHandlerResult:
    """Call a handler and say how it ended; an exception of it, whatever kind, is a failure.

    Only `CancelledError` passes through: the caller knows why it cancelled.
    """
    try:
        if invocation.is_async:
            value = await invocation(context)
        else:
            value = await threads.call(invocation, context)
            if isinstance(value, Raised):
                return failure_of(value.error)
        # A plain function around an async one, as some decorators make them.
        if inspect.iscoroutine(value) or isinstance(value, asyncio.Future):
            value = await value
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return failure_of(error)
    return value if isinstance(value, StepHandlerResult) else StepHandlerResult.success(value)


def outcome_of(
    dispatch: Dispatch,
    result: StepHandlerResult,
    *,
    worker_id: str,
    started_at_ms: int | None = None,
    duration_ms: int | None = None,
) -> Success | Failure:
    """What the worker says about a try.

    A result that JSON cannot carry, or that is larger than `RESULT_BYTES_MAX` with its metadata, becomes a
    permanent failure that says where and how much.
    """
    if result.is_success:
        try:
            encoded = encode_json(result.result)
            metadata = encode_json(result.metadata, "metadata") if result.metadata else b""
        except NotJson as error:
            result = _unusable(
                "RESULT_NOT_SERIALIZABLE", f"the handler's result is not JSON: {error}", path=error.path
            )
        else:
            size = len(encoded) + len(metadata)
            if size <= RESULT_BYTES_MAX:
                return Success(
                    task_id=dispatch.task_id,
                    step_uuid=dispatch.step_uuid,
                    step_name=dispatch.step_name,
                    attempt=dispatch.attempt,
                    lease_token=dispatch.lease_token,
                    worker_id=worker_id,
                    result=msgspec.Raw(encoded),
                    metadata=msgspec.Raw(metadata) if metadata else NO_RAW,
                    started_at_ms=started_at_ms,
                    duration_ms=duration_ms,
                )
            result = _unusable(
                "RESULT_TOO_LARGE",
                f"the handler's result has {size} bytes as JSON, the limit is {RESULT_BYTES_MAX}:"
                " store it elsewhere and return a reference",
                size_bytes=size,
                size_bytes_max=RESULT_BYTES_MAX,
            )
    return Failure(
        task_id=dispatch.task_id,
        step_uuid=dispatch.step_uuid,
        step_name=dispatch.step_name,
        attempt=dispatch.attempt,
        lease_token=dispatch.lease_token,
        worker_id=worker_id,
        error_message=clean_text(result.error_message, ERROR_MESSAGE_CHARS_MAX),
        error_type=(result.error_type or ErrorType.HANDLER_ERROR).value,
        error_code=None if result.error_code is None else clean_text(result.error_code, ERROR_CODE_CHARS_MAX),
        retryable=result.retryable,
        retry_after_ms=(
            None if result.retry_after is None else min(round(result.retry_after * 1000), _RETRY_AFTER_MS_MAX)
        ),
        metadata=(
            msgspec.Raw(encode_metadata(result.metadata, FAILURE_METADATA_BYTES_MAX))
            if result.metadata
            else NO_RAW
        ),
        started_at_ms=started_at_ms,
        duration_ms=duration_ms,
    )


def _unusable(code: str, message: str, **metadata: Any) -> StepHandlerResult:
    return StepHandlerResult.failure(
        message, ErrorType.PERMANENT_ERROR, False, error_code=code, metadata=metadata
    )
