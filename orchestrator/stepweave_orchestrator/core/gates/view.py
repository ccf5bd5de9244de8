"""A gate as callers see it: who holds it, who waits, in which order."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from stepweave_schemas import api
from stepweave_schemas.envelope import timestamp

from .circuit import CircuitState
from .line import Line
from .rate import RateState, rate_wake_ms
from .slots import SlotsState

#: Most holders, and most who wait, in one answer.
SHOWN_MAX: Final = 100


def gate_reply(state: SlotsState | CircuitState | RateState, item: api.GateItem) -> api.GateReply:
    """The whole gate; `item` is its row in a list."""
    held: dict[str, Any] = {}
    next_at_ms = None
    if isinstance(state, SlotsState):
        held = state.holders
    elif isinstance(state, CircuitState):
        held = state.probes
        next_at_ms = state.open_until_ms if state.status == "open" else None
    else:
        next_at_ms = rate_wake_ms(state)
    return api.GateReply(
        gate=item,
        holders=tuple(
            api.GateHolder(task_uuid=one.task_id, step_name=one.step_name, since=timestamp(one.since_ms))
            for one in islice(held.values(), SHOWN_MAX)
        ),
        waiting=_waiting(state.line),
        holders_count=len(held),
        waiting_count=len(state.line),
        next_at=None if next_at_ms is None else timestamp(next_at_ms),
    )


def _waiting(line: Line) -> tuple[api.GateWaiter, ...]:
    return tuple(
        api.GateWaiter(
            task_uuid=one.task_id,
            step_name=one.step_name,
            since=timestamp(one.held_at_ms),
            priority=one.priority,
        )
        for one in line.waiting[:SHOWN_MAX]
    )
