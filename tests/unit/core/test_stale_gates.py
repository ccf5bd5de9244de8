"""Tasks that stand still before gates, and with what these have granted."""

from __future__ import annotations

from typing import Any

import pytest

from stepweave_orchestrator.core.dead_letters import open_letter
from stepweave_orchestrator.core.operator_commands import PauseTask, ResumeTask

from .scenario import (
    T0_MS,
    Scenario,
    asked,
    cancelled,
    create,
    created,
    enqueued,
    given,
    given_back,
    granted,
    paused,
    released,
    resumed,
    start,
    started,
    succeed,
    task_failed,
    wake,
    wish,
)
from .templates import compiled, step
from .test_staleness import hand_back, look, stale


def begun(**lifecycle: Any) -> Scenario:
    plan = compiled(step("a", concurrency={"limit": 1}), lifecycle=lifecycle)
    return given(plan).when(create(plan)).then(created(), asked("a"))


def test_a_step_that_waits_for_a_slot_for_too_long() -> None:
    scenario = begun(max_waiting_for_dependencies_seconds=1).later(1_000)
    scenario.when(wake()).then(
        stale("max_waiting_for_dependencies_seconds", since_ms=T0_MS, waiting_for=("a",))
    )
    letter = open_letter(scenario.state)
    assert letter is not None and letter.original_state == "waiting_for_dependencies"
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    assert letter.resolution_status == "recovered"


@pytest.mark.parametrize("admitted", [False, True])
@pytest.mark.parametrize("action", ["fail", "cancel"])
def test_a_slot_is_given_back_by_a_task_that_ends_because_it_is_stale(action: str, admitted: bool) -> None:
    scenario = begun(max_duration_seconds=1, staleness_action=action)
    if admitted:
        scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.later(1_000).when(wake())
    if action == "fail":
        scenario.then(given_back("a"), stale("max_duration_seconds"), task_failed(error_code="TASK_STALE"))
    else:
        running = ("a",) if admitted else ()
        scenario.then(stale("max_duration_seconds"), given_back("a"), cancelled(*running))
    assert scenario.step("a").passes == () and scenario.step("a").hold is None


def test_a_try_that_is_handed_back_gives_its_slot_back_and_queues_again() -> None:
    scenario = begun(max_duration_seconds=60)
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.when(hand_back("a")).then(released("a"), given_back("a"))
    assert scenario.step("a").passes == ()
    # It is the same try, which asks for a slot of its own.
    scenario.later(100).when(wake()).then(asked("a"))
    assert scenario.state.next_wake_ms() == T0_MS + 60_000
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a", 1))
    # Handed back once more, it waits for longer, although it has waited before the gate.
    scenario.when(hand_back("a")).then(released("a", retry_at_ms=scenario.now_ms + 200), given_back("a"))
    scenario.later(1).when(look("run_a")).then(asked("a"))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a", 1))
    scenario.run(succeed("a"))
    assert scenario.status == "complete"


def test_what_happens_before_a_gate_does_not_mean_that_somebody_serves_the_handler() -> None:
    scenario = begun()
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.later(60_000).when(look())
    scenario.then(stale("handler_missing", missing_handlers=("run_a",)))
    letter = open_letter(scenario.state)
    assert letter is not None
    scenario.when(hand_back("a")).then(released("a"), given_back("a"))
    scenario.later(100).when(wake()).then(asked("a"))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    assert letter.is_open
    scenario.when(start("a")).then(started("a"))
    assert letter.resolution_status == "recovered"


def test_a_handed_back_try_before_a_gate_leaves_the_line_while_its_task_is_paused() -> None:
    scenario = begun()
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.run(hand_back("a")).later(100).when(wake()).then(asked("a"))
    scenario.when(wish(PauseTask)).then(paused(), given_back("a"))
    scenario.when(wish(ResumeTask)).then(resumed(), asked("a"))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a", 1))
