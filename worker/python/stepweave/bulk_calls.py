"""The client's methods for an action on every task that a filter finds."""

from __future__ import annotations

from collections.abc import Iterable

from stepweave_schemas import api
from stepweave_schemas.bulk import BulkAction, BulkFilter
from stepweave_schemas.mint import uuid7

from .calls import Calls


class BulkCalls(Calls):
    """Part of `Client`."""

    async def start_bulk(
        self,
        action: BulkAction,
        filter: BulkFilter,
        *,
        bulk_id: str | None = None,
        rate_per_second: float = 10.0,
        tasks_max: int = 100_000,
        reason: str = "",
        requested_by: str = "",
        every_task: bool = False,
        timeout_seconds: float | None = None,
    ) -> api.BulkResponse:
        """Begin an action on every task that the filter finds, newest first; it goes on by itself.

        `bulk_id` is a UUID; the same one again is the same operation, or `Conflict` where it is another one. A filter
        that restricts nothing needs `every_task`. Raises `ValidationFailed` with what is out of bounds.
        """
        request = api.StartBulk(
            action=action,
            filter=filter,
            # Sent again where no answer comes: the same id each time.
            bulk_id=uuid7() if bulk_id is None else bulk_id,
            rate_per_second=rate_per_second,
            tasks_max=tasks_max,
            reason=reason,
            requested_by=requested_by,
            every_task=every_task,
        )
        reply = await self._call("bulk.start", request, api.StartBulkReply, timeout_seconds)
        assert reply.bulk is not None
        return reply.bulk

    async def preview_bulk(
        self,
        action: BulkAction,
        filter: BulkFilter,
        *,
        rate_per_second: float = 10.0,
        tasks_max: int = 100_000,
        every_task: bool = False,
        timeout_seconds: float | None = None,
    ) -> api.BulkPreview:
        """How many tasks the filter finds, and whether the first of them would take the action; stores nothing.

        Refused where `start_bulk` would be.
        """
        request = api.StartBulk(
            action=action,
            filter=filter,
            rate_per_second=rate_per_second,
            tasks_max=tasks_max,
            every_task=every_task,
            dry_run=True,
        )
        reply = await self._call("bulk.start", request, api.StartBulkReply, timeout_seconds)
        assert reply.preview is not None
        return reply.preview

    async def get_bulk(self, bulk_id: str, *, timeout_seconds: float | None = None) -> api.BulkResponse:
        """How far a bulk operation is, and which tasks refused; raises `NotFound`."""
        return await self._call("bulk.get", api.GetBulk(bulk_id=bulk_id), api.BulkResponse, timeout_seconds)

    async def list_bulks(
        self,
        *,
        namespace: str | None = None,
        status: str | Iterable[str] = (),
        limit: int = 50,
        offset: int = 0,
        timeout_seconds: float | None = None,
    ) -> api.BulkPage:
        """A page of bulk operations, those first that have changed last; `status` is `running`, `complete` or `cancelled`, or several of them."""
        statuses = (status,) if isinstance(status, str) else tuple(status)
        request = api.ListBulks(namespace=namespace, status=statuses, limit=limit, offset=offset)
        return await self._call("bulk.list", request, api.BulkPage, timeout_seconds)

    async def list_bulk_tasks(
        self,
        bulk_id: str,
        *,
        outcome: str | None = None,
        from_version: int = 1,
        timeout_seconds: float | None = None,
    ) -> api.BulkTasks:
        """What became of the tasks of a bulk operation, in the order in which they were selected; raises `NotFound`.

        `outcome` is `applied`, `refused` or `pending`. The next page begins at `from_version=page.next_version`; a page
        may be empty where no task of it fits.
        """
        request = api.ListBulkTasks(bulk_id=bulk_id, outcome=outcome, from_version=from_version)
        return await self._call("bulk.tasks", request, api.BulkTasks, timeout_seconds)

    async def cancel_bulk(
        self,
        bulk_id: str,
        *,
        reason: str = "",
        cancelled_by: str = "",
        timeout_seconds: float | None = None,
    ) -> api.BulkResponse:
        """Select no more tasks; those that were selected are still acted on, within seconds."""
        request = api.CancelBulk(bulk_id=bulk_id, reason=reason, cancelled_by=cancelled_by)
        return await self._call("bulk.cancel", request, api.BulkResponse, timeout_seconds)
