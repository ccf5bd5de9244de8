"""Stores to test, and a writer that makes appends as an orchestrator does."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest

from stepweave_eventstore.hash_chain import canonical_bytes, next_hash
from stepweave_eventstore.memory import MemoryEventStore
from stepweave_eventstore.migrate import migrate
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_eventstore.store import Append, EventRecord, EventStore, ShardAppend, ShardRow, Wakeup
from stepweave_schemas.mint import uuid7

TIMEOUT_SECONDS = 60.0
LEASE_MS = 60_000
NOON_MS = 1_767_268_800_123


class Writer:
    """Holds shards of a store and builds appends on top of the heads that it believes in."""

    def __init__(self, store: EventStore, owner: str = "writer") -> None:
        self.store = store
        self.owner = owner
        self.rows: dict[int, ShardRow] = {}

    async def take(self, *shards: int) -> Writer:
        taken = await self.store.acquire_shards(self.owner, shards, LEASE_MS)
        assert [row.shard for row in taken] == sorted(shards)
        self.rows.update({row.shard: row for row in taken})
        return self

    def event(self, task_id: str, version: int = 1, *, shard: int = 0, **changes: object) -> EventRecord:
        """An event that is not placed yet: `build` gives it its position and hash."""
        event = EventRecord(
            shard,
            0,
            task_id,
            version,
            "step.completed",
            1,
            NOON_MS + version,
            "correlation",
            "cause",
            "worker:w1",
            f'{{"version": {version}}}',
            b"",
        )
        return msgspec.structs.replace(event, **changes)

    def build(self, events: Sequence[EventRecord] = (), wakeups: Sequence[Wakeup] = ()) -> Append:
        """The append of these events after the heads of their shards."""
        heads = {
            shard: (self.rows[shard].head_position, self.rows[shard].head_hash)
            for shard in {event.shard for event in events} | {wakeup.shard for wakeup in wakeups}
        }
        placed = []
        for event in events:
            position, digest = heads[event.shard]
            event = msgspec.structs.replace(event, position=position + 1)
            try:
                digest = next_hash(digest, canonical_bytes(event))
            except (UnicodeEncodeError, ValueError, OverflowError, OSError):
                digest = bytes(31) + b"!"  # content that cannot be stored can often not be hashed either
            placed.append(msgspec.structs.replace(event, hash=digest))
            heads[event.shard] = (position + 1, digest)
        shards = [
            ShardAppend(shard, self.rows[shard].epoch, self.rows[shard].head_position, position, digest)
            for shard, (position, digest) in heads.items()
        ]
        return Append(shards, placed, wakeups)

    def committed(self, append: Append) -> None:
        """Believe in the heads that the append leaves."""
        for shard in append.shards:
            self.rows[shard.shard] = msgspec.structs.replace(
                self.rows[shard.shard], head_position=shard.new_position, head_hash=shard.new_hash
            )

    async def write(self, *events: EventRecord, wakeups: Sequence[Wakeup] = ()) -> list[EventRecord]:
        """Append events and expect success; returns them as they were stored."""
        append = self.build(events, wakeups)
        assert await self.store.append(append) == {shard.shard for shard in append.shards}
        self.committed(append)
        return list(append.events)

    async def fill(self, count: int, *, shard: int = 0, streams: int = 3) -> list[EventRecord]:
        """Append `count` events to a shard, of a few streams by turns, ten in an append."""
        task_ids = [uuid7() for _ in range(streams)]
        written = []
        for first in range(0, count, 10):
            numbers = range(first, min(first + 10, count))
            events = [self.event(task_ids[n % streams], n // streams + 1, shard=shard) for n in numbers]
            written += await self.write(*events)
        return written


@pytest.fixture
def writer_of() -> Callable[..., Writer]:
    """Makes writers: `writer_of(store, owner)`."""
    return Writer


def _run_alone(work: Coroutine[Any, Any, Any]) -> None:
    """Run `work` in a loop of its own, without touching the loop that pytest-asyncio has set."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=TIMEOUT_SECONDS)
    try:
        await connection.execute(statement, timeout=TIMEOUT_SECONDS)
    finally:
        await connection.close(timeout=TIMEOUT_SECONDS)


@pytest.fixture(scope="session")
def _migrated_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """One migrated database for the session: emptying it is much quicker than making one for each test."""
    server_url = os.environ.get("DATABASE_URL") or request.getfixturevalue("postgres_server").dsn
    name = f"test_ledger_{uuid.uuid4().hex}"
    _run_alone(_execute(server_url, f"CREATE DATABASE {name} TEMPLATE template0"))
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    try:
        _run_alone(migrate(url))
        yield url
    finally:
        _run_alone(_execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def ledger_url(_migrated_url: str) -> str:
    """The address of a migrated database without content, whose schema the test leaves as it is."""
    tables = (
        "installation shards orchestrators events wakeups snapshots feed_incarnations tasks templates"
        " projection_checkpoints"
    )
    deletes = "; ".join(f"DELETE FROM stepweave.{table}" for table in tables.split())
    events = "ALTER TABLE stepweave.events"
    _run_alone(
        _execute(
            _migrated_url,
            f"{events} DISABLE TRIGGER events_are_immutable; {deletes};"
            f"{events} ENABLE ALWAYS TRIGGER events_are_immutable",
        )
    )
    return _migrated_url


@pytest.fixture
async def postgres_store(ledger_url: str) -> AsyncIterator[PostgresEventStore]:
    store = await PostgresEventStore.connect(ledger_url)
    assert await store.initialise(4) == 4
    yield store
    await store.close()


@pytest.fixture
async def memory_store() -> AsyncIterator[MemoryEventStore]:
    store = MemoryEventStore()
    assert await store.initialise(4) == 4
    yield store
    await store.close()


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> EventStore:
    """A store with four shards, each kind in turn."""
    made: EventStore = request.getfixturevalue(f"{request.param}_store")
    return made


@pytest.fixture
async def writer(store: EventStore) -> Writer:
    """A writer that holds the shards 0 and 1."""
    return await Writer(store).take(0, 1)


@pytest.fixture
async def admin(ledger_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of a superuser to the database of `postgres_store`."""
    connection = await asyncpg.connect(ledger_url, timeout=TIMEOUT_SECONDS)
    yield connection
    await connection.close(timeout=TIMEOUT_SECONDS)


@pytest.fixture
async def role(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A role without any right."""
    name = f"test_role_{uuid.uuid4().hex}"
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    yield name
    await admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def role_url(ledger_url: str, role: str) -> str:
    """The address of `postgres_store`'s database for that role."""
    parts = urlsplit(ledger_url)
    return urlunsplit(parts._replace(netloc=f"{role}:secret@{parts.hostname}:{parts.port}"))


async def _eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


@pytest.fixture
def eventually() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Waits until a condition is true, and fails where it does not become so."""
    return _eventually


@pytest.fixture
def somebody_waits(admin: asyncpg.Connection) -> Callable[[], Awaitable[None]]:
    """Waits until a statement in `postgres_store`'s database waits for a lock."""
    waiting = """
        SELECT count(*) > 0 FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()
    """

    async def waits() -> bool:
        return bool(await admin.fetchval(waiting))

    return lambda: _eventually(waits)
