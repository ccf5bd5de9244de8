"""What follows when a task stands still: time that is over, handlers that nobody serves, investigations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from stepweave_schemas import events, result
from stepweave_schemas.raw import raw

from .commands import CheckHandlers, InvestigateTask, Moment
from .dead_letters import LEFT_OPEN, letter_uuid
from .rejection import Decision, Rejection
from .stale_moments import DURATION, UNWATCHED, stale_moments
from .state import ACTIVE, SUSPENDED, TaskState
from .turn import Turn

#: A try that a worker without its handler handed back waits so long before it is given out again; twice as long each
#: further time. Another worker of the queue may have the handler, so it begins short; where none has, an hour is
#: enough: a worker that comes is seen before (`CheckHandlers`).
HAND_BACK_MS_MIN: Final = 100
HAND_BACK_MS_MAX: Final = 3_600_000
#: So many steps that can run now are given out by one look.
GIVEN_OUT_MAX: Final = 500
#: So many steps, and so many handlers, are named.
NAMED_MAX: Final = 20
_UNSETTLED: Final = ACTIVE | SUSPENDED | {"waiting_for_retry"}
_ENDING: Final = frozenset({"fail", "cancel"})


def raise_stale(turn: Turn, *, steps_due: bool) -> events.TaskStale | None:
    """Say that the task is stale, where its time is over; returns the event that is to end it, unsaid.

    With `steps_due` the task goes on at this moment, so it has not stayed where it was.
    """
    state, now_ms = turn.state, turn.moment.now_ms
    lifecycle = state.the_plan.lifecycle
    for threshold, since_ms, limit_ms in stale_moments(state):
        if since_ms + limit_ms > now_ms or (steps_due and threshold != DURATION):
            continue
        assert lifecycle is not None
        action = lifecycle.staleness_action
        if action in _ENDING and state.phase == "compensating":
            # What is being undone is undone to its end.
            action = "alert"
        stale = _stale(state, threshold, since_ms, limit_ms, action)
        if action in _ENDING:
            return stale
        turn.happened.append(stale)
    return None


def _stale(state: TaskState, threshold: str, since_ms: int, limit_ms: int, action: str) -> events.TaskStale:
    waiting: list[str] = []
    missing: dict[str, None] = {}
    for number, step in enumerate(state.steps):
        if step.status in _UNSETTLED:
            if len(waiting) < NAMED_MAX:
                waiting.append(state.name_of(number))
            if step.handed_back:
                missing[state.spec_of(number).handler.callable] = None
    return _event(state, threshold, since_ms, limit_ms, action, tuple(waiting), tuple(missing)[:NAMED_MAX])


def _event(
    state: TaskState,
    threshold: str,
    since_ms: int,
    limit_ms: int,
    action: str,
    waiting_for: tuple[str, ...],
    missing_handlers: tuple[str, ...],
) -> events.TaskStale:
    ref = state.the_plan.ref
    return events.TaskStale(
        task_name=ref.name,
        namespace=ref.namespace,
        threshold=threshold,
        status=state.status,
        since_ms=since_ms,
        limit_ms=limit_ms,
        action=action,
        waiting_for=waiting_for,
        missing_handlers=missing_handlers,
    )


# -- handlers that nobody serves -------------------------------------------------------------------


def handed_back(state: TaskState, number: int, outcome: result.Released, moment: Moment) -> Decision:
    """A worker does not have the handler: the try costs nothing, and waits a little for another worker."""
    step = state.steps[number]
    released = events.StepReleased(
        step_name=outcome.step_name,
        step_uuid=step.uuid,
        attempt=step.attempt,
        worker_id=outcome.worker_id,
        reason=outcome.reason,
    )
    if state.phase == "paused":
        # It is given out again when the task is resumed.
        return [released]
    delay_ms = min(HAND_BACK_MS_MIN * 2 ** min(step.handed_back, 30), HAND_BACK_MS_MAX)
    happened: list[events.Event] = [msgspec.structs.replace(released, retry_at_ms=moment.now_ms + delay_ms)]
    stale = _missing(state, {number: _waits_since_ms(state, number, moment)}, moment)
    return happened if stale is None else [*happened, stale]


def _check_handlers(state: TaskState, command: CheckHandlers, moment: Moment) -> Decision:
    if state.version == 0:
        return Rejection("NOT_FOUND", "there is no such task")
    if state.is_terminal or state.phase in UNWATCHED:
        return []
    turn = Turn(state, moment)
    missing: dict[int, int] = {}
    given_out = 0
    for number, step in enumerate(state.steps):
        if step.status not in ("enqueued", "in_progress"):
            continue
        spec = state.spec_of(number)
        place = (state.the_plan.ref.namespace, spec.queue, spec.handler.callable)
        if step.status == "in_progress":
            # Where another worker serves the queue, that one finds out that the first one is lost.
            if step.worker_id not in command.served.workers and not command.served.may_serve(*place):
                missing[number] = _left_since_ms(state, number, moment)
        elif not command.served.may_serve(*place):
            missing[number] = _waits_since_ms(state, number, moment)
        elif not step.lease_token and command.served.names(*place) and given_out < GIVEN_OUT_MAX:
            turn.again(number, step.attempt)
            given_out += 1
    stale = _missing(state, missing, moment)
    return turn.happened if stale is None else [stale, *turn.happened]


def _waits_since_ms(state: TaskState, number: int, moment: Moment) -> int:
    step = state.steps[number]
    since_ms = step.enqueued_at_ms if step.handed_back_since_ms is None else step.handed_back_since_ms
    return moment.now_ms if since_ms is None else since_ms


def _left_since_ms(state: TaskState, number: int, moment: Moment) -> int:
    """Since when a step is left by its worker: that is not known, and told once it runs for so long."""
    started_at_ms = state.steps[number].started_at_ms or 0
    return max(started_at_ms, moment.now_ms - moment.limits.handler_missing_ms)


def _missing(state: TaskState, waiting: dict[int, int], moment: Moment) -> events.TaskStale | None:
    """Name the handlers of these steps that have been missing for too long and are not named yet."""
    limit_ms = moment.limits.handler_missing_ms
    known = state.watch.missing_handlers if state.watch is not None else ()
    late = {
        number: since_ms
        for number, since_ms in waiting.items()
        if since_ms + limit_ms <= moment.now_ms and state.spec_of(number).handler.callable not in known
    }
    if not late:
        return None
    handlers = dict.fromkeys(state.spec_of(number).handler.callable for number in late)
    return _event(
        state,
        "handler_missing",
        min(late.values()),
        limit_ms,
        "alert",
        tuple(state.name_of(number) for number in list(late)[:NAMED_MAX]),
        tuple(handlers)[:NAMED_MAX],
    )


# -- investigations --------------------------------------------------------------------------------


def _investigate(state: TaskState, command: InvestigateTask, moment: Moment) -> Decision:
    letters = state.watch.letters if state.watch is not None else []
    letter = next(
        (one for one in letters if letter_uuid(state.task_id, one.number) == command.letter_id), None
    )
    if letter is None:
        return Rejection("NOT_FOUND", f"the task has no dead letter {command.letter_id}")
    status = letter.resolution_status if command.resolution_status is None else command.resolution_status
    if not letter.is_open and command.resolution_status in LEFT_OPEN:
        return Rejection(
            "CONFLICT",
            f"the dead letter is resolved ({letter.resolution_status}); one that is stuck again gets another",
        )
    notes = letter.resolution_notes if command.resolution_notes is None else command.resolution_notes
    known = (letter.resolution_status, letter.resolution_notes, letter.resolved_by, letter.metadata)
    said = (status, notes, command.resolved_by or letter.resolved_by, command.metadata or letter.metadata)
    if said == known:
        return []
    return [
        events.TaskInvestigated(
            number=letter.number,
            resolution_status=status,
            resolution_notes=notes,
            resolved_by=said[2],
            metadata=raw(said[3]),
        )
    ]


#: Of the commands of this module: what decides about it.
WATCH_DECIDERS: Final[dict[type, Callable[[TaskState, Any, Moment], Decision]]] = {
    CheckHandlers: _check_handlers,
    InvestigateTask: _investigate,
}
