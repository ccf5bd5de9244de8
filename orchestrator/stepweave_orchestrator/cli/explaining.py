"""`stepweave explain`: why a task is where it is, and what would move it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .errors import CommandError, ExitCode
from .options import TIMEOUT_SECONDS, DatabaseUrl, NatsUrl, Output, TimeoutSeconds
from .output import OutputFormat, progress, say, show
from .running import client, event_store, run_async
from .task import TaskId

if TYPE_CHECKING:
    from stepweave_schemas.api import TaskExplanation


def explain_task(
    task_id: TaskId,
    step: Annotated[
        str | None,
        typer.Option("--step", help="Only what this step waits for.", metavar="STEP"),
    ] = None,
    ledger: Annotated[
        bool,
        typer.Option("--ledger", help="Ask Postgres alone: no orchestrator has to run, and no NATS."),
    ] = False,
    nats_url: NatsUrl = None,
    database_url: DatabaseUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say why a task is where it is, what holds it up most first, and which commands would move it."""

    async def ask() -> TaskExplanation:
        from stepweave.api_errors import Unavailable
        from stepweave.messaging.errors import ConnectFailed

        if ledger:
            return await _from_ledger(database_url, task_id, step, timeout_seconds)
        try:
            async with client(nats_url, timeout_seconds) as api:
                return await api.explain_task(task_id, step=step)
        except (Unavailable, ConnectFailed) as error:
            if isinstance(error, Unavailable) and error.details.get("event_store_answers") is False:
                raise
            message = error.message if isinstance(error, Unavailable) else str(error)
            raise CommandError(
                f"{message}; `stepweave explain {task_id} --ledger` asks Postgres alone", ExitCode.UNAVAILABLE
            ) from None

    found = run_async(ask())
    show(found, output, lambda: _print(found))


async def _from_ledger(
    database_url: str | None, task_id: str, step: str | None, timeout_seconds: float
) -> TaskExplanation:
    """The explanation from Postgres alone."""
    import asyncio

    try:
        async with asyncio.timeout(timeout_seconds):
            return await _explained_by_ledger(database_url, task_id, step)
    except TimeoutError:
        raise CommandError(
            f"Postgres has not answered within {timeout_seconds:g} s; `stepweave doctor` tells what is wrong",
            ExitCode.UNAVAILABLE,
        ) from None


async def _explained_by_ledger(database_url: str | None, task_id: str, step: str | None) -> TaskExplanation:
    from stepweave.api_errors import api_error
    from stepweave_orchestrator.api.explanations import ExplanationOperations
    from stepweave_orchestrator.runtime.loading import ActorLoader
    from stepweave_orchestrator.runtime.templates import TemplateCatalogue
    from stepweave_schemas.api import ApiError, ExplainTask

    async with event_store(database_url) as store:
        shard_count = len(await store.shards())
        loader = ActorLoader(store, TemplateCatalogue(store), shard_count)
        explaining = ExplanationOperations(store, loader, None, None, shard_count)
        try:
            return await explaining.explanation(ExplainTask(task_id=task_id, step=step))
        except ApiError as error:
            # As if an orchestrator had refused it.
            raise api_error({"code": error.code, "message": error.message, **error.details}) from None


def _print(found: TaskExplanation) -> None:
    """The summary has the first finding's sentence already; its commands follow. At the end stands who moves the task."""
    say(found.summary)
    for number, finding in enumerate(found.findings):
        if number:
            say()
            say(finding.sentence)
        for line in finding.commands:
            say(f"    {line}")
    if not any(finding.code in ("shard_silent", "shard_unowned") for finding in found.findings):
        say()
        say(found.shard.sentence)
    for what in found.unknown:
        progress(f"could not be found out: {what}")
