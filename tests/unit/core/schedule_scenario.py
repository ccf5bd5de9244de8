"""Scenarios of a schedule: what is asked of it, at which moment, and what follows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from stepweave_orchestrator.core import Moment, Rejection
from stepweave_orchestrator.core.commands import StreamCommand, Wake
from stepweave_orchestrator.core.schedules import commands
from stepweave_orchestrator.core.schedules.decide import decide
from stepweave_orchestrator.core.schedules.evolve import evolve
from stepweave_orchestrator.core.schedules.state import ScheduleState, initial
from stepweave_schemas import events
from stepweave_schemas.identity import schedule_stream_id
from stepweave_schemas.schedule import ScheduledTask, ScheduleSpec

SCHEDULE_ID: Final = schedule_stream_id("default", "reports")
MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


def at(text: str) -> int:
    """A moment from `2026-01-31 12:00` (UTC), in ms."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


T0: Final = at("2026-01-05 12:00:30")


def spec_of(**fields: Any) -> ScheduleSpec:
    """Settings; every minute unless said otherwise."""
    when: dict[str, Any] = {} if {"cron", "every_seconds", "at"} & fields.keys() else {"every_seconds": 60}
    task = fields.pop("task", ScheduledTask(name="report", namespace="jobs"))
    return ScheduleSpec(task=task, **when, **fields)


class Schedule:
    """A schedule that a test asks things, at moments that the test chooses."""

    def __init__(self, *, now_ms: int = T0, **fields: Any) -> None:
        self.now_ms = now_ms
        self.state = initial(SCHEDULE_ID)
        self.events: list[tuple[events.Event, int]] = []
        self.ask(create(**fields))

    def ask(self, command: StreamCommand | Wake) -> list[events.Event]:
        """What follows; it must not be refused."""
        decided = decide(self.state, command, Moment(self.now_ms, "0" * 32))
        assert not isinstance(decided, Rejection), decided
        for event in decided:
            evolve(self.state, event, self.now_ms)
            self.events.append((event, self.now_ms))
        return decided

    def refused(self, command: StreamCommand) -> str:
        """Why a command is refused."""
        decided = decide(self.state, command, Moment(self.now_ms, "0" * 32))
        assert isinstance(decided, Rejection), decided
        return decided.reason

    def wake(self, now_ms: int | None = None) -> list[events.Event]:
        """What follows at a moment, all of it."""
        if now_ms is not None:
            self.now_ms = now_ms
        found: list[events.Event] = []
        while decided := self.ask(Wake()):
            found += decided
        due_ms = self.state.next_wake_ms()
        assert due_ms is None or due_ms > self.now_ms, "a wake-up in the past that has no effect"
        return found

    def end(self, task_id: str | None = None, status: str = "complete", **fields: Any) -> list[events.Event]:
        """A task of the schedule has ended (default: the one that runs)."""
        if task_id is None:
            [task_id] = self.state.running
        return self.ask(commands.TaskNotice(task_id=task_id, status=status, **fields))

    def replayed(self) -> ScheduleState:
        """The state from the events alone."""
        state = initial(SCHEDULE_ID)
        for event, at_ms in self.events:
            evolve(state, event, at_ms)
        return state


def create(**fields: Any) -> commands.CreateSchedule:
    """Create the schedule, or replace its settings."""
    replace = fields.pop("replace", False)
    return commands.CreateSchedule(
        namespace="default", name="reports", spec=spec_of(**fields), replace=replace, by="ada"
    )


def trigger(request_id: str = "t1", **fields: Any) -> commands.TriggerSchedule:
    return commands.TriggerSchedule(request_id=request_id, by="bob", **fields)


def backfill(
    from_ms: int, until_ms: int, request_id: str = "b1", concurrency: int = 1
) -> commands.BackfillSchedule:
    return commands.BackfillSchedule(
        request_id=request_id, from_ms=from_ms, until_ms=until_ms, concurrency=concurrency
    )


def names(found: list[events.Event]) -> list[str]:
    """The types without their entity."""
    return [event.TYPE.partition(".")[2] for event in found]


def fired(found: list[events.Event]) -> list[int]:
    """The nominal moments of the firings among events."""
    return [event.nominal_at_ms for event in found if isinstance(event, events.ScheduleFired)]


def skipped(found: list[events.Event]) -> list[tuple[str, int]]:
    """Reason and count of each `schedule.skipped`."""
    return [(event.reason, event.count) for event in found if isinstance(event, events.ScheduleSkipped)]


def json_of(value: Any) -> Any:
    """A struct as plain values."""
    return msgspec.json.decode(msgspec.json.encode(value))
