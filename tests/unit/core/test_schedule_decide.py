"""What a schedule does: firings, overlap, pauses, outages, manual firings, backfills, tasks that cannot begin."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core.schedules import commands, orders
from stepweave_orchestrator.core.schedules.decide import FIRINGS_PER_DECISION_MAX, GRACE_MS
from stepweave_orchestrator.core.schedules.references import unknown_references
from stepweave_orchestrator.core.schedules.state import RUNNING_TASKS_MAX
from stepweave_orchestrator.core.schedules.view import schedule_response
from stepweave_schemas import events
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.schedule import ScheduledTask

from .schedule_scenario import (
    DAY,
    HOUR,
    MINUTE,
    T0,
    Schedule,
    at,
    backfill,
    create,
    fired,
    names,
    skipped,
    trigger,
)

FIRST = at("2026-01-05 12:01")


def test_it_fires_when_it_is_due_and_not_before() -> None:
    one = Schedule()
    assert one.state.next_wake_ms() == FIRST
    assert one.wake(FIRST - 1) == []
    [event] = one.wake(FIRST)
    assert isinstance(event, events.ScheduleFired)
    assert (event.nominal_at_ms, event.next_at_ms, event.cause) == (FIRST, FIRST + MINUTE, "regular")
    assert names(one.end()) == ["task_ended"]
    assert one.state.running == {}
    assert one.state.runs[-1].status == "complete"


def test_once_is_once() -> None:
    one = Schedule(at="2026-01-05T12:01:00Z")
    assert fired(one.wake(FIRST + 5)) == [FIRST]
    assert one.state.status == "active"
    one.end()
    assert (one.state.status, one.state.next_wake_ms()) == ("finished", None)


def test_jitter_makes_it_late_by_the_same_every_time() -> None:
    one = Schedule(jitter_seconds=30, overlap="allow")
    due = one.state.next_wake_ms()
    assert due is not None
    assert FIRST < due <= FIRST + 30_000
    assert one.wake(due - 1) == []
    assert fired(one.wake(due)) == [FIRST]


# -- overlap -------------------------------------------------------------------------------------


def test_skip() -> None:
    one = Schedule()
    one.wake(FIRST)
    assert skipped(one.wake(FIRST + MINUTE)) == [("overlap", 1)]
    one.end()
    assert fired(one.wake(FIRST + 2 * MINUTE)) == [FIRST + 2 * MINUTE]


def test_buffer_one() -> None:
    one = Schedule(overlap="buffer_one")
    one.wake(FIRST)
    assert names(one.wake(FIRST + MINUTE)) == ["deferred"]
    assert skipped(one.wake(FIRST + 2 * MINUTE)) == [("overlap", 1)]
    found = one.end()
    assert fired(found) == [FIRST + MINUTE]
    assert one.state.waiting is None
    # The next moment is still the next one.
    assert one.state.next_at_ms == FIRST + 3 * MINUTE


def test_allow() -> None:
    one = Schedule(overlap="allow")
    assert fired(one.wake(FIRST + 2 * MINUTE)) == [FIRST, FIRST + MINUTE, FIRST + 2 * MINUTE]
    assert len(one.state.running) == 3


def test_allow_stops_at_the_most_tasks_there_may_be_and_goes_on_when_one_ends() -> None:
    one = Schedule(overlap="allow")
    assert len(fired(one.wake(FIRST + (RUNNING_TASKS_MAX + 50) * MINUTE))) == RUNNING_TASKS_MAX
    assert one.state.next_wake_ms() is None
    assert "which is the most there may" in one.refused(trigger(allow_overlap=True))
    first = next(iter(one.state.running))
    assert fired(one.end(first)) == [FIRST + RUNNING_TASKS_MAX * MINUTE]


def test_cancel_running() -> None:
    one = Schedule(overlap="cancel_running")
    one.wake(FIRST)
    [first] = one.state.running
    assert names(one.wake(FIRST + MINUTE)) == ["deferred", "task_cancel_requested"]
    # A later one takes the place of the one that waits; the order to cancel was given.
    assert names(one.wake(FIRST + 2 * MINUTE)) == ["skipped", "deferred"]
    assert one.state.skipped_count == 1
    assert fired(one.end(first, "cancelled")) == [FIRST + 2 * MINUTE]
    # Of many that are due only the newest counts.
    assert skipped(one.wake(FIRST + 10 * MINUTE)) == [("overtaken", 7)]


@pytest.mark.parametrize("policy", ["skip", "buffer_one", "cancel_running"])
@pytest.mark.parametrize(
    "status", ["complete", "error", "cancelled", "resolved_manually", "blocked_by_failures"]
)
def test_however_a_task_ends_the_next_may_begin(policy: str, status: str) -> None:
    one = Schedule(overlap=policy)
    one.wake(FIRST)
    one.end(status=status)
    assert fired(one.wake(FIRST + MINUTE)) == [FIRST + MINUTE]


def test_a_blocked_task_that_is_resolved_later_is_shown_so() -> None:
    one = Schedule()
    one.wake(FIRST)
    [task_id] = one.state.running
    one.end(status="blocked_by_failures")
    assert one.end(task_id, "blocked_by_failures") == []
    assert names(one.end(task_id, "complete")) == ["task_ended"]
    assert one.state.runs[-1].status == "complete"
    assert one.end(task_id, "complete") == []


# -- outages, pauses, clocks ---------------------------------------------------------------------


def test_missed_firings_within_the_window_are_made_up_for_in_order() -> None:
    one = Schedule(overlap="allow", catch_up_seconds=180)
    now = FIRST + 100_000 * MINUTE
    found = one.wake(now)
    assert skipped(found) == [("missed", 99_997)]
    assert fired(found) == [now - 3 * MINUTE, now - 2 * MINUTE, now - MINUTE, now]


def test_without_a_window_a_firing_may_still_be_a_little_late() -> None:
    """No wake-up comes on the millisecond; what an outage has cost stays lost."""
    one = Schedule(overlap="allow", catch_up_seconds=0)
    assert fired(one.wake(FIRST + 5)) == [FIRST]
    assert fired(one.wake(FIRST + MINUTE + GRACE_MS)) == [FIRST + MINUTE]
    found = one.wake(FIRST + 3 * MINUTE + GRACE_MS + 1)
    assert (skipped(found), fired(found)) == ([("missed", 2)], [])


@pytest.mark.parametrize("policy", ["skip", "buffer_one", "cancel_running"])
def test_a_long_outage_costs_few_events(policy: str) -> None:
    one = Schedule(cron="* * * * * *", overlap=policy, catch_up_seconds=7 * 86_400)
    found = one.wake(T0 + 30 * DAY)
    assert len(found) <= 4
    assert len(fired(found)) == 1
    waiting = one.state.waiting is not None
    assert one.state.fired_count + one.state.skipped_count + waiting == 30 * 86_400


def test_what_is_due_comes_in_portions() -> None:
    one = Schedule(overlap="allow")
    one.now_ms = FIRST + 250 * MINUTE
    assert len(one.ask(commands.TaskNotice(task_id="x", status="complete"))) == FIRINGS_PER_DECISION_MAX
    assert one.state.next_wake_ms() == FIRST + FIRINGS_PER_DECISION_MAX * MINUTE


def test_a_pause_over_several_firings() -> None:
    one = Schedule(overlap="buffer_one")
    one.wake(FIRST)
    one.wake(FIRST + MINUTE)
    found = one.ask(commands.PauseSchedule(note="stock-taking", by="ada"))
    assert skipped(found) == [("paused", 1)]
    assert one.state.next_wake_ms() is None
    assert one.ask(commands.PauseSchedule()) == []
    assert names(one.end()) == ["task_ended"]
    assert one.wake(FIRST + 10 * MINUTE) == []
    found = one.ask(commands.ResumeSchedule(note="done"))
    assert skipped(found) == [("paused", 9)]
    assert one.state.next_at_ms == FIRST + 11 * MINUTE
    assert one.ask(commands.ResumeSchedule()) == []
    assert fired(one.wake(FIRST + 11 * MINUTE)) == [FIRST + 11 * MINUTE]


def test_a_short_pause_skips_nothing() -> None:
    one = Schedule()
    one.ask(commands.PauseSchedule())
    assert names(one.ask(commands.ResumeSchedule())) == ["resumed"]
    assert fired(one.wake(FIRST)) == [FIRST]


def test_a_clock_that_jumps_back_and_forth_fires_nothing_twice() -> None:
    one = Schedule(overlap="allow")
    seen = fired(one.wake(FIRST + 2 * MINUTE))
    for now in (FIRST, FIRST - DAY, FIRST + 2 * MINUTE, FIRST + MINUTE, FIRST + 3 * MINUTE, T0):
        seen += fired(one.wake(now))
    assert seen == [FIRST + minute * MINUTE for minute in range(4)]


# -- manual firings ------------------------------------------------------------------------------


def test_a_manual_firing_starts_a_task_of_its_own_once() -> None:
    one = Schedule()
    assert fired(one.ask(trigger())) == [T0]
    assert one.ask(trigger()) == []
    assert one.state.next_at_ms == FIRST
    assert "its overlap policy is skip" in one.refused(trigger("t2"))
    assert fired(one.ask(trigger("t2", allow_overlap=True))) == [T0]
    assert len(one.state.running) == 2


def test_a_manual_firing_waits_where_the_policy_lets_it() -> None:
    one = Schedule(overlap="buffer_one")
    one.ask(trigger())
    assert names(one.ask(trigger("t2"))) == ["deferred"]
    assert "another firing waits already" in one.refused(trigger("t3"))
    assert names(one.end()) == ["task_ended", "fired"]
    one = Schedule(overlap="cancel_running")
    one.ask(trigger())
    assert names(one.ask(trigger("t2"))) == ["deferred", "task_cancel_requested"]


def test_a_manual_firing_while_paused() -> None:
    one = Schedule()
    one.ask(commands.PauseSchedule())
    assert len(fired(one.ask(trigger()))) == 1


# -- backfills -----------------------------------------------------------------------------------


def test_a_backfill_goes_in_order_and_no_faster_than_it_may() -> None:
    one = Schedule(cron="0 0 * * *")
    start = at("2025-12-01 00:00")
    found = one.ask(backfill(start, start + 4 * DAY, concurrency=2))
    assert names(found) == ["backfill_requested", "fired", "fired"]
    assert found[0].count == 4  # type: ignore[attr-defined]
    assert one.ask(backfill(start, start + 4 * DAY, concurrency=2)) == []
    seen = fired(found)
    while one.state.running:
        found = one.end(next(iter(one.state.running)))
        seen += fired(found)
        assert len(one.state.running) <= 2
    assert seen == [start + day * DAY for day in range(4)]
    assert names(found) == ["task_ended", "backfill_completed"]
    assert one.state.backfills == []


def test_a_backfill_neither_waits_for_regular_firings_nor_holds_them_up() -> None:
    one = Schedule()
    one.wake(FIRST)
    assert fired(one.ask(backfill(FIRST - 5 * MINUTE, FIRST - 3 * MINUTE))) == [FIRST - 5 * MINUTE]
    one.end(next(iter(one.state.running)))
    assert fired(one.wake(FIRST + MINUTE)) == [FIRST + MINUTE]


def test_a_backfill_of_what_has_fired_is_the_same_task() -> None:
    one = Schedule()
    one.wake(FIRST)
    [task_id] = one.state.running
    # It runs: the backfill waits for it.
    assert fired(one.ask(backfill(FIRST, FIRST + 1))) == []
    found = one.end(task_id)
    assert fired(found) == [FIRST]
    assert list(one.state.running) == [task_id]
    assert names(one.end(task_id)) == ["task_ended", "backfill_completed"]


def test_a_backfill_whose_schedule_is_replaced_stays_bounded() -> None:
    one = Schedule(cron="0 0 * * *", now_ms=at("2026-01-05 12:00"))
    one.ask(backfill(at("2026-01-01 00:00"), at("2026-01-05 00:00")))
    one.ask(create(cron="* * * * * *", replace=True))
    one.ask(commands.PauseSchedule())
    for _ in range(commands.BACKFILL_FIRINGS_MAX - 1):
        one.end()
    assert one.state.fired_count == commands.BACKFILL_FIRINGS_MAX
    assert names(one.end()) == ["task_ended", "backfill_completed"]


def test_backfills_are_bounded() -> None:
    one = Schedule(cron="* * * * * *")
    assert "10000 at most" in one.refused(backfill(T0 - DAY, T0))
    assert "lies in the past" in one.refused(backfill(T0, T0 + HOUR))
    assert "concurrency: 1 to" in one.refused(backfill(T0 - HOUR, T0, concurrency=0))
    assert "no firing in this range" in one.refused(backfill(T0 - 1, T0 - 1))
    for number in range(commands.BACKFILLS_MAX):
        one.ask(backfill(T0 - HOUR, T0, f"b{number}"))
    assert "which is the most there may be" in one.refused(backfill(T0 - HOUR, T0, "more"))


# -- creating, replacing, deleting ---------------------------------------------------------------


def test_the_same_settings_again_are_the_same_schedule() -> None:
    one = Schedule()
    assert one.ask(create()) == []
    assert "exists with other settings" in one.refused(create(overlap="allow"))
    [event] = one.ask(create(every_seconds=3600, replace=True))
    assert isinstance(event, events.ScheduleUpdated)
    assert one.state.next_wake_ms() == at("2026-01-05 13:00")


def test_replacing_the_settings_loses_no_firing_that_is_due() -> None:
    late: dict[str, Any] = {"cron": "0 12 * * *", "jitter_seconds": 3_600}
    noon = at("2026-01-06 12:00")
    one = Schedule(**late)
    due = one.state.next_wake_ms()
    assert due is not None
    one.now_ms = noon + 1
    assert one.now_ms < due
    # Another text, the same moments: it still fires, when it is due.
    assert names(one.ask(create(**late, description="at noon", replace=True))) == ["updated"]
    assert one.state.next_at_ms == noon
    # Other moments: it is counted.
    found = one.ask(create(cron="0 18 * * *", replace=True))
    assert (names(found), skipped(found)) == (["skipped", "updated"], [("replaced", 1)])
    assert one.state.next_at_ms == at("2026-01-06 18:00")
    # In a pause: the pause counts it.
    one.ask(commands.PauseSchedule())
    one.now_ms = at("2026-01-07 20:00")
    assert names(one.ask(create(cron="0 18 * * *", description="at six", replace=True))) == ["updated"]
    assert skipped(one.ask(create(cron="0 19 * * *", replace=True))) == [("paused", 2)]
    assert names(one.ask(commands.ResumeSchedule())) == ["resumed"]
    assert one.state.next_at_ms == at("2026-01-08 19:00")


def test_a_deleted_schedule_does_nothing_and_its_tasks_go_on() -> None:
    one = Schedule(overlap="buffer_one")
    one.wake(FIRST)
    one.wake(FIRST + MINUTE)
    [task_id] = one.state.running
    assert names(one.ask(commands.DeleteSchedule(reason="moved"))) == ["deleted"]
    assert one.wake(FIRST + DAY) == []
    for command in (commands.PauseSchedule(), commands.DeleteSchedule(), trigger()):
        assert one.refused(command) == "there is no such schedule"
    assert names(one.end(task_id)) == ["task_ended"]
    # The next one of that name has tasks of its own.
    one.now_ms = FIRST - 1
    assert names(one.ask(create())) == ["created"]
    assert fired(one.wake(FIRST)) == [FIRST]
    assert task_id not in one.state.running


def test_nothing_can_be_asked_of_what_never_was() -> None:
    one = Schedule()
    one.state = one.state.__class__(schedule_id=one.state.schedule_id)
    assert one.refused(commands.ResumeSchedule()) == "there is no such schedule"
    assert one.ask(commands.TaskNotice(task_id="x", status="complete")) == []


# -- tasks ---------------------------------------------------------------------------------------


def test_a_task_that_cannot_begin_is_recorded_and_the_schedule_goes_on() -> None:
    one = Schedule()
    one.wake(FIRST)
    [task_id] = one.state.running
    found = one.end(status="refused", error_code="SCHEDULED_TEMPLATE_NOT_FOUND", error_message="no template")
    assert names(found) == ["firing_failed"]
    assert (one.state.failed_count, one.state.runs[-1].status) == (1, "failed")
    assert one.end(task_id, "refused") == []
    assert fired(one.wake(FIRST + MINUTE)) == [FIRST + MINUTE]


@pytest.mark.parametrize(
    ("value", "unknown"),
    [
        ({"a": ["${schedule.date}-${schedule.cause}"], "b": "${context.x} $schedule.date", "c": 7}, []),
        ({"a": "${schedule.day}", "b": ["${schedule.day}"]}, ["${schedule.day}"]),
        ({"a": "${ schedule.date }"}, ["${ schedule.date }"]),
        ({"a": "${Schedule.date}"}, ["${Schedule.date}"]),
        ({"a": "${schedule.date"}, ["${schedule.date"]),
        ({"a": "${schedule}"}, ["${schedule}"]),
        ({"${schedule.date}": 1}, ["the key ${schedule.date}"]),
        (["day:${schedule.dates}"], ["${schedule.dates}"]),
    ],
)
def test_what_looks_like_a_reference_and_is_none(value: Any, unknown: list[str]) -> None:
    assert unknown_references(value) == unknown


def test_the_order_of_a_firing() -> None:
    context = {
        "day": "${schedule.date}",
        "all": ["${schedule.cause} ${schedule.local_time}", "$${x}", 7, None],
    }
    task = ScheduledTask(
        name="report",
        namespace="jobs",
        version="1.2.0",
        context=msgspec.Raw(msgspec.json.encode(context)),
        tags=("daily", "day:${schedule.date}"),
        priority=5,
    )
    one = Schedule(cron="30 0 * * *", time_zone="Europe/Berlin", task=task)
    [nominal] = fired(one.wake(at("2026-01-05 23:30")))
    [firing] = one.state.running.values()
    order = orders.start_order(one.state, firing)
    assert msgspec.json.decode(order.context) == {
        "day": "2026-01-06",
        "all": ["regular 2026-01-06T00:30:00+01:00", "$${x}", 7, None],
    }
    assert (order.namespace, order.name, order.version, order.priority) == ("jobs", "report", "1.2.0", 5)
    assert order.tags == ("daily", "day:2026-01-06", "schedule:default/reports")
    assert order.initiator == "schedule:default/reports"
    assert order.requested_at == timestamp(nominal)
    assert order.schedule.nominal_at_ms == nominal


def test_how_callers_see_it() -> None:
    one = Schedule(cron="0 * * * *", time_zone="Europe/Berlin")
    one.wake(at("2026-01-05 13:00"))
    seen = schedule_response(one.state, one.now_ms)
    assert seen.status == "active"
    assert len(seen.next_firings) == 10
    assert seen.next_firings[0].at == "2026-01-05T14:00:00.000Z"
    assert seen.next_firings[0].local == "2026-01-05T15:00:00+01:00"
    assert [run.status for run in seen.runs] == ["running"]
    assert seen.running_count == 1


def test_a_firing_that_its_jitter_holds_back_is_the_next_one() -> None:
    one = Schedule(jitter_seconds=240)
    due = one.state.next_wake_ms()
    assert due is not None
    assert due > FIRST + 1
    seen = schedule_response(one.state, FIRST + 1)
    assert seen.next_firings[0].at == timestamp(FIRST)
    assert seen.next_firings[0].due_at == timestamp(due)
    # They come in order, whatever the jitter of each.
    dues = [firing.due_at or "" for firing in seen.next_firings]
    assert dues == sorted(dues)
    one.wake(due)
    assert schedule_response(one.state, due).next_firings[0].at == timestamp(FIRST + MINUTE)
    one.ask(commands.PauseSchedule())
    # What a pause will skip is not ahead.
    assert schedule_response(one.state, FIRST + DAY).next_firings[0].at == timestamp(FIRST + DAY + MINUTE)


def test_a_clock_that_was_far_ahead_is_said_and_mended() -> None:
    one = Schedule(cron="0 0 * * *")
    one.wake(T0 + 365 * DAY)
    one.end()
    one.now_ms = T0 + HOUR
    assert one.wake() == []
    seen = schedule_response(one.state, one.now_ms)
    assert seen.problem.startswith(
        "the clock of an orchestrator was ahead: it was 2027-01-05T12:00:30.000Z by it"
    )
    assert names(one.ask(commands.ResumeSchedule(by="ada"))) == ["resumed"]
    assert schedule_response(one.state, one.now_ms).problem == ""
    tomorrow = at("2026-01-06 00:00")
    assert fired(one.wake(tomorrow)) == [tomorrow]
    # Some seconds between two machines are none of it.
    other = Schedule()
    other.wake(FIRST)
    assert schedule_response(other.state, FIRST - 5_000).problem == ""
    other.now_ms = FIRST - 5_000
    assert other.ask(commands.ResumeSchedule()) == []
