"""What tasks and gates tell each other: durable commands on `sw.cmd.<shard>.<stream id>`.

A gate is what many tasks pass one after the other: the slots of a concurrency key, the circuit of a service, the
rate of a namespace. It is an actor with a stream of its own, whose id follows from its name. A try that is held
before a gate asks to be let through, under a token of its own; the gate answers with that token. All of it follows
from committed events and may come again: the token says what it is about.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .identity import derived_uuid

GateKind = Literal["concurrency", "circuit", "rate"]


class BreakerSpec(msgspec.Struct, frozen=True):
    """When a failing service is left alone for a while."""

    failure_threshold: int = 5
    window_seconds: float = 60.0
    open_seconds: float = 30.0
    half_open_max: int = 1


def slots_id(namespace: str, group: str, value: str) -> str:
    """The stream of the slots of one value of a concurrency key; `group` says whose, `value` is JSON."""
    return derived_uuid("slots", namespace, group, value)


def circuit_id(namespace: str, service: str) -> str:
    """The stream of the circuit of a service."""
    return derived_uuid("circuit", namespace, service)


def rate_id(namespace: str) -> str:
    """The stream of a namespace's rate."""
    return derived_uuid("rate", namespace)


class GateOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Base: the stream that is told, a gate's or a task's."""

    task_id: str


class JoinSlots(GateOrder, frozen=True, kw_only=True, tag="join_slots"):
    """A task or a try of a step asks for a slot. `task_id` is the gate's stream, `asker` the task."""

    namespace: str
    group: str
    value: str
    limit: int
    asker: str
    step_name: str
    token: str
    priority: int = 0
    held_at_ms: int


class JoinCircuit(GateOrder, frozen=True, kw_only=True, tag="join_circuit"):
    """A try waits for a circuit that is not closed."""

    namespace: str
    service: str
    breaker: BreakerSpec
    asker: str
    step_name: str
    token: str
    priority: int = 0
    held_at_ms: int


class JoinRate(GateOrder, frozen=True, kw_only=True, tag="join_rate"):
    """A try waits for its turn in the rate of its namespace."""

    namespace: str
    per_second: float
    asker: str
    step_name: str
    token: str
    priority: int = 0
    held_at_ms: int


class LeaveGate(GateOrder, frozen=True, kw_only=True, tag="leave_gate"):
    """What was let through is over, or does not wait any more."""

    gate: GateKind
    token: str
    #: Of a probe: `success`, `failure`, or empty where it says nothing about the service.
    outcome: str = ""


class ReportFailure(GateOrder, frozen=True, kw_only=True, tag="report_failure"):
    """A try failed in a way that may be its service's fault."""

    namespace: str
    service: str
    breaker: BreakerSpec
    asker: str
    step_name: str
    step_uuid: str
    attempt: int
    error_type: str
    error_message: str
    failed_at_ms: int


class Admit(GateOrder, frozen=True, kw_only=True, tag="admit"):
    """A gate lets a task, or a try of a step, through. `task_id` is the task."""

    gate: GateKind
    gate_id: str
    step_name: str
    token: str
    #: It tries out whether a service is there again.
    is_probe: bool = False


AnyJoin = JoinSlots | JoinCircuit | JoinRate
AnyGateOrder = AnyJoin | LeaveGate | ReportFailure | Admit
