"""What the benchmark measures: a system that runs workflows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from .cpu import ProcessGroups
from .sizes import Sizes
from .workflows import Workflow


@dataclass(frozen=True, slots=True)
class Burst:
    """Many chains at once: how many were completed, and how long it took from the first submit on."""

    tasks: int
    seconds: float


class Contender(Protocol):
    """A running system."""

    name: str

    @property
    def processes(self) -> ProcessGroups:
        """Every process that works for it, its client and its database included."""

    @property
    def settings(self) -> dict[str, Any]:
        """Its versions and how it was set up, for the report."""

    async def latency_ms(self, workflow: Workflow, *, runs: int, seconds_max: float) -> list[float]:
        """Tasks alone, one after the other: from the submit to seeing it completed, each in milliseconds.

        At least one; no further one begins after `seconds_max`.
        """

    async def burst(self, sizes: Sizes) -> Burst:
        """Complete many chains as quickly as it can."""

    async def warm_up(self, sizes: Sizes) -> None:
        """Do everything once, unmeasured."""
