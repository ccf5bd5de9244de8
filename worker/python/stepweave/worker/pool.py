"""Which tries run now, which wait, and what ends them."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog

from stepweave.current_step import enter_step
from stepweave.error_types import ErrorType
from stepweave.results import StepHandlerResult
from stepweave.telemetry import get_logger
from stepweave.tracing import HandlerSpans
from stepweave_schemas.mint import now_ms
from stepweave_schemas.subjects import PriorityClass

from .execution import run_handler_once
from .held import HeldTry, StopReason
from .threads import HandlerThreads
from .waiting import WaitingTries

log = get_logger("stepweave.worker")

#: How often running tries are looked at for `Started`.
ANNOUNCE_TICK_SECONDS: Final = 0.05
#: So long after a slot was freed the next ones are kept ready, where tries are quick.
READY_SECONDS: Final = 1.0
#: A try is quick that takes less; the pool is while quick tries have prevailed among the last ones.
QUICK_SECONDS: Final = 1.0
_PACE_MAX: Final = 8
#: How long a cancelled async handler may clean up before its try is reported without it.
CLEANUP_SECONDS: Final = 2.0


class TryPool:
    """Runs at most `concurrency` tries at once, each namespace in turn, by priority and age; plain functions in threads.

    A slot is taken until the handler is really over: a handler that ignores its cancellation keeps it. The pool
    tells the worker of each try exactly once: `on_result` with what it ended in, or `on_dropped` where nobody
    wants to know; and of tries that take long `on_started`.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        threads_max: int,
        only_threads: bool,
        announce_after_seconds: float,
        spans: HandlerSpans,
        on_result: Callable[[HeldTry, StepHandlerResult], None],
        on_dropped: Callable[[HeldTry], None],
        on_started: Callable[[HeldTry], None],
        on_room: Callable[[], None],
        clock: Callable[[], int] = now_ms,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency counts from 1, not {concurrency}")
        self.capacity = min(concurrency, threads_max) if only_threads else concurrency
        self._threads = HandlerThreads(threads_max, self._schedule_turn)
        self._announce_after_seconds = announce_after_seconds
        self._spans = spans
        self._on_result = on_result
        self._on_dropped = on_dropped
        self._on_started = on_started
        self._on_room = on_room
        #: Milliseconds since the Unix epoch.
        self._clock = clock
        #: Those for the loop and those for threads apart, so that neither blocks the other.
        self._for_loop = WaitingTries()
        self._for_threads = WaitingTries()
        #: How many tries of each namespace run.
        self._running_of: Counter[str] = Counter()
        #: When a slot was freed last (loop time).
        self._freed_at = float("-inf")
        #: Above 0 where quick tries prevail.
        self._pace = 0
        #: In order of their start; a try leaves when its handler is over.
        self._running: dict[HeldTry, None] = {}
        self._unannounced: dict[HeldTry, None] = {}
        self._running_in_threads = 0
        self._announcer: asyncio.TimerHandle | None = None
        self._turn_scheduled = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        #: Handlers start in it, not in the context of the one that ended before.
        self._context = contextvars.copy_context()
        self.started_count = 0

    # -- state -----------------------------------------------------------------------------------

    @property
    def running_count(self) -> int:
        """How many handlers run, those that were given up but have not ended included."""
        # Threads that are busy beyond the running tries are those that nobody waits for any more.
        hung = self._threads.busy + self._threads.reserved - self._running_in_threads
        return len(self._running) + max(0, hung)

    @property
    def threads_busy(self) -> int:
        """How many threads run a handler."""
        return self._threads.busy + self._threads.reserved

    @property
    def waiting_count(self) -> int:
        """How many tries wait for a slot."""
        return len(self._for_loop) + len(self._for_threads)

    @property
    def demand(self) -> int:
        """How many more tries could start at once."""
        if self._closed or len(self._for_threads) >= self._threads.threads_max:
            return 0
        return max(0, self.capacity - self.running_count - self.waiting_count)

    @property
    def is_quick(self) -> bool:
        """Whether slots are freed so often that asking for the next try each time would cost too much."""
        return self._pace > 0

    def running_of(self, namespace: str) -> int:
        """How many tries of a namespace run."""
        return self._running_of[namespace]

    def is_stuck(self, seconds: float) -> bool:
        """Whether no slot was freed for so long."""
        return self._loop.time() - self._freed_at >= seconds

    def wants_ready(self, namespace: str, priority: PriorityClass) -> bool:
        """Whether one of this kind is to be kept ready although every slot is taken.

        So that the next slot goes to the right one. Only while slots are freed often: a try that waits here for long
        could have run elsewhere.
        """
        return (
            not self._closed
            and self.is_quick
            and self._loop.time() - self._freed_at < READY_SECONDS
            and not self._for_loop.holds(namespace, priority)
            and not self._for_threads.holds(namespace, priority)
        )

    # -- in --------------------------------------------------------------------------------------

    def add(self, tries: Iterable[HeldTry]) -> None:
        """Take tries in; what finds a slot starts now."""
        some = list(tries)
        # Where there is a slot for each, nobody's turn has to be found out.
        roomy = (
            not self._closed and not self.waiting_count and len(some) <= self.capacity - self.running_count
        )
        for held in some:
            if not held.invocation.is_async:
                self._for_threads.add(held)
            elif roomy:
                self._start(held)
            else:
                self._for_loop.add(held)
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self.waiting_count and self.running_count < self.capacity and not self._closed:
            held = self._next()
            if held is None:
                return
            self._start(held)

    def _schedule_turn(self) -> None:
        """Fill free slots once for all handlers that end in this turn of the loop."""
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._turn, context=self._context)

    def _turn(self) -> None:
        self._turn_scheduled = False
        self._start_waiting()
        if not self._closed:
            self._on_room()

    def _next(self) -> HeldTry | None:
        for_loop = self._for_loop.next_turn(self._running_of)
        for_threads = self._for_threads.next_turn(self._running_of) if self._threads.free > 0 else None
        if for_loop is not None and (for_threads is None or for_loop <= for_threads):
            return self._for_loop.pop(for_loop[1])
        return None if for_threads is None else self._for_threads.pop(for_threads[1])

    def take_waiting(self, older_than: float | None = None) -> list[HeldTry]:
        """Give back tries that have not started: all, or those received before `older_than` (loop time)."""

        def wanted(held: HeldTry) -> bool:
            return older_than is None or held.received_at < older_than

        taken = [*self._for_loop.remove(wanted), *self._for_threads.remove(wanted)]
        for held in taken:
            held.reported = True
        return taken

    # -- running ---------------------------------------------------------------------------------

    def _start(self, held: HeldTry) -> None:
        held.started_at = self._loop.time()
        held.started_at_ms = self._clock()
        self._running[held] = None
        self._running_of[held.dispatch.namespace] += 1
        self._idle.clear()
        self.started_count += 1
        if not held.invocation.is_async:
            self._running_in_threads += 1
            self._threads.reserve()
        self._unannounced[held] = None
        if self._announcer is None:
            self._announcer = self._loop.call_later(self._announce_after_seconds, self._announce)
        timeout_ms = held.dispatch.timeout_ms
        if timeout_ms is not None:
            held.timer = self._loop.call_later(timeout_ms / 1000, self._stop, held, StopReason.TIMEOUT)
        held.task = _eager_task(self._run(held), self._loop)

    async def _run(self, held: HeldTry) -> None:
        held.entered = True
        if held.stop_reason is not None:
            if not held.invocation.is_async:
                self._threads.unreserve()
            self._over(held, None)
            return
        result: StepHandlerResult | None = None
        dispatch = held.dispatch
        structlog.contextvars.bind_contextvars(
            task_uuid=dispatch.task_id,
            step=dispatch.step_name,
            attempt=dispatch.attempt,
            correlation_id=dispatch.correlation_id,
        )
        enter_step(held.context)
        try:
            if self._spans.enabled:
                with self._spans.span(dispatch) as span:
                    result = await run_handler_once(held.invocation, held.context, self._threads)
                    self._spans.finish(span, result)
            else:
                result = await run_handler_once(held.invocation, held.context, self._threads)
        except asyncio.CancelledError:
            if held.stop_reason is None:
                result = StepHandlerResult.failure(
                    "the handler was cancelled by itself or by something it awaited",
                    error_code="CancelledError",
                )
        finally:
            self._over(held, result)

    def _over(self, held: HeldTry, result: StepHandlerResult | None) -> None:
        """The handler has ended, or (in a thread) nobody waits for it any more."""
        del self._running[held]
        self._running_of[held.dispatch.namespace] -= 1
        now = self._freed_at = self._loop.time()
        if held.started_at is not None:
            change = 1 if now - held.started_at < QUICK_SECONDS else -1
            self._pace = min(max(self._pace + change, -_PACE_MAX), _PACE_MAX)
        if not held.invocation.is_async:
            self._running_in_threads -= 1
        self._unannounced.pop(held, None)
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        held.task = None
        self._report(held, result)
        self._schedule_turn()
        if not self._running:
            self._idle.set()

    def _report(self, held: HeldTry, result: StepHandlerResult | None) -> None:
        if held.reported:
            return
        held.reported = True
        if held.stop_reason is StopReason.CANCELLED:
            # What came of it all the same is refused, and recorded: somebody may want to know.
            if result is None:
                self._on_dropped(held)
            else:
                self._on_result(held, result)
        elif held.stop_reason is not None:
            self._on_result(held, stopped_result(held))
        else:
            assert result is not None, "a try that was not stopped has a result"
            self._on_result(held, result)

    # -- ending tries ----------------------------------------------------------------------------

    def cancel(self, wanted: Callable[[HeldTry], bool]) -> int:
        """Cancel the running tries and drop the waiting ones for which `wanted` is true; gives their number."""
        count = 0
        for held in (*self._for_loop.remove(wanted), *self._for_threads.remove(wanted)):
            held.stop_reason = StopReason.CANCELLED
            held.context.cancel()
            self._report(held, None)
            count += 1
        for held in [one for one in self._running if wanted(one)]:
            self._stop(held, StopReason.CANCELLED)
            count += 1
        return count

    def stop_running(self, reason: StopReason) -> None:
        """Cancel everything that runs."""
        for held in list(self._running):
            self._stop(held, reason)

    def _stop(self, held: HeldTry, reason: StopReason) -> None:
        if held.task is None:
            return
        if held.stop_reason is not None:
            if held.stop_reason is StopReason.CANCELLED and reason is StopReason.SHUTDOWN:
                # Nobody waits for what its thread returns any longer.
                held.task.cancel()
            return
        held.stop_reason = reason
        held.context.cancel()
        if held.timer is not None:
            held.timer.cancel()
        if not held.entered:
            # A task that is cancelled before its first step never runs its code; let it see the reason.
            return
        if not held.invocation.is_async:
            self._log_hung(held, "its thread is busy until it returns")
            if reason is StopReason.CANCELLED:
                return
        held.task.cancel()
        if held.invocation.is_async:
            held.timer = self._loop.call_later(CLEANUP_SECONDS, self._give_up, held)

    def _give_up(self, held: HeldTry) -> None:
        """An async handler that does not end although it was cancelled."""
        held.timer = None
        if held in self._running and not held.reported:
            self._log_hung(held, "it ignores its cancellation and keeps its slot")
            self._report(held, None)

    def _log_hung(self, held: HeldTry, what: str) -> None:
        log.warning(
            f"a handler goes on after its end: {what}",
            handler=held.invocation.name,
            task_uuid=held.dispatch.task_id,
            step=held.dispatch.step_name,
            reason=held.stop_reason.value if held.stop_reason else "",
        )

    async def wait_idle(self, timeout_seconds: float | None) -> bool:
        """Wait until no handler runs; False after so long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Start nothing any more."""
        self._closed = True
        if self._announcer is not None:
            self._announcer.cancel()
            self._announcer = None
        self._threads.close()

    # -- announcing ------------------------------------------------------------------------------

    def _announce(self) -> None:
        self._announcer = None
        now = self._loop.time()
        for held in list(self._unannounced):
            assert held.started_at is not None, "a running try has started"
            if now - held.started_at < self._announce_after_seconds:
                break
            del self._unannounced[held]
            if not held.reported:
                held.announced = True
                self._on_started(held)
        if self._unannounced and not self._closed:
            self._announcer = self._loop.call_later(ANNOUNCE_TICK_SECONDS, self._announce)


def stopped_result(held: HeldTry) -> StepHandlerResult:
    """What a try is reported as that the worker itself ended."""
    metadata: dict[str, Any] = {}
    if held.context.heartbeat_details is not None:
        metadata["last_heartbeat"] = held.context.heartbeat_details
    if held.stop_reason is StopReason.TIMEOUT:
        seconds = (held.dispatch.timeout_ms or 0) / 1000
        return StepHandlerResult.failure(
            f"the handler took longer than its {seconds:g} s",
            ErrorType.TIMEOUT,
            True,
            error_code="STEP_TIMEOUT",
            metadata=metadata,
        )
    return StepHandlerResult.failure(
        "the worker is shutting down and could not wait for the handler",
        ErrorType.RETRYABLE_ERROR,
        True,
        error_code="WORKER_SHUTDOWN",
        metadata=metadata,
    )


def _eager_task(coroutine: Any, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    """A task that runs at once until it first waits, where Python can do that (3.12)."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)
