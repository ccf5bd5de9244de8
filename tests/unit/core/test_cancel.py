"""Cancelling: in every state of a task, and what comes in afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .scenario import (
    T0_MS,
    Scenario,
    Told,
    begun,
    blocked,
    cancel,
    cancelled,
    completed,
    create,
    created,
    enqueued,
    fail,
    fail_for_good,
    failed,
    given,
    lose,
    refused,
    release,
    retry,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    wake,
)
from .templates import AT_ONCE, compiled, diamond, one_step


def test_there_is_nothing_to_cancel_before_the_task_exists() -> None:
    given(one_step()).when(cancel()).then_rejected("NOT_FOUND")


def test_a_task_whose_start_is_delayed() -> None:
    plan = diamond()
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 100)).then(created()).when(cancel())
    scenario.then(cancelled())
    assert scenario.state.next_wake_ms() is None
    scenario.later(1_000).when(wake()).then_nothing()
    assert set(scenario.statuses().values()) == {"cancelled"}


def test_a_running_task_with_steps_in_every_state() -> None:
    scenario = (
        begun(compiled("done", "given_out", "running", "waiting", "broken", "pending: waiting"))
        .when(succeed("done"))
        .then(completed("done"))
        .when(start("running"))
        .then(started("running"))
        .when(fail("waiting"))
        .then(retry("waiting"))
        .when(fail_for_good("broken"))
        .then(failed("broken"))
        .later(50)
        .when(cancel("changed my mind", "ada"))
        .then(
            # The steps that somebody may be working on.
            cancelled(
                "given_out",
                "running",
                reason="changed my mind",
                cancelled_by="ada",
                task_name="scenario",
                namespace="tests",
            )
        )
    )
    assert scenario.statuses() == {
        "done": "complete",
        "given_out": "cancelled",
        "running": "cancelled",
        "waiting": "cancelled",
        "broken": "error",
        "pending": "cancelled",
    }
    assert scenario.status == "cancelled"
    assert scenario.state.completed_at_ms == T0_MS + 50
    assert scenario.state.next_wake_ms() is None
    scenario.later(10**7).when(wake()).then_nothing()


def test_a_task_that_waits_for_a_retry() -> None:
    scenario = begun(one_step()).when(fail("a")).then(retry("a")).when(cancel()).then(cancelled())
    scenario.later(5_000).when(wake()).then_nothing()


def test_a_blocked_task() -> None:
    scenario = begun(diamond()).when(fail_for_good("a")).then(failed("a"), blocked("a"))
    scenario.when(cancel()).then(cancelled())
    assert scenario.statuses() == {"a": "error", "b": "cancelled", "c": "cancelled", "d": "cancelled"}


def test_a_task_that_has_ended_keeps_its_end() -> None:
    finished = begun(one_step()).when(succeed("a")).then(completed("a"), task_completed())
    finished.when(cancel()).then_rejected("CONFLICT")
    broken = begun(one_step(on_failure="fail")).when(fail_for_good("a")).then(failed("a"), task_failed("a"))
    broken.when(cancel()).then_rejected("CONFLICT")


def test_cancelling_twice_is_answered_like_the_first_time() -> None:
    scenario = begun(one_step()).when(cancel("once")).then(cancelled("a"))
    scenario.when(cancel("once")).then_nothing()
    scenario.when(cancel("another reason", "bob")).then_nothing()


# -- late results --------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [succeed("a"), fail("a"), fail_for_good("a")])
@pytest.mark.parametrize("was_running", [True, False])
def test_a_late_result_is_refused_and_recorded_exactly_once(late: Told, was_running: bool) -> None:
    scenario = begun(diamond())
    if was_running:
        scenario.when(start("a")).then(started("a"))
    scenario.when(cancel()).then(cancelled("a"))
    scenario.when(late).then(
        refused("a", refusal="task_finished", outcome=late.type.KIND, worker_id="worker-1")
    )
    for again in (late, succeed("a"), fail("a"), start("a"), lose("a"), release("a")):
        scenario.when(again).then_rejected("STALE")
    assert scenario.status == "cancelled"
    assert scenario.step("a").result is None
    assert scenario.statuses()["b"] == "cancelled"


@pytest.mark.parametrize("word", [start, lose, release])
def test_what_is_no_result_needs_no_record(word: Callable[[str], Told]) -> None:
    begun(one_step()).when(cancel()).then(cancelled("a")).when(word("a")).then_rejected("STALE")


def test_every_running_step_gets_a_record_of_its_own() -> None:
    scenario = begun(compiled("a", "b")).when(cancel()).then(cancelled("a", "b"))
    scenario.when(succeed("b")).then(refused("b", refusal="task_finished"))
    scenario.when(fail("a")).then(refused("a", refusal="task_finished", outcome="failure"))


def test_what_had_been_accepted_before_is_a_repetition_afterwards() -> None:
    """The message of an accepted result may come once more after the cancellation: that is no news."""

    def cancelled_after(word: Told, *follow: object) -> Scenario:
        return begun(compiled("a", "other")).when(word)

    scenario = cancelled_after(succeed("a")).then(completed("a")).when(cancel()).then(cancelled("other"))
    scenario.when(succeed("a")).then_rejected("DUPLICATE")
    scenario = cancelled_after(fail_for_good("a")).then(failed("a")).when(cancel()).then(cancelled("other"))
    scenario.when(fail_for_good("a")).then_rejected("DUPLICATE")
    scenario = cancelled_after(fail("a")).then(retry("a")).when(cancel()).then(cancelled("other"))
    scenario.when(fail("a")).then_rejected("DUPLICATE")


def test_a_result_of_an_earlier_try_after_the_end() -> None:
    scenario = begun(one_step(retry=AT_ONCE)).when(lose("a")).then(retry("a"), enqueued("a", 2))
    scenario.when(cancel()).then(cancelled("a"))
    scenario.when(succeed("a", 1)).then(refused("a", 1, refusal="stale_attempt"))
    scenario.when(succeed("a", 1)).then_rejected("STALE")
    scenario.when(succeed("a", 2)).then(refused("a", 2, refusal="task_finished"))
    scenario.when(succeed("a", 2)).then_rejected("STALE")


def test_a_result_of_a_try_that_was_lost_before_the_task_was_cancelled() -> None:
    scenario = begun(one_step(timeout_seconds=1)).when(start("a")).then(started("a"))
    scenario.later(6_000).when(wake()).then(retry("a", settled_by="timeout"))
    scenario.when(cancel()).then(cancelled())
    scenario.when(succeed("a", 1)).then(refused("a", refusal="task_finished"))
    scenario.when(succeed("a", 1)).then_rejected("STALE")
