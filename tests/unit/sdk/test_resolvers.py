"""The chain of resolvers: registered handlers, custom naming schemes, imports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepweave import HandlerResolver, Registry, StepHandler, StepHandlerResult, step_handler
from stepweave import registry as registry_module
from stepweave.invocation import HandlerDefinitionError, Invocation
from stepweave.registry import HandlerNotFound, ResolverNotFound
from stepweave.testing import make_context, make_dispatch, run_workflow
from stepweave.worker.intake import find_handler

PACKAGE = {
    "__init__.py": "",
    "payments.py": """
from stepweave import StepHandler, inputs, step_handler
from subprocess import run

class Refund(StepHandler):
    def call(self, context): return "refund"

@step_handler("charge")
def charge(): return "charge"

@inputs("amount")
def pay(amount): return amount

def helper(context): return "helper"

class NoHandler: ...

ready = Refund()
""",
    "needs_more.py": "import no_such_module_at_all\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"resolved_{tmp_path.name.replace('-', '_')}"
    for path, text in PACKAGE.items():
        file = tmp_path / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [one for one in sys.modules if one.startswith(name)]:
        del sys.modules[module]


def answering(text: str) -> Any:
    return lambda context: text


class ByPrefix:
    """A resolver as an object: `prefix:anything`."""

    def __init__(self, name: str, priority: int | None = None) -> None:
        self.name = name
        self.asked: list[str] = []
        if priority is not None:
            self.priority = priority

    def can_resolve(self, handler: str) -> bool:
        return handler.startswith(("any:", f"{self.name}:"))

    def resolve(self, handler: str) -> Any:
        self.asked.append(handler)
        return answering(self.name)


def call(registry: Registry, name: str, resolver: str | None = None) -> Any:
    return registry.resolve(name, resolver=resolver)(make_context())


def test_the_registered_handler_comes_first() -> None:
    @step_handler("any:x")
    def mine() -> str:
        return "registered"

    registry = Registry([mine])
    shadow = ByPrefix("shadow", priority=-1_000)
    registry.add_resolver(shadow)
    assert call(registry, "any:x") == "registered"
    assert shadow.asked == []
    assert call(registry, "any:x", "shadow") == "shadow"
    assert call(registry, "any:x", "registered") == "registered"
    with pytest.raises(HandlerNotFound, match="no handler is named 'any:y' for resolver 'registered'"):
        call(registry, "any:y", "registered")


def test_lower_priorities_are_asked_first() -> None:
    registry = Registry()
    one: HandlerResolver = ByPrefix("one")
    registry.add_resolver(one)
    registry.add_resolver(ByPrefix("two"))
    assert call(registry, "any:x") == "one"
    registry.add_resolver(ByPrefix("early", priority=10))
    assert call(registry, "any:x") == "early"
    registry.add_resolver("earliest", ByPrefix("named otherwise", priority=50), priority=5)
    assert call(registry, "any:x") == "named otherwise"
    registry.add_resolver("last", lambda name: answering("last"), priority=1_000)
    assert registry.resolvers == ["registered", "earliest", "early", "one", "two", "last"]
    assert call(registry, "two:x") == "two"
    assert call(registry, "of nobody else") == "last"


def test_can_resolve_is_asked_before() -> None:
    registry = Registry()
    resolver = ByPrefix("one")
    registry.add_resolver(resolver)
    with pytest.raises(HandlerNotFound):
        call(registry, "other:x")
    with pytest.raises(HandlerNotFound):
        call(registry, "other:x", "one")
    assert resolver.asked == []


def test_a_function_and_its_name() -> None:
    registry = Registry()

    def by_length(handler: str) -> Any:
        return answering("short") if len(handler) < 5 else None

    registry.add_resolver(by_length)
    assert registry.resolvers == ["registered", "by_length"]
    assert call(registry, "abc", "by_length") == "short"
    # The same name again takes its place.
    registry.add_resolver("by_length", lambda handler: answering("other"))
    assert call(registry, "abc") == "other"
    assert registry.resolvers == ["registered", "by_length"]


class NotCallable:
    name = "n"
    resolve = "text"


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("n", 5), {}, "is no resolver"),
        ((NotCallable(),), {}, "is no resolver"),
        (("", answering("")), {}, "name is a text"),
        ((object(),), {}, "name is a text"),
        (("n", answering("")), {"priority": 1.5}, "is a whole number"),
        (("n", answering("")), {"priority": True}, "is a whole number"),
    ],
)
def test_what_is_no_resolver(arguments: tuple[Any, ...], options: dict[str, Any], error: str) -> None:
    with pytest.raises(TypeError, match=error):
        Registry().add_resolver(*arguments, **options)


def test_classes_and_their_methods_through_a_resolver() -> None:
    class Order(StepHandler):
        def call(self, context: Any) -> str:
            return "call"

        def ship(self, context: Any) -> str:
            return "ship"

    registry = Registry()
    registry.add_resolver("ruby", {"Shop::Order": Order}.get)
    assert registry.resolve("Shop::Order", method="ship")(make_context()) == "ship"
    template = """
name: order
namespace: shop
version: 1.0.0
steps:
  - {name: ship, handler: {callable: "Shop::Order", method: ship, resolver: ruby}}
"""
    assert run_workflow(template, registry).results == {"ship": "ship"}


def found(registry: Registry, handler: str, resolver: str | None) -> Invocation | StepHandlerResult:
    dispatch = msgspec.structs.replace(make_dispatch(handler=handler), resolver=resolver)
    return find_handler(registry, dispatch, "w1")


def test_a_resolver_that_nobody_has_fails_for_good() -> None:
    registry = Registry()
    registry.add_resolver(ByPrefix("one"))
    failure = found(registry, "one:x", "two")
    assert isinstance(failure, StepHandlerResult)
    assert (failure.error_type, failure.retryable) == ("permanent_error", False)
    assert failure.error_code == "RESOLVER_NOT_FOUND"
    assert failure.error_message == (
        "no resolver is named 'two'; here are: registered, one, import (not switched on), on worker w1;"
        " correct the template's handler.resolver, or add the resolver"
    )
    assert failure.metadata == {
        "handler": "one:x",
        "resolver": "two",
        "resolvers": ["registered", "one"],
        "worker_id": "w1",
    }
    not_here = found(registry, "two:x", "one")
    assert isinstance(not_here, StepHandlerResult)
    # Another worker may have it.
    assert (not_here.error_code, not_here.retryable) == ("HANDLER_NOT_FOUND", True)
    with pytest.raises(ResolverNotFound):
        registry.resolve("os.path", resolver="import")


@pytest.mark.parametrize("given", ["text", StepHandlerResult, 5])
def test_a_resolver_that_gives_no_handler(given: Any) -> None:
    registry = Registry()
    registry.add_resolver("odd", lambda name: given)
    failure = found(registry, "x", None)
    assert isinstance(failure, StepHandlerResult)
    assert (failure.error_code, failure.retryable) == ("HANDLER_UNUSABLE", True)


def test_a_resolver_that_raises() -> None:
    registry = Registry()
    registry.add_resolver("odd", lambda name: 1 / 0)
    failure = found(registry, "x", None)
    assert isinstance(failure, StepHandlerResult)
    assert (failure.error_code, failure.retryable) == ("HANDLER_UNUSABLE", True)
    assert "looking up handler 'x' raised ZeroDivisionError" in failure.error_message


def test_what_was_resolved_is_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "RESOLVED_MAX", 2)
    registry = Registry()
    resolver = ByPrefix("one")
    registry.add_resolver(resolver)
    for name in ("one:a", "one:b", "one:a", "one:c", "one:b", "one:c"):
        call(registry, name)
    assert resolver.asked == ["one:a", "one:b", "one:c"]
    call(registry, "one:a")
    assert resolver.asked == ["one:a", "one:b", "one:c", "one:a"]
    # Nothing is kept of what was not found, and a new resolver is asked for all.
    registry.add_resolver("first", lambda name: answering("first"), priority=1)
    assert call(registry, "one:a") == "first"


def test_imports_anywhere_only_of_what_was_made_to_be_a_handler(package: str) -> None:
    registry = Registry(allow_imports=True)
    assert not registry.empty
    assert not registry.only_threads
    assert registry.resolvers == ["registered", "import"]
    assert call(registry, f"{package}.payments.Refund") == "refund"
    assert call(registry, f"{package}.payments:charge", "import") == "charge"
    assert call(registry, f"{package}.payments:pay") is None
    assert call(registry, f"{package}.payments:ready") == "refund"
    for name in ("helper", "NoHandler"):
        with pytest.raises(HandlerDefinitionError, match="was not made to be a handler"):
            registry.resolve(f"{package}.payments:{name}")
    with pytest.raises(HandlerDefinitionError, match="is not defined there but in subprocess"):
        registry.resolve(f"{package}.payments:run")
    with pytest.raises(HandlerDefinitionError, match="was not made to be a handler"):
        registry.resolve("subprocess:run")
    for name in (
        f"{package}.nothing:at_all",
        f"{package}.payments:_x",
        "no.such.place",
        "plain",
        ":x",
        "a-b:c",
    ):
        with pytest.raises(HandlerNotFound):
            registry.resolve(name)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        registry.resolve(f"{package}.needs_more:handler")


def test_imports_from_a_package_may_be_plain_functions(package: str) -> None:
    registry = Registry(import_from=[package])
    assert call(registry, f"{package}.payments:helper") == "helper"
    both = Registry(import_from=[package], allow_imports=True)
    assert call(both, f"{package}.payments:helper") == "helper"
    with pytest.raises(HandlerDefinitionError, match="was not made to be a handler"):
        both.resolve("subprocess:run")


def test_imports_are_off_by_default(package: str) -> None:
    failure = found(Registry(), f"{package}.payments.Refund", "import")
    assert isinstance(failure, StepHandlerResult)
    assert (failure.error_code, failure.retryable) == ("RESOLVER_NOT_FOUND", False)
    assert f"{package}.payments" not in sys.modules
