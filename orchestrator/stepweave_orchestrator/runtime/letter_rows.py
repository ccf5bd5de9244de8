"""A task's dead letters: as rows of the projection, and as callers see them."""

from __future__ import annotations

import msgspec

from stepweave_eventstore.store import PRIORITY_POINT_MS, DeadLetterRow
from stepweave_orchestrator.core import TaskState
from stepweave_orchestrator.core.dead_letters import letter_uuid
from stepweave_schemas.api import DeadLetterEntry
from stepweave_schemas.codec import encode
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.raw import raw


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a row holds besides its columns."""

    template_version: str
    correlation_id: str
    original_state: str
    opened_version: int
    updated_at_ms: int
    error_message: str
    error_code: str | None
    steps: tuple[str, ...]
    missing_handlers: tuple[str, ...]
    threshold: str
    since_ms: int
    limit_ms: int
    resolution_notes: str
    resolved_by: str
    metadata: msgspec.Raw


_decode_summary = msgspec.json.Decoder(Summary).decode
#: Texts of workers in rows: a beginning is enough to recognise them, the task has the whole.
ERROR_CHARS_MAX = 2_000


def letter_rows(state: TaskState, shard: int) -> list[DeadLetterRow]:
    """The rows of a task's dead letters, oldest first."""
    if state.watch is None:
        return []
    ref = state.the_plan.ref
    return [
        DeadLetterRow(
            letter_id=letter_uuid(state.task_id, letter.number),
            task_id=state.task_id,
            shard=shard,
            version=state.version,
            number=letter.number,
            is_listed=letter.listed,
            is_open=letter.is_open,
            namespace=ref.namespace,
            name=ref.name,
            reason=letter.reason,
            resolution_status=letter.resolution_status,
            priority=state.priority,
            opened_at_ms=letter.opened_at_ms,
            resolved_at_ms=letter.resolved_at_ms,
            summary=msgspec.Raw(
                encode(
                    Summary(
                        template_version=ref.version,
                        correlation_id=state.correlation_id,
                        original_state=letter.original_state,
                        opened_version=letter.opened_version,
                        updated_at_ms=letter.updated_at_ms,
                        error_message=letter.error_message[:ERROR_CHARS_MAX],
                        error_code=letter.error_code,
                        steps=letter.steps[:STEPS_MAX],
                        missing_handlers=letter.missing_handlers,
                        threshold=letter.threshold,
                        since_ms=letter.since_ms,
                        limit_ms=letter.limit_ms,
                        resolution_notes=letter.resolution_notes,
                        resolved_by=letter.resolved_by,
                        metadata=raw(letter.metadata),
                    )
                )
            ),
        )
        for letter in state.watch.letters
    ]


#: Of many failed steps the first ones are named.
STEPS_MAX = 20


def entry_of(row: DeadLetterRow, now_ms: int) -> DeadLetterEntry:
    """A row as callers see it at this moment."""
    summary = _decode_summary(row.summary)
    age_ms = max(0, (now_ms if row.resolved_at_ms is None else row.resolved_at_ms) - row.opened_at_ms)
    stale = bool(summary.threshold)
    return DeadLetterEntry(
        dlq_entry_uuid=row.letter_id,
        task_uuid=row.task_id,
        namespace=row.namespace,
        name=row.name,
        version=summary.template_version,
        priority=row.priority,
        correlation_id=summary.correlation_id,
        dlq_reason=row.reason,
        original_state=summary.original_state,
        stream_version=summary.opened_version,
        dlq_timestamp=timestamp(row.opened_at_ms),
        age_seconds=age_ms / 1000,
        priority_score=round((age_ms + row.priority * PRIORITY_POINT_MS) / 3_600_000, 3),
        is_open=row.is_open,
        is_listed=row.is_listed,
        error_message=summary.error_message,
        error_code=summary.error_code,
        steps=summary.steps,
        missing_handlers=summary.missing_handlers,
        threshold=summary.threshold or None,
        since=timestamp(summary.since_ms) if stale else None,
        limit_seconds=summary.limit_ms / 1000 if stale else None,
        resolution_status=row.resolution_status,
        resolution_notes=summary.resolution_notes,
        resolved_by=summary.resolved_by,
        resolved_at=None if row.resolved_at_ms is None else timestamp(row.resolved_at_ms),
        updated_at=timestamp(summary.updated_at_ms),
        metadata=summary.metadata,
    )
