"""The four services of a registration, as fakes without network, clock or memory: their arguments alone decide.

What a service creates it can also take back. Both take an idempotency key: the same request with the same key is
done once, however often it comes.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from stepweave import PermanentError, ServiceUnavailableError

#: The profile service knows these already.
TAKEN_EMAILS: Final = frozenset({"taken@mail.example"})
#: Mail to this domain comes back.
DEAD_DOMAIN: Final = "nowhere.example"


class DuplicateEmail(Exception):
    """The profile service: somebody else has this address."""


class AccountLocked(Exception):
    """The auth service: the account cannot be deleted by a program."""


# -- auth ------------------------------------------------------------------------------------------


def create_account(user_id: str, *, idempotency_key: str) -> str:
    """Give the id of the new account."""
    return _id("acc", idempotency_key)


def delete_account(account_id: str, *, idempotency_key: str, locked: bool = False) -> None:
    """Delete an account; one that is gone already is no error."""
    if locked:
        raise AccountLocked(f"account {account_id} is under legal hold: only the security team deletes it")


# -- profiles --------------------------------------------------------------------------------------


def create_profile(
    user_id: str,
    email: str,
    account_id: str,
    *,
    idempotency_key: str,
    request_number: int,
    down_for_requests: int = 0,
) -> str:
    """Give the id of the new profile; it is down for the first `down_for_requests` requests of a key."""
    _must_be_up(request_number, down_for_requests)
    if email.lower() in TAKEN_EMAILS:
        raise DuplicateEmail(f"{email} belongs to another user")
    return _id("prof", idempotency_key)


def deactivate_profile(
    profile_id: str, *, idempotency_key: str, request_number: int, down_for_requests: int = 0
) -> None:
    """Hide a profile and free its address."""
    _must_be_up(request_number, down_for_requests)


# -- notifications and analytics ---------------------------------------------------------------------


def set_channels(profile_id: str, channels: list[str], *, idempotency_key: str) -> str:
    """Give the id of the subscription."""
    return _id("sub", idempotency_key)


def remove_channels(subscription_id: str, *, idempotency_key: str) -> None:
    """End a subscription."""


def send_mail(recipient: str, text: str, *, idempotency_key: str) -> str:
    """Give the id of the message; raises `PermanentError` where the mailbox does not exist."""
    if recipient.lower().endswith(f"@{DEAD_DOMAIN}"):
        raise PermanentError(f"there is no mailbox {recipient}", error_code="MAILBOX_NOT_FOUND")
    return _id("msg", idempotency_key)


def record_signup(user_id: str, *, correlation_id: str, idempotency_key: str) -> str:
    """Give the id of the analytics event. The correlation id joins it to the traces of the other services."""
    return _id("evt", idempotency_key)


def retract_signup(event_id: str, *, idempotency_key: str) -> None:
    """Take an analytics event back."""


def _must_be_up(request_number: int, down_for_requests: int) -> None:
    if request_number <= down_for_requests:
        raise ServiceUnavailableError(
            f"the profile service answers 503 (request {request_number})",
            error_code="PROFILES_UNAVAILABLE",
        )


def _id(prefix: str, key: str) -> str:
    return f"{prefix}_{sha256(key.encode()).hexdigest()[:16]}"
