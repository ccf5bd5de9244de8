"""Decisions: functions, classes, and what is said about wrong ones."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave import (
    ConfigurationError,
    Decision,
    DecisionHandler,
    DecisionMixin,
    PermanentError,
    RetryableError,
    StepContext,
    StepHandler,
    StepHandlerResult,
    decision_handler,
    depends_on,
    inputs,
    step_handler,
)
from stepweave.decorators import decorated_handlers
from stepweave.invocation import HandlerDefinitionError, invocation_of
from stepweave.testing import make_context, make_dispatch, run_handler
from stepweave.worker.execution import outcome_of
from stepweave_schemas.dispatch import RESULT_BYTES_MAX
from stepweave_schemas.result import NAMES_MAX, Decided, Failure


@decision_handler("routing_decision", version="2.0.0")
@inputs("amount")
def routing_decision(amount: int) -> Decision:
    if amount <= 0:
        return Decision.skip("nothing to approve", amount=amount)
    if amount < 1_000:
        return Decision.route("auto_approve", route_type="automatic", amount=amount)
    return Decision.route(["manager_approval", "finance_review"], route_type="dual", amount=amount)


class RoutingDecisionHandler(DecisionHandler):
    """Seed 000, nearly word for word."""

    handler_name = "routing_decision_class"

    def call(self, context: StepContext) -> StepHandlerResult:
        amount = context.get_task_field("amount")
        if amount is None:
            return self.decision_failure("no amount", error_code="NO_AMOUNT", metadata={"field": "amount"})
        if amount <= 0:
            return self.skip_branches("nothing to approve", routing_context={"amount": amount})
        steps = ["auto_approve"] if amount < 1_000 else ["manager_approval", "finance_review"]
        return self.decision_success(
            steps=steps,
            result_data={"route_type": "automatic" if amount < 1_000 else "dual", "amount": amount},
        )


@pytest.mark.parametrize("handler", [routing_decision, RoutingDecisionHandler])
def test_functions_and_classes_decide(handler: Any) -> None:
    auto = run_handler(handler, {"amount": 5})
    assert auto.is_success
    assert auto.is_decision
    assert auto.decision_steps == ["auto_approve"]
    assert auto.result == {"route_type": "automatic", "amount": 5}
    both = run_handler(handler, {"amount": 5_000})
    assert both.decision_steps == ["manager_approval", "finance_review"]
    skipped = run_handler(handler, {"amount": 0})
    assert skipped.is_decision
    assert (skipped.decision_steps, skipped.reason) == ([], "nothing to approve")
    assert skipped.result == {"reason": "nothing to approve", "amount": 0}
    assert not skipped.is_batches
    assert not skipped.is_checkpoint


def test_a_decision_on_the_wire() -> None:
    dispatch = make_dispatch()
    outcome = outcome_of(
        dispatch,
        Decision.route("a", why="x"),
        worker_id="w",
        started_at_ms=5,
        duration_ms=7,
    )
    assert isinstance(outcome, Decided)
    assert msgspec.json.decode(msgspec.json.encode(outcome)) == {
        "kind": "decision",
        "task_id": dispatch.task_id,
        "step_uuid": dispatch.step_uuid,
        "step_name": "step",
        "attempt": 1,
        "lease_token": dispatch.lease_token,
        "worker_id": "w",
        "create_steps": ["a"],
        "result": {"why": "x"},
        "started_at_ms": 5,
        "duration_ms": 7,
    }
    skipped = outcome_of(dispatch, Decision.skip("r" * 10_000), worker_id="w")
    assert isinstance(skipped, Decided)
    assert skipped.create_steps == ()
    assert skipped.reason.endswith("r…")


def test_the_decorated_function_stays_a_function() -> None:
    decision = routing_decision(5)
    assert isinstance(decision, Decision)
    assert decision.decision_steps == ["auto_approve"]
    assert routing_decision in decorated_handlers()
    invocation = invocation_of(routing_decision)
    assert (invocation.name, invocation.version, invocation.reads) == (
        "routing_decision",
        "2.0.0",
        frozenset(),
    )
    assert run_handler(routing_decision, {"amount": 5}) == decision


def test_async_and_wrapped_functions_decide() -> None:
    @decision_handler("later")
    @depends_on(score="score")
    async def later(score: int, context: StepContext) -> Decision:
        return Decision.route("high" if score > 5 else "low", step=context.step_name)

    high = run_handler(later, dependencies={"score": 7})
    assert (high.decision_steps, high.result) == (["high"], {"step": "step"})

    @decision_handler("wrapped")
    def wrapped(context: StepContext) -> Any:
        return later(1, context)

    assert run_handler(wrapped).decision_steps == ["low"]


def test_names_count_once_in_their_order() -> None:
    assert Decision.route(["b", "a", "b"]).decision_steps == ["b", "a"]
    assert Decision.route(name for name in ("b", "a")).decision_steps == ["b", "a"]
    assert Decision.route(steps=("a",)).decision_steps == ["a"]


def test_routing_context_and_result_data() -> None:
    handler = DecisionMixin()
    both = handler.decision_success("a", {"x": 1, "y": 1}, {"m": 1}, result_data={"y": 2})
    assert (both.result, both.metadata) == ({"x": 1, "y": 2}, {"m": 1})
    assert handler.decision_success("a").result == {}
    skipped = handler.skip_branches("none fits", {"reason": "its own"}, {"m": 1})
    assert (skipped.result, skipped.reason, skipped.metadata) == (
        {"reason": "its own"},
        "none fits",
        {"m": 1},
    )


def test_a_decision_that_cannot_be_made_is_final_unless_it_says_otherwise() -> None:
    final = run_handler(RoutingDecisionHandler, {})
    assert (final.error_type, final.error_code, final.retryable) == ("permanent_error", "NO_AMOUNT", False)
    assert (final.error_message, final.metadata) == ("no amount", {"field": "amount"})
    assert not final.is_decision
    mixin = DecisionMixin()
    assert mixin.decision_failure("busy", retryable=True).error_type == "retryable_error"
    assert mixin.decision_failure("slow", "timeout").retryable
    assert not mixin.decision_failure("wrong", error_type="validation_error").retryable


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], r"names no step: to take no branch, return Decision\.skip\(reason\) or skip_branches\(reason\)"),
        ("", r"steps of the decision\[0\]: expected the name of a step, not ''"),
        (["a", "  "], r"steps of the decision\[1\]: expected the name of a step, not '  '"),
        (["a", 5], r"steps of the decision\[1\]: expected the name of a step, not 5"),
        (None, "steps of the decision: expected the name of a step or a list of names, not None"),
        ({"a": 1}, "expected the name of a step or a list of names, not {'a': 1}"),
        (b"a", "expected the name of a step or a list of names, not b'a'"),
        (["\ud800"], "half a surrogate pair"),
        (["x" * (RESULT_BYTES_MAX + 1)], f"too many names, {NAMES_MAX} and {RESULT_BYTES_MAX} bytes at most"),
        ([f"s{n}" for n in range(NAMES_MAX + 1)], "too many names"),
    ],
)
def test_wrong_steps_fail_the_decision_for_good(steps: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Decision.route(steps)
    with pytest.raises(ConfigurationError, match=message):
        DecisionMixin().decision_success(steps)

    @decision_handler("wrong")
    def wrong(context: StepContext) -> Decision:
        return Decision.route(steps)

    failure = run_handler(wrong)
    assert (failure.error_type, failure.retryable) == ("permanent_error", False)
    assert failure.error_code in ("DECISION_INVALID", "STEP_NAMES_INVALID")


@pytest.mark.parametrize("reason", ["", " ", None, 5])
def test_no_branch_needs_a_reason(reason: Any) -> None:
    with pytest.raises(ConfigurationError, match="says why: expected a reason"):
        Decision.skip(reason)
    with pytest.raises(ConfigurationError, match="says why: expected a reason"):
        DecisionMixin().skip_branches(reason)


def test_a_routing_context_is_an_object() -> None:
    mixin = DecisionMixin()
    with pytest.raises(ConfigurationError, match=r"routing_context: expected a dict, not \[1\]"):
        mixin.decision_success("a", [1])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="result_data: expected a dict, not 'x'"):
        mixin.decision_success("a", result_data="x")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="routing_context: expected a dict"):
        mixin.skip_branches("r", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "a value of type NoneType"),
        (["auto_approve"], "a value of type list"),
        ({"steps": []}, "a value of type dict"),
        (StepHandlerResult.success({}), "a plain success"),
    ],
)
def test_a_decision_handler_that_decides_nothing_fails_for_good(value: Any, kind: str) -> None:
    @decision_handler("undecided")
    def undecided(context: StepContext) -> Any:
        return value

    failure = run_handler(undecided, step_name="route")
    assert (failure.error_code, failure.retryable) == ("DECISION_MISSING", False)
    assert failure.error_message == (
        "the decision handler of step 'route' returns Decision.route(steps, ...) or Decision.skip(reason, ...),"
        f" not {kind}"
    )


def test_failures_and_checkpoints_of_a_decision_handler_pass() -> None:
    @decision_handler("raises")
    @inputs("how")
    def ends(how: str, context: StepContext) -> Any:
        match how:
            case "permanent":
                raise PermanentError("no", error_code="NO")
            case "retryable":
                raise RetryableError("later")
            case "returned":
                return StepHandlerResult.failure("said", error_code="SAID")
        return context.checkpoint_yield(1, 1)

    assert run_handler(ends, {"how": "permanent"}).error_code == "NO"
    assert run_handler(ends, {"how": "retryable"}).retryable
    assert run_handler(ends, {"how": "returned"}).error_code == "SAID"
    assert run_handler(ends, {"how": "saved"}).is_checkpoint


def test_what_json_cannot_carry_fails_the_decision() -> None:
    odd = outcome_of(make_dispatch(), Decision.route("a", odd=object()), worker_id="w")
    assert isinstance(odd, Failure)
    assert (odd.error_code, odd.retryable) == ("RESULT_NOT_SERIALIZABLE", False)
    assert "result.odd" in odd.error_message
    large = outcome_of(make_dispatch(), Decision.route("a", x="y" * RESULT_BYTES_MAX), worker_id="w")
    assert isinstance(large, Failure)
    assert large.error_code == "RESULT_TOO_LARGE"


def test_decorators_say_what_they_need() -> None:
    with pytest.raises(TypeError, match=r"@decision_handler needs the handler's name: @decision_handler\('"):
        decision_handler(routing_decision)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="@decision_handler goes on a function"):
        decision_handler("class")(RoutingDecisionHandler)
    with pytest.raises(TypeError, match="@step_handler needs the handler's name"):
        step_handler("")


def test_the_helpers_of_a_mixin_are_no_method_of_the_handler() -> None:
    class Empty(DecisionHandler):
        handler_name = "empty"

    class OneMethod(DecisionMixin, StepHandler):
        handler_name = "one_method"

        def decide(self, context: StepContext) -> StepHandlerResult:
            return self.decision_success("a")

    with pytest.raises(HandlerDefinitionError, match="does not define 'call'"):
        invocation_of(Empty)
    assert run_handler(OneMethod).decision_steps == ["a"]
    assert OneMethod().decide(make_context()).is_decision
