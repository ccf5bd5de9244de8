"""The worker: takes dispatches, runs handlers, publishes what came of them, acknowledges."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from stepweave.cancellation import end_tasks
from stepweave.context import StepContext
from stepweave.errors import ConfigurationError
from stepweave.messaging import ACK, IN_PROGRESS, Connection, JetStreamPublisher, MessagingError, PullLoop
from stepweave.registry import Registry
from stepweave.results import StepHandlerResult
from stepweave.telemetry import get_logger
from stepweave.tracing import HandlerSpans
from stepweave_schemas.aging import rank_ms
from stepweave_schemas.dispatch import Dispatch
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.mint import now_ms
from stepweave_schemas.result import HANDLER_MISSING, Lost, Released, Started
from stepweave_schemas.subjects import (
    PRIORITY_CLASSES,
    TEMPLATE_CHANGED,
    PriorityClass,
    cancel_notice,
    dispatch_consumer,
    dispatch_stream,
)

from .execution import outcome_of
from .held import HeldTry, StopReason
from .intake import HANDLER_NOT_FOUND, Malformed, find_handler, read_dispatch
from .pool import CLEANUP_SECONDS, TryPool
from .presence import Presence
from .result_publisher import ResultPublisher
from .shared_results import SharedResults
from .turns import Lane, Turns

log = get_logger("stepweave.worker")

#: Most messages asked for in one pull.
PULL_BATCH_MAX: Final = 200
#: A try that found no slot for so long is handed back for another worker, to the end of its queue: at once where no
#: slot was freed meanwhile; where others went first, they would have elsewhere, too.
QUEUE_SECONDS_MAX: Final = 5.0
PASSED_BY_SECONDS_MAX: Final = 60.0
#: Leases and waiting tries are looked at so often, while there are any.
SWEEP_SECONDS_MAX: Final = 1.0
_FLUSH_RESULTS_SECONDS: Final = 10.0


class _CancelNotice(msgspec.Struct):
    task_id: str
    step_uuids: list[str] | None = None


_decode_notice = msgspec.json.Decoder(_CancelNotice).decode


class Worker:
    """Runs the steps of some namespaces and queues with the handlers of a registry.

        asyncio.run(Worker(namespaces=["ecommerce"]).run())

    Without a registry it serves every handler that `@step_handler` was put on in this process. At most
    `concurrency` handlers run at once; plain functions run in at most `threads_max` threads. `run` ends after
    SIGTERM or SIGINT: it stops taking steps, hands back those that have not started, waits `grace_seconds` for
    the others and cancels what is left (they are tried again); a second signal ends it at once.

    While it holds a step it renews the lease every `heartbeat_seconds`. If it dies, JetStream delivers the step
    to another worker after the lease, which reports the lost try instead of running it.
    """

    def __init__(
        self,
        nats_url: str | Sequence[str] | None = None,
        *,
        namespaces: Iterable[str] = ("default",),
        queues: Iterable[str] = ("default",),
        handlers: Registry | Iterable[Any] | None = None,
        concurrency: int = 100,
        threads_max: int = 16,
        grace_seconds: float = 30.0,
        announce_after_ms: int = 250,
        heartbeat_seconds: float = 10.0,
        worker_id: str | None = None,
        connect_timeout_seconds: float = 10.0,
        connection_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.namespaces = _names(namespaces, "namespaces")
        self.queues = _names(queues, "queues")
        self.worker_id = worker_id or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.concurrency = concurrency
        self.threads_max = threads_max
        self.grace_seconds = grace_seconds
        self._url = nats_url
        self._handlers = handlers
        self._announce_after_seconds = announce_after_ms / 1000
        self._heartbeat_seconds = heartbeat_seconds
        self._sweep_seconds = min(SWEEP_SECONDS_MAX, heartbeat_seconds / 2)
        self._connect_timeout_seconds = connect_timeout_seconds
        self._connection_options = connection_options
        self._registry = Registry()
        self._held: dict[str, HeldTry] = {}
        self._fetches: dict[HeldTry, asyncio.Task[None]] = {}
        self._pulls: list[PullLoop] = []
        self._lanes: list[Lane] = []
        self._turns: Turns
        #: Asks for what fills the slots that are free, one lane after the other.
        self._filling: asyncio.Task[None] | None = None
        #: Whether something may have changed since it began.
        self._fill_again = False
        #: Whether all lanes may be asked at once: nothing waited in any when it was looked at last.
        self._standing = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._started_at = ""
        self._started = False
        self._running = False
        self._stopping = False
        #: Tries that have not started when the worker stops: they are handed back.
        self._unwanted: list[HeldTry] = []
        self._stop_wanted: asyncio.Event | None = None
        self._hurry: asyncio.Event | None = None
        self._connection: Connection
        self._publisher: JetStreamPublisher
        self._results: ResultPublisher
        self._shared_results: SharedResults
        self._pool: TryPool
        self._presence: Presence
        self.lost_count = 0
        self.released_count = 0

    # -- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until SIGTERM, SIGINT, `request_stop` or cancellation; then drain."""
        self._stop_wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        loop = asyncio.get_running_loop()
        handled: list[signal.Signals] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not in a thread, nor where the platform has no such signals.
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, self._on_signal, number)
                handled.append(number)
        try:
            await self.start()
            await self._stop_wanted.wait()
            await self._drain_or_hurry()
        finally:
            await self.stop(grace_seconds=0)
            for number in handled:
                loop.remove_signal_handler(number)

    async def _drain_or_hurry(self) -> None:
        """Drain, unless a second signal says to leave."""
        assert self._hurry is not None, "run makes the event"
        draining = asyncio.create_task(self.stop())
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(draining, hurry)
        if not draining.cancelled():
            draining.result()

    def request_stop(self) -> None:
        """Let `run` drain and end."""
        if self._stop_wanted is not None:
            self._stop_wanted.set()

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop_wanted is None or not self._stop_wanted.is_set():
            log.info("draining, a second signal ends it at once", signal=number.name)
            self.request_stop()
        elif self._hurry is not None:
            log.warning("ending at once", signal=number.name)
            self._hurry.set()

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect and take steps. Raises `ConnectFailed`, or `ConfigurationError` without any handler."""
        if self._started:
            raise RuntimeError("a worker is started once; make another one")
        self._started = True
        handlers = self._handlers
        if handlers is None:
            self._registry = Registry.of_decorated()
        else:
            self._registry = handlers if isinstance(handlers, Registry) else Registry(handlers)
        if self._registry.empty:
            raise ConfigurationError(
                "the worker has no handlers: import the modules that define them, or pass a registry"
            )
        self._pool = TryPool(
            concurrency=self.concurrency,
            threads_max=self.threads_max,
            only_threads=self._registry.only_threads,
            announce_after_seconds=self._announce_after_seconds,
            spans=HandlerSpans(),
            on_result=self._on_result,
            on_dropped=self._acknowledge,
            on_started=self._on_started,
            on_room=self._nudge,
        )
        self._connection = await Connection.open(
            self._url,
            name=self.worker_id,
            connect_timeout_seconds=self._connect_timeout_seconds,
            options=self._connection_options,
        )
        try:
            await self._start_messaging()
        except BaseException:
            await self._close()
            raise
        self._running = True
        self._started_at = timestamp(now_ms())
        log.info(
            "worker started",
            worker_id=self.worker_id,
            namespaces=self.namespaces,
            queues=self.queues,
            handlers=len(self._registry),
            concurrency=self._pool.capacity,
        )

    async def _start_messaging(self) -> None:
        connection = self._connection
        self._publisher = JetStreamPublisher(connection)
        await self._publisher.start()
        self._results = ResultPublisher(self._publisher)
        self._shared_results = SharedResults(self._connection)
        self._presence = Presence(connection, self.worker_id, self._state)
        self._presence.start()
        connection.add_reconnect_listener(self._beat_all)
        # A hint: a template was registered, so streams that were missing may be there in a moment.
        await connection.subscribe(TEMPLATE_CHANGED, self._on_template_changed)
        lanes: list[Lane] = []
        self._turns = Turns(lanes, self._room, self._pool.running_of, now_ms)
        batch = max(1, min(self._pool.capacity, PULL_BATCH_MAX))
        for namespace in self.namespaces:
            await connection.subscribe(cancel_notice(namespace), self._on_cancel_notice)
            for queue in self.queues:
                for priority in PRIORITY_CLASSES:
                    pull = PullLoop(
                        connection,
                        dispatch_stream(namespace),
                        dispatch_consumer(queue, priority),
                        batch=batch,
                        on_messages=partial(self._on_messages, len(lanes)),
                        demand=partial(self._demand, namespace, priority),
                    )
                    self._pulls.append(pull)
                    lanes.append(Lane(namespace, priority, pull))
        self._lanes = lanes
        for pull in self._pulls:
            await pull.start()
        self._fill()

    async def stop(self, grace_seconds: float | None = None) -> None:
        """Drain and disconnect; safe to call more than once."""
        if not self._running or self._stopping:
            return
        self._stopping = True
        try:
            self._unwanted += [*self._pool.take_waiting(), *self._fetches]
            for fetch in self._fetches.values():
                fetch.cancel()
            if self._filling is not None:
                await end_tasks(self._filling)
            await asyncio.gather(*(pull.stop() for pull in self._pulls))
            # Not while a pull stands: what is handed back would come straight back through it.
            self._release(self._unwanted)
            grace = self.grace_seconds if grace_seconds is None else grace_seconds
            if not await self._pool.wait_idle(grace):
                log.warning("handlers did not end in time, cancelling them", running=self._pool.running_count)
                self._pool.stop_running(StopReason.SHUTDOWN)
                await self._pool.wait_idle(CLEANUP_SECONDS + 0.5)
            if not await self._results.drain(_FLUSH_RESULTS_SECONDS):
                log.warning("some results could not be published; their steps will be delivered again")
            await self._presence.stop()
        finally:
            await self._close()
        log.info("worker stopped", worker_id=self.worker_id)

    async def _close(self) -> None:
        """Let go of everything at once."""
        self._stopping = True
        self._pool.stop_running(StopReason.SHUTDOWN)
        self._pool.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._filling is not None:
            await end_tasks(self._filling)
        await end_tasks(*self._fetches.values())
        if hasattr(self, "_shared_results"):
            await self._shared_results.close()
        if hasattr(self, "_results"):
            await self._results.close()
        if hasattr(self, "_publisher"):
            await self._publisher.close()
        await self._connection.close()

    def _state(self) -> dict[str, Any]:
        """What others see of this worker."""
        return {
            "worker_id": self.worker_id,
            "namespaces": self.namespaces,
            "queues": self.queues,
            "handlers": self._registry.names,
            "resolves": not self._registry.only_registered,
            "concurrency": self._pool.capacity,
            "running": self._pool.running_count,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "sdk": f"python/{_sdk_version()}",
            "started_at": self._started_at or timestamp(now_ms()),
        }

    # -- taking steps ----------------------------------------------------------------------------

    def _demand(self, namespace: str, priority: PriorityClass) -> int:
        if self._stopping:
            return 0
        free = self._room()
        if free > 0:
            if self._pool.is_quick:
                return free
            # What comes at once from several lanes is to find a slot, or it has to go back.
            return max(1, free // len(self._lanes)) if self._standing else 0
        return int(not self._fetches and self._pool.wants_ready(namespace, priority))

    def _room(self) -> int:
        """How many more tries could start at once."""
        return self._pool.demand - len(self._fetches)

    def _nudge(self) -> None:
        """A slot was freed, or is about to be."""
        if self._pool.is_quick:
            for pull in self._pulls:
                pull.nudge()
        elif self._room() > 0 and not self._stopping:
            self._fill()

    def _fill(self) -> None:
        self._standing = False
        self._fill_again = True
        if self._filling is None:
            self._filling = asyncio.create_task(self._fill_in_turns())

    async def _fill_in_turns(self) -> None:
        try:
            while self._fill_again and not self._stopping:
                self._fill_again = False
                await self._turns.fill()
        except Exception:
            log.exception("asking one lane after the other failed, asking all of them")
        finally:
            self._filling = None
        # Nothing is there now, or no slot is free: what comes for a free one is taken from wherever it comes.
        self._standing = True
        for pull in self._pulls:
            pull.nudge()

    def _on_template_changed(self, _message: Msg) -> None:
        for pull in self._pulls:
            pull.hurry()

    def _on_messages(self, lane: int, messages: list[Msg]) -> None:
        ready: list[HeldTry] = []
        for message in messages:
            held = self._take(message)
            if held is None:
                continue
            if self._stopping:
                self._unwanted.append(held)
            elif held.dispatch.dependency_results_complete or not _lacks_results(held):
                ready.append(held)
            else:
                self._fetches[held] = asyncio.create_task(self._fetch(held))
        if ready:
            last = ready[-1].dispatch
            self._lanes[lane].rank = rank_ms(last.waiting_since_ms or last.enqueued_at_ms, last.priority)
            self._pool.add(ready)
        if self._held and self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._sweep_seconds, self._sweep)

    def _take(self, message: Msg) -> HeldTry | None:
        """Hold the try of a delivery, or answer for it here."""
        try:
            dispatch, deliveries = read_dispatch(message)
        except Malformed as error:
            log.error(
                "a message on the dispatch stream is no dispatch", subject=message.subject, error=str(error)
            )
            self._connection.send(message.reply, b"+TERM", keep=True)
            return None
        known = self._held.get(dispatch.lease_token)
        if known is not None:
            # Our heartbeats did not get through for a while, but the try is still in our hands.
            known.reply = message.reply
            return None
        if deliveries > 1:
            self.lost_count += 1
            self._results.add(
                dispatch.result_subject,
                Lost(**self._try_fields(dispatch), deliveries=deliveries),
                partial(self._send_ack, message.reply),
            )
            return None
        invocation = find_handler(self._registry, dispatch, self.worker_id)
        if isinstance(invocation, StepHandlerResult):
            log.warning(
                "a step's handler is not here", handler=dispatch.handler, error=invocation.error_message
            )
            if invocation.error_code == HANDLER_NOT_FOUND:
                # Another worker may have it: the try goes back, and costs nothing.
                self.released_count += 1
                self._results.add(
                    dispatch.result_subject,
                    Released(**self._try_fields(dispatch), reason=HANDLER_MISSING),
                    partial(self._send_ack, message.reply),
                )
                return None
            self._results.add(
                dispatch.result_subject,
                outcome_of(dispatch, invocation, worker_id=self.worker_id),
                partial(self._send_ack, message.reply),
            )
            return None
        context = StepContext(dispatch, worker_id=self.worker_id)
        loop = asyncio.get_running_loop()
        held = HeldTry(dispatch, message.reply, invocation, context, loop.time())
        context.on_heartbeat = partial(loop.call_soon_threadsafe, self._beat, held)
        self._held[dispatch.lease_token] = held
        return held

    async def _fetch(self, held: HeldTry) -> None:
        """Get the dependency results that did not fit into the dispatch, then let it run."""
        try:
            results = await self._shared_results.fetch(held.dispatch)
        except MessagingError as error:
            if not held.reported:
                held.reported = True
                self._on_result(
                    held,
                    StepHandlerResult.failure(str(error), retryable=True, error_code="RESULTS_UNAVAILABLE"),
                )
        else:
            if not held.reported:
                held.context.use_dependency_results(results)
                self._fetches.pop(held, None)
                self._pool.add([held])
        finally:
            self._fetches.pop(held, None)
            self._nudge()

    # -- what came of them -----------------------------------------------------------------------

    def _on_result(self, held: HeldTry, result: StepHandlerResult) -> None:
        started_at = held.started_at
        duration_ms = None
        if started_at is not None:
            duration_ms = round((asyncio.get_running_loop().time() - started_at) * 1000)
        outcome = outcome_of(
            held.dispatch,
            result,
            worker_id=self.worker_id,
            started_at_ms=held.started_at_ms,
            duration_ms=duration_ms,
            domain_events=held.context.domain_events(),
        )
        self._results.add(held.dispatch.result_subject, outcome, partial(self._finish, held))

    def _on_started(self, held: HeldTry) -> None:
        self._results.add(
            held.dispatch.result_subject,
            Started(**self._try_fields(held.dispatch), started_at_ms=held.started_at_ms or now_ms()),
            None,
        )

    def _release(self, tries: list[HeldTry]) -> None:
        """Hand tries back that have not started."""
        for held in tries:
            held.reported = True
            fetch = self._fetches.pop(held, None)
            if fetch is not None:
                fetch.cancel()
            self.released_count += 1
            self._results.add(
                held.dispatch.result_subject,
                Released(**self._try_fields(held.dispatch)),
                partial(self._finish, held),
            )

    def _try_fields(self, dispatch: Dispatch) -> dict[str, Any]:
        return {
            "task_id": dispatch.task_id,
            "step_uuid": dispatch.step_uuid,
            "step_name": dispatch.step_name,
            "attempt": dispatch.attempt,
            "lease_token": dispatch.lease_token,
            "worker_id": self.worker_id,
        }

    def _finish(self, held: HeldTry, published: bool) -> None:
        if published:
            self._acknowledge(held)
        else:
            self._held.pop(held.dispatch.lease_token, None)

    def _acknowledge(self, held: HeldTry) -> None:
        self._held.pop(held.dispatch.lease_token, None)
        self._send_ack(held.reply, True)

    def _send_ack(self, reply: str, published: bool) -> None:
        if published:
            self._connection.send(reply, ACK, keep=True)

    # -- leases ----------------------------------------------------------------------------------

    def _beat(self, held: HeldTry) -> None:
        if held.dispatch.lease_token in self._held:
            self._connection.send(held.reply, IN_PROGRESS)

    def _beat_all(self) -> None:
        """The link was lost for a while: renew every lease at once, some may be about to end."""
        now = asyncio.get_running_loop().time()
        for held in self._held.values():
            held.beat_at = now
            self._connection.send(held.reply, IN_PROGRESS)

    def _sweep(self) -> None:
        """Now and then while tries are held: renew leases, hand back what waited too long."""
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self._sweep_seconds, self._sweep) if self._held else None
        now = loop.time()
        due: list[HeldTry] = []
        for held in self._held.values():
            # In the order of their last heartbeat: the first one that is not due ends it.
            if now - held.beat_at < self._heartbeat_seconds:
                break
            due.append(held)
        for held in due:
            held.beat_at = now
            self._connection.send(held.reply, IN_PROGRESS)
            self._held[held.dispatch.lease_token] = self._held.pop(held.dispatch.lease_token)
        if self._pool.waiting_count:
            stuck = self._pool.is_stuck(QUEUE_SECONDS_MAX)
            patience = QUEUE_SECONDS_MAX if stuck else PASSED_BY_SECONDS_MAX
            self._release(self._pool.take_waiting(older_than=now - patience))

    # -- cancellation ----------------------------------------------------------------------------

    def _on_cancel_notice(self, message: Msg) -> None:
        try:
            notice = _decode_notice(message.data)
        except msgspec.MsgspecError as error:
            log.error("a cancel notice cannot be read", subject=message.subject, error=str(error))
            return
        steps = None if notice.step_uuids is None else set(notice.step_uuids)

        def wanted(held: HeldTry) -> bool:
            return held.dispatch.task_id == notice.task_id and (
                steps is None or held.dispatch.step_uuid in steps
            )

        count = self._pool.cancel(wanted)
        for held in [one for one in self._fetches if wanted(one)]:
            held.reported = True
            held.context.cancel()
            self._fetches.pop(held).cancel()
            self._acknowledge(held)
            count += 1
        if count:
            log.info("steps were cancelled", task_uuid=notice.task_id, steps=count)


def _names(names: Iterable[str], what: str) -> list[str]:
    listed = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    if not listed or not all(isinstance(name, str) and name for name in listed):
        raise ConfigurationError(f"{what} is a list of names, not {names!r}")
    return listed


def _sdk_version() -> str:
    try:
        return version("stepweave")
    except PackageNotFoundError:
        return "unknown"


def _lacks_results(held: HeldTry) -> bool:
    """Whether the handler may read a result that did not fit into the dispatch."""
    reads = held.invocation.reads
    return reads is None or not reads <= held.dispatch.dependency_results.keys()
