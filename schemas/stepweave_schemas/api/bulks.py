"""Bulk operations: one action on every task that a filter finds."""

from __future__ import annotations

import msgspec

from stepweave_schemas.bulk import BulkAction, BulkFilter

from .request import Request


class StartBulk(Request, frozen=True, kw_only=True):
    """`bulk.start`: an action on every task that the filter finds, newest first. Answer: `StartBulkReply`."""

    action: BulkAction
    filter: BulkFilter = BulkFilter()
    #: A UUID of the caller's; the same one again is the same operation.
    bulk_id: str | None = None
    #: Tasks acted on each second; 0.2..1000.
    rate_per_second: float = 10.0
    #: No more tasks than these, the newest; 1..1,000,000.
    tasks_max: int = 100_000
    reason: str = ""
    requested_by: str = ""
    #: Needed where the filter restricts nothing.
    every_task: bool = False
    #: Only count, and show the first ones; stores nothing.
    dry_run: bool = False


class GetBulk(Request, frozen=True, kw_only=True):
    """`bulk.get`. Answer: `BulkResponse`."""

    bulk_id: str


class ListBulks(Request, frozen=True, kw_only=True):
    """`bulk.list`. Answer: `BulkPage`."""

    namespace: str | None = None
    #: `running`, `complete`, `cancelled`.
    status: tuple[str, ...] = ()
    #: 1..200.
    limit: int = 50
    offset: int = 0


class ListBulkTasks(Request, frozen=True, kw_only=True):
    """`bulk.tasks`: what became of each task of a bulk operation, from its events. Answer: `BulkTasks`."""

    bulk_id: str
    #: Only those: `applied`, `refused`, `pending`.
    outcome: str | None = None
    #: Where to go on: `next_version` of the answer before.
    from_version: int = 1


class CancelBulk(Request, frozen=True, kw_only=True):
    """`bulk.cancel`: select no more tasks. Answer: `BulkResponse`."""

    bulk_id: str
    reason: str = ""
    cancelled_by: str = ""


class BulkRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A task that did not take the action."""

    task_uuid: str
    code: str
    reason: str


class BulkResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A bulk operation as its actor knows it."""

    bulk_id: str
    #: For `events`: its stream in the ledger.
    stream_id: str
    action: BulkAction
    filter: BulkFilter
    rate_per_second: float
    tasks_max: int
    reason: str = ""
    requested_by: str = ""
    #: `running`, `complete` or `cancelled`.
    status: str
    selected_count: int = 0
    #: Selected tasks that have not answered yet.
    pending_count: int = 0
    applied_count: int = 0
    refused_count: int = 0
    #: The first of those refused; `bulk.tasks` has all of them.
    refused: tuple[BulkRefusal, ...] = ()
    limit_reached: bool = False
    created_at: str
    updated_at: str
    cancelled_by: str = ""
    cancel_reason: str = ""


class BulkTask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task that a bulk operation has selected, and whether it took the action."""

    task_uuid: str
    #: `applied`, `refused`, or `pending`: it has not answered yet.
    outcome: str
    #: Why it refused.
    code: str = ""
    reason: str = ""


class BulkTasks(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `bulk.tasks`, in the order in which they were selected; `next_version` is `None` at the end."""

    tasks: tuple[BulkTask, ...]
    next_version: int | None = None


class BulkPreviewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that the filter finds."""

    task_uuid: str
    namespace: str
    name: str
    #: As its actor knows it: the list may be a moment behind.
    status: str
    #: Why it would refuse; `None` where it would not.
    refusal: str | None = None


class BulkPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What a bulk operation would find now."""

    matching_count: int
    first: tuple[BulkPreviewTask, ...]


class StartBulkReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `bulk.start`: the operation, or of a dry run what it would find."""

    bulk: BulkResponse | None = None
    replayed: bool = False
    preview: BulkPreview | None = None


class BulkListItem(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a list of bulk operations; a moment behind its own state."""

    bulk_id: str
    action: BulkAction
    status: str
    selected_count: int
    applied_count: int
    refused_count: int
    requested_by: str = ""
    reason: str = ""
    created_at: str


class BulkPage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `bulk.list`; `next_offset` is `None` on the last page."""

    bulks: tuple[BulkListItem, ...]
    next_offset: int | None = None
