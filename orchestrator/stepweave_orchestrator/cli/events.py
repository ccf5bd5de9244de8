"""`stepweave events`: follow them, list those of a task, look up what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .errors import CommandError, ExitCode
from .options import TIMEOUT_SECONDS, NatsUrl, Output, TimeoutSeconds
from .output import OutputFormat, print_fields, print_table, progress, say, show, stdout
from .running import ask, connection, run_async
from .task import TaskId
from .task_input import moment_of

if TYPE_CHECKING:
    from stepweave_schemas.catalogue import CatalogueEntry

app = typer.Typer(name="events", help="Follow events, list them, look them up.", no_args_is_help=True)


@app.command()
def tail(
    pattern: Annotated[
        str,
        typer.Option(
            "--pattern", "-p", help="Event types, with wildcards: 'step.failed', 'task.*'.", metavar="PATTERN"
        ),
    ] = "*",
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this namespace.", metavar="NAMESPACE")
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="now, start (all that is kept), a time with zone, or a span before now such as 10m.",
            metavar="TIME",
        ),
    ] = "now",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="End after so many events.", metavar="N")
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Every event, from the log feed; without it the outcomes, from the signal feed."
        ),
    ] = False,
    nats_url: NatsUrl = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print events as they happen, until Ctrl-C. With -o json: one event a line.

    Order is kept for each task. The signal feed carries what the namespace is set to, by default the outcomes.
    """
    import msgspec

    from .event_feed import EventFeed
    from .event_text import event_line

    since = None if start in ("now", "start") else moment_of(start, "--from", past=True)
    if everything and namespace is not None:
        raise CommandError(
            "--all reads the log feed, whose messages name no namespace: leave --namespace or --all out",
            ExitCode.USAGE,
        )

    async def work() -> None:
        async with connection(nats_url) as link:
            feed = EventFeed(
                link,
                pattern=pattern,
                namespace=namespace,
                everything=everything,
                since=since,
                from_start=start == "start",
            )
            count = 0
            async with feed:
                if output is OutputFormat.TABLE:
                    progress(f"following {feed.subject}; Ctrl-C ends it")
                async for envelope in feed:
                    if output is OutputFormat.TABLE:
                        stdout().print(event_line(envelope, label=envelope.task_id), soft_wrap=True)
                    elif output is OutputFormat.JSON:
                        say(msgspec.json.encode(envelope).decode())
                    else:
                        say("---")
                        show(envelope, output, lambda: None)
                    count += 1
                    if count == limit:
                        return

    run_async(work())


@app.command("list")
def list_(
    task_id: TaskId,
    from_version: Annotated[
        int, typer.Option("--from-version", min=1, help="Start at this event.", metavar="N")
    ] = 1,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List a task's events so far."""
    from .event_text import TIMELINE_COLUMNS, timeline

    found = ask(lambda api: api.get_events(task_id, from_version=from_version), nats_url, timeout_seconds)
    show(
        found,
        output,
        lambda: print_table(TIMELINE_COLUMNS, timeline(found), empty="no events from there on"),
    )


@app.command()
def catalog(
    event_type: Annotated[str | None, typer.Argument(metavar="[TYPE]", help="Show this one in full.")] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List every event type and what it means; needs no server."""
    from stepweave_schemas.catalogue import CATALOGUE

    if event_type is None:
        show(
            [_entry(entry) for entry in CATALOGUE.values()],
            output,
            lambda: print_table(
                ("event", "feeds", "meaning"),
                (
                    (entry.type, "log, signal" if entry.outcome else "log", entry.meaning)
                    for entry in CATALOGUE.values()
                ),
                empty="no events",
            ),
        )
        return
    found = CATALOGUE.get(event_type)
    if found is None:
        from stepweave_schemas.template.problems import did_you_mean

        hint = did_you_mean(event_type, CATALOGUE) or "`stepweave events catalog` lists them"
        raise CommandError(f"there is no event {event_type!r}: {hint}", ExitCode.NOT_FOUND)
    entry = _entry(found)
    show(entry, output, lambda: _print_entry(entry))


def _entry(entry: CatalogueEntry) -> dict[str, object]:
    from stepweave_schemas.json_schemas import event_schema

    return {
        "type": entry.type,
        "stream": entry.stream,
        "feeds": ["log", "signal"] if entry.outcome else ["log"],
        "meaning": entry.meaning,
        "emitted_when": entry.emitted_when,
        "state_change": entry.state_change,
        "schema": event_schema(entry.type),
    }


def _print_entry(entry: dict[str, object]) -> None:
    schema = entry["schema"]
    print_fields((name.replace("_", " "), value) for name, value in entry.items() if name != "schema")
    if isinstance(schema, dict):
        say()
        print_table(
            ("field", "required", "meaning"),
            (
                (name, name in schema.get("required", ()), field.get("description", ""))
                for name, field in schema.get("properties", {}).items()
            ),
            empty="no fields",
        )
