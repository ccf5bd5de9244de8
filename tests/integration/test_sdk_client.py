"""The client, worker and subscriber against a real orchestrator (events in memory, a real nats-server)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
from nats.aio.msg import Msg

from stepweave import (
    ApiError,
    ApiTimeout,
    Backpressure,
    BadRequest,
    Client,
    Conflict,
    Event,
    NotFound,
    PermanentError,
    Subscriber,
    SyncClient,
    Unavailable,
    ValidationFailed,
    Worker,
    depends_on,
    inputs,
    step_handler,
)
from stepweave.client import BULK_REQUESTS_MAX
from stepweave.messaging import Connection
from stepweave.testing import eventually
from stepweave_eventstore.memory import MemoryEventStore
from stepweave_orchestrator.embedded import EmbeddedNats
from stepweave_orchestrator.runtime.orchestrator import Orchestrator
from stepweave_orchestrator.runtime.settings import Settings
from stepweave_schemas.api import CREATE_MANY_MAX, CreateMany, CreateTask, operation_subject

TEMPLATE = """
namespace: shop
name: order
version: 1.0.0
input_schema:
  type: object
  required: [amount]
  properties: {amount: {type: number, minimum: 0}}
steps:
  - name: charge
    handler: charge
  - name: ship
    handler: ship
    dependencies: [charge]
"""


class Charge(pydantic.BaseModel):
    amount: float


@step_handler("charge")
@inputs(Charge)
async def charge(inputs: Charge) -> dict[str, float]:
    if inputs.amount > 100:
        raise PermanentError("card declined", error_code="CARD_DECLINED")
    return {"charged": inputs.amount}


@step_handler("ship")
@depends_on(charge="charge")
def ship(charge: dict[str, float]) -> str:
    return f"shipped for {charge['charged']:g}"


@dataclass
class Running:
    url: str
    connection: Connection


@asynccontextmanager
async def orchestrator_on(url: str, **settings: Any) -> AsyncIterator[Orchestrator]:
    async with await Connection.open(url, name="orchestrator") as connection:
        orchestrator = Orchestrator(
            Settings(database_url="memory", nats_url=url, owner="test", shard_count=2, **settings),
            MemoryEventStore(),
            connection,
        )
        await orchestrator.start()
        running = asyncio.create_task(orchestrator.run())
        try:
            yield orchestrator
        finally:
            running.cancel()
            await orchestrator.stop()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    async with EmbeddedNats(tmp_path / "nats") as nats:
        yield nats


@pytest.fixture
async def running(server: EmbeddedNats) -> AsyncIterator[Running]:
    async with orchestrator_on(server.url) as orchestrator:
        yield Running(server.url, orchestrator.connection)


@pytest.fixture
async def client(running: Running) -> AsyncIterator[Client]:
    async with Client(running.url, timeout_seconds=10) as client:
        await client.register_template(TEMPLATE)
        yield client


@pytest.fixture
async def worker(running: Running, client: Client) -> AsyncIterator[Worker]:
    async with Worker(running.url, namespaces=["shop"], handlers=[charge, ship]) as worker:
        yield worker


async def test_from_submit_to_results(client: Client, worker: Worker) -> None:
    created = await client.create_task(
        "order",
        namespace="shop",
        context={"amount": 5},
        initiator="test",
        source_system="unit",
        reason="because",
        tags=["a", "b"],
        priority=7,
        correlation_id="corr-1",
    )
    assert not created.replayed
    assert created.context == {"amount": 5}
    assert (created.initiator, created.tags, created.priority) == ("test", ("a", "b"), 7)
    done = await client.wait_for_task(created.task_uuid, timeout_seconds=10)
    assert done.status == "complete"
    assert done.is_terminal
    assert [step.name for step in await client.list_task_steps(created.task_uuid)] == ["charge", "ship"]
    assert (await client.get_step(created.task_uuid, "ship")).current_state == "complete"
    with pytest.raises(KeyError, match=r"no step 'fly' .* charge, ship"):
        await client.get_step(created.task_uuid, "fly")
    assert await client.get_results(created.task_uuid) == {
        "charge": {"charged": 5.0},
        "ship": "shipped for 5",
    }
    assert await client.get_results(created.task_uuid, step_name="ship") == {"charge": {"charged": 5.0}}
    events = await client.get_events(created.task_uuid)
    assert [one.version for one in events] == list(range(1, len(events) + 1))
    assert (events[0].type, events[-1].type) == ("task.created", "task.completed")
    later = await client.get_events(created.task_uuid, from_version=3)
    assert later == events[2:]
    assert all(one.correlation_id == "corr-1" for one in events)


async def test_refusals_are_typed(client: Client) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await client.create_task("order", namespace="shop", context={"amount": -1})
    assert refused.value.violations[0]["pointer"] == "/amount"
    with pytest.raises(NotFound):
        await client.create_task("unknown", namespace="shop")
    with pytest.raises(NotFound):
        await client.get_task("0199c0de-0000-7000-8000-000000000000")
    with pytest.raises(BadRequest):
        await client.get_task("no uuid")
    with pytest.raises(BadRequest, match="is no task id"):
        await client.wait_for_task("a.b.>")
    with pytest.raises(BadRequest, match="context is an object"):
        await client.create_task("order", context=[1])
    with pytest.raises(BadRequest, match=r"not JSON: context\.when"):
        await client.create_task("order", context={"when": object()})
    with pytest.raises(BadRequest, match="options is an object"):
        await client.create_task("order", options=[1])  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="tags is a list of texts"):
        await client.create_task("order", tags="a")
    with pytest.raises(BadRequest, match=r"a task has no colour; it has .*context"):
        await client.create_tasks([{"name": "order", "colour": 1}])
    with pytest.raises(BadRequest, match="start_at needs a time zone"):
        await client.create_task("order", start_at=datetime(2030, 1, 1))
    with pytest.raises(BadRequest, match="over the server's limit"):
        await client.create_task("order", context={"blob": "x" * 2_000_000})
    with pytest.raises(ValidationFailed) as broken:
        await client.register_template("name: x\nsteps: []\nunknown_key: 1\n")
    assert broken.value.violations


async def test_the_same_key_is_the_same_task(client: Client, worker: Worker) -> None:
    first = await client.create_task("order", namespace="shop", context={"amount": 1}, idempotency_key="k")
    again = await client.create_task("order", namespace="shop", context={"amount": 1}, idempotency_key="k")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.task_uuid == first.task_uuid
    with pytest.raises(Conflict):
        await client.create_task("order", namespace="shop", context={"amount": 2}, idempotency_key="k")


async def test_many_tasks_each_on_its_own(client: Client, worker: Worker) -> None:
    count = CREATE_MANY_MAX * 2 + 50
    requests: list[Any] = [
        {"name": "order", "namespace": "shop", "context": {"amount": number}} for number in range(count)
    ]
    requests[7] = {"name": "order", "namespace": "shop", "context": {"amount": -7}}
    requests[8] = CreateTask(name="nothing", namespace="shop")
    created = await client.create_tasks(requests)
    assert len(created) == count
    assert isinstance(created[7].error, ValidationFailed)
    assert isinstance(created[8].error, NotFound)
    ids = [one.task_uuid for one in created if one.error is None]
    assert len(set(ids)) == count - 2
    page = await eventually(lambda: _page(client, count - 2), timeout_seconds=20)
    assert page.pagination.total_count == count - 2
    assert await client.create_tasks([]) == []


async def _page(client: Client, count: int) -> Any:
    page = await client.list_tasks(namespace="shop", status=("complete", "blocked_by_failures"), per_page=5)
    return page if page.pagination.total_count == count else None


async def test_watching_sees_every_event_once(client: Client, worker: Worker) -> None:
    task = await client.create_task("order", namespace="shop", context={"amount": 500})
    seen = [one async for one in client.watch_task(task.task_uuid, until_blocked=True)]
    assert [one.version for one in seen] == list(range(1, len(seen) + 1))
    assert "step.failed" in [one.type for one in seen]
    assert seen[-1].type == "task.blocked"
    blocked = await client.wait_for_task(task.task_uuid, timeout_seconds=5)
    assert blocked.is_blocked
    assert blocked.step("charge").error_code == "CARD_DECLINED"
    with pytest.raises(ApiTimeout, match="still blocked_by_failures"):
        await client.wait_for_task(task.task_uuid, timeout_seconds=0.1, until_terminal=True)
    cancelled = await client.cancel_task(task.task_uuid, reason="enough", cancelled_by="me")
    assert cancelled.status == "cancelled"
    assert [one.type async for one in client.watch_task(task.task_uuid, from_version=len(seen) + 1)] == [
        "task.cancelled"
    ]


async def test_watching_from_the_start_of_a_long_task(running: Running, client: Client) -> None:
    gate = asyncio.Event()

    @step_handler("charge")
    async def gated() -> dict[str, float]:
        await gate.wait()
        return {"charged": 1}

    async with Worker(running.url, namespaces=["shop"], handlers=[gated, ship]):
        task = await client.create_task("order", namespace="shop", context={"amount": 5})
        watching = asyncio.create_task(_collect(client, task.task_uuid))
        gate.set()
        types = await asyncio.wait_for(watching, 10)
    assert types[0] == "task.created"
    assert types[-1] == "task.completed"


async def _collect(client: Client, task_id: str) -> list[str]:
    return [one.type async for one in client.watch_task(task_id)]


async def test_delayed_start(client: Client, worker: Worker) -> None:
    task = await client.create_task(
        "order",
        namespace="shop",
        context={"amount": 5},
        start_at=datetime.now(UTC) + timedelta(seconds=0.5),
        requested_at=datetime.now(UTC),
    )
    assert task.status == "pending"
    assert (await client.wait_for_task(task.task_uuid, timeout_seconds=10)).status == "complete"


async def test_templates(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "order.yaml"
    path.write_text(TEMPLATE.replace("1.0.0", "1.1.0"))
    registered = await client.register_template(path, registered_by="me")
    assert registered.created
    assert not (await client.register_template(path)).created
    with pytest.raises(Conflict):
        await client.register_template(TEMPLATE.replace("minimum: 0", "minimum: 1"))
    found = await client.get_template("order", namespace="shop")
    assert (found.version, found.versions) == ("1.1.0", ("1.0.0", "1.1.0"))
    assert [step["name"] for step in found.content["steps"]] == ["charge", "ship"]

    async def listed() -> bool:
        return {one.version for one in await client.list_templates(namespace="shop")} == {"1.0.0", "1.1.0"}

    await eventually(listed)
    report = await client.validate_template("name: x\nsteps:\n  - name: a\n    handler: h\n    bogus: 1\n")
    assert not report.valid
    assert any(one["code"] == "UNKNOWN_KEY" for one in report.problems)


async def test_no_orchestrator_then_one(server: EmbeddedNats) -> None:
    async with Client(server.url) as client:
        with pytest.raises(Unavailable, match=r"no orchestrator answers task\.list"):
            await client.list_tasks(timeout_seconds=0.2)
        waiting = asyncio.create_task(client.list_templates(timeout_seconds=20))
        async with orchestrator_on(server.url):
            assert await waiting == ()


async def test_a_repeated_create_is_the_same_task(server: EmbeddedNats) -> None:
    """Backpressure is waited for, and the request that follows is the same one, id and all."""
    seen: list[CreateTask] = []
    async with await Connection.open(server.url, name="fake") as fake, Client(server.url) as client:

        def answer(message: Msg) -> None:
            seen.append(msgspec.json.decode(message.data, type=CreateTask))
            if len(seen) == 1:
                body = {"error": {"code": "BACKPRESSURE", "message": "busy", "retry_after_seconds": 0.2}}
            else:
                body = {"error": {"code": "INTERNAL_ERROR", "message": "later", "hint": 7}}
            fake.send(message.reply, msgspec.json.encode(body))

        await fake.subscribe(operation_subject("task.create"), answer)
        await fake.flush()
        loop = asyncio.get_running_loop()
        before = loop.time()
        with pytest.raises(ApiError, match="INTERNAL_ERROR: later") as refused:
            await client.create_task("order")
        assert refused.value.details == {"hint": 7}
        assert loop.time() - before >= 0.2
        assert len(seen) == 2
        assert seen[0] == seen[1]
        assert seen[0].task_id

        seen.clear()
        with pytest.raises(Backpressure, match=r"busy \(given up: not within 0\.1 s\)") as full:
            await client.create_task("order", timeout_seconds=0.1)
        assert full.value.retry_after == 0.2


async def test_of_a_bulk_request_what_is_refused_for_now_is_sent_again(server: EmbeddedNats) -> None:
    """One namespace has too much waiting, the other has not; what is told longer than there is time is given up."""
    seen: list[list[str]] = []
    told_seconds = 0.2
    async with await Connection.open(server.url, name="fake") as fake, Client(server.url) as client:

        def answer(message: Msg) -> None:
            asked = msgspec.json.decode(message.data, type=CreateMany).tasks
            seen.append([one.namespace for one in asked])
            error = {"code": "BACKPRESSURE", "message": "busy", "retry_after_seconds": told_seconds}
            full = len(seen) == 1
            tasks = [
                {"task_id": one.task_id, **({"error": error} if full and one.namespace == "flood" else {})}
                for one in asked
            ]
            fake.send(message.reply, msgspec.json.encode({"tasks": tasks}))

        await fake.subscribe(operation_subject("task.create_many"), answer)
        await fake.flush()
        requests = [{"name": "order", "namespace": name} for name in ("flood", "calm", "flood")]
        loop = asyncio.get_running_loop()
        before = loop.time()
        answers = await client.create_tasks(requests)
        assert loop.time() - before >= told_seconds
        assert [one.error for one in answers] == [None] * 3
        assert seen == [["flood", "calm", "flood"], ["flood", "flood"]]

        seen.clear()
        told_seconds = 30.0
        answers = await client.create_tasks(requests, timeout_seconds=5)
        assert [type(one.error) for one in answers] == [Backpressure, type(None), Backpressure]
        assert len(seen) == 1


async def test_an_answer_that_is_none_and_bulk_failures(server: EmbeddedNats) -> None:
    running = most = 0
    async with await Connection.open(server.url, name="fake") as fake, Client(server.url) as client:
        await fake.subscribe(operation_subject("task.list"), lambda one: fake.send(one.reply, b"gibberish"))
        calls: list[CreateMany] = []

        def answer(message: Msg) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            calls.append(msgspec.json.decode(message.data, type=CreateMany))
            asyncio.get_running_loop().call_later(0.02, reply, message)

        def reply(message: Msg) -> None:
            nonlocal running
            running -= 1
            fake.send(message.reply, b'{"error":{"code":"INTERNAL_ERROR","message":"no"}}')

        await fake.subscribe(operation_subject("task.create_many"), answer)
        await fake.flush()
        with pytest.raises(ApiError, match="cannot be read"):
            await client.list_tasks()
        blob = {"blob": "x" * 100_000}
        created = await client.create_tasks({"name": "t", "context": blob} for _ in range(60))
        assert [one.error.code for one in created if one.error] == ["INTERNAL_ERROR"] * 60
        assert len(calls) >= 6
        assert all(len(msgspec.json.encode(call)) < 1_048_576 for call in calls)
        assert 1 < most <= BULK_REQUESTS_MAX


async def test_the_sync_twin(client: Client, worker: Worker, running: Running) -> None:
    def use() -> tuple[str, list[str], Any, str]:
        with SyncClient(running.url) as twin:
            task = twin.create_task("order", namespace="shop", context={"amount": 3})
            types = [one.type for one in twin.watch_task(task.task_uuid)]
            done = twin.wait_for_task(task.task_uuid, timeout_seconds=5)
            results = twin.get_results(task.task_uuid)
            try:
                twin.create_task("nothing", namespace="shop")
            except NotFound as error:
                code = error.code
            for _ in twin.watch_task(task.task_uuid):
                break
        with pytest.raises(RuntimeError, match="closed"):
            twin.get_task(task.task_uuid)
        twin.close()
        return done.status, types, results, code

    status, types, results, code = await asyncio.to_thread(use)
    assert (status, code) == ("complete", "NOT_FOUND")
    assert types[-1] == "task.completed"
    assert results["ship"] == "shipped for 3"


def test_the_sync_twin_has_every_method() -> None:
    methods = {name for name in vars(Client) if not name.startswith("_")}
    assert methods <= set(vars(SyncClient))
    assert SyncClient.create_task.__doc__ == Client.create_task.__doc__


async def test_a_subscriber_sees_what_the_orchestrator_says(
    running: Running, client: Client, worker: Worker
) -> None:
    outcomes: list[Event] = []
    everything: list[Event] = []
    signal, log = (Subscriber(name, nats_url=running.url) for name in ("signal", "log"))
    signal.on("task.completed", "step.failed", namespace="shop")(outcomes.append)
    log.on("*", namespace="shop")(everything.append)
    async with signal, log:
        good = await client.create_task("order", namespace="shop", context={"amount": 5})
        bad = await client.create_task("order", namespace="shop", context={"amount": 500})
        await client.wait_for_task(good.task_uuid, timeout_seconds=10)
        await client.wait_for_task(bad.task_uuid, timeout_seconds=10)
        expected = [
            (one.task_id, one.version, one.type)
            for task in (good, bad)
            for one in await client.get_events(task.task_uuid)
        ]
        await eventually(lambda: len(everything) == len(expected) and len(outcomes) == 2)
    assert sorted((one.task_id, one.version, one.type) for one in everything) == sorted(expected)
    assert all((one.namespace, one.task_name) == ("shop", "order") for one in everything)
    done = next(one for one in outcomes if one.type == "task.completed")
    assert (done["task_name"], done["context"]) == ("order", {"amount": 5})
    failed = next(one for one in outcomes if one.type == "step.failed")
    assert failed["error_message"] == "card declined"
    assert failed["step_name"] == "charge"
    assert failed["correlation_id"] == bad.correlation_id


async def test_a_worker_that_was_there_first_starts_at_once(running: Running) -> None:
    async with (
        Client(running.url) as client,
        Worker(running.url, namespaces=["shop"], handlers=[charge, ship]) as worker,
    ):
        # The streams have been missing for a while, so the pulls come rarely now.
        await eventually(lambda: all(pull._backoff_seconds >= 0.8 for pull in worker._pulls))
        await client.register_template(TEMPLATE)
        task = await client.create_task("order", namespace="shop", context={"amount": 5})
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert (await client.wait_for_task(task.task_uuid, timeout_seconds=10)).status == "complete"
        assert loop.time() - before < 0.7
