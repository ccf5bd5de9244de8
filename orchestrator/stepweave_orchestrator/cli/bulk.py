"""`stepweave bulk`: an action on every task that a filter finds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from .errors import CommandError, ExitCode
from .options import TIMEOUT_SECONDS, By, NatsUrl, Output, Reason, TimeoutSeconds
from .output import OutputFormat, moment, print_fields, print_table, progress, show, status_text
from .running import client, run_async
from .task_input import moment_of, who

if TYPE_CHECKING:
    from stepweave.client import Client
    from stepweave_schemas.api import BulkListItem, BulkPreview, BulkResponse, BulkTask
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
SourceSystem = Annotated[
    str | None, typer.Option("--source-system", help="Only tasks that came from it.", metavar="NAME")
]
Version = Annotated[
    str | None,
    typer.Option("--version", help="Only tasks of this version of their template.", metavar="VERSION"),
]
CreatedFrom = Annotated[
    str | None,
    typer.Option(
        "--created-from",
        help="Only tasks created then or later: a time with zone, or a span before now such as 2h.",
        metavar="TIME",
    ),
]
CreatedBefore = Annotated[
    str | None,
    typer.Option(
        "--created-before", help="Only tasks created before then, in the same form.", metavar="TIME"
    ),
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
        version: Version = None,
        status: Status = None,
        tag: Tag = None,
        initiator: Initiator = None,
        source_system: SourceSystem = None,
        created_from: CreatedFrom = None,
        created_before: CreatedBefore = None,
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
            namespace=namespace,
            name=name,
            version=version,
            status=tuple(status or ()),
            initiator=initiator,
            source_system=source_system,
            tag=tag,
            created_from=_moment(created_from, "--created-from"),
            created_before=_moment(created_before, "--created-before"),
        )
        if wanted == BulkFilter() and not every_task:
            raise CommandError(
                "say which tasks: --namespace, --name, --version, --status, --tag, --initiator, --source-system, "
                "--created-from or --created-before, or --all for every task",
                ExitCode.USAGE,
            )

        async def work() -> None:
            async with client(nats_url, timeout_seconds) as api:
                if dry_run or not yes:
                    preview = await api.preview_bulk(
                        action, wanted, rate_per_second=rate, tasks_max=max_, every_task=every_task
                    )
                    if dry_run:
                        show(preview, output, lambda: _print_preview(preview))
                        progress(_extent(preview, rate, max_))
                        return
                    _confirm(action, preview, rate, max_)
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


def _moment(text: str | None, option: str) -> str | None:
    return None if text is None else moment_of(text, option, past=True).isoformat()


async def _follow(api: Client, bulk: BulkResponse) -> BulkResponse:
    """Say how far it is until it is done."""
    import asyncio

    from stepweave.api_errors import Unavailable

    said = ""
    while True:
        text = f"{bulk.applied_count} applied, {bulk.refused_count} refused"
        if text != said:
            progress(text)
            said = text
        if bulk.status != "running" and not bulk.pending_count:
            return bulk
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            bulk = await api.get_bulk(bulk.bulk_id)
        except Unavailable as error:
            # Nobody is there to be asked, and to go on with it; the next one does.
            if said != (said := f"it waits: {error}"):
                progress(said)


def _extent(preview: BulkPreview, rate: float, tasks_max: int) -> str:
    """How many tasks it would be, and how long it would take."""
    from .event_text import duration

    count = min(preview.matching_count, tasks_max)
    return f"{count} of {preview.matching_count} task(s), {duration(count / rate * 1000)} at {rate:g} each second"


def _confirm(action: str, preview: BulkPreview, rate: float, tasks_max: int) -> None:
    if not sys.stdin.isatty():
        raise CommandError(
            f"nothing was done: this is no terminal to ask in whether to {action.replace('_', ' ')} "
            f"{_extent(preview, rate, tasks_max)}; --yes does it, --dry-run shows it",
            ExitCode.USAGE,
        )
    if not typer.confirm(f"{action.replace('_', ' ')} {_extent(preview, rate, tasks_max)}?", err=True):
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
    """List bulk operations, those first that have changed last."""

    async def work() -> None:
        async with client(nats_url, timeout_seconds) as api:
            page = await api.list_bulks(namespace=namespace, status=status or (), limit=limit)
        show(page, output, lambda: _print_list(page.bulks))
        if page.next_offset is not None:
            progress(f"there are more than {limit}: --status or --limit")

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
def tasks(
    bulk_id: BulkId,
    outcome: Annotated[
        str | None,
        typer.Option("--outcome", help="Only those: applied, refused or pending.", metavar="OUTCOME"),
    ] = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List what became of each task of a bulk operation, and why those refused that did."""

    async def work() -> list[BulkTask]:
        found: list[BulkTask] = []
        version: int | None = 1
        async with client(nats_url, timeout_seconds) as api:
            while version is not None:
                page = await api.list_bulk_tasks(bulk_id, outcome=outcome, from_version=version)
                found += page.tasks
                version = page.next_version
        return found

    listed = run_async(work())
    show(
        listed,
        output,
        lambda: print_table(
            ("TASK", "OUTCOME", "CODE", "WHY"),
            [(one.task_uuid, one.outcome, one.code, one.reason) for one in listed],
            empty="no task" if outcome is None else f"no task is {outcome}",
        ),
    )


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
            ("note", "as many as it was to take (--max)" if bulk.limit_reached else ""),
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
    if bulk.refused_count > len(bulk.refused):
        progress(
            f"{bulk.refused_count - len(bulk.refused)} more refused: "
            f"stepweave bulk tasks {bulk.bulk_id} --outcome refused"
        )


def _filter_text(wanted: BulkFilter) -> str:
    parts = [
        ("namespace", wanted.namespace),
        ("name", wanted.name),
        ("version", wanted.version),
        ("status", ", ".join(wanted.status)),
        ("initiator", wanted.initiator),
        ("source system", wanted.source_system),
        ("tag", wanted.tag),
        ("created from", wanted.created_from),
        ("created before", wanted.created_before),
    ]
    return "; ".join(f"{name} {value}" for name, value in parts if value) or "every task"
