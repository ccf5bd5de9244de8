"""The operations about gates: look at them, open and close circuits."""

from __future__ import annotations

import math
from typing import Final

from stepweave_eventstore.store import EventStore, StreamFilter
from stepweave_orchestrator.runtime.gate_kinds import gate_item
from stepweave_orchestrator.runtime.owner_requests import CloseCircuit, GetGate, OpenCircuit
from stepweave_orchestrator.runtime.shard_router import ShardRouter
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode
from stepweave_schemas.gate import circuit_id
from stepweave_schemas.identity import is_uuid, shard_of

from .creation import check_text

#: The states of each kind of gate.
STATUSES: Final = {
    "slots": ("idle", "in_use", "full"),
    "circuit": ("closed", "open", "half_open"),
    "rate": ("idle", "full"),
}
#: For how long a circuit may be opened by hand: a week.
OPEN_SECONDS_MAX: Final = 7 * 24 * 3600
PAGE_MAX: Final = 1_000_000


class GateOperations:
    """`gate.*` and `circuit.*`."""

    def __init__(self, store: EventStore, shard_count: int, router: ShardRouter) -> None:
        self._store = store
        self._shard_count = shard_count
        self._router = router

    async def list_gates(self, request: api.ListGates) -> bytes:
        """A page of the gates of one kind, by namespace and name."""
        statuses = STATUSES.get(request.kind)
        if statuses is None:
            raise ApiError(
                "BAD_REQUEST", f"kind: no gate is {request.kind[:100]!r}; they are {', '.join(STATUSES)}"
            )
        unknown = [status for status in request.status if status not in statuses]
        if unknown:
            raise ApiError(
                "BAD_REQUEST",
                f"status: no {request.kind} is {unknown[0][:100]!r}; the states are {', '.join(statuses)}",
            )
        if not 1 <= request.page <= PAGE_MAX or not 1 <= request.per_page <= 200:
            raise ApiError("BAD_REQUEST", f"page is 1..{PAGE_MAX}, per_page is 1..200")
        rows = await self._store.list_streams(
            StreamFilter(
                kind=request.kind,
                namespace=request.namespace,
                statuses=request.status,
                limit=request.per_page + 1,
                offset=(request.page - 1) * request.per_page,
            )
        )
        gates = tuple(gate_item(row) for row in rows[: request.per_page])
        return encode(api.GatePage(gates=gates, has_next=len(rows) > request.per_page))

    async def get_gate(self, request: api.GetGate) -> bytes:
        """One gate as its actor knows it."""
        if not is_uuid(request.gate_id):
            raise ApiError("INVALID_UUID", f"{request.gate_id!r} is no UUID in its canonical lower-case form")
        return await self._router.call(self._shard_of(request.gate_id), GetGate(stream_id=request.gate_id))

    async def open_circuit(self, request: api.OpenCircuit) -> bytes:
        """Hold the steps that need a service from now on."""
        _check_circuit(request, "opened_by")
        if not math.isfinite(request.open_seconds) or not 0 < request.open_seconds <= OPEN_SECONDS_MAX:
            raise ApiError(
                "BAD_REQUEST", f"open_seconds: expected more than 0 and at most {OPEN_SECONDS_MAX}"
            )
        gate_id = circuit_id(request.namespace, request.service)
        return await self._router.call(
            self._shard_of(gate_id),
            OpenCircuit(
                stream_id=gate_id,
                namespace=request.namespace,
                service=request.service,
                open_ms=max(1, round(request.open_seconds * 1_000)),
                reason=request.reason,
                by=request.opened_by,
            ),
        )

    async def close_circuit(self, request: api.CloseCircuit) -> bytes:
        """Let the steps that need a service go on."""
        _check_circuit(request, "closed_by")
        gate_id = circuit_id(request.namespace, request.service)
        return await self._router.call(
            self._shard_of(gate_id),
            CloseCircuit(stream_id=gate_id, reason=request.reason, by=request.closed_by),
        )

    def _shard_of(self, gate_id: str) -> int:
        return shard_of(gate_id, self._shard_count)


def _check_circuit(request: api.OpenCircuit | api.CloseCircuit, by: str) -> None:
    check_text(request, "namespace", "service", "reason", by)
    if not request.namespace or not request.service:
        raise ApiError("BAD_REQUEST", "namespace and service: both name the circuit, and are not empty")
