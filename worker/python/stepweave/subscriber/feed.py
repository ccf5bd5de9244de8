"""Reading a JetStream stream in order, from a place on, without a gap."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from stepweave.cancellation import end_tasks
from stepweave.messaging import Connection, Delivery, MessagingError, PullLoop, delivery_of
from stepweave.telemetry import get_logger

log = get_logger("stepweave.subscriber")

_TIMEOUT_SECONDS: Final = 5.0
_RETRY_SECONDS_MIN: Final = 0.2
_RETRY_SECONDS_MAX: Final = 5.0
#: The server forgets a consumer that nobody pulled from for so long.
_INACTIVE_SECONDS: Final = 60
_BATCH: Final = 16


class StreamInfo(msgspec.Struct):
    """What is asked of a stream."""

    #: When it was made; another stamp means that its sequence numbers are others.
    created: str
    first_seq: int
    last_seq: int


class _State(msgspec.Struct):
    first_seq: int = 0
    last_seq: int = 0


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Info(msgspec.Struct):
    created: str = ""
    state: _State = msgspec.field(default_factory=_State)
    error: _Error | None = None


_decode_info = msgspec.json.Decoder(_Info).decode


class StreamMissing(MessagingError):
    """The stream does not exist (yet): no orchestrator has made it."""


async def stream_info(connection: Connection, stream: str) -> StreamInfo:
    """Ask for a stream; raises `StreamMissing`, or `MessagingError` where JetStream does not answer."""
    answer = await connection.request(f"$JS.API.STREAM.INFO.{stream}", timeout_seconds=_TIMEOUT_SECONDS)
    info = _decode_info(answer.data)
    if info.error is not None:
        if info.error.code == 404:
            raise StreamMissing(f"there is no JetStream stream {stream}: has an orchestrator run here?")
        raise MessagingError(f"{stream}: {info.error.description}")
    return StreamInfo(info.created, info.state.first_seq, info.state.last_seq)


class OrderedFeed:
    """Hands over a stream's messages in order, each one once for every time it is in the stream.

    The consumer behind it is not durable: it is made anew after the last message wherever order could have
    broken – a lost link, a gap in the deliveries, a consumer that the server forgot, a stream made anew. Where
    to go on after a restart is the caller's to remember.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        filters: Sequence[str],
        *,
        name: str,
        on_message: Callable[[Msg, int], None],
        on_new_stream: Callable[[str], None],
        demand: Callable[[], int],
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._filters = list(filters)
        self._name = name
        self._on_message = on_message
        self._on_new_stream = on_new_stream
        self._demand = demand
        self._created = ""
        self._last_seq = 0
        self._start_time: str | None = None
        self._pull: PullLoop | None = None
        self._consumer = ""
        #: The next delivery's number on this consumer.
        self._expected = 1
        self._broken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.resets = 0

    async def start(self, *, created: str, after_seq: int, start_time: str | None = None) -> None:
        """Hand over what comes after `after_seq` of the stream made at `created`, or since `start_time`."""
        self._created = created
        self._last_seq = after_seq
        self._start_time = start_time
        await self._attach()
        self._connection.add_reconnect_listener(self._broken.set)
        self._task = asyncio.create_task(self._mend(), name=f"stepweave-feed-{self._stream}")

    async def stop(self) -> None:
        """Hand over nothing any more."""
        task, self._task = self._task, None
        if task is not None:
            self._connection.remove_reconnect_listener(self._broken.set)
            await end_tasks(task)
        await self._detach()

    def nudge(self) -> None:
        """Pull if the demand allows more."""
        if self._pull is not None:
            self._pull.nudge()

    # -- the consumer ----------------------------------------------------------------------------

    async def _mend(self) -> None:
        """Make the consumer anew each time order may have broken."""
        while True:
            await self._broken.wait()
            self._broken.clear()
            self.resets += 1
            pause = _RETRY_SECONDS_MIN
            while True:
                try:
                    await self._detach()
                    await self._attach()
                    break
                except MessagingError as error:
                    log.debug("reading the feed again later", stream=self._stream, error=str(error))
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _RETRY_SECONDS_MAX)

    async def _attach(self) -> None:
        info = await stream_info(self._connection, self._stream)
        if info.created != self._created:
            if self._created:
                log.warning("the feed was made anew, reading it from the start", stream=self._stream)
            self._created = info.created
            self._last_seq = 0
            self._on_new_stream(info.created)
        elif self._last_seq + 1 < info.first_seq and self._start_time is None:
            log.warning(
                "events were dropped from the feed before they were read",
                stream=self._stream,
                messages=info.first_seq - self._last_seq - 1,
            )
        consumer = f"{self._name}_{secrets.token_hex(4)}"
        config: dict[str, Any] = {
            "name": consumer,
            "ack_policy": "none",
            "filter_subjects": self._filters,
            "inactive_threshold": _INACTIVE_SECONDS * 1_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if self._start_time is not None:
            config |= {"deliver_policy": "by_start_time", "opt_start_time": self._start_time}
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last_seq + 1}
        answer = await self._connection.request(
            f"$JS.API.CONSUMER.CREATE.{self._stream}.{consumer}",
            msgspec.json.encode({"stream_name": self._stream, "config": config, "action": "create"}),
            timeout_seconds=_TIMEOUT_SECONDS,
        )
        failure = _decode_info(answer.data).error
        if failure is not None:
            raise MessagingError(f"a consumer on {self._stream}: {failure.description} ({failure.err_code})")
        self._consumer = consumer
        self._expected = 1

        def on_messages(messages: list[Msg]) -> None:
            if consumer == self._consumer:
                self._take(messages)

        self._pull = PullLoop(
            self._connection,
            self._stream,
            consumer,
            batch=_BATCH,
            on_messages=on_messages,
            demand=self._demand,
            on_missing=self._broken.set,
        )
        await self._pull.start()

    async def _detach(self) -> None:
        pull, self._pull = self._pull, None
        consumer, self._consumer = self._consumer, ""
        if pull is None:
            return
        await pull.stop(settle=False)
        if self._connection.connected:
            # Best effort: the server forgets it by itself too.
            with suppress(MessagingError):
                await self._connection.request(
                    f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}", timeout_seconds=1.0
                )

    def _take(self, messages: list[Msg]) -> None:
        for message in messages:
            delivery: Delivery | None = delivery_of(message.reply)
            if delivery is None or delivery.consumer_sequence != self._expected:
                # Something was lost on the way; what follows comes again.
                self._consumer = ""
                self._broken.set()
                return
            self._expected += 1
            self._last_seq = delivery.stream_sequence
            self._start_time = None
            self._on_message(message, delivery.stream_sequence)
