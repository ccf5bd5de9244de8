"""Stories of tasks and steps that are held before gates."""

from __future__ import annotations

from typing import Any, Final

from tests.unit.core.scenario import (
    Scenario,
    asked,
    blocked,
    cancel,
    cancelled,
    completed,
    enqueued,
    fail,
    fail_for_good,
    failed,
    given_back,
    granted,
    held_by_circuit,
    held_by_rate,
    in_turn,
    left_circuit,
    left_rate,
    reset,
    retry,
    succeed,
    task_completed,
    through_circuit,
    wake,
    wish,
)
from tests.unit.core.templates import EVERY_SECOND, step

from stepweave_orchestrator.core.operator_commands import RetryTask
from stepweave_schemas.template import TaskTemplate

from .stories import Stories, begun, recorder

GATE_STORIES: Final[Stories] = {}
recorded: Final = recorder(GATE_STORIES)

BREAKER: Final[dict[str, Any]] = {"failure_threshold": 2, "window_seconds": 10, "open_seconds": 5}


@recorded(
    "slots",
    "the task waits for a slot, then a step for one of its own, for each of its tries",
    step("a", retry=EVERY_SECOND, concurrency={"limit": 2}),
    step("b: a", concurrency={"key": "order", "limit": 1}),
    concurrency={"key": "order", "limit": 1},
)
def _slots(made: TaskTemplate) -> Scenario:
    scenario = begun(made, asked(group="task:order", value="7", limit=1))
    scenario.later(5).when(scenario.admit()).then(
        granted(), asked("a", group="scenario.a", value="null", limit=2)
    )
    scenario.later(5).when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.later(5).when(fail("a")).then(retry("a"), given_back("a"))
    scenario.later(1_000).when(wake()).then(asked("a", 2))
    scenario.later(5).when(scenario.admit("a")).then(granted("a"), enqueued("a", 2))
    scenario.later(5).when(succeed("a")).then(completed("a", 2), given_back("a"), asked("b", group="order"))
    scenario.later(5).when(scenario.admit("b")).then(granted("b"), enqueued("b"))
    return (
        scenario.later(5)
        .when(succeed("b"))
        .then(completed("b"), given_back("b"), given_back(), task_completed())
    )


@recorded(
    "circuit",
    "a step is held while its service is down, tries it out, and the next one is held with the task's end",
    step("a", retry=EVERY_SECOND, system_dependency="bank", circuit_breaker=BREAKER),
    step("b: a", system_dependency="bank", circuit_breaker=BREAKER),
)
def _circuit(made: TaskTemplate) -> Scenario:
    scenario = begun(made, enqueued("a"))
    scenario.with_open("bank").later(5).when(fail("a")).then(retry("a"))
    scenario.later(1_000).when(wake()).then(held_by_circuit("a", 2, service="bank"))
    scenario.later(5_000).when(scenario.admit("a", is_probe=True)).then(
        through_circuit("a"), enqueued("a", 2)
    )
    scenario.later(5).when(succeed("a")).then(
        completed("a", 2), left_circuit("a", outcome="success"), held_by_circuit("b")
    )
    return scenario.later(5).when(cancel()).then(left_circuit("b", outcome=""), cancelled())


@recorded(
    "rate", "two steps wait for their turn; one comes, the task is cancelled before the other", "a", "b"
)
def _rate(made: TaskTemplate) -> Scenario:
    scenario = begun(made, enqueued("a"), enqueued("b")).at_rate(10)
    scenario.later(5).when(fail("a")).then(retry("a")).when(fail("b")).then(retry("b"))
    scenario.later(1_000).when(wake()).then(held_by_rate("a", 2, per_second=10.0), held_by_rate("b", 2))
    scenario.later(5).when(scenario.admit("a")).then(in_turn("a"), enqueued("a", 2))
    return scenario.later(5).when(cancel()).then(left_rate("b"), cancelled("a"))


@recorded(
    "slot_of_a_blocked_task",
    "a blocked task gives its slot back, and asks for one again before it is tried again",
    step("a", retry=EVERY_SECOND),
    concurrency={"limit": 1},
)
def _slot_of_a_blocked_task(made: TaskTemplate) -> Scenario:
    scenario = begun(made, asked(group="task:scenario", value="null", limit=1))
    scenario.later(5).when(scenario.admit()).then(granted(), enqueued("a"))
    scenario.later(5).when(fail_for_good("a")).then(failed("a"), given_back(), blocked("a"))
    scenario.later(1_000).when(wish(RetryTask)).then(reset("a"), asked())
    scenario.later(5).when(scenario.admit()).then(granted(), enqueued("a", 2))
    return scenario.later(5).when(succeed("a")).then(completed("a", 2), given_back(), task_completed())
