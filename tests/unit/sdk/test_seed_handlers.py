"""The handlers of the seed texts, nearly word for word."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from stepweave import (
    PermanentError,
    RetryableError,
    StepHandler,
    StepHandlerResult,
    depends_on,
    inputs,
    step_handler,
)
from stepweave.testing import assert_events, run_handler, run_workflow

# -- e-commerce checkout: the functional style -------------------------------------------------


class EcommerceOrderInput(BaseModel):
    cart_items: list[dict[str, Any]] | None = None
    customer_email: str | None = None
    payment_token: str | None = None


class EcommerceValidateCartResult(BaseModel):
    total: float
    item_count: int


class svc:
    """Stands for the service functions that the texts only name."""

    @staticmethod
    def validate_cart_items(cart_items: Any, customer_email: str | None) -> dict[str, Any]:
        if not cart_items:
            raise PermanentError("Cart is empty", error_code="EMPTY_CART")
        return {"total": sum(one["price"] for one in cart_items), "item_count": len(cart_items)}

    @staticmethod
    def process_payment(
        cart_result: EcommerceValidateCartResult, payment_token: str | None
    ) -> dict[str, Any]:
        if payment_token == "tok_declined":
            raise PermanentError("Card declined", error_code="CARD_DECLINED")
        if payment_token == "tok_timeout":
            raise RetryableError("Gateway timeout")
        return {"payment_id": "pay_1", "amount": cart_result.total}


@step_handler("ecommerce_validate_cart")
@inputs(EcommerceOrderInput)
def validate_cart(inputs: EcommerceOrderInput, context: Any) -> Any:
    return svc.validate_cart_items(
        cart_items=inputs.cart_items,
        customer_email=inputs.customer_email,
    )


@step_handler("ecommerce_process_payment")
@depends_on(cart_result=("validate_cart", EcommerceValidateCartResult))
@inputs(EcommerceOrderInput)
def process_payment(
    cart_result: EcommerceValidateCartResult,
    inputs: EcommerceOrderInput,
    context: Any,
) -> Any:
    return svc.process_payment(
        cart_result=cart_result,
        payment_token=inputs.payment_token,
    )


CHECKOUT = """
name: ecommerce_order_processing
namespace_name: ecommerce
version: 1.0.0
description: "Complete e-commerce order processing: validate -> payment -> inventory -> order -> confirmation"

steps:
  - name: validate_cart
    description: "Validate cart items, check availability, calculate totals"
    handler:
      callable: ecommerce_validate_cart
    dependencies: []
    retry:
      retryable: true
      max_attempts: 2
      backoff: exponential
      backoff_base_ms: 100

  - name: process_payment
    description: "Process customer payment using payment service"
    handler:
      callable: ecommerce_process_payment
    dependencies:
      - validate_cart
    retry:
      retryable: true
      max_attempts: 2
      backoff: exponential
      backoff_base_ms: 100
"""


@pytest.mark.parametrize(
    ("context", "status", "events"),
    [
        (
            {"cart_items": [{"price": 5}, {"price": 7}], "payment_token": "tok_ok"},
            "complete",
            [..., "step.completed process_payment", "task.completed"],
        ),
        (
            {"cart_items": [{"price": 5}], "payment_token": "tok_declined"},
            "blocked_by_failures",
            [..., {"type": "step.failed", "error_code": "CARD_DECLINED", "attempt": 1}, "task.blocked"],
        ),
        (
            {"cart_items": [{"price": 5}], "payment_token": "tok_timeout"},
            "blocked_by_failures",
            [
                ...,
                "step.retry_scheduled process_payment",
                "step.enqueued process_payment",
                {"type": "step.failed", "failure_reason": "attempts_exhausted", "attempt": 2},
                "task.blocked",
            ],
        ),
        (
            {},
            "blocked_by_failures",
            [..., {"type": "step.failed", "error_code": "EMPTY_CART"}, "task.blocked"],
        ),
        (
            {"cart_items": "not a list"},
            "blocked_by_failures",
            [..., {"type": "step.failed", "error_type": "validation_error"}, "task.blocked"],
        ),
    ],
)
def test_checkout(context: dict[str, Any], status: str, events: list[Any]) -> None:
    run = run_workflow(CHECKOUT, [validate_cart, process_payment], context)
    assert run.status == status
    assert_events(run, events)
    if status == "complete":
        assert run.results["process_payment"] == {"payment_id": "pay_1", "amount": 12.0}


# -- user registration: the class style --------------------------------------------------------


class CreateUserAccountHandler(StepHandler):
    handler_name = "Microservices.StepHandlers.CreateUserAccountHandler"

    EMAIL_REGEX = re.compile(r"\A[^@\s]+@[^@\s]+\.[^@\s]+\Z")
    BLOCKED_DOMAINS = frozenset({"tempmail.com", "throwaway.email", "mailinator.com"})

    def call(self, context: Any) -> StepHandlerResult:
        user_info = context.get_input_or("user_info", {})
        email = user_info.get("email")
        plan = user_info.get("plan") or "free"

        if not email:
            raise PermanentError("Email address is required", error_code="MISSING_EMAIL")
        if not self.EMAIL_REGEX.match(email):
            return self.failure(
                f"Invalid email format: {email}", "permanent_error", False, error_code="INVALID_EMAIL"
            )
        email_domain = email.split("@")[-1].lower()
        if email_domain in self.BLOCKED_DOMAINS:
            raise PermanentError(
                f"Disposable email addresses are not allowed: {email_domain}",
                error_code="BLOCKED_EMAIL_DOMAIN",
            )
        return self.success(
            {
                "user_id": f"usr_{secrets.token_hex(12)}",
                "email": email.lower(),
                "name": user_info.get("name"),
                "plan": plan,
                "status": "created",
                "created_at": datetime.now(UTC),
            }
        )


class SendWelcomeSequenceHandler(StepHandler):
    handler_name = "Microservices.StepHandlers.SendWelcomeSequenceHandler"

    def call(self, context: Any) -> StepHandlerResult:
        account_data = context.get_dependency_result("create_user_account")
        billing_data = context.get_dependency_result("setup_billing_profile")
        preferences_data = context.get_dependency_result("initialize_preferences")

        if account_data is None or billing_data is None or preferences_data is None:
            raise PermanentError(
                "Upstream data not available for welcome sequence", error_code="MISSING_DEPENDENCIES"
            )
        messages_sent = [{"channel": "email", "type": "welcome", "recipient": account_data["email"]}]
        if billing_data["trial_days"] > 0:
            messages_sent.append({"channel": "email", "type": "trial_started"})
        if (
            context.get_dependency_field("initialize_preferences", "preferences", "notifications", "push")
            is True
        ):
            messages_sent.append({"channel": "push", "type": "welcome"})
        return self.success(
            {
                "channels_used": sorted({m["channel"] for m in messages_sent}),
                "messages_sent": len(messages_sent),
            }
        )


@pytest.mark.parametrize(
    ("user_info", "code"),
    [
        (None, "MISSING_EMAIL"),
        ({"email": "nonsense"}, "INVALID_EMAIL"),
        ({"email": "a@mailinator.com"}, "BLOCKED_EMAIL_DOMAIN"),
    ],
)
def test_create_user_account_refuses(user_info: Any, code: str) -> None:
    failure = run_handler(CreateUserAccountHandler, {"user_info": user_info})
    assert (failure.error_code, failure.retryable) == (code, False)


def test_registration_diamond() -> None:
    @step_handler("billing")
    @depends_on(account="create_user_account")
    async def billing(account: dict[str, Any]) -> dict[str, Any]:
        return {"trial_days": 14 if account["plan"] == "pro" else 0}

    @step_handler("preferences")
    async def preferences(context: Any) -> dict[str, Any]:
        return {"preferences": {"notifications": {"push": True}}}

    template = """
name: user_registration
namespace_name: microservices
version: 1.0.0
steps:
  - name: create_user_account
    handler: {callable: Microservices.StepHandlers.CreateUserAccountHandler}
    retry: {retryable: true, max_attempts: 3, backoff: exponential, initial_delay: 2, max_delay: 30}
  - name: setup_billing_profile
    handler: {callable: billing}
    dependencies: [create_user_account]
  - name: initialize_preferences
    handler: {callable: preferences}
    dependencies: [create_user_account]
  - name: send_welcome_sequence
    handler: {callable: Microservices.StepHandlers.SendWelcomeSequenceHandler}
    dependencies: [setup_billing_profile, initialize_preferences]
"""
    run = run_workflow(
        template,
        [CreateUserAccountHandler, SendWelcomeSequenceHandler, billing, preferences],
        {"user_info": {"email": "New.User@Example.com", "name": "Jane", "plan": "pro"}},
    )
    assert run.status == "complete"
    assert run.results["create_user_account"]["email"] == "new.user@example.com"
    assert run.results["send_welcome_sequence"] == {"channels_used": ["email", "push"], "messages_sent": 3}


def test_the_rust_shaped_handler() -> None:
    """`context.configuration`, `parent_results` and `permanent_failure` of the use-case guide."""

    @step_handler("validate_order")
    async def validate_order(context: Any) -> StepHandlerResult:
        order_id = context.configuration.get("order_id")
        if context.configuration.get("customer_id") == "fraudster":
            return StepHandlerResult.permanent_failure("fraud_detected", {"reason": "High fraud risk"})
        return StepHandlerResult.success({"order_id": order_id, "seen": list(context.parent_results)})

    good = run_handler(validate_order, {"order_id": "o1"}, dependencies={"before": 1})
    assert good.result == {"order_id": "o1", "seen": ["before"]}
    bad = run_handler(validate_order, {"customer_id": "fraudster"})
    assert (bad.error_code, bad.error_message, bad.retryable) == ("fraud_detected", "High fraud risk", False)
