"""Results on their way to the orchestrator: packed, published, and only then acknowledged."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial

from stepweave.cancellation import end_tasks
from stepweave.messaging import JetStreamPublisher, MessagingError, PubAck, PublisherFull
from stepweave.telemetry import get_logger
from stepweave_schemas.codec import encode
from stepweave_schemas.result import (
    RESULT_MESSAGE_BYTES_MAX,
    RESULTS_PER_MESSAGE_MAX,
    AnyOutcome,
)
from stepweave_schemas.subjects import MANY_TASKS

log = get_logger("stepweave.worker")

#: The encoded outcome, and what is told whether it arrived (None: nobody).
_Entry = tuple[bytes, Callable[[bool], None] | None]


class ResultPublisher:
    """Collects outcomes of one turn of the event loop and publishes those of a shard in one message.

    `done(True)` of an outcome is called when JetStream has acknowledged its message, `done(False)` where that
    failed for good: its dispatch will be delivered again.
    """

    def __init__(self, publisher: JetStreamPublisher) -> None:
        self._publisher = publisher
        self._waiting: dict[str, list[_Entry]] = {}
        self._scheduled = False
        self._room_task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        #: Flushing runs in it, not in the context of the handler that ended first.
        self._context = contextvars.copy_context()
        self.outcomes_count = 0
        self.messages_count = 0

    def add(self, subject: str, outcome: AnyOutcome, done: Callable[[bool], None] | None) -> None:
        """Publish an outcome soon; at the end of this turn of the loop, with whatever else ended in it."""
        self._waiting.setdefault(subject, []).append((encode(outcome), done))
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush, context=self._context)

    async def drain(self, timeout_seconds: float) -> bool:
        """Publish everything and wait for the acknowledgements; False where that takes longer."""
        deadline = self._loop.time() + timeout_seconds
        while self._waiting:
            if self._loop.time() > deadline:
                return False
            await asyncio.sleep(0.005)
        return await self._publisher.drain(max(0.0, deadline - self._loop.time()))

    async def close(self) -> None:
        """Stop waiting for room."""
        task, self._room_task = self._room_task, None
        if task is not None:
            await end_tasks(task)

    def _flush(self) -> None:
        self._scheduled = False
        if self._publisher.full:
            if self._room_task is None:
                self._room_task = asyncio.create_task(self._flush_with_room())
            return
        waiting, self._waiting = self._waiting, {}
        shards: dict[str, list[str]] = {}
        for subject in waiting:
            shards.setdefault(subject.rpartition(".")[0], []).append(subject)
        for shard, subjects in shards.items():
            if len(subjects) == 1:
                self._send(subjects[0], waiting[subjects[0]])
            else:
                self._send(f"{shard}.{MANY_TASKS}", [one for subject in subjects for one in waiting[subject]])

    async def _flush_with_room(self) -> None:
        await self._publisher.room()
        self._room_task = None
        self._flush()

    def _send(self, subject: str, entries: list[_Entry]) -> None:
        first, size = 0, 2
        for index, (encoded, _) in enumerate(entries):
            more = len(encoded) + 1
            if index > first and (
                size + more > RESULT_MESSAGE_BYTES_MAX or index - first >= RESULTS_PER_MESSAGE_MAX
            ):
                self._publish(subject, entries[first:index])
                first, size = index, 2
            size += more
        self._publish(subject, entries[first:])

    def _publish(self, subject: str, entries: list[_Entry]) -> None:
        if len(entries) == 1:
            payload = entries[0][0]
        else:
            payload = b"[" + b",".join([encoded for encoded, _ in entries]) + b"]"
        try:
            future = self._publisher.publish(subject, payload)
        except PublisherFull:
            self._waiting.setdefault(subject, []).extend(entries)
            self._schedule()
            return
        except MessagingError as error:
            self._failed(subject, entries, error)
            return
        self.outcomes_count += len(entries)
        self.messages_count += 1
        future.add_done_callback(partial(self._answered, subject, entries))

    def _answered(self, subject: str, entries: list[_Entry], future: asyncio.Future[PubAck]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._failed(subject, entries, error)
            return
        for _, done in entries:
            if done is not None:
                done(True)

    def _failed(self, subject: str, entries: list[_Entry], error: BaseException) -> None:
        log.error(
            "results could not be published; their steps will be delivered again",
            subject=subject,
            results=len(entries),
            error=str(error),
        )
        for _, done in entries:
            if done is not None:
                done(False)
