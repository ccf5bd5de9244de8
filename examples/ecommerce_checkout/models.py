"""What travels between the steps; money is whole cents."""

from __future__ import annotations

from pydantic import BaseModel, Field


class CartItem(BaseModel):
    """One line of the cart, as the customer sent it."""

    sku: str = Field(min_length=1)
    quantity: int = Field(ge=1, le=100)


class CheckoutInput(BaseModel):
    """The context of a checkout; a handler that asks for it fails for good where it does not validate."""

    customer_email: str = Field(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")
    cart_items: list[CartItem]
    payment_token: str = Field(min_length=1)


class PriceRules(BaseModel):
    """The `initialization` of the step `validate_cart`."""

    tax_basis_points: int = Field(ge=0)
    shipping_cents: int = Field(ge=0)
    free_shipping_from_cents: int = Field(ge=0)


class PricedLine(BaseModel):
    sku: str
    name: str
    quantity: int
    line_total_cents: int


class ValidatedCart(BaseModel):
    """The result of `validate_cart`."""

    lines: list[PricedLine]
    subtotal_cents: int
    tax_cents: int
    shipping_cents: int
    total_cents: int


class Payment(BaseModel):
    """The result of `process_payment`."""

    payment_id: str
    amount_cents: int
    card: str
    #: The gateway knew the idempotency key: an earlier try took the money, this one only learned of it.
    replayed: bool


class Reservation(BaseModel):
    """The result of `update_inventory`."""

    reservation_id: str
    units: int


class Order(BaseModel):
    """The result of `create_order`."""

    order_id: str
    customer_email: str
    total_cents: int
    payment_id: str
    reservation_id: str
