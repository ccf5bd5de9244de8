"""Tries that nobody finishes: time-outs, lost workers, and tries that a worker hands back."""

from __future__ import annotations

import random

import pytest

from stepweave_orchestrator.core.state import TIMEOUT_GRACE_MS

from .scenario import (
    T0_MS,
    Scenario,
    begun,
    blocked,
    completed,
    enqueued,
    fail,
    fail_for_good,
    failed,
    lose,
    release,
    released,
    retry,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    wake,
)
from .templates import AT_ONCE, EVERY_SECOND, compiled, one_step, step

TIMEOUT_MS = 2_500
DUE_MS = TIMEOUT_MS + TIMEOUT_GRACE_MS


def running(max_attempts: int = 3) -> Scenario:
    """One step that a worker has begun; it may take 2.5 s."""
    plan = one_step(retry={**EVERY_SECOND, "max_attempts": max_attempts}, timeout_seconds=TIMEOUT_MS / 1000)
    return begun(plan).later(40).when(start("a")).then(started("a", worker_id="worker-1"))


# -- time-outs -----------------------------------------------------------------------------------


def test_a_worker_that_calls_the_time_out_itself_fails_the_try() -> None:
    scenario = running().later(TIMEOUT_MS).when(fail("a", error_type="timeout", error_code="STEP_TIMEOUT"))
    scenario.then(retry("a", error_type="timeout", settled_by="failure"))


def test_the_orchestrator_calls_it_where_the_worker_is_silent() -> None:
    scenario = running()
    due_ms = scenario.now_ms + DUE_MS
    assert scenario.state.next_wake_ms() == due_ms
    scenario.later(DUE_MS - 1).when(wake()).then_nothing()
    scenario.later(1).when(wake()).then(
        retry(
            "a",
            error_type="timeout",
            error_code="STEP_TIMEOUT",
            settled_by="timeout",
            delay_source="backoff",
            delay_ms=1_000,
            retry_at_ms=due_ms + 1_000,
            worker_id="worker-1",
        )
    )
    scenario.later(1_000).when(wake()).then(enqueued("a", 2))


@pytest.mark.parametrize("clock_ms", [0, T0_MS - 10**6, T0_MS + 10**6])
def test_the_workers_clock_does_not_matter(clock_ms: int) -> None:
    scenario = begun(one_step(timeout_seconds=1)).when(start("a", started_at_ms=clock_ms))
    scenario.then(started("a", started_at_ms=clock_ms))
    assert scenario.state.next_wake_ms() == T0_MS + 1_000 + TIMEOUT_GRACE_MS


def test_a_time_out_uses_up_an_attempt() -> None:
    scenario = running(max_attempts=1).later(DUE_MS).when(wake())
    scenario.then(
        failed("a", failure_reason="attempts_exhausted", error_type="timeout", settled_by="timeout"),
        blocked("a", error_code="STEP_TIMEOUT"),
    )


def test_a_late_wake_up_still_calls_the_time_out() -> None:
    running().later(10 * DUE_MS).when(wake()).then(retry("a", settled_by="timeout"))


def test_a_finished_step_is_not_timed_out() -> None:
    scenario = running().when(succeed("a")).then(completed("a"), task_completed())
    assert scenario.state.next_wake_ms() is None
    scenario.later(DUE_MS).when(wake()).then_nothing()


def test_a_try_that_nobody_began_is_not_timed_out() -> None:
    """It waits for a worker; the time of a step is the time of its handler."""
    scenario = begun(one_step(timeout_seconds=1))
    assert scenario.state.next_wake_ms() is None
    scenario.later(10**7).when(wake()).then_nothing()


def test_a_step_without_a_limit_may_run_for_ever() -> None:
    scenario = begun(one_step()).when(start("a")).then(started("a"))
    assert scenario.state.next_wake_ms() is None
    scenario.later(10**9).when(wake()).then_nothing()


def test_the_time_starts_anew_with_every_try() -> None:
    scenario = running().later(100).when(fail("a", retry_after_ms=0)).then(retry("a"), enqueued("a", 2))
    assert scenario.state.next_wake_ms() is None
    scenario.later(DUE_MS).when(wake()).then_nothing()
    scenario.when(start("a")).then(started("a", 2))
    assert scenario.state.next_wake_ms() == scenario.now_ms + DUE_MS


def test_one_wake_up_serves_everything_that_is_due() -> None:
    plan = compiled(
        step("slow", retry={"max_attempts": 1}, timeout_seconds=1),
        step("again", retry={**EVERY_SECOND, "backoff_base_ms": 500}),
        step("later", retry={**EVERY_SECOND, "backoff_base_ms": 60_000, "max_backoff_ms": 60_000}),
        "after: slow",
        on_failure="fail",
    )
    scenario = (
        begun(plan)
        .when(start("slow"))
        .then(started("slow"))
        .when(fail("later"))
        .then(retry("later"))
        .later(5_500)
        .when(fail("again"))
        .then(retry("again"))
    )
    assert scenario.state.next_wake_ms() == scenario.now_ms + 500
    scenario.later(500).when(wake()).then(failed("slow", settled_by="timeout"), enqueued("again", 2))
    assert scenario.state.next_wake_ms() == T0_MS + 60_000
    scenario.when(fail_for_good("again")).then(failed("again", 2))
    scenario.later(60_000).when(wake()).then(enqueued("later", 2))
    scenario.when(succeed("later")).then(completed("later", 2), task_failed("slow", "again"))


def test_time_outs_of_several_steps_block_the_task_once() -> None:
    plan = compiled(*(step(name, retry={"max_attempts": 1}, timeout_seconds=1) for name in "abc"))
    scenario = begun(plan)
    for name in "abc":
        scenario.when(start(name)).then(started(name))
    scenario.later(6_000).when(wake())
    scenario.then(failed("a"), failed("b"), failed("c"), blocked("a", "b", "c"))


def test_a_moment_that_is_out_of_date_wakes_nobody() -> None:
    """The time-out of `b` stands behind that of `a`; by the time both moments have come, `b` waits for its retry."""
    plan = compiled(step("a", timeout_seconds=1), step("b", timeout_seconds=2))
    scenario = begun(plan).when(start("a")).then(started("a")).when(start("b")).then(started("b"))
    scenario.when(fail("b", retry_after_ms=60_000)).then(retry("b"))
    scenario.later(10_000).when(wake()).then(retry("a", settled_by="timeout"))
    scenario.when(wake()).then_nothing()
    scenario.later(50_000).when(wake()).then(enqueued("a", 2), enqueued("b", 2))


def test_moments_that_are_out_of_date_do_not_pile_up() -> None:
    """`then` compares the next wake-up with all steps, and looks how many moments are kept."""
    chance = random.Random(5)
    names = [f"s{number}" for number in range(12)]
    once = {"max_attempts": 1}
    steps = (step(name, retry=once, timeout_seconds=chance.randint(1_000, 2_000)) for name in names)
    scenario = begun(compiled(*steps))
    for _ in range(300):
        name = chance.choice(names)
        scenario.later(chance.randint(0, 100))
        if scenario.step(name).status == "enqueued":
            scenario.when(start(name)).then(started(name))
        else:
            scenario.when(release(name)).then(released(name), enqueued(name))
    assert len(scenario.state.due) <= 2 * len(names) + 17
    # Each of those that run is timed out at its own moment; the others are still given out.
    running = {name: due_ms for name in names if (due_ms := scenario.step(name).due_at_ms)}
    assert 3 < len(running) < len(names)
    for due_ms in sorted(set(running.values())):
        scenario.later(due_ms - 1 - scenario.now_ms).when(wake()).then_nothing()
        due = [name for name in names if running.get(name) == due_ms]
        scenario.later(1).when(wake()).then(*(failed(name, settled_by="timeout") for name in due))
    assert scenario.state.next_wake_ms() is None


def test_the_second_announcement_of_a_start_changes_nothing() -> None:
    running().later(5).when(start("a", worker_id="worker-2")).then_nothing()


def test_the_largest_time_out_in_its_message() -> None:
    scenario = begun(one_step(timeout_seconds=365 * 86_400.0)).when(start("a")).then(started("a"))
    scenario.later(365 * 86_400_000 + TIMEOUT_GRACE_MS).when(wake()).then(retry("a"))
    fault = scenario.step("a").fault
    assert fault is not None
    assert "31536000 s" in fault.error_message


# -- lost workers --------------------------------------------------------------------------------


def test_a_lost_worker_costs_an_attempt_and_the_next_one_starts_at_once() -> None:
    scenario = begun(one_step()).later(30_000)
    uuid = scenario.step("a").uuid
    scenario.when(lose("a")).then(
        retry(
            "a",
            error_type="worker_lost",
            error_code="WORKER_LOST",
            settled_by="lost",
            delay_ms=0,
            delay_source="at_once",
            retry_at_ms=scenario.now_ms,
        ),
        enqueued("a", 2, step_uuid=uuid),
    )
    assert scenario.token("a", 1) != scenario.token("a", 2)
    scenario.when(succeed("a")).then(completed("a", 2), task_completed())


def test_a_lost_worker_that_had_begun_is_named() -> None:
    scenario = (
        running().when(lose("a", worker_id="finder")).then(retry("a", worker_id="worker-1"), enqueued("a", 2))
    )
    assert scenario.state.next_wake_ms() is None
    fault = scenario.step("a").fault
    assert fault is not None
    assert "worker-1" in fault.error_message


def test_the_last_attempt_may_be_lost_too() -> None:
    scenario = running(max_attempts=2).when(lose("a")).then(retry("a"), enqueued("a", 2))
    scenario.when(lose("a")).then(
        failed("a", 2, failure_reason="attempts_exhausted", error_type="worker_lost", settled_by="lost"),
        blocked("a", error_code="WORKER_LOST"),
    )


@pytest.mark.parametrize("cap_ms", [0, 1, 10**6])
def test_no_cap_makes_a_lost_worker_wait(cap_ms: int) -> None:
    scenario = begun(one_step(max_retry_after_ms=cap_ms)).when(lose("a"))
    scenario.then(retry("a", delay_ms=0, delay_source="at_once"), enqueued("a", 2))


# -- tries handed back ---------------------------------------------------------------------------


def test_a_try_that_is_handed_back_costs_nothing_and_gets_a_new_token() -> None:
    scenario = begun(one_step(retry={**AT_ONCE, "max_attempts": 1}))
    for time in range(5):
        before = scenario.token("a")
        scenario.later(1).when(release("a", worker_id=f"worker-{time}"))
        scenario.then(released("a", 1, worker_id=f"worker-{time}"), enqueued("a", 1))
        assert scenario.token("a") != before
    assert scenario.status == "steps_in_process"
    scenario.when(succeed("a")).then(completed("a"), task_completed())


def test_a_try_that_had_begun_may_be_handed_back_too() -> None:
    scenario = running().when(release("a")).then(released("a"), enqueued("a"))
    assert scenario.statuses() == {"a": "enqueued"}
    assert scenario.state.next_wake_ms() is None
    assert scenario.step("a").worker_id == ""
    scenario.when(start("a", worker_id="worker-2")).then(started("a", worker_id="worker-2"))


def test_only_the_new_token_counts_after_a_release() -> None:
    scenario = begun(one_step()).when(release("a")).then(released("a"), enqueued("a"))
    for outcome in (release, lose, start, succeed, fail):
        scenario.when(outcome("a", 1, 0)).then_rejected("STALE")
    scenario.when(succeed("a", 1, 1)).then(completed("a"), task_completed())


def test_a_retry_may_be_handed_back() -> None:
    scenario = begun(one_step(retry=AT_ONCE)).when(fail("a")).then(retry("a"), enqueued("a", 2))
    scenario.when(release("a")).then(released("a", 2), enqueued("a", 2))
    scenario.when(fail("a")).then(retry("a", 2), enqueued("a", 3))
    scenario.when(fail("a")).then(failed("a", 3), blocked("a"))
