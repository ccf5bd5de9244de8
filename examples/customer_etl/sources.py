"""The two databases that the pipeline reads, made up on the spot: the same input always gives the same rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import date, timedelta
from typing import Final

from .files import Row

CUSTOMER_COLUMNS: Final = ("customer_id", "name", "email", "postcode")
TRANSACTION_COLUMNS: Final = ("transaction_id", "customer_id", "day", "amount_cents")
_NAMES: Final = ("Ada", "Alan", "Barbara", "Donald", "Edsger", "Frances", "Grace", "Ken", "Margaret", "Tony")


def customers(count: int, corrupt: Collection[int]) -> Iterator[Row]:
    """The rows of the customer database; those in `corrupt` are spoilt, each kind of damage in turn."""
    for number in range(1, count + 1):
        name = _NAMES[number % len(_NAMES)]
        email, postcode = f"{name.lower()}.{number}@mail.example", f"{number * 7919 % 100_000:05d}"
        row: Row = (str(number), f"{name} {number}", email, postcode)
        if number in corrupt:
            damages: tuple[Row, ...] = (row[:2], (*row[:2], "no address", postcode), (*row[:3], "N/A"))
            row = damages[number % len(damages)]
        yield row


def transactions(customer_count: int, until: date) -> Iterator[Row]:
    """The rows of the transaction database: up to three for each customer, in the 90 days up to `until`."""
    for customer in range(1, customer_count + 1):
        for nth in range(customer % 4):
            day = until - timedelta(days=(customer * 13 + nth * 29) % 90)
            yield (
                f"{customer}-{nth + 1}",
                str(customer),
                day.isoformat(),
                str(500 + (customer * 37 + nth * 911) % 9_500),
            )
