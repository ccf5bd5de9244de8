"""Progress of a demonstration: a table that lives on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.live import Live
from rich.table import Table
from rich.text import Text

from stepweave.responses import TaskResponse
from stepweave_orchestrator.core.plan import COMPENSATION_PREFIX
from stepweave_schemas.envelope import Envelope

from .demo_examples import Run
from .event_text import clock, describe, payload
from .output import progress, status_text, stderr


class Progress(Protocol):
    """What a demonstration tells while it runs."""

    def created(self, run: Run, task: TaskResponse) -> None:
        """A run has begun."""

    def happened(self, run: Run, envelope: Envelope) -> None:
        """An event of a run."""

    def ended(self, run: Run, task: TaskResponse | None, fault: str) -> None:
        """A run has ended; `fault` says why it is not as it should be."""


@contextmanager
def progress_view(runs: Sequence[Run]) -> Iterator[Progress]:
    """The view that suits stderr."""
    console = stderr()
    if not console.is_terminal:
        yield _Lines()
        return
    table = _LiveTable(runs)
    with Live(table, console=console, refresh_per_second=12) as live:
        yield table
        live.refresh()


class _Lines:
    """One line an event."""

    def created(self, run: Run, task: TaskResponse) -> None:
        progress(f"{run.title}: {run.input.description or task.task_uuid}")

    def happened(self, run: Run, envelope: Envelope) -> None:
        if envelope.type not in ("step.enqueued", "task.created"):
            what = describe(envelope.type, payload(envelope))
            progress(f"{clock(envelope.recorded_at)}  {run.title}: {envelope.type}  {what}")

    def ended(self, run: Run, task: TaskResponse | None, fault: str) -> None:
        status = "unfinished" if task is None else task.status
        progress(f"{run.title}: {status}" + (f", NOT AS EXPECTED: {fault}" if fault else ", as expected"))


class _Row:
    """The state of one run on the screen."""

    def __init__(self, run: Run) -> None:
        self.steps: dict[str, str] = {step.name: "pending" for step in run.template.steps}
        self.status = "pending"
        self.latest = run.input.description
        self.fault = ""


#: The state of the step that an event names.
_STATES = {
    "step.enqueued": "enqueued",
    "step.started": "in_progress",
    "step.completed": "complete",
    "step.retry_scheduled": "waiting_for_retry",
    "step.failed": "error",
    "step.skipped": "skipped",
    "step.reused": "complete",
    "signal.awaited": "waiting_for_signal",
    "child.requested": "in_progress",
}
#: The state of all steps of a batch, which have one mark together.
_BATCH_STATES = {"batch.created": "in_progress", "batch.completed": "complete", "batch.stopped": "error"}
_COMPENSATION_STATES = {
    "step.enqueued": "compensating",
    "compensation.completed": "compensated",
    "compensation.failed": "error",
}
_MARKS = {
    "pending": ("·", "dim"),
    "enqueued": ("▸", "cyan"),
    "in_progress": ("▸", "cyan"),
    "waiting_for_retry": ("↻", "yellow"),
    "waiting_for_signal": ("?", "bold yellow"),
    "skipped": ("–", "dim"),
    "resolved_manually": ("●", "magenta"),
    "compensating": ("◂", "magenta"),
    "compensated": ("○", "magenta"),
    "complete": ("●", "green"),
    "error": ("✗", "bold red"),
}
_STATUSES = {
    "task.created": "steps_in_process",
    "compensation.started": "compensating",
    "task.completed": "complete",
    "task.blocked": "blocked_by_failures",
    "task.failed": "error",
    "task.cancelled": "cancelled",
    "task.paused": "paused",
    "task.resolved_manually": "resolved_manually",
}


def _moved(event_type: str, data: dict[str, Any]) -> list[tuple[str, str]]:
    """The steps that an event moves, with their states from now on."""
    name = data.get("step_name", "")
    if name.startswith(COMPENSATION_PREFIX):
        state = _COMPENSATION_STATES.get(event_type)
        return [] if state is None else [(name.removeprefix(COMPENSATION_PREFIX), state)]
    moved = [(step, "skipped") for step in data.get("excluded", ())]
    if event_type in _STATES:
        moved.append((name, _STATES[event_type]))
    if event_type in _BATCH_STATES:
        moved.append((data["worker_template"], _BATCH_STATES[event_type]))
    return moved


class _LiveTable:
    """One row a run: a mark for each step, and what happened last."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._rows = {run.title: _Row(run) for run in runs}

    def created(self, run: Run, task: TaskResponse) -> None:
        self._rows[run.title].status = task.status

    def happened(self, run: Run, envelope: Envelope) -> None:
        row = self._rows[run.title]
        data: dict[str, Any] = payload(envelope)
        for step, state in _moved(envelope.type, data):
            if step in row.steps:
                row.steps[step] = state
        row.status = _STATUSES.get(envelope.type, row.status)
        if envelope.type != "step.enqueued":
            row.latest = describe(envelope.type, data)

    def ended(self, run: Run, task: TaskResponse | None, fault: str) -> None:
        row = self._rows[run.title]
        row.fault = fault
        if task is not None:
            row.status = task.status

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("run")
        table.add_column("steps")
        table.add_column("state")
        table.add_column("latest", no_wrap=True, overflow="ellipsis", ratio=1)
        for title, row in self._rows.items():
            marks = Text()
            for state in row.steps.values():
                mark, style = _MARKS[state]
                marks.append(f"{mark} ", style=style)
            latest = (
                Text(f"NOT AS EXPECTED: {row.fault}", style="bold red") if row.fault else Text(row.latest)
            )
            table.add_row(title, marks, status_text(row.status), latest)
        return table
