"""How somebody stands before a gate: how many go before, who holds what is waited for, when it goes on."""

from __future__ import annotations

from itertools import islice
from typing import Final, Literal

import msgspec

from .circuit import CircuitState
from .line import Line
from .rate import RateState, rate_wake_ms
from .slots import SlotsState

#: Most holders that are named.
HOLDERS_MAX: Final = 3


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a slot, or tries a service out; an empty step name is a whole task."""

    task_id: str
    step_name: str
    since_ms: int


class Standing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where one token stands before one gate."""

    #: `waiting`, `through` (it was let through, its task has not heard of it yet) or `unknown` (its request is on its
    #: way, or the gate has let it go).
    place: Literal["waiting", "through", "unknown"]
    #: How many are let through before it, and how many wait altogether.
    ahead_count: int = 0
    waiting_count: int = 0
    #: Who holds what is waited for (slots, probes): the first ones, and how many there are.
    holders: tuple[Holding, ...] = ()
    holders_count: int = 0
    #: Of slots: how many may run at once.
    limit: int = 0
    #: Of a circuit.
    status: str = ""
    last_error: str = ""
    opened_by: str = ""
    reason: str = ""
    probes_max: int = 0
    changed_at_ms: int | None = None
    #: When an open circuit is tried out; when the next one goes in a rate.
    next_at_ms: int | None = None
    per_second: float = 0.0


def standing(state: SlotsState | CircuitState | RateState, token: str) -> Standing:
    """How the one with this token stands before a gate."""
    ahead = state.line.position_of(token)
    if isinstance(state, SlotsState):
        return Standing(
            place=_place(state.line, token, token in state.holders),
            ahead_count=ahead or 0,
            waiting_count=len(state.line),
            holders=tuple(
                Holding(task_id=one.task_id, step_name=one.step_name, since_ms=one.since_ms)
                for one in islice(state.holders.values(), HOLDERS_MAX)
            ),
            holders_count=len(state.holders),
            limit=state.limit,
        )
    if isinstance(state, CircuitState):
        return Standing(
            place=_place(state.line, token, token in state.probes),
            ahead_count=ahead or 0,
            waiting_count=len(state.line),
            holders=tuple(
                Holding(task_id=one.task_id, step_name=one.step_name, since_ms=one.since_ms)
                for one in islice(state.probes.values(), HOLDERS_MAX)
            ),
            holders_count=len(state.probes),
            status=state.status,
            last_error=state.last_error,
            opened_by=state.opened_by,
            reason=state.reason,
            probes_max=state.half_open_max,
            changed_at_ms=state.changed_at_ms,
            next_at_ms=state.open_until_ms if state.status == "open" else None,
        )
    return Standing(
        place=_place(state.line, token, token in state.recent),
        ahead_count=ahead or 0,
        waiting_count=len(state.line),
        next_at_ms=rate_wake_ms(state),
        per_second=state.per_second,
    )


def _place(line: Line, token: str, is_through: bool) -> Literal["waiting", "through", "unknown"]:
    if token in line:
        return "waiting"
    return "through" if is_through else "unknown"
