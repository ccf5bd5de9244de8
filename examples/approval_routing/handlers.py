"""The steps of the approval: a decision as a class, the three ways to approve, and the one place where they meet.

That a purchase is rejected is a result like any other; only what cannot be a purchase at all is a failure.
"""

from __future__ import annotations

from typing import Any, Final

from stepweave import (
    DecisionHandler,
    StepContext,
    StepHandlerResult,
    ValidationError,
    depends_on,
    inputs,
    step_handler,
)

from . import services

#: The ways to approve, in the order in which a summary names them. Of most runs only some exist.
APPROVALS: Final = ("auto_approve", "manager_approval", "finance_review")


@step_handler("validate_request")
@inputs("department", "amount")
def validate_request(department: str, amount: float) -> dict[str, Any]:
    """Check what the `input_schema` cannot know."""
    if amount <= 0:
        raise ValidationError(f"an amount is more than 0, not {amount:g}", error_code="INVALID_AMOUNT")
    if department not in services.BUDGETS:
        raise ValidationError(
            f"there is no department {department!r}, there is {', '.join(services.BUDGETS)}",
            error_code="UNKNOWN_DEPARTMENT",
        )
    return {"amount": amount, "department": department, "valid": True}


class RoutingDecision(DecisionHandler):
    """Names the steps that are to exist; `result_data` is what later steps can read about the choice."""

    handler_name = "routing_decision"

    def call(self, context: StepContext) -> StepHandlerResult:
        if context.get_input_or("withdrawn", False):
            return self.skip_branches("the request was withdrawn", {"route_type": "none"})
        amount = context.get_task_field("amount")
        if amount < context.get_config("manager_from"):
            steps, route_type = ["auto_approve"], "automatic"
        elif amount < context.get_config("finance_from"):
            steps, route_type = ["manager_approval"], "manager"
        else:
            steps, route_type = ["manager_approval", "finance_review"], "manager_and_finance"
        return self.decision_success(steps=steps, result_data={"route_type": route_type, "amount": amount})


@step_handler("auto_approve")
def auto_approve(context: StepContext) -> dict[str, Any]:
    """Small amounts need nobody."""
    return services.record_approval("policy", approved=True, idempotency_key=context.step_uuid)


@step_handler("manager_approval")
@inputs("department", "amount")
def manager_approval(department: str, amount: float, context: StepContext) -> dict[str, Any]:
    """The department's manager knows what the department may spend at once."""
    return services.record_approval(
        f"manager of {department}",
        approved=amount <= services.BUDGETS[department].at_once,
        idempotency_key=context.step_uuid,
    )


@step_handler("finance_review")
@inputs("department", "amount")
def finance_review(department: str, amount: float, context: StepContext) -> dict[str, Any]:
    """Finance knows what is left of the year's budget. It does not wait for the manager: both look at it at once."""
    return services.record_approval(
        "finance",
        approved=amount <= services.BUDGETS[department].left_this_year,
        idempotency_key=context.step_uuid,
    )


@step_handler("finalize_approval")
@depends_on(route="routing_decision")
@inputs("request_id")
def finalize_approval(request_id: str, route: dict[str, Any], context: StepContext) -> dict[str, Any]:
    """Approved where everyone who was asked approved. Steps that do not exist have no result."""
    asked = [context.get_dependency_result(step) for step in APPROVALS if context.has_dependency_result(step)]
    return {
        "request_id": request_id,
        "status": "approved" if all(one["approved"] for one in asked) else "rejected",
        "route_type": route["route_type"],
        "amount": route["amount"],
        "approved_by": [one["by"] for one in asked if one["approved"]],
        "rejected_by": [one["by"] for one in asked if not one["approved"]],
    }
