"""What `stepweave orchestrator run` does while it runs."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

import structlog

from stepweave.messaging import Connection
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_orchestrator.runtime.orchestrator import Orchestrator
from stepweave_orchestrator.runtime.settings import Settings
from stepweave_orchestrator.version import VERSION

log = structlog.get_logger("stepweave.orchestrator")

CONNECT_TIMEOUT_SECONDS = 30.0


async def run_orchestrator(
    *, database_url: str, nats_url: str, owner: str | None, shard_count: int | None
) -> None:
    """Run until cancelled, then hand everything over; raises where a part failed for good."""
    settings = Settings.from_environment(
        database_url=database_url, nats_url=nats_url, owner=owner, shard_count=shard_count
    )
    async with AsyncExitStack() as stack:
        store = await PostgresEventStore.connect(settings.database_url)
        stack.push_async_callback(store.close)
        connection = await Connection.open(
            settings.nats_url,
            name=f"stepweave-orchestrator-{settings.owner}",
            connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
        )
        stack.push_async_callback(connection.close)
        orchestrator = Orchestrator(settings, store, connection)
        await start_whole(orchestrator)
        stack.push_async_callback(orchestrator.stop)
        log.info(
            "ready",
            owner=settings.owner,
            version=VERSION,
            pid=os.getpid(),
            shards=sorted(orchestrator.owner.shards),
            shard_count=orchestrator.shard_count,
        )
        await orchestrator.run()


async def start_whole(orchestrator: Orchestrator) -> None:
    """Start it, and where this is cancelled meanwhile, stop it again: it may own shards already."""
    starting = asyncio.create_task(orchestrator.start())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            await orchestrator.stop()
        raise
