"""The client's methods for gates: slots, circuits, rates."""

from __future__ import annotations

from collections.abc import Sequence

from stepweave_schemas import api

from .calls import Calls


class GateCalls(Calls):
    """Part of `Client`."""

    async def list_gates(
        self,
        kind: str,
        *,
        namespace: str | None = None,
        status: Sequence[str] = (),
        page: int = 1,
        per_page: int = 50,
        timeout_seconds: float | None = None,
    ) -> api.GatePage:
        """A page of what many tasks pass: `slots` of concurrency keys, each `circuit`, each namespace's `rate`."""
        request = api.ListGates(
            kind=kind, namespace=namespace, status=tuple(status), page=page, per_page=per_page
        )
        return await self._call("gate.list", request, api.GatePage, timeout_seconds)

    async def get_gate(self, gate_id: str, *, timeout_seconds: float | None = None) -> api.GateReply:
        """Who holds a gate and who waits. Raises `NotFound`."""
        request = api.GetGate(gate_id=gate_id)
        return await self._call("gate.get", request, api.GateReply, timeout_seconds)

    async def open_circuit(
        self,
        service: str,
        *,
        open_seconds: float,
        namespace: str = "default",
        reason: str = "",
        opened_by: str = "",
        timeout_seconds: float | None = None,
    ) -> api.GateReply:
        """Hold the steps that need a service for a while; then a few of them try it out."""
        request = api.OpenCircuit(
            namespace=namespace,
            service=service,
            open_seconds=open_seconds,
            reason=reason,
            opened_by=opened_by,
        )
        return await self._call("circuit.open", request, api.GateReply, timeout_seconds)

    async def close_circuit(
        self,
        service: str,
        *,
        namespace: str = "default",
        reason: str = "",
        closed_by: str = "",
        timeout_seconds: float | None = None,
    ) -> api.GateReply:
        """Let the steps that need a service go on. Raises `NotFound` where nothing of it has failed yet."""
        request = api.CloseCircuit(namespace=namespace, service=service, reason=reason, closed_by=closed_by)
        return await self._call("circuit.close", request, api.GateReply, timeout_seconds)
