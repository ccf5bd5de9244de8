"""The page about error codes has every code that the product itself gives to a failed step, and says who gives it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
PAGE: Final = REPOSITORY / "docs" / "reference" / "error-codes.md"
ORCHESTRATOR: Final = REPOSITORY / "orchestrator" / "stepweave_orchestrator"
SDK: Final = REPOSITORY / "worker" / "python" / "stepweave"

#: Where nothing is said about steps: what rejections and answers of the API are called, names in NATS, an
#: orchestrator's part in tests.
ELSEWHERE: Final = (
    "rejection.py",
    "api_errors.py",
    "client.py",
    "task_requests.py",
    "bulk_calls.py",
    "schedule_calls.py",
    "messaging",
    "testing",
)
SOURCES: Final = {
    "orchestrator": [
        *(ORCHESTRATOR / "core").glob("*.py"),
        ORCHESTRATOR / "runtime" / "outcomes.py",
        ORCHESTRATOR / "runtime" / "child_orders.py",
    ],
    "SDK": list(SDK.rglob("*.py")),
}
#: What else such a text may be where it is the first argument: a refusal that no step hears of, a variable.
NO_FAILURES: Final = ("Rejection", "ApiError", "get")

_CODE: Final = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9…]+)+")
_ROW: Final = re.compile(r"^\| `([^`]+)` \| (\w+(?:, \w+)?) \| ", re.MULTILINE)


def codes_of(source: str) -> set[str]:
    """Every error code that a module gives."""
    tree = ast.parse(source)
    left_out = {id(node) for node in _no_codes(tree)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "error_code":
            found.add(_text(node.value))
        elif id(node) in left_out:
            continue
        elif _CODE.fullmatch(_text(node)):
            found.add(_text(node))
        elif isinstance(node, ast.JoinedStr):
            found |= {text for text in _composed(tree, node) if _CODE.fullmatch(text)}
    return found - {""}


def _text(node: ast.AST) -> str:
    """The text that a node is, empty where it is none."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _no_codes(tree: ast.Module) -> Iterator[ast.AST]:
    """Texts that look like codes and are none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield from ast.walk(node)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if called in NO_FAILURES:
                yield node.args[0]
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            yield from ast.walk(node)


def _composed(tree: ast.Module, text: ast.JoinedStr) -> Iterator[str]:
    """What an f-string becomes: a parameter in it has every value that the function is called with, the rest is `…`."""
    first = text.values[0]
    parameter = (
        first.value.id if isinstance(first, ast.FormattedValue) and isinstance(first.value, ast.Name) else ""
    )
    pattern = "".join(_text(part) or "…" for part in text.values)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and any(node is text for node in ast.walk(function)):
            names = [argument.arg for argument in function.args.args]
            if parameter in names:
                for call in ast.walk(tree):
                    if (
                        isinstance(call, ast.Call)
                        and isinstance(call.func, ast.Name)
                        and call.func.id == function.name
                    ):
                        yield _text(call.args[names.index(parameter)]) + pattern[1:]
                return
    yield pattern


def given() -> dict[str, set[str]]:
    """For each code who gives it."""
    found: dict[str, set[str]] = {}
    for who, files in SOURCES.items():
        for file in files:
            if not set(ELSEWHERE) & set(file.parts):
                for code in codes_of(file.read_text("utf-8")):
                    found.setdefault(code, set()).add(who)
    return found


def test_the_page_has_every_code_and_no_other() -> None:
    page = PAGE.read_text("utf-8")
    rows = _ROW.findall(page)
    assert len(rows) == len({code for code, _ in rows}), "a code has two rows"
    assert {code: set(who.split(", ")) for code, who in rows} == given()


def test_codes_are_found_however_they_are_given() -> None:
    source = """
__all__ = ["NOT_ME"]
NAMED = "BY_CONSTANT"
def refuse(what, code): return Failed(error_code=code)
def sized(size, kind):
    return f"{kind}_TOO_LARGE"
def by_status(answer):
    return refuse(answer, error_code=f"HTTP_{answer.status}")
def decide(error):
    if error.code == "NOT_COMPARED":
        return Rejection("NOT_FOUND", "nobody")
    code, message = "IN_A_TUPLE", f"no {error} here"
    sized(1, "CURSOR"), sized(2, "RESULT")
    return refuse(1, "AS_ARGUMENT"), Failed(error_code="CancelledError"), os.environ.get("A_VARIABLE")
"""
    assert codes_of(source) == {
        "BY_CONSTANT",
        "CURSOR_TOO_LARGE",
        "RESULT_TOO_LARGE",
        "HTTP_…",
        "IN_A_TUPLE",
        "AS_ARGUMENT",
        "CancelledError",
    }
