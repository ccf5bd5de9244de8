"""Ten times as much as a set-up can take: what it accepts it carries out, what it refuses leaves no trace.

The workers of the flooded namespace do a fixed number of steps a second by construction, so "ten times" is known and
not measured. It lasts some seconds here, and as long as `STEPWEAVE_OVERLOAD_SECONDS` says; figures are printed (`-s`).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from stepweave import Worker, step_handler
from stepweave.messaging import Connection
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_orchestrator.cli.load import orchestrator_loads
from stepweave_schemas import subjects
from stepweave_schemas.api import operation_subject
from stepweave_schemas.codec import encode
from stepweave_schemas.mint import uuid7

from .conftest import SHARDS, Stack, until

SECONDS: Final = float(os.environ.get("STEPWEAVE_OVERLOAD_SECONDS", "4"))
#: So many steps at a time, each of which takes so long: 50 tasks of one step a second.
STEPS_AT_ONCE: Final = 5
STEP_SECONDS: Final = 0.1
SUSTAINED_PER_SECOND: Final = STEPS_AT_ONCE / STEP_SECONDS
OFFERED_PER_SECOND: Final = 10 * SUSTAINED_PER_SECOND
BACKLOG_MAX: Final = 100
ANSWER_SECONDS_MAX: Final = 30.0
#: How far the orchestrator may grow meanwhile; an unbounded queue of these requests would take more in a minute.
GROWTH_BYTES_MAX: Final = 96 * 1024 * 1024
MIB: Final = 1024 * 1024
#: An orchestrator has about half of it when it starts; all contexts together are twice as much.
MEMORY_BYTES_MAX: Final = 128 * MIB
LARGE_BYTES: Final = 200_000


@step_handler("paced")
async def paced() -> dict[str, Any]:
    await asyncio.sleep(STEP_SECONDS)
    return {"ok": True}


def one_step(namespace: str) -> str:
    """A template with one step that takes its time."""
    step = {"name": "only", "handler": "paced"}
    return json.dumps({"namespace": namespace, "name": "one", "version": "1.0.0", "steps": [step]})


class Overload:
    """Offers creates at a rate, whatever becomes of them, and keeps book."""

    def __init__(self, link: Connection, pid: int) -> None:
        self.link = link
        self.process = psutil.Process(pid)
        self.accepted: dict[str, list[str]] = {"flood": [], "calm": []}
        self.refused: dict[str, list[str]] = {"flood": [], "calm": []}
        self.other: Counter[str] = Counter()
        self.answer_seconds: list[float] = []
        self.offered = 0
        self.backlog_most = 0
        self.memory_first = self.memory_most = self.process.memory_info().rss
        self._under_way: set[asyncio.Task[None]] = set()

    async def create(self, namespace: str) -> None:
        """One create, and what is answered."""
        task_id = uuid7()
        request = {"name": "one", "namespace": namespace, "task_id": task_id, "context": {"text": "x" * 500}}
        began = time.perf_counter()
        answer = await self.link.request(
            operation_subject("task.create"), encode(request), timeout_seconds=ANSWER_SECONDS_MAX
        )
        told = json.loads(answer.data)
        if "error" not in told:
            self.answer_seconds.append(time.perf_counter() - began)
            self.accepted[namespace].append(task_id)
        elif told["error"]["code"] == "BACKPRESSURE":
            assert told["error"]["retry_after_seconds"] >= 1, told
            assert told["error"]["reason"], told
            self.refused[namespace].append(task_id)
        else:
            self.other[told["error"]["code"]] += 1

    def offer(self, namespace: str) -> None:
        task = asyncio.ensure_future(self.create(namespace))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        self.offered += 1

    async def run(self, seconds: float) -> None:
        """All of it is offered, on a busy machine later than planned; twice a second one of the calm namespace."""
        began = time.perf_counter()
        flood = calm = 0
        while flood < seconds * OFFERED_PER_SECOND:
            elapsed = min(time.perf_counter() - began, seconds)
            while flood < elapsed * OFFERED_PER_SECOND:
                self.offer("flood")
                flood += 1
            while calm < elapsed * 2:
                self.offer("calm")
                calm += 1
                await self.watch()
            await asyncio.sleep(0.01)
        await asyncio.gather(*self._under_way)

    async def watch(self) -> None:
        """Look at memory and at what waits for the workers."""
        self.memory_most = max(self.memory_most, self.process.memory_info().rss)
        jetstream = self.link.client.jetstream(timeout=ANSWER_SECONDS_MAX)
        info = await jetstream.stream_info(subjects.dispatch_stream("flood"))
        self.backlog_most = max(self.backlog_most, info.state.messages)

    def figures(self) -> dict[str, Any]:
        taken = sorted(self.answer_seconds)
        return {
            "offered": self.offered,
            "accepted": {name: len(ids) for name, ids in self.accepted.items()},
            "refused": {name: len(ids) for name, ids in self.refused.items()},
            "other": dict(self.other),
            "answer_ms_p50": round(taken[len(taken) // 2] * 1000),
            "answer_ms_p99": round(taken[len(taken) * 99 // 100] * 1000),
            "answer_ms_max": round(taken[-1] * 1000),
            "backlog_most": self.backlog_most,
            "memory_mib": [self.memory_first // MIB, self.memory_most // MIB],
        }


async def created_and_ended(dsn: str) -> tuple[set[str], set[str]]:
    """The tasks in the ledger, and those of them that are complete."""
    store = await PostgresEventStore.connect(dsn)
    try:
        types: dict[str, set[str]] = {"task.created": set(), "task.completed": set()}
        for shard in range(SHARDS):
            async for event in store.walk(shard):
                if event.type in types:
                    types[event.type].add(event.task_id)
        return types["task.created"], types["task.completed"]
    finally:
        await store.close()


@pytest.mark.faults
@pytest.mark.timeout(SECONDS * 3 + 120)
async def test_ten_times_what_the_workers_do(stack: Stack, tmp_path: Path) -> None:
    url = stack.servers.nats_url
    orchestrator = await stack.orchestrator(STEPWEAVE_NAMESPACE_BACKLOG_STEPS_MAX=str(BACKLOG_MAX))
    client = stack.client
    for namespace in ("flood", "calm"):
        await client.register_template(one_step(namespace))
    async with (
        await Connection.open(url, name="overload") as link,
        Worker(url, namespaces=["flood"], handlers=[paced], concurrency=STEPS_AT_ONCE),
        Worker(url, namespaces=["calm"], handlers=[paced], concurrency=STEPS_AT_ONCE),
    ):
        overload = Overload(link, orchestrator.pid)
        flooding = asyncio.create_task(overload.run(SECONDS))

        async def refuses() -> bool:
            return bool(overload.refused["flood"])

        await until(refuses)
        # In the midst of it operators are heard, and a client that waits as it is told gets its task in the end.
        waiting = asyncio.create_task(
            client.create_task("one", namespace="flood", timeout_seconds=SECONDS + ANSWER_SECONDS_MAX)
        )
        stopped = overload.accepted["flood"][-1]
        ended = await client.cancel_task(stopped, reason="operators are heard")
        assert ended.status in ("cancelled", "complete")
        [load] = await orchestrator_loads(link)
        assert load.refused_by["namespace_backlog"] > 0
        assert {one.namespace for one in load.namespaces} >= {"flood"}
        await flooding
        patient = (await waiting).task_uuid
        accepted = {*overload.accepted["flood"], *overload.accepted["calm"], patient}

        async def all_ended() -> bool:
            page = await client.list_tasks(status=["complete", "cancelled"], per_page=1)
            return page.pagination.total_count >= len(accepted)

        await until(all_ended, ANSWER_SECONDS_MAX + SECONDS)
        print(json.dumps(overload.figures()))
        assert not overload.other, overload.figures()
        assert overload.offered >= SECONDS * OFFERED_PER_SECOND
        # Nothing that was accepted is lost, and what was refused is nowhere.
        created, completed = await created_and_ended(stack.servers.dsn)
        assert created == accepted
        assert accepted - completed <= {stopped}
        # The namespace that floods is kept within its backlog, give or take what came while JetStream was asked,
        # and the other one never hears of it.
        assert overload.refused["flood"]
        assert not overload.refused["calm"]
        assert overload.backlog_most <= 2 * BACKLOG_MAX
        assert overload.memory_most - overload.memory_first < GROWTH_BYTES_MAX, overload.figures()
        # It is as before.
        again = await client.create_task("one", namespace="flood", timeout_seconds=ANSWER_SECONDS_MAX)
        assert (await client.wait_for_task(again.task_uuid, timeout_seconds=60)).status == "complete"
        [load] = await orchestrator_loads(link)
        assert load.state == "open"
    await stack.check([*accepted, again.task_uuid])


@pytest.mark.faults
async def test_memory_that_large_tasks_have_taken_is_given_back(stack: Stack) -> None:
    """Tasks stay, their memory does not: a door that closes for it opens again, though none of them has ended."""
    orchestrator = await stack.orchestrator(STEPWEAVE_MEMORY_BYTES_MAX=str(MEMORY_BYTES_MAX))
    await stack.client.register_template(one_step("flood"))
    context = {"text": "x" * LARGE_BYTES}
    slots = asyncio.Semaphore(16)

    async def create() -> str:
        async with slots:
            # A refusal is waited for as it says.
            task = await stack.client.create_task(
                "one", namespace="flood", context=context, timeout_seconds=2 * ANSWER_SECONDS_MAX
            )
            return task.task_uuid

    created = await asyncio.gather(*(create() for _ in range(2 * MEMORY_BYTES_MAX // LARGE_BYTES)))
    assert len(set(created)) == len(created)
    async with await Connection.open(stack.servers.nats_url, name="overload") as link:

        async def open_again() -> bool:
            [load] = await orchestrator_loads(link)
            return load.state == "open"

        await until(open_again)
    assert psutil.Process(orchestrator.pid).memory_info().rss < MEMORY_BYTES_MAX
