"""Tasks that are stuck: named, listed, looked into, and free again; on real servers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.unit.cli.typed import PATIENCE_SECONDS, Answer, clean_environment

from stepweave import (
    Client,
    Conflict,
    NotFound,
    PermanentError,
    StepContext,
    SyncClient,
    Worker,
    step_handler,
)
from stepweave.testing import eventually
from stepweave_eventstore.store import DeadLetterFilter
from stepweave_orchestrator.runtime.rebuild import rebuild
from stepweave_schemas.api import DeadLetterEntry

from .conftest import System, running_system, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "stuck"
#: So that a test does not wait for what takes a minute.
QUICK = {"handler_missing_seconds": 0.5, "handler_check_seconds": 0.2}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient(module_database_url: str, module_nats_url: str) -> AsyncIterator[System]:
    async with running_system(module_database_url, module_nats_url, **QUICK) as system:
        yield system


@step_handler("refuse")
async def refuse(context: StepContext) -> None:
    raise PermanentError("the card has expired", error_code="CARD_EXPIRED")


def one(name: str, handler: str, **fields: Any) -> str:
    return template(name, [{"name": "only", "handler": handler}], namespace=NAMESPACE, **fields)


def worker(system: System, *handlers: Any, name: str) -> Worker:
    return Worker(system.nats_url, namespaces=[NAMESPACE], handlers=handlers, worker_id=name, grace_seconds=1)


async def start_task(client: Client, name: str, **fields: Any) -> str:
    return (await client.create_task(name, namespace=NAMESPACE, **fields)).task_uuid


async def typed(system: System, *words: str) -> Answer:
    """A command as a process of its own, because this one's event loop is busy with the orchestrator."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "stepweave_orchestrator.cli", *words),
        env=clean_environment(NATS_URL=system.nats_url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    return Answer(process.returncode or 0, out.decode(), err.decode())


async def stale(client: Client, task_id: str) -> DeadLetterEntry | None:
    page = await client.stale_tasks(namespace=NAMESPACE, per_page=200)
    return next((entry for entry in page.entries if entry.task_uuid == task_id), None)


async def test_a_handler_that_nobody_serves_is_named_and_runs_when_its_worker_comes(
    impatient: System,
) -> None:
    client = impatient.client

    @step_handler("other")
    async def other() -> None: ...

    @step_handler("special")
    async def special() -> dict[str, bool]:
        return {"done": True}

    await client.register_template(one("waits", "special"))
    task_id = await start_task(client, "waits")

    async def named() -> DeadLetterEntry | None:
        return await stale(client, task_id)

    # No worker at all.
    entry: DeadLetterEntry = await eventually(named, what="the missing handler")
    assert (entry.dlq_reason, entry.missing_handlers, entry.steps) == (
        "handler_missing",
        ("special",),
        ("only",),
    )
    assert (entry.is_open, entry.is_listed, entry.threshold) == (True, False, "handler_missing")
    task = await client.get_task(task_id)
    assert task.step("only").missing_handler == "special"
    assert task.stuck is not None and "no worker serves special" in task.stuck
    assert (await client.list_dead_letters(namespace=NAMESPACE)).entries == ()

    [missing] = (await client.dead_letter_stats(namespace=NAMESPACE)).missing_handlers
    assert (missing.namespace, missing.handler, missing.task_count) == (NAMESPACE, "special", 1)

    lists, health, counts = await asyncio.gather(
        typed(impatient, "worker", "list"),
        typed(impatient, "doctor", "--nats-url", impatient.nats_url),
        typed(impatient, "dlq", "stats"),
    )
    assert ["stuck", "special", "1"] in [line.split()[:3] for line in counts.out.splitlines()], counts.err
    assert "nobody serves handler special of namespace stuck: 1 task(s) wait" in lists.err
    assert "steps wait for handlers that nobody serves: special of namespace stuck" in health.out

    # One that does not have it hands the step back, which costs nothing.
    async with worker(impatient, other, name="without"):

        async def handed_back() -> bool:
            return "step.released" in await impatient.types(task_id)

        await eventually(handed_back, what="the hand-back")
        async with worker(impatient, special, name="with"):
            done = await client.wait_for_task(task_id, timeout_seconds=15)
    assert (done.status, done.step("only").attempts, done.stuck) == ("complete", 1, None)
    history = await impatient.history(task_id)
    said = [json.loads(event.data) for event in history if event.type == "step.released"]
    assert {one["reason"] for one in said} == {"handler_missing"}
    # Each time it waits for twice as long: no hot loop of hand-backs.
    assert len(said) <= 20
    assert [event.type for event in history].count("task.stale") == 1

    async def gone() -> bool:
        return await stale(client, task_id) is None

    await eventually(gone, what="nothing stale")
    [entry] = (await client.get_dead_letters(task_id)).entries
    assert entry.resolution_status == "recovered"


async def test_a_blocked_task_is_listed_looked_into_and_resolved(impatient: System) -> None:
    client = impatient.client
    await client.register_template(one("refused", "refuse"))
    async with worker(impatient, refuse, name="refusing"):
        urgent = await start_task(client, "refused", priority=50, context={"order": 7})
        plain = await start_task(client, "refused")
        for task_id in (urgent, plain):
            await client.wait_for_task(task_id, timeout_seconds=15)

    # Whoever has it from the task itself need not wait for the lists.
    [fresh] = (await client.get_dead_letters(plain)).entries
    assert (await client.update_dead_letter(fresh.dlq_entry_uuid, notes="seen")).resolution_notes == "seen"

    async def listed() -> list[str]:
        page = await client.list_dead_letters(
            namespace=NAMESPACE, name="refused", reason="failures", is_open=True
        )
        return [entry.task_uuid for entry in page.entries]

    async def both() -> bool:
        return set(await listed()) == {urgent, plain}

    await eventually(both, what="both dead letters")
    queue = [e.task_uuid for e in (await client.investigation_queue(namespace=NAMESPACE)).entries]
    assert queue == [urgent, plain]

    found = await client.get_dead_letters(urgent)
    [entry] = found.entries
    assert (entry.error_message, entry.error_code, entry.steps) == (
        "the card has expired",
        "CARD_EXPIRED",
        ("only",),
    )
    assert entry.age_seconds >= 0 and entry.priority_score >= 50
    # The task as it was, replayed.
    assert found.task_snapshot is not None and found.dlq_entry_uuid == entry.dlq_entry_uuid
    assert found.task_snapshot.status == "blocked_by_failures"
    assert found.task_snapshot.context == {"order": 7}
    assert found.task_snapshot.step("only").error_code == "CARD_EXPIRED"

    shown, listed_as_json = await asyncio.gather(
        typed(impatient, "dlq", "show", urgent),
        typed(impatient, "dlq", "queue", "-n", NAMESPACE, "-o", "json"),
    )
    assert "the card has expired" in shown.out and "the task at that moment" in shown.out
    assert [one["task_uuid"] for one in json.loads(listed_as_json.out)["entries"]] == [urgent, plain]
    told = await typed(
        impatient, "dlq", "resolve", entry.dlq_entry_uuid, "--status", "investigating", "--by", "eve"
    )
    assert "investigating" in told.out and "eve" in told.out

    said = await client.update_dead_letter(
        entry.dlq_entry_uuid,
        resolution_status="manually_resolved",
        notes="paid in cash",
        resolved_by="ada",
        metadata={"ticket": 7},
    )
    assert (said.resolution_status, said.resolution_notes, said.resolved_by) == (
        "manually_resolved",
        "paid in cash",
        "ada",
    )
    assert json.loads(bytes(said.metadata)) == {"ticket": 7}
    assert (await impatient.last(urgent))["type"] == "task.investigated"
    with pytest.raises(Conflict, match="is resolved"):
        await client.update_dead_letter(entry.dlq_entry_uuid, resolution_status="pending")
    with pytest.raises(NotFound, match="no dead letter"):
        await client.update_dead_letter(urgent, notes="a task's id")
    with pytest.raises(NotFound):
        await client.get_dead_letters(plain, entry_uuid=entry.dlq_entry_uuid)

    # What ends the other one closes its letter.
    await client.cancel_task(plain, reason="not worth it", cancelled_by="bob")

    async def none_open() -> bool:
        return await listed() == []

    await eventually(none_open, what="no open dead letter")
    stats = await client.dead_letter_stats(namespace=NAMESPACE)
    assert (stats.by_resolution_status, stats.open_count) == ({"manually_resolved": 1, "cancelled": 1}, 0)
    assert {kind.count for kind in stats.kinds} == {1}
    [closed] = (await client.get_dead_letters(plain)).entries
    assert (closed.resolved_by, closed.resolution_notes) == ("bob", "not worth it")

    def without_a_loop() -> int:
        with SyncClient(impatient.nats_url) as sync:
            return len(sync.list_dead_letters(namespace=NAMESPACE).entries)

    assert await asyncio.to_thread(without_a_loop) == 2


async def test_what_operators_do_closes_the_letter(impatient: System) -> None:
    client = impatient.client
    await client.register_template(one("mended", "refuse"))
    async with worker(impatient, refuse, name="refusing again"):
        retried, given_up, resolved = [await start_task(client, "mended") for _ in range(3)]
        for task_id in (retried, given_up, resolved):
            await client.wait_for_task(task_id, timeout_seconds=15)

        async def letters(task_id: str) -> list[tuple[str, str]]:
            entries = (await client.get_dead_letters(task_id)).entries
            return sorted((entry.resolution_status, entry.resolved_by or "") for entry in entries)

        # A fork is a case of its own, and changes nothing about its original's.
        forked = (await client.fork_task(retried, from_steps=["only"], reason="a new card")).task
        assert forked is not None
        fork = forked.task_uuid
        await client.wait_for_task(fork, timeout_seconds=15)
        [entry] = (await client.get_dead_letters(fork)).entries
        assert (entry.task_uuid, entry.resolution_status) == (fork, "pending")
        why = await client.explain_task(fork)
        assert [one.code for one in why.findings] == ["blocked", "failed"]
        assert f"stepweave task retry {fork}" in why.findings[0].commands
        assert await letters(retried) == [("pending", "")]
        await client.cancel_task(fork, cancelled_by="ana")
        assert (await letters(fork), await letters(retried)) == ([("cancelled", "ana")], [("pending", "")])

        # Paused, it is as stuck as before; and when it is resumed it is still the same case.
        assert (await client.pause_task(retried, paused_by="ana")).status == "paused"
        assert await letters(retried) == [("pending", "")]
        assert (await client.resume_task(retried, resumed_by="ana")).status == "blocked_by_failures"
        assert await letters(retried) == [("pending", "")]

        await client.retry_task(retried, reason="a new card", reset_by="ana")

        async def failed_again() -> bool:
            return await letters(retried) == [("pending", ""), ("retried", "ana")]

        await eventually(failed_again, what="a second dead letter")
    await client.give_up_task(given_up, reason="no use", given_up_by="bob")
    await client.resolve_task(resolved, reason="paid in cash", resolved_by="eve")
    assert await letters(given_up) == [("permanently_failed", "bob")]
    assert await letters(resolved) == [("manually_resolved", "eve")]
    [entry] = (await client.get_dead_letters(resolved)).entries
    assert entry.resolution_notes == "paid in cash"
    await client.cancel_task(retried, cancelled_by="ana")
    assert await letters(retried) == [("cancelled", "ana"), ("retried", "ana")]


async def test_a_stale_task_is_cancelled_and_its_handler_hears_it(impatient: System) -> None:
    client = impatient.client
    heard = asyncio.Event()

    @step_handler("endless")
    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            heard.set()
            raise

    lifecycle = {"max_duration_seconds": 0.6, "staleness_action": "cancel"}
    await client.register_template(one("endless", "endless", lifecycle=lifecycle))
    async with worker(impatient, endless, name="endless"):
        task_id = await start_task(client, "endless")
        done = await client.wait_for_task(task_id, timeout_seconds=15)
        assert done.status == "cancelled"
        async with asyncio.timeout(10):
            await heard.wait()
    types = await impatient.types(task_id)
    assert types[-2:] == ["task.stale", "task.cancelled"] or "step.result_refused" in types
    assert impatient.orchestrator.metrics.tasks_stale >= 1


async def test_time_runs_on_without_an_owner_and_letters_can_be_built_again(impatient: System) -> None:
    client = impatient.client
    lifecycle = {"max_steps_in_process_seconds": 1}
    await client.register_template(one("forgotten", "nobody_has_it", lifecycle=lifecycle))
    task_id = await start_task(client, "forgotten")
    await impatient.stop_orchestrator(impatient.orchestrator)
    await impatient.start_orchestrator()

    async def listed() -> bool:
        page = await client.list_dead_letters(namespace=NAMESPACE, name="forgotten", reason="staleness")
        return [entry.task_uuid for entry in page.entries] == [task_id]

    await eventually(listed, what="the stale task among the dead letters")
    await impatient.stop_orchestrator(impatient.orchestrator)
    before = await impatient.store.list_dead_letters(DeadLetterFilter(limit=200))
    await impatient.store.reset_projections()
    await rebuild(impatient.store)
    assert await impatient.store.list_dead_letters(DeadLetterFilter(limit=200)) == before
    await impatient.start_orchestrator()
