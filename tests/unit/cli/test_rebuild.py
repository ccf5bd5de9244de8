"""When a rebuild may empty a shard, and what it does where it loses the shard."""

from __future__ import annotations

import asyncio

import pytest

from stepweave_eventstore.memory import MemoryEventStore
from stepweave_eventstore.store import EventRecord, ShardRow
from stepweave_orchestrator.runtime import rebuild as module
from stepweave_orchestrator.runtime.rebuild import LeaseLost, RebuiltShard, rebuild


class Store(MemoryEventStore):
    """Remembers which shards were emptied."""

    def __init__(self) -> None:
        super().__init__()
        self.emptied: list[int | None] = []

    async def reset_projections(self, shard: int | None = None) -> None:
        self.emptied.append(shard)
        await super().reset_projections(shard)


async def owners(store: MemoryEventStore) -> list[str]:
    return [row.owner for row in await store.shards() if row.lease_remaining_ms > 0]


async def test_only_shards_that_nobody_owns_are_emptied() -> None:
    store = Store()
    await store.initialise(3)
    await store.acquire_shards("orchestrator", [1], 60_000)
    assert await rebuild(store) == [
        RebuiltShard(0, 0, True),
        RebuiltShard(1, 0, False),
        RebuiltShard(2, 0, True),
    ]
    assert store.emptied == [0, 2]
    assert await owners(store) == ["orchestrator"]
    assert await rebuild(store, shards=[2]) == [RebuiltShard(2, 0, True)]
    with pytest.raises(ValueError, match="no shard 3"):
        await rebuild(store, shards=[3])


class Stuck(Store):
    """Never gets to the end of reading; `taken` says whether its lease is lost."""

    taken = False

    async def read_shard(
        self, shard: int, *, after_position: int = 0, limit: int = 1_000
    ) -> list[EventRecord]:
        await asyncio.Event().wait()
        raise AssertionError

    async def renew_shards(
        self, owner: str, epochs: dict[int, int], lease_ms: int, published: dict[int, int]
    ) -> set[int]:
        return set() if self.taken else set(epochs)


async def test_a_lost_lease_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_MS", 30)
    store = Stuck()
    store.taken = True
    await store.initialise(1)
    with pytest.raises(LeaseLost, match="shard 0"):
        async with asyncio.timeout(10):
            await rebuild(store)


async def test_an_interrupted_rebuild_gives_the_shard_back_at_once() -> None:
    store = Stuck()
    await store.initialise(1)
    working = asyncio.create_task(rebuild(store))
    async with asyncio.timeout(10):
        while not store.emptied:
            await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    taken: list[ShardRow] = await store.acquire_shards("orchestrator", [0], 60_000)
    assert [row.shard for row in taken] == [0]
