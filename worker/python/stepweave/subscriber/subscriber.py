"""The subscriber: durable by name, ordered per task, retrying, parking what cannot be handled."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

from stepweave.cancellation import end_tasks
from stepweave.client import Client
from stepweave.errors import ConfigurationError
from stepweave.messaging import Connection
from stepweave.telemetry import get_logger
from stepweave_schemas.subjects import token

from .base import BaseSubscriber
from .cursor import Cursor, CursorRecord, LeaseLost
from .delivery import Delivery, EventHandler, HandlerCaller, describe
from .events import Event
from .feed import StreamMissing, stream_info
from .names import TaskNames
from .parked import ParkedEvent, ParkedEvents
from .patterns import Feed, Pattern, choose_feed, filter_subjects, stream_of
from .progress import rfc3339
from .session import Session

log = get_logger("stepweave.subscriber")

F = TypeVar("F", bound=Callable[..., Any])
#: Where a new subscriber begins: with what comes, with what the feed still has, after a position of each shard
#: (others from the start), or at a time.
Start = Literal["new", "all"] | Mapping[int, int] | datetime

RETRY_SECONDS_MIN: Final = 0.5
RETRY_SECONDS_MAX: Final = 30.0
#: Beyond the grace: how long storing the progress and closing may take.
STOP_SECONDS_MAX: Final = 15.0
_PARKED_MAX: Final = 10_000


class Subscriber:
    """Calls handlers with events.

        subscriber = Subscriber("order-tracking")

        @subscriber.on("task.completed", "step.failed", namespace="payments")
        async def track(event):
            ...

        asyncio.run(subscriber.run())

    Its progress is kept under its name, so a restart goes on where it stopped; a crash repeats at most the
    events that were under way. One process works for a name at a time, others stand by. The events of a task
    are handled in order, those of different tasks at the same time (at most `concurrency`). A handler that
    raises is called again after a while, up to `max_attempts` times (a `PermanentError` ends that at once);
    then the event is parked and the next one comes. Handlers should tolerate an event that comes twice.

    It reads the signal feed where that carries every wanted type, else the log feed, which has everything;
    `feed` decides otherwise – `log` where a namespace publishes no signals.
    """

    def __init__(
        self,
        name: str,
        *,
        nats_url: str | Sequence[str] | None = None,
        namespace: str | None = None,
        start: Start = "new",
        concurrency: int = 32,
        threads_max: int = 8,
        max_attempts: int = 5,
        retry_seconds_min: float = RETRY_SECONDS_MIN,
        retry_seconds_max: float = RETRY_SECONDS_MAX,
        handler_timeout_seconds: float = 300.0,
        events_in_flight_max: int = 1_000,
        lease_seconds: float = 10.0,
        grace_seconds: float = 10.0,
        feed: Literal["auto", "signal", "log"] = "auto",
        connect_timeout_seconds: float = 10.0,
        connection_options: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError("a subscriber needs a name: its progress is kept under it")
        self.name = name
        self.namespace = namespace
        self._url = nats_url
        self._start = start
        self._concurrency = concurrency
        self._threads_max = threads_max
        self._max_attempts = max_attempts
        self._retry_seconds_min = retry_seconds_min
        self._retry_seconds_max = retry_seconds_max
        self._handler_timeout_seconds = handler_timeout_seconds
        self._events_in_flight_max = events_in_flight_max
        self._lease_seconds = lease_seconds
        self._grace_seconds = grace_seconds
        self._feed_choice = feed
        self._connect_timeout_seconds = connect_timeout_seconds
        self._connection_options = connection_options
        self._handlers: list[EventHandler] = []
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._settled = asyncio.Event()
        self._stopping = asyncio.Event()
        token(name)

    # -- what it wants ---------------------------------------------------------------------------

    def on(self, *patterns: str, namespace: str | None = None) -> Callable[[F], F]:
        """Call a function, plain or async, with every event that one of the patterns matches.

        `namespace` narrows it to tasks of one namespace (default: the subscriber's). Raises
        `ConfigurationError` for a pattern that matches no event type.
        """
        if not patterns:
            raise ConfigurationError("on() needs event types or patterns, such as 'step.failed' or 'task.*'")
        compiled = tuple(Pattern(text) for text in patterns)

        def register(function: F) -> F:
            self._add(getattr(function, "__name__", "handler"), function, compiled, namespace)
            return function

        return register

    def add(self, subscriber: BaseSubscriber) -> None:
        """Take the handlers of a subscriber class."""
        for pattern, method in subscriber.handlers():
            name = f"{type(subscriber).__name__}.{method.__name__}:{pattern.text}"
            self._add(name, method, (pattern,), subscriber.namespace)

    def _add(
        self, name: str, function: Callable[..., Any], patterns: tuple[Pattern, ...], namespace: str | None
    ) -> None:
        if self._task is not None:
            raise RuntimeError("handlers are added before the subscriber starts")
        taken = {handler.name for handler in self._handlers}
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        self._handlers.append(EventHandler(unique, function, patterns, namespace or self.namespace))

    # -- life ------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether this process works for the subscriber now; False while another one does."""
        return self._session is not None

    @property
    def handled_count(self) -> int:
        """How many events were handled since this process became active."""
        return 0 if self._session is None else self._session.handled_count

    async def run(self) -> None:
        """Work until SIGTERM, SIGINT, `stop` or cancellation."""
        loop = asyncio.get_running_loop()
        handled: list[signal.Signals] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not in a thread, nor where the platform has no such signals.
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, self._stopping.set)
                handled.append(number)
        try:
            await self.start()
            if self._task is not None:
                await asyncio.wait({self._task})
        finally:
            await self.stop()
            for number in handled:
                loop.remove_signal_handler(number)

    async def __aenter__(self) -> Subscriber:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect and begin; returns when it reads events, or stands by for another process.

        Raises `ConnectFailed`, or `ConfigurationError` without any handler.
        """
        if self._task is not None:
            raise RuntimeError("this subscriber was started already")
        if not self._handlers:
            raise ConfigurationError(f"subscriber {self.name!r} has no handlers: use on() or add()")
        self._settled.clear()
        self._connection = await self._open()
        self._task = asyncio.create_task(
            self._live(self._connection), name=f"stepweave-subscriber-{self.name}"
        )
        settled = asyncio.ensure_future(self._settled.wait())
        try:
            await asyncio.wait({self._task, settled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            settled.cancel()
        if self._task.done():
            await self.stop()

    async def stop(self) -> None:
        """Finish the events under way (for at most the grace), remember the progress, disconnect.

        Raises what ended the subscriber, if it was not this.
        """
        self._stopping.set()
        task, self._task = self._task, None
        connection, self._connection = self._connection, None
        try:
            if task is not None:
                # The life itself ends in time; this bound is for a NATS that hangs.
                _, pending = await asyncio.wait({task}, timeout=self._grace_seconds + STOP_SECONDS_MAX)
                if pending:
                    log.warning("the subscriber did not stop in time", subscriber=self.name)
                    await end_tasks(task)
                else:
                    task.result()
        finally:
            self._stopping.clear()
            if connection is not None:
                await connection.close()

    async def _open(self) -> Connection:
        return await Connection.open(
            self._url,
            name=f"subscriber-{self.name}",
            connect_timeout_seconds=self._connect_timeout_seconds,
            options=self._connection_options,
        )

    async def _live(self, connection: Connection) -> None:
        """Acquire, work, and again where the lease was lost."""
        feed: Feed
        if self._feed_choice == "auto":
            feed = choose_feed(pattern for handler in self._handlers for pattern in handler.patterns)
        else:
            feed = self._feed_choice
        cursor = Cursor(connection, self.name, self._lease_seconds)
        caller = HandlerCaller(self._threads_max, self._handler_timeout_seconds)
        try:
            while True:
                record = await self._acquire(connection, cursor, feed)
                if record is None:
                    return
                try:
                    await self._work(connection, cursor, record, feed, caller)
                    return
                except LeaseLost as error:
                    log.warning(str(error))
                finally:
                    self._session = None
        finally:
            caller.close()

    async def _acquire(self, connection: Connection, cursor: Cursor, feed: Feed) -> CursorRecord | None:
        """The cursor's record once this process owns it; None where the subscriber stops before."""
        acquiring = asyncio.ensure_future(
            cursor.acquire(lambda: self._first_record(connection, feed), self._on_standby)
        )
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({acquiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return acquiring.result() if acquiring.done() else None
        finally:
            await end_tasks(acquiring, stopping)

    def _on_standby(self) -> None:
        if not self._settled.is_set():
            log.info("standing by", subscriber=self.name)
            self._settled.set()

    async def _work(
        self, connection: Connection, cursor: Cursor, record: CursorRecord, feed: Feed, caller: HandlerCaller
    ) -> None:
        names = TaskNames(Client(connection=connection))
        delivery = Delivery(
            self.name,
            self._handlers,
            caller=caller,
            names=names,
            parked=ParkedEvents(connection, self.name),
            max_attempts=self._max_attempts,
            retry_seconds_min=self._retry_seconds_min,
            retry_seconds_max=self._retry_seconds_max,
            stopping=self._stopping,
        )
        wanted = [(pattern, handler.namespace) for handler in self._handlers for pattern in handler.patterns]
        self._session = Session(
            self.name,
            connection,
            cursor,
            record,
            feed=feed,
            filters=filter_subjects(feed, wanted),
            delivery=delivery,
            names=names,
            concurrency=self._concurrency,
            events_in_flight_max=self._events_in_flight_max,
            grace_seconds=self._grace_seconds,
            stopping=self._stopping,
            on_active=self._settled.set,
        )
        log.info("subscriber started", subscriber=self.name, feed=feed, handlers=len(self._handlers))
        await self._session.run()
        log.info("subscriber stopped", subscriber=self.name)

    async def _first_record(self, connection: Connection, feed: Feed) -> CursorRecord:
        """The progress of a subscriber that has made none: where `start` says."""
        start = self._start
        if isinstance(start, datetime) and start.tzinfo is None:
            raise ConfigurationError(f"start={start!r} needs a time zone")
        try:
            info = await stream_info(connection, stream_of(feed))
        except StreamMissing:
            # Nothing has happened here yet, so whatever comes is new.
            return CursorRecord(feed=feed, created="")
        record = CursorRecord(feed=feed, created=info.created, seq=max(0, info.first_seq - 1))
        if start == "new":
            record.seq = info.last_seq
        elif isinstance(start, datetime):
            record.start_time = rfc3339(start)
        elif isinstance(start, Mapping):
            record.positions = {str(shard): position for shard, position in start.items()}
        elif start != "all":
            raise ConfigurationError(
                f"start is 'new', 'all', a datetime or positions by shard, not {start!r}"
            )
        return record

    # -- for operators ---------------------------------------------------------------------------

    async def list_parked(self, limit: int = 100) -> list[ParkedEvent]:
        """The parked events of this name, at most `limit`."""
        async with self._parked() as parked:
            return await parked.list(limit)

    async def retry_parked(self, *ids: str) -> dict[str, str | None]:
        """Call the handlers once more with parked events (all, or those named), in this process.

        What succeeds is no longer parked. Gives for each id None, or the error that it met.
        """
        outcome: dict[str, str | None] = dict.fromkeys(ids, "no such parked event")
        caller = HandlerCaller(self._threads_max, self._handler_timeout_seconds)
        try:
            async with self._parked() as parked:
                chosen = [await parked.get(one) for one in ids] if ids else await parked.list(_PARKED_MAX)
                for event in chosen:
                    if event is not None:
                        outcome[event.id] = await self._retry_one(caller, event)
                        if outcome[event.id] is None:
                            await parked.discard(event.id)
        finally:
            caller.close()
        return outcome

    async def _retry_one(self, caller: HandlerCaller, event: ParkedEvent) -> str | None:
        handler = next((one for one in self._handlers if one.name == event.handler), None)
        if handler is None:
            return f"this subscriber has no handler {event.handler!r}"
        error = await caller.call(
            handler, Event(event.envelope, namespace=event.namespace, task_name=event.task_name)
        )
        return None if error is None else describe(error)

    async def discard_parked(self, *ids: str) -> int:
        """Forget parked events (all, or those named); gives their number."""
        async with self._parked() as parked:
            chosen = list(ids) or [event.id for event in await parked.list(_PARKED_MAX)]
            for one in chosen:
                await parked.discard(one)
            return len(chosen)

    async def rewind(self) -> None:
        """Forget the progress: the next start begins where `start` says. Not while it runs anywhere."""
        if self._task is not None:
            raise RuntimeError("stop the subscriber before you rewind it")
        connection = await self._open()
        async with connection:
            await Cursor(connection, self.name, self._lease_seconds).forget()

    @asynccontextmanager
    async def _parked(self) -> AsyncIterator[ParkedEvents]:
        if self._connection is not None:
            yield ParkedEvents(self._connection, self.name)
            return
        async with await self._open() as connection:
            yield ParkedEvents(connection, self.name)
