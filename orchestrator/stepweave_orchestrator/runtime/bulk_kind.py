"""Bulk operations as a kind of system stream."""

from __future__ import annotations

from typing import Final

import msgspec

from stepweave_eventstore.store import StreamRow
from stepweave_orchestrator.core.bulks.decide import decide
from stepweave_orchestrator.core.bulks.evolve import evolve
from stepweave_orchestrator.core.bulks.state import SNAPSHOT_FORMAT, BulkState, initial, never
from stepweave_orchestrator.core.bulks.view import bulk_list_item
from stepweave_schemas import events
from stepweave_schemas.bulk_orders import RunBulk
from stepweave_schemas.codec import encode

from .actors import SYSTEM_NAMESPACE
from .orders import Order, task_order
from .stream_kind import ShardOf, StreamKind

_ORDERING: Final[frozenset[type[events.Event]]] = frozenset(
    {events.BulkRequested, events.BulkSelected, events.BulkProgressed}
)


def _next(state: BulkState, shard_of: ShardOf) -> Order:
    """The order to go on from how it stands now."""
    order = RunBulk(task_id=state.stream_id, stage=state.stage)
    return task_order(order, f"b{state.stream_id}.{state.stage}", shard_of)


def _order_of(state: BulkState, event: events.Event, shard_of: ShardOf) -> Order | None:
    return _next(state, shard_of) if state.is_open and type(event) in _ORDERING else None


def _open_orders(state: BulkState, shard_of: ShardOf) -> list[Order]:
    return [_next(state, shard_of)] if state.is_open else []


def _row(state: BulkState, stream_id: str, shard: int) -> StreamRow:
    return StreamRow(
        stream_id=stream_id,
        shard=shard,
        version=state.version,
        kind=BULK.name,
        namespace=state.filter.namespace or "",
        name=state.action,
        status=state.status,
        is_open=state.is_open,
        updated_at_ms=state.updated_at_ms,
        summary=msgspec.Raw(encode(bulk_list_item(state))),
    )


BULK: Final = StreamKind(
    name="bulk",
    first_event=events.BulkRequested,
    state_type=BulkState,
    snapshot_format=SNAPSHOT_FORMAT,
    initial=initial,
    decide=decide,
    evolve=evolve,
    next_wake_ms=never,
    ordering=_ORDERING,
    order_of=_order_of,
    open_orders=_open_orders,
    row=_row,
    address=lambda state: (state.filter.namespace or SYSTEM_NAMESPACE, state.action),
)
