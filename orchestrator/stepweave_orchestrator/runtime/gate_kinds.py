"""Gates as streams of the system's own: slots, circuits, rates."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stepweave_eventstore.store import StreamRow
from stepweave_orchestrator.core.gates.circuit import (
    CircuitState,
    circuit_wake_ms,
    decide_circuit,
    evolve_circuit,
)
from stepweave_orchestrator.core.gates.rate import RateState, decide_rate, evolve_rate, rate_wake_ms
from stepweave_orchestrator.core.gates.slots import (
    Holder,
    SlotsState,
    decide_slots,
    evolve_slots,
    slots_wake_ms,
)
from stepweave_schemas import api, events
from stepweave_schemas.codec import encode
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.gate import Admit, GateKind, circuit_id, rate_id, slots_id
from stepweave_schemas.subjects import NAME_BYTES_MAX

from .orders import Order, gate_order
from .stream_kind import ShardOf, StreamKind

#: The name under which the events of a namespace's rate stand on the signal feed.
RATE_NAME: Final = "rate"


def _admit(
    gate: GateKind,
    gate_id: str,
    task_id: str,
    step_name: str,
    token: str,
    shard_of: ShardOf,
    *,
    number: int,
    is_probe: bool = False,
) -> Order:
    """What tells a task that a gate lets it, or a try of a step of its, through.

    The number is part of the message's id: who asks twice, the second time after its end, is let through twice, and
    has to hear of both, or nobody would say that nobody is there any more.
    """
    said = Admit(
        task_id=task_id, gate=gate, gate_id=gate_id, step_name=step_name, token=token, is_probe=is_probe
    )
    return gate_order(said, f"a{token}.{number}", shard_of)


def _short(name: str) -> str:
    """As much of a name as fits into a subject: the slots of a step are called after its template and itself."""
    raw = name.encode()
    return name if len(raw) <= NAME_BYTES_MAX else raw[:NAME_BYTES_MAX].decode(errors="ignore")


def gate_item(row: StreamRow) -> api.GateItem:
    """A gate's row in a list."""
    return api.GateItem(
        gate_id=row.stream_id,
        kind=row.kind,
        namespace=row.namespace,
        name=row.name,
        status=row.status,
        updated_at=timestamp(row.updated_at_ms),
        summary=msgspec.json.decode(row.summary),
    )


# -- slots -----------------------------------------------------------------------------------------


def _slots_id(state: SlotsState) -> str:
    return slots_id(state.namespace, state.group, state.value)


def _slots_order(state: SlotsState, event: events.Event, shard_of: ShardOf) -> Order | None:
    if not isinstance(event, events.SlotsGranted):
        return None
    holder = state.holders.get(event.token)
    return None if holder is None else _slot(state, event.token, holder, shard_of)


def _slot(state: SlotsState, token: str, one: Holder, shard_of: ShardOf) -> Order:
    return _admit(
        "concurrency", _slots_id(state), one.task_id, one.step_name, token, shard_of, number=one.version
    )


def _slots_orders(state: SlotsState, shard_of: ShardOf) -> list[Order]:
    """Each holder is told again; one that is gone says so, and its slot is free."""
    return [_slot(state, token, one, shard_of) for token, one in state.holders.items()]


def _slots_row(state: SlotsState, stream_id: str, shard: int) -> StreamRow:
    busy = bool(state.holders or state.line)
    return StreamRow(
        stream_id=stream_id,
        shard=shard,
        version=state.version,
        kind=SLOTS.name,
        namespace=state.namespace,
        name=f"{state.group}={state.value}",
        status="full" if state.line else ("in_use" if state.holders else "idle"),
        is_open=busy,
        updated_at_ms=state.updated_at_ms,
        summary=msgspec.Raw(
            encode(
                {
                    "group": state.group,
                    "value": state.value,
                    "limit": state.limit,
                    "running": len(state.holders),
                    "waiting": len(state.line),
                }
            )
        ),
    )


SLOTS: Final = StreamKind(
    name="slots",
    first_event=events.SlotsOpened,
    state_type=SlotsState,
    snapshot_format=1,
    initial=lambda _: SlotsState(),
    decide=decide_slots,
    evolve=evolve_slots,
    next_wake_ms=slots_wake_ms,
    ordering=frozenset({events.SlotsGranted}),
    order_of=_slots_order,
    open_orders=_slots_orders,
    row=_slots_row,
    address=lambda state: (state.namespace, _short(state.group)),
)

# -- circuits --------------------------------------------------------------------------------------


def _circuit_order(state: CircuitState, event: events.Event, shard_of: ShardOf) -> Order | None:
    if not isinstance(event, events.BreakerPassed):
        return None
    probe = state.probes.get(event.token)
    return _admit(
        "circuit",
        circuit_id(state.namespace, state.service),
        event.task_id,
        event.step_name,
        event.token,
        shard_of,
        number=state.changed_at_ms if probe is None else probe.version,
        is_probe=event.is_probe,
    )


def _circuit_orders(state: CircuitState, shard_of: ShardOf) -> list[Order]:
    gate_id = circuit_id(state.namespace, state.service)
    return [
        _admit(
            "circuit",
            gate_id,
            one.task_id,
            one.step_name,
            token,
            shard_of,
            number=one.version,
            is_probe=True,
        )
        for token, one in state.probes.items()
    ]


def _circuit_row(state: CircuitState, stream_id: str, shard: int) -> StreamRow:
    return StreamRow(
        stream_id=stream_id,
        shard=shard,
        version=state.version,
        kind=CIRCUIT.name,
        namespace=state.namespace,
        name=state.service,
        status=state.status,
        is_open=state.status != "closed" or bool(state.line or state.probes),
        updated_at_ms=state.updated_at_ms,
        summary=msgspec.Raw(encode(circuit_summary(state))),
    )


def circuit_summary(state: CircuitState) -> dict[str, Any]:
    """What lists show of a circuit."""
    return {
        "service": state.service,
        "failures": len(state.failures),
        "last_error": state.last_error,
        "opened_by": state.opened_by,
        "reason": state.reason,
        "waiting": len(state.line),
        "probes": len(state.probes),
        "open_until": timestamp(state.open_until_ms) if state.status == "open" else None,
        "changed_at": timestamp(state.changed_at_ms),
    }


CIRCUIT: Final = StreamKind(
    name="circuit",
    first_event=events.BreakerWatched,
    state_type=CircuitState,
    snapshot_format=3,
    initial=lambda _: CircuitState(),
    decide=decide_circuit,
    evolve=evolve_circuit,
    next_wake_ms=circuit_wake_ms,
    ordering=frozenset({events.BreakerPassed}),
    order_of=_circuit_order,
    open_orders=_circuit_orders,
    row=_circuit_row,
    address=lambda state: (state.namespace, _short(state.service)),
)

# -- rates -----------------------------------------------------------------------------------------


def _rate_order(state: RateState, event: events.Event, shard_of: ShardOf) -> Order | None:
    if not isinstance(event, events.ThrottlePassed):
        return None
    gate_id = rate_id(state.namespace)
    # A turn is not held: there is nothing to give back where nobody takes it.
    return _admit("rate", gate_id, event.task_id, event.step_name, event.token, shard_of, number=0)


def _rate_row(state: RateState, stream_id: str, shard: int) -> StreamRow:
    return StreamRow(
        stream_id=stream_id,
        shard=shard,
        version=state.version,
        kind=RATE.name,
        namespace=state.namespace,
        name=state.namespace,
        status="full" if state.line else "idle",
        is_open=bool(state.line),
        updated_at_ms=state.updated_at_ms,
        summary=msgspec.Raw(encode({"per_second": state.per_second, "waiting": len(state.line)})),
    )


RATE: Final = StreamKind(
    name="rate",
    first_event=events.ThrottleOpened,
    state_type=RateState,
    snapshot_format=2,
    initial=lambda _: RateState(),
    decide=decide_rate,
    evolve=evolve_rate,
    next_wake_ms=rate_wake_ms,
    ordering=frozenset({events.ThrottlePassed}),
    order_of=_rate_order,
    # Who waits asks again, and is told again.
    open_orders=lambda _state, _shard_of: [],
    row=_rate_row,
    address=lambda state: (state.namespace, RATE_NAME),
)
