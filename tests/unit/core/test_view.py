"""A task as callers see it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core import view
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas.api import StepSummary, TaskResponse
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.events import ParentLink
from stepweave_schemas.identity import derived_uuid, step_uuid

from .scenario import (
    CORRELATION_ID,
    T0_MS,
    TASK_ID,
    Scenario,
    awaited,
    begun,
    blocked,
    cancel,
    cancelled,
    child_requested,
    choose,
    completed,
    create,
    created,
    cut,
    decline,
    enqueued,
    entered,
    fail,
    fail_for_good,
    failed,
    given,
    lose,
    retry,
    save,
    send,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    wake,
)
from .templates import EVERY_SECOND, compiled, diamond, one_step, step


def seen(scenario: Scenario, **options: Any) -> TaskResponse:
    """The answer, after its way through JSON."""
    return msgspec.json.decode(
        msgspec.json.encode(task_response(scenario.state, **options)), type=TaskResponse
    )


def summary(scenario: Scenario, name: str) -> StepSummary:
    return next(each for each in seen(scenario).steps if each.name == name)


def signs(scenario: Scenario) -> tuple[str, str, str | None, str]:
    """Status, execution status, recommended action and health."""
    task = seen(scenario)
    return task.status, task.execution_status, task.recommended_action, task.health_status


def counts(scenario: Scenario) -> dict[str, int]:
    task = seen(scenario)
    return {
        name: count
        for name in ("pending", "in_progress", "completed", "failed", "ready", "total")
        if (count := getattr(task, f"{name}_steps"))
    }


def test_a_new_task() -> None:
    scenario = begun(diamond())
    task = seen(scenario)
    assert (task.task_uuid, task.name, task.namespace, task.version) == (
        TASK_ID,
        "scenario",
        "tests",
        "1.0.0",
    )
    assert (task.correlation_id, task.parent_correlation_id) == (CORRELATION_ID, None)
    assert (task.created_at, task.updated_at, task.completed_at) == (timestamp(T0_MS), timestamp(T0_MS), None)
    assert bytes(task.context) == b'{"order":7}'
    assert task.stream_version == 2
    assert task.completion_percentage == 0
    assert counts(scenario) == {"pending": 3, "in_progress": 1, "ready": 1, "total": 4}
    assert signs(scenario) == ("steps_in_process", "has_ready_steps", "execute_ready_steps", "healthy")


def test_the_request_is_shown() -> None:
    plan = one_step()
    request: dict[str, Any] = {
        "initiator": "ada",
        "source_system": "shop",
        "reason": "order",
        "tags": ("x",),
        "priority": 9,
        "parent_correlation_id": "parent",
    }
    scenario = given(plan).when(create(plan, **request)).then(created(), enqueued("a"))
    task = seen(scenario)
    assert {name: getattr(task, name) for name in request} == request


def test_a_running_task() -> None:
    scenario = begun(diamond()).later(10).when(start("a", worker_id="w-9", started_at_ms=T0_MS + 4))
    scenario.then(started("a"))
    assert signs(scenario) == ("steps_in_process", "processing", "wait_for_completion", "healthy")
    assert counts(scenario) == {"pending": 3, "in_progress": 1, "total": 4}
    assert summary(scenario, "a") == StepSummary(
        workflow_step_uuid=step_uuid(TASK_ID, "a"),
        task_uuid=TASK_ID,
        named_step_uuid=derived_uuid("named_step", "tests", "scenario", "a"),
        name="a",
        current_state="in_progress",
        dependencies_satisfied=True,
        retry_eligible=False,
        ready_for_execution=False,
        last_failure_at=None,
        next_retry_at=None,
        total_parents=0,
        completed_parents=0,
        attempts=1,
        max_attempts=3,
        backoff_request_seconds=None,
        last_attempted_at=timestamp(T0_MS + 4),
        worker_id="w-9",
    )
    scenario.when(succeed("a")).then(completed("a"), enqueued("b"), enqueued("c"))
    scenario.when(succeed("b")).then(completed("b"))
    d = summary(scenario, "d")
    assert (d.total_parents, d.completed_parents, d.dependencies_satisfied) == (2, 1, False)
    assert (d.current_state, d.attempts, d.last_attempted_at) == ("pending", 0, None)
    assert summary(scenario, "c").ready_for_execution
    assert seen(scenario).completion_percentage == 50
    assert seen(scenario).updated_at == timestamp(T0_MS + 10)


def test_a_task_that_waits_for_a_retry() -> None:
    scenario = begun(compiled("a", "b: a")).later(20).when(fail("a", error_code="E1", retry_after_ms=1_500))
    scenario.then(retry("a"))
    assert signs(scenario) == (
        "waiting_for_retry",
        "waiting_for_dependencies",
        "wait_for_dependencies",
        "recovering",
    )
    assert counts(scenario) == {"pending": 1, "total": 2}
    a = summary(scenario, "a")
    assert (a.current_state, a.retry_eligible, a.ready_for_execution) == ("waiting_for_retry", True, False)
    assert (a.last_failure_at, a.next_retry_at) == (timestamp(T0_MS + 20), timestamp(T0_MS + 1_520))
    assert (a.backoff_request_seconds, a.attempts) == (1.5, 1)
    assert (a.error_type, a.error_code, a.error_message) == ("handler_error", "E1", "boom")

    scenario.later(1_500).when(wake()).then(enqueued("a", 2))
    assert signs(scenario) == ("steps_in_process", "has_ready_steps", "execute_ready_steps", "recovering")
    a = summary(scenario, "a")
    assert (a.retry_eligible, a.next_retry_at, a.attempts) == (False, None, 2)
    assert a.last_attempted_at == timestamp(scenario.now_ms)
    scenario.when(succeed("a")).then(completed("a", 2), enqueued("b"))
    assert seen(scenario).health_status == "healthy"
    assert summary(scenario, "a").last_failure_at == timestamp(T0_MS + 20)


def test_a_step_whose_worker_was_lost_is_recovering() -> None:
    scenario = begun(one_step()).when(start("a")).then(started("a")).later(30_000)
    scenario.when(lose("a")).then(retry("a"), enqueued("a", 2))
    assert seen(scenario).health_status == "recovering"
    # The start and the worker were those of the try before.
    a = summary(scenario, "a")
    assert (a.worker_id, a.last_attempted_at) == (None, timestamp(T0_MS + 30_000))
    scenario.later(5).when(succeed("a", worker_id="w-2", started_at_ms=T0_MS + 30_002)).then(
        completed("a", 2), task_completed()
    )
    a = summary(scenario, "a")
    assert (a.worker_id, a.last_attempted_at) == ("w-2", timestamp(T0_MS + 30_002))


def test_a_time_out_to_come_is_no_retry_to_come() -> None:
    scenario = begun(one_step(timeout_seconds=5)).when(start("a")).then(started("a"))
    assert summary(scenario, "a").next_retry_at is None


def test_a_finished_task() -> None:
    scenario = begun(one_step()).later(33).when(succeed("a")).then(completed("a"), task_completed())
    task = seen(scenario)
    assert signs(scenario) == ("complete", "all_complete", None, "healthy")
    assert (task.completed_at, task.completion_percentage) == (timestamp(T0_MS + 33), 100)
    assert counts(scenario) == {"completed": 1, "total": 1}


def test_a_blocked_task() -> None:
    scenario = begun(diamond()).when(fail_for_good("a")).then(failed("a"), blocked("a"))
    assert signs(scenario) == ("blocked_by_failures", "blocked_by_failures", "handle_failures", "blocked")
    assert counts(scenario) == {"pending": 3, "failed": 1, "total": 4}
    assert seen(scenario).completed_at is None
    a = summary(scenario, "a")
    assert (a.retry_eligible, a.next_retry_at, a.last_failure_at) == (False, None, timestamp(T0_MS))


def test_a_failed_task() -> None:
    scenario = begun(one_step(on_failure="fail")).when(fail_for_good("a")).then(failed("a"), task_failed("a"))
    assert signs(scenario) == ("error", "blocked_by_failures", None, "blocked")
    assert seen(scenario).completed_at == timestamp(T0_MS)


def test_a_task_with_a_failure_that_still_runs() -> None:
    scenario = begun(compiled("a", "b")).when(fail_for_good("a")).then(failed("a"))
    assert signs(scenario)[:3] == ("steps_in_process", "has_ready_steps", "execute_ready_steps")
    scenario.when(start("b")).then(started("b"))
    assert signs(scenario)[:3] == ("steps_in_process", "processing", "wait_for_completion")


def test_a_cancelled_task() -> None:
    scenario = begun(diamond()).when(cancel()).then(cancelled("a"))
    assert signs(scenario) == ("cancelled", "all_complete", None, "unknown")
    assert counts(scenario) == {"total": 4}
    assert {each.current_state for each in seen(scenario).steps} == {"cancelled"}
    assert seen(scenario).completed_at == timestamp(T0_MS)


def test_a_task_whose_start_is_delayed() -> None:
    plan = diamond()
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 100)).then(created())
    assert signs(scenario) == ("pending", "waiting_for_dependencies", "wait_for_dependencies", "healthy")
    assert counts(scenario) == {"pending": 4, "total": 4}


def test_the_percentage_has_two_places() -> None:
    scenario = begun(compiled("a", "b: a", "c: b")).when(succeed("a")).then(completed("a"), enqueued("b"))
    assert seen(scenario).completion_percentage == 33.33


def test_a_task_without_its_steps() -> None:
    task = seen(begun(diamond()), with_steps=False)
    assert task.steps == ()
    assert task.steps_truncated
    assert task.total_steps == 4


@pytest.mark.parametrize(("most", "truncated"), [(3, True), (4, False), (5, False)])
def test_no_more_steps_than_fit_are_shown(
    most: int, truncated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "STEPS_IN_RESPONSE_MAX", most)
    task = seen(begun(diamond()))
    assert [each.name for each in task.steps] == ["a", "b", "c", "d"][:most]
    assert (task.steps_truncated, task.total_steps) == (truncated, 4)


# -- workflows that shape themselves ---------------------------------------------------------------


def names(scenario: Scenario) -> list[str]:
    return [each.name for each in seen(scenario).steps]


def test_only_steps_that_exist_are_shown_and_counted() -> None:
    plan = compiled(
        step("route", type="decision"),
        "a: route",
        "b: route",
        step("join: a b", type="deferred_convergence"),
        "last: join",
    )
    scenario = begun(plan)
    assert names(scenario) == ["route"]
    assert counts(scenario) == {"in_progress": 1, "ready": 1, "total": 1}
    assert seen(scenario).completion_percentage == 0
    scenario.run(choose("route", "a"))
    assert names(scenario) == ["route", "a", "join", "last"]
    assert seen(scenario).completion_percentage == 25
    join = summary(scenario, "join")
    assert (join.total_parents, join.completed_parents, join.dependencies_satisfied) == (1, 0, False)
    scenario.run(succeed("a"))
    join = summary(scenario, "join")
    assert (join.total_parents, join.completed_parents, join.dependencies_satisfied) == (1, 1, True)
    assert summary(scenario, "a").total_parents == 1


def test_a_skipped_step_is_done() -> None:
    plan = compiled(
        step("route", type="decision"), "a: route", step("join: a", type="deferred_convergence"), "last: join"
    )
    scenario = begun(plan).run(decline("route"))
    assert names(scenario) == ["route", "join", "last"]
    assert summary(scenario, "join").current_state == "skipped"
    assert counts(scenario) == {"completed": 2, "in_progress": 1, "ready": 1, "total": 3}
    assert seen(scenario).completion_percentage == 66.67


def batches(count: int, **config: Any) -> Scenario:
    plan = compiled(
        "log",
        step("cut", type="batchable", batch_config=config),
        step("load: cut", type="batch_worker", retry=EVERY_SECOND),
        step("merge: load", type="deferred_convergence"),
    )
    return begun(plan).run(cut("cut", *range(count)))


def test_batches_stand_where_their_template_does() -> None:
    scenario = batches(3, parallelism=2)
    assert names(scenario) == ["log", "cut", "load_001", "load_002", "load_003", "merge"]
    assert counts(scenario) == {"pending": 2, "in_progress": 3, "completed": 1, "ready": 3, "total": 6}
    load = summary(scenario, "load_003")
    assert (load.current_state, load.max_attempts, load.total_parents, load.completed_parents) == (
        "pending",
        3,
        1,
        1,
    )
    assert load.workflow_step_uuid == step_uuid(TASK_ID, "load_003")
    assert summary(scenario, "merge").completed_parents == 0


def test_a_failure_that_is_put_up_with() -> None:
    scenario = batches(2, failure_strategy="continue_on_failure").run(
        succeed("log"), fail_for_good("load_001")
    )
    assert signs(scenario)[0] == "steps_in_process"
    assert seen(scenario).failed_steps == 1
    scenario.run(succeed("load_002"))
    scenario.run(succeed("merge"))
    assert signs(scenario) == ("complete", "all_complete", None, "healthy")
    assert seen(scenario).completion_percentage == 100


def test_very_many_batches_do_not_make_a_large_answer() -> None:
    scenario = batches(0)
    decided = batches(1_500)
    assert names(scenario) == ["log", "cut", "load_001", "merge"]
    task = seen(decided)
    assert (task.total_steps, len(task.steps), task.steps_truncated) == (1_503, 1_000, True)


def test_a_failed_batch_is_shown_however_many_there_are() -> None:
    scenario = batches(1_500).run(fail_for_good("load_1400"))
    shown = [each.name for each in seen(scenario).steps]
    assert len(shown) == 1_000 and shown[-1] == "load_1400"
    assert summary(scenario, "load_1400").current_state == "error"


def test_a_step_with_a_checkpoint() -> None:
    scenario = begun(one_step())
    assert summary(scenario, "a").items_processed is None
    scenario.run(save("a", 1, items_processed=40))
    assert summary(scenario, "a").items_processed == 40
    assert summary(scenario, "a").attempts == 1


def test_a_step_that_waits_for_a_signal() -> None:
    plan = compiled(
        step(
            "wait",
            handler={"callable": "stepweave:signal"},
            wait_for_signal={"name": "go", "timeout_seconds": 60.0},
        ),
        step("more: wait", handler={"callable": "stepweave:signal"}, wait_for_signal={"name": "more"}),
    )
    scenario = entered(plan, awaited("wait", "go"))
    assert signs(scenario) == (
        "waiting_for_dependencies",
        "waiting_for_dependencies",
        "wait_for_dependencies",
        "healthy",
    )
    wait = summary(scenario, "wait")
    assert (wait.current_state, wait.waiting_for_signal, wait.attempts) == ("waiting_for_signal", "go", 1)
    assert wait.next_retry_at is None
    assert counts(scenario) == {"pending": 1, "in_progress": 1, "total": 2}
    scenario.run(send("more"))
    assert seen(scenario).signals_kept == ("more",)
    scenario.run(send("go", 1, "two"))
    assert summary(scenario, "wait").waiting_for_signal is None
    assert seen(scenario).signals_kept == ()


def test_a_step_that_waits_for_a_child() -> None:
    plan = compiled(step("a", handler={"callable": "stepweave:child_task"}, child_task={"name": "other"}))
    scenario = entered(plan, child_requested("a"))
    child = summary(scenario, "a")
    assert child.current_state == "in_progress"
    assert child.child_task_uuid == derived_uuid("child", step_uuid(TASK_ID, "a"), "1")
    assert signs(scenario)[0] == "waiting_for_dependencies"
    assert counts(scenario) == {"in_progress": 1, "total": 1}


def test_a_child_shows_its_parent() -> None:
    link = ParentLink(
        task_id="parent", step_name="s", step_uuid="u", attempt=1, lease_token="t", result_subject="r"
    )
    task = seen(entered(one_step(), enqueued("a"), parent=link, depth=2))
    assert (task.parent_task_uuid, task.depth) == ("parent", 2)
    own = seen(begun(one_step()))
    assert (own.parent_task_uuid, own.depth) == (None, 0)


def test_a_task_that_is_undone() -> None:
    undoable = {"compensation": {"handler": {"callable": "undo"}}}
    plan = compiled(step("a", **undoable), step("b: a", **undoable), "c: b", "d: c")
    scenario = begun(plan).run(succeed("a"), succeed("b"), fail_for_good("c"))
    task = seen(scenario)
    assert (task.status, task.compensation_status) == ("compensating", "running")
    assert (task.execution_status, task.recommended_action) == ("processing", "wait_for_completion")
    assert names(scenario) == ["a", "b", "c", "d"], "compensations are no steps of the workflow"
    assert [each.current_state for each in task.steps] == ["complete", "compensating", "error", "pending"]
    assert counts(scenario) == {"pending": 1, "completed": 2, "failed": 1, "total": 4}
    scenario.run(fail_for_good("compensate:b"))
    b = summary(scenario, "b")
    assert (b.requires_manual_cleanup, b.compensation_attempts) == (True, 1)
    assert b.compensation_error_message == "boom"
    assert summary(scenario, "a").compensation_error_message is None
    assert summary(scenario, "c").compensation_attempts is None
    scenario.run(succeed("compensate:a"))
    task = seen(scenario)
    assert (task.status, task.compensation_status, task.health_status) == ("error", "partial", "blocked")
    assert [each.current_state for each in task.steps] == ["compensated", "complete", "error", "pending"]
    assert [each.requires_manual_cleanup for each in task.steps] == [False, True, False, False]


def test_a_handler_that_is_called_like_a_step() -> None:
    scenario = begun(compiled("a", "b: a")).run(succeed("a"), fail_for_good("b", compensation_steps=["a"]))
    scenario.run(fail_for_good("compensate:a"))
    assert summary(scenario, "a").compensation_attempts is None, "it is b that named it"
    assert not summary(scenario, "a").requires_manual_cleanup
    assert summary(scenario, "b").requires_manual_cleanup
