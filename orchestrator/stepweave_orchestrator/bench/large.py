"""What a step costs in a large task, beside one in a small task."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass

from .cpu import cpu_seconds
from .rounds import SETTLE_SECONDS
from .sizes import SMALL_TASK_STEPS, Sizes
from .stepweave_system import StepweaveSystem
from .workflows import layered_name


@dataclass(frozen=True, slots=True)
class StepCost:
    """The cost of one step of a task with so many: medians over the runs."""

    steps: int
    ms_per_step: float
    cpu_us_per_step: float


async def measure_step_cost(system: StepweaveSystem, steps: int, runs: int) -> StepCost:
    """Run tasks of so many steps alone, one after the other."""
    ms: list[float] = []
    cpu_us: list[float] = []
    for _ in range(runs):
        before = cpu_seconds(system.pids)
        ms.append(await system.run_alone(layered_name(steps)) * 1000 / steps)
        await asyncio.sleep(SETTLE_SECONDS)
        cpu_us.append((cpu_seconds(system.pids) - before) * 1e6 / steps)
    return StepCost(steps, statistics.median(ms), statistics.median(cpu_us))


async def measure_large_tasks(system: StepweaveSystem, sizes: Sizes) -> tuple[StepCost, StepCost]:
    """The cost of a step in a small task, and in a large one."""
    small = await measure_step_cost(system, SMALL_TASK_STEPS, sizes.large_task_runs * 2 + 1)
    large = await measure_step_cost(system, sizes.large_task_steps, sizes.large_task_runs)
    return small, large
