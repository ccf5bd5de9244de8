"""`stepweave audit`: prove that the ledgers are whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .errors import CommandError, ExitCode
from .options import DatabaseUrl, Output
from .output import OutputFormat, print_table, progress, show, stderr
from .running import event_store, refuse_unknown_shards, run_async

if TYPE_CHECKING:
    from stepweave_eventstore.audit import AuditReport, Progress, ShardAudit

app = typer.Typer(name="audit", help="Prove that the ledgers are whole.", no_args_is_help=True)


@app.callback()
def _audit() -> None:
    """Keeps `verify` a command of a group of one."""


@app.command()
def verify(
    shards: Annotated[
        list[int] | None,
        typer.Option("--shard", min=0, help="Only this shard; may be repeated.", metavar="N"),
    ] = None,
    database_url: DatabaseUrl = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Walk the chain of every shard and name the first broken position.

    Checks for every event that its position, its version and its hash follow from those before it, and for
    every shard that its events end where its row says. Orchestrators may run meanwhile. Exit code 1: broken.
    """
    from stepweave_eventstore.audit import verify as walk

    async def work() -> AuditReport:
        async with event_store(database_url) as store:
            await refuse_unknown_shards(store, shards)
            with stderr().status("") as line:

                def report(at: Progress) -> None:
                    line.update(f"shard {at.shard}: {at.position:,} of {at.head_position:,} events")

                return await walk(store, shards=shards or None, on_progress=report)

    found = run_async(work())
    show(
        [_plain(shard) for shard in found.shards],
        output,
        lambda: print_table(
            (">shard", ">events", "state", ">first broken", "head"),
            (
                (
                    shard.shard,
                    shard.events,
                    "whole" if shard.fault is None else f"broken: {shard.fault.message}",
                    None if shard.fault is None else shard.fault.position,
                    shard.head_hash.hex()[:16],
                )
                for shard in found.shards
            ),
            empty="there are no shards yet",
        ),
    )
    if not found.ok:
        first = found.faults[0]
        raise CommandError(
            f"the ledger is broken: shard {first.shard}, position {first.position}: {first.message}; stop "
            "writing to this database, and compare it with a backup",
            ExitCode.FAILED,
        )
    progress(f"whole: {found.events:,} events in {len(found.shards)} shards")


def _plain(shard: ShardAudit) -> dict[str, object]:
    fault = shard.fault
    return {
        "shard": shard.shard,
        "events": shard.events,
        "head_position": shard.head_position,
        "head_hash": shard.head_hash.hex(),
        "fault": None
        if fault is None
        else {"position": fault.position, "kind": str(fault.kind), "message": fault.message},
    }
