"""Streams of the system's own that are actors: how those of each kind decide, change, wake and order.

Such an actor lives like a task's: one stream, one shard, one owner, pure `decide` and `evolve`. A kind says what
else the owner loop, the loader, a take-over and the projections need of it. A stream that only records (who owned a
shard) is none of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from stepweave_eventstore.store import StreamRow
from stepweave_orchestrator.core import Moment, Rejection
from stepweave_schemas.events import Event

from .orders import Order

#: The shard of a stream, by its id.
ShardOf = Callable[[str], int]


class StreamKind(NamedTuple):
    """One kind of system stream. The functions are pure; `Any` is the kind's own state."""

    #: As the projection names it, such as `schedule`.
    name: str
    #: The type of the first event of every stream of the kind, and of no other stream.
    first_event: type[Event]
    #: The struct of its state, with the `version` of the last event applied (0 before the first); `snapshot_format` goes up whenever its shape changes.
    state_type: type[msgspec.Struct]
    snapshot_format: int
    #: `initial(stream_id)`: the state before the first event.
    initial: Callable[[str], Any]
    #: `decide(state, command, moment)`: the events that follow, in order; an empty list: as it was before.
    decide: Callable[[Any, Any, Moment], list[Any] | Rejection]
    #: `evolve(state, event, recorded_at_ms)` changes the state in place; it raises the version by one.
    evolve: Callable[[Any, Any, int], Any]
    #: When a `Wake` would have an effect, in ms since the Unix epoch.
    next_wake_ms: Callable[[Any], int | None]
    #: The types of the events that order a message.
    ordering: frozenset[type[Event]]
    #: `order_of(state, event, shard_of)`: the message that an event orders, as far as the state after it, or after
    #: any later one, still wants it. Published again after a crash, so whoever gets it recognises it.
    order_of: Callable[[Any, Any, ShardOf], Order | None]
    #: `open_orders(state, shard_of)`: all that JetStream may have lost with its storage.
    open_orders: Callable[[Any, ShardOf], list[Order]]
    #: `row(state, stream_id, shard)`: what lists show.
    row: Callable[[Any, str, int], StreamRow]
    #: `address(state)`: namespace and name under which its events stand on the signal feed.
    address: Callable[[Any], tuple[str, str]]


def encode_state(state: Any) -> bytes:
    """A kind's state for a snapshot."""
    return msgspec.msgpack.encode(state)


def decode_state(kind: StreamKind, payload: bytes) -> Any:
    """The state that `encode_state` wrote; raises `msgspec.DecodeError` where it is none."""
    return msgspec.msgpack.decode(payload, type=kind.state_type)
