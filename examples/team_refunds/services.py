"""What both teams call, as fakes without network, clock or memory: their arguments alone decide."""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from stepweave import ServiceUnavailableError


class Payment(NamedTuple):
    """A payment as the gateway knows it."""

    captured_cents: int
    refunded_cents: int = 0
    #: The gateway is down for so many requests about it.
    down_for_requests: int = 0


PAYMENTS: Final = {
    "pay_book": Payment(4_990),
    "pay_laptop": Payment(129_900),
    "pay_chair": Payment(24_900),
    "pay_refunded": Payment(4_990, refunded_cents=4_990),
    "pay_flaky": Payment(4_990, down_for_requests=2),
    "pay_stuck": Payment(4_990, down_for_requests=1_000),
}


def refund(payment_id: str, amount_cents: int, *, idempotency_key: str, request_number: int) -> str:
    """The gateway: give money back; requests with the same key are one refund."""
    if request_number <= PAYMENTS[payment_id].down_for_requests:
        raise ServiceUnavailableError("the payment gateway answers 503", error_code="GATEWAY_UNAVAILABLE")
    return _id("ref", idempotency_key)


def book_refund(refund_id: str, amount_cents: int, *, idempotency_key: str) -> str:
    """The ledger."""
    return _id("led", idempotency_key)


def send_mail(recipient: str, text: str, *, idempotency_key: str) -> str:
    """Give the id of the message."""
    return _id("msg", idempotency_key)


def close_ticket(ticket_id: str, note: str, *, idempotency_key: str) -> None:
    """The help desk; a ticket that is closed stays closed."""


def _id(prefix: str, idempotency_key: str) -> str:
    """The same id for the same key: what a service with a memory would give back."""
    return f"{prefix}_{sha256(idempotency_key.encode()).hexdigest()[:16]}"
