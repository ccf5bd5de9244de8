"""What follows from what workers and children report about a try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from stepweave_schemas import events, result

from .commands import Moment
from .domain_events import CHECKPOINT, SUCCESS, domain_events
from .rejection import Decision, Rejection
from .state import ACTIVE, HIDDEN, OPEN, StepState, TaskState, saved_progress
from .tries import Failed, enqueued
from .turn import Said, Turn, task_completed

#: The outcomes that end a try by the worker's own word, and what `settled_by` calls them.
_RESULTS = {"success": "success", "decision": "success", "batches": "success", "failure": "failure"}


def _started(state: TaskState, outcome: result.Started, moment: Moment) -> Decision:
    number, refusal = _current(state, outcome)
    if refusal is not None:
        return refusal
    step = state.steps[number]
    if step.status == "in_progress" or step.started_at_ms is not None:
        return []
    return [
        events.StepStarted(
            step_name=outcome.step_name,
            step_uuid=step.uuid,
            attempt=step.attempt,
            worker_id=outcome.worker_id,
            started_at_ms=outcome.started_at_ms,
        )
    ]


def _success(state: TaskState, outcome: result.Success, moment: Moment) -> Decision:
    number, refusal = _current(state, outcome)
    if refusal is not None:
        return refusal
    plan = state.the_plan
    if (
        not plan.swift
        or outcome.domain_events
        or state.phase != "steps_in_process"
        or state.stepped_in
        or moment.rate_per_second is not None
    ):
        return _success_of_any_kind(state, number, outcome, moment)
    step = state.steps[number]
    happened: list[events.Event] = [_step_completed(step, outcome)]
    steps = state.steps
    begun = 0
    for dependent in plan.dependents[number]:
        if steps[dependent].unmet == 1:
            happened.append(enqueued(plan.steps[dependent].name, steps[dependent].uuid, 1, moment))
            begun += 1
    if state.failed:
        if not begun and state.active_count == 1:
            # Nothing may be able to go on: that is the turn's to tell.
            turn = Turn(state, moment)
            turn.happened = happened
            turn.complete(number, outcome.result)
            return turn.finish()
    elif state.done_count + 1 == len(steps):
        happened.append(task_completed(state, len(steps), moment))
    return happened


def _step_completed(
    step: StepState, outcome: result.Success | result.Decided | result.Batches
) -> events.StepCompleted:
    return events.StepCompleted(
        step_name=outcome.step_name,
        step_uuid=step.uuid,
        attempt=step.attempt,
        result=outcome.result,
        metadata=outcome.metadata,
        worker_id=outcome.worker_id,
        started_at_ms=outcome.started_at_ms,
        duration_ms=outcome.duration_ms,
    )


def _success_of_any_kind(state: TaskState, number: int, outcome: result.Success, moment: Moment) -> Decision:
    turn = _turn(state, number, outcome, moment)
    step = state.steps[number]
    kind = state.spec_of(number).type
    if kind in ("decision", "batchable"):
        said = "a decision" if kind == "decision" else "batches"
        turn.fail(
            number,
            _unexpected(
                outcome,
                f"a {kind} step reports {said}, not a plain result: let its handler do so, or change the step's type",
            ),
        )
        return turn.finish()
    if (misfit := turn.misfit(number, outcome.result, outcome.worker_id)) is not None:
        turn.fail(number, misfit)
        return turn.finish()
    if step.compensates < 0:
        turn.happened.append(_step_completed(step, outcome))
        turn.announce(number, SUCCESS, None if turn.is_placeholder(number) else outcome.result)
        turn.complete(number, outcome.result)
        return turn.finish()
    target = state.name_of(step.compensates)
    clean = not _wants_cleanup(outcome.result)
    turn.happened.append(
        events.CompensationCompleted(
            step_name=outcome.step_name,
            step_uuid=step.uuid,
            compensates=target,
            attempt=step.attempt,
            result=outcome.result,
            metadata=outcome.metadata,
            worker_id=outcome.worker_id,
            started_at_ms=outcome.started_at_ms,
            duration_ms=outcome.duration_ms,
            requires_manual_cleanup=not clean,
        )
    )
    turn.announce(number, SUCCESS, None)
    turn.undoing.ended(number, target, clean=clean)
    return turn.finish()


def _turn(
    state: TaskState,
    number: int,
    outcome: result.Success | result.Failure | result.Decided | result.Batches | result.Checkpointed,
    moment: Moment,
) -> Turn:
    """A turn about what a handler reports."""
    return Turn(state, moment, Said(number, outcome.domain_events, outcome.worker_id))


def _wants_cleanup(value: msgspec.Raw) -> bool:
    """Whether a compensation says of itself that it could not undo everything."""
    decoded = msgspec.json.decode(value)
    return isinstance(decoded, dict) and decoded.get("requires_manual_cleanup") is True


def _decided(state: TaskState, outcome: result.Decided, moment: Moment) -> Decision:
    number, refusal = _current(state, outcome)
    if refusal is not None:
        return refusal
    turn = _turn(state, number, outcome, moment)
    fault = fault_of_decision(state, number, outcome, moment)
    if fault is None:
        fault = turn.misfit(number, outcome.result, outcome.worker_id)
    if fault is not None:
        turn.fail(number, fault)
        return turn.finish()
    turn.happened.append(_step_completed(state.steps[number], outcome))
    turn.announce(number, SUCCESS, outcome.result)
    turn.complete(number, outcome.result)
    choose(turn, number, outcome.create_steps, outcome.reason, outcome.result)
    return turn.finish()


def choose(
    turn: Turn, number: int, chosen: tuple[str, ...], reason: str, routing_context: msgspec.Raw
) -> None:
    """A decision that is done has chosen these steps, or none: make them exist."""
    plan = turn.plan
    uuid = turn.state.steps[number].uuid
    growth = turn.decided(number, [plan.index[name] for name in chosen])
    created = tuple(plan.steps[one].name for one in growth.created)
    excluded = tuple(plan.steps[one].name for one in growth.excluded)
    turn.happened.append(
        events.DecisionRouted(
            step_name=plan.steps[number].name,
            step_uuid=uuid,
            chosen=chosen,
            created=created,
            excluded=excluded,
            routing_context=routing_context,
        )
        if chosen
        else events.DecisionDeclined(
            step_name=plan.steps[number].name,
            step_uuid=uuid,
            reason=reason,
            created=created,
            excluded=excluded,
            routing_context=routing_context,
        )
    )
    turn.grown(growth)


def fault_of_decision(
    state: TaskState, number: int, outcome: result.Decided, moment: Moment
) -> Failed | None:
    """What is wrong with what a decision has chosen."""
    plan, limits = state.the_plan, moment.limits
    spec = state.spec_of(number)
    if spec.type != "decision":
        return _unexpected(
            outcome,
            f"a decision came from a step of type {spec.type}: give the step `type: decision`, or another handler",
        )
    depth = plan.decision_depths[number]
    if depth > limits.decision_depth_max:
        message = f"{depth} decisions stand above each other, {limits.decision_depth_max} at most may"
        return _refused(outcome, "DECISION_DEPTH_EXCEEDED", message)
    if len(outcome.create_steps) > limits.decision_steps_max:
        message = f"{len(outcome.create_steps)} steps at once, {limits.decision_steps_max} at most"
        return _refused(outcome, "DECISION_STEPS_EXCEEDED", message)
    behind = set(plan.descendants(number))
    wrong = [
        name
        for name in outcome.create_steps
        if plan.index.get(name) not in behind or plan.steps[plan.index[name]].type == "batch_worker"
    ]
    if wrong:
        allowed = [plan.steps[one].name for one in sorted(behind) if plan.steps[one].type != "batch_worker"]
        message = (
            f"{', '.join(repr(name[:100]) for name in wrong[:5])} cannot be created by {spec.name!r}: it may "
            f"create the steps that depend on it: {', '.join(allowed[:20])}{', …' if len(allowed) > 20 else ''}"
        )
        return _refused(outcome, "DECISION_INVALID", message)
    return None


def _batches(state: TaskState, outcome: result.Batches, moment: Moment) -> Decision:
    number, refusal = _current(state, outcome)
    if refusal is not None:
        return refusal
    turn = _turn(state, number, outcome, moment)
    worker, fault = _worker_of(state, number, outcome, moment)
    if fault is None:
        fault = turn.misfit(number, outcome.result, outcome.worker_id)
    if fault is not None:
        turn.fail(number, fault)
        return turn.finish()
    turn.happened.append(_step_completed(state.steps[number], outcome))
    turn.announce(number, SUCCESS, outcome.result)
    turn.complete(number, outcome.result)
    cut(turn, number, worker, outcome.cursors, outcome.reason)
    return turn.finish()


def cut(turn: Turn, number: int, worker: int, cursors: tuple[msgspec.Raw, ...], reason: str) -> None:
    """A batchable step that is done has cut these batches for a batch worker; without any, a placeholder is made."""
    plan = turn.plan
    growth = turn.decided(number, [worker])
    turn.happened.append(
        events.BatchCreated(
            step_name=plan.steps[number].name,
            step_uuid=turn.state.steps[number].uuid,
            worker_template=plan.steps[worker].name,
            cursors=cursors,
            is_no_op=not cursors,
            reason=reason,
            created=tuple(plan.steps[one].name for one in growth.created if one != worker),
            excluded=tuple(plan.steps[one].name for one in growth.excluded),
        )
    )
    turn.grown(growth)
    turn.expand(worker, max(1, len(cursors)), is_no_op=not cursors)


def _worker_of(
    state: TaskState, number: int, outcome: result.Batches, moment: Moment
) -> tuple[int, Failed | None]:
    """The batch worker that a batchable step has chosen, or what is wrong with its outcome."""
    plan = state.the_plan
    spec = state.spec_of(number)
    if spec.type != "batchable":
        return -1, _unexpected(
            outcome,
            f"batches came from a step of type {spec.type}: give the step `type: batchable`, or another handler",
        )
    if len(outcome.cursors) > moment.limits.batch_workers_max:
        message = (
            f"{len(outcome.cursors)} batches, {moment.limits.batch_workers_max} at most: make them larger"
        )
        return -1, _refused(outcome, "BATCHES_EXCEEDED", message)
    workers = plan.workers_of(number)
    names = [plan.steps[one].name for one in workers]
    wanted = outcome.worker_template or plan.batches[number].worker_template or ""
    if wanted in names:
        return workers[names.index(wanted)], None
    if not wanted and len(workers) == 1:
        return workers[0], None
    said = f"{wanted[:100]!r} is no batch worker of {spec.name!r}" if wanted else "no batch worker was named"
    return -1, _refused(outcome, "BATCHES_INVALID", f"{said}: its batch workers are {', '.join(names[:20])}")


def _unexpected(outcome: result.Outcome, message: str) -> Failed:
    return _refused(outcome, "UNEXPECTED_OUTCOME", message)


def _refused(outcome: result.Outcome, code: str, message: str) -> Failed:
    """A worker's outcome that cannot be: its step fails for good."""
    return Failed(
        settled_by="failure",
        error_type="permanent_error",
        error_code=code,
        error_message=message[: result.ERROR_MESSAGE_CHARS_MAX],
        worker_id=outcome.worker_id,
        retryable=False,
    )


def _failure(state: TaskState, outcome: result.Failure, moment: Moment) -> Decision:
    number, refusal = _current(state, outcome)
    if refusal is not None:
        return refusal
    turn = _turn(state, number, outcome, moment)
    turn.fail(
        number,
        Failed(
            settled_by="failure",
            error_type=outcome.error_type,
            error_code=outcome.error_code,
            error_message=outcome.error_message,
            worker_id=outcome.worker_id,
            retryable=outcome.retryable,
            retry_after_ms=outcome.retry_after_ms,
            metadata=outcome.metadata,
            undo=outcome.compensation_steps,
        ),
    )
    return turn.finish()


def _lost(state: TaskState, outcome: result.Lost, moment: Moment) -> Decision:
    number, refusal = _held_by_a_worker(state, outcome)
    if refusal is not None:
        return refusal
    worker_id = state.steps[number].worker_id
    turn = Turn(state, moment)
    turn.fail(
        number,
        Failed(
            settled_by="lost",
            error_type="worker_lost",
            error_code="WORKER_LOST",
            error_message=f"{worker_id or 'the worker that had it'} stopped renewing its lease on the step",
            worker_id=worker_id,
            # Its lease has run out already: nobody gains from waiting again.
            retry_after_ms=0,
        ),
    )
    return turn.finish()


def _released(state: TaskState, outcome: result.Released, moment: Moment) -> Decision:
    number, refusal = _held_by_a_worker(state, outcome)
    if refusal is not None:
        return refusal
    step = state.steps[number]
    released = events.StepReleased(
        step_name=outcome.step_name,
        step_uuid=step.uuid,
        attempt=step.attempt,
        worker_id=outcome.worker_id,
    )
    return _given_out_anew(state, number, [released], moment)


def _checkpointed(state: TaskState, outcome: result.Checkpointed, moment: Moment) -> Decision:
    number, refusal = _held_by_a_worker(state, outcome)
    if refusal is not None:
        return refusal
    step = state.steps[number]
    if step.checkpoint == saved_progress(outcome):
        # It would go on for ever, at no attempt.
        turn = _turn(state, number, outcome, moment)
        turn.fail(
            number,
            Failed(
                settled_by="failure",
                error_type="handler_error",
                error_code="CHECKPOINT_WITHOUT_PROGRESS",
                error_message="the handler saved the checkpoint that it was given, and got no further",
                worker_id=outcome.worker_id,
            ),
        )
        return turn.finish()
    checkpointed = events.StepCheckpointed(
        step_name=outcome.step_name,
        step_uuid=step.uuid,
        attempt=step.attempt,
        worker_id=outcome.worker_id,
        cursor=outcome.cursor,
        items_processed=outcome.items_processed,
        accumulated_results=outcome.accumulated_results,
    )
    published = domain_events(state, number, CHECKPOINT, outcome.domain_events, None, outcome.worker_id)
    return _given_out_anew(state, number, [checkpointed, *published], moment)


def _given_out_anew(
    state: TaskState,
    number: int,
    happened: list[events.Event],
    moment: Moment,
) -> Decision:
    """The same try once more; where the task is paused, when it is resumed."""
    step = state.steps[number]
    if state.phase == "paused":
        return happened
    name = state.name_of(number)
    return [*happened, enqueued(name, step.uuid, step.attempt, moment)]


def _current(state: TaskState, outcome: result.Outcome) -> tuple[int, Decision | None]:
    """The step's number, and what to answer where the outcome is not about its current, open try."""
    number = state.number_of(outcome.step_name) if state.version else -1
    step = state.steps[number] if number >= 0 else None
    if step is None or step.uuid != outcome.step_uuid or step.status in HIDDEN:
        return -1, Rejection("UNKNOWN_STEP", f"task {outcome.task_id} has no such step")
    if outcome.attempt == step.attempt:
        # A step that no worker was asked to run has no token, and nobody may report about it.
        if step.lease_token and outcome.lease_token == step.lease_token:
            if step.status in OPEN:
                return number, None
            return number, _late(state, step, outcome, step.settled_by)
        if step.former_token and outcome.lease_token == step.former_token:
            return number, Rejection("STALE", f"try {outcome.attempt} was handed back")
    earlier = step.earlier.get(outcome.attempt)
    if earlier is not None and outcome.lease_token == earlier.lease_token:
        return number, _late(state, step, outcome, earlier.settled_by)
    return number, Rejection("WRONG_TOKEN", f"the lease token is not that of try {outcome.attempt}")


def _held_by_a_worker(state: TaskState, outcome: result.Outcome) -> tuple[int, Decision | None]:
    """As `_current`. A step that waits for another task has a try too, but no worker holds it."""
    number, refusal = _current(state, outcome)
    if refusal is None and state.steps[number].status not in ACTIVE:
        refusal = Rejection("STALE", "no worker runs this try")
    return number, refusal


def _late(state: TaskState, step: StepState, outcome: result.Outcome, settled_by: str) -> Decision:
    """A sound outcome for a try that is over: a repetition is dropped, news are recorded once."""
    said = _RESULTS.get(outcome.KIND)
    if said is None:
        return Rejection("STALE", f"try {outcome.attempt} is over")
    if settled_by == said:
        return Rejection("DUPLICATE", f"try {outcome.attempt} was reported before")
    if outcome.attempt in step.refused_attempts:
        return Rejection("STALE", f"try {outcome.attempt} is over, and its late result is recorded")
    if outcome.attempt != step.attempt or step.status in ("waiting_for_retry", "pending", "held"):
        refusal = "stale_attempt"
    else:
        # A batch that was stopped cancels steps of a task that goes on.
        ended = step.status == "cancelled" and state.phase in ("cancelled", "resolved_manually")
        refusal = "task_finished" if ended else "step_finished"
    return [
        events.StepResultRefused(
            step_name=outcome.step_name,
            step_uuid=step.uuid,
            attempt=outcome.attempt,
            outcome=outcome.KIND,
            refusal=refusal,
            worker_id=outcome.worker_id,
        )
    ]


#: By outcome: what decides about it.
OUTCOME_DECIDERS: Final[dict[type, Callable[[TaskState, Any, Moment], Decision]]] = {
    result.Started: _started,
    result.Success: _success,
    result.Failure: _failure,
    result.Decided: _decided,
    result.Batches: _batches,
    result.Checkpointed: _checkpointed,
    result.Lost: _lost,
    result.Released: _released,
}
