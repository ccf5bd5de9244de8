"""Running one try: the same code in the worker and in `stepweave.testing`."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Final

import msgspec

from stepweave.batches import BatchConfig
from stepweave.context import StepContext
from stepweave.encoding import NotJson, encode_json
from stepweave.error_types import ErrorType
from stepweave.failures import ERROR_CODE_CHARS_MAX, clean_text, encode_metadata, failure_of
from stepweave.invocation import Invocation
from stepweave.results import StepHandlerResult
from stepweave_schemas.dispatch import RESULT_BYTES_MAX, Dispatch
from stepweave_schemas.raw import NO_RAW
from stepweave_schemas.result import (
    CURSORS_BYTES_MAX,
    ERROR_MESSAGE_CHARS_MAX,
    Batches,
    Checkpointed,
    Decided,
    DomainEvent,
    Failure,
    Success,
)

from .threads import HandlerThreads, Raised

#: Most bytes of a failure's metadata; more is dropped, the failure stands.
FAILURE_METADATA_BYTES_MAX: Final = 64 * 1024
#: Ten years: a wished delay beyond it is a mistake, and the orchestrator caps it anyway.
_RETRY_AFTER_MS_MAX: Final = 10 * 365 * 24 * 3600 * 1000


async def run_handler_once(
    invocation: Invocation, context: StepContext, threads: HandlerThreads
) -> StepHandlerResult:
    """Call a handler and say how it ended; an exception of it, whatever kind, is a failure.

    A `BatchConfig` is made the batches that it stands for, whoever returns it. Only `CancelledError` passes through:
    the caller knows why it cancelled.
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
        if isinstance(value, BatchConfig):
            value = value.as_result(context)
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
    domain_events: tuple[DomainEvent, ...] = (),
) -> Success | Failure | Decided | Batches | Checkpointed:
    """What the worker says about a try; `domain_events` are what its handler published.

    What JSON cannot carry, or what is larger than it may be (a result with its metadata and a checkpoint
    `RESULT_BYTES_MAX`, cursors `CURSORS_BYTES_MAX`), becomes a permanent failure that says where and how much.
    """
    the_try: dict[str, Any] = {
        "task_id": dispatch.task_id,
        "step_uuid": dispatch.step_uuid,
        "step_name": dispatch.step_name,
        "attempt": dispatch.attempt,
        "lease_token": dispatch.lease_token,
        "worker_id": worker_id,
    }
    times: dict[str, Any] = {"started_at_ms": started_at_ms, "duration_ms": duration_ms}
    if domain_events:
        the_try["domain_events"] = domain_events
    if result.is_success:
        try:
            if result.is_checkpoint:
                return Checkpointed(
                    **the_try, items_processed=result.checkpoint_items_processed, **_progress(result)
                )
            content = _content(result)
            if result.decision_steps is not None:
                return Decided(
                    **the_try,
                    **times,
                    **content,
                    create_steps=tuple(result.decision_steps),
                    reason=clean_text(result.reason, ERROR_MESSAGE_CHARS_MAX),
                )
            if result.cursors is not None:
                return Batches(
                    **the_try,
                    **times,
                    **content,
                    cursors=_cursors(result.cursors),
                    worker_template=result.worker_template,
                    reason=clean_text(result.reason, ERROR_MESSAGE_CHARS_MAX),
                )
            return Success(**the_try, **times, **content)
        except _Unusable as error:
            result = error.failure
    return Failure(
        **the_try,
        **times,
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
        compensation_steps=tuple(result.compensation_steps),
    )


class _Unusable(Exception):
    """What a handler returned cannot be sent; `failure` is sent instead."""

    def __init__(self, code: str, message: str, **metadata: Any) -> None:
        super().__init__(message)
        self.failure = StepHandlerResult.failure(
            message, ErrorType.PERMANENT_ERROR, False, error_code=code, metadata=metadata
        )


def _content(result: StepHandlerResult) -> dict[str, Any]:
    encoded = _encoded(result.result, "result", "the handler's result", "RESULT")
    metadata = b""
    if result.metadata:
        metadata = _encoded(result.metadata, "metadata", "the handler's result", "RESULT")
    _check_size(
        len(encoded) + len(metadata),
        RESULT_BYTES_MAX,
        "RESULT",
        "the handler's result has",
        "store it elsewhere and return a reference",
    )
    return {
        "result": msgspec.Raw(encoded),
        "metadata": msgspec.Raw(metadata) if metadata else NO_RAW,
    }


def _progress(result: StepHandlerResult) -> dict[str, Any]:
    cursor = _encoded(result.checkpoint_cursor, "cursor", "the checkpoint", "CHECKPOINT")
    accumulated = _encoded(result.accumulated_results, "accumulated_results", "the checkpoint", "CHECKPOINT")
    _check_size(
        len(cursor) + len(accumulated),
        RESULT_BYTES_MAX,
        "CHECKPOINT",
        "the checkpoint's cursor and accumulated_results have",
        "store them elsewhere and save a reference",
    )
    return {"cursor": msgspec.Raw(cursor), "accumulated_results": msgspec.Raw(accumulated)}


def _cursors(cursors: list[Any]) -> tuple[msgspec.Raw, ...]:
    encoded = [
        _encoded(cursor, f"cursors[{number}]", "a cursor of the batches", "CURSORS")
        for number, cursor in enumerate(cursors)
    ]
    _check_size(
        sum(map(len, encoded)) + len(encoded),
        CURSORS_BYTES_MAX,
        "CURSORS",
        f"the {len(encoded)} cursors of the batches have",
        "make them shorter, or fewer",
    )
    return tuple(map(msgspec.Raw, encoded))


def _encoded(value: Any, root: str, what: str, code: str) -> bytes:
    try:
        return encode_json(value, root)
    except NotJson as error:
        raise _Unusable(f"{code}_NOT_SERIALIZABLE", f"{what} is not JSON: {error}", path=error.path) from None


def _check_size(size: int, size_max: int, code: str, what: str, remedy: str) -> None:
    if size > size_max:
        raise _Unusable(
            f"{code}_TOO_LARGE",
            f"{what} {size} bytes as JSON, the limit is {size_max}: {remedy}",
            size_bytes=size,
            size_bytes_max=size_max,
        )
