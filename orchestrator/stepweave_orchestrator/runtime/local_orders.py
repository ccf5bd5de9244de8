"""Orders between tasks and gates that one process owns: carried out here, without the way through JetStream.

What a task and a gate tell each other is a durable command on the CMD stream. Where the process that sends it owns
the shard that it is for, it hands it to that shard's owner at once, which is itself. The order counts as sent when it is
carried out, which is when its events are committed; until then a new owner of the sending shard sends it again.
What cannot be carried out here, or not now, or needs more than one command, takes the way of all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from stepweave_schemas.gate import Admit, JoinRate, JoinSlots, LeaveGate

from .gate_orders import told
from .orders import Order
from .work import Done, Work

#: How long orders may take here before JetStream has them.
HERE_SECONDS_MAX: Final = 5.0
#: More than so many at a time take the way through JetStream, which has the room.
HERE_MAX: Final = 10_000
#: Those that are carried out with one command, unless that is refused.
_SIMPLE: Final = frozenset({JoinSlots, JoinRate, LeaveGate, Admit})


class LocalOrders:
    """Hands orders to gates and from them to the owner loop of this process: `submit`, where `owns` their shard."""

    def __init__(self, submit: Callable[[Work], None], owns: Callable[[int], bool]) -> None:
        self._submit = submit
        self._owns = owns
        self._under_way_count = 0

    def takes(self, order: Order) -> bool:
        """Whether it may be tried here."""
        return type(order.gate) in _SIMPLE and self._owns(order.shard) and self._under_way_count < HERE_MAX

    def carry_out(self, orders: Sequence[Order], finish: Callable[[list[Order]], None]) -> None:
        """Carry the orders out; `finish` is called once, with those that have to take the other way."""
        self._under_way_count += len(orders)
        together = _Together(orders, finish, self._ended)
        for place, order in enumerate(orders):
            assert order.gate is not None
            command, by, seed = told(order.gate)
            self._submit(
                Work(
                    stream_id=order.gate.task_id,
                    shard=order.shard,
                    command=command,
                    causation_id=by,
                    actor_name="gate",
                    finish=together.finish_of(place),
                    seed=seed,
                )
            )

    def _ended(self, count: int) -> None:
        self._under_way_count -= count


class _Together:
    """Orders that were handed over together."""

    __slots__ = ("_count", "_finish", "_left", "_on_end", "_timer", "_under_way")

    def __init__(
        self, orders: Sequence[Order], finish: Callable[[list[Order]], None], on_end: Callable[[int], None]
    ) -> None:
        self._count = len(orders)
        #: By their place among all.
        self._under_way = dict(enumerate(orders))
        #: Those that were not carried out.
        self._left: list[Order] = []
        self._finish = finish
        self._on_end = on_end
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(HERE_SECONDS_MAX, self._end)

    def finish_of(self, place: int) -> Callable[[Any], None]:
        """What is called when the order in this place has ended."""

        def finish(ending: Any) -> None:
            if self._timer is None:
                # Too late: it has gone the other way, and whoever is told twice knows it.
                return
            order = self._under_way.pop(place)
            if not isinstance(ending, Done) or not (ending.changed or isinstance(order.gate, LeaveGate)):
                self._left.append(order)
            if not self._under_way:
                self._end()

        return finish

    def _end(self) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._on_end(self._count)
        self._finish([*self._left, *self._under_way.values()])
