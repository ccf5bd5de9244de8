"""A worker as a child process of a fault test: `quick` returns, `slow` waits for a file, `deadly` dies."""

import asyncio
import os
import signal
from pathlib import Path

import stepweave

FOLDER = Path(os.environ["TEST_FOLDER"])


def note(line: str) -> None:
    """One line, in one write: several workers share the file."""
    with (FOLDER / "runs.txt").open("a") as file:
        file.write(f"{line} {os.getpid()}\n")


@stepweave.step_handler("quick")
async def quick(context: stepweave.StepContext) -> dict[str, object]:
    note(f"{context.step_uuid} {context.attempt}")
    return {"step": context.step_uuid}


@stepweave.step_handler("slow")
async def slow(context: stepweave.StepContext) -> dict[str, object]:
    note(f"{context.step_uuid} {context.attempt}")
    while not (FOLDER / "go").exists():
        await asyncio.sleep(0.02)
    return {"step": context.step_uuid}


@stepweave.step_handler("deadly")
async def deadly(context: stepweave.StepContext) -> dict[str, object]:
    note(f"{context.step_uuid} {context.attempt}")
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"survived": True}


async def main() -> None:
    worker = stepweave.Worker(namespaces=("faults",), heartbeat_seconds=0.4)
    print("ready", flush=True)
    await worker.run()


asyncio.run(main())
