"""The steps of the customer success team. How money is given back is not theirs to know."""

from __future__ import annotations

from typing import Any, Final

from stepweave import BusinessLogicError, StepContext, ValidationError, depends_on, inputs, step_handler

from . import services

REASONS: Final = ("defective", "not_as_described", "late", "changed_mind")


@step_handler("customer_success.validate_refund_request")
@inputs("ticket_id", "reason")
def validate_refund_request(ticket_id: str, reason: str) -> dict[str, Any]:
    """Refuse what nobody could decide upon."""
    if reason not in REASONS:
        raise ValidationError(
            f"{reason!r} is no reason for a refund; there is {', '.join(REASONS)}",
            error_code="UNKNOWN_REASON",
        )
    return {"ticket_id": ticket_id, "reason": reason}


@step_handler("customer_success.check_refund_policy")
@inputs("tier", "days_since_purchase")
def check_refund_policy(tier: str, days_since_purchase: int, context: StepContext) -> dict[str, Any]:
    """Since 2.0.0: how long a customer has, the template says by tier."""
    days: int = context.step_config["days"][tier]
    if days_since_purchase > days:
        raise BusinessLogicError(
            f"bought {days_since_purchase} days ago; a {tier} customer has {days}", error_code="TOO_LATE"
        )
    return {"tier": tier, "days_left": days - days_since_purchase}


@step_handler("customer_success.approve_refund")
@inputs("amount_cents")
def approve_refund(amount_cents: int, context: StepContext) -> dict[str, Any]:
    """Both versions use it, each with its own limit."""
    limit_cents: int = context.step_config["limit_cents"]
    if amount_cents > limit_cents:
        raise BusinessLogicError(
            f"support approves {limit_cents} cents at most, not {amount_cents}",
            error_code="OVER_SUPPORT_LIMIT",
        )
    return {"approved_cents": amount_cents, "approved_by": f"{context.namespace} {context.template_version}"}


@step_handler("customer_success.notify_customer")
@depends_on(refund="execute_refund")
@inputs("customer")
def notify_customer(refund: dict[str, Any], customer: str, context: StepContext) -> dict[str, Any]:
    """`refund` is what the payments team's task has come to."""
    text = f"{refund['amount_cents'] / 100:.2f} are on their way to you, number {refund['refund_id']}"
    message_id = services.send_mail(customer, text, idempotency_key=context.step_uuid)
    return {"message_id": message_id, "text": text}


@step_handler("customer_success.close_ticket")
@depends_on(refund="execute_refund")
@inputs("ticket_id")
def close_ticket(refund: dict[str, Any], ticket_id: str, context: StepContext) -> dict[str, Any]:
    """Since 2.0.0."""
    services.close_ticket(ticket_id, f"refund {refund['refund_id']}", idempotency_key=context.step_uuid)
    return {"ticket_id": ticket_id, "status": "closed"}
