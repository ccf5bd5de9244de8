"""Results that come twice, too late, for another try, or from somebody who was never asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stepweave_schemas.identity import step_uuid

from .scenario import (
    TASK_ID,
    Told,
    begun,
    blocked,
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
    released,
    retry,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    wake,
)
from .templates import AT_ONCE, EVERY_SECOND, compiled, one_step

Word = Callable[..., Told]


# -- repetitions ---------------------------------------------------------------------------------


def test_a_success_twice() -> None:
    scenario = begun(compiled("a", "b: a")).when(succeed("a")).then(completed("a"), enqueued("b"))
    scenario.when(succeed("a")).then_rejected("DUPLICATE")
    scenario.when(succeed("b")).then(completed("b"), task_completed())
    scenario.when(succeed("a")).then_rejected("DUPLICATE")
    scenario.when(succeed("b")).then_rejected("DUPLICATE")


def test_a_second_success_does_not_change_the_result() -> None:
    scenario = begun(compiled("a", "b: a")).when(succeed("a", result=1)).then(completed("a"), enqueued("b"))
    scenario.when(succeed("a", result=2)).then_rejected("DUPLICATE")
    assert scenario.step("a").result == "1"


def test_a_start_twice() -> None:
    scenario = begun(one_step()).when(start("a")).then(started("a")).when(start("a")).then_nothing()
    scenario.when(succeed("a")).then(completed("a"), task_completed()).when(start("a")).then_rejected("STALE")


def test_a_failure_twice_while_its_retry_waits() -> None:
    begun(one_step()).when(fail("a")).then(retry("a")).when(fail("a")).then_rejected("DUPLICATE")


def test_a_failure_twice_when_the_next_try_is_out() -> None:
    """It is a repetition of what is known, not a late result: no event."""
    scenario = begun(one_step(retry=AT_ONCE)).when(fail("a")).then(retry("a"), enqueued("a", 2))
    scenario.when(fail("a", 1)).then_rejected("DUPLICATE")
    scenario.when(fail("a")).then(retry("a", 2), enqueued("a", 3))
    scenario.when(fail("a", 1)).then_rejected("DUPLICATE")
    scenario.when(fail("a", 2)).then_rejected("DUPLICATE")
    scenario.when(succeed("a")).then(completed("a", 3), task_completed())
    scenario.when(fail("a", 1)).then_rejected("DUPLICATE")


def test_a_permanent_failure_twice() -> None:
    scenario = begun(one_step()).when(fail_for_good("a")).then(failed("a"), blocked("a"))
    scenario.when(fail_for_good("a")).then_rejected("DUPLICATE")
    ended = begun(one_step(on_failure="fail")).when(fail_for_good("a")).then(failed("a"), task_failed("a"))
    ended.when(fail_for_good("a")).then_rejected("DUPLICATE")


def test_a_lost_worker_is_noticed_once() -> None:
    scenario = begun(one_step()).when(lose("a")).then(retry("a"), enqueued("a", 2))
    scenario.when(lose("a", 1)).then_rejected("STALE")
    scenario.when(lose("a", 1, deliveries=3)).then_rejected("STALE")


def test_a_release_twice() -> None:
    scenario = begun(one_step()).when(release("a")).then(released("a"), enqueued("a"))
    scenario.when(release("a", 1, 0)).then_rejected("STALE")


# -- too late ------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [succeed("a", 1), fail("a", 1)])
def test_a_worker_that_was_taken_for_lost_comes_back(late: Told) -> None:
    scenario = begun(one_step()).when(lose("a")).then(retry("a"), enqueued("a", 2))
    scenario.when(late).then(refused("a", 1, refusal="stale_attempt", outcome=late.type.KIND))
    for again in (succeed("a", 1), fail("a", 1)):
        scenario.when(again).then_rejected("STALE")
    scenario.when(succeed("a", result="second")).then(completed("a", 2), task_completed())
    assert scenario.step("a").result == '"second"'
    scenario.when(late).then_rejected("STALE")


def test_a_result_after_the_orchestrator_called_the_time_out() -> None:
    scenario = begun(one_step(timeout_seconds=1)).when(start("a")).then(started("a"))
    scenario.later(6_000).when(wake()).then(retry("a", settled_by="timeout"))
    # The step is not finished, it waits: this try of it is over.
    scenario.when(succeed("a", 1)).then(refused("a", 1, refusal="stale_attempt"))
    scenario.when(succeed("a", 1)).then_rejected("STALE")
    scenario.later(1_000).when(wake()).then(enqueued("a", 2))
    scenario.when(fail("a", 1)).then_rejected("STALE")


def test_results_after_the_step_failed_for_good() -> None:
    plan = one_step(retry={**EVERY_SECOND, "max_attempts": 1}, timeout_seconds=1)
    scenario = begun(plan).when(start("a")).then(started("a"))
    scenario.later(6_000).when(wake()).then(failed("a", settled_by="timeout"), blocked("a"))
    scenario.when(succeed("a")).then(refused("a", 1, refusal="step_finished", outcome="success"))
    scenario.when(fail("a")).then_rejected("STALE")
    assert scenario.status == "blocked_by_failures"


@pytest.mark.parametrize(
    ("first", "event", "second"),
    [(succeed("a"), completed("a"), fail("a")), (fail_for_good("a"), failed("a"), succeed("a"))],
)
def test_a_worker_that_contradicts_itself(first: Told, event: object, second: Told) -> None:
    """The first word counts; the second is recorded, once."""
    scenario = begun(compiled("a", "other")).when(first).then(event)  # type: ignore[arg-type]
    scenario.when(second).then(refused("a", 1, refusal="step_finished", outcome=second.type.KIND))
    scenario.when(second).then_rejected("STALE")
    scenario.when(first).then_rejected("DUPLICATE")


def test_a_contradiction_about_an_earlier_try() -> None:
    scenario = begun(one_step(retry=AT_ONCE)).when(fail("a")).then(retry("a"), enqueued("a", 2))
    scenario.when(succeed("a", 1)).then(refused("a", 1, refusal="stale_attempt", outcome="success"))
    scenario.when(succeed("a", 1)).then_rejected("STALE")
    scenario.when(fail("a", 1)).then_rejected("DUPLICATE")
    assert scenario.statuses() == {"a": "enqueued"}


def test_each_try_has_a_record_of_its_own() -> None:
    scenario = begun(one_step(retry={**AT_ONCE, "max_attempts": 4}))
    for attempt in (1, 2, 3):
        scenario.when(lose("a")).then(retry("a", attempt), enqueued("a", attempt + 1))
    for attempt in (2, 1, 3):
        scenario.when(succeed("a", attempt)).then(refused("a", attempt, refusal="stale_attempt"))
        scenario.when(succeed("a", attempt)).then_rejected("STALE")


@pytest.mark.parametrize("word", [start, lose, release])
def test_late_words_that_are_no_results_change_nothing(word: Word) -> None:
    scenario = begun(compiled("a", "b: a")).when(succeed("a")).then(completed("a"), enqueued("b"))
    scenario.when(word("a")).then_rejected("STALE")
    waiting = begun(one_step()).when(fail("a")).then(retry("a"))
    waiting.when(word("a")).then_rejected("STALE")
    waiting.later(1_000).when(wake()).then(enqueued("a", 2)).when(word("a", 1)).then_rejected("STALE")


# -- forgeries -----------------------------------------------------------------------------------

WORDS = [start, succeed, fail, fail_for_good, release, lose]


@pytest.mark.parametrize("word", WORDS)
def test_a_wrong_token_is_refused_without_a_trace(word: Word) -> None:
    scenario = begun(compiled("a", "b", "c: a"))
    for token in (
        "",
        "forged",
        scenario.token("b"),
        scenario.token("a")[:-1],
        scenario.token("a").upper() + "x",
    ):
        scenario.when(word("a").by(lease_token=token)).then_rejected("WRONG_TOKEN")
    scenario.when(word("a").by(attempt=2)).then_rejected("WRONG_TOKEN")
    scenario.when(word("a").by(attempt=0)).then_rejected("WRONG_TOKEN")
    scenario.when(word("a").by(attempt=-1)).then_rejected("WRONG_TOKEN")
    scenario.when(word("c", 1).by(lease_token=scenario.token("a"))).then_rejected("WRONG_TOKEN")


@pytest.mark.parametrize("word", WORDS)
def test_a_try_that_was_never_given_out(word: Word) -> None:
    scenario = begun(compiled("a", "b: a"))
    for attempt in (0, 1):
        for token in ("", "forged"):
            scenario.when(word("b", attempt).by(lease_token=token)).then_rejected("WRONG_TOKEN")
    plan = one_step()
    delayed = given(plan).when(create(plan, start_at_ms=10**15)).then(created())
    delayed.when(word("a", 0).by(lease_token="")).then_rejected("WRONG_TOKEN")


@pytest.mark.parametrize("word", WORDS)
def test_the_token_of_an_earlier_try_opens_no_other(word: Word) -> None:
    scenario = begun(one_step(retry=AT_ONCE)).when(fail("a")).then(retry("a"), enqueued("a", 2))
    first, second = scenario.token("a", 1), scenario.token("a", 2)
    scenario.when(word("a", 2).by(lease_token=first)).then_rejected("WRONG_TOKEN")
    scenario.when(word("a", 1).by(lease_token=second)).then_rejected("WRONG_TOKEN")
    scenario.when(word("a", 3).by(lease_token=second)).then_rejected("WRONG_TOKEN")


@pytest.mark.parametrize("word", WORDS)
def test_a_step_that_the_task_does_not_have(word: Word) -> None:
    scenario = begun(one_step())
    token = scenario.token("a")
    scenario.when(word("a").by(step_name="z", step_uuid=step_uuid(TASK_ID, "z"), lease_token=token))
    scenario.then_rejected("UNKNOWN_STEP")
    scenario.when(word("a").by(step_uuid=step_uuid("another task", "a"))).then_rejected("UNKNOWN_STEP")
    scenario.when(word("a").by(step_uuid="")).then_rejected("UNKNOWN_STEP")


@pytest.mark.parametrize("word", WORDS)
def test_a_task_that_does_not_exist(word: Word) -> None:
    given(one_step()).when(word("a", 1).by(lease_token="x")).then_rejected("UNKNOWN_STEP")
