"""`stepweave orchestrator`: run one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .addresses import database_address, nats_address
from .logs import LogFormat, LogLevel, LogLevelName, LogStyle
from .options import DatabaseUrl, NatsUrl, Output
from .output import OutputFormat

if TYPE_CHECKING:
    from stepweave_schemas.load import OrchestratorLoad

app = typer.Typer(
    name="orchestrator", help="Run an orchestrator, and see how much is under way.", no_args_is_help=True
)


@app.command("run")
def run_(
    owner: Annotated[
        str | None,
        typer.Option(
            "--owner", help="Its name, unique among live ones; default: host and process.", metavar="NAME"
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            "--shards", min=1, max=1024, help="Shards of a new installation; fixed from then on.", metavar="N"
        ),
    ] = None,
    log_level: LogLevel = LogLevelName.INFO,
    log_format: LogFormat = LogStyle.JSON,
    database_url: DatabaseUrl = None,
    nats_url: NatsUrl = None,
) -> None:
    """Run an orchestrator until SIGTERM or Ctrl-C; any number may run side by side.

    It shares the shards with the others, and hands its own over at the end. The line "ready" in its log says that
    it answers requests. Further settings: STEPWEAVE_… variables. The database must be migrated.
    """
    from .logs import configure_logs
    from .orchestrator_process import run_orchestrator
    from .signals import run_until_signal

    configure_logs(log_level, log_format)
    database, nats = database_address(database_url, nats_url), nats_address(nats_url, database_url)
    run_until_signal(
        lambda: run_orchestrator(database_url=database, nats_url=nats, owner=owner, shard_count=shards)
    )


@app.command("status")
def status(nats_url: NatsUrl = None, output: Output = OutputFormat.TABLE) -> None:
    """Show how much each orchestrator has under way, and whether it takes more.

    State, depth, age and lag, with the limit of each; refused creates by reason; what waits for the workers of each
    namespace. `strained`: only namespaces with more than their share are refused. `closed`: every create is.

    Exit code 5 where no orchestrator answers.
    """
    from .load import orchestrator_loads, print_loads
    from .output import show
    from .running import connection, run_async

    async def ask() -> list[OrchestratorLoad]:
        async with connection(nats_url) as link:
            return await orchestrator_loads(link)

    loads = run_async(ask())
    show(loads, output, lambda: print_loads(loads))
