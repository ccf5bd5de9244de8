"""Tests of handlers and workflows without a server.

- `run_handler` runs one try of a handler through the worker's code; `make_context` makes a context to call a
  handler with directly.
- `run_workflow` runs a whole template on a virtual clock, with the orchestrator's own core deciding.
- `assert_events` compares events with what they should have been; `eventually` waits for a condition.
"""

from typing import TYPE_CHECKING, Any

from .single import make_context, make_dispatch, run_handler, run_handler_async
from .waiting import eventually

if TYPE_CHECKING:
    from .asserting import assert_events
    from .operations import Operation
    from .virtual_loop import RealTimeExceeded
    from .workflow import Signal, WorkflowRun, run_workflow

__all__ = [
    "Operation",
    "RealTimeExceeded",
    "Signal",
    "WorkflowRun",
    "assert_events",
    "eventually",
    "make_context",
    "make_dispatch",
    "run_handler",
    "run_handler_async",
    "run_workflow",
]

#: Loaded when first asked for: they bring the orchestrator's core along.
_LATER = {
    "Operation": "operations",
    "RealTimeExceeded": "virtual_loop",
    "Signal": "workflow",
    "WorkflowRun": "workflow",
    "assert_events": "asserting",
    "run_workflow": "workflow",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{module}"), name)
