"""The loop of a shard owner: decide, append once, hand over for publishing, answer.

Commands wait in one inbox for all shards of the process. While one batch is being committed the next one is
decided on top of it; it is committed as soon as the first is. Nothing leaves the process before its commit:
publishing, answers and acknowledgements follow it, in the order of the ledger.

When a commit fails, everything decided since the last good one is forgotten (actors, positions) and its
commands go back to the head of the inbox:

- a stream turned out to exist already → its commands look into the store first;
- the database refuses some content → the commands are committed one by one until the culprit is alone;
- the database is away → wait, read the shard rows, publish what was committed after all, go on;
- a shard has another owner → its commands are handed back, its actors dropped, nothing of it is published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import get_args

import structlog

from stepweave_eventstore.store import (
    EventStore,
    EventStoreError,
    Snapshot,
    StoreUnavailable,
    UnstorableEvent,
    WrongExpectedVersion,
)
from stepweave_orchestrator.core import Moment, Rejection, TaskState, Wake, decide, evolve
from stepweave_orchestrator.core.commands import Command, StreamCommand
from stepweave_orchestrator.core.snapshot import SNAPSHOT_FORMAT, encode_snapshot
from stepweave_orchestrator.core.state import initial
from stepweave_orchestrator.core.template_stream import (
    RegisterTemplate,
    TemplateState,
    decide_template,
    evolve_template,
)
from stepweave_schemas import subjects
from stepweave_schemas.catalogue import OUTCOME_TYPES
from stepweave_schemas.events import (
    ChildCancelRequested,
    ChildRequested,
    DomainPublished,
    Event,
    StepEnqueued,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskCreated,
    TaskFailed,
    TaskResolvedManually,
    TemplateRegistered,
)
from stepweave_schemas.mint import entropy, now_ms

from .actors import Actor, ActorCache, StreamActor, SystemActor, SystemState, TaskActor, TemplateActor
from .batch import Batch, Outgoing, Shard, ShardBatch
from .crash_points import crash_point
from .inbox import Inbox
from .loading import ActorLoader
from .metrics import Metrics
from .orders import FAILING, GATING, Order, dispatch_order, order_of
from .projector import Projector
from .publisher import Publisher
from .settings import Settings
from .stream_kind import StreamKind, encode_state
from .timers import Timers
from .work import Done, Ending, Faulty, Query, Record, ShardMoved, Unstorable, Work

log = structlog.get_logger(__name__)

#: Waits between attempts to reach the store again.
STORE_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
_WRONG_SHARD = Rejection("NOT_FOUND", "the task belongs to another shard")
_NO_SUCH_TASK = Rejection("NOT_FOUND", "there is no such task")
#: What a task may be asked; other commands are for other kinds of streams.
_TASK_COMMANDS = frozenset(get_args(Command))
#: A stream of the system's own gets a snapshot after so many events; after more where a snapshot is large, so that
#: each event pays for so much of one at most.
STREAM_SNAPSHOT_EVENTS = 5_000
STREAM_SNAPSHOT_BYTES_PER_EVENT = 1_000
#: A wake-up that could not be decided comes again after so long.
FAULTY_WAKE_MS = 60_000
#: Ids loaded in one go.
LOAD_BATCH_MAX = 200
#: The events that may order a message; some of them only where another task or a schedule waits.
_SAID_TO_OTHERS = frozenset(
    {TaskCreated, TaskCompleted, TaskFailed, TaskCancelled, TaskResolvedManually, TaskBlocked}
)
_ORDERING = frozenset({ChildRequested, ChildCancelRequested}) | GATING | FAILING | _SAID_TO_OTHERS


class OwnerLoop:
    """Owns shards: see the module."""

    def __init__(
        self,
        settings: Settings,
        store: EventStore,
        loader: ActorLoader,
        publisher: Publisher,
        timers: Timers,
        projector: Projector,
        metrics: Metrics,
        on_shard_lost: Callable[[int], None],
        on_shard_in_doubt: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._limits = settings.limits()
        self._rates = settings.rates_by_namespace
        #: Circuits that are not closed; set by who knows.
        self.open_circuits: frozenset[str] = frozenset()
        #: Called for a system stream after a commit of its events; set by the orchestrator.
        self.on_stream_committed: Callable[[StreamActor], None] = _nobody
        self._store = store
        self._loader = loader
        self._publisher = publisher
        self._timers = timers
        self._projector = projector
        self._metrics = metrics
        self._on_shard_lost = on_shard_lost
        self._on_shard_in_doubt = on_shard_in_doubt
        self.shards: dict[int, Shard] = {}
        self.actors = ActorCache(settings.actors_max, settings.actor_steps_max, settings.live_bytes_max())
        self._inbox = Inbox()
        self._parked: dict[str, list[Work]] = {}
        self._to_load: dict[str, int] = {}
        self._open = Batch()
        self._committing: Batch | None = None
        self._committing_since = 0.0
        self._store_failures = 0
        #: What ended a task of the loop that must not end.
        self._fault: BaseException | None = None
        self._kick = asyncio.Event()
        #: Set at the end of each turn of the loop.
        self._progress = asyncio.Event()
        #: Shards that are being handed over.
        self._draining: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading: asyncio.Task[None] | None = None
        #: Publishes the committed tail of a shard after an outage of the store; set by the orchestrator.
        self.publish_tail: Callable[[Shard], Awaitable[None]] | None = None

    # -- shards ----------------------------------------------------------------------------------

    def add_shard(self, shard: Shard) -> None:
        """Begin to own a shard whose tail is published and whose timers are set."""
        self.shards[shard.number] = shard

    def drop_shard(self, number: int) -> None:
        """Stop owning a shard at once: nothing of it is decided, appended, published or answered any more."""
        self._draining.discard(number)
        if self.shards.pop(number, None) is None:
            return
        self._publisher.drop_shard(number)
        self._timers.forget_shard(number)
        self._projector.drop_shard(number)
        moved: list[Work] = []
        for batch in (self._committing, self._open):
            if batch is not None and (part := batch.parts.pop(number, None)) is not None:
                moved.extend(work for work, _ in part.endings)
        moved.extend(self._inbox.remove_shard(number))
        for stream_id, works in list(self._parked.items()):
            if works[0].shard == number:
                moved.extend(works)
                del self._parked[stream_id]
                self._to_load.pop(stream_id, None)
        for work in moved:
            work.finish(ShardMoved())
        self.actors.drop(self.actors.of_shard(number))
        self._on_shard_lost(number)

    # -- commands --------------------------------------------------------------------------------

    @property
    def waiting_count(self) -> int:
        """Commands that are not decided yet."""
        return len(self._inbox) + len(self._parked)

    @property
    def commit_seconds(self) -> float:
        """How long the commit under way has taken so far, waiting for the store included; 0 where there is none."""
        if self._committing is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._committing_since

    def submit(self, work: Work) -> None:
        """Take a command; its `finish` is called after the commit (or with why not)."""
        if work.shard not in self.shards or (
            work.shard in self._draining and not isinstance(work.command, Record)
        ):
            work.finish(ShardMoved())
            return
        self._inbox.append(work)
        self._kick.set()

    def kick(self) -> None:
        """Look again: something that held the loop back may be over."""
        self._kick.set()

    async def drain_shard(self, number: int, timeout_seconds: float) -> bool:
        """Take no more commands for a shard and wait until those taken are committed.

        `False` where that takes too long; what is not committed then is handed back when the shard is dropped.
        """
        self._draining.add(number)
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._is_busy(number):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    async def commit_ended(self) -> None:
        """Return once the commit that is under way now has ended, if there is one.

        A shard that is dropped meanwhile may still be moved by it, at the epoch that it was held at.
        """
        batch = self._committing
        while batch is not None and self._committing is batch:
            self._progress.clear()
            await self._progress.wait()

    def _is_busy(self, number: int) -> bool:
        return (
            number in self._open.parts
            or (self._committing is not None and number in self._committing.parts)
            or any(work.shard == number for work in self._inbox)
            or any(works[0].shard == number for works in self._parked.values())
        )

    async def run(self) -> None:
        """Decide and commit until cancelled."""
        try:
            while True:
                await self._kick.wait()
                self._kick.clear()
                if self._fault is not None:
                    raise self._fault
                self._decide_available()
                # Not only after a commit: questions bring actors into memory too.
                self._evict()
                if self._committing is None and self._open:
                    self._committing, self._open = self._open, Batch()
                    self._committing_since = asyncio.get_running_loop().time()
                    self._spawn(self._commit(self._committing))
                    # What arrived meanwhile is decided while this commit is under way.
                    if self._inbox:
                        self._kick.set()
                self._progress.set()
                if self._kick.is_set():
                    # Let the connections breathe between two slices.
                    await asyncio.sleep(0)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fault = error
            self._kick.set()

    # -- deciding --------------------------------------------------------------------------------

    def _decide_available(self) -> None:
        inbox = self._inbox
        batch = self._open
        settings = self._settings
        if not inbox.count or self._publisher.backlog_events >= settings.publish_backlog_events_max:
            return
        batch.now_ms = now_ms()
        while batch.events_count < settings.batch_events_max and batch.bytes_count < settings.batch_bytes_max:
            work = inbox.take()
            if work is None:
                return
            if work.alone:
                if batch:
                    inbox.put_back((work,))
                else:
                    self._decide(work, batch)
                return
            self._decide(work, batch)

    def _decide(self, work: Work, batch: Batch) -> None:
        shard = self.shards.get(work.shard)
        if shard is None:
            work.finish(ShardMoved())
            return
        parked = self._parked.get(work.stream_id)
        if parked is not None:
            parked.append(work)
            return
        actor = self.actors.get(work.stream_id)
        if actor is None:
            if not work.fresh:
                self._park(work)
                return
            actor = self._new_actor(work)
        if actor.shard != work.shard:
            work.finish(_WRONG_SHARD)
            return
        command = work.command
        ending: Ending
        happened: list[Event] = []
        faulty = False
        if isinstance(command, Query):
            ending = Done(False, command.answer(actor))
        else:
            try:
                decision = self._ask(actor, work, batch.now_ms)
            except Exception:
                # A fault of ours; deciding changes nothing, so the other commands are not touched by it.
                log.exception("deciding failed", stream_id=work.stream_id, command=type(command).__name__)
                faulty = True
                decision = Rejection(
                    "CONFLICT", "the command cannot be decided; the orchestrator's log says why"
                )
            if isinstance(decision, Rejection):
                ending = decision
            else:
                happened = decision
                ending = Done(bool(happened))
        if not happened:
            if isinstance(command, Wake):
                # The clock has stepped back since the timer fired: the moment comes again.
                if faulty:
                    self._put_off(work)
                else:
                    self._timers.set(work.stream_id, work.shard, _next_wake_ms(actor))
            # An answer may rest on events that are not committed yet: then it waits for them.
            if actor.uncommitted:
                batch.part(shard).endings.append((work, ending))
            else:
                work.finish(ending)
                if actor.state.version == 0:
                    self.actors.drop((work.stream_id,))
            return
        applied: list[tuple[Event, int, Order | None]] = []
        try:
            if isinstance(actor, TaskActor):
                applied = self._apply(actor, happened, batch.now_ms)
            elif isinstance(actor, StreamActor):
                applied = self._apply_to_stream(actor, happened, batch.now_ms)
        except Exception as error:
            # A fault of ours: nothing of it is in the batch. The actor is half-way, so it is read again.
            log.exception("events cannot be applied", stream_id=work.stream_id)
            self.actors.drop((work.stream_id,))
            self._put_off(work)
            work.finish(Faulty(str(error)))
            return
        part = batch.part(shard)
        if work.stream_id not in part.touched:
            part.touched[work.stream_id] = actor
            actor.uncommitted += 1
        if isinstance(actor, TaskActor):
            self._record_task(actor, work, batch, part, applied)
        elif isinstance(actor, StreamActor):
            self._record_stream(actor, work, batch, part, applied)
        else:
            self._record_other(actor, work, batch, part, happened)
        part.endings.append((work, ending))

    def _put_off(self, work: Work) -> None:
        """A wake-up that met a fault of ours comes again: not at once, or the loop would do nothing else."""
        if isinstance(work.command, Wake):
            self._timers.set(work.stream_id, work.shard, now_ms() + FAULTY_WAKE_MS)

    def _ask(self, actor: Actor, work: Work, at_ms: int) -> list[Event] | Rejection:
        command = work.command
        if isinstance(actor, TaskActor):
            if type(command) not in _TASK_COMMANDS:
                return _NO_SUCH_TASK
            namespace = actor.state.the_plan.ref.namespace
            if work.namespace is not None and work.namespace != namespace:
                return Rejection("WRONG_TOKEN", f"the task is not of namespace {work.namespace}")
            rate = self._rates.get(namespace) if self._rates else None
            moment = Moment(at_ms, entropy(), self._limits, rate, self.open_circuits)
            return decide(actor.state, command, moment)  # type: ignore[arg-type]
        if isinstance(command, RegisterTemplate):
            if not isinstance(actor, TemplateActor):
                return Rejection("CONFLICT", "the stream is not a template's")
            return decide_template(actor.state, command)  # type: ignore[return-value]
        if isinstance(command, Record):
            return [command.event]
        if isinstance(actor, StreamActor) and isinstance(command, StreamCommand | Wake):
            return actor.kind.decide(actor.state, command, Moment(at_ms, entropy(), self._limits))
        return _NO_SUCH_TASK

    def _apply(
        self, actor: TaskActor, happened: list[Event], at_ms: int
    ) -> list[tuple[Event, int, Order | None]]:
        """Apply the events; returns each with its version in the stream and with what it orders."""
        state = actor.state
        applied: list[tuple[Event, int, Order | None]] = []
        for event in happened:
            evolve(state, event, at_ms)
            kind = type(event)
            order = None
            if kind is StepEnqueued:
                assert isinstance(event, StepEnqueued)
                order = dispatch_order(actor, event.step_name, event.attempt, event.lease_token)
            elif kind in _ORDERING and (
                kind not in _SAID_TO_OTHERS or state.parent is not None or state.schedule is not None
            ):
                order = order_of(actor, event, self._loader.shard_of)
            applied.append((event, state.version, order))
        return applied

    def _apply_to_stream(
        self, actor: StreamActor, happened: list[Event], at_ms: int
    ) -> list[tuple[Event, int, Order | None]]:
        kind, state = actor.kind, actor.state
        applied: list[tuple[Event, int, Order | None]] = []
        for event in happened:
            kind.evolve(state, event, at_ms)
            applied.append((event, state.version, kind.order_of(state, event, self._loader.shard_of)))
        if not actor.event_prefix:
            actor.learn_address()
        return applied

    def _record_task(
        self,
        actor: TaskActor,
        work: Work,
        batch: Batch,
        part: ShardBatch,
        applied: list[tuple[Event, int, Order | None]],
    ) -> None:
        state = actor.state
        outgoing = part.outgoing
        bytes_before = batch.bytes_count
        level = self._settings.signal_level(state.the_plan.ref.namespace)
        for event, version, order in applied:
            position, envelope = batch.add_event(part, work, version, state.correlation_id, event)
            signal = None
            if level == "all" or (level == "outcomes" and event.TYPE in OUTCOME_TYPES):
                signal = actor.event_prefix + event.TYPE
            if type(event) is DomainPublished:
                signal = self._domain_event(actor, event, envelope, part, wanted=signal is not None)
            outgoing.append(Outgoing(position, envelope, signal, order, state.traceparent))
        self.actors.grew(actor, batch.bytes_count - bytes_before)
        if len(state.steps) >= actor.weight:
            self.actors.reweigh(actor)
        wake_at_ms = state.next_wake_ms()
        if wake_at_ms != actor.saved_wake_ms:
            actor.saved_wake_ms = wake_at_ms
            part.wakeups[state.task_id] = wake_at_ms

    def _domain_event(
        self, actor: TaskActor, event: DomainPublished, envelope: bytes, part: ShardBatch, *, wanted: bool
    ) -> str | None:
        """The subject of a domain event on the signal feed; what is sent at once besides is noted."""
        subject = actor.event_prefix + subjects.domain_event(event.name)
        state = actor.state
        if state.the_plan.is_fast(state.slot_of(state.number_of(event.step_name)), event.name):
            part.at_once.append((subjects.at_once(subject), envelope))
        return subject if wanted else None

    def _record_stream(
        self,
        actor: StreamActor,
        work: Work,
        batch: Batch,
        part: ShardBatch,
        applied: list[tuple[Event, int, Order | None]],
    ) -> None:
        level = self._settings.signal_level(actor.namespace)
        for event, version, order in applied:
            position, envelope = batch.add_event(part, work, version, work.correlation_id, event)
            signal = None
            if level == "all" or (level == "outcomes" and event.TYPE in OUTCOME_TYPES):
                signal = actor.event_prefix + event.TYPE
            part.outgoing.append(Outgoing(position, envelope, signal, order))
        actor.events_since_snapshot += len(applied)
        wake_at_ms = actor.kind.next_wake_ms(actor.state)
        # After a wake-up its moment has gone, also where the next one is the same.
        if wake_at_ms != actor.saved_wake_ms or isinstance(work.command, Wake):
            actor.saved_wake_ms = wake_at_ms
            part.wakeups[work.stream_id] = wake_at_ms

    def _record_other(
        self,
        actor: TemplateActor | SystemActor,
        work: Work,
        batch: Batch,
        part: ShardBatch,
        happened: list[Event],
    ) -> None:
        for event in happened:
            if isinstance(actor, TemplateActor):
                assert isinstance(event, TemplateRegistered)
                evolve_template(actor.state, event, batch.now_ms)
            else:
                actor.state.version += 1
            position, envelope = batch.add_event(part, work, actor.state.version, work.correlation_id, event)
            signal = actor.event_prefix + event.TYPE if event.TYPE in OUTCOME_TYPES else None
            part.outgoing.append(Outgoing(position, envelope, signal, None))

    def _new_actor(self, work: Work) -> Actor:
        actor: Actor
        if isinstance(work.seed, TemplateState):
            # A state of its own: the command may be decided again after a roll-back.
            actor = TemplateActor(
                TemplateState(work.seed.namespace, work.seed.name), work.stream_id, work.shard
            )
        elif isinstance(work.seed, StreamKind):
            kind = work.seed
            actor = StreamActor(kind, kind.initial(work.stream_id), work.stream_id, work.shard)
        elif isinstance(work.seed, SystemState):
            actor = SystemActor(work.stream_id, work.seed.version, work.shard)
        else:
            state = initial(work.stream_id, work.seed, work.correlation_id)
            actor = TaskActor(state, work.shard, work.seed.ref)
        self.actors.put(work.stream_id, actor)
        return actor

    # -- committing ------------------------------------------------------------------------------

    async def _commit(self, batch: Batch) -> None:
        try:
            append = batch.append(self._publisher.published())
            appended: set[int] = set()
            if append.events:
                crash_point("before_append")
                appended = await self._store.append(append)
                crash_point("after_append")
        except WrongExpectedVersion as error:
            self._roll_back(batch)
            self._look_up_first(set(error.task_ids))
        except UnstorableEvent as error:
            self._isolate(batch, error)
        except EventStoreError as error:
            self._roll_back(batch)
            await self._await_store(error)
        except Exception as error:
            # A fault of ours in one of the commands: find it by committing them one by one.
            log.exception("a commit could not be made")
            self._isolate(batch, error)
        else:
            self._store_failures = 0
            self._settle(batch, appended)
        finally:
            self._committing = None
            self._kick.set()

    def _settle(self, batch: Batch, appended: set[int]) -> None:
        lost: list[int] = []
        for number, part in batch.parts.items():
            shard = part.shard
            if part.records:
                if number not in appended:
                    lost.append(number)
                    continue
                shard.committed_position = part.records[-1].position
                shard.committed_hash = part.records[-1].hash
                if part.at_once:
                    self._publisher.send_at_once(number, part.at_once)
                self._publisher.publish(number, part.outgoing)
                self._projector.changed(number, shard.committed_position, part.touched)
            for stream_id, wake_at_ms in part.wakeups.items():
                self._timers.set(stream_id, number, wake_at_ms)
            for stream_id, actor in part.touched.items():
                actor.uncommitted -= 1
                if isinstance(actor, StreamActor) and not actor.uncommitted:
                    self.on_stream_committed(actor)
                    self._snapshot_long_stream(stream_id, actor)
            crash_point("before_acks")
            for work, ending in part.endings:
                work.finish(ending)
        self._metrics.committed(batch.events_count)
        for number in lost:
            # Another owner's epoch; or an append of ours that was thought lost has arrived after all.
            log.warning("a shard's row is not as expected, nothing was appended to it", shard=number)
            self._on_shard_in_doubt(number)
        self._evict()

    def _roll_back(self, batch: Batch) -> None:
        """Forget everything decided and not committed; its commands are the next to be decided."""
        works: list[Work] = []
        for pending in (batch, self._open):
            works.extend(pending.works())
            for part in pending.parts.values():
                self.actors.drop(part.touched)
        for shard in self.shards.values():
            shard.rewind()
        self._open = Batch()
        self._inbox.put_back(works)

    def _look_up_first(self, stream_ids: set[str]) -> None:
        for work in self._inbox:
            if work.stream_id in stream_ids:
                work.fresh = False

    def _isolate(self, batch: Batch, error: Exception) -> None:
        works = batch.works()
        self._roll_back(batch)
        if len(works) == 1:
            self._inbox.take()
            log.error("the store refuses a command", stream_id=works[0].stream_id, error=str(error))
            refused = isinstance(error, UnstorableEvent)
            self._put_off(works[0])
            works[0].finish(Unstorable(str(error)) if refused else Faulty(str(error)))
            return
        for work in works:
            work.alone = True

    async def _await_store(self, error: EventStoreError) -> None:
        """Wait for the store, then find out what of the last append it holds."""
        if isinstance(error, StoreUnavailable):
            log.warning("the event store is away; nothing is lost, waiting for it", error=str(error))
        else:
            log.error("the event store refuses to append; nothing is lost, trying again", error=str(error))
        attempt = 0
        while self.shards:
            await self._pause_for_store()
            attempt += 1
            try:
                # Waits for an append that is still at work in the database though its answer was lost here.
                epochs = {number: shard.epoch for number, shard in self.shards.items()}
                await self._store.renew_shards(self._settings.owner, epochs, self._settings.lease_ms, {})
                rows = {row.shard: row for row in await self._store.shards()}
                for number, shard in list(self.shards.items()):
                    row = rows.get(number)
                    if row is None or row.epoch != shard.epoch:
                        self.drop_shard(number)
                        continue
                    if row.head_position != shard.committed_position:
                        # The append did arrive, but nobody published it.
                        before = shard.committed_position
                        shard.committed_position, shard.committed_hash = row.head_position, row.head_hash
                        shard.rewind()
                        assert self.publish_tail is not None
                        log.info("publishing a tail that was committed unseen", shard=number, after=before)
                        await self.publish_tail(shard)
            except EventStoreError:
                continue
            log.info("the event store answers", attempts=attempt)
            return

    async def _pause_for_store(self) -> None:
        """Longer after each failure in a row, whatever failed; a commit that succeeds starts over."""
        pause = STORE_RETRY_SECONDS[min(self._store_failures, len(STORE_RETRY_SECONDS) - 1)]
        self._store_failures += 1
        await asyncio.sleep(pause)

    # -- actors that are not in memory -----------------------------------------------------------

    def _park(self, work: Work) -> None:
        self._parked[work.stream_id] = [work]
        self._to_load[work.stream_id] = work.shard
        if self._loading is None or self._loading.done():
            self._loading = self._spawn(self._load())

    async def _load(self) -> None:
        while self._to_load:
            stream_ids = list(self._to_load)[:LOAD_BATCH_MAX]
            try:
                loaded = await self._loader.load(stream_ids)
            except EventStoreError as error:
                log.warning("actors cannot be loaded, trying again", count=len(stream_ids), error=str(error))
                await self._pause_for_store()
                continue
            self._store_failures = 0
            for stream_id in stream_ids:
                self._to_load.pop(stream_id, None)
                works = self._parked.pop(stream_id, None)
                if works is None:
                    continue
                actor = loaded.get(stream_id)
                if isinstance(actor, Exception):
                    for work in works:
                        work.finish(actor)
                    continue
                if actor is not None and actor.shard != works[0].shard:
                    # Somebody named a task of another shard: it is not ours to keep.
                    for work in works:
                        work.finish(_WRONG_SHARD)
                    continue
                if actor is None:
                    for work in works:
                        work.fresh = work.seed is not None
                    strangers = [work for work in works if not work.fresh]
                    works = [work for work in works if work.fresh]
                    for work in strangers:
                        work.finish(Rejection("NOT_FOUND", "there is no such task"))
                elif self.actors.peek(stream_id) is None:
                    self.actors.put(stream_id, actor)
                self._inbox.put_back(works)
            self._kick.set()

    def _evict(self) -> None:
        """Let go of what is over the cache's bounds."""
        for stream_id, actor in self.actors.evict():
            self._passivate(stream_id, actor)

    def let_go(self) -> None:
        """Memory is short: the half of the live actors that was not used for longest leaves."""
        for stream_id, actor in self.actors.halve():
            self._passivate(stream_id, actor)

    def _passivate(self, stream_id: str, actor: Actor) -> None:
        """Write a snapshot of a long-lived actor that leaves memory."""
        if isinstance(actor, StreamActor):
            if actor.events_since_snapshot >= self._settings.snapshot_events_min:
                self._snapshot_stream(stream_id, actor)
            return
        if not isinstance(actor, TaskActor):
            return
        state: TaskState = actor.state
        if state.is_terminal or state.events_since_snapshot < self._settings.snapshot_events_min:
            return
        snapshot = Snapshot(stream_id, state.version, SNAPSHOT_FORMAT, encode_snapshot(state))
        self._spawn(self._save_snapshot(snapshot))

    def _snapshot_long_stream(self, stream_id: str, actor: StreamActor) -> None:
        """Some streams of the system's own are always in memory and never end: their replay is to stay short."""
        wanted_events = max(STREAM_SNAPSHOT_EVENTS, actor.snapshot_bytes // STREAM_SNAPSHOT_BYTES_PER_EVENT)
        if actor.events_since_snapshot >= wanted_events:
            self._snapshot_stream(stream_id, actor)

    def _snapshot_stream(self, stream_id: str, actor: StreamActor) -> None:
        actor.events_since_snapshot = 0
        data = encode_state(actor.state)
        actor.snapshot_bytes = len(data)
        snapshot = Snapshot(stream_id, actor.state.version, actor.kind.snapshot_format, data)
        self._spawn(self._save_snapshot(snapshot))

    async def _save_snapshot(self, snapshot: Snapshot) -> None:
        try:
            await self._store.save_snapshot(snapshot)
        except EventStoreError as error:
            log.info("a snapshot was not written; replay takes longer", error=str(error))


def _next_wake_ms(actor: Actor) -> int | None:
    if isinstance(actor, TaskActor):
        wake_at_ms: int | None = actor.state.next_wake_ms()
        return wake_at_ms
    return actor.kind.next_wake_ms(actor.state) if isinstance(actor, StreamActor) else None


def _nobody(_actor: StreamActor) -> None:
    """Stands in until the orchestrator says who wants to hear of commits."""
