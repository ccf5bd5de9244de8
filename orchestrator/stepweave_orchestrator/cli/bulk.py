"""`stepweave bulk`: an action on every task that a filter finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from .errors import CommandError, ExitCode
from .options import TIMEOUT_SECONDS, By, NatsUrl, Output, Reason, TimeoutSeconds
from .output import OutputFormat, moment, print_fields, print_table, progress, show, status_text
from .running import client, run_async
from .task_input import who

if TYPE_CHECKING:
    from stepweave.client import Client
    from stepweave_schemas.api import BulkListItem, BulkPreview, BulkResponse
    from stepweave_schemas.bulk import BulkAction, BulkFilter

app = typer.Typer(name="bulk", help="Act on every task that a filter finds.", no_args_is_help=True)

#: How often the operation is asked how far it is.
_LOOK_SECONDS: Final = 0.5

BulkId = Annotated[str, typer.Argument(help="The operation's id.", metavar="BULK_ID")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Only tasks of this namespace.", metavar="NAME")
]
Name = Annotated[str | None, typer.Option("--name", help="Only tasks of this template.", metavar="NAME")]
Status = Annotated[
    list[str] | None, typer.Option("--status", help="Only tasks in this state; repeatable.", metavar="STATUS")
]
Tag = Annotated[str | None, typer.Option("--tag", help="Only tasks with this tag.", metavar="TAG")]
Initiator = Annotated[
    str | None, typer.Option("--initiator", help="Only tasks that this one asked for.", metavar="WHO")
]
EveryTask = Annotated[bool, typer.Option("--all", help="Every task: no filter is needed.")]
Rate = Annotated[float, typer.Option("--rate", help="Tasks each second, 0.2 to 1000.", metavar="PER_SECOND")]
Max = Annotated[int, typer.Option("--max", help="No more tasks than these, the newest.", metavar="COUNT")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only count the tasks, and show the first; nothing is stored.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once; the operation goes on by itself.")]


def _command(action: BulkAction, about: str) -> Callable[..., None]:
    def run(
        namespace: Namespace = None,
        name: Name = None,
        status: Status = None,
        tag: Tag = None,
        initiator: Initiator = None,
        every_task: EveryTask = False,
        rate: Rate = 10.0,
        max_: Max = 100_000,
        dry_run: DryRun = False,
        yes: Yes = False,
        detach: Detach = False,
        reason: Reason = "",
        by: By = None,
        nats_url: NatsUrl = None,
        timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
        output: Output = OutputFormat.TABLE,
    ) -> None:
        from stepweave_schemas.bulk import BulkFilter

        wanted = BulkFilter(
            namespace=namespace, name=name, status=tuple(status or ()), initiator=initiator, tag=tag
        )
        if wanted == BulkFilter() and not every_task:
            raise CommandError(
                "say which tasks: --namespace, --name, --status, --tag or --initiator, or --all for every task",
                ExitCode.USAGE,
            )

        async def work() -> None:
            async with client(nats_url, timeout_seconds) as api:
                if dry_run or not yes:
                    preview = await api.preview_bulk(action, wanted, every_task=every_task)
                    if dry_run:
                        show(preview, output, lambda: _print_preview(preview))
                        return
                    _confirm(action, preview, max_)
                bulk = await api.start_bulk(
                    action,
                    wanted,
                    rate_per_second=rate,
                    tasks_max=max_,
                    reason=reason,
                    requested_by=by or who(),
                    every_task=every_task,
                )
                progress(f"bulk operation {bulk.bulk_id}; stop it: stepweave bulk stop {bulk.bulk_id}")
                if not detach:
                    bulk = await _follow(api, bulk)
                show(bulk, output, lambda: _print_bulk(bulk))

        run_async(work())

    run.__doc__ = about
    return run


async def _follow(api: Client, bulk: BulkResponse) -> BulkResponse:
    """Say how far it is until it is done."""
    import asyncio

    said = ""
    while True:
        text = f"{bulk.applied_count} applied, {bulk.refused_count} refused"
        if text != said:
            progress(text)
            said = text
        if bulk.status != "running" and not bulk.pending_count:
            return bulk
        await asyncio.sleep(_LOOK_SECONDS)
        bulk = await api.get_bulk(bulk.bulk_id)


def _confirm(action: str, preview: BulkPreview, tasks_max: int) -> None:
    count = min(preview.matching_count, tasks_max)
    if not typer.confirm(f"{action.replace('_', ' ')} {count} task(s)?", err=True):
        raise CommandError("nothing was done", ExitCode.FAILED)


for _action, _about in (
    ("cancel", "Cancel every task that the filter finds."),
    ("pause", "Hold back every task that the filter finds."),
    ("resume", "Go on with every paused task that the filter finds."),
    ("retry", "Try the failed steps again of every task that the filter finds."),
    ("give_up", "End every blocked task that the filter finds in error."),
    ("resolve", "Say of every task that the filter finds that what it was for is done."),
):
    app.command(_action.replace("_", "-"))(_command(_action, _about))  # type: ignore[arg-type]


@app.command("list")
def list_(
    namespace: Namespace = None,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", help="running, complete or cancelled; repeatable.", metavar="STATUS"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many.", metavar="COUNT")] = 50,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List bulk operations."""

    async def work() -> None:
        async with client(nats_url, timeout_seconds) as api:
            page = await api.list_bulks(namespace=namespace, status=status or (), limit=limit)
        show(page, output, lambda: _print_list(page.bulks))

    run_async(work())


@app.command("show")
def show_(
    bulk_id: BulkId,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show how far a bulk operation is, and which tasks refused."""

    async def work() -> None:
        async with client(nats_url, timeout_seconds) as api:
            bulk = await api.get_bulk(bulk_id)
        show(bulk, output, lambda: _print_bulk(bulk))

    run_async(work())


@app.command()
def stop(
    bulk_id: BulkId,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Stop a bulk operation: it selects no more tasks; those that were selected are still acted on."""

    async def work() -> None:
        async with client(nats_url, timeout_seconds) as api:
            bulk = await api.cancel_bulk(bulk_id, reason=reason, cancelled_by=by or who())
        show(bulk, output, lambda: _print_bulk(bulk))

    run_async(work())


def _print_preview(preview: BulkPreview) -> None:
    progress(f"{preview.matching_count} task(s) match")
    print_table(
        ("TASK", "TEMPLATE", "STATUS", "WOULD REFUSE"),
        [
            (one.task_uuid, f"{one.namespace}/{one.name}", status_text(one.status), one.refusal)
            for one in preview.first
        ],
        empty="no task matches",
    )


def _print_list(bulks: tuple[BulkListItem, ...]) -> None:
    print_table(
        ("BULK", "ACTION", "STATUS", ">APPLIED", ">REFUSED", "BY", "SINCE"),
        [
            (
                one.bulk_id,
                one.action,
                status_text(one.status),
                one.applied_count,
                one.refused_count,
                one.requested_by,
                moment(one.created_at),
            )
            for one in bulks
        ],
        empty="there is no bulk operation",
    )


def _print_bulk(bulk: BulkResponse) -> None:
    print_fields(
        [
            ("bulk", bulk.bulk_id),
            ("action", bulk.action),
            ("filter", _filter_text(bulk.filter)),
            ("status", status_text(bulk.status)),
            ("selected", bulk.selected_count),
            ("applied", bulk.applied_count),
            ("refused", bulk.refused_count),
            ("by", bulk.requested_by),
            ("reason", bulk.reason),
            ("stopped by", bulk.cancelled_by),
            ("stopped because", bulk.cancel_reason),
        ]
    )
    if bulk.refused:
        print_table(
            ("REFUSED", "CODE", "WHY"),
            [(one.task_uuid, one.code, one.reason) for one in bulk.refused],
            empty="",
        )


def _filter_text(wanted: BulkFilter) -> str:
    parts = [
        ("namespace", wanted.namespace),
        ("name", wanted.name),
        ("status", ", ".join(wanted.status)),
        ("initiator", wanted.initiator),
        ("tag", wanted.tag),
    ]
    return "; ".join(f"{name} {value}" for name, value in parts if value) or "every task"
