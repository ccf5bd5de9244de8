"""Signals from the client and the command line, and following a task behind its end; on a real nats-server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg
from tests.unit.cli.typed import typed_process

from stepweave import Client, Conflict, NotFound, SyncClient, ValidationFailed
from stepweave.messaging import Connection
from stepweave.testing import eventually
from stepweave_eventstore.memory import MemoryEventStore
from stepweave_orchestrator.embedded import EmbeddedNats
from stepweave_orchestrator.runtime.orchestrator import Orchestrator
from stepweave_orchestrator.runtime.settings import Settings
from stepweave_schemas import subjects
from stepweave_schemas.api import SignalTask, operation_subject
from stepweave_schemas.codec import encode
from stepweave_schemas.identity import shard_of
from stepweave_schemas.result import Success

SHARDS = 2
TEMPLATE = """
namespace: shop
name: purchase
version: 1.0.0
steps:
  - name: approve
    wait_for_signal:
      name: approval
      timeout_seconds: 3600
      payload_schema: {type: object, required: [approved]}
  - name: file
    wait_for_signal: {name: receipt}
    dependencies: [approve]
"""
ONE_STEP = "{namespace: shop, name: order, version: 1.0.0, steps: [{name: charge, handler: charge}]}"


@asynccontextmanager
async def orchestrator_on(url: str) -> AsyncIterator[None]:
    async with await Connection.open(url, name="orchestrator") as connection:
        settings = Settings(database_url="memory", nats_url=url, owner="test", shard_count=SHARDS)
        orchestrator = Orchestrator(settings, MemoryEventStore(), connection)
        await orchestrator.start()
        running = asyncio.create_task(orchestrator.run())
        try:
            yield
        finally:
            running.cancel()
            await orchestrator.stop()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    async with EmbeddedNats(tmp_path / "nats") as nats:
        yield nats


@pytest.fixture
async def client(server: EmbeddedNats) -> AsyncIterator[Client]:
    async with orchestrator_on(server.url), Client(server.url, timeout_seconds=10) as client:
        await client.register_template(TEMPLATE)
        await client.register_template(ONE_STEP)
        yield client


async def test_signals_of_the_client(server: EmbeddedNats, client: Client) -> None:
    task_id = (await client.create_task("purchase", namespace="shop")).task_uuid
    early = await client.signal(task_id, "receipt", {"number": 4711}, sent_by="desk")
    assert (early.taken_by, early.replayed) == (None, False)
    assert early.task.signals_kept == ("receipt",)
    with pytest.raises(ValidationFailed) as refused:
        await client.signal(task_id, "approval", {"aproved": True})
    assert refused.value.violations
    with pytest.raises(Conflict, match="its signals are: approval, receipt"):
        await client.signal(task_id, "aproval")
    with pytest.raises(NotFound):
        await client.signal("0198c0de-0000-7000-8000-000000000001", "approval", {"approved": True})

    taken = await client.signal(task_id, "approval", {"approved": True}, signal_id="mail-17")
    assert (taken.taken_by, taken.signal_id, taken.replayed) == ("approve", "mail-17", False)
    assert taken.task.status == "complete"
    assert taken.task.context == {}
    assert await client.get_results(task_id) == {"approve": {"approved": True}, "file": {"number": 4711}}
    again = await client.signal(task_id, "approval", {"approved": True}, signal_id="mail-17")
    assert (again.taken_by, again.replayed) == ("approve", True)

    def in_a_thread() -> tuple[str | None, str]:
        with SyncClient(server.url, timeout_seconds=10) as sync:
            task = sync.create_task("purchase", namespace="shop")
            return sync.signal(task.task_uuid, "approval", {"approved": False}).taken_by, task.task_uuid

    taken_by, other = await asyncio.to_thread(in_a_thread)
    assert taken_by == "approve"
    assert (await client.get_step(other, "file")).waiting_for_signal == "receipt"


async def test_a_signal_that_nobody_answers_is_sent_again_with_its_id(server: EmbeddedNats) -> None:
    seen: list[SignalTask] = []

    async with await Connection.open(server.url, name="fake") as fake, Client(server.url) as client:

        def answer(message: Msg) -> None:
            seen.append(msgspec.json.decode(message.data, type=SignalTask))
            code = "NOT_FOUND" if len(seen) == 3 else "SERVICE_UNAVAILABLE"
            fake.send(message.reply, msgspec.json.encode({"error": {"code": code, "message": "no"}}))

        await fake.subscribe(operation_subject("task.signal"), answer)
        await fake.flush()
        with pytest.raises(NotFound):
            await client.signal("t", "approval", 7)
    assert seen[0].signal_id
    assert seen == [seen[0]] * 3


async def test_signals_from_the_command_line(server: EmbeddedNats, client: Client, tmp_path: Path) -> None:
    task_id = (await client.create_task("purchase", namespace="shop")).task_uuid
    shown = await typed_process(server.url, "task", "get", task_id)
    assert "waiting_for_dependencies" in shown.out and "for signal approval" in shown.out
    assert f"stepweave task signal {task_id} approval --payload JSON" in shown.err

    (tmp_path / "receipt.json").write_text('{"number": 4711}')
    kept = await typed_process(
        *(server.url, "task", "signal", task_id, "receipt", "--payload", f"@{tmp_path / 'receipt.json'}"),
        *("--id", "scan-1", "--by", "desk"),
    )
    assert kept.code == 0, kept.err
    rows = {tuple(line.split(None, 1)) for line in kept.out.splitlines()}
    assert {("signal", "receipt"), ("id", "scan-1")} <= rows
    assert "taken by  no step yet: it is kept until one waits for it" in kept.out

    wrong = await typed_process(server.url, "task", "signal", task_id, "approval", "--set", "aproved=true")
    assert wrong.code == 4 and "payload_schema of step 'approve'" in wrong.err
    assert '"approved"' in wrong.err
    assert (await typed_process(server.url, "task", "signal", task_id, "nothing")).code == 4
    assert (await typed_process(server.url, "task", "signal", "0" * 8, "approval")).code == 2

    watching = asyncio.create_task(typed_process(server.url, "task", "watch", task_id))
    taken = await typed_process(
        server.url, "task", "signal", task_id, "approval", "--set", "approved=true", "-o", "json"
    )
    assert taken.code == 0, taken.err
    reply = json.loads(taken.out)
    assert (reply["taken_by"], reply["replayed"], reply["task"]["status"]) == ("approve", False, "complete")
    again = await typed_process(
        server.url, "task", "signal", task_id, "receipt", "--set", "number=4711", "--id", "scan-1"
    )
    other = await typed_process(server.url, "task", "signal", task_id, "receipt", "--id", "scan-1")
    assert other.code == 4 and "'scan-1' was used for another signal" in other.err
    assert again.code == 0 and "file" in again.out
    assert again.err == "this signal has come before: nothing was done\n"

    watched = await watching
    assert watched.code == 0, watched.err
    lines = [line.split(None, 2)[1:] for line in watched.out.splitlines()]
    assert ["signal.received", "receipt, sent by desk"] in lines
    assert any(
        kind == "signal.awaited" and text.startswith("approve waits for approval until ")
        for kind, text in lines
    )
    assert lines[-1][0] == "task.completed"


async def test_a_fork_from_the_command_line(server: EmbeddedNats, client: Client) -> None:
    task_id = (await client.create_task("purchase", namespace="shop")).task_uuid
    await client.signal(task_id, "approval", {"approved": True})
    plan = await typed_process(server.url, "task", "fork", task_id, "--dry-run")
    assert plan.code == 0, plan.err
    rows = [" ".join(line.split()) for line in plan.out.splitlines()]
    assert f"of task {task_id} as of its event 5" in rows
    assert {"approve reused", "file runs not done in the original"} <= set(rows)
    assert plan.err == "nothing was done; without --dry-run the fork begins\n"
    forked = await typed_process(
        *(
            server.url,
            "task",
            "fork",
            task_id,
            "--from",
            "approve",
            "--by",
            "desk",
            "--reason",
            "asked too early",
        ),
        *("-o", "json"),
    )
    assert forked.code == 0, forked.err
    reply = json.loads(forked.out)
    assert (reply["reused"], [one["step"] for one in reply["run"]]) == ([], ["approve", "file"])
    shown = await client.get_task(reply["task"]["task_uuid"])
    assert (shown.initiator, shown.reason, shown.step("approve").current_state) == (
        "desk",
        "asked too early",
        "waiting_for_signal",
    )
    refused = await typed_process(server.url, "task", "fork", task_id, "--from", "aprove")
    assert refused.code == 4 and "its steps are approve, file" in refused.err


async def test_a_task_is_followed_to_its_end_though_late_results_stand_behind_it(
    server: EmbeddedNats, client: Client
) -> None:
    task_id = (await client.create_task("order", namespace="shop")).task_uuid
    (order,) = [one for one in await client.get_events(task_id) if one.type == "step.enqueued"]
    given: dict[str, Any] = msgspec.json.decode(order.data)
    await client.cancel_task(task_id)
    late = Success(
        task_id=task_id,
        step_uuid=given["step_uuid"],
        step_name="charge",
        attempt=1,
        lease_token=given["lease_token"],
        worker_id="w",
    )
    async with await Connection.open(server.url, name="worker") as worker:
        worker.send(subjects.result("shop", shard_of(task_id, SHARDS), task_id), encode(late))
        await worker.flush()

        async def refused() -> bool:
            return (await client.get_events(task_id))[-1].type == "step.result_refused"

        await eventually(refused)
    async with asyncio.timeout(10):
        followed = [one.type async for one in client.watch_task(task_id)]
    assert followed[-2:] == ["task.cancelled", "step.result_refused"]
