"""Which workers are alive, from the bucket that they write to."""

from __future__ import annotations

from collections import Counter
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


#: Of many tasks that stand still so many are looked at.
STALE_MAX: Final = 200
_TIMEOUT_SECONDS: Final = 3.0


async def missing_handlers(connection: Connection) -> dict[tuple[str, str], int]:
    """Handlers that steps wait for and nobody serves, by namespace and name: how many tasks wait.

    Empty where no orchestrator answers, which is another command's to tell.
    """
    client = Client(connection=connection)
    try:
        page = await client.stale_tasks(per_page=STALE_MAX, timeout_seconds=_TIMEOUT_SECONDS)
    except ApiError:
        return {}
    return Counter((entry.namespace, handler) for entry in page.entries for handler in entry.missing_handlers)
