"""The warehouse: an SQLite file, so that what was loaded can be looked at.

A load and the note that it was made are one transaction. The note's key is the step's `step_uuid`, which is the same
in every try, so a load that was made but not answered is found and not made again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from .files import Row

_TABLES: Final = """
create table if not exists loads (load_id text primary key, row_count integer, amount_cents integer);
create table if not exists customers (
    customer_id integer primary key, name text, email text, region text, income text,
    transaction_count integer, amount_cents integer, load_id text references loads
);
"""


class Load(NamedTuple):
    row_count: int
    amount_cents: int
    #: An earlier try had made it.
    was_there: bool


def load(database: Path, rows: Iterable[Row], *, load_id: str) -> Load:
    """Put rows into the warehouse, all or none, once for each `load_id`."""
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(_TABLES)
        with connection:
            # A second try that runs beside the first waits here until that one is through.
            connection.execute("begin immediate")
            known = _load(connection, load_id)
            if known is not None:
                return Load(*known, was_there=True)
            connection.executemany(
                "insert or replace into customers values (?, ?, ?, ?, ?, ?, ?, ?)",
                ((*row, load_id) for row in rows),
            )
            connection.execute(
                "insert into loads select ?, count(*), coalesce(sum(amount_cents), 0) from customers"
                " where load_id = ?",
                (load_id, load_id),
            )
            made = _load(connection, load_id)
            assert made is not None, "it was written just now"
            return Load(*made, was_there=False)


def _load(connection: sqlite3.Connection, load_id: str) -> tuple[int, int] | None:
    query = "select row_count, amount_cents from loads where load_id = ?"
    found: tuple[int, int] | None = connection.execute(query, (load_id,)).fetchone()
    return found


def amounts_by_region(database: Path) -> dict[str, int]:
    """What the customers of each region have spent, in cents."""
    query = "select region, sum(amount_cents) from customers group by region order by region"
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute(query))
