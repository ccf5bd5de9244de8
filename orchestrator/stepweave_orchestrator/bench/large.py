"""What a step costs in a large task, beside one in a small task."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass

from .cpu import cpu_seconds, used_between
from .rounds import SETTLE_SECONDS
from .sizes import SMALL_TASK_STEPS, Sizes
from .stepweave_system import StepweaveSystem
from .workflows import layered_name


@dataclass(frozen=True, slots=True)
class StepCost:
    """The cost of one step of a task with so many: the median time, and the CPU time of all processes."""

    steps: int
    ms_per_step: float
    cpu_us_per_step: float


async def measure_step_cost(system: StepweaveSystem, steps: int, runs: int) -> StepCost:
    """Run tasks of so many steps alone, one after the other."""
    processes = system.processes
    # The kernel counts CPU time in steps of 10 ms: all runs are counted at once.
    before = cpu_seconds(processes)
    seconds = [await system.run_alone(layered_name(steps)) for _ in range(runs)]
    await asyncio.sleep(SETTLE_SECONDS)
    cpu = sum(used_between(before, cpu_seconds(processes)).values())
    return StepCost(steps, statistics.median(seconds) * 1000 / steps, cpu * 1e6 / (runs * steps))


async def measure_large_tasks(system: StepweaveSystem, sizes: Sizes) -> tuple[StepCost, StepCost]:
    """The cost of a step in a small task, and in a large one."""
    small = await measure_step_cost(system, SMALL_TASK_STEPS, sizes.small_task_runs)
    large = await measure_step_cost(system, sizes.large_task_steps, sizes.large_task_runs)
    return small, large
