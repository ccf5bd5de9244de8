"""The five steps of a registration, in both styles.

Classes where there is a decision to write down (account, welcome, status), functions where the parameters say it
all (billing, preferences). A handler's name is only a name: the classes keep those of the system that they were
moved from, the functions have plain ones.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from stepweave import (
    PermanentError,
    StepContext,
    StepHandler,
    StepHandlerResult,
    ValidationError,
    depends_on,
    inputs,
    step_handler,
)

from . import services

EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


class CreateUserAccountHandler(StepHandler):
    """Checks who registers, and creates the account; what is wrong here no retry can mend."""

    handler_name = "Microservices::StepHandlers::CreateUserAccountHandler"

    def call(self, context: StepContext) -> StepHandlerResult:
        user_info = context.get_input_or("user_info", {})
        email = user_info.get("email")
        plan = user_info.get("plan") or "free"
        if not email:
            raise PermanentError("Email address is required", error_code="MISSING_EMAIL")
        if not EMAIL.fullmatch(email):
            raise PermanentError(f"Invalid email format: {email}", error_code="INVALID_EMAIL")
        domain = email.rpartition("@")[2].lower()
        if domain in services.BLOCKED_DOMAINS:
            raise PermanentError(
                f"Disposable email addresses are not allowed: {domain}", error_code="BLOCKED_EMAIL_DOMAIN"
            )
        return self.success(
            {
                "user_id": services.create_account(email, idempotency_key=context.step_uuid),
                "email": email.lower(),
                "name": user_info.get("name"),
                "plan": plan,
                "status": "created",
                "email_verified": False,
                "created_at": _now(),
            }
        )


@step_handler("setup_billing_profile")
@depends_on(account="create_user_account")
@inputs("simulate")
async def setup_billing_profile(
    account: dict[str, Any], context: StepContext, simulate: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Create the billing profile; the template says how many days of trial a plan has."""
    trial_days = context.step_config["trial_days"]
    plan = account["plan"]
    if plan not in trial_days:
        raise ValidationError(
            f"there is no plan {plan!r}, there is {', '.join(trial_days)}", error_code="UNKNOWN_PLAN"
        )
    billing_id = services.create_billing_profile(
        account["user_id"],
        plan,
        idempotency_key=context.step_uuid,
        request_number=context.attempt,
        down_for_requests=(simulate or {}).get("billing_down_for_tries", 0),
    )
    return {"billing_id": billing_id, "plan": plan, "trial_days": trial_days[plan]}


@step_handler("initialize_preferences")
@depends_on(account="create_user_account")
@inputs("user_info")
def initialize_preferences(account: dict[str, Any], user_info: dict[str, Any]) -> dict[str, Any]:
    """Start with the defaults, and the user's own choices over them."""
    preferences = services.default_preferences()
    chosen = user_info.get("preferences") or {}
    preferences["notifications"] |= chosen.get("notifications") or {}
    preferences["language"] = chosen.get("language") or preferences["language"]
    return {"user_id": account["user_id"], "preferences": preferences}


class SendWelcomeSequenceHandler(StepHandler):
    """Runs when both branches are done, and composes the welcome from all three results."""

    handler_name = "Microservices::StepHandlers::SendWelcomeSequenceHandler"

    def call(self, context: StepContext) -> StepHandlerResult:
        account = context.get_dependency_result("create_user_account")
        billing = context.get_dependency_result("setup_billing_profile")
        preferences = context.get_dependency_result("initialize_preferences")
        if account is None or billing is None or preferences is None:
            # Only where an operator resolved one of them by hand, without a result.
            raise PermanentError(
                "Upstream data not available for welcome sequence", error_code="MISSING_DEPENDENCIES"
            )
        email, plan = account["email"], account["plan"]
        messages = [
            {
                "channel": "email",
                "type": "welcome",
                "recipient": email,
                "text": f"Welcome, {account['name'] or email}!",
            }
        ]
        if billing["trial_days"] > 0:
            messages.append(
                {
                    "channel": "email",
                    "type": "trial_started",
                    "recipient": email,
                    "text": f"Your {plan} trial of {billing['trial_days']} days has started",
                }
            )
        if preferences["preferences"]["notifications"].get("push") is True:
            messages.append(
                {
                    "channel": "push",
                    "type": "welcome",
                    "recipient": account["user_id"],
                    "text": f"Your {plan} account is ready",
                }
            )
        sequence_id = services.send_messages(messages, idempotency_key=context.step_uuid)
        return self.success(
            {
                "user_id": account["user_id"],
                "sequence_id": sequence_id,
                "channels_used": sorted({message["channel"] for message in messages}),
                "messages_sent": len(messages),
                "status": "sent",
                "sent_at": _now(),
            },
            metadata={"messages": messages},
        )


class UpdateUserStatusHandler(StepHandler):
    """Makes the account active."""

    handler_name = "Microservices::StepHandlers::UpdateUserStatusHandler"

    def call(self, context: StepContext) -> StepHandlerResult:
        return self.success(
            {
                "user_id": context.get_dependency_field("create_user_account", "user_id"),
                "status": "active",
                "trial_days": context.get_dependency_field("setup_billing_profile", "trial_days"),
                "welcomed_over": context.get_dependency_field("send_welcome_sequence", "channels_used"),
                "activated_at": _now(),
            }
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
