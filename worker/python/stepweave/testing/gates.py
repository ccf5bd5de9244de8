"""Slots of concurrency keys and circuits of services in one in-memory run: the core's own, beside its tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stepweave_orchestrator.core.commands import AdmitStep, Moment, StreamCommand, Wake
from stepweave_orchestrator.core.gates import circuit, rate, slots
from stepweave_orchestrator.core.holding import (
    circuit_key,
    join_order,
    leave_order,
    report_order,
)
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas import events
from stepweave_schemas.gate import AnyGateOrder, GateKind, JoinCircuit, JoinSlots, LeaveGate, ReportFailure

if TYPE_CHECKING:
    from .actors import TaskInMemory, World

_HELD: Final = (events.ConcurrencyRequested, events.CircuitHeld, events.RateHeld)
_LEFT: Final = (events.ConcurrencyReleased, events.CircuitLeft, events.RateLeft)
_FAILED: Final = (events.StepRetryScheduled, events.StepFailed)
_PASSED: Final = (events.SlotsGranted, events.BreakerPassed, events.ThrottlePassed)


class _Kind(NamedTuple):
    """How the gates of one kind decide."""

    initial: Callable[[], Any]
    decide: Callable[[Any, Any, Moment], list[events.Event] | Rejection]
    evolve: Callable[[Any, events.Event, int], Any]
    wake_ms: Callable[[Any], int | None]


_KINDS: Final[dict[GateKind, _Kind]] = {
    "concurrency": _Kind(slots.SlotsState, slots.decide_slots, slots.evolve_slots, slots.slots_wake_ms),
    "circuit": _Kind(
        circuit.CircuitState, circuit.decide_circuit, circuit.evolve_circuit, circuit.circuit_wake_ms
    ),
    "rate": _Kind(rate.RateState, rate.decide_rate, rate.evolve_rate, rate.rate_wake_ms),
}


class _Gate:
    """One gate and its timer."""

    def __init__(self, kind: GateKind) -> None:
        self.kind = _KINDS[kind]
        self.state: Any = self.kind.initial()
        self.stop_timer: Callable[[], None] | None = None


class GatesInMemory:
    """All gates of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._gates: dict[str, _Gate] = {}
        #: As `Moment.open_circuits`.
        self.open_circuits: frozenset[str] = frozenset()

    def follow(self, task: TaskInMemory, event: events.Event) -> None:
        """Carry out what an event of a task orders of a gate, if anything."""
        order: AnyGateOrder | None = None
        if isinstance(event, _HELD):
            order = join_order(task.state, event)
        elif isinstance(event, _LEFT):
            order = leave_order(event)
        elif isinstance(event, _FAILED):
            order = report_order(task.state, event)
        if order is not None:
            self._carry_out(order)

    def _carry_out(self, order: AnyGateOrder) -> None:
        kind: GateKind
        command: StreamCommand
        if isinstance(order, LeaveGate):
            kind = order.gate
            leave: dict[GateKind, StreamCommand] = {
                "concurrency": slots.Leave(order.token),
                "circuit": circuit.Leave(order.token, order.outcome),
                "rate": rate.Leave(order.token),
            }
            command = leave[kind]
        elif isinstance(order, ReportFailure):
            kind, command = "circuit", circuit.Report(order)
        elif isinstance(order, JoinSlots):
            kind, command = "concurrency", slots.Join(order)
        elif isinstance(order, JoinCircuit):
            kind, command = "circuit", circuit.Join(order)
        else:
            raise AssertionError("a run in memory has no rates")
        self._ask(order.task_id, kind, command)

    def _ask(self, gate_id: str, kind: GateKind, command: StreamCommand | Wake) -> None:
        gate = self._gates.setdefault(gate_id, _Gate(kind))
        now_ms = self._world.now_ms()
        decision = gate.kind.decide(gate.state, command, Moment(now_ms, ""))
        for event in [] if isinstance(decision, Rejection) else decision:
            gate.kind.evolve(gate.state, event, now_ms)
            if isinstance(event, _PASSED):
                probing = isinstance(event, events.BreakerPassed) and event.is_probe
                admit = AdmitStep(event.step_name, event.token, probing)
                self._world.soon(partial(self._world.actors[event.task_id].decide, admit))
        if isinstance(gate.state, circuit.CircuitState):
            key = frozenset({circuit_key(gate.state.namespace, gate.state.service)})
            closed = gate.state.status == "closed"
            self.open_circuits = self.open_circuits - key if closed else self.open_circuits | key
        self._set_timer(gate_id, kind, gate)

    def _set_timer(self, gate_id: str, kind: GateKind, gate: _Gate) -> None:
        if gate.stop_timer is not None:
            gate.stop_timer()
        gate.stop_timer = None
        wake_ms = gate.kind.wake_ms(gate.state)
        if wake_ms is not None:
            wait_seconds = max(0, wake_ms - self._world.now_ms()) / 1000
            gate.stop_timer = self._world.later(wait_seconds, partial(self._ask, gate_id, kind, Wake()))
