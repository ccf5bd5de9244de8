"""Apply one event to a task's state. It cannot refuse; released branches never change their meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from stepweave_schemas import events
from stepweave_schemas.identity import step_uuid

from . import saga
from .bookkeeping import clear_due, cut_short, met, move, set_due, step_of
from .by_hand import BY_HAND, hold, pass_over_settled, settled_by_hand, stepped_in
from .dead_letters import begin_watching, block, follow, investigate, name_stale
from .plan import COMPENSATION_PREFIX, worker_name
from .signals import SIGNAL_IDS_MAX, signal_digest
from .state import (
    ACTIVE,
    NOT_RUNNING,
    TIMEOUT_GRACE_MS,
    BatchState,
    EarlierTry,
    Fault,
    KeptSignal,
    Origin,
    ParentStep,
    Pass,
    Reused,
    SagaState,
    StepState,
    StepStatus,
    TaskState,
    saved_progress,
)


def evolve(state: TaskState, event: events.Event, recorded_at_ms: int) -> TaskState:
    """Apply `event`, recorded at `recorded_at_ms`, in place; returns the same state.

    Raises `KeyError` for an event that is none of a task's stream.
    """
    state.version += 1
    state.events_since_snapshot += 1
    state.updated_at_ms = recorded_at_ms
    _APPLIERS[type(event)](state, event, recorded_at_ms)
    if state.watch is not None:
        follow(state, event, recorded_at_ms)
    return state


# -- tasks -----------------------------------------------------------------------------------------


def _task_created(state: TaskState, event: events.TaskCreated, at_ms: int) -> None:
    state.request_id = event.request_id
    state.request_digest = event.request_digest
    state.context = bytes(event.context).decode()
    state.initiator = event.initiator
    state.source_system = event.source_system
    state.reason = event.reason
    state.tags = event.tags
    state.priority = event.priority
    state.parent_correlation_id = event.parent_correlation_id
    state.traceparent = event.traceparent
    state.start_at_ms = event.start_at_ms
    state.depth = event.depth
    state.schedule = event.schedule
    state.created_at_ms = at_ms
    state.phase = "pending" if event.start_at_ms is not None else "steps_in_process"
    parent = event.parent
    if parent is not None:
        state.parent = ParentStep(
            parent.task_id,
            parent.step_name,
            parent.step_uuid,
            parent.attempt,
            parent.lease_token,
            parent.result_subject,
        )
    if state.the_plan.lifecycle is not None:
        begin_watching(state, at_ms)
    origin = event.forked_from
    if origin is not None:
        state.forked_from = Origin(origin.task_id, origin.stream_version, origin.from_steps)


def _task_started(state: TaskState, event: events.TaskStarted, at_ms: int) -> None:
    state.phase = "steps_in_process"
    if state.watch is not None:
        state.watch.began_at_ms = at_ms


def _task_blocked(state: TaskState, event: events.TaskBlocked, at_ms: int) -> None:
    state.phase = "blocked_by_failures"
    block(state, event, at_ms)


def _task_stale(state: TaskState, event: events.TaskStale, at_ms: int) -> None:
    name_stale(state, event, at_ms)
    if event.action == "fail":
        cut_short(state, "cancel", at_ms)
        # It ends with the `task.failed` of the same append, or when it has been undone.
        state.completed_at_ms = None


def _task_investigated(state: TaskState, event: events.TaskInvestigated, at_ms: int) -> None:
    investigate(state, event, at_ms)


def _task_completed(state: TaskState, event: events.TaskCompleted, at_ms: int) -> None:
    state.phase = "complete"
    state.completed_at_ms = at_ms
    state.mailbox.clear()


def _task_failed(state: TaskState, event: events.TaskFailed, at_ms: int) -> None:
    state.phase = "error"
    state.completed_at_ms = at_ms
    state.compensation_status = event.compensation_status
    state.ending_message = event.error_message
    state.ending_code = event.error_code
    state.mailbox.clear()


def _task_cancelled(state: TaskState, event: events.TaskCancelled, at_ms: int) -> None:
    cut_short(state, "cancel", at_ms)
    state.phase = "cancelled"
    state.ending_message = event.reason


# -- tries -----------------------------------------------------------------------------------------


def _step_enqueued(state: TaskState, event: events.StepEnqueued, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    if step.name and step.status == "pending":
        _made_step_begins(state, number, step)
    # A try that was handed back, or goes on after a checkpoint, has waited since it was given out first.
    if step.attempt != event.attempt:
        step.waiting_since_ms = at_ms
    if step.attempt or step.status == "held":
        _next_try(step, event.attempt, event.lease_token)
        move(state, step, "enqueued")
        clear_due(state, step)
    else:
        # The first try of a step that waited for nothing but its dependencies.
        step.attempt = event.attempt
        step.lease_token = event.lease_token
        step.status = "enqueued"
        state.active_count += 1
    step.enqueued_at_ms = at_ms


def _made_step_begins(state: TaskState, number: int, step: StepState) -> None:
    if step.made_from >= 0:
        batch = state.batches[step.made_from]
        batch.running += 1
        if number in batch.again:
            batch.again.remove(number)
        else:
            batch.begun = number - batch.first + 1
            if state.stepped_in or state.forked_from is not None:
                pass_over_settled(state, batch)
    else:
        target = state.steps[step.compensates]
        if target.status == "complete":
            target.status = "compensating"


def _next_try(step: StepState, attempt: int, lease_token: str) -> None:
    if step.attempt == attempt:
        step.former_token = step.lease_token or step.former_token
    elif step.attempt:
        step.earlier[step.attempt] = EarlierTry(step.lease_token, step.settled_by)
        step.former_token = ""
        step.handed_back = 0
        step.handed_back_since_ms = None
    step.attempt = attempt
    step.lease_token = lease_token
    step.settled_by = ""
    step.worker_id = ""
    step.started_at_ms = None


def _step_started(state: TaskState, event: events.StepStarted, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    step.worker_id = event.worker_id
    step.started_at_ms = event.started_at_ms
    if step.status == "waiting_for_child":
        return
    move(state, step, "in_progress")
    timeout_seconds = state.spec_of(number).timeout_seconds
    if timeout_seconds is not None:
        set_due(state, number, step, at_ms + round(timeout_seconds * 1000) + TIMEOUT_GRACE_MS)


def _step_completed(state: TaskState, event: events.StepCompleted, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    if step.status in ACTIVE:
        step.status = "complete"
        state.active_count -= 1
    else:
        if step.status == "waiting_for_signal":
            _take_from_mailbox(state, number)
        move(state, step, "complete")
    step.settled_by = "success"
    step.result = bytes(event.result).decode()
    step.worker_id = event.worker_id
    if event.started_at_ms is not None:
        step.started_at_ms = event.started_at_ms
    step.completed_at_ms = at_ms
    state.done_count += 1
    clear_due(state, step)
    if step.made_from >= 0:
        batch = state.batches[step.made_from]
        batch.running -= 1
        batch.succeeded += 1
        return
    steps = state.steps
    for dependent in state.the_plan.dependents[number]:
        steps[dependent].unmet -= 1


def _step_retry_scheduled(state: TaskState, event: events.StepRetryScheduled, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    _fault(step, event, at_ms)
    move(state, step, "waiting_for_retry")
    step.retry_delay_ms = event.delay_ms
    if state.phase == "paused":
        clear_due(state, step)
        step.due_at_ms = event.retry_at_ms
    else:
        set_due(state, number, step, event.retry_at_ms)


def _step_failed(state: TaskState, event: events.StepFailed, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    _fault(step, event, at_ms)
    move(state, step, "error")
    step.completed_at_ms = at_ms
    step.undo = event.compensation_steps
    clear_due(state, step)
    if event.tolerated:
        state.done_count += 1
    else:
        state.failed.append(number)
    if step.made_from >= 0:
        batch = state.batches[step.made_from]
        batch.running -= 1
        batch.failed += 1


def _step_released(state: TaskState, event: events.StepReleased, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    if state.phase == "paused":
        hold(state, number, step)
        return
    if event.retry_at_ms is None:
        # The `step.enqueued` of the same append follows and gives out a new token.
        return
    move(state, step, "enqueued")
    step.former_token, step.lease_token = step.lease_token, ""
    step.worker_id = ""
    step.started_at_ms = None
    step.handed_back += 1
    if step.handed_back_since_ms is None:
        step.handed_back_since_ms = at_ms
    set_due(state, number, step, event.retry_at_ms)


def _step_checkpointed(state: TaskState, event: events.StepCheckpointed, at_ms: int) -> None:
    # The `step.enqueued` of the same append follows and gives out a new token.
    number, step = step_of(state, event, at_ms)
    step.checkpoint = saved_progress(event)
    if state.phase == "paused":
        hold(state, number, step)


def _step_result_refused(state: TaskState, event: events.StepResultRefused, at_ms: int) -> None:
    _, step = step_of(state, event, at_ms)
    step.refused_attempts = [*step.refused_attempts, event.attempt]


def _only_said(state: TaskState, event: events.StepEvent, at_ms: int) -> None:
    """Events of the users' own domain, and what was refused of them: nothing in the task follows."""


def _fault(
    step: StepState,
    event: events.StepRetryScheduled | events.StepFailed | events.CompensationFailed,
    at_ms: int,
) -> None:
    step.fault = Fault(event.error_type, event.error_message, event.error_code, at_ms)
    step.settled_by = event.settled_by
    step.worker_id = event.worker_id or step.worker_id


# -- steps that come to exist, or never do ---------------------------------------------------------


def _grown(state: TaskState, created: Iterable[str], excluded: Iterable[str], at_ms: int) -> None:
    index = state.the_plan.index
    for name in created:
        number = index[name]
        step = state.steps[number]
        step.updated_at_ms = at_ms
        if state.the_plan.steps[number].type == "batch_worker":
            step.status = "expanded"
        else:
            step.status = "pending"
            state.existing_count += 1
    for name in excluded:
        state.steps[index[name]].status = "excluded"
        met(state, index[name])


def _decided(state: TaskState, event: events.DecisionRouted | events.DecisionDeclined, at_ms: int) -> None:
    _grown(state, event.created, event.excluded, at_ms)


def _step_skipped(state: TaskState, event: events.StepSkipped, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    if event.skipped_by or event.reason == "operator":
        stepped_in(state, event.request_id)
        settled_by_hand(state, number, step, "skipped", at_ms)
        return
    if step.status == "absent":
        state.existing_count += 1
    step.status = "skipped"
    step.completed_at_ms = at_ms
    state.done_count += 1
    met(state, number)


def _step_reused(state: TaskState, event: events.StepReused, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    step.reused = Reused(event.from_step_uuid, event.undone_by_original)
    step.status = cast(StepStatus, event.status)
    step.result = bytes(event.result).decode() or None
    step.completed_at_ms = at_ms
    if event.status == "error":
        step.fault = Fault(event.error_type, event.error_message, event.error_code, at_ms)
    state.done_count += 1
    if step.made_from < 0:
        met(state, number)
        return
    batch = state.batches[step.made_from]
    if event.status == "error":
        batch.failed += 1
    else:
        batch.succeeded += 1
    pass_over_settled(state, batch)


def _batch_created(state: TaskState, event: events.BatchCreated, at_ms: int) -> None:
    slot = state.the_plan.index[event.worker_template]
    _grown(state, (event.worker_template, *event.created), event.excluded, at_ms)
    cursors: list[str | None] = [bytes(cursor).decode() for cursor in event.cursors]
    if event.is_no_op:
        cursors = [None]
    first = len(state.steps)
    state.batches[slot] = BatchState(first=first, count=len(cursors), is_no_op=event.is_no_op)
    state.existing_count += len(cursors)
    for number, cursor in enumerate(cursors, 1):
        name = worker_name(event.worker_template, number)
        state.made[name] = len(state.steps)
        state.steps.append(
            StepState(
                uuid=step_uuid(state.task_id, name),
                unmet=0,
                made_from=slot,
                name=name,
                cursor=cursor,
                updated_at_ms=at_ms,
            )
        )


def _batch_completed(state: TaskState, event: events.BatchCompleted, at_ms: int) -> None:
    slot = state.the_plan.index[event.worker_template]
    batch = state.batches[slot]
    batch.completed = True
    if batch.failed and state.failed:
        # The last one to fail held the task up, until an operator made another one succeed.
        members = range(batch.first, batch.first + batch.count)
        left = [number for number in state.failed if number not in members]
        state.done_count += len(state.failed) - len(left)
        state.failed[:] = left
    met(state, slot)


def _batch_stopped(state: TaskState, event: events.BatchStopped, at_ms: int) -> None:
    batch = state.batches[state.the_plan.index[event.worker_template]]
    batch.stopped = True
    batch.again.clear()
    for step in state.steps[batch.first : batch.first + batch.count]:
        if step.status in NOT_RUNNING:
            batch.running -= step.status != "pending"
            move(state, step, "cancelled")
            step.updated_at_ms = at_ms
            clear_due(state, step)


# -- signals and children --------------------------------------------------------------------------


def _signal_awaited(state: TaskState, event: events.SignalAwaited, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    step.attempt = event.attempt
    step.settled_by = ""
    step.started_at_ms = at_ms
    move(state, step, "waiting_for_signal")
    if event.deadline_at_ms is not None:
        set_due(state, number, step, event.deadline_at_ms)


def _signal_received(state: TaskState, event: events.SignalReceived, at_ms: int) -> None:
    payload = bytes(event.payload).decode()
    state.mailbox.append(KeptSignal(event.signal, event.signal_id, payload))
    state.signal_ids[event.signal_id] = signal_digest(event.signal, payload)
    if len(state.signal_ids) > SIGNAL_IDS_MAX:
        del state.signal_ids[next(iter(state.signal_ids))]


def _take_from_mailbox(state: TaskState, number: int) -> None:
    signal = state.the_plan.steps[number].wait_for_signal
    assert signal is not None
    for position, kept in enumerate(state.mailbox):
        if kept.signal == signal.name:
            state.steps[number].signal_id = kept.signal_id
            del state.mailbox[position]
            return


def _signal_timed_out(state: TaskState, event: events.SignalTimedOut, at_ms: int) -> None:
    # The event after it ends the step.
    step_of(state, event, at_ms)


def _child_requested(state: TaskState, event: events.ChildRequested, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    _next_try(step, event.attempt, event.lease_token)
    move(state, step, "waiting_for_child")
    step.child_task_id = event.child_task_id
    step.enqueued_at_ms = at_ms
    clear_due(state, step)
    timeout_seconds = state.the_plan.steps[number].timeout_seconds
    if timeout_seconds is not None:
        set_due(state, number, step, at_ms + round(timeout_seconds * 1000))


def _child_cancel_requested(state: TaskState, event: events.ChildCancelRequested, at_ms: int) -> None:
    # An order to the child; the event after it says what becomes of the step.
    step_of(state, event, at_ms)


# -- gates -------------------------------------------------------------------------------------------


def _held(
    state: TaskState, event: events.ConcurrencyRequested | events.CircuitHeld | events.RateHeld, at_ms: int
) -> None:
    if isinstance(event, events.ConcurrencyRequested):
        hold = Pass(
            gate="concurrency",
            gate_id=event.gate_id,
            token=event.token,
            attempt=event.attempt,
            at_ms=at_ms,
            group=event.group,
            value=event.value,
            limit=event.limit,
        )
    elif isinstance(event, events.CircuitHeld):
        hold = Pass(
            gate="circuit",
            gate_id=event.gate_id,
            token=event.token,
            attempt=event.attempt,
            at_ms=at_ms,
            group=event.service,
        )
    else:
        hold = Pass(
            gate="rate",
            gate_id=event.gate_id,
            token=event.token,
            attempt=event.attempt,
            at_ms=at_ms,
            per_second=event.per_second,
        )
    state.gated_count += 1
    if not event.step_name:
        state.hold = hold
        state.suspended_count += 1
        return
    number, step = step_of(state, event, at_ms)
    if step.name and step.status == "pending":
        _made_step_begins(state, number, step)
    step.hold = hold
    move(state, step, "held")
    clear_due(state, step)


def _granted(state: TaskState, event: events.ConcurrencyGranted, at_ms: int) -> None:
    if not event.step_name:
        assert state.hold is not None
        state.passes = (state.hold,)
        state.hold = None
        state.suspended_count -= 1
        return
    _, step = step_of(state, event, at_ms)
    assert step.hold is not None
    step.passes = (*step.passes, step.hold)
    step.hold = None


def _let_through(state: TaskState, event: events.CircuitAdmitted | events.RateAdmitted, at_ms: int) -> None:
    # The event after it says where the try goes on.
    _, step = step_of(state, event, at_ms)
    if isinstance(event, events.CircuitAdmitted) and event.is_probe and step.hold is not None:
        step.passes = (*step.passes, step.hold)
    else:
        state.gated_count -= 1
    step.hold = None


def _given_back(
    state: TaskState,
    event: events.ConcurrencyReleased | events.CircuitLeft | events.RateLeft,
    at_ms: int,
) -> None:
    state.gated_count -= 1
    if not event.step_name:
        if state.hold is not None:
            state.suspended_count -= 1
        state.hold = None
        state.passes = ()
        return
    _, step = step_of(state, event, at_ms)
    if step.hold is not None and step.hold.token == event.token:
        step.hold = None
    else:
        step.passes = tuple(one for one in step.passes if one.token != event.token)


# -- compensation ----------------------------------------------------------------------------------


def _compensation_started(state: TaskState, event: events.CompensationStarted, at_ms: int) -> None:
    plan = state.the_plan
    state.phase = "compensating"
    state.compensation_status = "running"
    state.ending_message = event.error_message
    state.ending_code = event.error_code
    members: dict[int, list[int]] = {}
    for name in event.steps:
        number = state.number_of(name)
        batch = state.batches.get(number)
        targets: Iterable[int] = (number,)
        if batch is not None:
            workers = range(batch.first, batch.first + batch.count)
            targets = [worker for worker in workers if state.steps[worker].is_to_undo]
        for target in targets:
            made = _make_compensation(state, state.name_of(target), target, "")
            members.setdefault(state.slot_of(target), []).append(made)
    for handler, name in event.handlers.items():
        target = state.number_of(name)
        made = _make_compensation(state, handler, target, handler)
        members.setdefault(state.slot_of(target), []).append(made)
    left = {slot: len(own) for slot, own in members.items()}
    waits, _ = saga.opening(plan, left)
    state.saga = SagaState(
        members=members,
        left=left,
        waits=waits,
        left_count=sum(left.values()),
        left_out_count=event.left_out_count,
    )


def _make_compensation(state: TaskState, what: str, target: int, handler: str) -> int:
    name = COMPENSATION_PREFIX + what
    number = state.made[name] = len(state.steps)
    state.steps.append(
        StepState(
            uuid=step_uuid(state.task_id, name), unmet=0, name=name, compensates=target, handler=handler
        )
    )
    return number


def _compensation_completed(state: TaskState, event: events.CompensationCompleted, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    step.settled_by = "success"
    step.result = bytes(event.result).decode()
    step.worker_id = event.worker_id
    _compensation_ended(state, number, step, "complete", at_ms, clean=not event.requires_manual_cleanup)


def _compensation_failed(state: TaskState, event: events.CompensationFailed, at_ms: int) -> None:
    number, step = step_of(state, event, at_ms)
    _fault(step, event, at_ms)
    _compensation_ended(state, number, step, "error", at_ms, clean=False)


def _compensation_ended(
    state: TaskState, number: int, step: StepState, status: StepStatus, at_ms: int, *, clean: bool
) -> None:
    move(state, step, status)
    step.completed_at_ms = at_ms
    clear_due(state, step)
    target = state.steps[step.compensates]
    target.updated_at_ms = at_ms
    if target.status == "compensating":
        target.status = "compensated" if clean else "complete"
    target.requires_manual_cleanup = target.requires_manual_cleanup or not clean
    running = state.saga
    assert running is not None
    slot = state.slot_of(number)
    running.left[slot] -= 1
    running.left_count -= 1
    if not running.left[slot]:
        _, shrunk = saga.cascade(
            state.the_plan, slot, lambda one: running.left.get(one, 0), lambda one: running.waits[one]
        )
        for one, count in shrunk.items():
            running.waits[one] -= count


_APPLIERS: dict[type[events.Event], Callable[[TaskState, Any, int], None]] = {
    **BY_HAND,
    events.TaskCreated: _task_created,
    events.TaskStarted: _task_started,
    events.TaskBlocked: _task_blocked,
    events.TaskCompleted: _task_completed,
    events.TaskFailed: _task_failed,
    events.TaskCancelled: _task_cancelled,
    events.TaskStale: _task_stale,
    events.TaskInvestigated: _task_investigated,
    events.StepEnqueued: _step_enqueued,
    events.StepStarted: _step_started,
    events.StepCompleted: _step_completed,
    events.StepRetryScheduled: _step_retry_scheduled,
    events.StepFailed: _step_failed,
    events.StepReleased: _step_released,
    events.StepResultRefused: _step_result_refused,
    events.StepCheckpointed: _step_checkpointed,
    events.StepSkipped: _step_skipped,
    events.StepReused: _step_reused,
    events.StepDomainEventRefused: _only_said,
    events.DomainPublished: _only_said,
    events.DecisionRouted: _decided,
    events.DecisionDeclined: _decided,
    events.BatchCreated: _batch_created,
    events.BatchCompleted: _batch_completed,
    events.BatchStopped: _batch_stopped,
    events.SignalAwaited: _signal_awaited,
    events.SignalReceived: _signal_received,
    events.SignalTimedOut: _signal_timed_out,
    events.ChildRequested: _child_requested,
    events.ChildCancelRequested: _child_cancel_requested,
    events.ConcurrencyRequested: _held,
    events.ConcurrencyGranted: _granted,
    events.ConcurrencyReleased: _given_back,
    events.CircuitHeld: _held,
    events.CircuitAdmitted: _let_through,
    events.CircuitLeft: _given_back,
    events.RateHeld: _held,
    events.RateAdmitted: _let_through,
    events.RateLeft: _given_back,
    events.CompensationStarted: _compensation_started,
    events.CompensationCompleted: _compensation_completed,
    events.CompensationFailed: _compensation_failed,
}
