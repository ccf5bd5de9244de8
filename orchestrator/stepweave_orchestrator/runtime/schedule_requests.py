"""What the owner of a schedule's shard answers: what may be asked of it, and how it stands."""

from __future__ import annotations

import msgspec

from stepweave_orchestrator.core.rejection import Rejection
from stepweave_orchestrator.core.schedules.commands import (
    AnyScheduleCommand,
    BackfillSchedule,
    CreateSchedule,
    TriggerSchedule,
)
from stepweave_orchestrator.core.schedules.state import ScheduleState
from stepweave_orchestrator.core.schedules.view import schedule_response
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode
from stepweave_schemas.mint import now_ms

from .actors import Actor, StreamActor
from .schedule_kind import SCHEDULE
from .work import Ending, Query, Work


class Asked(msgspec.Struct, frozen=True):
    """How the owner answers: `changed`, and the schedule (`api.ScheduleResponse`) where it still exists."""

    changed: bool
    schedule: msgspec.Raw


def schedule_work(schedule_id: str, shard: int, command: AnyScheduleCommand, correlation_id: str) -> Work:
    """The command as work for the owner's loop."""
    request_id = command.request_id if isinstance(command, TriggerSchedule | BackfillSchedule) else ""
    name = str(command.__struct_config__.tag)
    return Work(
        stream_id=schedule_id,
        shard=shard,
        command=command,
        causation_id=f"{name}:{request_id}" if request_id else name,
        correlation_id=correlation_id,
        actor_name=f"api:{command.by}" if command.by else "api",
        finish=lambda _: None,
        seed=SCHEDULE if isinstance(command, CreateSchedule) else None,
    )


def schedule_query(schedule_id: str, shard: int) -> Work:
    """The question how a schedule stands."""
    return Work(
        stream_id=schedule_id,
        shard=shard,
        command=Query(_answer),
        causation_id="",
        actor_name="",
        finish=lambda _: None,
    )


def refusal_of(ending: Ending, schedule: str) -> ApiError | None:
    """Why a schedule refused a command or question, for the caller; `None` where it did not."""
    if not isinstance(ending, Rejection):
        return None
    if ending.code == "NOT_FOUND":
        return no_schedule(schedule)
    return ApiError("CONFLICT", f"schedule {schedule}: {ending.reason}")


def no_schedule(schedule: str) -> ApiError:
    """There is none of that name."""
    return ApiError(
        "NOT_FOUND", f"there is no schedule {schedule}; `stepweave schedule list` shows those there are"
    )


def asked(changed: bool, answer: bytes) -> bytes:
    """The owner's answer."""
    return encode(Asked(changed, msgspec.Raw(answer)))


def _answer(actor: Actor) -> bytes:
    if not isinstance(actor, StreamActor) or not isinstance(actor.state, ScheduleState):
        return b"null"
    return encode(schedule_response(actor.state, now_ms())) if actor.state.exists else b"null"
