"""Both servers of one data folder, which belongs to one process at a time."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from .errors import EmbeddedFailure, EmbeddedServerError, from_os_error
from .nats import EmbeddedNats
from .postgres import EmbeddedPostgres
from .process import wait_until
from .server import EmbeddedServer

log = structlog.get_logger(__name__)

#: How long the servers of a process that was killed may take to stop.
_ORPHANS_TIMEOUT_SECONDS = 20.0
_SERVERS = "the embedded servers"
#: How often it is looked whether the servers live.
WATCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Servers:
    """The running servers and their addresses."""

    dsn: str
    nats_url: str
    postgres: EmbeddedPostgres
    nats: EmbeddedNats


@dataclass(frozen=True, slots=True)
class ServerAddresses:
    """Where PostgreSQL and NATS are, whoever runs them."""

    dsn: str
    nats_url: str


@asynccontextmanager
async def embedded_servers(data_dir: Path) -> AsyncIterator[Servers]:
    """Start PostgreSQL and NATS on `data_dir`, and stop them at the end.

    Raises `EmbeddedServerError`, also where another process uses the folder.
    """
    async with _own_folder(data_dir) as lock:
        postgres = EmbeddedPostgres(data_dir / "postgres", keep_fds=[lock])
        nats = EmbeddedNats(data_dir / "nats", keep_fds=[lock])
        async with postgres, nats:
            yield Servers(postgres.dsn, nats.url, postgres, nats)


@asynccontextmanager
async def existing_or_embedded_servers(
    data_dir: Path, *, database_url: str | None = None, nats_url: str | None = None
) -> AsyncIterator[ServerAddresses]:
    """Like `embedded_servers`, without the server whose address is given (`DATABASE_URL`, `NATS_URL`).

    The folder is not touched where both are given. A server that dies is started again on its port.
    """
    async with AsyncExitStack() as stack:
        started: list[EmbeddedServer] = []
        if not (database_url and nats_url):
            lock = await stack.enter_async_context(_own_folder(data_dir))
            if not database_url:
                postgres = EmbeddedPostgres(data_dir / "postgres", keep_fds=[lock])
                database_url = (await stack.enter_async_context(postgres)).dsn
                started.append(postgres)
            if not nats_url:
                nats = EmbeddedNats(data_dir / "nats", keep_fds=[lock])
                nats_url = (await stack.enter_async_context(nats)).url
                started.append(nats)
        watching = asyncio.create_task(_keep_running(started))
        stack.push_async_callback(_end, watching)
        yield ServerAddresses(database_url, nats_url)


async def _keep_running(servers: Sequence[EmbeddedServer]) -> None:
    """Start a server again that has died; everything that uses it connects again by itself."""
    while servers:
        await asyncio.sleep(WATCH_SECONDS)
        for server in servers:
            if server.is_running:
                continue
            log.warning("an embedded server has died; starting it again", server=server.name)
            try:
                await server.restart()
            except EmbeddedServerError as error:
                log.error("an embedded server cannot be started again, trying on", error=str(error))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


@asynccontextmanager
async def _own_folder(data_dir: Path) -> AsyncIterator[int]:
    """Hold the folder's lock; gives its file descriptor.

    The servers inherit it: where their parent was killed, the folder stays locked until they are gone too.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        ignore = data_dir / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", "ascii")
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise from_os_error(error, server=_SERVERS, path=data_dir) from error
    try:
        if not _try_lock(lock):
            holder = _holder(lock)
            if holder is not None and _is_alive(holder):
                raise _in_use(data_dir, f"process {holder}")
            if not await wait_until(lambda: _try_lock(lock), _ORPHANS_TIMEOUT_SECONDS):
                raise _in_use(data_dir, "servers that a killed process left behind")
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: int) -> int | None:
    """The process that wrote its id into the lock file."""
    try:
        return int(os.pread(file, 32, 0))
    except ValueError:
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _in_use(data_dir: Path, by: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"The data folder {data_dir} is in use by {by}: stop it first, or choose another data folder.",
        failure=EmbeddedFailure.FOLDER_IN_USE,
        server=_SERVERS,
    )
