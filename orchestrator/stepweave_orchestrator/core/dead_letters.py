"""Dead letters: when a task is stuck, what for, and what becomes of it. The part of `evolve` that follows them.

A letter is opened by `task.blocked` and by `task.stale`, and closed by the first event after which the task is not
stuck any more, whichever that is; or by an investigator (`task.investigated`). A task has one open letter at most:
what is stale and then fails is one case, whose reason is the weightiest.
"""

from __future__ import annotations

from typing import Final

from stepweave_schemas import events
from stepweave_schemas.identity import derived_uuid

from .stale_moments import DURATION
from .state import DeadLetter, TaskState, Watch

#: So many of a task are kept, the last ones.
LETTERS_MAX: Final = 20
#: By weight.
REASONS: Final = ("handler_missing", "staleness", "failures")
#: What an investigator may say; the first two leave the letter open.
INVESTIGATED: Final = ("pending", "investigating", "manually_resolved", "permanently_failed", "cancelled")
LEFT_OPEN: Final = frozenset({"pending", "investigating"})
#: What a letter's status can be: what an investigator says, or what the task did.
RESOLUTION_STATUSES: Final = (*INVESTIGATED, "retried", "recovered")
_ENDED: Final = {
    "complete": "recovered",
    "error": "permanently_failed",
    "cancelled": "cancelled",
    "resolved_manually": "manually_resolved",
}
#: Events by which somebody takes a failed step for done.
_SETTLING: Final = frozenset({"step.resolved_manually", "step.completed_manually", "step.skipped"})
#: Fields that name who asked for what an event tells of.
_WHO: Final = (
    "cancelled_by",
    "given_up_by",
    "resolved_by",
    "completed_by",
    "reset_by",
    "skipped_by",
    "resumed_by",
)
#: Events after which a task stands where it stood. What becomes of a try before a gate is told by the event after it.
_NO_CHANGE: Final = (
    events.TaskStale,
    events.TaskInvestigated,
    events.StepResultRefused,
    events.StepReleased,
    events.GateEvent,
)


def letter_uuid(task_id: str, number: int) -> str:
    """The id of a task's letter, the same wherever it is computed."""
    return derived_uuid("dead_letter", task_id, str(number))


def open_letter(state: TaskState) -> DeadLetter | None:
    """The letter of a task that is stuck now."""
    letters = state.watch.letters if state.watch is not None else []
    return letters[-1] if letters and letters[-1].is_open else None


def newest_stale(state: TaskState) -> DeadLetter | None:
    """The letter that the last event but those of its end has opened or changed, where that is about staleness."""
    letters = state.watch.letters if state.watch is not None else []
    fresh = letters and letters[-1].updated_at_ms == state.updated_at_ms
    return letters[-1] if fresh and letters[-1].threshold and letters[-1].reason == "staleness" else None


def begin_watching(state: TaskState, at_ms: int) -> Watch:
    """Keep from now on what is needed to tell whether the task stands still."""
    watch = state.watch
    if watch is None:
        watch = state.watch = Watch(began_at_ms=at_ms, status=state.status, since_ms=at_ms)
    return watch


def block(state: TaskState, event: events.TaskBlocked, at_ms: int) -> None:
    """Nothing of the task can run any more."""
    letter = _opened(state, "failures", at_ms)
    letter.listed = True
    letter.error_message = event.error_message
    letter.error_code = event.error_code
    letter.steps = event.failed_steps


def name_stale(state: TaskState, event: events.TaskStale, at_ms: int) -> None:
    """The task stands still for too long."""
    watch = begin_watching(state, at_ms)
    missing = event.threshold == "handler_missing"
    if event.threshold == DURATION:
        watch.duration_raised = True
    elif not missing:
        watch.stay_raised = True
    letter = _opened(state, "handler_missing" if missing else "staleness", at_ms)
    letter.listed = letter.listed or event.action == "dlq"
    letter.missing_handlers = tuple(dict.fromkeys((*letter.missing_handlers, *event.missing_handlers)))
    if missing:
        watch.missing_handlers = tuple(dict.fromkeys((*watch.missing_handlers, *event.missing_handlers)))
    if letter.reason != "failures" and (letter.threshold in ("", "handler_missing") or not missing):
        # Where one time after the other is over, the whole task's counts.
        if letter.threshold != DURATION:
            letter.threshold = event.threshold
            letter.since_ms = event.since_ms
            letter.limit_ms = event.limit_ms
        if letter.threshold == "handler_missing":
            letter.steps = tuple(dict.fromkeys((*letter.steps, *event.waiting_for)))
            letter.error_message = _unserved(letter.missing_handlers, letter.limit_ms)
        else:
            letter.steps = event.waiting_for
            letter.error_message = describe(event)


def describe(event: events.TaskStale) -> str:
    """What is wrong, in a sentence."""
    seconds = f"{event.limit_ms / 1000:.15g} s"
    if event.threshold == "handler_missing":
        return _unserved(event.missing_handlers, event.limit_ms)
    if event.threshold == DURATION:
        return f"the task has run for more than {seconds}"
    return f"the task has been in {event.status} for more than {seconds}"


def _unserved(handlers: tuple[str, ...], limit_ms: int) -> str:
    return f"no worker serves {', '.join(handlers)}, for more than {limit_ms / 1000:.15g} s"


def investigate(state: TaskState, event: events.TaskInvestigated, at_ms: int) -> None:
    """Somebody has said what came of a letter."""
    assert state.watch is not None
    letter = next(one for one in state.watch.letters if one.number == event.number)
    letter.updated_at_ms = at_ms
    letter.resolution_status = event.resolution_status
    letter.resolution_notes = event.resolution_notes
    letter.resolved_by = event.resolved_by
    if bytes(event.metadata):
        letter.metadata = bytes(event.metadata).decode()
    if letter.resolved_at_ms is None and event.resolution_status not in LEFT_OPEN:
        letter.resolved_at_ms = at_ms


def follow(state: TaskState, event: events.Event, at_ms: int) -> None:
    """An event has been applied: does the task stay where it was, and is it still stuck?"""
    watch = state.watch
    assert watch is not None
    status = state.status
    moved = status != watch.status
    if watch.status == "paused" and moved:
        # The time of the whole task rests while it is paused.
        watch.began_at_ms += at_ms - watch.since_ms
    if moved or (status == "steps_in_process" and _is_change(state, event)):
        watch.status = status
        watch.since_ms = at_ms
        watch.stay_raised = False
        moved = True
    if watch.missing_handlers and isinstance(event, events.StepEvent):
        _is_served(state, watch, event)
    if not watch.letters or not watch.letters[-1].is_open:
        return
    letter = watch.letters[-1]
    resolution = _resolution(state, watch, letter, event, moved)
    if resolution is None:
        _forget_served(state, watch, letter, at_ms)
    else:
        letter.before = (letter.resolution_status, letter.resolution_notes, letter.resolved_by)
        letter.resolution_status = resolution
        letter.resolved_at_ms = letter.updated_at_ms = at_ms
        letter.closed_by_task = True
        who = next((by for name in _WHO if (by := getattr(event, name, ""))), "")
        if who:
            letter.resolved_by = who
            letter.resolution_notes = getattr(event, "reason", "") or letter.resolution_notes


def _is_change(state: TaskState, event: events.Event) -> bool:
    if isinstance(event, events.StepEnqueued):
        # What is given out again with another token had come back.
        return not state.steps[state.number_of(event.step_name)].former_token
    return not isinstance(event, _NO_CHANGE)


def _is_served(state: TaskState, watch: Watch, event: events.StepEvent) -> None:
    """A step went on: somebody serves its handler, or it does not need it any more."""
    if isinstance(event, events.StepEnqueued) or not _is_change(state, event):
        return
    number = state.number_of(event.step_name)
    handler = state.spec_of(number).handler.callable
    watch.missing_handlers = tuple(one for one in watch.missing_handlers if one != handler)


def _forget_served(state: TaskState, watch: Watch, letter: DeadLetter, at_ms: int) -> None:
    """An open letter names the handlers that are missing still; one that is closed, those that were."""
    left = tuple(one for one in letter.missing_handlers if one in watch.missing_handlers)
    if left == letter.missing_handlers:
        return
    letter.missing_handlers = left
    letter.updated_at_ms = at_ms
    if letter.threshold == "handler_missing" and left:
        letter.steps = tuple(
            one for one in letter.steps if state.spec_of(state.number_of(one)).handler.callable in left
        )
        letter.error_message = _unserved(left, letter.limit_ms)


def _resolution(
    state: TaskState, watch: Watch, letter: DeadLetter, event: events.Event, moved: bool
) -> str | None:
    """How the letter was resolved by an event; `None` while the task is stuck."""
    if state.is_terminal:
        return _ENDED[state.phase]
    if isinstance(event, events.TaskGivenUp):
        # The `task.failed` after it does not say who gave up.
        return "permanently_failed"
    if state.phase == "compensating":
        # What undoes the task may have waited for its handler, and goes on.
        served = letter.reason == "handler_missing" and not watch.missing_handlers
        return "recovered" if served else None
    if state.phase == "paused" and (letter.reason != "failures" or state.failed):
        # It is as stuck as before, unless an operator has mended what it was stuck for.
        return None
    if letter.reason == "failures":
        if state.phase == "blocked_by_failures":
            return None
        return "manually_resolved" if event.TYPE in _SETTLING else "retried"
    if letter.reason == "handler_missing":
        return None if watch.missing_handlers else "recovered"
    if letter.threshold == DURATION:
        return None
    return "recovered" if moved else None


def _opened(state: TaskState, reason: str, at_ms: int) -> DeadLetter:
    """The open letter of the task, a new one where there is none; with the weightier of the reasons."""
    letters = begin_watching(state, at_ms).letters
    letter = letters[-1] if letters else None
    if letter is not None and not letter.is_open and letter.closed_by_task and letter.resolved_at_ms == at_ms:
        # Closed by an event of the same append, of which this is the end: it has never been otherwise.
        letter.resolved_at_ms = None
        letter.closed_by_task = False
        letter.resolution_status, letter.resolution_notes, letter.resolved_by = letter.before
    if letter is None or not letter.is_open:
        letter = DeadLetter(
            number=letter.number + 1 if letter is not None else 1,
            reason=reason,
            listed=False,
            opened_version=state.version,
            original_state=state.status,
            opened_at_ms=at_ms,
            updated_at_ms=at_ms,
        )
        letters.append(letter)
        del letters[:-LETTERS_MAX]
    elif REASONS.index(reason) > REASONS.index(letter.reason):
        letter.reason = reason
    letter.updated_at_ms = at_ms
    return letter
