"""Other systems as contenders: a client process that is asked over its pipe, and what else they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .child import Child
from .contender import Burst
from .sizes import Sizes
from .workflows import Workflow

WARM_UP_SECONDS: Final = 1.0
#: On top of the time that a measure is meant to take.
_ANSWER_SECONDS: Final = 60.0


class Peer:
    """Another system. Its client process times each run itself, from submit to completion."""

    def __init__(self, name: str, client: Child, pids: Sequence[int], settings: dict[str, Any]) -> None:
        """`pids`: the processes that work for it, besides its client."""
        self.name = name
        self.pids: Sequence[int] = [client.pid, *pids]
        self.settings = settings
        self._client = client

    async def latency_ms(self, workflow: Workflow, *, runs: int, seconds_max: float) -> list[float]:
        """See `Contender`."""
        request = {"measure": "latency", "workflow": workflow, "runs": runs, "seconds_max": seconds_max}
        answer = await self._client.ask(request, timeout_seconds=seconds_max + _ANSWER_SECONDS)
        return [float(one) for one in answer["ms"]]

    async def burst(self, sizes: Sizes) -> Burst:
        """Start chains for some seconds, as many at once as suits it, and wait for all to complete."""
        return await self._burst(sizes.peer_burst_seconds)

    async def _burst(self, seconds: float) -> Burst:
        request = {"measure": "burst", "workflow": "chain", "seconds": seconds}
        answer = await self._client.ask(request, timeout_seconds=seconds + _ANSWER_SECONDS)
        return Burst(int(answer["tasks"]), float(answer["seconds"]))

    async def warm_up(self, sizes: Sizes) -> None:
        """Run every workflow, and a small burst."""
        for workflow in ("chain", "diamond", "fanout"):
            await self.latency_ms(workflow, runs=3, seconds_max=WARM_UP_SECONDS)
        await self._burst(WARM_UP_SECONDS)


@dataclass(frozen=True, slots=True)
class PeerPlace:
    """Where peers live: their packages (kept), the data of this run (thrown away), logs, and PostgreSQL."""

    packages: Path
    data: Path
    logs: Path
    dsn: str
    postgres_pid: int
    install: bool
