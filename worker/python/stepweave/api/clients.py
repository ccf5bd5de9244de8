"""The connections to APIs: one bounded pool for each server, shared by all handlers of a process.

Plain functions share `httpx.Client`s, which are closed at the end of the process (or by `close_clients`). Async
ones share `httpx.AsyncClient`s, which belong to an event loop and are closed when it ends.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib.util
import logging
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from stepweave.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

C = TypeVar("C")

#: Most connections to one server; calls beyond them wait.
CONNECTIONS_MAX: Final = 100
#: Most connections to one server that are kept for later.
IDLE_CONNECTIONS_MAX: Final = 20
IDLE_SECONDS_MAX: Final = 15.0
#: Most servers whose connections are kept.
SERVERS_MAX: Final = 32


def require_httpx() -> None:
    """Raise `ConfigurationError` that says what to install, where httpx is missing."""
    if importlib.util.find_spec("httpx") is None:
        raise ConfigurationError(
            "handlers that call HTTP APIs need httpx: pip install 'stepweave[http]'",
            error_code="HTTP_NOT_INSTALLED",
        )


class _Kept(Generic[C]):
    """Clients by server, with how many calls use each; from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The least recently used first.
        self._clients: dict[str, tuple[C, int]] = {}

    def take(self, server: str, make: Callable[[], C]) -> C:
        """The client for a server; to be given back."""
        with self._lock:
            client, users = self._clients.pop(server) if server in self._clients else (make(), 0)
            self._clients[server] = (client, users + 1)
        return client

    def give_back(self, server: str, client: C) -> list[C]:
        """End one use; gives the clients that are too many now and have to be closed."""
        with self._lock:
            current = self._clients.get(server)
            # Not where all were closed in between.
            if current is not None and current[0] is client:
                self._clients[server] = (client, current[1] - 1)
            idle = [key for key, (_, users) in self._clients.items() if not users]
            surplus = idle[: max(0, len(self._clients) - SERVERS_MAX)]
            return [self._clients.pop(key)[0] for key in surplus]

    def take_all(self) -> list[C]:
        """Every client, to be closed."""
        with self._lock:
            clients = [client for client, _ in self._clients.values()]
            self._clients.clear()
        return clients


_shared: Final[_Kept[httpx.Client]] = _Kept()
_of_loops: Final[WeakKeyDictionary[Any, _OfLoop]] = WeakKeyDictionary()


@contextmanager
def client_of(server: str) -> Iterator[httpx.Client]:
    """The client of this process for a server (`https://host:port`)."""
    client = _shared.take(server, _new_client)
    try:
        yield client
    finally:
        for surplus in _shared.give_back(server, client):
            surplus.close()


def close_clients() -> None:
    """Close the connections of plain functions; the next call opens new ones."""
    for client in _shared.take_all():
        client.close()


atexit.register(close_clients)


@asynccontextmanager
async def async_client_of(server: str) -> AsyncIterator[httpx.AsyncClient]:
    """The client of this event loop for a server."""
    loop = asyncio.get_running_loop()
    of_loop = _of_loops.get(loop)
    if of_loop is None:
        of_loop = _of_loops[loop] = _OfLoop()
        await of_loop.closing.__anext__()
    client = of_loop.kept.take(server, functools.partial(_new_async_client, loop))
    try:
        yield client
    finally:
        for surplus in of_loop.kept.give_back(server, client):
            await surplus.aclose()


class _OfLoop:
    """The clients of one event loop."""

    def __init__(self) -> None:
        self.kept: _Kept[httpx.AsyncClient] = _Kept()
        # `asyncio.run` and its like close, at the loop's end, the async generators that were begun on it: the
        # one place where connections can still be closed properly, whoever runs the loop.
        self.closing = _close_at_the_end(self.kept)


async def _close_at_the_end(kept: _Kept[httpx.AsyncClient]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        _of_loops.pop(asyncio.get_running_loop(), None)
        for client in kept.take_all():
            await client.aclose()


def _new_client() -> httpx.Client:
    _prepare_httpx()
    import httpx

    limits = httpx.Limits(
        max_connections=CONNECTIONS_MAX,
        max_keepalive_connections=IDLE_CONNECTIONS_MAX,
        keepalive_expiry=IDLE_SECONDS_MAX,
    )
    return httpx.Client(limits=limits, verify=_tls(), cookies=_no_cookies(), follow_redirects=False)


def _new_async_client(loop: asyncio.AbstractEventLoop) -> httpx.AsyncClient:
    _prepare_httpx()
    import httpx

    # The virtual clock of the test kit stands still for open sockets, so there none may stay open.
    virtual = hasattr(loop, "waits_for_real")
    limits = httpx.Limits(
        max_connections=CONNECTIONS_MAX,
        max_keepalive_connections=0 if virtual else IDLE_CONNECTIONS_MAX,
        keepalive_expiry=IDLE_SECONDS_MAX,
    )
    return httpx.AsyncClient(limits=limits, verify=_tls(), cookies=_no_cookies(), follow_redirects=False)


def _no_cookies() -> CookieJar:
    """A jar that takes none: the cookies of one task are no business of the next."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


@functools.cache
def _tls() -> ssl.SSLContext:
    """Read once: the certificates of all authorities take a while."""
    import httpx

    return httpx.create_ssl_context()


def _prepare_httpx() -> None:
    require_httpx()
    log = logging.getLogger("httpx")
    if log.level == logging.NOTSET:
        # Its line for every request has the query in it, which may hold secrets.
        log.setLevel(logging.WARNING)
