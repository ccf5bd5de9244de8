"""The checkout without a server: its handlers one at a time, and the whole chain in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry
from stepweave.testing import WorkflowRun, assert_events, make_context, run_handler, run_workflow

from . import handlers, services
from .models import CartItem, CheckoutInput, PriceRules

FOLDER = Path(__file__).parent
RULES = {"tax_basis_points": 825, "shipping_cents": 599, "free_shipping_from_cents": 5000}
CONTEXT: dict[str, Any] = {
    "customer_email": "ada@shop.example",
    "cart_items": [{"sku": "mug", "quantity": 2}, {"sku": "notebook", "quantity": 1}],
    "payment_token": "tok_visa",
}
CART = {
    "lines": [{"sku": "mug", "name": "Enamel mug", "quantity": 2, "line_total_cents": 2500}],
    "subtotal_cents": 2500,
    "tax_cents": 206,
    "shipping_cents": 599,
    "total_cents": 3305,
}


def checkout(**changes: Any) -> dict[str, Any]:
    return CONTEXT | changes


def test_the_price_is_items_tax_and_shipping() -> None:
    result = run_handler(handlers.validate_cart, CONTEXT, config=RULES)
    assert result.is_success
    cart = result.result
    assert [line["line_total_cents"] for line in cart["lines"]] == [2500, 890]
    assert cart["subtotal_cents"] == 3390
    assert cart["tax_cents"] == 280  # 8.25 % are 279.675
    assert cart["shipping_cents"] == 599
    assert cart["total_cents"] == 3390 + 280 + 599


@pytest.mark.parametrize(("quantity", "shipping_cents"), [(3, 599), (4, 0)])
def test_shipping_is_free_from_the_threshold_on(quantity: int, shipping_cents: int) -> None:
    cart = services.price_cart(
        [CartItem(sku="mug", quantity=quantity)],
        PriceRules(tax_basis_points=0, shipping_cents=599, free_shipping_from_cents=5000),
    )
    assert cart.shipping_cents == shipping_cents


def test_lines_of_the_same_item_count_together() -> None:
    items = [{"sku": "lamp", "quantity": 2}, {"sku": "lamp", "quantity": 2}]
    result = run_handler(handlers.validate_cart, checkout(cart_items=items), config=RULES)
    assert (result.error_code, result.retryable) == ("OUT_OF_STOCK", False)
    assert result.metadata["left"] == {"lamp": 3}


@pytest.mark.parametrize(
    ("changes", "error_code", "said"),
    [
        ({"cart_items": []}, "EMPTY_CART", "the cart is empty"),
        ({"cart_items": [{"sku": "car", "quantity": 1}]}, "UNKNOWN_ITEM", "the catalogue has no car"),
        ({"cart_items": [{"sku": "mug", "quantity": 0}]}, "INPUT_INVALID", "/cart_items/0/quantity"),
        ({"cart_items": None}, "INPUT_INVALID", "/cart_items"),
        ({"customer_email": "nobody"}, "INPUT_INVALID", "/customer_email"),
    ],
)
def test_bad_input_fails_for_good(changes: dict[str, Any], error_code: str, said: str) -> None:
    result = run_handler(handlers.validate_cart, checkout(**changes), config=RULES)
    assert not result.is_success
    assert not result.retryable
    assert result.error_type == "validation_error"
    assert result.error_code == error_code
    assert said in result.error_message


def pay(token: str, attempt: int = 1) -> Any:
    return run_handler(
        handlers.process_payment,
        checkout(payment_token=token),
        dependencies={"validate_cart": CART},
        attempt=attempt,
        task_uuid="0197c3a0-0000-7000-8000-000000000001",
        step_name="process_payment",
    )


def test_the_card_is_charged_with_the_total() -> None:
    payment = pay("tok_visa").result
    assert payment["amount_cents"] == CART["total_cents"]
    assert payment["card"] == "Visa 4242"
    assert payment["replayed"] is False


def test_a_declined_card_is_permanent() -> None:
    result = pay("tok_declined")
    assert (result.error_type, result.error_code, result.retryable) == (
        "permanent_error",
        "CARD_DECLINED",
        False,
    )


def test_a_gateway_timeout_is_tried_again_and_charges_once() -> None:
    first = pay("tok_gateway_timeout", attempt=1)
    assert (first.error_type, first.error_code, first.retryable) == ("timeout", "GATEWAY_TIMEOUT", True)
    second = pay("tok_gateway_timeout", attempt=2)
    assert second.is_success and second.result["replayed"] is True
    # A third request with the same key would still be the same payment.
    assert pay("tok_gateway_timeout", attempt=3).result == second.result


def test_a_gateway_that_is_down_stays_retryable() -> None:
    result = pay("tok_gateway_down", attempt=2)
    assert (result.error_type, result.error_code, result.retryable) == (
        "retryable_error",
        "GATEWAY_UNAVAILABLE",
        True,
    )


def test_payment_without_a_cart_fails_for_good() -> None:
    result = run_handler(handlers.process_payment, CONTEXT)
    assert (result.error_code, result.retryable) == ("DEPENDENCY_MISSING", False)


def test_the_order_has_what_came_before() -> None:
    payment = pay("tok_visa").result
    reservation = run_handler(handlers.update_inventory, CONTEXT, dependencies={"validate_cart": CART}).result
    assert reservation["units"] == 2
    order = run_handler(
        handlers.create_order,
        CONTEXT,
        dependencies={"validate_cart": CART, "process_payment": payment, "update_inventory": reservation},
    ).result
    assert order["payment_id"] == payment["payment_id"]
    assert order["reservation_id"] == reservation["reservation_id"]
    mail = run_handler(handlers.send_confirmation, CONTEXT, dependencies={"create_order": order}).result
    assert mail["recipient"] == "ada@shop.example"
    assert mail["subject"] == f"Your order {order['order_id']}: 33.05"


def test_handlers_are_plain_functions() -> None:
    cart = handlers.validate_cart(CheckoutInput.model_validate(CONTEXT), make_context(config=RULES))
    assert cart.total_cents == 4269


def run(context: dict[str, Any]) -> WorkflowRun:
    """The whole template in memory; delays between tries take no time."""
    registry = Registry()
    registry.discover(handlers)
    return run_workflow(FOLDER / "template.yaml", registry, context)


def test_a_checkout_from_end_to_end() -> None:
    done = run(CONTEXT)
    assert done.status == "complete"
    assert done.results["validate_cart"]["total_cents"] == 4269
    assert done.results["process_payment"]["amount_cents"] == 4269
    assert done.results["create_order"]["payment_id"] == done.results["process_payment"]["payment_id"]
    assert done.results["send_confirmation"]["subject"].endswith(": 42.69")
    assert_events(
        done,
        [
            "task.created",
            ...,
            "step.completed validate_cart",
            ...,
            "step.completed process_payment",
            ...,
            "step.completed update_inventory",
            ...,
            "step.completed create_order",
            ...,
            "step.completed send_confirmation",
            "task.completed",
        ],
    )


def test_a_declined_card_ends_the_checkout() -> None:
    done = run(checkout(payment_token="tok_declined"))
    assert done.status == "blocked_by_failures"
    assert done.attempts("process_payment") == 1
    assert_events(
        done,
        [
            ...,
            {"type": "step.failed", "step_name": "process_payment", "error_code": "CARD_DECLINED"},
            ...,
            "task.blocked",
        ],
    )
    assert set(done.results) == {"validate_cart"}


def test_a_gateway_timeout_costs_one_try_and_a_tenth_of_a_second() -> None:
    done = run(checkout(payment_token="tok_gateway_timeout"))
    assert done.status == "complete"
    assert done.attempts("process_payment") == 2
    assert done.delays_seconds("process_payment") == [pytest.approx(0.1, rel=0.1)]


def test_a_gateway_that_stays_down_uses_up_the_tries() -> None:
    done = run(checkout(payment_token="tok_gateway_down"))
    assert done.status == "blocked_by_failures"
    assert done.attempts("process_payment") == done.task.step("process_payment").max_attempts == 2


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(path: Path) -> None:
    wanted = json.loads(path.read_text())
    done = run(wanted["context"])
    assert done.status == wanted["expect"]
    failed = [step.name for step in done.task.steps if step.current_state == "error"]
    assert failed == ([wanted["expect_failed_step"]] if "expect_failed_step" in wanted else [])
