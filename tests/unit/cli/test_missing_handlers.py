"""What `stepweave dev` says about handlers that its templates name and its workers lack."""

from __future__ import annotations

import pytest

from stepweave import Registry, StepHandler, step_handler
from stepweave_orchestrator.cli.dev_session import missing_handlers
from stepweave_orchestrator.cli.worker import _methods_of
from stepweave_schemas.template import load_template

_TEMPLATE = """
name: order
steps:
  - {name: charge, handler: HANDLER, compensation: {handler: UNDO}}
  - {name: approve, dependencies: [charge], wait_for_signal: {name: go}}
  - {name: pay, dependencies: [approve], child_task: {name: other}, compensation: {handler: refund}}
"""
_METHODS = {"charge": ["call", "later"], "refund": ["call"], "split": ["cut", "join"]}


@pytest.mark.parametrize(
    ("handler", "undo", "lines"),
    [
        ("charge", "refund", []),
        ("{callable: charge, method: later}", "{callable: split, method: join}", []),
        ("card", "refund", ["step charge: no handler is named 'card' in shop, ./more.py"]),
        ("charge", "back", ["step charge, compensation: no handler is named 'back' in shop, ./more.py"]),
        (
            "{callable: charge, method: late}",
            "split",
            [
                "step charge: handler 'charge' has no method 'late' for templates; it has: call, later",
                "step charge, compensation: handler 'split' has no method 'call' for templates; it has: cut, join",
            ],
        ),
    ],
)
def test_what_is_missing_is_named(handler: str, undo: str, lines: list[str]) -> None:
    template = load_template(_TEMPLATE.replace("HANDLER", handler).replace("UNDO", undo)).template
    found = list(missing_handlers(template, _METHODS, ("shop", "./more.py")))
    assert found == [f"default/order:1.0.0, {line}" for line in lines]


def test_the_methods_of_what_workers_have() -> None:
    @step_handler("plain")
    def plain() -> None: ...

    class Orders(StepHandler):
        handler_name = "orders"

        def call(self, context: object) -> None: ...

        def later(self, context: object) -> None: ...

        def helper(self, one: int, two: int) -> None: ...

    class Parts(StepHandler):
        handler_name = "parts"

        def cut(self, context: object) -> None: ...

    registry = Registry([plain, Orders, Parts])
    assert {name: _methods_of(registry, name) for name in registry.names} == {
        "orders": ["call", "later"],
        "parts": ["cut"],
        "plain": ["call"],
    }
