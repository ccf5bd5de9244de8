"""`run_workflow` with slots and circuits: they hold steps as on a server, and never hang a run."""

from __future__ import annotations

import asyncio

from stepweave import RetryableError, StepContext, step_handler
from stepweave.testing import run_workflow

MANY = """
namespace: shop
name: many
version: 1.0.0
concurrency: {key: customer, limit: 1}
steps:
  - {name: a, handler: work, concurrency: {key: customer, limit: 2}}
  - {name: b, handler: work, concurrency: {key: customer, limit: 2}}
  - {name: c, handler: work, concurrency: {key: customer, limit: 2}}
  - {name: d, handler: work, concurrency: {key: customer, limit: 2}}
  - {name: end, handler: work, dependencies: [a, b, c, d]}
"""


def test_slots_hold_steps_of_one_run() -> None:
    running, most = 0, 0

    @step_handler("work")
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(10)
        running -= 1

    run = run_workflow(MANY, [work], {"customer": "ada"})
    assert run.status == "complete" and most == 2
    # Two and two, and then the last.
    assert 30 <= run.elapsed_seconds < 31
    types = [event.type for event in run.events]
    assert types.count("concurrency.granted") == types.count("concurrency.released") == 5


PARENT = """
namespace: shop
name: parent
version: 1.0.0
steps:
  - {name: one, child_task: {name: child}}
  - {name: two, child_task: {name: child}}
"""
CHILD = """
namespace: shop
name: child
version: 1.0.0
concurrency: {limit: 1}
steps:
  - {name: only, handler: work}
"""


def test_children_share_the_slots_of_their_template() -> None:
    @step_handler("work")
    async def work() -> None:
        await asyncio.sleep(10)

    run = run_workflow(PARENT, [work], templates=[CHILD])
    assert run.status == "complete" and 20 <= run.elapsed_seconds < 21


WAITING_FOR_ITSELF = """
namespace: shop
name: parent
version: 1.0.0
concurrency: {limit: 1}
steps:
  - {name: again, child_task: {name: parent, context: {stop: true}}}
"""


def test_a_run_that_waits_for_itself_ends() -> None:
    """Its child needs the slot that the parent has."""
    run = run_workflow(WAITING_FOR_ITSELF, [], templates=[WAITING_FOR_ITSELF])
    assert run.status == "waiting_for_dependencies"
    assert run.children["again"].status == "waiting_for_dependencies"


CALLS = """
namespace: shop
name: calls
version: 1.0.0
steps:
  - name: first
    handler: call
    system_dependency: bank
    retry: {max_attempts: 9, backoff: fixed, backoff_base_ms: 1000, jitter: 0}
    circuit_breaker: {failure_threshold: 2, window_seconds: 60, open_seconds: 30}
  - {name: wait, handler: wait}
  - name: second
    handler: call
    dependencies: [wait]
    system_dependency: bank
    circuit_breaker: {failure_threshold: 2, window_seconds: 60, open_seconds: 30}
"""


def test_a_circuit_holds_steps_until_its_service_is_there_again() -> None:
    calls: list[tuple[str, int]] = []

    @step_handler("wait")
    async def wait() -> None:
        await asyncio.sleep(5)

    @step_handler("call")
    async def call(context: StepContext) -> str:
        calls.append((context.step_name, context.attempt))
        if len(calls) < 4:
            raise RetryableError("the bank does not answer")
        return "ok"

    run = run_workflow(CALLS, [call, wait])
    assert run.status == "complete"
    # Two failures open it, a probe after 30 s fails, the next one succeeds, and the other step goes on.
    assert calls == [("first", 1), ("first", 2), ("first", 3), ("second", 1), ("first", 4)]
    assert 61 <= run.elapsed_seconds < 63
    probes = [event.get("is_probe", False) for event in run.events if event.type == "circuit.admitted"]
    assert probes == [True, True, False]


def test_a_cancelled_run_ends_with_its_circuit_open() -> None:
    @step_handler("wait")
    async def wait() -> None: ...

    @step_handler("call")
    async def call() -> None:
        raise RetryableError("the bank does not answer")

    run = run_workflow(CALLS, [call, wait], cancel_after_seconds=10)
    assert run.status == "cancelled"
