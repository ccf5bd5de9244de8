"""A worker of the benchmark: `python -m stepweave_orchestrator.bench.worker_process`.

`NATS_URL` says where its server is. It writes a line when it takes steps, and drains on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import uvloop

from stepweave import (
    AggregationScenario,
    BatchConfig,
    PermanentError,
    StepContext,
    Worker,
    batch_analyzer,
    batch_worker,
    step_handler,
)
from stepweave_orchestrator.cli.logs import LogLevelName, LogStyle, configure_logs

from .workflows import BATCHES_INPUT, COLLECT_HANDLER, CUT_HANDLER, HANDLER, NAMESPACE, PART_HANDLER

#: Steps of one worker process at a time. An async handler costs little, and more at once means fuller messages.
CONCURRENCY = 500


@step_handler(HANDLER)
async def noop() -> dict[str, Any]:
    """Do nothing."""
    return {"ok": True}


@batch_analyzer(CUT_HANDLER)
async def cut(context: StepContext) -> BatchConfig:
    """Cut as many batches as the task's context says."""
    return BatchConfig(context.get_input(BATCHES_INPUT), batch_size=1)


@batch_worker(PART_HANDLER)
async def part() -> dict[str, Any]:
    """Do nothing for one batch."""
    return {"ok": True}


@step_handler(COLLECT_HANDLER)
async def collect(context: StepContext) -> dict[str, Any]:
    """Read the result of every batch."""
    found = AggregationScenario.detect(context, "cut", "part")
    if found.missing_count:
        raise PermanentError(f"{found.missing_count} batches have no result")
    return {"count": found.worker_count}


async def main() -> None:
    """Run until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Worker(namespaces=[NAMESPACE], handlers=[noop, cut, part, collect], concurrency=CONCURRENCY):
        print("{}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    configure_logs(LogLevelName.WARNING, LogStyle.CONSOLE)
    uvloop.run(main())
