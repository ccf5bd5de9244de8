"""The contenders taking turns: every workflow alone, then a burst of chains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .contender import Burst, Contender
from .cpu import cpu_seconds, used_between
from .sizes import Sizes
from .workflows import CHAIN_STEPS

#: After a burst, for what is written a moment later (lists, acknowledgements); its CPU time counts too.
SETTLE_SECONDS: Final = 0.3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one contender did in one round: times of tasks alone, and a burst with its CPU time."""

    chain_ms: list[float]
    diamond_ms: list[float]
    fanout_ms: list[float]
    burst: Burst
    #: By groups of processes.
    burst_cpu_seconds: dict[str, float]

    @property
    def steps_per_s(self) -> float:
        """Steps completed in a second of the burst."""
        return steps_per_s(self.burst)

    @property
    def cpu_us_per_step(self) -> float:
        """CPU time of all its processes for each step of the burst."""
        return sum(self.cpu_us_per_step_by.values())

    @property
    def cpu_us_per_step_by(self) -> dict[str, float]:
        """The same by groups of processes."""
        steps = self.burst.tasks * CHAIN_STEPS
        return {name: seconds * 1e6 / steps for name, seconds in self.burst_cpu_seconds.items()}


def steps_per_s(burst: Burst) -> float:
    """Steps completed in a second of a burst."""
    return burst.tasks * CHAIN_STEPS / burst.seconds


async def take_turn(contender: Contender, sizes: Sizes) -> Turn:
    """Measure one contender once; raises what it raises."""
    limit = sizes.runs_seconds_max
    chain_ms = await contender.latency_ms("chain", runs=sizes.chain_runs, seconds_max=limit)
    diamond_ms = await contender.latency_ms("diamond", runs=sizes.diamond_runs, seconds_max=limit)
    fanout_ms = await contender.latency_ms("fanout", runs=sizes.fanout_runs, seconds_max=limit)
    await asyncio.sleep(SETTLE_SECONDS)
    processes = contender.processes
    before = cpu_seconds(processes)
    burst = await contender.burst(sizes)
    await asyncio.sleep(SETTLE_SECONDS)
    return Turn(chain_ms, diamond_ms, fanout_ms, burst, used_between(before, cpu_seconds(processes)))


class RoundClock:
    """Says whether there is time for one more round."""

    def __init__(self, sizes: Sizes, started: float) -> None:
        """`started` (of `time.monotonic`) is when the benchmark began."""
        self._end = None if sizes.seconds_max is None else started + sizes.seconds_max
        self._longest_seconds = 0.0

    def took(self, seconds: float) -> None:
        """Take note of how long a round took."""
        self._longest_seconds = max(self._longest_seconds, seconds)

    def has_time(self) -> bool:
        """True before the first round; before another one, where it is likely to end in time."""
        if self._end is None or self._longest_seconds == 0:
            return True
        return time.monotonic() + self._longest_seconds < self._end
