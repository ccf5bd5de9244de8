"""What only the PostgreSQL store has: fencing between processes, and how it is stored."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest

from stepweave_eventstore import audit
from stepweave_eventstore.memory import MemoryEventStore
from stepweave_eventstore.migrate import migrate
from stepweave_eventstore.postgres import LEDGER_SETTINGS, PostgresEventStore
from stepweave_eventstore.statements import statement
from stepweave_eventstore.store import (
    EventStore,
    EventStoreError,
    Wakeup,
)
from stepweave_schemas.mint import uuid7

TIMEOUT_SECONDS = 60.0
LEASE_MS = 60_000
A, B = (f"0190b7a2-0000-7000-8000-00000000000{letter}" for letter in "ab")

WriterOf = Callable[..., Any]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
SomebodyWaits = Callable[[], Awaitable[None]]


@pytest.fixture
async def writer(postgres_store: PostgresEventStore, writer_of: WriterOf) -> Any:
    return await writer_of(postgres_store).take(0, 1)


# -- fencing -------------------------------------------------------------------------------------
async def test_an_append_that_waited_out_a_take_over_stores_nothing(
    postgres_store: PostgresEventStore, writer: Any, admin: asyncpg.Connection, somebody_waits: SomebodyWaits
) -> None:
    """The append is under way, and waits for the shard's row, while another owner takes the shard."""
    await writer.fill(3)
    take_over = admin.transaction()
    await take_over.start()
    await admin.execute("UPDATE stepweave.shards SET epoch = epoch + 1, owner = 'b' WHERE shard = 0")
    append = writer.build([writer.event(A), writer.event(B, shard=1)], [Wakeup(A, 0, 5)])
    zombie = asyncio.create_task(postgres_store.append(append))
    await somebody_waits()
    await take_over.commit()
    assert await zombie == {1}
    assert await postgres_store.read_stream(A) == []
    assert await postgres_store.wakeups(0) == []
    assert (await audit.verify(postgres_store)).ok


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


async def test_every_update_of_a_shard_row_is_hot(
    database_url: str, writer_of: WriterOf, eventually: Eventually
) -> None:
    await migrate(database_url)
    store = await PostgresEventStore.connect(database_url)
    await store.initialise(2)
    writer = await writer_of(store).take(0, 1)
    for _ in range(150):
        await writer.write(writer.event(uuid7()), writer.event(uuid7(), shard=1))
        await store.renew_shards("writer", {0: 1, 1: 1}, LEASE_MS, {0: writer.rows[0].head_position})
    await store.close()  # a backend reports its counts when it ends
    admin = await asyncpg.connect(database_url, timeout=TIMEOUT_SECONDS)
    counts = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'stepweave.shards'::regclass"
    )

    async def counted() -> bool:
        return int((await admin.fetchrow(counts))["n_tup_upd"]) >= 602

    await eventually(counted)
    row = await admin.fetchrow(counts)
    assert row["n_tup_hot_upd"] == row["n_tup_upd"]
    await admin.close(timeout=TIMEOUT_SECONDS)


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
