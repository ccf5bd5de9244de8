"""Decorators and classes: what fills a handler's parameters, and what is refused when it is registered."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import msgspec
import pydantic
import pytest

from stepweave import StepHandler, StepHandlerResult, depends_on, inputs, step_handler
from stepweave.decorators import notes_of
from stepweave.invocation import HandlerDefinitionError, invocation_of
from stepweave.testing import make_context, run_handler


class Cart(pydantic.BaseModel):
    total: float


class Order(pydantic.BaseModel):
    token: str
    amount: int = 1


def test_every_order_of_the_decorators() -> None:
    decorators: list[Callable[[Any], Any]] = [
        step_handler("pay", version="2.0.0"),
        depends_on(cart=("validate", Cart)),
        inputs(Order),
        inputs("note"),
    ]
    for turn in range(len(decorators)):

        def pay(cart: Cart, inputs: Order, note: str, context: Any) -> dict[str, Any]:
            return {"total": cart.total, "token": inputs.token, "note": note, "try": context.attempt}

        decorated = pay
        for decorate in decorators[turn:] + decorators[:turn]:
            decorated = decorate(decorated)
        assert decorated is pay
        result = run_handler(pay, {"token": "t", "note": "n"}, dependencies={"validate": {"total": 3}})
        assert result.result == {"total": 3.0, "token": "t", "note": "n", "try": 1}
        invocation = invocation_of(pay)
        assert (invocation.name, invocation.version, invocation.kind) == ("pay", "2.0.0", "function")


def test_a_decorated_function_stays_a_function() -> None:
    @step_handler("twice")
    @inputs("n")
    def twice(n: int) -> int:
        """Doubles."""
        return 2 * n

    assert twice(4) == 8
    invocation = invocation_of(twice)
    assert invocation.description == "Doubles."
    assert invocation.source.endswith("twice")
    assert not invocation.is_async


def test_through_other_decorators() -> None:
    def shout(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return str(function(*args, **kwargs)).upper()

        return wrapper

    @step_handler("a")
    @shout
    @inputs("word")
    def outside(word: str) -> str:
        return word

    @shout
    @step_handler("b")
    @inputs("word")
    def inside(word: str) -> str:
        return word

    for handler in (outside, inside):
        assert run_handler(handler, {"word": "hi"}).result == "HI"

    def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
        """A plain function around an async one."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @hidden
    @step_handler("c")
    async def deep() -> str:
        return "awaited"

    assert run_handler(deep).result == "awaited"


def test_context_by_either_name_defaults_and_keywords() -> None:
    @step_handler("underscore")
    def underscore(_context: Any, extra: int = 7) -> Any:
        return [_context.attempt, extra]

    @step_handler("keywords")
    @inputs("a", "b")
    @depends_on(c="c")
    def keywords(**everything: Any) -> Any:
        return everything

    @step_handler("nothing")
    def nothing() -> None: ...

    @step_handler("defaults")
    @inputs("a", "b")
    def defaults(a: int, b: int = 5) -> Any:
        return [a, b]

    assert run_handler(underscore).result == [1, 7]
    assert run_handler(keywords, {"a": 1}, dependencies={"c": 3}).result == {"a": 1, "b": None, "c": 3}
    assert run_handler(nothing).result is None
    assert run_handler(defaults, {}).result == [None, 5]


def test_plain_functions_and_callables() -> None:
    assert run_handler(lambda anything: anything.get_input("x"), {"x": 1}).result == 1

    class Callable_:
        async def __call__(self, context: Any) -> int:
            return int(context.attempt)

    assert run_handler(Callable_()).result == 1


def test_models_structs_dataclasses_and_plain_types() -> None:
    @dataclasses.dataclass
    class Data:
        amount: int

    class Struct(msgspec.Struct):
        amount: int

    @step_handler("data")
    @inputs(Data)
    @depends_on(listed=("l", list), struct=("s", Struct))
    def typed(inputs: Data, listed: list[Any], struct: Struct) -> Any:
        return [inputs.amount, listed, struct.amount]

    result = run_handler(typed, {"amount": "4"}, dependencies={"l": [1], "s": {"amount": 6}})
    assert result.result == [4, [1], 6]
    bad = run_handler(typed, {"amount": 4}, dependencies={"l": [1], "s": {"amount": "x"}})
    assert (bad.error_type, bad.error_code, bad.retryable) == (
        "validation_error",
        "DEPENDENCY_INVALID",
        False,
    )
    assert bad.metadata["violations"] == [{"path": "/amount", "message": "Expected `int`, got `str`"}]


def test_input_that_does_not_fit_is_permanent_and_says_everything() -> None:
    @step_handler("typed")
    @inputs(Order)
    def typed(inputs: Order) -> None: ...

    failure = run_handler(typed, {"amount": "many"})
    assert (failure.error_type, failure.error_code, failure.retryable) == (
        "validation_error",
        "INPUT_INVALID",
        False,
    )
    assert [one["path"] for one in failure.metadata["violations"]] == ["/token", "/amount"]
    assert "/token: Field required" in failure.error_message


def test_a_missing_dependency() -> None:
    @step_handler("typed")
    @depends_on(cart=("validate", Cart))
    def typed(cart: Cart) -> None: ...

    @step_handler("untyped")
    @depends_on(cart="validate")
    def untyped(cart: Any) -> Any:
        return cart

    failure = run_handler(typed, dependencies={"other": 1})
    assert (failure.error_code, failure.retryable) == ("DEPENDENCY_MISSING", False)
    assert failure.metadata["available"] == ["other"]
    assert run_handler(untyped).result is None


def test_results_of_every_shape() -> None:
    @step_handler("model")
    def model() -> Cart:
        return Cart(total=2)

    @step_handler("full")
    async def full() -> StepHandlerResult:
        return StepHandlerResult.success({"a": 1}, metadata={"m": 1})

    @step_handler("data")
    def data() -> dict[str, Any]:
        return {"success": False, "retryable": True, "error": "just data"}

    assert run_handler(model).result == {"total": 2.0}
    assert run_handler(full).metadata == {"m": 1}
    result = run_handler(data)
    assert result.is_success
    assert result.result["error"] == "just data"


def test_wrong_decorations_are_refused_where_they_stand() -> None:
    with pytest.raises(TypeError, match="needs the handler's name"):
        step_handler("")
    with pytest.raises(TypeError, match="needs the handler's name"):
        step_handler(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one model class or names of keys"):
        inputs()
    with pytest.raises(TypeError, match="one model class or names of keys"):
        inputs("a", Order)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"@depends_on\(cart=…\)"):
        depends_on(cart=Cart)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="goes on a function"):
        inputs("a")(Cart)
    with pytest.raises(TypeError, match="no subclass of StepHandler"):
        step_handler("x")(Cart)


def test_wrong_parameters_are_refused_at_registration() -> None:
    @step_handler("unfilled")
    def unfilled(mystery: int) -> None: ...

    @step_handler("undeclared")
    @inputs("amount")
    def undeclared(context: Any) -> None: ...

    @step_handler("positional")
    def positional(context: Any, /) -> None: ...

    with pytest.raises(HandlerDefinitionError, match="nothing fills its parameter 'mystery'"):
        invocation_of(unfilled)
    with pytest.raises(HandlerDefinitionError, match="no parameter 'amount', which its decorators fill"):
        invocation_of(undeclared)
    with pytest.raises(HandlerDefinitionError, match="cannot be passed by name"):
        invocation_of(positional)
    with pytest.raises(HandlerDefinitionError, match="has no handler name"):
        invocation_of(lambda: None)
    with pytest.raises(HandlerDefinitionError, match="is a function and has no method 'other'"):
        invocation_of(lambda: None, name="x", method="other")
    with pytest.raises(HandlerDefinitionError, match="is no handler"):
        invocation_of(5, name="x")


def test_class_handlers() -> None:
    class Base(StepHandler):
        handler_name = "base"

        def call(self, context: Any) -> Any:
            return self.success({"id": id(self)})

        def other(self, context: Any) -> Any:
            return self.failure("no", "permanent_error", False, error_code="C", metadata={"m": 1})

    first, second = run_handler(Base), run_handler(Base)
    assert first.is_success
    assert second.is_success
    other = run_handler(Base, method="other")
    assert (other.error_code, other.retryable, other.metadata) == ("C", False, {"m": 1})

    class NeedsArguments(StepHandler):
        handler_name = "needs"

        def __init__(self, gateway: str) -> None:
            self.gateway = gateway

        def call(self, context: Any) -> Any:
            return self.gateway

    with pytest.raises(HandlerDefinitionError, match="needs arguments to be made"):
        invocation_of(NeedsArguments)
    assert run_handler(NeedsArguments("visa")).result == "visa"

    class Processes(StepHandler):
        handler_name = "processes"

        async def process(self, context: Any) -> str:
            return "processed"

    assert invocation_of(Processes).is_async
    assert run_handler(Processes, method="process").result == "processed"

    class Empty(StepHandler):
        handler_name = "empty"

    with pytest.raises(HandlerDefinitionError, match="does not define 'call'"):
        invocation_of(Empty)
    with pytest.raises(HandlerDefinitionError, match="does not define '_secret'"):
        invocation_of(Base, method="_secret")
    with pytest.raises(NotImplementedError, match="does not define call"):
        Empty().call(make_context())

    @step_handler("named", version="3.0.0")
    class Named(Base): ...

    assert (Named.handler_name, invocation_of(Named).version) == ("named", "3.0.0")
    assert notes_of(Named) is None
