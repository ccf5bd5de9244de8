"""Decisions: which steps exist, when, and what becomes of those that nobody chose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core import Plan
from stepweave_schemas import events, result
from stepweave_schemas.identity import step_uuid

from .scenario import (
    TASK_ID,
    Scenario,
    Told,
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
    succeed,
    task_completed,
    wake,
)
from .templates import AT_ONCE, EVERY_SECOND, compiled, step
from .test_size import Run, lines_run


def decision(text: str, **settings: Any) -> dict[str, Any]:
    return step(text, type="decision", retry=EVERY_SECOND, **settings)


def convergence(text: str, **settings: Any) -> dict[str, Any]:
    return step(text, type="deferred_convergence", retry=EVERY_SECOND, **settings)


def approval() -> Plan:
    """The approval of an order: by itself, by a manager, or by both a manager and finance."""
    return compiled(
        "validate",
        decision("route: validate"),
        "auto: route",
        "manager: route",
        "finance: route",
        convergence("finish: auto manager finance"),
        "notify: finish",
    )


def at_the_decision() -> Scenario:
    return begun(approval()).when(succeed("validate")).then(completed("validate"), enqueued("route"))


# -- what exists ---------------------------------------------------------------------------------


def test_what_stands_behind_a_decision_does_not_exist_yet() -> None:
    scenario = begun(approval())
    assert scenario.shown() == ["validate", "route"]
    assert scenario.statuses() == {
        "validate": "enqueued",
        "route": "pending",
        **dict.fromkeys(("auto", "manager", "finance", "finish", "notify"), "absent"),
    }


def test_one_branch_is_chosen() -> None:
    scenario = at_the_decision().when(choose("route", "auto", result={"amount": 99}))
    scenario.then(
        completed("route", result=msgspec.Raw(b'{"amount":99}')),
        routed(
            "route",
            "auto",
            created=("auto", "finish", "notify"),
            excluded=("manager", "finance"),
            routing_context=msgspec.Raw(b'{"amount":99}'),
            step_uuid=step_uuid(TASK_ID, "route"),
        ),
        enqueued("auto"),
    )
    assert scenario.shown() == ["validate", "route", "auto", "finish", "notify"]
    assert scenario.step("route").result == '{"amount":99}'
    scenario.when(succeed("auto")).then(completed("auto"), enqueued("finish"))
    scenario.when(succeed("finish")).then(completed("finish"), enqueued("notify"))
    scenario.when(succeed("notify")).then(completed("notify"), task_completed(steps_completed=5))


@pytest.mark.parametrize("first", ["manager", "finance"])
def test_a_convergence_waits_for_the_branches_that_were_created(first: str) -> None:
    scenario = at_the_decision().when(choose("route", "finance", "manager"))
    scenario.then(
        completed("route"),
        routed("route", "finance", "manager", excluded=("auto",)),
        enqueued("manager"),
        enqueued("finance"),
    )
    second = "finance" if first == "manager" else "manager"
    scenario.when(succeed(first)).then(completed(first))
    scenario.when(succeed(second)).then(completed(second), enqueued("finish"))


def test_no_branch_skips_the_convergence_and_what_follows_it_runs() -> None:
    scenario = at_the_decision().when(decline("route", "too small", result={"amount": 1}))
    scenario.then(
        completed("route"),
        declined(
            "route",
            reason="too small",
            created=("notify",),
            excluded=("auto", "manager", "finance"),
            routing_context=msgspec.Raw(b'{"amount":1}'),
        ),
        skipped("finish", reason="no_branches"),
        enqueued("notify"),
    )
    assert scenario.shown() == ["validate", "route", "finish", "notify"]
    assert scenario.step("finish").status == "skipped"
    assert scenario.step("finish").result is None
    scenario.when(succeed("notify")).then(completed("notify"), task_completed(steps_completed=4))


def test_a_skipped_convergence_may_be_the_last_step() -> None:
    plan = compiled(decision("d"), "a: d", "b: d", convergence("join: a b"))
    begun(plan).when(decline("d")).then(
        completed("d"),
        declined("d", excluded=("a", "b"), created=()),
        skipped("join"),
        task_completed(steps_completed=2),
    )


def test_without_a_convergence_what_follows_an_excluded_branch_never_is() -> None:
    plan = compiled(decision("d"), "a: d", "a2: a", "a3: a2", "b: d", "both: a b")
    scenario = begun(plan).when(choose("d", "b"))
    scenario.then(
        completed("d"), routed("d", "b", created=("b",), excluded=("a", "a2", "both", "a3")), enqueued("b")
    )
    scenario.when(succeed("b")).then(completed("b"), task_completed(steps_completed=2))


def test_steps_behind_a_chosen_branch_are_created_with_it() -> None:
    plan = compiled(decision("d"), "a: d", "a2: a", "a3: a2", "b: d", "both: a b")
    scenario = begun(plan).when(choose("d", "a"))
    scenario.then(
        completed("d"), routed("d", "a", created=("a", "a2", "a3"), excluded=("b", "both")), enqueued("a")
    )
    scenario.run(succeed("a"), succeed("a2")).when(succeed("a3")).then(completed("a3"), task_completed())


def test_an_ordinary_step_behind_two_branches_waits_for_both() -> None:
    plan = compiled(decision("d"), "a: d", "b: d", "both: a b")
    scenario = begun(plan).when(choose("d", "a", "b"))
    scenario.then(
        completed("d"),
        routed("d", "a", "b", created=("a", "b", "both"), excluded=()),
        enqueued("a"),
        enqueued("b"),
    )
    scenario.when(succeed("b")).then(completed("b")).when(succeed("a")).then(completed("a"), enqueued("both"))


def test_a_convergence_with_a_dependency_outside_exists_from_the_start() -> None:
    plan = compiled("log", decision("d"), "a: d", "b: d", convergence("join: a b log"))
    scenario = begun(plan)
    assert scenario.shown() == ["log", "d", "join"]
    scenario.when(decline("d")).then(completed("d"), declined("d", created=(), excluded=("a", "b")))
    scenario.when(succeed("log")).then(completed("log"), enqueued("join"))
    scenario.when(succeed("join")).then(completed("join"), task_completed(steps_completed=3))


def test_the_outside_dependency_may_be_done_before_the_decision() -> None:
    plan = compiled("log", decision("d"), "a: d", "b: d", convergence("join: a b log"))
    declining = begun(plan).when(succeed("log")).then(completed("log"))
    declining.when(decline("d")).then(completed("d"), declined("d"), enqueued("join"))
    choosing = begun(plan).when(succeed("log")).then(completed("log"))
    choosing.when(choose("d", "b")).then(completed("d"), routed("d", "b"), enqueued("b"))
    choosing.when(succeed("b")).then(completed("b"), enqueued("join"))


def test_a_convergence_that_depends_on_the_decision_itself_runs_without_a_branch() -> None:
    plan = compiled(decision("d"), "a: d", convergence("join: d a"))
    scenario = begun(plan)
    assert scenario.shown() == ["d", "join"]
    scenario.when(decline("d")).then(completed("d"), declined("d", excluded=("a",)), enqueued("join"))


def test_what_does_not_depend_on_the_decision_goes_on_beside_it() -> None:
    plan = compiled("first", decision("d: first"), "a: d", "other: first", "last: other")
    scenario = begun(plan)
    scenario.when(succeed("first")).then(completed("first"), enqueued("d"), enqueued("other"))
    scenario.when(succeed("other")).then(completed("other"), enqueued("last"))
    scenario.when(succeed("last")).then(completed("last"))
    scenario.when(decline("d")).then(completed("d"), declined("d", excluded=("a",)), task_completed())


# -- naming --------------------------------------------------------------------------------------


def test_a_step_further_behind_may_be_named_without_what_stands_before_it() -> None:
    plan = compiled(decision("d"), "a: d", "b: a", "c: b")
    scenario = begun(plan).when(choose("d", "b"))
    scenario.then(completed("d"), routed("d", "b", created=("b", "c"), excluded=("a",)), enqueued("b"))
    scenario.when(succeed("b")).then(completed("b"), enqueued("c"))
    scenario.when(succeed("c")).then(completed("c"), task_completed(steps_completed=3))


def test_a_named_step_waits_for_its_dependencies_that_exist() -> None:
    plan = compiled(decision("d"), "log", "a: d", "b: a log")
    scenario = begun(plan).when(choose("d", "b"))
    scenario.then(completed("d"), routed("d", "b", created=("b",), excluded=("a",)))
    scenario.when(succeed("log")).then(completed("log"), enqueued("b"))
    both = begun(plan).when(choose("d", "b", "a"))
    both.then(completed("d"), routed("d", "b", "a", created=("b", "a"), excluded=()), enqueued("a"))
    both.when(succeed("a")).then(completed("a")).when(succeed("log")).then(completed("log"), enqueued("b"))


def test_a_step_in_the_middle_that_nobody_names_is_left_out() -> None:
    plan = compiled(decision("d"), "a: d", "b: a", "c: b", "last: c")
    scenario = begun(plan).when(choose("d", "c"))
    scenario.then(completed("d"), routed("d", "c", created=("c", "last"), excluded=("a", "b")), enqueued("c"))


def test_a_named_convergence_runs_even_without_branches() -> None:
    plan = compiled(decision("d"), "a: d", "b: d", convergence("join: a b"))
    scenario = begun(plan).when(choose("d", "join"))
    scenario.then(
        completed("d"), routed("d", "join", created=("join",), excluded=("a", "b")), enqueued("join")
    )


def test_a_name_twice_is_one_step() -> None:
    plan = compiled(decision("d"), "a: d", "b: d")
    scenario = begun(plan).when(choose("d", "a", "a"))
    scenario.then(completed("d"), routed("d", "a", "a", created=("a",), excluded=("b",)), enqueued("a"))


@pytest.mark.parametrize(
    "names",
    [("nobody",), ("auto", "nobody"), ("validate",), ("route",), ("auto", "validate"), ("auto_001",), ("",)],
    ids=str,
)
def test_a_wrong_name_fails_the_decision_and_creates_nothing(names: tuple[str, ...]) -> None:
    scenario = at_the_decision().when(choose("route", *names))
    scenario.then(
        failed(
            "route",
            error_code="DECISION_INVALID",
            error_type="permanent_error",
            failure_reason="permanent",
            settled_by="failure",
        ),
        blocked("route", unreachable_steps_count=5, error_code="DECISION_INVALID"),
    )
    wrong = next(name for name in names if name not in ("auto",))
    message = scenario.last(events.StepFailed).error_message
    assert repr(wrong) in message
    assert "auto, manager, finance, finish, notify" in message
    assert scenario.shown() == ["validate", "route"]


def test_steps_beside_a_decision_are_not_its_to_create() -> None:
    plan = compiled(decision("one"), "a: one", decision("two"), "b: two")
    begun(plan).when(choose("one", "b")).then(failed("one", error_code="DECISION_INVALID"))


def test_very_many_wrong_names_do_not_make_a_long_message() -> None:
    plan = compiled(decision("d"), *(f"{'s' * 200}{number}: d" for number in range(100)))
    scenario = begun(plan).when(choose("d", *(f"{'x' * 200}{number}" for number in range(100))))
    scenario.then(failed("d"), blocked("d"))
    assert len(scenario.last(events.StepFailed).error_message) < 8_192


@pytest.mark.parametrize(
    "told",
    [succeed("route", result={"create_steps": ["auto"]}), cut("route", 1), cut("route")],
    ids=["success", "batches", "no batches"],
)
def test_a_decision_has_to_report_a_decision(told: Told) -> None:
    scenario = at_the_decision().when(told)
    scenario.then(
        failed("route", error_code="UNEXPECTED_OUTCOME", failure_reason="permanent"), blocked("route")
    )


def test_a_decision_from_another_step_is_a_failure_of_it() -> None:
    scenario = begun(approval()).when(choose("validate", "auto"))
    scenario.then(failed("validate", error_code="UNEXPECTED_OUTCOME"), blocked("validate"))
    plain = begun(compiled("a", "b: a")).when(decline("a"))
    plain.then(failed("a", error_code="UNEXPECTED_OUTCOME"), blocked("a"))


# -- limits --------------------------------------------------------------------------------------


def test_as_many_steps_as_may_be_named() -> None:
    names = [f"s{number}" for number in range(3)]
    plan = compiled(decision("d"), *(f"{name}: d" for name in names))
    scenario = begun(plan).within(decision_steps_max=3).when(choose("d", *names))
    scenario.then(completed("d"), routed("d", *names), *map(enqueued, names))
    scenario = begun(plan).within(decision_steps_max=2).when(choose("d", *names))
    scenario.then(failed("d", error_code="DECISION_STEPS_EXCEEDED", failure_reason="permanent"), blocked("d"))
    assert scenario.last(events.StepFailed).error_message == "3 steps at once, 2 at most"


def test_as_many_decisions_as_may_stand_above_each_other() -> None:
    plan = compiled(
        decision("one"), decision("two: one"), "between: two", decision("three: between"), "a: three"
    )
    scenario = begun(plan).within(decision_depth_max=2)
    scenario.run(choose("one", "two"), choose("two", "between"), succeed("between"))
    scenario.when(choose("three", "a"))
    scenario.then(failed("three", error_code="DECISION_DEPTH_EXCEEDED"), blocked("three"))
    message = scenario.last(events.StepFailed).error_message
    assert message == "3 decisions stand above each other, 2 at most may"


# -- several decisions ---------------------------------------------------------------------------


def nested() -> Plan:
    return compiled(
        decision("outer"),
        decision("inner: outer"),
        "a: inner",
        "b: inner",
        convergence("join: a b"),
        "after: join",
        "other: outer",
        convergence("end: after other"),
    )


def test_decisions_may_follow_each_other() -> None:
    scenario = begun(nested()).when(choose("outer", "inner"))
    scenario.then(
        completed("outer"),
        routed("outer", "inner", created=("inner",), excluded=("other",)),
        enqueued("inner"),
    )
    assert scenario.step("end").status == "absent"
    scenario.when(choose("inner", "a"))
    scenario.then(
        completed("inner"),
        routed("inner", "a", created=("a", "join", "after", "end"), excluded=("b",)),
        enqueued("a"),
    )
    scenario.run(succeed("a"), succeed("join"), succeed("after"))
    scenario.when(succeed("end")).then(completed("end"), task_completed(steps_completed=6))


def test_an_inner_decision_may_decline() -> None:
    scenario = begun(nested()).run(choose("outer", "inner", "other")).when(decline("inner"))
    scenario.then(
        completed("inner"),
        declined("inner", created=("after",), excluded=("a", "b")),
        skipped("join"),
        enqueued("after"),
    )
    scenario.when(succeed("after")).then(completed("after"))
    scenario.when(succeed("other")).then(completed("other"), enqueued("end"))


def test_everything_inside_a_branch_that_is_not_chosen_is_excluded() -> None:
    """The inner convergence too: it belongs to the branch."""
    scenario = begun(nested()).when(choose("outer", "other"))
    scenario.then(
        completed("outer"),
        routed("outer", "other", created=("other", "end"), excluded=("inner", "a", "b", "join", "after")),
        enqueued("other"),
    )
    scenario.when(succeed("other")).then(completed("other"), enqueued("end"))
    scenario.when(succeed("end")).then(completed("end"), task_completed(steps_completed=3))


def test_declining_the_outer_decision_skips_its_convergence_only() -> None:
    scenario = begun(nested()).when(decline("outer"))
    scenario.then(
        completed("outer"),
        declined("outer", created=(), excluded=("inner", "other", "a", "b", "join", "after")),
        skipped("end"),
        task_completed(steps_completed=2),
    )


def test_an_outer_decision_may_name_what_stands_behind_the_inner_one() -> None:
    scenario = begun(nested()).when(choose("outer", "a"))
    scenario.then(
        completed("outer"),
        routed("outer", "a", created=("a", "join", "after", "end"), excluded=("inner", "other", "b")),
        enqueued("a"),
    )
    both = begun(nested()).when(choose("outer", "inner", "a"))
    both.then(completed("outer"), routed("outer", "inner", "a"), enqueued("inner"))
    assert both.step("a").status == "pending", "it exists, and waits for the inner decision"
    both.when(decline("inner")).then(
        completed("inner"), declined("inner", created=(), excluded=("b",)), enqueued("a")
    )


def two_beside() -> Plan:
    return compiled(
        decision("left"), "a: left", decision("right"), "b: right", convergence("join: a b"), "last: join"
    )


@pytest.mark.parametrize(("first", "second"), [("left", "right"), ("right", "left")])
def test_two_decisions_feed_one_convergence(first: str, second: str) -> None:
    branch = {"left": "a", "right": "b"}
    scenario = begun(two_beside()).when(choose(first, branch[first]))
    scenario.then(
        completed(first),
        routed(first, branch[first], created=(branch[first], "join", "last"), excluded=()),
        enqueued(branch[first]),
    )
    # The other branch may still come to exist.
    scenario.when(succeed(branch[first])).then(completed(branch[first]))
    scenario.when(choose(second, branch[second])).then(
        completed(second), routed(second, branch[second], created=(branch[second],)), enqueued(branch[second])
    )
    scenario.when(succeed(branch[second])).then(completed(branch[second]), enqueued("join"))


@pytest.mark.parametrize(("first", "second"), [("left", "right"), ("right", "left")])
def test_one_of_two_decisions_declines_before_or_after_the_other_chooses(first: str, second: str) -> None:
    branch = {"left": "a", "right": "b"}
    before = begun(two_beside()).when(decline(first))
    before.then(completed(first), declined(first, created=(), excluded=(branch[first],)))
    before.when(choose(second, branch[second])).then(
        completed(second),
        routed(second, branch[second], created=(branch[second], "join", "last"), excluded=()),
        enqueued(branch[second]),
    )
    before.when(succeed(branch[second])).then(completed(branch[second]), enqueued("join"))
    after = begun(two_beside()).run(choose(first, branch[first]), succeed(branch[first]))
    after.when(decline(second)).then(
        completed(second), declined(second, created=(), excluded=(branch[second],)), enqueued("join")
    )


@pytest.mark.parametrize(("first", "second"), [("left", "right"), ("right", "left")])
def test_both_decline(first: str, second: str) -> None:
    scenario = begun(two_beside()).run(decline(first)).when(decline(second))
    scenario.then(completed(second), declined(second, created=("last",)), skipped("join"), enqueued("last"))


@pytest.mark.parametrize(("first", "second"), [("left", "right"), ("right", "left")])
def test_a_branch_of_two_decisions_exists_where_one_of_them_names_it(first: str, second: str) -> None:
    plan = compiled(decision("left"), decision("right"), "both: left right", "last: both")
    scenario = (
        begun(plan).when(decline(first)).then(completed(first), declined(first, created=(), excluded=()))
    )
    scenario.when(choose(second, "both")).then(
        completed(second), routed(second, "both", created=("both", "last")), enqueued("both")
    )
    early = begun(plan).when(choose(first, "both")).then(completed(first), routed(first, "both"))
    early.when(decline(second)).then(
        completed(second), declined(second, created=(), excluded=()), enqueued("both")
    )
    neither = begun(plan).run(decline(first)).when(decline(second))
    neither.then(completed(second), declined(second, excluded=("both", "last")), task_completed())


def test_a_convergence_of_a_declined_branch_and_of_one_that_was_never_reached() -> None:
    plan = compiled(
        decision("d"), "a: d", decision("inner: d"), "b: inner", convergence("join: a b"), "last: join"
    )
    scenario = begun(plan).when(decline("d"))
    scenario.then(
        completed("d"),
        declined("d", created=("last",), excluded=("a", "inner", "b")),
        skipped("join"),
        enqueued("last"),
    )


# -- large graphs ----------------------------------------------------------------------------------


def chain_behind(count: int) -> Plan:
    return compiled(decision("d"), "s0: d", *(f"s{each}: s{each - 1}" for each in range(1, count)))


def fan_behind(count: int) -> Plan:
    """Very many branches, brought together with one of another decision that is still to be made."""
    names = [f"s{each}" for each in range(count)]
    branches = (f"{name}: d" for name in names)
    return compiled(
        decision("d"), decision("other"), *branches, "o: other", convergence(f"join: {' '.join(names)} o")
    )


def decisions_behind_each_other(count: int) -> Plan:
    return compiled(
        decision("d"),
        decision("s0: d"),
        *(decision(f"s{each}: s{each - 1}") for each in range(1, count)),
        f"e: s{count - 1}",
    )


@pytest.mark.parametrize("plan_of", [chain_behind, fan_behind, decisions_behind_each_other])
def test_the_work_of_a_decision_grows_with_the_graph(plan_of: Callable[[int], Plan]) -> None:
    def work(count: int) -> int:
        run = Run(plan_of(count))
        run.begin()
        return lines_run(lambda: run.answer(result.Decided))

    assert work(800) < 4.2 * work(200)


# -- failures, repetitions -------------------------------------------------------------------------


def test_a_decision_that_fails_is_tried_again() -> None:
    scenario = at_the_decision().when(fail("route")).then(retry("route"))
    assert scenario.shown() == ["validate", "route"]
    scenario.later(1_000).when(wake()).then(enqueued("route", 2))
    scenario.when(choose("route", "auto")).then(
        completed("route", 2), routed("route", "auto"), enqueued("auto")
    )


def test_a_decision_that_fails_for_good_blocks_the_task() -> None:
    scenario = at_the_decision().when(fail_for_good("route"))
    scenario.then(failed("route"), blocked("route", unreachable_steps_count=5))
    scenario.when(cancel()).then(cancelled())
    assert scenario.step("auto").status == "absent"


def test_a_branch_that_fails_for_good_counts_what_it_holds_up() -> None:
    """What was excluded is held up by nobody."""
    plan = compiled(decision("d"), "a: d", "b: d", "both: a b", "after: both", convergence("join: a b"))
    scenario = begun(plan).run(choose("d", "a")).when(fail_for_good("a"))
    scenario.then(failed("a"), blocked("a", unreachable_steps_count=1))


def test_a_decision_is_reported_twice() -> None:
    scenario = at_the_decision().run(choose("route", "auto"))
    scenario.when(choose("route", "auto")).then_rejected("DUPLICATE")
    scenario.when(choose("route", "manager")).then_rejected("DUPLICATE")
    scenario.when(decline("route")).then_rejected("DUPLICATE")
    scenario.when(fail("route")).then(refused("route", outcome="failure", refusal="step_finished"))
    assert scenario.step("manager").status == "excluded"


def test_a_decision_comes_too_late() -> None:
    plan = compiled(step("d", type="decision", retry=AT_ONCE), "a: d", "b: d")
    scenario = begun(plan).when(lose("d")).then(retry("d"), enqueued("d", 2))
    scenario.when(choose("d", "a", attempt=1)).then(
        refused("d", 1, outcome="decision", refusal="stale_attempt")
    )
    scenario.when(choose("d", "a", attempt=1)).then_rejected("STALE")
    scenario.when(choose("d", "b")).then(completed("d", 2), routed("d", "b"), enqueued("b"))
    assert scenario.step("a").status == "excluded"


def test_nobody_reports_about_steps_that_do_not_exist() -> None:
    scenario = at_the_decision()
    scenario.when(succeed("auto", 1).by(lease_token="x")).then_rejected("UNKNOWN_STEP")
    scenario.run(choose("route", "manager"))
    scenario.when(succeed("auto", 1).by(lease_token="x")).then_rejected("UNKNOWN_STEP")
    scenario.when(succeed("manager", 0).by(lease_token="")).then_rejected("WRONG_TOKEN")


def test_a_task_is_cancelled_before_its_decision() -> None:
    scenario = at_the_decision().when(cancel()).then(cancelled("route"))
    assert scenario.statuses() == {
        "validate": "complete",
        "route": "cancelled",
        **dict.fromkeys(("auto", "manager", "finance", "finish", "notify"), "absent"),
    }
    assert scenario.shown() == ["validate", "route"]
    scenario.when(choose("route", "auto")).then(refused("route", refusal="task_finished", outcome="decision"))
