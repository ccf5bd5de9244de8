"""The time in which this process works for a subscriber: from acquiring its cursor to letting go of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from stepweave.cancellation import end_tasks
from stepweave.messaging import Connection, MessagingError
from stepweave.telemetry import get_logger
from stepweave_schemas.envelope import Envelope, decode_envelope, decode_envelopes
from stepweave_schemas.subjects import parse_event, token

from .cursor import WRITE_PAUSE_SECONDS, Cursor, CursorRecord
from .delivery import Delivery, Stopped
from .feed import OrderedFeed
from .names import Names, TaskNames
from .patterns import Feed, address_of, stream_of
from .progress import InFlight, Progress

log = get_logger("stepweave.subscriber")

#: Messages received and not yet behind us: beyond it nothing more is read.
MESSAGES_IN_FLIGHT_MAX: Final = 5_000
_PULL_MESSAGES: Final = 16
_FEED_RETRY_SECONDS_MAX: Final = 2.0


class _Lane:
    """The events of one task that wait for their turn."""

    __slots__ = ("task_id", "work")

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.work: deque[tuple[Envelope, InFlight, Names | None]] = deque()


class Session:
    """Reads the feed, runs a lane for each task with events, and stores the progress."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        cursor: Cursor,
        record: CursorRecord,
        *,
        feed: Feed,
        filters: Sequence[str],
        delivery: Delivery,
        names: TaskNames,
        concurrency: int,
        events_in_flight_max: int,
        grace_seconds: float,
        stopping: asyncio.Event,
        on_active: Callable[[], None],
    ) -> None:
        self._name = name
        self._cursor = cursor
        self._delivery = delivery
        self._names = names
        self._events_in_flight_max = events_in_flight_max
        self._grace_seconds = grace_seconds
        self._stopping = stopping
        self._on_active = on_active
        self._slots = asyncio.Semaphore(concurrency)
        self._lanes: dict[str, _Lane] = {}
        self._lane_tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.progress = Progress(record, feed)
        self.handled_count = 0
        self._feed = OrderedFeed(
            connection,
            stream_of(feed),
            filters,
            name=f"sub_{token(name)}",
            on_message=self._on_log if feed == "log" else self._on_signal,
            on_new_stream=self.progress.new_stream,
            demand=self._demand,
        )

    async def run(self) -> None:
        """Work until the subscriber stops; raises `LeaseLost` where another process took over."""
        writer = asyncio.ensure_future(self._keep_progress())
        reader = asyncio.ensure_future(self._start_feed())
        stopping = asyncio.ensure_future(self._stopping.wait())
        ends: set[asyncio.Future[Any]] = {writer, stopping, self._failed}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await end_tasks(reader)
            await self._feed.stop()
            if writer.done():
                writer.result()
            if self._failed.done():
                self._failed.result()
            await self._finish_lanes()
        finally:
            await end_tasks(reader, writer, stopping, *self._lane_tasks)
            await self._feed.stop()
            if not self._failed.cancel() and not self._failed.cancelled():
                # Read, so that asyncio does not report it once more.
                self._failed.exception()
        try:
            await self._cursor.release(self.progress.advance())
        except MessagingError as error:
            log.warning("the last progress could not be stored", subscriber=self._name, error=str(error))

    async def _start_feed(self) -> None:
        """Begin reading; waits for a feed that no orchestrator has made yet."""
        record = self.progress.record
        pause = 0.2
        while True:
            try:
                await self._feed.start(
                    created=record.created, after_seq=record.seq, start_time=record.start_time
                )
                break
            except MessagingError as error:
                log.info("waiting for the feed", subscriber=self._name, error=str(error))
                self._on_active()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _FEED_RETRY_SECONDS_MAX)
        self._on_active()

    # -- receiving -------------------------------------------------------------------------------

    def _demand(self) -> int:
        full = (
            self._in_flight >= self._events_in_flight_max
            or len(self.progress) >= MESSAGES_IN_FLIGHT_MAX
            or self._stopping.is_set()
        )
        return 0 if full else _PULL_MESSAGES

    def _on_log(self, message: Msg, seq: int) -> None:
        envelopes: list[Envelope] = []
        try:
            envelopes = decode_envelopes(message.data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.error("a message of the log feed cannot be read", seq=seq, error=str(error))
        self._take(seq, envelopes, None)

    def _on_signal(self, message: Msg, seq: int) -> None:
        envelopes: list[Envelope] = []
        address = parse_event(message.subject)
        names: Names | None = None if address is None else (address.namespace, address.template)
        try:
            envelopes = [decode_envelope(message.data)]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.error("a message of the signal feed cannot be read", seq=seq, error=str(error))
        self._take(seq, envelopes, names)

    def _take(self, seq: int, envelopes: Iterable[Envelope], names: Names | None) -> None:
        message = self.progress.begin(seq)
        for envelope in envelopes:
            self._names.learn(envelope)
            if not self.progress.is_new(message, envelope) or not self._delivery.wanted(address_of(envelope)):
                continue
            message.left += 1
            self._in_flight += 1
            lane = self._lanes.get(envelope.task_id)
            if lane is None:
                lane = self._lanes[envelope.task_id] = _Lane(envelope.task_id)
                task = asyncio.create_task(self._run_lane(lane))
                self._lane_tasks.add(task)
                task.add_done_callback(self._lane_tasks.discard)
            lane.work.append((envelope, message, names))
        self.progress.settle(message)

    # -- handling --------------------------------------------------------------------------------

    async def _run_lane(self, lane: _Lane) -> None:
        """Handle the events of one task, one after the other."""
        try:
            while lane.work and not self._stopping.is_set():
                envelope, message, names = lane.work[0]
                async with self._slots:
                    await self._delivery.deliver(envelope, names)
                lane.work.popleft()
                self._in_flight -= 1
                self.handled_count += 1
                message.left -= 1
                self.progress.settle(message)
                self._feed.nudge()
        except Stopped:
            return
        except Exception as error:
            # Not a handler's but ours: going on would skip events or hang this task for ever.
            if not self._failed.done():
                self._failed.set_exception(error)
        finally:
            if not lane.work:
                del self._lanes[lane.task_id]

    async def _finish_lanes(self) -> None:
        """Give the handlers that run now their grace."""
        if self._lane_tasks:
            _, pending = await asyncio.wait(set(self._lane_tasks), timeout=self._grace_seconds)
            if pending:
                log.warning("handlers did not end in time; their events come again", tasks=len(pending))

    # -- progress --------------------------------------------------------------------------------

    async def _keep_progress(self) -> None:
        """Store the progress soon after it was made, and renew the lease in time."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, self._cursor.renew_due_in_seconds)):
                    await self.progress.changed.wait()
            self.progress.changed.clear()
            try:
                await self._cursor.write(self.progress.advance())
            except MessagingError as error:
                log.info("the progress could not be stored yet", subscriber=self._name, error=str(error))
                self.progress.changed.set()
                await asyncio.sleep(0.2)
            await asyncio.sleep(WRITE_PAUSE_SECONDS)
