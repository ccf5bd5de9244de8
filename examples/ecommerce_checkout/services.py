"""The shop's services, as fakes without network, clock or memory: their arguments alone decide what they do.

They classify their errors: a `PermanentError` (or one of its kinds) ends the step, a `RetryableError` is tried
again as the template says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from stepweave import (
    BusinessLogicError,
    PermanentError,
    ServiceUnavailableError,
    TimeoutError,
    ValidationError,
)

from .models import CartItem, Order, Payment, PricedLine, PriceRules, Reservation, ValidatedCart


class Product(NamedTuple):
    name: str
    price_cents: int
    stock: int


CATALOGUE: Final = {
    "mug": Product("Enamel mug", 1250, 40),
    "notebook": Product("Notebook, dotted", 890, 200),
    "lamp": Product("Desk lamp", 4990, 3),
    "poster": Product("Poster, signed", 2500, 0),
}

CARDS: Final = {
    "tok_visa": "Visa 4242",
    "tok_gateway_timeout": "Visa 0119",
    "tok_gateway_down": "Visa 0127",
}
REFUSED_CARDS: Final = {
    "tok_declined": ("CARD_DECLINED", "the bank declined the card"),
    "tok_no_funds": ("INSUFFICIENT_FUNDS", "the card's account does not cover the amount"),
    "tok_expired": ("CARD_EXPIRED", "the card has expired"),
}


def price_cart(items: Sequence[CartItem], rules: PriceRules) -> ValidatedCart:
    """Check the items against the catalogue and add up what they cost.

    Raises `ValidationError` for an empty cart and for unknown items, `BusinessLogicError` for too few in stock.
    """
    wanted = Counter[str]()
    for item in items:
        wanted[item.sku] += item.quantity
    if not wanted:
        raise ValidationError("the cart is empty", error_code="EMPTY_CART")
    unknown = sorted(wanted.keys() - CATALOGUE.keys())
    if unknown:
        raise ValidationError(
            f"the catalogue has no {', '.join(unknown)}; it has {', '.join(CATALOGUE)}",
            error_code="UNKNOWN_ITEM",
            metadata={"skus": unknown},
        )
    short = {sku: CATALOGUE[sku].stock for sku, quantity in wanted.items() if quantity > CATALOGUE[sku].stock}
    if short:
        left = ", ".join(f"{stock} of {sku}" for sku, stock in short.items())
        raise BusinessLogicError(
            f"not enough in stock: {left} left", error_code="OUT_OF_STOCK", metadata={"left": short}
        )
    lines = [
        PricedLine(
            sku=sku,
            name=CATALOGUE[sku].name,
            quantity=quantity,
            line_total_cents=CATALOGUE[sku].price_cents * quantity,
        )
        for sku, quantity in wanted.items()
    ]
    subtotal = sum(line.line_total_cents for line in lines)
    # Rounded half up, in whole numbers.
    tax = (subtotal * rules.tax_basis_points + 5_000) // 10_000
    shipping = 0 if subtotal >= rules.free_shipping_from_cents else rules.shipping_cents
    return ValidatedCart(
        lines=lines,
        subtotal_cents=subtotal,
        tax_cents=tax,
        shipping_cents=shipping,
        total_cents=subtotal + tax + shipping,
    )


async def charge(token: str, amount_cents: int, *, idempotency_key: str, request_number: int) -> Payment:
    """Charge a card at the payment gateway.

    Requests with the same `idempotency_key` are one payment, however often they come. `request_number` says how
    many there were with this one; a real gateway counts by itself.
    """
    if token in REFUSED_CARDS:
        code, message = REFUSED_CARDS[token]
        raise PermanentError(message, error_code=code)
    if token not in CARDS:
        raise PermanentError(
            f"the gateway does not know {token}; it knows {', '.join([*CARDS, *REFUSED_CARDS])}",
            error_code="INVALID_TOKEN",
        )
    if token == "tok_gateway_down":
        raise ServiceUnavailableError("the payment gateway answers 503", error_code="GATEWAY_UNAVAILABLE")
    if token == "tok_gateway_timeout" and request_number == 1:
        # The worst of all: the money was taken, only the answer is lost.
        raise TimeoutError("the payment gateway did not answer within 10 s", error_code="GATEWAY_TIMEOUT")
    return Payment(
        payment_id=_id("pay", idempotency_key),
        amount_cents=amount_cents,
        card=CARDS[token],
        replayed=token == "tok_gateway_timeout",
    )


def reserve(lines: Sequence[PricedLine], *, idempotency_key: str) -> Reservation:
    """Set the goods aside."""
    return Reservation(reservation_id=_id("res", idempotency_key), units=sum(line.quantity for line in lines))


def save_order(
    customer_email: str,
    cart: ValidatedCart,
    payment: Payment,
    reservation: Reservation,
    *,
    idempotency_key: str,
) -> Order:
    """Write the order."""
    return Order(
        order_id=_id("ord", idempotency_key),
        customer_email=customer_email,
        total_cents=cart.total_cents,
        payment_id=payment.payment_id,
        reservation_id=reservation.reservation_id,
    )


def send_mail(recipient: str, subject: str, *, idempotency_key: str) -> dict[str, str]:
    """Hand a message to the mail server."""
    return {"message_id": _id("msg", idempotency_key), "recipient": recipient, "subject": subject}


def _id(prefix: str, idempotency_key: str) -> str:
    """The same id for the same key: what a service with a memory would give back."""
    return f"{prefix}_{sha256(idempotency_key.encode()).hexdigest()[:16]}"
