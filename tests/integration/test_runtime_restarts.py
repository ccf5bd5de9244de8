"""A shard that its owner brings up anew at the same epoch: nothing that is under way meanwhile is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from nats.js.api import ConsumerConfig

from stepweave.messaging import ACK
from stepweave.testing import eventually
from stepweave_eventstore.store import Append, StoreUnavailable
from stepweave_orchestrator.runtime.batch import Shard
from stepweave_schemas import subjects
from stepweave_schemas.identity import shard_of

from .conftest import GOOD_NAMESPACE, SHARDS, WAIT_SECONDS, System, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Longer than a restart takes that waits for nothing.
RESTART_SECONDS = 0.5


async def test_an_append_that_is_under_way_when_its_shard_restarts_is_published(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a loss of JetStream's storage: orders arrive for a shard whose turn to be rebuilt comes next."""
    steps = ({"name": "one", "handler": "noop"}, {"name": "two", "handler": "noop", "dependencies": ["one"]})
    await system.register(template("late", steps, namespace="late"))
    task_id, taken = await system.started("late", namespace="late")
    orchestrator = system.orchestrator
    append, bring_up = system.store.append, orchestrator.take_over.bring_up
    shard = shard_of(task_id, SHARDS)
    held, go, stored = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def append_late(what: Append) -> set[int]:
        if held.is_set() or all(event.task_id != task_id for event in what.events):
            return await append(what)
        held.set()
        # Until the restart is through – or until it is plain that it waits.
        with suppress(TimeoutError):
            await asyncio.wait_for(go.wait(), RESTART_SECONDS)
        try:
            return await append(what)
        finally:
            stored.set()

    async def bring_up_before(what: Shard, published_position: int) -> None:
        await bring_up(what, published_position)
        go.set()
        await stored.wait()

    monkeypatch.setattr(system.store, "append", append_late)
    monkeypatch.setattr(orchestrator.take_over, "bring_up", bring_up_before)
    await system.publish(taken.dispatch.result_subject, taken.outcome("success", result=None))
    await asyncio.wait_for(held.wait(), WAIT_SECONDS)
    orchestrator._on_shard_in_doubt(shard)
    assert shard not in orchestrator.owner.shards
    system.connection.send(taken.reply, ACK)
    # No other event of the shard has to come along for the next dispatch to be sent.
    second = await system.take("late")
    assert second.dispatch.step_name == "two"
    await second.say("success", result=None)
    assert (await system.task(task_id))["status"] == "complete"
    await system.verify()


async def test_an_append_that_lands_after_its_answer_was_lost_is_published(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link to the database breaks while the statement still runs there, and keeps the shard's row locked."""
    steps = ({"name": "one", "handler": "noop"}, {"name": "two", "handler": "noop", "dependencies": ["one"]})
    await system.register(template("unseen", steps, namespace="unseen"))
    task_id, taken = await system.started("unseen", namespace="unseen")
    append, renew = system.store.append, system.store.renew_shards
    at_work: list[asyncio.Task[set[int]]] = []
    asked = asyncio.Event()

    async def append_unseen(what: Append) -> set[int]:
        if at_work or all(event.task_id != task_id for event in what.events):
            return await append(what)

        async def late() -> set[int]:
            await asked.wait()
            return await append(what)

        at_work.append(asyncio.ensure_future(late()))
        raise StoreUnavailable("the link broke")

    async def renew_behind(
        owner: str, epochs: dict[int, int], lease_ms: int, published: dict[int, int]
    ) -> set[int]:
        if at_work and not published and shard_of(task_id, SHARDS) in epochs:
            asked.set()
            await asyncio.shield(at_work[0])
        return await renew(owner, epochs, lease_ms, published)

    monkeypatch.setattr(system.store, "append", append_unseen)
    monkeypatch.setattr(system.store, "renew_shards", renew_behind)
    await system.publish(taken.dispatch.result_subject, taken.outcome("success", result=None))
    system.connection.send(taken.reply, ACK)
    second = await system.take("unseen")
    assert second.dispatch.step_name == "two"
    await second.say("success", result=None)
    assert (await system.task(task_id))["status"] == "complete"
    assert (await system.types(task_id)).count("step.completed") == 2
    await system.verify()


async def test_a_shard_that_is_in_doubt_again_while_it_restarts_has_one_consumer(system: System) -> None:
    orchestrator = system.orchestrator
    for shard in range(SHARDS):
        orchestrator._on_shard_in_doubt(shard)
        orchestrator._on_shard_in_doubt(shard)

    async def back() -> bool:
        return not orchestrator._taking_over and len(orchestrator.owner.shards) == SHARDS

    await eventually(back, timeout_seconds=WAIT_SECONDS)
    jetstream = system.connection.client.jetstream()

    async def pulls() -> list[int | None]:
        names = [subjects.command_consumer(shard) for shard in range(SHARDS)]
        return [(await jetstream.consumer_info(subjects.CMD_STREAM, name)).num_waiting for name in names]

    async def pulled() -> bool:
        return all(await pulls())

    await eventually(pulled, timeout_seconds=WAIT_SECONDS)
    await system.proves_itself()
    assert await pulls() == [1] * SHARDS


async def test_rows_that_another_flush_is_writing_are_waited_for(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open tries are found by the rows of their tasks: a rebuild that reads them too early forgets some."""
    await system.register(template("listed", namespace="listed"))
    projector, project = system.orchestrator.projector, system.store.project
    writing, go = asyncio.Event(), asyncio.Event()

    async def project_late(**rows: Any) -> None:
        if rows["tasks"]:
            writing.set()
            await go.wait()
        await project(**rows)

    async def nothing_behind() -> bool:
        await projector.flush()
        return not projector._behind

    await eventually(nothing_behind, timeout_seconds=WAIT_SECONDS)
    monkeypatch.setattr(system.store, "project", project_late)
    task_id = await system.create("listed", namespace="listed")
    first = asyncio.ensure_future(projector.flush())
    await asyncio.wait_for(writing.wait(), WAIT_SECONDS)
    assert not projector._behind
    second = asyncio.ensure_future(projector.flush())
    await asyncio.wait({second}, timeout=RESTART_SECONDS / 5)
    assert not second.done()
    go.set()
    await second
    assert task_id in await system.store.unfinished_tasks(shard_of(task_id, SHARDS))
    await first


async def test_streams_that_are_forgotten_meanwhile_are_looked_at_again(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = system.orchestrator.streams
    before = await streams.ensure_feeds()
    _, stamp = await streams.ensure_namespace(GOOD_NAMESPACE)
    ensure_consumer, forgotten = streams._ensure_consumer, False

    async def forget() -> None:
        streams.forget()

    async def ensure_and_forget(stream: str, wanted: ConsumerConfig) -> None:
        nonlocal forgotten
        await ensure_consumer(stream, wanted)
        if not forgotten:
            forgotten = True
            streams.forget()

    monkeypatch.setattr(streams, "_ensure_workers_bucket", forget)
    monkeypatch.setattr(streams, "_ensure_consumer", ensure_and_forget)
    assert await streams.ensure_feeds() == before
    assert not streams.has_queue(GOOD_NAMESPACE, "default")
    assert (await streams.ensure_namespace(GOOD_NAMESPACE))[1] == stamp
    assert forgotten and streams.has_queue(GOOD_NAMESPACE, "default")
