"""Taking over a shard: what its last owner had committed is published before anything new is decided.

Normally that is the tail after `published_position`. Where JetStream's storage was deleted – its streams carry
another creation stamp than the shard was last published to – both feeds are built again from the ledger, and every
try that is still open is dispatched again, since its dispatch or its result went with the storage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import structlog

from stepweave_eventstore.hash_chain import canonical_bytes
from stepweave_eventstore.store import EventRecord, EventStore
from stepweave_orchestrator.core.state import ACTIVE
from stepweave_schemas import subjects
from stepweave_schemas.catalogue import OUTCOME_TYPES
from stepweave_schemas.codec import decode_event
from stepweave_schemas.events import ChildCancelRequested, ChildRequested, DomainPublished, Event, TaskCreated
from stepweave_schemas.mint import now_ms

from . import stream_kinds
from .actors import SYSTEM_NAMESPACE, StreamActor, TaskActor
from .batch import Outgoing, Shard
from .loading import ActorLoader, Unloadable
from .orders import OPENING, REPORTING, SAID_TO_SCHEDULES, Order, dispatch_order, held_orders, order_of
from .projector import Projector
from .publisher import Publisher
from .settings import Settings
from .streams import Streams

log = structlog.get_logger(__name__)

#: Events read from the ledger at a time.
READ_EVENTS_MAX = 2_000
#: After so long without an end, a rebuild says that it is still at work.
FLUSH_SECONDS = 5.0
#: Tasks whose subject prefix is remembered while a tail is published.
PREFIXES_MAX = 200_000
_SAID_TO_OTHERS = (REPORTING | SAID_TO_SCHEDULES | {TaskCreated.TYPE}) - {ChildCancelRequested.TYPE}
_ENDINGS = frozenset({"task.completed", "task.failed", "task.cancelled", "task.resolved_manually"})


class _Address(NamedTuple):
    """Where the events of one stream go on the signal feed, and the trace they belong to."""

    prefix: str
    traceparent: str | None
    #: Whether another task or a schedule waits for its end.
    is_awaited: bool = False


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
        #: Called for each open system stream of a shard that is taken over; set by the orchestrator.
        self.on_stream_taken: Callable[[StreamActor], None] | None = None

    async def bring_up(self, shard: Shard, published_position: int) -> None:
        """Publish what is not out yet, and remember which streams it went to.

        Raises `StoreUnavailable` or `StreamsUnavailable`.
        """
        number = shard.number
        stamps = await self._streams.ensure_feeds()
        await self._streams.renew_command_consumers(number)
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
        await self._tell_of_streams(number)
        if rebuild:
            await self._dispatch_open_tries(number)
            # What was lost is there again before it is noted that nothing is missing.
            while not await self._publisher.flush_shard(number, FLUSH_SECONDS):
                log.info("still building the feeds again", shard=number)
        await self._store.set_feed_incarnations(number, shard.epoch, stamps)

    async def publish_tail(self, shard: Shard, after_position: int, *, dispatch: bool = True) -> None:
        """Publish the shard's events after a position up to its head; dispatch the tries among them that are open."""
        number = shard.number
        oldest_ms = now_ms() - self._settings.feed_age_seconds_max * 1000
        prefixes: dict[str, _Address] = {}
        position = after_position
        count = 0
        while position < shard.committed_position:
            records = await self._store.read_shard(number, after_position=position, limit=READ_EVENTS_MAX)
            if not records:
                break
            position = records[-1].position
            too_old = records[-1].recorded_at_ms < oldest_ms
            if too_old and not dispatch:
                continue
            await self._learn_prefixes(records, prefixes)
            ordering: dict[str, list[Event]] = {}
            for record in records:
                if self._orders_something(record, prefixes, dispatch):
                    ordering.setdefault(record.task_id, []).append(decode_event(record.data))
            # Before the events: once those are out, the next owner looks at nothing of them any more.
            await self._order_again(number, ordering)
            if too_old:
                # The feeds keep nothing of that age; what it orders is still wanted.
                continue
            self._publisher.publish(number, [self._outgoing(record, prefixes) for record in records])
            count += len(records)
            await self._publisher.room(self._settings.publish_backlog_events_max)
        if count:
            log.info("publishing the tail of a shard", shard=number, events=count, up_to=position)

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

    def _orders_something(self, record: EventRecord, prefixes: dict[str, _Address], dispatch: bool) -> bool:
        if record.type in OPENING:
            return dispatch
        if record.type == ChildCancelRequested.TYPE or record.type in stream_kinds.ORDERING:
            return True
        address = prefixes.get(record.task_id)
        return record.type in _SAID_TO_OTHERS and address is not None and address.is_awaited

    async def _order_again(self, shard: int, ordering: dict[str, list[Event]]) -> None:
        """Send what these events order, as far as it still holds."""
        stream_ids = list(ordering)
        for start in range(0, len(stream_ids), 500):
            messages: list[Order] = []
            for stream_id, actor in (await self._loader.load(stream_ids[start : start + 500])).items():
                for event in ordering[stream_id]:
                    order = None
                    if isinstance(actor, TaskActor):
                        order = order_of(actor, event, self._loader.shard_of)
                    elif isinstance(actor, StreamActor):
                        order = actor.kind.order_of(actor.state, event, self._loader.shard_of)
                    if order is not None:
                        messages.append(order)
            self._publisher.dispatch_again(shard, messages)

    async def _dispatch_open_tries(self, shard: int) -> None:
        stream_ids = await self._store.unfinished_tasks(shard)
        count = 0
        for start in range(0, len(stream_ids), 500):
            messages: list[Order] = []
            for actor in (await self._loader.load(stream_ids[start : start + 500])).values():
                if not isinstance(actor, TaskActor):
                    continue
                state = actor.state
                for number, step in enumerate(state.steps):
                    # One without a token was handed back: its timer gives it out again.
                    if step.status in ACTIVE and step.lease_token:
                        name = state.name_of(number)
                        message = dispatch_order(actor, name, step.attempt, step.lease_token)
                        if message is not None:
                            messages.append(message)
                messages += held_orders(actor, self._loader.shard_of)
                if any(step.status == "waiting_for_child" for step in state.steps):
                    messages += await self._child_orders(actor)
            count += len(messages)
            self._publisher.dispatch_again(shard, messages)
        count += await self._order_for_streams(shard)
        log.info("dispatched every open try again", shard=shard, tasks=len(stream_ids), tries=count)

    async def _tell_of_streams(self, shard: int) -> None:
        """Who wants to know hears of the shard's open streams: their last owner may not have told."""
        stream_ids = await self._store.open_streams(shard)
        for start in range(0, len(stream_ids), 500):
            for actor in (await self._loader.load(stream_ids[start : start + 500])).values():
                if isinstance(actor, StreamActor) and self.on_stream_taken is not None:
                    self.on_stream_taken(actor)

    async def _order_for_streams(self, shard: int) -> int:
        """Send again what the system's own streams wait for; returns how many messages that is."""
        stream_ids = await self._store.open_streams(shard)
        count = 0
        for start in range(0, len(stream_ids), 500):
            messages: list[Order] = []
            for actor in (await self._loader.load(stream_ids[start : start + 500])).values():
                if isinstance(actor, StreamActor):
                    messages += actor.kind.open_orders(actor.state, self._loader.shard_of)
            count += len(messages)
            self._publisher.dispatch_again(shard, messages)
        return count

    async def _child_orders(self, actor: TaskActor) -> list[Order]:
        """The orders to start the children that a task waits for; they stand in its events only."""
        messages: list[Order] = []
        version = 1
        while records := await self._store.read_stream(
            actor.state.task_id, from_version=version, limit=READ_EVENTS_MAX
        ):
            version = records[-1].version + 1
            for record in records:
                if record.type == ChildRequested.TYPE:
                    order = order_of(actor, decode_event(record.data), self._loader.shard_of)
                    if order is not None:
                        messages.append(order)
        return messages

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
                    event.parent is not None or event.schedule is not None,
                )
            elif record.task_id not in prefixes:
                unknown[record.task_id] = None
        missing = [stream_id for stream_id in unknown if stream_id not in prefixes]
        if missing:
            for stream_id, actor in (await self._loader.load(missing)).items():
                if not isinstance(actor, Unloadable):
                    task = actor.state if isinstance(actor, TaskActor) else None
                    prefixes[stream_id] = _Address(
                        actor.event_prefix,
                        None if task is None else task.traceparent,
                        task is not None and (task.parent is not None or task.schedule is not None),
                    )

    def _outgoing(self, record: EventRecord, prefixes: dict[str, _Address]) -> Outgoing:
        address = prefixes.get(record.task_id)
        signal = None
        if address is not None:
            namespace = subjects.untoken(address.prefix.split(".")[2])
            level = "outcomes" if namespace == SYSTEM_NAMESPACE else self._settings.signal_level(namespace)
            if level == "all" or (level == "outcomes" and record.type in OUTCOME_TYPES):
                signal = address.prefix + _ending_of(record)
        if record.type in _ENDINGS:
            prefixes.pop(record.task_id, None)
        traceparent = None if address is None else address.traceparent
        return Outgoing(record.position, canonical_bytes(record), signal, None, traceparent)


def _ending_of(record: EventRecord) -> str:
    """How the subject of an event ends on the signal feed."""
    if record.type != DomainPublished.TYPE:
        return record.type
    event = decode_event(record.data)
    assert isinstance(event, DomainPublished)
    return subjects.domain_event(event.name)
