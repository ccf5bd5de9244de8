"""Signals from outside: taken by the step that waits, kept until one does, refused where none ever will."""

from __future__ import annotations

import msgspec

from stepweave_schemas import events
from stepweave_schemas.identity import content_digest
from stepweave_schemas.raw import raw

from .commands import Moment, SignalTask
from .rejection import Rejection
from .state import TaskState
from .turn import Turn

#: The ids of so many signals are remembered, to tell one that is sent again.
SIGNAL_IDS_MAX = 1_000


def decide_signal(state: TaskState, command: SignalTask, moment: Moment) -> list[events.Event] | Rejection:
    """The events that follow from a signal; see `decide`."""
    if state.version == 0:
        return Rejection("NOT_FOUND", "there is no such task")
    known = state.signal_ids.get(command.signal_id)
    if known is not None:
        if known == signal_digest(command.signal, command.payload):
            return []
        return Rejection("CONFLICT", f"the signal id {command.signal_id!r} was used for another signal")
    if state.is_terminal:
        return Rejection("CONFLICT", f"the task has ended already: {state.status}")
    plan = state.the_plan
    steps = plan.signal_steps.get(command.signal)
    if steps is None:
        names = ", ".join(sorted(plan.signal_steps)[:20])
        return Rejection(
            "CONFLICT",
            f"no step of the task waits for a signal {command.signal!r}"
            + (f"; its signals are: {names}" if names else "; its template has no signals"),
        )
    taker = signal_taker(state, command.signal)
    waiting = taker if taker is not None and state.steps[taker].status == "waiting_for_signal" else None
    refusal = None if waiting is not None else _cannot_keep(state, command, taker, moment)
    if refusal is not None:
        return refusal
    turn = Turn(state, moment)
    turn.happened.append(
        events.SignalReceived(
            signal=command.signal,
            signal_id=command.signal_id,
            payload=raw(command.payload),
            sent_by=command.sent_by,
        )
    )
    if waiting is None:
        return turn.happened
    turn.take_signal(waiting, command.payload)
    return turn.finish()


def signal_taker(state: TaskState, signal: str) -> int | None:
    """The step that a signal of this name would be for: one that waits, or the next that may; `None` without any."""
    steps = state.the_plan.signal_steps.get(signal, ())
    waiting = next((slot for slot in steps if state.steps[slot].status == "waiting_for_signal"), None)
    if waiting is not None:
        return waiting
    kept_count = sum(one.signal == signal for one in state.mailbox)
    coming = [slot for slot in steps if state.steps[slot].status in ("absent", "pending")]
    return coming[kept_count] if kept_count < len(coming) else None


def signal_digest(signal: str, payload: str) -> str:
    """What tells two signals with one id apart."""
    return content_digest([signal, msgspec.json.decode(payload)])


def _cannot_keep(
    state: TaskState, command: SignalTask, taker: int | None, moment: Moment
) -> Rejection | None:
    """Why a signal that nobody waits for at the moment is not kept either."""
    if state.phase == "compensating":
        return Rejection("CONFLICT", "no step will wait for the signal: the task is being undone")
    if taker is None:
        kept = any(one.signal == command.signal for one in state.mailbox)
        why = "those that it is kept for are enough" if kept else "every step that waited for it is done"
        return Rejection("CONFLICT", f"no step waits for signal {command.signal!r} any more: {why}")
    limits = moment.limits
    size_bytes = len(command.payload.encode()) + sum(len(one.payload.encode()) for one in state.mailbox)
    if len(state.mailbox) >= limits.signals_kept_max or size_bytes > limits.signals_kept_bytes_max:
        return Rejection(
            "CONFLICT",
            f"the task keeps {len(state.mailbox)} signals that no step has taken yet; at most "
            f"{limits.signals_kept_max} with {limits.signals_kept_bytes_max} bytes together are kept",
        )
    return None
