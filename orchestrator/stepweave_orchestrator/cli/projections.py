"""`stepweave projections`: what lists are answered from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .options import DatabaseUrl, Output
from .output import OutputFormat, print_table, progress, show, stderr
from .running import event_store, refuse_unknown_shards, run_async

if TYPE_CHECKING:
    from stepweave_orchestrator.runtime.rebuild import RebuiltShard

app = typer.Typer(name="projections", help="What lists are answered from.", no_args_is_help=True)


@app.callback()
def _projections() -> None:
    """Keeps `rebuild` a command of a group of one."""


@app.command()
def rebuild(
    shards: Annotated[
        list[int] | None,
        typer.Option("--shard", min=0, help="Only this shard; may be repeated.", metavar="N"),
    ] = None,
    database_url: DatabaseUrl = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Write the rows of `task list` and `template list` anew from the ledger.

    Safe at any time. A shard that no orchestrator owns is taken for as long as it lasts, emptied and rebuilt
    whole; lists lack its tasks meanwhile, and an orchestrator that starts now waits for it. A shard that an
    orchestrator owns is repaired in place: every row is written again from the ledger and none disappears, so
    rows of tasks that the ledger does not have stay; stop the orchestrators to get rid of those. If it is
    interrupted, run it again, or start an orchestrator, which goes on where it stopped.
    """
    from stepweave_orchestrator.runtime.rebuild import rebuild as run_rebuild

    async def work() -> list[RebuiltShard]:
        async with event_store(database_url) as store:
            await refuse_unknown_shards(store, shards)
            with stderr().status("") as line:
                return await run_rebuild(
                    store,
                    shards=shards,
                    on_progress=lambda shard, position, head: line.update(
                        f"shard {shard}: {position:,} of {head:,} events"
                    ),
                )

    found = run_async(work())
    show(
        found,
        output,
        lambda: print_table(
            (">shard", ">events", "how"),
            (
                (one.shard, one.events, "emptied and rebuilt" if one.emptied else "repaired in place")
                for one in found
            ),
            empty="there are no shards yet: start an orchestrator once",
        ),
    )
    progress(f"rebuilt from {sum(one.events for one in found):,} events")
