"""What follows from a command to a schedule: events, or a refusal. Never changes the state.

Whatever is asked, the schedule then goes on as far as it can: what waited begins where nothing is in its way, what is
due fires or is skipped, and backfills take the places that are free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from stepweave_orchestrator.core.commands import Moment, StreamCommand, Wake
from stepweave_orchestrator.core.rejection import Decision, Rejection
from stepweave_schemas import events
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.schedule import ScheduleSpec

from .commands import (
    BACKFILL_CONCURRENCY_MAX,
    BACKFILL_FIRINGS_MAX,
    BACKFILLS_MAX,
    BackfillSchedule,
    CreateSchedule,
    DeleteSchedule,
    PauseSchedule,
    ResumeSchedule,
    TaskNotice,
    TriggerSchedule,
)
from .evolve import evolve
from .state import BACKFILL, MANUAL, REGULAR, RUNNING_TASKS_MAX, Backfill, Firing, ScheduleState, copy_of
from .timing import Timing

#: Firings in one decision; a wake-up follows for the rest.
FIRINGS_PER_DECISION_MAX: Final = 100
#: Late by so much is not missed, whatever the catch-up window: wake-ups are late by some ms, on a busy machine by more,
#: and while another orchestrator takes over by the length of a lease.
GRACE_MS: Final = 30_000


class _Turn:
    """One decision in the making: its events, and the state after them."""

    def __init__(self, state: ScheduleState, moment: Moment) -> None:
        self.state = copy_of(state)
        self.now_ms = moment.now_ms
        self.happened: list[events.Event] = []
        self._spec: ScheduleSpec | None = None
        self._timing: Timing | None = None

    def emit(self, event: events.Event) -> None:
        self.happened.append(event)
        evolve(self.state, event, self.now_ms)
        if isinstance(event, events.ScheduleCreated | events.ScheduleUpdated):
            self._spec = self._timing = None

    @property
    def spec(self) -> ScheduleSpec:
        if self._spec is None:
            self._spec = self.state.spec
        return self._spec

    @property
    def timing(self) -> Timing:
        if self._timing is None:
            self._timing = Timing(self.spec)
        return self._timing


def decide(state: ScheduleState, command: StreamCommand | Wake, moment: Moment) -> Decision:
    """The events that follow from `command` in `state`, in order, or why none do.

    An empty list means: it is as was asked for already.
    """
    decider = _DECIDERS.get(type(command))
    if decider is None:
        return Rejection("CONFLICT", "a schedule cannot be asked this")
    if not state.exists and not isinstance(command, CreateSchedule | TaskNotice | Wake):
        return Rejection("NOT_FOUND", "there is no such schedule")
    turn = _Turn(state, moment)
    refusal = decider(turn, command)
    if refusal is not None:
        return refusal
    if turn.state.exists:
        _go_on(turn)
    return turn.happened


# -- what is asked -------------------------------------------------------------------------------


def _create(turn: _Turn, command: CreateSchedule) -> Rejection | None:
    state = turn.state
    timing = Timing(command.spec)
    next_at_ms = timing.next_after(turn.now_ms)
    if not state.exists:
        turn.emit(
            events.ScheduleCreated(
                namespace=command.namespace,
                name=command.name,
                spec=command.spec,
                next_at_ms=next_at_ms,
                created_by=command.by,
            )
        )
        return None
    if msgspec.json.encode(command.spec).decode() == state.spec_text:
        return None
    if not command.replace:
        return Rejection(
            "CONFLICT",
            "a schedule of this name exists with other settings",
        )
    due_ms = state.next_at_ms
    if due_ms is not None and due_ms <= turn.now_ms:
        # Late by its jitter, missed, or in a pause: a moment that still is one is not lost by other settings.
        if turn.timing.is_same(timing):
            next_at_ms = due_ms
        else:
            _skip(turn, "paused" if state.is_paused else "replaced", due_ms, turn.now_ms + 1)
    turn.emit(events.ScheduleUpdated(spec=command.spec, next_at_ms=next_at_ms, updated_by=command.by))
    return None


def _pause(turn: _Turn, command: PauseSchedule) -> None:
    state = turn.state
    if state.is_paused:
        return
    turn.emit(events.SchedulePaused(note=command.note, paused_by=command.by))
    if state.waiting is not None and state.waiting.cause == REGULAR:
        _drop_waiting(turn, "paused")


def _resume(turn: _Turn, command: ResumeSchedule) -> None:
    state = turn.state
    if not state.is_paused and not state.is_ahead(turn.timing, turn.now_ms):
        return
    next_at_ms = turn.timing.next_after(turn.now_ms)
    first_ms = state.next_at_ms
    if first_ms is not None and first_ms <= turn.now_ms:
        _skip(turn, "paused", first_ms, turn.now_ms + 1)
    turn.emit(events.ScheduleResumed(next_at_ms=next_at_ms, note=command.note, resumed_by=command.by))


def _trigger(turn: _Turn, command: TriggerSchedule) -> Rejection | None:
    state = turn.state
    if command.request_id in state.request_ids:
        return None
    firing = Firing(
        state.task_id_of(turn.now_ms, command.request_id),
        turn.now_ms,
        MANUAL,
        command.request_id,
        command.by,
    )
    if len(state.running) >= RUNNING_TASKS_MAX:
        return Rejection(
            "CONFLICT", f"{RUNNING_TASKS_MAX} tasks of the schedule run, which is the most there may"
        )
    policy = "allow" if command.allow_overlap else turn.spec.overlap
    others = state.in_the_way()
    if policy == "allow" or not others:
        _fire(turn, firing, None)
    elif policy == "cancel_running":
        if state.waiting is not None:
            _drop_waiting(turn, "overtaken")
        _defer(turn, firing, None)
        _cancel_others(turn)
    elif policy == "buffer_one" and state.waiting is None:
        _defer(turn, firing, None)
    else:
        full = (
            "and another firing waits already; "
            if policy == "buffer_one"
            else "and its overlap policy is skip; "
        )
        return Rejection(
            "CONFLICT", f"its task {others[0].task_id} runs, {full}allow the overlap, or wait for it"
        )
    return None


def _backfill(turn: _Turn, command: BackfillSchedule) -> Rejection | None:
    state = turn.state
    if command.request_id in state.request_ids:
        return None
    if len(state.backfills) >= BACKFILLS_MAX:
        return Rejection("CONFLICT", f"{BACKFILLS_MAX} backfills wait or run, which is the most there may be")
    if not 1 <= command.concurrency <= BACKFILL_CONCURRENCY_MAX:
        return Rejection("CONFLICT", f"concurrency: 1 to {BACKFILL_CONCURRENCY_MAX}")
    count = turn.timing.count(command.from_ms, command.until_ms)
    if refusal := backfill_refusal(count, command.until_ms, turn.now_ms):
        return Rejection("CONFLICT", refusal)
    turn.emit(
        events.ScheduleBackfillRequested(
            backfill_id=command.request_id,
            from_ms=command.from_ms,
            until_ms=command.until_ms,
            count=count,
            concurrency=command.concurrency,
            next_at_ms=turn.timing.first_from(command.from_ms),
            requested_by=command.by,
        )
    )
    return None


def backfill_refusal(count: int, until_ms: int, now_ms: int) -> str | None:
    """Why a range with `count` firings cannot be made up for; `None` where it can."""
    if until_ms > now_ms + 1000:
        return "the range of a backfill lies in the past; later firings come by themselves"
    if count > BACKFILL_FIRINGS_MAX:
        return f"the range has {count} firings, {BACKFILL_FIRINGS_MAX} at most; cut it up"
    return None if count else "the schedule has no firing in this range"


def _delete(turn: _Turn, command: DeleteSchedule) -> None:
    turn.emit(events.ScheduleDeleted(reason=command.reason, deleted_by=command.by))


def _notice(turn: _Turn, command: TaskNotice) -> None:
    state = turn.state
    firing = state.running.get(command.task_id)
    if firing is None:
        # It was blocked, or refused, and has got further since.
        firing = next(
            (
                run.firing
                for run in state.runs
                if run.firing.task_id == command.task_id
                and run.status in ("blocked_by_failures", "failed")
                and run.status != command.status
                and command.status != "refused"
            ),
            None,
        )
        if firing is None:
            return
    if command.status == "refused":
        turn.emit(
            events.ScheduleFiringFailed(
                task_id=firing.task_id,
                nominal_at_ms=firing.nominal_at_ms,
                error_code=command.error_code or "REFUSED",
                error_message=command.error_message,
            )
        )
        return
    turn.emit(
        events.ScheduleTaskEnded(
            task_id=firing.task_id,
            nominal_at_ms=firing.nominal_at_ms,
            status=command.status,
            error_code=command.error_code,
            error_message=command.error_message,
        )
    )


def _wake(turn: _Turn, command: Wake) -> None:
    """Nothing but going on."""


# -- going on ------------------------------------------------------------------------------------


def _go_on(turn: _Turn) -> None:
    state = turn.state
    if state.waiting is not None and not state.in_the_way():
        _fire(turn, state.waiting, None, deferred=True)
    if not state.is_paused:
        _carry_on_regular(turn)
    for backfill in state.backfills:
        _carry_on_backfill(turn, backfill)


def _carry_on_regular(turn: _Turn) -> None:
    """Everything that is due fires, waits or is skipped."""
    state, now_ms = turn.state, turn.now_ms
    if state.next_at_ms is None or state.next_at_ms > now_ms:
        return
    policy = turn.spec.overlap
    timing = turn.timing
    horizon_ms = now_ms - max(turn.spec.catch_up_seconds * 1000, GRACE_MS) - timing.jitter_ms
    if state.next_at_ms < horizon_ms:
        _skip(turn, "missed", state.next_at_ms, horizon_ms)
    #: Every nominal moment up to here is due, whatever its jitter.
    surely_ms = now_ms - timing.jitter_ms
    for _ in range(FIRINGS_PER_DECISION_MAX):
        at_ms = state.next_at_ms
        if at_ms is None or state.due_ms(at_ms, timing.jitter_ms) > now_ms:
            return
        firing = Firing(state.task_id_of(at_ms), at_ms, REGULAR)
        if policy == "cancel_running" and at_ms < surely_ms:
            last_ms = timing.last_until(at_ms, surely_ms)
            if last_ms > at_ms:
                _skip(turn, "overtaken", at_ms, last_ms)
                continue
        if policy == "allow" or not (state.waiting or state.in_the_way()):
            if len(state.running) >= RUNNING_TASKS_MAX and policy == "allow":
                return
            _fire(turn, firing, timing.next_after(at_ms))
        elif policy == "cancel_running":
            if state.waiting is not None:
                _drop_waiting(turn, "overtaken")
            _defer(turn, firing, timing.next_after(at_ms))
            _cancel_others(turn)
        elif policy == "buffer_one" and state.waiting is None:
            _defer(turn, firing, timing.next_after(at_ms))
        else:
            _skip(turn, "overlap", at_ms, max(at_ms, surely_ms) + 1)


def _carry_on_backfill(turn: _Turn, backfill: Backfill) -> None:
    """The next firings of a backfill, as far as its concurrency lets them."""
    state = turn.state
    running = sum(one.request_id == backfill.backfill_id for one in state.running.values())
    at_ms = backfill.next_at_ms
    fired = backfill.fired_count
    while at_ms is not None and running < backfill.concurrency and len(state.running) < RUNNING_TASKS_MAX:
        next_at_ms = turn.timing.next_after(at_ms)
        # The settings may have been replaced by such that fire more often.
        full = fired + 1 >= BACKFILL_FIRINGS_MAX
        if next_at_ms is not None and (next_at_ms >= backfill.until_ms or full):
            next_at_ms = None
        firing = Firing(state.task_id_of(at_ms), at_ms, BACKFILL, backfill.backfill_id)
        if firing.task_id in state.running:
            # It runs as a regular firing: when that one ends, there is nothing left to make up for.
            return
        _fire(turn, firing, next_at_ms)
        running += 1
        fired += 1
        at_ms = next_at_ms
    if at_ms is None and not running:
        turn.emit(events.ScheduleBackfillCompleted(backfill_id=backfill.backfill_id, fired_count=fired))


def _fire(turn: _Turn, firing: Firing, next_at_ms: int | None, *, deferred: bool = False) -> None:
    turn.emit(
        events.ScheduleFired(
            task_id=firing.task_id,
            nominal_at_ms=firing.nominal_at_ms,
            cause=firing.cause,
            deferred=deferred,
            next_at_ms=next_at_ms,
            request_id=firing.request_id,
            fired_by=firing.fired_by,
        )
    )


def _defer(turn: _Turn, firing: Firing, next_at_ms: int | None) -> None:
    turn.emit(
        events.ScheduleDeferred(
            task_id=firing.task_id,
            nominal_at_ms=firing.nominal_at_ms,
            cause=firing.cause,
            next_at_ms=next_at_ms,
            request_id=firing.request_id,
            fired_by=firing.fired_by,
        )
    )


def _skip(turn: _Turn, reason: str, first_ms: int, until_ms: int) -> None:
    """Count everything before `until_ms` at once."""
    turn.emit(
        events.ScheduleSkipped(
            reason=reason,
            count=turn.timing.count(first_ms, until_ms),
            first_at_ms=first_ms,
            until_ms=until_ms,
            next_at_ms=turn.timing.first_from(until_ms),
        )
    )


def _drop_waiting(turn: _Turn, reason: str) -> None:
    waiting = turn.state.waiting
    assert waiting is not None, "somebody waits"
    turn.emit(
        events.ScheduleSkipped(
            reason=reason,
            count=1,
            first_at_ms=waiting.nominal_at_ms,
            until_ms=waiting.nominal_at_ms + 1,
            deferred=True,
        )
    )


def _cancel_others(turn: _Turn) -> None:
    state = turn.state
    assert state.waiting is not None, "somebody takes the place"
    reason = f"the firing of {timestamp(state.waiting.nominal_at_ms)} takes its place"
    for firing in state.in_the_way():
        if firing.task_id not in state.cancelled:
            turn.emit(events.ScheduleTaskCancelRequested(task_id=firing.task_id, reason=reason))


_DECIDERS: Final[dict[type, Callable[[_Turn, Any], Rejection | None]]] = {
    CreateSchedule: _create,
    PauseSchedule: _pause,
    ResumeSchedule: _resume,
    TriggerSchedule: _trigger,
    BackfillSchedule: _backfill,
    DeleteSchedule: _delete,
    TaskNotice: _notice,
    Wake: _wake,
}
