"""`stepweave migrate`: bring the database to the schema of this release."""

from __future__ import annotations

from typing import Annotated

import typer

from .addresses import database_address
from .errors import CommandError, ExitCode
from .options import DatabaseUrl
from .output import progress, say
from .running import run_async


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; print what is missing and exit 1 if anything is.")
    ] = False,
    database_url: DatabaseUrl = None,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds for all of it.", metavar="SECONDS")
    ] = 300.0,
) -> None:
    """Bring the database up to date.

    Applies the migrations that this release needs. Needs a role that owns the database schema `stepweave` or may create it. Orchestrators may run meanwhile.
    """
    from stepweave_eventstore.migrate import migrate as apply
    from stepweave_eventstore.migrate import pending

    address = database_address(database_url)
    if check:
        missing = run_async(pending(address, timeout_seconds=timeout_seconds))
        for name in missing:
            say(name)
        if missing:
            raise CommandError(
                f"{len(missing)} migration(s) to apply: run `stepweave migrate`", ExitCode.FAILED
            )
        progress("nothing to apply")
        return
    applied = run_async(apply(address, timeout_seconds=timeout_seconds))
    for name in applied:
        say(name)
    progress(f"applied {len(applied)} migration(s)" if applied else "nothing to apply")
