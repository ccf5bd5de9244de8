"""`stepweave env`: where the servers of this folder's `stepweave dev` are, for a shell."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from .addresses import running_dev
from .errors import CommandError, ExitCode
from .output import say


def env(
    data_dir: Annotated[
        str | None,
        typer.Option("--data-dir", help="The data folder of the running dev.", metavar="DIR"),
    ] = None,
) -> None:
    """Print the addresses of the running dev, for a shell.

    Use it as `eval "$(stepweave env)"`: programs that are not of Stepweave's command line – a worker in another language, a script with a client – then find NATS and Postgres. The output holds passwords.
    """
    from pathlib import Path

    dev = running_dev(Path(data_dir) if data_dir else None)
    if dev is None:
        raise CommandError(
            "no `stepweave dev` runs on this folder: start one, or name its data folder with --data-dir",
            ExitCode.NOT_FOUND,
        )
    say(f"export NATS_URL={shlex.quote(dev.nats_url)}")
    say(f"export DATABASE_URL={shlex.quote(dev.database_url)}")
