"""Schedules whose owner dies between a firing and its task, or between a task's end and the schedule that waits for it."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_schemas.api import ScheduleResponse
from stepweave_schemas.envelope import parse_timestamp
from stepweave_schemas.mint import now_ms

from .conftest import Forked, Stack, chain, until

FIRINGS = 6


@pytest.fixture
async def store(stack: Stack) -> AsyncIterator[PostgresEventStore]:
    store = await PostgresEventStore.connect(stack.servers.dsn)
    yield store
    await store.close()


async def begin(stack: Stack, handlers: list[str], **spec: Any) -> Forked:
    """An orchestrator, and a schedule that fires far ahead unless `spec` says otherwise."""
    orchestrator = await stack.forked("orchestrator_process.py")
    await stack.client.register_template(chain("job", handlers))
    when = {} if "every_seconds" in spec else {"cron": "0 6 * * *"}
    await stack.client.create_schedule(
        "tick", {**when, "task": {"namespace": "faults", "name": "job"}, **spec}, timeout_seconds=30
    )
    return orchestrator


async def reached(stack: Stack, condition: Any) -> ScheduleResponse:
    """Wait until the schedule stands as wanted."""
    found: list[ScheduleResponse] = []

    async def look() -> bool:
        found[:] = [await stack.client.get_schedule("tick", timeout_seconds=30)]
        return bool(condition(found[0]))

    await until(look)
    return found[0]


async def check_firings(stack: Stack, store: PostgresEventStore, schedule_id: str) -> list[int]:
    """Each moment fired once, each firing has one task that has run once, each end was heard once; the moments."""
    history = await store.read_stream(schedule_id)
    firings = [msgspec.json.decode(event.data) for event in history if event.type == "schedule.fired"]
    moments = [firing["nominal_at_ms"] for firing in firings]
    task_ids = [firing["task_id"] for firing in firings]
    assert len(set(moments)) == len(moments) == len(set(task_ids))
    ended = [
        msgspec.json.decode(event.data)["task_id"] for event in history if event.type == "schedule.task_ended"
    ]
    assert sorted(ended) == sorted(task_ids)
    histories = await stack.check(task_ids)
    for task in histories.values():
        assert [event.type for event in task].count("task.created") == 1
    return sorted(moments)


@pytest.mark.parametrize("point", ["after_append", "before_acks"])
async def test_owner_killed_between_a_firing_and_its_task(
    stack: Stack, store: PostgresEventStore, point: str
) -> None:
    """The first commit is that of the firings; where it dies later, some tasks have begun and some have ended."""
    doomed = await begin(stack, ["quick"])
    await stack.worker()
    await doomed.arm(stack.folder / "crash", point, 3 if point == "before_acks" else 1)
    asked = asyncio.ensure_future(
        stack.client.backfill_schedule(
            "tick",
            "2026-01-01T00:00:00Z",
            "2026-01-07T00:00:00Z",
            concurrency=3,
            backfill_id="week",
            timeout_seconds=60,
        )
    )
    assert await doomed.dead() == -signal.SIGKILL
    await stack.forked("orchestrator_process.py")
    assert (await asked).count == FIRINGS
    done = await reached(stack, lambda one: one.fired_count == FIRINGS and not one.backfills)
    assert [run.status for run in done.runs] == ["complete"] * FIRINGS
    assert len(await check_firings(stack, store, done.schedule_id)) == FIRINGS


async def test_another_orchestrator_takes_the_schedule_over(stack: Stack, store: PostgresEventStore) -> None:
    """It fires all the while: nothing is fired twice, and what came due meanwhile is made up for."""
    first = await begin(stack, ["quick"], every_seconds=1, overlap="allow")
    await stack.worker()
    await reached(stack, lambda one: one.fired_count >= 1)
    await first.kill()
    killed_at_ms = now_ms()
    await stack.forked("orchestrator_process.py")
    await reached(stack, lambda one: one.runs and parse_timestamp(one.runs[0].at) > killed_at_ms + 1_000)
    await stack.client.pause_schedule("tick", timeout_seconds=30)
    done = await reached(stack, lambda one: not one.running_count)
    moments = await check_firings(stack, store, done.schedule_id)
    assert moments == list(range(moments[0], moments[-1] + 1, 1_000))


async def test_jetstream_storage_deleted_with_the_end_of_a_task_unheard(
    stack: Stack, store: PostgresEventStore
) -> None:
    """The task has ended, its notice went with the storage: the schedule asks again."""
    doomed = await begin(stack, ["slow"])
    worker = await stack.worker()
    run = (await stack.client.trigger_schedule("tick")).run
    assert run is not None

    async def runs() -> bool:
        return bool(stack.runs())

    await until(runs)
    await doomed.arm(stack.folder / "crash", "after_append", 1)
    (stack.folder / "go").touch()
    assert await doomed.dead() == -signal.SIGKILL
    assert (await store.read_stream(run.task_uuid))[-1].type == "task.completed"
    await worker.kill()
    await stack.servers.nats.kill()
    shutil.rmtree(stack.servers.nats.data_dir / "jetstream", ignore_errors=False)
    await stack.servers.nats.restart()
    await stack.forked("orchestrator_process.py")
    done = await reached(stack, lambda one: not one.running_count)
    assert [one.status for one in done.runs] == ["complete"]
    await check_firings(stack, store, done.schedule_id)
