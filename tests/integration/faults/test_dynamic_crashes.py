"""Workflows that shape themselves, and a SIGKILL in the middle of each of their abilities."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from stepweave.responses import TaskResponse
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_schemas.api import ResumeTask
from stepweave_schemas.mint import uuid7

from .conftest import Stack
from .dynamic_scene import (
    BATCHES,
    HELD_FROM,
    PARALLELISM,
    Scene,
    attempts,
    child_of,
    forget,
    results,
    shard,
)


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[Scene]:
    store = await PostgresEventStore.connect(stack.servers.dsn)
    try:
        scene = Scene(stack, store)
        await scene.set_up()
        yield scene
    finally:
        await store.close()


# -- what must have come of each ability -----------------------------------------------------------


async def chosen(scene: Scene, task_id: str) -> None:
    done = results(await scene.ended(task_id))
    assert set(done) == {"choose", "left", "right", "join"}


async def cut_and_collected(scene: Scene, task_id: str) -> None:
    done = results(await scene.ended(task_id))
    assert done["collect"] == list(range(BATCHES))
    assert len(done) == BATCHES + 2
    assert set(scene.effects(task_id, "batch")) == {f"batch:{number}" for number in range(BATCHES)}


async def crawled(scene: Scene, task_id: str) -> None:
    events = await scene.ended(task_id)
    assert results(events)["crawl"] == {"seen": [0, 1, 2, 3, 4, 5]}
    # Nothing that a checkpoint stands behind is done again.
    assert scene.effects(task_id, "item") == [f"item:{number}" for number in range(6)]
    saved = [event["items_processed"] for event in events if event["type"] == "step.checkpointed"]
    assert saved == [1, 2, 3, 4, 5]


async def undone(scene: Scene, task_id: str) -> None:
    events = await scene.ended(task_id, "task.failed")
    assert events[-1]["compensation_status"] == "complete"
    kinds = [event["type"] for event in events]
    assert kinds.count("compensation.started") == kinds.count("task.failed") == 1
    order = list(dict.fromkeys(scene.effects(task_id, "undone")))
    assert order in ([f"undone:{name}" for name in names] for names in ("bca", "cba"))
    ended = [event["compensates"] for event in events if event["type"] == "compensation.completed"]
    assert sorted(ended) == ["a", "b", "c"] and ended[-1] == "a"


async def listened(scene: Scene, task_id: str) -> None:
    events = await scene.ended(task_id)
    done = results(events)
    assert (done["early"], done["word"], done["patience"]) == ("bird", {"said": "go"}, "nobody came")
    received = [event["signal_id"] for event in events if event["type"] == "signal.received"]
    assert received == ["first", "second"]


async def child_answered(scene: Scene, task_id: str) -> None:
    events = await scene.ended(task_id)
    assert results(events)["start"] == {"step": "work"}
    kinds = [event["type"] for event in events]
    assert kinds.count("child.requested") == kinds.count("step.started") == 1
    await scene.ended(child_of(task_id))


# -- the orchestrator dies in the middle -----------------------------------------------------------


async def crash_in_a_decision(scene: Scene, point: str) -> None:
    task_id = await scene.begin("choosing", "choose")
    await scene.held(task_id, "choose")
    await scene.crash(point, lambda: scene.let_go(task_id, "choose"), task_id, "decision.routed")
    await chosen(scene, task_id)


async def crash_in_batches(scene: Scene, point: str) -> None:
    """When they are made, or when half of them are done."""
    if point in ("before_append", "half_published"):
        task_id = await scene.begin("cutting", "cut", batches=BATCHES)
        await scene.held(task_id, "cut")
        await scene.crash(point, lambda: scene.let_go(task_id, "cut"), task_id, "batch.created")
    else:
        task_id = await scene.begin("cutting", batches=BATCHES, hold_from=HELD_FROM)
        await scene.held_in_batches(task_id)
        await scene.crash(point, lambda: scene.let_go(task_id, "part"), task_id, "step.completed")
    await cut_and_collected(scene, task_id)


async def crash_at_a_checkpoint(scene: Scene, point: str) -> None:
    task_id = await scene.begin("crawling", "crawl")
    await scene.held(task_id, "crawl")
    await scene.crash(point, lambda: scene.let_go(task_id, "crawl"), task_id, "step.checkpointed")
    await crawled(scene, task_id)


async def crash_in_a_compensation(scene: Scene, point: str) -> None:
    task_id = await scene.begin("undoing", "compensate:b")
    await scene.held(task_id, "compensate:b")
    # The other branch is undone meanwhile.
    await scene.waits_for(task_id, "compensation.completed")
    release = lambda: scene.let_go(task_id, "compensate:b")  # noqa: E731
    await scene.crash(point, release, task_id, "compensation.completed")
    await undone(scene, task_id)


async def crash_around_signals(scene: Scene, point: str) -> None:
    """One that was kept is taken, one is sent twice; and for some points a time runs out."""
    client = scene.stack.client
    task_id = await scene.begin("listening", "gate")
    await scene.held(task_id, "gate")
    kept = await client.signal(task_id, "early", "bird", signal_id="first")
    assert kept.taken_by is None
    await scene.crash(point, lambda: scene.let_go(task_id, "gate"), task_id, "signal.awaited")
    await scene.waits_for(task_id, "signal.awaited", 2)

    def send() -> asyncio.Future[Any]:
        return asyncio.ensure_future(client.signal(task_id, "word", {"said": "go"}, signal_id="second"))

    sending: list[asyncio.Future[Any]] = []
    # The first commit is the signal's, the second that of the time that ran out.
    after_signal = point in ("half_published", "before_acks")
    event = "signal.timed_out" if after_signal else "signal.received"
    release = lambda: sending.append(send())  # noqa: E731
    await scene.crash(point, release, task_id, event, count=2 if after_signal else 1)
    await forget(sending[0])
    if not after_signal:
        again = await send()
        assert again.taken_by == "word" and again.replayed == (point != "before_append")
    await listened(scene, task_id)


async def crash_around_a_child(scene: Scene, point: str) -> None:
    """The commits after `before`: the request, the child's creation, the parent that hears of it."""
    task_id = await scene.begin("parent", "before", child_hold=["work"])
    child_id = child_of(task_id)
    await scene.held(task_id, "before")
    count, of, event = {
        "before_append": (2, child_id, "task.created"),
        "after_append": (1, task_id, "child.requested"),
        "half_published": (3, task_id, "step.started"),
        "before_acks": (2, child_id, "task.created"),
    }[point]
    await scene.crash(point, lambda: scene.let_go(task_id, "before"), of, event, count=count)
    await scene.held(child_id, "work")
    await scene.waits_for(task_id, "step.started")
    # And after `work`: the child's end, the parent that hears of it.
    count, of, event = {
        "before_append": (1, child_id, "task.completed"),
        "after_append": (1, child_id, "task.completed"),
        "half_published": (1, child_id, "task.completed"),
        "before_acks": (2, task_id, "step.completed"),
    }[point]
    await scene.crash(point, lambda: scene.let_go(child_id, "work"), of, event, count=count)
    await child_answered(scene, task_id)


async def crash_in_a_cancellation(scene: Scene, point: str) -> None:
    """The commits: the parent's end with the order to the child, the child's end."""
    client = scene.stack.client
    task_id = await scene.begin("parent", child_hold=["work"])
    child_id = child_of(task_id)
    await scene.held(child_id, "work")
    await scene.waits_for(task_id, "step.started")

    def cancel() -> asyncio.Future[Any]:
        return asyncio.ensure_future(client.cancel_task(task_id, reason="enough"))

    sending: list[asyncio.Future[Any]] = []
    count, of = {
        "before_append": (2, child_id),
        "after_append": (1, task_id),
        "half_published": (2, child_id),
        "before_acks": (1, task_id),
    }[point]
    await scene.crash(point, lambda: sending.append(cancel()), of, "task.cancelled", count=count)
    await forget(sending[0])
    assert (await cancel()).status == "cancelled"
    await scene.ended(child_id, "task.cancelled")
    scene.let_go(child_id, "work")


async def crash_around_an_operator(scene: Scene, point: str) -> None:
    """A paused task is resumed: what was held begins once, however often the request for it comes."""
    client = scene.stack.client
    task_id = await scene.begin("choosing", "choose")
    await scene.held(task_id, "choose")
    assert (await client.pause_task(task_id, paused_by="ada")).status == "paused"
    scene.let_go(task_id, "choose")
    await scene.waits_for(task_id, "decision.routed")
    wish = ResumeTask(task_id=task_id, resumed_by="ada", request_id=uuid7())

    def resume() -> asyncio.Future[TaskResponse]:
        return asyncio.ensure_future(client._call("task.resume", wish, TaskResponse, 30.0))

    sending: list[asyncio.Future[TaskResponse]] = []
    await scene.crash(point, lambda: sending.append(resume()), task_id, "task.resumed")
    await forget(sending[0])
    assert (await resume()).status != "paused"
    await chosen(scene, task_id)
    assert (await scene.types(task_id))["task.resumed"] == 1


PLACES: list[Callable[[Scene, str], Awaitable[None]]] = [
    crash_in_a_decision,
    crash_in_batches,
    crash_at_a_checkpoint,
    crash_in_a_compensation,
    crash_around_signals,
    crash_around_a_child,
    crash_in_a_cancellation,
    crash_around_an_operator,
]


@pytest.mark.parametrize("point", ["before_append", "after_append", "half_published", "before_acks"])
async def test_orchestrator_killed_in_the_middle(scene: Scene, point: str) -> None:
    await scene.worker()
    for crash in PLACES:
        await crash(scene, point)
    await scene.check()
    # Its worker lived: nothing was done twice, and no try was lost.
    scene.each_try_once()
    assert {act.attempt for act in scene.acts()} == {1}


# -- the worker dies in the middle -----------------------------------------------------------------


async def begin_everything(scene: Scene) -> dict[str, str]:
    """A task in the middle of each ability of handlers; returns their ids by what they wait for."""
    tasks = {
        "choose": await scene.begin("choosing", "choose"),
        "cut": await scene.begin("cutting", "cut", batches=BATCHES),
        "part": await scene.begin("cutting", batches=BATCHES, hold_from=HELD_FROM),
        "crawl": await scene.begin("crawling", "crawl"),
        "compensate:b": await scene.begin("undoing", "compensate:b"),
        "before": await scene.begin("parent", "before"),
        "work": await scene.begin("parent", child_hold=["work"]),
    }
    tasks["child"] = child_of(tasks["work"])
    for step in ("choose", "cut", "crawl", "compensate:b", "before"):
        await scene.held(tasks[step], step)
    await scene.held(tasks["child"], "work")
    await scene.held_in_batches(tasks["part"])
    await scene.waits_for(tasks["compensate:b"], "compensation.completed")
    return tasks


def let_everything_go(scene: Scene, tasks: dict[str, str]) -> None:
    for step in ("choose", "cut", "part", "crawl", "compensate:b", "before"):
        scene.let_go(tasks[step], step)
    scene.let_go(tasks["child"], "work")


async def everything_ended(scene: Scene, tasks: dict[str, str]) -> None:
    await chosen(scene, tasks["choose"])
    await cut_and_collected(scene, tasks["cut"])
    await cut_and_collected(scene, tasks["part"])
    await crawled(scene, tasks["crawl"])
    await undone(scene, tasks["compensate:b"])
    await child_answered(scene, tasks["before"])
    await child_answered(scene, tasks["work"])


async def test_worker_killed_in_the_middle_of_everything(scene: Scene) -> None:
    first = await scene.worker()
    tasks = await begin_everything(scene)
    await first.kill()
    await scene.worker()
    for step in ("choose", "cut", "crawl", "compensate:b", "before"):
        await scene.held(tasks[step], step, attempt=2)
    await scene.held(tasks["child"], "work", attempt=2)
    let_everything_go(scene, tasks)
    await everything_ended(scene, tasks)
    await scene.check()
    scene.each_try_once()
    lost = {(act.task_id, act.step) for act in scene.acts() if act.attempt == 2}
    held = {(tasks[step], step) for step in ("choose", "cut", "crawl", "compensate:b", "before")}
    held |= {(tasks["child"], "work")}
    held |= {
        (tasks["part"], f"part_{number:03d}") for number in range(HELD_FROM + 1, HELD_FROM + PARALLELISM + 1)
    }
    assert lost == held
    for step in ("choose", "cut", "crawl", "before"):
        assert attempts(await scene.ended(tasks[step]))[step] == 2


# -- JetStream's storage is gone -------------------------------------------------------------------


@pytest.mark.parametrize("orchestrator", ["lives", "dies"])
async def test_jetstream_storage_deleted_in_the_middle(scene: Scene, orchestrator: str) -> None:
    stack = scene.stack
    worker = await scene.worker()
    tasks = await begin_everything(scene)
    listening = await scene.begin("listening", "gate")
    await scene.held(listening, "gate")
    await stack.client.signal(listening, "early", "bird", signal_id="first")
    hearing = await scene.begin("listening")
    await stack.client.signal(hearing, "early", "bird", signal_id="first")
    if orchestrator == "dies":
        await scene.orchestrator.kill()
        await scene.bury()
    await worker.kill()
    await stack.servers.nats.kill()
    shutil.rmtree(stack.servers.nats.data_dir / "jetstream", ignore_errors=False)
    let_everything_go(scene, tasks)
    scene.let_go(listening, "gate")
    await stack.servers.nats.restart()
    if orchestrator == "dies":
        await scene.new_orchestrator()
    await scene.worker()
    for task_id in (listening, hearing):
        await scene.waits_for(task_id, "signal.awaited", 2)
        await stack.client.signal(task_id, "word", {"said": "go"}, signal_id="second")
        await listened(scene, task_id)
    await everything_ended(scene, tasks)
    await scene.check()


# -- a parent and its child have different owners --------------------------------------------------


async def test_owners_of_parents_and_of_children_killed(scene: Scene) -> None:
    """One of two orchestrators dies before the children are asked for, the other one before they end."""
    await scene.worker()
    first = scene.orchestrator
    await scene.new_orchestrator()
    second = scene.orchestrator
    await scene.shared()
    parents = [await scene.begin("parent", "before", child_hold=["work"]) for _ in range(16)]
    for task_id in parents:
        await scene.held(task_id, "before")
    owners = await scene.owners()
    await first.kill()
    for task_id in parents:
        scene.let_go(task_id, "before")
    for task_id in parents:
        if owners[shard(task_id)] == "owner-2":
            await scene.waits_for(task_id, "child.requested")
    await scene.bury(1)
    for task_id in parents:
        await scene.held(child_of(task_id), "work")
    await scene.new_orchestrator()
    await scene.shared()
    await second.kill()
    given_up, answered = parents[:4], parents[4:]
    cancelling = [
        asyncio.ensure_future(scene.stack.client.cancel_task(task_id, timeout_seconds=90))
        for task_id in given_up
    ]
    for task_id in answered:
        scene.let_go(child_of(task_id), "work")
    await scene.bury(2)
    for reply in await asyncio.gather(*cancelling):
        assert reply.status == "cancelled"
    for task_id in answered:
        await child_answered(scene, task_id)
    for task_id in given_up:
        await scene.ended(child_of(task_id), "task.cancelled")
        scene.let_go(child_of(task_id), "work")
    await scene.check()
    scene.each_try_once()


async def test_jetstream_storage_deleted_with_orders_and_answers_under_way(scene: Scene) -> None:
    """The owner of some shards is dead, and what waits in JetStream for its heir is lost: it is sent again."""
    stack = scene.stack
    worker = await scene.worker()
    first = scene.orchestrator
    await scene.new_orchestrator()
    await scene.shared()
    owners = await scene.owners()

    async def across(parent_of: str, child_of_owner: str, *hold: str) -> str:
        """A parent that the one owns, with a child that the other owns."""
        while True:
            task_id = uuid7()
            if (owners[shard(task_id)], owners[shard(child_of(task_id))]) == (parent_of, child_of_owner):
                return await scene.begin("parent", *hold, task_id=task_id, child_hold=["work"])

    to_start = await across("owner-2", "owner-1", "before")
    to_cancel = await across("owner-2", "owner-1")
    to_answer = await across("owner-1", "owner-2")
    await scene.held(to_start, "before")
    for task_id in (to_cancel, to_answer):
        await scene.held(child_of(task_id), "work")
        await scene.waits_for(task_id, "step.started")
    await first.kill()
    scene.let_go(to_start, "before")
    await scene.waits_for(to_start, "child.requested")
    await stack.client.cancel_task(to_cancel)
    scene.let_go(child_of(to_answer), "work")
    await scene.waits_for(child_of(to_answer), "task.completed")
    await scene.published(owners, "owner-2")
    await worker.kill()
    await stack.servers.nats.kill()
    shutil.rmtree(stack.servers.nats.data_dir / "jetstream", ignore_errors=False)
    await stack.servers.nats.restart()
    await scene.bury(1)
    await scene.worker()
    await child_answered(scene, to_answer)
    await scene.ended(child_of(to_cancel), "task.cancelled")
    await scene.held(child_of(to_start), "work")
    scene.let_go(child_of(to_start), "work")
    await child_answered(scene, to_start)
    await scene.check()


# -- the heir dies as well -------------------------------------------------------------------------


async def test_heir_killed_before_it_has_sent_the_orders_of_a_tail(scene: Scene) -> None:
    """What it has published counts as published: then its orders have to be out."""
    await scene.worker()
    first = scene.orchestrator
    await scene.new_orchestrator()
    heir = scene.orchestrator
    await scene.shared()
    owners = await scene.owners()
    while owners[shard(task_id := uuid7())] != "owner-1":
        pass
    await scene.begin("choosing", "choose", task_id=task_id)
    await scene.held(task_id, "choose")
    hold = scene.stack.folder / "hold orders"
    hold.touch()
    await first.arm(scene.stack.folder / "crash", "after_append", 1)
    scene.let_go(task_id, "choose")
    assert await first.dead() == -signal.SIGKILL
    await scene.bury(1)
    await heir.said("holds the orders")
    await scene.renewed(shard(task_id), 3)
    await heir.kill()
    hold.unlink()
    await scene.bury(2)
    await scene.new_orchestrator()
    await chosen(scene, task_id)
    await scene.check()
    scene.each_try_once()
