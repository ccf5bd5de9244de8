"""`stepweave doctor`: what works here, what does not, and what to do about it."""

from __future__ import annotations

from typing import Annotated

import typer

from .errors import ExitCode
from .options import DatabaseUrl, NatsUrl, Output
from .output import OutputFormat, print_table, progress, show
from .running import run_async


def doctor(
    database_url: DatabaseUrl = None,
    nats_url: NatsUrl = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", help="The data folder to look at.", metavar="DIR")
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Check what works here and what does not.

    This machine, NATS, Postgres, orchestrators and workers: a line each, with what to do.

    Exit code 1 where a check fails; warnings do not count.
    """
    from rich.text import Text

    from .health import Grade, examine

    findings = run_async(examine(database_url, nats_url, data_dir))
    styles = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "bold red"}

    def table() -> None:
        print_table(
            ("", "what", "found", "to do"),
            ((Text(one.grade, style=styles[one.grade]), one.what, one.found, one.to_do) for one in findings),
            empty="nothing was checked",
        )

    show(findings, output, table)
    failed = sum(one.grade is Grade.FAIL for one in findings)
    warned = sum(one.grade is Grade.WARN for one in findings)
    if failed:
        progress(f"{failed} failed, {warned} warned")
        raise typer.Exit(ExitCode.FAILED)
    progress(f"all is well, {warned} warned" if warned else "all is well")
