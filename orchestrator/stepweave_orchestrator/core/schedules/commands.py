"""What may be asked of a schedule, besides a `Wake`; also what one orchestrator sends another."""

from __future__ import annotations

from typing import Final

from stepweave_orchestrator.core.commands import StreamCommand
from stepweave_schemas.schedule import ScheduleSpec

#: Firings that one backfill may have, and backfills of a schedule at the same time.
BACKFILL_FIRINGS_MAX: Final = 10_000
BACKFILLS_MAX: Final = 10
BACKFILL_CONCURRENCY_MAX: Final = 100


class ScheduleCommand(StreamCommand, frozen=True, kw_only=True, tag_field="command"):
    """Base: who asks."""

    by: str = ""


class CreateSchedule(ScheduleCommand, frozen=True, kw_only=True, tag="create"):
    """Begin a schedule, or with `replace` give it other settings. The settings were checked before."""

    namespace: str
    name: str
    spec: ScheduleSpec
    replace: bool = False


class PauseSchedule(ScheduleCommand, frozen=True, kw_only=True, tag="pause"):
    """Fire no more until it is resumed."""

    note: str = ""


class ResumeSchedule(ScheduleCommand, frozen=True, kw_only=True, tag="resume"):
    """Fire again, from now on."""

    note: str = ""


class TriggerSchedule(ScheduleCommand, frozen=True, kw_only=True, tag="trigger"):
    """Fire once now."""

    #: The same one again is the same firing.
    request_id: str
    #: Also where the overlap policy would not let it.
    allow_overlap: bool = False


class BackfillSchedule(ScheduleCommand, frozen=True, kw_only=True, tag="backfill"):
    """Make up for the firings of a range."""

    request_id: str
    from_ms: int
    until_ms: int
    concurrency: int = 1


class DeleteSchedule(ScheduleCommand, frozen=True, kw_only=True, tag="delete"):
    """End the schedule; its tasks go on."""

    reason: str = ""


AnyScheduleCommand = (
    CreateSchedule | PauseSchedule | ResumeSchedule | TriggerSchedule | BackfillSchedule | DeleteSchedule
)


class TaskNotice(StreamCommand, frozen=True, kw_only=True):
    """What became of a task of the schedule (`ScheduleNotice`)."""

    task_id: str
    status: str
    error_code: str | None = None
    error_message: str = ""
