"""A few threads for handlers that are plain functions."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

_Job = tuple[contextvars.Context, Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]


class HandlerThreads:
    """At most `threads_max` daemon threads, made when first needed.

    Daemons, because a handler that hangs must not keep the process from ending. A thread counts as busy until
    its function really returns, also where nobody waits for it any more.
    """

    def __init__(self, threads_max: int, on_free: Callable[[], None] | None = None) -> None:
        if threads_max < 1:
            raise ValueError(f"threads_max counts from 1, not {threads_max}")
        self.threads_max = threads_max
        #: How many threads run something.
        self.busy = 0
        #: How many are promised to calls that follow.
        self.reserved = 0
        self._on_free = on_free
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._loop = asyncio.get_running_loop()

    @property
    def free(self) -> int:
        """How many more calls can start now."""
        return self.threads_max - self.busy - self.reserved

    def reserve(self) -> None:
        """Keep a thread for one call that follows; `unreserve` where it does not."""
        self.reserved += 1

    def unreserve(self) -> None:
        """Give a reserved thread back."""
        self.reserved -= 1

    def call(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Run a function in a thread, with the caller's context variables.

        The future gives its value or raises what it raised (`SystemExit` too). Cancelling the future only stops
        the waiting.
        """
        if self.reserved:
            self.reserved -= 1
        if self.busy >= self.threads_max:
            raise RuntimeError(f"all {self.threads_max} threads are busy")
        self.busy += 1
        if self._threads < self.busy:
            self._threads += 1
            threading.Thread(
                target=self._work, name=f"stepweave-handler-{self._threads}", daemon=True
            ).start()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.put((contextvars.copy_context(), function, arguments, future))
        return future

    def close(self) -> None:
        """Let idle threads end; busy ones end with their function or with the process."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            context, function, arguments, future = job
            value: Any = None
            error: BaseException | None = None
            try:
                value = context.run(function, *arguments)
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(self._done, future, value, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits
            # Do not keep the last job alive while waiting for the next.
            del job, context, function, arguments, future, value, error

    def _done(self, future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        self.busy -= 1
        if not future.done():
            if error is None:
                future.set_result(value)
            else:
                # A future takes neither StopIteration nor, without a fuss, SystemExit.
                future.set_result(Raised(error))
        if self._on_free is not None:
            self._on_free()


class Raised:
    """An exception on its way out of a thread."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error
