"""Random wakes, clocks, crashes and repeated notices: each nominal moment gets one task at most, and is accounted for."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from stepweave_orchestrator.core import Moment, Rejection
from stepweave_orchestrator.core.commands import Wake
from stepweave_orchestrator.core.schedules import commands
from stepweave_orchestrator.core.schedules.decide import decide
from stepweave_orchestrator.core.schedules.state import BACKFILL, MANUAL
from stepweave_orchestrator.core.schedules.timing import Timing
from stepweave_orchestrator.runtime.schedule_kind import SCHEDULE
from stepweave_orchestrator.runtime.stream_kind import decode_state, encode_state
from stepweave_schemas import events

from .schedule_scenario import MINUTE, T0, Schedule, backfill, json_of, trigger

_asked = os.environ.get("STEPWEAVE_EXAMPLES")
EXAMPLES = settings(max_examples=int(_asked or 150), derandomize=_asked is None, database=None, deadline=None)

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("later"), st.integers(0, 20 * MINUTE)),
        st.tuples(st.just("back"), st.integers(0, 3 * MINUTE)),
        st.tuples(st.just("end"), st.integers(0, 50)),
        st.tuples(st.just("notice_again"), st.integers(0, 50)),
        st.tuples(st.just("crash"), st.just(0)),
        st.tuples(st.just("snapshot"), st.just(0)),
        st.tuples(st.just("pause"), st.just(0)),
        st.tuples(st.just("resume"), st.just(0)),
        st.tuples(st.just("replace"), st.integers(0, 50)),
        st.tuples(st.just("trigger"), st.integers(0, 3)),
        st.tuples(st.just("backfill"), st.integers(1, 5)),
    ),
    max_size=40,
)
SPECS = st.fixed_dictionaries(
    {
        "overlap": st.sampled_from(["skip", "buffer_one", "allow", "cancel_running"]),
        "catch_up_seconds": st.sampled_from([0, 120, 3600]),
        "jitter_seconds": st.sampled_from([0, 45, 100]),
    },
    optional={"cron": st.sampled_from(["* * * * *", "*/3 * * * *"])},
)


def do(one: Schedule, what: str, number: int) -> None:
    """One thing happens."""
    match what:
        case "later":
            one.wake(one.now_ms + number)
        case "back":
            one.now_ms -= number
            one.wake()
        case "end" | "notice_again":
            runs = [run.firing.task_id for run in one.state.runs]
            known = list(one.state.running) if what == "end" else runs
            if known:
                status = ("complete", "error", "blocked_by_failures", "refused")[number % 4]
                one.end(known[number % len(known)], status)
        case "crash":
            one.state = one.replayed()
        case "snapshot":
            one.state = decode_state(SCHEDULE, encode_state(one.state))
        case "pause":
            one.ask(commands.PauseSchedule())
        case "resume":
            one.ask(commands.ResumeSchedule())
        case "replace":
            spec = msgspec.structs.replace(one.state.spec, description=str(number))
            one.ask(commands.CreateSchedule(namespace="default", name="reports", spec=spec, replace=True))
        case "trigger" | "backfill":
            asked: Any = (
                trigger(f"t{number}")
                if what == "trigger"
                else backfill(T0 - 10 * MINUTE, T0 - (10 - number) * MINUTE, f"b{number}", 1 + number % 2)
            )
            if not isinstance(decide(one.state, asked, Moment(one.now_ms, "")), Rejection):
                one.ask(asked)


@EXAMPLES
@given(SPECS, STEPS)
def test_each_moment_gets_one_task_and_none_is_lost(
    spec: dict[str, Any], steps: list[tuple[str, int]]
) -> None:
    one = Schedule(**spec)
    resumed_after_a_step_back = False
    latest = one.now_ms
    for what, number in steps:
        resumed_after_a_step_back |= what in ("resume", "replace") and one.now_ms < latest
        do(one, what, number)
        latest = max(latest, one.now_ms)
        assert one.state == one.replayed()
        assert json_of(one.state) == json_of(decode_state(SCHEDULE, encode_state(one.state)))
        limit = 1 if spec["overlap"] != "allow" else 1_000_000
        regular = [firing for firing in one.state.running.values() if firing.cause == "regular"]
        assert len(regular) <= limit
    happened = [event for event, _ in one.events]
    firings = [event for event in happened if isinstance(event, events.ScheduleFired)]
    by_moment = Counter(event.nominal_at_ms for event in firings if event.cause not in (BACKFILL, MANUAL))
    tasks = {(event.nominal_at_ms, event.task_id) for event in firings if event.cause != MANUAL}
    assert len(tasks) == len({nominal for nominal, _ in tasks}), "one moment, two tasks"
    if resumed_after_a_step_back:
        # What has fired fires again then, as the same task.
        return
    assert not by_moment or max(by_moment.values()) == 1
    # Every moment up to where the schedule stands was fired, skipped, or waits.
    deferred_manual = sum(
        isinstance(event, events.ScheduleDeferred) and event.cause == MANUAL for event in happened
    )
    manual_left = one.state.waiting is not None and one.state.waiting.cause == MANUAL
    manual_fired = sum(event.deferred and event.cause == MANUAL for event in firings)
    manual_skipped = deferred_manual - manual_fired - manual_left
    waits = one.state.waiting is not None and not manual_left
    timing = Timing(one.state.spec)
    assert one.state.next_at_ms is not None
    assert timing.count(T0, one.state.next_at_ms) == sum(by_moment.values()) + (
        one.state.skipped_count - manual_skipped
    ) + int(waits)


@EXAMPLES
@given(st.integers(0, 200), st.sampled_from([60, 600]))
def test_however_a_time_is_cut_into_wake_ups_the_same_moments_fire(minutes: int, window: int) -> None:
    """Wake-ups that come too late within the window, or too often, change nothing."""
    once = Schedule(overlap="allow", catch_up_seconds=window)
    often = Schedule(overlap="allow", catch_up_seconds=window)
    end = T0 + (minutes % (window // 60)) * MINUTE
    once.wake(end)
    now = T0
    while now < end:
        now = min(end, now + 7_000 + minutes * 100)
        often.wake(now)
    assert [event for event, _ in once.events][1:] == [event for event, _ in often.events][1:]
    assert once.ask(Wake()) == []
