"""`stepweave task`: start tasks, look at them, follow them, send them signals, cancel them. What else operators do
with them is in `task_actions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from .errors import CommandError, ExitCode
from .options import TIMEOUT_SECONDS, By, NatsUrl, Output, Reason, TimeoutSeconds
from .output import OutputFormat, moment, print_fields, print_table, progress, say, show, status_text, stdout
from .running import ask, client, run_async
from .task_fork import fork
from .task_input import context_of, moment_of, payload_of, who
from .template import parse_reference

if TYPE_CHECKING:
    from stepweave.api_errors import Conflict
    from stepweave.client import Client
    from stepweave.responses import SignalResponse, TaskResponse
    from stepweave_schemas.api import StepSummary

app = typer.Typer(
    name="task",
    help="Start tasks, look at them, follow them, send them signals, pause, mend and end them.",
    no_args_is_help=True,
)

#: Most signals whose sending is explained.
_HINTS_MAX: Final = 3
#: Most steps that one message names.
_NAMES_MAX: Final = 10

TaskId = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")]


@app.command()
def create(
    template: Annotated[
        str,
        typer.Argument(metavar="NAMESPACE/NAME[:VERSION]", help="The template; `default/` may be left out."),
    ],
    context: Annotated[
        str | None,
        typer.Option(
            "--context", "-c", help="The input: a JSON object, @FILE, or - for stdin.", metavar="JSON"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            help="Put a value into the context: JSON where it reads as JSON, else text; a.b=1 goes into a.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", help="Idempotency key: the same request again is the same task.", metavar="KEY"
        ),
    ] = None,
    start_at: Annotated[
        str | None,
        typer.Option(
            "--start-at", help="Start later: a time with zone, or a span such as 90s.", metavar="TIME"
        ),
    ] = None,
    priority: Annotated[
        int, typer.Option("--priority", min=-100, max=100, help="Higher goes first.", metavar="N")
    ] = 0,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="A tag; may be repeated.", metavar="TAG")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history.", metavar="TEXT")] = "",
    initiator: Annotated[
        str | None, typer.Option("--initiator", help="Who; default: this user.", metavar="WHO")
    ] = None,
    correlation_id: Annotated[
        str | None,
        typer.Option("--correlation-id", help="Joins the task to others; default: its own id.", metavar="ID"),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end, then show the task.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-W", help="Print its events until the end.")] = False,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Start a task.

    With --wait and --watch the exit code is 1 where the task does not complete.
    """
    namespace, name, version = parse_reference(template)
    given = context_of(context, settings or ())
    later = None if start_at is None else moment_of(start_at, "--start-at")

    from stepweave.api_errors import Conflict, ValidationFailed

    async def work() -> TaskResponse:
        async with client(nats_url, timeout_seconds) as api:
            try:
                task = await api.create_task(
                    name,
                    namespace=namespace,
                    version=version,
                    context=given,
                    idempotency_key=key,
                    start_at=later,
                    priority=priority,
                    tags=tags or (),
                    reason=reason,
                    initiator=who() if initiator is None else initiator,
                    correlation_id=correlation_id,
                )
            except Conflict as error:
                raise CommandError(_other_request(error, key), ExitCode.REFUSED) from None
            except ValidationFailed as error:
                if "idempotency_key" in error.message:
                    raise CommandError(f"{error.message} (--key)", ExitCode.REFUSED) from None
                raise
            if task.replayed:
                progress("this task exists already: the same request made it before")
            if watch:
                progress(f"task {task.task_uuid}")
                await _print_events(api, task.task_uuid, output, 1)
                return await api.get_task(task.task_uuid)
            return await api.wait_for_task(task.task_uuid) if wait else task

    task = run_async(work())
    if not watch:
        show(task, output, lambda: print_task(task, with_steps=wait))
    if wait or watch:
        _refuse_failure(task)
    elif output is OutputFormat.TABLE:
        progress(f"follow it with: stepweave task watch {task.task_uuid}")


def _other_request(error: Conflict, key: str | None) -> str:
    """Why a task is not created, which one stands for it, and what to do."""
    task_id = error.details.get("task_id")
    which = f": task {task_id}; `stepweave task get {task_id}` shows it" if task_id else ""
    if key is not None:
        return f"{error.message}{which}; repeat that request exactly, or give another --key"
    return f"{error.message}{which}; a --key of its own makes this another task"


@app.command()
def get(
    task_id: TaskId,
    results: Annotated[bool, typer.Option("--results", help="Show what the steps returned too.")] = False,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show a task and its steps, as they are now."""

    async def work() -> tuple[TaskResponse, dict[str, Any]]:
        async with client(nats_url, timeout_seconds) as api:
            task = await api.get_task(task_id)
            return task, await api.get_results(task_id) if results else {}

    task, found = run_async(work())
    if output is not OutputFormat.TABLE:
        show(_with_results(task, found) if results else task, output, lambda: None)
        return
    print_task(task)
    if results:
        say()
        print_table(
            ("step", "result"),
            ((step, _json(result)) for step, result in found.items()),
            empty="no step has returned anything yet",
        )
    if not task.is_terminal:
        progress(f"why it is where it is: stepweave explain {task.task_uuid}")
    signals = sorted({step.waiting_for_signal for step in task.steps if step.waiting_for_signal})
    for signal in signals[:_HINTS_MAX]:
        progress(f"send it with: stepweave task signal {task.task_uuid} {signal} --payload JSON")
    for hint in _what_to_do(task):
        progress(hint)


def _what_to_do(task: TaskResponse) -> list[str]:
    """The commands that set a task going again, where it waits for an operator."""
    if task.status == "paused":
        return [f"go on with it: stepweave task resume {task.task_uuid}"]
    if not task.is_blocked:
        return []
    failed = next((step.name for step in task.steps if step.current_state == "error"), "STEP")
    return [
        f"try all failed steps again: stepweave task retry {task.task_uuid}",
        f"or mend one: stepweave step reset|resolve|complete {task.task_uuid} {failed}",
        f"or end it: stepweave task give-up|resolve|cancel {task.task_uuid}",
    ]


@app.command("list")
def list_(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this namespace.", metavar="NAMESPACE")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Only tasks of this template.", metavar="NAME")
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", help="Only this status; may be repeated.", metavar="STATUS"),
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only tasks with this tag.", metavar="TAG")] = None,
    initiator: Annotated[
        str | None, typer.Option("--initiator", help="Only what this one started.", metavar="WHO")
    ] = None,
    correlation_id: Annotated[
        str | None,
        typer.Option("--correlation-id", help="Only tasks with this correlation id.", metavar="ID"),
    ] = None,
    page: Annotated[int, typer.Option("--page", min=1, help="Which page.", metavar="N")] = 1,
    per_page: Annotated[
        int, typer.Option("--per-page", min=1, max=200, help="Tasks on a page.", metavar="N")
    ] = 50,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List tasks, the newest first; up to a second behind what happens."""

    found = ask(
        lambda api: api.list_tasks(
            namespace=namespace,
            name=name,
            status=status or (),
            tag=tag,
            initiator=initiator,
            correlation_id=correlation_id,
            page=page,
            per_page=per_page,
        ),
        nats_url,
        timeout_seconds,
    )
    if output is not OutputFormat.TABLE:
        show(found, output, lambda: None)
        return
    print_table(
        ("task", "template", "status", ">steps", "created", "error"),
        (
            (
                one.task_uuid,
                f"{one.namespace}/{one.name}:{one.version}",
                status_text(one.status),
                f"{one.completed_steps}/{one.total_steps}",
                moment(one.created_at),
                one.error_message,
            )
            for one in found.tasks
        ),
        empty="no task fits; `stepweave task create NAMESPACE/NAME` starts one",
    )
    pages = found.pagination
    if pages.total_pages > 1:
        more = f"; --page {page + 1} shows more" if pages.has_next else ""
        progress(f"page {page} of {pages.total_pages}, {pages.total_count} tasks{more}")


@app.command()
def watch(
    task_id: TaskId,
    from_version: Annotated[
        int, typer.Option("--from-version", min=1, help="Start at this event.", metavar="N")
    ] = 1,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print a task's events, those so far and those to come, until it ends or is blocked.

    The exit code is 1 where the task did not complete. With -o json: one event a line.
    """

    async def work() -> TaskResponse:
        async with client(nats_url, timeout_seconds) as api:
            await _print_events(api, task_id, output, from_version)
            return await api.get_task(task_id)

    _refuse_failure(run_async(work()))


@app.command("signal")
def signal_(
    task_id: TaskId,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The signal: `wait_for_signal.name` of the template.")
    ],
    payload: Annotated[
        str | None,
        typer.Option(
            "--payload",
            "-p",
            help="What the step gets as its result: any JSON, @FILE, or - for stdin. Default: null.",
            metavar="JSON",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            help="Put a value into the payload: JSON where it reads as JSON, else text; a.b=1 goes into a.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    signal_id: Annotated[
        str | None,
        typer.Option("--id", help="Your id of it: the same id again is the same signal.", metavar="ID"),
    ] = None,
    sent_by: Annotated[
        str | None, typer.Option("--by", help="Who; default: this user.", metavar="WHO")
    ] = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Tell a task something that a step waits for, such as an approval.

    It is kept where no step waits for it yet.
    """
    given = payload_of(payload, settings or ())

    reply = ask(
        lambda api: api.signal(
            task_id, name, given, signal_id=signal_id, sent_by=who() if sent_by is None else sent_by
        ),
        nats_url,
        timeout_seconds,
    )
    if reply.replayed:
        progress("this signal has come before: nothing was done")
    show(reply, output, lambda: _print_signal(name, reply))


@app.command()
def cancel(
    task_id: TaskId,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """End a task now: running handlers are told, and what they still return is refused."""

    task = ask(
        lambda api: api.cancel_task(task_id, reason=reason, cancelled_by=who() if by is None else by),
        nats_url,
        timeout_seconds,
    )
    show(task, output, lambda: print_task(task))


app.command()(fork)


def _print_signal(name: str, reply: SignalResponse) -> None:
    task = reply.task
    nobody = "no step" if task.is_terminal else "no step yet: it is kept until one waits for it"
    print_fields(
        (
            ("signal", name),
            ("id", reply.signal_id),
            ("taken by", reply.taken_by or nobody),
            ("task", task.task_uuid),
            ("status", status_text(task.status)),
        )
    )


def print_task(task: Any, *, with_steps: bool = True) -> None:
    """A task (`TaskResponse`) for people."""
    print_fields(
        (
            ("task", task.task_uuid),
            ("template", f"{task.namespace}/{task.name}:{task.version}"),
            ("status", status_text(task.status)),
            ("steps", f"{task.completed_steps} of {task.total_steps} done"),
            ("created", f"{task.created_at}" + (f" by {task.initiator}" if task.initiator else "")),
            ("ended", task.completed_at),
            ("reason", task.reason),
            ("tags", task.tags),
            ("priority", task.priority or None),
            ("correlation", None if task.correlation_id == task.task_uuid else task.correlation_id),
            ("started by", None if task.parent_task_uuid is None else f"task {task.parent_task_uuid}"),
            ("fork of", _origin(task)),
            ("signals kept", task.signals_kept),
            ("stuck", task.stuck),
            ("undone", task.compensation_status),
            ("clean up", tuple(step.name for step in task.steps if step.requires_manual_cleanup)),
            ("next", (task.recommended_action or "").replace("_", " ")),
        )
    )
    if with_steps and task.steps:
        say()
        notes = [_note(step) for step in task.steps]
        # Most tasks have none; the column would only take room.
        noted = any(notes)
        print_table(
            ("step", "state", ">tries", "next try", *(("note",) if noted else ()), "error"),
            (
                (
                    step.name,
                    status_text(step.current_state),
                    f"{step.attempts}/{step.max_attempts}",
                    moment(step.next_retry_at),
                    *((note,) if noted else ()),
                    None if step.error_type is None else f"{step.error_type}: {step.error_message}",
                )
                for step, note in zip(task.steps, notes, strict=True)
            ),
            empty="no steps",
        )
        if task.steps_truncated:
            progress(f"the first {len(task.steps)} steps of {task.total_steps}")


def _origin(task: Any) -> str | None:
    """The task that this one is a fork of."""
    origin = task.forked_from
    if origin is None:
        return None
    steps = f", from {', '.join(origin.from_steps[:_NAMES_MAX])}" if origin.from_steps else ""
    return f"task {origin.task_uuid}{steps}"


def _note(step: StepSummary) -> str:
    """What there is to say about a step besides its state."""
    said = []
    if step.reused_from_step_uuid is not None:
        said.append("reused")
    if step.waiting_for_signal is not None:
        said.append(f"for signal {step.waiting_for_signal}")
    if step.child_task_uuid is not None:
        said.append(f"child task {step.child_task_uuid}")
    if step.missing_handler is not None:
        said.append(f"no worker found with handler {step.missing_handler}")
    # Of a step that is done, the last checkpoint says less than its state.
    if step.items_processed is not None and step.current_state != "complete":
        said.append(f"{step.items_processed} items done")
    undoing = _undoing_of(step)
    if step.requires_manual_cleanup:
        said.append("to be cleaned up by hand" + (f" ({undoing})" if undoing else ""))
    elif undoing:
        said.append(undoing)
    return ", ".join(said)


def _undoing_of(step: StepSummary) -> str:
    """How undoing a step goes, or how it failed; nothing where it is done, or has not begun."""
    attempts, error = step.compensation_attempts, step.compensation_error_message
    if not attempts or step.current_state == "compensated":
        return ""
    if step.compensation_next_retry_at is not None:
        return f"undoing, try {attempts} failed: {error}; again at {moment(step.compensation_next_retry_at)}"
    if step.requires_manual_cleanup:
        # It gave up, or said at last that not everything could be undone: the error may be that of an earlier try.
        tries = "1 try" if attempts == 1 else f"{attempts} tries"
        return f"after {tries}, last error: {error}" if error else ""
    return f"undoing, try {attempts}" + (f"; the one before failed: {error}" if error else "")


async def _print_events(api: Client, task_id: str, output: OutputFormat, from_version: int) -> None:
    import msgspec

    from .event_text import event_line

    async for envelope in api.watch_task(task_id, from_version=from_version, until_blocked=True):
        if output is OutputFormat.TABLE:
            # A line may be longer than the terminal is wide.
            stdout().print(event_line(envelope), soft_wrap=True)
        elif output is OutputFormat.JSON:
            say(msgspec.json.encode(envelope).decode())
        else:
            say("---")
            show(envelope, output, lambda: None)


def _refuse_failure(task: TaskResponse) -> None:
    """End the command with code 1 where the task did not complete."""
    if task.status in ("complete", "resolved_manually"):
        return
    failed = [step for step in task.steps if step.current_state == "error"]
    why = f": {failed[0].name}: {failed[0].error_message}" if failed else ""
    # `steps` may hold only the first ones.
    others = max(len(failed), task.failed_steps) - 1
    if failed and others > 0:
        why += f" (and {others} more failed)"
    again = [step for step in task.steps if step.compensation_next_retry_at is not None]
    if again:
        why += f"; not undone yet: {_listed(again)}"
    uncleaned = [step for step in task.steps if step.requires_manual_cleanup]
    if uncleaned:
        why += f"; to be cleaned up by hand: {_listed(uncleaned)}"
    raise CommandError(
        f"the task is {task.status}{why}; `stepweave events list {task.task_uuid}` shows its history",
        ExitCode.FAILED,
    )


def _listed(steps: list[StepSummary]) -> str:
    """The names of steps, with what is known of their undoing."""
    shown = [
        f"{step.name} ({undoing})" if (undoing := _undoing_of(step)) else step.name
        for step in steps[:_NAMES_MAX]
    ]
    return ", ".join(shown) + (f" and {len(steps) - _NAMES_MAX} more" if len(steps) > _NAMES_MAX else "")


def _with_results(task: TaskResponse, results: dict[str, Any]) -> dict[str, Any]:
    from .output import plain

    return {**plain(task), "results": results}


def _json(value: Any) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()
