"""Actors from the store: replay of the stream, from a snapshot where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from stepweave_eventstore.store import EventRecord, EventStore, EventStoreError
from stepweave_orchestrator.core import TaskState, evolve
from stepweave_orchestrator.core.snapshot import SNAPSHOT_FORMAT, decode_snapshot
from stepweave_orchestrator.core.state import initial
from stepweave_orchestrator.core.template_stream import TemplateState, evolve_template
from stepweave_schemas.codec import decode_event
from stepweave_schemas.events import TaskCreated, TemplateRegistered
from stepweave_schemas.identity import shard_of

from .actors import Actor, StreamActor, SystemActor, TaskActor, TemplateActor
from .stream_kind import StreamKind, decode_state
from .stream_kinds import KINDS_BY_FIRST_EVENT
from .templates import TemplateCatalogue

log = structlog.get_logger(__name__)

#: Streams read at the same time.
CONCURRENT_READS_MAX = 4


#: Events of one stream read at a time.
READ_EVENTS_MAX = 2_000


class Unloadable(Exception):
    """A stream whose events this version cannot replay; the text says why."""


class ActorLoader:
    """Rebuilds actors; reads only what is committed."""

    def __init__(self, store: EventStore, templates: TemplateCatalogue, shard_count: int) -> None:
        self._store = store
        self._templates = templates
        self._shard_count = shard_count
        self._slots = asyncio.Semaphore(CONCURRENT_READS_MAX)

    def shard_of(self, stream_id: str) -> int:
        """The shard that a stream belongs to."""
        return shard_of(stream_id, self._shard_count)

    async def load(self, stream_ids: Sequence[str]) -> dict[str, Actor | Unloadable]:
        """The actors of those streams that exist, or why one cannot be rebuilt; raises `StoreUnavailable`."""
        results = await asyncio.gather(
            *(self._load_one(stream_id) for stream_id in stream_ids), return_exceptions=True
        )
        loaded: dict[str, Actor | Unloadable] = {}
        for stream_id, result in zip(stream_ids, results, strict=True):
            if isinstance(result, Exception):
                if isinstance(result, EventStoreError):
                    raise result
                log.error("a stream cannot be replayed", stream_id=stream_id, exc_info=result)
                loaded[stream_id] = Unloadable(f"stream {stream_id} cannot be replayed: {result}")
            elif isinstance(result, BaseException):
                raise result
            elif result is not None:
                loaded[stream_id] = result
        return loaded

    async def _load_one(self, stream_id: str) -> Actor | None:
        async with self._slots:
            first = await self._store.read_stream(stream_id, to_version=1)
            if not first:
                return None
            if first[0].type == TemplateRegistered.TYPE:
                return await self._template(stream_id)
            kind = KINDS_BY_FIRST_EVENT.get(first[0].type)
            if kind is not None:
                return await self._stream(kind, stream_id)
            if first[0].type != TaskCreated.TYPE:
                records = await self._store.read_stream(stream_id)
                return SystemActor(stream_id, records[-1].version, records[-1].shard)
            state = await self.task_state(first[0])
        actor = TaskActor(state, self.shard_of(stream_id), state.the_plan.ref)
        actor.saved_wake_ms = state.next_wake_ms()
        return actor

    async def task_state(self, created: EventRecord, *, to_version: int | None = None) -> TaskState:
        """A task's state after `to_version` (default: now), from its first event on."""
        event = decode_event(created.data)
        assert isinstance(event, TaskCreated)
        plan = await self._templates.plan(event.template)
        state = None
        snapshot = await self._store.load_snapshot(
            created.task_id, format=SNAPSHOT_FORMAT, to_version=to_version
        )
        if snapshot is not None:
            try:
                state = decode_snapshot(snapshot.state, plan)
            except msgspec.MsgspecError as error:
                log.warning("a snapshot is unreadable, replaying all", task=created.task_id, error=str(error))
        if state is None:
            state = initial(created.task_id, plan, created.correlation_id)
            state = evolve(state, event, created.recorded_at_ms)
        if to_version is None or state.version < to_version:
            for record in await self._store.read_stream(
                created.task_id, from_version=state.version + 1, to_version=to_version
            ):
                evolve(state, decode_event(record.data), record.recorded_at_ms)
        return state

    async def _stream(self, kind: StreamKind, stream_id: str) -> StreamActor:
        state = None
        snapshot = await self._store.load_snapshot(stream_id, format=kind.snapshot_format)
        if snapshot is not None:
            try:
                state = decode_state(kind, snapshot.state)
            except msgspec.MsgspecError as error:
                log.warning("a snapshot is unreadable, replaying all", stream=stream_id, error=str(error))
        if state is None:
            state = kind.initial(stream_id)
        replayed = 0
        while records := await self._store.read_stream(
            stream_id, from_version=state.version + 1, limit=READ_EVENTS_MAX
        ):
            for record in records:
                kind.evolve(state, decode_event(record.data), record.recorded_at_ms)
            replayed += len(records)
        actor = StreamActor(kind, state, stream_id, self.shard_of(stream_id))
        actor.events_since_snapshot = replayed
        actor.saved_wake_ms = kind.next_wake_ms(state)
        return actor

    async def _template(self, stream_id: str) -> TemplateActor | None:
        records = await self._store.read_stream(stream_id)
        state: TemplateState | None = None
        for record in records:
            event = decode_event(record.data)
            assert isinstance(event, TemplateRegistered)
            if state is None:
                state = TemplateState(event.namespace, event.name)
            evolve_template(state, event, record.recorded_at_ms)
        return None if state is None else TemplateActor(state, stream_id, records[0].shard)
