"""A try before the gates that it has to pass: slots first, then the circuit of its service, then the rate.

The circuit comes late, so that a step that waited long for a slot does not go to a service that has failed since; the
rate comes last, so that a turn is not kept for later. A retry passes all of them again; a try that goes on after a
checkpoint, or is given out again at once, keeps what it has. One that waits for a worker with its handler gives it
back: others can use it meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stepweave_schemas import events
from stepweave_schemas.child_context import MISSING, follow
from stepweave_schemas.gate import (
    AnyJoin,
    BreakerSpec,
    GateKind,
    JoinCircuit,
    JoinRate,
    JoinSlots,
    LeaveGate,
    ReportFailure,
    circuit_id,
    rate_id,
    slots_id,
)

from .gates.circuit import COUNTED_ERRORS
from .plan import ConcurrencySpec, StepSpec
from .rejection import Decision, Rejection
from .state import Pass, StepState, TaskState
from .tries import lease_token

if TYPE_CHECKING:
    from .commands import AdmitStep, Moment

#: The gates in the order in which they are passed.
_ORDER: Final[tuple[GateKind, ...]] = ("concurrency", "circuit", "rate")
#: Of a value this much tells it from others; longer ones count by their beginning.
VALUE_CHARS_MAX: Final = 1_000
_TERMINAL: Final = (
    events.TaskCompleted,
    events.TaskFailed,
    events.TaskCancelled,
    events.TaskResolvedManually,
)
_ENDS_TRY: Final = (
    events.StepCompleted,
    events.StepRetryScheduled,
    events.StepFailed,
    events.StepSkipped,
    events.StepResolvedManually,
    events.StepCompletedManually,
)
_HELD: Final = (events.ConcurrencyRequested, events.CircuitHeld, events.RateHeld)
_GATES: Final[dict[type[events.Event], GateKind]] = {
    events.ConcurrencyRequested: "concurrency",
    events.CircuitHeld: "circuit",
    events.RateHeld: "rate",
}


def service_of(spec: StepSpec) -> str:
    """What the circuit of a step stands for: the service that it needs, or its handler."""
    return spec.system_dependency or spec.handler.callable


def circuit_key(namespace: str, service: str) -> str:
    """A circuit as `Moment.open_circuits` names it."""
    return f"{namespace}/{service}"


# -- being held ------------------------------------------------------------------------------------


def held_before(
    state: TaskState,
    spec: StepSpec,
    name: str,
    uuid: str,
    attempt: int,
    passed: GateKind | None,
    moment: Moment,
) -> events.GateEvent | None:
    """The event that holds a try before its next gate; `None` where nothing is (any more) in its way."""
    plan = state.the_plan
    namespace = plan.ref.namespace
    after = -1 if passed is None else _ORDER.index(passed)
    if after < 0 and spec.concurrency is not None:
        own = f"{plan.ref.name}.{spec.name}"
        return _requested(state, spec.concurrency, "", own, name, uuid, attempt, moment)
    if after < 1 and spec.circuit_breaker is not None:
        service = service_of(spec)
        if circuit_key(namespace, service) in moment.open_circuits:
            return events.CircuitHeld(
                step_name=name,
                step_uuid=uuid,
                gate_id=circuit_id(namespace, service),
                attempt=attempt,
                token=_token("circuit", uuid, attempt, moment),
                service=service,
            )
    if after < 2 and moment.rate_per_second is not None:
        return events.RateHeld(
            step_name=name,
            step_uuid=uuid,
            gate_id=rate_id(namespace),
            attempt=attempt,
            token=_token("rate", uuid, attempt, moment),
            per_second=moment.rate_per_second,
        )
    return None


def task_held(state: TaskState, moment: Moment) -> events.ConcurrencyRequested | None:
    """The event that holds the whole task until it has a slot, where its template limits how many run."""
    plan = state.the_plan
    if plan.concurrency is None:
        return None
    return _requested(state, plan.concurrency, "task:", plan.ref.name, "", state.task_id, 1, moment)


def lacks_slot(state: TaskState) -> bool:
    """Whether a task that is under way has no slot, though its template limits how many run: it was blocked."""
    return state.the_plan.concurrency is not None and not state.passes and state.hold is None


def _requested(
    state: TaskState,
    concurrency: ConcurrencySpec,
    prefix: str,
    own: str,
    name: str,
    uuid: str,
    attempt: int,
    moment: Moment,
) -> events.ConcurrencyRequested:
    """The question for a slot of the key's value, or of one's own where there is no key."""
    key, value = own, "null"
    if concurrency.key is not None:
        key, found = _in_context(msgspec.json.decode(state.context), concurrency.key)
        if found is not MISSING:
            value = msgspec.json.encode(found, order="deterministic").decode()[:VALUE_CHARS_MAX]
    group = prefix + key
    return events.ConcurrencyRequested(
        step_name=name,
        step_uuid=uuid,
        gate_id=slots_id(state.the_plan.ref.namespace, group, value),
        attempt=attempt,
        token=_token("concurrency", uuid, attempt, moment),
        group=group,
        value=value,
        limit=concurrency.limit,
    )


def _in_context(context: Any, key: str) -> tuple[str, Any]:
    """A path, without a `context.` before it that says no more than that it is one; and the value there."""
    found = follow(context, tuple(key.split(".")))
    rest = key.removeprefix("context.")
    return (
        (key, found)
        if rest == key or found is not MISSING
        else (rest, follow(context, tuple(rest.split("."))))
    )


def _token(gate: GateKind, uuid: str, attempt: int, moment: Moment) -> str:
    return lease_token(f"{gate}:{uuid}", attempt, moment)


# -- being let through -----------------------------------------------------------------------------


def admitted(command: AdmitStep, uuid: str, hold: Pass) -> events.GateEvent:
    """The event of a gate's answer to what waits before it."""
    if hold.gate == "concurrency":
        return events.ConcurrencyGranted(
            step_name=command.step_name, step_uuid=uuid, gate_id=hold.gate_id, token=hold.token
        )
    if hold.gate == "circuit":
        return events.CircuitAdmitted(
            step_name=command.step_name,
            step_uuid=uuid,
            gate_id=hold.gate_id,
            token=hold.token,
            is_probe=command.is_probe,
        )
    return events.RateAdmitted(
        step_name=command.step_name, step_uuid=uuid, gate_id=hold.gate_id, token=hold.token
    )


def standing(hold: Pass | None, passes: Sequence[Pass], token: str) -> Decision | None:
    """What to answer to an admission: `None` where it is awaited."""
    if hold is not None and hold.token == token:
        return None
    if any(one.token == token for one in passes):
        return []
    return Rejection("STALE", "nobody waits for this any more")


# -- giving back -----------------------------------------------------------------------------------


def with_releases(state: TaskState, happened: list[events.Event]) -> list[events.Event]:
    """The events, with what gives back all that the tries and the task held that end with them."""
    kept = _Kept(state)
    told: list[events.Event] = []
    for event in happened:
        if isinstance(event, _TERMINAL):
            told += kept.all_given_back()
            told.append(event)
            continue
        if isinstance(event, events.TaskBlocked):
            # Nothing of it runs until somebody acts, and that may be never.
            told += kept.task_given_back()
        if isinstance(event, events.TaskStale) and event.action == "fail":
            # All steps end here; the task itself may still be undone.
            told += kept.steps_given_back()
        told.append(event)
        ends = isinstance(event, _ENDS_TRY) or _interrupts_try(state, event)
        if isinstance(event, _HELD):
            kept.asks(event)
        elif isinstance(event, events.StepEvent) and ends:
            told += kept.given_back(event.step_name, _outcome(event))
        elif isinstance(event, events.BatchStopped):
            batch = state.batches[state.the_plan.index[event.worker_template]]
            # Those whose try is out go on, and give back what they have with its end.
            for number in range(batch.first, batch.first + batch.count):
                name = state.name_of(number)
                if kept.is_held(name, state.steps[number]):
                    told += kept.given_back(name, "")
    return told


def _interrupts_try(state: TaskState, event: events.Event) -> bool:
    """Whether a try is with nobody for the time being: its task is paused, or a worker did not have its handler."""
    if isinstance(event, events.StepReleased):
        return state.phase == "paused" or event.retry_at_ms is not None
    return state.phase == "paused" and isinstance(event, events.StepCheckpointed)


def lines_left(state: TaskState) -> list[events.Event]:
    """What takes a task that is paused, and its steps, out of the lines in which they wait before gates."""
    if not state.gated_count:
        return []
    left: list[events.Event] = []
    if state.hold is not None:
        left.append(_release("", state.task_id, state.hold, ""))
    for number, step in enumerate(state.steps):
        if step.status == "held":
            left += _left(state.name_of(number), step, "")
    return left


class _Kept:
    """What tries and the task hold while the events of one decision follow each other.

    One decision can ask for something and end what asked for it: of two steps that are due at the same time, the
    first asks for a slot again and the second fails, which stops the batch of both.
    """

    def __init__(self, state: TaskState) -> None:
        self._state = state
        #: By step: what was asked for since its last end in this decision, and who has ended a try in it.
        self._asked: dict[str, list[events.Event]] = {}
        self._ended: set[str] = set()

    def asks(self, event: events.ConcurrencyRequested | events.CircuitHeld | events.RateHeld) -> None:
        asked = Pass(
            gate=_GATES[type(event)],
            gate_id=event.gate_id,
            token=event.token,
            attempt=event.attempt,
            at_ms=0,
        )
        release = _release(event.step_name, event.step_uuid, asked, "")
        self._asked.setdefault(event.step_name, []).append(release)

    def is_held(self, name: str, step: StepState) -> bool:
        """Whether no try of the step is out, but one is asked for."""
        return name in self._asked or (step.status == "held" and name not in self._ended)

    def given_back(self, name: str, outcome: str) -> list[events.Event]:
        """What gives back all that a step has, and waits for."""
        told: list[events.Event] = []
        # Steps that the same decision makes have passed nothing before it.
        number = self._state.number_of(name)
        if number >= 0 and name not in self._ended:
            told += _left(name, self._state.steps[number], outcome)
        self._ended.add(name)
        return told + self._asked.pop(name, [])

    def steps_given_back(self) -> list[events.Event]:
        """What gives back all that the steps have, and wait for."""
        state = self._state
        told: list[events.Event] = []
        for number, step in enumerate(state.steps):
            if step.hold is not None or step.passes:
                told += self.given_back(state.name_of(number), "")
        for name in [name for name in self._asked if name]:
            told += self.given_back(name, "")
        return told

    def all_given_back(self) -> list[events.Event]:
        """What gives back all that the task and its steps have, and wait for."""
        return [*self.steps_given_back(), *self.task_given_back()]

    def task_given_back(self) -> list[events.Event]:
        """What gives back the slot that the task itself has, or waits for."""
        state = self._state
        held = state.passes if state.hold is None else (state.hold, *state.passes)
        return [_release("", state.task_id, one, "") for one in held]


def _outcome(event: events.StepEvent) -> str:
    """What the end of a probe says about its service."""
    if isinstance(event, events.StepCompleted):
        return "success"
    if isinstance(event, events.StepRetryScheduled | events.StepFailed):
        if event.error_type in COUNTED_ERRORS:
            return "failure"
        # The service has answered; not so where a worker got lost, or the input did not get as far as the service.
        says_nothing = event.settled_by == "lost" or event.error_type == "validation_error"
        return "" if says_nothing else "success"
    return ""


def _left(name: str, step: StepState, outcome: str) -> list[events.Event]:
    held = [] if step.hold is None else [_release(name, step.uuid, step.hold, "")]
    return [*held, *(_release(name, step.uuid, one, outcome) for one in step.passes)]


def _release(name: str, uuid: str, one: Pass, outcome: str) -> events.Event:
    if one.gate == "concurrency":
        return events.ConcurrencyReleased(
            step_name=name, step_uuid=uuid, gate_id=one.gate_id, token=one.token
        )
    if one.gate == "circuit":
        return events.CircuitLeft(
            step_name=name, step_uuid=uuid, gate_id=one.gate_id, token=one.token, outcome=outcome
        )
    return events.RateLeft(step_name=name, step_uuid=uuid, gate_id=one.gate_id, token=one.token)


# -- what the events order -------------------------------------------------------------------------


def join_order(
    state: TaskState, event: events.ConcurrencyRequested | events.CircuitHeld | events.RateHeld
) -> AnyJoin | None:
    """The order to ask a gate; `None` where the try does not wait for its answer any more."""
    hold = state.hold if not event.step_name else state.steps[state.number_of(event.step_name)].hold
    if hold is None or hold.token != event.token:
        return None
    return join_of(state, event.step_name, hold)


def join_of(state: TaskState, step_name: str, hold: Pass) -> AnyJoin:
    """As `join_order`, from what the state knows."""
    asked = {
        "task_id": hold.gate_id,
        "namespace": state.the_plan.ref.namespace,
        "asker": state.task_id,
        "step_name": step_name,
        "token": hold.token,
        "priority": state.priority,
        "held_at_ms": hold.at_ms,
    }
    if hold.gate == "concurrency":
        return JoinSlots(**asked, group=hold.group, value=hold.value, limit=hold.limit)  # type: ignore[arg-type]
    if hold.gate == "circuit":
        breaker = state.spec_of(state.number_of(step_name)).circuit_breaker or BreakerSpec()
        return JoinCircuit(**asked, service=hold.group, breaker=breaker)  # type: ignore[arg-type]
    return JoinRate(**asked, per_second=hold.per_second)  # type: ignore[arg-type]


def leave_order(event: events.ConcurrencyReleased | events.CircuitLeft | events.RateLeft) -> LeaveGate:
    """The order to tell a gate that something is over."""
    if isinstance(event, events.ConcurrencyReleased):
        return LeaveGate(task_id=event.gate_id, gate="concurrency", token=event.token)
    if isinstance(event, events.CircuitLeft):
        return LeaveGate(task_id=event.gate_id, gate="circuit", token=event.token, outcome=event.outcome)
    return LeaveGate(task_id=event.gate_id, gate="rate", token=event.token)


def report_order(
    state: TaskState, event: events.StepRetryScheduled | events.StepFailed
) -> ReportFailure | None:
    """The order to count a failure against its service; `None` where it has no circuit or is not its fault."""
    number = state.number_of(event.step_name)
    spec = state.spec_of(number)
    if spec.circuit_breaker is None or event.error_type not in COUNTED_ERRORS:
        return None
    namespace = state.the_plan.ref.namespace
    service = service_of(spec)
    fault = state.steps[number].fault
    return ReportFailure(
        task_id=circuit_id(namespace, service),
        namespace=namespace,
        service=service,
        breaker=spec.circuit_breaker,
        asker=state.task_id,
        step_name=event.step_name,
        step_uuid=event.step_uuid,
        attempt=event.attempt,
        error_type=event.error_type,
        error_message=event.error_message[:VALUE_CHARS_MAX],
        failed_at_ms=state.updated_at_ms if fault is None else fault.at_ms,
    )
