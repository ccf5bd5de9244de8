"""The client's methods for dead letters and tasks that stand still."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from stepweave_schemas import api
from stepweave_schemas.raw import NO_RAW

from .calls import Calls
from .encoding import encode_json
from .responses import DeadLettersResponse


class DeadLetterCalls(Calls):
    """Part of `Client`."""

    async def list_dead_letters(
        self,
        *,
        namespace: str | None = None,
        name: str | None = None,
        reason: str | Iterable[str] = (),
        resolution_status: str | Iterable[str] = (),
        is_open: bool | None = None,
        page: int = 1,
        per_page: int = 50,
        timeout_seconds: float | None = None,
    ) -> api.DeadLetterPage:
        """One page of the dead letters that fit, the newest first; a moment behind the tasks' own state."""
        request = api.ListDeadLetters(
            namespace=namespace,
            name=name,
            dlq_reason=(reason,) if isinstance(reason, str) else tuple(reason),
            resolution_status=(
                (resolution_status,) if isinstance(resolution_status, str) else tuple(resolution_status)
            ),
            is_open=is_open,
            page=page,
            per_page=per_page,
        )
        return await self._call("dlq.list", request, api.DeadLetterPage, timeout_seconds)

    async def get_dead_letters(
        self, task_id: str, *, entry_uuid: str | None = None, timeout_seconds: float | None = None
    ) -> DeadLettersResponse:
        """The dead letters of a task, and the task as it was when one of them began (`entry_uuid`; default: the last).

        Raises `NotFound`.
        """
        request = api.GetDeadLetters(task_id=task_id, dlq_entry_uuid=entry_uuid)
        return await self._call("dlq.get", request, DeadLettersResponse, timeout_seconds)

    async def dead_letter_stats(
        self, *, namespace: str | None = None, timeout_seconds: float | None = None
    ) -> api.DeadLetterStats:
        """How many dead letters there are of which kind, and how old they are."""
        request = api.GetDeadLetterStats(namespace=namespace)
        return await self._call("dlq.stats", request, api.DeadLetterStats, timeout_seconds)

    async def investigation_queue(
        self,
        *,
        namespace: str | None = None,
        page: int = 1,
        per_page: int = 50,
        timeout_seconds: float | None = None,
    ) -> api.DeadLetterPage:
        """Open dead letters, the most urgent first: by age, and an hour more for each point of priority."""
        request = api.GetInvestigationQueue(namespace=namespace, page=page, per_page=per_page)
        return await self._call("dlq.investigation_queue", request, api.DeadLetterPage, timeout_seconds)

    async def stale_tasks(
        self,
        *,
        namespace: str | None = None,
        page: int = 1,
        per_page: int = 50,
        timeout_seconds: float | None = None,
    ) -> api.DeadLetterPage:
        """What stands still now, by its template's `lifecycle` or for a handler that nobody serves; the most urgent
        first."""
        request = api.GetStaleness(namespace=namespace, page=page, per_page=per_page)
        return await self._call("dlq.staleness", request, api.DeadLetterPage, timeout_seconds)

    async def update_dead_letter(
        self,
        entry_uuid: str,
        *,
        resolution_status: str | None = None,
        notes: str | None = None,
        resolved_by: str = "",
        metadata: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = None,
    ) -> api.DeadLetterEntry:
        """Say what came of a dead letter; what is not given stays. The task itself goes on, or stays stuck, as it is.

        `resolution_status`: `pending` or `investigating` leave it open, `manually_resolved`, `permanently_failed` or
        `cancelled` close it. Raises `NotFound`, `BadRequest`, `ValidationFailed`, and `Conflict` where it is closed and
        was to be opened again.
        """
        request = api.UpdateDeadLetter(
            dlq_entry_uuid=entry_uuid,
            resolution_status=resolution_status,
            resolution_notes=notes,
            resolved_by=resolved_by,
            metadata=NO_RAW if metadata is None else msgspec.Raw(encode_json(metadata, "metadata")),
        )
        return await self._call("dlq.update", request, api.DeadLetterEntry, timeout_seconds)
