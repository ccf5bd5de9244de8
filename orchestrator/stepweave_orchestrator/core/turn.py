"""One decision in the making: the events so far, and the task as it will be after them.

`decide` never changes the state. Where one event follows from another – a step ends, others become ready, one of
them takes a signal that came early, a batch is complete – the turn keeps the differences to the state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from stepweave_schemas import events, result
from stepweave_schemas.gate import GateKind
from stepweave_schemas.identity import step_uuid
from stepweave_schemas.raw import raw
from stepweave_schemas.result import ERROR_MESSAGE_CHARS_MAX

from .backoff import DEFAULT_RETRY_AFTER_MS_MAX, backoff_delay_ms
from .branches import Growth
from .children import child_context, child_task_id
from .commands import Moment
from .domain_events import PERMANENT, RETRYABLE, SUCCESS, domain_events, failure_payload, misfits_text
from .holding import held_before, task_held
from .plan import StepSpec, worker_name
from .state import ACTIVE, MET, NOT_RUNNING, SUSPENDED, BatchState, Pass, StepStatus, TaskState
from .tries import NAMED_STEPS_MAX, Failed, enqueued, lease_token
from .undoing import Undoing


def task_completed(state: TaskState, done_count: int, moment: Moment) -> events.TaskCompleted:
    """The event that ends a task whose steps are all done."""
    ref = state.the_plan.ref
    return events.TaskCompleted(
        task_name=ref.name,
        namespace=ref.namespace,
        template_version=ref.version,
        context=raw(state.context),
        steps_completed=done_count,
        duration_ms=max(0, moment.now_ms - state.created_at_ms),
    )


class Said(NamedTuple):
    """The outcome that a turn is about: the number of its step, what its handler published, and who says so."""

    number: int
    domain_events: tuple[result.DomainEvent, ...]
    worker_id: str


class Turn:
    """Collects events in `happened`; call `finish` once, at the end."""

    def __init__(self, state: TaskState, moment: Moment, said: Said | None = None) -> None:
        self.state = state
        self._said = said
        self.plan = state.the_plan
        self.moment = moment
        self.happened: list[events.Event] = []
        #: Nothing begins, and failures have no consequences for the task (yet).
        self.held = state.phase == "paused"
        #: What was blocked has given its slot back: where something can begin, it asks for one again first.
        self.needs_slot = False
        #: An operator's doing may set a blocked task going again.
        self.phase = state.phase
        self.stepped_in = state.stepped_in
        self._active = state.active_count
        self._suspended = state.suspended_count
        self._waiting = state.waiting_count
        self._done = state.done_count
        self._existing = state.existing_count
        self._statuses: dict[int, StepStatus] = {}
        self._results: dict[str, msgspec.Raw] = {}
        self._met: dict[int, int] = {}
        #: Steps that may have become ready.
        self._touched: dict[int, None] = {}
        self._batches: dict[int, BatchState] = {}
        #: Batch workers that are made in this turn.
        self._made_count = 0
        self._newly_failed: list[int] = []
        #: Steps whose failure holds the task up no more.
        self._mended: set[int] = set()
        self._holding_up: set[int] | None = None
        self._faults: dict[int, Failed] = {}
        self._signals_taken: set[str] = set()
        #: What follows from compensations.
        self.undoing = Undoing(self)

    # -- the task as it will be --------------------------------------------------------------------

    def status_of(self, number: int) -> StepStatus:
        """The status of a step after the events so far."""
        known = self._statuses.get(number)
        return self.state.steps[number].status if known is None else known

    def batch(self, slot: int) -> BatchState:
        """A batch after the events so far."""
        known = self._batches.get(slot)
        if known is None:
            batch = self.state.batches[slot]
            known = self._batches[slot] = msgspec.structs.replace(batch, again=list(batch.again))
        return known

    def batch_or_none(self, slot: int) -> BatchState | None:
        """A batch after the events so far, where the step is one; not to be changed."""
        return self._batches.get(slot) or self.state.batches.get(slot)

    def leave(self, number: int, status: StepStatus) -> None:
        """A step has another status now; the counters follow, but for what it enters."""
        before = self.status_of(number)
        if before in ACTIVE:
            self._active -= 1
        elif before in SUSPENDED:
            self._suspended -= 1
        elif before == "waiting_for_retry":
            self._waiting -= 1
        self._statuses[number] = status

    def _is_met(self, slot: int) -> bool:
        return self.state.steps[slot].unmet == self._met.get(slot, 0)

    # -- steps that begin --------------------------------------------------------------------------

    def begin_roots(self) -> None:
        """Begin what can begin with the task."""
        for number in self.plan.roots:
            self._begin(number)

    def begin_ready(self) -> None:
        """Begin whatever is ready, wherever it stands; looks at all of the plan."""
        self._touched.update(dict.fromkeys(range(len(self.plan.steps))))

    def touch(self, slot: int) -> None:
        """A step of the plan may have become ready."""
        self._touched[slot] = None

    def again(self, number: int, attempt: int) -> None:
        """Give out a further try of a step, or the same one again."""
        spec = self.state.spec_of(number)
        self.leave(number, "enqueued")
        uuid = self.state.steps[number].uuid
        self._give_out(number, spec, self.state.name_of(number), uuid, attempt)

    def let_through(self, number: int, hold: Pass) -> None:
        """A gate has let a try through (its event is in `happened`): on to the next one, or to whoever runs it."""
        spec = self.state.spec_of(number)
        self.leave(number, "enqueued")
        uuid = self.state.steps[number].uuid
        self._give_out(number, spec, self.state.name_of(number), uuid, hold.attempt, hold.gate)

    def _give_out(
        self, number: int, spec: StepSpec, name: str, uuid: str, attempt: int, passed: GateKind | None = None
    ) -> None:
        """Give out a try of a step that is counted nowhere: to a gate before it, to a worker or to another task."""
        if (spec.is_gated or self.moment.rate_per_second is not None) and spec.type != "compensation":
            held = held_before(self.state, spec, name, uuid, attempt, passed, self.moment)
            if held is not None:
                self._statuses[number] = "held"
                self._suspended += 1
                self.happened.append(held)
                return
        if spec.child_task is not None:
            self._request_child(number, spec, attempt)
            return
        self._statuses[number] = "enqueued"
        self._active += 1
        self.happened.append(enqueued(name, uuid, attempt, self.moment))

    def _begin(self, slot: int) -> None:
        spec = self.plan.steps[slot]
        attempt = self.state.next_attempt(slot)
        if spec.wait_for_signal is not None:
            self._await_signal(slot, spec, attempt)
        else:
            self._give_out(slot, spec, spec.name, self.state.steps[slot].uuid, attempt)

    def _request_child(self, number: int, spec: StepSpec, attempt: int) -> None:
        child = spec.child_task
        assert child is not None
        uuid = self.state.steps[number].uuid
        context, problems = child_context(
            self.state, child, self._results, self.moment.limits.child_depth_max
        )
        self._statuses[number] = "waiting_for_child"
        self._suspended += 1
        self.happened.append(
            events.ChildRequested(
                step_name=spec.name,
                step_uuid=uuid,
                attempt=attempt,
                lease_token=lease_token(uuid, attempt, self.moment),
                child_task_id=child_task_id(uuid, attempt),
                namespace=child.namespace or self.plan.ref.namespace,
                name=child.name,
                version=child.version,
                context=context,
                depth=self.state.depth + 1,
                problems=tuple(problems),
            )
        )

    def _await_signal(self, slot: int, spec: StepSpec, attempt: int) -> None:
        signal = spec.wait_for_signal
        assert signal is not None
        seconds = signal.timeout_seconds
        self._statuses[slot] = "waiting_for_signal"
        self._suspended += 1
        self.happened.append(
            events.SignalAwaited(
                step_name=spec.name,
                step_uuid=self.state.steps[slot].uuid,
                signal=signal.name,
                attempt=attempt,
                deadline_at_ms=None if seconds is None else self.moment.now_ms + round(seconds * 1000),
            )
        )
        for kept in self.state.mailbox:
            if kept.signal == signal.name and kept.signal_id not in self._signals_taken:
                self._signals_taken.add(kept.signal_id)
                self.take_signal(slot, kept.payload, attempt)
                return

    def take_signal(self, slot: int, payload: str, attempt: int = 0) -> None:
        """The signal that a step waits for is there, or its default is taken; `attempt`: where it began just now."""
        value = raw(payload)
        self.happened.append(
            events.StepCompleted(
                step_name=self.plan.steps[slot].name,
                step_uuid=self.state.steps[slot].uuid,
                attempt=attempt or self.state.steps[slot].attempt,
                result=value,
                worker_id="signal",
            )
        )
        self.announce(slot, SUCCESS, value)
        self.complete(slot, value)

    # -- what is published besides -------------------------------------------------------------------

    def announce(self, number: int, outcome: str, own_payload: msgspec.Raw | None) -> None:
        """A try has ended (its event is in `happened`): publish the domain events that follow."""
        said = self._said if self._said is not None and self._said.number == number else None
        named = () if said is None else said.domain_events
        worker_id = "" if said is None else said.worker_id
        if self._publishes(number):
            self.happened += domain_events(self.state, number, outcome, named, own_payload, worker_id)

    def _announce_failure(self, number: int, outcome: str, failure: Failed) -> None:
        if self._publishes(number):
            spec, attempt = self.state.spec_of(number), self.state.steps[number].attempt
            self.announce(number, outcome, failure_payload(failure, attempt, spec.retry.max_attempts))

    def _publishes(self, number: int) -> bool:
        """Whether a step may have anything to publish."""
        if self.plan.steps[self.state.slot_of(number)].publishes_events:
            return True
        return self._said is not None and self._said.number == number and bool(self._said.domain_events)

    def misfit(self, number: int, value: msgspec.Raw, worker_id: str) -> Failed | None:
        """The failure that a result becomes which does not fit its step's `result_schema`; `None` where it does."""
        checks, step = self.plan.checks, self.state.steps[number]
        # A placeholder has done nothing, and has nothing to show.
        if checks is None or step.compensates >= 0 or self.is_placeholder(number):
            return None
        name = self.plan.steps[self.state.slot_of(number)].name
        found = checks.of_result(name, value)
        if not found:
            return None
        message = f"the result does not fit the result_schema of step {name!r}: {misfits_text(found)}"
        return Failed(
            settled_by="failure",
            error_type="validation_error",
            error_code="RESULT_INVALID",
            error_message=message[:ERROR_MESSAGE_CHARS_MAX],
            worker_id=worker_id,
            retryable=False,
            metadata=msgspec.Raw(msgspec.json.encode({"violations": found})),
        )

    def is_placeholder(self, number: int) -> bool:
        """Whether a step stands for batches of which there are none."""
        slot = self.state.steps[number].made_from
        return slot >= 0 and self.state.batches[slot].is_no_op

    # -- steps that end ----------------------------------------------------------------------------

    def complete(self, number: int, result: msgspec.Raw) -> None:
        """A step has completed (its event is in `happened`)."""
        self.leave(number, "complete")
        self._done += 1
        self._results[self.state.name_of(number)] = result
        slot = self.state.steps[number].made_from
        if slot < 0:
            self._resolve(number)
            return
        batch = self.batch(slot)
        batch.running -= 1
        batch.succeeded += 1
        self.go_on_with_batch(slot, batch)

    def settle_by_hand(self, number: int, status: StepStatus, result: msgspec.Raw | None = None) -> None:
        """An operator says that a step is done (the event is in `happened`)."""
        before = self.status_of(number)
        self.leave(number, status)
        self._done += 1
        if result is not None:
            self._results[self.state.name_of(number)] = result
        if before == "error":
            self._mend(number)
        slot = self.state.steps[number].made_from
        if slot < 0:
            self._resolve(number)
            return
        batch = self.batch(slot)
        if before == "error":
            batch.failed -= 1
        elif before == "pending":
            if number in batch.again:
                batch.again.remove(number)
        else:
            batch.running -= 1
        batch.succeeded += 1
        while batch.begun < batch.count and self.status_of(batch.first + batch.begun) in MET:
            batch.begun += 1
        self._start_again_if_mended(batch)
        self.go_on_with_batch(slot, batch)

    def reset(self, number: int) -> None:
        """An operator wants a step tried again (the event is in `happened`)."""
        before = self.status_of(number)
        self.leave(number, "pending")
        if before == "error":
            self._mend(number)
        step = self.state.steps[number]
        if step.compensates >= 0:
            self.again(number, step.attempt + 1)
            return
        slot = step.made_from
        if slot < 0:
            self.touch(number)
            return
        batch = self.batch(slot)
        if before == "error":
            batch.failed -= 1
        else:
            batch.running -= 1
        batch.again.append(number)
        self._start_again_if_mended(batch)
        self.go_on_with_batch(slot, batch)

    def _mend(self, number: int) -> None:
        """The failure of a step is taken back; one that was put up with had counted as done."""
        if self._holding_up is None:
            self._holding_up = set(self.state.failed)
        if number in self._holding_up:
            self._mended.add(number)
        else:
            self._done -= 1

    def _start_again_if_mended(self, batch: BatchState) -> None:
        """What was cancelled because of failures in a batch runs after all, once none of them is left."""
        if not batch.stopped or batch.failed:
            return
        batch.stopped = False
        for worker in range(batch.first, batch.first + batch.count):
            if self.status_of(worker) == "cancelled":
                self._statuses[worker] = "pending"
                # One that was held before its first try has begun too.
                if worker < batch.first + batch.begun:
                    batch.again.append(worker)

    def _resolve(self, slot: int) -> None:
        """Nothing has to wait for this step of the plan any more."""
        for dependent in self.plan.dependents[slot]:
            self._met[dependent] = self._met.get(dependent, 0) + 1
            self._touched[dependent] = None

    def decided(self, decider: int, named: Iterable[int]) -> Growth:
        """What exists and what never will, now that a decider has completed; call `grown` after its event."""
        growth = Growth(self.plan, self.status_of)
        growth.settle(decider, named)
        return growth

    def grown(self, growth: Growth) -> None:
        """The event that tells of a growth is in `happened`: go on with what follows."""
        for number in growth.created:
            expands = self.plan.steps[number].type == "batch_worker"
            self._statuses[number] = "expanded" if expands else "pending"
            self._touched[number] = None
            if not expands:
                self._existing += 1
        for number in growth.excluded:
            self._statuses[number] = "excluded"
            self._resolve(number)
        for number in growth.skipped:
            self._statuses[number] = "skipped"
            self._existing += 1
            self._done += 1
            self.happened.append(
                events.StepSkipped(
                    step_name=self.plan.steps[number].name,
                    step_uuid=self.state.steps[number].uuid,
                    reason="no_branches",
                )
            )
            self._resolve(number)

    # -- outcomes that are those of another task ---------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether every step that exists has ended."""
        return self._done == self._existing

    def is_ready(self, slot: int) -> bool:
        """Whether a step of the plan exists and everything that it depends on is done."""
        return self.status_of(slot) in ("pending", "expanded") and self._is_met(slot)

    def reuse(self, slot: int, status: StepStatus, result: msgspec.Raw) -> None:
        """A step of the plan ends as it did in another task (its event is in `happened`)."""
        self.leave(slot, status)
        self._done += 1
        if bytes(result):
            self._results[self.plan.steps[slot].name] = result
        self._resolve(slot)

    def reuse_worker(self, slot: int, position: int, status: StepStatus) -> None:
        """The worker of a batch at this place ends as it did in another task (its event is in `happened`)."""
        batch = self.batch(slot)
        number = batch.first + position
        self._statuses[number] = status
        self._done += 1
        if status == "error":
            batch.failed += 1
        else:
            batch.succeeded += 1
        if batch.succeeded + batch.failed == batch.count:
            self.go_on_with_batch(slot, batch)

    # -- batches -----------------------------------------------------------------------------------

    def expand(self, slot: int, count: int, *, is_no_op: bool) -> None:
        """A batch worker is made into `count` steps (the event is in `happened`)."""
        first = len(self.state.steps) + self._made_count
        self._batches[slot] = BatchState(first=first, count=count, is_no_op=is_no_op)
        self._made_count += count
        self._existing += count
        self._touched[slot] = None

    def go_on_with_batch(self, slot: int, batch: BatchState) -> None:
        """Begin as many workers of a batch as may run, those that ran before first; see whether it is complete."""
        spec = self.plan.batch_of(slot)
        if not self.held and self._is_met(slot):
            while (spec.parallelism is None or batch.running < spec.parallelism) and (
                self._begin_worker_again(slot, batch) or self._begin_next_worker(slot, batch)
            ):
                batch.running += 1
        if batch.succeeded and batch.succeeded + batch.failed == batch.count and not batch.completed:
            if batch.failed and spec.failure_strategy != "continue_on_failure":
                return
            batch.completed = True
            self._put_up_with_failures_of(batch)
            self.happened.append(
                events.BatchCompleted(
                    worker_template=self.plan.steps[slot].name,
                    succeeded_count=batch.succeeded,
                    failed_count=batch.failed,
                )
            )
            self._resolve(slot)

    def _begin_worker_again(self, slot: int, batch: BatchState) -> bool:
        if not batch.again:
            return False
        number = batch.again.pop(0)
        step = self.state.steps[number]
        attempt = self.state.next_attempt(number)
        self._give_out(number, self.plan.steps[slot], step.name, step.uuid, attempt)
        return True

    def _begin_next_worker(self, slot: int, batch: BatchState) -> bool:
        while batch.begun < batch.count and not batch.stopped:
            batch.begun += 1
            number = batch.first + batch.begun - 1
            # An operator may have settled it before, or its outcome is reused.
            if self._status_of_worker(number) == "pending":
                template = self.plan.steps[slot]
                name = worker_name(template.name, batch.begun)
                self._give_out(number, template, name, step_uuid(self.state.task_id, name), 1)
                return True
        return False

    def _status_of_worker(self, number: int) -> StepStatus:
        """The status of a batch worker, which may be made in this turn."""
        if number < len(self.state.steps):
            return self.status_of(number)
        return self._statuses.get(number, "pending")

    def _put_up_with_failures_of(self, batch: BatchState) -> None:
        """One that was the last to fail held the task up, until an operator made another one succeed."""
        if not batch.failed or not (self.state.failed or self._newly_failed):
            return
        for worker in range(batch.first, batch.first + batch.count):
            if worker in self._newly_failed:
                self._newly_failed.remove(worker)
                self._done += 1
            elif (
                self.status_of(worker) == "error"
                and worker not in self._mended
                and worker in self.state.failed
            ):
                self._mended.add(worker)
                self._done += 1

    def _batch_failed(self, number: int, slot: int, *, tolerated: bool) -> None:
        batch = self.batch(slot)
        batch.running -= 1
        batch.failed += 1
        if tolerated:
            self._done += 1
        elif self.plan.batch_of(slot).failure_strategy == "fail_fast" and not batch.stopped:
            self._stop_batch(number, slot, batch)
        self.go_on_with_batch(slot, batch)

    def _stop_batch(self, number: int, slot: int, batch: BatchState) -> None:
        cancelled = 0
        batch.stopped = True
        batch.again.clear()
        for worker in range(batch.first, batch.first + batch.count):
            if self.status_of(worker) in NOT_RUNNING:
                self.leave(worker, "cancelled")
                cancelled += 1
        self.happened.append(
            events.BatchStopped(
                worker_template=self.plan.steps[slot].name,
                failed_step=self.state.name_of(number),
                cancelled_count=cancelled,
            )
        )

    # -- failures ----------------------------------------------------------------------------------

    def fail(self, number: int, failure: Failed) -> None:
        """One try failed: another one later, at once, or the end of the step."""
        state, plan = self.state, self.plan
        spec = state.spec_of(number)
        step = state.steps[number]
        name = state.name_of(number)
        slot = step.made_from
        reason = self._final(number, spec, failure)
        if reason is None:
            delay_ms, source = self._delay(spec, step.attempt - step.forgiven, failure)
            self.happened.append(
                events.StepRetryScheduled(
                    step_name=name,
                    step_uuid=step.uuid,
                    attempt=step.attempt,
                    error_type=failure.error_type,
                    error_code=failure.error_code,
                    error_message=failure.error_message,
                    settled_by=failure.settled_by,
                    delay_ms=delay_ms,
                    delay_source=source,
                    retry_at_ms=self.moment.now_ms + delay_ms,
                    worker_id=failure.worker_id,
                    metadata=failure.metadata,
                )
            )
            self._announce_failure(number, RETRYABLE, failure)
            self.leave(number, "waiting_for_retry")
            self._waiting += 1
            if delay_ms == 0 and not self.held:
                self.again(number, step.attempt + 1)
            return
        if step.compensates >= 0:
            self.undoing.failed(number, failure, reason)
            return
        tolerated = slot >= 0 and self._tolerates(slot)
        self.leave(number, "error")
        if not tolerated:
            self._newly_failed.append(number)
        self._faults[number] = failure
        self.happened.append(
            events.StepFailed(
                step_name=name,
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
                tolerated=tolerated,
                compensation_steps=failure.undo,
            )
        )
        self._announce_failure(number, PERMANENT, failure)
        if slot >= 0:
            self._batch_failed(number, slot, tolerated=tolerated)

    def _final(self, number: int, spec: StepSpec, failure: Failed) -> str | None:
        """Why no further try follows; `None` where one does."""
        step = self.state.steps[number]
        if not failure.retryable:
            return "permanent"
        if not spec.retry.retryable:
            return "not_retryable"
        if step.attempt - step.forgiven >= spec.retry.max_attempts:
            return "attempts_exhausted"
        if step.made_from >= 0 and self.batch(step.made_from).stopped:
            return "batch_stopped"
        return None

    def _delay(self, spec: StepSpec, attempt: int, failure: Failed) -> tuple[int, str]:
        if failure.retry_after_ms is None:
            return backoff_delay_ms(spec, attempt, self.moment.entropy), "backoff"
        cap = self.plan.max_retry_after_ms
        delay_ms = min(failure.retry_after_ms, DEFAULT_RETRY_AFTER_MS_MAX if cap is None else cap)
        return delay_ms, "at_once" if failure.settled_by == "lost" else "retry_after"

    def _tolerates(self, slot: int) -> bool:
        """Whether the failure of one more worker is put up with: somebody must have succeeded, or still may."""
        batch = self.batch(slot)
        return (
            self.plan.batch_of(slot).failure_strategy == "continue_on_failure"
            and batch.count - batch.failed > 1
        )

    # -- the end -----------------------------------------------------------------------------------

    def finish(self) -> list[events.Event]:
        """Begin what has become ready, end or block the task where nothing can go on; returns all events."""
        if self.needs_slot:
            asked = task_held(self.state, self.moment) if self._something_is_ready() else None
            if asked is not None:
                return [*self.happened, asked]
            self.held = False
        while self._touched and not self.held:
            ready = sorted(slot for slot in self._touched if self._is_met(slot))
            self._touched.clear()
            for slot in ready:
                status = self.status_of(slot)
                if status == "pending":
                    self._begin(slot)
                elif status == "expanded":
                    self.go_on_with_batch(slot, self.batch(slot))
        if self.phase in ("compensating", "blocked_by_failures"):
            return self.happened
        if self._active or self._waiting or self._suspended:
            return self.happened
        failed = [number for number in self.state.failed if number not in self._mended] + self._newly_failed
        if failed:
            if not self.held:
                self._stuck(failed)
        elif self._done == self._existing:
            self.happened.append(task_completed(self.state, self._done, self.moment))
        return self.happened

    def _something_is_ready(self) -> bool:
        """Whether a step could begin, wherever it stands; looks at all of the plan."""
        return any(
            self.is_ready(slot) and (self.status_of(slot) == "pending" or self._has_more(self.batch(slot)))
            for slot in range(len(self.plan.steps))
        )

    @staticmethod
    def _has_more(batch: BatchState) -> bool:
        return bool(batch.again) or (batch.begun < batch.count and not batch.stopped)

    def _stuck(self, failed: list[int]) -> None:
        """Nothing can go on: the task is undone, ends in error or waits for an operator, as its template says."""
        names = tuple(self.state.name_of(number) for number in failed[:NAMED_STEPS_MAX])
        message, code = self.error_of(failed[-1])
        wishing = [*failed, *self._put_up_with(failed)]
        undo_named = any(self.undo_of(number) for number in wishing)
        if self.plan.on_failure == "compensate" or undo_named:
            self.undoing.begin(wishing, names, message, code)
        elif self.plan.on_failure == "fail":
            self.happened.append(self.undoing.task_failed(names, message, code))
        else:
            self.happened.append(
                events.TaskBlocked(
                    task_name=self.plan.ref.name,
                    namespace=self.plan.ref.namespace,
                    failed_steps=names,
                    unreachable_steps_count=self._unreachable_count(failed),
                    error_message=message,
                    error_code=code,
                )
            )

    def cut_short(self, message: str, code: str) -> None:
        """Nothing goes on any more, whatever runs: the task is undone where its template says so, or ends in error."""
        for number, step in enumerate(self.state.steps):
            if step.status in ACTIVE | SUSPENDED | {"pending", "waiting_for_retry"}:
                self.leave(number, "cancelled")
        failed = list(self.state.failed)
        names = tuple(self.state.name_of(number) for number in failed[:NAMED_STEPS_MAX])
        wishing = [*failed, *self._put_up_with(failed)]
        if self.plan.on_failure == "compensate" or any(self.undo_of(number) for number in wishing):
            self.undoing.begin(wishing, names, message, code)
        else:
            self.happened.append(self.undoing.task_failed(names, message, code))

    def _put_up_with(self, failed: list[int]) -> list[int]:
        """The other batches that failed: now that the task cannot complete, their wishes count too."""
        known = set(failed)
        batches = (self._batches.get(slot) or batch for slot, batch in self.state.batches.items())
        return [
            number
            for batch in batches
            if batch.failed
            for number in range(batch.first, batch.first + batch.count)
            if self.status_of(number) == "error" and number not in known
        ]

    def _unreachable_count(self, failed: list[int]) -> int:
        if self.plan.plain and not self.stepped_in:
            return self.plan.descendants_count(failed)
        # Nothing goes on any more: whatever may exist and has not begun waits for one that failed.
        return sum(self._has_not_begun(slot) for slot in range(len(self.plan.steps)))

    def _has_not_begun(self, slot: int) -> bool:
        status = self.status_of(slot)
        return status in ("absent", "pending") or (status == "expanded" and not self.batch(slot).begun)

    def error_of(self, number: int) -> tuple[str, str | None]:
        """Message and code of a step's last failure."""
        failure = self._faults.get(number)
        if failure is not None:
            return failure.error_message, failure.error_code
        fault = self.state.steps[number].fault
        return ("", None) if fault is None else (fault.error_message, fault.error_code)

    def undo_of(self, number: int) -> tuple[str, ...]:
        """What the last failure of a step wants undone."""
        failure = self._faults.get(number)
        return self.state.steps[number].undo if failure is None else failure.undo
