"""What surrounds a task: a ledger, workers, a network that repeats and re-orders, a clock, crashes.

A `World` runs one task in the core and in the model beside it, and compares them after everything that happens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec

from stepweave_orchestrator.core import (
    CancelTask,
    CreateTask,
    Moment,
    Rejection,
    TaskState,
    Wake,
    compile_plan,
    decide,
    evolve,
)
from stepweave_orchestrator.core.commands import Command
from stepweave_orchestrator.core.snapshot import decode_snapshot, encode_snapshot
from stepweave_orchestrator.core.state import initial
from stepweave_schemas import codec, events, result
from stepweave_schemas.identity import step_uuid
from stepweave_schemas.template import TaskTemplate

from .invariants import check_state
from .model import Fact, Model
from .scenario import CORRELATION_ID, T0_MS, TASK_ID, entropy, new_task

#: What a worker may say about a try.
WORDS = ("success", "failure", "wish", "permanent", "lost", "released", "started")


@dataclass(frozen=True)
class GivenOut:
    """A try that was given out to the workers."""

    step: str
    attempt: int
    token: str


class World:
    """One task and everything around it."""

    def __init__(self, template: TaskTemplate, start_at_ms: int | None) -> None:
        self.template = template
        self.plan = compile_plan(template.canonical_json(), template.content_hash())
        self.request = new_task(self.plan, start_at_ms=start_at_ms)
        self.model = Model(template)
        self.state = initial(TASK_ID, self.plan, CORRELATION_ID)
        self.now_ms = T0_MS
        #: The committed events as bytes, and when they were recorded.
        self.ledger: list[tuple[bytes, int]] = []
        #: The state after each commit, by version.
        self.moments: dict[int, bytes] = {0: encode_snapshot(self.state)}
        #: Every try ever given out; those that nobody has answered yet.
        self.tries: list[GivenOut] = []
        self.unanswered: list[GivenOut] = []
        #: Messages that are on their way, and those that arrived.
        self.mail: list[result.AnyOutcome] = []
        self.delivered: list[result.AnyOutcome] = []
        self._decisions = 0
        self.types: Counter[str] = Counter()

    # -- what happens ------------------------------------------------------------------------

    def create(self) -> None:
        """The client's request; again, it is a repetition."""
        facts = self.model.create(self.now_ms, self.request.start_at_ms)
        self._command(CreateTask(self.request), facts)

    def create_another(self) -> None:
        """Another request with the same key."""
        other = msgspec.structs.replace(self.request, request_digest="sha256:other", request_id="other")
        assert isinstance(self._decide(CreateTask(other)), Rejection)

    def cancel(self) -> None:
        """An operator cancels."""
        self._command(CancelTask("no need", "ada"), self.model.cancel())

    def wake(self) -> None:
        """The timer fires, perhaps for nothing."""
        self._told_delays(Wake())
        self._command(Wake(), self.model.wake(self.now_ms))

    def send(self, given_out: GivenOut, word: str, wish_ms: int = 0) -> None:
        """A worker says a word about a try; it is on its way."""
        if given_out in self.unanswered and word != "started":
            self.unanswered.remove(given_out)
        about: dict[str, Any] = {
            "task_id": TASK_ID,
            "step_uuid": step_uuid(TASK_ID, given_out.step),
            "step_name": given_out.step,
            "attempt": given_out.attempt,
            "lease_token": given_out.token,
            "worker_id": "worker-1",
        }
        kinds: dict[str, result.AnyOutcome] = {
            "success": result.Success(**about, result=msgspec.Raw(b"[%d]" % given_out.attempt)),
            "failure": result.Failure(**about, error_message="boom"),
            "wish": result.Failure(**about, error_message="busy", retry_after_ms=wish_ms),
            "permanent": result.Failure(**about, error_message="never", retryable=False),
            "lost": result.Lost(**about, deliveries=2),
            "released": result.Released(**about),
            "started": result.Started(**about, started_at_ms=self.now_ms),
        }
        self.mail.append(kinds[word])

    def deliver(self, number: int) -> None:
        """One of the messages on their way arrives, in whatever order."""
        outcome = self.mail.pop(number)
        self.delivered.append(outcome)
        self.receive(outcome)

    def deliver_again(self, number: int) -> None:
        """A message that arrived before arrives once more."""
        known = self.state.version
        self.receive(self.delivered[number])
        repeated = [codec.decode_event(data) for data, _ in self.ledger[known:]]
        assert not repeated, f"a repetition changed something: {repeated}"

    def forge(self, number: int) -> None:
        """Somebody sends what was said about a try, with a token of his own."""
        forged = msgspec.structs.replace(self.delivered[number], lease_token="0" * 24)
        assert isinstance(self._decide(forged), Rejection)

    def receive(self, outcome: result.AnyOutcome) -> None:
        """A worker's message reaches the actor."""
        self._told_delays(outcome)
        retryable, wish_ms = True, None
        if isinstance(outcome, result.Failure):
            retryable, wish_ms = outcome.retryable, outcome.retry_after_ms
        facts = self.model.told(
            outcome.KIND,
            outcome.step_name,
            outcome.attempt,
            outcome.lease_token,
            self.now_ms,
            retryable=retryable,
            wish_ms=wish_ms,
        )
        self._command(outcome, facts)

    def crash_before_commit(self, number: int) -> None:
        """A message is decided and applied, but never committed: it will come again."""
        decision = self._decide(self.mail[number])
        if not isinstance(decision, Rejection):
            for event in decision:
                evolve(self.state, event, self.now_ms)
        self.restart(0)

    def restart(self, from_version: int, *, by_snapshot: bool = False) -> None:
        """The actor's memory is gone; it is rebuilt from the ledger, perhaps on top of a snapshot."""
        self.state = self.rebuilt(from_version if by_snapshot else 0)
        assert encode_snapshot(self.state) == self.moments[len(self.ledger)]

    # -- what must hold ----------------------------------------------------------------------

    def rebuilt(self, from_version: int, to_version: int | None = None) -> TaskState:
        """The state by replay: the events up to `from_version` by way of a snapshot, then the rest."""
        state = initial(TASK_ID, self.plan, CORRELATION_ID)
        for version, (data, at_ms) in enumerate(self.ledger[:to_version], start=1):
            evolve(state, codec.decode_event(data), at_ms)
            if version == from_version:
                state = decode_snapshot(encode_snapshot(state), self.plan)
        return msgspec.structs.replace(state, events_since_snapshot=0)

    def check_replay(self) -> None:
        """Replayed from the first event on, the state is at every commit what it was then."""
        state = initial(TASK_ID, self.plan, CORRELATION_ID)
        for version, (data, at_ms) in enumerate(self.ledger, start=1):
            evolve(state, codec.decode_event(data), at_ms)
            if version in self.moments:
                assert encode_snapshot(state) == self.moments[version]
        assert msgspec.structs.replace(state, events_since_snapshot=0) == msgspec.structs.replace(
            self.state, events_since_snapshot=0
        )

    def _check(self) -> None:
        state, model = self.state, self.model
        check_state(state)
        assert state.status == model.status()
        for spec, step in zip(self.plan.steps, state.steps, strict=True):
            assert step.status == model.step_status(spec.name), spec.name
            assert step.attempt == len(model.steps[spec.name].tries), spec.name
        assert state.next_wake_ms() == model.next_wake_ms()

    def check_end(self) -> None:
        """Everything was answered and every timer fired: the task has ended, or says why it can not."""
        status = self.state.status
        assert status in ("complete", "cancelled", "error", "blocked_by_failures")
        assert self.state.next_wake_ms() is None
        told = [codec.decode_event(data) for data, _ in self.ledger]
        results = Counter(event.step_name for event in told if isinstance(event, events.StepCompleted))
        assert all(count == 1 for count in results.values())
        complete = {name for name in self.plan.index if self.model.step_status(name) == "complete"}
        assert set(results) == complete
        broken = {name for name in self.plan.index if self.model.step_status(name) == "error"}
        if status == "complete":
            assert complete == set(self.plan.index)
        if status in ("error", "blocked_by_failures"):
            assert broken
            assert complete | broken | self.model.unreachable() == set(self.plan.index)
        ends = [event for event in told if isinstance(event, _ENDS)]
        # Blocked is not the end: an operator may still cancel.
        assert len(ends) == 1 or [type(event) for event in ends] == [events.TaskBlocked, events.TaskCancelled]
        assert len(set(self.tries)) == len(self.tries)
        assert len({given_out.token for given_out in self.tries}) == len(self.tries), (
            "a token was given twice"
        )

    # -- inside ------------------------------------------------------------------------------

    def _decide(self, command: Command) -> list[events.Event] | Rejection:
        """The decision, which is the same when asked twice and leaves the state alone."""
        before = encode_snapshot(self.state)
        moment = Moment(self.now_ms, entropy(self._decisions))
        decision = decide(self.state, command, moment)
        assert decide(self.state, command, moment) == decision
        assert encode_snapshot(self.state) == before, "decide changed the state"
        return decision

    def _told_delays(self, command: Command) -> None:
        """Tell the model which delays chance chose; it checks that they are within their bounds."""
        decision = self._decide(command)
        if not isinstance(decision, Rejection):
            self.model.chosen_delays_ms = {
                event.step_name: event.delay_ms
                for event in decision
                if isinstance(event, events.StepRetryScheduled)
            }

    def _command(self, command: Command, expected: list[Fact]) -> None:
        decision = self._decide(command)
        self._decisions += 1
        happened = [] if isinstance(decision, Rejection) else decision
        assert sorted(map(_fact, happened)) == sorted(expected)
        ended = self.state.is_terminal
        for event in happened:
            self._commit(event, ended)
        if happened:
            self.moments[self.state.version] = encode_snapshot(self.state)
        self._check()

    def _commit(self, event: events.Event, ended: bool) -> None:
        data = codec.encode(event)
        stored = codec.decode_event(data)
        assert stored == event, "the event does not come back as it was"
        assert not ended or isinstance(stored, events.StepResultRefused), "something happened after the end"
        self.types[stored.TYPE] += 1
        self.ledger.append((data, self.now_ms))
        evolve(self.state, stored, self.now_ms)
        assert self.state.version == len(self.ledger)
        if isinstance(stored, events.StepEnqueued):
            parents = self.plan.parents[self.plan.index[stored.step_name]]
            assert all(self.state.steps[parent].status == "complete" for parent in parents)
            self.model.given_out(stored.step_name, stored.lease_token)
            given_out = GivenOut(stored.step_name, stored.attempt, stored.lease_token)
            self.tries.append(given_out)
            self.unanswered.append(given_out)


_ENDS = (events.TaskCompleted, events.TaskFailed, events.TaskBlocked, events.TaskCancelled)


def _fact(event: events.Event) -> Fact:
    """The event as the model would say it."""
    match event:
        case events.StepEnqueued():
            return ("enqueued", event.step_name, event.attempt)
        case events.StepStarted():
            return ("started", event.step_name, event.attempt)
        case events.StepCompleted():
            return ("completed", event.step_name, event.attempt)
        case events.StepReleased():
            return ("released", event.step_name, event.attempt)
        case events.StepRetryScheduled():
            return ("retry", event.step_name, event.attempt, event.delay_source, event.retry_at_ms)
        case events.StepFailed():
            return ("failed", event.step_name, event.attempt, event.failure_reason)
        case events.StepResultRefused():
            return ("refused", event.step_name, event.attempt, event.outcome, event.refusal)
        case events.TaskBlocked():
            return ("task.blocked", tuple(sorted(event.failed_steps)), event.unreachable_steps_count)
        case events.TaskFailed():
            return ("task.failed", tuple(sorted(event.failed_steps)))
        case events.TaskCancelled():
            return ("task.cancelled", tuple(sorted(event.cancelled_steps)))
        case _:
            return (event.TYPE,)
