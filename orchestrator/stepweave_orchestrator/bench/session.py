"""The whole benchmark, in order; `measure_all` gives what was measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from . import dbos, restate
from .child import ChildFailed
from .contender import Burst, Contender
from .idle import Idle, measure_idle
from .installing import PeerMissing
from .large import StepCosts, measure_step_costs
from .peers import Peer, PeerPlace
from .replay import measure_replay
from .rounds import RoundClock, Say, Turn, take_turn
from .sizes import Sizes
from .stepweave_system import StepweaveSystem, running_stepweave

#: The key of our own turns.
OURS: Final = "stepweave"

RunPeer = Callable[[PeerPlace], AbstractAsyncContextManager[Peer]]
PEERS: Final[dict[str, RunPeer]] = {dbos.KEY: dbos.running_dbos, restate.KEY: restate.running_restate}


@dataclass(frozen=True, slots=True)
class Round:
    """One round: a turn of each contender, and a burst of two orchestrators where there was one."""

    turns: dict[str, Turn]
    two_orchestrators: Burst | None = None


@dataclass(slots=True)
class Measured:
    """Everything that was measured."""

    idle: Idle
    rounds: list[Round] = field(default_factory=list)
    #: How each contender was set up, by its key.
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Why a peer was not measured, by its key.
    skipped: dict[str, str] = field(default_factory=dict)
    #: Of tasks of different sizes.
    step_costs: StepCosts = field(default_factory=dict)
    replay_events_per_s: float = 0.0

    @property
    def keys(self) -> list[str]:
        """The keys of all peers, measured or not."""
        return [key for key in dict.fromkeys((*self.settings, *self.skipped)) if key != OURS]


async def measure_all(folder: Path, sizes: Sizes, *, peers: Mapping[str, RunPeer], say: Say) -> Measured:
    """Measure Stepweave and those peers that can be had. `folder` keeps their packages; the rest in it is new.

    A peer that fails is left out from then on, with its reason. Raises what our own parts raise.
    """
    clock = RoundClock(sizes, time.monotonic())
    logs, data = folder / "logs", folder / "run"
    say("starting PostgreSQL, NATS, an orchestrator and a worker")
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(running_stepweave(data / "servers", logs, sizes))
        await system.warm_up(sizes)
        say(f"idle cost, {sizes.idle_seconds:g} s")
        measured = Measured(
            await measure_idle(system.servers.postgres, system.server_processes, sizes.idle_seconds)
        )
        measured.settings[OURS] = system.settings
        place = PeerPlace(
            packages=folder / "peers",
            data=data,
            logs=logs,
            dsn=system.servers.dsn,
            postgres_pid=system.servers.postgres.pid,
            install=sizes.install_peers,
        )
        contenders: dict[str, Contender] = {OURS: system}
        async with AsyncExitStack() as peer_stack:
            if peers:
                say(f"starting {' and '.join(peers)}")
            started = await asyncio.gather(
                *(_started(peer_stack, run_peer, place, sizes) for run_peer in peers.values()),
                return_exceptions=True,
            )
            for key, peer in zip(peers, started, strict=True):
                if isinstance(peer, PeerMissing | ChildFailed):
                    measured.skipped[key] = str(peer)
                    say(f"without {key}: {peer}")
                elif isinstance(peer, BaseException):
                    raise peer
                else:
                    contenders[key] = peer
                    measured.settings[key] = peer.settings
            await _take_turns(system, contenders, measured, sizes, clock, say)
        say(f"large tasks, up to {max(*sizes.layered_runs, *sizes.batches_runs)} steps")
        measured.step_costs = await measure_step_costs(system, sizes)
        say("replay in memory")
        measured.replay_events_per_s = await measure_replay(
            system.store, system.chain_ids, sizes.replay_seconds
        )
        say("stopping")
    return measured


async def _started(stack: AsyncExitStack, run_peer: RunPeer, place: PeerPlace, sizes: Sizes) -> Peer:
    peer = await stack.enter_async_context(run_peer(place))
    await peer.warm_up(sizes)
    return peer


async def _take_turns(
    system: StepweaveSystem,
    contenders: dict[str, Contender],
    measured: Measured,
    sizes: Sizes,
    clock: RoundClock,
    say: Say,
) -> None:
    for number in range(1, sizes.rounds + 1):
        if not clock.has_time():
            say(f"no time for round {number} of {sizes.rounds}")
            return
        began = time.monotonic()
        turns: dict[str, Turn] = {}
        for key, contender in list(contenders.items()):
            say(f"round {number} of {sizes.rounds}: {contender.name}")
            try:
                turns[key] = await take_turn(contender, sizes)
            except ChildFailed as error:
                if key == OURS:
                    raise
                del contenders[key]
                measured.skipped[key] = str(error)
                say(f"without {key} from now on: {error}")
        clock.took(time.monotonic() - began)
        two: Burst | None = None
        if number <= sizes.two_orchestrator_rounds:
            say(f"round {number} of {sizes.rounds}: {system.name} with two orchestrators")
            two = await _burst_of_two(system, sizes)
        measured.rounds.append(Round(turns, two))


async def _burst_of_two(system: StepweaveSystem, sizes: Sizes) -> Burst:
    """A burst with a second orchestrator; the worker is the same."""
    async with system.orchestrator():
        await system.warm_up(sizes)
        return await system.burst(sizes)
