"""What follows from a command: events, or a refusal. Never changes the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from stepweave_schemas import events

from .allowed import refused, why_not
from .beginning import begin
from .children import cancel_requests, dies_with_parent
from .commands import AdmitStep, CancelTask, Command, CreateTask, ForkTask, Moment, SignalTask, Wake
from .dead_letters import describe
from .fork import decide_fork
from .holding import admitted, standing, with_releases
from .operators import OPERATOR_DECIDERS
from .outcomes import OUTCOME_DECIDERS
from .rejection import Decision, Rejection
from .signals import decide_signal
from .staleness import WATCH_DECIDERS, raise_stale
from .state import ACTIVE, TaskState
from .tries import NAMED_STEPS_MAX, Failed
from .turn import Turn


def decide(state: TaskState, command: Command, moment: Moment) -> Decision:
    """The events that follow from `command` in `state`, in order, or why none do.

    An empty list means: the command was carried out before, answer it like the first time.
    """
    decision = _DECIDERS[type(command)](state, command, moment)
    # Where batches are, one decision may ask a gate for a try and stop the batch of it.
    if (state.gated_count or state.batches) and decision and not isinstance(decision, Rejection):
        return with_releases(state, decision)
    return decision


# -- the task ------------------------------------------------------------------------------------


def _create(state: TaskState, command: CreateTask, moment: Moment) -> Decision:
    created = command.created
    if state.version:
        same = state.request_digest == created.request_digest
        if same and (state.request_id == created.request_id or not command.strict):
            return []
        if command.strict:
            return Rejection("CONFLICT", "a task with the same template and context exists")
        return Rejection("CONFLICT", "the task id or idempotency key was used for another request")
    if created.start_at_ms is not None and created.start_at_ms > moment.now_ms:
        return [created]
    begun: list[events.Event] = [created]
    if created.start_at_ms is not None:
        begun.append(events.TaskStarted(start_at_ms=created.start_at_ms))
    # A child asks for its parent's context in its first events, so the state has to know it.
    return [*begun, *begin(_as_created(state, created), moment)]


def _as_created(state: TaskState, created: events.TaskCreated) -> TaskState:
    if state.the_plan.plain:
        return state
    return msgspec.structs.replace(state, context=bytes(created.context).decode(), depth=created.depth)


def _admit(state: TaskState, command: AdmitStep, moment: Moment) -> Decision:
    if state.version == 0:
        return Rejection("NOT_FOUND", "there is no such task")
    if not command.step_name:
        answer = standing(state.hold, state.passes, command.token)
        if answer is not None:
            return answer
        assert state.hold is not None
        begun = msgspec.structs.replace(state, hold=None, passes=(state.hold,))
        begun.suspended_count -= 1
        return [admitted(command, state.task_id, state.hold), *begin(begun, moment)]
    number = state.number_of(command.step_name)
    if number < 0:
        return Rejection("STALE", "the task has no such step")
    step = state.steps[number]
    answer = standing(step.hold, step.passes, command.token)
    if answer is not None:
        return answer
    assert step.hold is not None
    turn = Turn(state, moment)
    turn.happened.append(admitted(command, step.uuid, step.hold))
    turn.let_through(number, step.hold)
    return turn.finish()


def _cancel(state: TaskState, command: CancelTask, moment: Moment) -> Decision:
    if state.version == 0:
        return Rejection("NOT_FOUND", "there is no such task")
    if state.phase == "cancelled":
        return []
    reason = why_not(state, "cancel")
    if reason is not None:
        return refused(state, reason)
    plan = state.the_plan
    running = tuple(state.name_of(number) for number, step in enumerate(state.steps) if step.status in ACTIVE)
    return [
        *cancel_requests(state, command.reason or "its parent was cancelled"),
        events.TaskCancelled(
            task_name=plan.ref.name,
            namespace=plan.ref.namespace,
            reason=command.reason,
            cancelled_by=command.cancelled_by,
            cancelled_steps=running[:NAMED_STEPS_MAX],
        ),
    ]


def _wake(state: TaskState, command: Wake, moment: Moment) -> Decision:
    if state.is_terminal or state.version == 0:
        return []
    if state.phase == "pending":
        if state.start_at_ms is None or state.start_at_ms > moment.now_ms:
            return []
        return [events.TaskStarted(start_at_ms=state.start_at_ms), *begin(state, moment)]
    turn = Turn(state, moment)
    due = state.due_steps(moment.now_ms)
    if state.watch is not None:
        ending = raise_stale(turn, steps_due=bool(due))
        if ending is not None:
            return _end_stale(turn, ending)
    for number in due:
        step = state.steps[number]
        # An earlier one of them may have ended it: the batch that it belongs to was stopped.
        if turn.status_of(number) != step.status:
            continue
        if step.status == "waiting_for_retry":
            turn.again(number, step.attempt + 1)
        elif step.status == "enqueued":
            # A worker without its handler handed it back a while ago.
            turn.again(number, step.attempt)
        elif step.status == "in_progress":
            turn.fail(number, _timed_out(state, number, "and its worker did not say why"))
        elif step.status == "waiting_for_child":
            if dies_with_parent(state.spec_of(number)):
                turn.happened.append(
                    events.ChildCancelRequested(
                        step_name=state.name_of(number),
                        step_uuid=step.uuid,
                        child_task_id=step.child_task_id,
                        reason="its parent does not wait any longer",
                    )
                )
            turn.fail(number, _timed_out(state, number, "for its child task has not ended"))
        elif step.status == "waiting_for_signal":
            _no_signal(turn, number)
    return turn.finish() if turn.happened else []


def _end_stale(turn: Turn, stale: events.TaskStale) -> list[events.Event]:
    """The template says that a task which is stale does not go on."""
    state = turn.state
    why = describe(stale)
    if stale.action == "cancel":
        cancelled = _cancel(state, CancelTask(reason=why, cancelled_by="lifecycle"), turn.moment)
        assert not isinstance(cancelled, Rejection)
        return [*turn.happened, stale, *cancelled]
    turn.happened += [*cancel_requests(state, why), stale]
    turn.cut_short(why, "TASK_STALE")
    return turn.happened


def _timed_out(state: TaskState, number: int, why: str) -> Failed:
    seconds = state.spec_of(number).timeout_seconds
    return Failed(
        settled_by="timeout",
        error_type="timeout",
        error_code="STEP_TIMEOUT",
        error_message=f"no result within {seconds:.15g} s, {why}",
        worker_id=state.steps[number].worker_id,
    )


def _no_signal(turn: Turn, number: int) -> None:
    """The time of a wait is over."""
    signal = turn.plan.steps[number].wait_for_signal
    assert signal is not None
    default = bytes(signal.default).decode()
    turn.happened.append(
        events.SignalTimedOut(
            step_name=turn.plan.steps[number].name,
            step_uuid=turn.state.steps[number].uuid,
            signal=signal.name,
            used_default=bool(default),
        )
    )
    if default:
        turn.take_signal(number, default)
        return
    turn.fail(
        number,
        Failed(
            settled_by="timeout",
            error_type="timeout",
            error_code="SIGNAL_TIMEOUT",
            error_message=f"no signal {signal.name!r} within {signal.timeout_seconds:.15g} s",
            worker_id="",
            retryable=False,
        ),
    )


_DECIDERS: dict[type, Callable[[TaskState, Any, Moment], Decision]] = {
    CreateTask: _create,
    ForkTask: decide_fork,
    CancelTask: _cancel,
    SignalTask: decide_signal,
    Wake: _wake,
    AdmitStep: _admit,
    **WATCH_DECIDERS,
    **OPERATOR_DECIDERS,
    **OUTCOME_DECIDERS,
}
