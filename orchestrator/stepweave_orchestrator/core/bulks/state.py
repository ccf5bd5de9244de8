"""What is known about a bulk operation; changed by `evolve` only."""

from __future__ import annotations

from typing import Final

import msgspec

from stepweave_schemas.bulk import BulkFilter
from stepweave_schemas.events import BulkRefused

#: Raised whenever the shape of the state changes.
SNAPSHOT_FORMAT: Final = 1
#: Refused tasks that the operation itself shows; all of them are in its events.
REFUSED_SHOWN_MAX: Final = 100
#: A chunk has as many tasks as the rate allows in this time, and no more than `CHUNK_TASKS_MAX`.
CHUNK_SECONDS: Final = 2.0
CHUNK_TASKS_MAX: Final = 200


class BulkState(msgspec.Struct, kw_only=True):
    """One bulk operation."""

    stream_id: str
    #: Version of the last event applied; 0 before the first.
    version: int = 0
    bulk_id: str = ""
    action: str = ""
    filter: BulkFilter = BulkFilter()
    rate_per_second: float = 1.0
    tasks_max: int = 0
    reason: str = ""
    requested_by: str = ""
    status: str = "running"
    created_at_ms: int = 0
    updated_at_ms: int = 0
    #: The tasks of the chunk that is not done yet, and its number; the number of the last one where all are done.
    pending: tuple[str, ...] = ()
    chunk_number: int = 0
    #: The creation and the id of the task selected last; none before the first.
    cursor_created_ms: int | None = None
    cursor_task_id: str = ""
    selected_count: int = 0
    applied_count: int = 0
    refused_count: int = 0
    #: The first ones.
    refused: list[BulkRefused] = []
    limit_reached: bool = False
    cancelled_by: str = ""
    cancel_reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether there is anything left to do."""
        return self.status == "running" or bool(self.pending)

    @property
    def stage(self) -> int:
        """How far it is: even where the next tasks are to be selected, odd where those selected are to be acted on."""
        return 2 * self.chunk_number - bool(self.pending)

    @property
    def cursor(self) -> tuple[int, str] | None:
        """The task after which the next page of the filter begins."""
        return None if self.cursor_created_ms is None else (self.cursor_created_ms, self.cursor_task_id)

    @property
    def chunk_tasks_max(self) -> int:
        """How many tasks may be selected next; 0 where `tasks_max` is reached."""
        by_rate = max(1, int(self.rate_per_second * CHUNK_SECONDS))
        return min(by_rate, CHUNK_TASKS_MAX, self.tasks_max - self.selected_count)


def initial(stream_id: str) -> BulkState:
    """The state before the first event."""
    return BulkState(stream_id=stream_id)


def never(_state: BulkState) -> None:
    """A bulk operation goes on by orders to itself, not by the clock."""
