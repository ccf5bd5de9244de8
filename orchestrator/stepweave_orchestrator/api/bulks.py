"""The operations on bulk operations: check, pass to the owner of the operation's shard, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, get_args

import msgspec
import structlog

from stepweave_eventstore.store import EventStore, StreamFilter, TaskRow
from stepweave_orchestrator.core import TaskStatus
from stepweave_orchestrator.core.bulks import commands
from stepweave_orchestrator.core.bulks.actions import allowed_name
from stepweave_orchestrator.runtime.bulk_orders import task_filter
from stepweave_orchestrator.runtime.bulk_requests import AskedBulk, WouldTake
from stepweave_orchestrator.runtime.outcomes import MOMENT_MS_MAX
from stepweave_orchestrator.runtime.owner_requests import MayAct, OfBulk
from stepweave_orchestrator.runtime.shard_router import ShardRouter
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.bulk import BulkFilter
from stepweave_schemas.codec import decode_event, encode
from stepweave_schemas.envelope import parse_timestamp
from stepweave_schemas.events import BulkProgressed, BulkSelected
from stepweave_schemas.identity import bulk_stream_id, is_uuid, shard_of
from stepweave_schemas.mint import uuid7
from stepweave_schemas.subjects import NAME_BYTES_MAX

from .creation import check_moment, check_text

log = structlog.get_logger(__name__)

#: Bounds of a bulk operation's rate, in tasks each second, and of its size.
RATE_PER_SECOND_MIN: Final = 0.2
RATE_PER_SECOND_MAX: Final = 1_000.0
TASKS_MAX: Final = 1_000_000
#: Of a dry run so many tasks are shown.
PREVIEW_TASKS_MAX: Final = 20
_STATUSES: Final = ("running", "complete", "cancelled")
_OUTCOMES: Final = ("applied", "refused", "pending")
#: A page of tasks ends with the chunk in which it has as many, or after so many reads of so many events.
_TASKS_PAGE: Final = 500
_READS_MAX: Final = 10
_EVENTS_READ: Final = 50
_VERSION_MAX: Final = 2**31 - 1
_TASK_STATUSES: Final = get_args(TaskStatus)
_LIMIT_MAX: Final = 200
_OFFSET_MAX: Final = 1_000_000


class BulkOperations:
    """Every operation `bulk.*`."""

    def __init__(self, store: EventStore, shard_count: int, router: ShardRouter) -> None:
        self._store = store
        self._shard_count = shard_count
        self._router = router

    def handlers(self) -> dict[str, Callable[[Any], Awaitable[bytes]]]:
        """Each operation by its name."""
        return {
            "bulk.start": self.start,
            "bulk.get": self.get,
            "bulk.list": self.list,
            "bulk.tasks": self.tasks,
            "bulk.cancel": self.cancel,
        }

    async def start(self, request: api.StartBulk) -> bytes:
        """Begin, once that is committed; or say what it would find."""
        _check(request)
        if request.dry_run:
            return encode(api.StartBulkReply(preview=await self._preview(request)))
        bulk_id = request.bulk_id or uuid7()
        command = commands.RequestBulk(
            by=request.requested_by,
            reason=request.reason,
            bulk_id=bulk_id,
            action=request.action,
            filter=request.filter,
            rate_per_second=request.rate_per_second,
            tasks_max=request.tasks_max,
        )
        answer = await self._ask(bulk_id, command)
        return encode(api.StartBulkReply(bulk=_read(answer), replayed=not answer.changed))

    async def get(self, request: api.GetBulk) -> bytes:
        """The operation as its actor knows it."""
        return bytes((await self._ask(request.bulk_id)).bulk)

    async def list(self, request: api.ListBulks) -> bytes:
        """A page of operations, those first that have changed last."""
        check_text(request, "namespace")
        if not 1 <= request.limit <= _LIMIT_MAX or not 0 <= request.offset <= _OFFSET_MAX:
            raise ApiError("BAD_REQUEST", f"limit is 1..{_LIMIT_MAX}, offset is 0..{_OFFSET_MAX}")
        unknown = [status for status in request.status if status not in _STATUSES]
        if unknown:
            raise ApiError(
                "BAD_REQUEST",
                f"status: no bulk operation is {unknown[0][:100]!r}; they are {', '.join(_STATUSES)}",
            )
        rows = await self._store.list_streams(
            StreamFilter(
                kind="bulk",
                latest_first=True,
                namespace=request.namespace,
                statuses=request.status,
                limit=request.limit + 1,
                offset=request.offset,
            )
        )
        items = tuple(msgspec.json.decode(row.summary, type=api.BulkListItem) for row in rows)
        return encode(
            api.BulkPage(
                bulks=items[: request.limit],
                next_offset=request.offset + request.limit if len(rows) > request.limit else None,
            )
        )

    async def tasks(self, request: api.ListBulkTasks) -> bytes:
        """A page of what became of its tasks, from its events."""
        if request.outcome is not None and request.outcome not in _OUTCOMES:
            raise ApiError("BAD_REQUEST", f"outcome: {', '.join(_OUTCOMES)}, not {request.outcome[:100]!r}")
        if not 1 <= request.from_version <= _VERSION_MAX:
            raise ApiError(
                "BAD_REQUEST", "from_version: `next_version` of the page before; the first has none"
            )
        # Also says whether there is such an operation.
        stream_id = bulk_stream_id(request.bulk_id)
        await self._ask(request.bulk_id)
        tasks: list[api.BulkTask] = []
        selected: tuple[str, ...] = ()
        version = began = request.from_version
        for _ in range(_READS_MAX):
            records = await self._store.read_stream(stream_id, from_version=version, limit=_EVENTS_READ)
            for record in records:
                version = record.version + 1
                event = decode_event(record.data)
                if isinstance(event, BulkSelected):
                    selected, began = event.task_ids, record.version
                elif isinstance(event, BulkProgressed):
                    tasks += [
                        one for one in _outcomes(selected, event) if request.outcome in (None, one.outcome)
                    ]
                    selected = ()
                    if len(tasks) >= _TASKS_PAGE:
                        return encode(api.BulkTasks(tasks=tuple(tasks), next_version=version))
            if len(records) < _EVENTS_READ:
                pending = selected if request.outcome in (None, "pending") else ()
                tasks += [api.BulkTask(task_uuid=task_id, outcome="pending") for task_id in pending]
                return encode(api.BulkTasks(tasks=tuple(tasks)))
            if selected:
                # The next page begins with the chunk that is not complete here.
                version, selected = began, ()
        return encode(api.BulkTasks(tasks=tuple(tasks), next_version=version))

    async def cancel(self, request: api.CancelBulk) -> bytes:
        """Select no more tasks."""
        check_text(request, "reason", "cancelled_by")
        command = commands.CancelBulk(by=request.cancelled_by, reason=request.reason)
        return bytes((await self._ask(request.bulk_id, command)).bulk)

    # -- pieces ----------------------------------------------------------------------------------

    async def _ask(self, bulk_id: str, command: commands.AnyBulkCommand | None = None) -> AskedBulk:
        _check_id(bulk_id)
        stream_id = bulk_stream_id(bulk_id)
        answer = await self._router.call(
            shard_of(stream_id, self._shard_count), OfBulk(stream_id=stream_id, command=command)
        )
        return msgspec.json.decode(answer, type=AskedBulk)

    async def _preview(self, request: api.StartBulk) -> api.BulkPreview:
        rows, total = await self._store.list_tasks(
            task_filter(request.filter, limit=min(PREVIEW_TASKS_MAX, request.tasks_max))
        )
        action = allowed_name(request.action)
        first = await asyncio.gather(*(self._would(row, action) for row in rows))
        return api.BulkPreview(matching_count=total, first=tuple(first))

    async def _would(self, row: TaskRow, action: str) -> api.BulkPreviewTask:
        try:
            answer = await self._router.call(row.shard, MayAct(stream_id=row.task_id, action=action))
            would = msgspec.json.decode(answer, type=WouldTake)
        except ApiError as error:
            would = WouldTake(row.status, error.message)
        except Exception:
            # It would be left out; the others are asked all the same.
            log.exception("a task cannot be asked", task_uuid=row.task_id)
            would = WouldTake(row.status, "it cannot be asked; the orchestrator's log has more")
        return api.BulkPreviewTask(
            task_uuid=row.task_id,
            namespace=row.namespace,
            name=row.name,
            status=would.status,
            refusal=would.refusal,
        )


def _outcomes(selected: tuple[str, ...], progressed: BulkProgressed) -> list[api.BulkTask]:
    refused = {one.task_id: one for one in progressed.refused}
    return [
        api.BulkTask(task_uuid=task_id, outcome="applied")
        if (why := refused.get(task_id)) is None
        else api.BulkTask(task_uuid=task_id, outcome="refused", code=why.code, reason=why.reason)
        for task_id in selected
    ]


def _read(answer: AskedBulk) -> api.BulkResponse:
    return msgspec.json.decode(answer.bulk, type=api.BulkResponse)


def _check(request: api.StartBulk) -> None:
    check_text(request, "reason", "requested_by")
    _check_filter(request.filter)
    if request.bulk_id is not None:
        _check_id(request.bulk_id)
    if not RATE_PER_SECOND_MIN <= request.rate_per_second <= RATE_PER_SECOND_MAX:
        raise ApiError(
            "VALIDATION_FAILED",
            f"rate_per_second: {RATE_PER_SECOND_MIN:g} to {RATE_PER_SECOND_MAX:g} tasks each second",
        )
    if not 1 <= request.tasks_max <= TASKS_MAX:
        raise ApiError("VALIDATION_FAILED", f"tasks_max: 1 to {TASKS_MAX}")
    if request.filter == BulkFilter() and not request.every_task:
        raise ApiError(
            "VALIDATION_FAILED",
            "filter: it restricts nothing; give a namespace, name, version, status, initiator, source_system, tag, "
            "created_from or created_before, or say `every_task` if every task of the installation is meant",
        )


def _check_filter(wanted: BulkFilter) -> None:
    texts = ("namespace", "name", "version", "initiator", "source_system", "tag")
    check_text(wanted, *texts)
    if empty := [field for field in texts if getattr(wanted, field) == ""]:
        raise ApiError("VALIDATION_FAILED", f"filter.{empty[0]}: it is empty; leave it out where any will do")
    if wanted.namespace is not None and len(wanted.namespace.encode(errors="replace")) > NAME_BYTES_MAX:
        raise ApiError("VALIDATION_FAILED", f"filter.namespace: {NAME_BYTES_MAX} bytes at most")
    for field in ("created_from", "created_before"):
        check_moment(f"filter.{field}", getattr(wanted, field), MOMENT_MS_MAX)
    begin, end = wanted.created_from, wanted.created_before
    if begin is not None and end is not None and parse_timestamp(begin) >= parse_timestamp(end):
        raise ApiError("VALIDATION_FAILED", "filter.created_before: it is not after created_from")
    unknown = [status for status in wanted.status if status not in _TASK_STATUSES]
    if unknown:
        raise ApiError(
            "VALIDATION_FAILED",
            f"filter.status: no task is {unknown[0][:100]!r}; the states are {', '.join(_TASK_STATUSES)}",
        )
    if len(set(wanted.status)) != len(wanted.status):
        raise ApiError("VALIDATION_FAILED", "filter.status: a state is named twice")


def _check_id(bulk_id: str) -> None:
    if not is_uuid(bulk_id):
        raise ApiError(
            "INVALID_UUID", f"bulk_id: {bulk_id[:100]!r} is no UUID in its canonical lower-case form"
        )
