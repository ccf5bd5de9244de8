"""Domain events: which outcome publishes what, with which payload, and that nothing about them fails a step."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core import Plan
from stepweave_orchestrator.core.operator_commands import ResolveStep
from stepweave_schemas import events, result

from .scenario import (
    Scenario,
    awaited,
    begun,
    blocked,
    cancel,
    checkpointed,
    choose,
    complete,
    completed,
    completed_by_hand,
    cut,
    enqueued,
    entered,
    fail,
    fail_for_good,
    failed,
    lose,
    not_published,
    published,
    received,
    refused,
    resolved,
    retry,
    routed,
    save,
    say,
    send,
    start,
    started,
    succeed,
    task_completed,
    wake,
    wish,
)
from .templates import AT_ONCE, EVERY_SECOND, checked, compiled, step

AMOUNT: dict[str, Any] = {
    "type": "object",
    "required": ["amount"],
    "properties": {"amount": {"type": "number"}},
}


def pay(*publishes: Any, **settings: Any) -> dict[str, Any]:
    """The step `pay`; an event may be given by its name alone."""
    listed = [{"name": each} if isinstance(each, str) else each for each in publishes]
    return step("pay", publishes_events=listed, **{"retry": EVERY_SECOND, **settings})


def running(plan: Plan) -> Scenario:
    """The task, its first step given out."""
    return begun(plan)


# -- what is published by itself -------------------------------------------------------------------


def test_a_success_publishes_its_result_between_the_step_and_what_follows() -> None:
    scenario = running(compiled(pay("order.paid"), "ship: pay"))
    scenario.when(succeed("pay", result={"amount": 5})).then(
        completed("pay"),
        published("pay", "order.paid", payload={"amount": 5}, outcome="success"),
        enqueued("ship"),
    )
    event = scenario.last(events.DomainPublished)
    assert (event.task_name, event.namespace, event.template_version) == ("scenario", "tests", "1.0.0")
    # The same word again is no news, nor is one that comes after the end.
    scenario.when(succeed("pay", result={"amount": 5})).then_rejected("DUPLICATE")
    scenario.when(succeed("ship")).then(completed("ship"), task_completed())


def test_what_an_operator_has_completed_publishes_as_a_worker_would() -> None:
    event = {"name": "order.paid", "payload_schema": AMOUNT}
    plan = checked(pay(event, "order.noted", {"name": "no.luck", "condition": "failure"}), "ship: pay")
    scenario = running(plan).run(fail_for_good("pay"))
    scenario.when(complete("pay", {"amount": 5})).then(
        completed_by_hand("pay"),
        published("pay", "order.paid", payload={"amount": 5}, outcome="success"),
        published("pay", "order.noted", payload={"amount": 5}, outcome="success"),
        enqueued("ship"),
    )
    # What does not fit is recorded, as ever.
    running(plan).when(complete("pay", {})).then(
        completed_by_hand("pay"),
        not_published("pay", "order.paid", "payload_invalid"),
        published("pay", "order.noted", payload={}),
        enqueued("ship"),
    )
    # Without a result there is nothing to say.
    running(plan).when(wish(ResolveStep, "pay")).then(resolved("pay"), enqueued("ship"))


@pytest.mark.parametrize(
    ("condition", "on"),
    [
        ("success", {"success"}),
        ("failure", {"retryable_failure", "permanent_failure"}),
        ("retryable_failure", {"retryable_failure"}),
        ("permanent_failure", {"permanent_failure"}),
        ("always", {"success", "retryable_failure", "permanent_failure"}),
    ],
)
def test_the_condition_is_about_how_a_try_ends(condition: str, on: set[str]) -> None:
    def after(outcome: str, attempt: int = 1) -> list[Any]:
        return [published("pay", "it.ended", attempt, outcome=outcome)] if outcome in on else []

    plan = compiled(pay({"name": "it.ended", "condition": condition}, retry={**AT_ONCE, "max_attempts": 2}))
    scenario = running(plan)
    scenario.when(fail("pay")).then(retry("pay"), *after("retryable_failure"), enqueued("pay", 2))
    scenario.when(succeed("pay")).then(completed("pay", 2), *after("success", 2), task_completed())
    scenario = running(plan).run(fail("pay"))
    scenario.when(fail("pay")).then(failed("pay", 2), *after("permanent_failure", 2), blocked("pay"))


def test_a_failure_publishes_what_is_known_of_it() -> None:
    plan = compiled(pay({"name": "payment.failed", "condition": "permanent_failure"}))
    scenario = running(plan)
    scenario.when(fail_for_good("pay", error_code="CARD", error_message="declined")).then(
        failed("pay"), published("pay", "payment.failed"), blocked("pay")
    )
    assert json.loads(bytes(scenario.last(events.DomainPublished).payload)) == {
        "error_type": "permanent_error",
        "error_code": "CARD",
        "error_message": "declined",
        "attempt": 1,
        "max_attempts": 3,
    }


def test_a_lost_worker_and_a_time_out_are_failures_too() -> None:
    event = {"name": "it.failed", "condition": "failure"}
    scenario = running(compiled(pay(event, timeout_seconds=10))).when(lose("pay"))
    scenario.then(
        retry("pay"), published("pay", "it.failed", outcome="retryable_failure"), enqueued("pay", 2)
    )
    scenario.when(start("pay")).then(started("pay", 2)).later(20_000)
    scenario.when(wake()).then(retry("pay", 2), published("pay", "it.failed", 2))
    assert json.loads(bytes(scenario.last(events.DomainPublished).payload))["error_code"] == "STEP_TIMEOUT"


def test_cancelling_publishes_nothing_and_a_late_result_neither() -> None:
    scenario = running(compiled(pay({"name": "it.ended", "condition": "always"}))).run(cancel())
    scenario.when(succeed("pay", domain_events=(say("it.ended"),))).then(refused("pay"))


# -- what handlers publish -------------------------------------------------------------------------


def test_what_the_handler_says_takes_the_place_of_its_result() -> None:
    plan = compiled(pay("order.paid", "order.counted", {"name": "order.flagged", "payload": "handler"}))
    said = (say("order.paid", {"n": 1}), say("order.paid", {"n": 2}))
    running(plan).when(succeed("pay", result={"r": 1}, domain_events=said)).then(
        completed("pay"),
        published("pay", "order.paid", payload={"n": 1}),
        published("pay", "order.paid", payload={"n": 2}),
        published("pay", "order.counted", payload={"r": 1}),
        task_completed(),
    )
    running(plan).when(succeed("pay", domain_events=(say("order.flagged", "fraud"),))).then(
        completed("pay"),
        published("pay", "order.flagged", payload="fraud"),
        published("pay", "order.paid"),
        published("pay", "order.counted"),
        task_completed(),
    )


def test_any_handler_may_publish_what_the_workflow_declares() -> None:
    plan = compiled("pay", domain_events=[{"name": "stock.low"}])
    assert plan.swift
    scenario = running(plan)
    # The try fails and is repeated: what it said counts only where it ends well.
    scenario.when(fail("pay", domain_events=(say("stock.low"),))).then(retry("pay")).later(1_000)
    scenario.run(wake()).when(succeed("pay", domain_events=(say("stock.low", {"left": 2}),))).then(
        completed("pay", 2), published("pay", "stock.low", 2, payload={"left": 2}), task_completed()
    )


def test_a_compensation_publishes_what_its_handler_says_and_nothing_by_itself() -> None:
    plan = compiled(
        step(
            "pay", compensation={"handler": {"callable": "refund"}}, publishes_events=[{"name": "order.paid"}]
        ),
        step("ship: pay", retry=AT_ONCE),
        domain_events=[{"name": "order.refunded"}],
    )
    scenario = running(plan).run(succeed("pay"), fail_for_good("ship"))
    said = (say("order.refunded", 5), say("order.paid"))
    scenario.run(succeed("compensate:pay", domain_events=said))
    told = [event for event, _ in scenario.history if isinstance(event, events.DomainPublished)]
    assert [(event.step_name, event.name) for event in told] == [
        ("pay", "order.paid"),
        ("compensate:pay", "order.refunded"),
    ]
    assert scenario.last(events.StepDomainEventRefused).refusal == "undeclared"
    assert scenario.status == "error"


def test_a_checkpoint_takes_along_what_was_said_up_to_it() -> None:
    plan = compiled(pay("order.paid", {"name": "it.failed", "condition": "failure"}))
    said = (say("order.paid", 1), say("it.failed", 1))
    scenario = running(plan).when(save("pay", 1, items_processed=1, domain_events=said))
    scenario.then(
        checkpointed("pay"), published("pay", "order.paid", payload=1, outcome="checkpoint"), enqueued("pay")
    )
    scenario.when(succeed("pay", result=2)).then(
        completed("pay"), published("pay", "order.paid", payload=2, outcome="success"), task_completed()
    )


# -- steps of every kind ---------------------------------------------------------------------------


def test_decisions_and_batches_publish_too() -> None:
    plan = compiled(
        step("route", type="decision", publishes_events=[{"name": "route.chosen"}]),
        step("split: route", type="batchable", publishes_events=[{"name": "work.cut"}]),
        step("work: split", type="batch_worker", publishes_events=[{"name": "part.done"}]),
    )
    scenario = running(plan).when(choose("route", "split", result={"by": "size"}))
    scenario.then(
        completed("route"),
        published("route", "route.chosen", payload={"by": "size"}),
        routed("route", "split"),
        enqueued("split"),
    )
    scenario.run(cut("split", 1, 2, result={"rows": 2}), succeed("work_001", result=1), succeed("work_002"))
    told = [event for event, _ in scenario.history if isinstance(event, events.DomainPublished)]
    assert [(event.step_name, event.name) for event in told[1:]] == [
        ("split", "work.cut"),
        ("work_001", "part.done"),
        ("work_002", "part.done"),
    ]
    assert scenario.status == "complete"


def test_a_placeholder_has_done_nothing_to_tell_of() -> None:
    plan = checked(
        step("split", type="batchable"),
        step(
            "work: split",
            type="batch_worker",
            publishes_events=[{"name": "part.done"}],
            result_schema={"required": ["rows"]},
        ),
    )
    scenario = running(plan).run(cut("split", reason="empty"), succeed("work_001", result={"no_op": True}))
    assert scenario.status == "complete"
    assert not any(isinstance(event, events.DomainPublished) for event, _ in scenario.history)


def test_a_signal_and_a_child_publish_with_what_they_brought() -> None:
    waits = step(
        "ask",
        wait_for_signal={"name": "go"},
        handler={"callable": "stepweave:signal"},
        publishes_events=[{"name": "order.approved"}],
    )
    child = step(
        "sub: ask",
        child_task={"name": "other"},
        handler={"callable": "stepweave:child_task"},
        publishes_events=[{"name": "sub.done"}],
    )
    scenario = entered(compiled(waits, child), awaited("ask", "go"))
    scenario.run(send("go", {"ok": True}))
    assert bytes(scenario.last(events.DomainPublished).payload) == b'{"ok":true}'
    scenario.when(succeed("sub", result={"n": 1})).then(
        completed("sub"), published("sub", "sub.done", payload={"n": 1}), task_completed()
    )
    # A signal that came before its step is taken by it, and published all the same.
    early = begun(compiled("first", {**waits, "dependencies": ["first"]}))
    early.when(send("go", 1)).then(received("go"))
    early.when(succeed("first")).then(
        completed("first"),
        awaited("ask", "go"),
        completed("ask"),
        published("ask", "order.approved", payload=1),
        task_completed(),
    )


# -- what is refused -------------------------------------------------------------------------------


def test_a_payload_that_does_not_fit_is_recorded_and_the_step_is_complete() -> None:
    plan = checked(
        pay("order.paid", {"name": "order.counted", "payload_schema": {"type": "integer"}}),
        domain_events=[{"name": "order.paid", "payload_schema": AMOUNT}],
    )
    scenario = running(plan).when(succeed("pay", result={"amount": "5"}))
    scenario.then(
        completed("pay"),
        not_published("pay", "order.paid", "payload_invalid"),
        not_published("pay", "order.counted", "payload_invalid"),
        task_completed(),
    )
    refusals = [event for event, _ in scenario.history if isinstance(event, events.StepDomainEventRefused)]
    assert "/amount" in refusals[0].message
    said = (say("order.paid", {"amount": 5}), say("order.counted", 1))
    running(plan).when(succeed("pay", domain_events=said)).then(
        completed("pay"), published("pay", "order.paid"), published("pay", "order.counted"), task_completed()
    )


def test_what_else_is_refused() -> None:
    large = {"x": "y" * result.DOMAIN_EVENT_BYTES_MAX}
    said = (say("order.shipped", 1), say("order.noted", problem="payload.at: no JSON"))
    plan = compiled(pay("order.paid", "order.noted"))
    scenario = running(plan).when(succeed("pay", result=large, domain_events=said))
    scenario.then(
        completed("pay"),
        not_published("pay", "order.shipped", "undeclared"),
        not_published("pay", "order.noted", "not_published", message="payload.at: no JSON"),
        not_published("pay", "order.paid", "payload_too_large"),
        task_completed(),
    )
    bare = running(compiled("pay")).when(succeed("pay", domain_events=(say("x"),)))
    bare.then(completed("pay"), not_published("pay", "x", "undeclared"), task_completed())
    assert "publishes_events" in bare.last(events.StepDomainEventRefused).message


# -- results ---------------------------------------------------------------------------------------


def test_a_result_that_does_not_fit_its_schema_is_a_failure_for_good() -> None:
    plan = checked(
        pay({"name": "it.failed", "condition": "permanent_failure"}, result_schema=AMOUNT), "ship: pay"
    )
    assert not plan.swift
    scenario = running(plan).when(succeed("pay", result={"amount": "5"}))
    scenario.then(
        failed(
            "pay",
            error_type="validation_error",
            error_code="RESULT_INVALID",
            failure_reason="permanent",
            settled_by="failure",
        ),
        published("pay", "it.failed"),
        blocked("pay", error_code="RESULT_INVALID"),
    )
    event = scenario.last(events.StepFailed)
    assert "result_schema of step 'pay'" in event.error_message
    assert "/amount" in event.error_message
    violations = msgspec.json.decode(event.metadata)["violations"]
    assert [each["pointer"] for each in violations] == ["/amount"]
    running(plan).when(succeed("pay", result={"amount": 5})).then(completed("pay"), enqueued("ship"))


def test_results_of_every_kind_are_checked() -> None:
    plan = checked(
        step("route", type="decision", result_schema=AMOUNT),
        step("split: route", type="batchable", result_schema=AMOUNT),
        step("work: split", type="batch_worker", result_schema=AMOUNT),
        step("sub: work", child_task={"name": "other"}, handler={"callable": "c"}, result_schema=AMOUNT),
    )
    good = {"amount": 1}
    told = [
        choose("route", "split", result=good),
        cut("split", 1, result=good),
        succeed("work_001", result=good),
    ]
    for number in range(3):
        scenario = running(plan).run(*told[:number])
        bad = [choose("route", "split", result=1), cut("split", 1, result=1), succeed("work_001", result=1)]
        scenario.run(bad[number])
        assert scenario.last(events.StepFailed).error_code == "RESULT_INVALID"
        assert scenario.status == "blocked_by_failures"
    scenario = running(plan).run(*told).run(succeed("sub", result=[]))
    assert scenario.last(events.StepFailed).error_code == "RESULT_INVALID"


def test_a_compensation_has_no_schema() -> None:
    undo = {"handler": {"callable": "refund"}}
    plan = checked(step("pay", compensation=undo, result_schema=AMOUNT), "ship: pay")
    scenario = running(plan).run(succeed("pay", result={"amount": 1}), fail_for_good("ship"))
    scenario.run(succeed("compensate:pay", result="done"))
    assert scenario.status == "error"
    assert scenario.state.compensation_status == "complete"


def test_a_step_beside_checked_ones_is_not_looked_at() -> None:
    assert compiled("a", "b: a").swift
    assert compiled("a", "b: a", domain_events=[{"name": "x"}]).swift
    assert not compiled("a", step("b: a", result_schema={})).swift


def test_what_is_sent_at_once() -> None:
    plan = compiled(
        pay({"name": "a.fast", "delivery": "fast"}, "b.common", {"name": "c.common", "delivery": "durable"}),
        step("ship: pay", publishes_events=[{"name": "a.fast"}]),
        domain_events=[{"name": "b.common", "delivery": "fast"}, {"name": "c.common", "delivery": "fast"}],
    )
    pay_step, ship = plan.index["pay"], plan.index["ship"]
    fast = [(step, name) for step in (pay_step, ship) for name in ("a.fast", "b.common", "c.common", "d")]
    assert [each for each in fast if plan.is_fast(*each)] == [
        (pay_step, "a.fast"),
        (pay_step, "b.common"),
        (ship, "b.common"),
        (ship, "c.common"),
    ]
