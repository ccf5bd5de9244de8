"""What the ledger costs over a bare insert of the same events.

Run it with `.venv/bin/python benchmarks/append.py`: on a PostgreSQL of its own with default durability, or, with
`DATABASE_URL` set, in a database that it makes on that server and drops again.

For each size of batch it appends batches by turns, so that changes of the machine's speed hit all alike:

- `raw`: one `INSERT … SELECT FROM unnest(…)` into a table with the columns and indexes of the ledger's events;
- `ledger`: `PostgresEventStore.append` over eight shards, with its checks, fencing and heads;
- `wake-ups`: the same with one changed wake-up for every five events.

Numbers are medians over the rounds; only the ratios of one run mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec

from stepweave_eventstore.hash_chain import canonical_bytes, next_hash
from stepweave_eventstore.migrate import migrate
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_eventstore.store import GENESIS_HASH, Append, EventRecord, ShardAppend, Wakeup
from stepweave_orchestrator.embedded import EmbeddedPostgres
from stepweave_schemas.mint import now_ms, uuid7

SHARD_COUNT = 8
EVENTS_PER_TASK = 5
SIZES = (1, 10, 100, 500)
TIMEOUT_SECONDS = 30.0
DATA = json.dumps(
    {
        "step_uuid": "0190b7a2-3a7c-8abc-9def-001122334455",
        "attempt": 1,
        "result": {"payment_id": "pay_0190b7a23a7c", "amount": 4999, "currency": "EUR", "note": "x" * 200},
        "duration_ms": 12,
        "worker": "worker-1",
    },
    separators=(",", ":"),
)
RAW_TABLE = "CREATE TABLE bench_events (LIKE stepweave.events INCLUDING ALL)"
RAW_INSERT = """
INSERT INTO bench_events (
    shard, position, task_id, version, type, schema_version, recorded_at,
    correlation_id, causation_id, actor, data, hash
)
SELECT
    shard, position, task_id::uuid, version, type, schema_version, stepweave.from_ms(recorded_at_ms),
    correlation_id, causation_id, actor, data, hash
FROM unnest(
    $1::integer[], $2::bigint[], $3::text[], $4::integer[], $5::text[], $6::smallint[],
    $7::bigint[], $8::text[], $9::text[], $10::text[], $11::json[], $12::bytea[]
) AS e (
    shard, position, task_id, version, type, schema_version,
    recorded_at_ms, correlation_id, causation_id, actor, data, hash
)
"""


class Batches:
    """Makes appends that follow one another, as the owner of all shards would."""

    def __init__(self) -> None:
        self._heads = dict.fromkeys(range(SHARD_COUNT), (0, GENESIS_HASH))
        self._made = 0

    def next(self, size: int, *, wakeups: bool = False) -> Append:
        """An append of `size` events."""
        before = dict(self._heads)
        events = [self._event() for _ in range(size)]
        shards = [
            ShardAppend(shard, 1, before[shard][0], *self._heads[shard])
            for shard in sorted({event.shard for event in events})
        ]
        wanted = events[::EVENTS_PER_TASK] if wakeups else []
        return Append(shards, events, [Wakeup(event.task_id, event.shard, now_ms()) for event in wanted])

    def _event(self) -> EventRecord:
        number, step = divmod(self._made, EVENTS_PER_TASK)
        self._made += 1
        if step == 0:
            self._task_id, self._correlation_id = uuid7(), uuid7()
        shard = number % SHARD_COUNT
        position, digest = self._heads[shard]
        event = EventRecord(
            shard,
            position + 1,
            self._task_id,
            step + 1,
            "step.completed",
            1,
            now_ms(),
            self._correlation_id,
            f"command-{number}",
            "worker:worker-1",
            DATA,
            b"",
        )
        event = msgspec.structs.replace(event, hash=next_hash(digest, canonical_bytes(event)))
        self._heads[shard] = (event.position, event.hash)
        return event


async def measure(url: str, rounds_max: int) -> list[dict[str, float]]:
    """Milliseconds an append (medians) and ratios, one row for each size of batch."""
    await migrate(url)
    store = await PostgresEventStore.connect(url)
    raw = await asyncpg.connect(
        url, timeout=TIMEOUT_SECONDS, server_settings={"plan_cache_mode": "force_generic_plan"}
    )
    try:
        await store.initialise(SHARD_COUNT)
        await store.acquire_shards("benchmark", range(SHARD_COUNT), 3_600_000)
        await raw.execute(RAW_TABLE)
        ledger_batches, raw_batches = Batches(), Batches()

        async def insert(append: Append) -> None:
            columns = zip(*map(msgspec.structs.astuple, append.events), strict=True)
            await raw.fetch(RAW_INSERT, *columns, timeout=TIMEOUT_SECONDS)

        async def append_all(append: Append) -> None:
            if await store.append(append) != {shard.shard for shard in append.shards}:
                raise RuntimeError("a shard of the benchmark moved without it")

        rows = []
        for size in SIZES:
            times: dict[str, list[float]] = {"raw": [], "ledger": [], "wake-ups": []}
            for _ in range(min(rounds_max, max(40, 20_000 // size))):
                for name, batches, call in (
                    ("raw", raw_batches, insert),
                    ("ledger", ledger_batches, append_all),
                    ("wake-ups", ledger_batches, append_all),
                ):
                    append = batches.next(size, wakeups=name == "wake-ups")
                    times[name].append(await _timed(call, append))
            medians = {name: statistics.median(taken) * 1000 for name, taken in times.items()}
            rows.append(
                {
                    "batch": size,
                    "raw_ms": medians["raw"],
                    "ledger_ms": medians["ledger"],
                    "wakeups_ms": medians["wake-ups"],
                    "ledger_vs_raw": medians["raw"] / medians["ledger"],
                    "wakeups_vs_raw": medians["raw"] / medians["wake-ups"],
                    "ledger_events_per_s": size / medians["ledger"] * 1000,
                }
            )
        return rows
    finally:
        await raw.close(timeout=TIMEOUT_SECONDS)
        await store.close()


async def _timed(call: Callable[[Append], Awaitable[None]], append: Append) -> float:
    started = time.perf_counter()
    await call(append)
    return time.perf_counter() - started


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """The address of an empty database."""
    if server_url := os.environ.get("DATABASE_URL"):
        name = f"bench_{uuid.uuid4().hex}"
        server = await asyncpg.connect(server_url, timeout=TIMEOUT_SECONDS)
        await server.execute(f"CREATE DATABASE {name} TEMPLATE template0", timeout=TIMEOUT_SECONDS)
        try:
            yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
        finally:
            await server.execute(f"DROP DATABASE {name} WITH (FORCE)", timeout=TIMEOUT_SECONDS)
            await server.close(timeout=TIMEOUT_SECONDS)
        return
    with tempfile.TemporaryDirectory(prefix="stepweave-bench-", ignore_cleanup_errors=True) as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres") as server:
            yield server.dsn


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Ledger appends against bare inserts.")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--rounds-max", type=int, default=300, help="rounds for each size of batch")
    arguments = parser.parse_args()
    async with database() as url:
        rows = await measure(url, arguments.rounds_max)
    print(
        f"{'batch':>6} {'raw ms':>8} {'ledger ms':>10} {'+wake-ups':>10} {'ledger/raw':>11} {'events/s':>9}"
    )
    for row in rows:
        print(
            f"{row['batch']:>6} {row['raw_ms']:>8.3f} {row['ledger_ms']:>10.3f} {row['wakeups_ms']:>10.3f} "
            f"{row['ledger_vs_raw']:>10.0%} {row['ledger_events_per_s']:>10.0f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    asyncio.run(main())
