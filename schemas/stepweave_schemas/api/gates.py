"""Gates: slots, circuits and rates, as people ask for them and switch them."""

from __future__ import annotations

from typing import Any

import msgspec

from .request import Request


class ListGates(Request, frozen=True, kw_only=True):
    """`gate.list`: slots of concurrency keys, circuits and rates that were ever used. Answer: `GatePage`."""

    #: `slots`, `circuit` or `rate`.
    kind: str
    namespace: str | None = None
    #: Such as `full` or `in_use` (slots), `open` (circuits); absent: all.
    status: tuple[str, ...] = ()
    page: int = 1
    #: 1..200.
    per_page: int = 50


class GetGate(Request, frozen=True, kw_only=True):
    """`gate.get`: who holds and who waits. Answer: `GateReply`."""

    gate_id: str


class OpenCircuit(Request, frozen=True, kw_only=True):
    """`circuit.open`: hold the steps that need a service for a while. Answer: `GateReply`."""

    namespace: str
    service: str
    #: For how long; then a few steps try it out.
    open_seconds: float
    reason: str = ""
    opened_by: str = ""


class CloseCircuit(Request, frozen=True, kw_only=True):
    """`circuit.close`: let the steps that need a service go on. Answer: `GateReply`."""

    namespace: str
    service: str
    reason: str = ""
    closed_by: str = ""


class GateItem(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a list of gates."""

    gate_id: str
    kind: str
    namespace: str
    #: What it is about: `<key>=<value>` of slots, the service of a circuit, the namespace of a rate.
    name: str
    #: Of slots `idle`, `in_use` or `full`; of a circuit `closed`, `open` or `half_open`; of a rate `idle` or `full`.
    status: str
    updated_at: str
    #: How many hold it and wait for it, and what else is worth knowing, by kind.
    summary: dict[str, Any]


class GatePage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `gate.list`."""

    gates: tuple[GateItem, ...]
    has_next: bool


class GateHolder(msgspec.Struct, frozen=True, kw_only=True):
    """A task, or a step of one, that was let through and has not ended (of a circuit: a probe)."""

    task_uuid: str
    #: Empty: the whole task.
    step_name: str
    since: str


class GateWaiter(msgspec.Struct, frozen=True, kw_only=True):
    """A task, or a step of one, that waits; in the order in which they are let through."""

    task_uuid: str
    step_name: str
    since: str
    priority: int


class GateReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `gate.get`, `circuit.open` and `circuit.close`."""

    gate: GateItem
    #: At most 100 of each.
    holders: tuple[GateHolder, ...]
    waiting: tuple[GateWaiter, ...]
    holders_count: int
    waiting_count: int
    #: When an open circuit lets probes out, or the next one goes in a rate.
    next_at: str | None = None
