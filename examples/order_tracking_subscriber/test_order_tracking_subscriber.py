"""The subscriber's methods and the order's handlers, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry
from stepweave.testing import run_handler, run_workflow

from . import handlers
from .subscriber import OrderTrackingSubscriber

ORDER = {"order_id": 4711, "total_amount": 59.9, "payment_token": "tok_visa"}
CHARGED = 'analytics: payment_charged {"order_id": 4711, "amount": 59.9}'
COMPLETED: dict[str, Any] = {"task_name": "process_order", "context": ORDER}
FAILED: dict[str, Any] = {
    "task_name": "process_order",
    "step_name": "process_payment",
    "context": ORDER,
    "error_message": "Card declined",
}


def test_what_it_subscribes_to_has_handlers() -> None:
    subscriber = OrderTrackingSubscriber()
    assert {pattern.text for pattern, _ in subscriber.handlers()} == {
        "task.completed",
        "step.failed",
        "domain.payment.charged",
    }
    assert subscriber.subscriber_name() == "order_tracking_subscriber"


def test_a_completed_order_is_tracked(capsys: pytest.CaptureFixture[str]) -> None:
    OrderTrackingSubscriber().handle_task_completed(COMPLETED)
    assert capsys.readouterr().out.startswith('analytics: order_completed {"order_id": 4711')


def test_a_failed_payment_wakes_somebody_up(capsys: pytest.CaptureFixture[str]) -> None:
    OrderTrackingSubscriber().handle_step_failed(FAILED)
    assert capsys.readouterr().out == "slack: Payment failure for order 4711: Card declined\n"


def test_other_tasks_and_steps_are_none_of_its_business(capsys: pytest.CaptureFixture[str]) -> None:
    subscriber = OrderTrackingSubscriber()
    subscriber.handle_task_completed(COMPLETED | {"task_name": "user_registration"})
    subscriber.handle_step_failed(FAILED | {"step_name": "send_confirmation"})
    subscriber.handle_step_failed(FAILED | {"task_name": "ecommerce_order_processing", "context": {}})
    assert capsys.readouterr().out == ""


def test_the_payment() -> None:
    paid = run_handler(handlers.ProcessPaymentHandler, ORDER)
    assert paid.result["status"] == "charged"
    assert [one.payload for one in paid.domain_events] == [{"order_id": 4711, "amount": 59.9}]
    declined = run_handler(handlers.ProcessPaymentHandler, ORDER | {"payment_token": "tok_declined"})
    assert (declined.error_message, declined.retryable) == ("Card declined", False)
    timeout = run_handler(handlers.ProcessPaymentHandler, ORDER | {"payment_token": "tok_timeout"})
    assert (timeout.error_message, timeout.retryable) == ("Gateway timeout", True)
    done = run_handler(handlers.SendConfirmationHandler, ORDER, dependencies={"process_payment": paid.result})
    assert done.result == {"order_id": 4711, "payment_id": paid.result["payment_id"]}


@pytest.mark.parametrize("amount", [0, -1, "much", True, None])
def test_an_amount_is_a_number_above_zero(amount: Any) -> None:
    result = run_handler(handlers.ValidateCartHandler, ORDER | {"total_amount": amount})
    assert (result.error_code, result.retryable) == ("BAD_AMOUNT", False)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("tok_visa", [CHARGED, "analytics: order_completed "]),
        ("tok_timeout", [CHARGED, "analytics: order_completed "]),
        ("tok_declined", ["slack: Payment failure for order 4711: Card declined"]),
    ],
)
def test_what_an_order_makes_it_say(token: str, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The events of a whole order, given to the subscriber's methods as they would come."""
    registry = Registry()
    registry.discover(handlers)
    template = Path(__file__).parent / "template.yaml"
    done = run_workflow(template, registry, ORDER | {"payment_token": token})
    methods = {pattern.text: method for pattern, method in OrderTrackingSubscriber().handlers()}
    for event in done.events:
        if event.address in methods:
            methods[event.address](event)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))
