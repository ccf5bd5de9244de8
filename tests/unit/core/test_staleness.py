"""Tasks that stand still: the times of `lifecycle`, and what follows when one is over."""

from __future__ import annotations

from typing import Any

import pytest

from stepweave_orchestrator.core import Plan
from stepweave_orchestrator.core.commands import CheckHandlers, ServedHandlers
from stepweave_orchestrator.core.dead_letters import open_letter
from stepweave_orchestrator.core.operator_commands import PauseTask, ResumeTask
from stepweave_schemas import events
from stepweave_schemas.result import HANDLER_MISSING

from .scenario import (
    T0_MS,
    Happened,
    Scenario,
    awaited,
    begun,
    cancelled,
    completed,
    create,
    created,
    cut,
    enqueued,
    fail,
    given,
    lose,
    paused,
    refused,
    release,
    released,
    resumed,
    retry,
    send,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    task_started,
    wake,
    wish,
)
from .templates import EVERY_SECOND, compiled, step

MINUTE_MS = 60_000


def stale(threshold: str, **fields: Any) -> Happened:
    return Happened(events.TaskStale, {"threshold": threshold, **fields})


def watched(*steps: Any, **lifecycle: Any) -> Plan:
    return compiled(*(steps or ("a", "b: a")), lifecycle=lifecycle)


def letters(scenario: Scenario) -> list[tuple[str, str]]:
    watch = scenario.state.watch
    return [] if watch is None else [(one.reason, one.resolution_status) for one in watch.letters]


def test_a_task_without_a_lifecycle_keeps_nothing() -> None:
    scenario = begun(compiled("a"))
    assert scenario.state.watch is None
    assert scenario.state.next_wake_ms() is None
    assert begun(watched("a", max_duration_seconds=1, staleness_action="none")).state.watch is None


def test_no_change_for_too_long() -> None:
    scenario = begun(watched(max_steps_in_process_seconds=60))
    scenario.later(30_000).when(succeed("a")).then(completed("a"), enqueued("b"))
    # The time begins anew with each change.
    assert scenario.state.next_wake_ms() == T0_MS + 90_000
    scenario.later(59_999).when(wake()).then_nothing()
    scenario.later(1).when(wake())
    scenario.then(
        stale(
            "max_steps_in_process_seconds",
            status="steps_in_process",
            since_ms=T0_MS + 30_000,
            limit_ms=60_000,
            action="dlq",
            waiting_for=("b",),
        )
    )
    # Once for each stay.
    assert scenario.state.next_wake_ms() is None
    letter = open_letter(scenario.state)
    assert letter is not None and letter.listed
    assert (letter.reason, letter.original_state, letter.steps) == ("staleness", "steps_in_process", ("b",))
    scenario.later(5).when(start("b")).then(started("b"))
    assert letters(scenario) == [("staleness", "recovered")]
    assert scenario.state.next_wake_ms() == scenario.now_ms + 60_000
    scenario.later(60_000).when(wake()).then(stale("max_steps_in_process_seconds"))
    scenario.when(succeed("b")).then(completed("b"), task_completed())
    assert letters(scenario) == [("staleness", "recovered")] * 2
    assert scenario.state.next_wake_ms() is None


def test_what_is_no_change() -> None:
    scenario = begun(watched("a", max_steps_in_process_seconds=60))
    scenario.later(50_000).when(release("a")).then(released("a"), enqueued("a"))
    assert scenario.state.next_wake_ms() == T0_MS + 60_000


def test_a_retry_that_waits_for_too_long() -> None:
    patient = {**EVERY_SECOND, "backoff_base_ms": 3_600_000, "max_backoff_ms": 3_600_000}
    plan = watched(step("a", retry=patient), max_waiting_for_retry_seconds=60, staleness_action="alert")
    scenario = begun(plan).later(10).when(fail("a")).then(retry("a"))
    scenario.later(MINUTE_MS).when(wake())
    scenario.then(stale("max_waiting_for_retry_seconds", action="alert", since_ms=T0_MS + 10))
    letter = open_letter(scenario.state)
    assert letter is not None and not letter.listed
    # At the moment of the retry it goes on, and is stale no more.
    scenario.later(3_540_000).when(wake()).then(enqueued("a", 2))
    assert letters(scenario) == [("staleness", "recovered")]


def test_a_retry_that_is_due_at_the_same_moment_wins() -> None:
    plan = watched("a", max_waiting_for_retry_seconds=1)
    scenario = begun(plan).when(fail("a")).then(retry("a"))
    scenario.later(1_000).when(wake()).then(enqueued("a", 2))
    assert letters(scenario) == []


def test_a_signal_that_does_not_come() -> None:
    plan = watched(
        step("a", handler={"callable": "stepweave:signal"}, wait_for_signal={"name": "ok"}),
        max_waiting_for_dependencies_seconds=60,
    )
    scenario = given(plan).when(create(plan)).then(created(), awaited("a", "ok"))
    scenario.later(MINUTE_MS).when(wake()).then(
        stale("max_waiting_for_dependencies_seconds", waiting_for=("a",))
    )
    scenario.later(1).run(send("ok"))
    assert scenario.status == "complete"
    assert letters(scenario) == [("staleness", "recovered")]


def test_the_whole_task_takes_too_long() -> None:
    plan = watched(max_duration_seconds=60, max_steps_in_process_seconds=50)
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 1_000)).then(created())
    assert scenario.state.next_wake_ms() == T0_MS + 1_000
    # The time runs from its start.
    scenario.later(1_000).when(wake()).then(task_started(), enqueued("a"))
    scenario.later(60_000).when(wake())
    scenario.then(stale("max_duration_seconds"), stale("max_steps_in_process_seconds"))
    assert letters(scenario) == [("staleness", "pending")]
    letter = open_letter(scenario.state)
    assert letter is not None and letter.threshold == "max_duration_seconds"
    # It goes on, and takes too long all the same.
    scenario.later(1).when(succeed("a")).then(completed("a"), enqueued("b"))
    assert letters(scenario) == [("staleness", "pending")]
    scenario.when(succeed("b")).then(completed("b"), task_completed())
    assert letters(scenario) == [("staleness", "recovered")]


def test_a_stale_task_is_cancelled() -> None:
    scenario = begun(watched(max_duration_seconds=1, staleness_action="cancel")).later(1_000)
    scenario.when(wake()).then(
        stale("max_duration_seconds", action="cancel"), cancelled("a", cancelled_by="lifecycle")
    )
    assert letters(scenario) == [("staleness", "cancelled")]
    scenario.when(succeed("a", 1)).then(refused("a", refusal="task_finished"))


def test_a_stale_task_ends_in_error() -> None:
    scenario = begun(watched(max_duration_seconds=1, staleness_action="fail")).later(1_000)
    scenario.when(wake()).then(
        stale("max_duration_seconds", action="fail"), task_failed(error_code="TASK_STALE")
    )
    assert scenario.statuses() == {"a": "cancelled", "b": "cancelled"}
    assert letters(scenario) == [("staleness", "permanently_failed")]
    scenario.when(succeed("a", 1)).then(refused("a"))


def test_a_stale_task_is_undone() -> None:
    plan = watched(
        step("a", compensation={"handler": {"callable": "undo_a"}}),
        "b: a",
        max_duration_seconds=1,
        staleness_action="fail",
    )
    scenario = begun(plan).run(succeed("a")).later(1_000)
    scenario.when(wake()).then(
        stale("max_duration_seconds"),
        Happened(events.CompensationStarted, {"steps": ("a",), "error_code": "TASK_STALE"}),
        enqueued("compensate:a"),
    )
    # What is being undone is undone to its end, however long that takes.
    assert scenario.state.next_wake_ms() is None
    scenario.run(succeed("compensate:a"))
    assert (scenario.status, scenario.state.ending_code) == ("error", "TASK_STALE")
    assert letters(scenario) == [("staleness", "permanently_failed")]


def test_what_is_undone_for_too_long_is_only_told() -> None:
    plan = watched(
        step("a", compensation={"handler": {"callable": "undo_a"}}),
        step("b: a", retry={"max_attempts": 1}),
        max_duration_seconds=1,
        staleness_action="fail",
    )
    scenario = begun(plan).run(succeed("a"), fail("b")).later(1_000)
    assert scenario.status == "compensating"
    scenario.when(wake()).then(stale("max_duration_seconds", action="alert"))
    scenario.run(succeed("compensate:a"))
    assert letters(scenario) == [("staleness", "permanently_failed")]


def test_a_stale_task_is_undone_and_its_letter_stays_open_until_then() -> None:
    plan = watched(
        step("a", compensation={"handler": {"callable": "undo_a"}}),
        "b: a",
        max_steps_in_process_seconds=1,
        staleness_action="fail",
    )
    scenario = begun(plan).run(succeed("a")).later(1_000).run(wake())
    assert (scenario.status, scenario.state.completed_at_ms) == ("compensating", None)
    assert letters(scenario) == [("staleness", "pending")]
    scenario.later(1).run(succeed("compensate:a"))
    assert scenario.state.completed_at_ms == scenario.now_ms
    assert letters(scenario) == [("staleness", "permanently_failed")]


# -- while the task is paused ----------------------------------------------------------------------


def test_the_times_rest_while_a_task_is_paused() -> None:
    plan = watched("a", max_steps_in_process_seconds=60, max_duration_seconds=100, staleness_action="fail")
    scenario = begun(plan).later(10_000).when(wish(PauseTask)).then(paused())
    assert scenario.state.next_wake_ms() is None
    scenario.later(3_600_000).when(wake()).then_nothing()
    scenario.when(wish(ResumeTask)).then(resumed())
    # The stay begins anew, the whole task goes on where it was.
    assert scenario.state.next_wake_ms() == scenario.now_ms + 60_000
    scenario.later(30_000).run(start("a")).later(59_999).when(wake()).then_nothing()
    assert scenario.state.next_wake_ms() == scenario.now_ms + 1
    scenario.later(1).when(wake()).then(
        stale("max_duration_seconds", action="fail"), task_failed(error_code="TASK_STALE")
    )


def test_what_was_stale_is_so_until_it_is_resumed() -> None:
    scenario = begun(watched("a", max_steps_in_process_seconds=60)).later(60_000).run(wake())
    scenario.later(5).when(wish(PauseTask)).then(paused())
    assert letters(scenario) == [("staleness", "pending")]
    scenario.later(5).when(wish(ResumeTask)).then(resumed())
    assert letters(scenario) == [("staleness", "recovered")]
    assert scenario.state.next_wake_ms() == scenario.now_ms + 60_000


# -- handlers that nobody serves -------------------------------------------------------------------


def hand_back(name: str, **fields: Any) -> Any:
    return release(name, reason=HANDLER_MISSING, **fields)


def look(*handlers: str, anything: bool = False, workers: tuple[str, ...] = ()) -> CheckHandlers:
    place = ("tests", "default")
    return CheckHandlers(
        ServedHandlers(
            {place: frozenset(handlers)}, frozenset({place}) if anything else frozenset(), frozenset(workers)
        )
    )


def test_a_try_without_its_handler_comes_back_more_and_more_rarely_and_costs_nothing() -> None:
    scenario = begun(compiled("a"))
    for delay_ms in (100, 200, 400, 800):
        scenario.when(hand_back("a")).then(released("a", retry_at_ms=scenario.now_ms + delay_ms))
        assert scenario.statuses() == {"a": "enqueued"}
        # The same word once more, and a result of who had it.
        scenario.when(hand_back("a")).then_rejected("STALE")
        scenario.when(succeed("a")).then_rejected("STALE")
        scenario.later(delay_ms - 1).when(wake()).then_nothing()
        scenario.later(1).when(wake()).then(enqueued("a", 1))
    scenario.when(hand_back("a", given_out=0)).then_rejected("WRONG_TOKEN")
    scenario.when(succeed("a")).then(completed("a"), task_completed())


def test_who_lacks_the_handler_gets_it_named_once() -> None:
    scenario = begun(compiled("a"))
    while scenario.now_ms < T0_MS + MINUTE_MS:
        scenario.run(hand_back("a"))
        due = scenario.state.next_wake_ms()
        assert due is not None and scenario.state.watch is None
        scenario.later(due - scenario.now_ms).run(wake())
    scenario.when(hand_back("a"))
    scenario.then(
        released("a"),
        stale("handler_missing", action="alert", waiting_for=("a",), missing_handlers=("run_a",)),
    )
    assert letters(scenario) == [("handler_missing", "pending")]
    scenario.later(3_600_000).run(wake())
    scenario.when(hand_back("a")).then(released("a"))
    # A worker that has it comes: the step goes on at once, and is not stuck any more when it does.
    scenario.later(1).when(look("run_a", "run_b")).then(enqueued("a", 1))
    assert letters(scenario) == [("handler_missing", "pending")]
    scenario.when(succeed("a")).then(completed("a"), task_completed())
    assert letters(scenario) == [("handler_missing", "recovered")]


def test_an_hour_is_the_longest_wait() -> None:
    scenario = begun(compiled("a"))
    for _ in range(40):
        scenario.run(hand_back("a"))
        due = scenario.state.next_wake_ms()
        assert due is not None and due - scenario.now_ms <= 3_600_000
        scenario.later(due - scenario.now_ms).run(wake())
    assert scenario.step("a").attempt == 1


def test_a_queue_without_any_worker() -> None:
    scenario = begun(compiled("a", "b"))
    scenario.later(59_999).when(look("run_b")).then_nothing()
    # Who finds handlers by other ways than by name may have it.
    scenario.later(1).when(look(anything=True)).then_nothing()
    scenario.when(look("run_b")).then(
        stale("handler_missing", since_ms=T0_MS, waiting_for=("a",), missing_handlers=("run_a",))
    )
    scenario.later(1).when(look("run_b")).then_nothing()
    # Another step that goes on says nothing about this one.
    scenario.when(succeed("b")).then(completed("b"))
    assert letters(scenario) == [("handler_missing", "pending")]
    scenario.when(start("a")).then(started("a"))
    assert letters(scenario) == [("handler_missing", "recovered")]
    scenario.later(MINUTE_MS).when(look(workers=("worker-1",))).then_nothing()


def test_a_letter_names_the_handlers_that_are_still_missing() -> None:
    scenario = begun(compiled("a", "b", "c"))
    scenario.later(MINUTE_MS).run(look("run_c"))
    letter = open_letter(scenario.state)
    assert letter is not None
    assert (letter.missing_handlers, letter.steps) == (("run_a", "run_b"), ("a", "b"))
    # A worker with one of them comes, and takes its step.
    scenario.later(1).run(start("b"))
    assert open_letter(scenario.state) is letter
    assert (letter.missing_handlers, letter.steps) == (("run_a",), ("a",))
    assert letter.error_message == "no worker serves run_a, for more than 60 s"
    # What is found one after the other stands in one letter too; one that is over says what it was about.
    scenario.later(MINUTE_MS).run(look("run_b"))
    assert (letter.missing_handlers, letter.steps) == (("run_a", "run_c"), ("a", "c"))
    assert letter.error_message == "no worker serves run_a, run_c, for more than 60 s"
    scenario.run(start("c"), start("a"))
    assert letters(scenario) == [("handler_missing", "recovered")]
    assert letter.missing_handlers == ("run_a",)


def test_a_compensation_that_its_handler_was_missing_for_goes_on() -> None:
    undo = {"compensation": {"handler": {"callable": "undo_a"}}}
    scenario = begun(compiled(step("a", **undo), "b: a")).run(succeed("a"), fail("b", retryable=False))
    assert scenario.status == "compensating"
    scenario.later(MINUTE_MS).run(look())
    assert letters(scenario) == [("handler_missing", "pending")]
    scenario.run(start("compensate:a"))
    assert (scenario.status, letters(scenario)) == ("compensating", [("handler_missing", "recovered")])


def test_a_new_try_begins_with_short_waits() -> None:
    scenario = begun(compiled("a")).run(hand_back("a")).later(100).run(wake())
    scenario.when(fail("a")).then(retry("a"))
    scenario.later(1_000).when(wake()).then(enqueued("a", 2))
    scenario.when(hand_back("a")).then(released("a", 2, retry_at_ms=scenario.now_ms + 100))


def test_the_last_worker_of_a_step_is_gone() -> None:
    """Who is lost is found out by another worker of the queue; where there is none, nobody would."""
    scenario = begun(compiled("a")).later(1_000).run(start("a"))
    scenario.later(59_999).when(look()).then_nothing()
    scenario.later(1).when(look(workers=("worker-1",))).then_nothing()
    scenario.when(look("run_a")).then_nothing()
    scenario.later(MINUTE_MS).when(look()).then(
        stale(
            "handler_missing",
            since_ms=T0_MS + 61_000,
            waiting_for=("a",),
            missing_handlers=("run_a",),
        )
    )
    scenario.when(look()).then_nothing()
    assert letters(scenario) == [("handler_missing", "pending")]
    scenario.run(lose("a"))
    assert (scenario.statuses(), letters(scenario)) == ({"a": "enqueued"}, [("handler_missing", "recovered")])


def test_what_waits_for_its_handler_is_not_given_out_while_its_task_is_paused() -> None:
    scenario = begun(compiled("a")).run(hand_back("a")).when(wish(PauseTask)).then(paused())
    assert scenario.statuses() == {"a": "pending"}
    assert scenario.state.next_wake_ms() is None
    scenario.later(MINUTE_MS).when(wake()).then_nothing()
    scenario.when(look("run_a")).then_nothing()
    scenario.when(look()).then_nothing()
    scenario.when(succeed("a")).then_rejected("STALE")
    scenario.when(wish(ResumeTask)).then(resumed(), enqueued("a", 1))
    # It still counts how often it came back.
    scenario.when(succeed("a", given_out=0)).then_rejected("STALE")
    scenario.when(hand_back("a")).then(
        released("a", retry_at_ms=scenario.now_ms + 200), stale("handler_missing", since_ms=T0_MS)
    )
    scenario.when(look("run_a")).then(enqueued("a", 1)).when(succeed("a")).then(
        completed("a"), task_completed()
    )


def test_a_try_that_comes_back_to_a_paused_task_is_held() -> None:
    scenario = begun(compiled("a")).when(wish(PauseTask)).then(paused())
    scenario.later(MINUTE_MS).when(hand_back("a")).then(released("a", retry_at_ms=None))
    assert (scenario.statuses(), scenario.state.next_wake_ms()) == ({"a": "pending"}, None)
    scenario.when(hand_back("a")).then_rejected("STALE")
    scenario.when(wish(ResumeTask)).then(resumed(), enqueued("a", 1))


def test_a_worker_of_a_batch_waits_for_its_handler_while_its_task_is_paused() -> None:
    plan = compiled(
        step("cut", type="batchable", batch_config={"parallelism": 1}), step("work: cut", type="batch_worker")
    )
    scenario = begun(plan).run(cut("cut", 1, 2), hand_back("work_001"))
    scenario.when(wish(PauseTask)).then(paused())
    scenario.when(wish(ResumeTask)).then(resumed(), enqueued("work_001", 1))
    scenario.run(succeed("work_001"), succeed("work_002"))
    assert scenario.status == "complete"


def test_nothing_is_looked_for_that_does_not_exist_or_has_ended() -> None:
    given(compiled("a")).when(look()).then_rejected("NOT_FOUND")
    scenario = begun(compiled("a")).run(succeed("a")).later(MINUTE_MS)
    scenario.when(look()).then_nothing()


@pytest.mark.parametrize("name", ["cancel", "fail"])
def test_a_batch_ends_with_its_stale_task(name: str) -> None:
    plan = compiled(
        step("cut", type="batchable", batch_config={"parallelism": 1}),
        step("work: cut", type="batch_worker"),
        lifecycle={"max_duration_seconds": 1, "staleness_action": name},
    )
    scenario = begun(plan).run(cut("cut", 1, 2, 3)).later(1_000).run(wake())
    assert scenario.status == ("cancelled" if name == "cancel" else "error")
    assert scenario.statuses()["work_003"] == "cancelled"
