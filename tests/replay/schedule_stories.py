"""Stories of schedules, for `stream_history`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.unit.core.schedule_scenario import (
    DAY,
    MINUTE,
    SCHEDULE_ID,
    Schedule,
    at,
    backfill,
    create,
    trigger,
)

from stepweave_orchestrator.core.schedules import commands

from .stream_history import Told

#: By name: the kind, what it is about, and the story.
STREAM_STORIES: Final[dict[str, tuple[str, str, Callable[[], tuple[str, Told]]]]] = {}
FIRST: Final = at("2026-01-05 12:01")


def told(name: str, about: str) -> Callable[[Callable[[], Schedule]], Callable[[], Schedule]]:
    """A decorator that makes a story known."""

    def keep(story: Callable[[], Schedule]) -> Callable[[], Schedule]:
        STREAM_STORIES[name] = ("schedule", about, lambda: (SCHEDULE_ID, story().events))
        return story

    return keep


@told("life", "fires, is paused, resumed, replaced and deleted, and made anew")
def _life() -> Schedule:
    one = Schedule(overlap="buffer_one", jitter_seconds=5)
    one.wake(FIRST + 5_000)
    one.wake(FIRST + MINUTE + 5_000)
    one.wake(FIRST + 2 * MINUTE + 5_000)
    one.end(status="error", error_code="BOOM", error_message="no")
    one.ask(commands.PauseSchedule(note="stock-taking", by="ada"))
    one.end(status="refused", error_code="SCHEDULED_TEMPLATE_NOT_FOUND", error_message="there is no template")
    one.now_ms += 10 * MINUTE
    one.ask(commands.ResumeSchedule(note="done", by="ada"))
    one.ask(create(cron="0 6 * * *", time_zone="Europe/Berlin", replace=True))
    one.ask(commands.DeleteSchedule(reason="moved", by="ada"))
    one.now_ms += DAY
    one.ask(create(at="2026-02-01T00:00:00Z"))
    one.wake(at("2026-02-01 00:00"))
    one.end(status="blocked_by_failures", error_message="step a failed")
    return one


@told("overlap", "the running task is cancelled for the next firing, by the clock and by hand")
def _overlap() -> Schedule:
    one = Schedule(overlap="cancel_running")
    one.wake(FIRST)
    [first] = one.state.running
    one.wake(FIRST + MINUTE)
    one.ask(trigger())
    one.end(first, "cancelled")
    one.end()
    one.wake(FIRST + 10 * MINUTE)
    return one


@told("outage", "a long outage: what is too old is counted, the rest is made up for")
def _outage() -> Schedule:
    one = Schedule(overlap="allow", catch_up_seconds=120)
    one.wake(FIRST + 1_000 * MINUTE)
    one.end(next(iter(one.state.running)))
    return one


@told("backfill", "a range in the past, two at a time")
def _backfill() -> Schedule:
    one = Schedule(cron="0 0 * * *")
    start = at("2025-12-01 00:00")
    one.ask(backfill(start, start + 3 * DAY, concurrency=2))
    while one.state.running:
        one.end(next(iter(one.state.running)))
    return one
