"""Orders between tasks and gates that one process owns: carried out here, without the way through JetStream.

What a task and a gate tell each other is a durable command on the CMD stream. Where the process that sends it owns
the shard that it is for, it hands it to that shard's owner at once, which is itself. The order counts as sent when it is
carried out, which is when its events are committed; until then a new owner of the sending shard sends it again.
What cannot be carried out here, or not now, takes the way of all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from .gate_orders import GateOrders
from .orders import Order

log = structlog.get_logger(__name__)

#: How long an order may take here before JetStream has it.
HERE_SECONDS_MAX: Final = 5.0
#: More than so many at a time take the way through JetStream, which has the room.
HERE_MAX: Final = 2_000


class LocalOrders:
    """Carries out the orders to gates and from them whose shard `owns` says is ours."""

    def __init__(self, gates: GateOrders, owns: Callable[[int], bool]) -> None:
        self._gates = gates
        self._owns = owns
        self._under_way_count = 0

    def takes(self, order: Order) -> bool:
        """Whether it may be tried here."""
        return order.gate is not None and self._owns(order.shard) and self._under_way_count < HERE_MAX

    async def carry_out(self, orders: Sequence[Order]) -> list[Order]:
        """Carry the orders out, all at once; returns those that have to take the other way."""
        self._under_way_count += len(orders)
        try:
            endings = await asyncio.gather(*(self._carry_out(order) for order in orders))
        finally:
            self._under_way_count -= len(orders)
        return [order for order, is_done in zip(orders, endings, strict=True) if not is_done]

    async def _carry_out(self, order: Order) -> bool:
        assert order.gate is not None
        try:
            async with asyncio.timeout(HERE_SECONDS_MAX):
                await self._gates.carry_out(order.shard, order.gate)
        except Exception as error:
            # JetStream brings it to its owner, again and again where that has to be.
            log.info("an order takes the way through JetStream", subject=order.subject, why=repr(error))
            return False
        return True
