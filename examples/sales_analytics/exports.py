"""CSV exports of the three sources, made up on the spot: the same input always gives the same rows."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

from stepweave import StepContext

#: What one unit costs, in cents.
PRICES: Final = {"lamp": 4_990, "mug": 1_250, "notebook": 890, "poster": 2_500, "chair": 12_900}
SEGMENTS: Final = ("consumer", "business", "education")
CUSTOMER_COUNT: Final = 40


def sales(orders: int, last_day: date, days: int) -> Iterator[dict[str, str]]:
    """One row for each order, spread over the period; some products sell better than others."""
    products = ("mug", "notebook", "lamp", "mug", "poster", "notebook", "mug", "chair")
    for number in range(1, orders + 1):
        product = products[number * 5 % len(products)]
        quantity = 1 + number * 7 % 3
        yield {
            "order_id": str(number),
            "day": (last_day - timedelta(days=number * 11 % days)).isoformat(),
            "product": product,
            "customer_id": str(1 + number * 13 % CUSTOMER_COUNT),
            "quantity": str(quantity),
            "amount_cents": str(PRICES[product] * quantity),
        }


def inventory() -> Iterator[dict[str, str]]:
    """What each of two warehouses has of each product."""
    for place, warehouse in enumerate(("harbour", "airport")):
        for number, product in enumerate(PRICES):
            yield {"warehouse": warehouse, "product": product, "on_hand": str(5 + number * 20 + place * 15)}


def customers() -> Iterator[dict[str, str]]:
    """Who belongs to which segment."""
    for number in range(1, CUSTOMER_COUNT + 1):
        yield {"customer_id": str(number), "segment": SEGMENTS[number * number // 4 % len(SEGMENTS)]}


def folder_of(context: StepContext) -> Path:
    """The folder of the task, the same for all its steps and tries.

    Workers on several machines would share a disk or an object store instead.
    """
    work_dir = context.get_input("work_dir")
    root = Path(work_dir) if work_dir else Path(tempfile.gettempdir()) / "stepweave-sales-analytics"
    return root / context.task_uuid


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all is written.

    So a file is there as a whole or not at all, and a try that comes late puts the same file in its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, str]]) -> int:
    """Write a CSV file; returns how many rows it has. Values of other columns are left out."""
    count = 0
    with whole(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        return list(reader.fieldnames or ()), rows
