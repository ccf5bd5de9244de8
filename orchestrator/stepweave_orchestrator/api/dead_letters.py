"""The operations on dead letters: lists from the projection, one task's from its actor, its snapshot from its events."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from stepweave_eventstore.store import DEAD_LETTER_KINDS_MAX, DeadLetterFilter, DeadLetterRow, EventStore
from stepweave_orchestrator.core.dead_letters import INVESTIGATED, REASONS, RESOLUTION_STATUSES
from stepweave_orchestrator.core.view import task_response
from stepweave_orchestrator.runtime.letter_rows import entry_of
from stepweave_orchestrator.runtime.loading import ActorLoader
from stepweave_orchestrator.runtime.owner_answers import TASK_BYTES_MAX
from stepweave_orchestrator.runtime.owner_requests import GetLetters, Investigate
from stepweave_orchestrator.runtime.shard_router import ShardRouter
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.identity import is_uuid, shard_of
from stepweave_schemas.mint import now_ms

from .creation import check_payload, check_text

#: What an investigator keeps with a dead letter.
METADATA_BYTES_MAX = 16 * 1024
#: Whoever has a letter's id from its task may be faster than the lists: pauses before it is looked for again.
NOT_LISTED_YET_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.7)
PER_PAGE_MAX = 200
PAGE_MAX = 1_000_000


class DeadLetterOperations:
    """The operations `dlq.…`, by their names in `handlers`."""

    def __init__(self, store: EventStore, loader: ActorLoader, router: ShardRouter, shard_count: int) -> None:
        self._store = store
        self._loader = loader
        self._router = router
        self._shard_count = shard_count
        self.handlers: dict[str, Callable[[Any], Awaitable[bytes]]] = {
            "dlq.list": self.list,
            "dlq.get": self.get,
            "dlq.stats": self.stats,
            "dlq.investigation_queue": self.investigation_queue,
            "dlq.staleness": self.staleness,
            "dlq.update": self.update,
        }

    async def list(self, request: api.ListDeadLetters) -> bytes:
        """The dead letters, the newest first."""
        check_text(request, "namespace", "name")
        _check_words("dlq_reason", request.dlq_reason, REASONS)
        _check_words("resolution_status", request.resolution_status, RESOLUTION_STATUSES)
        return await self._page(
            DeadLetterFilter(
                namespace=request.namespace,
                name=request.name,
                reasons=request.dlq_reason,
                resolution_statuses=request.resolution_status,
                is_listed=True,
                is_open=request.is_open,
            ),
            request.page,
            request.per_page,
        )

    async def investigation_queue(self, request: api.GetInvestigationQueue) -> bytes:
        """Open dead letters, the most urgent first."""
        check_text(request, "namespace")
        wanted = DeadLetterFilter(namespace=request.namespace, is_listed=True, is_open=True, order="queue")
        return await self._page(wanted, request.page, request.per_page)

    async def staleness(self, request: api.GetStaleness) -> bytes:
        """What stands still at the moment, the most urgent first."""
        check_text(request, "namespace")
        wanted = DeadLetterFilter(
            namespace=request.namespace,
            reasons=("staleness", "handler_missing"),
            is_open=True,
            order="queue",
        )
        return await self._page(wanted, request.page, request.per_page)

    async def stats(self, request: api.GetDeadLetterStats) -> bytes:
        """How many there are of which kind, and how old."""
        check_text(request, "namespace")
        now = now_ms()
        found = await self._store.count_dead_letters(request.namespace)
        missing = await self._store.count_missing_handlers(request.namespace)
        assert len(found) <= DEAD_LETTER_KINDS_MAX
        reasons: Counter[str] = Counter()
        statuses: Counter[str] = Counter()
        kinds = []
        for one in found:
            reasons[one.reason] += one.count
            statuses[one.resolution_status] += one.count
            resolved = one.count - one.open_count
            oldest = one.oldest_open_at_ms
            kinds.append(
                api.DeadLetterKind(
                    namespace=one.namespace,
                    name=one.name,
                    dlq_reason=one.reason,
                    resolution_status=one.resolution_status,
                    count=one.count,
                    open_count=one.open_count,
                    oldest_open_at=None if oldest is None else timestamp(oldest),
                    oldest_open_age_seconds=None if oldest is None else max(0, now - oldest) / 1000,
                    mean_seconds_to_resolution=one.resolved_after_ms / resolved / 1000 if resolved else None,
                )
            )
        ages = [kind.oldest_open_age_seconds for kind in kinds if kind.oldest_open_age_seconds is not None]
        return encode(
            api.DeadLetterStats(
                total_count=sum(one.count for one in found),
                open_count=sum(one.open_count for one in found),
                oldest_open_age_seconds=max(ages, default=None),
                by_reason=dict(reasons),
                by_resolution_status=dict(statuses),
                kinds=tuple(kinds),
                missing_handlers=tuple(
                    api.MissingHandler(
                        namespace=one.namespace,
                        handler=one.handler,
                        task_count=one.count,
                        oldest_at=timestamp(one.oldest_at_ms),
                        oldest_age_seconds=max(0, now - one.oldest_at_ms) / 1000,
                    )
                    for one in missing
                ),
            )
        )

    async def get(self, request: api.GetDeadLetters) -> bytes:
        """One task's dead letters, and the task as it was when one of them began."""
        if not is_uuid(request.task_id):
            raise ApiError("INVALID_UUID", f"{request.task_id!r} is no UUID in its canonical lower-case form")
        _check_uuid("dlq_entry_uuid", request.dlq_entry_uuid)
        shard = shard_of(request.task_id, self._shard_count)
        rows = _rows(await self._router.call(shard, GetLetters(stream_id=request.task_id)))
        wanted = request.dlq_entry_uuid or (rows[-1].letter_id if rows else None)
        entries = tuple(entry_of(row, now_ms()) for row in rows)
        chosen = next((entry for entry in entries if entry.dlq_entry_uuid == wanted), None)
        if chosen is None and request.dlq_entry_uuid is not None:
            raise ApiError("NOT_FOUND", f"the task has no dead letter {request.dlq_entry_uuid}")
        if chosen is None:
            return encode(api.TaskDeadLetters(entries=()))
        snapshot = await self._snapshot(request.task_id, chosen.stream_version)
        return encode(
            api.TaskDeadLetters(entries=entries, dlq_entry_uuid=chosen.dlq_entry_uuid, task_snapshot=snapshot)
        )

    async def _snapshot(self, task_id: str, version: int) -> api.TaskResponse | None:
        """The task after that event, replayed; without its steps where these make it too large for one message."""
        created = await self._store.read_stream(task_id, to_version=1)
        if not created:
            return None
        state = await self._loader.task_state(created[0], to_version=version)
        whole = task_response(state)
        return whole if len(encode(whole)) <= TASK_BYTES_MAX else task_response(state, with_steps=False)

    async def update(self, request: api.UpdateDeadLetter) -> bytes:
        """Say what came of a dead letter."""
        _check_uuid("dlq_entry_uuid", request.dlq_entry_uuid)
        check_text(request, "resolution_notes", "resolved_by")
        if request.resolution_status is not None:
            _check_words("resolution_status", (request.resolution_status,), INVESTIGATED)
        metadata = _metadata(request.metadata)
        if request.resolution_status is None and request.resolution_notes is None and metadata is None:
            raise ApiError(
                "BAD_REQUEST", "nothing to change: give resolution_status, resolution_notes or metadata"
            )
        task_id = await self._task_of(request.dlq_entry_uuid)
        answer = await self._router.call(
            shard_of(task_id, self._shard_count),
            Investigate(
                stream_id=task_id,
                letter_id=request.dlq_entry_uuid,
                resolution_status=request.resolution_status,
                resolution_notes=request.resolution_notes,
                resolved_by=request.resolved_by,
                metadata=metadata,
            ),
        )
        row = next(row for row in _rows(answer) if row.letter_id == request.dlq_entry_uuid)
        return encode(entry_of(row, now_ms()))

    async def _task_of(self, letter_id: str) -> str:
        """The task that a letter is about; one that has just been opened may not be listed yet. Raises `ApiError`."""
        for pause_seconds in (*NOT_LISTED_YET_SECONDS, None):
            found, _ = await self._store.list_dead_letters(DeadLetterFilter(letter_id=letter_id, limit=1))
            if found:
                return found[0].task_id
            if pause_seconds is not None:
                await asyncio.sleep(pause_seconds)
        raise ApiError("NOT_FOUND", f"there is no dead letter {letter_id}")

    async def _page(self, wanted: DeadLetterFilter, page: int, per_page: int) -> bytes:
        if not 1 <= page <= PAGE_MAX or not 1 <= per_page <= PER_PAGE_MAX:
            raise ApiError("BAD_REQUEST", f"page is 1..{PAGE_MAX}, per_page is 1..{PER_PAGE_MAX}")
        rows, total = await self._store.list_dead_letters(
            msgspec.structs.replace(wanted, limit=per_page, offset=(page - 1) * per_page)
        )
        now = now_ms()
        pages = math.ceil(total / per_page)
        return encode(
            api.DeadLetterPage(
                entries=tuple(entry_of(row, now) for row in rows),
                pagination=api.Pagination(
                    page=page,
                    per_page=per_page,
                    total_count=total,
                    total_pages=pages,
                    has_next=page < pages,
                    has_previous=page > 1,
                ),
            )
        )


def _rows(answer: bytes) -> list[DeadLetterRow]:
    return msgspec.json.decode(answer, type=list[DeadLetterRow])


def _check_uuid(field: str, value: str | None) -> None:
    if value is not None and not is_uuid(value):
        raise ApiError(
            "INVALID_UUID", f"{field}: {value[:100]!r} is no UUID in its canonical lower-case form"
        )


def _check_words(field: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [word for word in given if word not in known]
    if unknown:
        raise ApiError("BAD_REQUEST", f"{field}: {unknown[0][:100]!r} is none of {', '.join(known)}")


def _metadata(raw: msgspec.Raw) -> str | None:
    if not bytes(raw):
        return None
    check_payload(raw, "metadata")
    text = bytes(raw).decode()
    if len(text) > METADATA_BYTES_MAX:
        raise ApiError("VALIDATION_FAILED", f"metadata: {len(text)} bytes, {METADATA_BYTES_MAX} at most")
    if not isinstance(msgspec.json.decode(text), dict):
        raise ApiError("VALIDATION_FAILED", "metadata: expected an object")
    return text
