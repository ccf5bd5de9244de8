"""Options that several commands have, each defined once."""

from __future__ import annotations

from typing import Annotated

import typer

from .addresses import check_database_address, check_nats_address
from .output import OutputFormat


def checked_nats(context: typer.Context, url: str | None) -> str | None:
    """The callback of options that take the address of NATS."""
    if url and not context.resilient_parsing:
        check_nats_address(url)
    return url


def checked_database(context: typer.Context, url: str | None) -> str | None:
    """The callback of options that take the address of a database."""
    if url and not context.resilient_parsing:
        check_database_address(url)
    return url


NatsUrl = Annotated[
    str | None,
    typer.Option(
        "--nats-url",
        envvar="NATS_URL",
        callback=checked_nats,
        help="NATS server; default: that of the `stepweave dev` of this folder.",
        metavar="URL",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="DATABASE_URL",
        callback=checked_database,
        help="PostgreSQL database; default: that of the `stepweave dev` of this folder.",
        metavar="URL",
    ),
]
Output = Annotated[
    OutputFormat, typer.Option("--output", "-o", help="How data is printed.", metavar="table|json|yaml")
]
TimeoutSeconds = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.", metavar="SECONDS")
]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, for the history.", metavar="TEXT")]
By = Annotated[
    str | None, typer.Option("--by", help="Who, for the history; default: this user.", metavar="WHO")
]
#: The default of `TimeoutSeconds`.
TIMEOUT_SECONDS = 10.0
