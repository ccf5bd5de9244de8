"""Options that several commands have, each defined once."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import OutputFormat

NatsUrl = Annotated[
    str | None,
    typer.Option(
        "--nats-url",
        envvar="NATS_URL",
        help="NATS server; default: that of the `stepweave dev` of this folder.",
        metavar="URL",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="DATABASE_URL",
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
#: The default of `TimeoutSeconds`.
TIMEOUT_SECONDS = 10.0
