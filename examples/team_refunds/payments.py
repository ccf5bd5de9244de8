"""The steps of the payments team. Who asks for a refund, and why, is not theirs to know."""

from __future__ import annotations

from typing import Any

from stepweave import BusinessLogicError, NotFoundError, StepContext, depends_on, inputs, step_handler

from . import services


@step_handler("payments.check_refund_eligibility")
@inputs("payment_id", "amount_cents")
def check_refund_eligibility(payment_id: str, amount_cents: int) -> dict[str, Any]:
    """No more than what was captured goes back."""
    payment = services.PAYMENTS.get(payment_id)
    if payment is None:
        raise NotFoundError(f"there is no payment {payment_id}", error_code="UNKNOWN_PAYMENT")
    left_cents = payment.captured_cents - payment.refunded_cents
    if amount_cents > left_cents:
        raise BusinessLogicError(
            f"of {payment_id} {left_cents} cents are left, not {amount_cents}", error_code="NOTHING_LEFT"
        )
    return {"payment_id": payment_id, "left_cents": left_cents - amount_cents}


@step_handler("payments.refund_at_gateway")
@inputs("payment_id", "amount_cents")
def refund_at_gateway(payment_id: str, amount_cents: int, context: StepContext) -> dict[str, Any]:
    """One refund, however often it is tried."""
    refund_id = services.refund(
        payment_id, amount_cents, idempotency_key=context.step_uuid, request_number=context.attempt
    )
    return {"refund_id": refund_id}


@step_handler("payments.update_refund_records")
@depends_on(refund="refund_at_gateway")
@inputs("amount_cents", "requested_by", "reference")
def update_refund_records(
    refund: dict[str, Any], amount_cents: int, requested_by: str, reference: str, context: StepContext
) -> dict[str, Any]:
    """What this returns is all that the other team sees."""
    entry_id = services.book_refund(refund["refund_id"], amount_cents, idempotency_key=context.step_uuid)
    return {
        "refund_id": refund["refund_id"],
        "amount_cents": amount_cents,
        "entry_id": entry_id,
        "for": f"{requested_by} {reference}",
    }
