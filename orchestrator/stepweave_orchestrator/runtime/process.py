"""An orchestrator as a process of its own: connect, come up, run until told to stop, hand over, leave."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import structlog

from stepweave.messaging import Connection
from stepweave_eventstore.postgres import PostgresEventStore

from .orchestrator import Orchestrator
from .settings import Settings

log = structlog.get_logger(__name__)


async def run_orchestrator(
    settings: Settings, on_ready: Callable[[Orchestrator], None] | None = None
) -> None:
    """Run one orchestrator until SIGTERM or SIGINT, then hand its shards over and return.

    `on_ready` is called once requests are answered. Raises `StoreUnavailable`, `MigrationsPending` or
    `ConnectFailed` where it cannot come up, and whatever made a part of it fail for good.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = await PostgresEventStore.connect(settings.database_url)
    try:
        async with await Connection.open(
            settings.nats_url, name=f"orchestrator {settings.owner}"
        ) as connection:
            orchestrator = Orchestrator(settings, store, connection)
            try:
                await orchestrator.start()
                if on_ready is not None:
                    on_ready(orchestrator)
                running = asyncio.ensure_future(orchestrator.run())
                stopping = asyncio.ensure_future(stop.wait())
                await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                if running.done():
                    running.result()
                running.cancel()
            finally:
                await orchestrator.stop()
    finally:
        await store.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
