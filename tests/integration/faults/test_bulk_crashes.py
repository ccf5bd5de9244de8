"""Bulk operations whose owner dies in the middle of a chunk: each task acts once, and the record is whole."""

from __future__ import annotations

import asyncio
import signal

from stepweave_schemas.api import BulkResponse
from stepweave_schemas.bulk import BulkFilter
from stepweave_schemas.mint import uuid7

from .conftest import Stack, chain, until

TASKS = 40


async def test_owner_killed_in_the_middle_of_a_chunk(stack: Stack) -> None:
    doomed = await stack.forked("orchestrator_process.py")
    client = stack.client
    await client.register_template(chain("many", ["quick"]))
    created = await asyncio.gather(
        *(
            client.create_task("many", namespace="faults", tags=["b"], timeout_seconds=30)
            for _ in range(TASKS)
        )
    )
    wanted = BulkFilter(tag="b")

    async def listed() -> bool:
        return (await client.preview_bulk("pause", wanted)).matching_count == TASKS

    await until(listed)
    # The operation's own two commits, and those of some of its tasks.
    await doomed.arm(stack.folder / "crash", "after_append", 12)
    bulk_id = uuid7()
    asked = asyncio.ensure_future(
        client.start_bulk("pause", wanted, bulk_id=bulk_id, rate_per_second=40.0, timeout_seconds=60)
    )
    assert await doomed.dead() == -signal.SIGKILL
    await stack.forked("orchestrator_process.py")
    await asked
    found: list[BulkResponse] = []

    async def ended() -> bool:
        found[:] = [await client.get_bulk(bulk_id, timeout_seconds=60)]
        return found[0].status != "running" and not found[0].pending_count

    await until(ended)
    [done] = found
    assert (done.status, done.selected_count, done.applied_count, done.refused) == (
        "complete",
        TASKS,
        TASKS,
        (),
    )
    for task in created:
        history = await client.get_events(task.task_uuid)
        paused = [event for event in history if event.type == "task.paused"]
        assert [event.causation_id for event in paused] == [f"bulk:{bulk_id}"]
