"""A request to create a task, checked where it enters, and what follows from it: id and digest."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from stepweave_orchestrator.runtime.templates import Version
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import MessageError, json_text
from stepweave_schemas.dispatch import CONTEXT_BYTES_MAX, RESULT_BYTES_MAX
from stepweave_schemas.envelope import parse_timestamp
from stepweave_schemas.identity import content_json, identity_task_id, is_uuid, json_digest

#: Bounds of a request, in characters and numbers.
TEXT_CHARS_MAX: Final = 1_024
TAGS_MAX: Final = 50
PRIORITY_MAX: Final = 100
#: A start further ahead is a mistake (milliseconds for seconds, a year with five digits).
START_AFTER_SECONDS_MAX: Final = 5 * 366 * 24 * 3600
_YEAR_9999_END_MS: Final = 253_402_300_799_999


def check_request(request: api.CreateTask) -> Any:
    """The request's context as a plain object; raises `ApiError` for whatever is out of bounds."""
    context = check_context(request.context)
    if request.task_id is not None and not is_uuid(request.task_id):
        raise ApiError(
            "INVALID_UUID", f"task_id: {request.task_id!r} is no UUID in its canonical lower-case form"
        )
    check_own_id("idempotency_key", request.idempotency_key)
    if not -PRIORITY_MAX <= request.priority <= PRIORITY_MAX:
        raise ApiError("VALIDATION_FAILED", f"priority: {request.priority} is not in -100..100")
    if len(request.tags) > TAGS_MAX or any(
        not 0 < len(tag) <= TEXT_CHARS_MAX or "\x00" in tag for tag in request.tags
    ):
        raise ApiError(
            "VALIDATION_FAILED",
            f"tags: {TAGS_MAX} at most, each of 1 to {TEXT_CHARS_MAX} characters and without NUL",
        )
    check_text(
        request,
        "name",
        "namespace",
        "version",
        "initiator",
        "source_system",
        "reason",
        "correlation_id",
        "parent_correlation_id",
        "idempotency_key",
        "requested_at",
        "start_at",
        "traceparent",
    )
    if bytes(request.options).strip() not in (b"{}", b""):
        raise ApiError("VALIDATION_FAILED", "options: this version knows none; leave it out")
    check_moment("requested_at", request.requested_at, _YEAR_9999_END_MS)
    check_moment("start_at", request.start_at, round((time.time() + START_AFTER_SECONDS_MAX) * 1000))
    return context


def check_text(request: msgspec.Struct, *fields: str) -> None:
    """Raise `ApiError` unless each of these fields is absent or a text within bounds."""
    for field in fields:
        text = getattr(request, field)
        if text is not None and len(text) > TEXT_CHARS_MAX:
            raise ApiError("VALIDATION_FAILED", f"{field}: {TEXT_CHARS_MAX} characters at most")
        if text is not None and "\x00" in text:
            raise ApiError("VALIDATION_FAILED", f"{field}: the character NUL is not allowed")


def check_payload(raw: msgspec.Raw, field: str = "payload") -> msgspec.Raw:
    """A signal's payload, or another JSON value, sound and within bounds; raises `ApiError`."""
    size = len(memoryview(raw))
    if size > RESULT_BYTES_MAX:
        raise ApiError(
            "VALIDATION_FAILED",
            f"{field}: {size} bytes, {RESULT_BYTES_MAX} at most; keep large data elsewhere and send a reference",
        )
    try:
        msgspec.json.decode(json_text(raw))
    except (MessageError, msgspec.MsgspecError, RecursionError) as error:
        raise ApiError("BAD_REQUEST", f"{field}: {error}") from None
    return raw


def check_own_id(field: str, value: str | None) -> None:
    """Refuse an empty id of the caller's: taken for none, the request would not be the same when it comes again."""
    if value is not None and not value.strip():
        raise ApiError("VALIDATION_FAILED", f"{field}: it is empty; give one, or leave it out")


def identity(request: api.CreateTask, version: Version, request_id: str, context: Any) -> tuple[str, bool]:
    """The task's id, and whether a second task of the same content is a conflict (semantics §3)."""
    ref = version.plan.ref
    if request.idempotency_key:
        return identity_task_id(ref.namespace, ref.name, f"key:{request.idempotency_key}"), False
    if version.identity_strategy == "caller_provided":
        raise ApiError(
            "VALIDATION_FAILED",
            f"template {ref.namespace}/{ref.name} takes its identity from the caller: give an idempotency_key",
        )
    if version.identity_strategy == "strict":
        content = content_json(context).decode()
        return identity_task_id(ref.namespace, ref.name, f"strict:{ref.version}:{content}"), True
    return request_id, False


def request_digest(request: api.CreateTask, version: Version, context: Any) -> str:
    """What must be equal for two requests with one key to be the same request."""
    return json_digest(
        content_json(
            [
                version.plan.ref.hash if request.version else [request.namespace, request.name],
                context,
                request.priority,
                request.start_at,
                sorted(request.tags),
            ]
        )
    )


def check_context(raw: msgspec.Raw) -> Any:
    """A task's context as a plain object; raises `ApiError` where it is none, or too large."""
    size = len(memoryview(raw))
    if size > CONTEXT_BYTES_MAX:
        raise ApiError(
            "VALIDATION_FAILED",
            f"context: {size} bytes, {CONTEXT_BYTES_MAX} at most; keep large data elsewhere and pass a reference",
        )
    try:
        # Read to the end, not only skipped over: what a worker could not read must not get in.
        context = msgspec.json.decode(json_text(raw))
    except (MessageError, msgspec.MsgspecError, RecursionError) as error:
        raise ApiError("BAD_REQUEST", f"context: {error}") from None
    if not isinstance(context, dict):
        raise ApiError("VALIDATION_FAILED", "context: expected an object")
    return context


def check_moment(field: str, text: str | None, latest_ms: int) -> None:
    """Raise `ApiError` unless the text, where there is one, is a moment with its zone, and no later than that."""
    if text is None:
        return
    try:
        at_ms = parse_timestamp(text)
    except (ValueError, OverflowError) as error:
        raise ApiError("VALIDATION_FAILED", f"{field}: {error}") from None
    if not 0 <= at_ms <= latest_ms:
        raise ApiError("VALIDATION_FAILED", f"{field}: {text} is out of range")
