"""Migrations: applied once, wholly or not at all, by any number of processes at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from stepweave_eventstore import migrate as migrate_module
from stepweave_eventstore.migrate import MigrationError, MigrationsPending, migrate, pending
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_eventstore.statements import Migration, migrations
from stepweave_eventstore.store import StoreUnavailable

NAMES = [migration.name for migration in migrations()]


@pytest.fixture
async def admin(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url, timeout=20)
    yield connection
    await connection.close(timeout=20)


def release_with(monkeypatch: pytest.MonkeyPatch, *more: Migration) -> None:
    """Have a release whose migrations are today's and these."""
    monkeypatch.setattr(migrate_module, "migrations", lambda: (*migrations(), *more))


async def test_migrating_applies_everything_once(database_url: str, admin: asyncpg.Connection) -> None:
    assert sorted(NAMES) == NAMES
    assert await pending(database_url) == NAMES
    assert await migrate(database_url) == NAMES
    assert await pending(database_url) == []
    assert await migrate(database_url) == []
    rows = await admin.fetch("SELECT name, checksum FROM stepweave.migrations ORDER BY name")
    assert [tuple(row) for row in rows] == [(m.name, m.checksum) for m in migrations()]


async def test_many_processes_may_migrate_at_once(database_url: str) -> None:
    answers = await asyncio.gather(*(migrate(database_url) for _ in range(8)))
    assert sorted(name for answer in answers for name in answer) == NAMES


async def test_a_store_refuses_a_database_that_is_not_migrated(database_url: str) -> None:
    with pytest.raises(MigrationsPending, match="run `stepweave migrate`") as caught:
        await PostgresEventStore.connect(database_url)
    assert list(caught.value.names) == NAMES


async def test_a_changed_migration_is_refused(database_url: str, admin: asyncpg.Connection) -> None:
    await migrate(database_url)
    await admin.execute("UPDATE stepweave.migrations SET checksum = 'sha256:0' WHERE name = $1", NAMES[0])
    for call in (migrate(database_url), pending(database_url), PostgresEventStore.connect(database_url)):
        with pytest.raises(MigrationError, match=f"{NAMES[0]} was changed after it was applied"):
            await call


async def test_an_older_program_goes_on_with_a_newer_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(database_url)
    with monkeypatch.context() as newer:
        added = Migration("9999_more", "CREATE TABLE stepweave.more (x integer)", "sha256:1")
        release_with(newer, added)
        assert await pending(database_url) == await migrate(database_url) == ["9999_more"]
    assert await migrate(database_url) == await pending(database_url) == []
    store = await PostgresEventStore.connect(database_url)
    assert await store.initialise(2) == 2
    await store.close()


async def test_a_foreign_history_is_refused(database_url: str, admin: asyncpg.Connection) -> None:
    await migrate(database_url)
    await admin.execute("INSERT INTO stepweave.migrations VALUES ('0001_other', 'sha256:0')")
    with pytest.raises(MigrationError, match="another program's database"):
        await migrate(database_url)


async def test_a_migration_that_fails_leaves_nothing(
    database_url: str, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(database_url)
    with monkeypatch.context() as broken:
        release_with(
            broken,
            Migration("9998_good", "CREATE TABLE stepweave.good (x integer)", "sha256:1"),
            Migration("9999_bad", "CREATE TABLE stepweave.bad (x integer); SELECT 1/0", "sha256:2"),
        )
        with pytest.raises(Exception, match="division by zero"):
            await migrate(database_url)
        assert await pending(database_url) == ["9999_bad"]
    assert await admin.fetchval("SELECT to_regclass('stepweave.good') IS NOT NULL")
    assert await admin.fetchval("SELECT to_regclass('stepweave.bad') IS NULL")


async def test_migrating_waits_for_another_process_only_so_long(
    database_url: str, admin: asyncpg.Connection
) -> None:
    async with admin.transaction():
        await admin.execute("SELECT pg_advisory_xact_lock($1)", migrate_module._LOCK_KEY)
        with pytest.raises(StoreUnavailable, match="in time"):
            await migrate(database_url, timeout_seconds=0.3)
    assert await migrate(database_url) == NAMES


async def test_a_running_store_survives_a_migration(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prepared statements were planned for the old tables."""
    await migrate(database_url)
    store = await PostgresEventStore.connect(database_url)
    try:
        await store.initialise(2)
        await store.acquire_shards("a", [0], 60_000)
        before = await store.shards()
        added = "ALTER TABLE stepweave.shards ADD COLUMN more integer DEFAULT 7 NOT NULL"
        release_with(monkeypatch, Migration("9999_more", added, "sha256:1"))
        assert await migrate(database_url) == ["9999_more"]
        assert [row.shard for row in await store.shards()] == [row.shard for row in before]
        assert await store.renew_shards("a", {0: 1}, 60_000, {}) == {0}
        [taken] = await store.acquire_shards("b", [1], 60_000)
        assert taken.owner == "b"
    finally:
        await store.close()
