"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any


async def eventually(
    condition: Callable[[], Any],
    *,
    timeout_seconds: float = 10.0,
    interval_seconds: float = 0.005,
    what: str = "the condition",
) -> Any:
    """Ask `condition` (sync or async) until it is true and return what it said.

    Raises `AssertionError` naming `what` after `timeout_seconds`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while True:
        answer = condition()
        value = await answer if isawaitable(answer) else answer
        if value:
            return value
        if loop.time() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_seconds:g} s (last: {value!r})")
        await asyncio.sleep(interval_seconds)
