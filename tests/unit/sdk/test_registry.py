"""Finding handlers: registered, discovered, by entry point, by resolver, by import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry, StepHandler, step_handler
from stepweave.errors import ConfigurationError
from stepweave.invocation import HandlerDefinitionError
from stepweave.registry import DuplicateHandler, HandlerNotFound
from stepweave.testing import make_context

PACKAGE = {
    "__init__.py": "from .payments import charge\n",
    "payments.py": '''
from stepweave import StepHandler, step_handler

@step_handler("charge")
async def charge(context):
    """Charges a card."""

class Refund(StepHandler):
    handler_name = "refund"
    def call(self, context):
        return None

class NoName(StepHandler):
    def call(self, context): ...

class Shared(StepHandler):
    handler_name = "shared"
    def __init__(self, what): self.what = what
    def call(self, context): return self.what

shared = Shared("x")
del Shared
def helper(context): ...
''',
    "deep/__init__.py": "",
    "deep/shipping.py": "from stepweave import step_handler\n@step_handler('ship')\ndef ship(): ...\n",
    "__main__.py": "raise SystemExit('a __main__ must not run')\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"handlers_{tmp_path.name.replace('-', '_')}"
    for path, text in PACKAGE.items():
        file = tmp_path / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [one for one in sys.modules if one.startswith(name)]:
        del sys.modules[module]


def test_discovery_of_a_package_tree(package: str) -> None:
    registry = Registry()
    assert sorted(registry.discover(package)) == ["charge", "refund", "shared", "ship"]
    assert registry.names == ["charge", "refund", "shared", "ship"]
    assert "charge" in registry
    assert len(registry) == 4
    infos = {info.name: info for info in registry.list_handlers()}
    assert infos["charge"].is_async
    assert infos["charge"].kind == "function"
    assert infos["charge"].description == "Charges a card."
    assert infos["charge"].source == f"{package}.payments:charge"
    assert (infos["refund"].kind, infos["shared"].kind) == ("class", "object")
    assert registry.discover(f"{package}.deep.shipping") == ["ship"]
    assert not registry.only_threads


def test_modules_that_cannot_be_imported(package: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'no_such_module' .* cannot be imported: ModuleNotFound"):
        Registry().discover("no_such_module")
    (tmp_path / package / "deep" / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigurationError, match=r"deep\.broken' .*ZeroDivisionError"):
        Registry().discover(package)


def test_two_handlers_of_one_name() -> None:
    registry = Registry()

    @step_handler("same")
    def one() -> None: ...

    @step_handler("same")
    def two() -> None: ...

    first = one
    registry.register(one)
    registry.register(one)
    with pytest.raises(DuplicateHandler, match=r"two handlers are named 'same': .*one and .*two"):
        registry.register(two)

    def again() -> Any:
        @step_handler("same")
        def one() -> str:
            return "defined anew"

        one.__qualname__ = first.__qualname__
        return one

    registry.register(again())
    assert registry.resolve("same")(make_context()) == "defined anew"
    registry.register(two, "another name")
    assert registry.names == ["another name", "same"]


def test_resolving_and_not_finding() -> None:
    class Handler(StepHandler):
        handler_name = "h"

        def call(self, context: Any) -> str:
            return "call"

        def other(self, context: Any) -> str:
            return "other"

    registry = Registry([Handler])
    assert registry.resolve("h")(make_context()) == "call"
    assert registry.resolve("h", method="other")(make_context()) == "other"
    assert registry.resolve("h") is registry.resolve("h")
    with pytest.raises(HandlerNotFound, match="no handler is named 'x'"):
        registry.resolve("x")
    with pytest.raises(HandlerDefinitionError, match="does not define 'missing'"):
        registry.resolve("h", method="missing")
    with pytest.raises(HandlerNotFound, match="no resolver is named 'r'; here are: registered, import"):
        registry.resolve("h", resolver="r")


def test_resolvers_in_order_and_by_name() -> None:
    asked: list[str] = []

    def ruby(name: str) -> Any:
        asked.append(name)
        return (lambda context: "ruby") if "::" in name else None

    def everything(name: str) -> Any:
        return lambda context: "anything"

    registry = Registry()
    assert registry.empty
    registry.add_resolver("ruby", ruby)
    registry.add_resolver("any", everything)
    assert not registry.empty
    assert registry.resolve("Shop::Charge")(make_context()) == "ruby"
    assert registry.resolve("Shop::Charge")(make_context()) == "ruby"
    assert asked == ["Shop::Charge"]
    assert registry.resolve("plain")(make_context()) == "anything"
    assert registry.resolve("Shop::Charge", resolver="any")(make_context()) == "anything"
    with pytest.raises(HandlerNotFound):
        registry.resolve("plain", resolver="ruby")
    with pytest.raises(ValueError, match="always there"):
        registry.add_resolver("import", ruby)


def test_import_only_where_it_is_switched_on(package: str) -> None:
    closed = Registry()
    for name in ("os:system", "os.system", f"{package}.payments.Refund"):
        with pytest.raises(HandlerNotFound):
            closed.resolve(name)
    opened = Registry(import_from=[package])
    assert opened.resolve(f"{package}.payments.Refund").kind == "class"
    assert opened.resolve(f"{package}.payments:helper").kind == "function"
    assert opened.resolve(f"{package}.payments:charge", resolver="import").is_async
    for name in (
        "os:system",
        f"{package}x:y",
        f"{package}.payments:_private",
        f"{package}.payments:",
        f"{package}.nothing:at_all",
        f"{package}..payments:helper",
        f"{package}.payments:none",
    ):
        with pytest.raises(HandlerNotFound):
            opened.resolve(name)
    with pytest.raises(HandlerDefinitionError, match="is not defined there"):
        opened.resolve(f"{package}.payments:step_handler")


def test_entry_points(package: str, tmp_path: Path) -> None:
    info = tmp_path / "offered-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    points = f"[stepweave.handlers]\nall = {package}.payments\none = {package}.deep.shipping:ship\n"
    (info / "entry_points.txt").write_text(points)
    registry = Registry()
    assert sorted(registry.load_entry_points()) == ["charge", "refund", "shared", "ship"]
    (info / "entry_points.txt").write_text("[stepweave.broken]\nbad = no_such_module:x\n")
    with pytest.raises(ConfigurationError, match=r"'bad' of stepweave\.broken .*ModuleNotFoundError"):
        registry.load_entry_points("stepweave.broken")


def test_only_plain_functions_means_threads() -> None:
    def plain() -> None: ...

    registry = Registry()
    registry.register(plain, "plain")
    assert registry.only_threads

    async def on_the_loop() -> None: ...

    registry.register(on_the_loop, "async")
    assert not registry.only_threads


def test_everything_decorated_in_this_process() -> None:
    @step_handler("test_registry_everything_decorated")
    def handler() -> None: ...

    from stepweave.decorators import decorated_handlers

    assert handler in decorated_handlers()
