"""Forks of tasks that operators have had in hand, and operators who have a fork in hand."""

from __future__ import annotations

import json

import pytest

from stepweave_orchestrator.core import build_dispatch
from stepweave_orchestrator.core.fork import taken_over
from stepweave_orchestrator.core.operator_commands import (
    AnyOperatorCommand,
    CompleteStep,
    GiveUpTask,
    PauseTask,
    ResetStep,
    ResolveStep,
    ResolveTask,
    ResumeTask,
    SkipStep,
)
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas import events
from stepweave_schemas.raw import raw
from stepweave_schemas.result import Checkpointed

from .forking import Run
from .templates import AT_ONCE, checked, compiled, diamond, step
from .test_fork import ROUTES, SHOP, batches, blocked_diamond, forked, reasons, routed, run_until

WHO = {"by": "ada", "reason": "why not"}
PAUSE, RESUME = PauseTask(**WHO), ResumeTask(**WHO)


def complete(name: str, value: str = '{"by":"hand"}') -> CompleteStep:
    return CompleteStep(step=name, result=value, **WHO)


# -- what operators have settled is reused ---------------------------------------------------------


def test_a_result_that_an_operator_has_given_is_reused_like_any_other() -> None:
    original = blocked_diamond()
    original.tell(complete("c"))
    original.fail("d")
    fork = forked(original)
    assert fork.reused() == {"a", "b", "c"}
    (event,) = [one for one in fork.history if isinstance(one, events.StepReused) and one.step_name == "c"]
    assert (event.status, event.from_attempt, bytes(event.result)) == ("complete", 1, b'{"by":"hand"}')
    dispatch = build_dispatch(fork.state, "d", 1, fork.about("d")["lease_token"], "there")
    assert dispatch is not None
    assert json.loads(bytes(dispatch.dependency_results["c"])) == {"by": "hand"}
    assert not fork.state.stepped_in, "nobody has stepped in here"
    assert fork.finish().given_out == {"d": 1}


@pytest.mark.parametrize("command", [ResolveStep(step="b", **WHO), SkipStep(step="b", **WHO)])
def test_a_step_that_was_resolved_or_skipped_stays_so(command: AnyOperatorCommand) -> None:
    plan = compiled("a", step("b: a", skippable=True), "c: b")
    original = run_until(Run(plan).create(), "a")
    original.fail("b")
    original.tell(command)
    original.fail("c")
    status = original.state.steps[1].status
    fork = forked(original)
    assert fork.reused() == {"a", "b"}
    assert (fork.state.steps[1].status, fork.state.steps[1].result) == (status, None)
    assert task_response(fork.state).completed_steps == 2
    assert reasons(original) == {"c": "not_done"}
    assert fork.finish().given_out == {"c": 1}
    again = forked(original, "b")
    assert again.reused() == {"a"}
    assert again.finish().given_out == {"b": 1, "c": 1}


def test_what_was_settled_before_its_dependencies_is_reused_once_these_are() -> None:
    original = Run(diamond()).create()
    original.tell(complete("c"))
    original.answer("a")
    assert forked(original).reused() == {"a", "c"}
    early = Run(diamond()).create()
    early.tell(complete("c"))
    assert reasons(early) == {"a": "not_done", "b": "not_done", "c": "follows", "d": "not_done"}
    assert forked(early).finish().given_out == {"a": 1, "b": 1, "c": 1, "d": 1}


@pytest.mark.parametrize(
    ("command", "statuses"),
    [
        (complete("choose", '{"create_steps":["right"]}'), {"right": "pending", "join": "pending"}),
        (complete("choose", '{"create_steps":[]}'), {"join": "skipped"}),
        (ResolveStep(step="choose", **WHO), {"join": "skipped"}),
    ],
)
def test_a_decision_of_an_operator_stands(command: AnyOperatorCommand, statuses: dict[str, str]) -> None:
    original = Run(compiled(*ROUTES, "last: join")).create()
    original.fail("choose")
    original.tell(command)
    original.fail(original.awaited()[0])
    fork = forked(original)
    assert fork.reused() == {"choose"}
    states = {one.name: one.current_state for one in task_response(fork.state).steps}
    assert {name for name in states if name not in ("choose", "last")} == statuses.keys()
    assert states["join"] == statuses["join"]
    assert fork.finish().state.status == "complete"
    anew = Run(original.plan, "anew")
    anew.choices["choose"] = ("left",)
    anew.fork(original, "choose")
    assert anew.finish().given_out == {"choose": 1, "left": 1, "join": 1, "last": 1}


def test_a_batchable_step_that_was_resolved_cuts_nothing_again() -> None:
    original = Run(compiled(*batches())).create()
    original.fail("cut")
    original.tell(ResolveStep(step="cut", **WHO))
    original.answer("part_001")
    original.fail("sum")
    fork = forked(original)
    assert fork.reused() == {"cut", "part_001"}
    assert fork.finish().given_out == {"sum": 1}


@pytest.mark.parametrize("strategy", ["isolate", "fail_fast", "continue_on_failure"])
def test_batches_that_an_operator_has_settled_are_reused_wherever_they_stand(strategy: str) -> None:
    original = Run(compiled(*batches(parallelism=1, failure_strategy=strategy)))
    original.cursors["cut"] = 5
    run_until(original.create(), "cut", "part_001")
    original.tell(complete("part_003"))
    original.tell(ResolveStep(step="part_005", **WHO))
    fork = forked(original)
    assert fork.reused() == {"cut", "part_001", "part_003", "part_005"}
    assert fork.awaited() == ["part_002"]
    fork.answer("part_002")
    assert fork.awaited() == ["part_004"]
    assert fork.finish().given_out == {"part_002": 1, "part_004": 1, "sum": 1}
    assert fork.state.status == "complete"


def test_a_failure_that_holds_the_task_up_is_not_put_up_with() -> None:
    """The last batch to fail; once an operator has made another one succeed, it is."""
    original = Run(compiled(*batches(failure_strategy="continue_on_failure")))
    original.cursors["cut"] = 2
    original.create().answer("cut")
    original.fail("part_001")
    original.fail("part_002")
    assert forked(original).awaited() == ["part_001", "part_002"]
    original.tell(complete("part_001"))
    original.fail("sum")
    fork = forked(original)
    assert fork.reused() == {"cut", "part_001", "part_002"}
    assert fork.state.steps[fork.state.number_of("part_002")].status == "error"
    assert fork.finish().state.status == "complete"


def test_a_step_that_was_reset_has_not_been_done() -> None:
    original = blocked_diamond()
    original.tell(ResetStep(step="c", **WHO))
    assert forked(original).reused() == {"a", "b"}
    original.answer("c")
    assert forked(original).reused() == {"a", "b", "c"}


# -- forks of paused tasks -------------------------------------------------------------------------


def test_a_fork_of_a_paused_task_runs() -> None:
    """What the original holds back the fork gives out, from its beginning; the original stands for its steps."""
    original = run_until(Run(diamond()).create(), "a")
    original.tell(PAUSE)
    original.tell(Checkpointed(**original.about("c"), cursor=raw("7"), items_processed=7))
    assert original.state.steps[2].status == "pending"
    fork = forked(original)
    assert (fork.state.status, fork.reused(), fork.awaited()) == ("steps_in_process", {"a"}, ["b", "c"])
    assert fork.state.steps[2].checkpoint is None
    assert all(one.undone_by_original for one in taken_over(original.past(), ()).values())
    assert fork.finish().state.status == "complete"
    original.tell(RESUME)
    assert original.finish().state.status == "complete", "the original goes on as if nothing had been"


def test_a_fork_of_a_task_that_was_paused_before_it_began() -> None:
    original = Run(compiled("a", "b: a", concurrency={"limit": 1})).create()
    original.tell(PAUSE)
    fork = forked(original)
    assert fork.reused() == set()
    fork.admit()
    assert fork.finish().state.status == "complete"


# -- operators and the fork itself -----------------------------------------------------------------


def test_a_fork_that_waits_for_its_slot_is_paused_and_resumed() -> None:
    plan = compiled(*batches(parallelism=2), concurrency={"limit": 1})
    original = Run(plan)
    original.cursors["cut"] = 4
    original.create().admit()
    run_until(original, "cut", "part_001")
    original.cancel()
    fork = forked(original)
    fork.tell(PAUSE)
    fork.tell(complete("part_003"))
    assert fork.awaited() == []
    fork.tell(RESUME)
    fork.admit()
    assert fork.awaited() == ["part_002", "part_004"]
    assert fork.finish().state.status == "complete"


def test_what_a_fork_runs_is_operated_as_in_any_task_and_what_it_reuses_is_done() -> None:
    original = Run(compiled(*batches(parallelism=1, failure_strategy="fail_fast")))
    original.cursors["cut"] = 4
    run_until(original.create(), "cut", "part_001")
    original.tell(complete("part_003"))
    fork = forked(original)
    fork.fail("part_002")
    assert fork.state.status == "blocked_by_failures"
    refusal = fork.ask(complete("part_001"))
    assert not isinstance(refusal, list) and "it is done already" in refusal.reason
    fork.tell(ResetStep(step="part_002", **WHO))
    assert fork.awaited() == ["part_002"]
    fork.answer("part_002")
    assert fork.awaited() == ["part_004"]
    assert fork.finish().state.status == "complete"


# -- undoing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["given up", "resolved"])
def test_who_undoes_what_was_done_before_operators_ended_the_original(ending: str) -> None:
    """One that was given up leaves it behind; one that was resolved stands."""
    original = run_until(Run(compiled(*SHOP, on_failure="block")).create(), "reserve", "note")
    original.fail("pay")
    original.tell(complete("pay"))
    original.fail("ship")
    original.tell(GiveUpTask(**WHO) if ending == "given up" else ResolveTask(**WHO))
    fork = Run(compiled(*SHOP, version="2.0.0"), "fork")
    fork.fork(original)
    assert fork.reused() == {"reserve", "pay", "note"}
    fork.fail("ship")
    undone = [name for name in fork.given_out if name.startswith("compensate:")]
    assert undone == (["compensate:pay"] if ending == "given up" else [])
    assert fork.finish().state.status == "error"


def test_what_an_operator_has_resolved_a_fork_does_not_undo() -> None:
    """Of a batch neither: a worker that was resolved has done nothing."""
    cut, part, total = batches()
    undo = {"compensation": {"handler": {"callable": "undo"}}}
    original = Run(compiled(cut, {**part, **undo}, total))
    original.cursors["cut"] = 3
    run_until(original.create(), "cut", "part_001")
    original.tell(ResolveStep(step="part_002", **WHO))
    original.cancel()
    fork = forked(original)
    fork.answer("part_003")
    fork.fail("sum")
    assert fork.awaited() == ["compensate:part_001", "compensate:part_003"]
    assert fork.finish().state.compensation_status == "complete"


# -- events and schemas of the users' own ----------------------------------------------------------


def test_a_reused_step_publishes_nothing() -> None:
    """Its events were published by the task that ran it."""
    published = [{"name": "order.seen", "condition": "always"}]
    plan = compiled(step("a", publishes_events=published), step("b: a", publishes_events=published))
    original = run_until(Run(plan).create(), "a")
    original.fail("b")
    fork = forked(original).finish()
    assert [one.step_name for one in original.history if isinstance(one, events.DomainPublished)] == [
        "a",
        "b",
    ]
    assert [one.step_name for one in fork.history if isinstance(one, events.DomainPublished)] == ["b"]


NUMBER = {"type": "object", "properties": {"of": {"type": "integer"}}}
TEXT = {"type": "object", "properties": {"of": {"type": "string"}}, "required": ["of"]}


def test_a_result_that_does_not_fit_another_version_is_not_reused() -> None:
    original = Run(compiled("a", "b: a", "c: b")).create().finish()
    fits = checked("a", step("b: a", result_schema=TEXT), step("c: b", result_schema=NUMBER), version="2.0.0")
    assert reasons(original, plan=fits) == {"c": "misfit"}
    misfits = checked(
        step("a", result_schema=NUMBER), "b: a", step("c: b", result_schema=NUMBER), version="3.0.0"
    )
    assert reasons(original, plan=misfits) == {"a": "misfit", "b": "follows", "c": "follows"}


def test_decisions_and_batches_have_to_fit_too() -> None:
    original = routed("left").finish()
    _, left, right, join = ("choose", "left: choose", "right: choose", "join: left right")
    new = checked(
        step("choose", type="decision", result_schema=NUMBER),
        left,
        right,
        step(join, type="deferred_convergence"),
        version="2.0.0",
    )
    assert reasons(original, plan=new)["choose"] == "misfit"
    original = Run(compiled(*batches()))
    original.cursors["cut"] = 2
    original.create().answer("cut")
    original.tell(complete("part_001", '{"of":7}'))
    original.answer("part_002")
    cut, part, total = batches()
    new = checked(cut, {**part, "result_schema": TEXT}, total, version="2.0.0")
    assert reasons(original, plan=new) == {"part_001": "misfit", "sum": "not_done"}


def test_what_an_operator_said_is_checked_like_any_result() -> None:
    plan = checked(step("a", result_schema=TEXT, retry=AT_ONCE), "b: a")
    original = Run(plan).create()
    original.tell(complete("a", '{"of":"seven"}'))
    original.fail("b")
    assert forked(original).reused() == {"a"}
    new = checked(step("a", result_schema=NUMBER, retry=AT_ONCE), "b: a", version="2.0.0")
    assert reasons(original, plan=new) == {"a": "misfit", "b": "not_done"}


def test_a_placeholder_and_a_resolved_step_have_no_result_to_check() -> None:
    original = Run(compiled(*batches()))
    original.cursors["cut"] = 0
    original.create().answer("cut")
    original.answer("part_001")
    cut, part, total = batches()
    new = checked(cut, {**part, "result_schema": NUMBER}, total, version="2.0.0")
    assert reasons(original, plan=new) == {"sum": "not_done"}
    resolved = Run(compiled("a", "b: a")).create()
    resolved.tell(ResolveStep(step="a", **WHO))
    new = checked(step("a", result_schema=NUMBER), "b: a", version="2.0.0")
    assert reasons(resolved, plan=new) == {"b": "not_done"}
