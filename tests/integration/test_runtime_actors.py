"""Actors that leave memory and come back: bounded caches, snapshots, timers, restarts, projections."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from stepweave import RetryableError, StepContext, step_handler
from stepweave.testing import eventually
from stepweave_eventstore.store import Append, EventRecord, EventStoreError, TaskFilter, TaskRow
from stepweave_orchestrator.core.snapshot import SNAPSHOT_FORMAT, decode_snapshot, encode_snapshot
from stepweave_orchestrator.runtime import consumer
from stepweave_orchestrator.runtime.rebuild import rebuild
from stepweave_schemas.mint import uuid7

from .conftest import GOOD_NAMESPACE, SHARDS, WAIT_SECONDS, Refused, System, running_system, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTORS_MAX = 5
ACTOR_BYTES_MAX = 400_000
NAMESPACE = "evicted"
RETRIED = {"max_attempts": 3, "backoff": "fixed", "backoff_base_ms": 1_000, "jitter": 0}
CHAIN = [{"name": f"s{n}", "handler": "noop", "dependencies": [f"s{n - 1}"] if n else []} for n in range(5)]


@step_handler("second_time_lucky")
async def second_time_lucky(context: StepContext) -> dict[str, int]:
    if context.attempt == 1:
        raise RetryableError("not yet")
    return {"attempt": context.attempt}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(module_database_url: str, module_nats_url: str) -> AsyncIterator[System]:
    bounds = {
        "actors_max": ACTORS_MAX,
        "actor_steps_max": 50,
        "actor_bytes_max": ACTOR_BYTES_MAX,
        "snapshot_events_min": 3,
    }
    async with running_system(module_database_url, module_nats_url, **bounds) as running:
        await running.register(template("chain", CHAIN, namespace=GOOD_NAMESPACE))
        await running.register(template("chain", CHAIN, namespace=NAMESPACE))
        lucky = [{"name": "only", "handler": "second_time_lucky", "retry": RETRIED}]
        await running.register(template("lucky", lucky, namespace="lucky"))
        async with running.worker(second_time_lucky, namespace="lucky"):
            yield running


async def crowd_out(system: System) -> None:
    """Let other tasks use the memory, until it holds none of the earlier ones."""
    others = (system.create("chain", namespace=GOOD_NAMESPACE) for _ in range(ACTORS_MAX * 3))
    await asyncio.gather(*(system.wait(task_id) for task_id in await asyncio.gather(*others)))


async def snapshots(system: System, statement: str, *arguments: object) -> list[Any]:
    connection = await asyncpg.connect(system.dsn, timeout=60)
    try:
        rows: list[Any] = await connection.fetch(statement, *arguments, timeout=60)
        return rows
    finally:
        await connection.close(timeout=60)


async def test_fifty_tasks_with_room_for_five(system: System) -> None:
    ids = await asyncio.gather(*(system.create("chain", namespace=GOOD_NAMESPACE) for _ in range(50)))
    tasks = await asyncio.gather(*(system.wait(task_id) for task_id in ids))
    assert {task.completed_steps for task in tasks} == {5}
    for task_id in ids:
        types = await system.types(task_id)
        assert types.count("step.completed") == types.count("step.enqueued") == 5
        assert types[-1] == "task.completed"


async def test_questions_do_not_fill_the_memory(system: System) -> None:
    ids = [await system.create("chain", namespace=GOOD_NAMESPACE) for _ in range(30)]
    await asyncio.gather(*(system.wait(task_id) for task_id in ids))
    for _ in range(2):
        tasks = await asyncio.gather(*(system.task(task_id) for task_id in ids))
        assert {task["status"] for task in tasks} == {"complete"}
    assert len(system.orchestrator.owner.actors) <= ACTORS_MAX


async def test_large_tasks_leave_memory_before_there_are_too_many(system: System) -> None:
    context = {"text": "x" * (ACTOR_BYTES_MAX // 3)}
    create = [system.create("chain", namespace=GOOD_NAMESPACE, context=context) for _ in range(6)]
    for task_id in await asyncio.gather(*create):
        await system.wait(task_id)
        await system.task(task_id)

    async def within() -> bool:
        return system.orchestrator.owner.actors.size_bytes <= ACTOR_BYTES_MAX

    await eventually(within, timeout_seconds=WAIT_SECONDS, what="room for two of them")
    assert 0 < len(system.orchestrator.owner.actors) < ACTORS_MAX


async def test_a_snapshot_is_written_and_used(system: System) -> None:
    task_id, taken = await system.started("chain", namespace=NAMESPACE, reason="as it was created")
    await taken.say("success", result={"n": 0})
    second = await system.take(NAMESPACE)
    await crowd_out(system)

    async def written() -> bool:
        return await system.store.load_snapshot(task_id, format=SNAPSHOT_FORMAT) is not None

    await eventually(written, timeout_seconds=WAIT_SECONDS, what="a snapshot")
    snapshot = await system.store.load_snapshot(task_id, format=SNAPSHOT_FORMAT)
    assert snapshot is not None
    assert snapshot.version == len(await system.history(task_id)) == 4
    # It is the state that replaying gives, and the one that the next command meets.
    created = (await system.history(task_id))[0]
    state = await system.orchestrator.loader.task_state(created)
    plan = state.the_plan
    assert encode_snapshot(decode_snapshot(snapshot.state, plan)) == encode_snapshot(state)
    state.reason = "as the snapshot has it"
    await snapshots(
        system,
        "UPDATE stepweave.snapshots SET state = $2 WHERE task_id = $1::text::uuid",
        task_id,
        encode_snapshot(state),
    )
    assert (await system.task(task_id))["reason"] == "as the snapshot has it"
    # One that cannot be read is passed over.
    await crowd_out(system)
    await snapshots(
        system,
        "UPDATE stepweave.snapshots SET state = $2 WHERE task_id = $1::text::uuid",
        task_id,
        b"\xc1 nonsense",
    )
    await second.say("success", result={"n": 1})
    assert (await system.task(task_id))["reason"] == "as it was created"
    for number in (2, 3, 4):
        third = await system.take(NAMESPACE)
        assert list(third.dispatch.dependency_results) == [f"s{n}" for n in reversed(range(number))]
        await third.say("success", result={"n": number})
    assert (await system.task(task_id))["status"] == "complete"
    assert await system.client.get_results(task_id) == {f"s{n}": {"n": n} for n in range(5)}


async def test_a_cold_task_answers_repetitions_like_a_warm_one(system: System) -> None:
    request = {"name": "chain", "namespace": NAMESPACE, "idempotency_key": "cold", "context": {"a": 1}}
    first = await system.request("task.create", request)
    task_id = first["task"]["task_uuid"]
    taken = await system.take(NAMESPACE)
    await taken.say("success", result=1)
    await crowd_out(system)
    async with system.unharmed():
        assert (await system.request("task.create", request))["replayed"] is True
        refused = await system.refusal("task.create", {**request, "context": {"a": 2}})
        assert refused.code == "CONFLICT"
        await crowded(system, taken.outcome("success", result=1), taken.dispatch.result_subject)
    assert (await system.request("task.cancel", {"task_id": task_id}))["status"] == "cancelled"


async def crowded(system: System, told: dict[str, Any], subject: str) -> None:
    """Say something to a task that is not in memory."""
    system.orchestrator.owner.actors.drop([told["task_id"]])
    await system.say(subject, told)


async def test_a_creation_is_repeated_after_its_task_left_memory(system: System) -> None:
    """The id is new to the process, not to the store."""
    task_id = await system.create("chain", namespace=GOOD_NAMESPACE, context={"a": 1})
    await system.wait(task_id)
    await crowd_out(system)
    async with system.unharmed():
        request = {"name": "chain", "namespace": GOOD_NAMESPACE, "task_id": task_id, "context": {"a": 1}}
        beside = [system.request("task.get", {"task_id": task_id}) for _ in range(5)]
        again = await asyncio.gather(*(system.request("task.create", request) for _ in range(5)), *beside)
        assert {one["replayed"] for one in again[:5]} == {True}
        assert (await system.refusal("task.create", {**request, "context": {}})).code == "CONFLICT"


async def test_timers_survive_eviction(system: System) -> None:
    task_id = await system.create("lucky", namespace="lucky")
    await system.wait(task_id, "waiting_for_retry")
    await crowd_out(system)
    await system.wait(task_id)
    await check_retry(system, task_id)


async def check_retry(system: System, task_id: str) -> None:
    """The second try came when its time had come."""
    history = {event.type: event for event in await system.history(task_id)}
    scheduled = json.loads(history["step.retry_scheduled"].data)
    assert (scheduled["delay_ms"], scheduled["delay_source"]) == (1_000, "backoff")
    tries = [event for event in await system.history(task_id) if event.type == "step.enqueued"]
    assert len(tries) == 2
    assert tries[1].recorded_at_ms >= scheduled["retry_at_ms"]
    assert await system.client.get_results(task_id) == {"only": {"attempt": 2}}


async def test_timers_survive_a_restart(system: System) -> None:
    start = datetime.now(UTC) + timedelta(seconds=1.2)
    delayed = await system.create("chain", namespace=GOOD_NAMESPACE, start_at=start.isoformat())
    retried = await system.create("lucky", namespace="lucky")
    await system.wait(retried, "waiting_for_retry")
    begun = time.monotonic()
    await system.stop_orchestrator(system.orchestrator)
    await system.start_orchestrator()
    assert (await system.task(delayed))["status"] == "pending"
    await system.wait(retried)
    await system.wait(delayed)
    assert time.monotonic() - begun < 6
    await check_retry(system, retried)
    started = next(event for event in await system.history(delayed) if event.type == "task.started")
    assert started.recorded_at_ms >= start.timestamp() * 1000 - 1
    assert [wakeup for shard in range(4) for wakeup in await system.store.wakeups(shard)] == []


async def test_a_moment_that_passed_while_nobody_was_there(system: System) -> None:
    start = datetime.now(UTC) + timedelta(seconds=0.3)
    task_id = await system.create("chain", namespace=GOOD_NAMESPACE, start_at=start.isoformat())
    await system.stop_orchestrator(system.orchestrator)
    async with asyncio.timeout(5):
        while datetime.now(UTC) < start:
            await asyncio.sleep(0.02)
    await system.start_orchestrator()
    await system.wait(task_id)


async def test_a_task_that_cannot_be_rebuilt_harms_no_other_and_loses_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a fault of ours: once it is mended, the result that waited is taken."""
    task_id, taken = await system.started("chain", namespace=NAMESPACE)
    await crowd_out(system)
    rebuild_state = system.orchestrator.loader.task_state

    async def fails(created: EventRecord, **options: Any) -> Any:
        if created.task_id == task_id:
            raise KeyError("an event that this version does not know")
        return await rebuild_state(created, **options)

    with monkeypatch.context() as patch:
        patch.setattr(system.orchestrator.loader, "task_state", fails)
        patch.setattr(consumer, "UNLOADABLE_SECONDS", 0.2)
        assert (await system.refusal("task.get", {"task_id": task_id})).code == "INTERNAL_ERROR"
        assert (await system.refusal("task.cancel", {"task_id": task_id})).code == "INTERNAL_ERROR"
        await system.publish(taken.dispatch.result_subject, taken.outcome("success", result=1))
        await system.proves_itself()
        assert await system.types(task_id) == ["task.created", "step.enqueued"]
    await system.all_taken()
    assert (await system.task(task_id))["steps"][0]["current_state"] == "complete"
    await system.request("task.cancel", {"task_id": task_id})


async def test_a_store_that_refuses_for_a_while_loses_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with rights that are missing, until somebody grants them."""
    task_id, taken = await system.started("chain", namespace=NAMESPACE)
    append = system.store.append
    failed = 0

    async def fails(batch: Append) -> set[int]:
        nonlocal failed
        failed += 1
        if failed <= 2:
            raise EventStoreError("no rights")
        return await append(batch)

    with monkeypatch.context() as patch:
        patch.setattr(system.store, "append", fails)
        await system.publish(taken.dispatch.result_subject, taken.outcome("success", result=1))
        await system.proves_itself()
    assert failed > 2
    await system.all_taken()
    assert (await system.types(task_id))[2:] == ["step.completed", "step.enqueued"]
    await system.request("task.cancel", {"task_id": task_id})


async def test_a_command_that_no_commit_can_carry_harms_no_other(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours, met by one of many commands in a batch: it alone is refused."""
    append = system.store.append
    blamed = uuid7()

    async def fails(batch: Append) -> set[int]:
        if any(event.task_id == blamed for event in batch.events):
            raise KeyError("a fault")
        return await append(batch)

    request = {"name": "chain", "namespace": GOOD_NAMESPACE}
    with monkeypatch.context() as patch:
        patch.setattr(system.store, "append", fails)
        others = asyncio.gather(*(system.create(**request) for _ in range(20)))
        refused = await system.refusal("task.create", {**request, "task_id": blamed})
        assert refused.code in ("VALIDATION_FAILED", "INTERNAL_ERROR")
        assert "a fault" not in refused.message
        for task_id in await others:
            await system.wait(task_id)
    assert await system.history(blamed) == []
    await system.proves_itself()


async def door_opens(system: System) -> None:
    """Wait until a create is taken again: the client asks until it is."""
    await system.client.create_task("proof", namespace=GOOD_NAMESPACE, timeout_seconds=WAIT_SECONDS)


async def test_more_than_is_held_is_refused_and_leaves_no_trace(system: System) -> None:
    await system.stop_orchestrator(system.orchestrator)
    await system.start_orchestrator(inbox_works_max=3)

    async def created() -> int:
        count = 0
        for shard in range(SHARDS):
            async for event in system.store.walk(shard):
                count += event.type == "task.created"
        return count

    before = await created()
    request = {"name": "proof", "namespace": GOOD_NAMESPACE, "idempotency_key": ""}
    requests = [system.request("task.create", {**request, "idempotency_key": f"k{n}"}) for n in range(200)]
    endings = await asyncio.gather(*requests, return_exceptions=True)
    refused = [ending for ending in endings if isinstance(ending, Refused)]
    accepted = [ending["task"]["task_uuid"] for ending in endings if isinstance(ending, dict)]
    assert len(refused) + len(accepted) == 200
    assert refused and accepted
    assert {one.code for one in refused} == {"BACKPRESSURE"}, {str(one) for one in refused}
    assert {one.details["reason"] for one in refused} <= {"creates_under_way", "commands_waiting"}
    assert all(1 <= one.details["retry_after_seconds"] <= 30 for one in refused)
    assert await created() == before + len(accepted)
    await asyncio.gather(*(system.wait(task_id) for task_id in accepted))
    # Of a bulk request that is refused nothing is done, not the first few.
    await door_opens(system)
    bulk = [[{"name": "proof", "namespace": GOOD_NAMESPACE} for _ in range(5)] for _ in range(40)]
    requests = [system.request("task.create_many", {"tasks": tasks}) for tasks in bulk]
    many = await asyncio.gather(*requests, return_exceptions=True)
    refused = [ending for ending in many if isinstance(ending, Refused)]
    taken = [one for ending in many if isinstance(ending, dict) for one in ending["tasks"]]
    assert refused and taken and len(refused) * 5 + len(taken) == 200
    assert not any(one.get("error") for one in taken)
    # A fork is a create, too; what one would do is told in any case.
    shown = await system.request("task.get", {"task_id": accepted[0]})
    await door_opens(system)
    rerun = {"task_id": accepted[0], "from_steps": [shown["steps"][-1]["name"]]}
    requests = [system.request("task.fork", rerun) for _ in range(100)]
    forks = await asyncio.gather(*requests, return_exceptions=True)
    refused = [ending for ending in forks if isinstance(ending, Refused)]
    begun = [ending["task"]["task_uuid"] for ending in forks if isinstance(ending, dict)]
    assert refused and begun and len(refused) + len(begun) == 100
    assert {one.code for one in refused} == {"BACKPRESSURE"}, {str(one) for one in refused}
    plans = await asyncio.gather(
        *(system.request("task.fork", {**rerun, "dry_run": True}) for _ in range(20))
    )
    assert all(plan["dry_run"] for plan in plans)
    await asyncio.gather(*(system.wait(task_id) for task_id in begun))
    assert await created() == before + len(accepted) + len(taken) + len(begun) + 2
    # The client waits and asks again.
    again = [
        system.client.create_task("proof", namespace=GOOD_NAMESPACE, idempotency_key=f"k{n}")
        for n in range(4)
    ]
    assert len({task.task_uuid for task in await asyncio.gather(*again)}) == 4
    await system.stop_orchestrator(system.orchestrator)
    await system.start_orchestrator()


async def rows(system: System) -> dict[str, TaskRow]:
    found, total = await system.store.list_tasks(TaskFilter(limit=1_000))
    assert total == len(found)
    return {row.task_id: row for row in found}


async def test_projections_are_the_tasks_and_can_be_rebuilt(system: System) -> None:
    """Runs last: rebuilt beside the orchestrator, and without one."""
    blocked, taken = await system.started("chain", namespace=NAMESPACE, tags=["a", "b"], initiator="ana")
    await taken.say("failure", error_message="no", retryable=False)
    cancelled = await system.create("chain", namespace=NAMESPACE, priority=7)
    await system.request("task.cancel", {"task_id": cancelled})
    open_task = await system.create("chain", namespace=NAMESPACE)

    async def caught_up() -> bool:
        heads = await system.heads()
        return all([await system.store.projected_position(shard) == head for shard, head in heads.items()])

    await eventually(caught_up, timeout_seconds=WAIT_SECONDS, what="projections at the head")
    before = await rows(system)
    templates = await system.store.list_templates()
    assert {before[one].status for one in (blocked, cancelled, open_task)} == {
        "blocked_by_failures",
        "cancelled",
        "steps_in_process",
    }
    for task_id, row in before.items():
        task = await system.client.get_task(task_id)
        assert (row.status, row.version, row.completed_steps, row.tags) == (
            task.status,
            task.stream_version,
            task.completed_steps,
            tuple(task.tags),
        )
    done = await rebuild(system.store)
    assert {shard.emptied for shard in done} == {False}
    assert await rows(system) == before
    await system.stop_orchestrator(system.orchestrator)
    try:
        head = await rows(system)
        assert {task_id: row.version for task_id, row in head.items()} == {
            task_id: row.version for task_id, row in before.items()
        }
        await system.store.reset_projections()
        assert await rows(system) == {}
        done = await rebuild(system.store)
        assert {shard.emptied for shard in done} == {True}
        assert await rows(system) == before
        assert await system.store.list_templates() == templates
    finally:
        await system.start_orchestrator()
    await system.request("task.cancel", {"task_id": open_task})
