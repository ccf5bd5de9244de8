"""`stepweave schedule`: tasks that start by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from .errors import CommandError, ExitCode, explain
from .options import TIMEOUT_SECONDS, NatsUrl, Output, TimeoutSeconds
from .output import OutputFormat, moment, print_fields, print_table, progress, say, show
from .running import ask
from .schedule_input import file_settings, in_typed_words, span_seconds
from .task_input import context_of, moment_of, who
from .template import parse_reference

if TYPE_CHECKING:
    from stepweave_schemas.api import FiringTime, ScheduledRun, ScheduleResponse

app = typer.Typer(
    name="schedule",
    help="Start tasks by the clock: create schedules, look at them, pause them, make up for what was missed.",
    no_args_is_help=True,
)

ScheduleName = Annotated[
    str, typer.Argument(metavar="[NAMESPACE/]NAME", help="The schedule; `default/` may be left out.")
]
Cron = Annotated[
    str | None,
    typer.Option(
        "--cron",
        help="Five fields (minute hour day month weekday), six with seconds in front.",
        metavar="EXPR",
    ),
]
Every = Annotated[str | None, typer.Option("--every", help="An interval, such as 15m.", metavar="SPAN")]
Anchor = Annotated[
    str | None, typer.Option("--anchor", help="A moment at which the interval fires.", metavar="TIME")
]
At = Annotated[
    str | None,
    typer.Option("--at", help="Once: a time with zone, or a span from now such as 2h.", metavar="TIME"),
]
TimeZone = Annotated[
    str | None,
    typer.Option("--time-zone", help="The zone of the cron expression; default: UTC.", metavar="ZONE"),
]
_PREVIEW_COUNT: Final = 10


@app.command()
def create(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAMESPACE/]NAME", help="The schedule; not needed with --file, which names it."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="The settings, as YAML.", metavar="FILE")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option("--template", help="What each firing starts.", metavar="NAMESPACE/NAME[:VERSION]"),
    ] = None,
    cron: Cron = None,
    every: Every = None,
    anchor: Anchor = None,
    at: At = None,
    time_zone: TimeZone = None,
    starts_at: Annotated[
        str | None, typer.Option("--starts-at", help="No firing is earlier.", metavar="TIME")
    ] = None,
    ends_at: Annotated[
        str | None, typer.Option("--ends-at", help="Every firing is earlier.", metavar="TIME")
    ] = None,
    jitter: Annotated[
        str | None, typer.Option("--jitter", help="Each firing is late by up to this.", metavar="SPAN")
    ] = None,
    overlap: Annotated[
        str | None,
        typer.Option(
            "--overlap",
            help="While a task of it runs: skip, buffer_one, allow or cancel_running; default: skip.",
            metavar="POLICY",
        ),
    ] = None,
    catch_up: Annotated[
        str | None,
        typer.Option(
            "--catch-up",
            help="Make up for missed firings no older than this; default: 1d. Half a minute is always made up for.",
            metavar="SPAN",
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            "-c",
            help="The tasks' input: a JSON object, @FILE, or -; ${schedule.date} and the like are filled in.",
            metavar="JSON",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Put a value into the context, as key=value.", metavar="KEY=VALUE"),
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", min=-100, max=100, help="Of the tasks.", metavar="N")
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="A tag of the tasks; may be repeated.", metavar="TAG")
    ] = None,
    description: Annotated[
        str | None, typer.Option("--description", help="What it is for.", metavar="TEXT")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give an existing schedule these settings.")
    ] = False,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Create a schedule from a file or from options, and show its next ten firings.

    The same again changes nothing; other settings need --replace.
    """
    given = {
        "cron": cron,
        "every_seconds": None if every is None else span_seconds(every, "--every"),
        "anchor": _time(anchor, "--anchor"),
        "at": _time(at, "--at"),
        "time_zone": time_zone,
        "starts_at": _time(starts_at, "--starts-at"),
        "ends_at": _time(ends_at, "--ends-at"),
        "jitter_seconds": None if jitter is None else span_seconds(jitter, "--jitter"),
        "overlap": overlap,
        "catch_up_seconds": None if catch_up is None else span_seconds(catch_up, "--catch-up"),
        "description": description,
    }
    options = {key: value for key, value in given.items() if value is not None}
    task_given = bool(template or context or settings or tags or priority is not None)
    if file is not None:
        if name is not None or options or task_given:
            raise CommandError(
                "--file has all settings: leave the others out, or change the file", ExitCode.USAGE
            )
        namespace, own_name, spec = file_settings(file)
    else:
        if name is None or template is None:
            raise CommandError(
                "name the schedule and its --template, or give a --file; "
                "`stepweave schedule create --help` shows all options",
                ExitCode.USAGE,
            )
        namespace, own_name = _named(name)
        task_namespace, task_name, version = parse_reference(template)
        task = {
            "namespace": task_namespace,
            "name": task_name,
            "context": context_of(context, settings or ()),
            "tags": tags or [],
            "priority": priority or 0,
            **({} if version is None else {"version": version}),
        }
        spec = {**options, "task": task}

    from stepweave.api_errors import Conflict

    try:
        with _typed_words(file):
            reply = ask(
                lambda api: api.create_schedule(
                    own_name, spec, namespace=namespace, replace=replace, created_by=who()
                ),
                nats_url,
                timeout_seconds,
            )
    except Conflict as error:
        raise CommandError(f"{error.message}; --replace gives it these", ExitCode.REFUSED) from None
    if output is not OutputFormat.TABLE:
        show(reply, output, lambda: None)
        return
    did = "created" if reply.created else "changed" if reply.updated else "as it was"
    progress(f"schedule {namespace}/{own_name} is {did}")
    print_schedule(reply.schedule, with_runs=False)


@app.command("list")
def list_(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this namespace.", metavar="NAMESPACE")
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", help="active, paused or finished; may be repeated.", metavar="STATUS"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="Most to show.", metavar="N")] = 50,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Skip so many.", metavar="N")] = 0,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List schedules by namespace and name; up to a second behind what happens."""

    found = ask(
        lambda api: api.list_schedules(namespace=namespace, status=status or (), limit=limit, offset=offset),
        nats_url,
        timeout_seconds,
    )
    if output is not OutputFormat.TABLE:
        show(found, output, lambda: None)
        return
    print_table(
        ("schedule", "status", "when", "template", "next (UTC)", "last (UTC)", "last task", ">running"),
        (
            (
                f"{one.namespace}/{one.name}",
                one.status,
                one.when,
                one.template,
                moment(one.next_at),
                moment(one.last_at),
                one.last_status,
                one.running_count,
            )
            for one in found.schedules
        ),
        empty="no schedule fits; `stepweave schedule create` makes one",
    )
    if found.next_offset is not None:
        progress(f"more with --offset {found.next_offset}")


@app.command("show")
def show_(
    name: ScheduleName,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show a schedule: its settings, its next ten firings in its zone and in UTC, and its last runs."""
    namespace, own_name = _named(name)

    found = ask(lambda api: api.get_schedule(own_name, namespace=namespace), nats_url, timeout_seconds)
    show(found, output, lambda: print_schedule(found))


@app.command()
def history(
    name: ScheduleName,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Most to show.", metavar="N")] = 50,
    before: Annotated[
        int | None,
        typer.Option("--before", min=1, help="Only events before this one, by its number.", metavar="N"),
    ] = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show what has happened to a schedule, the newest last: who did what, what fired, what was skipped and why.

    That of a deleted schedule can still be read.
    """
    from .event_text import dated_timeline

    namespace, own_name = _named(name)
    found = ask(
        lambda api: api.get_schedule_events(
            own_name, namespace=namespace, before_version=before, limit=limit
        ),
        nats_url,
        timeout_seconds,
    )
    if output is not OutputFormat.TABLE:
        show(found, output, lambda: None)
        return
    print_table((">#", "time (UTC)", "event", "what"), dated_timeline(found), empty="no event before that")
    if found and found[0].version > 1:
        progress(f"{found[0].version - 1} earlier: --before {found[0].version}")


@app.command()
def preview(
    cron: Cron = None,
    every: Every = None,
    anchor: Anchor = None,
    at: At = None,
    time_zone: TimeZone = None,
    count: Annotated[
        int, typer.Option("--count", min=1, max=100, help="How many firings.", metavar="N")
    ] = _PREVIEW_COUNT,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show when a timing would fire, without creating anything."""
    given = {
        "cron": cron,
        "every_seconds": None if every is None else span_seconds(every, "--every"),
        "anchor": _time(anchor, "--anchor"),
        "at": _time(at, "--at"),
        "time_zone": time_zone,
    }
    timing = {key: value for key, value in given.items() if value is not None}

    with _typed_words():
        found = ask(lambda api: api.preview_schedule(timing, count=count), nats_url, timeout_seconds)
    show(found, output, lambda: _print_firings(found))


@app.command()
def pause(
    name: ScheduleName,
    note: Annotated[str, typer.Option("--note", help="Why, for the history.", metavar="TEXT")] = "",
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Let a schedule fire no more until it is resumed. Its tasks go on."""
    namespace, own_name = _named(name)

    found = ask(
        lambda api: api.pause_schedule(own_name, namespace=namespace, note=note, paused_by=who()),
        nats_url,
        timeout_seconds,
    )
    if note and found.note != note:
        progress(f"it was paused before, by {found.paused_by or 'somebody'}: the new note is not kept")
    show(found, output, lambda: print_schedule(found, with_runs=False))


@app.command()
def resume(
    name: ScheduleName,
    note: Annotated[str, typer.Option("--note", help="Why, for the history.", metavar="TEXT")] = "",
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Let a paused schedule fire again, from now on; `backfill` makes up for the pause."""
    namespace, own_name = _named(name)

    found = ask(
        lambda api: api.resume_schedule(own_name, namespace=namespace, note=note, resumed_by=who()),
        nats_url,
        timeout_seconds,
    )
    show(found, output, lambda: print_schedule(found, with_runs=False))


@app.command()
def trigger(
    name: ScheduleName,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Also while a task of it runs.")
    ] = False,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Fire once now, whatever the clock says."""
    namespace, own_name = _named(name)

    from stepweave.api_errors import Conflict

    try:
        reply = ask(
            lambda api: api.trigger_schedule(
                own_name, namespace=namespace, allow_overlap=allow_overlap, triggered_by=who()
            ),
            nats_url,
            timeout_seconds,
        )
    except Conflict as error:
        raise CommandError(f"{error.message} (--allow-overlap)", ExitCode.REFUSED) from None

    if output is not OutputFormat.TABLE:
        show(reply, output, lambda: None)
        return
    run = reply.run
    if run is not None and run.status == "waiting":
        progress(f"it waits for the task that runs: stepweave schedule show {name}")
    elif run is not None and run.status == "failed":
        raise CommandError(f"the task cannot begin: {run.error_message} [{run.error_code}]", ExitCode.FAILED)
    elif run is not None:
        say(run.task_uuid)
        progress(f"follow it with: stepweave task watch {run.task_uuid}")


@app.command()
def backfill(
    name: ScheduleName,
    from_at: Annotated[
        str,
        typer.Option(
            "--from", help="The first moment; a time with zone, or 7d for so long ago.", metavar="TIME"
        ),
    ],
    until_at: Annotated[
        str | None,
        typer.Option("--until", help="The firings before this moment; default: now.", metavar="TIME"),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, max=100, help="Tasks of it at the same time.", metavar="N")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many firings there are.")] = False,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Make up for the firings of a range in the past, in order.

    A moment that has fired already is not fired again.
    """
    namespace, own_name = _named(name)
    since = moment_of(from_at, "--from", past=True)
    until = None if until_at is None else moment_of(until_at, "--until", past=True)

    with _typed_words():
        reply = ask(
            lambda api: api.backfill_schedule(
                own_name,
                since,
                until,
                namespace=namespace,
                concurrency=concurrency,
                dry_run=dry_run,
                requested_by=who(),
            ),
            nats_url,
            timeout_seconds,
        )
    if output is not OutputFormat.TABLE:
        show(reply, output, lambda: None)
        return
    firings = "1 firing" if reply.count == 1 else f"{reply.count} firings"
    _print_firings(reply.first, "firings (UTC)")
    if reply.count > len(reply.first):
        progress(f"and {reply.count - len(reply.first)} more")
    if dry_run:
        progress(f"{firings}; without --dry-run those start that have not fired yet")
    else:
        progress(f"{firings}; how it goes: stepweave schedule show {name}")


@app.command()
def delete(
    name: ScheduleName,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history.", metavar="TEXT")] = "",
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Delete a schedule. The tasks that it started go on."""
    namespace, own_name = _named(name)

    reply = ask(
        lambda api: api.delete_schedule(own_name, namespace=namespace, reason=reason, deleted_by=who()),
        nats_url,
        timeout_seconds,
    )
    if output is not OutputFormat.TABLE:
        show(reply, output, lambda: None)
        return
    running = f"; {reply.running_count} of its tasks still run" if reply.running_count else ""
    progress(f"schedule {namespace}/{own_name} is deleted{running}")


# -- what is shown -------------------------------------------------------------------------------


def print_schedule(found: ScheduleResponse, *, with_runs: bool = True) -> None:
    """A schedule for people."""
    spec = found.spec
    task = spec.task
    every = None if spec.every_seconds is None else f"{spec.every_seconds} s"
    print_fields(
        (
            ("schedule", f"{found.namespace}/{found.name}"),
            ("status", found.status),
            ("description", spec.description),
            ("template", f"{task.namespace}/{task.name}" + (f":{task.version}" if task.version else "")),
            ("cron", spec.cron),
            ("every", every),
            ("anchor", spec.anchor),
            ("at", spec.at),
            ("time zone", spec.time_zone),
            ("starts at", spec.starts_at),
            ("ends at", spec.ends_at),
            ("jitter", f"up to {spec.jitter_seconds} s" if spec.jitter_seconds else None),
            ("overlap", spec.overlap),
            ("catch-up window", f"{spec.catch_up_seconds} s"),
            ("context", bytes(task.context).decode()),
            ("tags", task.tags),
            ("priority", task.priority or None),
            ("created", f"{moment(found.created_at)} by {found.created_by or 'somebody'}"),
            ("paused", f"{moment(found.paused_at)} by {found.paused_by}" if found.paused_at else None),
            ("note", found.note),
            ("problem", found.problem),
            ("running", found.running_count or None),
            ("waiting", None if found.waiting is None else f"the firing of {moment(found.waiting.at)}"),
            ("fired", found.fired_count),
            ("skipped", found.skipped_count or None),
            ("failed", found.failed_count or None),
        )
    )
    for one in found.backfills:
        say(
            f"backfill {moment(one.from_at)} to {moment(one.until_at)}: {one.fired_count} of {one.count} fired"
        )
    say()
    _print_firings(
        found.next_firings, "firings if resumed now (UTC)" if found.paused_at else "next firings (UTC)"
    )
    if with_runs and found.runs:
        say()
        print_table(
            ("firing (UTC)", "cause", "task", "status", "error"),
            (_run_row(run) for run in found.runs),
            empty="",
        )


def _print_firings(firings: Iterable[FiringTime], title: str = "next firings (UTC)") -> None:
    shown = list(firings)
    with_jitter = any(one.due_at for one in shown)
    print_table(
        (title, "in the schedule's zone", *(("with jitter (UTC)",) if with_jitter else ())),
        (
            (moment(one.at), one.local.replace("T", " "), *((moment(one.due_at),) if with_jitter else ()))
            for one in shown
        ),
        empty="no firing lies ahead",
    )


def _run_row(run: ScheduledRun) -> tuple[Any, ...]:
    error = f"{run.error_message} [{run.error_code}]" if run.error_code else run.error_message
    return moment(run.at), run.cause, run.task_uuid, run.status, error


@contextmanager
def _typed_words(file: Path | None = None) -> Iterator[None]:
    """Settings that the API refuses are called what they are called in the file, or by the options."""
    from stepweave.api_errors import ValidationFailed

    try:
        yield
    except ValidationFailed as error:
        code, text = explain(error)
        first, *details = text.split("\n")
        raise CommandError("\n".join([in_typed_words(first, file), *details]), code) from None


def _named(text: str) -> tuple[str, str]:
    """Namespace and name of a schedule."""
    namespace, _, name = text.rpartition("/")
    if not name or "/" in namespace or text.startswith("/"):
        raise CommandError(f"{text!r} names no schedule: write NAME or NAMESPACE/NAME", ExitCode.USAGE)
    return namespace or "default", name


def _time(text: str | None, option: str) -> str | None:
    """A moment of an option, to the second."""
    return None if text is None else moment_of(text, option).isoformat(timespec="seconds")
