"""The four services of a registration, as fakes without network, clock or memory: their arguments alone decide."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from stepweave import ServiceUnavailableError

BLOCKED_DOMAINS: Final = frozenset({"tempmail.com", "throwaway.email", "mailinator.com"})


def create_account(email: str, *, idempotency_key: str) -> str:
    """The user service: gives the new user's id, the same one for the same key."""
    return _id("usr", idempotency_key)


def create_billing_profile(
    user_id: str, plan: str, *, idempotency_key: str, request_number: int, down_for_requests: int = 0
) -> str:
    """The billing service: gives the profile's id.

    It is down for the first `down_for_requests` requests of a key, and raises `ServiceUnavailableError` then.
    """
    if request_number <= down_for_requests:
        raise ServiceUnavailableError(
            f"the billing service answers 503 (request {request_number})",
            error_code="BILLING_UNAVAILABLE",
            context={"user_id": user_id, "plan": plan},
        )
    return _id("bill", idempotency_key)


def default_preferences() -> dict[str, Any]:
    """The preferences service: what a new user starts with."""
    return {"language": "en", "notifications": {"email": True, "push": False}}


def send_messages(messages: list[dict[str, str]], *, idempotency_key: str) -> str:
    """The notification service: gives the id of the sequence."""
    return _id("seq", idempotency_key + str(len(messages)))


def _id(prefix: str, key: str) -> str:
    return f"{prefix}_{sha256(key.encode()).hexdigest()[:24]}"
