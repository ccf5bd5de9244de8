"""Schedules as a kind of system stream."""

from __future__ import annotations

from typing import Final

import msgspec

from stepweave_eventstore.store import StreamRow
from stepweave_orchestrator.core.schedules.decide import decide
from stepweave_orchestrator.core.schedules.evolve import evolve
from stepweave_orchestrator.core.schedules.orders import ORDERING, cancel_order, start_order
from stepweave_orchestrator.core.schedules.state import SNAPSHOT_FORMAT, Firing, ScheduleState, initial
from stepweave_orchestrator.core.schedules.view import schedule_list_item
from stepweave_schemas import events
from stepweave_schemas.codec import encode

from .orders import Order, task_order
from .stream_kind import ShardOf, StreamKind


def _start_id(firing: Firing) -> str:
    """JetStream drops what it knows by this id."""
    return f"s{firing.task_id}.{firing.number}"


def _order_of(state: ScheduleState, event: events.Event, shard_of: ShardOf) -> Order | None:
    if isinstance(event, events.ScheduleFired):
        firing = state.running.get(event.task_id)
        return None if firing is None else task_order(start_order(state, firing), _start_id(firing), shard_of)
    if isinstance(event, events.ScheduleTaskCancelRequested) and event.task_id in state.running:
        return task_order(cancel_order(state, event.task_id, event.reason), f"y{event.task_id}", shard_of)
    return None


def _open_orders(state: ScheduleState, shard_of: ShardOf) -> list[Order]:
    """A task that has begun answers its start again, so one that has ended unheard is heard of now."""
    orders = [
        task_order(start_order(state, firing), _start_id(firing), shard_of)
        for firing in state.running.values()
    ]
    reason = "the next firing takes its place"
    return orders + [
        task_order(cancel_order(state, task_id, reason), f"y{task_id}", shard_of)
        for task_id in state.cancelled
    ]


def _row(state: ScheduleState, stream_id: str, shard: int) -> StreamRow:
    return StreamRow(
        stream_id=stream_id,
        shard=shard,
        version=state.version,
        kind=SCHEDULE.name,
        namespace=state.namespace,
        name=state.name,
        status=state.status,
        is_open=bool(state.running),
        updated_at_ms=state.updated_at_ms,
        summary=msgspec.Raw(encode(schedule_list_item(state))),
    )


SCHEDULE: Final = StreamKind(
    name="schedule",
    first_event=events.ScheduleCreated,
    state_type=ScheduleState,
    snapshot_format=SNAPSHOT_FORMAT,
    initial=initial,
    decide=decide,
    evolve=evolve,
    next_wake_ms=ScheduleState.next_wake_ms,
    ordering=ORDERING,
    order_of=_order_of,
    open_orders=_open_orders,
    row=_row,
    address=lambda state: (state.namespace, state.name),
)
