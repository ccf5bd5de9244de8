"""Checkpoints: progress that is saved in the middle of a try, and where the step goes on from."""

from __future__ import annotations

import msgspec
import pytest

from stepweave_orchestrator.core import build_dispatch
from stepweave_schemas.dispatch import Dispatch, StepCheckpoint

from .scenario import (
    Scenario,
    Told,
    batch_completed,
    begun,
    blocked,
    cancel,
    cancelled,
    checkpointed,
    completed,
    cut,
    enqueued,
    fail,
    fail_for_good,
    failed,
    lose,
    refused,
    release,
    released,
    retry,
    save,
    start,
    started,
    succeed,
    task_completed,
    undoing,
    undone,
    wake,
)
from .templates import AT_ONCE, EVERY_SECOND, compiled, one_step, step


def order(scenario: Scenario, name: str = "a") -> Dispatch:
    """The dispatch of the step's current try."""
    current = scenario.step(name)
    dispatch = build_dispatch(scenario.state, name, current.attempt, current.lease_token, "subject")
    assert dispatch is not None
    return dispatch


def saved(cursor: object, items_processed: int = 0, accumulated_results: object = None) -> StepCheckpoint:
    return StepCheckpoint(
        cursor=msgspec.Raw(msgspec.json.encode(cursor)),
        items_processed=items_processed,
        accumulated_results=msgspec.Raw(msgspec.json.encode(accumulated_results)),
    )


def test_a_checkpoint_is_recorded_and_the_same_try_goes_on() -> None:
    scenario = begun(one_step()).later(10)
    assert order(scenario).checkpoint is None
    scenario.when(save("a", {"row": 100}, items_processed=100, accumulated_results=[1.5]))
    scenario.then(
        checkpointed(
            "a",
            cursor=msgspec.Raw(b'{"row":100}'),
            items_processed=100,
            accumulated_results=msgspec.Raw(b"[1.5]"),
            worker_id="worker-1",
        ),
        enqueued("a", 1),
    )
    assert scenario.token("a", 1, 0) != scenario.token("a", 1, 1)
    assert order(scenario).checkpoint == saved({"row": 100}, 100, [1.5])
    assert order(scenario).lease_token == scenario.token("a")
    assert scenario.status == "steps_in_process"
    scenario.when(save("a", {"row": 200}, items_processed=200)).then(checkpointed("a"), enqueued("a", 1))
    assert order(scenario).checkpoint == saved({"row": 200}, 200)
    scenario.when(succeed("a")).then(completed("a", 1), task_completed())


def test_any_number_of_checkpoints_costs_no_attempt() -> None:
    scenario = begun(one_step(retry={**AT_ONCE, "max_attempts": 2}))
    for number in range(50):
        scenario.when(save("a", number)).then(checkpointed("a", 1), enqueued("a", 1))
    scenario.when(fail("a")).then(retry("a", 1), enqueued("a", 2))
    scenario.when(save("a", 51)).then(checkpointed("a", 2), enqueued("a", 2))
    scenario.when(fail("a")).then(failed("a", 2, failure_reason="attempts_exhausted"), blocked("a"))


def test_only_the_new_token_counts_after_a_checkpoint() -> None:
    scenario = begun(one_step()).when(save("a", 1)).then(checkpointed("a"), enqueued("a"))
    for told in (
        save("a", 1, 1, 0),
        save("a", 2, 1, 0),
        succeed("a", 1, 0),
        fail("a", 1, 0),
        lose("a", 1, 0),
    ):
        scenario.when(told).then_rejected("STALE")
    scenario.when(start("a", 1, 0)).then_rejected("STALE")
    assert order(scenario).checkpoint == saved(1)
    scenario.when(succeed("a", 1, 1)).then(completed("a"), task_completed())


def test_a_checkpoint_comes_too_late() -> None:
    scenario = begun(one_step(retry=AT_ONCE)).when(lose("a")).then(retry("a"), enqueued("a", 2))
    scenario.when(save("a", 1, attempt=1)).then_rejected("STALE")
    assert order(scenario).checkpoint is None, "whoever was lost does not say where another one goes on"
    scenario.when(succeed("a")).then(completed("a", 2), task_completed())
    scenario.when(save("a", 1)).then_rejected("STALE")


def test_a_retry_goes_on_from_the_last_checkpoint() -> None:
    scenario = begun(one_step()).run(save("a", 1, items_processed=10)).when(fail("a")).then(retry("a"))
    scenario.later(1_000).when(wake()).then(enqueued("a", 2))
    assert order(scenario).checkpoint == saved(1, 10)
    assert order(scenario).attempt == 2
    scenario.run(save("a", 2, items_processed=20))
    assert order(scenario).checkpoint == saved(2, 20)


def test_so_does_the_try_after_a_lost_worker() -> None:
    scenario = begun(one_step()).run(save("a", 1)).when(lose("a")).then(retry("a"), enqueued("a", 2))
    assert order(scenario).checkpoint == saved(1)


def test_so_does_the_try_after_a_time_out() -> None:
    scenario = begun(one_step(timeout_seconds=1.0)).run(start("a"), save("a", 1))
    assert scenario.state.next_wake_ms() is None, "the time of a try is counted from its start"
    scenario.when(start("a")).then(started("a")).later(6_000).when(wake()).then(
        retry("a", settled_by="timeout")
    )
    scenario.later(1_000).when(wake()).then(enqueued("a", 2))
    assert order(scenario).checkpoint == saved(1)


def test_so_does_a_try_that_is_handed_back() -> None:
    scenario = begun(one_step()).run(save("a", 1)).when(release("a")).then(released("a"), enqueued("a"))
    assert order(scenario).checkpoint == saved(1)


@pytest.mark.parametrize("cursor", [None, 0, "", {"token": "x"}, [1, [2]], "2026-01-01"], ids=repr)
def test_a_cursor_is_any_json(cursor: object) -> None:
    assert order(begun(one_step()).run(save("a", cursor))).checkpoint == saved(cursor)


def test_the_work_behind_a_checkpoint_may_be_started_again() -> None:
    """Each part of a try may say that it runs; the second one has its own time."""
    scenario = begun(one_step(timeout_seconds=10.0)).when(start("a")).then(started("a"))
    scenario.later(9_000).when(save("a", 1)).then(checkpointed("a"), enqueued("a"))
    scenario.later(9_000).when(wake()).then_nothing()
    scenario.when(start("a", worker_id="worker-2")).then(started("a", worker_id="worker-2"))
    scenario.later(14_999).when(wake()).then_nothing()
    scenario.later(1).when(wake()).then(retry("a", settled_by="timeout", worker_id="worker-2"))


def test_each_batch_has_its_own_checkpoint() -> None:
    plan = compiled(
        step("cut", type="batchable"),
        step("load: cut", type="batch_worker", retry=EVERY_SECOND),
        step("merge: load", type="deferred_convergence"),
    )
    scenario = begun(plan).run(cut("cut", 1, 2))
    scenario.when(save("load_001", 50)).then(checkpointed("load_001"), enqueued("load_001", 1))
    assert order(scenario, "load_001").checkpoint == saved(50)
    assert order(scenario, "load_002").checkpoint is None
    scenario.when(fail("load_001")).then(retry("load_001")).later(1_000).when(wake()).then(
        enqueued("load_001", 2)
    )
    assert order(scenario, "load_001").checkpoint == saved(50)
    scenario.run(succeed("load_001")).when(succeed("load_002"))
    scenario.then(completed("load_002"), batch_completed("load", 2), enqueued("merge"))
    assert order(scenario, "merge").checkpoint is None


def test_a_compensation_may_save_its_progress() -> None:
    plan = compiled(step("a", compensation={"handler": {"callable": "undo_a"}}), "b: a")
    scenario = begun(plan).run(save("a", 7), succeed("a")).when(fail_for_good("b"))
    scenario.then(failed("b"), undoing("a"), enqueued("compensate:a"))
    assert order(scenario, "compensate:a").checkpoint is None, "the progress is that of the step itself"
    scenario.when(save("compensate:a", 1)).then(checkpointed("compensate:a"), enqueued("compensate:a"))
    assert order(scenario, "compensate:a").checkpoint == saved(1)
    assert scenario.step("a").status == "compensating"
    scenario.run(succeed("compensate:a"))
    assert undone("a").matches(scenario.history[-2][0])


def test_cancelled_after_a_checkpoint() -> None:
    scenario = begun(one_step()).run(save("a", 1)).when(cancel()).then(cancelled("a"))
    scenario.when(save("a", 2)).then_rejected("STALE")
    scenario.when(succeed("a")).then(refused("a", refusal="task_finished"))


# -- no progress ---------------------------------------------------------------------------------


def test_a_checkpoint_without_progress_costs_an_attempt() -> None:
    """A handler that saves what it was given would go on for ever."""
    scenario = begun(one_step(retry={**AT_ONCE, "max_attempts": 2})).run(save("a", 1, items_processed=5))
    scenario.when(save("a", 1, items_processed=5)).then(
        retry("a", error_code="CHECKPOINT_WITHOUT_PROGRESS", settled_by="failure"), enqueued("a", 2)
    )
    assert order(scenario).checkpoint == saved(1, 5)
    scenario.when(save("a", 1, items_processed=5)).then(
        failed("a", 2, error_code="CHECKPOINT_WITHOUT_PROGRESS"), blocked("a")
    )


@pytest.mark.parametrize(
    "further",
    [
        save("a", 2, items_processed=5, accumulated_results=0),
        save("a", 1, items_processed=6, accumulated_results=0),
        save("a", 1, items_processed=5, accumulated_results=1),
    ],
    ids=["another place", "more items", "other results"],
)
def test_whatever_changed_is_progress(further: Told) -> None:
    scenario = begun(one_step()).run(save("a", 1, items_processed=5, accumulated_results=0))
    scenario.when(further).then(checkpointed("a"), enqueued("a", 1))


def test_the_first_checkpoint_is_progress_whatever_it_says() -> None:
    begun(one_step()).when(save("a", None)).then(checkpointed("a"), enqueued("a", 1))
