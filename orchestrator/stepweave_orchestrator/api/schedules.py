"""The operations on schedules: check, pass to the owner of the schedule's shard, answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from stepweave_eventstore.store import EventStore, StreamFilter
from stepweave_orchestrator.core.schedules import commands
from stepweave_orchestrator.core.schedules.decide import backfill_refusal
from stepweave_orchestrator.core.schedules.references import NAMES, fill, firing_values, unknown_references
from stepweave_orchestrator.core.schedules.timing import MOMENT_MS_MAX, Timing, TimingError, check_spec
from stepweave_orchestrator.core.schedules.view import firing_times
from stepweave_orchestrator.runtime.owner_requests import Get, OfSchedule
from stepweave_orchestrator.runtime.schedule_requests import Asked, no_schedule
from stepweave_orchestrator.runtime.shard_router import ShardRouter
from stepweave_orchestrator.runtime.templates import TemplateCatalogue
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode
from stepweave_schemas.envelope import parse_timestamp
from stepweave_schemas.identity import schedule_stream_id, shard_of
from stepweave_schemas.mint import now_ms, uuid7
from stepweave_schemas.schedule import ScheduleSpec
from stepweave_schemas.subjects import NAME_BYTES_MAX
from stepweave_schemas.template.value_checks import violations_text

from .creation import PRIORITY_MAX, TAGS_MAX, TEXT_CHARS_MAX, check_context, check_own_id, check_text
from .history import events_before

#: Firings that one preview shows.
PREVIEW_COUNT_MAX: Final = 100
#: Of the firings of a backfill so many are named.
BACKFILL_SHOWN_MAX: Final = 10
_OF_FIELD: Final = re.compile(r"[a-z_]+: ")
#: The answer to a trigger waits for its task for so long, and looks so often.
TASK_BEGINS_SECONDS_MAX: Final = 2.0
_LOOK_SECONDS: Final = 0.02
_STATUSES: Final = ("active", "paused", "finished")
_LIMIT_MAX: Final = 200
_EVENTS_MAX: Final = 1_000
_OFFSET_MAX: Final = 1_000_000


class ScheduleOperations:
    """Every operation `schedule.*`."""

    def __init__(
        self, store: EventStore, shard_count: int, templates: TemplateCatalogue, router: ShardRouter
    ) -> None:
        self._store = store
        self._shard_count = shard_count
        self._templates = templates
        self._router = router

    def handlers(self) -> dict[str, Callable[[Any], Awaitable[bytes]]]:
        """Each operation by its name."""
        return {
            "schedule.create": self.create,
            "schedule.get": self.get,
            "schedule.events": self.events,
            "schedule.list": self.list,
            "schedule.pause": self.pause,
            "schedule.resume": self.resume,
            "schedule.trigger": self.trigger,
            "schedule.backfill": self.backfill,
            "schedule.delete": self.delete,
            "schedule.preview": self.preview,
        }

    async def create(self, request: api.CreateSchedule) -> bytes:
        """Begin a schedule; answers once that is committed."""
        check_text(request, "created_by")
        spec = request.spec
        _check_name("namespace", request.namespace)
        _check_name("name", request.name)
        await self._check_task(request.namespace, request.name, spec, _checked(spec))
        command = commands.CreateSchedule(
            by=request.created_by,
            namespace=request.namespace,
            name=request.name,
            spec=spec,
            replace=request.replace,
        )
        answer = await self._ask(request, command)
        # The first event is the creation, whatever follows from it in the same decision.
        shown = msgspec.json.decode(answer.schedule, type=api.ScheduleResponse)
        created = answer.changed and shown.created_at == shown.updated_at
        return encode(
            api.ScheduleReply(schedule=shown, created=created, updated=answer.changed and not created)
        )

    async def get(self, request: api.GetSchedule) -> bytes:
        """The schedule as its actor knows it."""
        return bytes((await self._ask(request, None)).schedule)

    async def events(self, request: api.GetScheduleEvents) -> bytes:
        """A page of the schedule's history, as stored; from the newest backwards."""
        check_text(request, "namespace", "name")
        if not 1 <= request.limit <= _EVENTS_MAX:
            raise ApiError("BAD_REQUEST", f"limit is 1..{_EVENTS_MAX}")
        if request.before_version is not None and request.before_version < 1:
            raise ApiError("BAD_REQUEST", "before_version counts from 1")
        schedule_id = schedule_stream_id(request.namespace, request.name)
        last = await self._store.last_version(schedule_id)
        if not last:
            raise no_schedule(f"{request.namespace}/{request.name}")
        end = last + 1 if request.before_version is None else min(request.before_version, last + 1)
        found = await events_before(self._store, schedule_id, end, request.limit)
        return encode(api.ScheduleEventsReply(events=found))

    async def list(self, request: api.ListSchedules) -> bytes:
        """A page of schedules."""
        check_text(request, "namespace")
        if not 1 <= request.limit <= _LIMIT_MAX or not 0 <= request.offset <= _OFFSET_MAX:
            raise ApiError("BAD_REQUEST", f"limit is 1..{_LIMIT_MAX}, offset is 0..{_OFFSET_MAX}")
        unknown = [status for status in request.status if status not in _STATUSES]
        if unknown:
            raise ApiError(
                "BAD_REQUEST",
                f"status: no schedule is {unknown[0][:100]!r}; they are {', '.join(_STATUSES)}",
            )
        rows = await self._store.list_streams(
            StreamFilter(
                kind="schedule",
                namespace=request.namespace,
                statuses=request.status or _STATUSES,
                limit=request.limit + 1,
                offset=request.offset,
            )
        )
        more = len(rows) > request.limit
        items = tuple(msgspec.json.decode(row.summary, type=api.ScheduleListItem) for row in rows)
        return encode(
            api.SchedulePage(
                schedules=items[: request.limit],
                next_offset=request.offset + request.limit if more else None,
            )
        )

    async def pause(self, request: api.PauseSchedule) -> bytes:
        """Fire no more until it is resumed."""
        check_text(request, "note", "paused_by")
        command = commands.PauseSchedule(by=request.paused_by, note=request.note)
        return bytes((await self._ask(request, command)).schedule)

    async def resume(self, request: api.ResumeSchedule) -> bytes:
        """Fire again."""
        check_text(request, "note", "resumed_by")
        command = commands.ResumeSchedule(by=request.resumed_by, note=request.note)
        return bytes((await self._ask(request, command)).schedule)

    async def trigger(self, request: api.TriggerSchedule) -> bytes:
        """Fire once now."""
        check_text(request, "triggered_by", "trigger_id")
        check_own_id("trigger_id", request.trigger_id)
        trigger_id = request.trigger_id or uuid7()
        command = commands.TriggerSchedule(
            by=request.triggered_by, request_id=trigger_id, allow_overlap=request.allow_overlap
        )
        answer = await self._ask(request, command)
        shown = msgspec.json.decode(answer.schedule, type=api.ScheduleResponse)
        run = _run_of(shown, trigger_id)
        if run is not None and run.status == "running":
            shown = await self._begun(request, run.task_uuid, shown)
            run = _run_of(shown, trigger_id)
        reply = api.TriggerReply(schedule=shown, trigger_id=trigger_id, run=run, replayed=not answer.changed)
        return encode(reply)

    async def _begun(
        self, request: api.TriggerSchedule, task_id: str, shown: api.ScheduleResponse
    ) -> api.ScheduleResponse:
        """The schedule once a firing's task exists or is refused: who asked for it wants to look at it next.

        Where that takes long the answer is given all the same: the firing is committed.
        """
        shard = shard_of(task_id, self._shard_count)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TASK_BEGINS_SECONDS_MAX
        while loop.time() < deadline:
            try:
                await self._router.call(shard, Get(stream_id=task_id))
                return shown
            except ApiError as error:
                if error.code != "NOT_FOUND":
                    return shown
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                again = (await self._ask(request, None)).schedule
            except ApiError:
                return shown
            shown = msgspec.json.decode(again, type=api.ScheduleResponse)
            if any(run.task_uuid == task_id and run.status != "running" for run in shown.runs):
                return shown
        return shown

    async def backfill(self, request: api.BackfillSchedule) -> bytes:
        """Make up for the firings of a range."""
        check_text(request, "requested_by", "backfill_id", "from_at", "until_at")
        from_ms = _moment("from_at", request.from_at)
        until_ms = now_ms() if request.until_at is None else _moment("until_at", request.until_at)
        if until_ms <= from_ms:
            raise ApiError("VALIDATION_FAILED", "until_at: it is not later than from_at")
        if not 1 <= request.concurrency <= commands.BACKFILL_CONCURRENCY_MAX:
            raise ApiError("VALIDATION_FAILED", f"concurrency: 1 to {commands.BACKFILL_CONCURRENCY_MAX}")
        known = msgspec.json.decode((await self._ask(request, None)).schedule, type=api.ScheduleResponse)
        timing = Timing(known.spec)
        count = timing.count(from_ms, until_ms)
        first = timing.preview(from_ms - 1, min(count, BACKFILL_SHOWN_MAX))
        reply = api.BackfillReply(count=count, first=firing_times(timing, first))
        if request.dry_run:
            if refusal := backfill_refusal(count, until_ms, now_ms()):
                raise ApiError("CONFLICT", f"schedule {request.namespace}/{request.name}: {refusal}")
            return encode(reply)
        check_own_id("backfill_id", request.backfill_id)
        backfill_id = request.backfill_id or uuid7()
        command = commands.BackfillSchedule(
            by=request.requested_by,
            request_id=backfill_id,
            from_ms=from_ms,
            until_ms=until_ms,
            concurrency=request.concurrency,
        )
        answer = await self._ask(request, command)
        return encode(msgspec.structs.replace(reply, backfill_id=backfill_id, replayed=not answer.changed))

    async def delete(self, request: api.DeleteSchedule) -> bytes:
        """End the schedule."""
        check_text(request, "reason", "deleted_by")
        known = msgspec.json.decode((await self._ask(request, None)).schedule, type=api.ScheduleResponse)
        await self._ask(request, commands.DeleteSchedule(by=request.deleted_by, reason=request.reason))
        return encode(api.DeletedReply(schedule_id=known.schedule_id, running_count=known.running_count))

    async def preview(self, request: api.PreviewSchedule) -> bytes:
        """When a timing would fire."""
        if not 1 <= request.count <= PREVIEW_COUNT_MAX:
            raise ApiError("BAD_REQUEST", f"count is 1..{PREVIEW_COUNT_MAX}")
        after_ms = now_ms() if request.after is None else _moment("after", request.after)
        try:
            timing = Timing(request.timing)
        except TimingError as error:
            raise _invalid("timing", error) from None
        return encode(api.PreviewReply(firings=firing_times(timing, timing.preview(after_ms, request.count))))

    # -- pieces ----------------------------------------------------------------------------------

    async def _ask(self, request: Any, command: commands.AnyScheduleCommand | None) -> Asked:
        """What the owner answers for the schedule that a request names."""
        namespace, name = request.namespace, request.name
        check_text(request, "namespace", "name")
        schedule_id = schedule_stream_id(namespace, name)
        answer = await self._router.call(
            shard_of(schedule_id, self._shard_count),
            OfSchedule(
                stream_id=schedule_id,
                schedule=f"{namespace}/{name}",
                command=command,
                correlation_id=schedule_id,
            ),
        )
        return msgspec.json.decode(answer, type=Asked)

    async def _check_task(self, namespace: str, name: str, spec: ScheduleSpec, timing: Timing) -> None:
        """Whether the first firing could start its task; raises `ApiError`."""
        task = spec.task
        if not -PRIORITY_MAX <= task.priority <= PRIORITY_MAX:
            raise ApiError("VALIDATION_FAILED", f"task.priority: {task.priority} is not in -100..100")
        # One more than here is added to each task: the schedule's own.
        if len(task.tags) >= TAGS_MAX or any(
            not 0 < len(tag) <= TEXT_CHARS_MAX or "\x00" in tag for tag in task.tags
        ):
            raise ApiError(
                "VALIDATION_FAILED",
                f"task.tags: {TAGS_MAX - 1} at most, each of 1 to {TEXT_CHARS_MAX} characters and without NUL",
            )
        check_text(task, "name", "namespace", "version")
        context = check_context(task.context)
        for field, given in (("task.context", context), ("task.tags", list(task.tags))):
            if unknown := unknown_references(given):
                raise ApiError(
                    "VALIDATION_FAILED",
                    f"{field}: {', '.join(unknown[:5])[:500]} stands for nothing; a firing knows, in texts, "
                    + ", ".join(f"${{schedule.{known}}}" for known in NAMES),
                )
        version = await self._templates.resolve(task.namespace, task.name, task.version)
        first_ms = timing.next_after(now_ms())
        if first_ms is None:
            return
        violations = version.violations(
            fill(context, firing_values(timing, namespace, name, first_ms, "regular"))
        )
        if violations:
            raise ApiError(
                "VALIDATION_FAILED",
                f"task.context does not fit the input schema of {task.namespace}/{task.name}: "
                + violations_text(violations),
                violations=violations,
            )


def _run_of(shown: api.ScheduleResponse, trigger_id: str) -> api.ScheduledRun | None:
    runs = (*shown.runs, *shown.running, *((shown.waiting,) if shown.waiting else ()))
    return next((run for run in runs if run.request_id == trigger_id), None)


def _checked(spec: ScheduleSpec) -> Timing:
    try:
        return check_spec(spec, now_ms())
    except TimingError as error:
        raise _invalid("spec", error) from None


def _invalid(where: str, error: TimingError) -> ApiError:
    # A problem of one field begins with its name; others are about the whole.
    named = (
        f"{where}.{problem}" if _OF_FIELD.match(problem) else f"{where}: {problem}"
        for problem in error.problems
    )
    return ApiError("VALIDATION_FAILED", "; ".join(named))


def _check_name(field: str, name: str) -> None:
    if (
        not name
        or name.strip() != name
        or len(name.encode(errors="replace")) > NAME_BYTES_MAX
        or "\x00" in name
    ):
        raise ApiError(
            "VALIDATION_FAILED",
            f"{field}: 1 to {NAME_BYTES_MAX} bytes, without blanks at its ends and without NUL",
        )
    if "/" in name:
        raise ApiError("VALIDATION_FAILED", f"{field}: no slash: it stands between namespace and name")


def _moment(field: str, text: str) -> int:
    try:
        at_ms = parse_timestamp(text)
    except (ValueError, OverflowError) as error:
        raise ApiError("VALIDATION_FAILED", f"{field}: {error}") from None
    if not 0 <= at_ms <= MOMENT_MS_MAX:
        raise ApiError("VALIDATION_FAILED", f"{field}: {text} is out of range")
    return at_ms
