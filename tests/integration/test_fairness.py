"""Priorities and fairness on real servers: a namespace with a long backlog holds up no other one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from stepweave import Registry, StepContext, Worker, step_handler
from stepweave.testing import eventually
from stepweave_schemas.subjects import PRIORITY_CLASSES, dispatch_consumer, dispatch_stream, priority_class

from .conftest import WAIT_SECONDS, System, running_system, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: How many tasks the busy namespace submits, and how many the other one.
FLOOD = 2_000
FEW = 10
#: What ran, in order: the namespace and the task's own mark.
ran: list[tuple[str, object]] = []
#: What lets the running handlers end.
steps: list[asyncio.Event] = []


@step_handler("note")
async def note(context: StepContext) -> None:
    ran.append((context.namespace, context.get_input_or("mark", None)))
    await asyncio.sleep(0)


@step_handler("wait_here")
async def wait_here(context: StepContext) -> None:
    steps.append(asyncio.Event())
    ran.append((context.namespace, context.get_input("mark")))
    await steps[-1].wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(module_database_url: str, module_nats_url: str) -> AsyncIterator[System]:
    async with running_system(module_database_url, module_nats_url) as running:
        for namespace in ("busy", "other"):
            await running.register(
                template("note", [{"name": "only", "handler": "note"}], namespace=namespace)
            )
        await running.register(
            template("wait", [{"name": "only", "handler": "wait_here"}], namespace="other")
        )
        yield running


async def test_a_flood_of_one_namespace_does_not_hold_up_another(system: System) -> None:
    ran.clear()
    for _ in range(FLOOD // 200):
        many = [{"name": "note", "namespace": "busy"}] * 200
        await system.request("task.create_many", {"tasks": many})
    async with Worker(
        system.nats_url, namespaces=["busy", "other"], handlers=Registry([note]), concurrency=4
    ):

        async def under_way() -> bool:
            return len(ran) >= FLOOD // 10

        await eventually(under_way, timeout_seconds=WAIT_SECONDS, what="the busy namespace at work")
        begun = len(ran)
        for number in range(FEW):
            await system.create("note", namespace="other", context={"mark": number})

        async def others_done() -> bool:
            return sum(namespace == "other" for namespace, _ in ran) == FEW

        await eventually(others_done, timeout_seconds=WAIT_SECONDS, what="the other namespace's tasks")
        last = max(place for place, (namespace, _) in enumerate(ran) if namespace == "other")
        # What the flood's own order would give is at its very end.
        assert begun < last < FLOOD + FEW - 1
        assert len(ran) < FLOOD + FEW, "the flood was over before anything could be seen"

        async def all_done() -> bool:
            return len(ran) == FLOOD + FEW

        await eventually(all_done, timeout_seconds=4 * WAIT_SECONDS, what="the flood itself")


async def test_priorities_and_age_count_where_steps_take_long(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker cannot start stays where it is: handed back, it would go to the end of its queue."""
    monkeypatch.setattr("stepweave.worker.pool.QUICK_SECONDS", 0.0)
    ran.clear()
    for priority in (-50, 0, 50):
        for number in range(6):
            mark = f"{priority} {number}"
            await system.create("note", namespace="other", context={"mark": mark}, priority=priority)

    async def all_wait() -> bool:
        jetstream = system.connection.client.jetstream()
        return (await jetstream.stream_info(dispatch_stream("other"))).state.messages == 18

    await eventually(all_wait, timeout_seconds=WAIT_SECONDS, what="all of them in their queues")
    async with Worker(
        system.nats_url, namespaces=["other", "busy"], handlers=Registry([note]), concurrency=1
    ) as worker:

        async def all_done() -> bool:
            return len(ran) == 18

        await eventually(all_done, timeout_seconds=WAIT_SECONDS, what="all tasks")
        assert worker.released_count == 0
    marks = [str(mark) for _, mark in ran]
    # Each lane is asked once, for it may have something very old; then they go by priority and age.
    assert marks[:3] == ["50 0", "0 0", "-50 0"]
    assert marks[3:] == [f"{priority} {number}" for priority in (50, 0, -50) for number in range(1, 6)]


async def test_higher_priorities_first(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slot, and tasks of all classes: each time it is free, one of each class that has any is at hand."""
    # Also where the machine is busy.
    monkeypatch.setattr("stepweave.worker.pool.QUICK_SECONDS", 3_600.0)
    ran.clear()
    steps.clear()
    priorities = [-100, 0, 50, -1, 100, 0, 1]
    for priority in priorities:
        fields = {"context": {"mark": priority}, "priority": priority}
        await system.create("wait", namespace="other", **fields)
    jetstream = system.connection.client.jetstream()
    async with Worker(system.nats_url, namespaces=["other"], handlers=Registry([wait_here]), concurrency=1):
        for done in range(len(priorities)):

            async def runs(done: int = done) -> bool:
                return len(ran) == done + 1

            await eventually(runs, timeout_seconds=WAIT_SECONDS, what="the next task")

            async def at_hand() -> bool:
                """Of each class one waits in the worker, besides the one that runs, or none is left."""
                for name in PRIORITY_CLASSES:
                    info = await jetstream.consumer_info(
                        dispatch_stream("other"), dispatch_consumer("default", name)
                    )
                    own = priority_class(int(str(ran[-1][1]))) == name
                    if info.num_pending and info.num_ack_pending == int(own):
                        return False
                return True

            if done:
                await eventually(at_hand, timeout_seconds=WAIT_SECONDS, what="one of each class")
            steps[-1].set()
    marks = [str(mark) for _, mark in ran]
    # Which ones the worker had when it chose the first two is chance. Within a class it is the order of creation.
    rest = ["50", "100", "1", "0", "0", "-100", "-1"]
    for mark in marks[:2]:
        rest.remove(mark)
    assert marks[2:] == rest, marks
