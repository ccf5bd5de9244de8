"""Asking about tasks and cancelling them: pages of bounded size, states as they are, refusals that say why."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import pytest_asyncio

from stepweave import StepContext, step_handler
from stepweave.api_errors import Conflict, NotFound
from stepweave.testing import eventually
from stepweave_schemas.dispatch import CONTEXT_BYTES_MAX, RESULT_BYTES_MAX
from stepweave_schemas.identity import shard_stream_id, template_stream_id
from stepweave_schemas.mint import uuid7
from stepweave_schemas.result import ERROR_MESSAGE_CHARS_MAX

from .conftest import GOOD_NAMESPACE, WAIT_SECONDS, System, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "asked"
RETRY_LATER = {"max_attempts": 3, "backoff": "fixed", "backoff_base_ms": 30_000, "jitter": 0}


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def templates(system: System) -> None:
    await system.register(template("one", namespace=NAMESPACE))
    await system.register(
        template("retried", [{"name": "only", "handler": "noop", "retry": RETRY_LATER}], namespace=NAMESPACE)
    )
    await system.register(template("served", namespace=GOOD_NAMESPACE))
    await system.register(
        template(
            "pair",
            [
                {"name": "first", "handler": "noop"},
                {"name": "second", "handler": "noop", "dependencies": ["first"]},
            ],
            namespace=NAMESPACE,
        )
    )


# -- one task ------------------------------------------------------------------------------------


async def test_a_task_is_shown_as_it_stands(system: System) -> None:
    task_id, first = await system.started("pair", namespace=NAMESPACE)
    task = await system.task(task_id)
    assert (task["status"], task["execution_status"], task["recommended_action"]) == (
        "steps_in_process",
        "has_ready_steps",
        "execute_ready_steps",
    )
    assert [step["current_state"] for step in task["steps"]] == ["enqueued", "pending"]
    await first.say("started", started_at_ms=first.dispatch.enqueued_at_ms)
    task = await system.task(task_id)
    assert (task["execution_status"], task["steps"][0]["worker_id"]) == ("processing", "by-hand")
    await first.say("success", result=1)
    second = await system.take(NAMESPACE)
    task = await system.task(task_id)
    assert task["completion_percentage"] == 50.0
    assert [step["current_state"] for step in task["steps"]] == ["complete", "enqueued"]
    await second.say("failure", error_message="declined", error_code="DECLINED", retryable=False)
    task = await system.task(task_id)
    assert (task["status"], task["health_status"], task["recommended_action"]) == (
        "blocked_by_failures",
        "blocked",
        "handle_failures",
    )
    assert (task["steps"][1]["error_code"], task["steps"][1]["error_message"]) == ("DECLINED", "declined")
    assert task["stream_version"] == len(await system.history(task_id))


@pytest.mark.parametrize("operation", ["task.get", "task.cancel", "task.results", "task.events"])
async def test_tasks_that_are_none(system: System, operation: str) -> None:
    async with system.unharmed():
        for odd in ("", "42", "\x00", uuid7().upper(), "../..", "x" * 900_000):
            refused = await system.refusal(operation, {"task_id": odd})
            assert refused.code == "INVALID_UUID"
            assert len(refused.message) < 4_000
        for unknown in (uuid7(), template_stream_id(NAMESPACE, "one"), shard_stream_id(0)):
            refused = await system.refusal(operation, {"task_id": unknown})
            assert refused.code == "NOT_FOUND", (unknown, refused)
        with pytest.raises(NotFound):
            await system.client.get_task(uuid7())


# -- cancelling ----------------------------------------------------------------------------------


async def test_cancelling_a_delayed_task(system: System) -> None:
    task_id = await system.create("one", namespace=NAMESPACE, start_at="2028-01-01T00:00:00Z")
    told = await system.request(
        "task.cancel", {"task_id": task_id, "reason": "not now", "cancelled_by": "ana"}
    )
    assert told["status"] == "cancelled"
    assert await system.types(task_id) == ["task.created", "task.cancelled"]
    last = await system.last(task_id)
    assert (last["reason"], last["cancelled_by"], last.get("cancelled_steps", [])) == ("not now", "ana", [])
    assert [
        wakeup.task_id for shard in await system.heads() for wakeup in await system.store.wakeups(shard)
    ] == []


async def test_cancelling_a_running_task_tells_its_worker_and_refuses_its_result(system: System) -> None:
    notices: list[dict[str, Any]] = []
    listening = await system.connection.subscribe(
        f"sw.ctl.{NAMESPACE}.cancel", lambda message: notices.append(json.loads(message.data))
    )
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    await taken.say("started", started_at_ms=taken.dispatch.enqueued_at_ms)
    told = await system.request("task.cancel", {"task_id": task_id})
    assert [step["current_state"] for step in told["steps"]] == ["cancelled", "cancelled"]
    await eventually(lambda: notices, what="a notice")
    await listening.unsubscribe()
    assert notices == [{"task_id": task_id, "step_uuids": [taken.dispatch.step_uuid]}]
    # The late result is recorded once and changes nothing.
    for _ in range(3):
        await taken.say("success", result="late")
    assert (await system.types(task_id))[-2:] == ["task.cancelled", "step.result_refused"]
    assert (await system.last(task_id))["refusal"] == "task_finished"
    assert (await system.task(task_id))["status"] == "cancelled"
    assert (await system.request("task.results", {"task_id": task_id}))["results"] == {}


async def test_cancelling_a_task_that_waits_for_a_retry(system: System) -> None:
    task_id, taken = await system.started("retried", namespace=NAMESPACE)
    await taken.say("failure", error_message="busy")
    task = await system.task(task_id)
    assert (task["status"], task["steps"][0]["backoff_request_seconds"]) == ("waiting_for_retry", 30.0)
    assert (await system.request("task.cancel", {"task_id": task_id}))["status"] == "cancelled"
    wakeups = [
        wakeup.task_id for shard in await system.heads() for wakeup in await system.store.wakeups(shard)
    ]
    assert task_id not in wakeups


async def test_cancelling_a_blocked_task(system: System) -> None:
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    await taken.say("failure", error_message="no", retryable=False)
    await system.wait(task_id, "blocked_by_failures")
    assert (await system.request("task.cancel", {"task_id": task_id}))["status"] == "cancelled"


async def test_cancelling_twice_is_once_and_an_ended_task_is_refused(system: System) -> None:
    task_id = await system.create("one", namespace=NAMESPACE)
    taken = await system.take(NAMESPACE)
    assert (await system.request("task.cancel", {"task_id": task_id}))["status"] == "cancelled"
    async with system.unharmed():
        again = await system.request("task.cancel", {"task_id": task_id, "reason": "again"})
        assert again["status"] == "cancelled"
    await taken.say("success", result=1)
    done = await system.create("served", namespace=GOOD_NAMESPACE)
    await system.wait(done)
    async with system.unharmed():
        refused = await system.refusal("task.cancel", {"task_id": done})
        assert refused.code == "CONFLICT"
        assert "complete" in refused.message
        with pytest.raises(Conflict):
            await system.client.cancel_task(done)
        for fields in ({"reason": "x" * 2_000}, {"cancelled_by": "\x00"}):
            refused = await system.refusal("task.cancel", {"task_id": done, **fields})
            assert refused.code == "VALIDATION_FAILED"
    assert (await system.types(task_id)).count("task.cancelled") == 1


async def test_a_task_that_ended_in_error_cannot_be_cancelled(system: System) -> None:
    await system.register(template("fails", namespace=NAMESPACE, on_failure="fail"))
    task_id, taken = await system.started("fails", namespace=NAMESPACE)
    await taken.say("failure", error_message="no", retryable=False)
    await system.wait(task_id, "error")
    async with system.unharmed():
        refused = await system.refusal("task.cancel", {"task_id": task_id})
        assert (refused.code, refused.details["task_id"]) == ("CONFLICT", task_id)


async def test_many_cancel_at_once(system: System) -> None:
    task_id = await system.create("one", namespace=NAMESPACE)
    taken = await system.take(NAMESPACE)
    told = await asyncio.gather(
        *(system.request("task.cancel", {"task_id": task_id, "reason": str(n)}) for n in range(20))
    )
    assert {one["status"] for one in told} == {"cancelled"}
    assert (await system.types(task_id)).count("task.cancelled") == 1
    await taken.say("success", result=1)


# -- lists ---------------------------------------------------------------------------------------


async def test_lists_are_filtered_and_paged(system: System) -> None:
    ids = []
    for number in range(7):
        ids.append(
            await system.create(
                "served",
                namespace=GOOD_NAMESPACE,
                initiator="lister",
                source_system="shop" if number % 2 else "till",
                tags=["even"] if number % 2 == 0 else ["odd", "ünï"],
                correlation_id=f"list-{number}",
            )
        )
        await system.wait(ids[-1])

    async def all_shown() -> bool:
        page = await system.client.list_tasks(initiator="lister", status="complete")
        return page.pagination.total_count == 7

    await eventually(all_shown, timeout_seconds=WAIT_SECONDS, what="every task in the list")
    newest_first = list(reversed(ids))
    pages = [
        await system.client.list_tasks(initiator="lister", page=page, per_page=3) for page in (1, 2, 3, 4)
    ]
    assert [task.task_uuid for page in pages for task in page.tasks] == newest_first
    assert [(page.pagination.has_next, page.pagination.has_previous) for page in pages] == [
        (True, False),
        (True, True),
        (False, True),
        (False, True),
    ]
    assert {(page.pagination.total_count, page.pagination.total_pages) for page in pages} == {(7, 3)}

    async def found(**filter: Any) -> list[str]:
        page = await system.client.list_tasks(**filter)
        return [task.task_uuid for task in page.tasks]

    assert await found(initiator="lister", tag="ünï") == [newest_first[n] for n in (1, 3, 5)]
    assert await found(initiator="lister", source_system="till") == [newest_first[n] for n in (0, 2, 4, 6)]
    assert await found(correlation_id="list-3") == [ids[3]]
    assert await found(initiator="lister", name="proof") == []
    assert await found(initiator="lister", namespace=GOOD_NAMESPACE, name="served") == newest_first
    assert await found(initiator="lister", status=["error", "cancelled"]) == []
    assert await found(initiator="\x00") == []
    assert await found(initiator="' OR 1=1 --") == []
    one = (await system.client.list_tasks(correlation_id="list-3")).tasks[0]
    full = await system.client.get_task(ids[3])
    assert (one.status, one.completed_at, one.tags, one.completion_percentage) == (
        full.status,
        full.completed_at,
        full.tags,
        100.0,
    )


@pytest.mark.parametrize(
    "request_",
    [
        {"page": 0},
        {"page": -1},
        {"page": 2**31},
        {"page": 2**70},
        {"per_page": 0},
        {"per_page": 201},
        {"page": True},
        {"per_page": 10.5},
        {"status": ["done"]},
        {"status": "complete"},
        {"order": "name"},
        {"tag": ["a"]},
    ],
    ids=str,
)
async def test_lists_that_cannot_be(system: System, request_: dict[str, Any]) -> None:
    async with system.unharmed():
        assert (await system.refusal("task.list", request_)).code == "BAD_REQUEST"


async def test_what_a_database_cannot_hold_does_not_stop_the_list(system: System) -> None:
    task_id, taken = await system.started("one", namespace=NAMESPACE, initiator="odd")
    await taken.say("failure", error_message="nul \x00 nul", error_code="C\x00", retryable=False)
    task = await system.wait(task_id, "blocked_by_failures")
    assert task.steps[0].error_message == "nul \x00 nul"

    async def shown() -> bool:
        page = await system.client.list_tasks(initiator="odd", status="blocked_by_failures")
        return [one.error_message for one in page.tasks] == ["only: nul \ufffd nul"]

    await eventually(shown, timeout_seconds=WAIT_SECONDS, what="the failed task in the list")
    await system.proves_itself()


# -- events --------------------------------------------------------------------------------------


async def test_events_come_in_pages(system: System) -> None:
    task_id = await system.create("served", namespace=GOOD_NAMESPACE)
    await system.wait(task_id)
    stored = await system.history(task_id)
    seen: list[dict[str, Any]] = []
    version: int | None = 1
    while version is not None:
        page = await system.request("task.events", {"task_id": task_id, "from_version": version, "limit": 3})
        seen += page["events"]
        version = page["next_version"]
    assert [(one["version"], one["type"]) for one in seen] == [(one.version, one.type) for one in stored]
    assert [one["data"] for one in seen] == [json.loads(one.data) for one in stored]
    beyond = await system.request("task.events", {"task_id": task_id, "from_version": 1_000})
    assert beyond == {"events": [], "next_version": None}
    for bad in ({"from_version": 0}, {"limit": 0}, {"limit": 1_001}, {"from_version": -(2**70)}):
        assert (await system.refusal("task.events", {"task_id": task_id, **bad})).code == "BAD_REQUEST"
    assert (await system.request("task.events", {"task_id": task_id, "from_version": 2**70}))["events"] == []


# -- results and large tasks ---------------------------------------------------------------------


async def test_results_come_in_pages_and_through_the_worker(system: System) -> None:
    """More than one message holds: the join fetches what its dispatch does not carry."""
    size = RESULT_BYTES_MAX - 1_000

    @step_handler("large")
    async def large(context: StepContext) -> dict[str, str]:
        return {"blob": context.step_uuid[:1] * size}

    @step_handler("join")
    async def join(context: StepContext) -> dict[str, int]:
        return {step: len(context.get_dependency_result(step)["blob"]) for step in parents}

    parents = [f"part-{number}" for number in range(6)]
    steps: list[dict[str, Any]] = [{"name": name, "handler": "large"} for name in parents]
    steps.append({"name": "join", "handler": "join", "dependencies": parents})
    await system.register(template("large", steps, namespace="large"))
    async with system.worker(large, join, namespace="large"):
        task_id = await system.create("large", namespace="large", context={"pad": "x" * 200_000})
        await system.wait(task_id)
    pages: list[dict[str, Any]] = []
    offset: int | None = 0
    while offset is not None:
        pages.append(await system.request("task.results", {"task_id": task_id, "offset": offset}))
        offset = pages[-1]["next_offset"]
    assert len(pages) == 6
    results = {name: result for page in pages for name, result in page["results"].items()}
    assert results.keys() == {*parents, "join"}
    assert results["join"] == dict.fromkeys(parents, size)
    of_join = await system.client.get_results(task_id, step_name="join")
    assert of_join.keys() == set(parents)
    refused = await system.refusal("task.results", {"task_id": task_id, "step_name": "gone"})
    assert refused.code == "NOT_FOUND"
    assert (await system.refusal("task.results", {"task_id": task_id, "offset": -1})).code == "BAD_REQUEST"
    beyond = await system.request("task.results", {"task_id": task_id, "offset": 2**70})
    assert beyond == {"results": {}, "next_offset": None}
    events = await system.client.get_events(task_id)
    assert len(events) == len(await system.history(task_id))


async def test_the_largest_of_everything_still_travels(system: System) -> None:
    """Context, settings, result and metadata at their bounds: each message on the way fits."""
    settings = {"blob": "i" * (256 * 1024 - 20)}
    steps: list[dict[str, Any]] = [
        {"name": "first", "handler": "noop"},
        {
            "name": "second",
            "handler": {"callable": "noop", "initialization": settings},
            "dependencies": ["first"],
        },
    ]
    await system.register(template("largest", steps, namespace=NAMESPACE))
    context = {"blob": "c" * (CONTEXT_BYTES_MAX - 20)}
    task_id, first = await system.started("largest", namespace=NAMESPACE, context=context)
    result = "r" * (RESULT_BYTES_MAX - 2)
    await first.say("success", result=result)
    second = await system.take(NAMESPACE)
    assert len(bytes(second.dispatch.context)) + len(bytes(second.dispatch.initialization)) > 520_000
    assert {step: len(bytes(raw)) for step, raw in second.dispatch.dependency_results.items()} == {
        "first": RESULT_BYTES_MAX
    }
    metadata = {"blob": "m" * (RESULT_BYTES_MAX - 20)}
    await second.say(
        "failure", error_message="\x01" * ERROR_MESSAGE_CHARS_MAX, metadata=metadata, retryable=False
    )
    assert (await system.task(task_id))["status"] == "blocked_by_failures"
    failed = json.loads(next(one for one in await system.history(task_id) if one.type == "step.failed").data)
    assert (failed["context"], failed["metadata"]) == (context, metadata)
    assert len(await system.client.get_events(task_id)) == 6
    await system.verify()


async def test_a_task_of_two_thousand_steps(system: System) -> None:
    parents = [f"step-{number:04}" for number in range(1_999)]
    steps: list[dict[str, Any]] = [{"name": name, "handler": "noop"} for name in parents]
    steps.append({"name": "join", "handler": "noop", "dependencies": parents})
    await system.register(template("wide", steps, namespace=GOOD_NAMESPACE))
    task_id = await system.create("wide", namespace=GOOD_NAMESPACE)
    done = await system.client.wait_for_task(task_id, timeout_seconds=30)
    assert (done.status, done.total_steps, done.completed_steps) == ("complete", 2_000, 2_000)
    assert done.steps_truncated is True
    assert len(done.steps) == 1_000
    assert len(await system.client.get_results(task_id)) == 2_000
    types = [event.type for event in await system.client.get_events(task_id)]
    assert types.count("step.completed") == 2_000
    assert len(types) == 2 * 2_000 + 2
