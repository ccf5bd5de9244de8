"""A fork reuses what another task has come to, and runs the rest; see `stepweave_orchestrator.core.fork`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core import Plan, Rejection, build_dispatch
from stepweave_orchestrator.core.commands import ForkTask, Limits
from stepweave_orchestrator.core.fork import reused_steps, taken_over
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas import events

from .forking import Run, fork_command
from .templates import AT_ONCE, compiled, diamond, step


def undoable(text: str, **settings: Any) -> dict[str, Any]:
    name = text.partition(":")[0]
    return step(text, compensation={"handler": {"callable": f"undo_{name}"}}, **settings)


def batches(**config: Any) -> tuple[Any, ...]:
    return (
        step("cut", type="batchable", batch_config=config),
        step("part: cut", type="batch_worker", retry=AT_ONCE),
        step("sum: part", type="deferred_convergence"),
    )


def run_until(run: Run, *names: str) -> Run:
    """These steps end, in this order."""
    for name in names:
        run.answer(name)
    return run


def blocked_diamond() -> Run:
    """`a` and `b` are done, `c` has failed."""
    run = run_until(Run(diamond()).create(), "a", "b")
    run.fail("c")
    assert run.state.status == "blocked_by_failures"
    return run


def forked(original: Run, *from_steps: str, plan: Plan | None = None, **fields: Any) -> Run:
    run = Run(plan or original.plan, "fork", answers=original.plan)
    run.fork(original, *from_steps, **fields)
    return run


def reasons(original: Run, *from_steps: str, plan: Plan | None = None) -> dict[str, str]:
    run = Run(plan or original.plan, "fork", answers=original.plan)
    return {one.step: one.why for one in run.fork(original, *from_steps)}


def refusal_of(original: Run, *from_steps: str, plan: Plan | None = None, **limits: int) -> str:
    chosen = plan or original.plan
    command = fork_command(chosen, original, original.past(), from_steps)
    decision = Run(chosen, "fork").ask(command, limits=Limits(**limits))
    assert isinstance(decision, Rejection), decision
    assert decision.code == "CONFLICT"
    return decision.reason


# -- what is reused --------------------------------------------------------------------------------


def test_what_is_done_is_reused_and_what_has_failed_runs_anew() -> None:
    original = blocked_diamond()
    fork = forked(original)
    assert [event.TYPE for event in fork.history] == [
        "task.created",
        "step.reused",
        "step.reused",
        "step.enqueued",
    ]
    assert reused_steps(fork.state) == ["a", "b"]
    assert fork.awaited() == ["c"]
    assert reasons(original) == {"c": "not_done", "d": "not_done"}
    fork.finish()
    assert fork.state.status == "complete"
    assert fork.outcome() == Run(diamond()).create().finish().outcome()
    assert fork.given_out == {"c": 1, "d": 1}


def test_a_named_step_runs_anew_with_all_that_depends_on_it() -> None:
    original = Run(diamond()).create().finish()
    fork = Run(original.plan, "fork")
    run = fork.fork(original, "b")
    assert [(one.step, one.why, one.ran_before) for one in run] == [
        ("b", "named", True),
        ("d", "follows", True),
    ]
    assert fork.reused() == {"a", "c"}


def test_the_history_of_a_fork_stands_on_its_own() -> None:
    """The results are in its events, with where they come from; dependents read them."""
    original = blocked_diamond()
    fork = forked(original, context=b'{"order":8}')
    event = fork.history[1]
    assert isinstance(event, events.StepReused)
    a = original.state.steps[0]
    assert (event.from_task_id, event.from_step_uuid) == (original.state.task_id, a.uuid)
    assert (event.from_attempt, bytes(event.result)) == (1, b'{"of": "a"}')
    fork.answer("c")
    token = fork.state.steps[3].lease_token
    dispatch = build_dispatch(fork.state, "d", 1, token, "there")
    assert dispatch is not None
    assert {name: json.loads(bytes(one)) for name, one in dispatch.dependency_results.items()} == {
        name: {"of": name} for name in "abc"
    }
    assert bytes(dispatch.context) == b'{"order":8}'


def test_a_fork_says_what_it_is_a_fork_of() -> None:
    original = blocked_diamond()
    fork = forked(original, "b")
    shown = task_response(fork.state)
    assert shown.forked_from is not None
    assert shown.forked_from.task_uuid == original.state.task_id
    assert shown.forked_from.stream_version == original.state.version
    assert shown.forked_from.from_steps == ("b",)
    assert shown.steps[0].reused_from_step_uuid == original.state.steps[0].uuid
    assert (shown.steps[0].current_state, shown.steps[0].attempts) == ("complete", 0)
    assert shown.steps[1].reused_from_step_uuid is None


def test_a_fork_of_a_fork_names_the_task_that_ran_the_step() -> None:
    original = blocked_diamond()
    second = forked(original)
    second.fail("c")
    third = Run(original.plan, "third")
    third.fork(second)
    (first, *_) = [event for event in third.history if isinstance(event, events.StepReused)]
    assert first.from_task_id == original.state.task_id
    assert first.from_step_uuid == original.state.steps[0].uuid
    assert third.finish().state.status == "complete"


@pytest.mark.parametrize("answers", [[], ["a"], ["a", "b"]])
def test_a_fork_of_a_task_that_runs_or_was_cancelled(answers: list[str]) -> None:
    original = run_until(Run(diamond()).create(), *answers)
    assert forked(original).reused() == set(answers)
    original.cancel()
    fork = forked(original)
    assert fork.reused() == set(answers)
    assert fork.finish().state.status == "complete"


def test_where_everything_is_done_a_step_has_to_be_named() -> None:
    assert "every step is done" in refusal_of(Run(diamond()).create().finish())


def test_a_request_that_is_repeated_is_the_same_fork() -> None:
    original = blocked_diamond()
    command = fork_command(original.plan, original, original.past(), ["b"])
    fork = Run(original.plan, "fork")
    fork.tell(command)
    assert fork.ask(command) == []
    other = msgspec.structs.replace(command.created, request_digest="sha256:two")
    refusal = fork.ask(ForkTask(other, {}, original.plan.ref))
    assert isinstance(refusal, Rejection)
    assert refusal.code == "CONFLICT"


def test_a_fork_takes_over_no_more_than_fits_into_one_append() -> None:
    original = blocked_diamond()
    assert "2 steps with" in refusal_of(original, reused_steps_max=1)
    assert "at most 2 steps with 10 bytes" in refusal_of(original, reused_steps_max=2, reused_bytes_max=10)


# -- another version -------------------------------------------------------------------------------


def test_a_step_is_reused_only_where_all_that_it_depends_on_is() -> None:
    original = Run(diamond()).create().finish()
    new = compiled("a", "audit: a", "b: a", "c: audit", "d: b c", version="2.0.0")
    assert reasons(original, plan=new) == {"audit": "new", "c": "follows", "d": "follows"}
    fork = forked(original, plan=new)
    assert fork.reused() == {"a", "b"}
    assert fork.finish().state.status == "complete"


def test_a_version_without_the_step_that_failed_may_be_at_its_end() -> None:
    original = blocked_diamond()
    fork = forked(original, plan=compiled("a", "b: a", version="2.0.0"))
    assert fork.state.status == "complete"
    assert fork.history[-1].TYPE == "task.completed"
    assert fork.given_out == {}


def test_a_step_of_another_type_is_not_reused() -> None:
    original = run_until(Run(compiled("a", "b: a")).create(), "a", "b")
    new = compiled(step("a", type="decision"), "b: a", version="2.0.0")
    assert reasons(original, plan=new) == {"a": "changed", "b": "undecided"}


# -- decisions, batches, signals, children ---------------------------------------------------------


ROUTES = (
    step("choose", type="decision"),
    "left: choose",
    "right: choose",
    step("join: left right", type="deferred_convergence"),
)


def routed(*chosen: str) -> Run:
    run = Run(compiled(*ROUTES))
    run.choices["choose"] = chosen
    return run.create()


def test_a_decision_is_decided_as_it_was() -> None:
    original = run_until(routed("left"), "choose")
    original.fail("left")
    fork = forked(original)
    assert [event.TYPE for event in fork.history[1:]] == ["step.reused", "decision.routed", "step.enqueued"]
    assert reasons(original) == {"left": "not_done", "join": "not_done"}
    assert {task.name for task in task_response(fork.state).steps} == {"choose", "left", "join"}
    assert fork.finish().state.status == "complete"


def test_a_decision_that_runs_anew_may_choose_otherwise() -> None:
    original = routed("left").finish()
    assert reasons(original, "choose") == {
        "choose": "named",
        "left": "undecided",
        "right": "undecided",
        "join": "undecided",
    }
    fork = Run(original.plan, "fork")
    fork.choices["choose"] = ("right",)
    fork.fork(original, "choose")
    assert fork.finish().given_out == {"choose": 1, "right": 1, "join": 1}


def test_a_decision_runs_anew_where_its_choice_is_gone() -> None:
    original = routed("left", "right").finish()
    new = compiled(
        step("choose", type="decision"),
        "left: choose",
        step("join: left", type="deferred_convergence"),
        version="2.0.0",
    )
    assert reasons(original, plan=new)["choose"] == "choice_gone"


def test_a_step_that_no_branch_leads_to_cannot_run_anew() -> None:
    reason = refusal_of(routed("left").finish(), "right")
    assert "'right' would not run" in reason
    assert "fork from the decision" in reason


def test_a_convergence_that_was_skipped_is_skipped_again() -> None:
    original = Run(compiled(*ROUTES, "last: join"))
    original.choices["choose"] = ()
    original.create().answer("choose")
    original.fail("last")
    fork = forked(original)
    assert [event.TYPE for event in fork.history[1:4]] == ["step.reused", "decision.declined", "step.skipped"]
    assert fork.finish().given_out == {"last": 1}


def test_batches_are_cut_as_they_were_and_those_that_failed_run_anew() -> None:
    original = Run(compiled(*batches(parallelism=2)))
    original.cursors["cut"] = 5
    run_until(original.create(), "cut", "part_001")
    original.fail("part_002")
    run_until(original, "part_003", "part_004", "part_005")
    assert original.state.status == "blocked_by_failures"
    fork = forked(original)
    assert fork.reused() == {"cut", "part_001", "part_003", "part_004", "part_005"}
    assert fork.awaited() == ["part_002"]
    assert fork.state.steps[fork.state.number_of("part_002")].cursor == "1"
    assert fork.finish().given_out == {"part_002": 1, "sum": 1}


def test_a_fork_goes_on_with_a_batch_within_its_parallelism() -> None:
    """Reused workers stand anywhere among the others, and take nobody's place."""
    original = Run(compiled(*batches(parallelism=3)))
    original.cursors["cut"] = 7
    run_until(original.create(), "cut", "part_002", "part_003", "part_005")
    fork = forked(original)
    assert fork.awaited() == ["part_001", "part_004", "part_006"]
    fork.answer("part_004")
    assert fork.awaited() == ["part_001", "part_006", "part_007"]
    assert fork.finish().state.status == "complete"


def test_one_batch_of_many_may_be_named() -> None:
    original = Run(compiled(*batches()))
    original.cursors["cut"] = 3
    original.create().finish()
    assert reasons(original, "part_002") == {"part_002": "named", "sum": "follows"}
    assert reasons(original, "part") == {
        "part_001": "named",
        "part_002": "named",
        "part_003": "named",
        "sum": "follows",
    }


def test_a_batch_that_failed_and_was_put_up_with_is_put_up_with() -> None:
    original = Run(compiled(*batches(failure_strategy="continue_on_failure")))
    original.cursors["cut"] = 3
    original.create().answer("cut")
    original.fail("part_002")
    original.finish()
    assert original.state.status == "complete"
    fork = forked(original, "sum")
    assert "part_002" in fork.reused()
    assert task_response(fork.state).failed_steps == 1
    assert fork.finish().given_out == {"sum": 1}
    assert fork.state.status == "complete"
    assert forked(original, "part_001").awaited() == ["part_001", "part_002"]


def test_two_batches_in_one_fork_keep_their_workers_apart() -> None:
    plan = compiled(
        step("one", type="batchable"),
        step("ones: one", type="batch_worker"),
        step("two", type="batchable"),
        step("twos: two", type="batch_worker"),
        step("sum: ones twos", type="deferred_convergence"),
    )
    original = Run(plan)
    original.cursors |= {"one": 2, "two": 3}
    run_until(original.create(), "one", "two", "ones_001", "ones_002", "twos_002")
    fork = forked(original)
    assert fork.awaited() == ["twos_001", "twos_003"]
    assert fork.finish().outcome() == original.finish().outcome()


def test_a_placeholder_is_reused_too() -> None:
    original = Run(compiled(*batches()))
    original.cursors["cut"] = 0
    original.create().answer("cut")
    original.answer("part_001")
    original.fail("sum")
    fork = forked(original)
    assert fork.reused() == {"cut", "part_001"}
    assert fork.finish().state.status == "complete"


def test_signals_and_children_that_came_to_an_end_are_not_asked_for_again() -> None:
    plan = compiled(
        step("approve", wait_for_signal={"name": "approval"}, handler={"callable": "stepweave:signal"}),
        step("refund", child_task={"name": "refund"}, handler={"callable": "stepweave:child_task"}),
        "tell: approve refund",
    )
    original = run_until(Run(plan).create(), "approve", "refund")
    original.fail("tell")
    fork = forked(original)
    assert fork.reused() == {"approve", "refund"}
    assert fork.finish().given_out == {"tell": 1}
    again = forked(original, "refund")
    assert again.given_out == {"refund": 1}
    assert again.state.steps[1].child_task_id != original.state.steps[1].child_task_id, (
        "the fork starts a child of its own"
    )


# -- gates -----------------------------------------------------------------------------------------


def test_a_fork_waits_for_a_slot_of_its_own_and_begins_where_it_stands() -> None:
    """What it reuses is done before; the batch goes on behind the workers that are."""
    plan = compiled(*batches(parallelism=2), concurrency={"limit": 1})
    original = Run(plan)
    original.cursors["cut"] = 4
    original.create().admit()
    run_until(original, "cut", "part_001")
    original.cancel()
    fork = forked(original)
    assert fork.history[-1].TYPE == "concurrency.requested"
    assert fork.reused() == {"cut", "part_001"}
    assert fork.awaited() == []
    fork.admit()
    assert fork.awaited() == ["part_002", "part_003"]
    assert fork.finish().state.status == "complete"
    assert fork.given_out == {"part_002": 1, "part_003": 1, "part_004": 1, "sum": 1}


def test_a_fork_that_has_nothing_left_to_run_waits_for_no_slot() -> None:
    original = run_until(Run(diamond()).create(), "a", "b")
    fork = forked(original, plan=compiled("a", "b: a", version="2.0.0", concurrency={"limit": 1}))
    assert fork.state.status == "complete"


# -- undoing ---------------------------------------------------------------------------------------


SHOP = (undoable("reserve"), undoable("pay: reserve"), "note: reserve", "ship: pay note")


def test_what_was_undone_is_not_reused() -> None:
    original = run_until(Run(compiled(*SHOP)).create(), "reserve", "pay", "note")
    original.fail("ship")
    assert original.state.status == "compensating"
    assert forked(original).reused() == set(), "what is about to be undone neither"
    assert original.finish().outcome()["status"] == "error"
    assert reasons(original) == {
        "reserve": "undone",
        "pay": "undone",
        "note": "follows",
        "ship": "not_done",
    }


@pytest.mark.parametrize("ending", ["fail", "cancel"])
def test_a_fork_undoes_what_its_original_has_left_behind(ending: str) -> None:
    """With the key that it was done with."""
    original = run_until(Run(compiled(*SHOP, on_failure="fail")).create(), "reserve", "pay", "note")
    if ending == "fail":
        original.fail("ship")
    else:
        original.cancel()
    fork = Run(compiled(*SHOP, version="2.0.0"), "fork")
    fork.fork(original)
    assert fork.reused() == {"reserve", "pay", "note"}
    fork.fail("ship")
    assert fork.awaited() == ["compensate:pay"]
    token = fork.about("compensate:pay")["lease_token"]
    dispatch = build_dispatch(fork.state, "compensate:pay", 1, token, "there")
    assert dispatch is not None
    assert dispatch.compensates_step_uuid == original.state.steps[original.plan.index["pay"]].uuid
    assert json.loads(bytes(dispatch.dependency_results["pay"])) == {"of": "pay"}
    fork.finish()
    assert fork.state.status == "error"
    assert fork.state.compensation_status == "complete"


@pytest.mark.parametrize("ending", ["blocked", "going on", "complete"])
def test_a_fork_leaves_to_its_original_what_that_stands_for(ending: str) -> None:
    original = run_until(Run(compiled(*SHOP, on_failure="block")).create(), "reserve", "pay", "note")
    if ending == "blocked":
        original.fail("ship")
    elif ending == "complete":
        original.answer("ship")
    fork = Run(compiled(*SHOP, version="2.0.0"), "fork")
    fork.fork(original, "ship")
    fork.fail("ship")
    assert fork.state.status == "error"
    assert not [name for name in fork.given_out if name.startswith("compensate:")]
    assert all(one.undone_by_original for one in taken_over(fork.past(), ()).values())


def test_of_a_batch_only_what_the_fork_did_itself_is_undone() -> None:
    cut, part, total = batches()
    plan = compiled(
        cut, {**part, "compensation": {"handler": {"callable": "undo"}}}, total, on_failure="block"
    )
    original = Run(plan)
    original.cursors["cut"] = 3
    run_until(original.create(), "cut", "part_001", "part_003")
    original.fail("part_002")
    new = compiled(cut, {**part, "compensation": {"handler": {"callable": "undo"}}}, total, version="2.0.0")
    fork = Run(new, "fork")
    fork.fork(original)
    fork.answer("part_002")
    fork.fail("sum")
    assert fork.awaited() == ["compensate:part_002"]
    fork.finish()
    assert fork.state.compensation_status == "complete"
