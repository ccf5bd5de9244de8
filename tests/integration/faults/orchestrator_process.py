"""An orchestrator as a child process of a fault test; its settings come from the environment.

At SIGUSR1 it reads from the test's folder at which crash point it is to die: so a test that has brought a
workflow to the place that it is about kills the process there, and not at a count that falls there today. While
there is a file `hold orders` in the folder, one that takes over a shard stands still before it sends its orders.
"""

import asyncio
import os
import signal
from pathlib import Path

import uvloop

from stepweave_orchestrator.runtime import crash_points
from stepweave_orchestrator.runtime.orchestrator import Orchestrator
from stepweave_orchestrator.runtime.process import run_orchestrator
from stepweave_orchestrator.runtime.settings import Settings
from stepweave_orchestrator.runtime.takeover import TakeOver
from stepweave_schemas.events import Event

FOLDER = Path(os.environ["TEST_FOLDER"])

order_again = TakeOver._order_again


async def order_again_later(self: TakeOver, shard: int, ordering: dict[str, list[Event]]) -> None:
    """As slow as loading many tasks can be."""
    if ordering:
        while (FOLDER / "hold orders").exists():
            print("holds the orders", flush=True)
            await asyncio.sleep(0.05)
    await order_again(self, shard, ordering)


TakeOver._order_again = order_again_later  # type: ignore[method-assign]


# Read when the module was loaded, in the process that this one is a fork of.
crash_points._armed, crash_points._remaining = crash_points._read(os.environ.get(crash_points.VARIABLE, ""))


def arm() -> None:
    """Die at the point that the file names."""
    order = (FOLDER / "crash").read_text()
    crash_points._armed, crash_points._remaining = crash_points._read(order)
    print("armed", flush=True)


def ready(_: Orchestrator) -> None:
    """Say so."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, arm)
    print("ready", flush=True)


uvloop.run(run_orchestrator(Settings.from_environment(), ready))
