"""`stepweave demo`: the example workflows, run before your eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from .dev import ExistingDatabase, ExistingNats
from .errors import CommandError, ExitCode, require_parts
from .logs import LogLevelName, LogStyle
from .output import progress

#: The examples of a checkout, seen from this file.
_CHECKOUT_EXAMPLES: Final = Path(__file__).parents[3] / "examples"


def demo(
    examples: Annotated[
        Path | None,
        typer.Option(
            "--examples", help="Folder of the examples; default: those of the checkout.", metavar="DIR"
        ),
    ] = None,
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir", help="Where the embedded servers keep their data.", metavar="DIR", file_okay=False
        ),
    ] = Path(".data/demo"),
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds that one run may take.", metavar="SECONDS")
    ] = 60.0,
    database_url: ExistingDatabase = None,
    nats_url: ExistingNats = None,
) -> None:
    """Run the example workflows.

    They run on PostgreSQL and NATS, and what happened is printed. Everything is started for it and stopped at the end, also after Ctrl-C. Exit code 0 where each run ended as its
    example says.
    """
    from .demo_examples import find_examples
    from .logs import configure_logs

    folder = examples or (_CHECKOUT_EXAMPLES if _CHECKOUT_EXAMPLES.is_dir() else Path("examples"))
    if not folder.is_dir():
        raise CommandError(
            "the examples are not part of the installed package: run `make demo` in a checkout of the "
            "repository, or name a folder with --examples",
            ExitCode.NOT_FOUND,
        )
    found = find_examples(folder)
    require_parts(embedded=not (database_url and nats_url))
    configure_logs(LogLevelName.WARNING, LogStyle.CONSOLE)

    from .demo_session import DemoSession
    from .signals import run_until_signal

    session = DemoSession(found, timeout_seconds)

    def on_signal(count: int) -> None:
        progress("\nstopping …" if count == 1 else "stopping at once …")

    good, signals = run_until_signal(
        lambda: session.run(data_dir, database_url, nats_url), on_signal=on_signal
    )
    if signals:
        progress("stopped; nothing runs any more")
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not good:
        raise CommandError("some run did not end as its example says: see above", ExitCode.FAILED)
    here = Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    progress(f"every run ended as its example says; what to read next: {shown}/*/README.md")
