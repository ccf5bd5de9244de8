"""Schedules: tasks that start by the clock."""

from __future__ import annotations

import msgspec

from stepweave_schemas.schedule import ClosedSpec, ClosedTiming, ScheduleSpec

from .request import Request


class CreateSchedule(Request, frozen=True, kw_only=True):
    """`schedule.create`: the same settings again are a no-op. Answer: `ScheduleReply`."""

    name: str
    namespace: str = "default"
    spec: ClosedSpec
    #: Give an existing schedule these settings, instead of refusing.
    replace: bool = False
    created_by: str = ""


class GetSchedule(Request, frozen=True, kw_only=True):
    """`schedule.get`. Answer: `ScheduleResponse`."""

    name: str
    namespace: str = "default"


class GetScheduleEvents(Request, frozen=True, kw_only=True):
    """`schedule.events`: what has happened to a schedule, also to a deleted one. Answer: `ScheduleEventsReply`."""

    name: str
    namespace: str = "default"
    #: Only events before this version; absent: the newest.
    before_version: int | None = None
    #: 1..1000; fewer come back where they would not fit into one message.
    limit: int = 50


class ListSchedules(Request, frozen=True, kw_only=True):
    """`schedule.list`: ordered by namespace and name. Answer: `SchedulePage`."""

    namespace: str | None = None
    #: `active`, `paused`, `finished`.
    status: tuple[str, ...] = ()
    #: 1..200.
    limit: int = 50
    offset: int = 0


class PauseSchedule(Request, frozen=True, kw_only=True):
    """`schedule.pause`. Answer: `ScheduleResponse`."""

    name: str
    namespace: str = "default"
    note: str = ""
    paused_by: str = ""


class ResumeSchedule(Request, frozen=True, kw_only=True):
    """`schedule.resume`. Answer: `ScheduleResponse`."""

    name: str
    namespace: str = "default"
    note: str = ""
    resumed_by: str = ""


class TriggerSchedule(Request, frozen=True, kw_only=True):
    """`schedule.trigger`: fire once now. Answer: `TriggerReply`."""

    name: str
    namespace: str = "default"
    #: Also where the overlap policy would not let it.
    allow_overlap: bool = False
    #: The caller's own id of it: the same one again is the same firing.
    trigger_id: str | None = None
    triggered_by: str = ""


class BackfillSchedule(Request, frozen=True, kw_only=True):
    """`schedule.backfill`: make up for the firings of a range in the past, in order. Answer: `BackfillReply`."""

    name: str
    namespace: str = "default"
    #: RFC 3339; a firing at this moment is one of them.
    from_at: str
    #: RFC 3339; a firing at this moment is not. Absent: now.
    until_at: str | None = None
    #: How many tasks of it may run at once, 1..100.
    concurrency: int = 1
    #: Only say how many firings there are.
    dry_run: bool = False
    #: The caller's own id of it: the same one again is the same backfill.
    backfill_id: str | None = None
    requested_by: str = ""


class DeleteSchedule(Request, frozen=True, kw_only=True):
    """`schedule.delete`: its tasks go on. Answer: `DeletedReply`."""

    name: str
    namespace: str = "default"
    reason: str = ""
    deleted_by: str = ""


class PreviewSchedule(Request, frozen=True, kw_only=True):
    """`schedule.preview`: when a timing would fire, without any schedule. Answer: `PreviewReply`."""

    timing: ClosedTiming
    #: 1..100.
    count: int = 10
    #: RFC 3339; the firings later than this. Absent: now.
    after: str | None = None


class FiringTime(msgspec.Struct, frozen=True, kw_only=True):
    """A firing ahead."""

    #: UTC.
    at: str
    #: The same moment by the schedule's clock.
    local: str
    #: When it is carried out, where jitter makes that later; UTC.
    due_at: str | None = None


class ScheduledRun(msgspec.Struct, frozen=True, kw_only=True):
    """A firing and its task."""

    task_uuid: str
    #: The moment that the firing stands for.
    at: str
    #: `regular`, `manual` or `backfill`.
    cause: str
    #: `waiting`, `running`, how the task has ended, or `failed` where it could not be created.
    status: str
    #: What the caller named a manual firing; the backfill that it belongs to.
    request_id: str = ""
    fired_at: str | None = None
    ended_at: str | None = None
    error_code: str | None = None
    error_message: str | None = None


class BackfillView(msgspec.Struct, frozen=True, kw_only=True):
    """A backfill that is worked off."""

    backfill_id: str
    from_at: str
    until_at: str
    count: int
    fired_count: int
    concurrency: int


class ScheduleResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as callers see it."""

    schedule_id: str
    namespace: str
    name: str
    #: `active`, `paused` or `finished`.
    status: str
    spec: ScheduleSpec
    created_at: str
    created_by: str
    updated_at: str
    paused_at: str | None
    paused_by: str
    #: Of the last pause or resumption.
    note: str
    #: The next ten; of a paused schedule those that there were if it was resumed now.
    next_firings: tuple[FiringTime, ...]
    #: Its tasks that have not ended; the first ten.
    running: tuple[ScheduledRun, ...]
    running_count: int
    #: The firing that waits for them.
    waiting: ScheduledRun | None
    backfills: tuple[BackfillView, ...]
    #: The last twenty firings, the newest first.
    runs: tuple[ScheduledRun, ...]
    fired_count: int
    skipped_count: int
    failed_count: int
    #: The version of the schedule's stream that this shows.
    stream_version: int
    #: Why it does not fire as its settings say, and what to do; empty where it does.
    problem: str = ""


class ScheduleReply(msgspec.Struct, frozen=True, kw_only=True):
    """`created` and `updated` tell what this request did; neither: it was so already."""

    schedule: ScheduleResponse
    created: bool = False
    updated: bool = False


class TriggerReply(msgspec.Struct, frozen=True, kw_only=True):
    """The firing; `replayed` tells that the same trigger had come before."""

    schedule: ScheduleResponse
    trigger_id: str
    #: Absent where it is too long ago.
    run: ScheduledRun | None = None
    replayed: bool = False


class BackfillReply(msgspec.Struct, frozen=True, kw_only=True):
    """How many firings the range has, and the first of them."""

    count: int
    first: tuple[FiringTime, ...]
    #: Absent after a dry run.
    backfill_id: str | None = None
    replayed: bool = False


class DeletedReply(msgspec.Struct, frozen=True, kw_only=True):
    """The schedule is gone."""

    schedule_id: str
    #: Tasks of it that go on.
    running_count: int


class PreviewReply(msgspec.Struct, frozen=True, kw_only=True):
    """The firings ahead; fewer than asked for where no more are left."""

    firings: tuple[FiringTime, ...]


class ScheduleEventsReply(msgspec.Struct, frozen=True, kw_only=True):
    """Envelopes in order of version; there are earlier ones where the first is not version 1."""

    events: tuple[msgspec.Raw, ...]


class ScheduleListItem(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a list of schedules; a moment behind the schedule's own state."""

    schedule_id: str
    namespace: str
    name: str
    status: str
    #: The timing in a few words.
    when: str
    template: str
    next_at: str | None = None
    last_at: str | None = None
    last_status: str | None = None
    running_count: int = 0


class SchedulePage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `schedule.list`; `next_offset` is `None` on the last page."""

    schedules: tuple[ScheduleListItem, ...]
    next_offset: int | None = None
