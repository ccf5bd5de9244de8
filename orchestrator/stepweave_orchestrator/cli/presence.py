"""Which workers are alive, from the bucket that they write to."""

from __future__ import annotations

from typing import Any, Final

from stepweave.api_errors import ApiError
from stepweave.client import Client
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


_TIMEOUT_SECONDS: Final = 3.0


async def missing_handlers(connection: Connection) -> dict[tuple[str, str], int]:
    """Handlers that steps wait for and nobody serves, by namespace and name: how many tasks wait, the most first.

    Empty where no orchestrator answers, which is another command's to tell.
    """
    client = Client(connection=connection)
    try:
        found = await client.dead_letter_stats(timeout_seconds=_TIMEOUT_SECONDS)
    except ApiError:
        return {}
    return {(one.namespace, one.handler): one.task_count for one in found.missing_handlers}
