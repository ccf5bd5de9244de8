"""Both teams' workflows without a server: the steps one at a time, and parent and child together in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry, ValidationFailed
from stepweave.testing import WorkflowRun, run_handler, run_workflow

from . import customer_success, handlers, payments

FOLDER = Path(__file__).parent
PAYMENTS = FOLDER / "templates/payments_process_refund.yaml"
TEMPLATES = {
    "customer_success/process_refund:1.0.0": FOLDER / "templates/customer_success_process_refund_v1.yaml",
    "customer_success/process_refund": FOLDER / "templates/customer_success_process_refund_v2.yaml",
    "payments/process_refund": PAYMENTS,
}
CONTEXT: dict[str, Any] = json.loads((FOLDER / "context.json").read_text())
V1, V2, _ = TEMPLATES


def refund(context: dict[str, Any], template: str = V2, **options: Any) -> WorkflowRun:
    """The task and its child in memory, with the handlers of both teams."""
    registry = Registry()
    registry.discover(handlers)
    return run_workflow(TEMPLATES[template], registry, context, templates=[PAYMENTS], **options)


def test_a_reason_is_one_of_those_there_are() -> None:
    result = run_handler(customer_success.validate_refund_request, CONTEXT | {"reason": "just because"})
    assert (result.error_code, result.retryable) == ("UNKNOWN_REASON", False)


@pytest.mark.parametrize(("amount_cents", "approved"), [(20_000, True), (20_001, False)])
def test_support_approves_up_to_its_limit(amount_cents: int, approved: bool) -> None:
    result = run_handler(
        customer_success.approve_refund, {"amount_cents": amount_cents}, config={"limit_cents": 20_000}
    )
    assert result.is_success is approved
    assert (result.error_code == "OVER_SUPPORT_LIMIT") is not approved


@pytest.mark.parametrize(
    ("payment_id", "amount_cents", "error_code"),
    [
        ("pay_none", 1, "UNKNOWN_PAYMENT"),
        ("pay_book", 4_991, "NOTHING_LEFT"),
        ("pay_refunded", 1, "NOTHING_LEFT"),
        ("pay_book", 4_990, None),
    ],
)
def test_no_more_goes_back_than_was_captured(
    payment_id: str, amount_cents: int, error_code: str | None
) -> None:
    result = run_handler(
        payments.check_refund_eligibility, {"payment_id": payment_id, "amount_cents": amount_cents}
    )
    assert result.error_code == error_code


@pytest.mark.parametrize("template", [V1, V2])
def test_the_child_gets_what_was_approved_and_gives_its_result(template: str) -> None:
    run = refund(CONTEXT, template)
    child = run.children["execute_refund"]
    assert (run.status, child.status) == ("complete", "complete")
    assert (child.task.namespace, child.task.name) == ("payments", "process_refund")
    assert child.task.context == {
        "payment_id": CONTEXT["payment_id"],
        "amount_cents": CONTEXT["amount_cents"],
        "requested_by": "customer_success",
        "reference": CONTEXT["ticket_id"],
    }
    assert run.results["execute_refund"] == child.results["update_payment_records"]
    assert run.results["execute_refund"]["refund_id"] in run.results["notify_customer"]["text"]


def test_the_child_belongs_to_the_same_transaction() -> None:
    run = refund(CONTEXT)
    child = run.children["execute_refund"].task
    assert child.parent_task_uuid == run.task.task_uuid
    assert child.correlation_id == run.task.correlation_id


def test_the_versions_differ() -> None:
    """Late, and more than version 1 approves."""
    late = CONTEXT | {"days_since_purchase": 400}
    large = CONTEXT | {"payment_id": "pay_chair", "amount_cents": 24_900}
    assert refund(late, V1).status == "complete"
    assert refund(late, V2).task.step("check_refund_policy").error_code == "TOO_LATE"
    assert refund(large, V1).task.step("approve_refund").error_code == "OVER_SUPPORT_LIMIT"
    assert refund(large, V2).status == "complete"


def test_what_fails_there_fails_the_step_here() -> None:
    run = refund(CONTEXT | {"payment_id": "pay_refunded"})
    child = run.children["execute_refund"]
    step = run.task.step("execute_refund")
    assert (child.status, run.status) == ("error", "blocked_by_failures")
    assert (step.error_code, step.attempts) == ("CHILD_TASK_FAILED", 1)
    assert step.error_message is not None and "0 cents are left" in step.error_message
    assert run.state("notify_customer") == "pending"


def test_retries_are_the_business_of_the_team_that_has_them() -> None:
    run = refund(CONTEXT | {"payment_id": "pay_flaky"})
    assert run.status == "complete"
    assert run.attempts("execute_refund") == 1
    assert run.children["execute_refund"].attempts("refund_at_gateway") == 3


def test_who_cancels_the_parent_cancels_the_child() -> None:
    run = refund(CONTEXT | {"payment_id": "pay_stuck"}, cancel_after_seconds=1.0)
    child = run.children["execute_refund"]
    assert (run.status, child.status) == ("cancelled", "cancelled")
    assert "refund_at_gateway" not in child.results


def test_the_payments_team_does_not_take_what_it_does_not_know() -> None:
    with pytest.raises(ValidationFailed):
        refund(CONTEXT, "payments/process_refund")


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(path: Path) -> None:
    wanted = json.loads(path.read_text())
    run = refund(wanted["context"], wanted["template"])
    assert run.status == wanted["expect"]
    in_error = [step.name for step in run.task.steps if step.current_state == "error"]
    assert in_error == ([wanted["expect_failed_step"]] if "expect_failed_step" in wanted else [])
