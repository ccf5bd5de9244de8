"""Projections written anew from the ledger, beside running orchestrators or without any.

What must never happen: a checkpoint that lies beyond rows that are missing. After a loss of JetStream's storage an
owner dispatches again what the projection shows as unfinished, so a task without a row would be forgotten. Hence:

- A shard that nobody owns is leased while it is rebuilt, so that no owner projects it. It is emptied first; rows
  and checkpoint then grow together from the start, and if the rebuild dies, the next owner goes on from the
  checkpoint, as after any crash.
- A shard that is owned is not emptied. Its rows are all written again; a row never goes back to an older version
  and the checkpoint never goes back at all, so the owner's projector may write at the same time.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
import structlog

from stepweave_eventstore.store import EventStore, ShardRow, StoreUnavailable

from .loading import ActorLoader
from .projector import Projector
from .templates import TemplateCatalogue

log = structlog.get_logger(__name__)

#: How long a rebuild that died keeps its shard from the orchestrators.
LEASE_MS: Final = 15_000
#: Events read from the ledger at a time.
READ_EVENTS_MAX: Final = 2_000

#: Told of a shard, the position reached, and where it ends.
OnProgress = Callable[[int, int, int], None]


class RebuiltShard(msgspec.Struct, frozen=True):
    """What was done for one shard: `emptied` first, or repaired in place because an orchestrator owns it."""

    shard: int
    events: int
    emptied: bool


class LeaseLost(StoreUnavailable):
    """Somebody took the shard that is being rebuilt; its new owner goes on from the checkpoint."""


async def rebuild(
    store: EventStore, *, shards: Sequence[int] | None = None, on_progress: OnProgress | None = None
) -> list[RebuiltShard]:
    """Rebuild the projections of `shards` (all, where it is `None`), one after the other.

    Raises `StoreUnavailable`, and `ValueError` where there is no such shard.
    """
    rows = {row.shard: row for row in await store.shards()}
    wanted = sorted(rows if shards is None else set(shards))
    if strangers := set(wanted) - rows.keys():
        raise ValueError(f"there is no shard {min(strangers)}; this installation has {len(rows)}")
    owner = f"rebuild-{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
    loader = ActorLoader(store, TemplateCatalogue(store), len(rows))
    done = []
    for number in wanted:
        taken = await store.acquire_shards(owner, [number], LEASE_MS)
        if taken:
            async with _held(store, owner, taken[0]):
                await store.reset_projections(number)
                events = await _project(store, loader, rows[number], on_progress)
        else:
            events = await _project(store, loader, rows[number], on_progress)
        done.append(RebuiltShard(number, events, bool(taken)))
    return done


async def _project(
    store: EventStore, loader: ActorLoader, row: ShardRow, on_progress: OnProgress | None
) -> int:
    """Write the rows of all streams of a shard; returns how many events it has."""
    projector = Projector(store, loader)
    position = 0
    while True:
        records = await store.read_shard(row.shard, after_position=position, limit=READ_EVENTS_MAX)
        if not records:
            return position
        position = records[-1].position
        projector.changed(row.shard, position, dict.fromkeys(record.task_id for record in records))
        await projector.flush()
        if on_progress is not None:
            on_progress(row.shard, position, max(position, row.head_position))


@asynccontextmanager
async def _held(store: EventStore, owner: str, row: ShardRow) -> AsyncIterator[None]:
    """Keep the lease of a shard for the length of the block; the block is cancelled where it gets lost."""
    body = asyncio.current_task()
    assert body is not None
    lost = False

    async def renew() -> None:
        nonlocal lost
        while True:
            await asyncio.sleep(LEASE_MS / 3000)
            try:
                kept = await store.renew_shards(owner, {row.shard: row.epoch}, LEASE_MS, {})
            except StoreUnavailable as error:
                log.warning("cannot renew the lease of a shard", shard=row.shard, error=str(error))
                continue
            if row.shard not in kept:
                lost = True
                body.cancel()
                return

    renewing = asyncio.create_task(renew())
    try:
        yield
    except asyncio.CancelledError:
        if lost and body.uncancel() == 0:
            raise LeaseLost(
                f"shard {row.shard} was taken by an orchestrator, which now rebuilds the rest"
            ) from None
        raise
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        with suppress(StoreUnavailable):
            await store.release_shards(owner, {row.shard: row.epoch}, {})
