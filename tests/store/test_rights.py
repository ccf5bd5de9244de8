"""Who may do what with the ledger, and how tampering shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import msgspec
import pytest

from stepweave_eventstore import audit
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_eventstore.store import (
    EventStore,
    EventStoreError,
    Snapshot,
    TaskFilter,
    Wakeup,
    WrongExpectedVersion,
)

TIMEOUT_SECONDS = 60.0
LEASE_MS = 60_000
A, B = (f"0190b7a2-0000-7000-8000-00000000000{letter}" for letter in "ab")

WriterOf = Callable[..., Any]


@pytest.fixture
async def writer(postgres_store: PostgresEventStore, writer_of: WriterOf) -> Any:
    return await writer_of(postgres_store).take(0, 1)


# -- rights --------------------------------------------------------------------------------------
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
    postgres_store: PostgresEventStore,
    admin: asyncpg.Connection,
    role: str,
    writer_of: WriterOf,
    role_url: str,
) -> None:
    await admin.execute(f"SELECT stepweave.grant_service('{role}')")
    await admin.execute(f"SELECT stepweave.grant_service('{role}')")
    service = await PostgresEventStore.connect(role_url)
    try:
        await use_everything(service, writer_of)
    finally:
        await service.close()
    connection = await asyncpg.connect(role_url, timeout=TIMEOUT_SECONDS)
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
        await connection.close(timeout=TIMEOUT_SECONDS)
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
    assert await store.size_bytes() > 0
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
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection, role: str, role_url: str
) -> None:
    await writer.fill(10)
    await admin.execute(f"SELECT stepweave.grant_reader('{role}')")
    reader = await PostgresEventStore.connect(role_url)
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
