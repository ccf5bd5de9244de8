"""`stepweave dlq`: tasks that are stuck, and what became of those that were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import TIMEOUT_SECONDS, NatsUrl, Output, TimeoutSeconds
from .output import OutputFormat, moment, print_fields, print_table, progress, say, show
from .running import ask, client, run_async
from .task_input import object_of, who

if TYPE_CHECKING:
    from stepweave_schemas.api import DeadLetterEntry, DeadLetterPage

app = typer.Typer(
    name="dlq", help="Dead letters: tasks that are stuck, and what became of them.", no_args_is_help=True
)

Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Only of this namespace.", metavar="NAMESPACE")
]
Page = Annotated[int, typer.Option("--page", min=1, help="Which page, from 1.", metavar="N")]
PerPage = Annotated[int, typer.Option("--per-page", min=1, max=200, help="How many on a page.", metavar="N")]
TaskId = Annotated[str, typer.Argument(metavar="TASK", help="A task's id.")]
EntryId = Annotated[str, typer.Argument(metavar="ENTRY", help="A dead letter's id, as `dlq list` shows it.")]


@app.command("list")
def list_(
    namespace: Namespace = None,
    name: Annotated[str | None, typer.Option("--name", help="Only of this template.", metavar="NAME")] = None,
    reasons: Annotated[
        list[str] | None,
        typer.Option("--reason", help="failures or staleness; may be repeated.", metavar="REASON"),
    ] = None,
    statuses: Annotated[
        list[str] | None,
        typer.Option("--status", help="Resolution status; may be repeated.", metavar="STATUS"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that are resolved too.")] = False,
    page: Page = 1,
    per_page: PerPage = 50,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List the dead letters, the newest first; by default the open ones."""

    async def work() -> DeadLetterPage:
        async with client(nats_url, timeout_seconds) as api:
            return await api.list_dead_letters(
                namespace=namespace,
                name=name,
                reason=reasons or (),
                resolution_status=statuses or (),
                is_open=None if everything or statuses else True,
                page=page,
                per_page=per_page,
            )

    _print_page(run_async(work()), output, "no dead letters")


@app.command()
def queue(
    namespace: Namespace = None,
    page: Page = 1,
    per_page: PerPage = 50,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List what to look at first: open dead letters by urgency.

    Urgency is the age in hours, and an hour more for each point of the task's priority.
    """

    async def work() -> DeadLetterPage:
        async with client(nats_url, timeout_seconds) as api:
            return await api.investigation_queue(namespace=namespace, page=page, per_page=per_page)

    _print_page(run_async(work()), output, "nothing waits for an investigation")


@app.command()
def stale(
    namespace: Namespace = None,
    page: Page = 1,
    per_page: PerPage = 50,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List tasks that stand still now: by their template's `lifecycle`, or for a handler that nobody serves."""

    async def work() -> DeadLetterPage:
        async with client(nats_url, timeout_seconds) as api:
            return await api.stale_tasks(namespace=namespace, page=page, per_page=per_page)

    _print_page(run_async(work()), output, "no task stands still")


@app.command("show")
def show_(
    task_id: TaskId,
    entry: Annotated[
        str | None,
        typer.Option("--entry", help="The dead letter to show; default: the last one.", metavar="ENTRY"),
    ] = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show a task's dead letters, and the task as it was when the last one began."""

    async def work() -> Any:
        async with client(nats_url, timeout_seconds) as api:
            return await api.get_dead_letters(task_id, entry_uuid=entry)

    found = run_async(work())

    def table() -> None:
        from .task import print_task

        if not found.entries:
            progress(f"task {task_id} was never stuck")
            return
        for one in found.entries:
            if one.dlq_entry_uuid == found.dlq_entry_uuid:
                _print_entry(one)
        others = [one for one in found.entries if one.dlq_entry_uuid != found.dlq_entry_uuid]
        if others:
            say()
            say("the task's other dead letters:")
            _print_entries(others, "")
        if found.task_snapshot is not None:
            say()
            say("the task at that moment:")
            print_task(found.task_snapshot, with_steps=True)

    show(found, output, table)


@app.command()
def stats(
    namespace: Namespace = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Count the dead letters by template, reason and resolution status, and the tasks that wait for missing handlers."""

    found = ask(lambda api: api.dead_letter_stats(namespace=namespace), nats_url, timeout_seconds)

    def table() -> None:
        print_table(
            ("template", "reason", "status", ">count", ">open", ">oldest open", ">resolved after"),
            (
                (
                    f"{kind.namespace}/{kind.name}",
                    kind.dlq_reason,
                    kind.resolution_status,
                    kind.count,
                    kind.open_count,
                    _age(kind.oldest_open_age_seconds),
                    _age(kind.mean_seconds_to_resolution),
                )
                for kind in found.kinds
            ),
            empty="no dead letters",
        )
        progress(f"{found.total_count} dead letters, {found.open_count} of them open")
        if found.missing_handlers:
            say()
            print_table(
                ("namespace", "handler that nobody serves", ">tasks", ">oldest"),
                (
                    (one.namespace, one.handler, one.task_count, _age(one.oldest_age_seconds))
                    for one in found.missing_handlers
                ),
                empty="",
            )

    show(found, output, table)


@app.command()
def resolve(
    entry: EntryId,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            help="manually_resolved, permanently_failed, cancelled; or investigating, pending.",
            metavar="STATUS",
        ),
    ] = "manually_resolved",
    notes: Annotated[
        str | None, typer.Option("--notes", help="What was found, or done.", metavar="TEXT")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who; default: this user.", metavar="WHO")] = None,
    metadata: Annotated[
        str | None,
        typer.Option("--metadata", help="A JSON object to keep with it: text, or @file.", metavar="JSON"),
    ] = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say what came of a dead letter, or that somebody looks at it (--status investigating).

    It resolves the letter, not the task: that stays as it is.
    """
    given = None if metadata is None else object_of(metadata, "--metadata")

    found = ask(
        lambda api: api.update_dead_letter(
            entry,
            resolution_status=status,
            notes=notes,
            resolved_by=who() if by is None else by,
            metadata=given,
        ),
        nats_url,
        timeout_seconds,
    )
    show(found, output, lambda: _print_entry(found))


def _print_page(found: DeadLetterPage, output: OutputFormat, empty: str) -> None:
    def table() -> None:
        page = found.pagination
        beyond = f"there are {page.total_count}; the last page is --page {page.total_pages}"
        _print_entries(found.entries, beyond if page.total_count else empty)
        if page.has_next:
            progress(f"page {page.page} of {page.total_pages}; the next one: --page {page.page + 1}")

    show(found, output, table)


def _print_entries(entries: Any, empty: str) -> None:
    print_table(
        ("entry", "task", "template", "reason", "status", ">age", ">urgency", "what"),
        (
            (
                one.dlq_entry_uuid,
                one.task_uuid,
                f"{one.namespace}/{one.name}",
                one.dlq_reason,
                one.resolution_status,
                _age(one.age_seconds),
                f"{one.priority_score:.1f}",
                one.error_message,
            )
            for one in entries
        ),
        empty=empty,
    )


def _print_entry(one: DeadLetterEntry) -> None:
    print_fields(
        (
            ("entry", one.dlq_entry_uuid),
            ("task", one.task_uuid),
            ("template", f"{one.namespace}/{one.name}:{one.version}"),
            ("reason", one.dlq_reason),
            ("what", one.error_message),
            ("code", one.error_code),
            ("steps", one.steps),
            ("missing handlers", one.missing_handlers),
            ("since", moment(one.dlq_timestamp)),
            ("age", _age(one.age_seconds)),
            ("status", one.resolution_status),
            ("notes", one.resolution_notes),
            ("by", one.resolved_by),
            ("resolved", moment(one.resolved_at)),
        )
    )


def _age(seconds: float | None) -> str:
    from .event_text import duration

    return "" if seconds is None else duration(seconds * 1000)
