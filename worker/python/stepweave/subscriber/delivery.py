"""Calling handlers with events: again after a failure, and parking what cannot be handled."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from stepweave.errors import PermanentError, StepweaveError
from stepweave.failures import clean_text, traceback_tail
from stepweave.messaging import MessagingError
from stepweave.telemetry import get_logger
from stepweave.worker.threads import HandlerThreads, Raised
from stepweave_schemas.envelope import Envelope, timestamp
from stepweave_schemas.mint import now_ms

from .events import Event
from .names import Names, TaskNames
from .parked import ParkedEvent, ParkedEvents
from .patterns import Pattern, address_of

log = get_logger("stepweave.subscriber")

_ERROR_CHARS_MAX: Final = 2_000


class EventHandler:
    """A function and what it wants."""

    __slots__ = ("function", "is_async", "name", "namespace", "patterns")

    def __init__(
        self, name: str, function: Callable[..., Any], patterns: tuple[Pattern, ...], namespace: str | None
    ) -> None:
        self.name = name
        self.function = function
        self.patterns = patterns
        #: Only tasks of this namespace; None: of all.
        self.namespace = namespace
        self.is_async = inspect.iscoroutinefunction(function)

    def wants(self, address: str) -> bool:
        """Whether one of its patterns matches an event with this address (see `address_of`)."""
        return any(pattern.matches(address) for pattern in self.patterns)


class HandlerCaller:
    """Calls a handler once, async ones on the loop, plain ones in threads, with a time limit."""

    def __init__(self, threads_max: int, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._thread_free = asyncio.Event()
        self._threads = HandlerThreads(threads_max, self._thread_free.set)

    async def call(self, handler: EventHandler, event: Event) -> BaseException | None:
        """What the handler raised, None where it returned; `TimeoutError` where it took too long."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                if handler.is_async:
                    await handler.function(event)
                    return None
                while self._threads.free <= 0:
                    self._thread_free.clear()
                    await self._thread_free.wait()
                value = await self._threads.call(handler.function, event)
                if isinstance(value, Raised):
                    return value.error
                if inspect.isawaitable(value):
                    await value
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return error
        return None

    def close(self) -> None:
        """Let idle threads end."""
        self._threads.close()


class Stopped(Exception):
    """The subscriber stops; the event at hand is not done and comes again."""


class Delivery:
    """Brings one event after the other through every handler that wants it."""

    def __init__(
        self,
        subscriber: str,
        handlers: Sequence[EventHandler],
        *,
        caller: HandlerCaller,
        names: TaskNames,
        parked: ParkedEvents,
        max_attempts: int,
        retry_seconds_min: float,
        retry_seconds_max: float,
        stopping: asyncio.Event,
    ) -> None:
        self._subscriber = subscriber
        self._handlers = handlers
        self._caller = caller
        self._names = names
        self._parked = parked
        self._max_attempts = max_attempts
        self._retry_seconds_min = retry_seconds_min
        self._retry_seconds_max = retry_seconds_max
        self._stopping = stopping
        self.failed_attempts_count = 0
        self.parked_count = 0

    def wanted(self, address: str) -> bool:
        """Whether any handler wants events with this address."""
        return any(handler.wants(address) for handler in self._handlers)

    async def deliver(self, envelope: Envelope, names: Names | None) -> None:
        """Call the handlers, or park the event for those that fail.

        `names` are the namespace and template of its task where the feed told them. Raises `Stopped` where the
        subscriber stops between two tries.
        """
        event: Event | None = None
        address = address_of(envelope)
        for handler in self._handlers:
            if not handler.wants(address):
                continue
            if names is None:
                names = await self._names_of(envelope)
            if handler.namespace is not None and names[0] != handler.namespace:
                continue
            if event is None:
                event = Event(envelope, namespace=names[0], task_name=names[1])
            await self._handle(handler, event, envelope, names)

    async def _names_of(self, envelope: Envelope) -> Names:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._names.of(envelope)
            except StepweaveError as error:
                log.info("cannot tell an event's namespace yet", type=envelope.type, error=str(error))
                await self._pause(attempt, None)

    async def _handle(self, handler: EventHandler, event: Event, envelope: Envelope, names: Names) -> None:
        attempt = 0
        while True:
            attempt += 1
            error = await self._caller.call(handler, event)
            if error is None:
                return
            self.failed_attempts_count += 1
            final = isinstance(error, PermanentError) or attempt >= self._max_attempts
            log.warning(
                "a subscriber's handler failed",
                subscriber=self._subscriber,
                handler=handler.name,
                type=envelope.type,
                task_uuid=envelope.task_id,
                attempt=attempt,
                parked=final,
                error=describe(error),
            )
            if final:
                await self._park(handler, envelope, names, error, attempt)
                return
            await self._pause(attempt, error.retry_after if isinstance(error, StepweaveError) else None)

    async def _pause(self, attempt: int, wish_seconds: float | None) -> None:
        """Wait before the next try; raises `Stopped` where the subscriber stops meanwhile."""
        seconds = wish_seconds
        if seconds is None:
            seconds = min(self._retry_seconds_min * 2 ** (attempt - 1), self._retry_seconds_max)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
            raise Stopped

    async def _park(
        self,
        handler: EventHandler,
        envelope: Envelope,
        names: Names,
        error: BaseException,
        attempts: int,
    ) -> None:
        parked = ParkedEvent(
            id=self._parked.id_of(envelope, handler.name),
            subscriber=self._subscriber,
            handler=handler.name,
            envelope=envelope,
            namespace=names[0],
            task_name=names[1],
            error=describe(error),
            traceback=traceback_tail(error),
            attempts=attempts,
            parked_at=timestamp(now_ms()),
        )
        tries = 0
        while True:
            tries += 1
            try:
                await self._parked.put(parked)
                self.parked_count += 1
                return
            except MessagingError as failure:
                log.error("an event could not be parked, trying again", id=parked.id, error=str(failure))
                await self._pause(tries, None)


def describe(error: BaseException) -> str:
    """An exception in one bounded line."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be read)"
    return clean_text(f"{type(error).__name__}: {text}" if text else type(error).__name__, _ERROR_CHARS_MAX)
