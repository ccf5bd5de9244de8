"""One link to NATS that outlives broken connections and closed clients."""

from __future__ import annotations

import asyncio
import contextvars
import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as ClientSubscription
from nats.aio.transport import TcpTransport

from stepweave.cancellation import end_tasks
from stepweave.telemetry import get_logger

from .errors import ConnectFailed, NoResponders, NotConnected, PayloadTooLarge, RequestTimeout
from .frame import header_block, publish_frame

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
#: Pause between two tries to reach the same server.
RECONNECT_WAIT_SECONDS: Final = 0.25
#: A link that answers no ping for three of these is given up and made anew.
PING_INTERVAL_SECONDS: Final = 10
#: Longest pause between two tries to replace a client that was closed for good.
REBUILD_WAIT_SECONDS_MAX: Final = 5.0
#: Core sends that may wait here; more are dropped, which at-most-once delivery allows.
OUTBOX_MESSAGES_MAX: Final = 131_072
#: What the client buffers before a sender has to wait for the socket.
CLIENT_BUFFER_BYTES_MAX: Final = 8 * 1024 * 1024
_FLUSH_TIMEOUT_SECONDS: Final = 5.0
_REBUILD_TIMEOUT_SECONDS: Final = 10.0
_CLOSE_TIMEOUT_SECONDS: Final = 5.0

log = get_logger("stepweave.messaging")

#: What one write to the client's buffer takes at most.
_BURST_BYTES_MAX: Final = 256 * 1024
#: Frames written past the client's buffer in one go; more go through it, with its back pressure.
_DIRECT_FRAMES_MAX: Final = 4_096
#: A frame, and whether it is kept while the link is down.
_Outgoing = tuple[bytes, bool]


def _without_secrets(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


class _HandOver:
    """Stands where nats-py puts a subscription's queue and hands each message on at once.

    The client's own ways to consume cost a task or a queue hop per message; this is a plain call on the event
    loop, inside the read loop – so it must never raise, which would end that loop.
    """

    __slots__ = ("_on_message",)

    def __init__(self, on_message: Callable[[Msg], None]) -> None:
        self._on_message = on_message

    def put_nowait(self, message: Msg) -> None:
        try:
            self._on_message(message)
        except Exception:
            log.exception("a message handler raised", subject=message.subject)

    def qsize(self) -> int:
        return 0

    def empty(self) -> bool:
        return True

    async def join(self) -> None:
        return None


class Subscription:
    """A core subscription that is made again on every new client; from `Connection.subscribe`."""

    def __init__(
        self, connection: Connection, subject: str, queue: str, on_message: Callable[[Msg], None]
    ) -> None:
        self.subject = subject
        self.queue = queue
        self._connection = connection
        self._on_message = on_message
        self._current: ClientSubscription | None = None
        self._client: Client | None = None

    async def _attach(self, client: Client) -> None:
        self._client = client
        subscription = await client.subscribe(self.subject, queue=self.queue, pending_bytes_limit=0)
        early = subscription._pending_queue
        subscription._pending_queue = _HandOver(self._on_message)  # type: ignore[assignment]
        while not early.empty():
            subscription._pending_queue.put_nowait(early.get_nowait())
        self._current = subscription

    async def unsubscribe(self) -> None:
        """Stop at once; what the server has sent already is dropped."""
        current = self._forget()
        if current is not None:
            with suppress(nats.errors.Error):
                await current.unsubscribe()

    async def drain(self) -> None:
        """Stop, but hand over everything that the server has sent until it knew of it.

        Takes a round trip; where there is no link, ends at once.
        """
        current = self._forget()
        if current is None:
            return
        if not self._connection.connected:
            with suppress(nats.errors.Error):
                await current.unsubscribe()
            return
        # Shielded: a cancelled flush would leave a dead future for the next pong, on which nats-py stumbles.
        with suppress(nats.errors.Error, OSError):
            await asyncio.shield(asyncio.ensure_future(drain_quietly(current)))

    def _forget(self) -> ClientSubscription | None:
        current, self._current = self._current, None
        self._connection._subscriptions.discard(self)
        return current


async def drain_quietly(subscription: ClientSubscription) -> None:
    """Stop a subscription of nats-py, but hand over everything that the server has sent until it knew of it."""
    client = subscription._conn
    with suppress(nats.errors.Error, OSError):
        # Its own `drain` writes its `PING` past the `UNSUB`, which waits in a buffer: what comes between the two
        # would be dropped. So the buffer is written first.
        await client._send_unsubscribe(subscription._id)
        await client._flush_pending(force_flush=True)
        await subscription.drain()  # type: ignore[no-untyped-call]


class Connection:
    """A supervised connection; make it with `open`, end it with `close` (or `async with`).

    `client` is the nats-py client of the moment. It changes where the server closed the old one for good, so
    keep the connection, not the client. Reconnects take `RECONNECT_WAIT_SECONDS` steps and never end.
    """

    def __init__(self, servers: Sequence[str], name: str, options: Mapping[str, Any] | None) -> None:
        self.name = name
        self.servers = list(servers)
        self._options = dict(options or {})
        self._client = Client()
        self._connected = asyncio.Event()
        self._closing = False
        self._subscriptions: set[Subscription] = set()
        self._listeners: list[Callable[[], None]] = []
        self._outbox: deque[_Outgoing] = deque()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        #: Writing runs in it, not in the context of whoever sent first.
        self._context = contextvars.copy_context()
        self._write_scheduled = False
        self._sender: asyncio.Task[None] | None = None
        self._rebuilder: asyncio.Task[None] | None = None
        self._last_error: Exception | None = None
        self._refused: asyncio.Future[Exception] | None = None
        self._echo: Subscription | None = None
        self._echoes: dict[bytes, asyncio.Future[None]] = {}
        self._echo_count = 0
        self.reconnects = 0

    # -- life ------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        url: str | Sequence[str] | None = None,
        *,
        name: str,
        connect_timeout_seconds: float = 10.0,
        on_reconnect: Callable[[], None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Connection:
        """Connect to `url` (one, several, or several with commas; default `NATS_URL`, then this machine).

        `on_reconnect` is called on the event loop each time a lost link is back. `options` go to nats-py's
        `connect` (credentials, TLS, inbox prefix). Raises `ConnectFailed` after `connect_timeout_seconds`, or
        at once where the server refuses the credentials.
        """
        if url is None:
            url = os.environ.get("NATS_URL") or DEFAULT_URL
        servers = [part.strip() for part in url.split(",")] if isinstance(url, str) else list(url)
        self = cls([server for server in servers if server], name, options)
        if not self.servers:
            raise ConnectFailed("no NATS server is named; set NATS_URL or pass a URL")
        if on_reconnect is not None:
            self._listeners.append(on_reconnect)
        await self._first_connect(connect_timeout_seconds)
        self._connected.set()
        self._sender = asyncio.create_task(self._send_loop(), name=f"nats-sender-{name}")
        return self

    async def _first_connect(self, timeout_seconds: float) -> None:
        self._refused = asyncio.get_running_loop().create_future()
        connecting = asyncio.create_task(self._connect(self._client))
        either: set[asyncio.Future[Any]] = {connecting, self._refused}
        try:
            await asyncio.wait(either, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done() and connecting.exception() is None:
                return
            shown = ", ".join(_without_secrets(server) for server in self.servers)
            if self._refused.done():
                raise ConnectFailed(f"the NATS server at {shown} refuses the credentials")
            reason = (connecting.exception() if connecting.done() else None) or self._last_error
            raise ConnectFailed(
                f"no NATS server answers at {shown} within {timeout_seconds:g} s"
                + (f" ({reason})" if reason else "")
                + "; start one, or set NATS_URL to where it is"
            )
        except BaseException:
            self._closing = True
            await end_tasks(connecting)
            await _close_client(self._client)
            raise
        finally:
            self._refused.cancel()
            self._refused = None

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, *, flush_timeout_seconds: float = 2.0) -> None:
        """Send what waits (for at most so long), then close. Safe to call twice."""
        if self._closing:
            return
        if self.connected:
            with suppress(NotConnected):
                await self.flush(timeout_seconds=flush_timeout_seconds)
        self._closing = True
        self._connected.clear()
        await end_tasks(*(task for task in (self._sender, self._rebuilder) if task is not None))
        self._outbox.clear()
        self._subscriptions.clear()
        await _close_client(self._client)

    # -- state -----------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The nats-py client of the moment."""
        return self._client

    @property
    def connected(self) -> bool:
        """Whether the link is up and every subscription is in place."""
        return self._connected.is_set() and self._client.is_connected

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    @property
    def max_payload_bytes(self) -> int:
        """Most bytes of headers and payload that the server takes in one message."""
        return self._client.max_payload

    async def wait_connected(self, timeout_seconds: float) -> None:
        """Return once the link is up; raises `NotConnected` after so long, or if the connection is closed."""
        if self._closing:
            raise NotConnected("the connection is closed")
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._connected.wait()
        except TimeoutError:
            raise NotConnected(
                f"NATS has not been reachable for {timeout_seconds:g} s ({self._last_error})"
            ) from None

    def add_reconnect_listener(self, listener: Callable[[], None]) -> None:
        """Call `listener` on the event loop each time a lost link is back; in order of adding."""
        self._listeners.append(listener)

    def remove_reconnect_listener(self, listener: Callable[[], None]) -> None:
        """Undo `add_reconnect_listener`; unknown ones are ignored."""
        with suppress(ValueError):
            self._listeners.remove(listener)

    # -- messages --------------------------------------------------------------------------------

    def new_inbox(self) -> str:
        """A fresh reply subject that only this client listens on."""
        return self._client.new_inbox()

    def check_size(self, subject: str, size_bytes: int) -> None:
        """Raise `PayloadTooLarge` where the server would drop the link over headers and payload of that size."""
        if size_bytes > self._client.max_payload:
            raise PayloadTooLarge(subject, size_bytes, self._client.max_payload)

    def send(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
        keep: bool = False,
    ) -> None:
        """Publish over core NATS, at most once, in order; never waits.

        While the link is down the message is dropped, unless `keep` says to hold it until the link is back.
        Raises `PayloadTooLarge`, and `ValueError` for a subject or header that is none.
        """
        block = header_block(headers)
        self.check_size(subject, len(block) + len(payload))
        self.send_frame(publish_frame(subject, reply, payload, block), keep=keep)

    def send_frame(self, frame: bytes, *, keep: bool = False) -> None:
        """`send` for a frame that is built and of a size that was checked."""
        if self._closing or not (keep or self.connected):
            return
        if len(self._outbox) >= OUTBOX_MESSAGES_MAX:
            log.warning("the outbox is full, a message was dropped", connection=self.name)
            return
        self._outbox.append((frame, keep))
        if not self._write_scheduled:
            self._write_scheduled = True
            self._loop.call_soon(self._write_out, context=self._context)

    def _write_out(self) -> None:
        """At the end of this turn of the loop: everything sent in it, in one write to the socket.

        The way over the client's buffer and its flusher task takes two more turns; it is for what this cannot do.
        """
        self._write_scheduled = False
        client = self._client
        transport = client._transport
        if (
            not isinstance(transport, TcpTransport)
            or not (self._connected.is_set() and client.is_connected)
            or client._pending
            or len(self._outbox) > _DIRECT_FRAMES_MAX
            or transport._io_writer is None
            or transport._io_writer.transport.get_write_buffer_size() > CLIENT_BUFFER_BYTES_MAX
        ):
            self._wake.set()
            return
        transport.write(b"".join([frame for frame, _ in self._outbox]))  # type: ignore[no-untyped-call]
        self._outbox.clear()

    async def subscribe(
        self, subject: str, on_message: Callable[[Msg], None], *, queue: str = ""
    ) -> Subscription:
        """Call `on_message` on the event loop with every message of `subject`; survives lost links."""
        if self._closing:
            raise NotConnected("the connection is closed")
        subscription = Subscription(self, subject, queue, on_message)
        self._subscriptions.add(subscription)
        # A client that is just closed for good gets it with the rest when it is built anew.
        if not self._client.is_closed:
            await subscription._attach(self._client)
        return subscription

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout_seconds: float,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """Ask and wait for the one answer.

        Raises `NoResponders`, `RequestTimeout`, `NotConnected` or `PayloadTooLarge`.
        """
        self.check_size(subject, len(header_block(headers)) + len(payload))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        await self.wait_connected(timeout_seconds)
        try:
            return await self._client.request(
                subject, payload, timeout=max(0.001, deadline - loop.time()), headers=headers
            )
        except nats.errors.NoRespondersError:
            raise NoResponders(f"nobody answers on {subject}") from None
        except nats.errors.TimeoutError:
            raise RequestTimeout(f"no answer on {subject} within {timeout_seconds:g} s") from None
        except nats.errors.Error as error:
            raise NotConnected(f"a request on {subject} could not be sent: {error}") from error

    async def flush(self, *, timeout_seconds: float = _FLUSH_TIMEOUT_SECONDS) -> None:
        """Return once the server has taken everything sent so far; raises `NotConnected` after so long."""
        if self._echo is None:
            self._echo = await self.subscribe(self.new_inbox(), self._on_echo)
        self._echo_count += 1
        token = b"%d" % self._echo_count
        waiting = asyncio.get_running_loop().create_future()
        self._echoes[token] = waiting
        try:
            self.send(self._echo.subject, token)
            async with asyncio.timeout(timeout_seconds):
                await waiting
        except TimeoutError:
            raise NotConnected(f"NATS did not take what was sent within {timeout_seconds:g} s") from None
        finally:
            self._echoes.pop(token, None)

    def _on_echo(self, message: Msg) -> None:
        waiting = self._echoes.get(message.data)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _send_loop(self) -> None:
        outbox, wake = self._outbox, self._wake
        while True:
            await wake.wait()
            wake.clear()
            client = self._client
            while outbox and self._connected.is_set() and client.is_connected:
                burst: list[bytes] = []
                size_bytes = 0
                while outbox and size_bytes < _BURST_BYTES_MAX:
                    frame, _ = outbox.popleft()
                    burst.append(frame)
                    size_bytes += len(frame)
                try:
                    # One write for all: the client's own `publish` costs a coroutine and a header block each.
                    await client._send_command(b"".join(burst))
                    await client._flush_pending()
                except Exception:
                    log.exception("messages could not be sent", count=len(burst))

    # -- supervision -----------------------------------------------------------------------------

    async def _connect(self, client: Client) -> None:
        """Connect one client; it retries for ever, so callers bound it."""

        async def on_disconnect() -> None:
            if client is self._client:
                self._link_down()

        async def on_reconnect() -> None:
            if client is self._client:
                self._link_up()

        async def on_closed() -> None:
            if client is self._client and not self._closing and self._sender is not None:
                self._link_down()
                self._rebuilder = asyncio.create_task(self._rebuild(), name=f"nats-rebuild-{self.name}")

        options: dict[str, Any] = {
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": RECONNECT_WAIT_SECONDS,
            "connect_timeout": 5,
            "ping_interval": PING_INTERVAL_SECONDS,
            "max_outstanding_pings": 2,
            "pending_size": CLIENT_BUFFER_BYTES_MAX,
            "flush_timeout": _FLUSH_TIMEOUT_SECONDS,
            **self._options,
        }
        await client.connect(
            self.servers,
            name=self.name,
            error_cb=self._on_error,
            disconnected_cb=on_disconnect,
            reconnected_cb=on_reconnect,
            closed_cb=on_closed,
            **options,
        )

    async def _on_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if "uthorization violation" in text.lower():
            log.error("the NATS server refuses the credentials", error=text)
            if self._refused is not None and not self._refused.done():
                self._refused.set_result(error)
        elif "permissions violation" in text.lower():
            log.error("the NATS server forbids a subject", error=text)
        else:
            log.debug("nats error", error=text)
        self._last_error = error

    def _link_down(self) -> None:
        if self._connected.is_set() and not self._closing:
            log.warning("the link to NATS is lost, reconnecting", connection=self.name)
        self._connected.clear()
        # The client would send what it still holds before anything that is sent again, out of order; whoever
        # needs a message delivered sends it again or asked to keep it.
        self._client._pending.clear()
        self._client._pending_data_size = 0
        kept = [item for item in self._outbox if item[1]]
        self._outbox.clear()
        self._outbox.extend(kept)

    def _link_up(self) -> None:
        self.reconnects += 1
        self._connected.set()
        self._wake.set()
        log.info("the link to NATS is back", connection=self.name)
        for listener in list(self._listeners):
            try:
                listener()
            except Exception:
                log.exception("a reconnect listener raised", connection=self.name)

    async def _rebuild(self) -> None:
        """Replace a client that was closed for good, with every subscription of the old one."""
        wait_seconds = RECONNECT_WAIT_SECONDS
        log.warning("NATS closed the client for good, building a new one", error=str(self._last_error))
        while not self._closing:
            client = Client()
            try:
                async with asyncio.timeout(_REBUILD_TIMEOUT_SECONDS):
                    await self._connect(client)
                # In rounds: more may be subscribed meanwhile.
                while missing := [one for one in self._subscriptions if one._client is not client]:
                    for subscription in missing:
                        await subscription._attach(client)
                if client.is_closed:
                    raise ConnectionResetError("closed again at once")
            except (TimeoutError, OSError, nats.errors.Error) as error:
                self._last_error = error
                await _close_client(client)
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(wait_seconds * 2, REBUILD_WAIT_SECONDS_MAX)
                continue
            except asyncio.CancelledError:
                await _close_client(client)
                raise
            self._client = client
            if client.is_connected:
                self._link_up()
                return


async def _close_client(client: Client) -> None:
    """Close a nats-py client whatever its state; never raises, never hangs."""
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
            await client.close()
    except (TimeoutError, OSError, nats.errors.Error, AttributeError, AssertionError, RuntimeError) as error:
        # RuntimeError: uvloop's, where the transport is gone already.
        log.debug("closing a NATS client failed", error=str(error))
