"""`stepweave task`: what operators do with a task that is under way – hold it back, mend it, end it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import typer

from .options import TIMEOUT_SECONDS, By, NatsUrl, Output, Reason, TimeoutSeconds
from .output import OutputFormat, progress, show
from .running import ask
from .task import TaskId, print_task
from .task_input import who

if TYPE_CHECKING:
    from stepweave.client import Client
    from stepweave.responses import TaskResponse


def pause(
    task_id: TaskId,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Hold a task back: nothing of it begins until it is resumed; what runs ends as usual, and counts."""
    task = _act(
        lambda api, me: api.pause_task(task_id, reason=reason, paused_by=me),
        by,
        nats_url,
        timeout_seconds,
        output,
    )
    if task.status == "paused" and output is OutputFormat.TABLE:
        progress(f"go on with it: stepweave task resume {task_id}")


def resume(
    task_id: TaskId,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Go on with a paused task: everything that is ready begins."""
    _act(
        lambda api, me: api.resume_task(task_id, reason=reason, resumed_by=me),
        by,
        nats_url,
        timeout_seconds,
        output,
    )


def retry(
    task_id: TaskId,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Try every step again that has failed for good; for one of them there is `stepweave step reset`."""
    _act(
        lambda api, me: api.retry_task(task_id, reason=reason, reset_by=me),
        by,
        nats_url,
        timeout_seconds,
        output,
    )


def give_up(
    task_id: TaskId,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """End a blocked task in error."""
    _act(
        lambda api, me: api.give_up_task(task_id, reason=reason, given_up_by=me),
        by,
        nats_url,
        timeout_seconds,
        output,
    )


def resolve(
    task_id: TaskId,
    reason: Reason = "",
    by: By = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say that what a task was for is done: it ends, and running handlers are told."""
    _act(
        lambda api, me: api.resolve_task(task_id, reason=reason, resolved_by=me),
        by,
        nats_url,
        timeout_seconds,
        output,
    )


def add_to(app: typer.Typer) -> None:
    """Make these commands of `stepweave task`."""
    for name, one in (
        ("pause", pause),
        ("resume", resume),
        ("retry", retry),
        ("give-up", give_up),
        ("resolve", resolve),
    ):
        app.command(name)(one)


def _act(
    action: Callable[[Client, str], Awaitable[TaskResponse]],
    by: str | None,
    nats_url: str | None,
    timeout_seconds: float,
    output: OutputFormat,
) -> TaskResponse:
    """Carry an action out as `by`, or as this user, and show the task as it is then."""

    task = ask(lambda api: action(api, who() if by is None else by), nats_url, timeout_seconds)
    show(task, output, lambda: print_task(task))
    return task
