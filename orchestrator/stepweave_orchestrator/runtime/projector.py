"""Projections of owned shards: rows for lists and searches, written in batches behind the ledger.

A row is a task's state, summed up. What changed is remembered by task, so that a task that ran from start to end
between two writes costs one row. The checkpoint of a shard moves with its rows; after a crash the events behind it
are looked at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec
import structlog

from stepweave_eventstore.store import EventStore, StoreUnavailable, StreamRow, TaskRow, TemplateRow
from stepweave_orchestrator.core import TaskState

from .actors import Actor, ActorCache, StreamActor, TaskActor, TemplateActor
from .loading import ActorLoader, Unloadable

log = structlog.get_logger(__name__)

#: Rows in one write, and the pause between two looks.
ROWS_MAX = 1_000
INTERVAL_SECONDS = 0.5


def task_row(state: TaskState, shard: int) -> TaskRow:
    """The row of one task."""
    plan = state.the_plan
    error = None
    if state.failed and (fault := state.steps[state.failed[-1]].fault) is not None:
        error = f"{state.name_of(state.failed[-1])}: {fault.error_message}"
    return TaskRow(
        task_id=state.task_id,
        shard=shard,
        version=state.version,
        namespace=plan.ref.namespace,
        name=plan.ref.name,
        template_version=plan.ref.version,
        status=state.status,
        priority=state.priority,
        initiator=state.initiator,
        source_system=state.source_system,
        reason=state.reason,
        tags=state.tags,
        correlation_id=state.correlation_id,
        parent_correlation_id=state.parent_correlation_id,
        created_at_ms=state.created_at_ms,
        updated_at_ms=state.updated_at_ms,
        completed_at_ms=state.completed_at_ms,
        total_steps=state.existing_count,
        completed_steps=state.done_count,
        failed_steps=len(state.failed),
        error_message=error,
    )


def template_rows(actor: TemplateActor) -> list[TemplateRow]:
    """The rows of all versions of one template."""
    rows = []
    for version, registered in actor.state.versions.items():
        canonical = msgspec.json.decode(registered.content)
        rows.append(
            TemplateRow(
                namespace=actor.state.namespace,
                name=actor.state.name,
                version=version,
                hash=registered.hash,
                description=canonical.get("description") or "",
                total_steps=len(canonical["steps"]),
                registered_at_ms=registered.registered_at_ms,
                registered_by=registered.registered_by,
            )
        )
    return rows


class _Behind:
    """What of a shard is committed and not in its rows."""

    __slots__ = ("position", "stream_ids")

    def __init__(self) -> None:
        self.position = 0
        self.stream_ids: dict[str, None] = {}


class Projector:
    """Writes the projections of owned shards; `run` until cancelled."""

    def __init__(self, store: EventStore, loader: ActorLoader) -> None:
        self._store = store
        self._loader = loader
        self._behind: dict[int, _Behind] = {}
        #: Streams of the write under way whose rows are not in the store yet.
        self._unwritten = 0
        self._kick = asyncio.Event()
        #: Held while rows are written: they are not behind any more then, and not in the store yet.
        self._writing = asyncio.Lock()
        #: The live actors; set by the orchestrator.
        self.actors: ActorCache | None = None

    def changed(self, shard: int, position: int, stream_ids: Mapping[str, object] | Iterable[str]) -> None:
        """These streams of the shard have changed, up to this position."""
        behind = self._behind.get(shard)
        if behind is None:
            behind = self._behind[shard] = _Behind()
        behind.position = max(behind.position, position)
        for stream_id in stream_ids:
            behind.stream_ids[stream_id] = None
        self._kick.set()

    @property
    def behind_count(self) -> int:
        """Changed streams whose rows are not written yet; those being written count until they are."""
        return self._unwritten + sum(len(behind.stream_ids) for behind in self._behind.values())

    def drop_shard(self, shard: int) -> None:
        """The next owner writes the rest."""
        self._behind.pop(shard, None)

    async def run(self) -> None:
        """Write what changed, at most every `INTERVAL_SECONDS`."""
        while True:
            await self._kick.wait()
            await asyncio.sleep(INTERVAL_SECONDS)
            self._kick.clear()
            try:
                await self.flush()
            except StoreUnavailable as error:
                log.info("projections are behind, the store is away", error=str(error))
                self._kick.set()

    async def flush(self) -> None:
        """Write everything that is behind now, or wait until it is written; raises `StoreUnavailable`."""
        async with self._writing:
            for shard in list(self._behind):
                await self._flush_shard(shard)

    async def _flush_shard(self, shard: int) -> None:
        behind = self._behind.pop(shard, None)
        if behind is None:
            return
        stream_ids = list(behind.stream_ids)
        self._unwritten = len(stream_ids)
        try:
            for start in range(0, max(len(stream_ids), 1), ROWS_MAX):
                some = stream_ids[start : start + ROWS_MAX]
                last = start + ROWS_MAX >= len(stream_ids)
                tasks, templates, streams, busy = await self._rows(shard, some)
                if busy:
                    # Their newest events are not committed yet; they come again with the next commit or look.
                    self.changed(shard, behind.position, busy)
                position = behind.position if last and shard not in self._behind else 0
                await self._store.project(
                    shard=shard, position=position, tasks=tasks, templates=templates, streams=streams
                )
                self._unwritten = len(stream_ids) - start - len(some)
        except StoreUnavailable:
            self.changed(shard, behind.position, stream_ids)
            raise
        finally:
            self._unwritten = 0

    async def _rows(
        self, shard: int, stream_ids: list[str]
    ) -> tuple[list[TaskRow], list[TemplateRow], list[StreamRow], list[str]]:
        tasks: list[TaskRow] = []
        templates: list[TemplateRow] = []
        streams: list[StreamRow] = []
        busy: list[str] = []
        found: list[tuple[str, Actor | Unloadable]] = []
        missing: list[str] = []
        for stream_id in stream_ids:
            actor: Actor | None = self.actors.peek(stream_id) if self.actors is not None else None
            if actor is None:
                missing.append(stream_id)
            elif actor.uncommitted:
                busy.append(stream_id)
            else:
                found.append((stream_id, actor))
        if missing:
            found += (await self._loader.load(missing)).items()
        for stream_id, one in found:
            if isinstance(one, TaskActor):
                tasks.append(task_row(one.state, shard))
            elif isinstance(one, TemplateActor):
                templates.extend(template_rows(one))
            elif isinstance(one, StreamActor):
                streams.append(one.kind.row(one.state, stream_id, shard))
        return tasks, templates, streams, busy
