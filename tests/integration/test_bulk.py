"""Bulk operations on real servers: what a filter finds is acted on at a rate, once each, whoever owns it meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import pytest_asyncio
from tests.unit.cli.typed import typed_process

from stepweave import SyncClient
from stepweave.api_errors import BadRequest, Conflict, NotFound
from stepweave.testing import eventually
from stepweave_orchestrator.runtime.owner_requests import ActForBulk, MayAct, OwnerRequest
from stepweave_schemas.api import BulkResponse
from stepweave_schemas.bulk import BulkFilter
from stepweave_schemas.mint import uuid7

from .conftest import WAIT_SECONDS, System, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "many"
TASKS_EACH = 15


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def templates(system: System) -> None:
    for name in ("left", "right"):
        await system.register(template(name, namespace=NAMESPACE))


async def made(system: System, tag: str, count: int = TASKS_EACH) -> list[str]:
    """Blocked tasks of two templates that the list shows as such."""
    task_ids = [
        await system.create(name, namespace=NAMESPACE, tags=[tag])
        for name in ("left", "right")
        for _ in range(count)
    ]
    for _ in task_ids:
        await (await system.take(NAMESPACE)).say("failure", error_message="no", retryable=False)

    async def shown() -> bool:
        return await listed(system, tag, "blocked_by_failures") == len(task_ids)

    await eventually(shown, timeout_seconds=WAIT_SECONDS, what="blocked tasks in the list")
    return task_ids


async def listed(system: System, tag: str, status: str) -> int:
    """How many tasks the list shows."""
    page = await system.request("task.list", {"tag": tag, "status": [status]})
    return int(page["pagination"]["total_count"])


async def ended(system: System, bulk_id: str) -> BulkResponse:
    """Wait until nothing of it is left to do."""

    async def look() -> BulkResponse | None:
        bulk = await system.client.get_bulk(bulk_id, timeout_seconds=30)
        return None if bulk.status == "running" or bulk.pending_count else bulk

    found: BulkResponse = await eventually(look, timeout_seconds=WAIT_SECONDS, what="the bulk operation")
    return found


async def resets(system: System, task_ids: list[str]) -> list[int]:
    """How often each task was tried again."""
    return [(await system.types(task_id)).count("step.reset") for task_id in task_ids]


async def test_blocked_tasks_are_retried_by_filter_and_another_owner_goes_on(system: System) -> None:
    client = system.client
    task_ids = await made(system, "a")
    # No filter of the list tells these from the others: they refuse.
    refusing = task_ids[:2]
    for task_id in refusing:
        await client.cancel_task(task_id)
    wanted = BulkFilter(namespace=NAMESPACE, tag="a")
    heads = await system.heads()
    preview = await client.preview_bulk("retry", wanted)
    assert preview.matching_count == len(task_ids)
    assert [one.task_uuid for one in preview.first] == task_ids[:-21:-1]
    assert {one.refusal for one in preview.first} == {None}
    assert await system.heads() == heads
    assert (await client.list_bulks(namespace=NAMESPACE)).bulks == ()

    bulk_id = uuid7()
    settings: dict[str, Any] = {"bulk_id": bulk_id, "rate_per_second": 8.0, "reason": "mended"}
    started = await client.start_bulk("retry", wanted, requested_by="ada", **settings)
    assert (started.status, started.requested_by) == ("running", "ada")
    assert (await client.start_bulk("retry", wanted, requested_by="ada", **settings)).bulk_id == bulk_id
    with pytest.raises(Conflict, match="another one"):
        await client.start_bulk("cancel", wanted, **settings)

    async def begun() -> bool:
        return any(await resets(system, task_ids))

    await eventually(begun, timeout_seconds=WAIT_SECONDS, what="a first task")
    # The owner goes away in the middle of a chunk.
    await system.stop_orchestrator(system.orchestrator)
    await system.start_orchestrator()
    done = await ended(system, bulk_id)
    assert (done.status, done.selected_count, done.applied_count, done.refused_count) == (
        "complete",
        len(task_ids),
        len(task_ids) - 2,
        2,
    )
    assert {one.task_uuid for one in done.refused} == set(refusing)
    assert all(one.code == "CONFLICT" and "ended already: cancelled" in one.reason for one in done.refused)
    assert await resets(system, task_ids) == [0, 0] + [1] * (len(task_ids) - 2)
    listed_refused = await client.list_bulk_tasks(bulk_id, outcome="refused")
    assert {(one.task_uuid, one.code) for one in listed_refused.tasks} == {
        (task_id, "CONFLICT") for task_id in refusing
    }
    reset = next(event for event in await system.history(task_ids[-1]) if event.type == "step.reset")
    assert reset.causation_id == f"bulk:{bulk_id}"
    assert '"mended"' in reset.data and '"ada"' in reset.data
    selected = [event for event in await system.history(done.stream_id) if event.type == "bulk.selected"]
    assert len(selected) == 2, "16 tasks each two seconds"


async def test_it_is_stopped_and_listed_and_cancels_what_it_has_selected(system: System) -> None:
    client = system.client
    tag = "b"
    task_ids = [await system.create("left", namespace=NAMESPACE, tags=[tag]) for _ in range(6)]

    async def shown() -> bool:
        return await listed(system, tag, "steps_in_process") == len(task_ids)

    await eventually(shown, timeout_seconds=WAIT_SECONDS, what="the tasks in the list")
    bulk = await client.start_bulk("cancel", BulkFilter(tag=tag), rate_per_second=1.0, requested_by="ada")

    async def selected() -> bool:
        return (await client.get_bulk(bulk.bulk_id)).selected_count > 0

    await eventually(selected, timeout_seconds=WAIT_SECONDS, what="a first chunk")
    await client.cancel_bulk(bulk.bulk_id, reason="enough", cancelled_by="bob")
    done = await ended(system, bulk.bulk_id)
    assert (done.status, done.cancelled_by, done.cancel_reason) == ("cancelled", "bob", "enough")
    assert 0 < done.applied_count == done.selected_count < len(task_ids)
    statuses = [(await system.task(task_id))["status"] for task_id in reversed(task_ids)]
    assert statuses == ["cancelled"] * done.applied_count + ["steps_in_process"] * (6 - done.applied_count)

    async def told() -> bool:
        page = await client.list_bulks(status="cancelled")
        return [one.bulk_id for one in page.bulks] == [bulk.bulk_id]

    await eventually(told, timeout_seconds=WAIT_SECONDS, what="the operation in the list")
    with pytest.raises(NotFound, match="stepweave bulk list"):
        await client.get_bulk(uuid7())
    # What became of each of them, in pages of the operation's events.
    page = await client.list_bulk_tasks(bulk.bulk_id)
    assert [(one.task_uuid, one.outcome) for one in page.tasks] == [
        (task_id, "applied") for task_id in reversed(task_ids)
    ][: done.applied_count]
    assert page.next_version is None
    with pytest.raises(BadRequest, match="applied, refused, pending"):
        await client.list_bulk_tasks(bulk.bulk_id, outcome="done")
    with pytest.raises(NotFound, match="stepweave bulk list"):
        await client.list_bulk_tasks(uuid7())
    # The rest, by the command line, which asks nobody where there is no terminal.
    unasked = await typed_process(system.nats_url, *("bulk", "cancel", "--tag", tag, "--max", "3"))
    assert unasked.code == 2
    assert "cancel 3 of 6 task(s), 300 ms at 10 each second; --yes does it" in unasked.err
    answer = await typed_process(
        system.nats_url,
        *("bulk", "cancel", "--tag", tag, "--status", "steps_in_process", "--yes", "--rate", "100"),
        *("--by", "eve", "--output", "json"),
    )
    assert answer.code == 0, answer
    assert '"applied_count": ' in answer.out
    [rest] = [one for one in (await client.list_bulks(status="complete")).bulks if one.requested_by == "eve"]
    listed_all = await typed_process(system.nats_url, "bulk", "tasks", rest.bulk_id, "--output", "json")
    assert {one["task_uuid"] for one in json.loads(listed_all.out)} == set(task_ids[: -done.applied_count])
    assert {(await system.task(task_id))["status"] for task_id in task_ids} == {"cancelled"}


async def test_a_task_that_cannot_be_asked_holds_up_no_other(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = system.client
    tag = "c"
    task_ids = [await system.create("left", namespace=NAMESPACE, tags=[tag]) for _ in range(3)]
    service = system.orchestrator.service
    handle = service.handle

    async def broken(shard: int, request: OwnerRequest) -> bytes:
        # As with a task whose history this version cannot replay.
        if isinstance(request, ActForBulk | MayAct) and request.stream_id == task_ids[1]:
            raise RuntimeError("it is beyond us")
        return await handle(shard, request)

    monkeypatch.setattr(service, "handle", broken)

    async def shown() -> bool:
        return await listed(system, tag, "steps_in_process") == len(task_ids)

    await eventually(shown, timeout_seconds=WAIT_SECONDS, what="the tasks in the list")
    preview = await client.preview_bulk("cancel", BulkFilter(tag=tag))
    assert [one.refusal is None for one in preview.first] == [True, False, True]
    bulk = await client.start_bulk("cancel", BulkFilter(tag=tag), rate_per_second=100.0)
    done = await ended(system, bulk.bulk_id)
    assert (done.status, done.applied_count) == ("complete", 2)
    [refused] = done.refused
    assert (refused.task_uuid, refused.code) == (task_ids[1], "INTERNAL_ERROR")
    assert "RuntimeError" in refused.reason
    monkeypatch.undo()
    await client.cancel_task(task_ids[1])


async def test_the_filter_is_about_versions_sources_and_moments_too(system: System) -> None:
    """Also: the client for code that is not async."""
    tag = "d"
    await system.register(template("left", namespace=NAMESPACE, version="2.0.0"))
    old, other = [
        await system.create("left", namespace=NAMESPACE, tags=[tag], version="1.0.0", source_system=source)
        for source in ("shop", "desk")
    ]
    new = await system.create("left", namespace=NAMESPACE, tags=[tag], version="2.0.0", source_system="shop")
    created = {task_id: (await system.task(task_id))["created_at"] for task_id in (old, other, new)}
    # Two may be of the same millisecond.
    before = {task_id for task_id in created if created[task_id] < created[new]}

    async def shown() -> bool:
        return await listed(system, tag, "steps_in_process") == 3

    await eventually(shown, timeout_seconds=WAIT_SECONDS, what="the tasks in the list")

    def work() -> BulkResponse:
        with SyncClient(system.nats_url) as client:

            def found(**wanted: Any) -> set[str]:
                preview = client.preview_bulk("cancel", BulkFilter(tag=tag, **wanted))
                return {one.task_uuid for one in preview.first}

            assert found(version="1.0.0") == {old, other}
            assert found(version="1.0.0", source_system="shop") == {old}
            assert found(created_from=created[new]) == set(created) - before
            assert found(created_before=created[new]) == before
            assert found(created_before=created[old].replace("Z", "+01:00")) == set()
            wanted = BulkFilter(tag=tag, version="2.0.0", created_from=created[new])
            bulk = client.start_bulk("cancel", wanted, requested_by="ada")
            assert client.get_bulk(bulk.bulk_id).filter == wanted
            return bulk

    bulk = await asyncio.to_thread(work)
    done = await ended(system, bulk.bulk_id)
    assert (done.applied_count, (await system.task(new))["status"]) == (1, "cancelled")
    assert (await system.task(old))["status"] == "steps_in_process"


@pytest.mark.parametrize(
    ("wrong", "code", "why"),
    [
        ({"filter": {}}, "VALIDATION_FAILED", "filter: it restricts nothing"),
        ({"filter": {"status": ["blocked"]}}, "VALIDATION_FAILED", "filter.status: no task is 'blocked'"),
        ({"filter": {"nmae": "x"}}, "BAD_REQUEST", "nmae"),
        ({"filter": {"tag": "x" * 1_025}}, "VALIDATION_FAILED", "tag: 1024 characters"),
        ({"filter": {"tag": ""}}, "VALIDATION_FAILED", "filter.tag: it is empty"),
        ({"filter": {"created_from": "today"}}, "VALIDATION_FAILED", "filter.created_from: "),
        ({"filter": {"created_before": "2026-01-31T12:00:00"}}, "VALIDATION_FAILED", "names no time zone"),
        (
            {"filter": {"created_from": "2026-01-02T00:00:00Z", "created_before": "2026-01-01T00:00:00Z"}},
            "VALIDATION_FAILED",
            "filter.created_before: it is not after created_from",
        ),
        ({"filter": {"namespace": "x" * 256}}, "VALIDATION_FAILED", "filter.namespace: 255 bytes"),
        ({"filter": {"status": ["error"] * 2}}, "VALIDATION_FAILED", "filter.status: a state is named twice"),
        ({"rate_per_second": 0}, "VALIDATION_FAILED", "rate_per_second: 0.2 to 1000"),
        ({"tasks_max": 0}, "VALIDATION_FAILED", "tasks_max: 1 to 1000000"),
        ({"bulk_id": "seven"}, "INVALID_UUID", "bulk_id: 'seven'"),
        ({"reason": "a\x00b"}, "VALIDATION_FAILED", "reason: the character NUL"),
        ({"action": "fork"}, "BAD_REQUEST", "action"),
    ],
)
async def test_what_is_wrong_is_said(system: System, wrong: dict[str, Any], code: str, why: str) -> None:
    request = {"action": "cancel", "filter": {"tag": "none"}, **wrong}
    refused = await system.refusal("bulk.start", request)
    assert (refused.code, why in refused.message) == (code, True), refused
