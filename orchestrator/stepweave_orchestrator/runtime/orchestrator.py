"""One orchestrator process: the parts put together, started and stopped in order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import structlog
from nats.aio.msg import Msg
from opentelemetry.metrics import get_meter

from stepweave.messaging import Connection, JetStreamPublisher, Subscription
from stepweave_eventstore.store import EventStore, ShardRow, StoreUnavailable
from stepweave_orchestrator.api.dead_letters import DeadLetterOperations
from stepweave_orchestrator.api.explanations import ExplanationOperations
from stepweave_orchestrator.api.operations import Operations
from stepweave_orchestrator.api.service import ApiService
from stepweave_orchestrator.core.commands import Wake
from stepweave_orchestrator.core.dead_letters import newest_stale
from stepweave_orchestrator.version import VERSION
from stepweave_schemas import subjects
from stepweave_schemas.events import Event, ShardAcquired, ShardReleased
from stepweave_schemas.identity import shard_stream_id
from stepweave_schemas.load import OrchestratorLoad

from .actors import StreamActor, SystemState, TaskActor
from .batch import Shard
from .bulk_orders import BulkOrders
from .child_orders import ChildOrders
from .circuits import OpenCircuits
from .consumer import CommandConsumer
from .forks import Forks
from .gate_kinds import CIRCUIT
from .handler_watch import HandlerWatch
from .leases import Leases
from .load_metrics import LoadOnDemand, register_load
from .load_readings import LoadReadings
from .loading import ActorLoader
from .local_orders import LocalOrders
from .metrics import Metrics
from .owner import OwnerLoop
from .owner_service import OwnerService
from .projector import Projector
from .publisher import Publisher
from .settings import Settings
from .shard_router import ShardRouter
from .streams import Streams, StreamsUnavailable
from .takeover import TakeOver
from .templates import TemplateCatalogue
from .timers import Timers
from .withdrawals import Withdrawals
from .work import Done, Record, Work, into_future

log = structlog.get_logger(__name__)

TAKE_OVER_RETRY_SECONDS = 0.5
#: How long a hand-over waits for commits and for acknowledgements, each; well under a lease.
HAND_OVER_SECONDS_MAX = 2.0
#: Messages that JetStream has not acknowledged yet.
PUBLISHES_IN_FLIGHT_MAX = 32_768


class Orchestrator:
    """Owns shards, runs their tasks and answers the API; `await start()`, `await stop()`."""

    def __init__(self, settings: Settings, store: EventStore, connection: Connection) -> None:
        self.settings = settings
        self.store = store
        self.connection = connection
        self.metrics = Metrics()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._consumers: dict[int, CommandConsumer] = {}
        self._taking_over: dict[int, asyncio.Task[None]] = {}
        self._stopping = False
        self._built = False
        self._subscriptions: list[Subscription] = []
        self._failed: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Come up: streams, leases, API. Returns when requests are answered."""
        settings, store, connection = self.settings, self.store, self.connection
        self._failed = asyncio.get_running_loop().create_future()
        self.shard_count = await store.initialise(settings.shard_count)
        self.messages = JetStreamPublisher(
            connection,
            waiting_messages_max=PUBLISHES_IN_FLIGHT_MAX,
            give_up_seconds=30.0,
            may_send=lambda: self.leases.any_certain(),
        )
        self.streams = Streams(settings, connection, self.shard_count)
        self.templates = TemplateCatalogue(store)
        self.loader = ActorLoader(store, self.templates, self.shard_count)
        self.timers = Timers(self._on_due)
        self.projector = Projector(store, self.loader)
        self.publisher = Publisher(
            settings,
            connection,
            self.messages,
            self.streams,
            self.metrics,
            self._may_publish,
            self._on_room,
            self._on_shard_in_doubt,
        )
        self.owner = OwnerLoop(
            settings,
            store,
            self.loader,
            self.publisher,
            self.timers,
            self.projector,
            self.metrics,
            self._on_shard_dropped,
            self._on_shard_in_doubt,
        )
        self.projector.actors = self.owner.actors
        self.take_over = TakeOver(settings, store, self.loader, self.streams, self.publisher, self.projector)
        self.owner.publish_tail = self._publish_tail
        self.forks = Forks(store, self.templates, settings.limits())
        self.load = LoadReadings(settings, connection, store, self.owner, self.publisher, self.projector)
        self.withdrawals = Withdrawals(connection)
        self.service = OwnerService(
            connection,
            self.owner,
            self.templates,
            self.forks,
            self.metrics,
            self.shard_count,
            self.load.admission,
            self.withdrawals,
        )
        self.router = ShardRouter(connection, self.owner, self.service)
        self.bulks = BulkOrders(self.owner, store, self.router, self.loader.shard_of)
        self.children = ChildOrders(
            connection,
            self.messages,
            self.owner,
            self.templates,
            self.service.tell_workers,
            self.loader.shard_of,
            self.metrics,
            self.load.admission.own_work_waits,
            self.bulks.run,
        )
        self.publisher.local = LocalOrders(self.owner.submit, lambda shard: shard in self.owner.shards)
        self.circuits = OpenCircuits(connection, store, self._on_circuits_changed)
        self.owner.on_stream_committed = self._on_stream_committed
        self.take_over.on_stream_taken = self._on_stream_taken
        self.children.gates.on_circuit_mistaken = self.circuits.tell
        self.operations = Operations(
            settings,
            store,
            self.shard_count,
            self.templates,
            self.forks,
            self.router,
            self.streams,
            self.load.admission,
            self._tell_template_changed,
            ExplanationOperations(store, self.loader, self.router, connection, self.shard_count),
            DeadLetterOperations(store, self.loader, self.router, self.shard_count),
        )
        self.handler_watch = HandlerWatch(
            settings, store, connection, self.owner, self.templates, self.metrics
        )
        self.api = ApiService(connection, self.operations, self.metrics, VERSION, self.tell_load)
        self.load.requests_waiting = self.api.requests_waiting
        self.leases = Leases(
            settings,
            store,
            self.shard_count,
            self._on_acquired,
            self._on_lost,
            self._on_release,
            lambda: connection.send(subjects.SHARDS_FREE),
            self.publisher.published,
        )
        self.load.orchestrators_alive = lambda: self.leases.alive_count
        self._built = True
        await self.messages.start()
        await self._ensure_feeds()
        self._subscriptions = [
            await connection.subscribe(subjects.SHARDS_FREE, lambda _: self.leases.nudge()),
            await connection.subscribe(subjects.TEMPLATE_CHANGED, self._on_template_changed),
            await connection.subscribe(subjects.CIRCUIT_CHANGED, self.circuits.on_message),
        ]
        connection.add_reconnect_listener(self._on_reconnect)
        await self.circuits.load()
        self._run(self.owner.run())
        self._run(self.projector.run())
        self._run(self.handler_watch.run())
        await self.leases.tick()
        # Beside the take-overs: they may last longer than a lease.
        self._run(self.leases.run())
        await self.settle()
        await self.api.start()
        self.metrics.register(
            {
                "shards_owned": lambda: len(self.owner.shards),
                "actors_live": lambda: len(self.owner.actors),
                "commands_waiting": lambda: self.owner.waiting_count,
                "publish_backlog_events": lambda: self.publisher.backlog_events,
                "timers": lambda: len(self.timers),
            }
        )
        register_load(get_meter("stepweave.orchestrator"), LoadOnDemand(self.tell_load))
        log.info("orchestrator is up", owner=settings.owner, shards=sorted(self.owner.shards))

    def tell_load(self) -> OrchestratorLoad:
        """What is under way here, and whether more is taken."""
        return self.load.admission.load(self.settings.owner, self.metrics.snapshot())

    async def settle(self) -> None:
        """Wait until every shard that was acquired is taken over."""
        while self._taking_over:
            await asyncio.wait(self._taking_over.values())

    async def run(self) -> None:
        """Return when a part of the process failed for good; raises its error."""
        assert self._failed is not None
        await self._failed

    async def stop(self) -> None:
        """Finish what is accepted, publish it, hand the shards over, leave."""
        if self._stopping or not self._built:
            return
        self._stopping = True
        self.connection.remove_reconnect_listener(self._on_reconnect)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.shutdown_seconds_max):
                await self.api.stop()
                for subscription in self._subscriptions:
                    await subscription.unsubscribe()
                with suppress(StoreUnavailable):
                    await self.projector.flush()
                    await self.leases.stop()
                self.connection.send(subjects.SHARDS_FREE)
        for shard in list(self.owner.shards):
            self.owner.drop_shard(shard)
        self.timers.close()
        self.publisher.close()
        await self.children.close()
        await self.withdrawals.close()
        await self.load.close()
        for task in (*self._tasks, *self._taking_over.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._taking_over.values(), return_exceptions=True)
        await self.messages.close()
        log.info("orchestrator has stopped", owner=self.settings.owner)

    # -- shards ----------------------------------------------------------------------------------

    async def _on_acquired(self, row: ShardRow) -> None:
        self._begin_take_over(row.shard, self._take_over(row, acquired=True))

    def _begin_take_over(self, shard: int, work: Coroutine[Any, Any, None]) -> None:
        # Two at a time would publish over each other, and leave a consumer that nobody stops.
        earlier = self._taking_over.pop(shard, None)
        if earlier is not None:
            earlier.cancel()
        task = asyncio.ensure_future(work)
        self._taking_over[shard] = task

        def done(finished: asyncio.Task[None]) -> None:
            if self._taking_over.get(shard) is finished:
                del self._taking_over[shard]

        task.add_done_callback(done)

    async def _take_over(self, row: ShardRow, *, acquired: bool) -> None:
        number = row.shard
        while self.leases.epochs.get(number) == row.epoch:
            try:
                shard = Shard(row)
                await self.take_over.bring_up(shard, row.published_position)
                for wakeup in await self.store.wakeups(number):
                    self.timers.set(wakeup.task_id, number, wakeup.wake_at_ms)
                break
            except (StoreUnavailable, StreamsUnavailable) as error:
                log.warning("taking over a shard again", shard=number, error=str(error))
                await asyncio.sleep(TAKE_OVER_RETRY_SECONDS)
            except Exception:
                log.exception("a shard cannot be taken over, trying again", shard=number)
                await asyncio.sleep(TAKE_OVER_RETRY_SECONDS * 4)
        else:
            return
        if self.leases.epochs.get(number) != row.epoch:
            return
        self.owner.add_shard(shard)
        if acquired:
            await self._record(
                number, ShardAcquired(shard=number, epoch=row.epoch, owner=self.settings.owner)
            )
        consumer = self._consumers[number] = CommandConsumer(
            self.connection, number, self.owner, self.children, self.withdrawals, self.metrics
        )
        await consumer.start()
        await self.service.open_shard(number)
        log.info("owns a shard", shard=number, epoch=row.epoch, head=shard.committed_position)

    async def _record(self, shard: int, event: Event) -> None:
        """Append an event to the shard's own stream."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.owner.submit(
            Work(
                stream_id=shard_stream_id(shard),
                shard=shard,
                command=Record(event),
                causation_id=event.TYPE,
                actor_name=f"orchestrator:{self.settings.owner}",
                finish=into_future(future),
                seed=SystemState(0),
            )
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_SECONDS_MAX):
                await future

    def _on_lost(self, shard: int) -> None:
        task = self._taking_over.pop(shard, None)
        if task is not None:
            task.cancel()
        self.owner.drop_shard(shard)

    def _on_shard_dropped(self, shard: int) -> None:
        """The owner loop let go of a shard: nothing more is pulled or answered for it."""
        self.leases.forget(shard)
        consumer = self._consumers.pop(shard, None)
        if consumer is not None:
            self._run(consumer.stop())
        self._run(self.service.close_shard(shard))
        self.leases.nudge()

    def _on_shard_in_doubt(self, shard: int) -> None:
        """What we know of a shard is wrong: look who owns it, and start over where that is still us."""
        epoch = self.leases.epochs.get(shard)
        if epoch is None:
            self.owner.drop_shard(shard)
        else:
            self._restart_shard(shard, epoch)

    async def _on_release(self, shard: int) -> None:
        """Hand over in good order: no new commands, everything decided is committed and published."""
        task = self._taking_over.pop(shard, None)
        if task is not None:
            task.cancel()
            return
        consumer = self._consumers.pop(shard, None)
        if consumer is not None:
            await consumer.stop()
        await self.service.close_shard(shard)
        epoch = self.leases.epochs.get(shard)
        if shard in self.owner.shards and epoch is not None:
            await self.owner.drain_shard(shard, HAND_OVER_SECONDS_MAX)
            await self._record(shard, ShardReleased(shard=shard, epoch=epoch, owner=self.settings.owner))
            await self.publisher.flush_shard(shard, HAND_OVER_SECONDS_MAX)

    async def _publish_tail(self, shard: Shard) -> None:
        published = self.publisher.published().get(shard.number, 0)
        self.publisher.open_shard(shard.number, published)
        await self.take_over.publish_tail(shard, published)

    def _may_publish(self, shard: int) -> bool:
        return self.leases.holds(shard)

    def _on_room(self) -> None:
        self.owner.kick()

    def _on_due(self, task_id: str, shard: int) -> None:
        self.owner.submit(
            Work(
                stream_id=task_id,
                shard=shard,
                command=Wake(),
                causation_id="timer",
                actor_name="timer",
                finish=lambda ending: self._on_woken(task_id, ending),
            )
        )

    def _on_woken(self, task_id: str, ending: Any) -> None:
        """A task that has become stale is told of, and its workers, where it was cancelled for that."""
        actor = self.owner.actors.peek(task_id)
        if not isinstance(ending, Done) or not ending.changed or not isinstance(actor, TaskActor):
            return
        letter = None if actor.state.watch is None else newest_stale(actor.state)
        if letter is None:
            return
        self.metrics.tasks_stale += 1
        log.warning(
            "a task is stale",
            task_uuid=task_id,
            namespace=actor.state.the_plan.ref.namespace,
            template=actor.state.the_plan.ref.name,
            reason=letter.error_message,
            status=actor.state.status,
        )
        if actor.state.phase != "steps_in_process":
            self.service.tell_workers(actor)

    # -- NATS ------------------------------------------------------------------------------------

    async def _ensure_feeds(self) -> None:
        attempt = 0
        while True:
            try:
                await self.streams.ensure_feeds()
                return
            except StreamsUnavailable:
                attempt += 1
                if attempt >= 20:
                    raise
                await asyncio.sleep(0.25)

    def _on_reconnect(self) -> None:
        self._run(self._after_reconnect())

    async def _after_reconnect(self) -> None:
        """The server may have lost its storage while it was away: compare stamps, rebuild where needed."""
        self.streams.forget()
        try:
            await self._ensure_feeds()
            # Notices that came while we were away are lost.
            await self.circuits.load()
            rows = {row.shard: row for row in await self.store.shards()}
            for number in list(self.owner.shards):
                stamps = await self.streams.ensure_feeds()
                known = await self.store.feed_incarnations(number)
                await self.streams.ensure_command_consumers(number)
                for stream in known:
                    if stream not in stamps:
                        namespace = subjects.untoken(stream.removeprefix("DISP_"))
                        stamps[stream] = (await self.streams.ensure_namespace(namespace))[1]
                if number not in self.owner.shards:
                    # It is brought up anew already, and compares for itself.
                    continue
                if any(stamps[name] != stamp for name, stamp in known.items()):
                    epoch = self.leases.epochs.get(number)
                    row = rows[number]
                    if epoch is None or row.epoch != epoch:
                        continue
                    self._restart_shard(number, epoch)
        except (StoreUnavailable, StreamsUnavailable) as error:
            log.warning("cannot compare JetStream's streams yet", error=str(error))
            await asyncio.sleep(1.0)
            if not self._stopping and self.connection.connected:
                self._run(self._after_reconnect())

    def _restart_shard(self, shard: int, epoch: int) -> None:
        """Drop a shard and bring it up anew at the same epoch, unless it has another owner by now."""
        certain_until = self.leases.certain_until(shard)
        self.owner.drop_shard(shard)
        self.leases.adopt(shard, epoch, certain_until)
        self._begin_take_over(shard, self._restart(shard, epoch))

    async def _restart(self, shard: int, epoch: int) -> None:
        # What is being appended to the shard is not fenced off, since the epoch stays. It has to be in the ledger
        # or refused before the head is read, or what it orders would not be sent until the shard's next event.
        await self.owner.commit_ended()
        while self.leases.epochs.get(shard) == epoch:
            try:
                # Waits for one that is still at work in the database though its answer was lost here.
                await self.store.renew_shards(self.settings.owner, {shard: epoch}, self.settings.lease_ms, {})
                rows = {row.shard: row for row in await self.store.shards()}
            except StoreUnavailable:
                await asyncio.sleep(TAKE_OVER_RETRY_SECONDS)
            except Exception:
                log.exception("a shard cannot be brought up anew, trying again", shard=shard)
                await asyncio.sleep(TAKE_OVER_RETRY_SECONDS * 4)
            else:
                if rows[shard].epoch == epoch:
                    await self._take_over(rows[shard], acquired=False)
                else:
                    log.warning("lost the lease of a shard", shard=shard)
                    self.leases.forget(shard)
                return

    async def _tell_template_changed(self, stream_id: str) -> None:
        self.connection.send(subjects.TEMPLATE_CHANGED, stream_id.encode())
        # Whoever asks another orchestrator after our answer then comes behind this message.
        await self.connection.flush()

    def _on_template_changed(self, message: Msg) -> None:
        self.templates.forget(message.data.decode(errors="replace"))

    def _on_circuits_changed(self, keys: frozenset[str]) -> None:
        self.owner.open_circuits = keys

    def _on_stream_committed(self, actor: StreamActor) -> None:
        if actor.kind is CIRCUIT:
            self.circuits.changed(actor)

    def _on_stream_taken(self, actor: StreamActor) -> None:
        if actor.kind is CIRCUIT:
            self.circuits.tell(actor)

    # -- tasks of the process --------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        log.error("a part of the orchestrator failed", exc_info=task.exception())
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(task.exception() or RuntimeError("unknown"))
