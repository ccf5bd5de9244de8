"""Running a command's coroutine, and the links to NATS and Postgres that commands open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .addresses import database_address, nats_address
from .errors import CommandError, ExitCode

if TYPE_CHECKING:
    from stepweave.client import Client
    from stepweave.messaging import Connection
    from stepweave_eventstore.postgres import PostgresEventStore
    from stepweave_eventstore.store import EventStore

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS: Final = 5.0


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; Ctrl-C cancels it and ends the process without a word."""
    import asyncio

    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.INTERRUPTED) from None


def ask(work: Callable[[Client], Awaitable[T]], nats_url: str | None, timeout_seconds: float) -> T:
    """Open a client of the API, do one thing with it, and give back what came of that."""

    async def asked() -> T:
        async with client(nats_url, timeout_seconds) as api:
            return await work(api)

    return run_async(asked())


@asynccontextmanager
async def client(nats_url: str | None, timeout_seconds: float) -> AsyncIterator[Client]:
    """A client of the API."""
    from stepweave.client import Client

    async with Client(
        nats_address(nats_url),
        name="stepweave-cli",
        timeout_seconds=timeout_seconds,
        connect_timeout_seconds=min(CONNECT_TIMEOUT_SECONDS, timeout_seconds),
    ) as connected:
        yield connected


@asynccontextmanager
async def connection(nats_url: str | None) -> AsyncIterator[Connection]:
    """A link to NATS."""
    from stepweave.messaging import Connection

    link = await Connection.open(
        nats_address(nats_url), name="stepweave-cli", connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS
    )
    try:
        yield link
    finally:
        await link.close()


async def refuse_unknown_shards(store: EventStore, wanted: Iterable[int] | None) -> None:
    """Raise `CommandError` where the installation does not have one of these shards."""
    known = [row.shard for row in await store.shards()]
    strangers = sorted(set(wanted or ()) - set(known))
    if strangers:
        has = f"this installation has 0 to {len(known) - 1}" if known else "start an orchestrator once"
        raise CommandError(f"there is no shard {strangers[0]}: {has}", ExitCode.NOT_FOUND)


@asynccontextmanager
async def event_store(database_url: str | None) -> AsyncIterator[PostgresEventStore]:
    """The event store."""
    from stepweave_eventstore.postgres import PostgresEventStore

    store = await PostgresEventStore.connect(database_address(database_url), command_timeout_seconds=60)
    try:
        yield store
    finally:
        await store.close()
