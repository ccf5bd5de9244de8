"""What follows from what a bulk operation is asked and told."""

from __future__ import annotations

from typing import Any

from stepweave_orchestrator.core.commands import Moment, Wake
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas import events

from .commands import CancelBulk, RecordChunk, RequestBulk, SelectTasks
from .state import BulkState


def decide(state: BulkState, command: Any, moment: Moment) -> list[events.Event] | Rejection:
    """The events that follow, in order; an empty list: it was so before. `moment` does not matter."""
    if isinstance(command, RequestBulk):
        return _request(state, command)
    if state.version == 0:
        return Rejection("NOT_FOUND", "there is no such bulk operation")
    match command:
        case SelectTasks():
            return _select(state, command)
        case RecordChunk():
            return _record(state, command)
        case CancelBulk():
            if state.status == "complete":
                return Rejection("CONFLICT", "it is complete already")
            if state.status == "cancelled":
                return []
            return [events.BulkCancelled(reason=command.reason, cancelled_by=command.by)]
        case Wake():
            return []
    return Rejection("CONFLICT", "a bulk operation does not know what that is")


def _request(state: BulkState, command: RequestBulk) -> list[events.Event] | Rejection:
    if state.version:
        wanted = (command.action, command.filter, command.rate_per_second, command.tasks_max)
        known = (state.action, state.filter, state.rate_per_second, state.tasks_max)
        if wanted != known:
            return Rejection(
                "CONFLICT", "there is a bulk operation of this id already, and it is another one"
            )
        return []
    return [
        events.BulkRequested(
            bulk_id=command.bulk_id,
            action=command.action,
            filter=command.filter,
            rate_per_second=command.rate_per_second,
            tasks_max=command.tasks_max,
            reason=command.reason,
            requested_by=command.by,
        )
    ]


def _select(state: BulkState, command: SelectTasks) -> list[events.Event] | Rejection:
    if state.status != "running" or state.pending or command.number != state.chunk_number + 1:
        return []
    if not command.task_ids:
        return [_completed(state)]
    if len(command.task_ids) > state.chunk_tasks_max:
        return Rejection("CONFLICT", "more tasks than a chunk takes")
    return [
        events.BulkSelected(
            number=command.number,
            task_ids=command.task_ids,
            cursor_created_ms=command.cursor_created_ms,
            cursor_task_id=command.cursor_task_id,
        )
    ]


def _record(state: BulkState, command: RecordChunk) -> list[events.Event] | Rejection:
    if not state.pending or command.number != state.chunk_number:
        return []
    if command.applied_count + len(command.refused) != len(state.pending):
        return Rejection("CONFLICT", "not every task of the chunk has answered")
    happened: list[events.Event] = [
        events.BulkProgressed(
            number=command.number, applied_count=command.applied_count, refused=command.refused
        )
    ]
    if state.status == "running" and not state.chunk_tasks_max:
        happened.append(_completed(state, command.applied_count, len(command.refused)))
    return happened


def _completed(state: BulkState, applied: int = 0, refused: int = 0) -> events.BulkCompleted:
    return events.BulkCompleted(
        applied_count=state.applied_count + applied,
        refused_count=state.refused_count + refused,
        limit_reached=not state.chunk_tasks_max,
    )
