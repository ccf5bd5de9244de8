"""`stepweave step`: what operators do with single steps – try them again, count them as done, skip them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import CommandError, ExitCode
from .options import TIMEOUT_SECONDS, By, NatsUrl, Output, Reason, TimeoutSeconds
from .output import OutputFormat, moment, print_fields, progress, show, status_text
from .running import ask
from .task import TaskId
from .task_input import payload_of, who

if TYPE_CHECKING:
    from stepweave.client import Client
    from stepweave_schemas.api import StepSummary

app = typer.Typer(
    name="step",
    help="Mend single steps of a task: try them again, count them as done, skip them.",
    no_args_is_help=True,
)

Step = Annotated[str, typer.Argument(metavar="STEP", help="The step's name, or its uuid.")]


@app.command()
def reset(
    task_id: TaskId,
    step: Step,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Try a step again that has failed or waits for its retry: now, with all its tries, from its last checkpoint."""
    _act(
        lambda api, me: api.reset_step(task_id, step, reason=reason, reset_by=me),
        by,
        nats_url,
        timeout_seconds,
        output,
    )


@app.command()
def resolve(
    task_id: TaskId,
    step: Step,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Count a step as done that is not, without a result; what depends on it goes on."""
    _act(
        lambda api, me: api.resolve_step(task_id, step, reason=reason, resolved_by=me),
        by,
        nats_url,
        timeout_seconds,
        output,
    )


@app.command()
def complete(
    task_id: TaskId,
    step: Step,
    result: Annotated[
        str | None,
        typer.Option(
            "--result",
            help="What it has come to: any JSON, @FILE, or - for stdin. Default: null. Of a decision, an object "
            "that names in `create_steps` the steps that it chooses, [] for none.",
            metavar="JSON",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            help="Put a value into the result: JSON where it reads as JSON, else text; a.b=1 goes into a.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    metadata: Annotated[
        str | None, typer.Option("--metadata", help="A JSON object to go with it, or @FILE.", metavar="JSON")
    ] = None,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Complete a step that was done by hand, with its result, which what depends on it reads."""
    value = payload_of(result, settings or (), "--result")
    about = payload_of(metadata, (), "--metadata")
    if about is not None and not isinstance(about, dict):
        raise CommandError('--metadata: expected a JSON object, such as {"ticket": 7}', ExitCode.USAGE)
    _act(
        lambda api, me: api.complete_step(
            task_id, step, value, metadata=about, reason=reason, completed_by=me
        ),
        by,
        nats_url,
        timeout_seconds,
        output,
    )


@app.command()
def skip(
    task_id: TaskId,
    step: Step,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Skip a step that has not begun or has failed, and whose template says `skippable: true`."""
    _act(
        lambda api, me: api.skip_step(task_id, step, reason=reason, skipped_by=me),
        by,
        nats_url,
        timeout_seconds,
        output,
    )


def _act(
    action: Callable[[Client, str], Awaitable[StepSummary]],
    by: str | None,
    nats_url: str | None,
    timeout_seconds: float,
    output: OutputFormat,
) -> None:
    """Carry an action out as `by`, or as this user, and show the step as it is then."""

    found = ask(lambda api: action(api, who() if by is None else by), nats_url, timeout_seconds)
    show(found, output, lambda: _print_step(found))
    if output is OutputFormat.TABLE:
        progress(f"see the whole task: stepweave task get {found.task_uuid}")


def _print_step(step: StepSummary) -> None:
    print_fields(
        (
            ("step", step.name),
            ("state", status_text(step.current_state)),
            ("tries", f"{step.attempts}/{step.max_attempts}"),
            ("next try", moment(step.next_retry_at)),
            ("waits for", step.waiting_for_signal),
            ("child task", step.child_task_uuid),
            ("task", step.task_uuid),
        )
    )
