"""Sagas: what is undone, in which order, and what a task that was undone says of itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core import Plan, build_dispatch
from stepweave_orchestrator.core.dispatching import all_result_numbers, result_numbers
from stepweave_schemas import events, result
from stepweave_schemas.codec import encode
from stepweave_schemas.dispatch import DISPATCH_BYTES_MAX, Dispatch
from stepweave_schemas.identity import step_uuid

from .scenario import (
    TASK_ID,
    Scenario,
    begun,
    blocked,
    cancel,
    checkpointed,
    choose,
    completed,
    cut,
    decline,
    enqueued,
    fail,
    fail_for_good,
    failed,
    lose,
    not_undone,
    refused,
    release,
    released,
    retry,
    save,
    skipped,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    undoing,
    undone,
    wake,
)
from .templates import AT_ONCE, EVERY_SECOND, compiled, step
from .test_size import Run


def undoable(text: str, handler: str = "", **settings: Any) -> dict[str, Any]:
    """A step with a compensation `undo_<step>`; its settings may name another `compensation_retry`."""
    name = text.partition(":")[0]
    compensation = {
        "handler": {"callable": handler or f"undo_{name}"},
        "retry": settings.pop("compensation_retry", EVERY_SECOND),
        **settings.pop("compensation", {}),
    }
    return step(text, **{"retry": EVERY_SECOND, "compensation": compensation, **settings})


def registration() -> Plan:
    return compiled(
        undoable("account"), undoable("billing: account"), undoable("mail: billing"), "done: mail"
    )


def failed_at_the_end(**how: Any) -> Scenario:
    """The registration, whose last step failed."""
    scenario = begun(registration()).run(succeed("account"), succeed("billing"), succeed("mail"))
    return scenario.run(fail_for_good("done", **how))


def order(scenario: Scenario, name: str) -> Dispatch:
    current = scenario.step(name)
    dispatch = build_dispatch(scenario.state, name, current.attempt, current.lease_token, "subject")
    assert dispatch is not None
    return dispatch


# -- the order -----------------------------------------------------------------------------------


def test_the_last_step_is_undone_first() -> None:
    scenario = begun(registration()).run(succeed("account"), succeed("billing"), succeed("mail"))
    scenario.when(fail_for_good("done", error_message="no", error_code="E"))
    scenario.then(
        failed("done"),
        undoing(
            "account",
            "billing",
            "mail",
            failed_steps=("done",),
            error_message="no",
            error_code="E",
            handlers={},
        ),
        enqueued("compensate:mail", step_uuid=step_uuid(TASK_ID, "compensate:mail")),
    )
    assert scenario.status == "compensating"
    assert scenario.state.compensation_status == "running"
    assert scenario.statuses() == {
        "account": "complete",
        "billing": "complete",
        "mail": "compensating",
        "done": "error",
        "compensate:account": "pending",
        "compensate:billing": "pending",
        "compensate:mail": "enqueued",
    }
    scenario.when(succeed("compensate:mail", result={"ok": True}))
    scenario.then(
        undone("mail", result=msgspec.Raw(b'{"ok":true}'), requires_manual_cleanup=False),
        enqueued("compensate:billing"),
    )
    assert scenario.step("mail").status == "compensated"
    scenario.when(succeed("compensate:billing")).then(undone("billing"), enqueued("compensate:account"))
    scenario.when(succeed("compensate:account")).then(
        undone("account"),
        task_failed(
            "done",
            compensation_status="complete",
            requires_manual_cleanup=(),
            error_message="no",
            error_code="E",
        ),
    )
    assert scenario.status == "error"
    assert scenario.shown() == ["account", "billing", "mail", "done"]


def test_only_what_was_done_is_undone() -> None:
    scenario = begun(registration()).run(succeed("account")).when(fail_for_good("billing"))
    scenario.then(failed("billing"), undoing("account"), enqueued("compensate:account"))
    scenario.when(succeed("compensate:account")).then(
        undone("account"), task_failed("billing", compensation_status="complete")
    )


def test_steps_without_a_compensation_hold_nothing_up() -> None:
    plan = compiled(undoable("a"), "b: a", "c: b", undoable("d: c"), "e: d")
    scenario = (
        begun(plan).run(succeed("a"), succeed("b"), succeed("c"), succeed("d")).when(fail_for_good("e"))
    )
    scenario.then(failed("e"), undoing("a", "d"), enqueued("compensate:d"))
    scenario.when(succeed("compensate:d")).then(undone("d"), enqueued("compensate:a"))


def test_branches_are_undone_beside_each_other() -> None:
    plan = compiled(undoable("a"), undoable("b: a"), undoable("c: a"), "d: b c")
    scenario = begun(plan).run(succeed("a"), succeed("b"), succeed("c")).when(fail_for_good("d"))
    scenario.then(failed("d"), undoing("a", "b", "c"), enqueued("compensate:b"), enqueued("compensate:c"))
    scenario.when(succeed("compensate:c")).then(undone("c"))
    assert scenario.statuses()["compensate:a"] == "pending"
    scenario.when(succeed("compensate:b")).then(undone("b"), enqueued("compensate:a"))


def test_a_long_branch_and_a_short_one() -> None:
    plan = compiled(
        undoable("root"), undoable("a1: root"), undoable("a2: a1"), undoable("b: root"), "end: a2 b"
    )
    scenario = begun(plan).run(succeed("root"), succeed("a1"), succeed("a2"), succeed("b"))
    scenario.when(fail_for_good("end")).then(
        failed("end"), undoing("root", "a1", "a2", "b"), enqueued("compensate:a2"), enqueued("compensate:b")
    )
    scenario.when(succeed("compensate:b")).then(undone("b"))
    scenario.when(succeed("compensate:a2")).then(undone("a2"), enqueued("compensate:a1"))
    scenario.when(succeed("compensate:a1")).then(undone("a1"), enqueued("compensate:root"))


def test_steps_in_progress_are_awaited_before_anything_is_undone() -> None:
    plan = compiled(undoable("a"), undoable("b: a"), undoable("c: a"))
    scenario = begun(plan).run(succeed("a")).when(fail_for_good("b")).then(failed("b"))
    assert scenario.status == "steps_in_process"
    scenario.when(fail("c")).then(retry("c"))
    scenario.later(1_000).when(wake()).then(enqueued("c", 2)).when(succeed("c"))
    scenario.then(completed("c", 2), undoing("a", "c", failed_steps=("b",)), enqueued("compensate:c"))


def test_several_failures() -> None:
    plan = compiled(undoable("a"), undoable("b: a"), undoable("c: a"))
    scenario = begun(plan).run(succeed("a"), fail_for_good("c", error_message="first"))
    scenario.when(fail_for_good("b", error_message="last", error_code="L"))
    scenario.then(
        failed("b"),
        undoing("a", failed_steps=("c", "b"), error_message="last", error_code="L"),
        enqueued("compensate:a"),
    )
    scenario.when(succeed("compensate:a")).then(
        undone("a"), task_failed("c", "b", error_message="last", error_code="L")
    )


def test_nothing_to_undo() -> None:
    scenario = begun(registration()).when(fail_for_good("account"))
    scenario.then(
        failed("account"),
        task_failed("account", compensation_status="complete", requires_manual_cleanup=()),
    )
    assert scenario.status == "error"


def test_the_branches_of_a_decision_are_undone() -> None:
    plan = compiled(
        undoable("first"),
        undoable("route: first", type="decision"),
        undoable("a: route"),
        undoable("b: route"),
        step("join: a b", type="deferred_convergence"),
    )
    scenario = (
        begun(plan).run(succeed("first"), choose("route", "a"), succeed("a")).when(fail_for_good("join"))
    )
    scenario.then(failed("join"), undoing("first", "route", "a"), enqueued("compensate:a"))
    scenario.when(succeed("compensate:a")).then(undone("a"), enqueued("compensate:route"))
    scenario.when(succeed("compensate:route")).then(undone("route"), enqueued("compensate:first"))
    scenario.when(succeed("compensate:first")).then(undone("first"), task_failed("join"))


def test_a_skipped_step_has_nothing_to_undo() -> None:
    plan = compiled(
        step("route", type="decision"),
        "a: route",
        undoable("join: a", type="deferred_convergence"),
        undoable("last: join"),
        "end: last",
    )
    scenario = begun(plan).run(decline("route"), succeed("last")).when(fail_for_good("end"))
    assert any(skipped("join").matches(event) for event, _ in scenario.history)
    scenario.then(failed("end"), undoing("last"), enqueued("compensate:last"))
    scenario.when(succeed("compensate:last")).then(undone("last"), task_failed("end"))


# -- what a compensation is told -------------------------------------------------------------------


def test_a_compensation_knows_what_it_undoes() -> None:
    plan = compiled(
        "cart",
        undoable("pay: cart", queue="payments", compensation={"timeout_seconds": 5.0}),
        "ship: pay",
    )
    scenario = begun(plan).run(succeed("cart", result={"total": 7}), succeed("pay", result={"id": "ch_1"}))
    scenario.run(fail_for_good("ship"))
    dispatch = order(scenario, "compensate:pay")
    assert (dispatch.handler, dispatch.step_name, dispatch.compensates) == (
        "undo_pay",
        "compensate:pay",
        "pay",
    )
    assert dispatch.step_uuid == step_uuid(TASK_ID, "compensate:pay") != scenario.step("pay").uuid
    assert dispatch.compensates_step_uuid == scenario.step("pay").uuid
    assert (dispatch.attempt, dispatch.max_attempts, dispatch.timeout_ms) == (1, 3, 5_000)
    assert {name: bytes(text) for name, text in dispatch.dependency_results.items()} == {
        "pay": b'{"id":"ch_1"}',
        "cart": b'{"total":7}',
    }
    assert list(dispatch.dependency_results) == ["pay", "cart"]
    assert dispatch.dependency_results_complete
    number = scenario.state.number_of("compensate:pay")
    assert result_numbers(scenario.state, number)[0] == all_result_numbers(scenario.state, number) == [1, 0]
    assert scenario.state.spec_of(number).queue == "payments"


# -- batches -------------------------------------------------------------------------------------


def batches(**config: Any) -> Plan:
    return compiled(
        undoable("cut", type="batchable", batch_config=config),
        undoable("load: cut", type="batch_worker"),
        step("merge: load", type="deferred_convergence"),
    )


def test_each_batch_that_was_done_is_undone() -> None:
    scenario = begun(batches()).run(
        cut("cut", 10, 20, 30), succeed("load_001", result=1), fail_for_good("load_002")
    )
    scenario.when(succeed("load_003")).then(
        completed("load_003"),
        undoing("cut", "load", failed_steps=("load_002",)),
        enqueued("compensate:load_001"),
        enqueued("compensate:load_003"),
    )
    dispatch = order(scenario, "compensate:load_001")
    assert (dispatch.compensates, dispatch.handler) == ("load_001", "undo_load")
    assert msgspec.json.decode(dispatch.step_inputs)["cursor"] == 10
    assert msgspec.json.decode(dispatch.step_inputs)["batch_id"] == "001"
    assert dispatch.dependency_results["load_001"] == msgspec.Raw(b"1")
    scenario.when(succeed("compensate:load_003")).then(undone("load_003"))
    scenario.when(succeed("compensate:load_001")).then(undone("load_001"), enqueued("compensate:cut"))
    assert "batch_config" in msgspec.json.decode(order(scenario, "compensate:cut").step_inputs)
    scenario.when(succeed("compensate:cut")).then(undone("cut"), task_failed("load_002"))


def test_the_batches_of_a_finished_batch_are_undone_too() -> None:
    scenario = begun(batches()).run(cut("cut", 1, 2), succeed("load_001"), succeed("load_002"))
    scenario.when(fail_for_good("merge"))
    scenario.then(
        failed("merge"),
        undoing("cut", "load"),
        enqueued("compensate:load_001"),
        enqueued("compensate:load_002"),
    )
    scenario.run(succeed("compensate:load_001"), succeed("compensate:load_002"))
    scenario.when(succeed("compensate:cut")).then(undone("cut"), task_failed("merge"))


@pytest.mark.parametrize("name", ["load_002", "load", "undo_load"])
def test_a_failed_batch_may_want_to_be_undone_itself(name: str) -> None:
    """By its own name, by that of its template, or by its handler; beside those that were done."""
    scenario = begun(batches()).run(cut("cut", 1, 2), succeed("load_001"))
    scenario.when(fail_for_good("load_002", compensation_steps=[name])).then(
        failed("load_002", compensation_steps=(name,)),
        undoing("cut", "load", "load_002", handlers={}),
        enqueued("compensate:load_001"),
        enqueued("compensate:load_002"),
    )
    scenario.run(succeed("compensate:load_001"))
    scenario.when(succeed("compensate:load_002")).then(undone("load_002"), enqueued("compensate:cut"))
    assert scenario.step("load_002").status == "error"
    scenario.when(succeed("compensate:cut")).then(undone("cut"), task_failed("load_002"))


def test_a_failure_that_was_put_up_with_counts_once_the_task_cannot_complete() -> None:
    strategy = batches(failure_strategy="continue_on_failure")
    scenario = begun(strategy).run(
        cut("cut", 1, 2), fail_for_good("load_001", compensation_steps=["load_001", "x"])
    )
    scenario.run(succeed("load_002")).when(fail_for_good("merge"))
    scenario.then(
        failed("merge"),
        undoing("cut", "load", "load_001", failed_steps=("merge",), handlers={"x": "load_001"}),
        enqueued("compensate:load_002"),
        enqueued("compensate:load_001"),
        enqueued("compensate:x"),
    )
    completes = begun(strategy).run(
        cut("cut", 1, 2), fail_for_good("load_001", compensation_steps=["load_001"])
    )
    completes.run(succeed("load_002")).when(succeed("merge")).then(completed("merge"), task_completed())


def test_a_batch_in_which_nothing_was_done() -> None:
    scenario = begun(batches(failure_strategy="continue_on_failure")).run(
        cut("cut", 1, 2), fail_for_good("load_001")
    )
    scenario.when(fail_for_good("load_002"))
    scenario.then(failed("load_002"), undoing("cut"), enqueued("compensate:cut"))


def test_a_placeholder_has_done_nothing() -> None:
    scenario = begun(batches()).run(cut("cut"), succeed("load_001")).when(fail_for_good("merge"))
    scenario.then(failed("merge"), undoing("cut"), enqueued("compensate:cut"))


# -- compensations that fail -------------------------------------------------------------------------


def test_a_compensation_is_tried_again() -> None:
    scenario = failed_at_the_end().when(fail("compensate:mail", error_message="busy"))
    scenario.then(retry("compensate:mail", delay_ms=1_000, error_message="busy"))
    assert scenario.status == "compensating"
    assert scenario.state.next_wake_ms() == scenario.now_ms + 1_000
    scenario.later(1_000).when(wake()).then(enqueued("compensate:mail", 2))
    scenario.when(succeed("compensate:mail")).then(undone("mail", 2), enqueued("compensate:billing"))


def test_a_compensation_that_fails_for_good_does_not_stop_the_others() -> None:
    scenario = failed_at_the_end()
    scenario.when(fail_for_good("compensate:mail", error_message="gone", error_code="G"))
    scenario.then(
        not_undone(
            "mail",
            error_message="gone",
            error_code="G",
            failure_reason="permanent",
            settled_by="failure",
            requires_manual_cleanup=True,
        ),
        enqueued("compensate:billing"),
    )
    assert scenario.step("mail").status == "complete"
    assert scenario.step("mail").requires_manual_cleanup
    scenario.when(succeed("compensate:billing")).then(undone("billing"), enqueued("compensate:account"))
    scenario.when(succeed("compensate:account")).then(
        undone("account"),
        task_failed(
            "done", compensation_status="partial", requires_manual_cleanup=("mail",), error_message="boom"
        ),
    )


def test_the_last_compensation_fails() -> None:
    scenario = failed_at_the_end().run(succeed("compensate:mail"), succeed("compensate:billing"))
    scenario.when(fail_for_good("compensate:account")).then(
        not_undone("account"),
        task_failed("done", compensation_status="partial", requires_manual_cleanup=("account",)),
    )


def test_the_tries_of_a_compensation_are_its_own() -> None:
    plan = compiled(undoable("a", compensation_retry={**AT_ONCE, "max_attempts": 2}), "b: a")
    scenario = begun(plan).run(succeed("a"), fail_for_good("b"))
    scenario.when(fail("compensate:a")).then(retry("compensate:a"), enqueued("compensate:a", 2))
    scenario.when(fail("compensate:a")).then(
        not_undone("a", 2, failure_reason="attempts_exhausted"),
        task_failed("b", compensation_status="partial", requires_manual_cleanup=("a",)),
    )


def test_a_compensation_that_says_it_could_not_undo_everything() -> None:
    scenario = failed_at_the_end().when(succeed("compensate:mail", result={"requires_manual_cleanup": True}))
    scenario.then(undone("mail", requires_manual_cleanup=True), enqueued("compensate:billing"))
    assert scenario.step("mail").status == "complete"
    scenario.run(succeed("compensate:billing")).when(succeed("compensate:account"))
    scenario.then(
        undone("account"),
        task_failed("done", compensation_status="partial", requires_manual_cleanup=("mail",)),
    )


@pytest.mark.parametrize(
    "said", [{"requires_manual_cleanup": False}, {"requires_manual_cleanup": 1}, [True], "x", None]
)
def test_any_other_result_is_a_success(said: object) -> None:
    scenario = failed_at_the_end().when(succeed("compensate:mail", result=said))
    scenario.then(undone("mail", requires_manual_cleanup=False), enqueued("compensate:billing"))
    assert scenario.step("mail").status == "compensated"


def test_workers_of_compensations_are_lost_like_others() -> None:
    scenario = failed_at_the_end().when(lose("compensate:mail"))
    scenario.then(retry("compensate:mail", settled_by="lost"), enqueued("compensate:mail", 2))
    scenario.when(release("compensate:mail")).then(
        released("compensate:mail", 2), enqueued("compensate:mail", 2)
    )
    scenario.when(succeed("compensate:mail", 1)).then(refused("compensate:mail", 1, refusal="stale_attempt"))
    scenario.when(save("compensate:mail", 1)).then(
        checkpointed("compensate:mail", 2), enqueued("compensate:mail", 2)
    )
    scenario.when(succeed("compensate:mail")).then(undone("mail", 2), enqueued("compensate:billing"))
    scenario.when(succeed("compensate:mail")).then_rejected("DUPLICATE")
    scenario.when(fail("compensate:mail")).then(refused("compensate:mail", 2, refusal="step_finished"))


def test_the_time_of_a_compensation_is_over() -> None:
    plan = compiled(
        undoable("a", compensation={"timeout_seconds": 1.0}, compensation_retry={"max_attempts": 1}),
        undoable("b", compensation={"timeout_seconds": 1.0}, compensation_retry={"max_attempts": 1}),
        undoable("root_of_none: a b"),
        "c: root_of_none",
    )
    scenario = begun(plan).run(succeed("a"), succeed("b"), succeed("root_of_none"), fail_for_good("c"))
    scenario.run(succeed("compensate:root_of_none"))
    scenario.when(start("compensate:a")).then(started("compensate:a"))
    scenario.when(start("compensate:b")).then(started("compensate:b"))
    # Both in one decision, and with them the end.
    scenario.later(6_000).when(wake()).then(
        not_undone("a", settled_by="timeout", error_code="STEP_TIMEOUT"),
        not_undone("b", settled_by="timeout"),
        task_failed("c", compensation_status="partial", requires_manual_cleanup=("a", "b")),
    )


@pytest.mark.parametrize(
    "told", [choose("compensate:mail", "done"), decline("compensate:mail"), cut("compensate:mail", 1)]
)
def test_a_compensation_decides_nothing(told: Any) -> None:
    scenario = failed_at_the_end().when(told)
    scenario.then(not_undone("mail", error_code="UNEXPECTED_OUTCOME"), enqueued("compensate:billing"))


def test_what_a_failed_compensation_wants_undone_is_not() -> None:
    scenario = failed_at_the_end().when(fail_for_good("compensate:mail", compensation_steps=["other"]))
    scenario.then(not_undone("mail"), enqueued("compensate:billing"))


# -- while it is undone --------------------------------------------------------------------------


def test_a_task_that_is_being_undone_cannot_be_cancelled() -> None:
    scenario = failed_at_the_end().when(cancel()).then_rejected("CONFLICT")
    scenario.run(succeed("compensate:mail"), succeed("compensate:billing"), succeed("compensate:account"))
    scenario.when(cancel()).then_rejected("CONFLICT")


def test_results_that_come_while_it_is_undone() -> None:
    scenario = failed_at_the_end()
    for name in ("account", "mail"):
        scenario.when(succeed(name)).then_rejected("DUPLICATE")
    scenario.run(succeed("compensate:mail"))
    scenario.when(succeed("mail")).then_rejected("DUPLICATE")
    scenario.when(fail("mail")).then(refused("mail", refusal="step_finished", outcome="failure"))
    scenario.when(succeed("done")).then(refused("done", refusal="step_finished"))
    scenario.when(succeed("compensate:account", 0).by(lease_token="")).then_rejected("WRONG_TOKEN")
    scenario.when(succeed("compensate:nobody", 1).by(lease_token="x")).then_rejected("UNKNOWN_STEP")


def test_a_wake_for_nothing() -> None:
    failed_at_the_end().later(10**9).when(wake()).then_nothing()


# -- what a failure names --------------------------------------------------------------------------


def test_the_failed_step_may_want_to_be_undone_itself() -> None:
    scenario = begun(registration()).run(succeed("account"))
    scenario.when(fail_for_good("billing", compensation_steps=["billing"])).then(
        failed("billing", compensation_steps=("billing",)),
        undoing("account", "billing", handlers={}),
        enqueued("compensate:billing"),
    )
    dispatch = order(scenario, "compensate:billing")
    assert dispatch.compensates == "billing"
    assert set(dispatch.dependency_results) == {"account"}, "it has no result of its own"
    assert scenario.step("billing").status == "error"
    scenario.when(succeed("compensate:billing")).then(undone("billing"), enqueued("compensate:account"))
    assert scenario.step("billing").status == "error"
    scenario.when(succeed("compensate:account")).then(undone("account"), task_failed("billing"))


def test_by_the_name_of_its_handler() -> None:
    scenario = begun(registration()).run(succeed("account"))
    scenario.when(fail_for_good("billing", compensation_steps=["undo_billing", "undo_mail", "undo_account"]))
    scenario.then(
        failed("billing"), undoing("account", "billing", handlers={}), enqueued("compensate:billing")
    )


def test_naming_what_is_undone_anyway_changes_nothing() -> None:
    scenario = failed_at_the_end(compensation_steps=["mail", "account", "undo_mail"])
    started_undoing = scenario.last(events.CompensationStarted)
    assert (started_undoing.steps, started_undoing.handlers) == (("account", "billing", "mail"), {})


def test_steps_that_never_ran_are_not_undone() -> None:
    scenario = begun(registration()).run(succeed("account"))
    scenario.when(fail_for_good("billing", compensation_steps=["mail"]))
    scenario.then(failed("billing"), undoing("account"), enqueued("compensate:account"))


def test_a_handler_that_no_step_declares() -> None:
    scenario = begun(registration()).run(succeed("account", result=1))
    scenario.when(fail_for_good("billing", compensation_steps=["release_stock"])).then(
        failed("billing"),
        undoing("account", handlers={"release_stock": "billing"}),
        enqueued("compensate:release_stock"),
    )
    dispatch = order(scenario, "compensate:release_stock")
    assert (dispatch.handler, dispatch.compensates, dispatch.max_attempts) == ("release_stock", "billing", 3)
    assert dispatch.dependency_results == {"account": msgspec.Raw(b"1")}
    # It belongs to the step that named it: what that one depended on is undone after it.
    scenario.when(succeed("compensate:release_stock"))
    decision = events.CompensationCompleted
    scenario.then(
        _of(decision, "compensate:release_stock", compensates="billing"), enqueued("compensate:account")
    )
    scenario.when(succeed("compensate:account")).then(
        undone("account"), task_failed("billing", compensation_status="complete")
    )


def _of(type: type[events.Event], step_name: str, **fields: Any) -> Any:
    return undone("x").__class__(type, {"step_name": step_name, **fields})


def test_such_a_handler_fails() -> None:
    scenario = begun(registration()).run(fail_for_good("account", compensation_steps=["gone", "gone_too"]))
    scenario.when(fail_for_good("compensate:gone"))
    scenario.then(_of(events.CompensationFailed, "compensate:gone", compensates="account"))
    scenario.when(fail_for_good("compensate:gone_too")).then(
        _of(events.CompensationFailed, "compensate:gone_too"),
        task_failed("account", compensation_status="partial", requires_manual_cleanup=("account",)),
    )


def test_two_failures_name_the_same_handler() -> None:
    plan = compiled(undoable("a"), "b: a", "c: a")
    scenario = begun(plan).run(succeed("a"), fail_for_good("b", compensation_steps=["x", "y"]))
    scenario.when(fail_for_good("c", compensation_steps=["y", "z"]))
    scenario.then(
        failed("c"),
        undoing("a", handlers={"x": "b", "y": "b", "z": "c"}),
        enqueued("compensate:x"),
        enqueued("compensate:y"),
        enqueued("compensate:z"),
    )
    scenario.run(succeed("compensate:y"), succeed("compensate:z")).when(succeed("compensate:x"))
    scenario.then(_of(events.CompensationCompleted, "compensate:x"), enqueued("compensate:a"))


def test_a_step_that_declares_no_compensation_is_named() -> None:
    """Then it is the handler of that name that is asked for."""
    plan = compiled(undoable("a"), "b: a", "c: b")
    scenario = begun(plan).run(succeed("a"), succeed("b"))
    scenario.when(fail_for_good("c", compensation_steps=["b"]))
    scenario.then(failed("c"), undoing("a", handlers={"b": "c"}), enqueued("compensate:b"))
    assert order(scenario, "compensate:b").handler == "b"


def test_the_names_of_a_try_that_another_one_followed_do_not_count() -> None:
    scenario = begun(registration()).run(succeed("account"))
    scenario.when(fail("billing", compensation_steps=["x"])).then(retry("billing"))
    scenario.later(1_000).when(wake()).then(enqueued("billing", 2))
    scenario.when(fail_for_good("billing")).then(
        failed("billing", 2), undoing("account", handlers={}), enqueued("compensate:account")
    )


# -- what the template says ------------------------------------------------------------------------


def test_a_template_may_block_instead() -> None:
    plan = compiled(undoable("a"), "b: a", on_failure="block")
    begun(plan).run(succeed("a")).when(fail_for_good("b")).then(failed("b"), blocked("b"))


def test_a_template_may_fail_instead() -> None:
    plan = compiled(undoable("a"), "b: a", on_failure="fail")
    scenario = begun(plan).run(succeed("a")).when(fail_for_good("b"))
    scenario.then(failed("b"), task_failed("b", compensation_status=None))


@pytest.mark.parametrize("on_failure", ["block", "fail"])
def test_a_failure_that_names_what_to_undo_wins(on_failure: str) -> None:
    plan = compiled(undoable("a"), "b: a", on_failure=on_failure)
    scenario = begun(plan).run(succeed("a")).when(fail_for_good("b", compensation_steps=["a"]))
    scenario.then(failed("b"), undoing("a"), enqueued("compensate:a"))
    scenario.when(succeed("compensate:a")).then(undone("a"), task_failed("b", compensation_status="complete"))


def test_templates_without_compensations_may_be_undone_by_name() -> None:
    scenario = begun(compiled("a", "b: a")).run(succeed("a"))
    scenario.when(fail_for_good("b", compensation_steps=["undo_all"])).then(
        failed("b"), undoing(handlers={"undo_all": "b"}), enqueued("compensate:undo_all")
    )
    scenario.when(succeed("compensate:undo_all")).then(
        _of(events.CompensationCompleted, "compensate:undo_all"),
        task_failed("b", compensation_status="complete"),
    )


# -- how large it gets -----------------------------------------------------------------------------


def test_very_many_failures_with_very_many_names_fit_into_a_message() -> None:
    worker = f"{'w' * 200}"
    plan = compiled(
        undoable("cut", type="batchable"), undoable(f"{worker}: cut", handler="undo", type="batch_worker")
    )
    run = Run(plan)
    run.begin()
    run.answer(result.Batches, cursors=(msgspec.Raw(b"0"),) * 3_000)
    while run.state.phase != "compensating":
        names = tuple(f"{'h' * 240}{run.state.version}_{number}" for number in range(3))
        run.answer(
            result.Failure, error_message="é" * 8_192, retryable=False, compensation_steps=("undo", *names)
        )
    begin = next(event for event in run.history if isinstance(event, events.CompensationStarted))
    assert len(encode(begin)) < DISPATCH_BYTES_MAX
    assert len(begin.handlers) > 100
    assert len(begin.steps) > 50
    while run.given_out:
        run.answer(result.Success)
    assert run.state.status == "error"
    assert isinstance(run.last, events.TaskFailed)
    assert len(encode(run.last)) < DISPATCH_BYTES_MAX
