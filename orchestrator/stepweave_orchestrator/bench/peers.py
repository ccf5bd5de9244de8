"""Other systems as contenders: a client process that is asked over its pipe, and what else they need."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .child import Child
from .contender import Burst
from .cpu import ProcessGroups
from .sizes import Sizes
from .workflows import Workflow

#: On top of the time that a measure is meant to take.
_ANSWER_SECONDS: Final = 60.0


class Peer:
    """Another system. Its clients time each run themselves, from submit to completion."""

    def __init__(
        self, name: str, clients: Sequence[Child], servers: ProcessGroups, settings: dict[str, Any]
    ) -> None:
        """The first of the `clients` runs tasks alone, all of them the bursts.

        `servers`: the processes that work for it, besides its clients.
        """
        self.name = name
        self.processes: ProcessGroups = {**servers, "clients": [client.pid for client in clients]}
        self.settings = settings
        self._clients = clients

    async def latency_ms(self, workflow: Workflow, *, runs: int, seconds_max: float) -> list[float]:
        """See `Contender`."""
        request = {"measure": "latency", "workflow": workflow, "runs": runs, "seconds_max": seconds_max}
        answer = await self._clients[0].ask(request, timeout_seconds=seconds_max + _ANSWER_SECONDS)
        return [float(one) for one in answer["ms"]]

    async def burst(self, sizes: Sizes) -> Burst:
        """Start chains for some seconds, as many at once as suits it, and wait for all to complete."""
        return await self._burst(sizes.peer_burst_seconds)

    async def _burst(self, seconds: float) -> Burst:
        request = {"measure": "burst", "workflow": "chain", "seconds": seconds}
        answers = await asyncio.gather(
            *(client.ask(request, timeout_seconds=seconds + _ANSWER_SECONDS) for client in self._clients)
        )
        return Burst(
            sum(int(answer["tasks"]) for answer in answers),
            max(float(answer["seconds"]) for answer in answers),
        )

    async def warm_up(self, sizes: Sizes) -> None:
        """Run every workflow, and a small burst."""
        for workflow in ("chain", "diamond", "fanout"):
            await self.latency_ms(workflow, runs=3, seconds_max=sizes.peer_warm_up_seconds)
        await self._burst(sizes.peer_warm_up_seconds)


@dataclass(frozen=True, slots=True)
class PeerPlace:
    """Where peers live: their packages (kept), the data of this run (thrown away), logs, and PostgreSQL."""

    packages: Path
    data: Path
    logs: Path
    dsn: str
    postgres_pid: int
    install: bool
