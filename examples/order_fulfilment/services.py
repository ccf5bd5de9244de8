"""What the fulfilment talks to, as fakes without network, clock or memory: their arguments alone decide.

They know nothing of Stepweave and raise errors of their own; the handlers say which of them are worth a retry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple


class Article(NamedTuple):
    price_cents: int
    stock: int


WAREHOUSE: Final = {
    "keyboard": Article(price_cents=7_900, stock=25),
    "monitor": Article(price_cents=32_900, stock=4),
    "chair": Article(price_cents=21_500, stock=12),
    "desk": Article(price_cents=54_900, stock=0),
}
#: Shelves that are being counted: a reservation there waits.
COUNTED_SHELVES: Final = frozenset({"chair"})
WATCHED_CUSTOMERS: Final = frozenset({"cus_mallory"})
FRAUD_SCORE_MAX: Final = 80
COUNTRIES: Final = frozenset({"AT", "BE", "CH", "DE", "DK", "ES", "FR", "IT", "NL", "PL", "US"})


class UnknownArticle(Exception):
    """The warehouse does not have such an article at all."""


class ShelfLocked(Exception):
    """The shelf is being counted; it is free again in a moment."""


class GatewayUnreachable(Exception):
    """The connection to the payment gateway broke."""


class PaymentRefused(Exception):
    """The bank said no; `code` says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AddressNotServed(Exception):
    """The carrier does not go there."""


class CarrierDown(Exception):
    """The carrier's system is out of order."""


class Greylisted(Exception):
    """The mail server wants to see the message again, `seconds` later."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the mail server takes the message {seconds:g} s later")
        self.seconds = seconds


def total_cents(items: Sequence[Mapping[str, Any]]) -> int:
    """What the items cost together; raises `UnknownArticle`."""
    unknown = sorted({item["sku"] for item in items} - WAREHOUSE.keys())
    if unknown:
        raise UnknownArticle(f"there is no {', '.join(unknown)}; there is {', '.join(WAREHOUSE)}")
    return sum(WAREHOUSE[item["sku"]].price_cents * item["quantity"] for item in items)


def fraud_score(customer_id: str, amount_cents: int) -> int:
    """From 0 (harmless) to 100; above `FRAUD_SCORE_MAX` it is fraud."""
    return (60 if customer_id in WATCHED_CUSTOMERS else 5) + min(40, amount_cents // 2_500)


def missing_units(items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many units of each article are not there; empty where all is there."""
    wanted: dict[str, int] = {}
    for item in items:
        wanted[item["sku"]] = wanted.get(item["sku"], 0) + item["quantity"]
    return {
        sku: quantity - WAREHOUSE[sku].stock
        for sku, quantity in wanted.items()
        if quantity > WAREHOUSE[sku].stock
    }


def reserve(items: Sequence[Mapping[str, Any]], *, idempotency_key: str, request_number: int) -> str:
    """Set units aside and give the reservation's id; raises `ShelfLocked`."""
    locked = sorted({item["sku"] for item in items} & COUNTED_SHELVES)
    if locked and request_number == 1:
        raise ShelfLocked(f"the shelf of {', '.join(locked)} is being counted")
    return _id("res", idempotency_key)


def charge(method: str, amount_cents: int, *, idempotency_key: str, request_number: int) -> str:
    """Charge a payment method and give the transaction's id; the same key is charged once.

    Raises `GatewayUnreachable` and `PaymentRefused`. `request_number` says how many requests there were with
    this key, this one included; a real gateway counts by itself.
    """
    if method == "card_bad_line" and request_number <= 2:
        raise GatewayUnreachable(f"connection reset by the gateway, request {request_number}")
    if method == "card_no_funds":
        raise PaymentRefused("insufficient_funds", f"the account does not cover {amount_cents} cents")
    if method == "card_invalid":
        raise PaymentRefused("invalid_card", "there is no such card")
    return _id("txn", idempotency_key)


def ship(order_id: str, country: str, *, express: bool) -> str:
    """Order a pick-up and give the tracking number; raises `AddressNotServed` and `CarrierDown`."""
    if country not in COUNTRIES:
        raise AddressNotServed(f"the carrier does not deliver to {country}")
    if express:
        raise CarrierDown("the express service answers 503")
    return _id(country, order_id)


def send_mail(recipient: str, subject: str, *, request_number: int) -> str:
    """Hand a message to the mail server and give its id; raises `Greylisted`."""
    if recipient.endswith("@greylist.example") and request_number == 1:
        raise Greylisted(0.3)
    return _id("msg", f"{recipient} {subject}")


def _id(prefix: str, key: str) -> str:
    """The same id for the same key: what a service with a memory would give back."""
    return f"{prefix}_{sha256(key.encode()).hexdigest()[:16]}"
