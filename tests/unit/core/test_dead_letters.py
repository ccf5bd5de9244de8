"""Dead letters: when they are opened and closed, and what investigators say."""

from __future__ import annotations

from typing import Any

from stepweave_orchestrator.core.commands import InvestigateTask
from stepweave_orchestrator.core.dead_letters import LETTERS_MAX, letter_uuid, open_letter
from stepweave_orchestrator.core.operator_commands import (
    GiveUpTask,
    PauseTask,
    ResetStep,
    ResolveStep,
    ResolveTask,
    ResumeTask,
    RetryTask,
)
from stepweave_orchestrator.core.snapshot import decode_snapshot, encode_snapshot
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas import events

from .scenario import (
    T0_MS,
    TASK_ID,
    Happened,
    Scenario,
    begun,
    blocked,
    cancel,
    cancelled,
    completed,
    enqueued,
    fail,
    fail_for_good,
    failed,
    given,
    given_up,
    paused,
    reset,
    resolved,
    resumed,
    succeed,
    task_completed,
    task_failed,
    task_resolved,
    wake,
    wish,
)
from .templates import compiled, one_step


def investigate(
    number: int = 1, status: str | None = None, notes: str | None = None, **more: Any
) -> InvestigateTask:
    return InvestigateTask(
        letter_uuid(TASK_ID, number), status, notes, more.get("by", "ada"), more.get("metadata")
    )


def investigated(status: str, notes: str = "", **fields: Any) -> Happened:
    return Happened(
        events.TaskInvestigated, {"resolution_status": status, "resolution_notes": notes, **fields}
    )


def stuck() -> Scenario:
    scenario = begun(compiled("a", "b: a")).later(5)
    return scenario.when(fail_for_good("a", error_code="NO_CARD")).then(failed("a"), blocked("a"))


def test_a_blocked_task_is_a_dead_letter_until_it_ends() -> None:
    scenario = stuck()
    letter = open_letter(scenario.state)
    assert letter is not None and letter.listed
    assert (letter.number, letter.reason, letter.original_state) == (1, "failures", "blocked_by_failures")
    assert (letter.error_message, letter.error_code, letter.steps) == ("boom", "NO_CARD", ("a",))
    assert (letter.opened_at_ms, letter.opened_version) == (T0_MS + 5, scenario.state.version)
    shown = task_response(scenario.state)
    assert (shown.stuck, shown.dlq_entry_uuid) == ("boom", letter_uuid(TASK_ID, 1))
    scenario.later(10).when(cancel("not worth it", "bob")).then(cancelled())
    assert open_letter(scenario.state) is None
    assert (letter.resolution_status, letter.resolved_by, letter.resolution_notes) == (
        "cancelled",
        "bob",
        "not worth it",
    )
    assert letter.closed_by_task and letter.resolved_at_ms == T0_MS + 15
    assert task_response(scenario.state).stuck is None


def test_who_looked_at_it_and_what_came_of_it() -> None:
    scenario = stuck()
    scenario.when(investigate(status="investigating")).then(investigated("investigating", resolved_by="ada"))
    scenario.when(investigate(status="investigating")).then_nothing()
    scenario.when(investigate(notes="the card had expired")).then(
        investigated("investigating", "the card had expired")
    )
    assert open_letter(scenario.state) is not None
    scenario.later(7).when(investigate(status="manually_resolved", by="bob", metadata='{"ticket":7}'))
    scenario.then(investigated("manually_resolved", "the card had expired", resolved_by="bob"))
    # The letter is resolved, the task is not.
    assert open_letter(scenario.state) is None
    assert scenario.status == "blocked_by_failures"
    watch = scenario.state.watch
    assert watch is not None and watch.letters[0].metadata == '{"ticket":7}'
    assert watch.letters[0].resolved_at_ms == scenario.now_ms
    # Notes may be added, but what is resolved does not open again.
    scenario.when(investigate(status="pending")).then_rejected("CONFLICT")
    scenario.later(1).when(investigate(notes="and was paid later", by="")).then(
        investigated("manually_resolved", "and was paid later", resolved_by="bob")
    )
    # What the task does later changes nothing about it.
    scenario.run(cancel())
    assert watch.letters[0].resolution_status == "manually_resolved"


# -- what operators do ---------------------------------------------------------------------------


def closed(scenario: Scenario, number: int = 1) -> tuple[str, str, str]:
    """How a letter was closed by what became of its task, by whom and why."""
    watch = scenario.state.watch
    assert watch is not None
    letter = next(one for one in watch.letters if one.number == number)
    assert letter.closed_by_task and not letter.is_open
    return letter.resolution_status, letter.resolved_by, letter.resolution_notes


def test_a_retry_closes_the_letter_and_a_further_failure_opens_another() -> None:
    scenario = stuck().when(wish(RetryTask)).then(reset("a"), enqueued("a", 2))
    assert closed(scenario) == ("retried", "ada", "why not")
    scenario.later(1).when(fail_for_good("a")).then(failed("a", 2), blocked("a"))
    letter = open_letter(scenario.state)
    assert letter is not None and (letter.number, letter.reason) == (2, "failures")
    scenario.when(wish(ResetStep, "a")).then(reset("a", 2), enqueued("a", 3))
    assert closed(scenario, 2) == ("retried", "ada", "why not")


def test_a_task_that_is_given_up_closes_its_letter() -> None:
    scenario = stuck().when(wish(GiveUpTask)).then(given_up(), task_failed("a"))
    assert closed(scenario) == ("permanently_failed", "ada", "why not")


def test_a_task_that_is_resolved_closes_its_letter() -> None:
    scenario = stuck().when(wish(ResolveTask)).then(task_resolved())
    assert closed(scenario) == ("manually_resolved", "ada", "why not")


def test_a_step_that_is_resolved_closes_the_letter() -> None:
    scenario = stuck().when(wish(ResolveStep, "a")).then(resolved("a"), enqueued("b"))
    assert closed(scenario) == ("manually_resolved", "ada", "why not")


def test_a_task_that_another_failure_blocks_at_once_has_been_stuck_all_the_time() -> None:
    scenario = begun(compiled("a", "b", "c: a b")).run(fail_for_good("a"), fail_for_good("b"))
    scenario.run(investigate(status="investigating", notes="asked the bank"))
    scenario.later(1).when(wish(ResolveStep, "a", by="bob")).then(resolved("a"), blocked("b"))
    letter = open_letter(scenario.state)
    assert letter is not None and (letter.number, letter.steps) == (1, ("b",))
    assert (letter.resolution_status, letter.resolution_notes, letter.resolved_by) == (
        "investigating",
        "asked the bank",
        "ada",
    )


def test_a_blocked_task_that_is_paused_is_still_stuck() -> None:
    scenario = stuck().run(investigate(status="investigating"))
    scenario.later(1).when(wish(PauseTask, by="bob")).then(paused())
    letter = open_letter(scenario.state)
    assert letter is not None and letter.resolution_status == "investigating"
    scenario.later(1).when(wish(ResumeTask, by="bob")).then(resumed(), blocked("a"))
    assert open_letter(scenario.state) is letter
    assert (letter.resolution_status, letter.resolved_by) == ("investigating", "ada")
    # Mended while it is paused, it is not stuck any more.
    scenario.run(wish(PauseTask)).later(1).when(wish(RetryTask)).then(reset("a"))
    assert closed(scenario) == ("retried", "ada", "why not")
    scenario.when(wish(ResumeTask)).then(resumed(), enqueued("a", 2))
    scenario.when(succeed("a")).then(completed("a", 2), enqueued("b"))
    scenario.when(succeed("b")).then(completed("b"), task_completed())
    assert letter.number == 1 and open_letter(scenario.state) is None


def test_a_letter_that_does_not_exist() -> None:
    given(one_step()).when(investigate(status="pending")).then_rejected("NOT_FOUND")
    begun(one_step()).when(investigate(status="pending")).then_rejected("NOT_FOUND")
    stuck().when(investigate(2, "pending")).then_rejected("NOT_FOUND")


def test_what_is_stale_and_then_fails_is_one_case() -> None:
    plan = compiled("a", lifecycle={"max_steps_in_process_seconds": 1, "max_duration_seconds": 1})
    scenario = begun(plan).later(1_000).run(wake(), fail_for_good("a"))
    watch = scenario.state.watch
    assert watch is not None
    assert [(one.number, one.reason, one.resolution_status) for one in watch.letters] == [
        (1, "failures", "pending")
    ]
    assert watch.letters[0].opened_at_ms == T0_MS + 1_000
    assert watch.letters[0].error_message == "boom"


def test_the_last_letters_are_kept() -> None:
    lifecycle = {"max_waiting_for_retry_seconds": 0.5}
    plan = one_step(
        retry={"max_attempts": 50, "backoff": "fixed", "backoff_base_ms": 1_000, "jitter": 0.0},
        lifecycle=lifecycle,
    )
    scenario = begun(plan)
    for _ in range(LETTERS_MAX + 5):
        scenario.run(fail("a")).later(500).run(wake()).later(500).run(wake())
    watch = scenario.state.watch
    assert watch is not None
    assert [one.number for one in watch.letters] == list(range(6, LETTERS_MAX + 6))
    assert {one.resolution_status for one in watch.letters} == {"recovered"}
    assert decode_snapshot(encode_snapshot(scenario.state), plan) == scenario.state.__class__(
        **{name: getattr(scenario.state, name) for name in scenario.state.__struct_fields__}
        | {"events_since_snapshot": 0}
    )
    scenario.run(succeed("a"))
    assert scenario.state.next_wake_ms() is None
