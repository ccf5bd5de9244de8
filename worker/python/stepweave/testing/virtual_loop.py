"""An event loop whose clock jumps over waiting: an hour of backoff takes no time."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any, Final

#: While something real is awaited (a thread, a socket), the clock follows the real one in steps of so long.
_REAL_STEP_SECONDS: Final = 0.05


class RealTimeExceeded(RuntimeError):
    """Something real – a thread, a socket – did not end; the virtual clock cannot help there."""


class _Selector(selectors.DefaultSelector):
    """Where the loop would sleep, moves its clock on instead."""

    loop: VirtualClockLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is not None and not self.loop.waits_for_real():
            self.loop.advance(timeout)
            return []
        before = time.monotonic()
        step = _REAL_STEP_SECONDS if timeout is None else min(timeout, _REAL_STEP_SECONDS)
        ready = super().select(step)
        self.loop.advance(time.monotonic() - before, real=True)
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """`time()` moves only where nothing is ready to run: at once to the next timer.

    While `busy()` says that a thread works, or a socket is open, it follows the real clock; after
    `real_seconds_max` of that in all it raises `RealTimeExceeded`.
    """

    def __init__(self, *, real_seconds_max: float) -> None:
        self._now = 0.0
        self._real_seconds_left = real_seconds_max
        self._real_seconds_max = real_seconds_max
        self.busy: Callable[[], bool] = lambda: False
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        self._own_files = len(selector.get_map())
        self._files = selector
        #: Calls in the loop's own threads, such as look-ups of host names, that have not ended.
        self._in_executor: set[asyncio.Future[Any]] = set()

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As any loop does; while the thread works, the clock follows the real one."""
        future = super().run_in_executor(executor, func, *args)
        self._in_executor.add(future)
        future.add_done_callback(self._in_executor.discard)
        return future

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def waits_for_real(self) -> bool:
        """Whether something outside of the loop may still happen."""
        return self.busy() or bool(self._in_executor) or len(self._files.get_map()) > self._own_files

    def advance(self, seconds: float, *, real: bool = False) -> None:
        """Move the clock on."""
        self._now += seconds
        if real:
            self._real_seconds_left -= seconds
            if self._real_seconds_left < 0:
                raise RealTimeExceeded(
                    f"a handler did not end within {self._real_seconds_max:g} s of real time"
                )
