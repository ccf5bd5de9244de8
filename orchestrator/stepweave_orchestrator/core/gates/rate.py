"""The rate of a namespace: in no second do more steps begin, and they begin at an even pace.

The pace is kept by the moment at which the next one would be due (the generic cell rate algorithm): a step may begin
while that lies at most a burst ahead, which is a tenth of what a second has. The burst alone would let more begin in
one second than its rate, so those of the last second are counted besides.
"""

from __future__ import annotations

from itertools import takewhile
from math import ceil
from typing import Any, Final

import msgspec

from stepweave_orchestrator.core.commands import Moment, StreamCommand, Wake
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas import events
from stepweave_schemas.gate import JoinRate

from .line import WAITING_MAX, Line

#: Let through in one decision.
PASSES_MAX: Final = 500
#: Which part of what a second has may begin at once.
BURST_PART: Final = 10
#: Tokens of those let through last: who asks again is told again, and does not count twice.
RECENT_MAX: Final = 2_000
_SECOND_US: Final = 1_000_000


class RateState(msgspec.Struct, kw_only=True):
    """One gate."""

    version: int = 0
    namespace: str = ""
    per_second: float = 0.0
    #: When the next one would be due at an even pace, in µs since the Unix epoch.
    next_due_us: int = 0
    #: How many began at which moment (ms since the Unix epoch), the oldest first, and how many that is together; those
    #: of the last window.
    begun: list[tuple[int, int]] = []
    begun_count: int = 0
    line: Line = msgspec.field(default_factory=Line)
    #: Let through last, the oldest first; with the step of each.
    recent: dict[str, str] = {}
    updated_at_ms: int = 0


class Join(StreamCommand, frozen=True):
    """Ask for a turn."""

    order: JoinRate


class Leave(StreamCommand, frozen=True):
    """Wait no longer."""

    token: str


def _share(per_second: float) -> int:
    """How many may begin in a window."""
    return ceil(per_second)


def _window_us(per_second: float) -> int:
    """The shortest time of a second or more that has a whole number of them."""
    return ceil(_share(per_second) * _SECOND_US / per_second)


def _burst_us(per_second: float) -> int:
    """How far ahead the next one may be due."""
    return (max(1, _share(per_second) // BURST_PART) - 1) * _interval_us(per_second)


def _room(state: RateState, per_second: float, now_us: int) -> int:
    """How many more the window that ends now has room for."""
    since_us = now_us - _window_us(per_second)
    gone = sum(count for _, count in takewhile(lambda one: one[0] * 1_000 <= since_us, state.begun))
    return _share(per_second) - (state.begun_count - gone)


def _room_at_us(state: RateState) -> int:
    """When the window has room for the next one."""
    too_many = state.begun_count - _share(state.per_second) + 1
    for at_ms, count in state.begun:
        if too_many <= 0:
            break
        too_many -= count
        if too_many <= 0:
            return at_ms * 1_000 + _window_us(state.per_second)
    return 0


def _interval_us(per_second: float) -> int:
    return max(1, round(_SECOND_US / per_second))


def decide_rate(state: RateState, command: Any, moment: Moment) -> list[events.Event] | Rejection:
    """What follows; an empty list where it is known already, or nobody may begin yet."""
    now_us = moment.now_ms * 1_000
    if isinstance(command, Join):
        return _join(state, command.order, now_us)
    if state.version == 0:
        return Rejection("NOT_FOUND", "nobody has asked for this rate")
    if isinstance(command, Leave):
        own = state.line.get(command.token)
        if own is None:
            return []
        return [events.ThrottleDequeued(task_id=own.task_id, step_name=own.step_name, token=own.token)]
    assert isinstance(command, Wake)
    passed: list[events.Event] = []
    due_us = state.next_due_us
    room = max(0, _room(state, state.per_second, now_us)) if state.line else 0
    for one in state.line.waiting[: min(PASSES_MAX, room)]:
        if due_us - now_us > _burst_us(state.per_second):
            break
        due_us = max(due_us, now_us) + _interval_us(state.per_second)
        passed.append(
            events.ThrottlePassed(
                task_id=one.task_id,
                step_name=one.step_name,
                token=one.token,
                per_second=state.per_second,
                next_due_us=due_us,
            )
        )
    return passed


def _join(state: RateState, order: JoinRate, now_us: int) -> list[events.Event] | Rejection:
    if order.token in state.line or order.token in state.recent:
        return []
    if len(state.line) >= WAITING_MAX:
        return Rejection("FULL", f"{WAITING_MAX} wait already")
    happened: list[events.Event] = []
    if state.version == 0:
        happened.append(events.ThrottleOpened(namespace=order.namespace))
    if (
        not state.line
        and state.next_due_us - now_us <= _burst_us(order.per_second)
        and _room(state, order.per_second, now_us) > 0
    ):
        due_us = max(state.next_due_us, now_us) + _interval_us(order.per_second)
        passed = events.ThrottlePassed(
            task_id=order.asker,
            step_name=order.step_name,
            token=order.token,
            per_second=order.per_second,
            next_due_us=due_us,
        )
        return [*happened, passed]
    queued = events.ThrottleQueued(
        task_id=order.asker,
        step_name=order.step_name,
        token=order.token,
        per_second=order.per_second,
        priority=order.priority,
        held_at_ms=order.held_at_ms,
    )
    return [*happened, queued]


def evolve_rate(state: RateState, event: events.Event, at_ms: int) -> RateState:
    """Apply one event in place."""
    state.version += 1
    state.updated_at_ms = at_ms
    if isinstance(event, events.ThrottleOpened):
        state.namespace = event.namespace
    elif isinstance(event, events.ThrottleQueued):
        state.per_second = event.per_second
        state.line.join(
            state.line.joined(event.token, event.task_id, event.step_name, event.held_at_ms, event.priority)
        )
    elif isinstance(event, events.ThrottlePassed):
        state.per_second = event.per_second
        state.next_due_us = event.next_due_us
        _count(state, at_ms)
        state.line.leave(event.token)
        state.recent[event.token] = event.step_name
        if len(state.recent) > RECENT_MAX:
            del state.recent[next(iter(state.recent))]
    elif isinstance(event, events.ThrottleDequeued):
        state.line.leave(event.token)
    return state


def _count(state: RateState, at_ms: int) -> None:
    """One begins now; those that have left the window are forgotten."""
    begun = state.begun
    if begun and begun[-1][0] >= at_ms:
        # At the same moment, or the clock has stepped back: counted as late as any.
        begun[-1] = (begun[-1][0], begun[-1][1] + 1)
    else:
        begun.append((at_ms, 1))
    since_us = at_ms * 1_000 - _window_us(state.per_second)
    gone = list(takewhile(lambda one: one[0] * 1_000 <= since_us, begun))
    del begun[: len(gone)]
    state.begun_count += 1 - sum(count for _, count in gone)


def rate_wake_ms(state: RateState) -> int | None:
    """When the next one may begin, where somebody waits."""
    if not state.line:
        return None
    # Rounded up: a moment too early would find nothing to do.
    due_us = max(state.next_due_us - _burst_us(state.per_second), _room_at_us(state))
    return -(-due_us // 1_000)
