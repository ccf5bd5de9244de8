"""What may be asked of a bulk operation; `RequestBulk` and `CancelBulk` also travel between orchestrators."""

from __future__ import annotations

from stepweave_orchestrator.core.commands import StreamCommand
from stepweave_schemas.bulk import BulkAction, BulkFilter
from stepweave_schemas.events import BulkRefused


class BulkCommand(StreamCommand, frozen=True, kw_only=True, tag_field="command"):
    """Base: who asks, and why."""

    by: str = ""
    reason: str = ""


class RequestBulk(BulkCommand, frozen=True, kw_only=True, tag="request"):
    """Begin. It was checked before."""

    bulk_id: str
    action: BulkAction
    filter: BulkFilter
    rate_per_second: float
    tasks_max: int


class CancelBulk(BulkCommand, frozen=True, kw_only=True, tag="cancel"):
    """Select no more tasks."""


AnyBulkCommand = RequestBulk | CancelBulk


class SelectTasks(StreamCommand, frozen=True, kw_only=True):
    """The next page of the filter, read after the cursor that the state has; an empty one: there is nothing more."""

    number: int
    task_ids: tuple[str, ...]
    cursor_created_ms: int = 0
    cursor_task_id: str = ""


class RecordChunk(StreamCommand, frozen=True, kw_only=True):
    """What became of every task of a chunk."""

    number: int
    applied_count: int
    refused: tuple[BulkRefused, ...] = ()
