"""The payment without a server: its steps one at a time, and whole payments in memory, on a virtual clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry, StepHandlerResult, ValidationFailed
from stepweave.testing import Signal, WorkflowRun, run_handler, run_workflow

from . import handlers, services

FOLDER = Path(__file__).parent
CONTEXT: dict[str, Any] = json.loads((FOLDER / "context.json").read_text())
NOT_CANCELLED = {"cancelled": False}
HOLD = {"authorization_code": "auth_1", "gateway_transaction_id": "gtx_1"}


def payment(token: str = "tok_good", **fields: Any) -> dict[str, Any]:
    return CONTEXT | {"payment_method": {"type": "card", "token": token}} | fields


def pay(context: dict[str, Any], *signals: Signal, cancel_after_seconds: float | None = None) -> WorkflowRun:
    """The whole template in memory; the window between the phases takes no time."""
    registry = Registry()
    registry.discover(handlers)
    return run_workflow(
        FOLDER / "template.yaml",
        registry,
        context,
        signals=signals,
        cancel_after_seconds=cancel_after_seconds,
    )


def undone(run: WorkflowRun) -> list[str]:
    return [event["compensates"] for event in run.events if event.type == "compensation.completed"]


def authorize(token: str, **fields: Any) -> StepHandlerResult:
    return run_handler(handlers.AuthorizePayment, payment(token), **fields)


def capture(token: str, answer: dict[str, Any] = NOT_CANCELLED, **fields: Any) -> StepHandlerResult:
    return run_handler(
        handlers.CapturePayment,
        payment(token),
        dependencies={"authorize_payment": HOLD, "cancellation_window": answer},
        **fields,
    )


@pytest.mark.parametrize(
    ("token", "error_code"),
    [("tok_no_funds", "insufficient_funds"), ("tok_stolen", "invalid_card"), ("tok_typo", "invalid_card")],
)
def test_what_the_gateway_refuses_is_refused_for_good(token: str, error_code: str) -> None:
    result = authorize(token)
    assert (result.error_code, result.retryable, result.compensation_steps) == (error_code, False, [])


def test_a_silent_gateway_is_asked_again_and_names_the_step_itself() -> None:
    result = authorize("tok_slow")
    assert (result.error_type, result.error_code, result.retryable) == ("timeout", "GATEWAY_TIMEOUT", True)
    assert result.compensation_steps == ["authorize_payment"]
    assert authorize("tok_slow", attempt=2).is_success


def test_all_tries_are_one_hold_and_one_capture() -> None:
    task = "0197c3a0-0000-7000-8000-000000000004"
    holds = [authorize("tok_good", attempt=attempt, task_uuid=task).result for attempt in (1, 2)]
    assert holds[0] == holds[1]
    captures = [capture("tok_good", attempt=attempt, task_uuid=task).result for attempt in (1, 2)]
    assert captures[0] == captures[1]


def test_a_capture_that_was_made_is_found() -> None:
    assert capture("tok_capture_lost").error_code == "GATEWAY_TIMEOUT"
    again = capture("tok_capture_lost", attempt=2)
    assert again.result["already_captured"] is True
    assert capture("tok_good").result["already_captured"] is False


def test_a_payment_that_was_called_off_is_not_captured() -> None:
    result = capture("tok_good", {"cancelled": True, "reason": "ordered twice"})
    assert (result.error_code, result.retryable) == ("PAYMENT_CANCELLED", False)
    assert "ordered twice" in result.error_message


@pytest.mark.parametrize(("attempt", "ended"), [(3, False), (4, True)])
def test_only_the_last_try_gives_the_notification_up(attempt: int, ended: bool) -> None:
    result = run_handler(
        handlers.SendNotification,
        payment(simulate={"webhook_down_for_tries": 9}),
        dependencies={"capture_payment": {"receipt": "receipt 1"}},
        attempt=attempt,
        max_attempts=4,
    )
    assert result.is_success is ended
    if ended:
        assert result.result["delivered"] is False


def test_an_entry_of_the_ledger_adds_up_to_nothing() -> None:
    with pytest.raises(ValueError, match="add up"):
        services.book({"gateway": 5, "merchant": -4}, idempotency_key="key", request_number=1)


def test_a_payment_goes_through_after_the_window() -> None:
    run = pay(payment())
    assert run.status == "complete"
    assert run.results["cancellation_window"] == NOT_CANCELLED
    assert run.elapsed_seconds == pytest.approx(2.0, abs=0.1)
    assert run.results["send_notification"]["delivered"] is True


@pytest.mark.parametrize("after_seconds", [0.0, 1.0])
def test_calling_it_off_lets_the_hold_go(after_seconds: float) -> None:
    """Before the window opens, the signal is kept for it."""
    run = pay(payment(), Signal("cancel_payment", {"cancelled": True}, after_seconds))
    assert (run.status, run.task.compensation_status) == ("error", "complete")
    assert run.task.step("capture_payment").error_code == "PAYMENT_CANCELLED"
    assert undone(run) == ["authorize_payment"]
    assert run.results["compensate:authorize_payment"]["voided"] is True


def test_nobody_has_to_wait_for_the_window() -> None:
    run = pay(payment(), Signal("cancel_payment", NOT_CANCELLED))
    assert run.status == "complete"
    assert run.elapsed_seconds == pytest.approx(0.0, abs=0.5)


def test_a_signal_of_the_wrong_make_is_refused() -> None:
    with pytest.raises(ValidationFailed):
        pay(payment(), Signal("cancel_payment", {"cancel": True}))


def test_after_the_capture_it_is_too_late() -> None:
    late = Signal("cancel_payment", {"cancelled": True}, after_seconds=2.3)
    run = pay(payment(simulate={"ledger_down_for_tries": 2}), late)
    assert (run.status, len(run.refused_signals)) == ("complete", 1)


def test_an_operator_who_cancels_the_task_undoes_nothing() -> None:
    """The README says so: calling a payment off is a signal, `task cancel` ends the task as it is."""
    run = pay(payment(), cancel_after_seconds=1.0)
    assert (run.status, undone(run)) == ("cancelled", [])


def test_a_hold_of_which_nobody_knows_is_let_go() -> None:
    run = pay(payment("tok_silent"))
    assert (run.status, run.attempts("authorize_payment")) == ("error", 3)
    assert undone(run) == ["authorize_payment"]


def test_captured_money_is_given_back_before_the_hold_is_let_go() -> None:
    run = pay(payment(simulate={"ledger_down_for_tries": 3}))
    assert (run.status, undone(run)) == ("error", ["capture_payment", "authorize_payment"])
    assert run.results["compensate:capture_payment"]["amount_cents"] == CONTEXT["amount_cents"]


def test_a_ledger_that_comes_back_in_time_costs_nothing() -> None:
    run = pay(payment(simulate={"ledger_down_for_tries": 2}))
    assert (run.status, run.attempts("record_transaction"), undone(run)) == ("complete", 3, [])


def test_nothing_is_undone_where_nothing_was_done() -> None:
    run = pay(payment(payments_in_last_hour=6))
    assert (run.status, run.task.step("check_fraud").error_code) == ("error", "FRAUD_SUSPECTED")
    assert undone(run) == []
    assert run.state("authorize_payment") == "pending"


@pytest.mark.parametrize("context", [payment(amount_cents=0), payment(currency="XXX"), {"payment_id": "p"}])
def test_a_context_of_the_wrong_make_never_starts(context: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        pay(context)


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(path: Path) -> None:
    wanted = json.loads(path.read_text())
    signals = [Signal(each["name"], each["payload"]) for each in wanted.get("signals", ())]
    run = pay(wanted["context"], *signals)
    assert (run.status, run.task.compensation_status) == (
        wanted["expect"],
        wanted.get("expect_compensation"),
    )
    in_error = [step.name for step in run.task.steps if step.current_state == "error"]
    assert in_error == ([wanted["expect_failed_step"]] if "expect_failed_step" in wanted else [])
