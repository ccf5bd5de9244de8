"""Which step runs when, in graphs of every shape."""

from __future__ import annotations

import msgspec
import pytest

from stepweave_orchestrator.core import compile_plan

from .scenario import (
    T0_MS,
    Scenario,
    begun,
    completed,
    create,
    created,
    enqueued,
    given,
    succeed,
    task_completed,
)
from .templates import compiled, diamond, step, template


def names(scenario: Scenario, numbers: tuple[int, ...]) -> list[str]:
    return [scenario.plan.steps[number].name for number in numbers]


def test_a_chain_runs_step_by_step() -> None:
    begun(compiled("a", "b: a", "c: b")).when(succeed("a")).then(completed("a"), enqueued("b")).when(
        succeed("b")
    ).then(completed("b"), enqueued("c")).when(succeed("c")).then(
        completed("c"), task_completed(steps_completed=3)
    )


def test_parallel_steps_are_given_out_at_once() -> None:
    (
        begun(compiled("a", "b", "c"))
        .when(succeed("b"))
        .then(completed("b"))
        .when(succeed("c"))
        .then(completed("c"))
        .when(succeed("a"))
        .then(completed("a"), task_completed())
    )


@pytest.mark.parametrize(("first", "second"), [("b", "c"), ("c", "b")])
def test_a_diamond_joins_after_both_branches(first: str, second: str) -> None:
    scenario = (
        begun(diamond())
        .when(succeed("a"))
        .then(completed("a"), enqueued("b"), enqueued("c"))
        .when(succeed(first))
        .then(completed(first))
    )
    assert scenario.statuses()["d"] == "pending"
    scenario.when(succeed(second)).then(completed(second), enqueued("d"))
    scenario.later(70).when(succeed("d")).then(
        completed("d"), task_completed(steps_completed=4, duration_ms=70, task_name="scenario")
    )
    assert scenario.status == "complete"
    assert scenario.state.completed_at_ms == T0_MS + 70


def test_steps_may_stand_in_any_order_in_the_template() -> None:
    (
        begun(compiled("d: b c", "c: a", "a", "b: a"))
        .when(succeed("a"))
        .then(completed("a"), enqueued("c"), enqueued("b"))
        .when(succeed("b"))
        .then(completed("b"))
        .when(succeed("c"))
        .then(completed("c"), enqueued("d"))
        .when(succeed("d"))
        .then(completed("d"), task_completed())
    )


def test_a_graph_with_several_roots_shortcuts_and_leaves() -> None:
    plan = compiled("a", "b", "c: a b", "d: a", "e: c a d", "f: b", "g: f e")
    (
        begun(plan)
        .when(succeed("b"))
        .then(completed("b"), enqueued("f"))
        .when(succeed("f"))
        .then(completed("f"))
        .when(succeed("a"))
        .then(completed("a"), enqueued("c"), enqueued("d"))
        .when(succeed("d"))
        .then(completed("d"))
        .when(succeed("c"))
        .then(completed("c"), enqueued("e"))
        .when(succeed("e"))
        .then(completed("e"), enqueued("g"))
        .when(succeed("g"))
        .then(completed("g"), task_completed())
    )


def test_a_dependency_named_twice_counts_once() -> None:
    begun(compiled("a", "b: a a")).when(succeed("a")).then(completed("a"), enqueued("b"))


def test_every_try_has_a_lease_token_of_its_own() -> None:
    scenario = begun(compiled("a", "b", "c"))
    tokens = {scenario.token(name) for name in "abc"}
    assert len(tokens) == 3
    assert all(len(token) == 24 for token in tokens)
    # The same task at the same moment, but other random bits: other tokens.
    again = given(scenario.plan).when(create(scenario.plan), random="0" * 24)
    again.then(created(), enqueued("a"), enqueued("b"), enqueued("c"))
    assert tokens.isdisjoint(again.token(name) for name in "abc")


def test_the_result_is_kept_byte_for_byte() -> None:
    text = '{"big": 12345678901234567890123, "e": 1.50, "text": "\\u00e9\u00e9", "a":1, "a":2}'
    scenario = begun(compiled("a", "b: a")).when(succeed("a").by(result=msgspec.Raw(text.encode())))
    scenario.then(completed("a"), enqueued("b"))
    assert scenario.step("a").result == text


# -- plans ---------------------------------------------------------------------------------------


def test_a_plan_knows_the_graph() -> None:
    scenario = Scenario(compiled("d: b c", "c: a", "a", "b: a", "e"))
    plan = scenario.plan
    assert names(scenario, plan.roots) == ["a", "e"]
    assert names(scenario, plan.dependents[plan.index["a"]]) == ["c", "b"]
    assert names(scenario, plan.parents[plan.index["d"]]) == ["b", "c"]
    assert names(scenario, plan.ancestors(plan.index["d"])) == ["b", "c", "a"]
    assert plan.ancestors(plan.index["e"]) == ()
    assert plan.descendants_count([plan.index["a"]]) == 3
    assert plan.descendants_count([plan.index["b"], plan.index["c"]]) == 1
    assert plan.descendants_count([plan.index["d"]]) == 0


def test_a_plan_takes_everything_from_the_template() -> None:
    made = template(
        step(
            "a",
            handler={"callable": "h", "method": "go", "resolver": "r", "initialization": {"x": [1]}},
            retry={"max_attempts": 7, "retryable": False, "backoff": "linear", "jitter": 0.5},
            timeout_seconds=1.5,
            queue="slow",
        ),
        on_failure="fail",
        max_retry_after_ms=5,
        version="2.1.0",
    )
    plan = compile_plan(made.canonical(), made.content_hash())
    assert plan == compile_plan(made.canonical_json(), made.content_hash())
    spec = plan.steps[0]
    assert (spec.handler.callable, spec.handler.method, spec.handler.resolver) == ("h", "go", "r")
    assert bytes(spec.handler.initialization) == b'{"x":[1]}'
    assert (spec.retry.max_attempts, spec.retry.retryable, spec.retry.backoff) == (7, False, "linear")
    assert (spec.retry.backoff_base_ms, spec.retry.max_backoff_ms, spec.retry.jitter) == (1_000, 30_000, 0.5)
    assert (spec.timeout_seconds, spec.queue) == (1.5, "slow")
    assert (plan.on_failure, plan.max_retry_after_ms) == ("fail", 5)
    assert (plan.ref.namespace, plan.ref.name, plan.ref.version) == ("tests", "scenario", "2.1.0")
    assert plan.ref.hash == made.content_hash()


def test_the_defaults_of_a_plan_are_those_of_the_template_model() -> None:
    """Canonical templates leave defaults out, so both sides must know the same ones."""
    made = template(step("a"))
    spec = compile_plan(made.canonical_json(), "").steps[0]
    own = made.steps[0]
    assert msgspec.to_builtins(spec.retry) == own.retry.model_dump()
    assert (spec.timeout_seconds, spec.queue, spec.type) == (own.timeout_seconds, own.queue, own.type)
    assert (spec.handler.method, spec.handler.resolver) == (own.handler.method, own.handler.resolver)
    assert bytes(spec.handler.initialization) == b"{}"
    assert compile_plan(made.canonical_json(), "").on_failure == "block"
