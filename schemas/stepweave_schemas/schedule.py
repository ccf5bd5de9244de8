"""What a schedule is told: when it fires, what it starts, and what happens where firings meet.

Pure shapes: events hold them, requests have them with unknown fields refused. What is wrong with the values is found in
`stepweave_orchestrator.core.schedules.timing`.
"""

from __future__ import annotations

from typing import Final

import msgspec

_EMPTY_OBJECT = msgspec.Raw(b"{}")

#: What happens to a firing while a task of the schedule runs.
OVERLAP_POLICIES: Final = ("skip", "buffer_one", "allow", "cancel_running")
#: Missed firings are made up for within so long, where the schedule does not say.
CATCH_UP_SECONDS_DEFAULT: Final = 86_400


class Timing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a schedule fires: exactly one of `cron`, `every_seconds` and `at`."""

    #: Five fields (minute hour day month weekday), six with seconds in front, or `@daily` and the like.
    cron: str | None = None
    #: An interval in seconds, counted from `anchor`.
    every_seconds: int | None = None
    #: RFC 3339 with a zone: once.
    at: str | None = None
    #: RFC 3339: a moment at which an interval fires; absent: midnight UTC of 1 January 1970.
    anchor: str | None = None
    #: IANA name: the clock that `cron` reads, and that local times are shown in.
    time_zone: str = "UTC"
    #: RFC 3339: no firing is earlier.
    starts_at: str | None = None
    #: RFC 3339: every firing is earlier.
    ends_at: str | None = None
    #: Each firing is late by up to so many seconds, always the same for the same firing.
    jitter_seconds: int = 0


class ScheduledTask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The task that a firing starts."""

    name: str
    namespace: str = "default"
    #: Absent: the highest at that moment.
    version: str | None = None
    #: Texts in it may hold `${schedule.date}` and the like.
    context: msgspec.Raw = _EMPTY_OBJECT
    #: May hold them too.
    tags: tuple[str, ...] = ()
    priority: int = 0


class ScheduleSpec(Timing, frozen=True, kw_only=True, omit_defaults=True):
    """All that makes a schedule what it is."""

    task: ScheduledTask
    #: `skip`, `buffer_one`, `allow` or `cancel_running`.
    overlap: str = "skip"
    #: Firings that nobody was there for are made up for where they are no older than this.
    catch_up_seconds: int = CATCH_UP_SECONDS_DEFAULT
    description: str = ""


class ClosedTiming(Timing, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A timing as a request has it: an unknown field is refused."""


class ClosedTask(ScheduledTask, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A task as a request has it: an unknown field is refused."""


class ClosedSpec(ScheduleSpec, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A schedule's settings as a request has them: an unknown field is refused."""

    task: ClosedTask
