"""Seeing tasks complete: a core subscription on the signal feed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from nats.aio.msg import Msg

from stepweave.messaging import Connection

from .workflows import NAMESPACE

COMPLETED_SUBJECT: Final = f"sw.evt.{NAMESPACE}.*.*.task.completed"
#: What must not happen to a task whose steps do nothing.
TROUBLE_SUBJECTS: Final = tuple(
    f"sw.evt.{NAMESPACE}.*.*.task.{verb}"
    for verb in ("failed", "blocked", "cancelled", "paused", "resolved_manually")
)
_TASK_ID_TOKEN: Final = 4


class TasksNotCompleted(Exception):
    """Tasks of the benchmark did not complete; the text says what was seen instead."""


class Expected:
    """Tasks that are waited for; `finished_at` (of `time.perf_counter`) is when the last one completed."""

    def __init__(self, task_ids: Iterable[str]) -> None:
        self.missing = set(task_ids)
        self.finished_at = 0.0
        self._done = asyncio.Event()
        self._trouble: str | None = None

    def complete(self, task_id: str, at: float) -> None:
        """Take note of a task's completion."""
        self.missing.discard(task_id)
        if not self.missing:
            self.finished_at = at
            self._done.set()

    def fail(self, why: str) -> None:
        """End the wait with an error."""
        self._trouble = why
        self._done.set()

    async def wait(self, timeout_seconds: float) -> float:
        """Wait for all; returns `finished_at`. Raises `TasksNotCompleted`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._done.wait()
        except TimeoutError:
            raise TasksNotCompleted(
                f"{len(self.missing)} tasks were not completed within {timeout_seconds:g} s, "
                f"such as {next(iter(self.missing))}"
            ) from None
        if self._trouble is not None:
            raise TasksNotCompleted(self._trouble)
        return self.finished_at


class Completions:
    """Listens to the outcomes of the benchmark's tasks; made by `listen`."""

    def __init__(self) -> None:
        self._expected: dict[str, Expected] = {}

    @classmethod
    async def listen(cls, connection: Connection) -> Completions:
        """Begin to listen; it ends with the connection."""
        self = cls()
        await connection.subscribe(COMPLETED_SUBJECT, self._on_completed)
        for subject in TROUBLE_SUBJECTS:
            await connection.subscribe(subject, self._on_trouble)
        await connection.flush(timeout_seconds=10.0)
        return self

    def expect(self, task_ids: Iterable[str]) -> Expected:
        """Wait for these tasks from now on; call it before they are submitted."""
        expected = Expected(task_ids)
        self._expected.update(dict.fromkeys(expected.missing, expected))
        return expected

    def _on_completed(self, message: Msg) -> None:
        at = time.perf_counter()
        task_id = message.subject.split(".")[_TASK_ID_TOKEN]
        expected = self._expected.pop(task_id, None)
        if expected is not None:
            expected.complete(task_id, at)

    def _on_trouble(self, message: Msg) -> None:
        expected = self._expected.get(message.subject.split(".")[_TASK_ID_TOKEN])
        if expected is not None:
            expected.fail(
                f"a task of the benchmark ended otherwise: {message.subject} {message.data.decode()[:500]}"
            )
