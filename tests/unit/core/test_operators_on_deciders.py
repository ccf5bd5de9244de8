"""What operators do with decisions, with batchable steps and with the workers of batches."""

from __future__ import annotations

from typing import Any

import pytest

from stepweave_orchestrator.core.operator_commands import (
    PauseTask,
    ResetStep,
    ResolveStep,
    ResumeTask,
    RetryTask,
    SkipStep,
)
from stepweave_orchestrator.core.view import task_response

from .scenario import (
    Scenario,
    batch_completed,
    batch_created,
    batch_stopped,
    begun,
    blocked,
    checkpointed,
    choose,
    complete,
    completed,
    completed_by_hand,
    cut,
    declined,
    enqueued,
    fail,
    fail_for_good,
    failed,
    paused,
    refused,
    reset,
    resolved,
    resumed,
    routed,
    save,
    skipped,
    succeed,
    task_completed,
    task_failed,
    wish,
)
from .templates import AT_ONCE, EVERY_SECOND, compiled, step


def routing(**settings: Any) -> Any:
    return compiled(
        step("route", type="decision", retry=EVERY_SECOND, **settings),
        "left: route",
        "right: route",
        step("join: left right", type="deferred_convergence", retry=EVERY_SECOND),
    )


def batched(strategy: str = "isolate", parallelism: int | None = None, **worker: Any) -> Any:
    config: dict[str, Any] = {"failure_strategy": strategy}
    if parallelism is not None:
        config["parallelism"] = parallelism
    return compiled(
        step("cut", type="batchable", retry=EVERY_SECOND, batch_config=config),
        step("w: cut", type="batch_worker", **{"retry": {**AT_ONCE, "max_attempts": 1}, **worker}),
        "sum: w",
    )


def three(strategy: str, parallelism: int | None = None, **worker: Any) -> Scenario:
    """A batch of three."""
    return begun(batched(strategy, parallelism, **worker)).run(cut("cut", 1, 2, 3))


# -- decisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("begins", [True, False])
def test_a_decision_that_is_resolved_chooses_nothing(begins: bool) -> None:
    scenario = begun(routing()).run(*([fail_for_good("route")] if begins else []))
    scenario.when(wish(ResolveStep, "route")).then(
        resolved("route"),
        declined("route", reason="why not", excluded=("left", "right")),
        skipped("join", reason="no_branches"),
        task_completed(),
    )


def test_a_decision_that_is_skipped_chooses_nothing() -> None:
    scenario = begun(routing(skippable=True)).run(fail_for_good("route"))
    scenario.when(wish(SkipStep, "route")).then(
        skipped("route", reason="operator"), declined("route"), skipped("join"), task_completed()
    )


def test_an_operator_chooses_for_a_decision() -> None:
    scenario = begun(routing())
    scenario.when(complete("route", {"create_steps": ["left"], "why": "asked"})).then(
        completed_by_hand("route", result={"create_steps": ["left"], "why": "asked"}),
        routed("route", "left", created=("left", "join"), excluded=("right",)),
        enqueued("left"),
    )
    scenario.when(choose("route", "right")).then(
        refused("route", refusal="step_finished", outcome="decision")
    )
    scenario.run(succeed("left"), succeed("join"))
    assert scenario.status == "complete"


def test_a_decision_completed_with_no_step_has_chosen_nothing() -> None:
    scenario = begun(routing()).when(complete("route", {"create_steps": [], "because": 7}))
    scenario.then(completed_by_hand("route"), declined("route"), skipped("join"), task_completed())


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({"create_steps": ["route"]}, "'route' cannot be created"),
        ({"create_steps": ["nobody"]}, "'nobody' cannot be created"),
        ({"create_steps": "left"}, "is the list of the steps"),
        ({"steps": ["left"]}, "is the list of the steps"),
        (None, "or to resolve it, chooses none"),
        ({"create_steps": [7]}, "is the list of the steps"),
    ],
)
def test_an_operator_can_choose_no_more_than_a_handler(result: object, why: str) -> None:
    allowed = ("resolve_manually", "complete_manually")
    begun(routing()).when(complete("route", result)).then_refused(why, "enqueued", *allowed)


def test_a_step_that_may_come_to_exist_is_none_yet_and_one_that_was_not_chosen_never_is() -> None:
    scenario = begun(routing()).when(wish(ResolveStep, "left")).then_rejected("UNKNOWN_STEP")
    scenario.run(choose("route", "right")).when(wish(ResolveStep, "left")).then_rejected("UNKNOWN_STEP")


# -- batches -------------------------------------------------------------------------------------


def test_a_batchable_step_that_is_resolved_cuts_nothing() -> None:
    scenario = begun(batched()).when(wish(ResolveStep, "cut"))
    scenario.then(
        resolved("cut"),
        batch_created("cut", "w", cursors=(), is_no_op=True, reason="why not"),
        enqueued("w_001"),
    )
    scenario.run(succeed("w_001"), succeed("sum"))
    assert scenario.status == "complete"


@pytest.mark.parametrize("strategy", ["isolate", "continue_on_failure", "fail_fast"])
def test_a_failed_batch_is_tried_again_and_the_whole_is_complete(strategy: str) -> None:
    scenario = three(strategy).run(succeed("w_001"), fail_for_good("w_002"))
    scenario.when(wish(ResetStep, "w_002")).then(reset("w_002"), enqueued("w_002", 2))
    scenario.run(succeed("w_003")).when(succeed("w_002"))
    scenario.then(completed("w_002", 2), batch_completed("w", 3), enqueued("sum"))


@pytest.mark.parametrize("strategy", ["isolate", "continue_on_failure", "fail_fast"])
def test_a_failed_batch_is_resolved_or_completed_and_counts_as_done(strategy: str) -> None:
    scenario = three(strategy).run(succeed("w_001"), fail_for_good("w_002"))
    scenario.when(wish(ResolveStep, "w_002")).then(resolved("w_002"))
    if strategy == "fail_fast":
        # Nothing of it waited when the batch was stopped, so nothing begins again.
        assert not scenario.state.batches[1].stopped
    scenario.when(complete("w_003", 3)).then(
        completed_by_hand("w_003", result=3), batch_completed("w", 3), enqueued("sum")
    )


def test_batches_that_were_cancelled_run_after_all_once_no_failure_is_left() -> None:
    scenario = three("fail_fast", parallelism=2)
    scenario.when(fail_for_good("w_001")).then(failed("w_001"), batch_stopped("w", "w_001", 1))
    scenario.when(fail_for_good("w_002")).then(failed("w_002"), blocked("w_001", "w_002"))
    scenario.when(wish(ResetStep, "w_003")).then_refused(
        "it was cancelled because another batch failed", "cancelled"
    )
    # One failure is left, so the batch stays stopped; the one that was reset is tried all the same.
    scenario.when(wish(ResetStep, "w_001")).then(reset("w_001"), enqueued("w_001", 2))
    scenario.when(wish(ResolveStep, "w_002")).then(resolved("w_002"), enqueued("w_003"))
    scenario.run(succeed("w_003")).when(succeed("w_001"))
    scenario.then(completed("w_001", 2), batch_completed("w", 3), enqueued("sum"))


def test_one_that_was_cancelled_while_it_waited_for_its_retry_goes_on_with_its_tries() -> None:
    scenario = three("fail_fast", retry={**EVERY_SECOND, "max_attempts": 2})
    scenario.run(fail("w_003"), fail_for_good("w_001"), succeed("w_002"))
    assert scenario.statuses()["w_003"] == "cancelled"
    scenario.when(wish(ResetStep, "w_001")).then(reset("w_001"), enqueued("w_001", 2), enqueued("w_003", 2))
    assert task_response(scenario.state).failed_steps == 0


def test_as_many_run_at_once_as_may() -> None:
    scenario = three("isolate", parallelism=1)
    scenario.run(fail_for_good("w_001"), fail_for_good("w_002"), fail_for_good("w_003"))
    scenario.when(wish(RetryTask)).then(reset("w_001"), enqueued("w_001", 2), reset("w_002"), reset("w_003"))
    assert scenario.statuses()["w_002"] == "pending"
    scenario.when(succeed("w_001")).then(completed("w_001", 2), enqueued("w_002", 2))
    scenario.when(fail_for_good("w_002")).then(failed("w_002", 2), enqueued("w_003", 2))
    scenario.when(succeed("w_003")).then(completed("w_003", 2), blocked("w_002"))


def test_failures_that_are_put_up_with_can_be_mended_until_the_batch_is_complete() -> None:
    scenario = three("continue_on_failure").run(fail_for_good("w_001"), fail_for_good("w_002"))
    assert task_response(scenario.state).completion_percentage == 60.0
    scenario.when(wish(ResetStep, "w_001")).then(reset("w_001"), enqueued("w_001", 2))
    scenario.run(succeed("w_003")).when(succeed("w_001"))
    scenario.then(completed("w_001", 2), batch_completed("w", 2, 1), enqueued("sum"))
    scenario.when(wish(ResetStep, "w_002")).then_refused("what waits for the batch has gone on", "error")
    scenario.when(succeed("sum")).then(completed("sum"), task_completed())


def test_when_all_have_failed_one_that_is_mended_lets_the_others_be_put_up_with() -> None:
    scenario = three("continue_on_failure")
    scenario.run(fail_for_good("w_001"), fail_for_good("w_002"), fail_for_good("w_003"))
    assert scenario.status == "blocked_by_failures"
    scenario.when(wish(ResolveStep, "w_001")).then(
        resolved("w_001"), batch_completed("w", 1, 2), enqueued("sum")
    )
    scenario.when(succeed("sum")).then(completed("sum"), task_completed())


def test_batches_that_have_not_begun_are_settled_and_passed_over() -> None:
    scenario = three("isolate", parallelism=1)
    scenario.when(wish(ResolveStep, "w_002")).then(resolved("w_002", 0))
    scenario.when(succeed("w_001")).then(completed("w_001"), enqueued("w_003"))
    scenario.when(succeed("w_003")).then(completed("w_003"), batch_completed("w", 3), enqueued("sum"))


def test_a_batch_that_runs_makes_room_when_it_is_settled() -> None:
    scenario = three("isolate", parallelism=1)
    scenario.when(wish(ResolveStep, "w_001")).then(resolved("w_001"), enqueued("w_002"))


def test_a_paused_batch_begins_nothing_and_goes_on_with_what_was_held_first() -> None:
    scenario = three("isolate", parallelism=2).when(wish(PauseTask)).then(paused())
    scenario.when(save("w_002", 5)).then(checkpointed("w_002"))
    scenario.when(succeed("w_001")).then(completed("w_001"))
    scenario.when(wish(ResumeTask)).then(resumed(), enqueued("w_002", 1), enqueued("w_003"))


def test_the_batches_themselves_are_named_and_not_their_template() -> None:
    scenario = three("isolate").when(wish(ResolveStep, "w")).then_rejected("UNKNOWN_STEP")
    scenario.when(wish(ResolveStep, "w_004")).then_rejected("UNKNOWN_STEP")


def test_a_batch_that_an_operator_has_settled_has_nothing_to_undo() -> None:
    plan = compiled(
        step("cut", type="batchable", retry=EVERY_SECOND),
        step(
            "w: cut", type="batch_worker", retry=EVERY_SECOND, compensation={"handler": {"callable": "undo"}}
        ),
        "sum: w",
    )
    scenario = begun(plan).run(cut("cut", 1), wish(ResolveStep, "w_001"))
    scenario.when(fail_for_good("sum")).then(
        failed("sum"), task_failed("sum", compensation_status="complete")
    )
