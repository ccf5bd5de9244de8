"""A request to fork a task, checked where it enters, and the event that it leads to."""

from __future__ import annotations

from typing import Final

import msgspec

from stepweave_orchestrator.runtime.templates import Version
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.events import ForkOrigin, TaskCreated
from stepweave_schemas.identity import content_digest

from .creation import check_text

#: The `version` that stands for the highest one.
LATEST: Final = "latest"
#: Steps named in one request, and the characters of a step's name.
FROM_STEPS_MAX: Final = 100
STEP_NAME_CHARS_MAX: Final = 255


def check_fork(request: api.ForkTask) -> None:
    """Raise `ApiError` for whatever is out of bounds."""
    check_text(request, "version", "correlation_id", "reason", "forked_by", "traceparent")
    if request.fork_id == request.task_id:
        raise ApiError("BAD_REQUEST", "fork_id: this is the original's id; a fork has one of its own")
    if len(request.from_steps) > FROM_STEPS_MAX or any(
        not 0 < len(name) <= STEP_NAME_CHARS_MAX or "\x00" in name for name in request.from_steps
    ):
        raise ApiError(
            "VALIDATION_FAILED",
            f"from_steps: {FROM_STEPS_MAX} at most, each the name of a step; what depends on one runs anew too",
        )


def fork_created(
    request: api.ForkTask, fork_id: str, original: TaskCreated, version: Version, context: msgspec.Raw
) -> TaskCreated:
    """The first event of a fork; the version of the original at which it is taken is not known yet.

    Priority and tags are the original's. It has no identity but its id, so that it never stands in the way of a request
    with the original's key or content; and it is no child, whatever the original is.
    """
    from_steps = tuple(dict.fromkeys(request.from_steps))
    return TaskCreated(
        template=version.plan.ref,
        context=context,
        request_digest=_digest(request, from_steps),
        request_id=fork_id,
        initiator=request.forked_by,
        source_system=original.source_system,
        reason=request.reason,
        tags=original.tags,
        priority=original.priority,
        parent_correlation_id=original.parent_correlation_id,
        traceparent=request.traceparent,
        forked_from=ForkOrigin(task_id=request.task_id, stream_version=0, from_steps=from_steps),
    )


def _digest(request: api.ForkTask, from_steps: tuple[str, ...]) -> str:
    """What must be equal for two requests with one fork id to be the same request."""
    context = msgspec.json.decode(request.context) if bytes(request.context) else None
    return content_digest(["fork", request.task_id, sorted(from_steps), request.version, context])
