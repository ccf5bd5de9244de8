"""Dead letters over the deaths of orchestrators and workers: none is lost, doubled or forgotten, and nothing rots unseen."""

from __future__ import annotations

import signal
from typing import Any

import msgspec
import pytest

from stepweave.messaging import Connection
from stepweave_schemas import subjects
from stepweave_schemas.api import DeadLetterEntry

from .conftest import Stack, until

pytestmark = pytest.mark.faults

SETTINGS = {"STEPWEAVE_HANDLER_MISSING_SECONDS": "1", "STEPWEAVE_HANDLER_CHECK_SECONDS": "0.2"}
ONE_STEP: dict[str, dict[str, Any]] = {
    "served": {"handler": "slow"},
    "unserved": {"handler": "work", "queue": "far"},
    "waits": {"wait_for_signal": {"name": "go"}},
}
#: Its end comes about when the first orchestrator dies.
LIFECYCLE = {"max_waiting_for_dependencies_seconds": 1.5}


async def register(stack: Stack) -> None:
    for name, step in ONE_STEP.items():
        template: dict[str, Any] = {"name": name, "steps": [{"name": "a", **step}]}
        if name == "waits":
            template["lifecycle"] = LIFECYCLE
        await stack.client.register_template(
            msgspec.json.encode({**template, "namespace": "faults"}).decode()
        )
    steps = [{"name": "a", "handler": "work"}, {"name": "b", "handler": "break_down", "dependencies": ["a"]}]
    refused = {"namespace": "faults", "name": "refused", "steps": steps}
    await stack.client.register_template(msgspec.json.encode(refused).decode())


async def letters(stack: Stack) -> dict[str, DeadLetterEntry]:
    """The open letters of all lists, by template."""
    listed = await stack.client.list_dead_letters(is_open=True, timeout_seconds=30)
    stale = await stack.client.stale_tasks(timeout_seconds=30)
    found = {entry.dlq_entry_uuid: entry for entry in (*listed.entries, *stale.entries)}
    assert len({entry.task_uuid for entry in found.values()}) == len(found), "two letters for one task"
    return {entry.name: entry for entry in found.values()}


async def listed(stack: Stack, **reasons: str) -> dict[str, DeadLetterEntry]:
    """The open letters, once they are these."""
    found: dict[str, DeadLetterEntry] = {}

    async def look() -> bool:
        found.clear()
        found.update(await letters(stack))
        return {name: entry.dlq_reason for name, entry in found.items()} == reasons

    await until(look)
    return found


async def forget_workers(stack: Stack) -> None:
    """As the entries of dead workers go after half a minute."""
    async with await Connection.open(stack.servers.nats_url, name="test") as connection:
        bucket = await connection.client.jetstream().key_value(subjects.WORKERS_BUCKET)
        for key in await bucket.keys():
            await bucket.purge(key)


async def test_letters_outlive_orchestrators_and_the_last_worker(stack: Stack) -> None:
    client = stack.client
    first = await stack.orchestrator(**SETTINGS)
    worker = await stack.worker()
    await register(stack)
    tasks = {
        name: (
            await client.create_task(name, namespace="faults", context={"hold": ["a"]}, timeout_seconds=30)
        ).task_uuid
        for name in (*ONE_STEP, "refused")
    }

    async def runs() -> bool:
        return (await client.get_task(tasks["served"])).step("a").current_state == "in_progress"

    await until(runs)
    # It dies between an append and all that follows from it, about when the second task is blocked.
    await first.arm(stack.folder / "crash", "after_append", 2)
    (stack.folder / f"go {tasks['refused']} a").touch()
    assert await first.dead() == -signal.SIGKILL
    second = await stack.orchestrator(**SETTINGS)
    expected = {"refused": "failures", "unserved": "handler_missing", "waits": "staleness"}
    before = await listed(stack, **expected)

    # The last worker dies in the middle of a step: nobody else finds that out.
    await worker.kill()
    await forget_workers(stack)
    await listed(stack, **expected, served="handler_missing")
    letter = before["refused"]
    await client.update_dead_letter(
        letter.dlq_entry_uuid, resolution_status="investigating", notes="asking the bank", resolved_by="ada"
    )
    await second.kill()
    await stack.orchestrator(**SETTINGS)
    # From the tasks themselves: the lists are a moment behind.
    after = {
        name: (await client.get_dead_letters(tasks[name], timeout_seconds=30)).entries for name in before
    }
    for name, was in before.items():
        [entry] = after[name]
        assert (entry.dlq_entry_uuid, entry.dlq_timestamp) == (was.dlq_entry_uuid, was.dlq_timestamp)
    [said] = after["refused"]
    assert (said.resolution_status, said.resolution_notes, said.resolved_by) == (
        "investigating",
        "asking the bank",
        "ada",
    )

    # Everybody goes on, or is ended; each letter is closed once, by what happened.
    (stack.folder / "go").touch()
    await stack.worker()
    await client.signal(tasks["waits"], "go", {}, timeout_seconds=30)
    await client.cancel_task(tasks["unserved"], timeout_seconds=30)
    await client.give_up_task(tasks["refused"], timeout_seconds=30)
    await stack.complete([tasks["served"], tasks["waits"]])
    await listed(stack)
    endings = {
        name: [
            entry.resolution_status
            for entry in (await client.get_dead_letters(task_id, timeout_seconds=30)).entries
        ]
        for name, task_id in tasks.items()
    }
    assert endings == {
        "served": ["recovered"],
        "waits": ["recovered"],
        "unserved": ["cancelled"],
        "refused": ["permanently_failed"],
    }
    histories = await stack.check(list(tasks.values()))
    named = [event.type for event in histories[tasks["served"]]].count("task.stale")
    assert named == 1
