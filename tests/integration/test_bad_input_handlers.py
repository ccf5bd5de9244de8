"""Handlers that misbehave, run by a real worker, and what becomes of their tasks."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from stepweave import (
    PermanentError,
    RetryableError,
    StepContext,
    StepHandlerResult,
    ValidationError,
    inputs,
    step_handler,
)
from stepweave.responses import TaskResponse
from stepweave_schemas.dispatch import RESULT_BYTES_MAX

from .conftest import System, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "unruly"
ONCE = {"max_attempts": 1}
AT_ONCE = {"max_attempts": 3, "backoff": "none"}
#: Let go at the end of the module, so that no thread outlives it.
RELEASED = threading.Event()


@step_handler("raises")
async def raises(context: StepContext) -> None:
    raise KeyError("oops")


@step_handler("declines")
async def declines(context: StepContext) -> None:
    raise PermanentError("card declined", error_code="CARD_DECLINED", metadata={"last4": "4242"})


@step_handler("refuses_input")
@inputs("amount")
async def refuses_input(amount: int) -> None:
    raise ValidationError("amount must be positive")


@step_handler("busy_once")
async def busy_once(context: StepContext) -> dict[str, int]:
    if context.attempt == 1:
        raise RetryableError("come back", retry_after=0.05)
    return {"attempt": context.attempt}


@step_handler("hangs")
async def hangs(context: StepContext) -> None:
    await asyncio.Event().wait()


@step_handler("blocks")
def blocks(context: StepContext) -> dict[str, bool]:
    RELEASED.wait(30)
    return {"late": True}


@step_handler("swallows_cancellation")
async def swallows_cancellation(context: StepContext) -> dict[str, bool]:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(30)
    return {"stubborn": True}


@step_handler("exits")
async def exits(context: StepContext) -> None:
    sys.exit(3)


@step_handler("exits_in_a_thread")
def exits_in_a_thread(context: StepContext) -> None:
    sys.exit("enough")


@step_handler("interrupts")
def interrupts(context: StepContext) -> None:
    raise KeyboardInterrupt


@step_handler("returns")
async def returns(context: StepContext) -> Any:
    values: dict[str, Any] = {
        "object": object(),
        "nan": {"deep": [1, float("nan")]},
        "surrogate": "\ud800",
        "keys": {("a", "b"): 1},
        "large": "x" * 300 * 1024,
        "endless": None,
        "coroutine": hangs,
        "nul": "a\x00b",
        "nothing": None,
        "number": 7,
        "failure": StepHandlerResult.failure("said no", error_code="NO", retryable=False),
    }
    loop: list[Any] = []
    loop.append(loop)
    values["endless"] = loop
    return values[context.get_input("what")]


@step_handler("shouts")
async def shouts(context: StepContext) -> None:
    raise RuntimeError("long \x00 \ud800 " + "m" * 100_000)


@step_handler("burdened")
async def burdened(context: StepContext) -> None:
    raise PermanentError("too much to say", metadata={"dump": "x" * 500_000, "bad": object()})


HANDLERS = [
    raises,
    declines,
    refuses_input,
    busy_once,
    hangs,
    blocks,
    swallows_cancellation,
    exits,
    exits_in_a_thread,
    interrupts,
    returns,
    shouts,
    burdened,
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def worker(system: System) -> AsyncIterator[None]:
    async with system.worker(*HANDLERS, namespace=NAMESPACE, announce_after_ms=20, grace_seconds=0.5):
        yield
        RELEASED.set()


async def run(
    system: System, handler: str, context: Any = None, *, seconds: float = 15, **step: Any
) -> TaskResponse:
    """Run a task of one step to its end or until it is blocked; a good task runs beside and after it."""
    name = f"{handler}-{time.monotonic_ns()}"
    step = {"name": "only", "handler": handler, "retry": ONCE, **step}
    await system.register(template(name, [step], namespace=NAMESPACE))
    task = await system.client.create_task(name, namespace=NAMESPACE, context=context or {})
    await system.proves_itself()
    done = await system.client.wait_for_task(task.task_uuid, timeout_seconds=seconds)
    await system.proves_itself()
    return done


async def failure(system: System, task: TaskResponse) -> dict[str, Any]:
    """The payload of the event that ended the step."""
    assert task.status == "blocked_by_failures"
    [event] = [event for event in await system.history(task.task_uuid) if event.type == "step.failed"]
    payload: dict[str, Any] = json.loads(event.data)
    return payload


@pytest.mark.parametrize(
    ("handler", "error_type", "error_code", "reason"),
    [
        ("raises", "handler_error", "KeyError", "attempts_exhausted"),
        ("declines", "permanent_error", "CARD_DECLINED", "permanent"),
        ("refuses_input", "validation_error", "ValidationError", "permanent"),
        ("exits", "handler_error", "SystemExit", "attempts_exhausted"),
        ("exits_in_a_thread", "handler_error", "SystemExit", "attempts_exhausted"),
        ("interrupts", "handler_error", "KeyboardInterrupt", "attempts_exhausted"),
    ],
)
async def test_a_handler_that_raises_fails_its_step_only(
    system: System, handler: str, error_type: str, error_code: str, reason: str
) -> None:
    failed = await failure(system, await run(system, handler, {"amount": 1}))
    assert (failed["error_type"], failed["error_code"], failed["failure_reason"]) == (
        error_type,
        error_code,
        reason,
    )
    assert failed["error_message"]


async def test_every_attempt_is_used_and_no_more(system: System) -> None:
    task = await run(system, "raises", retry=AT_ONCE)
    types = await system.types(task.task_uuid)
    assert types.count("step.enqueued") == 3
    assert types.count("step.retry_scheduled") == 2
    assert types[-2:] == ["step.failed", "task.blocked"]
    assert (task.steps[0].attempts, task.steps[0].max_attempts) == (3, 3)


async def test_a_handler_may_ask_to_be_tried_later(system: System) -> None:
    task = await run(system, "busy_once", retry={"max_attempts": 3, "backoff_base_ms": 60_000})
    assert task.status == "complete"
    [scheduled] = [
        json.loads(event.data)
        for event in await system.history(task.task_uuid)
        if event.type == "step.retry_scheduled"
    ]
    assert (scheduled["delay_ms"], scheduled["delay_source"]) == (50, "retry_after")
    assert await system.client.get_results(task.task_uuid) == {"only": {"attempt": 2}}


@pytest.mark.parametrize("handler", ["hangs", "blocks", "swallows_cancellation"])
async def test_a_handler_that_does_not_return_is_timed_out(system: System, handler: str) -> None:
    begun = time.monotonic()
    failed = await failure(system, await run(system, handler, timeout_seconds=0.2))
    assert (failed["error_type"], failed["error_code"]) == ("timeout", "STEP_TIMEOUT")
    assert time.monotonic() - begun < 4, "the worker says so, not the orchestrator some seconds later"


async def test_a_handler_that_hangs_is_cancelled_with_its_task(system: System) -> None:
    await system.register(
        template("hangs", [{"name": "only", "handler": "hangs", "retry": ONCE}], namespace=NAMESPACE)
    )
    task = await system.client.create_task("hangs", namespace=NAMESPACE)

    async with asyncio.timeout(5):
        while (await system.client.get_task(task.task_uuid)).steps[0].current_state != "in_progress":
            await asyncio.sleep(0.01)
    cancelled = await system.client.cancel_task(task.task_uuid)
    assert cancelled.status == "cancelled"
    await system.proves_itself()
    await system.nothing_dispatched(NAMESPACE)
    assert (await system.types(task.task_uuid))[-1] == "task.cancelled"


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("object", "RESULT_NOT_SERIALIZABLE", "object"),
        ("nan", "RESULT_NOT_SERIALIZABLE", "result.deep[1]"),
        ("surrogate", "RESULT_NOT_SERIALIZABLE", "surrogate"),
        ("keys", "RESULT_NOT_SERIALIZABLE", "('a', 'b')"),
        ("endless", "RESULT_NOT_SERIALIZABLE", "nested too deeply"),
        ("coroutine", "RESULT_NOT_SERIALIZABLE", "function"),
        ("large", "RESULT_TOO_LARGE", str(RESULT_BYTES_MAX)),
        ("failure", "NO", "said no"),
    ],
)
async def test_what_json_cannot_carry_fails_the_step_for_good(
    system: System, what: str, code: str, said: str
) -> None:
    failed = await failure(system, await run(system, "returns", {"what": what}, retry=AT_ONCE))
    assert (failed["error_code"], failed["failure_reason"]) == (code, "permanent")
    assert said in failed["error_message"]


@pytest.mark.parametrize(("what", "result"), [("nul", "a\x00b"), ("nothing", None), ("number", 7)])
async def test_any_json_is_a_result(system: System, what: str, result: Any) -> None:
    task = await run(system, "returns", {"what": what})
    assert task.status == "complete"
    assert await system.client.get_results(task.task_uuid) == {"only": result}


async def test_errors_of_any_length_and_content_are_reported(system: System) -> None:
    failed = await failure(system, await run(system, "shouts"))
    assert "long \x00 ? mmm" in failed["error_message"]
    assert len(failed["error_message"]) < 10_000
    failed = await failure(system, await run(system, "burdened"))
    assert failed["error_message"] == "too much to say"
    assert len(json.dumps(failed["metadata"])) < 100_000


async def test_fifty_unruly_handlers_at_once_hold_up_nobody(system: System) -> None:
    steps: list[dict[str, Any]] = [{"name": f"s{n}", "handler": "raises", "retry": ONCE} for n in range(25)]
    steps += [{"name": f"h{n}", "handler": "hangs", "retry": ONCE, "timeout_seconds": 0.3} for n in range(25)]
    await system.register(template("fifty", steps, namespace=NAMESPACE))
    task = await system.client.create_task("fifty", namespace=NAMESPACE)
    await system.proves_itself()
    done = await system.client.wait_for_task(task.task_uuid, timeout_seconds=15)
    assert (done.status, done.failed_steps) == ("blocked_by_failures", 50)
