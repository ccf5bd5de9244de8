"""What the steps hand to each other: dataclasses, which come back typed through `@depends_on(name=(step, Type))`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Period:
    """The task's input, as far as the steps need it."""

    last_day: str
    days: int
    orders: int


@dataclass(frozen=True)
class Extract:
    """A file with what a source had."""

    file: str
    records: int


@dataclass(frozen=True)
class Sales:
    """What was sold, by product and by customer."""

    orders: int
    units: dict[str, int]
    cents_by_product: dict[str, int]
    cents_by_customer: dict[str, int]


@dataclass(frozen=True)
class Inventory:
    """What is on hand of each product, over all warehouses."""

    on_hand: dict[str, int]


@dataclass(frozen=True)
class Customers:
    """The segment of each customer."""

    segments: dict[str, str]


@dataclass(frozen=True)
class Product:
    """A product's numbers; `days_of_stock` is how long the stock lasts at this pace, None where nothing was sold."""

    units: int
    cents: int
    on_hand: int
    days_of_stock: float | None


@dataclass(frozen=True)
class Metrics:
    """Everything brought together."""

    orders: int
    cents: int
    products: dict[str, Product]
    cents_by_segment: dict[str, int]
