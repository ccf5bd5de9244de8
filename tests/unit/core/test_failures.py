"""Failed tries and failed steps: what is tried again, what goes on beside it, and how a task ends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave_schemas.result import ERROR_TYPES

from .scenario import (
    CONTEXT,
    T0_MS,
    begun,
    blocked,
    completed,
    enqueued,
    fail,
    fail_for_good,
    failed,
    lose,
    retry,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    wake,
)
from .templates import AT_ONCE, EVERY_SECOND, compiled, diamond, one_step, step

# -- one step ------------------------------------------------------------------------------------


def test_a_failed_try_is_tried_again() -> None:
    scenario = begun(one_step()).when(fail("a", error_type="retryable_error", error_code="E503"))
    scenario.then(
        retry(
            "a",
            error_type="retryable_error",
            error_code="E503",
            error_message="boom",
            settled_by="failure",
            delay_source="backoff",
            delay_ms=1_000,
            retry_at_ms=T0_MS + 1_000,
        )
    )
    assert scenario.step("a").status == "waiting_for_retry"
    assert scenario.status == "waiting_for_retry"
    uuid = scenario.step("a").uuid
    scenario.later(1_000).when(wake()).then(enqueued("a", 2, step_uuid=uuid))
    assert scenario.token("a", 2) != scenario.token("a", 1)
    scenario.when(succeed("a")).then(completed("a", 2, step_uuid=uuid), task_completed())


def test_attempts_are_counted_with_the_first() -> None:
    plan = one_step(retry={**EVERY_SECOND, "max_attempts": 3})
    (
        begun(plan)
        .when(fail("a"))
        .then(retry("a", 1))
        .later(1_000)
        .when(wake())
        .then(enqueued("a", 2))
        .when(fail("a"))
        .then(retry("a", 2))
        .later(1_000)
        .when(wake())
        .then(enqueued("a", 3))
        .when(fail("a", error_message="at last", error_code="E1"))
        .then(
            failed("a", 3, failure_reason="attempts_exhausted", error_message="at last", error_code="E1"),
            blocked("a", unreachable_steps_count=0, error_message="at last", error_code="E1"),
        )
    )


def test_a_single_attempt_is_never_repeated() -> None:
    begun(one_step(retry={"max_attempts": 1})).when(fail("a", retry_after_ms=5)).then(
        failed("a", failure_reason="attempts_exhausted"), blocked("a")
    )


@pytest.mark.parametrize("error_type", ERROR_TYPES)
def test_a_permanent_failure_ends_the_step_at_once(error_type: str) -> None:
    scenario = begun(one_step()).when(fail("a", error_type=error_type, retryable=False, retry_after_ms=5))
    scenario.then(
        failed(
            "a",
            failure_reason="permanent",
            error_type=error_type,
            task_name="scenario",
            namespace="tests",
            context=CONTEXT,
        ),
        blocked("a"),
    )
    fault = scenario.step("a").fault
    assert fault is not None
    assert (fault.error_type, fault.error_message, fault.at_ms) == (error_type, "boom", T0_MS)


@pytest.mark.parametrize("error_type", ERROR_TYPES)
def test_the_worker_says_whether_a_failure_may_be_retried(error_type: str) -> None:
    begun(one_step()).when(fail("a", error_type=error_type)).then(retry("a", error_type=error_type))


@pytest.mark.parametrize("outcome", [fail("a"), lose("a")])
def test_retryable_false_lets_the_first_try_run_and_stops_every_later_one(outcome: Any) -> None:
    plan = compiled(step("root"), step("a: root", retry={"retryable": False, "max_attempts": 5}))
    scenario = begun(plan).when(succeed("root")).then(completed("root"), enqueued("a"))
    scenario.when(outcome).then(failed("a", failure_reason="not_retryable"), blocked("a"))


def test_what_a_worker_adds_to_a_failure_is_kept() -> None:
    metadata = msgspec.Raw(b'{"trace":[1,2]}')
    scenario = begun(one_step(retry={**EVERY_SECOND, "max_attempts": 2}))
    scenario.when(fail("a", metadata=metadata)).then(retry("a", metadata=metadata))
    scenario.later(1_000).when(wake()).then(enqueued("a", 2))
    scenario.when(fail("a", metadata=metadata)).then(failed("a", 2, metadata=metadata), blocked("a"))


# -- branches ------------------------------------------------------------------------------------


def test_branches_that_do_not_depend_on_the_failure_go_on_to_their_end() -> None:
    plan = compiled("a", "b: a", "c: b", "x", "y: x", "z: y", "join: z c")
    scenario = (
        begun(plan)
        .when(fail_for_good("a", error_message="no money", error_code="E9"))
        .then(failed("a"))
        .when(succeed("x"))
        .then(completed("x"), enqueued("y"))
        .when(fail("y"))
        .then(retry("y"))
        .later(1_000)
        .when(wake())
        .then(enqueued("y", 2))
        .when(succeed("y"))
        .then(completed("y", 2), enqueued("z"))
    )
    assert scenario.status == "steps_in_process"
    scenario.when(succeed("z")).then(
        completed("z"),
        # b, c and join can never start.
        blocked("a", unreachable_steps_count=3, error_message="no money", error_code="E9"),
    )
    assert scenario.status == "blocked_by_failures"
    assert [name for name, status in scenario.statuses().items() if status == "pending"] == ["b", "c", "join"]
    assert scenario.state.next_wake_ms() is None


@pytest.mark.parametrize("on_failure", ["block", "fail"])
def test_steps_in_progress_are_awaited(on_failure: str) -> None:
    scenario = (
        begun(compiled("a", "b", "c", on_failure=on_failure))
        .when(start("b"))
        .then(started("b"))
        .when(fail_for_good("a"))
        .then(failed("a"))
        .when(succeed("b"))
        .then(completed("b"))
    )
    assert scenario.status == "steps_in_process"
    ending = task_failed("a", error_message="boom") if on_failure == "fail" else blocked("a")
    scenario.when(succeed("c")).then(completed("c"), ending)


def test_a_step_that_waits_for_its_retry_is_awaited() -> None:
    scenario = begun(compiled("a", "b", "c")).when(fail("b")).then(retry("b"))
    scenario.when(fail_for_good("a")).then(failed("a")).when(succeed("c")).then(completed("c"))
    assert scenario.status == "waiting_for_retry"
    scenario.later(1_000).when(wake()).then(enqueued("b", 2))
    scenario.when(succeed("b")).then(completed("b", 2), blocked("a"))


def test_every_failure_is_named_in_the_order_of_failing() -> None:
    plan = compiled("a", "b", "c", "after: a b c")
    scenario = begun(plan).when(fail_for_good("c", error_message="first")).then(failed("c"))
    scenario.when(succeed("b")).then(completed("b"))
    scenario.when(fail_for_good("a", error_message="last", error_code="E2")).then(
        failed("a"), blocked("c", "a", unreachable_steps_count=1, error_message="last", error_code="E2")
    )


def test_the_last_failure_is_the_one_that_is_told_of() -> None:
    scenario = begun(compiled("a", "b", "c", "after_a: a", "after_b: b", "join: a b"))
    scenario.when(fail_for_good("a", error_message="first", error_code="E1")).then(failed("a"))
    scenario.when(fail_for_good("b", error_message="last", error_code="E2")).then(failed("b"))
    scenario.when(succeed("c")).then(
        completed("c"), blocked("a", "b", unreachable_steps_count=3, error_message="last", error_code="E2")
    )


def test_the_join_of_a_diamond_never_starts_after_a_failure() -> None:
    scenario = begun(diamond()).when(succeed("a")).then(completed("a"), enqueued("b"), enqueued("c"))
    scenario.when(fail_for_good("b")).then(failed("b"))
    scenario.when(succeed("c")).then(completed("c"), blocked("b", unreachable_steps_count=1))
    assert scenario.statuses() == {"a": "complete", "b": "error", "c": "complete", "d": "pending"}


def test_a_success_that_still_starts_something_does_not_block_the_task() -> None:
    scenario = begun(compiled("a", "x", "y: x")).when(fail_for_good("a")).then(failed("a"))
    scenario.when(succeed("x")).then(completed("x"), enqueued("y"))
    scenario.when(succeed("y")).then(completed("y"), blocked("a"))


# -- the end -------------------------------------------------------------------------------------


def test_on_failure_fail_ends_the_task_in_error() -> None:
    scenario = begun(one_step(on_failure="fail", retry={**AT_ONCE, "max_attempts": 1})).later(9)
    scenario.when(fail("a", error_code="E1")).then(
        failed("a"),
        task_failed("a", error_message="boom", error_code="E1", context=CONTEXT, task_name="scenario"),
    )
    assert scenario.status == "error"
    assert scenario.state.completed_at_ms == T0_MS + 9


@pytest.mark.parametrize("on_failure", [None, "block"])
def test_otherwise_the_task_waits_for_an_operator(on_failure: str | None) -> None:
    """`compensate` without compensations (they are to come) has nothing to undo, so it blocks too."""
    settings = {} if on_failure is None else {"on_failure": on_failure}
    scenario = begun(one_step(**settings)).when(fail_for_good("a")).then(failed("a"), blocked("a"))
    assert scenario.status == "blocked_by_failures"
    assert not scenario.state.is_terminal
    assert scenario.state.completed_at_ms is None


def test_a_wake_up_after_the_end_does_nothing() -> None:
    scenario = begun(one_step()).when(fail_for_good("a")).then(failed("a"), blocked("a"))
    scenario.later(10**9).when(wake()).then_nothing()
    finished = begun(one_step()).when(succeed("a")).then(completed("a"), task_completed())
    finished.later(10**9).when(wake()).then_nothing()
