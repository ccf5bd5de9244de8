"""Which workers are alive, from the bucket that they write to."""

from __future__ import annotations

from typing import Any

from stepweave.messaging import Connection
from stepweave_orchestrator.runtime.present_workers import WorkersUnknown, present_workers

from .errors import CommandError, ExitCode


async def workers_present(connection: Connection) -> list[dict[str, Any]]:
    """The entry of every worker, by its id; raises `CommandError` where JetStream does not answer."""
    try:
        found = await present_workers(connection)
    except WorkersUnknown as error:
        raise CommandError(
            f"JetStream does not serve the bucket of workers: {error}; `stepweave doctor` tells more",
            ExitCode.UNAVAILABLE,
        ) from None
    return sorted(found, key=lambda state: str(state.get("worker_id")))
