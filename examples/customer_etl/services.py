"""What a row has to look like, and the service that knows more about a customer: a fake without a network."""

from __future__ import annotations

from typing import Final, NamedTuple

from .files import Row
from .sources import CUSTOMER_COLUMNS

REGIONS: Final = ("north", "east", "south", "west", "centre")
INCOMES: Final = ("low", "middle", "high")


class MalformedRecord(Exception):
    """A row that no further try can read."""


class ApiTimeout(Exception):
    """The demographics service did not answer; the next try may be luckier."""


class Customer(NamedTuple):
    customer_id: int
    name: str
    email: str
    postcode: str


class Demographics(NamedTuple):
    region: str
    income: str


def read_customer(row: Row) -> Customer:
    """A row as a customer; raises `MalformedRecord` with what is wrong."""
    who = row[0] if row else "?"
    if len(row) != len(CUSTOMER_COLUMNS):
        raise MalformedRecord(f"customer {who}: {len(row)} columns instead of {len(CUSTOMER_COLUMNS)}")
    if not who.isdecimal():
        raise MalformedRecord(f"customer {who!r}: the id is no number")
    if "@" not in row[2]:
        raise MalformedRecord(f"customer {who}: {row[2]!r} is no e-mail address")
    if not (row[3].isdecimal() and len(row[3]) == 5):
        raise MalformedRecord(f"customer {who}: {row[3]!r} is no postcode")
    return Customer(int(who), row[1], row[2], row[3])


class DemographicsApi:
    """Says where a postcode is and what people earn there.

    `times_out_at` is a customer for whom the first `timeouts` requests get no answer; `request_number` says which
    one this is, since the fake has no memory.
    """

    def __init__(self, *, times_out_at: int | None, timeouts: int, request_number: int) -> None:
        self._times_out_at = times_out_at if request_number <= timeouts else None

    def look_up(self, customer: Customer) -> Demographics:
        """Raises `ApiTimeout`."""
        if customer.customer_id == self._times_out_at:
            raise ApiTimeout(f"no answer about customer {customer.customer_id} within 10 s")
        number = int(customer.postcode)
        return Demographics(REGIONS[number // 20_000], INCOMES[number % len(INCOMES)])
