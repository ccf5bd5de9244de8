"""`stepweave task fork`: a new task that reuses what another one has come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from .options import TIMEOUT_SECONDS, NatsUrl, Output, TimeoutSeconds
from .output import OutputFormat, print_fields, print_table, progress, say, show
from .running import ask
from .task_input import context_of, who

if TYPE_CHECKING:
    from stepweave.responses import ForkResponse
    from stepweave_schemas.api import StepToRun

_WHY: Final = {
    "named": "named with --from",
    "follows": "depends on one that runs anew",
    "not_done": "not done in the original",
    "undone": "was undone in the original",
    "new": "new in this version",
    "changed": "of another type in this version",
    "misfit": "its result does not fit this version",
    "choice_gone": "what it chose is not in this version",
    "undecided": "if a decision that runs anew leads to it",
}


def fork(
    task_id: Annotated[str, typer.Argument(metavar="TASK", help="The original's id.")],
    from_steps: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="Run this step anew, and all that depends on it; may be repeated. Default: whatever is not done.",
            metavar="STEP",
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            help="Another version of its template, or `latest`. Default: the original's.",
            metavar="VERSION",
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            "-c",
            help="Another input: a JSON object, @FILE, or - for stdin. Default: the original's.",
            metavar="JSON",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be reused and what would run.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history.", metavar="TEXT")] = "",
    forked_by: Annotated[
        str | None, typer.Option("--by", help="Who; default: this user.", metavar="WHO")
    ] = None,
    fork_id: Annotated[
        str | None,
        typer.Option(
            "--id", help="A UUID for the fork: the same request again is the same fork.", metavar="ID"
        ),
    ] = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Start a new task that reuses what a task in any state has come to, and runs the rest.

    The original stays as it is.
    """
    given = None if context is None else context_of(context, ())

    reply = ask(
        lambda api: api.fork_task(
            task_id,
            from_steps or (),
            version=version,
            context=given,
            dry_run=dry_run,
            reason=reason,
            forked_by=who() if forked_by is None else forked_by,
            fork_id=fork_id,
        ),
        nats_url,
        timeout_seconds,
    )
    show(reply, output, lambda: print_fork(reply))
    if reply.replayed:
        progress("this fork exists already: the same request made it before")
    elif output is not OutputFormat.TABLE:
        return
    elif reply.task is None:
        progress("nothing was done; without --dry-run the fork begins")
    else:
        progress(f"follow it with: stepweave task watch {reply.task.task_uuid}")


def print_fork(reply: ForkResponse) -> None:
    """A fork for people: what it reuses and what it runs."""
    task = reply.task
    original = reply.forked_from
    print_fields(
        (
            ("fork", "(dry run)" if task is None else task.task_uuid),
            ("of", f"task {original.task_uuid} as of its event {original.stream_version}"),
            ("version", reply.version),
            ("reused", reply.reused_count),
            ("to run", reply.run_count),
        )
    )
    say()
    print_table(
        ("step", "what", "why"),
        [
            *((step, "reused", "") for step in reply.reused),
            *((one.step, "runs", _because(one)) for one in reply.run),
        ],
        empty="no steps",
    )
    hidden = reply.reused_count + reply.run_count - len(reply.reused) - len(reply.run)
    if hidden:
        progress(f"{hidden} more steps are not listed")


def _because(one: StepToRun) -> str:
    why = _WHY.get(one.why or "", one.why or "")
    return f"{why}; it has run before" if one.ran_before else why
