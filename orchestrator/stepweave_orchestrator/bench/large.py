"""What a step costs in a large task, beside one in a small task.

Two kinds of large tasks: one whose template is large (layers of steps), and one that grows while it runs (an
analyser cuts batches, each of which is a step, and one step brings all of them together).
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import workflows
from .cpu import cpu_seconds, used_between
from .rounds import SETTLE_SECONDS
from .sizes import Sizes
from .stepweave_system import StepweaveSystem

LAYERED: Final = "layered"
BATCHES: Final = "batches"


@dataclass(frozen=True, slots=True)
class StepCost:
    """The cost of one step of a task of this size: the median time, and the CPU time of all processes.

    The size counts the steps of the layers, or the batches.
    """

    size: int
    ms_per_step: float
    cpu_us_per_step: float


@dataclass(frozen=True, slots=True)
class _TaskOfSize:
    size: int
    steps: int
    template: str
    context: Mapping[str, Any]


#: Of each kind of task: the costs of its sizes, smallest first, for each round.
StepCosts = dict[str, list[list[StepCost]]]


async def measure_step_costs(system: StepweaveSystem, sizes: Sizes) -> StepCosts:
    """Run tasks of all sizes, in turns: the machine's speed moves between rounds."""
    found: StepCosts = {LAYERED: [], BATCHES: []}
    for _ in range(sizes.large_task_rounds):
        for kind, runs_of_size in ((LAYERED, sizes.layered_runs), (BATCHES, sizes.batches_runs)):
            found[kind].append(
                [
                    await _measure(system, _task(kind, size), runs)
                    for size, runs in sorted(runs_of_size.items())
                ]
            )
    return found


def _task(kind: str, size: int) -> _TaskOfSize:
    if kind == LAYERED:
        return _TaskOfSize(size, size, workflows.layered_name(size), {})
    steps = size + workflows.STEPS_BESIDE_BATCHES
    return _TaskOfSize(size, steps, workflows.BATCHES_NAME, {workflows.BATCHES_INPUT: size})


async def _measure(system: StepweaveSystem, task: _TaskOfSize, runs: int) -> StepCost:
    """Run tasks of one size alone, one after the other."""
    processes = system.processes
    # The kernel counts CPU time in steps of 10 ms: all runs are counted at once.
    before = cpu_seconds(processes)
    seconds = [await system.run_alone(task.template, task.context) for _ in range(runs)]
    await asyncio.sleep(SETTLE_SECONDS)
    cpu = sum(used_between(before, cpu_seconds(processes)).values())
    return StepCost(
        task.size, statistics.median(seconds) * 1000 / task.steps, cpu * 1e6 / (runs * task.steps)
    )
