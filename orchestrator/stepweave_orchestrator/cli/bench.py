"""`stepweave bench`: measure speed on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers to this file too.", metavar="FILE")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer runs; ends within 50 s.")] = False,
) -> None:
    """Measure speed on this machine.

    Latency and throughput on embedded servers, beside other systems.
    """
    from stepweave_orchestrator.bench import main_bench

    raise typer.Exit(main_bench(json_file=json_file, quick=quick))
