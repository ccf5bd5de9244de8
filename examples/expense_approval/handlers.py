"""What happens around the waiting: for `manager_decision` itself there is no code."""

from __future__ import annotations

from typing import Any

from stepweave import (
    Decision,
    StepContext,
    ValidationError,
    decision_handler,
    depends_on,
    inputs,
    step_handler,
)

from . import services


@step_handler("expenses.submit")
@inputs("employee", "amount_cents", "category", "simulate")
def submit(
    employee: str,
    amount_cents: int,
    category: str,
    context: StepContext,
    simulate: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """File the claim and write to the manager, with the command that answers."""
    if category not in services.CATEGORIES:
        raise ValidationError(
            f"{category} is not paid back, only {', '.join(services.CATEGORIES)}",
            error_code="CATEGORY_NOT_PAID",
        )
    claim_id = services.file_claim(
        employee,
        amount_cents,
        idempotency_key=context.step_uuid,
        request_number=context.attempt,
        down_for_requests=(simulate or {}).get("receipts_down_for_tries", 0),
    )
    manager = services.manager_of(employee)
    # In a real system: a link to a page that sends the signal.
    answer = f"stepweave task signal {context.task_uuid} manager_decision --payload '{{\"approved\": true}}'"
    services.send_mail(
        manager, f"{employee} spent {amount_cents / 100:.2f}: {answer}", idempotency_key=context.step_uuid
    )
    return {"claim_id": claim_id, "asked": manager}


@decision_handler("expenses.settle")
@depends_on(answer="manager_decision")
def settle(answer: dict[str, Any]) -> Decision:
    """Choose what comes to exist; whether a person answered or the default did makes no difference here."""
    comment = answer.get("comment", "")
    if answer["approved"]:
        return Decision.route("pay_out", outcome="approved", comment=comment)
    return Decision.route("notify_rejection", outcome="rejected", comment=comment)


@step_handler("expenses.pay_out")
@depends_on(claim="submit_expense")
@inputs("employee", "amount_cents")
def pay_out(claim: dict[str, Any], employee: str, amount_cents: int, context: StepContext) -> dict[str, Any]:
    """Transfer the money, once."""
    transfer_id = services.transfer(employee, amount_cents, idempotency_key=context.step_uuid)
    return {"claim_id": claim["claim_id"], "transfer_id": transfer_id, "amount_cents": amount_cents}


@step_handler("expenses.notify_rejection")
@depends_on(claim="submit_expense", decision="settle_expense")
@inputs("employee")
def notify_rejection(
    claim: dict[str, Any], decision: dict[str, Any], employee: str, context: StepContext
) -> dict[str, Any]:
    """Write to the employee."""
    text = f"Claim {claim['claim_id']} was rejected: {decision['comment'] or 'no reason given'}"
    return {"message_id": services.send_mail(employee, text, idempotency_key=context.step_uuid), "text": text}
