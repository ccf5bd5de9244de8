"""What tasks and gates tell each other, from the CMD stream to their actors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from stepweave.messaging import JetStreamPublisher
from stepweave.messaging import Outgoing as Message
from stepweave_orchestrator.core.commands import AdmitStep, Command, StreamCommand
from stepweave_orchestrator.core.gates import circuit, rate, slots
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas import subjects
from stepweave_schemas.codec import encode
from stepweave_schemas.gate import (
    Admit,
    AnyGateOrder,
    GateKind,
    JoinCircuit,
    JoinRate,
    JoinSlots,
    LeaveGate,
    ReportFailure,
)
from stepweave_schemas.mint import entropy

from .actors import Actor, StreamActor
from .gate_kinds import CIRCUIT, RATE, SLOTS
from .stream_kind import ShardOf, StreamKind
from .work import Done, Ending, Performing, Query, Work

log = structlog.get_logger(__name__)

#: When somebody asks again before whom too many wait: at first, and at most, since it doubles each time.
FULL_SECONDS: Final = 5.0
FULL_SECONDS_MAX: Final = 60.0

#: Why a task does not take what a gate has for it: it waits no longer.
_GONE: Final = frozenset({"STALE", "NOT_FOUND"})


class GateFull(Exception):
    """Too many wait before a gate; the order is to come again."""


class NotCarriedOut(Exception):
    """A fault of ours kept an order from its actor; it is to come again, since somebody waits for what it says."""


def told(order: AnyGateOrder) -> tuple[Command | StreamCommand, str, StreamKind | None]:
    """The command that an order comes to, what it is caused by, and what the actor is made of where it is new."""
    command: Command | StreamCommand
    seed: StreamKind | None = None
    if isinstance(order, Admit):
        command, by = AdmitStep(order.step_name, order.token, order.is_probe), order.gate_id
    elif isinstance(order, LeaveGate):
        by = order.token
        if order.gate == "concurrency":
            command = slots.Leave(order.token)
        elif order.gate == "circuit":
            command = circuit.Leave(order.token, order.outcome)
        else:
            command = rate.Leave(order.token)
    else:
        by = order.asker
        if isinstance(order, JoinSlots):
            command, seed = slots.Join(order), SLOTS
        elif isinstance(order, JoinRate):
            command, seed = rate.Join(order), RATE
        elif isinstance(order, JoinCircuit):
            command, seed = circuit.Join(order), CIRCUIT
        else:
            command, seed = circuit.Report(order), CIRCUIT
    return command, f"{type(command).__name__.lower()}:{by}", seed


def full_pause_seconds(delivered_count: int) -> float:
    """After how long a question comes again that finds a full gate for this many times."""
    return float(min(FULL_SECONDS * (1 << min(delivered_count - 1, 10)), FULL_SECONDS_MAX))


class GateOrders:
    """Carries out the orders between tasks and gates, for all shards of the process."""

    def __init__(self, messages: JetStreamPublisher, perform: Performing, shard_of: ShardOf) -> None:
        self._messages = messages
        self._perform = perform
        self._shard_of = shard_of

        #: Called for a circuit of ours about which somebody seems to be wrong; set by the orchestrator.
        self.on_circuit_mistaken: Callable[[StreamActor], None] = _nobody

    async def carry_out(self, shard: int, order: AnyGateOrder) -> None:
        """Tell the actor; raises what `perform` raises, `GateFull` and `NotCarriedOut`."""
        if isinstance(order, Admit):
            await self._admit(shard, order)
        elif isinstance(order, LeaveGate):
            # A gate that does not know of it has nothing to free.
            await self._tell(shard, order)
        elif isinstance(order, ReportFailure):
            await self._report(shard, order)
        else:
            await self._join(shard, order)

    async def _report(self, shard: int, order: ReportFailure) -> None:
        ending = await self._tell(shard, order)
        if isinstance(ending, Done) and not ending.changed:
            await self._correct(shard, order.task_id, while_closed=False)

    async def _correct(self, shard: int, stream_id: str, *, while_closed: bool) -> None:
        """Tell all again where a circuit stands, where who asked seems not to know: notices can get lost.

        Whoever waits for a circuit that is closed takes it for open; a failure at one that is not may be that of a
        try which began too late.
        """
        actor = await self._look(shard, stream_id)
        state = actor.state if isinstance(actor, StreamActor) else None
        if isinstance(state, circuit.CircuitState) and (state.status == "closed") is while_closed:
            assert isinstance(actor, StreamActor)
            self.on_circuit_mistaken(actor)

    async def _join(self, shard: int, order: JoinSlots | JoinCircuit | JoinRate) -> None:
        ending = await self._tell(shard, order)
        if isinstance(ending, Rejection):
            raise GateFull(ending.reason)
        if isinstance(ending, Done) and not ending.changed:
            await self._say_again(shard, order)
        if isinstance(order, JoinCircuit):
            await self._correct(shard, order.task_id, while_closed=True)

    async def _say_again(self, shard: int, order: JoinSlots | JoinCircuit | JoinRate) -> None:
        """The gate knows the asker: it may have been let through without hearing of it."""
        actor = await self._look(shard, order.task_id)
        state = actor.state if isinstance(actor, StreamActor) else None
        gate: GateKind
        if isinstance(state, slots.SlotsState) and order.token in state.holders:
            gate = "concurrency"
        elif isinstance(state, circuit.CircuitState) and order.token in state.probes:
            gate = "circuit"
        elif isinstance(state, rate.RateState) and order.token in state.recent:
            gate = "rate"
        else:
            return
        said = Admit(
            task_id=order.asker,
            gate=gate,
            gate_id=order.task_id,
            step_name=order.step_name,
            token=order.token,
            is_probe=gate == "circuit",
        )
        await self._send(said.task_id, f"b{said.token}", encode(said))

    async def _look(self, shard: int, stream_id: str) -> Actor | None:
        """The actor, once what was decided for it before is committed."""
        seen: list[Actor] = []

        def look(actor: Actor) -> bytes:
            # Asked again where what it rested on was not committed after all.
            seen[:] = [actor]
            return b""

        await self._perform(
            Work(
                stream_id=stream_id,
                shard=shard,
                command=Query(look),
                causation_id="",
                actor_name="",
                finish=lambda _: None,
            )
        )
        return seen[0] if seen else None

    async def _admit(self, shard: int, order: Admit) -> None:
        ending = await self._tell(shard, order)
        if isinstance(ending, Rejection) and ending.code not in _GONE:
            raise NotCarriedOut(ending.reason)
        if isinstance(ending, Rejection):
            # Whoever waited is gone, and says so in case that was lost: nothing is held for the dead. Under an id of
            # its own: the stream drops what repeats an id, and this one may come after the try's own return.
            leave = LeaveGate(task_id=order.gate_id, gate=order.gate, token=order.token)
            await self._send(order.gate_id, f"n{order.token}{entropy()}", encode(leave))

    async def _tell(self, shard: int, order: AnyGateOrder) -> Ending:
        command, causation_id, seed = told(order)
        ending = await self._perform(
            Work(
                stream_id=order.task_id,
                shard=shard,
                command=command,
                causation_id=causation_id,
                actor_name="gate",
                finish=lambda _: None,
                seed=seed,
            )
        )
        if isinstance(ending, Exception):
            raise NotCarriedOut(str(ending))
        return ending

    async def _send(self, stream_id: str, message_id: str, payload: bytes) -> None:
        await self._messages.room()
        subject = subjects.command(self._shard_of(stream_id), stream_id)
        await self._messages.publish_all([Message(subject, payload, message_id)])


def _nobody(_actor: StreamActor) -> None:
    """Stands in until the orchestrator says who wants to hear."""
