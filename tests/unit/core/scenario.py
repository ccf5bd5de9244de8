"""given events / when a command / then events.

    given(diamond(), created(), enqueued("a")).when(succeed("a")).then(
        completed("a"), enqueued("b"), enqueued("c")
    )

An event is written by what matters of it: in `given`, other fields get plausible values; in `then`, they are not
compared. The events that `then` has seen are applied, so a story goes on with the next `when`. On the way every
decision is checked to leave the state alone, every event to survive its way through JSON, and every state by
`invariants.check_state`, its counters after each single event.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypeVar

import msgspec

from stepweave_orchestrator.core import (
    CancelTask,
    CreateTask,
    Moment,
    Plan,
    Rejection,
    StepState,
    TaskState,
    Wake,
    decide,
    evolve,
)
from stepweave_orchestrator.core.commands import DEFAULT_LIMITS, AdmitStep, Command, Limits, SignalTask
from stepweave_orchestrator.core.operator_commands import CompleteStep, OperatorCommand
from stepweave_orchestrator.core.snapshot import encode_snapshot
from stepweave_orchestrator.core.state import initial
from stepweave_schemas import codec, events, result
from stepweave_schemas.identity import step_uuid

from .invariants import check_counters, check_state

TASK_ID: Final = "0198c0de-0000-7000-8000-000000000001"
CORRELATION_ID: Final = "0198c0de-0000-7000-8000-00000000000c"
#: When every story begins, in milliseconds since the Unix epoch.
T0_MS: Final = 1_767_268_800_000
WORKER: Final = "worker-1"
AnyOperator = TypeVar("AnyOperator", bound=OperatorCommand)
CONTEXT: Final = msgspec.Raw(b'{"order":7}')


# -- events --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Happened:
    """An event, by its type and the fields that matter."""

    type: type[events.Event]
    fields: dict[str, Any]

    def matches(self, event: events.Event) -> bool:
        """Whether `event` is one of these."""
        return type(event) is self.type and all(
            getattr(event, name) == value for name, value in self.fields.items()
        )

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.fields.items())
        return f"{self.type.__name__}({fields})"


def created(**fields: Any) -> Happened:
    return Happened(events.TaskCreated, fields)


def task_started(**fields: Any) -> Happened:
    return Happened(events.TaskStarted, fields)


def blocked(*failed_steps: str, **fields: Any) -> Happened:
    return Happened(events.TaskBlocked, {"failed_steps": failed_steps, **fields})


def task_completed(**fields: Any) -> Happened:
    return Happened(events.TaskCompleted, fields)


def task_failed(*failed_steps: str, **fields: Any) -> Happened:
    return Happened(events.TaskFailed, {"failed_steps": failed_steps, **fields})


def cancelled(*cancelled_steps: str, **fields: Any) -> Happened:
    return Happened(events.TaskCancelled, {"cancelled_steps": cancelled_steps, **fields})


def _of_step(type: type[events.StepEvent], step: str, attempt: int, fields: dict[str, Any]) -> Happened:
    return Happened(type, {"step_name": step, "attempt": attempt, **fields})


def enqueued(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepEnqueued, step, attempt, fields)


def started(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepStarted, step, attempt, fields)


def completed(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepCompleted, step, attempt, fields)


def retry(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepRetryScheduled, step, attempt, fields)


def failed(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepFailed, step, attempt, fields)


def _of_gate(type: type[events.GateEvent], step: str, fields: dict[str, Any]) -> Happened:
    return Happened(type, {"step_name": step, **fields})


def asked(step: str = "", attempt: int = 1, **fields: Any) -> Happened:
    """A slot is asked for, for a try of a step or for the task."""
    return _of_gate(events.ConcurrencyRequested, step, {"attempt": attempt, **fields})


def granted(step: str = "", **fields: Any) -> Happened:
    return _of_gate(events.ConcurrencyGranted, step, fields)


def given_back(step: str = "", **fields: Any) -> Happened:
    """A slot is given back, or waited for no longer."""
    return _of_gate(events.ConcurrencyReleased, step, fields)


def held_by_circuit(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_gate(events.CircuitHeld, step, {"attempt": attempt, **fields})


def through_circuit(step: str, **fields: Any) -> Happened:
    return _of_gate(events.CircuitAdmitted, step, fields)


def left_circuit(step: str, **fields: Any) -> Happened:
    return _of_gate(events.CircuitLeft, step, fields)


def held_by_rate(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_gate(events.RateHeld, step, {"attempt": attempt, **fields})


def in_turn(step: str, **fields: Any) -> Happened:
    return _of_gate(events.RateAdmitted, step, fields)


def left_rate(step: str, **fields: Any) -> Happened:
    return _of_gate(events.RateLeft, step, fields)


def released(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepReleased, step, attempt, fields)


def refused(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepResultRefused, step, attempt, fields)


def checkpointed(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepCheckpointed, step, attempt, fields)


def published(step: str, name: str, attempt: int = 1, **fields: Any) -> Happened:
    if "payload" in fields:
        fields["payload"] = msgspec.Raw(msgspec.json.encode(fields["payload"]))
    return _of_step(events.DomainPublished, step, attempt, {"name": name, **fields})


def not_published(step: str, name: str, refusal: str, attempt: int = 1, **fields: Any) -> Happened:
    more = {"name": name, "refusal": refusal, **fields}
    return _of_step(events.StepDomainEventRefused, step, attempt, more)


def skipped(step: str, **fields: Any) -> Happened:
    return Happened(events.StepSkipped, {"step_name": step, **fields})


def reused(step: str, **fields: Any) -> Happened:
    return Happened(events.StepReused, {"step_name": step, **fields})


def routed(step: str, *chosen: str, **fields: Any) -> Happened:
    return Happened(events.DecisionRouted, {"step_name": step, "chosen": chosen, **fields})


def declined(step: str, **fields: Any) -> Happened:
    return Happened(events.DecisionDeclined, {"step_name": step, **fields})


def batch_created(step: str, worker_template: str, **fields: Any) -> Happened:
    return Happened(events.BatchCreated, {"step_name": step, "worker_template": worker_template, **fields})


def batch_completed(worker_template: str, succeeded_count: int, failed_count: int = 0) -> Happened:
    counts = {"succeeded_count": succeeded_count, "failed_count": failed_count}
    return Happened(events.BatchCompleted, {"worker_template": worker_template, **counts})


def batch_stopped(worker_template: str, failed_step: str, cancelled_count: int) -> Happened:
    fields = {"failed_step": failed_step, "cancelled_count": cancelled_count}
    return Happened(events.BatchStopped, {"worker_template": worker_template, **fields})


def awaited(step: str, signal: str, **fields: Any) -> Happened:
    return Happened(events.SignalAwaited, {"step_name": step, "signal": signal, "attempt": 1, **fields})


def received(signal: str, **fields: Any) -> Happened:
    return Happened(events.SignalReceived, {"signal": signal, **fields})


def signal_timed_out(step: str, *, used_default: bool) -> Happened:
    return Happened(events.SignalTimedOut, {"step_name": step, "used_default": used_default})


def child_requested(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.ChildRequested, step, attempt, fields)


def child_cancel_requested(step: str, **fields: Any) -> Happened:
    return Happened(events.ChildCancelRequested, {"step_name": step, **fields})


def undoing(*steps: str, **fields: Any) -> Happened:
    return Happened(events.CompensationStarted, {"steps": steps, **fields})


def undone(step: str, attempt: int = 1, **fields: Any) -> Happened:
    """The compensation of a step succeeded."""
    compensation = f"compensate:{step}"
    return _of_step(events.CompensationCompleted, compensation, attempt, {"compensates": step, **fields})


def not_undone(step: str, attempt: int = 1, **fields: Any) -> Happened:
    """The compensation of a step failed for good."""
    compensation = f"compensate:{step}"
    return _of_step(events.CompensationFailed, compensation, attempt, {"compensates": step, **fields})


def paused(**fields: Any) -> Happened:
    return Happened(events.TaskPaused, fields)


def resumed(**fields: Any) -> Happened:
    return Happened(events.TaskResumed, fields)


def given_up(**fields: Any) -> Happened:
    return Happened(events.TaskGivenUp, fields)


def task_resolved(*cancelled_steps: str, **fields: Any) -> Happened:
    return Happened(events.TaskResolvedManually, {"cancelled_steps": cancelled_steps, **fields})


def reset(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepReset, step, attempt, fields)


def resolved(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepResolvedManually, step, attempt, fields)


def completed_by_hand(step: str, attempt: int = 1, **fields: Any) -> Happened:
    return _of_step(events.StepCompletedManually, step, attempt, _encoded(fields))


def new_task(plan: Plan, **fields: Any) -> events.TaskCreated:
    """The event that a valid request for a task of `plan` begins with."""
    return events.TaskCreated(
        **{
            "template": plan.ref,
            "context": CONTEXT,
            "request_digest": "sha256:one",
            "request_id": TASK_ID,
            **fields,
        }
    )


def _whole(happened: Happened, plan: Plan, at_ms: int, number: int) -> events.Event:
    """The event with every field that `given` left open."""
    if happened.type is events.TaskCreated:
        return new_task(plan, **happened.fields)
    task = {"task_name": plan.ref.name, "namespace": plan.ref.namespace}
    known: dict[str, Any] = {
        **task,
        "template_version": plan.ref.version,
        "context": CONTEXT,
        "steps_completed": len(plan.steps),
        "duration_ms": 0,
        "unreachable_steps_count": 0,
        "start_at_ms": at_ms,
        "reason": "no need",
        "cancelled_by": "someone",
        "lease_token": f"given-{number}",
        "worker_id": WORKER,
        "started_at_ms": at_ms,
        "result": msgspec.Raw(b"{}"),
        "error_type": "handler_error",
        "error_message": "boom",
        "delay_ms": 1_000,
        "retry_at_ms": at_ms + 1_000,
        "delay_source": "backoff",
        "failure_reason": "permanent",
        "outcome": "success",
        "refusal": "stale_attempt",
        **happened.fields,
    }
    if "step_name" in known:
        known["step_uuid"] = step_uuid(TASK_ID, known["step_name"])
    return happened.type(**{name: known[name] for name in happened.type.__struct_fields__ if name in known})


# -- commands ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What a worker says about a try; by default the current one of the step, with its token."""

    type: type[result.Outcome]
    step: str
    attempt: int | None = None
    #: Of a try that was given out several times (released): which of its tokens, the last by default.
    given_out: int = -1
    fields: dict[str, Any] = field(default_factory=dict)

    def by(self, **fields: Any) -> Told:
        """The same with other fields, such as a wrong `lease_token` or another `worker_id`."""
        return replace(self, fields={**self.fields, **fields})


def succeed(step: str, attempt: int | None = None, given_out: int = -1, **fields: Any) -> Told:
    return Told(result.Success, step, attempt, given_out, _encoded(fields))


def fail(step: str, attempt: int | None = None, given_out: int = -1, **fields: Any) -> Told:
    return Told(result.Failure, step, attempt, given_out, {"error_message": "boom", **fields})


def fail_for_good(step: str, attempt: int | None = None, **fields: Any) -> Told:
    return fail(step, attempt, **{"error_type": "permanent_error", "retryable": False, **fields})


def start(step: str, attempt: int | None = None, given_out: int = -1, **fields: Any) -> Told:
    return Told(result.Started, step, attempt, given_out, fields)


def release(step: str, attempt: int | None = None, given_out: int = -1, **fields: Any) -> Told:
    return Told(result.Released, step, attempt, given_out, fields)


def lose(step: str, attempt: int | None = None, given_out: int = -1, **fields: Any) -> Told:
    return Told(result.Lost, step, attempt, given_out, {"deliveries": 2, **fields})


def choose(step: str, *names: str, attempt: int | None = None, **fields: Any) -> Told:
    """A decision: create these steps."""
    return Told(result.Decided, step, attempt, fields={"create_steps": names, **_encoded(fields)})


def decline(step: str, reason: str = "nothing to do", **fields: Any) -> Told:
    """A decision: no branch."""
    return choose(step, reason=reason, **fields)


def cut(step: str, *cursors: object, attempt: int | None = None, **fields: Any) -> Told:
    """A batchable step: a batch for each of these cursors."""
    encoded = tuple(msgspec.Raw(msgspec.json.encode(cursor)) for cursor in cursors)
    return Told(result.Batches, step, attempt, fields={"cursors": encoded, **_encoded(fields)})


def save(
    step: str,
    cursor: object,
    attempt: int | None = None,
    given_out: int = -1,
    *,
    items_processed: int = 0,
    accumulated_results: object = None,
    **fields: Any,
) -> Told:
    """A checkpoint."""
    progress = {
        "cursor": msgspec.Raw(msgspec.json.encode(cursor)),
        "items_processed": items_processed,
        "accumulated_results": msgspec.Raw(msgspec.json.encode(accumulated_results)),
    }
    return Told(result.Checkpointed, step, attempt, given_out, {**progress, **fields})


def say(name: str, payload: object = None, *, problem: str = "") -> result.DomainEvent:
    """A domain event that a handler publishes."""
    return result.DomainEvent(name=name, payload=msgspec.Raw(msgspec.json.encode(payload)), problem=problem)


def _encoded(fields: dict[str, Any]) -> dict[str, Any]:
    if "result" in fields:
        return {**fields, "result": msgspec.Raw(msgspec.json.encode(fields["result"]))}
    return fields


def send(signal: str, payload: object = None, signal_id: str = "one") -> SignalTask:
    """A signal from outside."""
    return SignalTask(signal, signal_id, msgspec.json.encode(payload).decode(), "ada")


def cancel(reason: str = "no need", by: str = "someone") -> CancelTask:
    return CancelTask(reason, by)


def wake() -> Wake:
    return Wake()


def wish(kind: type[AnyOperator], step: str = "", **fields: Any) -> AnyOperator:
    """What an operator asks of a task or a step; a `request_id` makes it the same request."""
    about = {"step": step} if step else {}
    return kind(**{"by": "ada", "reason": "why not", **about, **fields})


def complete(step: str, result: object = None, **fields: Any) -> CompleteStep:
    """An operator's result of a step."""
    return wish(CompleteStep, step, result=msgspec.json.encode(result).decode(), **fields)


# -- the story -----------------------------------------------------------------------------------


def entropy(number: int) -> str:
    """The `number`-th of a fixed series of 96-bit texts."""
    return hashlib.blake2b(str(number).encode(), digest_size=12).hexdigest()


class Scenario:
    """One task, from given events on; see the module."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.state: TaskState = initial(TASK_ID, plan, CORRELATION_ID)
        self.now_ms = T0_MS
        self.limits = DEFAULT_LIMITS
        self.rate_per_second: float | None = None
        self.open_circuits: frozenset[str] = frozenset()
        #: Every event so far and when it was recorded.
        self.history: list[tuple[events.Event, int]] = []
        self._tokens: dict[tuple[str, int], list[str]] = {}
        self._decisions = 0
        self._decision: list[events.Event] | Rejection | None = None

    def later(self, milliseconds: int) -> Self:
        """Let time pass."""
        self.now_ms += milliseconds
        return self

    def within(self, **limits: int) -> Self:
        """Other limits from now on."""
        self.limits = Limits(**limits)
        return self

    def at_rate(self, per_second: float | None) -> Self:
        """The namespace has this rate from now on."""
        self.rate_per_second = per_second
        return self

    def with_open(self, *services: str) -> Self:
        """From now on the circuits of these services, and no others, are known not to be closed."""
        self.open_circuits = frozenset(f"{self.plan.ref.namespace}/{service}" for service in services)
        return self

    def when(self, command: Command | Told, *, random: str | None = None) -> Self:
        """Ask; `random` are the random bits, as hexadecimal text."""
        assert self._decision is None, "the decision before was not looked at; call then()"
        if isinstance(command, Told):
            command = self._outcome(command)
        before = encode_snapshot(self.state)
        self._decisions += 1
        moment = Moment(
            self.now_ms,
            random or entropy(self._decisions),
            self.limits,
            self.rate_per_second,
            self.open_circuits,
        )
        self._decision = decide(self.state, command, moment)
        assert encode_snapshot(self.state) == before, "decide changed the state"
        return self

    def then(self, *expected: Happened) -> Self:
        """Exactly these events follow, in this order; they are applied."""
        decision, self._decision = self._decision, None
        assert isinstance(decision, list), f"not events: {decision}"
        shown = "\n".join(map(str, decision)) or "(nothing)"
        assert len(decision) == len(expected), f"expected {list(expected)}, got\n{shown}"
        for event, wanted in zip(decision, expected, strict=True):
            assert wanted.matches(event), f"expected {wanted}, got {event} in\n{shown}"
        self.record(*decision)
        check_state(self.state)
        return self

    def then_nothing(self) -> Self:
        """The command was carried out before: no event, and no refusal."""
        return self.then()

    def then_rejected(self, code: str) -> Self:
        """The command is refused with this code, and with a reason."""
        decision, self._decision = self._decision, None
        assert isinstance(decision, Rejection), f"not refused: {decision}"
        assert decision.code == code, decision
        assert decision.reason
        return self

    def then_refused(self, why: str, status: str, *allowed: str) -> Self:
        """An operator's wish is refused: with this in the reason, this status, and what is allowed instead."""
        decision = self._decision
        self.then_rejected("CONFLICT")
        assert isinstance(decision, Rejection)
        assert why in decision.reason, decision
        assert (decision.status, decision.allowed_actions) == (status, allowed)
        return self

    def record(self, *happened: events.Event) -> None:
        """Apply events, as they come back from the store."""
        for event in happened:
            stored = codec.decode_event(codec.encode(event))
            assert stored == event, "the event does not come back as it was"
            if isinstance(stored, events.StepEnqueued | events.ChildRequested):
                self._tokens.setdefault((stored.step_name, stored.attempt), []).append(stored.lease_token)
            self.history.append((stored, self.now_ms))
            evolve(self.state, stored, self.now_ms)
            check_counters(self.state)
        assert self.state.version == len(self.history)

    # -- looking at it -----------------------------------------------------------------------

    @property
    def status(self) -> str:
        """The status of the task."""
        return self.state.status

    def step(self, name: str) -> StepState:
        """The state of one step."""
        return self.state.steps[self.state.number_of(name)]

    def statuses(self) -> dict[str, str]:
        """The status of each step, those that do not exist (yet) among them."""
        return {self.state.name_of(number): step.status for number, step in enumerate(self.state.steps)}

    def shown(self) -> list[str]:
        """The names of the steps that callers see."""
        return [self.state.name_of(number) for number in self.state.shown_steps()]

    def run(self, *told: Command | Told) -> Self:
        """Ask one thing after the other, and apply whatever follows; none may be refused."""
        for each in told:
            self.when(each)
            decision, self._decision = self._decision, None
            assert isinstance(decision, list), f"not events: {decision}"
            self.record(*decision)
            check_state(self.state)
        return self

    def token(self, step: str, attempt: int | None = None, given_out: int = -1) -> str:
        """The lease token of a try."""
        attempt = self.step(step).attempt if attempt is None else attempt
        return self._tokens[step, attempt][given_out]

    def last(self, type: type[events.Event]) -> Any:
        """The latest event of a type."""
        return next(event for event, _ in reversed(self.history) if isinstance(event, type))

    def admit(self, step: str = "", *, is_probe: bool = False, token: str | None = None) -> AdmitStep:
        """What the gate says before which a step, or the task, is held."""
        hold = self.state.hold if not step else self.step(step).hold
        assert token is not None or hold is not None, "nothing is held"
        return AdmitStep(step, token or (hold.token if hold else ""), is_probe)

    def _outcome(self, told: Told) -> Command:
        attempt = self.step(told.step).attempt if told.attempt is None else told.attempt
        assert self.state.number_of(told.step) >= 0 or "lease_token" in told.fields, f"no step {told.step}"
        fields: dict[str, Any] = {
            "task_id": TASK_ID,
            "step_name": told.step,
            "step_uuid": step_uuid(TASK_ID, told.step),
            "attempt": attempt,
            "worker_id": WORKER,
            **told.fields,
        }
        if "lease_token" not in fields:
            fields["lease_token"] = self.token(told.step, attempt, told.given_out)
        if told.type is result.Started:
            fields.setdefault("started_at_ms", self.now_ms)
        outcome = codec.decode_outcomes(codec.encode(told.type(**fields)))[0]
        assert isinstance(outcome, told.type)
        return outcome


def given(plan: Plan, *happened: Happened) -> Scenario:
    """A task of which these events are known, all recorded at `T0_MS`."""
    scenario = Scenario(plan)
    for number, each in enumerate(happened):
        scenario.record(_whole(each, plan, T0_MS, number))
    return scenario


def create(plan: Plan, *, strict: bool = False, **fields: Any) -> CreateTask:
    """A request for a task of `plan`."""
    return CreateTask(new_task(plan, **fields), strict)


def entered(plan: Plan, *expected: Happened, **fields: Any) -> Scenario:
    """A task that was just created; `expected` are the events after `task.created`."""
    return given(plan).when(create(plan, **fields)).then(created(), *expected)


def begun(plan: Plan) -> Scenario:
    """A task that was just created: its roots are given out."""
    scenario = given(plan).when(create(plan))
    roots = tuple(enqueued(plan.steps[number].name) for number in plan.roots)
    return scenario.then(created(), *roots)
