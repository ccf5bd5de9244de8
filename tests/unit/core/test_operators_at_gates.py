"""What operators do with tasks and steps that wait before gates, or have passed them."""

from __future__ import annotations

from stepweave_orchestrator.core import Plan
from stepweave_orchestrator.core.operator_commands import (
    PauseTask,
    ResetStep,
    ResolveStep,
    ResolveTask,
    ResumeTask,
    RetryTask,
    SkipStep,
)

from .scenario import (
    T0_MS,
    Scenario,
    asked,
    batch_completed,
    batch_created,
    blocked,
    checkpointed,
    completed,
    create,
    created,
    cut,
    enqueued,
    entered,
    fail_for_good,
    failed,
    given,
    given_back,
    granted,
    paused,
    release,
    released,
    reset,
    resolved,
    resumed,
    save,
    skipped,
    succeed,
    task_completed,
    task_resolved,
    task_started,
    wake,
    wish,
)
from .templates import EVERY_SECOND, compiled, step

SLOTS = {"limit": 1}


def limited(**settings: object) -> Plan:
    return compiled(step("a", retry=EVERY_SECOND, concurrency=SLOTS, **settings), "b: a")


def waiting(**settings: object) -> Scenario:
    """A task whose first step waits for its slot."""
    return entered(limited(**settings), asked("a"))


def running() -> Scenario:
    """A task whose first step has its slot."""
    scenario = waiting()
    return scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))


def test_a_step_that_waits_leaves_the_line_when_its_task_is_paused_and_asks_again() -> None:
    scenario = waiting()
    late = scenario.admit("a")
    scenario.when(wish(PauseTask)).then(paused(), given_back("a"))
    assert scenario.statuses()["a"] == "pending"
    # The gate's answer was on its way: nobody waits for it, and the slot was given back.
    scenario.when(late).then_rejected("STALE")
    scenario.when(wish(ResumeTask)).then(resumed(), asked("a", 1))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))


def test_a_step_that_runs_keeps_its_slot_while_its_task_is_paused() -> None:
    scenario = running().when(wish(PauseTask)).then(paused())
    scenario.when(succeed("a")).then(completed("a"), given_back("a"))
    scenario.when(wish(ResumeTask)).then(resumed(), enqueued("b"))


def test_a_try_that_is_handed_back_while_the_task_is_paused_gives_its_slot_back() -> None:
    scenario = running().when(wish(PauseTask)).then(paused())
    scenario.when(release("a")).then(released("a"), given_back("a"))
    scenario.when(wish(ResumeTask)).then(resumed(), asked("a", 1))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a", 1))


def test_a_try_that_saves_its_progress_while_the_task_is_paused_gives_its_slot_back() -> None:
    scenario = running().when(wish(PauseTask)).then(paused())
    scenario.when(save("a", 7)).then(checkpointed("a"), given_back("a"))
    scenario.when(wish(ResumeTask)).then(resumed(), asked("a", 1))


def test_a_step_that_waits_or_runs_gives_its_slot_back_when_it_is_settled() -> None:
    waiting().when(wish(ResolveStep, "a")).then(resolved("a", 0), given_back("a"), enqueued("b"))
    running().when(wish(ResolveStep, "a")).then(resolved("a"), given_back("a"), enqueued("b"))


def test_a_step_that_waits_for_its_first_try_can_be_skipped_and_is_not_reset() -> None:
    scenario = waiting(skippable=True)
    allowed = ("resolve_manually", "complete_manually", "skip")
    scenario.when(wish(ResetStep, "a")).then_refused("it has not failed: it is held", "held", *allowed)
    scenario.when(wish(SkipStep, "a")).then(skipped("a"), given_back("a"), enqueued("b"))


def test_a_task_that_is_resolved_gives_everything_back() -> None:
    running().when(wish(ResolveTask)).then(given_back("a"), task_resolved("a"))


def one_at_a_time() -> Plan:
    return compiled("a", "b: a", concurrency=SLOTS)


def test_a_task_that_waits_for_its_slot_leaves_the_line_when_it_is_paused() -> None:
    scenario = entered(one_at_a_time(), asked()).when(wish(PauseTask)).then(paused(), given_back())
    assert scenario.status == "paused"
    scenario.when(wish(ResumeTask)).then(resumed(), asked())
    scenario.when(scenario.admit()).then(granted(), enqueued("a"))


def test_a_task_that_has_its_slot_keeps_it_while_it_is_paused() -> None:
    scenario = entered(one_at_a_time(), asked())
    scenario.when(scenario.admit()).then(granted(), enqueued("a")).when(wish(PauseTask)).then(paused())
    scenario.when(succeed("a")).then(completed("a")).when(wish(ResumeTask)).then(resumed(), enqueued("b"))


def test_a_start_that_passed_while_the_task_was_paused_asks_for_the_slot() -> None:
    plan = one_at_a_time()
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 100)).then(created())
    scenario.when(wish(PauseTask)).then(paused()).later(200).when(wake()).then_nothing()
    scenario.when(wish(ResumeTask)).then(resumed(), task_started(), asked())


def test_a_step_that_is_settled_while_its_task_waits_for_a_slot_begins_nothing() -> None:
    scenario = entered(one_at_a_time(), asked()).when(wish(ResolveStep, "a")).then(resolved("a", 0))
    scenario.when(scenario.admit()).then(granted(), enqueued("b"))
    scenario.when(succeed("b")).then(completed("b"), given_back(), task_completed())


def blocked_without_slot() -> Scenario:
    """A task of three steps in a line that is blocked at the first one; its slot is somebody else's."""
    scenario = entered(compiled("a", "b: a", "c: b", concurrency=SLOTS), asked())
    scenario.when(scenario.admit()).then(granted(), enqueued("a"))
    return scenario.when(fail_for_good("a")).then(
        failed("a"), given_back(), blocked("a", unreachable_steps_count=2)
    )


def test_a_blocked_task_asks_for_a_slot_before_it_is_tried_again() -> None:
    scenario = blocked_without_slot().when(wish(RetryTask)).then(reset("a"), asked())
    assert scenario.status == "waiting_for_dependencies"
    scenario.when(scenario.admit()).then(granted(), enqueued("a", 2))
    scenario.run(succeed("a"), succeed("b"))
    scenario.when(succeed("c")).then(completed("c"), given_back(), task_completed())


def test_a_blocked_task_that_is_settled_asks_for_a_slot_where_something_begins() -> None:
    scenario = blocked_without_slot().when(wish(ResolveStep, "a")).then(resolved("a"), asked())
    scenario.when(scenario.admit()).then(granted(), enqueued("b"))
    # While it waits, more may be settled.
    scenario = blocked_without_slot().when(wish(ResolveStep, "a")).then(resolved("a"), asked())
    scenario.when(wish(ResolveStep, "b")).then(resolved("b", 0))
    scenario.when(scenario.admit()).then(granted(), enqueued("c"))


def test_a_blocked_task_that_is_done_by_hand_needs_no_slot() -> None:
    scenario = entered(compiled("a", concurrency=SLOTS), asked())
    scenario.when(scenario.admit()).then(granted(), enqueued("a"))
    scenario.when(fail_for_good("a")).then(failed("a"), given_back(), blocked("a"))
    scenario.when(wish(ResolveStep, "a")).then(resolved("a"), task_completed())


def test_a_blocked_task_in_which_nothing_can_begin_stays_blocked() -> None:
    scenario = entered(compiled("a", "b", concurrency=SLOTS), asked())
    scenario.run(scenario.admit(), fail_for_good("a"))
    scenario.when(fail_for_good("b")).then(failed("b"), given_back(), blocked("a", "b"))
    scenario.when(wish(ResolveStep, "a")).then(resolved("a"), blocked("b"))


def test_a_blocked_task_that_was_paused_asks_when_it_is_resumed() -> None:
    scenario = blocked_without_slot().when(wish(PauseTask)).then(paused())
    scenario.when(wish(RetryTask)).then(reset("a"))
    scenario.when(wish(ResumeTask)).then(resumed(), asked())
    scenario.when(wish(PauseTask)).then(paused(), given_back()).when(wish(ResumeTask)).then(
        resumed(), asked()
    )
    scenario.when(scenario.admit()).then(granted(), enqueued("a", 2))
    # Nothing was changed meanwhile.
    scenario = blocked_without_slot().when(wish(PauseTask)).then(paused())
    scenario.when(wish(ResumeTask)).then(resumed(), blocked("a", unreachable_steps_count=2))


def test_batches_of_a_blocked_task_wait_for_its_slot() -> None:
    plan = compiled(
        step("cut", type="batchable", batch_config={"parallelism": 1}),
        step("w: cut", type="batch_worker"),
        concurrency=SLOTS,
    )
    scenario = entered(plan, asked())
    scenario.run(scenario.admit(), cut("cut", 1, 2), fail_for_good("w_001"), succeed("w_002"))
    assert scenario.status == "blocked_by_failures" and not scenario.state.passes
    scenario.when(wish(ResetStep, "w_001")).then(reset("w_001"), asked())
    scenario.when(scenario.admit()).then(granted(), enqueued("w_001", 2))


def test_batches_that_wait_for_slots_are_paused_and_go_on_in_their_order() -> None:
    plan = compiled(
        step("cut", type="batchable", retry=EVERY_SECOND, batch_config={"parallelism": 2}),
        step("w: cut", type="batch_worker", retry=EVERY_SECOND, concurrency=SLOTS),
    )
    scenario = entered(plan, enqueued("cut")).when(cut("cut", 1, 2, 3))
    scenario.then(completed("cut"), batch_created("cut", "w"), asked("w_001"), asked("w_002"))
    scenario.when(scenario.admit("w_001")).then(granted("w_001"), enqueued("w_001"))
    scenario.when(wish(PauseTask)).then(paused(), given_back("w_002"))
    scenario.when(succeed("w_001")).then(completed("w_001"), given_back("w_001"))
    scenario.when(wish(ResumeTask)).then(resumed(), asked("w_002", 1), asked("w_003"))
    scenario.when(wish(ResolveStep, "w_003")).then(resolved("w_003", 0), given_back("w_003"))
    scenario.when(scenario.admit("w_002")).then(granted("w_002"), enqueued("w_002"))
    scenario.when(succeed("w_002")).then(
        completed("w_002"), given_back("w_002"), batch_completed("w", 3), task_completed()
    )
