"""What follows from a command: events, or a refusal. Never changes the state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from stepweave_schemas import events, result
from stepweave_schemas.raw import NO_RAW, raw

from .backoff import DEFAULT_RETRY_AFTER_MS_MAX, backoff_delay_ms
from .commands import CancelTask, Command, CreateTask, Moment, Wake
from .rejection import Rejection
from .state import ACTIVE, StepState, TaskState

Decision = list[events.Event] | Rejection

#: The outcomes that end a try by the worker's own word; `settled_by` has the same names.
_RESULTS = frozenset({"success", "failure"})

#: Most steps that one event names (up to 255 bytes each), so that it fits into one message.
NAMED_STEPS_MAX = 1_000


def decide(state: TaskState, command: Command, moment: Moment) -> Decision:
    """The events that follow from `command` in `state`, in order, or why none do.

    An empty list means: the command was carried out before, answer it like the first time.
    """
    return _DECIDERS[type(command)](state, command, moment)


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
    if created.start_at_ms is not None:
        begun: list[events.Event] = [created, events.TaskStarted(start_at_ms=created.start_at_ms)]
    else:
        begun = [created]
    begun.extend(_enqueue(state, number, 1, moment) for number in state.the_plan.roots)
    return begun


def _cancel(state: TaskState, command: CancelTask, moment: Moment) -> Decision:
    if state.version == 0:
        return Rejection("NOT_FOUND", "there is no such task")
    if state.phase == "cancelled":
        return []
    if state.is_terminal:
        return Rejection("CONFLICT", f"the task has ended already: {state.status}")
    plan = state.the_plan
    running = tuple(
        plan.steps[number].name for number, step in enumerate(state.steps) if step.status in ACTIVE
    )
    return [
        events.TaskCancelled(
            task_name=plan.ref.name,
            namespace=plan.ref.namespace,
            reason=command.reason,
            cancelled_by=command.cancelled_by,
            cancelled_steps=running[:NAMED_STEPS_MAX],
        )
    ]


def _wake(state: TaskState, command: Wake, moment: Moment) -> Decision:
    if state.is_terminal or state.version == 0:
        return []
    if state.phase == "pending":
        if state.start_at_ms is None or state.start_at_ms > moment.now_ms:
            return []
        roots = [_enqueue(state, number, 1, moment) for number in state.the_plan.roots]
        return [events.TaskStarted(start_at_ms=state.start_at_ms), *roots]
    happened: list[events.Event] = []
    tally = _Tally(state)
    for number in state.due_steps(moment.now_ms):
        step = state.steps[number]
        if step.status == "waiting_for_retry":
            happened.append(_enqueue(state, number, step.attempt + 1, moment))
            tally.resumed()
        elif step.status == "in_progress":
            seconds = state.the_plan.steps[number].timeout_seconds
            lost = _Failure(
                settled_by="timeout",
                error_type="timeout",
                error_code="STEP_TIMEOUT",
                error_message=f"no result within {seconds:.15g} s, and its worker did not say why",
                worker_id=step.worker_id,
            )
            happened.extend(_fail(state, number, lost, moment, tally))
    happened.extend(tally.ending(moment))
    return happened


# -- outcomes of workers -------------------------------------------------------------------------


def _started(state: TaskState, outcome: result.Started, moment: Moment) -> Decision:
    number, refusal = _current(state, outcome)
    if refusal is not None:
        return refusal
    step = state.steps[number]
    if step.status == "in_progress":
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
    step = state.steps[number]
    happened: list[events.Event] = [
        events.StepCompleted(
            step_name=outcome.step_name,
            step_uuid=step.uuid,
            attempt=step.attempt,
            result=outcome.result,
            metadata=outcome.metadata,
            worker_id=outcome.worker_id,
            started_at_ms=outcome.started_at_ms,
            duration_ms=outcome.duration_ms,
        )
    ]
    steps = state.steps
    enqueued = 0
    for dependent in state.the_plan.dependents[number]:
        if steps[dependent].unmet == 1:
            happened.append(_enqueue(state, dependent, 1, moment))
            enqueued += 1
    done = state.done_count + 1
    if done == len(steps):
        happened.append(_completed(state, done, moment))
    elif state.failed and not enqueued and state.active_count == 1 and not state.waiting_count:
        happened.append(_stuck(state, state.failed, None))
    return happened


def _failure(state: TaskState, outcome: result.Failure, moment: Moment) -> Decision:
    number, refusal = _current(state, outcome)
    if refusal is not None:
        return refusal
    failure = _Failure(
        settled_by="failure",
        error_type=outcome.error_type,
        error_code=outcome.error_code,
        error_message=outcome.error_message,
        worker_id=outcome.worker_id,
        retryable=outcome.retryable,
        retry_after_ms=outcome.retry_after_ms,
        metadata=outcome.metadata,
    )
    tally = _Tally(state)
    return [*_fail(state, number, failure, moment, tally), *tally.ending(moment)]


def _lost(state: TaskState, outcome: result.Lost, moment: Moment) -> Decision:
    number, refusal = _current(state, outcome)
    if refusal is not None:
        return refusal
    who = state.steps[number].worker_id or "the worker that had it"
    failure = _Failure(
        settled_by="lost",
        error_type="worker_lost",
        error_code="WORKER_LOST",
        error_message=f"{who} stopped renewing its lease on the step",
        worker_id=state.steps[number].worker_id,
        # Its lease has run out already: nobody gains from waiting again.
        retry_after_ms=0,
    )
    tally = _Tally(state)
    return [*_fail(state, number, failure, moment, tally), *tally.ending(moment)]


def _released(state: TaskState, outcome: result.Released, moment: Moment) -> Decision:
    number, refusal = _current(state, outcome)
    if refusal is not None:
        return refusal
    step = state.steps[number]
    return [
        events.StepReleased(
            step_name=outcome.step_name,
            step_uuid=step.uuid,
            attempt=step.attempt,
            worker_id=outcome.worker_id,
        ),
        _enqueue(state, number, step.attempt, moment),
    ]


def _current(state: TaskState, outcome: result.Outcome) -> tuple[int, Decision | None]:
    """The step's number, and what to answer where the outcome is not about its current, open try."""
    number = state.the_plan.index.get(outcome.step_name, -1) if state.version else -1
    if number < 0 or state.steps[number].uuid != outcome.step_uuid:
        return -1, Rejection("UNKNOWN_STEP", f"task {outcome.task_id} has no such step")
    step = state.steps[number]
    if outcome.attempt == step.attempt and outcome.lease_token == step.lease_token and step.attempt:
        if step.status in ACTIVE:
            return number, None
        return number, _late(step, outcome, step.settled_by)
    earlier = step.earlier.get(outcome.attempt)
    if earlier is not None and outcome.lease_token == earlier.lease_token:
        return number, _late(step, outcome, earlier.settled_by)
    return number, Rejection("WRONG_TOKEN", f"the lease token is not that of try {outcome.attempt}")


def _late(step: StepState, outcome: result.Outcome, settled_by: str) -> Decision:
    """A sound outcome for a try that is over: a repetition is dropped, news are recorded once."""
    if outcome.KIND not in _RESULTS:
        return Rejection("STALE", f"try {outcome.attempt} is over")
    if settled_by == outcome.KIND:
        return Rejection("DUPLICATE", f"try {outcome.attempt} was reported before")
    if outcome.attempt in step.refused_attempts:
        return Rejection("STALE", f"try {outcome.attempt} is over, and its late result is recorded")
    if outcome.attempt != step.attempt or step.status == "waiting_for_retry":
        refusal = "stale_attempt"
    else:
        refusal = "task_finished" if step.status == "cancelled" else "step_finished"
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


# -- shared pieces -------------------------------------------------------------------------------


class _Failure:
    """One failed try, whoever reported it."""

    __slots__ = (
        "error_code",
        "error_message",
        "error_type",
        "metadata",
        "retry_after_ms",
        "retryable",
        "settled_by",
        "worker_id",
    )

    def __init__(
        self,
        *,
        settled_by: str,
        error_type: str,
        error_code: str | None,
        error_message: str,
        worker_id: str,
        retryable: bool = True,
        retry_after_ms: int | None = None,
        metadata: Any = None,
    ) -> None:
        self.settled_by = settled_by
        self.error_type = error_type
        self.error_code = error_code
        self.error_message = error_message
        self.worker_id = worker_id
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.metadata = metadata if metadata is not None else NO_RAW


class _Tally:
    """The counters of the task as they will be after the events decided so far."""

    __slots__ = ("active", "error_code", "error_message", "failed", "state", "waiting")

    def __init__(self, state: TaskState) -> None:
        self.state = state
        self.active = state.active_count
        self.waiting = state.waiting_count
        self.failed: list[int] = list(state.failed)
        self.error_message = ""
        self.error_code: str | None = None

    def resumed(self) -> None:
        self.waiting -= 1
        self.active += 1

    def ending(self, moment: Moment) -> Iterable[events.Event]:
        """The event that ends or blocks the task, where nothing can go on."""
        newly_failed = len(self.failed) > len(self.state.failed)
        if newly_failed and not self.active and not self.waiting:
            yield _stuck(self.state, self.failed, (self.error_message, self.error_code))


def _fail(
    state: TaskState, number: int, failure: _Failure, moment: Moment, tally: _Tally
) -> Iterable[events.Event]:
    """The events of one failed try: another one later, at once, or the end of the step."""
    plan = state.the_plan
    spec = plan.steps[number]
    step = state.steps[number]
    tally.active -= 1
    if not failure.retryable:
        reason = "permanent"
    elif not spec.retry.retryable:
        reason = "not_retryable"
    elif step.attempt >= spec.retry.max_attempts:
        reason = "attempts_exhausted"
    else:
        if failure.retry_after_ms is not None:
            cap = DEFAULT_RETRY_AFTER_MS_MAX if plan.max_retry_after_ms is None else plan.max_retry_after_ms
            delay = min(failure.retry_after_ms, cap)
            source = "at_once" if failure.settled_by == "lost" else "retry_after"
        else:
            delay = backoff_delay_ms(spec, step.attempt, moment.entropy)
            source = "backoff"
        yield events.StepRetryScheduled(
            step_name=spec.name,
            step_uuid=step.uuid,
            attempt=step.attempt,
            error_type=failure.error_type,
            error_code=failure.error_code,
            error_message=failure.error_message,
            settled_by=failure.settled_by,
            delay_ms=delay,
            delay_source=source,
            retry_at_ms=moment.now_ms + delay,
            worker_id=failure.worker_id,
            metadata=failure.metadata,
        )
        tally.waiting += 1
        if delay == 0:
            yield _enqueue(state, number, step.attempt + 1, moment)
            tally.resumed()
        return
    tally.failed.append(number)
    tally.error_message = failure.error_message
    tally.error_code = failure.error_code
    yield events.StepFailed(
        step_name=spec.name,
        step_uuid=step.uuid,
        attempt=step.attempt,
        error_type=failure.error_type,
        error_code=failure.error_code,
        error_message=failure.error_message,
        failure_reason=reason,
        settled_by=failure.settled_by,
        task_name=plan.ref.name,
        namespace=plan.ref.namespace,
        context=raw(state.context),
        worker_id=failure.worker_id,
        metadata=failure.metadata,
    )


def _enqueue(state: TaskState, number: int, attempt: int, moment: Moment) -> events.StepEnqueued:
    uuid = state.steps[number].uuid
    # Unguessable from the outside and from the other tokens of the same decision.
    token = hashlib.blake2b(f"{uuid}{attempt}".encode(), key=moment.entropy.encode(), digest_size=12)
    return events.StepEnqueued(
        step_name=state.the_plan.steps[number].name,
        step_uuid=uuid,
        attempt=attempt,
        lease_token=token.hexdigest(),
    )


def _completed(state: TaskState, done: int, moment: Moment) -> events.TaskCompleted:
    ref = state.the_plan.ref
    return events.TaskCompleted(
        task_name=ref.name,
        namespace=ref.namespace,
        template_version=ref.version,
        context=raw(state.context),
        steps_completed=done,
        duration_ms=max(0, moment.now_ms - state.created_at_ms),
    )


def _stuck(
    state: TaskState, failed: list[int], error: tuple[str, str | None] | None
) -> events.TaskBlocked | events.TaskFailed:
    """Nothing can go on: the task ends in error or waits for an operator, as its template says."""
    plan = state.the_plan
    names = tuple(plan.steps[number].name for number in failed[:NAMED_STEPS_MAX])
    if error is None:
        fault = state.steps[failed[-1]].fault
        error = (fault.error_message, fault.error_code) if fault is not None else ("", None)
    message, code = error
    if plan.on_failure == "fail":
        return events.TaskFailed(
            task_name=plan.ref.name,
            namespace=plan.ref.namespace,
            context=raw(state.context),
            failed_steps=names,
            error_message=message,
            error_code=code,
        )
    return events.TaskBlocked(
        task_name=plan.ref.name,
        namespace=plan.ref.namespace,
        failed_steps=names,
        unreachable_steps_count=plan.descendants_count(failed),
        error_message=message,
        error_code=code,
    )


_DECIDERS: dict[type, Callable[[TaskState, Any, Moment], Decision]] = {
    CreateTask: _create,
    CancelTask: _cancel,
    Wake: _wake,
    result.Started: _started,
    result.Success: _success,
    result.Failure: _failure,
    result.Lost: _lost,
    result.Released: _released,
}
