"""Two orchestrators of one installation: shards are shared, and either of them answers for all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from stepweave.testing import eventually
from stepweave_orchestrator.runtime.orchestrator import Orchestrator
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode
from stepweave_schemas.identity import shard_of
from stepweave_schemas.mint import uuid7

from .conftest import GOOD_NAMESPACE, SHARDS, WAIT_SECONDS, System, running_system, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEASE_MS = 3_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(module_database_url: str, module_nats_url: str) -> AsyncIterator[System]:
    async with running_system(module_database_url, module_nats_url, lease_ms=LEASE_MS) as running:
        await running.start_orchestrator()
        await shared(running)
        await running.register(template("served", namespace=GOOD_NAMESPACE))
        await running.register(template("unread", namespace="sharing"))
        yield running


async def shared(system: System) -> None:
    """Wait until every shard has an owner, and each orchestrator owns its part."""

    async def fair() -> bool:
        owned = [sorted(one.owner.shards) for one in system.orchestrators]
        part = SHARDS // len(system.orchestrators)
        return sorted(shard for some in owned for shard in some) == list(range(SHARDS)) and all(
            len(some) == part for some in owned
        )

    await eventually(fair, timeout_seconds=WAIT_SECONDS, what="a fair share for each")


async def ask(orchestrator: Orchestrator, operation: str, request: Any) -> Any:
    """Ask this very orchestrator."""
    return json.loads(await orchestrator.operations.answer(operation, encode(request)))


def id_in(shard: int) -> str:
    return next(one for one in iter(uuid7, "") if shard_of(one, SHARDS) == shard)


async def test_either_orchestrator_carries_out_requests_for_every_shard(system: System) -> None:
    for orchestrator in system.orchestrators:
        for shard in range(SHARDS):
            task_id = id_in(shard)
            request = {"name": "served", "namespace": GOOD_NAMESPACE, "task_id": task_id}
            created = await ask(orchestrator, "task.create", request)
            assert (created["task"]["task_uuid"], created["replayed"]) == (task_id, False)
            for other in system.orchestrators:
                again = await ask(other, "task.create", request)
                assert again["replayed"] is True
            await system.wait(task_id)
            for other in system.orchestrators:
                assert (await ask(other, "task.get", {"task_id": task_id}))["status"] == "complete"
                told = await ask(other, "task.results", {"task_id": task_id})
                assert told["results"] == {"only": {"ok": True}}
                assert len((await ask(other, "task.events", {"task_id": task_id}))["events"]) == 4
            fork_id = id_in((shard + 1) % SHARDS)
            fork = {"task_id": task_id, "fork_id": fork_id, "from_steps": ["only"]}
            forks = [await ask(other, "task.fork", fork) for other in system.orchestrators]
            assert [one["replayed"] for one in forks] == [False, True]
            await system.wait(fork_id)


async def test_refusals_are_the_same_from_near_and_far(system: System) -> None:
    async with system.unharmed():
        for shard in range(SHARDS):
            unknown = id_in(shard)
            told = []
            for orchestrator in system.orchestrators:
                with pytest.raises(ApiError) as raised:
                    await ask(orchestrator, "task.cancel", {"task_id": unknown})
                told.append((raised.value.code, raised.value.message, raised.value.details))
            assert told[0] == told[1]
            assert told[0][0] == "NOT_FOUND"
            assert told[0][2] == {"task_id": unknown}


async def test_many_at_once_are_spread_over_both(system: System) -> None:
    for orchestrator in system.orchestrators:
        tasks: list[dict[str, Any]] = [
            {"name": "served", "namespace": GOOD_NAMESPACE, "context": {"pad": "x" * 4_800}}
            for _ in range(200)
        ]
        tasks[7] = {"name": "nowhere"}
        told = (await ask(orchestrator, "task.create_many", {"tasks": tasks}))["tasks"]
        assert [number for number, one in enumerate(told) if "error" in one] == [7]
        ids = [one["task_id"] for one in told if "task_id" in one]
        assert len(ids) == 199
        await asyncio.gather(*(system.wait(task_id) for task_id in ids))


async def test_large_tasks_of_one_shard_pass_from_one_to_the_other(system: System) -> None:
    """Together they are more than one message between two orchestrators carries."""
    for shard in range(SHARDS):
        for orchestrator in system.orchestrators:
            tasks: list[dict[str, Any]] = [
                {
                    "name": "served",
                    "namespace": GOOD_NAMESPACE,
                    "task_id": id_in(shard),
                    "context": {"p": "x" * 5_050},
                }
                for _ in range(200)
            ]
            request = encode({"tasks": tasks})
            assert 1_020_000 < len(request) < system.connection.max_payload_bytes
            told = (await ask(orchestrator, "task.create_many", {"tasks": tasks}))["tasks"]
            assert [one for one in told if "error" in one] == []
            await system.wait(told[-1]["task_id"])
        break


async def test_a_new_version_is_seen_by_both_at_once(system: System) -> None:
    """NATS gives each request to either of them: whoever is asked next knows of the version."""
    name = "moving"
    for number in range(40):
        version = f"1.{number}.0"
        told = await system.register(template(name, version=version, namespace="sharing"))
        assert told["created"] is True
        request = {"name": name, "namespace": "sharing"}
        answers = [(await system.request("template.get", request))["version"] for _ in range(3)]
        task = (await system.request("task.create", request))["task"]
        assert [*answers, task["version"]] == [version] * 4


async def test_a_version_registered_while_others_read_it(system: System) -> None:
    """A read that began before the registration must not be remembered after it."""
    name = "read-while-written"
    one, other = system.orchestrators
    await ask(one, "template.register", {"content": template(name, namespace="sharing")})
    for number in range(1, 15):
        stop = asyncio.Event()

        async def read(stop: asyncio.Event = stop) -> None:
            while not stop.is_set():
                await ask(other, "template.get", {"name": name, "namespace": "sharing", "version": "9.9.9"})

        readers = [asyncio.ensure_future(_quietly(read())) for _ in range(5)]
        version = f"1.{number}.0"
        await ask(one, "template.register", {"content": template(name, version=version, namespace="sharing")})
        stop.set()
        await asyncio.gather(*readers)
        await system.connection.flush()
        created = await ask(other, "task.create", {"name": name, "namespace": "sharing"})
        assert created["task"]["version"] == version


async def _quietly(work: Any) -> None:
    try:
        await work
    except ApiError as error:
        assert error.code == "NOT_FOUND"


async def test_conflicting_creations_through_both_make_one_task(system: System) -> None:
    for shard in range(SHARDS):
        task_id = id_in(shard)
        requests = [
            ask(
                system.orchestrators[number % 2],
                "task.create",
                {
                    "name": "served",
                    "namespace": GOOD_NAMESPACE,
                    "task_id": task_id,
                    "context": {"n": number % 3},
                },
            )
            for number in range(30)
        ]
        endings = await asyncio.gather(*requests, return_exceptions=True)
        created = [ending for ending in endings if not isinstance(ending, BaseException)]
        refused = [ending for ending in endings if isinstance(ending, ApiError)]
        assert len(created) == 10 and len(refused) == 20
        assert {one.code for one in refused} == {"CONFLICT"}
        assert [one["replayed"] for one in created].count(False) == 1
        await system.wait(task_id)


async def test_one_leaves_and_the_other_goes_on_at_once(system: System) -> None:
    """Runs last: requests go on while shards change hands, there and back."""
    ids: list[str] = []
    done = asyncio.Event()

    async def create() -> None:
        while not done.is_set():
            ids.append(await system.create("served", namespace=GOOD_NAMESPACE))

    creating = [asyncio.ensure_future(create()) for _ in range(3)]
    leaving, staying = system.orchestrators
    await system.stop_orchestrator(leaving)
    await eventually(
        lambda: len(staying.owner.shards) == SHARDS, timeout_seconds=LEASE_MS / 1000, what="all shards"
    )
    await system.start_orchestrator()
    await shared(system)
    done.set()
    await asyncio.gather(*creating)
    assert len(ids) > 20
    await asyncio.gather(*(system.wait(task_id) for task_id in ids))
    for task_id in ids:
        assert await system.types(task_id) == [
            "task.created",
            "step.enqueued",
            "step.completed",
            "task.completed",
        ]
