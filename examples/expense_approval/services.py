"""The services of an expense, as fakes without network, clock or memory: their arguments alone decide."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from stepweave import ServiceUnavailableError

#: What the company pays back.
CATEGORIES: Final = ("travel", "meals", "books", "equipment")


def file_claim(
    employee: str,
    amount_cents: int,
    *,
    idempotency_key: str,
    request_number: int,
    down_for_requests: int = 0,
) -> str:
    """File a claim with its receipts, and give its id; the archive is down for the first requests of a key."""
    if request_number <= down_for_requests:
        raise ServiceUnavailableError("the receipts archive answers 503", error_code="RECEIPTS_UNAVAILABLE")
    return _id("claim", idempotency_key)


def manager_of(employee: str) -> str:
    """Who decides."""
    return f"manager-of-{employee}"


def send_mail(recipient: str, text: str, *, idempotency_key: str) -> str:
    """Give the id of the message."""
    return _id("msg", idempotency_key + recipient)


def transfer(employee: str, amount_cents: int, *, idempotency_key: str) -> str:
    """Give the id of the transfer: the same for the same key, as the money goes once."""
    return _id("pay", idempotency_key)


def _id(prefix: str, key: str) -> str:
    return f"{prefix}_{sha256(key.encode()).hexdigest()[:16]}"
