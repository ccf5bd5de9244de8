"""What a worker does around a handler function that has a part to play in the workflow's shape."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from .context import StepContext
from .results import StepHandlerResult


class HandlerRole:
    """The part of a handler function; the base does nothing. Both methods run where the function runs."""

    def before(self, context: StepContext) -> StepHandlerResult | None:
        """The result of a try for which the function need not be called; None: call it."""
        return None

    def after(self, context: StepContext, value: Any) -> Any:
        """What becomes of the value that the function returned; raises where it does not fit the role."""
        return value


def kind_of(value: object) -> str:
    """What a function returned, for a message that says what it should have returned."""
    if isinstance(value, StepHandlerResult):
        return "a plain success"
    return f"a value of type {type(value).__name__}"


def with_role(
    role: HandlerRole, call: Callable[[StepContext], Any], *, is_async: bool
) -> Callable[[StepContext], Any]:
    """A handler's call with its role around it."""

    async def after(context: StepContext, value: Awaitable[Any]) -> Any:
        return role.after(context, await value)

    def run(context: StepContext) -> Any:
        early = role.before(context)
        if early is not None:
            return early
        value = call(context)
        # A plain function around an async one, as some decorators make them.
        return after(context, value) if inspect.isawaitable(value) else role.after(context, value)

    async def run_async(context: StepContext) -> Any:
        early = role.before(context)
        return early if early is not None else role.after(context, await call(context))

    return run_async if is_async else run
