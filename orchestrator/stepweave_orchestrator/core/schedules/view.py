"""The schedule as callers see it, from its state."""

from __future__ import annotations

from itertools import accumulate
from typing import Final

import msgspec

from stepweave_schemas.api import BackfillView, FiringTime, ScheduledRun, ScheduleListItem, ScheduleResponse
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.schedule import Timing as TimingSpec

from .state import Firing, Run, ScheduleState
from .timing import Timing

#: Firings ahead that an answer shows.
PREVIEW_COUNT: Final = 10


def schedule_response(state: ScheduleState, now_ms: int) -> ScheduleResponse:
    """The whole schedule; the firings ahead of a paused one are those after it is resumed now."""
    spec = state.spec
    timing = Timing(spec)
    return ScheduleResponse(
        schedule_id=state.schedule_id,
        namespace=state.namespace,
        name=state.name,
        status=state.status,
        spec=spec,
        created_at=timestamp(state.created_at_ms),
        created_by=state.created_by,
        updated_at=timestamp(state.updated_at_ms),
        paused_at=_at(state.paused_at_ms),
        paused_by=state.paused_by,
        note=state.note,
        next_firings=_ahead(state, timing, now_ms),
        running=tuple(_run(Run(firing, 0)) for firing in state.running.values())[:PREVIEW_COUNT],
        running_count=len(state.running),
        waiting=None if state.waiting is None else _run(Run(state.waiting, 0, "waiting")),
        backfills=tuple(
            BackfillView(
                backfill_id=one.backfill_id,
                from_at=timestamp(one.from_ms),
                until_at=timestamp(one.until_ms),
                count=one.count,
                fired_count=one.fired_count,
                concurrency=one.concurrency,
            )
            for one in state.backfills
        ),
        runs=tuple(_run(run) for run in reversed(state.runs)),
        fired_count=state.fired_count,
        skipped_count=state.skipped_count,
        failed_count=state.failed_count,
        stream_version=state.version,
        problem=_problem(state, timing, now_ms),
    )


def schedule_list_item(state: ScheduleState) -> ScheduleListItem:
    """What a list shows of a schedule."""
    last = state.runs[-1] if state.runs else None
    task = state.spec.task if state.spec_text else None
    return ScheduleListItem(
        schedule_id=state.schedule_id,
        namespace=state.namespace,
        name=state.name,
        status=state.status,
        when=when_text(state.spec) if state.spec_text else "",
        template="" if task is None else f"{task.namespace}/{task.name}",
        next_at=None if state.is_paused else _at(state.next_at_ms),
        last_at=None if last is None else timestamp(last.firing.nominal_at_ms),
        last_status=None if last is None else last.status,
        running_count=len(state.running),
    )


def when_text(timing: TimingSpec) -> str:
    """A timing in a few words."""
    if timing.cron is not None:
        return f"{timing.cron} ({timing.time_zone})"
    if timing.every_seconds is not None:
        return f"every {timing.every_seconds} s"
    return f"once at {timing.at}"


def firing_times(timing: Timing, moments: list[int]) -> tuple[FiringTime, ...]:
    """Moments ahead, in UTC and in the schedule's zone."""
    return tuple(FiringTime(at=timestamp(at_ms), local=timing.local(at_ms)) for at_ms in moments)


def _ahead(state: ScheduleState, timing: Timing, now_ms: int) -> tuple[FiringTime, ...]:
    first_ms = state.next_at_ms
    if first_ms is None:
        return ()
    # The first one may have its moment behind it: its jitter holds it back. A pause skips such a one.
    after_ms = max(first_ms - 1, now_ms) if state.is_paused else first_ms - 1
    moments = timing.preview(after_ms, PREVIEW_COUNT)
    firings = firing_times(timing, moments)
    if not timing.jitter_ms:
        return firings
    # Each waits for the one before it.
    dues = accumulate((state.due_ms(at_ms, timing.jitter_ms) for at_ms in moments), max)
    return tuple(
        msgspec.structs.replace(firing, due_at=timestamp(due_ms))
        for firing, due_ms in zip(firings, dues, strict=True)
    )


def _problem(state: ScheduleState, timing: Timing, now_ms: int) -> str:
    if state.is_paused or not state.is_ahead(timing, now_ms):
        return ""
    return (
        f"the clock of an orchestrator was ahead: it was {timestamp(state.updated_at_ms)} by it when the schedule was "
        f"last at work, and nothing fires before {timestamp(state.next_at_ms or 0)}; set the clock right, then "
        f"`stepweave schedule resume {state.namespace}/{state.name}` takes up the firings from now on"
    )


def _run(run: Run) -> ScheduledRun:
    firing: Firing = run.firing
    return ScheduledRun(
        task_uuid=firing.task_id,
        at=timestamp(firing.nominal_at_ms),
        cause=firing.cause,
        status=run.status,
        request_id=firing.request_id,
        fired_at=_at(run.fired_at_ms or None),
        ended_at=_at(run.ended_at_ms),
        error_code=run.error_code,
        error_message=run.error_message or None,
    )


def _at(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else timestamp(moment_ms)
