"""Child tasks: what they are asked, what their steps wait for, and what they answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core import Plan, children
from stepweave_schemas import events, result
from stepweave_schemas.child import CancelChild
from stepweave_schemas.codec import decode_outcomes, encode
from stepweave_schemas.dispatch import CONTEXT_BYTES_MAX, RESULT_BYTES_MAX
from stepweave_schemas.identity import derived_uuid, step_uuid

from .scenario import (
    CORRELATION_ID,
    T0_MS,
    TASK_ID,
    Scenario,
    begun,
    blocked,
    cancel,
    cancelled,
    child_cancel_requested,
    child_requested,
    choose,
    completed,
    create,
    created,
    cut,
    decline,
    enqueued,
    entered,
    fail,
    fail_for_good,
    failed,
    given,
    refused,
    retry,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    task_started,
    undoing,
    undone,
    wake,
)
from .templates import AT_ONCE, EVERY_SECOND, compiled, step


def child(text: str, retry: dict[str, Any] = EVERY_SECOND, **settings: Any) -> dict[str, Any]:
    """A step that starts `payments/refund`; other settings are those of `child_task`, but for the step's own."""
    own = {key: settings.pop(key) for key in ("timeout_seconds", "compensation") if key in settings}
    asked = {"name": "refund", "namespace": "payments", **settings}
    return step(text, handler={"callable": "stepweave:child_task"}, retry=retry, child_task=asked, **own)


def approve_and_refund(**settings: Any) -> Plan:
    return compiled("approve", child("refund: approve", **settings), "tell: refund")


def waiting(**settings: Any) -> Scenario:
    """The approval is done, and the refund runs somewhere else."""
    return begun(approve_and_refund(**settings)).run(succeed("approve", result={"amount": 7}))


def child_id(step_name: str = "refund", attempt: int = 1) -> str:
    return derived_uuid("child", step_uuid(TASK_ID, step_name), str(attempt))


def context_of(scenario: Scenario) -> Any:
    return msgspec.json.decode(scenario.last(events.ChildRequested).context)


# -- the parent ----------------------------------------------------------------------------------


def test_a_step_starts_a_task_and_takes_its_result() -> None:
    scenario = begun(approve_and_refund(version="2.0.0", context={"order": "${context.order}", "why": "bad"}))
    scenario.when(succeed("approve")).then(
        completed("approve"),
        child_requested(
            "refund",
            1,
            child_task_id=child_id(),
            namespace="payments",
            name="refund",
            version="2.0.0",
            depth=1,
            problems=(),
            step_uuid=step_uuid(TASK_ID, "refund"),
        ),
    )
    assert context_of(scenario) == {"order": 7, "why": "bad"}
    assert scenario.step("refund").status == "waiting_for_child"
    assert scenario.step("refund").child_task_id == child_id()
    assert scenario.status == "waiting_for_dependencies"
    scenario.later(5).when(start("refund", worker_id=f"child:{child_id()}")).then(started("refund"))
    assert scenario.step("refund").status == "waiting_for_child"
    scenario.when(start("refund")).then_nothing()
    scenario.later(5).when(succeed("refund", result={"id": "r_1"}))
    scenario.then(completed("refund", result=msgspec.Raw(b'{"id":"r_1"}')), enqueued("tell"))
    scenario.when(succeed("tell")).then(completed("tell"), task_completed())


def test_the_first_step_may_start_a_task() -> None:
    plan = compiled(child("a", namespace=None, context={"order": "${context.order}"}), "b: a")
    scenario = entered(plan, child_requested("a", namespace="tests", version=None, depth=4), depth=3)
    assert context_of(scenario) == {"order": 7}
    delayed = given(plan).when(create(plan, start_at_ms=T0_MS + 1)).then(created())
    delayed.later(1).when(wake()).then(task_started(), child_requested("a", depth=1))
    assert context_of(delayed) == {"order": 7}


def test_references_reach_into_results() -> None:
    plan = compiled(
        "a",
        "b: a",
        child(
            "refund: b",
            context={
                "all": "${context}",
                "whole": "${steps.a}",
                "deep": ["${steps.b.list.1.x}", {"inner": "${context.order}"}],
                "text": "costs $ {1}",
                "null": "${steps.a.nothing}",
            },
        ),
    )
    scenario = begun(plan).run(succeed("a", result={"nothing": None}))
    scenario.when(succeed("b", result={"list": [0, {"x": "y"}]})).then(
        completed("b"), child_requested("refund", problems=())
    )
    assert context_of(scenario) == {
        "all": {"order": 7},
        "whole": {"nothing": None},
        "deep": ["y", {"inner": 7}],
        "text": "costs $ {1}",
        "null": None,
    }


def test_references_to_nothing_are_problems() -> None:
    scenario = waiting(context={"a": "${context.nobody}", "b": "${steps.approve.nothing.x}", "c": 1})
    problems = scenario.last(events.ChildRequested).problems
    assert problems == ("${context.nobody} has no value", "${steps.approve.nothing.x} has no value")


def test_a_step_that_was_never_created_has_no_result() -> None:
    plan = compiled(
        step("route", type="decision"),
        "a: route",
        step("join: a", type="deferred_convergence"),
        child("refund: join", context={"x": "${steps.a.x}"}),
    )
    scenario = begun(plan).run(decline("route"))
    assert scenario.last(events.ChildRequested).problems == ("${steps.a.x} has no value",)


def test_as_many_tasks_as_may_stand_above_each_other() -> None:
    plan = compiled(child("a"))
    scenario = given(plan).within(child_depth_max=3).when(create(plan, depth=2))
    scenario.then(created(), child_requested("a", depth=3, problems=()))
    scenario = (
        given(plan)
        .within(child_depth_max=3)
        .when(create(plan, depth=3))
        .then(created(), child_requested("a"))
    )
    assert scenario.last(events.ChildRequested).problems == ("4 tasks stand above it, and 3 at most may",)


def test_a_context_that_would_be_too_large() -> None:
    plan = compiled("a", child("refund: a", context={"x": "${steps.a}", "y": "${steps.a}"}))
    scenario = begun(plan).run(succeed("a", result="x" * (CONTEXT_BYTES_MAX // 2)))
    asked = scenario.last(events.ChildRequested)
    assert bytes(asked.context) == b"{}"
    assert len(asked.problems) == 1
    assert f"{CONTEXT_BYTES_MAX} at most" in asked.problems[0]


# -- the orders ----------------------------------------------------------------------------------


def test_the_order_to_start_a_child() -> None:
    plan = approve_and_refund(context={"order": 1})
    request = {"priority": 5, "traceparent": "00-1-2-01"}
    scenario = entered(plan, enqueued("approve"), **request).run(succeed("approve"))
    event = scenario.last(events.ChildRequested)
    order = children.start_order(scenario.state, event, "sw.res.x")
    assert order is not None
    assert (order.task_id, order.namespace, order.name, order.version) == (
        child_id(),
        "payments",
        "refund",
        None,
    )
    assert (order.priority, order.depth, order.traceparent) == (5, 1, "00-1-2-01")
    assert (order.correlation_id, order.parent_correlation_id) == (CORRELATION_ID, CORRELATION_ID)
    assert order.parent_namespace == "tests"
    assert order.problems == ()
    assert order.parent == events.ParentLink(
        task_id=TASK_ID,
        step_name="refund",
        step_uuid=step_uuid(TASK_ID, "refund"),
        attempt=1,
        lease_token=event.lease_token,
        result_subject="sw.res.x",
    )
    # Published again after a crash, it is the same order; once nobody waits for it there is none.
    assert children.start_order(scenario.state, event, "sw.res.x") == order
    scenario.run(succeed("refund"))
    assert children.start_order(scenario.state, event, "sw.res.x") is None


def test_no_order_for_a_try_that_another_one_followed() -> None:
    scenario = waiting(retry=AT_ONCE)
    first = scenario.last(events.ChildRequested)
    scenario.when(fail("refund")).then(retry("refund"), child_requested("refund", 2))
    assert children.start_order(scenario.state, first, "s") is None
    assert children.start_order(scenario.state, scenario.last(events.ChildRequested), "s") is not None


def test_the_order_to_cancel_a_child() -> None:
    scenario = waiting().run(cancel("no need"))
    event = scenario.last(events.ChildCancelRequested)
    order = children.cancel_order(scenario.state, event)
    assert order == CancelChild(task_id=child_id(), parent_task_id=TASK_ID, reason="no need")


# -- failures ------------------------------------------------------------------------------------


def test_a_child_that_failed_fails_its_step() -> None:
    scenario = waiting().when(fail_for_good("refund", error_code="CHILD_TASK_FAILED"))
    scenario.then(
        failed("refund", error_code="CHILD_TASK_FAILED", failure_reason="permanent"),
        blocked("refund", unreachable_steps_count=1),
    )


def test_a_child_that_could_not_begin_is_started_again_as_another_task() -> None:
    scenario = waiting(context={"x": "${steps.approve.amount}"}).when(fail("refund")).then(retry("refund"))
    assert scenario.status == "waiting_for_retry"
    scenario.later(1_000).when(wake())
    scenario.then(child_requested("refund", 2, child_task_id=child_id(attempt=2)))
    assert child_id(attempt=2) != child_id()
    assert scenario.step("refund").child_task_id == child_id(attempt=2)
    assert context_of(scenario) == {"x": 7}
    scenario.when(start("refund", 1)).then_rejected("STALE")
    scenario.when(succeed("refund", 1)).then(refused("refund", 1, refusal="stale_attempt"))
    scenario.when(fail("refund", 1)).then_rejected("DUPLICATE")
    scenario.when(succeed("refund")).then(completed("refund", 2), enqueued("tell"))


def test_a_child_answers_twice() -> None:
    scenario = waiting().run(succeed("refund", result=1))
    scenario.when(succeed("refund", result=1)).then_rejected("DUPLICATE")


def test_the_tries_are_used_up() -> None:
    scenario = waiting(retry={**AT_ONCE, "max_attempts": 2}).run(fail("refund"))
    scenario.when(fail("refund")).then(
        failed("refund", 2, failure_reason="attempts_exhausted"), blocked("refund")
    )


def test_the_time_of_a_child_is_over() -> None:
    scenario = waiting(timeout_seconds=60.0)
    assert scenario.state.next_wake_ms() == T0_MS + 60_000
    scenario.when(start("refund")).then(started("refund"))
    scenario.later(60_000).when(wake()).then(
        child_cancel_requested("refund", child_task_id=child_id()),
        retry("refund", settled_by="timeout", error_code="STEP_TIMEOUT"),
    )
    scenario.later(1_000).when(wake()).then(child_requested("refund", 2))
    assert scenario.state.next_wake_ms() == T0_MS + 121_000
    scenario.when(fail_for_good("refund", 1)).then(
        refused("refund", 1, outcome="failure", refusal="stale_attempt")
    )


def test_the_time_of_a_child_is_over_and_the_next_one_starts_at_once() -> None:
    scenario = waiting(timeout_seconds=60.0, retry={**AT_ONCE, "max_attempts": 2}).later(60_000).when(wake())
    scenario.then(child_cancel_requested("refund"), retry("refund"), child_requested("refund", 2))
    scenario.later(60_000).when(wake()).then(
        child_cancel_requested("refund", child_task_id=child_id(attempt=2)),
        failed("refund", 2, settled_by="timeout"),
        blocked("refund"),
    )


def test_a_child_that_is_left_alone_when_its_time_is_over() -> None:
    scenario = waiting(timeout_seconds=60.0, parent_close="abandon").later(60_000).when(wake())
    scenario.then(retry("refund", settled_by="timeout"))


# -- cancelling ----------------------------------------------------------------------------------


def test_a_child_is_cancelled_with_its_parent() -> None:
    scenario = waiting().when(cancel("no need"))
    scenario.then(
        child_cancel_requested("refund", child_task_id=child_id(), reason="no need"),
        cancelled(reason="no need"),
    )
    assert scenario.step("refund").status == "cancelled"
    scenario.when(fail_for_good("refund")).then(refused("refund", outcome="failure", refusal="task_finished"))


def test_without_a_reason_the_child_is_told_one() -> None:
    waiting().when(cancel("")).then(
        child_cancel_requested("refund", reason="its parent was cancelled"), cancelled()
    )


def test_a_child_that_is_left_alone() -> None:
    waiting(parent_close="abandon").when(cancel()).then(cancelled())


def test_only_children_that_run_are_cancelled() -> None:
    plan = compiled(child("a"), child("b"), child("c"), child("d: c"), "e")
    requests = (child_requested("a"), child_requested("b"), child_requested("c"))
    scenario = entered(plan, *requests, enqueued("e")).run(succeed("a"), fail("b"))
    scenario.when(cancel()).then(child_cancel_requested("c"), cancelled("e"))
    assert scenario.statuses() == {
        "a": "complete",
        "b": "cancelled",
        "c": "cancelled",
        "d": "cancelled",
        "e": "cancelled",
    }


def test_a_sibling_fails_while_a_child_runs() -> None:
    plan = compiled(child("a"), "b")
    scenario = entered(plan, child_requested("a"), enqueued("b")).when(fail_for_good("b")).then(failed("b"))
    scenario.when(succeed("a")).then(completed("a"), blocked("b"))


def test_a_child_is_undone_by_its_step_s_compensation() -> None:
    plan = compiled(child("refund", compensation={"handler": {"callable": "take_back"}}), "b: refund")
    scenario = entered(plan, child_requested("refund")).run(succeed("refund", result={"id": 1}))
    scenario.when(fail_for_good("b")).then(failed("b"), undoing("refund"), enqueued("compensate:refund"))
    scenario.when(succeed("compensate:refund")).then(undone("refund"), task_failed("b"))


def test_a_child_behind_a_decision() -> None:
    plan = compiled(step("route", type="decision"), child("refund: route", context={"x": "${steps.route.x}"}))
    scenario = begun(plan).run(choose("route", "refund", result={"x": 5}))
    assert context_of(scenario) == {"x": 5}


# -- the child -----------------------------------------------------------------------------------

LINK = events.ParentLink(
    task_id="parent", step_name="refund", step_uuid="uuid", attempt=2, lease_token="token", result_subject="s"
)


def as_child(plan: Plan) -> Scenario:
    roots = tuple(enqueued(plan.steps[number].name) for number in plan.roots)
    return entered(plan, *roots, parent=LINK, depth=1)


def answer(scenario: Scenario) -> Any:
    """What the child tells its parent, after its way through JSON."""
    outcome = children.ended(scenario.state)
    assert outcome is not None
    assert decode_outcomes(encode(outcome)) == [outcome]
    told = (outcome.task_id, outcome.step_name, outcome.step_uuid, outcome.attempt, outcome.lease_token)
    assert told == ("parent", "refund", "uuid", 2, "token")
    assert outcome.worker_id == f"child:{TASK_ID}"
    return outcome


def test_a_task_without_a_parent_tells_nobody() -> None:
    scenario = begun(compiled("a")).run(succeed("a"))
    assert children.ended(scenario.state) is None


def test_a_child_that_has_not_ended_has_nothing_to_tell() -> None:
    scenario = as_child(compiled("a", "b: a"))
    assert children.ended(scenario.state) is None
    scenario.when(fail_for_good("a")).then(failed("a"), blocked("a"))
    assert children.ended(scenario.state) is None, "an operator may still help"


def test_a_child_knows_its_parent() -> None:
    scenario = as_child(compiled("a"))
    parent = scenario.state.parent
    assert parent is not None
    assert (parent.task_id, parent.step_name, parent.result_subject) == ("parent", "refund", "s")
    assert scenario.state.depth == 1
    told = children.begun(TASK_ID, parent, 9)
    assert told == children.begun(TASK_ID, LINK, 9)
    assert (told.worker_id, told.started_at_ms, told.attempt) == (f"child:{TASK_ID}", 9, 2)


def test_a_child_that_completed() -> None:
    scenario = as_child(compiled("a", "b: a")).later(10).run(succeed("a", result=1)).later(10)
    scenario.run(succeed("b", result={"id": "r_1"}))
    outcome = answer(scenario)
    assert isinstance(outcome, result.Success)
    assert bytes(outcome.result) == b'{"id":"r_1"}'
    assert (outcome.started_at_ms, outcome.duration_ms) == (T0_MS, 20)


def test_a_child_that_failed() -> None:
    scenario = as_child(compiled("a", on_failure="fail")).run(
        fail_for_good("a", error_message="declined", error_code="CARD")
    )
    outcome = answer(scenario)
    assert isinstance(outcome, result.Failure)
    assert (outcome.error_type, outcome.error_code, outcome.retryable) == (
        "permanent_error",
        "CHILD_TASK_FAILED",
        False,
    )
    assert outcome.error_message == "the child task failed: declined"
    assert msgspec.json.decode(outcome.metadata) == {
        "child_task_id": TASK_ID,
        "child": "tests/scenario:1.0.0",
        "child_status": "error",
        "child_error_code": "CARD",
    }


def test_a_child_that_was_undone() -> None:
    plan = compiled(step("a", compensation={"handler": {"callable": "undo"}}), "b: a")
    scenario = as_child(plan).run(succeed("a"), fail_for_good("b", error_message="no"))
    assert children.ended(scenario.state) is None
    scenario.run(succeed("compensate:a"))
    assert answer(scenario).error_message == "the child task failed: no"


def test_a_child_that_was_cancelled() -> None:
    outcome = answer(as_child(compiled("a")).run(cancel("no need")))
    assert isinstance(outcome, result.Failure)
    assert (outcome.error_code, outcome.retryable) == ("CHILD_TASK_CANCELLED", False)
    assert outcome.error_message == "the child task was cancelled: no need"


def test_a_long_error_message_is_cut() -> None:
    scenario = as_child(compiled("a", on_failure="fail")).run(fail_for_good("a", error_message="x" * 8_192))
    assert len(answer(scenario).error_message) == result.ERROR_MESSAGE_CHARS_MAX


def test_a_result_that_is_too_large_for_a_step() -> None:
    plan = compiled("a", "b")
    half = "x" * (RESULT_BYTES_MAX // 2)
    outcome = answer(as_child(plan).run(succeed("a", result=half), succeed("b", result=half)))
    assert isinstance(outcome, result.Failure)
    assert outcome.error_code == "RESULT_TOO_LARGE"
    whole = answer(as_child(compiled("a")).run(succeed("a", result="x" * (RESULT_BYTES_MAX - 2))))
    assert isinstance(whole, result.Success)


def test_a_child_that_was_refused() -> None:
    told = children.refused("child", LINK, "NOT_FOUND", "x" * 10_000, retryable=False)
    assert (told.error_type, told.error_code, told.retryable) == ("permanent_error", "NOT_FOUND", False)
    assert len(told.error_message) == result.ERROR_MESSAGE_CHARS_MAX
    again = children.refused("child", LINK, "BUSY", "busy", retryable=True)
    assert (again.error_type, again.retryable) == ("retryable_error", True)


# -- what a task has come to -------------------------------------------------------------------------


def came_to(scenario: Scenario) -> Any:
    assert scenario.state.is_terminal
    return msgspec.json.decode(children.task_result(scenario.state))


def test_the_result_of_the_last_step() -> None:
    scenario = begun(compiled("a", "b: a")).run(succeed("a", result=1), succeed("b", result=None))
    assert children.task_result(scenario.state) == "null"


def test_the_results_of_several_last_steps() -> None:
    scenario = begun(compiled("a", "b: a", "c: a", "d"))
    scenario.run(succeed("a", result=0), succeed("b", result=1), succeed("c", result=[2]), succeed("d"))
    assert came_to(scenario) == {"b": 1, "c": [2], "d": None}


def test_branches_that_were_not_taken_are_no_last_steps() -> None:
    plan = compiled(step("route", type="decision"), "a: route", "b: route", "c: b")
    scenario = begun(plan).run(choose("route", "a", result={"r": 1}), succeed("a", result="a"))
    assert came_to(scenario) == "a"
    declined = begun(plan).run(decline("route", result={"r": 1}))
    assert came_to(declined) == {"r": 1}


def test_a_last_step_that_was_skipped_has_no_result() -> None:
    plan = compiled(step("route", type="decision"), "a: route", step("join: a", type="deferred_convergence"))
    assert came_to(begun(plan).run(decline("route"))) is None


@pytest.mark.parametrize("strategy", ["isolate", "continue_on_failure"])
def test_batches_at_the_end(strategy: str) -> None:
    plan = compiled(
        step("cut", type="batchable", batch_config={"failure_strategy": strategy}),
        step("load: cut", type="batch_worker"),
    )
    scenario = begun(plan).run(
        cut("cut", 1, 2, 3), succeed("load_001", result=1), succeed("load_003", result=3)
    )
    if strategy == "isolate":
        scenario.run(succeed("load_002", result=2))
        assert came_to(scenario) == {"load_001": 1, "load_002": 2, "load_003": 3}
    else:
        scenario.run(fail_for_good("load_002"))
        assert came_to(scenario) == {"load_001": 1, "load_003": 3}
