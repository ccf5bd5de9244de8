"""An orchestrator as a process of its own: connect, come up, run until told to stop, hand over, leave."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from stepweave.messaging import Connection
from stepweave_eventstore.postgres import PostgresEventStore

from .orchestrator import Orchestrator
from .settings import Settings

CONNECT_TIMEOUT_SECONDS = 30.0


#: Objects that may be made before the collector looks at the young ones, and how often it looks at older ones.
#: The hot path makes no reference cycles; Python's own default looked at every live actor again and again.
COLLECTOR_THRESHOLDS = (50_000, 20, 100)


def tame_collector() -> None:
    """Leave what is loaded out of garbage collection, and collect rarely. For a process that only does this."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


@asynccontextmanager
async def running_orchestrator(settings: Settings) -> AsyncIterator[Orchestrator]:
    """An orchestrator on connections of its own that answers requests; hands its shards over at the end.

    Raises `StoreUnavailable`, `MigrationsPending` or `ConnectFailed` where it cannot come up.
    """
    tame_collector()
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
        yield orchestrator


async def start_whole(orchestrator: Orchestrator) -> None:
    """Start it, and where this fails or is cancelled meanwhile, stop it again: it may own shards already."""
    starting = asyncio.create_task(orchestrator.start())
    try:
        await asyncio.shield(starting)
    except BaseException:
        await asyncio.wait({starting})
        await orchestrator.stop()
        raise


async def run_orchestrator(settings: Settings, on_ready: Callable[[Orchestrator], None]) -> None:
    """Run one orchestrator until SIGTERM or SIGINT, then hand its shards over and return.

    `on_ready` is called once requests are answered. Raises like `running_orchestrator`, and whatever made a part
    of it fail for good.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_orchestrator(settings) as orchestrator:
        on_ready(orchestrator)
        failing = asyncio.ensure_future(orchestrator.run())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((failing, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if failing.done():
            failing.result()
        failing.cancel()
