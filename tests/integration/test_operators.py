"""Operators on real servers: what they ask is done, told to workers and parents, answered once, or refused with why."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from tests.unit.cli.typed import Answer, typed_process

from stepweave import StepContext, SyncClient, step_handler
from stepweave.api_errors import Conflict, NotFound
from stepweave.testing import eventually
from stepweave_schemas import subjects
from stepweave_schemas.dispatch import RESULT_BYTES_MAX
from stepweave_schemas.mint import uuid7

from .conftest import WAIT_SECONDS, System, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "mended"
#: Where a worker runs, so that tests that answer by hand do not get its dispatches or it theirs.
SERVED = "mended_by_worker"
PAIR: list[dict[str, Any]] = [
    {"name": "first", "handler": "noop"},
    {"name": "second", "handler": "noop", "dependencies": ["first"], "skippable": True},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def templates(system: System) -> None:
    await system.register(template("one", namespace=NAMESPACE))
    await system.register(template("pair", PAIR, namespace=NAMESPACE))
    child: dict[str, Any] = {"name": "start", "child_task": {"name": "one"}}
    await system.register(template("parent", [child], namespace=NAMESPACE))
    both = [{"name": "on_loop", "handler": "on_loop"}, {"name": "in_thread", "handler": "in_thread"}]
    await system.register(template("both", both, namespace=SERVED))


async def test_a_blocked_task_is_retried_and_then_given_up(system: System) -> None:
    client = system.client
    task_id, taken = await system.started("one", namespace=NAMESPACE)
    await taken.say("failure", error_message="no", retryable=False)
    task = await client.retry_task(task_id, reason="mended", reset_by="ana")
    step = task.steps[0]
    assert (task.status, step.current_state, step.attempts, step.max_attempts) == (
        "steps_in_process",
        "enqueued",
        2,
        4,
    )
    again = await system.take(NAMESPACE)
    assert (again.dispatch.attempt, again.dispatch.max_attempts) == (2, 4)
    # The try before is over, whatever its worker still says.
    await taken.say("success", result="late")
    await again.say("failure", error_message="no", retryable=False)
    with pytest.raises(Conflict) as refused:
        await client.resume_task(task_id)
    assert refused.value.state == "blocked_by_failures"
    assert refused.value.allowed_actions == ["retry", "pause", "give_up", "resolve_manually", "cancel"]
    assert (await client.give_up_task(task_id, reason="no use", given_up_by="ana")).status == "error"
    with pytest.raises(Conflict, match=r"ended already: error; .* fork it"):
        await client.retry_task(task_id)
    assert (await system.types(task_id))[2:] == [
        "step.failed",
        "task.blocked",
        "step.reset",
        "step.enqueued",
        "step.result_refused",
        "step.failed",
        "task.blocked",
        "task.given_up",
        "task.failed",
    ]


async def test_a_paused_task_begins_nothing_until_it_is_resumed(system: System) -> None:
    client = system.client
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    task = await client.pause_task(task_id, reason="wait", paused_by="ana")
    assert task.status == "paused"
    await taken.say("success", result=1)
    await system.nothing_dispatched(NAMESPACE)
    listed = await eventually(
        lambda: _listed(system, task_id, "paused"), timeout_seconds=WAIT_SECONDS, what="a paused row"
    )
    assert listed
    request = {"task_id": task_id, "resumed_by": "ana", "request_id": uuid7()}
    for _ in range(2):
        # The same request again, as a client sends it that got no answer, is the same resumption.
        assert (await system.request("task.resume", request))["status"] == "steps_in_process"
    await (await system.take(NAMESPACE)).say("success", result=2)
    assert (await client.get_task(task_id)).status == "complete"
    assert (await system.types(task_id)).count("task.resumed") == 1
    record = next(one for one in await system.history(task_id) if one.type == "task.resumed")
    assert record.causation_id == f"operator:{request['request_id']}"
    assert record.actor == "api:ana"


async def _listed(system: System, task_id: str, status: str) -> bool:
    page = await system.client.list_tasks(namespace=NAMESPACE, status=status)
    return task_id in [one.task_uuid for one in page.tasks]


async def test_steps_are_completed_reset_resolved_and_skipped(system: System) -> None:
    client = system.client
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    notices: list[dict[str, Any]] = []
    listening = await system.connection.subscribe(
        f"sw.ctl.{NAMESPACE}.cancel", lambda message: notices.append(json.loads(message.data))
    )
    step = await client.complete_step(
        task_id, "first", {"by": "hand"}, metadata={"ticket": 7}, reason="done", completed_by="ana"
    )
    assert (step.current_state, step.attempts) == ("complete", 1)
    await eventually(lambda: notices, what="a notice")
    await listening.unsubscribe()
    assert notices == [{"task_id": task_id, "step_uuids": [taken.dispatch.step_uuid]}]
    await taken.say("success", result="late")
    second = await system.take(NAMESPACE)
    assert {name: json.loads(bytes(raw)) for name, raw in second.dispatch.dependency_results.items()} == {
        "first": {"by": "hand"}
    }
    with pytest.raises(Conflict) as refused:
        await client.reset_step(task_id, "second")
    assert refused.value.state == "enqueued"
    assert refused.value.allowed_actions == ["resolve_manually", "complete_manually"]
    await second.say("failure", error_message="no", retryable=False)
    assert (await client.reset_step(task_id, second.dispatch.step_uuid)).current_state == "enqueued"
    third = await system.take(NAMESPACE)
    await third.say("failure", error_message="no", retryable=False)
    assert (await client.skip_step(task_id, "second", skipped_by="ana")).current_state == "skipped"
    assert (await client.get_task(task_id)).status == "complete"
    with pytest.raises(NotFound, match="no step 'nobody'"):
        await client.resolve_step(task_id, "nobody")
    with pytest.raises(NotFound, match="no task"):
        await client.resolve_step(uuid7(), "first")


async def test_the_parent_of_a_resolved_child_goes_on(system: System) -> None:
    task_id = await system.create("parent", namespace=NAMESPACE)
    taken = await system.take(NAMESPACE)
    child_id = taken.dispatch.task_id
    assert (await system.client.resolve_task(child_id, resolved_by="ana")).status == "resolved_manually"
    await system.wait(task_id, "complete")


async def test_the_child_of_a_resolved_step_is_cancelled(system: System) -> None:
    task_id = await system.create("parent", namespace=NAMESPACE)
    child_id = (await system.take(NAMESPACE)).dispatch.task_id
    step = await system.client.resolve_step(task_id, "start", resolved_by="ana")
    assert step.current_state == "resolved_manually"
    await system.wait(child_id, "cancelled")
    assert (await system.client.get_task(task_id)).status == "complete"


async def _cancelled(system: System, task_id: str) -> None:
    await system.client.cancel_task(task_id, reason="enough", cancelled_by="ana")


async def _resolved(system: System, task_id: str) -> None:
    await system.client.resolve_task(task_id, reason="done", resolved_by="ana")


async def _settled(system: System, task_id: str) -> None:
    # Also: the client for code that is not async.
    def settle() -> None:
        with SyncClient(system.nats_url) as client:
            client.resolve_step(task_id, "on_loop", resolved_by="ana")
            client.complete_step(task_id, "in_thread", {"n": 1}, completed_by="ana")

    await asyncio.to_thread(settle)


@pytest.mark.parametrize("end", [_cancelled, _resolved, _settled])
async def test_running_handlers_hear_it_through_their_context(
    system: System, end: Callable[[System, str], Awaitable[None]]
) -> None:
    running: set[str] = set()
    heard: set[str] = set()
    patience = threading.Event()

    @step_handler("on_loop")
    async def on_loop(context: StepContext) -> None:
        running.add("on_loop")
        try:
            await asyncio.Event().wait()
        finally:
            heard.update(["on_loop"] if context.cancelled else [])

    @step_handler("in_thread")
    def in_thread(context: StepContext) -> None:
        running.add("in_thread")
        while not context.cancelled:
            patience.wait(0.01)
        heard.add("in_thread")

    async with system.worker(on_loop, in_thread, namespace=SERVED):
        task_id = await system.create("both", namespace=SERVED)
        await eventually(lambda: len(running) == 2, timeout_seconds=WAIT_SECONDS, what="two running handlers")
        await end(system, task_id)
        await eventually(lambda: len(heard) == 2, timeout_seconds=WAIT_SECONDS, what="two that hear")

        async def recorded() -> bool:
            return "step.result_refused" in await system.types(task_id)

        # What the plain one returned all the same.
        await eventually(recorded, timeout_seconds=WAIT_SECONDS, what="the late result in the history")
    assert "step.completed" not in await system.types(task_id)


@pytest.mark.parametrize("end", [_cancelled, _resolved, _settled])
async def test_what_waits_for_a_worker_does_not_begin_afterwards(
    system: System, end: Callable[[System, str], Awaitable[None]]
) -> None:
    ended = await system.create("both", namespace=SERVED)
    await end(system, ended)
    await system.nothing_dispatched(SERVED)
    # One of two: the other one begins.
    task_id = await system.create("both", namespace=SERVED)
    await system.client.resolve_step(task_id, "on_loop")
    taken = await system.take(SERVED)
    assert (taken.dispatch.task_id, taken.dispatch.step_name) == (task_id, "in_thread")
    await taken.say("success", result=None)
    await system.nothing_dispatched(SERVED)
    assert (await system.task(task_id))["status"] == "complete"


async def test_a_worker_that_begins_what_is_over_is_told_so(system: System) -> None:
    notices: list[Any] = []
    subject = subjects.cancel_notice(NAMESPACE)
    listening = await system.connection.subscribe(
        subject, lambda message: notices.append(json.loads(message.data))
    )
    task_id, taken = await system.started("one", namespace=NAMESPACE)
    await taken.say("failure", error_message="no", retryable=False)
    await system.client.retry_task(task_id)
    again = await system.take(NAMESPACE)
    # The step goes on with another try, which a notice would end.
    await taken.say("started", started_at_ms=1)
    await system.client.cancel_task(task_id)
    await eventually(lambda: notices, timeout_seconds=WAIT_SECONDS, what="the notice")
    expected = [{"task_id": task_id, "step_uuids": [again.dispatch.step_uuid]}]
    assert notices == expected
    # As if its worker had not been there to hear it.
    notices.clear()
    await again.say("started", started_at_ms=1)
    await eventually(lambda: notices, timeout_seconds=WAIT_SECONDS, what="another notice")
    await listening.unsubscribe()
    assert notices == expected


async def test_watching_looks_whether_the_task_is_blocked_now(system: System) -> None:
    client = system.client
    task_id, taken = await system.started("one", namespace=NAMESPACE)
    await taken.say("failure", error_message="no", retryable=False)
    await client.retry_task(task_id)
    seen: list[str] = []

    async def watch() -> None:
        seen.extend([one.type async for one in client.watch_task(task_id, until_blocked=True)])

    watching = asyncio.create_task(watch())
    again = await system.take(NAMESPACE)
    await again.say("failure", error_message="no", retryable=False)
    await asyncio.wait_for(watching, WAIT_SECONDS)
    assert seen.count("task.blocked") == 2 and seen[-1] == "task.blocked"
    # Also from behind the block on.
    behind = [one async for one in client.watch_task(task_id, from_version=len(seen) + 1, until_blocked=True)]
    assert behind == []


@pytest.mark.parametrize(
    ("operation", "wrong", "code", "why"),
    [
        ("task.pause", {"reason": "x" * 1_025}, "VALIDATION_FAILED", "reason: 1024 characters"),
        ("task.resume", {"resumed_by": "a\x00b"}, "VALIDATION_FAILED", "resumed_by: the character NUL"),
        ("task.retry", {"request_id": "seven"}, "INVALID_UUID", "request_id: 'seven'"),
        ("step.update", {"step": "", "action": {"action_type": "skip"}}, "BAD_REQUEST", "step: "),
        ("step.update", {"step": "a", "action": {"action_type": "mend"}}, "BAD_REQUEST", "'mend'"),
        (
            "step.update",
            {"step": "a", "action": {"action_type": "skip", "skipped_by": "x" * 1_025}},
            "VALIDATION_FAILED",
            "skipped_by: 1024",
        ),
        (
            "step.update",
            {"step": "a", "action": {"action_type": "complete_manually", "completion_data": {"metadata": 7}}},
            "VALIDATION_FAILED",
            "metadata: expected an object",
        ),
        (
            "step.update",
            {
                "step": "a",
                "action": {
                    "action_type": "complete_manually",
                    "completion_data": {"result": "x" * RESULT_BYTES_MAX},
                },
            },
            "VALIDATION_FAILED",
            "completion_data: ",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused(
    system: System, operation: str, wrong: dict[str, Any], code: str, why: str
) -> None:
    refused = await system.refusal(operation, {"task_id": uuid7(), **wrong})
    assert refused.code == code
    assert why in refused.message


async def test_operators_at_the_command_line(system: System) -> None:
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    await taken.say("failure", error_message="no", retryable=False)

    async def stepweave(*words: str) -> Answer:
        return await typed_process(system.nats_url, *words)

    shown, refused, paused = await asyncio.gather(
        stepweave("task", "get", task_id),
        stepweave("step", "skip", task_id, "first"),
        stepweave("task", "resume", task_id, "--by", "ana"),
    )
    assert f"stepweave task retry {task_id}" in shown.err
    assert f"stepweave step reset|resolve|complete {task_id} first" in shown.err
    assert refused.code == paused.code == 4
    assert "`skippable: true`" in refused.err
    assert "what can be done: `stepweave step reset`, `stepweave step resolve`" in refused.err
    assert "not paused; what can be done: `stepweave task retry`" in paused.err
    unknown = await stepweave("step", "reset", task_id, "frist")
    assert unknown.code == 3
    assert f"no step 'frist'; `stepweave task get {task_id}` shows its steps" in unknown.err
    done = await stepweave(
        "step",
        "complete",
        task_id,
        "first",
        "--set",
        "by=hand",
        "--reason",
        "done",
        "--by",
        "ana",
        "-o",
        "json",
    )
    assert json.loads(done.out)["current_state"] == "complete"
    event = next(one for one in await system.history(task_id) if one.type == "step.completed_manually")
    said = json.loads(event.data)
    assert (said["result"], said["completed_by"], said["reason"]) == ({"by": "hand"}, "ana", "done")
    ended = await stepweave("task", "resolve", task_id, "--reason", "done by hand")
    assert "resolved_manually" in ended.out
    last = await system.last(task_id)
    assert last["resolved_by"].startswith("cli")
    over = await stepweave("task", "pause", task_id)
    assert over.code == 4
    assert f"stepweave events list {task_id}" in over.err
