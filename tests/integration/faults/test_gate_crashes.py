"""Slots, circuits and rates, and a SIGKILL of whoever has them in hand: no limit is exceeded, nobody is forgotten."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_eventstore.store import EventRecord
from stepweave_schemas.gate import circuit_id, rate_id, slots_id

from .conftest import Stack, until
from .dynamic_scene import Scene, shard

LIMIT = 2
TASKS = 5
BANK = circuit_id("faults", "bank")
#: Longer than it takes to kill and to start.
OPEN_SECONDS = 2.0
#: Steps a second, and tasks that want to begin at once.
RATE = 5
PACED = 10


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[Scene]:
    store = await PostgresEventStore.connect(stack.servers.dsn)
    try:
        scene = Scene(stack, store)
        await scene.new_orchestrator()
        await stack.client.register_template(slotted())
        await stack.client.register_template(calling())
        yield scene
    finally:
        await store.close()


def _template(name: str, step: dict[str, Any]) -> str:
    return json.dumps({"namespace": "faults", "name": name, "version": "1.0.0", "steps": [step]})


def slotted() -> str:
    retry = {"max_attempts": 5, "backoff": "none"}
    slots = {"key": "customer", "limit": LIMIT}
    return _template("slotted", {"name": "only", "handler": "counted", "retry": retry, "concurrency": slots})


def calling() -> str:
    retry = {"max_attempts": 50, "backoff": "fixed", "backoff_base_ms": 10, "jitter": 0.0}
    breaker = {"failure_threshold": 2, "window_seconds": 60, "open_seconds": OPEN_SECONDS}
    step = {"name": "only", "handler": "call_bank", "retry": retry, "system_dependency": "bank"}
    return _template("calling", {**step, "circuit_breaker": breaker})


def gate_of(customer: str) -> str:
    """The slots of one value of the key."""
    return slots_id("faults", "customer", json.dumps(customer))


async def begin_all(scene: Scene, customer: str) -> list[str]:
    """Tasks of which as many run as may, in the order in which they came."""
    tasks: list[str] = []
    for number in range(TASKS):
        tasks.append(await scene.begin("slotted", "only", customer=customer))
        # One after the other, so that it is known who goes first.
        event, count = ("granted", number + 1) if number < LIMIT else ("queued", number + 1 - LIMIT)
        await scene.waits_for(gate_of(customer), f"slots.{event}", count)
    for task_id in tasks[:LIMIT]:
        await scene.held(task_id, "only")
    return tasks


def most_at_once(scene: Scene, tasks: list[str]) -> int:
    """How many handlers of these ran at the same time, by their own word."""
    running = most = 0
    for act in scene.acts():
        if act.task_id in tasks:
            running += {"in": 1, "out": -1}.get(act.what, 0)
            most = max(most, running)
    return most


async def all_end(scene: Scene, tasks: list[str], customer: str) -> None:
    """Each task completes, and each slot comes back."""
    for task_id in tasks:
        scene.let_go(task_id, "only")
    for task_id in tasks:
        await scene.ended(task_id)

    async def all_back() -> bool:
        held: set[str] = set()
        for record in await scene.history(gate_of(customer)):
            if record.type == "slots.granted":
                held.add(msgspec.json.decode(record.data)["token"])
            elif record.type == "slots.freed":
                held.discard(msgspec.json.decode(record.data)["token"])
        return not held

    await until(all_back)


# -- slots -----------------------------------------------------------------------------------------


async def crash_of_the_gate_s_owner(scene: Scene, point: str) -> None:
    """The commits after a step's end: the task that gives its slot back, the gate that gives it to the next one."""
    tasks = await begin_all(scene, point)
    release = lambda: scene.let_go(tasks[0], "only")  # noqa: E731
    await scene.crash(point, release, gate_of(point), "slots.granted", count=2)
    await goes_on(scene, tasks, point)


async def crash_of_the_task_s_owner(scene: Scene, point: str) -> None:
    """The third commit is that of the task which has got the slot: it begins, or did not hear of it."""
    tasks = await begin_all(scene, f"task {point}")
    release = lambda: scene.let_go(tasks[0], "only")  # noqa: E731
    await scene.crash(point, release, tasks[LIMIT], "step.enqueued", count=3)
    await goes_on(scene, tasks, f"task {point}")


async def goes_on(scene: Scene, tasks: list[str], customer: str) -> None:
    """Who waited first has the slot, the others wait for theirs."""
    await scene.held(tasks[LIMIT], "only")
    assert (await scene.types(gate_of(customer)))["slots.granted"] == LIMIT + 1
    await all_end(scene, tasks, customer)
    assert most_at_once(scene, tasks) == LIMIT


async def test_owners_of_gates_and_of_tasks_killed(scene: Scene) -> None:
    await scene.worker()
    for point in ("before_append", "after_append", "half_published", "before_acks"):
        await crash_of_the_gate_s_owner(scene, point)
    for point in ("before_append", "after_append"):
        await crash_of_the_task_s_owner(scene, point)
    await scene.check()
    # Its worker lived: no try was lost.
    scene.each_try_once()
    assert {act.attempt for act in scene.acts()} == {1}


@pytest.mark.parametrize("orchestrator", ["lives", "dies"])
async def test_worker_killed_and_storage_deleted_with_holders_and_waiters(
    scene: Scene, orchestrator: str
) -> None:
    stack = scene.stack
    worker = await scene.worker()
    tasks = await begin_all(scene, "ada")
    await worker.kill()
    worker = await scene.worker()
    # Its tries are lost and their slots free: the next ones have them, and they stand behind.
    for task_id in tasks[LIMIT : 2 * LIMIT]:
        await scene.held(task_id, "only")
    for task_id in tasks[:LIMIT]:
        types = await scene.types(task_id)
        assert (types["step.retry_scheduled"], types["concurrency.released"]) == (1, 1)
    down = stack.folder / "bank is down"
    down.touch()
    caller = await scene.begin("calling")
    await scene.waits_for(caller, "circuit.held")
    await stack.client.cancel_task(tasks[-1], reason="no need")
    if orchestrator == "dies":
        await scene.orchestrator.kill()
        await scene.bury()
    await worker.kill()
    await stack.servers.nats.kill()
    shutil.rmtree(stack.servers.nats.data_dir / "jetstream", ignore_errors=False)
    down.unlink()
    await stack.servers.nats.restart()
    if orchestrator == "dies":
        await scene.new_orchestrator()
    await scene.worker()
    await all_end(scene, tasks[:-1], "ada")
    await scene.ended(caller)
    await scene.check()


# -- circuits --------------------------------------------------------------------------------------


async def test_a_circuit_outlives_its_owner_and_all_know_of_it(scene: Scene) -> None:
    await scene.worker()
    down = scene.stack.folder / "bank is down"
    down.touch()
    first = await scene.begin("calling")
    await scene.waits_for(first, "circuit.held")
    assert (await scene.types(BANK))["breaker.opened"] >= 1
    await scene.orchestrator.kill()
    await scene.bury()
    await scene.new_orchestrator()
    await scene.new_orchestrator()
    await scene.shared()
    tasks = [await scene.begin("calling") for _ in range(8)]
    owners = await scene.owners()
    assert len({owners[shard(task_id)] for task_id in tasks}) == 2
    for task_id in tasks:
        await scene.waits_for(task_id, "circuit.held")
        # It was held at once: nobody asked the bank for it before.
        history = [record.type for record in await scene.history(task_id)]
        assert history[:2] == ["task.created", "circuit.held"]
    down.unlink()
    for task_id in (first, *tasks):
        await scene.ended(task_id)
    types = await scene.types(BANK)
    assert types["breaker.closed"] == 1 and types["breaker.opened"] == types["breaker.half_opened"]
    # One probe at a time: as many as there were times.
    probes = [
        record
        for record in await scene.history(BANK)
        if record.type == "breaker.passed" and msgspec.json.decode(record.data).get("is_probe")
    ]
    assert len(probes) <= types["breaker.half_opened"]
    await scene.check()


# -- rates -----------------------------------------------------------------------------------------


async def test_a_rate_outlives_its_owner(scene: Scene) -> None:
    """It is killed while some wait, and again in the commit that lets one through, which nobody has heard of then."""
    await scene.orchestrator.kill()
    await scene.bury()
    scene.settings["STEPWEAVE_RATES_BY_NAMESPACE"] = json.dumps({"faults": RATE})
    await scene.new_orchestrator()
    await scene.worker()
    await scene.stack.client.register_template(_template("paced", {"name": "only", "handler": "counted"}))
    tasks = [await scene.begin("paced") for _ in range(PACED)]
    gate = rate_id("faults")
    await scene.waits_for(gate, "throttle.queued", 2)
    await scene.orchestrator.kill()
    await scene.bury()
    await scene.new_orchestrator()

    async def passed() -> list[EventRecord]:
        return [record for record in await scene.history(gate) if record.type == "throttle.passed"]

    known = len(await passed())
    # It may die before it could say that it is armed: turns come by themselves.
    (scene.stack.folder / "crash").write_text("after_append:1")
    scene.orchestrator.signal(signal.SIGUSR1)
    assert await scene.orchestrator.dead() == -signal.SIGKILL
    await scene.bury()
    await scene.new_orchestrator()
    for task_id in tasks:
        await scene.ended(task_id)
    records = await passed()
    tokens = [msgspec.json.decode(record.data)["token"] for record in records]
    assert len(set(tokens)) == len(tokens) == PACED > known
    begun_ms = [record.recorded_at_ms for record in records]
    for early_ms, late_ms in zip(begun_ms, begun_ms[RATE:], strict=False):
        assert late_ms - early_ms >= 1_000
    await scene.check()
    scene.each_try_once()
