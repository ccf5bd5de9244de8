"""How much the benchmark measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The counts of one run of the benchmark."""

    #: The contenders take turns so often.
    rounds: int
    #: The rounds in which a second orchestrator joins for one burst.
    two_orchestrator_rounds: int
    #: Tasks alone, one after the other, in each round.
    chain_runs: int
    diamond_runs: int
    fanout_runs: int
    #: One workflow's runs of one contender and round end after this time, whatever the count.
    runs_seconds_max: float
    #: Chains in one burst of ours; those of warming up.
    burst_chains: int
    warm_up_chains: int
    #: Peers start chains for so long, and then wait for those under way.
    peer_burst_seconds: float
    peer_warm_up_seconds: float
    #: Steps of a task of layers, and the batches of one task; how often each is run in a round. The smallest is what
    #: the others are compared with.
    layered_runs: Mapping[int, int]
    batches_runs: Mapping[int, int]
    large_task_rounds: int
    replay_seconds: float
    idle_seconds: float
    #: No further round begins when it would not end by then; None: all rounds are run.
    seconds_max: float | None
    #: Whether peers that are missing are installed (this takes a minute or two, once).
    install_peers: bool


FULL: Final = Sizes(
    rounds=5,
    two_orchestrator_rounds=5,
    chain_runs=40,
    diamond_runs=40,
    fanout_runs=40,
    runs_seconds_max=5.0,
    burst_chains=2_000,
    warm_up_chains=500,
    peer_burst_seconds=5.0,
    peer_warm_up_seconds=2.0,
    layered_runs={100: 20, 1_000: 2},
    batches_runs={100: 30, 1_000: 3, 10_000: 1},
    large_task_rounds=3,
    replay_seconds=5.0,
    idle_seconds=30.0,
    seconds_max=None,
    install_peers=True,
)

QUICK: Final = Sizes(
    rounds=3,
    two_orchestrator_rounds=1,
    chain_runs=20,
    diamond_runs=10,
    fanout_runs=10,
    runs_seconds_max=0.4,
    burst_chains=800,
    warm_up_chains=100,
    peer_burst_seconds=1.0,
    peer_warm_up_seconds=0.3,
    layered_runs={100: 3, 1_000: 1},
    batches_runs={100: 10, 1_000: 1, 10_000: 1},
    large_task_rounds=1,
    replay_seconds=1.0,
    idle_seconds=3.0,
    seconds_max=36.0,
    install_peers=False,
)
