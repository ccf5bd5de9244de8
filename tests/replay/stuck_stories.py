"""Stories of tasks that stand still, and of what investigators say about them."""

from __future__ import annotations

from typing import Final

from tests.unit.core.scenario import (
    Scenario,
    asked,
    blocked,
    cancel,
    cancelled,
    completed,
    enqueued,
    fail_for_good,
    failed,
    given_back,
    given_up,
    granted,
    paused,
    refused,
    released,
    reset,
    resumed,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    wake,
    wish,
)
from tests.unit.core.templates import step
from tests.unit.core.test_dead_letters import investigate, investigated
from tests.unit.core.test_staleness import hand_back, look, stale

from stepweave_orchestrator.core.operator_commands import GiveUpTask, PauseTask, ResumeTask, RetryTask
from stepweave_schemas.template import TaskTemplate

from .stories import Stories, begun, recorder

STUCK_STORIES: Final[Stories] = {}
recorded: Final = recorder(STUCK_STORIES)


@recorded(
    "stale",
    "nothing changes for too long; it goes on, the whole task takes too long, and then a step fails",
    "a",
    "b: a",
    lifecycle={"max_steps_in_process_seconds": 60, "max_duration_seconds": 90},
)
def _stale(made: TaskTemplate) -> Scenario:
    scenario = begun(made, enqueued("a")).later(60_000).when(wake())
    scenario.then(stale("max_steps_in_process_seconds", action="dlq", waiting_for=("a",)))
    scenario.later(5).when(start("a")).then(started("a"))
    scenario.later(5).when(succeed("a")).then(completed("a"), enqueued("b"))
    scenario.later(29_990).when(wake()).then(stale("max_duration_seconds", action="dlq"))
    scenario.later(5).when(fail_for_good("b")).then(failed("b"), blocked("b"))
    scenario.later(5).when(investigate(2, "investigating", "asked the bank")).then(
        investigated("investigating", "asked the bank")
    )
    scenario.later(5).when(investigate(2, "permanently_failed", metadata='{"ticket":7}')).then(
        investigated("permanently_failed", "asked the bank")
    )
    return scenario.later(5).when(cancel()).then(cancelled())


@recorded(
    "stale_fails",
    "the task takes too long and ends in error; its worker answers later",
    "a",
    "b: a",
    lifecycle={"max_duration_seconds": 1, "staleness_action": "fail"},
)
def _stale_fails(made: TaskTemplate) -> Scenario:
    scenario = begun(made, enqueued("a")).later(1_000).when(wake())
    scenario.then(stale("max_duration_seconds", action="fail"), task_failed(error_code="TASK_STALE"))
    return scenario.later(5).when(succeed("a")).then(refused("a"))


@recorded(
    "handler_missing",
    "a worker without the handler hands the step back; it is named, and runs when a worker has it",
    step("a"),
)
def _handler_missing(made: TaskTemplate) -> Scenario:
    scenario = begun(made, enqueued("a")).later(5)
    scenario.when(hand_back("a")).then(released("a", retry_at_ms=scenario.now_ms + 100))
    scenario.later(100).when(wake()).then(enqueued("a"))
    scenario.later(60_000).when(hand_back("a")).then(
        released("a", retry_at_ms=scenario.now_ms + 200),
        stale("handler_missing", missing_handlers=("run_a",)),
    )
    scenario.later(50).when(look("run_a")).then(enqueued("a"))
    return scenario.later(5).when(succeed("a")).then(completed("a"), task_completed())


@recorded(
    "stuck_and_paused",
    "handed back for want of its handler, the task is paused and resumed; blocked, paused, resumed, retried, given up",
    step("a", concurrency={"limit": 1}),
)
def _stuck_and_paused(made: TaskTemplate) -> Scenario:
    scenario = begun(made, asked("a")).later(5)
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.when(hand_back("a")).then(released("a"), given_back("a"))
    scenario.later(5).when(wish(PauseTask)).then(paused())
    scenario.later(5).when(wish(ResumeTask)).then(resumed(), asked("a"))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.later(5).when(fail_for_good("a")).then(failed("a"), given_back("a"), blocked("a"))
    scenario.later(5).when(wish(PauseTask)).then(paused())
    scenario.later(5).when(wish(ResumeTask)).then(resumed(), blocked("a"))
    scenario.later(5).when(wish(RetryTask)).then(reset("a"), asked("a", 2))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a", 2))
    scenario.later(5).when(fail_for_good("a")).then(failed("a", 2), given_back("a"), blocked("a"))
    return scenario.later(5).when(wish(GiveUpTask)).then(given_up(), task_failed("a"))
