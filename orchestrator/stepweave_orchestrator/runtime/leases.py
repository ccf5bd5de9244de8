"""Which shards this process owns: leases in Postgres, renewed by a heartbeat, shared out fairly.

The only thing here that asks Postgres while nothing happens: two short statements every third of a lease.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

import structlog

from stepweave_eventstore.store import EventStore, ShardRow, StoreUnavailable

from .settings import Settings

log = structlog.get_logger(__name__)

#: A lease is believed for this much less than the database grants, against slow answers.
MARGIN_MS = 500


class Leases:
    """Acquires, renews and hands over shards; `run` until cancelled, then `release_all`."""

    def __init__(
        self,
        settings: Settings,
        store: EventStore,
        shard_count: int,
        on_acquired: Callable[[ShardRow], Awaitable[None]],
        on_lost: Callable[[int], None],
        on_release: Callable[[int], Awaitable[None]],
        on_free: Callable[[], None],
        published: Callable[[], dict[int, int]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._shard_count = shard_count
        self._on_acquired = on_acquired
        self._on_lost = on_lost
        self._on_release = on_release
        #: Called when a shard was given up and others may take it.
        self._on_free = on_free
        self._published = published
        #: Shard → epoch, and until when (monotonic seconds) the lease is certain.
        self.epochs: dict[int, int] = {}
        self._certain_until: dict[int, float] = {}
        #: Orchestrators that live, this one included, at the last heartbeat.
        self.alive_count = 1
        #: Hand-overs under way, beside the heartbeat: the other shards' leases are renewed meanwhile.
        self._releasing: dict[int, asyncio.Task[None]] = {}
        self._nudge = asyncio.Event()
        self._stopping = False
        #: A beat that arrived after `retire` would make a dead owner count among the living for a lease.
        self._ticking = asyncio.Lock()
        self._retired = False

    def holds(self, shard: int) -> bool:
        """Whether the lease is certain at this moment. False after a pause longer than the lease."""
        return time.monotonic() < self._certain_until.get(shard, 0.0)

    def nudge(self) -> None:
        """Look for free shards now."""
        self._nudge.set()

    async def run(self) -> None:
        """Renew and take shards until cancelled."""
        pause = self._settings.lease_ms / 3000
        while True:
            # Before the look at the shards: what happens during it is looked at again.
            self._nudge.clear()
            try:
                await self.tick()
            except StoreUnavailable as error:
                log.warning("cannot renew leases, the store is away", error=str(error))
                pause_now = min(pause, 0.5)
            else:
                pause_now = pause
            try:
                async with asyncio.timeout(pause_now):
                    await self._nudge.wait()
            except TimeoutError:
                continue

    async def tick(self) -> None:
        """Renew once, then give away or take what the fair share says."""
        async with self._ticking:
            if not self._retired:
                await self._tick()

    async def _tick(self) -> None:
        settings = self._settings
        asked_at = time.monotonic()
        alive = await self._store.beat(settings.owner, settings.lease_ms)
        self.alive_count = max(1, len(alive))
        if self.epochs:
            kept = await self._store.renew_shards(
                settings.owner, self.epochs, settings.lease_ms, self._published()
            )
            certain_until = asked_at + (settings.lease_ms - MARGIN_MS) / 1000
            for shard in list(self.epochs):
                if shard in kept:
                    self._certain_until[shard] = certain_until
                else:
                    log.warning("lost the lease of a shard", shard=shard)
                    self.forget(shard)
                    self._on_lost(shard)
        if self._stopping:
            return
        fair = math.ceil(self._shard_count / max(1, len(alive)))
        kept_shards = [shard for shard in sorted(self.epochs) if shard not in self._releasing]
        surplus = len(kept_shards) - fair
        for shard in kept_shards[:surplus] if surplus > 0 else []:
            log.info("handing a shard over to another orchestrator", shard=shard)
            self._begin_release(shard)
        if surplus < 0:
            await self._take(-surplus)

    async def _take(self, wanted: int) -> None:
        settings = self._settings
        free = [
            row.shard
            for row in await self._store.shards()
            if row.lease_remaining_ms <= 0 and row.shard not in self.epochs
        ]
        if not free:
            return
        asked_at = time.monotonic()
        rows = await self._store.acquire_shards(settings.owner, free[:wanted], settings.lease_ms)
        for row in rows:
            self.epochs[row.shard] = row.epoch
            self._certain_until[row.shard] = asked_at + (settings.lease_ms - MARGIN_MS) / 1000
        for row in rows:
            await self._on_acquired(row)

    def any_certain(self) -> bool:
        """Whether anything may be published at all: False where every lease is in doubt, as after a long pause."""
        return not self._certain_until or time.monotonic() < max(self._certain_until.values())

    def certain_until(self, shard: int) -> float:
        """Until when (monotonic seconds) the lease is certain."""
        return self._certain_until.get(shard, 0.0)

    def adopt(self, shard: int, epoch: int, certain_until: float) -> None:
        """Hold on to a lease whose shard is brought up anew."""
        self.epochs[shard] = epoch
        self._certain_until[shard] = certain_until

    def forget(self, shard: int) -> None:
        """The shard is not ours any more."""
        self.epochs.pop(shard, None)
        self._certain_until.pop(shard, None)

    def _begin_release(self, shard: int) -> asyncio.Task[None]:
        """Finish what is under way in a shard and give it up, beside everything else."""
        task = self._releasing.get(shard)
        if task is None:
            task = self._releasing[shard] = asyncio.ensure_future(self._release(shard))
            task.add_done_callback(lambda done: self._released(shard, done))
        return task

    def _released(self, shard: int, task: asyncio.Task[None]) -> None:
        del self._releasing[shard]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a shard was not handed over, its lease runs out", shard=shard, error=str(error))

    async def _release(self, shard: int) -> None:
        epoch = self.epochs.get(shard)
        if epoch is None:
            return
        await self._on_release(shard)
        if self.epochs.get(shard) != epoch:
            # Lost meanwhile: its new owner has it.
            return
        published = self._published()
        self.forget(shard)
        self._on_lost(shard)
        await self._store.release_shards(
            self._settings.owner, {shard: epoch}, {shard: published[shard]} if shard in published else {}
        )
        self._on_free()

    async def stop(self) -> None:
        """Take nothing new; give up everything."""
        self._stopping = True
        async with self._ticking:
            # What it was taking is taken, and is given up with the rest.
            pass
        releases = [self._begin_release(shard) for shard in list(self.epochs)]
        releases += [task for task in self._releasing.values() if task not in releases]
        try:
            await asyncio.gather(*releases, return_exceptions=True)
        finally:
            for task in releases:
                task.cancel()
        async with self._ticking:
            self._retired = True
            await self._store.retire(self._settings.owner)
