"""Running something until a signal ends it, in good order; a second signal ends it at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop


class _Signals:
    """Cancels the main task: once to begin its clean-up, again to cut that short."""

    def __init__(self, on_signal: Callable[[int], None] | None) -> None:
        self.received = 0
        self._on_signal = on_signal

    async def run(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] = asyncio.ensure_future(make())

        def on_signal() -> None:
            self.received += 1
            if self._on_signal is not None:
                self._on_signal(self.received)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        try:
            return await task
        except asyncio.CancelledError:
            if not self.received:
                raise
            return None
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def run_until_signal(
    make: Callable[[], Coroutine[Any, Any, Any]], *, on_signal: Callable[[int], None] | None = None
) -> tuple[Any, int]:
    """Run the coroutine of `make` on uvloop; SIGINT and SIGTERM cancel it, so that its `finally` blocks clean up.

    `on_signal` is told the count of each signal. Returns what the coroutine returned (`None` where a signal ended
    it) and how many signals came. Errors of the coroutine are raised.
    """
    signals = _Signals(on_signal)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(signals.run(make))
    return found, signals.received
