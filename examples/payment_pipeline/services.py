"""The gateway, the fraud check, the ledger and the webhook, as fakes without network, clock or memory.

What the gateway does follows from the payment method's token (`TOKENS`). A real one has a memory of its own: it knows
by the idempotency key how often a request came, which `request_number` says here.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from stepweave import ServiceUnavailableError

TOKENS: Final = {
    "tok_good": "everything goes well",
    "tok_slow": "the first authorisation gets no answer in time",
    "tok_silent": "no authorisation ever gets an answer",
    "tok_no_funds": "the account does not cover the amount",
    "tok_stolen": "the card is blocked",
    "tok_capture_lost": "the first capture moves the money, but its answer is lost",
    "tok_capture_declined": "the money is put on hold, but the capture is declined",
}


class GatewayTimeout(Exception):
    """No answer came; nobody knows whether the request was carried out."""


class InsufficientFunds(Exception):
    """The account does not cover the amount."""


class InvalidCard(Exception):
    """The gateway does not accept the payment method."""


class CaptureDeclined(Exception):
    """The hold is there, but its money cannot be moved."""


class VoidRefused(Exception):
    """The gateway does not let a hold go."""


class Hold(NamedTuple):
    """Money on hold."""

    authorization_code: str
    gateway_transaction_id: str


class Capture(NamedTuple):
    """Money that has moved."""

    transaction_id: str
    receipt: str


# -- the gateway -------------------------------------------------------------------------------------


def authorize(
    payment_id: str,
    method: Mapping[str, Any],
    amount_cents: int,
    *,
    idempotency_key: str,
    request_number: int,
) -> Hold:
    """Put an amount on hold; requests with the same key are one hold."""
    token = method["token"]
    if token not in TOKENS:
        raise InvalidCard(f"the gateway does not know {token}; it knows {', '.join(TOKENS)}")
    if token == "tok_stolen":
        raise InvalidCard("the card was reported stolen")
    if token == "tok_no_funds":
        raise InsufficientFunds(f"the account does not cover {amount_cents} cents")
    if token == "tok_silent" or (token == "tok_slow" and request_number == 1):
        raise GatewayTimeout("the payment gateway did not answer within 10 s")
    return Hold(_id("auth", idempotency_key), _id("gtx", idempotency_key))


def void(payment_id: str, *, idempotency_key: str, refused: bool = False) -> str:
    """Let go whatever is still on hold for a payment; where nothing is, there is nothing to do."""
    if refused:
        raise VoidRefused(f"the gateway does not let the hold of {payment_id} go; it ends after 7 days")
    return _id("void", idempotency_key)


def find_capture(token: str, *, idempotency_key: str, request_number: int) -> Capture | None:
    """The capture that a request with this key made before, if one did."""
    if token == "tok_capture_lost" and request_number > 1:
        return _capture(idempotency_key)
    return None


def capture(token: str, authorization_code: str, *, idempotency_key: str, request_number: int) -> Capture:
    """Move the money that is on hold."""
    if token == "tok_capture_declined":
        raise CaptureDeclined(f"the bank declined to settle {authorization_code}")
    if token == "tok_capture_lost" and request_number == 1:
        # The worst of all: the money has moved, only the answer is lost.
        raise GatewayTimeout("the payment gateway did not answer within 10 s")
    return _capture(idempotency_key)


def refund(payment_id: str, amount_cents: int, *, idempotency_key: str) -> str:
    """Give back what was captured for a payment; where nothing was, there is nothing to do."""
    return _id("ref", idempotency_key)


# -- the others ----------------------------------------------------------------------------------------


def fraud_score(amount_cents: int, payments_in_last_hour: int) -> int:
    """0 to 100: large payments and many of them in a row score high."""
    return min(100, amount_cents // 20_000 + 15 * payments_in_last_hour)


def book(
    lines: Mapping[str, int], *, idempotency_key: str, request_number: int, down_for_requests: int = 0
) -> str:
    """Write a ledger entry: cents by account, which add up to nothing. It is down for the first requests of a key."""
    if request_number <= down_for_requests:
        raise ServiceUnavailableError("the ledger answers 503", error_code="LEDGER_UNAVAILABLE")
    if sum(lines.values()) != 0:
        raise ValueError(f"the lines of an entry add up to nothing, not to {sum(lines.values())}")
    return _id("led", idempotency_key)


def call_webhook(
    message: Mapping[str, Any], *, idempotency_key: str, request_number: int, down_for_requests: int = 0
) -> str:
    """Tell the merchant."""
    if request_number <= down_for_requests:
        raise ServiceUnavailableError("the merchant's webhook answers 503", error_code="WEBHOOK_DOWN")
    return _id("hook", idempotency_key)


def _capture(idempotency_key: str) -> Capture:
    transaction_id = _id("txn", idempotency_key)
    return Capture(transaction_id, receipt=f"receipt {transaction_id[4:12]}")


def _id(prefix: str, idempotency_key: str) -> str:
    """The same id for the same key: what a service with a memory would give back."""
    return f"{prefix}_{sha256(idempotency_key.encode()).hexdigest()[:16]}"
