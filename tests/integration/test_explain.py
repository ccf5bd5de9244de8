"""Why a task waits, on real servers: what gates, queues, workers, children and shards say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from tests.unit.cli.typed import typed_process

from stepweave import PermanentError, RetryableError, StepContext, step_handler
from stepweave.api_errors import BadRequest, NotFound
from stepweave.testing import eventually
from stepweave_orchestrator.api.explanations import ExplanationOperations
from stepweave_schemas import subjects
from stepweave_schemas.api import ApiError, ExplainTask, TaskExplanation
from stepweave_schemas.codec import encode
from stepweave_schemas.identity import shard_of
from stepweave_schemas.mint import uuid7

from .conftest import SHARDS, WAIT_SECONDS, System, running_system, template

pytestmark = pytest.mark.asyncio(loop_scope="module")


@step_handler("refuse")
async def refuse(context: StepContext) -> None:
    raise PermanentError("no funds", error_code="NO_FUNDS")


@step_handler("not_now")
async def not_now(context: StepContext) -> None:
    raise RetryableError("no answer", error_code="TIMEOUT")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(module_database_url: str, module_nats_url: str) -> AsyncIterator[System]:
    """One orchestrator, and a worker that has two handlers."""
    async with (
        running_system(module_database_url, module_nats_url) as running,
        running.worker(refuse, not_now, namespace="why", worker_id="w-1"),
    ):
        yield running


async def explained(system: System, task_id: str, *codes: str, step: str | None = None) -> TaskExplanation:
    """The explanation, once it has these codes."""

    async def said() -> TaskExplanation | None:
        found = await system.client.explain_task(task_id, step=step)
        return found if [one.code for one in found.findings] == list(codes) else None

    found: TaskExplanation = await eventually(said, timeout_seconds=WAIT_SECONDS, what=f"codes {codes}")
    assert found.unknown == ()
    assert found.task_uuid == task_id
    return found


async def test_nobody_serves_the_queue_or_has_the_handler(system: System) -> None:
    steps: list[dict[str, Any]] = [
        {"name": "alone", "handler": "refuse", "queue": "far"},
        {"name": "unknown", "handler": "nobody_has_this", "queue": "still"},
        {"name": "after", "handler": "refuse", "dependencies": ["alone"]},
    ]
    await system.register(template("unserved", steps, namespace="why"))
    task_id = await system.create("unserved", namespace="why")
    # A worker that is there and takes nothing.
    present = {"worker_id": "w-2", "namespaces": ["why"], "queues": ["still"], "handlers": ["other"]}
    await system.connection.request(
        f"$KV.{subjects.WORKERS_BUCKET}.w-2", encode(present), timeout_seconds=WAIT_SECONDS
    )
    found = await explained(system, task_id, "no_worker", "handler_missing", step=None)
    alone, unknown = found.findings
    assert (alone.step, alone.waiting_count) == ("alone", 1)
    assert "no live worker serves that queue. 1 try lies in it untaken" in alone.sentence
    assert "stepweave worker run MODULE --namespace why --queue far" in alone.commands
    assert "no live worker there has its handler nobody_has_this: w-2 has other ones." in unknown.sentence
    assert found.summary == f"why/unserved:1.0.0 is steps_in_process, 0 of 3 steps done. {alone.sentence}"
    assert (found.shard.shard, found.shard.answered) == (shard_of(task_id, SHARDS), True)
    assert found.shard.owner == system.orchestrator.settings.owner
    urgent = [await system.create("unserved", namespace="why", priority=50) for _ in range(2)]

    async def behind() -> bool:
        sentence = (await system.client.explain_task(task_id)).findings[0].sentence
        return (
            "3 tries lie in it untaken" in sentence and "2 of the untaken have a higher priority." in sentence
        )

    await eventually(behind, timeout_seconds=WAIT_SECONDS, what="two tries of higher priority")
    for each in urgent:
        await system.client.cancel_task(each)
    own = await system.client.explain_task(task_id, step="after")
    assert [one.code for one in own.findings][:1] == ["no_worker"]
    assert "Step after waits for 1 step that it depends on: alone (enqueued)." in [
        one.sentence for one in own.findings
    ]
    await system.client.cancel_task(task_id)
    ended = await explained(system, task_id, "ended")
    assert ended.status == "cancelled"


async def test_a_retry_a_signal_and_a_child(system: System) -> None:
    retry = {"backoff": "fixed", "backoff_base_ms": 3_600_000, "max_backoff_ms": 3_600_000, "jitter": 0.0}
    child = [{"name": "ask", "wait_for_signal": {"name": "approval", "timeout_seconds": 3_600}}]
    await system.register(template("asking", child, namespace="why"))
    steps: list[dict[str, Any]] = [
        {"name": "busy", "handler": "not_now", "retry": retry},
        {"name": "other", "child_task": {"name": "asking", "namespace": "why"}},
    ]
    await system.register(template("waiting", steps, namespace="why"))
    task_id = await system.create("waiting", namespace="why")
    found = await explained(system, task_id, "waiting_for_child", "waiting_for_retry")
    other, busy = found.findings
    assert "try 1 of 3 failed at " in busy.sentence
    assert "with TIMEOUT (no answer); try 2 begins at " in busy.sentence
    assert busy.until is not None
    child_id = other.commands[0].split()[-1]
    assert f"waits for its child task {child_id} (why/asking)" in other.sentence
    assert "That one is waiting_for_dependencies: Step ask waits for signal approval since " in other.sentence
    [ask] = (await explained(system, child_id, "waiting_for_signal")).findings
    assert ask.commands == (f"stepweave task signal {child_id} approval --payload JSON",)
    assert "If none comes the step fails at " in ask.sentence
    await system.client.pause_task(task_id, reason="too late", paused_by="ada")
    paused = (await explained(system, task_id, "paused", "waiting_for_child", "waiting_for_retry")).findings[
        0
    ]
    assert " by ada (too late): nothing of it begins until it is resumed" in paused.sentence
    assert paused.commands[0] == f"stepweave task resume {task_id}"
    await system.client.resume_task(task_id)
    printed = await typed_process(system.nats_url, "explain", task_id)
    assert printed.code == 0, printed.err
    assert printed.out.startswith("why/waiting:1.0.0 is waiting_for_retry, 0 of 2 steps done. Step other")
    assert f"    stepweave explain {child_id}" in printed.out
    owner = system.orchestrator.settings.owner
    shard = shard_of(task_id, SHARDS)
    assert printed.out.endswith(f"The task belongs to shard {shard}, whose owner {owner} answers.\n")
    await system.client.cancel_task(task_id)


async def test_slots_a_circuit_and_a_blocked_task(system: System) -> None:
    held = {
        "name": "only",
        "handler": "refuse",
        "queue": "far",
        "concurrency": {"key": "customer", "limit": 1},
    }
    await system.register(template("limited", [held], namespace="why"))
    tasks = [await system.create("limited", namespace="why", context={"customer": "ada"}) for _ in range(3)]
    [second] = (await explained(system, tasks[1], "held_for_slot")).findings
    await eventually(
        lambda: _says(system, tasks[1], "It is the next one."),
        timeout_seconds=WAIT_SECONDS,
        what="the second in line",
    )
    await eventually(
        lambda: _says(system, tasks[2], "1 goes before it."),
        timeout_seconds=WAIT_SECONDS,
        what="the third in line",
    )
    [second] = (await explained(system, tasks[1], "held_for_slot")).findings
    assert 'customer = "ada" since ' in second.sentence
    assert f"and 1 is held by task {tasks[0]} (step only)." in second.sentence
    assert second.commands[0] == f"stepweave explain {tasks[0]}"

    await system.client.open_circuit("bank", namespace="why", open_seconds=600, reason="it moves house")
    paying = {"name": "pay", "handler": "refuse", "system_dependency": "bank", "circuit_breaker": {}}
    await system.register(template("paying", [paying], namespace="why"))
    payment = await system.create("paying", namespace="why")
    await eventually(
        lambda: _says(system, payment, "It is the next one."),
        timeout_seconds=WAIT_SECONDS,
        what="a step before the circuit",
    )
    [pay] = (await explained(system, payment, "held_by_circuit")).findings
    assert "because the circuit of bank is not closed: it is open since " in pay.sentence
    assert "1 step will try it out at " in pay.sentence
    assert pay.commands[0] == "stepweave circuit close bank --namespace why"
    await system.client.close_circuit("bank", namespace="why")
    await system.wait(payment, "blocked_by_failures")
    blocked, failed = (await explained(system, payment, "blocked", "failed")).findings
    assert "1 step failed for good (pay)" in blocked.sentence
    assert "try 1 of 3, with NO_FUNDS (no funds)." in failed.sentence
    for task_id in (*tasks, payment):
        await system.client.cancel_task(task_id)


async def _says(system: System, task_id: str, words: str) -> bool:
    found = await system.client.explain_task(task_id)
    return words in found.findings[0].sentence


async def test_what_is_no_task_or_step(system: System) -> None:
    with pytest.raises(BadRequest):
        await system.client.explain_task("seven")
    with pytest.raises(NotFound):
        await system.client.explain_task(uuid7())
    task_id = await system.create("asking", namespace="why")
    with pytest.raises(NotFound, match="no step 'nothing'"):
        await system.client.explain_task(task_id, step="nothing")
    await system.client.cancel_task(task_id)


async def test_a_shard_whose_owner_is_silent(system: System) -> None:
    """Nobody answers for the shard: the ledger does, and it is said."""
    task_id = await system.create("asking", namespace="why")
    held = [await system.create("limited", namespace="why", context={"customer": "eve"}) for _ in range(2)]
    await explained(system, held[1], "held_for_slot")
    shard = shard_of(task_id, SHARDS)
    await system.stop_orchestrator(system.orchestrator)
    printed = await typed_process(
        system.nats_url, "explain", task_id, "--ledger", "--database-url", system.dsn
    )
    assert f"No orchestrator owns shard {shard} (nobody holds its lease)" in printed.out, printed.err
    assert "Step ask waits for signal approval since " in printed.out
    # Somebody owns all shards and does not answer: neither for the task nor for the slots that another one waits for.
    rows = await system.store.acquire_shards("ghost", list(range(SHARDS)), 600_000)
    try:
        await system.start_orchestrator()
        found = await explained(system, task_id, "shard_silent", "waiting_for_signal")
        assert found.findings[0].sentence.startswith(
            f"Shard {shard} is leased to ghost, which does not answer"
        )
        assert (found.from_ledger, found.shard.answered, found.shard.owner) == (True, False, "ghost")
        waiting = (await explained(system, held[1], "shard_silent", "held_for_slot")).findings[1]
        assert f"and 1 is held by task {held[0]} (step only). It is the next one." in waiting.sentence
    finally:
        await system.store.release_shards("ghost", {row.shard: row.epoch for row in rows}, {})
        system.connection.send(subjects.SHARDS_FREE, b"")
    found = await explained(system, task_id, "waiting_for_signal")
    assert not found.from_ledger
    for each in (task_id, *held):
        await system.client.cancel_task(each)


async def test_a_database_that_does_not_answer(system: System) -> None:
    """What is in memory is explained all the same; for the rest it is said what is wrong, in time."""
    task_id = await system.create("asking", namespace="why")
    alone = ExplanationOperations(system.store, system.orchestrator.loader, None, None, SHARDS)
    busy = await asyncpg.connect(system.dsn)
    try:
        async with busy.transaction():
            await busy.execute("LOCK TABLE stepweave.events IN ACCESS EXCLUSIVE MODE")
            await explained(system, task_id, "waiting_for_signal")
            with pytest.raises(ApiError, match="nor the event store answers"):
                await alone.explanation(ExplainTask(task_id=task_id))
    finally:
        await busy.close()
    await system.client.cancel_task(task_id)


async def test_facts_that_cannot_be_found_out(system: System) -> None:
    """Without a connection there is the ledger alone: what is not known is said."""
    await system.register(
        template("unknown", [{"name": "a", "handler": "refuse", "queue": "far"}], namespace="why")
    )
    task_id = await system.create("unknown", namespace="why")
    alone = ExplanationOperations(system.store, system.orchestrator.loader, None, None, SHARDS)
    found = await alone.explanation(ExplainTask(task_id=task_id))
    assert [one.code for one in found.findings] == ["enqueued"]
    assert "Which workers serve it could not be found out." in found.findings[0].sentence
    # The owner is at work; nobody has asked it.
    assert "That one was not asked: what is said here is what the ledger has." in found.shard.sentence
    with pytest.raises(ApiError, match="there is no task"):
        await alone.explanation(ExplainTask(task_id=uuid7()))
    await system.client.cancel_task(task_id)
