"""Real processes, killed by SIGKILL or paused by SIGSTOP, and what holds when they are back."""

from __future__ import annotations

import asyncio
import shutil
import signal

import msgspec
import pytest

from stepweave_eventstore.postgres import PostgresEventStore

from .conftest import Stack, chain, until

QUICK = chain("quick", ["quick"] * 4)


@pytest.mark.parametrize("point", ["before_append", "after_append", "half_published", "before_acks"])
async def test_orchestrator_killed_at_a_crash_point(stack: Stack, point: str) -> None:
    first = await stack.orchestrator()
    await stack.client.register_template(QUICK)
    first.signal(signal.SIGTERM)
    assert await first.dead() == 0
    # However well the commands are packed, a chain of four takes more commits than this one.
    doomed = await stack.orchestrator(STEPWEAVE_CRASH_POINT=f"{point}:5")
    await stack.worker()
    creating = asyncio.ensure_future(stack.create("quick", 30))
    assert await doomed.dead() == -signal.SIGKILL
    await stack.orchestrator()
    task_ids = await creating
    assert len(set(task_ids)) == 30
    await stack.complete(task_ids)
    await stack.check(task_ids)


async def test_two_orchestrators_one_killed(stack: Stack) -> None:
    first = await stack.orchestrator()
    await stack.client.register_template(QUICK)
    await stack.orchestrator()
    await stack.worker()
    store = await PostgresEventStore.connect(stack.servers.dsn)

    async def shared() -> bool:
        return len({row.owner for row in await store.shards()}) == 2

    await until(shared)
    await store.close()
    creating = asyncio.ensure_future(stack.create("quick", 60))
    await until(lambda: _some_runs(stack, 20))
    await first.kill()
    task_ids = await creating
    await stack.complete(task_ids)
    await stack.check(task_ids)


async def test_orderly_hand_over_loses_no_time_and_nothing_else(stack: Stack) -> None:
    first = await stack.orchestrator()
    await stack.client.register_template(QUICK)
    await stack.orchestrator()
    await stack.worker()
    creating = asyncio.ensure_future(stack.create("quick", 60))
    await until(lambda: _some_runs(stack, 20))
    first.signal(signal.SIGTERM)
    assert await first.dead() == 0
    task_ids = await creating
    await stack.complete(task_ids)
    histories = await stack.check(task_ids)
    assert all(event.type != "step.retry_scheduled" for events in histories.values() for event in events)


async def test_worker_killed_in_the_middle_of_a_step(stack: Stack) -> None:
    await stack.orchestrator()
    await stack.client.register_template(chain("slow", ["slow", "quick"]))
    first = await stack.worker()
    task_ids = await stack.create("slow", 1)
    await until(lambda: _some_runs(stack, 1))
    await first.kill()
    await stack.worker()
    await until(lambda: _some_runs(stack, 2))
    (stack.folder / "go").touch()
    await stack.complete(task_ids)
    history = (await stack.check(task_ids))[task_ids[0]]
    lost = [msgspec.json.decode(e.data) for e in history if e.type == "step.retry_scheduled"]
    assert [(e["error_type"], e["attempt"]) for e in lost] == [("worker_lost", 1)]
    runs = [run for run in stack.runs() if run[0] == lost[0]["step_uuid"]]
    assert [run[1] for run in runs] == ["1", "2"]


async def test_handler_that_kills_its_process(stack: Stack) -> None:
    await stack.orchestrator()
    await stack.client.register_template(chain("deadly", ["deadly"]))
    first = await stack.worker()
    task_ids = await stack.create("deadly", 1)
    assert await first.dead() == -signal.SIGKILL
    await stack.worker()
    await stack.complete(task_ids)
    await stack.check(task_ids)
    assert [run[1] for run in stack.runs()] == ["1", "2"]


async def test_nats_killed_and_restarted(stack: Stack) -> None:
    await stack.orchestrator()
    await stack.client.register_template(QUICK)
    await stack.worker()
    creating = asyncio.ensure_future(stack.create("quick", 60))
    await until(lambda: _some_runs(stack, 20))
    await stack.servers.nats.kill()
    await stack.servers.nats.restart()
    task_ids = await creating
    await stack.complete(task_ids)
    await stack.check(task_ids)


async def test_postgres_killed_and_restarted(stack: Stack) -> None:
    await stack.orchestrator()
    await stack.client.register_template(QUICK)
    await stack.worker()
    creating = asyncio.ensure_future(stack.create("quick", 60))
    await until(lambda: _some_runs(stack, 20))
    await stack.servers.postgres.kill()
    await stack.servers.postgres.restart()
    task_ids = await creating
    await stack.complete(task_ids)
    await stack.check(task_ids)


async def test_jetstream_storage_deleted_while_everything_is_down(stack: Stack) -> None:
    first = await stack.orchestrator()
    await stack.client.register_template(QUICK)
    await stack.client.register_template(chain("slow", ["quick", "slow", "quick"]))
    worker = await stack.worker()
    done = await stack.create("quick", 10)
    await stack.complete(done)
    task_ids = await stack.create("slow", 10)
    await until(lambda: _some_runs(stack, 60))
    await first.kill()
    await worker.kill()
    await stack.servers.nats.kill()
    shutil.rmtree(stack.servers.nats.data_dir / "jetstream", ignore_errors=False)
    (stack.folder / "go").touch()
    await stack.servers.nats.restart()
    await stack.orchestrator()
    await stack.worker()
    await stack.complete(task_ids)
    await stack.check([*done, *task_ids])


async def test_jetstream_storage_deleted_under_a_running_orchestrator(stack: Stack) -> None:
    await stack.orchestrator()
    await stack.client.register_template(chain("slow", ["quick", "slow", "quick"]))
    worker = await stack.worker()
    task_ids = await stack.create("slow", 10)
    await until(lambda: _some_runs(stack, 20))
    await worker.kill()
    await stack.servers.nats.kill()
    shutil.rmtree(stack.servers.nats.data_dir / "jetstream", ignore_errors=False)
    (stack.folder / "go").touch()
    await stack.servers.nats.restart()
    await stack.worker()
    await stack.complete(task_ids)
    await stack.check(task_ids)


async def test_paused_owner_wakes_as_a_zombie(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every other request goes to the one that is paused, and is tried again after so long.
    monkeypatch.setattr("stepweave.client.TRY_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr("stepweave.client.RETRY_PAUSE_SECONDS_MAX", 0.1)
    paused = await stack.orchestrator(STEPWEAVE_OWNER="paused")
    await stack.client.register_template(QUICK)
    await stack.worker()
    before = await stack.create("quick", 20)
    await stack.complete(before)
    creating = asyncio.ensure_future(stack.create("quick", 24))
    await until(lambda: _some_runs(stack, 100))
    paused.signal(signal.SIGSTOP)
    await stack.orchestrator(STEPWEAVE_OWNER="heir")
    task_ids = await creating
    await stack.complete(task_ids)
    store = await PostgresEventStore.connect(stack.servers.dsn)
    assert {row.owner for row in await store.shards()} == {"heir"}
    epochs = {row.shard: row.epoch for row in await store.shards()}
    paused.signal(signal.SIGCONT)

    async def noticed() -> bool:
        return "lost the lease of a shard" in paused.log.read_text()

    await until(noticed)
    acquired = [
        msgspec.json.decode(event.data)
        for shard in epochs
        async for event in store.walk(shard)
        if event.type == "orchestrator.shard_acquired"
    ]
    await store.close()
    # Whatever the zombie may own from now on it took by a new epoch; in the old one it wrote nothing more.
    assert {event["owner"] for event in acquired if event["epoch"] == 1} == {"paused"}
    assert all(event["owner"] == "heir" for event in acquired if event["epoch"] == 2)
    await stack.check([*before, *task_ids])


async def _some_runs(stack: Stack, count: int) -> bool:
    return len(stack.runs()) >= count
