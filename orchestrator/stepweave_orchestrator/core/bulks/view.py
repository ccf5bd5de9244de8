"""A bulk operation as callers see it, from its state."""

from __future__ import annotations

from stepweave_schemas.api import BulkListItem, BulkRefusal, BulkResponse
from stepweave_schemas.envelope import timestamp

from .state import BulkState


def bulk_response(state: BulkState) -> BulkResponse:
    """The whole operation."""
    return BulkResponse(
        bulk_id=state.bulk_id,
        stream_id=state.stream_id,
        action=state.action,  # type: ignore[arg-type]
        filter=state.filter,
        rate_per_second=state.rate_per_second,
        tasks_max=state.tasks_max,
        reason=state.reason,
        requested_by=state.requested_by,
        status=state.status,
        selected_count=state.selected_count,
        pending_count=len(state.pending),
        applied_count=state.applied_count,
        refused_count=state.refused_count,
        refused=tuple(
            BulkRefusal(task_uuid=one.task_id, code=one.code, reason=one.reason) for one in state.refused
        ),
        limit_reached=state.limit_reached,
        created_at=timestamp(state.created_at_ms),
        updated_at=timestamp(state.updated_at_ms),
        cancelled_by=state.cancelled_by,
        cancel_reason=state.cancel_reason,
    )


def bulk_list_item(state: BulkState) -> BulkListItem:
    """What a list shows."""
    return BulkListItem(
        bulk_id=state.bulk_id,
        action=state.action,  # type: ignore[arg-type]
        status=state.status,
        selected_count=state.selected_count,
        applied_count=state.applied_count,
        refused_count=state.refused_count,
        requested_by=state.requested_by,
        reason=state.reason,
        created_at=timestamp(state.created_at_ms),
    )
