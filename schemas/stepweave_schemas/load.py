"""How much an orchestrator has under way, and whether it takes more: its answer to `$SRV.STATS.stepweave`.

It stands in the `data` of the endpoint `task-create`; `stepweave orchestrator status` and `nats micro stats` show it.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

#: The endpoint of the NATS service whose statistics carry it.
LOAD_ENDPOINT: Final = "task-create"
#: Where every orchestrator answers with its statistics.
STATS_SUBJECT: Final = "$SRV.STATS.stepweave"

State = Literal["open", "strained", "closed"]


class GaugeLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One gauge; `value` is absent where it is not known, `limit` where there is none."""

    name: str
    value: int | None = None
    limit: int | None = None
    state: State = "open"


class NamespaceLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for the workers of one namespace or runs with them."""

    namespace: str
    steps: int
    #: Those of them that wait before a gate: a slot, a circuit, a rate.
    held_steps: int
    dispatches_bytes: int
    drained_per_second: float
    state: State


class OrchestratorLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What one orchestrator has under way."""

    owner: str
    state: State
    gauges: tuple[GaugeLoad, ...] = ()
    #: Those with the most waiting, of what this orchestrator has created in.
    namespaces: tuple[NamespaceLoad, ...] = ()
    namespace_steps_max: int = 0
    namespace_bytes_max: int = 0
    #: Creates since the process started.
    creates_admitted: int = 0
    creates_refused: int = 0
    #: Refused creates by the gauge that was the reason; `namespace_backlog` and `namespace_share` besides.
    refused_by: dict[str, int] = {}
    creates_per_second: float = 0.0
    #: Every counter of the process.
    counters: dict[str, int] = {}
