"""The try that runs here, for code that is not given its context."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from .context import StepContext

_current: Final[ContextVar[StepContext | None]] = ContextVar("stepweave_current_step", default=None)


def current_context() -> StepContext | None:
    """The context of the try that this code runs in, in its thread or its asyncio task; None outside of any."""
    return _current.get()


def enter_step(context: StepContext) -> None:
    """Say that this asyncio task, and all that it starts, runs a try (for the worker)."""
    _current.set(context)
