"""The worker's entry in the bucket of workers: who is there, what it can do, how busy it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from stepweave.cancellation import end_tasks
from stepweave.messaging import Connection, MessagingError
from stepweave.telemetry import get_logger
from stepweave_schemas.codec import encode
from stepweave_schemas.subjects import WORKERS_BUCKET, token

log = get_logger("stepweave.worker")

REFRESH_SECONDS: Final = 10.0
_WRITE_TIMEOUT_SECONDS: Final = 2.0


class Presence:
    """Refreshes the entry every `REFRESH_SECONDS`; best effort, a failure never stops the worker.

    The orchestrator makes the bucket, whose entries disappear some time after they were last refreshed.
    """

    def __init__(self, connection: Connection, worker_id: str, state: Callable[[], dict[str, Any]]) -> None:
        self._connection = connection
        self._subject = f"$KV.{WORKERS_BUCKET}.{token(worker_id)}"
        self._state = state
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def start(self) -> None:
        """Write the entry now and from now on."""
        self._task = asyncio.create_task(self._run(), name="stepweave-presence")

    async def stop(self) -> None:
        """Remove the entry."""
        task, self._task = self._task, None
        if task is None:
            return
        await end_tasks(task)
        if self._connection.connected:
            await self._write(b"", {"KV-Operation": "DEL"})

    async def _run(self) -> None:
        while True:
            await self._write(encode(self._state()))
            await asyncio.sleep(REFRESH_SECONDS)

    async def _write(self, payload: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            answer = await self._connection.request(
                self._subject, payload, headers=headers, timeout_seconds=_WRITE_TIMEOUT_SECONDS
            )
        except MessagingError as error:
            failure: str | None = str(error)
        else:
            failure = answer.data.decode(errors="replace") if b'"error"' in answer.data else None
        if failure is not None and not self._failing:
            log.debug("the worker's presence could not be written", error=failure)
        self._failing = failure is not None
