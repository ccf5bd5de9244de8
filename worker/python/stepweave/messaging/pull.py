"""A standing pull on one durable JetStream consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from nats.aio.msg import Msg

from stepweave.telemetry import get_logger

from .connection import Connection, Subscription

log = get_logger("stepweave.messaging")

#: Pauses before the next pull where stream or consumer are missing or the server asks to wait.
BACKOFF_SECONDS_MIN: Final = 0.2
BACKOFF_SECONDS_MAX: Final = 5.0
HURRY_SECONDS: Final = 0.05
#: How long a consumer must have been silent before a pull may be left alone, and how long that is waited for.
QUIET_SECONDS: Final = 0.05
_DRAIN_TIMEOUT_SECONDS: Final = 5.0
SETTLE_SECONDS_MAX: Final = 1.0


class PullLoop:
    """Keeps pull requests open on a consumer and hands over what arrives.

    `on_messages` is called on the event loop with the messages of one read of the socket; it must return
    quickly. `demand` says how many more messages the owner takes at the moment (0 pauses; `nudge` after it
    rose); without it `batch` are asked for. What was asked for cannot be taken back, so up to `batch`
    messages may still come after the demand fell; after a lost link up to twice as many.

    Idle cost: one heartbeat every `idle_heartbeat_seconds` and one pull every `expires_seconds`. A lost pull
    is noticed after two heartbeats, a lost link at once. A missing stream or consumer is retried with a
    backoff and logged once; `on_missing` is called with every such try.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        *,
        batch: int,
        on_messages: Callable[[list[Msg]], None],
        demand: Callable[[], int] | None = None,
        on_missing: Callable[[], None] | None = None,
        expires_seconds: float = 30.0,
        idle_heartbeat_seconds: float = 10.0,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch counts from 1, not {batch}")
        if idle_heartbeat_seconds * 2 > expires_seconds:
            raise ValueError("the server wants an idle heartbeat of at most half the expiry")
        self.stream = stream
        self.consumer = consumer
        self._connection = connection
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._batch = batch
        self._on_messages = on_messages
        self._demand = demand
        self._on_missing = on_missing
        self._expires_seconds = expires_seconds
        self._heartbeat_seconds = idle_heartbeat_seconds
        self._expires_ns = int(expires_seconds * 1e9)
        self._heartbeat_ns = int(idle_heartbeat_seconds * 1e9)
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._stopping = False
        self._arrived: list[Msg] = []
        self._outstanding = 0
        self._pull = 0
        #: Statuses of pulls before this one say nothing any more.
        self._first_valid_pull = 1
        self._newest_expiry = 0.0
        self._active_at = 0.0
        self._watchdog: asyncio.TimerHandle | None = None
        self._backoff_seconds = 0.0
        self._backoff: asyncio.TimerHandle | None = None
        self._missing_logged = False
        #: Of `ask`: set when its pull has ended.
        self._answered: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()
        self.received_count = 0
        self.pulls_count = 0

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Subscribe and send the first pull."""
        self._inbox = self._connection.new_inbox()
        self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._on_message)
        self._connection.add_reconnect_listener(self._restart)
        self._watch()
        self.nudge()

    async def stop(self, *, settle: bool = True) -> None:
        """Ask for nothing more; messages that were on their way are still handed over.

        A pull cannot be called back, and a message that the server has just assigned to a vanished
        subscription counts as delivered. So while messages flow, this waits until the open pulls are filled
        (at most `SETTLE_SECONDS_MAX`); a consumer at rest, or with `settle=False`, is left at once.
        """
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        self._stopping = True
        if settle:
            await self._settle()
        self._connection.remove_reconnect_listener(self._restart)
        for timer in (self._watchdog, self._backoff):
            if timer is not None:
                timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT_SECONDS):
                await subscription.drain()
        self._hand_over()

    async def _settle(self) -> None:
        deadline = self._loop.time() + SETTLE_SECONDS_MAX
        while self._outstanding > 0 and self._connection.connected:
            now = self._loop.time()
            wait_seconds = min(self._active_at + QUIET_SECONDS, deadline) - now
            if wait_seconds <= 0:
                return
            await asyncio.sleep(wait_seconds)

    @property
    def outstanding(self) -> int:
        """How many messages were asked for and have not come."""
        return self._outstanding

    @property
    def missing(self) -> bool:
        """Whether the last pull found no such stream or consumer."""
        return self._missing_logged

    # -- pulling ---------------------------------------------------------------------------------

    def nudge(self) -> None:
        """Pull if the demand allows more; cheap, call it whenever the demand may have risen."""
        if self._stopping or self._backoff is not None or not self._connection.connected:
            return
        target = self._batch if self._demand is None else min(self._batch, self._demand())
        # Topping up at half keeps a pull open without one request for each message.
        if self._outstanding > target // 2 or target <= 0:
            return
        ask = target - self._outstanding
        self._pull += 1
        self.pulls_count += 1
        self._outstanding += ask
        now = self._loop.time()
        self._newest_expiry = now + self._expires_seconds
        if self._outstanding == ask:
            self._active_at = now
        self._connection.send(
            self._subject,
            b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (ask, self._expires_ns, self._heartbeat_ns),
            reply=f"{self._inbox}.{self._pull}",
        )

    @property
    def may_be_asked(self) -> bool:
        """Whether `ask` could find something: a pull that stands, or a consumer that is missing, shows that it cannot."""
        return (
            not self._stopping
            and self._outstanding == 0
            and self._backoff is None
            and self._connection.connected
        )

    async def ask(self, count: int, timeout_seconds: float) -> int:
        """Ask once for what is there now; returns how many messages came, which are handed over as usual.

        Not while another question is under way, and while `demand` is 0. Where no answer comes in time, it is taken
        for none; messages that come later are handed over all the same.
        """
        if not self.may_be_asked:
            return 0
        self._pull += 1
        self.pulls_count += 1
        self._outstanding = count
        now = self._loop.time()
        self._newest_expiry = now + timeout_seconds
        self._active_at = now
        before = self.received_count
        answered = self._answered = asyncio.Event()
        self._connection.send(
            self._subject, b'{"batch":%d,"no_wait":true}' % count, reply=f"{self._inbox}.{self._pull}"
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                await answered.wait()
        except TimeoutError:
            self._restart()
        finally:
            self._answered = None
        return self.received_count - before

    def hurry(self) -> None:
        """A missing consumer may be there now: look soon, and often for a while."""
        if self._backoff is not None:
            self._backoff.cancel()
            self._backoff_seconds = 0.0
            self._backoff = self._loop.call_later(HURRY_SECONDS, self._after_backoff)

    def _restart(self) -> None:
        """Count nothing as asked for any more, and pull."""
        self._outstanding = 0
        if self._answered is not None:
            self._answered.set()
        self._first_valid_pull = self._pull + 1
        if self._backoff is not None:
            self._backoff.cancel()
            self._backoff = None
        self.nudge()

    def _watch(self) -> None:
        """Every heartbeat: a pull of which nothing was heard for two of them is gone."""
        self._watchdog = self._loop.call_later(self._heartbeat_seconds, self._watch)
        if self._outstanding == 0 or not self._connection.connected:
            self.nudge()
            return
        now = self._loop.time()
        silent = now - self._active_at > 2 * self._heartbeat_seconds + 0.5
        expired = now > self._newest_expiry + 2.0
        if silent or expired:
            log.debug("a pull is gone, pulling again", stream=self.stream, consumer=self.consumer)
            self._restart()

    # -- arrivals --------------------------------------------------------------------------------

    def _on_message(self, message: Msg) -> None:
        self._active_at = self._loop.time()
        if not message.reply:
            self._on_status(message)
            return
        if not self._arrived:
            # After this read of the socket has been parsed; so a burst comes as one list.
            self._loop.call_soon(self._hand_over)
        self._arrived.append(message)

    def _hand_over(self) -> None:
        arrived = self._arrived
        if not arrived:
            return
        self._arrived = []
        self._outstanding = max(0, self._outstanding - len(arrived))
        self.received_count += len(arrived)
        self._backoff_seconds = 0.0
        if self._missing_logged:
            self._found()
        try:
            self._on_messages(arrived)
        except Exception:
            log.exception("taking in messages failed", stream=self.stream, consumer=self.consumer)
        if self._answered is not None and self._outstanding == 0:
            self._answered.set()
        self.nudge()

    def _on_status(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status", "")
        description = headers.get("Description", "")
        if status == "100":
            if self._missing_logged:
                self._found()
            return
        try:
            pull = int(message.subject.rpartition(".")[2])
        except ValueError:
            return
        if pull < self._first_valid_pull:
            return
        self._outstanding = max(0, self._outstanding - _pending(headers, self._outstanding))
        if self._answered is not None:
            # What came before it in the same read of the socket is handed over first.
            self._loop.call_soon(self._answered.set)
            if status in ("404", "408"):
                self._outstanding = 0
                return
        if status in ("404", "408"):
            self._backoff_seconds = 0.0
            if self._missing_logged:
                self._found()
            self.nudge()
            return
        if status == "409" and "Completed" in description:
            self.nudge()
            return
        if status == "503" or "Consumer Deleted" in description:
            self._outstanding = 0
            if not self._missing_logged:
                self._missing_logged = True
                log.info(
                    "waiting for a JetStream consumer; the orchestrator makes it",
                    stream=self.stream,
                    consumer=self.consumer,
                )
            if self._on_missing is not None:
                self._on_missing()
        else:
            log.info(
                "the server refused a pull, trying again later",
                stream=self.stream,
                consumer=self.consumer,
                status=status,
                description=description,
            )
        self._back_off()

    def _found(self) -> None:
        self._missing_logged = False
        log.info("the JetStream consumer is there", stream=self.stream, consumer=self.consumer)

    def _back_off(self) -> None:
        if self._backoff is not None or self._stopping:
            return
        self._backoff_seconds = min(max(self._backoff_seconds * 2, BACKOFF_SECONDS_MIN), BACKOFF_SECONDS_MAX)
        self._backoff = self._loop.call_later(self._backoff_seconds, self._after_backoff)

    def _after_backoff(self) -> None:
        self._backoff = None
        self.nudge()


def _pending(headers: dict[str, str], everything: int) -> int:
    """How many messages of the ended pull did not come; without the header all that are outstanding."""
    try:
        return int(headers["Nats-Pending-Messages"])
    except (KeyError, ValueError):
        return everything
