"""A worker of the benchmark: `python -m stepweave_orchestrator.bench.worker_process`.

`NATS_URL` says where its server is. It writes a line when it takes steps, and drains on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import uvloop

from stepweave import Worker, step_handler
from stepweave_orchestrator.cli.logs import LogLevelName, LogStyle, configure_logs

from .workflows import HANDLER, NAMESPACE

#: Steps of one worker process at a time. An async handler costs little, and more at once means fuller messages.
CONCURRENCY = 500


@step_handler(HANDLER)
async def noop() -> dict[str, Any]:
    """Do nothing."""
    return {"ok": True}


async def main() -> None:
    """Run until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Worker(namespaces=[NAMESPACE], handlers=[noop], concurrency=CONCURRENCY):
        print("{}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    configure_logs(LogLevelName.WARNING, LogStyle.CONSOLE)
    uvloop.run(main())
