"""From the ledger to NATS: both feeds in order, and the dispatches.

For each shard one *flight* is under way at a time: everything that was committed since the last one, packed for
the log feed, one by one for the signal feed. The next flight starts when JetStream has acknowledged all of it, so
the log feed holds a shard's events in the order of their positions, whatever is lost or repeated on the way; under
load a flight grows by itself. Dispatches do not wait for their turn (a work queue has no order).

`published` of a shard moves when a flight is complete. It is written lazily, with the next append or lease renewal;
after a crash the events after it are published again, with the same ids.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog

from stepweave.messaging import Connection, JetStreamPublisher, MessagingError, PayloadTooLarge
from stepweave.messaging import Outgoing as Message
from stepweave_schemas import subjects

from .batch import Outgoing
from .crash_points import crash_point
from .local_orders import LocalOrders
from .metrics import Metrics
from .orders import Order
from .settings import Settings
from .streams import Streams

log = structlog.get_logger(__name__)

RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0)
#: Events in one flight; the rest waits for the next one.
FLIGHT_EVENTS_MAX = 4_000
_OPEN, _CLOSE = b"[", b"]"


class _Lane:
    """What one shard has to publish."""

    __slots__ = ("backlog", "dispatching", "published", "sending", "task", "waiting")

    def __init__(self, published: int) -> None:
        self.waiting: deque[Outgoing] = deque()
        #: Dispatches without an acknowledgement: each becomes done when all that were ordered together are out.
        self.dispatching: set[asyncio.Future[None]] = set()
        #: What works on them.
        self.sending: set[asyncio.Future[Any]] = set()
        self.published = published
        #: Events taken and not acknowledged.
        self.backlog = 0
        self.task: asyncio.Task[None] | None = None


class Publisher:
    """Publishes what is committed. `may_publish(shard)` says whether the lease still holds."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        messages: JetStreamPublisher,
        streams: Streams,
        metrics: Metrics,
        may_publish: Callable[[int], bool],
        on_room: Callable[[], None],
        on_fault: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._messages = messages
        self._streams = streams
        self._metrics = metrics
        self._may_publish = may_publish
        self._on_room = on_room
        self._on_fault = on_fault
        self._lanes: dict[int, _Lane] = {}
        #: What carries out orders here instead of sending them; set by the orchestrator.
        self.local: LocalOrders | None = None
        self._moved = asyncio.Event()
        self.backlog_events = 0

    def open_shard(self, shard: int, published: int) -> None:
        """Begin to publish a shard, whose events up to position `published` are out."""
        self.drop_shard(shard)
        self._lanes[shard] = _Lane(published)

    def drop_shard(self, shard: int) -> None:
        """Publish nothing of the shard any more."""
        lane = self._lanes.pop(shard, None)
        if lane is not None:
            self.backlog_events -= lane.backlog
            lane.backlog = 0
            self._moved.set()
            lane.waiting.clear()
            if lane.task is not None:
                lane.task.cancel()
            for future in (*lane.sending, *lane.dispatching):
                future.cancel()

    def published(self) -> dict[int, int]:
        """Up to where each shard is known to be published."""
        return {number: lane.published for number, lane in self._lanes.items()}

    def publish(self, shard: int, outgoing: Sequence[Outgoing]) -> None:
        """Take committed events, in order of position."""
        lane = self._lanes.get(shard)
        if lane is None or not outgoing:
            return
        orders = [event.order for event in outgoing if event.order is not None]
        if orders:
            self._dispatch(shard, lane, orders)
        crash_point("half_published")
        lane.waiting.extend(outgoing)
        lane.backlog += len(outgoing)
        self.backlog_events += len(outgoing)
        if lane.task is None:
            lane.task = asyncio.ensure_future(self._fly(shard, lane))

    def send_at_once(self, shard: int, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send committed events to whoever listens now, over core NATS: at most once, without waiting for anything."""
        if shard not in self._lanes or not self._may_publish(shard):
            return
        for subject, envelope in messages:
            try:
                self._connection.send(subject, envelope)
            except PayloadTooLarge as error:
                log.warning("an event cannot be sent at once", subject=subject, error=str(error))

    def dispatch_again(self, shard: int, orders: Sequence[Order]) -> None:
        """Publish orders of an earlier owner once more; JetStream drops those that it knows."""
        lane = self._lanes.get(shard)
        if lane is not None and orders:
            self._dispatch(shard, lane, orders)

    async def room(self, backlog_events_max: int) -> None:
        """Return once no more than so many events wait to be published."""
        while self.backlog_events > backlog_events_max:
            self._moved.clear()
            await self._moved.wait()

    async def flush_shard(self, shard: int, timeout_seconds: float) -> bool:
        """Wait until everything taken for a shard is out; `False` where that takes too long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while (lane := self._lanes.get(shard)) is not None and (
                    lane.backlog or lane.dispatching or lane.task is not None
                ):
                    waits: list[asyncio.Future[None]] = [*lane.dispatching]
                    if lane.task is not None:
                        waits.append(lane.task)
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Stop at once."""
        for shard in list(self._lanes):
            self.drop_shard(shard)

    # -- dispatches ------------------------------------------------------------------------------

    def _dispatch(self, shard: int, lane: _Lane, orders: Sequence[Order]) -> None:
        self._metrics.dispatched(len(orders))
        if any(order.gate is not None for order in orders):
            orders = self._carry_out_here(shard, lane, orders)
            if not orders:
                return
        out = self._expected(lane)
        known = all(
            not order.queue or self._streams.has_queue(order.namespace, order.queue) for order in orders
        )
        if not known or self._messages.full or not self._may_publish(shard):
            # A queue that nobody has used yet, a long backlog, a lease in doubt: off the hot path.
            self._retry(shard, lane, orders, out)
            return
        try:
            future = self._messages.publish_all(_order_messages(orders))
        except MessagingError as error:
            log.warning("dispatching again", error=str(error), count=len(orders))
            self._retry(shard, lane, orders, out)
            return
        lane.sending.add(future)

        def done(finished: asyncio.Future[Any]) -> None:
            lane.sending.discard(finished)
            if finished.cancelled():
                out.cancel()
            elif finished.exception() is not None:
                log.warning("dispatching again", error=str(finished.exception()), count=len(orders))
                self._retry(shard, lane, orders, out)
            elif not out.done():
                out.set_result(None)

        future.add_done_callback(done)

    def _expected(self, lane: _Lane) -> asyncio.Future[None]:
        """What becomes done when some orders are out; published events wait for it."""
        out: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.dispatching.add(out)
        out.add_done_callback(lane.dispatching.discard)
        return out

    def _carry_out_here(self, shard: int, lane: _Lane, orders: Sequence[Order]) -> list[Order]:
        """Begin to carry out what can be here; returns the others."""
        here: list[Order] = []
        others: list[Order] = []
        local = self.local
        for order in orders:
            (here if local is not None and local.takes(order) else others).append(order)
        if local is not None and here:
            local.carry_out(here, partial(self._carried_out, shard, lane, self._expected(lane)))
        return others

    def _carried_out(self, shard: int, lane: _Lane, out: asyncio.Future[None], left: Sequence[Order]) -> None:
        if out.done():
            return
        if left:
            self._retry(shard, lane, left, out)
        else:
            out.set_result(None)

    def _retry(self, shard: int, lane: _Lane, orders: Sequence[Order], out: asyncio.Future[None]) -> None:
        if self._lanes.get(shard) is not lane:
            out.cancel()
            return
        task = asyncio.ensure_future(self._dispatch_later(shard, orders))
        lane.sending.add(task)
        task.add_done_callback(partial(self._retried, shard, lane, out))

    def _retried(
        self, shard: int, lane: _Lane, out: asyncio.Future[None], task: asyncio.Future[None]
    ) -> None:
        lane.sending.discard(task)
        if not out.done():
            out.set_result(None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("dispatching failed", shard=shard, exc_info=error)
            self._on_fault(shard)

    async def _dispatch_later(self, shard: int, orders: Sequence[Order]) -> None:
        attempt = 0
        for start in range(0, len(orders), 500):
            some = orders[start : start + 500]
            while shard in self._lanes:
                if not self._may_publish(shard):
                    await asyncio.sleep(RETRY_SECONDS[0])
                    continue
                try:
                    for order in some:
                        if order.queue:
                            await self._streams.ensure_queue(order.namespace, order.queue)
                    await self._messages.room()
                    await self._messages.publish_all(_order_messages(some))
                    break
                except PayloadTooLarge as error:
                    # Our own bounds say that there is none; one that is there all the same holds up nothing else.
                    log.error("an order cannot be sent", subject=error.subject, size_bytes=error.size_bytes)
                    some = [order for order in some if len(order.payload) < error.size_bytes_max // 2]
                except MessagingError as error:
                    log.warning("dispatching again", error=str(error), count=len(some))
                    await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
                    attempt += 1

    # -- feeds -----------------------------------------------------------------------------------

    async def _fly(self, shard: int, lane: _Lane) -> None:
        try:
            while lane.waiting:
                events = [lane.waiting.popleft() for _ in range(min(len(lane.waiting), FLIGHT_EVENTS_MAX))]
                # What is dispatched from now on belongs to later flights: under load there is always some more.
                dispatching = [*lane.dispatching]
                messages = self._pack(shard, events)
                await self._deliver(shard, messages)
                # They need no room any more. Not only after the orders: those that are carried out here wait for the
                # owner, and the owner waits for room.
                lane.backlog -= len(events)
                self.backlog_events -= len(events)
                self._metrics.published(len(events), len(messages))
                self._moved.set()
                self._on_room()
                if pending := [out for out in dispatching if not out.done()]:
                    await asyncio.wait(pending)
                lane.published = events[-1].position
        except Exception:
            # Not a fault of NATS, those are tried again: start over from what is known to be published.
            log.exception("publishing failed", shard=shard)
            asyncio.get_running_loop().call_soon(self._on_fault, shard)
        finally:
            lane.task = None

    async def _deliver(self, shard: int, messages: list[Message]) -> None:
        attempt = 0
        while True:
            try:
                if not self._may_publish(shard):
                    await asyncio.sleep(RETRY_SECONDS[0])
                    continue
                await self._messages.room()
                await self._messages.publish_all(messages)
                return
            except MessagingError as error:
                log.warning("publishing again", shard=shard, error=str(error), count=len(messages))
                await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
                attempt += 1

    def _pack(self, shard: int, events: list[Outgoing]) -> list[Message]:
        """The messages of one flight: packs for the log feed, single events for the signal feed."""
        settings = self._settings
        subject = subjects.log(shard)
        messages: list[Message] = []
        pack: list[bytes] = []
        first = events[0].position
        size_bytes = 0
        for event in events:
            envelope = event.envelope
            if pack and (
                len(pack) >= settings.log_message_events_max
                or size_bytes + len(envelope) > settings.log_message_bytes_max
            ):
                messages.append(_log_message(subject, shard, first, pack))
                pack, size_bytes, first = [], 0, event.position
            pack.append(envelope)
            size_bytes += len(envelope) + 1
            if event.signal_subject is not None:
                messages.append(
                    Message(event.signal_subject, envelope, f"e{shard}-{event.position}", _cloud_event(event))
                )
        messages.append(_log_message(subject, shard, first, pack))
        return messages


def _log_message(subject: str, shard: int, first: int, pack: list[bytes]) -> Message:
    last = first + len(pack) - 1
    return Message(subject, _OPEN + b",".join(pack) + _CLOSE, f"l{shard}-{first}-{last}")


def _cloud_event(event: Outgoing) -> dict[str, str]:
    """CloudEvents 1.0 attributes (binary mode); the envelope is the data, with everything else in it."""
    # sw.evt.<namespace>.<template>.<task_id>, and the type, or domain.<name>.
    subject = event.signal_subject or ""
    event_type = subject.split(".", 5)[-1]
    headers = {
        "ce-specversion": "1.0",
        "ce-id": f"{event.position}",
        "ce-type": event_type,
        "ce-source": f"stepweave/{subject[: -len(event_type) - 1]}",
    }
    if event.traceparent is not None:
        headers["traceparent"] = event.traceparent
    return headers


def _order_messages(orders: Sequence[Order]) -> list[Message]:
    return [Message(order.subject, order.payload, order.message_id) for order in orders]
