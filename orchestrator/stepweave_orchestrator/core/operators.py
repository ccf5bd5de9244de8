"""What follows from what operators ask: pause, resume, retry, give up, resolve; and the same for single steps.

Every request has an id, and a repetition of it changes nothing. What the state does not allow is refused with the
reason and with what is allowed (`allowed`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from stepweave_schemas import events, result
from stepweave_schemas.raw import NO_RAW, raw

from .allowed import refused, refused_step, unknown_step, why_not, why_not_step
from .beginning import begin
from .children import cancel_requests
from .commands import Moment
from .domain_events import SUCCESS, misfits_text
from .holding import lacks_slot, lines_left
from .operator_commands import (
    CompleteStep,
    GiveUpTask,
    OperatorCommand,
    PauseTask,
    ResetStep,
    ResolveStep,
    ResolveTask,
    ResumeTask,
    RetryTask,
    SkipStep,
    StepCommand,
)
from .outcomes import choose, cut, fault_of_decision
from .rejection import Decision, Rejection
from .state import ACTIVE, HIDDEN, TaskState
from .tries import NAMED_STEPS_MAX
from .turn import Turn

_NULL: Final = msgspec.Raw(b"null")
#: Who a try is said to belong to that an operator has ended.
_OPERATOR: Final = "operator"


def decide_operator(state: TaskState, command: OperatorCommand, moment: Moment) -> Decision:
    """The events that follow from what an operator asks; see `decide`."""
    if state.version == 0:
        return Rejection("NOT_FOUND", "there is no such task")
    if command.request_id and command.request_id in state.operator_requests:
        return []
    return _DECIDERS[type(command)](state, command, moment)


# -- the task ------------------------------------------------------------------------------------


def _pause(state: TaskState, command: PauseTask, moment: Moment) -> Decision:
    if state.phase == "paused":
        return []
    reason = why_not(state, "pause")
    if reason is not None:
        return refused(state, reason)
    return [
        events.TaskPaused(reason=command.reason, paused_by=command.by, request_id=command.request_id),
        *lines_left(state),
    ]


def _resume(state: TaskState, command: ResumeTask, moment: Moment) -> Decision:
    reason = why_not(state, "resume")
    if reason is not None:
        return refused(state, reason)
    resumed = events.TaskResumed(reason=command.reason, resumed_by=command.by, request_id=command.request_id)
    if state.paused_from == "pending":
        assert state.start_at_ms is not None
        if state.start_at_ms > moment.now_ms:
            return [resumed]
        return [resumed, events.TaskStarted(start_at_ms=state.start_at_ms), *begin(state, moment)]
    if state.paused_from == "waiting_for_dependencies":
        return [resumed, *begin(state, moment)]
    turn = Turn(state, moment)
    turn.happened.append(resumed)
    turn.needs_slot = turn.held = lacks_slot(state)
    turn.phase = "steps_in_process"
    for number, step in enumerate(state.steps):
        if step.status == "waiting_for_retry" and (step.due_at_ms or 0) <= moment.now_ms:
            turn.again(number, step.attempt + 1)
    turn.begin_ready()
    return turn.finish()


def _retry(state: TaskState, command: RetryTask, moment: Moment) -> Decision:
    reason = why_not(state, "retry")
    if reason is not None:
        return refused(state, reason)
    turn = _turn(state, moment)
    for number in state.failed:
        _reset(turn, number, command)
    return turn.finish()


def _give_up(state: TaskState, command: GiveUpTask, moment: Moment) -> Decision:
    reason = why_not(state, "give_up")
    if reason is not None:
        return refused(state, reason)
    turn = Turn(state, moment)
    names = tuple(state.name_of(number) for number in state.failed[:NAMED_STEPS_MAX])
    message, code = turn.error_of(state.failed[-1])
    return [
        events.TaskGivenUp(reason=command.reason, given_up_by=command.by, request_id=command.request_id),
        turn.undoing.task_failed(names, message, code),
    ]


def _resolve_task(state: TaskState, command: ResolveTask, moment: Moment) -> Decision:
    reason = why_not(state, "resolve_manually")
    if reason is not None:
        return refused(state, reason)
    ref = state.the_plan.ref
    running = [state.name_of(number) for number, step in enumerate(state.steps) if step.status in ACTIVE]
    return [
        *cancel_requests(state, command.reason or "its parent was resolved"),
        events.TaskResolvedManually(
            task_name=ref.name,
            namespace=ref.namespace,
            reason=command.reason,
            resolved_by=command.by,
            cancelled_steps=tuple(running[:NAMED_STEPS_MAX]),
            request_id=command.request_id,
        ),
    ]


def _turn(state: TaskState, moment: Moment) -> Turn:
    """A turn in which an operator steps in: what was blocked may go on, what has not begun does not begin by it."""
    turn = Turn(state, moment)
    turn.stepped_in = True
    turn.held = state.phase in ("paused", "pending") or state.hold is not None
    if state.phase == "blocked_by_failures":
        turn.phase = "steps_in_process"
        turn.needs_slot = turn.held = lacks_slot(state)
    return turn


# -- a step --------------------------------------------------------------------------------------


def step_number(state: TaskState, step: str) -> int:
    """The number of an existing step by its name or uuid; -1 where there is none."""
    number = state.number_of(step)
    if number < 0:
        number = next((at for at, one in enumerate(state.steps) if one.uuid == step), -1)
    return number if number >= 0 and state.steps[number].status not in HIDDEN else -1


def _on_step(state: TaskState, command: StepCommand, moment: Moment) -> Decision:
    number = step_number(state, command.step)
    if number < 0:
        return unknown_step(state, command.step)
    action = str(command.__struct_config__.tag)
    reason = why_not_step(state, number, action)
    if reason is not None:
        return refused_step(state, number, reason)
    return _STEP_DECIDERS[type(command)](state, number, command, moment)


def _reset_step(state: TaskState, number: int, command: ResetStep, moment: Moment) -> Decision:
    turn = _turn(state, moment)
    _reset(turn, number, command)
    return turn.finish()


def _reset(turn: Turn, number: int, command: RetryTask | ResetStep) -> None:
    step = turn.state.steps[number]
    turn.happened.append(
        events.StepReset(
            step_name=turn.state.name_of(number),
            step_uuid=step.uuid,
            attempt=step.attempt,
            reason=command.reason,
            reset_by=command.by,
            request_id=command.request_id,
        )
    )
    turn.reset(number)


def _resolve_step(state: TaskState, number: int, command: ResolveStep, moment: Moment) -> Decision:
    turn = _turn(state, moment)
    step = state.steps[number]
    turn.happened += cancel_requests(state, command.reason or "its step was resolved", only=number)
    turn.happened.append(
        events.StepResolvedManually(
            step_name=state.name_of(number),
            step_uuid=step.uuid,
            attempt=step.attempt,
            reason=command.reason,
            resolved_by=command.by,
            request_id=command.request_id,
        )
    )
    turn.settle_by_hand(number, "resolved_manually")
    _decides_nothing(turn, number, command.reason)
    return turn.finish()


def _skip_step(state: TaskState, number: int, command: SkipStep, moment: Moment) -> Decision:
    turn = _turn(state, moment)
    turn.happened.append(
        events.StepSkipped(
            step_name=state.name_of(number),
            step_uuid=state.steps[number].uuid,
            reason="operator",
            skipped_by=command.by,
            explanation=command.reason,
            request_id=command.request_id,
        )
    )
    turn.settle_by_hand(number, "skipped")
    _decides_nothing(turn, number, command.reason)
    return turn.finish()


def _complete_step(state: TaskState, number: int, command: CompleteStep, moment: Moment) -> Decision:
    turn = _turn(state, moment)
    step = state.steps[number]
    spec = state.spec_of(number)
    value = raw(command.result)
    chosen: tuple[str, ...] = ()
    if spec.type == "decision":
        named = _chosen(command.result)
        fault = named if isinstance(named, str) else _fault_of_choice(state, number, named, moment)
        if fault is not None:
            return refused_step(state, number, fault)
        chosen = tuple(named)
    misfit = turn.misfit(number, value, "")
    if misfit is not None:
        return refused_step(state, number, misfit.error_message)
    if spec.wait_for_signal is not None and turn.plan.checks is not None:
        found = turn.plan.checks.of_signal(spec.name, msgspec.json.decode(value))
        if found:
            return refused_step(
                state, number, f"the result does not fit the payload_schema: {misfits_text(found)}"
            )
    turn.happened += cancel_requests(state, command.reason or "its step was completed", only=number)
    turn.happened.append(
        events.StepCompletedManually(
            step_name=state.name_of(number),
            step_uuid=step.uuid,
            attempt=step.attempt,
            result=value,
            metadata=raw(command.metadata) if command.metadata else NO_RAW,
            reason=command.reason,
            completed_by=command.by,
            request_id=command.request_id,
        )
    )
    turn.announce(number, SUCCESS, None if turn.is_placeholder(number) else value)
    turn.settle_by_hand(number, "complete", value)
    if chosen:
        choose(turn, number, chosen, command.reason, value)
    else:
        _decides_nothing(turn, number, command.reason, value)
    return turn.finish()


def _decides_nothing(turn: Turn, number: int, reason: str, value: msgspec.Raw = _NULL) -> None:
    """A decision that an operator has settled has chosen no branch; a batchable step has cut no batches."""
    if turn.state.steps[number].made_from >= 0:
        return
    kind = turn.plan.steps[number].type
    if kind == "decision":
        choose(turn, number, (), reason, value)
    elif kind == "batchable":
        declared = turn.plan.batches[number].worker_template
        workers = turn.plan.workers_of(number)
        named = [worker for worker in workers if turn.plan.steps[worker].name == declared]
        cut(turn, number, (named or workers)[0], (), reason)


def _chosen(text: str) -> list[str] | str:
    """The steps that a decision's result names in `create_steps`; a text where that is no list of names."""
    value: Any = msgspec.json.decode(text)
    named = value.get("create_steps") if isinstance(value, dict) else None
    if isinstance(named, list) and all(isinstance(name, str) for name in named):
        return list(dict.fromkeys(named))
    # Not guessed from a result without it: what is not chosen now never will be.
    return (
        "`create_steps` in the result of a decision is the list of the steps that it chooses; `[]`, or to resolve it, "
        "chooses none"
    )


def _fault_of_choice(state: TaskState, number: int, named: list[str], moment: Moment) -> str | None:
    step = state.steps[number]
    said = result.Decided(
        task_id=state.task_id,
        step_uuid=step.uuid,
        step_name=state.name_of(number),
        attempt=step.attempt,
        lease_token="",
        worker_id=_OPERATOR,
        create_steps=tuple(named),
    )
    fault = fault_of_decision(state, number, said, moment)
    return None if fault is None else fault.error_message


_STEP_DECIDERS: Final[dict[type[StepCommand], Callable[[TaskState, int, Any, Moment], Decision]]] = {
    ResetStep: _reset_step,
    ResolveStep: _resolve_step,
    CompleteStep: _complete_step,
    SkipStep: _skip_step,
}
_DECIDERS: Final[dict[type[OperatorCommand], Callable[[TaskState, Any, Moment], Decision]]] = {
    PauseTask: _pause,
    ResumeTask: _resume,
    RetryTask: _retry,
    GiveUpTask: _give_up,
    ResolveTask: _resolve_task,
    ResetStep: _on_step,
    ResolveStep: _on_step,
    CompleteStep: _on_step,
    SkipStep: _on_step,
}
#: By command: what decides about it.
OPERATOR_DECIDERS: Final[dict[type, Callable[[TaskState, Any, Moment], Decision]]] = dict.fromkeys(
    _DECIDERS, decide_operator
)
