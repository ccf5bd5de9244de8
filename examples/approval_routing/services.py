"""The company around the approval, as fakes without network, clock or memory.

The managers here answer at once and by the book; a workflow that waits for a person is another example.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, NamedTuple


class Budget(NamedTuple):
    """What a department may spend, in whole currency units."""

    at_once: int
    left_this_year: int


BUDGETS: Final = {
    "engineering": Budget(at_once=50_000, left_this_year=30_000),
    "marketing": Budget(at_once=4_000, left_this_year=60_000),
    "sales": Budget(at_once=20_000, left_this_year=20_000),
}


def record_approval(by: str, *, approved: bool, idempotency_key: str) -> dict[str, Any]:
    """Write into the books who said what. The same key is the same entry, however often it is written."""
    entry = sha256(idempotency_key.encode()).hexdigest()[:16]
    return {"approval_id": f"apr_{entry}", "by": by, "approved": approved}
