"""What the owner of a bulk operation's shard answers, and the owner of a task whether it would take an action."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from stepweave_orchestrator.core.allowed import why_not
from stepweave_orchestrator.core.bulks.commands import AnyBulkCommand, RequestBulk
from stepweave_orchestrator.core.bulks.state import BulkState
from stepweave_orchestrator.core.bulks.view import bulk_response
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode

from .actors import Actor, StreamActor, TaskActor
from .bulk_kind import BULK
from .work import Ending, Query, Work


class AskedBulk(msgspec.Struct, frozen=True):
    """How the owner answers: `changed`, and the operation (`api.BulkResponse`)."""

    changed: bool
    bulk: msgspec.Raw


class WouldTake(msgspec.Struct, frozen=True):
    """How a task stands, and why it would refuse an action; `None` where it would not."""

    status: str
    refusal: str | None = None


def bulk_work(stream_id: str, shard: int, command: AnyBulkCommand) -> Work:
    """The command as work for the owner's loop."""
    name = str(command.__struct_config__.tag)
    begins = isinstance(command, RequestBulk)
    return Work(
        stream_id=stream_id,
        shard=shard,
        command=command,
        causation_id=f"bulk:{command.bulk_id}" if isinstance(command, RequestBulk) else name,
        correlation_id=stream_id,
        actor_name=f"api:{command.by}" if command.by else "api",
        finish=lambda _: None,
        seed=BULK if begins else None,
    )


def bulk_query(stream_id: str, shard: int) -> Work:
    """The question how a bulk operation stands."""
    return Work(
        stream_id=stream_id,
        shard=shard,
        command=Query(_answer),
        causation_id="",
        actor_name="",
        finish=lambda _: None,
    )


def refusal_of_bulk(ending: Ending) -> ApiError | None:
    """Why a bulk operation refused a command or question; `None` where it did not."""
    if not isinstance(ending, Rejection):
        return None
    if ending.code == "NOT_FOUND":
        return ApiError(
            "NOT_FOUND",
            "there is no bulk operation of this id; `stepweave bulk list` shows those there are",
        )
    return ApiError("CONFLICT", ending.reason)


def asked_bulk(changed: bool, answer: bytes) -> bytes:
    """The owner's answer."""
    return encode(AskedBulk(changed, msgspec.Raw(answer)))


def would_take(action: str) -> Callable[[Actor], bytes]:
    """The question to a task whether it would take an action, of `allowed.TASK_ACTIONS`."""

    def answer(actor: Actor) -> bytes:
        if not isinstance(actor, TaskActor):
            return encode(ApiError("NOT_FOUND", "the id is not that of a task").body())
        return encode(WouldTake(actor.state.status, why_not(actor.state, action)))

    return answer


def _answer(actor: Actor) -> bytes:
    assert isinstance(actor, StreamActor) and isinstance(actor.state, BulkState)
    return encode(bulk_response(actor.state))
