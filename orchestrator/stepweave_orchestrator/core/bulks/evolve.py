"""How events change what is known about a bulk operation."""

from __future__ import annotations

from stepweave_schemas import events

from .state import REFUSED_SHOWN_MAX, BulkState


def evolve(state: BulkState, event: events.Event, at_ms: int) -> BulkState:
    """Apply one event, recorded at `at_ms`, in place."""
    match event:
        case events.BulkRequested():
            state.bulk_id = event.bulk_id
            state.action = event.action
            state.filter = event.filter
            state.rate_per_second = event.rate_per_second
            state.tasks_max = event.tasks_max
            state.reason = event.reason
            state.requested_by = event.requested_by
            state.created_at_ms = at_ms
        case events.BulkSelected():
            state.chunk_number = event.number
            state.pending = event.task_ids
            state.selected_count += len(event.task_ids)
            state.cursor_created_ms = event.cursor_created_ms
            state.cursor_task_id = event.cursor_task_id
        case events.BulkProgressed():
            state.pending = ()
            state.applied_count += event.applied_count
            state.refused_count += len(event.refused)
            state.refused = [*state.refused, *event.refused][:REFUSED_SHOWN_MAX]
        case events.BulkCompleted():
            state.status = "complete"
            state.limit_reached = event.limit_reached
        case events.BulkCancelled():
            state.status = "cancelled"
            state.cancelled_by = event.cancelled_by
            state.cancel_reason = event.reason
        case _:
            raise TypeError(f"{event.TYPE} is no event of a bulk operation")
    state.version += 1
    state.updated_at_ms = at_ms
    return state
