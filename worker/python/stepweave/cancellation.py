"""Ending tasks for good."""

from __future__ import annotations

import asyncio
from typing import Any, Final

#: A task may swallow one cancellation – `asyncio.wait_for` of Python 3.11 does where it comes in the very moment
#: in which the waiting ends – so it is cancelled again after so long.
_AGAIN_SECONDS: Final = 0.2


async def end_tasks(*tasks: asyncio.Future[Any], timeout_seconds: float = 10.0) -> bool:
    """Cancel tasks and wait until they are gone; False where some still are not after `timeout_seconds`.

    What they raise is dropped.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    waiting: set[asyncio.Future[Any]] = {task for task in tasks if not task.done()}
    while waiting and loop.time() < deadline:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=_AGAIN_SECONDS)
    for task in tasks:
        if task.done() and not task.cancelled():
            # Reading it keeps asyncio from reporting it as never retrieved.
            task.exception()
    return not waiting
