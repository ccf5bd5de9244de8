"""An order in three steps, for the subscriber to follow.

A handler's name may be any text: these are the class names of the system that the template was moved from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stepweave import PermanentError, RetryableError, StepContext, StepHandler, ValidationError


class PaymentResult(NamedTuple):
    id: str
    declined: bool = False
    timeout: bool = False


class PaymentService:
    """A payment gateway without a network: the token decides."""

    @staticmethod
    def charge(*, amount: float, token: str, idempotency_key: str, request_number: int) -> PaymentResult:
        return PaymentResult(
            id=f"pay_{idempotency_key}",
            declined=token == "tok_declined",
            timeout=token == "tok_timeout" and request_number == 1,
        )


class ValidateCartHandler(StepHandler):
    handler_name = "Ecommerce::ValidateCartHandler"

    def call(self, context: StepContext) -> dict[str, Any]:
        amount = context.get_task_field("total_amount")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or amount <= 0:
            raise ValidationError(
                f"total_amount is a number above 0, not {amount!r}", error_code="BAD_AMOUNT"
            )
        return {"total_amount": amount}


class ProcessPaymentHandler(StepHandler):
    handler_name = "Ecommerce::ProcessPaymentHandler"

    def call(self, context: StepContext) -> dict[str, Any]:
        payment_result = PaymentService.charge(
            amount=context.get_task_field("total_amount"),
            token=context.get_task_field("payment_token"),
            idempotency_key=context.step_uuid,
            request_number=context.attempt,
        )

        # Permanent failure - don't retry
        if payment_result.declined:
            raise PermanentError("Card declined", error_code="CARD_DECLINED")

        # Retryable failure - will retry with exponential backoff
        if payment_result.timeout:
            raise RetryableError("Gateway timeout", error_code="GATEWAY_TIMEOUT")

        context.publish_event(
            "payment.charged",
            {
                "order_id": context.get_task_field("order_id"),
                "amount": context.get_task_field("total_amount"),
            },
        )
        return {"payment_id": payment_result.id, "status": "charged"}


class SendConfirmationHandler(StepHandler):
    handler_name = "Ecommerce::SendConfirmationHandler"

    def call(self, context: StepContext) -> dict[str, Any]:
        return {
            "order_id": context.get_task_field("order_id"),
            "payment_id": context.get_dependency_field("process_payment", "payment_id"),
        }
