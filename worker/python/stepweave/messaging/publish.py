"""Publishing to JetStream: in order, acknowledged, bounded, and again after a lost link."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from stepweave.telemetry import get_logger

from .connection import Connection, Subscription
from .errors import NotConnected, PublisherFull, PublishRefused, PublishTimeout
from .frame import header_block, publish_frame

log = get_logger("stepweave.messaging")

#: After a status 503 (no stream takes the subject, or JetStream is starting) the pause before the next try.
_NO_STREAM_WAIT_SECONDS: Final = 0.25


class PubAck(msgspec.Struct, frozen=True):
    """JetStream's acknowledgement: the message is stored under `seq`, or was before (`duplicate`)."""

    stream: str
    seq: int
    duplicate: bool = False


class Outgoing(msgspec.Struct, frozen=True):
    """One message for `JetStreamPublisher.publish_all`."""

    subject: str
    payload: bytes
    #: `Nats-Msg-Id`: the stream drops a second message with the same id.
    msg_id: str | None = None
    headers: dict[str, str] | None = None


class _ErrorBody(msgspec.Struct):
    code: int = 500
    err_code: int = 0
    description: str = ""


class _Reply(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _ErrorBody | None = None


_decode_reply = msgspec.json.Decoder(_Reply).decode


class _Batch:
    """Messages that are answered together through one future."""

    __slots__ = ("acks", "future", "left")

    def __init__(self, count: int, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.left = count
        self.acks: list[PubAck | None] | None = [None] * count


class _Waiting:
    """A message without its acknowledgement."""

    __slots__ = ("batch", "deadline", "frame", "index", "sent_at", "subject")

    def __init__(
        self,
        subject: str,
        frame: bytes,
        now: float,
        deadline: float,
        batch: _Batch | asyncio.Future[Any],
        index: int,
    ) -> None:
        self.subject = subject
        self.frame = frame
        self.sent_at = now
        self.deadline = deadline
        self.batch = batch
        self.index = index


class JetStreamPublisher:
    """Publishes with one shared reply inbox; `await start()` before, `await close()` after.

    A message without an acknowledgement after `ack_timeout_seconds` is sent again, together with everything
    after it, so that order is kept; the same happens when a lost link is back. Give `msg_id`, or repeats are
    stored twice. After `give_up_seconds` its future gets `PublishTimeout`; where JetStream answers with an
    error, `PublishRefused` at once. At most `waiting_messages_max` messages with `waiting_bytes_max` bytes
    wait: beyond that `publish` raises `PublisherFull`; `await room()` first. While `may_send` says no, nothing is
    sent, not again either; what waits goes out once it says yes.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        waiting_messages_max: int = 8_192,
        waiting_bytes_max: int = 64 * 1024 * 1024,
        ack_timeout_seconds: float = 5.0,
        give_up_seconds: float = 60.0,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._connection = connection
        self._messages_max = waiting_messages_max
        self._bytes_max = waiting_bytes_max
        self._ack_timeout_seconds = ack_timeout_seconds
        self._give_up_seconds = give_up_seconds
        self._may_send = may_send
        self._waiting: dict[str, _Waiting] = {}
        self._waiting_bytes = 0
        self._count = 0
        self._inbox = ""
        self._inbox_size = 0
        self._subscription: Subscription | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resend_timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        #: Timers run in it, not in the context of whoever published first.
        self._context = contextvars.copy_context()
        self.acknowledged_count = 0
        self.duplicates_count = 0
        self.resent_count = 0
        self.refused_count = 0

    async def start(self) -> None:
        """Subscribe the reply inbox."""
        inbox = self._connection.new_inbox()
        self._inbox = f"{inbox}."
        self._inbox_size = len(self._inbox)
        self._subscription = await self._connection.subscribe(f"{inbox}.*", self._on_reply)
        self._connection.add_reconnect_listener(self._send_again)

    async def __aenter__(self) -> JetStreamPublisher:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop; messages that still wait get `NotConnected`. `await drain()` first to get them through."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        self._connection.remove_reconnect_listener(self._send_again)
        for timer in (self._timer, self._resend_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._resend_timer = None
        for token in list(self._waiting):
            self._fail(token, NotConnected("the publisher is closed"))
        await subscription.unsubscribe()

    # -- publishing ------------------------------------------------------------------------------

    @property
    def waiting_count(self) -> int:
        """How many messages wait for their acknowledgement."""
        return len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait for their acknowledgement."""
        return self._waiting_bytes

    @property
    def full(self) -> bool:
        """Whether `publish` would raise `PublisherFull`."""
        return len(self._waiting) >= self._messages_max or self._waiting_bytes >= self._bytes_max

    async def room(self) -> None:
        """Return once another message may be published."""
        while self.full:
            self._room.clear()
            await self._room.wait()

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> asyncio.Future[PubAck]:
        """Publish one message; the future gives its `PubAck`, or why there is none.

        Raises `PublisherFull`, `PayloadTooLarge`, `NotConnected` (closed) without publishing.
        """
        self._admit(1)
        future: asyncio.Future[PubAck] = self._loop.create_future()
        block = _block(headers, msg_id)
        self._connection.check_size(subject, len(block) + len(payload))
        self._enqueue(subject, payload, block, future, 0, self._loop.time(), self._may_send())
        return future

    def publish_all(self, messages: Iterable[Outgoing]) -> asyncio.Future[list[PubAck]]:
        """Publish a burst in order; one future gives all acknowledgements in the same order.

        Its exception is that of the first message that failed; the others may be stored all the same. Raises
        like `publish`; a burst that begins within the bounds may go over them.
        """
        burst = list(messages)
        self._admit(len(burst))
        blocks = [_block(message.headers, message.msg_id) for message in burst]
        for message, block in zip(burst, blocks, strict=True):
            self._connection.check_size(message.subject, len(block) + len(message.payload))
        future: asyncio.Future[list[PubAck]] = self._loop.create_future()
        if not burst:
            future.set_result([])
            return future
        batch = _Batch(len(burst), future)
        now = self._loop.time()
        send = self._may_send()
        for index, message in enumerate(burst):
            self._enqueue(message.subject, message.payload, blocks[index], batch, index, now, send)
        return future

    async def drain(self, timeout_seconds: float) -> bool:
        """Wait until every message is acknowledged or given up; False where that takes longer."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _admit(self, count: int) -> None:
        if self._subscription is None:
            raise NotConnected("the publisher is closed, or was never started")
        if self.full and count:
            raise PublisherFull(
                f"{len(self._waiting)} messages ({self._waiting_bytes} bytes) wait for an acknowledgement"
            )

    def _enqueue(
        self,
        subject: str,
        payload: bytes,
        block: bytes,
        batch: _Batch | asyncio.Future[Any],
        index: int,
        now: float,
        send: bool,
    ) -> None:
        self._count += 1
        token = f"{self._count:x}"
        frame = publish_frame(subject, self._inbox + token, payload, block)
        if not self._waiting:
            self._idle.clear()
        self._waiting[token] = _Waiting(subject, frame, now, now + self._give_up_seconds, batch, index)
        self._waiting_bytes += len(frame)
        if send:
            self._connection.send_frame(frame)
        if self._timer is None:
            self._timer = self._loop.call_later(self._ack_timeout_seconds, self._check, context=self._context)

    # -- answers ---------------------------------------------------------------------------------

    def _on_reply(self, message: Msg) -> None:
        token = message.subject[self._inbox_size :]
        if token not in self._waiting:
            return
        if not message.data:
            # Status 503: no stream takes the subject now. Streams come back after a restart, so try again.
            self._resend_soon()
            return
        try:
            reply = _decode_reply(message.data)
        except msgspec.MsgspecError as error:
            reply = _Reply(error=_ErrorBody(description=f"an answer that is not JSON: {error}"))
        if reply.error is not None:
            if reply.error.code == 503:
                self._resend_soon()
                return
            subject = self._waiting[token].subject
            self.refused_count += 1
            self._fail(
                token,
                PublishRefused(subject, reply.error.code, reply.error.err_code, reply.error.description),
            )
            return
        waiting = self._remove(token)
        self.acknowledged_count += 1
        if reply.duplicate:
            self.duplicates_count += 1
        ack = PubAck(reply.stream, reply.seq, reply.duplicate)
        batch = waiting.batch
        if not isinstance(batch, _Batch):
            if not batch.done():
                batch.set_result(ack)
            return
        batch.left -= 1
        if batch.acks is not None:
            batch.acks[waiting.index] = ack
            if batch.left == 0 and not batch.future.done():
                batch.future.set_result(batch.acks)

    def _fail(self, token: str, error: Exception) -> None:
        waiting = self._remove(token)
        batch = waiting.batch
        future = batch.future if isinstance(batch, _Batch) else batch
        if isinstance(batch, _Batch):
            batch.acks = None
        if not future.done():
            future.set_exception(error)

    def _remove(self, token: str) -> _Waiting:
        waiting = self._waiting.pop(token)
        self._waiting_bytes -= len(waiting.frame)
        if not self._room.is_set() and not self.full:
            self._room.set()
        if not self._waiting:
            self._idle.set()
        return waiting

    # -- again -----------------------------------------------------------------------------------

    def _check(self) -> None:
        """Runs while anything waits: give up what is too old, send again what has no answer."""
        self._timer = None
        now = self._loop.time()
        for token, waiting in list(self._waiting.items()):
            if waiting.deadline > now:
                break
            self._fail(
                token,
                PublishTimeout(
                    f"no acknowledgement for a message on {waiting.subject} in {self._give_up_seconds:g} s"
                ),
            )
        oldest = next(iter(self._waiting.values()), None)
        if oldest is None:
            return
        due = oldest.sent_at + self._ack_timeout_seconds
        if due <= now:
            self._send_again()
            due = now + self._ack_timeout_seconds
        at = max(min(due, oldest.deadline), now + 0.01)
        self._timer = self._loop.call_at(at, self._check, context=self._context)

    def _resend_soon(self) -> None:
        if self._resend_timer is None:
            self._resend_timer = self._loop.call_later(
                _NO_STREAM_WAIT_SECONDS, self._send_again, context=self._context
            )

    def _send_again(self) -> None:
        """Send everything that waits once more, in order."""
        if self._resend_timer is not None:
            self._resend_timer.cancel()
            self._resend_timer = None
        if not self._may_send():
            self._resend_soon()
            return
        now = self._loop.time()
        for waiting in self._waiting.values():
            waiting.sent_at = now
            self._connection.send_frame(waiting.frame)
        self.resent_count += len(self._waiting)
        if self._waiting:
            log.info("sending unacknowledged messages again", count=len(self._waiting))


def _block(headers: dict[str, str] | None, msg_id: str | None) -> bytes:
    if msg_id is None:
        return header_block(headers)
    return header_block({"Nats-Msg-Id": msg_id, **headers} if headers else {"Nats-Msg-Id": msg_id})
