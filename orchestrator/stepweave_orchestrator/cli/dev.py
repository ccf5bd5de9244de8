"""`stepweave dev`: everything on this machine, for development."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from .addresses import DATA_DIR_VARIABLE, DEFAULT_DATA_DIR
from .errors import require_parts
from .logs import LogLevel, LogLevelName, LogStyle
from .options import checked_database, checked_nats
from .output import progress

#: What running handlers get at Ctrl-C; the rest of their tries happens at the next start.
GRACE_SECONDS: Final = 10.0

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar=DATA_DIR_VARIABLE,
        help="Where the embedded servers keep their data.",
        metavar="DIR",
        file_okay=False,
    ),
]
ExistingDatabase = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="DATABASE_URL",
        callback=checked_database,
        help="Use this PostgreSQL, not an embedded one.",
        metavar="URL",
    ),
]
ExistingNats = Annotated[
    str | None,
    typer.Option(
        "--nats-url",
        envvar="NATS_URL",
        callback=checked_nats,
        help="Use this NATS, not an embedded one.",
        metavar="URL",
    ),
]


def dev(
    modules: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE_OR_PATH…]",
            help="Modules with handlers, by name or as a path such as ./handlers.py.",
        ),
    ] = None,
    templates: Annotated[
        list[Path] | None,
        typer.Option(
            "--templates",
            "-t",
            help="A template file, or a folder with *.yaml files; may be repeated.",
            exists=True,
            metavar="FILE|DIR",
        ),
    ] = None,
    data_dir: DataDir = Path(DEFAULT_DATA_DIR),
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Worker processes.", metavar="N")
    ] = 1,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Most steps at once, in each.", metavar="N")
    ] = 100,
    resolve_imports: Annotated[
        bool, typer.Option("--resolve-imports", help="Templates may name members of the modules directly.")
    ] = False,
    log_level: LogLevel = LogLevelName.WARNING,
    database_url: ExistingDatabase = None,
    nats_url: ExistingNats = None,
) -> None:
    """Run everything on this machine.

    PostgreSQL, NATS, an orchestrator, and workers for your handlers. Nothing has to be installed for it. Ctrl-C stops everything in order; the data stays. Other commands that are
    typed in the same folder find it.
    """
    from .logs import configure_logs
    from .signals import run_until_signal
    from .template import load, template_files

    require_parts(embedded=not (database_url and nats_url))
    # Wrong templates are told before anything starts.
    paths = template_files(templates or [])
    loaded = {path: load(path) for path in paths}
    configure_logs(log_level, LogStyle.CONSOLE)

    from .dev_session import DevSession
    from .worker_processes import WorkerSettings

    settings = WorkerSettings(
        modules=tuple(modules or ()),
        concurrency=concurrency,
        grace_seconds=GRACE_SECONDS,
        resolve_imports=resolve_imports,
        log_level=log_level,
    )
    session = DevSession(data_dir, loaded, settings, workers)

    def on_signal(count: int) -> None:
        progress("\nstopping …" if count == 1 else "stopping at once …")

    _, signals = run_until_signal(lambda: session.run(database_url, nats_url), on_signal=on_signal)
    if signals:
        progress(f"stopped; the data stays in {data_dir}")
