"""The client's methods for schedules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from stepweave_schemas import api
from stepweave_schemas.envelope import Envelope, decode_envelope
from stepweave_schemas.mint import uuid7
from stepweave_schemas.schedule import ClosedSpec, ClosedTiming

from .api_errors import BadRequest
from .calls import Calls
from .encoding import NotJson, encode_json
from .task_requests import moment_text

S = TypeVar("S", bound=msgspec.Struct)


class ScheduleCalls(Calls):
    """Part of `Client`."""

    async def create_schedule(
        self,
        name: str,
        spec: Mapping[str, Any] | ClosedSpec,
        *,
        namespace: str = "default",
        replace: bool = False,
        created_by: str = "",
        timeout_seconds: float | None = None,
    ) -> api.ScheduleReply:
        """Create a schedule; when this returns it fires by itself.

        `spec` says when (`cron`, `every_seconds` or `at`, with `time_zone`, `starts_at`, `ends_at`, `jitter_seconds`),
        what (`task`: `namespace`, `name`, `version`, `context`, `tags`, `priority`) and how (`overlap`,
        `catch_up_seconds`); see `ScheduleSpec`. The same again is a no-op; other settings need `replace`, or raise
        `Conflict`. Raises `ValidationFailed` with everything that is wrong, `NotFound` (no such template).
        """
        request = api.CreateSchedule(
            name=name,
            namespace=namespace,
            spec=_closed(spec, ClosedSpec, "spec"),
            replace=replace,
            created_by=created_by,
        )
        return await self._call("schedule.create", request, api.ScheduleReply, timeout_seconds)

    async def get_schedule(
        self, name: str, *, namespace: str = "default", timeout_seconds: float | None = None
    ) -> api.ScheduleResponse:
        """A schedule with its next ten firings and its last runs; raises `NotFound`."""
        request = api.GetSchedule(name=name, namespace=namespace)
        return await self._call("schedule.get", request, api.ScheduleResponse, timeout_seconds)

    async def get_schedule_events(
        self,
        name: str,
        *,
        namespace: str = "default",
        before_version: int | None = None,
        limit: int = 50,
        timeout_seconds: float | None = None,
    ) -> list[Envelope]:
        """The last `limit` events of a schedule's history, in order; of a deleted one too. Raises `NotFound`.

        With `before_version` those before that one; the first of all has version 1. At most 1,000, and fewer where
        they would not fit into one message.
        """
        request = api.GetScheduleEvents(
            name=name, namespace=namespace, before_version=before_version, limit=limit
        )
        page = await self._call("schedule.events", request, api.ScheduleEventsReply, timeout_seconds)
        return [decode_envelope(bytes(raw)) for raw in page.events]

    async def list_schedules(
        self,
        *,
        namespace: str | None = None,
        status: str | Iterable[str] = (),
        limit: int = 50,
        offset: int = 0,
        timeout_seconds: float | None = None,
    ) -> api.SchedulePage:
        """One page of schedules, by namespace and name; a moment behind the schedules' own state."""
        statuses = (status,) if isinstance(status, str) else tuple(status)
        request = api.ListSchedules(namespace=namespace, status=statuses, limit=limit, offset=offset)
        return await self._call("schedule.list", request, api.SchedulePage, timeout_seconds)

    async def pause_schedule(
        self,
        name: str,
        *,
        namespace: str = "default",
        note: str = "",
        paused_by: str = "",
        timeout_seconds: float | None = None,
    ) -> api.ScheduleResponse:
        """Let a schedule fire no more until it is resumed; its tasks go on."""
        request = api.PauseSchedule(name=name, namespace=namespace, note=note, paused_by=paused_by)
        return await self._call("schedule.pause", request, api.ScheduleResponse, timeout_seconds)

    async def resume_schedule(
        self,
        name: str,
        *,
        namespace: str = "default",
        note: str = "",
        resumed_by: str = "",
        timeout_seconds: float | None = None,
    ) -> api.ScheduleResponse:
        """Let a paused schedule fire again from now on; what fell into the pause is skipped."""
        request = api.ResumeSchedule(name=name, namespace=namespace, note=note, resumed_by=resumed_by)
        return await self._call("schedule.resume", request, api.ScheduleResponse, timeout_seconds)

    async def trigger_schedule(
        self,
        name: str,
        *,
        namespace: str = "default",
        allow_overlap: bool = False,
        trigger_id: str | None = None,
        triggered_by: str = "",
        timeout_seconds: float | None = None,
    ) -> api.TriggerReply:
        """Fire once now; when this returns the task can be looked at, or `run` says that it waits, or why it failed.

        Raises `Conflict` where a task runs and the overlap policy does not let another one begin.
        """
        request = api.TriggerSchedule(
            name=name,
            namespace=namespace,
            allow_overlap=allow_overlap,
            trigger_id=uuid7() if trigger_id is None else trigger_id,
            triggered_by=triggered_by,
        )
        return await self._call("schedule.trigger", request, api.TriggerReply, timeout_seconds)

    async def backfill_schedule(
        self,
        name: str,
        from_at: datetime | str,
        until_at: datetime | str | None = None,
        *,
        namespace: str = "default",
        concurrency: int = 1,
        dry_run: bool = False,
        backfill_id: str | None = None,
        requested_by: str = "",
        timeout_seconds: float | None = None,
    ) -> api.BackfillReply:
        """Make up for the firings from `from_at` on and before `until_at` (default: now), in order.

        At most `concurrency` tasks of it run at once. A moment that has fired already is not fired again. With
        `dry_run` nothing happens and the answer says how many there are. Times need a zone.
        """
        request = api.BackfillSchedule(
            name=name,
            namespace=namespace,
            from_at=moment_text(from_at, "from_at") or "",
            until_at=moment_text(until_at, "until_at"),
            concurrency=concurrency,
            dry_run=dry_run,
            backfill_id=uuid7() if backfill_id is None else backfill_id,
            requested_by=requested_by,
        )
        return await self._call("schedule.backfill", request, api.BackfillReply, timeout_seconds)

    async def delete_schedule(
        self,
        name: str,
        *,
        namespace: str = "default",
        reason: str = "",
        deleted_by: str = "",
        timeout_seconds: float | None = None,
    ) -> api.DeletedReply:
        """Delete a schedule; the tasks that it started go on. Raises `NotFound`."""
        request = api.DeleteSchedule(name=name, namespace=namespace, reason=reason, deleted_by=deleted_by)
        return await self._call("schedule.delete", request, api.DeletedReply, timeout_seconds)

    async def preview_schedule(
        self,
        timing: Mapping[str, Any] | ClosedTiming,
        *,
        count: int = 10,
        after: datetime | str | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[api.FiringTime, ...]:
        """When a timing would fire, without a schedule; raises `ValidationFailed` with everything that is wrong."""
        request = api.PreviewSchedule(
            timing=_closed(timing, ClosedTiming, "timing"), count=count, after=moment_text(after, "after")
        )
        reply = await self._call("schedule.preview", request, api.PreviewReply, timeout_seconds)
        return reply.firings


def _closed(given: Mapping[str, Any] | S, shape: type[S], what: str) -> S:
    """The part of a request that a caller gives as a mapping; raises `BadRequest`."""
    if isinstance(given, shape):
        return given
    try:
        return msgspec.json.decode(encode_json(given, what), type=shape)
    except (NotJson, msgspec.ValidationError) as error:
        raise BadRequest("BAD_REQUEST", f"{what}: {error}") from error
