"""A worker as a child process of a fault test: `quick` returns, `slow` waits for a file, `deadly` dies.

The handlers of dynamic workflows below them note each try and each effect in `acts.txt`, and wait where the task's
context says so (`hold`: names of steps) until the test lets this step of this task go.
"""

import asyncio
import os
import signal
from pathlib import Path

import stepweave
from stepweave.batches import BatchContext

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


# -- dynamic workflows -----------------------------------------------------------------------------

ITEMS = 6


def act(context: stepweave.StepContext, what: str) -> None:
    """Note something that this try does."""
    with (FOLDER / "acts.txt").open("a") as file:
        file.write(f"{context.task_uuid} {context.step_name} {context.attempt} {what}\n")


async def let_go(context: stepweave.StepContext, step: str) -> None:
    """Return when the test lets this step of the task go."""
    while not (FOLDER / f"go {context.task_uuid} {step}").exists():
        await asyncio.sleep(0.01)


async def begin(context: stepweave.StepContext) -> None:
    """Note the try, and wait where the task's context says so."""
    act(context, "try")
    if context.step_name in context.get_input_or("hold", []):
        await let_go(context, context.step_name)


@stepweave.step_handler("work")
async def work(context: stepweave.StepContext) -> dict[str, object]:
    await begin(context)
    return {"step": context.step_name}


@stepweave.decision_handler("choose")
async def choose(context: stepweave.StepContext) -> stepweave.Decision:
    await begin(context)
    return stepweave.Decision.route(["left", "right"])


@stepweave.batch_analyzer("cut", worker_template="part")
async def cut(context: stepweave.StepContext) -> stepweave.BatchConfig:
    await begin(context)
    return stepweave.BatchConfig.from_cursors(range(context.get_input("batches")))


@stepweave.batch_worker("part")
async def part(batch_context: BatchContext, context: stepweave.StepContext) -> dict[str, object]:
    await begin(context)
    if batch_context.cursor >= context.get_input_or("hold_from", batch_context.batch_count):
        await let_go(context, "part")
    act(context, f"batch:{batch_context.cursor}")
    return {"cursor": batch_context.cursor}


@stepweave.step_handler("collect")
async def collect(context: stepweave.StepContext) -> list[int]:
    await begin(context)
    return [result["cursor"] for result in context.get_all_dependency_results("part_")]


@stepweave.step_handler("crawl")
async def crawl(context: stepweave.StepContext) -> object:
    """One item, then a checkpoint; held before the item in the middle."""
    done, seen = context.checkpoint_items_processed, context.accumulated_results or []
    if done == ITEMS // 2:
        await begin(context)
    act(context, f"item:{done}")
    seen = [*seen, done]
    if done + 1 < ITEMS:
        return context.checkpoint_yield({"next": done + 1}, done + 1, seen)
    return {"seen": seen}


@stepweave.step_handler("break_down")
async def break_down(context: stepweave.StepContext) -> None:
    raise stepweave.PermanentError("no", error_code="NO")


@stepweave.step_handler("undo")
async def undo(context: stepweave.StepContext) -> dict[str, object]:
    await begin(context)
    act(context, f"undone:{context.compensates}")
    return {"undone": context.get_dependency_result(context.compensates)}


# -- gates -----------------------------------------------------------------------------------------


@stepweave.step_handler("counted")
async def counted(context: stepweave.StepContext) -> None:
    """Note when it runs, so that a test can count how many do at once."""
    act(context, "in")
    await begin(context)
    act(context, "out")


@stepweave.step_handler("call_bank")
async def call_bank(context: stepweave.StepContext) -> None:
    """Fail while the bank is down."""
    await begin(context)
    if (FOLDER / "bank is down").exists():
        raise stepweave.RetryableError("the bank does not answer")


async def main() -> None:
    worker = stepweave.Worker(
        namespaces=("faults",),
        heartbeat_seconds=0.4,
        announce_after_ms=int(os.environ.get("TEST_ANNOUNCE_AFTER_MS", "250")),
    )
    print("ready", flush=True)
    await worker.run()


asyncio.run(main())
