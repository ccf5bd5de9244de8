"""Requests of the client: checked and made whole before they leave."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from stepweave_schemas import api
from stepweave_schemas.api import CREATE_MANY_MAX
from stepweave_schemas.codec import encode
from stepweave_schemas.mint import uuid7

from .api_errors import BadRequest
from .encoding import NotJson, encode_json
from .tracing import current_traceparent

_CREATE_FIELDS: Final = frozenset(api.CreateTask.__struct_fields__)


def checked_id(task_id: str) -> str:
    """A task id that may stand in a subject; raises `BadRequest`."""
    if not task_id or not all(one.isalnum() or one in "-_" for one in task_id):
        raise BadRequest("INVALID_UUID", f"{task_id!r} is no task id")
    return task_id


def create_request(fields: dict[str, Any]) -> api.CreateTask:
    """The request for a task from the arguments of `Client.create_task`; raises `BadRequest`.

    Its id is minted here, once: a request that is repeated after a time-out is the same task.
    """
    unknown = fields.keys() - _CREATE_FIELDS
    if unknown:
        raise BadRequest(
            "BAD_REQUEST",
            f"a task has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(_CREATE_FIELDS))}",
        )
    if not fields.get("name"):
        raise BadRequest("BAD_REQUEST", "a task needs the name of its template")
    try:
        context = encode_json({} if fields.get("context") is None else fields["context"], "context")
        options = encode_json(fields.get("options") or {}, "options")
    except NotJson as error:
        raise BadRequest("BAD_REQUEST", f"not JSON: {error}") from error
    for what, encoded in (("context", context), ("options", options)):
        if not encoded.startswith(b"{"):
            raise BadRequest("BAD_REQUEST", f"a task's {what} is an object")
    tags = fields.get("tags") or ()
    if isinstance(tags, str):
        raise BadRequest("BAD_REQUEST", f"tags is a list of texts, not the text {tags!r}")
    fields = {
        **fields,
        "context": msgspec.Raw(context),
        "options": msgspec.Raw(options),
        "tags": tuple(tags),
        "requested_at": moment_text(fields.get("requested_at"), "requested_at"),
        "start_at": moment_text(fields.get("start_at"), "start_at"),
        "task_id": fields.get("task_id") or uuid7(),
        "traceparent": fields.get("traceparent") or current_traceparent(),
    }
    try:
        return msgspec.convert(fields, api.CreateTask)
    except msgspec.ValidationError as error:
        raise BadRequest("BAD_REQUEST", f"a task's request is wrong: {error}") from error


def signal_request(
    task_id: str, name: str, payload: Any, *, signal_id: str | None, sent_by: str
) -> api.SignalTask:
    """The request for a signal from the arguments of `Client.signal`; raises `BadRequest`.

    Its id is minted here, once: a request that is repeated after a time-out is the same signal.
    """
    if not name:
        raise BadRequest("BAD_REQUEST", "a signal needs a name: that of the template's `wait_for_signal`")
    if signal_id == "":
        raise BadRequest("BAD_REQUEST", "signal_id: expected a text, or none at all")
    try:
        encoded = encode_json(payload, "payload")
    except NotJson as error:
        raise BadRequest("BAD_REQUEST", f"not JSON: {error}") from error
    fields = {
        "task_id": task_id,
        "signal": name,
        "payload": msgspec.Raw(encoded),
        "signal_id": uuid7() if signal_id is None else signal_id,
        "sent_by": sent_by,
    }
    try:
        return msgspec.convert(fields, api.SignalTask)
    except msgspec.ValidationError as error:
        raise BadRequest("BAD_REQUEST", f"a signal's request is wrong: {error}") from error


def fork_request(
    task_id: str,
    from_steps: str | Iterable[str],
    *,
    version: str | None,
    context: Any,
    fork_id: str | None,
    correlation_id: str | None,
    reason: str,
    forked_by: str,
    dry_run: bool,
) -> api.ForkTask:
    """The request for a fork from the arguments of `Client.fork_task`; raises `BadRequest`.

    Its id is minted here, once: a request that is repeated after a time-out is the same fork.
    """
    fields: dict[str, Any] = {
        "task_id": task_id,
        "from_steps": (from_steps,) if isinstance(from_steps, str) else tuple(from_steps),
        "version": version,
        "fork_id": uuid7() if fork_id is None else fork_id,
        "correlation_id": correlation_id,
        "reason": reason,
        "forked_by": forked_by,
        "dry_run": dry_run,
        "traceparent": current_traceparent(),
    }
    if context is not None:
        try:
            encoded = encode_json(context, "context")
        except NotJson as error:
            raise BadRequest("BAD_REQUEST", f"not JSON: {error}") from error
        if not encoded.startswith(b"{"):
            raise BadRequest("BAD_REQUEST", "a task's context is an object")
        fields["context"] = msgspec.Raw(encoded)
    try:
        return msgspec.convert(fields, api.ForkTask)
    except msgspec.ValidationError as error:
        raise BadRequest("BAD_REQUEST", f"a fork's request is wrong: {error}") from error


def moment_text(value: Any, what: str) -> str | None:
    """A moment as RFC 3339 text; raises `BadRequest` for one without a zone. Texts are left as they are."""
    if not isinstance(value, datetime):
        return value  # type: ignore[no-any-return]
    if value.tzinfo is None:
        raise BadRequest("BAD_REQUEST", f"{what} needs a time zone: {value.isoformat()}")
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def chunks_of(requests: list[api.CreateTask], bytes_max: int) -> list[list[api.CreateTask]]:
    """Requests in groups that fit into one message of `bytes_max`."""
    chunks: list[list[api.CreateTask]] = []
    size = bytes_max + 1
    for request in requests:
        more = len(encode(request)) + 1
        if size + more > bytes_max or len(chunks[-1]) >= CREATE_MANY_MAX:
            chunks.append([])
            size = 0
        chunks[-1].append(request)
        size += more
    return chunks


async def template_text(template: str | Path) -> tuple[str, str]:
    """A template's text, and what to call it in messages."""
    if isinstance(template, Path):
        return await asyncio.to_thread(template.read_text, "utf-8"), str(template)
    return template, "<request>"
