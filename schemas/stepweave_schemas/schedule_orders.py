"""What schedules and tasks order of each other: durable commands on `sw.cmd.<shard>.<id>`.

They come after the event that orders them is committed, and may come again: the task's id follows from the schedule
and the moment, so the same firing is the same task; a notice says what is so, not what changes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .child import TaskOrder
from .events import ScheduleLink


class StartScheduled(TaskOrder, frozen=True, kw_only=True, tag="start_scheduled"):
    """Begin the task of a firing. Its owner answers with a `ScheduleNotice` when it ends, or why it cannot begin."""

    namespace: str
    name: str
    version: str | None = None
    context: msgspec.Raw
    tags: tuple[str, ...] = ()
    priority: int = 0
    initiator: str
    reason: str
    #: RFC 3339: the moment that the firing stands for.
    requested_at: str
    schedule: ScheduleLink
    #: Tells firings of the same moment apart: each gets an answer.
    firing_number: int = 0


class CancelScheduled(TaskOrder, frozen=True, kw_only=True, tag="cancel_scheduled"):
    """Cancel a task because its schedule starts the next one."""

    cancelled_by: str
    reason: str


class ScheduleNotice(TaskOrder, frozen=True, kw_only=True, tag="schedule_notice"):
    """To a schedule (`task_id` is its stream): what became of a task that it wanted."""

    about_task_id: str
    #: `refused`: there is no such task, and `message` says why.
    status: Literal["complete", "error", "cancelled", "resolved_manually", "blocked_by_failures", "refused"]
    error_code: str | None = None
    error_message: str = ""


ScheduleOrder = StartScheduled | CancelScheduled | ScheduleNotice
