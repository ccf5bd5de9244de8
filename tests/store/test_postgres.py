"""What only the PostgreSQL store has: fencing between processes, a server that goes away, rights, tampering."""

from __future__ import annotations

import asyncio
import random
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest

from stepweave_eventstore import audit
from stepweave_eventstore.memory import MemoryEventStore
from stepweave_eventstore.migrate import migrate
from stepweave_eventstore.postgres import LEDGER_SETTINGS, PostgresEventStore
from stepweave_eventstore.postgres_errors import from_postgres
from stepweave_eventstore.statements import statement
from stepweave_eventstore.store import (
    EventStore,
    EventStoreError,
    Snapshot,
    StoreUnavailable,
    TaskFilter,
    UnstorableEvent,
    Wakeup,
    WrongExpectedVersion,
)
from stepweave_orchestrator.embedded import Servers
from stepweave_schemas.mint import uuid7

DEADLINE_SECONDS = 20.0
LEASE_MS = 60_000
A, B = (f"0190b7a2-0000-7000-8000-00000000000{letter}" for letter in "ab")

WriterOf = Callable[..., Any]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


@pytest.fixture
async def admin(ledger_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(ledger_url, timeout=DEADLINE_SECONDS)
    yield connection
    await connection.close(timeout=DEADLINE_SECONDS)


@pytest.fixture
async def writer(postgres_store: PostgresEventStore, writer_of: WriterOf) -> Any:
    return await writer_of(postgres_store).take(0, 1)


# -- fencing -------------------------------------------------------------------------------------
async def test_an_append_that_waited_out_a_take_over_stores_nothing(
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection
) -> None:
    """The append is under way, and waits for the shard's row, while another owner takes the shard."""
    await writer.fill(3)
    take_over = admin.transaction()
    await take_over.start()
    await admin.execute("UPDATE stepweave.shards SET epoch = epoch + 1, owner = 'b' WHERE shard = 0")
    append = writer.build([writer.event(A), writer.event(B, shard=1)], [Wakeup(A, 0, 5)])
    zombie = asyncio.create_task(postgres_store.append(append))
    await eventually(lambda: waits_for_a_lock(admin))
    await take_over.commit()
    assert await zombie == {1}
    assert await postgres_store.read_stream(A) == []
    assert await postgres_store.wakeups(0) == []
    assert (await audit.verify(postgres_store)).ok


async def waits_for_a_lock(admin: asyncpg.Connection) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await admin.fetchval(waiting))


async def test_of_two_processes_that_append_at_one_epoch_only_one_stores(
    ledger_url: str, postgres_store: PostgresEventStore, writer: Any, writer_of: WriterOf
) -> None:
    other_store = await PostgresEventStore.connect(ledger_url)
    try:
        twin = writer_of(other_store)
        twin.rows = dict(writer.rows)
        for _ in range(20):
            mine, its = writer.build([writer.event(uuid7())]), twin.build([twin.event(uuid7())])
            answers = await asyncio.gather(postgres_store.append(mine), other_store.append(its))
            assert sorted(map(len, answers)) == [0, 1]
            for one in (writer, twin):
                one.committed(mine if answers[0] else its)
    finally:
        await other_store.close()
    assert (await audit.verify(postgres_store)).events == 20


async def test_a_shard_that_is_being_written_is_skipped_not_waited_for(
    postgres_store: PostgresEventStore, admin: asyncpg.Connection
) -> None:
    async with admin.transaction():
        await admin.execute("UPDATE stepweave.shards SET published_position = 0 WHERE shard = 1")
        taken = await postgres_store.acquire_shards("a", [0, 1, 2], LEASE_MS)
    assert [row.shard for row in taken] == [0, 2]


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
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection
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


async def test_a_server_that_never_answers_does_not_hang_anybody() -> None:
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
        assert time.monotonic() - started < DEADLINE_SECONDS

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
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection
) -> None:
    append = writer.build([writer.event(A)])
    async with admin.transaction():
        await admin.execute("LOCK TABLE stepweave.events")
        tasks = [
            asyncio.create_task(postgres_store.append(append)),
            asyncio.create_task(postgres_store.read_stream(A)),
        ]
        await eventually(lambda: waits_for_a_lock(admin))
        for task in tasks:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 2
    # Its statement may have come through after all, or not: sending it again settles that.
    await postgres_store.append(append)
    assert await postgres_store.read_stream(A) == append.events


async def test_closing_cuts_off_a_call_that_does_not_end(
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection
) -> None:
    async with admin.transaction():
        await admin.execute("LOCK TABLE stepweave.events")
        stuck = asyncio.create_task(postgres_store.append(writer.build([writer.event(A)])))
        await eventually(lambda: waits_for_a_lock(admin))
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
    ledger_url: str, postgres_store: PostgresEventStore, admin: asyncpg.Connection, role: str
) -> None:
    as_role = _as_role(ledger_url, role)
    with pytest.raises(EventStoreError, match="grant_service") as refused:
        await PostgresEventStore.connect(as_role)
    assert not isinstance(refused.value, StoreUnavailable)
    await admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    with pytest.raises(StoreUnavailable, match="53300"):
        await PostgresEventStore.connect(as_role)
    with pytest.raises(StoreUnavailable, match="28P01"):
        await PostgresEventStore.connect(as_role.replace("secret", "wrong"))
    with pytest.raises(StoreUnavailable, match="3D000"):
        await PostgresEventStore.connect(f"{ledger_url}_not_there")


@pytest.mark.parametrize("address", ["postgresql://host:port/x", "http://host/x"])
async def test_an_address_that_cannot_be_read_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="database address cannot be used"):
        await PostgresEventStore.connect(address)
    with pytest.raises(ValueError, match="database address cannot be used"):
        await migrate(address)


async def test_a_standby_is_no_place_to_write(
    ledger_url: str, writer: Any, admin: asyncpg.Connection, role: str
) -> None:
    """Its connections are dropped, so that the next ones may find the new primary."""
    await admin.execute(f"SELECT stepweave.grant_service('{role}')")
    await admin.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    store = await PostgresEventStore.connect(_as_role(ledger_url, role))
    try:
        append = writer.build([writer.event(A)])
        with pytest.raises(StoreUnavailable, match="25006"):
            await store.append(append)
        await admin.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")
        assert await store.append(append) == {0}
    finally:
        await store.close()


# -- rights --------------------------------------------------------------------------------------
def _as_role(ledger_url: str, role: str) -> str:
    parts = urlsplit(ledger_url)
    return urlunsplit(parts._replace(netloc=f"{role}:secret@{parts.hostname}:{parts.port}"))


@pytest.fixture
async def role(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A role without any right."""
    name = f"test_role_{uuid.uuid4().hex}"
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    yield name
    await admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


CHANGES = (
    "UPDATE stepweave.events SET actor = 'x'",
    "UPDATE stepweave.events SET actor = 'x' WHERE false",
    "DELETE FROM stepweave.events",
    "TRUNCATE stepweave.events",
    "MERGE INTO stepweave.events e USING (VALUES (1)) v ON true WHEN MATCHED THEN DELETE",
    "INSERT INTO stepweave.events SELECT * FROM stepweave.events"
    " ON CONFLICT (shard, position) DO UPDATE SET actor = 'x'",
)


async def test_the_service_role_works_and_cannot_change_events(
    ledger_url: str,
    postgres_store: PostgresEventStore,
    admin: asyncpg.Connection,
    role: str,
    writer_of: WriterOf,
) -> None:
    await admin.execute(f"SELECT stepweave.grant_service('{role}')")
    await admin.execute(f"SELECT stepweave.grant_service('{role}')")
    service = await PostgresEventStore.connect(_as_role(ledger_url, role))
    try:
        await use_everything(service, writer_of)
    finally:
        await service.close()
    connection = await asyncpg.connect(_as_role(ledger_url, role), timeout=DEADLINE_SECONDS)
    try:
        for change in (
            *CHANGES,
            "ALTER TABLE stepweave.events DISABLE TRIGGER events_are_immutable",
            "DROP TABLE stepweave.events",
            "DELETE FROM stepweave.shards",
            "UPDATE stepweave.installation SET shard_count = 1",
            "DELETE FROM stepweave.migrations",
            "CREATE TABLE stepweave.mine (x int)",
            f"SELECT stepweave.grant_service('{role}')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(change)
    finally:
        await connection.close(timeout=DEADLINE_SECONDS)
    assert (await audit.verify(postgres_store)).events == 12


async def use_everything(store: EventStore, writer_of: WriterOf) -> None:
    """Every method once, with success."""
    await store.initialise(4)
    writer = await writer_of(store, "service").take(0, 1)
    await writer.fill(10)
    await writer.write(
        writer.event(A), writer.event(B, shard=1), wakeups=[Wakeup(A, 0, 5), Wakeup(B, 1, None)]
    )
    with pytest.raises(WrongExpectedVersion):
        await store.append(writer.build([writer.event(A)]))
    assert await store.renew_shards("service", {0: 1, 1: 1}, LEASE_MS, {0: 1}) == {0, 1}
    await store.release_shards("service", {1: 1}, {1: 1})
    await store.set_feed_incarnations(0, 1, {"LOG": "x"})
    assert await store.feed_incarnations(0) == {"LOG": "x"}
    assert await store.beat("service", LEASE_MS) == ["service"]
    await store.retire("service")
    assert await store.wakeups(0) == [Wakeup(A, 0, 5)]
    await store.save_snapshot(Snapshot(A, 1, 1, b"state"))
    assert await store.load_snapshot(A, format=1) is not None
    await store.project(shard=0, position=3)
    assert await store.projected_position(0) == 3
    await store.reset_projections(0)
    await store.reset_projections()
    assert await store.list_tasks(TaskFilter()) == ([], 0)
    assert await store.list_templates() == []
    assert await store.unfinished_tasks(0) == []
    assert set(await store.read_streams([A, B])) == set(await _tasks(store, [(A, 1), (B, 1)]))
    assert (await audit.verify(store)).ok


async def _tasks(store: EventStore, keys: list[tuple[str, int]]) -> list[str]:
    return [task_id for task_id, _ in await store.locate(keys)]


@pytest.mark.parametrize("replica", [False, True])
@pytest.mark.parametrize("change", CHANGES)
async def test_events_are_protected_from_a_superuser_by_accident(
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection, change: str, replica: bool
) -> None:
    await writer.fill(10)
    if replica:  # ordinary triggers do not fire in this mode
        await admin.execute("SET session_replication_role = replica")
    with pytest.raises(
        asyncpg.InsufficientPrivilegeError, match="events are never changed and never deleted"
    ):
        await admin.execute(change)
    assert (await audit.verify(postgres_store)).events == 10


async def test_a_role_that_owns_the_events_cannot_be_the_service(
    postgres_store: PostgresEventStore, admin: asyncpg.Connection, role: str
) -> None:
    owner = await admin.fetchval("SELECT current_user")
    with pytest.raises(asyncpg.PostgresError, match="can act as the owner"):
        await admin.execute(f"SELECT stepweave.grant_service('{owner}')")
    await admin.execute(f'GRANT "{owner}" TO {role}')
    with pytest.raises(asyncpg.PostgresError, match="can act as the owner"):
        await admin.execute(f"SELECT stepweave.grant_service('{role}')")


async def test_a_reader_can_audit_and_change_nothing(
    ledger_url: str,
    postgres_store: PostgresEventStore,
    writer: Any,
    admin: asyncpg.Connection,
    role: str,
) -> None:
    await writer.fill(10)
    await admin.execute(f"SELECT stepweave.grant_reader('{role}')")
    reader = await PostgresEventStore.connect(_as_role(ledger_url, role))
    try:
        assert (await audit.verify(reader)).events == 10
        with pytest.raises(EventStoreError, match="42501"):
            await reader.append(writer.build([writer.event(A)]))
        with pytest.raises(EventStoreError, match="42501"):
            await reader.acquire_shards("reader", [2], LEASE_MS)
    finally:
        await reader.close()


# -- tampering -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tampering", "position", "kind"),
    [
        ("UPDATE events SET data = '{\"version\": 9}' WHERE shard = 0 AND position = 14", 14, "hash"),
        ("UPDATE events SET data = (data::text || ' ')::json WHERE shard = 0 AND position = 14", 14, "hash"),
        ("UPDATE events SET actor = 'somebody' WHERE shard = 0 AND position IN (20, 8)", 8, "hash"),
        ("UPDATE events SET recorded_at = recorded_at + '1 ms' WHERE shard = 0 AND position = 1", 1, "hash"),
        ("UPDATE events SET hash = sha256('x') WHERE shard = 0 AND position = 25", 25, "hash"),
        ("UPDATE events SET version = version + 100 WHERE shard = 0 AND position = 5", 5, "hash"),
        ("DELETE FROM events WHERE shard = 0 AND position = 1", 1, "position"),
        ("DELETE FROM events WHERE shard = 0 AND position = 11", 11, "position"),
        ("DELETE FROM events WHERE shard = 0 AND position >= 22", 22, "tail_missing"),
        ("DELETE FROM events WHERE shard = 0", 1, "tail_missing"),
        ("TRUNCATE events", 1, "tail_missing"),
        ("UPDATE shards SET head_hash = sha256('x') WHERE shard = 0", 25, "head_hash"),
        (
            "UPDATE shards SET head_position = 24, head_hash = (SELECT hash FROM events WHERE shard = 0 AND position = 24)"
            " WHERE shard = 0",
            25,
            "beyond_head",
        ),
        ("UPDATE shards SET head_position = 30 WHERE shard = 0", 26, "tail_missing"),
        # Two neighbours change places.
        (
            "UPDATE events SET position = -position WHERE shard = 0 AND position IN (6, 7);"
            "UPDATE events SET position = 13 + position WHERE shard = 0 AND position < 0",
            6,
            "hash",
        ),
    ],
)
async def test_the_audit_finds_tampering_where_it_is(
    postgres_store: PostgresEventStore,
    writer: Any,
    admin: asyncpg.Connection,
    tampering: str,
    position: int,
    kind: str,
) -> None:
    await writer.fill(25)
    await writer.fill(5, shard=1)
    assert (await audit.verify(postgres_store)).events == 30
    await admin.execute("ALTER TABLE stepweave.events DISABLE TRIGGER events_are_immutable")
    await admin.execute(f"SET search_path = stepweave; {tampering}")
    fault = (await audit.verify(postgres_store, shards=[0])).faults[0]
    assert (fault.shard, fault.position, fault.kind) == (0, position, kind)
    assert fault.message
    if "TRUNCATE" not in tampering:
        assert (await audit.verify(postgres_store, shards=[1])).ok


async def test_a_row_behind_its_events_stops_the_shard(
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection
) -> None:
    await writer.fill(5)
    await admin.execute("UPDATE stepweave.shards SET head_position = 4 WHERE shard = 0")
    writer.rows[0] = msgspec.structs.replace(writer.rows[0], head_position=4)
    with pytest.raises(EventStoreError, match="damaged") as caught:
        await postgres_store.append(writer.build([writer.event(A)]))
    assert type(caught.value) is EventStoreError
    assert await postgres_store.read_stream(A) == []


# -- how it is stored ----------------------------------------------------------------------------
async def test_moments_are_exact_to_the_millisecond(
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection
) -> None:
    rng = random.Random(1)
    times = [0, 1, 999, 1_000, 2**31 * 1000, 253_402_300_799_999]
    times += [rng.randrange(253_402_300_800_000) for _ in range(2_000)]
    written = await writer.write(
        *(writer.event(A, n, recorded_at_ms=time) for n, time in enumerate(times, 1))
    )
    assert await postgres_store.read_stream(A) == written
    await admin.execute("SET timezone = 'Pacific/Chatham'")
    at = await admin.fetchval(
        "SELECT recorded_at AT TIME ZONE 'UTC' FROM stepweave.events WHERE position = 5"
    )
    assert at.isoformat() == "2038-01-19T03:14:08"


async def test_every_update_of_a_shard_row_is_hot(database_url: str, writer_of: WriterOf) -> None:
    await migrate(database_url)
    store = await PostgresEventStore.connect(database_url)
    await store.initialise(2)
    writer = await writer_of(store).take(0, 1)
    for _ in range(150):
        await writer.write(writer.event(uuid7()), writer.event(uuid7(), shard=1))
        await store.renew_shards("writer", {0: 1, 1: 1}, LEASE_MS, {0: writer.rows[0].head_position})
    await store.close()  # a backend reports its counts when it ends
    admin = await asyncpg.connect(database_url, timeout=DEADLINE_SECONDS)
    counts = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'stepweave.shards'::regclass"
    )

    async def counted() -> bool:
        return int((await admin.fetchrow(counts))["n_tup_upd"]) >= 602

    await eventually(counted)
    row = await admin.fetchrow(counts)
    assert row["n_tup_hot_upd"] == row["n_tup_upd"]
    await admin.close(timeout=DEADLINE_SECONDS)


async def test_an_append_goes_by_index_even_if_it_was_planned_for_empty_tables(
    postgres_store: PostgresEventStore, admin: asyncpg.Connection
) -> None:
    await admin.execute("ANALYZE")
    for name, value in LEDGER_SETTINGS.items():
        await admin.execute(f"SET {name} = {value}")
    await admin.execute(f"PREPARE appending AS {statement('append')}")
    plan = await admin.fetch(f"EXPLAIN EXECUTE appending({', '.join(['NULL'] * 21)})")
    text = "\n".join(row[0] for row in plan)
    assert "Function Scan on e" in text
    # In ascending order, whichever side of the join it is: so no two appends lock rows crosswise.
    assert "Index Scan using shards_pkey on shards s" in text
    assert "Seq Scan" not in text
    assert re.search(r"Index Scan using wakeups_pkey on wakeups .*\n\s+Index Cond:", text)


async def test_a_walk_holds_little_of_large_events(
    postgres_store: PostgresEventStore, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepweave_eventstore.postgres._WALK_BYTES_MAX", 10_000)
    sizes = [100, 9_000, 20_000, 50, 50, 4_000, 4_000, 4_000, 10]
    written = await writer.write(
        *(writer.event(A, n, data=f'"{"x" * size}"') for n, size in enumerate(sizes, 1))
    )
    assert [event async for event in postgres_store.walk(0)] == written


# -- the same as in memory -----------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(5))
async def test_random_calls_have_the_same_answers_as_in_memory(
    postgres_store: PostgresEventStore, memory_store: MemoryEventStore, writer_of: WriterOf, seed: int
) -> None:
    """Two writers fight over shards with right and wrong beliefs; both stores must agree on every answer."""
    rng = random.Random(seed)
    stores: list[EventStore] = [postgres_store, memory_store]
    task_ids = [uuid7() for _ in range(4)]
    writers = [writer_of(postgres_store, owner) for owner in "ab"]

    async def both(call: Callable[[EventStore], Awaitable[Any]]) -> Any:
        answers = []
        for store in stores:
            try:
                answers.append(await call(store))
            except EventStoreError as error:
                answers.append((type(error), getattr(error, "task_ids", None)))
        assert answers[0] == answers[1]
        return answers[0]

    def without_clock(rows: Any) -> Any:
        return [msgspec.structs.replace(row, lease_remaining_ms=0) for row in rows]

    async def acquire(writer: Any) -> None:
        shards, lease_ms = rng.sample(range(4), 2), rng.choice([0, 0, LEASE_MS])

        async def call(store: EventStore) -> Any:
            return without_clock(await store.acquire_shards(writer.owner, shards, lease_ms))

        writer.rows.update({row.shard: row for row in await both(call)})

    async def append(writer: Any) -> None:
        if not writer.rows:
            return
        events = [
            writer.event(rng.choice(task_ids), rng.randrange(1, 12), shard=rng.choice([*writer.rows]))
            for _ in range(rng.randrange(4))
        ]
        wakeups = [
            Wakeup(rng.choice(task_ids), rng.choice([*writer.rows]), rng.choice([None, 1, 2]))
            for _ in range(rng.randrange(3))
        ]
        made = writer.build(events, wakeups)
        moved = await both(lambda store: store.append(made))
        if moved == {shard.shard for shard in made.shards}:
            writer.committed(made)

    async def release(writer: Any) -> None:
        shard = rng.randrange(4)
        epoch = writer.rows[shard].epoch if shard in writer.rows else 1
        await both(lambda store: store.release_shards(writer.owner, {shard: epoch}, {}))

    async def refresh(writer: Any) -> None:
        heads = {row.shard: row for row in await postgres_store.shards()}
        for shard, row in writer.rows.items():
            writer.rows[shard] = msgspec.structs.replace(heads[shard], epoch=row.epoch)

    for _ in range(150):
        step = rng.choice([acquire, append, append, append, append, release, refresh])
        await step(rng.choice(writers))

    async def state(store: EventStore) -> Any:
        return (
            without_clock(await store.shards()),
            [await store.read_shard(shard) for shard in range(4)],
            await store.read_streams(task_ids),
            [await store.wakeups(shard) for shard in range(4)],
        )

    rows, ledgers, _, _ = await both(state)
    assert sum(map(len, ledgers)) == sum(row.head_position for row in rows) > 10
