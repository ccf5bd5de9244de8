"""Operators in workflows that run in memory."""

from __future__ import annotations

import asyncio

import pytest

from stepweave import PermanentError, StepContext, step_handler
from stepweave.errors import ConfigurationError
from stepweave.testing import Operation, assert_events, run_workflow

TEMPLATE = """
namespace: shop
name: order
version: 1.0.0
steps:
  - {name: charge, handler: charge}
  - {name: ship, handler: ship, dependencies: [charge], skippable: true}
"""


@step_handler("charge")
async def charge(context: StepContext) -> dict[str, int]:
    if context.attempt == 1:
        raise PermanentError("declined")
    return {"attempt": context.attempt}


@step_handler("ship")
async def ship() -> str:
    await asyncio.sleep(10)
    return "shipped"


HANDLERS = [charge, ship]


def test_a_blocked_task_is_retried() -> None:
    run = run_workflow(TEMPLATE, HANDLERS, operations=[Operation("retry", after_seconds=60, by="ada")])
    assert (run.status, run.results["charge"], run.attempts("charge")) == ("complete", {"attempt": 2}, 2)
    assert run.elapsed_seconds == 70
    assert_events(
        [event for event in run.events if event.type.startswith("step.")][1:4],
        [
            {"type": "step.failed", "step_name": "charge"},
            {"type": "step.reset", "reset_by": "ada", "reason": ""},
            {"type": "step.enqueued", "attempt": 2},
        ],
    )


def test_without_an_operator_it_stays_blocked() -> None:
    assert run_workflow(TEMPLATE, HANDLERS).status == "blocked_by_failures"


def test_a_pause_holds_what_is_next() -> None:
    operations = [
        Operation("pause", after_seconds=1),
        Operation("complete_manually", "charge", result={"by": "hand"}, after_seconds=2),
        Operation("resume", after_seconds=3600),
        Operation("resume", after_seconds=3601),
    ]
    run = run_workflow(TEMPLATE, HANDLERS, operations=operations)
    assert (run.status, run.results["charge"]) == ("complete", {"by": "hand"})
    assert run.elapsed_seconds == 3610
    assert run.refused_operations == ["the task is not paused"]


def test_a_handler_whose_step_is_settled_is_told() -> None:
    heard: list[bool] = []

    @step_handler("ship")
    async def endless(context: StepContext) -> None:
        try:
            await asyncio.sleep(1_000_000)
        finally:
            heard.append(context.cancelled)

    operations = [
        Operation("resolve_manually", "charge", after_seconds=1),
        Operation("skip", "ship", after_seconds=2),
        Operation("resolve_manually", "ship", after_seconds=3),
    ]
    run = run_workflow(TEMPLATE, [charge, endless], operations=operations)
    assert (run.status, run.state("charge"), run.state("ship")) == (
        "complete",
        "resolved_manually",
        "resolved_manually",
    )
    assert heard == [True]
    assert len(run.refused_operations) == 1 and "it has begun" in run.refused_operations[0]


@pytest.mark.parametrize("operation", [Operation("mend"), Operation("pause", "charge")])
def test_an_action_that_there_is_not(operation: Operation) -> None:
    with pytest.raises(ConfigurationError, match="is nothing that is done to"):
        run_workflow(TEMPLATE, HANDLERS, operations=[operation])
