"""The client for code that is not async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import update_wrapper
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from stepweave_schemas.envelope import Envelope

from .client import Client

P = ParamSpec("P")
R = TypeVar("R")


def _waiting(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SyncClient, P], R]:
    """The twin of an async method: the same arguments, and it waits for the answer."""

    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._wait(method(self._client, *args, **kwargs))

    update_wrapper(call, method)
    return call


class SyncClient:
    """The twin of `Client`; its methods take the same arguments and wait. Safe to use from several threads.

    It runs an event loop in a thread of its own: `with SyncClient() as client:`, or `close` at the end. Not for
    use inside a running event loop, which it would block.
    """

    def __init__(
        self,
        nats_url: str | Sequence[str] | None = None,
        *,
        name: str = "stepweave-client",
        timeout_seconds: float = 30.0,
        connect_timeout_seconds: float = 10.0,
        connection_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()
        self._closed = False
        self._lock = threading.Lock()

        async def make() -> Client:
            return Client(
                nats_url,
                name=name,
                timeout_seconds=timeout_seconds,
                connect_timeout_seconds=connect_timeout_seconds,
                connection_options=connection_options,
            )

        self._client = self._wait(make())

    def _wait(self, call: Coroutine[Any, Any, R]) -> R:
        if self._closed:
            call.close()
            raise RuntimeError("this client is closed")
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    connect = _waiting(Client.connect)
    create_task = _waiting(Client.create_task)
    create_tasks = _waiting(Client.create_tasks)
    get_task = _waiting(Client.get_task)
    list_tasks = _waiting(Client.list_tasks)
    cancel_task = _waiting(Client.cancel_task)
    pause_task = _waiting(Client.pause_task)
    resume_task = _waiting(Client.resume_task)
    retry_task = _waiting(Client.retry_task)
    give_up_task = _waiting(Client.give_up_task)
    resolve_task = _waiting(Client.resolve_task)
    signal = _waiting(Client.signal)
    explain_task = _waiting(Client.explain_task)
    list_dead_letters = _waiting(Client.list_dead_letters)
    get_dead_letters = _waiting(Client.get_dead_letters)
    dead_letter_stats = _waiting(Client.dead_letter_stats)
    investigation_queue = _waiting(Client.investigation_queue)
    stale_tasks = _waiting(Client.stale_tasks)
    update_dead_letter = _waiting(Client.update_dead_letter)
    fork_task = _waiting(Client.fork_task)
    wait_for_task = _waiting(Client.wait_for_task)
    get_events = _waiting(Client.get_events)
    get_results = _waiting(Client.get_results)
    list_task_steps = _waiting(Client.list_task_steps)
    get_step = _waiting(Client.get_step)
    reset_step = _waiting(Client.reset_step)
    resolve_step = _waiting(Client.resolve_step)
    complete_step = _waiting(Client.complete_step)
    skip_step = _waiting(Client.skip_step)
    register_template = _waiting(Client.register_template)
    validate_template = _waiting(Client.validate_template)
    get_template = _waiting(Client.get_template)
    list_templates = _waiting(Client.list_templates)
    list_gates = _waiting(Client.list_gates)
    get_gate = _waiting(Client.get_gate)
    open_circuit = _waiting(Client.open_circuit)
    close_circuit = _waiting(Client.close_circuit)
    create_schedule = _waiting(Client.create_schedule)
    get_schedule = _waiting(Client.get_schedule)
    get_schedule_events = _waiting(Client.get_schedule_events)
    list_schedules = _waiting(Client.list_schedules)
    pause_schedule = _waiting(Client.pause_schedule)
    resume_schedule = _waiting(Client.resume_schedule)
    trigger_schedule = _waiting(Client.trigger_schedule)
    backfill_schedule = _waiting(Client.backfill_schedule)
    delete_schedule = _waiting(Client.delete_schedule)
    preview_schedule = _waiting(Client.preview_schedule)
    start_bulk = _waiting(Client.start_bulk)
    preview_bulk = _waiting(Client.preview_bulk)
    get_bulk = _waiting(Client.get_bulk)
    list_bulks = _waiting(Client.list_bulks)
    list_bulk_tasks = _waiting(Client.list_bulk_tasks)
    cancel_bulk = _waiting(Client.cancel_bulk)

    def watch_task(
        self, task_id: str, *, from_version: int = 1, until_blocked: bool = False
    ) -> Iterator[Envelope]:
        """Every event of a task in order, those so far and then those to come, until it ends."""
        events = self._client.watch_task(task_id, from_version=from_version, until_blocked=until_blocked)

        async def following() -> Envelope | None:
            return await anext(events, None)

        async def end() -> None:
            await events.aclose()  # type: ignore[attr-defined]

        try:
            while (envelope := self._wait(following())) is not None:
                yield envelope
        finally:
            if not self._closed:
                self._wait(end())

    def close(self) -> None:
        """Disconnect and end the thread; safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._wait(self._client.close())
            self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5.0)
        if not self._thread.is_alive():
            self._loop.close()

    def __enter__(self) -> SyncClient:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
