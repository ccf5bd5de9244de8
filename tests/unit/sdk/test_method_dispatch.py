"""A template's `handler.method`: which methods of a handler it may name."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
import pytest

from stepweave import ApiHandler, Registry, StepHandler, StepHandlerResult, step_handler
from stepweave.errors import ConfigurationError
from stepweave.invocation import HandlerDefinitionError, Invocation
from stepweave.method_names import HandlerMethodNotFound, callable_methods
from stepweave.testing import make_context, make_dispatch, run_workflow
from stepweave.worker.intake import find_handler


class Logged:
    """A mixin of the author's."""

    def log(self, context: Any) -> str:
        return "logged"


class Payments(StepHandler):
    handler_name = "payments"
    limit = 5

    def call(self, context: Any) -> str:
        return "call"

    async def capture(self, context: Any) -> str:
        return f"captured {context.get_input('amount')}"

    def refund(self, context: Any, reason: str = "none") -> str:
        return "refund"

    @staticmethod
    def plain(context: Any) -> str:
        return "plain"

    @classmethod
    def of_class(cls, context: Any) -> str:
        return "of_class"

    part = functools.partialmethod(refund, reason="part")

    @property
    def balance(self) -> int:
        return 5

    class Inner:
        pass

    def helper(self, context: Any, amount: int) -> None:
        """Needs more than the context."""

    def success(self, result: Any = None, metadata: Any = None) -> StepHandlerResult:
        """A helper of the SDK, changed; still one."""
        return super().success(result, metadata)

    def _private(self, context: Any) -> None: ...


class CardPayments(Logged, Payments):
    handler_name = "card_payments"

    def void(self, context: Any) -> str:
        return "void"


class Orders(ApiHandler):
    handler_name = "orders"

    def fetch(self, context: Any) -> str:
        return "fetched"


def failure_of(registry: Registry, handler: str, method: str) -> StepHandlerResult:
    found = find_handler(registry, make_dispatch(handler=handler, method=method), "w1")
    assert isinstance(found, StepHandlerResult)
    return found


def test_the_methods_that_may_be_named() -> None:
    assert callable_methods(Payments) == ["call", "capture", "refund", "plain", "of_class", "part"]
    assert callable_methods(CardPayments()) == ["void", "log", *callable_methods(Payments)]
    assert callable_methods(Orders) == ["fetch"]
    assert callable_methods(lambda context: None) == ["call"]


@pytest.mark.parametrize("handler", [CardPayments, CardPayments()])
async def test_each_of_them_is_called(handler: Any) -> None:
    registry = Registry([handler])
    for method in callable_methods(handler):
        invocation = find_handler(registry, make_dispatch(handler="card_payments", method=method), "w1")
        assert isinstance(invocation, Invocation), invocation
        value = invocation(make_context({"amount": 5}))
        assert invocation.is_async is (method == "capture")
        if invocation.is_async:
            value = await value
        assert value == {"log": "logged", "capture": "captured 5", "part": "refund"}.get(method, method)


@pytest.mark.parametrize("handler", [Payments, Payments()])
@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("missing", "does not define 'missing'"),
        ("limit", "does not define 'limit'"),
        ("balance", "does not define 'balance'"),
        ("_private", "keeps '_private' to itself"),
        ("__init__", "keeps '__init__' to itself"),
        ("helper", "does not offer 'helper'"),
        ("success", "does not offer 'success'"),
        ("Inner", "does not offer 'Inner'"),
    ],
)
def test_others_fail_for_good_and_say_what_there_is(handler: Any, method: str, reason: str) -> None:
    failure = failure_of(Registry([handler]), "payments", method)
    assert (failure.error_type, failure.retryable) == ("permanent_error", False)
    assert failure.error_code == "HANDLER_METHOD_NOT_FOUND"
    assert reason in failure.error_message
    assert "it has: call, capture, refund, plain, of_class, part" in failure.error_message
    assert failure.metadata == {
        "handler": "payments",
        "method": method,
        "methods": ["call", "capture", "refund", "plain", "of_class", "part"],
        "worker_id": "w1",
    }


def test_of_an_api_handler() -> None:
    registry = Registry([Orders])
    assert registry.resolve("orders", method="fetch")(make_context()) == "fetched"
    for method in ("get", "post", "api_success", "api", "call"):
        failure = failure_of(registry, "orders", method)
        assert failure.error_code == "HANDLER_METHOD_NOT_FOUND"
        assert "it has: fetch;" in failure.error_message


def test_a_function_has_none() -> None:
    @step_handler("f")
    def function(context: Any) -> None: ...

    registry = Registry([function])
    failure = failure_of(registry, "f", "other")
    assert (failure.error_code, failure.retryable) == ("HANDLER_METHOD_NOT_FOUND", False)
    assert "is a function and has no method 'other'" in failure.error_message
    with pytest.raises(HandlerMethodNotFound) as raised:
        registry.resolve("f", method="other")
    assert isinstance(raised.value, HandlerDefinitionError)
    assert isinstance(raised.value, ConfigurationError)


def test_many_methods_are_not_all_listed() -> None:
    def method(self: Any, context: Any) -> None: ...

    many = type("Many", (StepHandler,), {"handler_name": "many"} | {f"m{n:03}": method for n in range(50)})
    failure = failure_of(Registry([many]), "many", "x")
    assert "m019, …" in failure.error_message
    assert len(failure.metadata["methods"]) == 20


def test_a_whole_workflow() -> None:
    template = """
name: pay
namespace: shop
version: 1.0.0
steps:
  - {name: authorise, handler: payments}
  - {name: capture, handler: {callable: payments, method: capture}, depends_on: [authorise]}
  - {name: wrong, handler: {callable: payments, method: helper}, depends_on: [capture], retry: {max_attempts: 3}}
"""
    run = run_workflow(template, [Payments], {"amount": 5})
    assert run.results == {"authorise": "call", "capture": "captured 5"}
    assert run.attempts("wrong") == 1
    failed = [event for event in run.events if event.type == "step.failed"]
    assert failed[0]["error_code"] == "HANDLER_METHOD_NOT_FOUND"


def test_what_the_dispatch_says_by_default() -> None:
    assert make_dispatch().method == "call"
    assert b"method" not in msgspec.json.encode(make_dispatch())
