"""The slots of one value of a concurrency key: so many run at once over all tasks, the others wait in order.

How many may run is said by who asks, so that a template's new limit holds from its next task on. Who waits first is
let through first, also where a later one would be content with less.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stepweave_orchestrator.core.commands import Moment, StreamCommand, Wake
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas import events
from stepweave_schemas.gate import JoinSlots

from .line import WAITING_MAX, Line, Place, Waiting

#: Let through in one decision; the next ones follow at once.
GRANTS_MAX: Final = 500


class Holder(msgspec.Struct, frozen=True, gc=False):
    """Who has a slot, since when."""

    task_id: str
    step_name: str
    since_ms: int
    #: Which event of the stream gave it: that tells it from an earlier slot of the same token.
    version: int


class SlotsState(msgspec.Struct, kw_only=True):
    """One gate."""

    version: int = 0
    namespace: str = ""
    group: str = ""
    value: str = ""
    #: The limit that was named last.
    limit: int = 0
    holders: dict[str, Holder] = {}
    line: Line = msgspec.field(default_factory=Line)
    #: More could be let through than one decision does; ms since the Unix epoch.
    go_on_at_ms: int | None = None
    updated_at_ms: int = 0


class Join(StreamCommand, frozen=True):
    """Ask for a slot."""

    order: JoinSlots


class Leave(StreamCommand, frozen=True):
    """Give a slot back, or wait no longer."""

    token: str


def decide_slots(state: SlotsState, command: Any, moment: Moment) -> list[events.Event] | Rejection:
    """What follows; an empty list where it is known already."""
    if isinstance(command, Join):
        return _join(state, command.order)
    if state.version == 0:
        return Rejection("NOT_FOUND", "nobody has asked for these slots")
    if isinstance(command, Leave):
        return _leave(state, command.token)
    assert isinstance(command, Wake)
    return _grants(state, len(state.holders), state.line.waiting)


def _join(state: SlotsState, order: JoinSlots) -> list[events.Event] | Rejection:
    if order.token in state.holders or order.token in state.line:
        return []
    if len(state.line) >= WAITING_MAX:
        return Rejection("FULL", f"{WAITING_MAX} wait already")
    happened: list[events.Event] = []
    if state.version == 0:
        happened.append(events.SlotsOpened(namespace=order.namespace, group=order.group, value=order.value))
    if not state.line and len(state.holders) < order.limit:
        happened.append(
            events.SlotsGranted(
                task_id=order.asker, step_name=order.step_name, token=order.token, limit=order.limit
            )
        )
        return happened
    happened.append(
        events.SlotsQueued(
            task_id=order.asker,
            step_name=order.step_name,
            token=order.token,
            limit=order.limit,
            priority=order.priority,
            held_at_ms=order.held_at_ms,
        )
    )
    own = state.line.joined(
        order.token, order.asker, order.step_name, order.held_at_ms, order.priority, order.limit
    )
    if state.line.ahead_of(Place(own.rank, own.arrival)) == 0:
        # It stands before who waits for a smaller limit.
        happened += _grants(state, len(state.holders), [own])
    return happened


def _leave(state: SlotsState, token: str) -> list[events.Event]:
    holder = state.holders.get(token)
    waiting = state.line.waiting
    held = len(state.holders)
    if holder is not None:
        task_id, step_name = holder.task_id, holder.step_name
        held -= 1
    elif (own := state.line.get(token)) is not None:
        task_id, step_name = own.task_id, own.step_name
        waiting = [one for one in waiting[: GRANTS_MAX + 1] if one.token != token]
    else:
        return []
    freed = events.SlotsFreed(task_id=task_id, step_name=step_name, token=token)
    return [freed, *_grants(state, held, waiting)]


def _grants(state: SlotsState, held: int, waiting: list[Waiting]) -> list[events.Event]:
    """Slots for those who go first, as far as there are any."""
    granted: list[events.Event] = []
    for one in waiting[:GRANTS_MAX]:
        if held >= one.limit:
            break
        held += 1
        granted.append(
            events.SlotsGranted(
                task_id=one.task_id, step_name=one.step_name, token=one.token, limit=one.limit
            )
        )
    return granted


def evolve_slots(state: SlotsState, event: events.Event, at_ms: int) -> SlotsState:
    """Apply one event in place."""
    state.version += 1
    state.updated_at_ms = at_ms
    if isinstance(event, events.SlotsOpened):
        state.namespace, state.group, state.value = event.namespace, event.group, event.value
    elif isinstance(event, events.SlotsQueued):
        state.limit = event.limit
        state.line.join(
            state.line.joined(
                event.token, event.task_id, event.step_name, event.held_at_ms, event.priority, event.limit
            )
        )
    elif isinstance(event, events.SlotsGranted):
        state.limit = event.limit
        state.line.leave(event.token)
        state.holders[event.token] = Holder(event.task_id, event.step_name, at_ms, state.version)
    elif isinstance(event, events.SlotsFreed) and state.holders.pop(event.token, None) is None:
        state.line.leave(event.token)
    first = state.line.first
    state.go_on_at_ms = at_ms if first is not None and len(state.holders) < first.limit else None
    return state


def slots_wake_ms(state: SlotsState) -> int | None:
    """When the next ones are let through, where one decision was not enough."""
    return state.go_on_at_ms
