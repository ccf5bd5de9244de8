"""Workflows that shape themselves, on real servers: decisions, batches, checkpoints, sagas, signals, children."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from stepweave import (
    BatchConfig,
    Decision,
    PermanentError,
    RetryableError,
    StepContext,
    StepHandlerResult,
    batch_analyzer,
    batch_worker,
    decision_handler,
    step_handler,
)
from stepweave.batches import BatchContext
from stepweave.messaging import Connection
from stepweave.testing import eventually
from stepweave.worker.intake import fetch_results
from stepweave_schemas.dispatch import Dispatch
from stepweave_schemas.mint import uuid7

from .conftest import WAIT_SECONDS, System, running_system, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: What handlers did, by step uuid.
calls: Counter[str] = Counter()


@step_handler("echo")
async def echo(context: StepContext) -> dict[str, Any]:
    calls[context.step_uuid] += 1
    return {"step": context.step_name, "read": sorted(context.get_dependency_result_keys())}


@decision_handler("route")
async def route(context: StepContext) -> Any:
    steps = context.get_input("steps")
    return Decision.route(steps, amount=len(steps)) if steps else Decision.skip("nothing to do")


@batch_analyzer("cut", worker_template="part")
async def cut(context: StepContext) -> BatchConfig:
    return BatchConfig.from_cursors(context.get_input("cursors"))


@batch_analyzer("cut_for_any")
async def cut_for_any(context: StepContext) -> BatchConfig:
    return BatchConfig.from_cursors(context.get_input("cursors"))


@batch_worker("part")
async def part(batch_context: BatchContext, context: StepContext) -> dict[str, Any]:
    if batch_context.cursor == context.get_input_or("bad", "none of them"):
        raise PermanentError("this one is bad", error_code="BAD_CURSOR")
    return {"cursor": batch_context.cursor, "of": batch_context.batch_count}


@step_handler("collect")
async def collect(context: StepContext) -> dict[str, Any]:
    results = context.get_all_dependency_results("part_")
    return {"cursors": [one["cursor"] for one in results if "cursor" in one], "count": len(results)}


@step_handler("crawl")
async def crawl(context: StepContext) -> Any:
    """Ten items, three at a time; fails once in the middle."""
    calls[f"crawl {context.task_uuid}"] += 1
    done = context.checkpoint_cursor or 0
    seen = context.accumulated_results or []
    if done == 6 and context.attempt == 1:
        raise RetryableError("out of breath")
    seen = [*seen, *range(done, min(done + 3, 10))]
    if len(seen) < 10:
        return StepHandlerResult.checkpoint(len(seen), len(seen), seen)
    return {"seen": seen, "attempt": context.attempt}


@step_handler("break_down")
async def break_down(context: StepContext) -> None:
    raise PermanentError("no", error_code="NO")


@step_handler("undo")
async def undo(context: StepContext) -> dict[str, Any]:
    if context.compensates == context.get_input("cannot_undo"):
        raise PermanentError("it is gone")
    return {"undone": context.compensates, "result": context.get_dependency_result(context.compensates)}


@step_handler("weigh")
async def weigh(context: StepContext) -> dict[str, Any]:
    """A worker of a second batch reads everything before it."""
    calls["weigh"] += 1
    return {"read": sum(key.startswith("first_stage_") for key in context.get_dependency_result_keys())}


@step_handler("count_me")
async def count_me(context: StepContext) -> dict[str, Any]:
    calls[f"{context.step_name} {context.task_uuid}"] += 1
    return {"ran_in": context.task_uuid}


HANDLERS = (count_me, weigh, cut_for_any, echo, route, cut, part, collect, crawl, break_down, undo)
QUICK = {"backoff": "none", "max_attempts": 3}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(module_database_url: str, module_nats_url: str) -> AsyncIterator[System]:
    async with (
        running_system(module_database_url, module_nats_url) as running,
        running.worker(*HANDLERS, namespace="dynamic"),
        running.worker(*HANDLERS, namespace="elsewhere"),
    ):
        yield running


async def register(system: System, name: str, *steps: dict[str, Any], **fields: Any) -> None:
    await system.register(template(name, steps, namespace=fields.pop("namespace", "dynamic"), **fields))


async def names(system: System, task_id: str) -> dict[str, str]:
    task = await system.task(task_id)
    return {step["name"]: step["current_state"] for step in task["steps"]}


@pytest.mark.parametrize("steps", [["left"], ["left", "right"], []])
async def test_a_decision(system: System, steps: list[str]) -> None:
    await register(
        system,
        "routing",
        {"name": "choose", "type": "decision", "handler": "route"},
        {"name": "left", "handler": "echo", "dependencies": ["choose"]},
        {"name": "right", "handler": "echo", "dependencies": ["choose"]},
        {
            "name": "join",
            "type": "deferred_convergence",
            "handler": "echo",
            "dependencies": ["left", "right"],
        },
        {"name": "last", "handler": "echo", "dependencies": ["join"]},
    )
    task_id = await system.create("routing", namespace="dynamic", context={"steps": steps})
    await system.wait(task_id)
    join = "complete" if steps else "skipped"
    assert await names(system, task_id) == {
        "choose": "complete",
        **dict.fromkeys(steps, "complete"),
        "join": join,
        "last": "complete",
    }


async def test_a_wrong_decision_blocks_the_task(system: System) -> None:
    task_id = await system.create("routing", namespace="dynamic", context={"steps": ["elsewhere"]})
    task = await system.wait(task_id, "blocked_by_failures")
    assert task.step("choose").error_code == "DECISION_INVALID"
    assert await names(system, task_id) == {"choose": "error"}


BATCH_STEPS = (
    {"name": "part", "type": "batch_worker", "handler": "part", "dependencies": ["cut"], "retry": QUICK},
    {"name": "collect", "type": "deferred_convergence", "handler": "collect", "dependencies": ["part"]},
)


def analyser(**config: Any) -> dict[str, Any]:
    return {
        "name": "cut",
        "type": "batchable",
        "handler": "cut",
        "batch_config": {"worker_template": "part"} | config,
    }


@pytest.mark.parametrize(
    "cursors",
    [[], [1, 2, 3], ["a", {"token": "x"}, "2026-01-01", 4.5, None], list(range(300))],
    ids=["none", "numbers", "kinds", "many"],
)
async def test_batches(system: System, cursors: list[Any]) -> None:
    await register(system, "batches", analyser(parallelism=50), *BATCH_STEPS)
    task_id = await system.create("batches", namespace="dynamic", context={"cursors": cursors})
    await system.wait(task_id)
    results = (await system.request("task.results", {"task_id": task_id}))["results"]
    assert results["collect"] == {"cursors": cursors, "count": max(1, len(cursors))}
    assert f"part_{max(1, len(cursors)):03d}" in await names(system, task_id)


@pytest.mark.parametrize(
    ("strategy", "status"),
    [
        ("continue_on_failure", "complete"),
        ("isolate", "blocked_by_failures"),
        ("fail_fast", "blocked_by_failures"),
    ],
)
async def test_a_batch_that_fails(system: System, strategy: str, status: str) -> None:
    name = f"failing_{strategy}"
    await register(system, name, analyser(failure_strategy=strategy, parallelism=1), *BATCH_STEPS)
    context = {"cursors": [1, 2, 3, 4], "bad": 2}
    task_id = await system.create(name, namespace="dynamic", context=context)
    await system.wait(task_id, status)
    states = await names(system, task_id)
    rest = "cancelled" if strategy == "fail_fast" else "complete"
    assert [states[f"part_00{n}"] for n in (1, 2, 3, 4)] == ["complete", "error", rest, rest]
    if strategy == "continue_on_failure":
        results = (await system.request("task.results", {"task_id": task_id}))["results"]
        assert results["collect"] == {"cursors": [1, 3, 4], "count": 3}
    else:
        assert states.get("collect") == "pending"


async def test_a_batch_behind_a_large_batch(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies behind a large batch does not carry it along, and still reads all of it; and asks for it once."""
    asked: list[str] = []

    async def counted(connection: Connection, dispatch: Dispatch) -> dict[str, msgspec.Raw]:
        asked.append(dispatch.step_name)
        return await fetch_results(connection, dispatch)

    monkeypatch.setattr("stepweave.worker.shared_results.fetch_results", counted)
    worker = "first_stage_of_many_workers_with_a_name_that_is_rather_long_to_make_its_results_large"
    await register(
        system,
        "stages",
        {**analyser(worker_template=worker), "handler": "cut_for_any"},
        {"name": worker, "type": "batch_worker", "handler": "part", "dependencies": ["cut"]},
        {
            **analyser(worker_template="weigh"),
            "name": "again",
            "handler": "cut_for_any",
            "dependencies": [worker],
        },
        {"name": "weigh", "type": "batch_worker", "handler": "weigh", "dependencies": ["again"]},
    )
    task_id = await system.create("stages", namespace="dynamic", context={"cursors": list(range(2_000))})
    await system.wait(task_id)
    results: dict[str, Any] = {}
    offset = 0
    while offset is not None:
        page = await system.request("task.results", {"task_id": task_id, "offset": offset})
        results |= page["results"]
        offset = page["next_offset"]
    weighed = [result for name, result in results.items() if name.startswith("weigh_")]
    assert len(weighed) == 2_000
    assert {result["read"] for result in weighed} == {2_000}
    assert 1 <= sum(name.startswith("weigh_") for name in asked) <= 4


async def test_checkpoints(system: System) -> None:
    await register(system, "crawling", {"name": "crawl", "handler": "crawl", "retry": QUICK})
    task_id = await system.create("crawling", namespace="dynamic")
    task = await system.wait(task_id)
    results = (await system.request("task.results", {"task_id": task_id}))["results"]
    assert results["crawl"] == {"seen": list(range(10)), "attempt": 2}
    assert calls[f"crawl {task_id}"] == 5
    assert task.step("crawl").items_processed == 9
    assert (await system.types(task_id)).count("step.checkpointed") == 3


def undoable(name: str, *dependencies: str, handler: str = "echo") -> dict[str, Any]:
    return {
        "name": name,
        "handler": handler,
        "dependencies": list(dependencies),
        "compensation": {"handler": "undo", "retry": QUICK},
    }


@pytest.mark.parametrize("cannot_undo", [None, "b"])
async def test_a_saga(system: System, cannot_undo: str | None) -> None:
    await register(
        system,
        "saga",
        undoable("a"),
        undoable("b", "a"),
        undoable("c", "a"),
        {"name": "d", "handler": "break_down", "dependencies": ["b", "c"]},
    )
    task_id = await system.create("saga", namespace="dynamic", context={"cannot_undo": cannot_undo})
    task = await system.wait(task_id, "error")
    assert task.compensation_status == ("partial" if cannot_undo else "complete")
    states = {step.name: (step.current_state, step.requires_manual_cleanup) for step in task.steps}
    wanted: dict[str, tuple[str, bool]] = dict.fromkeys("abc", ("compensated", False))
    if cannot_undo:
        wanted["b"] = ("complete", True)
    assert states == {**wanted, "d": ("error", False)}
    ended = [event.type for event in await system.history(task_id) if event.type.startswith("compensation.")]
    assert ended[0] == "compensation.started" and len(ended) == 4
    assert (await system.last(task_id)).get("requires_manual_cleanup", []) == (["b"] if cannot_undo else [])


def waiting(name: str, **signal: Any) -> dict[str, Any]:
    return {"name": name, "wait_for_signal": {"name": name, **signal}}


async def test_a_signal(system: System) -> None:
    schema = {"type": "object", "required": ["approved"], "properties": {"approved": {"type": "boolean"}}}
    await register(
        system,
        "approval",
        waiting("approval", payload_schema=schema),
        {**waiting("stamp"), "dependencies": ["approval"]},
        {"name": "last", "handler": "echo", "dependencies": ["stamp"]},
    )
    task_id = await system.create("approval", namespace="dynamic")
    task = await system.wait(task_id, "waiting_for_dependencies")
    assert task.step("approval").waiting_for_signal == "approval"
    told: dict[str, Any] = {"task_id": task_id, "signal": "approval", "sent_by": "kim"}
    refused = await system.refusal("task.signal", {**told, "payload": {"approved": "yes"}})
    assert refused.code == "VALIDATION_FAILED" and "/approved" in refused.message
    unknown = await system.refusal("task.signal", {**told, "signal": "aproval"})
    assert unknown.code == "CONFLICT" and "its signals are: approval, stamp" in unknown.message
    early = await system.request("task.signal", {"task_id": task_id, "signal": "stamp", "payload": 7})
    assert early["taken_by"] is None and early["task"]["signals_kept"] == ["stamp"]
    told |= {"payload": {"approved": True}, "signal_id": "once"}
    taken = await system.request("task.signal", told)
    assert taken["taken_by"] == "approval" and not taken["replayed"]
    again = await system.request("task.signal", told)
    assert again["replayed"] and again["taken_by"] == "approval"
    await system.wait(task_id)
    results = (await system.request("task.results", {"task_id": task_id}))["results"]
    assert results["approval"] == {"approved": True} and results["stamp"] == 7
    nameless = await system.refusal("task.signal", {**told, "signal_id": ""})
    assert "signal_id: it is empty" in nameless.message
    late = await system.refusal("task.signal", {**told, "signal_id": "twice"})
    assert late.code == "CONFLICT" and "ended" in late.message


async def test_a_payload_has_to_fit_the_step_that_it_is_for(system: System) -> None:
    await register(
        system,
        "turns",
        {**waiting("number", payload_schema={"type": "integer"}), "name": "one"},
        {
            **waiting("number", payload_schema={"type": "string"}),
            "name": "two",
            "dependencies": ["one"],
        },
    )
    task_id = await system.create("turns", namespace="dynamic")
    told: dict[str, Any] = {"task_id": task_id, "signal": "number"}
    refused = await system.refusal("task.signal", {**told, "payload": "a"})
    assert refused.code == "VALIDATION_FAILED" and "step 'one'" in refused.message
    first = await system.request("task.signal", {**told, "payload": 1, "signal_id": "first"})
    assert first["taken_by"] == "one"
    other = await system.refusal("task.signal", {**told, "payload": "b", "signal_id": "first"})
    assert other.code == "CONFLICT" and "'first' was used for another signal" in other.message
    assert (await system.request("task.signal", {**told, "payload": "b"}))["taken_by"] == "two"
    await system.wait(task_id)


async def test_a_signal_that_does_not_come(system: System) -> None:
    await register(system, "patience", waiting("word", timeout_seconds=0.3, default={"approved": False}))
    task_id = await system.create("patience", namespace="dynamic")
    await system.wait(task_id)
    assert (await system.request("task.results", {"task_id": task_id}))["results"]["word"] == {
        "approved": False
    }


async def child_templates(system: System, parent_close: str = "cancel", **steps: str) -> None:
    await register(
        system,
        "child",
        {"name": "work", "handler": steps.get("work", "echo")},
        {**waiting("go"), "dependencies": ["work"]},
        {"name": "last", "handler": "echo", "dependencies": ["go"]},
        namespace="elsewhere",
        version=f"{1 + len(steps)}.0.0",
        input_schema={"type": "object", "required": ["order"]},
    )
    await register(
        system,
        f"parent_{parent_close}",
        {"name": "before", "handler": "echo"},
        {
            "name": "start",
            "dependencies": ["before"],
            "child_task": {
                "name": "child",
                "namespace": "elsewhere",
                "context": {"order": "${context.order}", "before": "${steps.before.step}"},
                "parent_close": parent_close,
            },
        },
        {"name": "after", "handler": "echo", "dependencies": ["start"]},
    )


async def child_of(system: System, task_id: str) -> str:
    task = await system.wait(task_id, "waiting_for_dependencies")
    child_id = task.step("start").child_task_uuid
    assert child_id is not None

    async def begun() -> bool:
        return "step.started" in await system.types(task_id)

    # The child's owner says so, once the child exists.
    await eventually(begun, timeout_seconds=WAIT_SECONDS, what="the start of the child")
    await system.wait(child_id, "waiting_for_dependencies")
    return child_id


async def test_a_child_waits_while_too_much_is_under_way(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is part of what was accepted: put off, never refused."""
    await child_templates(system)
    asked = 0

    def busy() -> float | None:
        nonlocal asked
        asked += 1
        return 0.05

    async def put_off() -> bool:
        return asked >= 3

    with monkeypatch.context() as patch:
        patch.setattr(system.orchestrator.children, "_put_off", busy)
        task_id = await system.create("parent_cancel", namespace="dynamic", context={"order": 5})
        await eventually(put_off, timeout_seconds=WAIT_SECONDS, what="the order to start the child")
        task = await system.wait(task_id, "waiting_for_dependencies")
        child_id = task.step("start").child_task_uuid
        assert child_id is not None
        assert await system.history(child_id) == []
    assert await child_of(system, task_id) == child_id
    await system.request("task.signal", {"task_id": child_id, "signal": "go"})
    await system.wait(task_id)


async def test_a_child(system: System) -> None:
    await child_templates(system)
    task_id = await system.create("parent_cancel", namespace="dynamic", context={"order": 5})
    child_id = await child_of(system, task_id)
    child = await system.client.get_task(child_id)
    assert child.context == {"order": 5, "before": "before"}
    assert (child.parent_task_uuid, child.depth) == (task_id, 1)
    parent = await system.client.get_task(task_id)
    assert child.correlation_id == parent.correlation_id == child.parent_correlation_id
    await system.request("task.signal", {"task_id": child_id, "signal": "go"})
    await system.wait(task_id)
    results = (await system.request("task.results", {"task_id": task_id}))["results"]
    assert results["start"]["step"] == "last"


@pytest.mark.parametrize("parent_close", ["cancel", "abandon"])
async def test_a_parent_that_is_cancelled(system: System, parent_close: str) -> None:
    await child_templates(system, parent_close)
    name = f"parent_{parent_close}"
    task_id = await system.create(name, namespace="dynamic", context={"order": 5})
    child_id = await child_of(system, task_id)
    await system.client.cancel_task(task_id, reason="changed my mind")
    if parent_close == "cancel":
        assert (await system.wait(child_id, "cancelled")).is_terminal
    else:
        await system.request("task.signal", {"task_id": child_id, "signal": "go"})
        assert (await system.wait(child_id)).is_terminal


async def test_a_child_that_cannot_begin(system: System) -> None:
    await child_templates(system)
    task_id = await system.create("parent_cancel", namespace="dynamic", context={})
    task = await system.wait(task_id, "blocked_by_failures")
    assert task.step("start").error_code == "CHILD_CONTEXT_INVALID"
    assert "${context.order} has no value" in (task.step("start").error_message or "")


async def test_a_child_that_is_cancelled(system: System) -> None:
    await child_templates(system)
    task_id = await system.create("parent_cancel", namespace="dynamic", context={"order": 1})
    child_id = await child_of(system, task_id)
    await system.client.cancel_task(child_id, reason="not today")
    task = await system.wait(task_id, "blocked_by_failures")
    assert task.step("start").error_code == "CHILD_TASK_CANCELLED"
    assert task.step("start").attempts == 1


async def test_a_signal_to_nobody(system: System) -> None:
    refused = await system.refusal("task.signal", {"task_id": uuid7(), "signal": "go"})
    assert refused.code == "NOT_FOUND"


# -- forks -----------------------------------------------------------------------------------------


async def test_a_blocked_task_is_forked_onto_a_version_that_is_mended(system: System) -> None:
    """By way of the client and of the command line's request; handlers of what is reused are not called again."""
    steps = (
        {"name": "first", "handler": "count_me"},
        {"name": "second", "handler": "break_down", "dependencies": ["first"]},
        {"name": "beside", "handler": "count_me", "dependencies": ["first"]},
        {"name": "last", "handler": "echo", "dependencies": ["second", "beside"]},
    )
    await register(system, "mended", *steps, input_schema={"type": "object", "required": ["order"]})
    task_id = await system.create("mended", namespace="dynamic", context={"order": 1}, priority=7, tags=["x"])
    await system.wait(task_id, "blocked_by_failures")
    fixed = (steps[0], {**steps[1], "handler": "echo"}, *steps[2:])
    await register(
        system, "mended", *fixed, version="1.1.0", input_schema={"type": "object", "required": ["order"]}
    )
    client, before = system.client, await system.heads()
    plan = await client.fork_task(task_id, version="latest", dry_run=True)
    assert (plan.task, plan.version, plan.reused) == (None, "1.1.0", ("first", "beside"))
    assert [(one.step, one.why) for one in plan.run] == [("second", "not_done"), ("last", "not_done")]
    assert await system.heads() == before
    assert (await client.fork_task(task_id, "beside", dry_run=True)).reused == ("first",)
    fork_id = uuid7()
    wanted: dict[str, Any] = {"version": "latest", "fork_id": fork_id, "reason": "mended", "forked_by": "ada"}
    fork = await client.fork_task(task_id, **wanted)
    assert fork.task is not None
    assert (fork.reused, fork.replayed, fork.task.task_uuid) == (("first", "beside"), False, fork_id)
    done = await system.wait(fork_id)
    assert done.forked_from is not None
    assert (done.forked_from.task_uuid, done.version, done.priority) == (task_id, "1.1.0", 7)
    assert (done.initiator, done.reason, done.context) == ("ada", "mended", {"order": 1})
    assert done.correlation_id == (await client.get_task(task_id)).correlation_id
    assert (calls[f"first {task_id}"], calls[f"first {fork_id}"], calls[f"beside {fork_id}"]) == (1, 0, 0)
    results = await client.get_results(fork_id)
    assert results["first"] == {"ran_in": task_id}
    again = await client.fork_task(task_id, **wanted)
    assert again.replayed
    assert again.reused == ("first", "beside")
    assert (await client.get_task(task_id)).status == "blocked_by_failures"
    refused = await system.refusal("task.fork", {"task_id": task_id, "fork_id": fork_id})
    assert refused.code == "CONFLICT"
    # What an operator settles in the original is reused, too.
    await client.complete_step(task_id, "second", {"by": "hand"}, reason="done by hand")
    await system.wait(task_id)
    by_hand = await client.fork_task(task_id, "last", forked_by="ada")
    assert by_hand.reused == ("first", "second", "beside")
    assert by_hand.task is not None
    await system.wait(by_hand.task.task_uuid)
    assert (await client.get_results(by_hand.task.task_uuid))["second"] == {"by": "hand"}
    # Evicted from memory, it is rebuilt from its own events alone.
    for orchestrator in system.orchestrators:
        orchestrator.owner.actors.drop([fork_id, task_id])
    assert (await client.get_task(fork_id)).forked_from == done.forked_from
    await system.verify()


async def test_what_is_wrong_with_a_fork_is_said(system: System) -> None:
    await register(
        system, "strict_one", {"name": "only", "handler": "echo"}, input_schema={"required": ["order"]}
    )
    task_id = await system.create("strict_one", namespace="dynamic", context={"order": 1})
    await system.wait(task_id)
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"task_id": uuid7()}, "NOT_FOUND", "there is no task"),
        ({"task_id": "no"}, "INVALID_UUID", "no UUID"),
        ({"fork_id": "no"}, "INVALID_UUID", "no UUID"),
        ({"fork_id": task_id}, "BAD_REQUEST", "the original's id"),
        ({"from_steps": ["onyl"]}, "VALIDATION_FAILED", "has no step 'onyl'; its steps are only"),
        ({"from_steps": [""]}, "VALIDATION_FAILED", "from_steps"),
        ({"from_steps": ["only"], "version": "9.9.9"}, "NOT_FOUND", "has no version 9.9.9"),
        ({"from_steps": ["only"], "context": {}}, "VALIDATION_FAILED", "input schema"),
        ({"from_steps": ["only"], "context": 7}, "VALIDATION_FAILED", "expected an object"),
        ({}, "CONFLICT", "name the step"),
        ({"dry_run": True}, "CONFLICT", "name the step"),
    ]
    async with system.unharmed():
        for fields, code, text in cases:
            refused = await system.refusal("task.fork", {"task_id": task_id, **fields})
            assert (refused.code, text in refused.message) == (code, True), refused.message


async def test_a_fork_goes_on_with_a_batch_where_it_stood(system: System) -> None:
    """It is cut as it was, whatever the context is now; only the batch that had failed runs."""
    await register(system, "batch_fork", analyser(parallelism=50), *BATCH_STEPS)
    context = {"cursors": [1, 2, 3, 4], "bad": 3}
    task_id = await system.create("batch_fork", namespace="dynamic", context=context)
    await system.wait(task_id, "blocked_by_failures")
    mended = {"cursors": [9], "bad": 0}
    fork = await system.client.fork_task(task_id, context=mended)
    assert fork.task is not None
    assert fork.reused == ("cut", "part_001", "part_002", "part_004")
    await system.wait(fork.task.task_uuid)
    results = await system.client.get_results(fork.task.task_uuid)
    assert results["collect"] == {"cursors": [1, 2, 3, 4], "count": 4}
