"""An orchestrator of the benchmark: `python -m stepweave_orchestrator.bench.orchestrator_process`.

`DATABASE_URL` and `NATS_URL` say where its servers are. It writes a line when it answers requests, and hands its
shards over on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal

import uvloop

from stepweave.messaging import Connection
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_orchestrator.cli.logs import LogLevelName, LogStyle, configure_logs
from stepweave_orchestrator.runtime.orchestrator import Orchestrator
from stepweave_orchestrator.runtime.settings import Settings


async def main() -> None:
    """Run until SIGTERM, or until a part of it fails."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = Settings.from_environment()
    store = await PostgresEventStore.connect(settings.database_url)
    try:
        async with await Connection.open(settings.nats_url, name="bench-orchestrator") as connection:
            orchestrator = Orchestrator(settings, store, connection)
            await orchestrator.start()
            try:
                print("{}", flush=True)
                failing = asyncio.ensure_future(orchestrator.run())
                stopping = asyncio.ensure_future(stop.wait())
                done, _ = await asyncio.wait({failing, stopping}, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                if failing in done:
                    failing.result()
                failing.cancel()
            finally:
                await orchestrator.stop()
    finally:
        await store.close()


if __name__ == "__main__":
    configure_logs(LogLevelName.WARNING, LogStyle.CONSOLE)
    uvloop.run(main())
