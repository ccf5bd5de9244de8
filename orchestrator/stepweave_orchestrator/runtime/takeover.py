"""Taking over a shard: what its last owner had committed is published before anything new is decided.

Normally that is the tail after `published_position`. Where JetStream's storage was deleted – its streams carry
another creation stamp than the shard was last published to – both feeds are built again from the ledger, and every
try that is still open is dispatched again, since its dispatch or its result went with the storage.
"""

from __future__ import annotations

from typing import NamedTuple

import structlog

from stepweave_eventstore.hash_chain import canonical_bytes
from stepweave_eventstore.store import EventRecord, EventStore
from stepweave_orchestrator.core.state import ACTIVE
from stepweave_schemas import subjects
from stepweave_schemas.catalogue import OUTCOME_TYPES
from stepweave_schemas.codec import decode_event
from stepweave_schemas.events import StepEnqueued, TaskCreated
from stepweave_schemas.mint import now_ms

from .actors import SYSTEM_NAMESPACE, TaskActor
from .batch import DispatchMessage, Outgoing, Shard
from .loading import ActorLoader, Unloadable
from .owner import dispatch_message
from .projector import Projector
from .publisher import Publisher
from .settings import Settings
from .streams import Streams

log = structlog.get_logger(__name__)

#: Events read from the ledger at a time.
READ_EVENTS_MAX = 2_000
#: Tasks whose subject prefix is remembered while a tail is published.
PREFIXES_MAX = 200_000
_ENDINGS = frozenset({"task.completed", "task.failed", "task.cancelled"})


class _Address(NamedTuple):
    """Where the events of one stream go on the signal feed, and the trace they belong to."""

    prefix: str
    traceparent: str | None


class TakeOver:
    """Brings the world up to date with a shard's ledger."""

    def __init__(
        self,
        settings: Settings,
        store: EventStore,
        loader: ActorLoader,
        streams: Streams,
        publisher: Publisher,
        projector: Projector,
    ) -> None:
        self._settings = settings
        self._store = store
        self._loader = loader
        self._streams = streams
        self._publisher = publisher
        self._projector = projector

    async def bring_up(self, shard: Shard, published_position: int) -> None:
        """Publish what is not out yet, and remember which streams it went to.

        Raises `StoreUnavailable` or `StreamsUnavailable`.
        """
        number = shard.number
        stamps = await self._streams.ensure_feeds()
        await self._streams.renew_command_consumer(number)
        known = await self._store.feed_incarnations(number)
        for stream in [name for name in known if name not in stamps]:
            namespace = subjects.untoken(stream.removeprefix("DISP_"))
            name, stamp = await self._streams.ensure_namespace(namespace)
            stamps[name] = stamp
        rebuild = any(stamps[name] != stamp for name, stamp in known.items())
        if rebuild:
            log.warning("JetStream's storage is new; building the feeds again from the ledger", shard=number)
            published_position = 0
        self._publisher.open_shard(number, published_position)
        await self.publish_tail(shard, published_position, dispatch=not rebuild)
        await self.project_tail(number)
        if rebuild:
            await self._dispatch_open_tries(number)
        await self._store.set_feed_incarnations(number, shard.epoch, stamps)

    async def publish_tail(self, shard: Shard, after_position: int, *, dispatch: bool = True) -> None:
        """Publish the shard's events after a position up to its head; dispatch the tries among them that are open."""
        number = shard.number
        oldest_ms = now_ms() - self._settings.feed_age_seconds_max * 1000
        prefixes: dict[str, _Address] = {}
        position = after_position
        count = 0
        orders: dict[str, list[StepEnqueued]] = {}
        while position < shard.committed_position:
            records = await self._store.read_shard(number, after_position=position, limit=READ_EVENTS_MAX)
            if not records:
                break
            position = records[-1].position
            if records[-1].recorded_at_ms < oldest_ms:
                continue
            await self._learn_prefixes(records, prefixes)
            self._publisher.publish(number, [self._outgoing(record, prefixes) for record in records])
            count += len(records)
            for record in records if dispatch else ():
                if record.type == StepEnqueued.TYPE:
                    event = decode_event(record.data)
                    assert isinstance(event, StepEnqueued)
                    orders.setdefault(record.task_id, []).append(event)
            await self._publisher.room(self._settings.publish_backlog_events_max)
        if count:
            log.info("publishing the tail of a shard", shard=number, events=count, up_to=position)
        await self._dispatch_tail(number, orders)

    async def project_tail(self, shard: int) -> None:
        """Bring the projections up to the ledger's head."""
        position = await self._store.projected_position(shard)
        while True:
            records = await self._store.read_shard(shard, after_position=position, limit=READ_EVENTS_MAX)
            if not records:
                return
            position = records[-1].position
            self._projector.changed(shard, position, dict.fromkeys(record.task_id for record in records))
            await self._projector.flush()

    # -- pieces ----------------------------------------------------------------------------------

    async def _dispatch_tail(self, shard: int, orders: dict[str, list[StepEnqueued]]) -> None:
        stream_ids = list(orders)
        for start in range(0, len(stream_ids), 500):
            some = stream_ids[start : start + 500]
            messages: list[DispatchMessage] = []
            for stream_id, actor in (await self._loader.load(some)).items():
                if not isinstance(actor, TaskActor):
                    continue
                for event in orders[stream_id]:
                    message = dispatch_message(actor, event.step_name, event.attempt, event.lease_token)
                    if message is not None:
                        messages.append(message)
            self._publisher.dispatch_again(shard, messages)

    async def _dispatch_open_tries(self, shard: int) -> None:
        stream_ids = await self._store.unfinished_tasks(shard)
        count = 0
        for start in range(0, len(stream_ids), 500):
            messages: list[DispatchMessage] = []
            for actor in (await self._loader.load(stream_ids[start : start + 500])).values():
                if not isinstance(actor, TaskActor):
                    continue
                plan = actor.state.the_plan
                for number, step in enumerate(actor.state.steps):
                    if step.status in ACTIVE:
                        name = plan.steps[number].name
                        message = dispatch_message(actor, name, step.attempt, step.lease_token)
                        if message is not None:
                            messages.append(message)
            count += len(messages)
            self._publisher.dispatch_again(shard, messages)
        log.info("dispatched every open try again", shard=shard, tasks=len(stream_ids), tries=count)

    async def _learn_prefixes(self, records: list[EventRecord], prefixes: dict[str, _Address]) -> None:
        """Find the signal feed's prefix of every stream among the records."""
        if len(prefixes) > PREFIXES_MAX:
            prefixes.clear()
        unknown: dict[str, None] = {}
        for record in records:
            if record.type == TaskCreated.TYPE:
                event = decode_event(record.data)
                assert isinstance(event, TaskCreated)
                prefixes[record.task_id] = _Address(
                    subjects.event(event.template.namespace, event.template.name, record.task_id, ""),
                    event.traceparent,
                )
            elif record.task_id not in prefixes:
                unknown[record.task_id] = None
        missing = [stream_id for stream_id in unknown if stream_id not in prefixes]
        if missing:
            for stream_id, actor in (await self._loader.load(missing)).items():
                if not isinstance(actor, Unloadable):
                    traceparent = actor.state.traceparent if isinstance(actor, TaskActor) else None
                    prefixes[stream_id] = _Address(actor.event_prefix, traceparent)

    def _outgoing(self, record: EventRecord, prefixes: dict[str, _Address]) -> Outgoing:
        address = prefixes.get(record.task_id)
        signal = None
        if address is not None:
            namespace = subjects.untoken(address.prefix.split(".")[2])
            level = "outcomes" if namespace == SYSTEM_NAMESPACE else self._settings.signal_level(namespace)
            if level == "all" or (level == "outcomes" and record.type in OUTCOME_TYPES):
                signal = address.prefix + record.type
        if record.type in _ENDINGS:
            prefixes.pop(record.task_id, None)
        traceparent = None if address is None else address.traceparent
        return Outgoing(record.position, canonical_bytes(record), signal, None, traceparent)
