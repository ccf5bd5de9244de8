"""The five steps of a registration, and below them what undoes each.

A compensation is a handler like any other. It finds the result of the step that it undoes among the dependency
results, with those of the steps before; `context.compensates` names the step. `step_uuid` is the compensation's own:
it stays the same over its tries, so it is its idempotency key.
"""

from __future__ import annotations

from typing import Any, Final

from stepweave import StepContext, StepHandlerResult, depends_on, inputs, step_handler

from . import services

CHANNELS: Final = ["email", "push"]


@step_handler("create_auth_account")
@inputs("user_id")
def create_auth_account(user_id: str, context: StepContext) -> dict[str, Any]:
    """Create the account; credentials stay with the auth service, for results are kept in the history."""
    return {"account_id": services.create_account(user_id, idempotency_key=context.step_uuid)}


@step_handler("create_user_profile")
@depends_on(account="create_auth_account")
@inputs("user_id", "email", "simulate")
def create_user_profile(
    account: dict[str, Any],
    user_id: str,
    email: str,
    context: StepContext,
    simulate: dict[str, Any] | None = None,
) -> StepHandlerResult:
    """Create the profile; with an address that is taken, no further try can succeed."""
    try:
        profile_id = services.create_profile(
            user_id,
            email,
            account["account_id"],
            idempotency_key=context.step_uuid,
            request_number=context.attempt,
            down_for_requests=(simulate or {}).get("profiles_down_for_tries", 0),
        )
    except services.DuplicateEmail as error:
        # The template declares `delete_auth_account` for the step before, so it runs in any case, and once. A handler
        # that knows of something else to be undone names it here just so.
        return StepHandlerResult.permanent_failure_with_compensation(
            "duplicate_email", {"email": email, "message": str(error)}, ["delete_auth_account"]
        )
    return StepHandlerResult.success({"profile_id": profile_id, "user_id": user_id})


@step_handler("setup_notification_preferences")
@depends_on(profile="create_user_profile")
def setup_notification_preferences(profile: dict[str, Any], context: StepContext) -> dict[str, Any]:
    """Start with all channels."""
    subscription_id = services.set_channels(
        profile["profile_id"], CHANNELS, idempotency_key=context.step_uuid
    )
    return {"subscription_id": subscription_id, "channels": CHANNELS}


@step_handler("track_user_signup")
@depends_on(profile="create_user_profile")
def track_user_signup(profile: dict[str, Any], context: StepContext) -> dict[str, Any]:
    """Record the signup."""
    event_id = services.record_signup(
        profile["user_id"], correlation_id=context.correlation_id, idempotency_key=context.step_uuid
    )
    return {"event_id": event_id}


@step_handler("send_welcome_email")
@depends_on(profile="create_user_profile")
@inputs("email")
def send_welcome_email(profile: dict[str, Any], email: str, context: StepContext) -> dict[str, Any]:
    """Send the letter that nobody can take back."""
    message_id = services.send_mail(
        email, f"Welcome, {profile['user_id']}!", idempotency_key=context.step_uuid
    )
    return {"message_id": message_id, "recipient": email}


# -- what undoes them --------------------------------------------------------------------------------


@step_handler("delete_auth_account")
@depends_on(account="create_auth_account")
@inputs("simulate")
def delete_auth_account(
    account: dict[str, Any], context: StepContext, simulate: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Delete the account, as well as that goes.

    A locked account stays. That is no failure, which would be tried again: the compensation is done, and says that
    somebody has to clean up.
    """
    try:
        services.delete_account(
            account["account_id"],
            idempotency_key=context.step_uuid,
            locked=(simulate or {}).get("account_locked", False),
        )
    except services.AccountLocked as error:
        return {"compensated": False, "requires_manual_cleanup": True, "error": str(error)}
    return {"compensated": True}


@step_handler("deactivate_user")
@depends_on(profile="create_user_profile")
@inputs("simulate")
def deactivate_user(
    profile: dict[str, Any], context: StepContext, simulate: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Deactivate the profile; where the service is down, the compensation is tried again as any step."""
    services.deactivate_profile(
        profile["profile_id"],
        idempotency_key=context.step_uuid,
        request_number=context.attempt,
        down_for_requests=(simulate or {}).get("deactivation_down_for_tries", 0),
    )
    return {"compensated": True}


@step_handler("remove_notification_preferences")
@depends_on(preferences="setup_notification_preferences")
def remove_notification_preferences(preferences: dict[str, Any], context: StepContext) -> dict[str, Any]:
    """End the subscription."""
    services.remove_channels(preferences["subscription_id"], idempotency_key=context.step_uuid)
    return {"compensated": True}


@step_handler("retract_user_signup")
@depends_on(signup="track_user_signup")
def retract_user_signup(signup: dict[str, Any], context: StepContext) -> dict[str, Any]:
    """Take the signup out of the statistics."""
    services.retract_signup(signup["event_id"], idempotency_key=context.step_uuid)
    return {"compensated": True}
