"""What crosses tasks, on real servers: slots of concurrency keys, circuits of services, rates of namespaces."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from stepweave import NotFound, RetryableError, StepContext, step_handler
from stepweave.testing import eventually
from stepweave_eventstore.store import StreamFilter
from stepweave_orchestrator.core.gates import slots
from stepweave_orchestrator.runtime import gate_orders
from stepweave_schemas.gate import circuit_id, rate_id, slots_id

from .conftest import WAIT_SECONDS, System, running_system, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE = 20.0
#: Commands of a shard that are not acknowledged: few, so that what is put off would soon keep out all others.
IN_FLIGHT = 16
#: How many run at once, by what the test calls it; the most there were.
running: Counter[str] = Counter()
most: Counter[str] = Counter()
#: Of whom two have run at once.
together: dict[str, asyncio.Event] = {}
#: Whether the bank answers, and how often it was called.
bank = {"is_up": True, "calls": 0}


@step_handler("work")
async def work(context: StepContext) -> None:
    key = context.get_input_or("customer", "nobody")
    running[key] += 1
    most[key] = max(most[key], running[key])
    if key in together:
        # Two may run at once, and so they do: the first one waits for the second.
        if most[key] >= 2:
            together[key].set()
        await asyncio.wait_for(together[key].wait(), WAIT_SECONDS)
    # Others come in here, if they may.
    await asyncio.sleep(0)
    running[key] -= 1


@step_handler("call_bank")
async def call_bank(context: StepContext) -> str:
    bank["calls"] += 1
    if not bank["is_up"]:
        raise RetryableError("the bank does not answer")
    return "ok"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(module_database_url: str, module_nats_url: str) -> AsyncIterator[System]:
    """Two orchestrators, so that tasks and their gates have different owners."""
    settings = {"rates_by_namespace": {"slow": RATE}, "commands_in_flight_max": IN_FLIGHT}
    async with running_system(module_database_url, module_nats_url, **settings) as running:
        await running.start_orchestrator()
        async with (
            running.worker(work, call_bank, namespace="gates"),
            running.worker(work, namespace="slow"),
        ):
            yield running


async def test_slots_of_a_key(system: System) -> None:
    step = {"name": "only", "handler": "work", "concurrency": {"key": "customer", "limit": 2}}
    await system.register(template("orders", [step], namespace="gates"))
    together.update(ada=asyncio.Event(), bob=asyncio.Event())
    tasks = [
        await system.create("orders", namespace="gates", context={"customer": customer})
        for customer in ("ada", "bob") * 10
    ]
    for task_id in tasks:
        await system.wait(task_id)
    assert (most["ada"], most["bob"]) == (2, 2)
    types = await system.types(tasks[-1])
    assert types == [
        "task.created",
        "concurrency.requested",
        "concurrency.granted",
        "step.enqueued",
        "step.completed",
        "concurrency.released",
        "task.completed",
    ]
    gate = slots_id("gates", "customer", '"ada"')

    async def all_free() -> bool:
        counted = Counter(await system.types(gate))
        return counted["slots.granted"] == counted["slots.freed"] == 10

    await eventually(all_free, timeout_seconds=WAIT_SECONDS, what="every slot given back")


async def test_a_full_gate_holds_up_neither_its_shard_nor_itself(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "WAITING_MAX", 4)
    monkeypatch.setattr(gate_orders, "FULL_SECONDS", 0.1)
    step = {"name": "only", "handler": "work", "concurrency": {"key": "customer", "limit": 1}}
    await system.register(template("crowd", [step], namespace="gates"))
    # More are put off than commands of one shard may be in flight.
    tasks = [
        await system.create("crowd", namespace="gates", context={"customer": "eve"})
        for _ in range(3 * IN_FLIGHT)
    ]
    for task_id in tasks:
        await system.wait(task_id)
    assert most["eve"] == 1


async def test_slots_of_a_whole_task_are_given_back_by_the_dead(system: System) -> None:
    steps = [{"name": "only", "handler": "nobody_has_this"}]
    await system.register(template("single", steps, namespace="gates", concurrency={"limit": 1}))
    first = await system.create("single", namespace="gates")
    await eventually(
        lambda: _has(system, first, "step.enqueued"), timeout_seconds=WAIT_SECONDS, what="the first begins"
    )
    second = await system.create("single", namespace="gates")
    assert (await system.task(second))["status"] == "waiting_for_dependencies"
    await system.client.cancel_task(first, reason="no need")
    await eventually(
        lambda: _has(system, second, "step.enqueued"), timeout_seconds=WAIT_SECONDS, what="the second begins"
    )
    await system.client.cancel_task(second, reason="no need")


async def _has(system: System, task_id: str, event: str) -> bool:
    return event in await system.types(task_id)


async def test_a_circuit_opens_and_held_steps_resume(system: System) -> None:
    retry = {"max_attempts": 10, "backoff": "fixed", "backoff_base_ms": 1, "jitter": 0.0}
    step = {
        "name": "only",
        "handler": "call_bank",
        "system_dependency": "bank",
        "retry": retry,
        "circuit_breaker": {"failure_threshold": 3, "window_seconds": 60, "open_seconds": 0.3},
    }
    await system.register(template("transfer", [step], namespace="gates"))
    bank["is_up"] = False
    first = await system.create("transfer", namespace="gates")
    circuit = circuit_id("gates", "bank")
    await eventually(
        lambda: _has(system, circuit, "breaker.opened"), timeout_seconds=WAIT_SECONDS, what="an open circuit"
    )
    await eventually(
        lambda: _has(system, first, "circuit.held"), timeout_seconds=WAIT_SECONDS, what="a held step"
    )
    others = [await system.create("transfer", namespace="gates") for _ in range(5)]
    assert (await system.task(others[0]))["steps"][0]["current_state"] == "held"
    bank["is_up"] = True
    for task_id in (first, *others):
        await system.wait(task_id)
    counted = Counter(await system.types(circuit))
    assert counted["breaker.closed"] == 1
    assert counted["breaker.opened"] == counted["breaker.half_opened"]
    assert bank["calls"] >= 3 + 6


async def test_a_circuit_by_hand(system: System) -> None:
    step = {"name": "only", "handler": "call_bank", "system_dependency": "mint", "circuit_breaker": {}}
    await system.register(template("mint", [step], namespace="gates"))
    client = system.client
    with pytest.raises(NotFound):
        await client.close_circuit("mint", namespace="gates")
    opened = await client.open_circuit(
        "mint", namespace="gates", open_seconds=600, reason="it moves", opened_by="ada"
    )
    assert (opened.gate.status, opened.waiting_count) == ("open", 0)
    # Both orchestrators hear of it; until then one may still let a step begin.
    held = ""

    async def is_held() -> bool:
        nonlocal held
        held = await system.create("mint", namespace="gates")
        task = await system.task(held)
        return bool(task["status"] == "waiting_for_dependencies")

    await eventually(is_held, timeout_seconds=WAIT_SECONDS, what="a held step")

    async def is_waiting() -> bool:
        gate = await client.get_gate(opened.gate.gate_id)
        return [one.task_uuid for one in gate.waiting] == [held]

    await eventually(is_waiting, timeout_seconds=WAIT_SECONDS, what="the step in the circuit's line")
    closed = await client.close_circuit("mint", namespace="gates", closed_by="ada")
    assert closed.gate.status == "closed"
    await system.wait(held)

    async def listed() -> bool:
        page = await client.list_gates("circuit", namespace="gates")
        return {gate.name for gate in page.gates} == {"bank", "mint"}

    await eventually(listed, timeout_seconds=WAIT_SECONDS, what="both circuits in the list")
    assert "breaker.closed" in await system.types(opened.gate.gate_id)
    for wrong in ({"kind": "gate"}, {"kind": "slots", "status": ["open"]}, {"kind": "rate", "page": 0}):
        assert (await system.refusal("gate.list", wrong)).code == "BAD_REQUEST"
    assert (await system.refusal("gate.get", {"gate_id": held})).code == "NOT_FOUND"
    assert (await system.refusal("gate.get", {"gate_id": "7"})).code == "INVALID_UUID"
    circuit = {"namespace": "gates", "service": "mint"}
    for seconds in (0, -1, 1e9):
        refused = await system.refusal("circuit.open", {**circuit, "open_seconds": seconds})
        assert refused.code == "BAD_REQUEST"
    assert (await system.refusal("circuit.close", {**circuit, "service": ""})).code == "BAD_REQUEST"


async def test_a_rate(system: System) -> None:
    await system.register(template("paced", [{"name": "only", "handler": "work"}], namespace="slow"))
    begun = time.monotonic()
    tasks = [await system.create("paced", namespace="slow") for _ in range(30)]
    for task_id in tasks:
        await system.wait(task_id)
    # A burst of one second's worth, then an even pace.
    assert time.monotonic() - begun >= (30 - RATE) / RATE
    counted = Counter(await system.types(rate_id("slow")))
    assert counted["throttle.passed"] == 30


async def test_the_ledger_is_sound(system: System) -> None:
    await system.all_taken()
    await system.verify()

    async def all_idle() -> bool:
        rows = [
            row
            for kind in ("slots", "circuit", "rate")
            for row in await system.store.list_streams(StreamFilter(kind=kind))
        ]
        # The projection comes behind the ledger.
        return len(rows) == 7 and {row.status for row in rows} == {"idle", "closed"}

    await eventually(all_idle, timeout_seconds=WAIT_SECONDS, what="nothing held anywhere")
