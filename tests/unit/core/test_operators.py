"""What operators do with a task: pause, resume, retry, give up, resolve; refusals, repetitions."""

from __future__ import annotations

import pytest

from stepweave_orchestrator.core.children import ended
from stepweave_orchestrator.core.operator_commands import (
    GiveUpTask,
    PauseTask,
    ResetStep,
    ResolveStep,
    ResolveTask,
    ResumeTask,
    RetryTask,
    SkipStep,
    TaskAction,
)
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas import events, result

from .scenario import (
    T0_MS,
    awaited,
    begun,
    blocked,
    cancel,
    cancelled,
    checkpointed,
    child_cancel_requested,
    child_requested,
    complete,
    completed,
    completed_by_hand,
    create,
    created,
    enqueued,
    entered,
    fail,
    fail_for_good,
    failed,
    given,
    given_up,
    paused,
    received,
    refused,
    release,
    released,
    reset,
    resolved,
    resumed,
    retry,
    save,
    send,
    skipped,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    task_resolved,
    task_started,
    wake,
    wish,
)
from .templates import AT_ONCE, EVERY_SECOND, checked, compiled, diamond, one_step, step

pause = wish(PauseTask)
resume = wish(ResumeTask)
TASK_ACTIONS = (PauseTask, ResumeTask, RetryTask, GiveUpTask, ResolveTask)


# -- pausing -------------------------------------------------------------------------------------


def test_while_a_task_is_paused_what_runs_ends_and_nothing_begins() -> None:
    scenario = begun(diamond()).when(pause).then(paused(reason="why not", paused_by="ada"))
    assert scenario.status == "paused"
    scenario.when(start("a")).then(started("a")).when(succeed("a")).then(completed("a"))
    assert scenario.statuses() == {"a": "complete", "b": "pending", "c": "pending", "d": "pending"}
    scenario.when(wake()).then_nothing()
    scenario.when(resume).then(resumed(resumed_by="ada"), enqueued("b"), enqueued("c"))
    scenario.run(succeed("b"), succeed("c"), succeed("d"))
    assert scenario.status == "complete"


def test_a_retry_that_comes_due_waits_until_the_task_is_resumed() -> None:
    scenario = begun(one_step()).when(fail("a")).then(retry("a")).when(pause).then(paused())
    assert scenario.state.next_wake_ms() is None
    assert scenario.step("a").due_at_ms == T0_MS + 1_000
    scenario.later(5_000).when(wake()).then_nothing().when(resume).then(resumed(), enqueued("a", 2))


def test_a_retry_that_is_not_due_yet_when_the_task_is_resumed() -> None:
    scenario = begun(one_step()).when(pause).then(paused()).when(fail("a")).then(retry("a"))
    assert scenario.state.next_wake_ms() is None
    scenario.later(400).when(resume).then(resumed())
    assert scenario.state.next_wake_ms() == T0_MS + 1_000
    scenario.later(600).when(wake()).then(enqueued("a", 2))


def test_a_retry_at_once_is_held_too() -> None:
    scenario = begun(one_step(retry=AT_ONCE)).when(pause).then(paused()).when(fail("a")).then(retry("a"))
    scenario.when(resume).then(resumed(), enqueued("a", 2))


def test_the_time_of_a_running_try_goes_on() -> None:
    scenario = begun(one_step(timeout_seconds=1.0)).run(start("a")).when(pause).then(paused())
    assert scenario.state.next_wake_ms() == T0_MS + 6_000
    scenario.later(6_000).when(wake()).then(retry("a", error_type="timeout"))
    assert scenario.state.next_wake_ms() is None


def test_a_try_that_is_handed_back_is_held_and_costs_no_attempt() -> None:
    scenario = begun(one_step()).when(pause).then(paused()).when(release("a")).then(released("a"))
    assert scenario.statuses() == {"a": "pending"}
    scenario.when(succeed("a")).then_rejected("STALE")
    scenario.when(release("a")).then_rejected("STALE")
    scenario.when(resume).then(resumed(), enqueued("a", 1))
    scenario.when(succeed("a", given_out=0)).then_rejected("STALE")
    scenario.when(succeed("a")).then(completed("a"), task_completed())


def test_a_step_that_saves_its_progress_is_held_there() -> None:
    scenario = begun(one_step()).when(pause).then(paused()).when(save("a", 7)).then(checkpointed("a"))
    assert scenario.statuses() == {"a": "pending"}
    scenario.when(resume).then(resumed(), enqueued("a", 1))
    assert scenario.step("a").checkpoint is not None


def test_a_delayed_start_passes_while_the_task_is_paused() -> None:
    plan = diamond()
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 100)).then(created())
    scenario.when(pause).then(paused())
    assert scenario.state.next_wake_ms() is None
    scenario.later(200).when(wake()).then_nothing()
    scenario.when(resume).then(resumed(), task_started(start_at_ms=T0_MS + 100), enqueued("a"))


def test_resumed_before_its_start_a_task_still_waits_for_it() -> None:
    plan = diamond()
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 100)).then(created())
    scenario.when(pause).then(paused()).when(resume).then(resumed())
    assert scenario.status == "pending"
    scenario.later(100).when(wake()).then(task_started(), enqueued("a"))


def test_a_signal_is_taken_while_the_task_is_paused_and_what_follows_waits() -> None:
    ask = step("ask", handler={"callable": "stepweave:signal"}, wait_for_signal={"name": "go"})
    scenario = entered(compiled(ask, "next: ask"), awaited("ask", "go")).when(pause).then(paused())
    scenario.when(send("go")).then(received("go"), completed("ask"))
    scenario.when(resume).then(resumed(), enqueued("next"))


def test_failures_of_a_paused_task_block_it_when_it_is_resumed() -> None:
    scenario = begun(diamond()).when(pause).then(paused()).when(fail_for_good("a")).then(failed("a"))
    assert scenario.status == "paused"
    shown = task_response(scenario.state)
    assert (shown.execution_status, shown.recommended_action) == ("blocked_by_failures", "handle_failures")
    assert shown.health_status == "blocked"
    scenario.when(resume).then(resumed(), blocked("a"))


def test_a_paused_task_whose_last_step_ends_is_complete() -> None:
    begun(one_step()).when(pause).then(paused()).when(succeed("a")).then(completed("a"), task_completed())


def test_pausing_twice_is_like_pausing_once() -> None:
    begun(one_step()).when(pause).then(paused()).when(pause).then_nothing()


def test_a_paused_task_can_be_cancelled_and_a_held_try_with_it() -> None:
    scenario = begun(compiled("a", "b")).when(pause).then(paused()).run(release("a"))
    scenario.when(cancel()).then(cancelled("b"))
    scenario.when(succeed("b")).then(refused("b", refusal="task_finished"))
    assert scenario.statuses() == {"a": "cancelled", "b": "cancelled"}


def test_a_blocked_task_can_be_paused_mended_and_resumed() -> None:
    scenario = begun(compiled("a", "b")).run(fail_for_good("a"), fail_for_good("b"))
    scenario.when(pause).then(paused())
    scenario.when(wish(ResetStep, "a")).then(reset("a"))
    assert scenario.statuses() == {"a": "pending", "b": "error"}
    scenario.when(resume).then(resumed(), enqueued("a", 2)).when(succeed("a")).then(
        completed("a", 2), blocked("b")
    )


# -- retrying, giving up, resolving ------------------------------------------------------------------


def test_all_failed_steps_are_tried_again() -> None:
    scenario = begun(compiled("a", "b", "c: a b")).run(fail_for_good("a"), fail_for_good("b"))
    scenario.when(wish(RetryTask)).then(
        reset("a", reset_by="ada"), reset("b"), enqueued("a", 2), enqueued("b", 2)
    )
    assert scenario.status == "steps_in_process"
    scenario.run(succeed("a"), succeed("b"), succeed("c"))
    assert scenario.status == "complete"


def test_a_reset_step_has_all_its_tries_anew_and_its_numbers_go_on() -> None:
    plan = one_step(retry={**AT_ONCE, "max_attempts": 2})
    scenario = begun(plan).run(fail("a"), fail("a"))
    assert scenario.status == "blocked_by_failures"
    scenario.when(wish(RetryTask)).then(reset("a", 2), enqueued("a", 3))
    shown = task_response(scenario.state).steps[0]
    assert (shown.attempts, shown.max_attempts) == (3, 4)
    scenario.when(succeed("a", 2)).then(refused("a", 2, refusal="stale_attempt"))
    scenario.when(fail("a")).then(retry("a", 3), enqueued("a", 4))
    scenario.when(fail("a")).then(failed("a", 4, failure_reason="attempts_exhausted"), blocked("a"))


def test_delays_start_small_again() -> None:
    plan = one_step(retry={**EVERY_SECOND, "backoff": "exponential", "max_attempts": 2})
    scenario = begun(plan).run(fail("a")).later(1_000).run(wake(), fail("a"))
    scenario.when(wish(RetryTask)).then(reset("a", 2), enqueued("a", 3))
    scenario.when(fail("a")).then(retry("a", 3, delay_ms=1_000))


def test_a_retry_goes_on_from_the_last_checkpoint() -> None:
    scenario = begun(one_step()).run(save("a", 7, items_processed=70), fail_for_good("a"))
    scenario.run(wish(RetryTask))
    progress = scenario.step("a").checkpoint
    assert progress is not None
    assert (progress.cursor, progress.items_processed) == ("7", 70)


def test_retrying_beside_steps_that_run() -> None:
    scenario = begun(compiled("a", "b")).when(fail_for_good("a")).then(failed("a"))
    scenario.when(wish(RetryTask)).then(reset("a"), enqueued("a", 2))


def test_a_blocked_task_is_given_up() -> None:
    scenario = begun(diamond()).run(fail_for_good("a", error_code="E1"))
    scenario.when(wish(GiveUpTask)).then(
        given_up(given_up_by="ada"), task_failed("a", error_message="boom", error_code="E1")
    )
    assert scenario.status == "error"


def test_a_task_is_resolved_whatever_runs() -> None:
    child = step("child", handler={"callable": "stepweave:child_task"}, child_task={"name": "other"})
    plan = compiled("a", child, "later: a")
    scenario = entered(plan, enqueued("a"), child_requested("child"))
    scenario.when(wish(ResolveTask)).then(
        child_cancel_requested("child", reason="why not"), task_resolved("a", resolved_by="ada")
    )
    assert scenario.status == "resolved_manually"
    assert set(scenario.statuses().values()) == {"cancelled"}
    assert scenario.step("a").settled_by == "operator"
    scenario.when(succeed("a")).then(refused("a", refusal="task_finished"))
    shown = task_response(scenario.state)
    assert (shown.execution_status, shown.recommended_action) == ("all_complete", None)


def test_for_its_parent_a_resolved_child_is_done() -> None:
    link = events.ParentLink(
        task_id="parent", step_name="p", step_uuid="u", attempt=1, lease_token="t", result_subject="s"
    )
    plan = compiled("a", "b")
    scenario = entered(plan, enqueued("a"), enqueued("b"), parent=link).run(succeed("a", result={"n": 1}))
    scenario.run(wish(ResolveTask))
    said = ended(scenario.state)
    assert isinstance(said, result.Success)
    assert bytes(said.result) == b'{"n":1}'


# -- refusals and repetitions ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASK_ACTIONS)
def test_nothing_is_asked_of_a_task_that_does_not_exist(kind: type[TaskAction]) -> None:
    given(one_step()).when(wish(kind)).then_rejected("NOT_FOUND")


@pytest.mark.parametrize("kind", TASK_ACTIONS)
def test_nothing_is_asked_of_a_task_that_has_ended(kind: type[TaskAction]) -> None:
    scenario = begun(one_step(on_failure="fail")).run(fail_for_good("a"))
    scenario.when(wish(kind)).then_refused("ended already: error; to use what it has done, fork it", "error")


def test_what_a_running_task_allows() -> None:
    scenario = begun(one_step())
    allowed = ("pause", "resolve_manually", "cancel")
    scenario.when(resume).then_refused("not paused", "steps_in_process", *allowed)
    scenario.when(wish(RetryTask)).then_refused("no step", "steps_in_process", *allowed)
    scenario.when(wish(GiveUpTask)).then_refused("only a task that is", "steps_in_process", *allowed)


def test_what_a_blocked_task_allows() -> None:
    scenario = begun(one_step()).run(fail_for_good("a"))
    allowed = ("retry", "pause", "give_up", "resolve_manually", "cancel")
    scenario.when(resume).then_refused("not paused", "blocked_by_failures", *allowed)


def test_what_a_task_that_is_being_undone_allows() -> None:
    plan = compiled(step("a", compensation={"handler": {"callable": "undo"}}), "b: a")
    scenario = begun(plan).run(succeed("a"), fail_for_good("b"))
    assert scenario.status == "compensating"
    for each in (pause, wish(ResolveTask), cancel()):
        scenario.when(each).then_refused("being undone", "compensating")
    scenario.when(wish(ResolveStep, "b")).then_refused("being undone", "error")


def test_a_request_that_comes_again_changes_nothing() -> None:
    scenario = begun(one_step()).run(fail_for_good("a"))
    again = wish(RetryTask, request_id="r1")
    scenario.when(again).then(reset("a", request_id="r1"), enqueued("a", 2)).when(again).then_nothing()
    give_up = wish(GiveUpTask, request_id="r2")
    scenario.run(fail_for_good("a"), give_up)
    scenario.when(give_up).then_nothing().when(again).then_nothing()


def test_only_so_many_requests_are_remembered() -> None:
    scenario = begun(one_step())
    for number in range(60):
        scenario.run(wish(PauseTask, request_id=f"p{number}"), wish(ResumeTask, request_id=f"r{number}"))
    assert len(scenario.state.operator_requests) == 100
    assert scenario.state.operator_requests[-1] == "r59"


# -- steps ---------------------------------------------------------------------------------------


def test_a_failed_step_that_is_resolved_lets_the_task_go_on() -> None:
    scenario = begun(diamond()).run(fail_for_good("a"))
    scenario.when(wish(ResolveStep, "a")).then(
        resolved("a", reason="why not", resolved_by="ada"), enqueued("b"), enqueued("c")
    )
    assert scenario.statuses()["a"] == "resolved_manually"
    scenario.run(succeed("b"), succeed("c"), succeed("d"))
    assert scenario.status == "complete"
    assert task_response(scenario.state).completed_steps == 4


def test_what_is_still_blocked_says_so_again() -> None:
    scenario = begun(compiled("a", "b")).run(fail_for_good("a"), fail_for_good("b"))
    scenario.when(wish(ResolveStep, "a")).then(resolved("a"), blocked("b"))


def test_a_step_that_runs_is_completed_and_its_worker_comes_too_late() -> None:
    scenario = begun(diamond()).run(start("a"))
    scenario.when(complete("a", {"by": "hand"})).then(
        completed_by_hand("a", result={"by": "hand"}, completed_by="ada"), enqueued("b"), enqueued("c")
    )
    assert scenario.step("a").settled_by == "operator"
    scenario.when(succeed("a")).then(refused("a", refusal="step_finished"))
    scenario.when(succeed("a")).then_rejected("STALE")


def test_a_result_by_hand_has_to_fit_the_step_s_schema() -> None:
    schema = {"type": "object", "required": ["amount"]}
    scenario = begun(checked(step("pay", result_schema=schema), "ship: pay")).run(fail_for_good("pay"))
    scenario.when(complete("pay", {"paid": True})).then_rejected("CONFLICT")
    assert scenario.status == "blocked_by_failures"
    scenario.when(complete("pay", {"amount": 7})).then(completed_by_hand("pay"), enqueued("ship"))


def test_a_step_that_has_not_begun_is_done_before_its_dependencies() -> None:
    scenario = begun(diamond()).when(wish(ResolveStep, "b")).then(resolved("b", 0))
    scenario.when(succeed("a")).then(completed("a"), enqueued("c"))
    scenario.when(succeed("c")).then(completed("c"), enqueued("d"))
    scenario.when(succeed("d")).then(completed("d"), task_completed(steps_completed=4))


def test_steps_settled_before_a_delayed_start_do_not_begin_with_it() -> None:
    plan = diamond()
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 100)).then(created())
    scenario.when(wish(ResolveStep, "a")).then(resolved("a", 0))
    scenario.later(100).when(wake()).then(task_started(), enqueued("b"), enqueued("c"))


def test_a_step_that_waits_for_its_retry_is_tried_at_once() -> None:
    scenario = begun(one_step()).run(fail("a"))
    scenario.when(wish(ResetStep, "a")).then(reset("a"), enqueued("a", 2))
    assert scenario.state.next_wake_ms() is None


def test_a_step_that_waits_for_a_signal_is_completed_without_it() -> None:
    ask = step("ask", handler={"callable": "stepweave:signal"}, wait_for_signal={"name": "go"})
    scenario = entered(compiled(ask, "next: ask"), awaited("ask", "go"))
    scenario.when(complete("ask", 7)).then(completed_by_hand("ask", result=7), enqueued("next"))
    scenario.when(send("go")).then_rejected("CONFLICT")
    # As the signal it has to be what the steps behind it rely on.
    typed = {**ask, "wait_for_signal": {"name": "go", "payload_schema": {"type": "boolean"}}}
    scenario = entered(checked(typed, "next: ask"), awaited("ask", "go"))
    actions = ("resolve_manually", "complete_manually")
    scenario.when(complete("ask", 7)).then_refused("payload_schema: /: 7", "waiting_for_signal", *actions)
    scenario.when(complete("ask", True)).then(completed_by_hand("ask", result=True), enqueued("next"))


def test_a_signal_that_did_not_come_in_time_is_waited_for_once_more() -> None:
    ask = step(
        "ask", handler={"callable": "stepweave:signal"}, wait_for_signal={"name": "go", "timeout_seconds": 1}
    )
    scenario = entered(compiled(ask), awaited("ask", "go")).later(1_000).run(wake())
    assert scenario.status == "blocked_by_failures"
    scenario.when(wish(ResetStep, "ask")).then(
        reset("ask"), awaited("ask", "go", attempt=2, deadline_at_ms=T0_MS + 2_000)
    )
    scenario.when(send("go", 5)).then(received("go"), completed("ask", 2), task_completed())


def test_the_child_of_a_step_that_is_settled_is_cancelled() -> None:
    child = step("child", handler={"callable": "stepweave:child_task"}, child_task={"name": "other"})
    scenario = entered(compiled(child), child_requested("child"))
    scenario.when(wish(ResolveStep, "child")).then(
        child_cancel_requested("child"), resolved("child"), task_completed()
    )


def test_a_child_that_failed_is_started_anew() -> None:
    child = step("child", handler={"callable": "stepweave:child_task"}, child_task={"name": "other"})
    scenario = entered(compiled(child), child_requested("child")).run(fail_for_good("child"))
    first = scenario.last(events.ChildRequested).child_task_id
    scenario.when(wish(ResetStep, "child")).then(reset("child"), child_requested("child", 2))
    assert scenario.last(events.ChildRequested).child_task_id != first


def _skippable(text: str) -> dict[str, object]:
    return step(text, skippable=True, retry=EVERY_SECOND)


def test_what_the_template_allows_is_skipped() -> None:
    scenario = begun(compiled("a", _skippable("b: a"), "c: b"))
    scenario.when(wish(SkipStep, "b")).then(
        skipped("b", reason="operator", skipped_by="ada", explanation="why not"), enqueued("c")
    )
    scenario.run(succeed("c")).when(succeed("a")).then(completed("a"), task_completed(steps_completed=3))


def test_a_failed_step_is_skipped() -> None:
    scenario = begun(compiled(_skippable("a"), "b: a")).run(fail_for_good("a"))
    scenario.when(wish(SkipStep, "a")).then(skipped("a"), enqueued("b"))


def test_why_a_step_is_not_skipped() -> None:
    scenario = begun(compiled("a", _skippable("b")))
    by_hand = ("resolve_manually", "complete_manually")
    scenario.when(wish(SkipStep, "a")).then_refused("`skippable: true`", "enqueued", *by_hand)
    scenario.when(wish(SkipStep, "b")).then_refused("it has begun: it is enqueued", "enqueued", *by_hand)


def test_what_is_done_stays_done() -> None:
    scenario = begun(compiled("a", "b")).run(succeed("a"))
    for each in (wish(ResetStep, "a"), wish(ResolveStep, "a"), complete("a")):
        scenario.when(each).then_refused("it is done already: complete", "complete")


def test_what_has_not_failed_is_not_reset() -> None:
    scenario = begun(one_step())
    allowed = ("resolve_manually", "complete_manually")
    scenario.when(wish(ResetStep, "a")).then_refused(
        "it has not failed: it is enqueued", "enqueued", *allowed
    )


def test_a_step_is_named_by_its_uuid_too_and_one_that_is_none_is_not_found() -> None:
    scenario = begun(one_step()).run(fail_for_good("a"))
    scenario.when(wish(ResetStep, "nobody")).then_rejected("UNKNOWN_STEP")
    scenario.when(wish(ResetStep, scenario.step("a").uuid)).then(reset("a"), enqueued("a", 2))


def test_a_compensation_that_waits_is_tried_at_once_and_nothing_else() -> None:
    undo = {"handler": {"callable": "undo"}, "retry": EVERY_SECOND}
    scenario = begun(compiled(step("a", compensation=undo), "b: a")).run(succeed("a"), fail_for_good("b"))
    name = "compensate:a"
    scenario.when(wish(ResetStep, name)).then_refused("it has not failed", "enqueued")
    scenario.run(fail(name))
    for each in (wish(ResolveStep, name), complete(name), wish(SkipStep, name)):
        scenario.when(each).then_refused("all that can be done is", "waiting_for_retry", "reset_for_retry")
    scenario.when(wish(ResetStep, name)).then(reset(name), enqueued(name, 2))
    scenario.run(succeed(name))
    assert scenario.status == "error"
