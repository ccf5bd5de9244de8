"""The fulfilment without a server: its handlers one at a time, and the whole template in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry, StepHandlerResult, ValidationFailed
from stepweave.testing import WorkflowRun, assert_events, run_handler, run_workflow

from . import handlers, services

FOLDER = Path(__file__).parent
ORDER: dict[str, Any] = {
    "order_id": "ORD-1",
    "customer_id": "cus_ada",
    "customer_email": "ada@post.example",
    "items": [{"sku": "keyboard", "quantity": 1}, {"sku": "monitor", "quantity": 2}],
    "payment_method": "card_ok",
    "ship_to": {"country": "DE"},
}
VALIDATED = {"order_id": "ORD-1", "total_cents": 73_700, "fraud_score": 34}
TASK = "0197c3a0-0000-7000-8000-000000000002"


def order(**changes: Any) -> dict[str, Any]:
    return ORDER | changes


def failed(result: StepHandlerResult) -> tuple[str | None, bool]:
    assert not result.is_success
    return result.error_code, result.retryable


def test_an_order_is_added_up() -> None:
    result = run_handler(handlers.ValidateOrderHandler, ORDER)
    assert result.is_success
    assert result.result == VALIDATED


@pytest.mark.parametrize(
    ("customer_id", "quantity", "is_fraud"),
    [("cus_ada", 4, False), ("cus_mallory", 1, False), ("cus_mallory", 4, True)],
)
def test_fraud_is_who_and_how_much(customer_id: str, quantity: int, is_fraud: bool) -> None:
    given = order(customer_id=customer_id, items=[{"sku": "monitor", "quantity": quantity}])
    result = run_handler(handlers.ValidateOrderHandler, given)
    assert result.is_success is not is_fraud
    if is_fraud:
        assert failed(result) == ("fraud_detected", False)
        assert result.error_message == "High fraud risk"
        assert result.metadata["score"] > services.FRAUD_SCORE_MAX


def test_an_unknown_article_is_refused_for_good() -> None:
    result = run_handler(handlers.ValidateOrderHandler, order(items=[{"sku": "sofa", "quantity": 1}]))
    assert failed(result) == ("unknown_article", False)
    assert "there is no sofa" in result.error_message


def test_the_warehouse_is_short() -> None:
    items = [{"sku": "monitor", "quantity": 3}, {"sku": "monitor", "quantity": 2}]
    result = run_handler(handlers.InventoryCheckHandler, order(items=items))
    assert failed(result) == ("insufficient_inventory", False)
    assert result.metadata["missing"] == {"monitor": 1}
    assert run_handler(handlers.InventoryCheckHandler, ORDER).result == {"available": True}


def test_a_locked_shelf_is_worth_a_retry() -> None:
    given = order(items=[{"sku": "chair", "quantity": 1}])
    assert failed(run_handler(handlers.InventoryReservationHandler, given)) == ("shelf_locked", True)
    again = run_handler(handlers.InventoryReservationHandler, given, attempt=2)
    assert again.result["reservation_id"].startswith("res_")


def pay(method: str, attempt: int = 1, task_uuid: str = TASK) -> StepHandlerResult:
    return run_handler(
        handlers.PaymentProcessingHandler,
        order(payment_method=method),
        dependencies={"validate_order": VALIDATED},
        attempt=attempt,
        task_uuid=task_uuid,
        step_name="process_payment",
    )


def test_the_step_uuid_keeps_the_payment_the_same() -> None:
    assert pay("card_ok").result["amount_cents"] == VALIDATED["total_cents"]
    assert pay("card_ok", attempt=2).result == pay("card_ok", attempt=3).result
    other_task = pay("card_ok", task_uuid="0197c3a0-0000-7000-8000-000000000003")
    assert other_task.result["transaction_id"] != pay("card_ok").result["transaction_id"]


def test_a_bad_line_is_worth_two_retries() -> None:
    for attempt in (1, 2):
        result = pay("card_bad_line", attempt)
        assert failed(result) == ("network_error", True)
        assert result.metadata["retry_recommended"] is True
    third = pay("card_bad_line", 3)
    assert third.is_success
    assert third.metadata == {"gateway_requests": 3}


@pytest.mark.parametrize(
    ("method", "code"), [("card_no_funds", "insufficient_funds"), ("card_invalid", "invalid_card")]
)
def test_a_refused_payment_is_permanent(method: str, code: str) -> None:
    assert failed(pay(method)) == (code, False)


def ship(ship_to: dict[str, Any]) -> StepHandlerResult:
    return run_handler(
        handlers.ShippingHandler,
        order(ship_to=ship_to),
        dependencies={"reserve_inventory": {"reservation_id": "res_1"}},
    )


def test_shipping() -> None:
    shipped = ship({"country": "DE"}).result
    assert shipped["tracking_number"].startswith("DE_")
    assert shipped["reservation_id"] == "res_1"
    assert failed(ship({"country": "AQ"})) == ("address_not_served", False)
    # The handler calls it retryable; that the template forbids retries is not the handler's business.
    assert failed(ship({"country": "DE", "express": True})) == ("carrier_down", True)


def test_the_mail_server_says_when_it_wants_the_next_try() -> None:
    given = order(customer_email="ada@greylist.example")
    earlier = {"ship_order": {"tracking_number": "DE_1"}, "process_payment": {"amount_cents": 73_700}}
    result = run_handler(handlers.EmailNotificationHandler, given, dependencies=earlier)
    assert failed(result) == ("greylisted", True)
    assert result.retry_after == 0.3
    again = run_handler(handlers.EmailNotificationHandler, given, dependencies=earlier, attempt=2)
    assert again.result["subject"] == "Order ORD-1: 737.00 paid, parcel DE_1 is on its way"


def run(context: dict[str, Any]) -> WorkflowRun:
    """The whole template in memory; delays between tries take no time."""
    registry = Registry()
    registry.discover(handlers)
    return run_workflow(FOLDER / "template.yaml", registry, context)


def states(done: WorkflowRun) -> dict[str, str]:
    return {step.name: step.current_state for step in done.task.steps}


def test_both_branches_start_at_once_and_shipping_waits_for_both() -> None:
    done = run(order(payment_method="card_bad_line", items=[{"sku": "chair", "quantity": 1}]))
    assert done.status == "complete"
    order_of_events = [(event.type, event.get("step_name")) for event in done.events]
    after = order_of_events.index(("step.completed", "validate_order"))
    assert {name for _, name in order_of_events[after + 1 : after + 3]} == {
        "check_inventory",
        "process_payment",
    }
    shipping = order_of_events.index(("step.enqueued", "ship_order"))
    assert order_of_events.index(("step.completed", "reserve_inventory")) < shipping
    assert order_of_events.index(("step.completed", "process_payment")) < shipping
    assert done.attempts("process_payment") == 3
    assert done.attempts("reserve_inventory") == 2


def test_a_failed_branch_leaves_the_other_alone() -> None:
    done = run(order(items=[{"sku": "desk", "quantity": 1}]))
    assert done.status == "blocked_by_failures"
    assert states(done) == {
        "validate_order": "complete",
        "check_inventory": "error",
        "reserve_inventory": "pending",
        "process_payment": "complete",
        "ship_order": "pending",
        "send_confirmation": "pending",
    }


def test_the_template_forbids_a_second_parcel() -> None:
    done = run(order(ship_to={"country": "DE", "express": True}))
    assert_events(
        done,
        [
            ...,
            {
                "type": "step.failed",
                "step_name": "ship_order",
                "attempt": 1,
                "error_code": "carrier_down",
                "failure_reason": "not_retryable",
            },
            "task.blocked",
        ],
    )


def test_the_mail_server_chooses_the_delay() -> None:
    done = run(order(customer_email="ada@greylist.example"))
    assert done.status == "complete"
    assert done.delays_seconds("send_confirmation") == [0.3]


@pytest.mark.parametrize(
    "changes", [{"items": []}, {"ship_to": {"country": "Germany"}}, {"customer_email": "nobody"}]
)
def test_an_order_that_does_not_fit_never_starts(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        run(order(**changes))


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(path: Path) -> None:
    wanted = json.loads(path.read_text())
    done = run(wanted["context"])
    assert done.status == wanted["expect"]
    in_error = [name for name, state in states(done).items() if state == "error"]
    assert in_error == ([wanted["expect_failed_step"]] if "expect_failed_step" in wanted else [])
