"""A database that goes away, hangs, refuses: nothing hangs, nothing is lost, and the store comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from stepweave_eventstore import audit
from stepweave_eventstore.migrate import migrate
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_eventstore.postgres_errors import from_postgres
from stepweave_eventstore.store import (
    EventStoreError,
    StoreUnavailable,
    UnstorableEvent,
)
from stepweave_orchestrator.embedded import Servers

TIMEOUT_SECONDS = 30.0
LEASE_MS = 60_000
A = "0190b7a2-0000-7000-8000-00000000000a"

WriterOf = Callable[..., Any]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
SomebodyWaits = Callable[[], Awaitable[None]]


@pytest.fixture
async def writer(postgres_store: PostgresEventStore, writer_of: WriterOf) -> Any:
    return await writer_of(postgres_store).take(0, 1)


# -- a server that goes away ---------------------------------------------------------------------
async def test_the_store_recovers_from_a_crash_of_the_server(servers: Servers, writer_of: WriterOf) -> None:
    await migrate(servers.dsn)
    store = await PostgresEventStore.connect(servers.dsn, command_timeout_seconds=5)
    try:
        await store.initialise(4)
        writer = await writer_of(store).take(0, 1)
        written = await writer.fill(20)
        append = writer.build([writer.event(A)])
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.append(append),
            store.shards,
            lambda: store.read_stream(A),
            lambda: store.beat("a", 1),
            lambda: store.renew_shards("writer", {0: 1}, LEASE_MS, {}),
            store.reset_projections,
        ]
        await servers.postgres.kill()
        for call in calls * 2:
            with pytest.raises(StoreUnavailable):
                await call()
        with pytest.raises(StoreUnavailable):
            await PostgresEventStore.connect(servers.dsn, command_timeout_seconds=5)
        await servers.postgres.start()
        assert await store.append(append) == {0}
        assert await store.read_shard(0) == [*written, *append.events]
        assert (await audit.verify(store)).ok
    finally:
        await store.close()


async def test_a_broken_connection_is_replaced(
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection, eventually: Eventually
) -> None:
    others = "FROM pg_stat_activity WHERE application_name = 'stepweave' AND datname = current_database()"
    for _ in range(3):
        await writer.fill(2)
        await postgres_store.shards()
        assert await admin.fetchval(f"SELECT count(pg_terminate_backend(pid)) {others}") >= 2
        await eventually(lambda: _no_rows(admin, f"SELECT 1 {others}"))
        # The news may not have reached the client yet: one failure is allowed, and then it goes on.
        for call in (postgres_store.shards, lambda: postgres_store.append(writer.build())):
            try:
                await call()
            except StoreUnavailable:
                await call()
    assert (await audit.verify(postgres_store)).events == 6


async def _no_rows(admin: asyncpg.Connection, query: str) -> bool:
    return not await admin.fetch(query)


class Proxy:
    """Stands between the store and the server; `cut_at_reply` breaks the connection once a reply comes."""

    def __init__(self, ledger_url: str) -> None:
        self._target = urlsplit(ledger_url)
        self.cut_at_reply = False

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        account = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{account}@127.0.0.1:{port}"))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection(self._target.hostname, self._target.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
            while data := await source.read(65536):
                if replies and self.cut_at_reply:
                    break
                sink.write(data)
            writer.close()
            upstream[1].close()

        try:
            await asyncio.gather(
                pump(reader, upstream[1], replies=False), pump(upstream[0], writer, replies=True)
            )
        except ConnectionError:
            writer.close()
            upstream[1].close()


async def test_an_append_whose_answer_was_lost_can_be_settled(ledger_url: str, writer_of: WriterOf) -> None:
    async with Proxy(ledger_url) as proxy:
        store = await PostgresEventStore.connect(proxy.url)
        try:
            await store.initialise(2)
            writer = await writer_of(store).take(0)
            await writer.fill(3)
            append = writer.build([writer.event(A)])
            proxy.cut_at_reply = True
            with pytest.raises(StoreUnavailable):
                await store.append(append)
            proxy.cut_at_reply = False
            row = (await store.shards())[0]
            assert (row.head_position, row.head_hash) == (4, append.shards[0].new_hash)
            assert await store.append(append) == set()  # the same again: the first one won
            assert await store.read_stream(A) == append.events
        finally:
            await store.close()


async def test_a_server_that_never_answers_does_not_hang_anybody(eventually: Eventually) -> None:
    came, went = [], []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer)
        while await reader.read(65536):
            pass
        writer.close()
        went.append(writer)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        url = f"postgresql://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}/d"
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="in time"):
            await PostgresEventStore.connect(url, command_timeout_seconds=0.2)
        with pytest.raises(StoreUnavailable, match="in time"):
            await migrate(url, timeout_seconds=0.2)
        assert time.monotonic() - started < TIMEOUT_SECONDS

        async def all_gone() -> bool:  # no connection is left open
            return len(came) == len(went) == 2

        await eventually(all_gone)


async def test_a_call_that_takes_too_long_ends_and_the_store_goes_on(
    ledger_url: str, admin: asyncpg.Connection, writer_of: WriterOf
) -> None:
    store = await PostgresEventStore.connect(ledger_url, pool_size_max=1, command_timeout_seconds=0.5)
    try:
        await store.initialise(2)
        writer = await writer_of(store).take(0)
        append = writer.build([writer.event(A)])
        async with admin.transaction():
            await admin.execute("LOCK TABLE stepweave.events, stepweave.shards")
            calls = [store.append(append), store.renew_shards("writer", {0: 1}, LEASE_MS, {}), store.shards()]
            answers = await asyncio.gather(
                *calls, *(store.read_stream(A) for _ in range(5)), return_exceptions=True
            )
            assert [type(answer) for answer in answers] == [StoreUnavailable] * 8
        assert await store.append(append) == {0}
        assert await store.read_stream(A) == append.events
    finally:
        await store.close()


async def test_cancelling_a_call_leaves_the_store_usable(
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection, somebody_waits: SomebodyWaits
) -> None:
    append = writer.build([writer.event(A)])
    async with admin.transaction():
        await admin.execute("LOCK TABLE stepweave.events")
        tasks = [
            asyncio.create_task(postgres_store.append(append)),
            asyncio.create_task(postgres_store.read_stream(A)),
        ]
        await somebody_waits()
        for task in tasks:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 2
    # Its statement may have come through after all, or not: sending it again settles that.
    await postgres_store.append(append)
    assert await postgres_store.read_stream(A) == append.events


async def test_closing_cuts_off_a_call_that_does_not_end(
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection, somebody_waits: SomebodyWaits
) -> None:
    async with admin.transaction():
        await admin.execute("LOCK TABLE stepweave.events")
        stuck = asyncio.create_task(postgres_store.append(writer.build([writer.event(A)])))
        await somebody_waits()
        await postgres_store.close()
        with pytest.raises(StoreUnavailable):
            await stuck


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncpg.ConnectionDoesNotExistError("x"), StoreUnavailable),
        (asyncpg.AdminShutdownError("x"), StoreUnavailable),
        (asyncpg.CannotConnectNowError("x"), StoreUnavailable),
        (asyncpg.TooManyConnectionsError("x"), StoreUnavailable),
        (asyncpg.DiskFullError("x"), StoreUnavailable),
        (asyncpg.DeadlockDetectedError("x"), StoreUnavailable),
        (asyncpg.QueryCanceledError("x"), StoreUnavailable),
        (asyncpg.LockNotAvailableError("x"), StoreUnavailable),
        (asyncpg.ReadOnlySQLTransactionError("x"), StoreUnavailable),
        (asyncpg.InvalidPasswordError("x"), StoreUnavailable),
        (asyncpg.InterfaceError("x"), StoreUnavailable),
        (asyncpg.InternalClientError("x"), StoreUnavailable),
        (ConnectionRefusedError("x"), StoreUnavailable),
        (TimeoutError(), StoreUnavailable),
        (asyncpg.InvalidTextRepresentationError("x"), UnstorableEvent),
        (asyncpg.StatementTooComplexError("x"), UnstorableEvent),
        (asyncpg.CheckViolationError("x"), UnstorableEvent),
        (asyncpg.InsufficientPrivilegeError("x"), EventStoreError),
        (asyncpg.UndefinedTableError("x"), EventStoreError),
        (asyncpg.DataCorruptedError("x"), EventStoreError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_kind_of_error_has_its_meaning(error: Exception, expected: type[Exception]) -> None:
    assert type(from_postgres(error)) is expected


def test_other_errors_are_left_alone() -> None:
    assert from_postgres(KeyError("x")) is None


async def test_what_the_server_refuses_for_now_is_unavailable(
    ledger_url: str, postgres_store: PostgresEventStore, admin: asyncpg.Connection, role: str, role_url: str
) -> None:
    with pytest.raises(EventStoreError, match="grant_service") as refused:
        await PostgresEventStore.connect(role_url)
    assert not isinstance(refused.value, StoreUnavailable)
    await admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    with pytest.raises(StoreUnavailable, match="53300"):
        await PostgresEventStore.connect(role_url)
    with pytest.raises(StoreUnavailable, match="28P01"):
        await PostgresEventStore.connect(role_url.replace("secret", "wrong"))
    with pytest.raises(StoreUnavailable, match="3D000"):
        await PostgresEventStore.connect(f"{ledger_url}_not_there")


@pytest.mark.parametrize("address", ["postgresql://host:port/x", "http://host/x"])
async def test_an_address_that_cannot_be_read_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="database address cannot be used"):
        await PostgresEventStore.connect(address)
    with pytest.raises(ValueError, match="database address cannot be used"):
        await migrate(address)


async def test_a_standby_is_no_place_to_write(
    writer: Any, admin: asyncpg.Connection, role: str, role_url: str
) -> None:
    """Its connections are dropped, so that the next ones may find the new primary."""
    await admin.execute(f"SELECT stepweave.grant_service('{role}')")
    await admin.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    store = await PostgresEventStore.connect(role_url)
    try:
        append = writer.build([writer.event(A)])
        with pytest.raises(StoreUnavailable, match="25006"):
            await store.append(append)
        await admin.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")
        assert await store.append(append) == {0}
    finally:
        await store.close()
