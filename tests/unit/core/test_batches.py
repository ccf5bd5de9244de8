"""Batches: one step for each cursor, how many at once, and what the failure of one means for the others."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core import Plan, build_dispatch
from stepweave_orchestrator.core.children import task_result
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas import codec, events, result
from stepweave_schemas.identity import step_uuid

from .invariants import check_state
from .scenario import (
    TASK_ID,
    Scenario,
    Told,
    batch_completed,
    batch_created,
    batch_stopped,
    begun,
    blocked,
    cancel,
    cancelled,
    choose,
    completed,
    cut,
    decline,
    declined,
    enqueued,
    fail,
    fail_for_good,
    failed,
    lose,
    refused,
    retry,
    routed,
    skipped,
    start,
    started,
    succeed,
    task_completed,
    wake,
)
from .templates import EVERY_SECOND, compiled, step
from .test_size import Run, lines_run


def analyser(text: str = "cut", **config: Any) -> dict[str, Any]:
    settings = {"batch_config": config} if config else {}
    return step(text, type="batchable", retry=EVERY_SECOND, **settings)


def worker(text: str = "load: cut", retry: dict[str, Any] = EVERY_SECOND, **settings: Any) -> dict[str, Any]:
    return step(text, type="batch_worker", retry=retry, **settings)


def convergence(text: str) -> dict[str, Any]:
    return step(text, type="deferred_convergence", retry=EVERY_SECOND)


def etl(retry: dict[str, Any] = EVERY_SECOND, **config: Any) -> Plan:
    return compiled(analyser(**config), worker(retry=retry), convergence("merge: load"), "report: merge")


def cut_into(count: int, plan: Plan | None = None, **config: Any) -> Scenario:
    """A task whose analyser has made `count` batches."""
    return begun(plan or etl(**config)).run(cut("cut", *range(count)))


def inputs(scenario: Scenario, name: str) -> dict[str, Any]:
    """The `step_inputs` of the step's current try."""
    current = scenario.step(name)
    dispatch = build_dispatch(scenario.state, name, current.attempt, current.lease_token, "subject")
    assert dispatch is not None
    found: dict[str, Any] = msgspec.json.decode(dispatch.step_inputs)
    return found


# -- making them ---------------------------------------------------------------------------------


def test_one_worker_for_each_cursor() -> None:
    scenario = begun(etl())
    assert scenario.shown() == ["cut"]
    scenario.when(cut("cut", 0, 100, 200, result={"rows": 300}))
    scenario.then(
        completed("cut", result=msgspec.Raw(b'{"rows":300}')),
        batch_created(
            "cut",
            "load",
            cursors=(msgspec.Raw(b"0"), msgspec.Raw(b"100"), msgspec.Raw(b"200")),
            is_no_op=False,
            created=("merge", "report"),
            excluded=(),
        ),
        enqueued("load_001", step_uuid=step_uuid(TASK_ID, "load_001")),
        enqueued("load_002"),
        enqueued("load_003"),
    )
    assert scenario.shown() == ["cut", "load_001", "load_002", "load_003", "merge", "report"]
    assert scenario.step("load").status == "expanded"
    scenario.when(succeed("load_002")).then(completed("load_002"))
    scenario.when(succeed("load_001")).then(completed("load_001"))
    scenario.when(succeed("load_003")).then(
        completed("load_003"), batch_completed("load", 3), enqueued("merge")
    )
    scenario.when(succeed("merge")).then(completed("merge"), enqueued("report"))
    scenario.when(succeed("report")).then(completed("report"), task_completed(steps_completed=6))


@pytest.mark.parametrize(
    "cursors",
    [
        (0, 1, -7, 2**53),
        ("a", "", "é\u0000"),
        ("2026-01-01", "2026-02-01T00:00:00Z"),
        ("eyJvZmZzZXQiOjF9",),
        ({"from": 1, "to": [2, {"deep": None}]}, {}),
        (None, True, 1.5, [1, 2]),
        (7, 7),
    ],
    ids=["integers", "strings", "dates", "tokens", "objects", "other JSON", "equal ones"],
)
def test_a_cursor_is_any_json(cursors: tuple[object, ...]) -> None:
    scenario = begun(etl(batch_size=50)).run(cut("cut", *cursors))
    for number, cursor in enumerate(cursors, 1):
        assert inputs(scenario, f"load_{number:03d}") == {
            "cursor": cursor,
            "batch_id": f"{number:03d}",
            "batch_count": len(cursors),
            "is_no_op": False,
            "batch_config": {"batch_size": 50},
        }


def test_the_analyser_is_told_its_configuration() -> None:
    scenario = begun(etl(batch_size=50, cursor_field="id"))
    assert inputs(scenario, "cut") == {"batch_config": {"batch_size": 50, "cursor_field": "id"}}
    assert inputs(begun(etl()), "cut") == {"batch_config": {}}


def test_nothing_to_do_is_one_placeholder() -> None:
    scenario = begun(etl()).when(cut("cut", reason="no rows"))
    scenario.then(
        completed("cut"),
        batch_created("cut", "load", cursors=(), is_no_op=True, reason="no rows"),
        enqueued("load_001"),
    )
    assert inputs(scenario, "load_001") == {
        "cursor": None,
        "batch_id": "001",
        "batch_count": 1,
        "is_no_op": True,
        "batch_config": {},
    }
    scenario.when(succeed("load_001")).then(
        completed("load_001"), batch_completed("load", 1), enqueued("merge")
    )


def test_numbers_have_three_digits_at_least() -> None:
    scenario = cut_into(1_001)
    names = scenario.shown()
    assert (names[1], names[999], names[1_000], names[1_001]) == (
        "load_001",
        "load_999",
        "load_1000",
        "load_1001",
    )
    assert inputs(scenario, "load_1001")["batch_id"] == "1001"


def test_what_follows_reads_the_results_of_every_batch() -> None:
    scenario = cut_into(2).run(succeed("load_002", result=2), succeed("load_001", result=1))
    merge = scenario.step("merge")
    dispatch = build_dispatch(scenario.state, "merge", 1, merge.lease_token, "subject")
    assert dispatch is not None
    assert {name: bytes(text) for name, text in dispatch.dependency_results.items()} == {
        "load_001": b"1",
        "load_002": b"2",
        "cut": b"null",
    }
    assert dispatch.dependency_results_complete
    assert dispatch.step_inputs == msgspec.Raw(b"{}")


def test_a_worker_runs_as_its_template_says() -> None:
    plan = compiled(
        analyser(),
        worker(
            handler={"callable": "load_rows", "initialization": {"x": 1}}, timeout_seconds=9.0, queue="slow"
        ),
    )
    scenario = cut_into(1, plan)
    current = scenario.step("load_001")
    dispatch = build_dispatch(scenario.state, "load_001", 1, current.lease_token, "subject")
    assert dispatch is not None
    assert (dispatch.handler, dispatch.timeout_ms, dispatch.step_name) == ("load_rows", 9_000, "load_001")
    assert bytes(dispatch.initialization) == b'{"x":1}'
    scenario.when(start("load_001")).then(started("load_001"))
    scenario.later(14_000).when(wake()).then(retry("load_001", settled_by="timeout"))


# -- several workers, other dependencies ------------------------------------------------------------


def two_workers(**config: Any) -> Plan:
    return compiled(
        analyser(**config), worker("small: cut"), worker("large: cut"), convergence("merge: small large")
    )


def test_the_analyser_chooses_one_of_several_workers() -> None:
    scenario = begun(two_workers()).when(cut("cut", 1, 2, worker_template="large"))
    scenario.then(
        completed("cut"),
        batch_created("cut", "large", created=("merge",), excluded=("small",)),
        enqueued("large_001"),
        enqueued("large_002"),
    )
    assert scenario.shown() == ["cut", "large_001", "large_002", "merge"]
    scenario.run(succeed("large_001")).when(succeed("large_002"))
    scenario.then(completed("large_002"), batch_completed("large", 2), enqueued("merge"))


def test_the_template_may_choose_for_it() -> None:
    scenario = begun(two_workers(worker_template="small")).when(cut("cut", 1))
    scenario.then(completed("cut"), batch_created("cut", "small", excluded=("large",)), enqueued("small_001"))
    other = begun(two_workers(worker_template="small")).when(cut("cut", 1, worker_template="large"))
    other.then(completed("cut"), batch_created("cut", "large"), enqueued("large_001"))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (cut("cut", 1), "no batch worker was named: its batch workers are small, large"),
        (cut("cut", 1, worker_template="merge"), "'merge' is no batch worker of 'cut'"),
        (cut("cut", 1, worker_template="x"), "'x' is no batch worker of 'cut'"),
        (cut("cut", worker_template="cut"), "'cut' is no batch worker of 'cut'"),
    ],
    ids=["none", "a convergence", "nobody", "itself"],
)
def test_a_wrong_worker_fails_the_analyser_and_makes_nothing(told: Told, words: str) -> None:
    scenario = begun(two_workers()).when(told)
    scenario.then(
        failed("cut", error_code="BATCHES_INVALID", failure_reason="permanent"),
        blocked("cut", unreachable_steps_count=3),
    )
    assert words in scenario.last(events.StepFailed).error_message
    assert scenario.shown() == ["cut"]


@pytest.mark.parametrize(
    "told",
    [succeed("cut", result=[1, 2]), choose("cut", "load"), decline("cut")],
    ids=["success", "decision", "no branches"],
)
def test_an_analyser_has_to_report_batches(told: Told) -> None:
    scenario = begun(etl()).when(told)
    scenario.then(failed("cut", error_code="UNEXPECTED_OUTCOME"), blocked("cut"))


def test_batches_from_another_step_are_a_failure_of_it() -> None:
    scenario = cut_into(1).when(cut("load_001", 1))
    scenario.then(failed("load_001", error_code="UNEXPECTED_OUTCOME"), blocked("load_001"))


def test_as_many_batches_as_may_be() -> None:
    scenario = begun(etl()).within(batch_workers_max=2).when(cut("cut", 1, 2))
    scenario.then(completed("cut"), batch_created("cut", "load"), enqueued("load_001"), enqueued("load_002"))
    scenario = begun(etl()).within(batch_workers_max=2).when(cut("cut", 1, 2, 3))
    scenario.then(failed("cut", error_code="BATCHES_EXCEEDED"), blocked("cut"))
    assert "3 batches, 2 at most" in scenario.last(events.StepFailed).error_message


def test_a_worker_waits_for_its_other_dependencies() -> None:
    plan = compiled(analyser(), "schema", worker("load: cut schema"), convergence("merge: load"))
    late = begun(plan).when(cut("cut", 1, 2)).then(completed("cut"), batch_created("cut", "load"))
    assert late.statuses()["load_001"] == "pending"
    late.when(succeed("schema")).then(completed("schema"), enqueued("load_001"), enqueued("load_002"))
    early = begun(plan).run(succeed("schema")).when(cut("cut", 1))
    early.then(completed("cut"), batch_created("cut", "load"), enqueued("load_001"))


def test_a_worker_whose_other_dependency_fails_never_begins() -> None:
    plan = compiled(analyser(), "schema", worker("load: cut schema"), convergence("merge: load"))
    scenario = begun(plan).run(cut("cut", 1, 2)).when(fail_for_good("schema"))
    scenario.then(failed("schema"), blocked("schema", unreachable_steps_count=2))
    assert scenario.step("load_002").status == "pending"


def test_batches_behind_a_decision() -> None:
    plan = compiled(
        step("route", type="decision"),
        analyser("cut: route"),
        worker(),
        "one: route",
        convergence("merge: load one"),
        "last: merge",
    )
    chosen = begun(plan).when(choose("route", "cut"))
    chosen.then(
        completed("route"), routed("route", "cut", created=("cut",), excluded=("one",)), enqueued("cut")
    )
    chosen.when(cut("cut", 1)).then(
        completed("cut"), batch_created("cut", "load", created=("merge", "last")), enqueued("load_001")
    )
    other = begun(plan).when(choose("route", "one"))
    other.then(
        completed("route"),
        routed("route", "one", created=("one", "merge", "last"), excluded=("cut", "load")),
        enqueued("one"),
    )
    other.run(succeed("one"), succeed("merge")).when(succeed("last")).then(
        completed("last"), task_completed()
    )


def test_the_convergence_of_batches_belongs_to_the_branch_that_is_not_taken() -> None:
    plan = compiled(
        step("route", type="decision"),
        analyser("cut: route"),
        worker(),
        convergence("merge: load"),
        "publish: merge",
        "one: route",
        convergence("end: load one"),
        "last: end",
    )
    scenario = begun(plan).when(decline("route"))
    scenario.then(
        completed("route"),
        declined("route", created=("last",), excluded=("cut", "one", "load", "merge", "publish")),
        skipped("end"),
        enqueued("last"),
    )
    scenario.when(succeed("last")).then(completed("last"), task_completed(steps_completed=3))


def test_an_ordinary_step_behind_the_analyser_does_not_wait_for_its_batches() -> None:
    plan = compiled(analyser(), worker(), "log: cut", "after: load")
    scenario = begun(plan)
    assert scenario.shown() == ["cut", "log"]
    scenario.when(cut("cut", 1)).then(
        completed("cut"),
        batch_created("cut", "load", created=("after",)),
        enqueued("load_001"),
        enqueued("log"),
    )
    scenario.run(succeed("log")).when(succeed("load_001"))
    scenario.then(completed("load_001"), batch_completed("load", 1), enqueued("after"))


def test_batches_of_batches() -> None:
    plan = compiled(
        analyser(), worker(), analyser("again: load"), worker("second: again"), convergence("end: second")
    )
    scenario = cut_into(2, plan).run(succeed("load_001")).when(succeed("load_002"))
    scenario.then(completed("load_002"), batch_completed("load", 2), enqueued("again"))
    scenario.when(cut("again", 1)).then(
        completed("again"), batch_created("again", "second", created=("end",)), enqueued("second_001")
    )
    scenario.run(succeed("second_001")).when(succeed("end")).then(completed("end"), task_completed())


# -- how many at once ------------------------------------------------------------------------------


def test_no_more_batches_at_once_than_the_template_says() -> None:
    scenario = begun(etl(parallelism=2)).when(cut("cut", *range(5)))
    scenario.then(completed("cut"), batch_created("cut", "load"), enqueued("load_001"), enqueued("load_002"))
    assert scenario.statuses()["load_003"] == "pending"
    scenario.when(succeed("load_002")).then(completed("load_002"), enqueued("load_003"))
    # One that waits for its next try has not ended: its place is taken.
    scenario.when(fail("load_001")).then(retry("load_001"))
    scenario.when(succeed("load_003")).then(completed("load_003"), enqueued("load_004"))
    scenario.later(1_000).when(wake()).then(enqueued("load_001", 2))
    scenario.when(fail_for_good("load_001")).then(failed("load_001", 2), enqueued("load_005"))
    scenario.when(succeed("load_005")).then(completed("load_005"))
    scenario.when(succeed("load_004")).then(completed("load_004"), blocked("load_001"))


@pytest.mark.parametrize("parallelism", [1, 2, 3, 7, 8])
def test_every_batch_has_its_turn(parallelism: int) -> None:
    scenario = begun(etl(parallelism=parallelism)).run(cut("cut", *range(7)))
    for number in range(1, 8):
        in_flight = [name for name, status in scenario.statuses().items() if status == "enqueued"]
        assert len(in_flight) == min(parallelism, 8 - number)
        scenario.run(succeed(f"load_{number:03d}"))
    assert scenario.step("merge").status == "enqueued"


def test_a_single_file_of_batches_that_all_fail() -> None:
    scenario = cut_into(3, parallelism=1)
    scenario.when(fail_for_good("load_001")).then(failed("load_001"), enqueued("load_002"))
    scenario.when(fail_for_good("load_002")).then(failed("load_002"), enqueued("load_003"))
    scenario.when(fail_for_good("load_003")).then(
        failed("load_003"), blocked("load_001", "load_002", "load_003", unreachable_steps_count=2)
    )


# -- failures ------------------------------------------------------------------------------------


def test_a_batch_is_tried_again_like_any_step() -> None:
    scenario = cut_into(2).when(fail("load_001")).then(retry("load_001"))
    assert scenario.status == "steps_in_process"
    scenario.when(succeed("load_002")).then(completed("load_002"))
    assert scenario.status == "waiting_for_retry"
    scenario.later(1_000).when(wake()).then(enqueued("load_001", 2))
    assert inputs(scenario, "load_001")["cursor"] == 0
    scenario.when(succeed("load_001")).then(
        completed("load_001", 2), batch_completed("load", 2), enqueued("merge")
    )


def test_isolate_lets_the_others_go_on_and_blocks_what_depends_on_them() -> None:
    scenario = cut_into(3, failure_strategy="isolate")
    scenario.when(fail_for_good("load_001")).then(failed("load_001", tolerated=False))
    scenario.when(succeed("load_002")).then(completed("load_002"))
    scenario.when(succeed("load_003")).then(
        completed("load_003"), blocked("load_001", unreachable_steps_count=2)
    )


def test_continue_on_failure_goes_on_with_what_succeeded() -> None:
    scenario = cut_into(3, failure_strategy="continue_on_failure")
    scenario.when(fail_for_good("load_001")).then(failed("load_001", tolerated=True))
    scenario.when(succeed("load_002", result="two")).then(completed("load_002"))
    scenario.when(fail_for_good("load_003")).then(
        failed("load_003", tolerated=True), batch_completed("load", 1, 2), enqueued("merge")
    )
    merge = scenario.step("merge")
    dispatch = build_dispatch(scenario.state, "merge", 1, merge.lease_token, "subject")
    assert dispatch is not None
    assert set(dispatch.dependency_results) == {"load_002", "cut"}
    scenario.run(succeed("merge"))
    scenario.when(succeed("report")).then(completed("report"), task_completed(steps_completed=6))


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_continue_on_failure_needs_one_that_succeeds(order: tuple[int, ...]) -> None:
    scenario = cut_into(3, failure_strategy="continue_on_failure")
    for number in order[:-1]:
        name = f"load_{number:03d}"
        scenario.when(fail_for_good(name)).then(failed(name, tolerated=True))
    last = f"load_{order[-1]:03d}"
    scenario.when(fail_for_good(last)).then(
        failed(last, tolerated=False), blocked(last, unreachable_steps_count=2)
    )


def test_continue_on_failure_of_the_only_batch() -> None:
    scenario = cut_into(1, failure_strategy="continue_on_failure").when(fail_for_good("load_001"))
    scenario.then(failed("load_001", tolerated=False), blocked("load_001"))


def test_fail_fast_cancels_those_that_have_not_begun() -> None:
    scenario = cut_into(4, failure_strategy="fail_fast", parallelism=2)
    scenario.when(fail_for_good("load_001")).then(
        failed("load_001", tolerated=False), batch_stopped("load", "load_001", 2)
    )
    assert [scenario.step(f"load_00{number}").status for number in (2, 3, 4)] == [
        "enqueued",
        "cancelled",
        "cancelled",
    ]
    # The one in flight is awaited.
    scenario.when(succeed("load_002")).then(
        completed("load_002"), blocked("load_001", unreachable_steps_count=2)
    )


def test_fail_fast_cancels_waiting_retries() -> None:
    scenario = cut_into(3, failure_strategy="fail_fast").when(fail("load_001")).then(retry("load_001"))
    scenario.when(fail_for_good("load_002")).then(failed("load_002"), batch_stopped("load", "load_002", 1))
    assert scenario.step("load_001").status == "cancelled"
    assert scenario.state.next_wake_ms() is None
    scenario.later(1_000).when(wake()).then_nothing()
    # A late result of it is recorded; it is the step that has ended, not the task.
    scenario.when(succeed("load_001")).then(refused("load_001", refusal="step_finished"))
    scenario.when(succeed("load_003")).then(completed("load_003"), blocked("load_002"))


def test_a_stopped_batch_is_not_tried_again() -> None:
    scenario = cut_into(2, failure_strategy="fail_fast")
    scenario.when(fail_for_good("load_001")).then(failed("load_001"), batch_stopped("load", "load_001", 0))
    scenario.when(fail("load_002")).then(
        failed("load_002", failure_reason="batch_stopped"), blocked("load_001", "load_002")
    )


def test_fail_fast_with_the_last_batch() -> None:
    scenario = cut_into(2, failure_strategy="fail_fast").run(succeed("load_001"))
    scenario.when(fail_for_good("load_002")).then(
        failed("load_002"), batch_stopped("load", "load_002", 0), blocked("load_002")
    )


def test_a_time_out_and_a_retry_at_the_same_moment() -> None:
    """The order is that of the steps: the retry of the first is out when the second one stops the batch."""
    limits = worker(retry={"max_attempts": 2, "backoff": "none", "jitter": 0.0}, timeout_seconds=1.0)
    plan = compiled(analyser(failure_strategy="fail_fast"), limits)
    scenario = cut_into(3, plan).run(start("load_002"), fail("load_001", retry_after_ms=6_000))
    scenario.run(fail("load_003", retry_after_ms=6_000)).later(6_000)
    scenario.run(lose("load_002"), start("load_002"))
    scenario.later(6_000).when(wake())
    scenario.then(
        enqueued("load_001", 2),
        failed("load_002", 2, settled_by="timeout"),
        batch_stopped("load", "load_002", 1),
    )
    assert scenario.step("load_003").status == "cancelled"
    scenario.when(succeed("load_001")).then(completed("load_001", 2), blocked("load_002"))


def test_two_batches_end_in_one_wake() -> None:
    limits = worker(retry={"max_attempts": 1}, timeout_seconds=1.0)
    plan = compiled(analyser(failure_strategy="continue_on_failure"), limits, convergence("merge: load"))
    scenario = cut_into(2, plan).run(start("load_001"), start("load_002")).later(6_000).when(wake())
    scenario.then(
        failed("load_001", settled_by="timeout", tolerated=True),
        failed("load_002", settled_by="timeout", tolerated=False),
        blocked("load_002"),
    )


def test_the_analyser_fails_and_is_tried_again() -> None:
    scenario = (
        begun(etl()).when(fail("cut")).then(retry("cut")).later(1_000).when(wake()).then(enqueued("cut", 2))
    )
    scenario.when(cut("cut", 1)).then(completed("cut", 2), batch_created("cut", "load"), enqueued("load_001"))
    scenario.when(cut("cut", 1, 2)).then_rejected("DUPLICATE")
    scenario.when(fail("cut", 1)).then_rejected("DUPLICATE")
    scenario.when(cut("cut", 1, attempt=1)).then(
        refused("cut", 1, outcome="batches", refusal="stale_attempt")
    )


def test_the_analyser_fails_for_good() -> None:
    begun(etl()).when(fail_for_good("cut")).then(failed("cut"), blocked("cut", unreachable_steps_count=3))


def test_a_task_is_cancelled_in_the_middle_of_its_batches() -> None:
    scenario = cut_into(4, parallelism=2).run(succeed("load_001"), fail("load_002"))
    scenario.when(cancel()).then(cancelled("load_003"))
    assert [scenario.step(f"load_00{number}").status for number in (1, 2, 3, 4)] == [
        "complete",
        "cancelled",
        "cancelled",
        "cancelled",
    ]
    assert scenario.state.next_wake_ms() is None
    scenario.when(succeed("load_003")).then(refused("load_003", refusal="task_finished"))


def test_the_worker_template_itself_is_no_step() -> None:
    scenario = cut_into(1)
    scenario.when(succeed("load", 0).by(lease_token="")).then_rejected("UNKNOWN_STEP")
    scenario.when(succeed("load_002", 1).by(lease_token="x")).then_rejected("UNKNOWN_STEP")


def test_the_result_of_a_task_that_ends_with_its_batches() -> None:
    plan = compiled(analyser(), worker())
    scenario = cut_into(2, plan).run(succeed("load_001", result=1)).when(succeed("load_002", result=2))
    scenario.then(completed("load_002"), batch_completed("load", 2), task_completed(steps_completed=3))
    assert msgspec.json.decode(task_result(scenario.state)) == {"load_001": 1, "load_002": 2}


# -- very many -----------------------------------------------------------------------------------


def run_batches(count: int, **config: Any) -> Run:
    """A task with so many batches, to its end."""
    run = Run(etl(**config))
    run.begin()
    cursors = tuple(msgspec.Raw(str(number).encode()) for number in range(count))
    run.answer(result.Batches, cursors=cursors)
    run.answer_all()
    return run


@pytest.mark.parametrize("config", [{}, {"parallelism": 16}], ids=["all at once", "16 at once"])
def test_ten_thousand_batches(config: dict[str, Any]) -> None:
    run = run_batches(10_000, **config)
    check_state(run.state)
    assert run.state.status == "complete"
    assert run.state.done_count == run.state.existing_count == 10_003
    # The task's two, the batch's two, and two events for each step.
    assert run.state.version == 4 + 2 * 10_003
    assert task_response(run.state).total_steps == 10_003


@pytest.mark.parametrize("config", [{}, {"parallelism": 8}], ids=["all at once", "8 at once"])
def test_the_work_for_one_more_batch_is_always_the_same(config: dict[str, Any]) -> None:
    def work(count: int) -> int:
        return lines_run(lambda: run_batches(count, **config))

    first, second, third = work(100), work(400), work(700)
    assert third - second < 1.05 * (second - first)


@pytest.mark.parametrize("strategy", ["isolate", "continue_on_failure"])
def test_the_work_for_one_more_failure_is_always_the_same(strategy: str) -> None:
    def run_failing(count: int) -> None:
        run = Run(etl(failure_strategy=strategy))
        run.begin()
        run.answer(result.Batches, cursors=(msgspec.Raw(b"0"),) * count)
        while run.given_out:
            run.answer(result.Failure, error_message="boom", retryable=False)
        assert run.state.status == "blocked_by_failures"

    def work(count: int) -> int:
        return lines_run(lambda: run_failing(count))

    first, second, third = work(100), work(400), work(700)
    assert third - second < 1.05 * (second - first)


def test_the_events_of_many_batches_are_small() -> None:
    """No event but the one that makes the batches names them all."""
    run = Run(etl())
    run.begin()
    run.answer(result.Batches, cursors=(msgspec.Raw(b"0"),) * 2_000)
    sizes = []
    while run.given_out:
        run.answer(result.Success)
        sizes.append(sys.getsizeof(codec.encode(run.last)))
    assert max(sizes) < 2_000
