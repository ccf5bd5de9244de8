"""`stepweave replay`: a task as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from .errors import CommandError, ExitCode
from .options import DatabaseUrl, Output
from .output import OutputFormat, print_table, say, show
from .running import event_store, run_async
from .task import print_task
from .task_input import moment_of

if TYPE_CHECKING:
    from stepweave_eventstore.store import EventRecord, EventStore
    from stepweave_orchestrator.core.state import TaskState
    from stepweave_schemas.api import TaskResponse

#: The store's numbers end here.
_VERSION_MAX: Final = 2**31 - 1


def replay(
    task_id: Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")],
    at_version: Annotated[
        int | None, typer.Option("--at-version", min=1, help="As it was after this event.", metavar="N")
    ] = None,
    at_time: Annotated[
        str | None,
        typer.Option(
            "--at-time",
            help="As it was then: a time with zone, or a span before now such as 90s.",
            metavar="TIME",
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show a task as it was.

    Its history, and its state rebuilt from the ledger. Reads Postgres only; no orchestrator has to run.
    """
    if at_version is not None and at_time is not None:
        raise CommandError("give --at-version or --at-time, not both", ExitCode.USAGE)
    moment_ms = (
        None if at_time is None else round(moment_of(at_time, "--at-time", past=True).timestamp() * 1000)
    )

    async def work() -> tuple[list[EventRecord], TaskResponse]:
        async with event_store(database_url) as store:
            events = await _events(store, task_id, at_version, moment_ms)
            return events, await _state(store, events)

    events, state = run_async(work())
    _show(events, state, output)


async def _events(
    store: EventStore, task_id: str, at_version: int | None, moment_ms: int | None
) -> list[EventRecord]:
    """The history up to the moment asked for; raises `CommandError` where there is none."""
    from stepweave_eventstore.replay import at_time_ms
    from stepweave_eventstore.replay import at_version as up_to
    from stepweave_schemas.envelope import timestamp
    from stepweave_schemas.events import TaskCreated
    from stepweave_schemas.identity import is_uuid

    if not is_uuid(task_id):
        raise CommandError(f"{task_id!r} is no task id: copy one from `stepweave task list`", ExitCode.USAGE)
    first = await store.read_stream(task_id, to_version=1)
    if not first or first[0].type != TaskCreated.TYPE:
        raise CommandError(
            f"there is no task {task_id} in this database: see `stepweave task list`", ExitCode.NOT_FOUND
        )
    if moment_ms is None:
        events = await up_to(store, task_id, min(at_version or _VERSION_MAX, _VERSION_MAX))
        if at_version is not None and at_version > events[-1].version:
            raise CommandError(
                f"the task has {events[-1].version} events so far: give --at-version 1 to {events[-1].version}",
                ExitCode.NOT_FOUND,
            )
        return events
    events = await at_time_ms(store, task_id, moment_ms)
    if not events:
        raise CommandError(
            f"the task did not exist then: it was created at {timestamp(first[0].recorded_at_ms)}",
            ExitCode.NOT_FOUND,
        )
    return events


async def _state(store: EventStore, events: list[EventRecord]) -> TaskResponse:
    import msgspec

    from stepweave_orchestrator.core.view import task_response
    from stepweave_orchestrator.runtime.loading import ActorLoader
    from stepweave_orchestrator.runtime.templates import TemplateCatalogue

    loader = ActorLoader(store, TemplateCatalogue(store), len(await store.shards()))
    state = await loader.task_state(events[0], to_version=events[-1].version)
    shown = task_response(state)
    if shown.recommended_action == "wait_for_dependencies" and not _waits_for_steps(state):
        return msgspec.structs.replace(shown, recommended_action=None)
    return shown


def _waits_for_steps(state: TaskState) -> bool:
    """Whether what is left waits for steps that will go on: not so before the start and in the middle of an append."""
    return state.waiting_count + state.suspended_count > 0 and not any(
        step.status == "pending" and step.unmet == 0 for step in state.steps
    )


def _show(events: list[EventRecord], state: TaskResponse, output: OutputFormat) -> None:
    from stepweave_eventstore.hash_chain import canonical_bytes
    from stepweave_schemas.envelope import decode_envelope

    from .event_text import TIMELINE_COLUMNS, timeline

    envelopes = [decode_envelope(canonical_bytes(event)) for event in events]

    def table() -> None:
        print_table(TIMELINE_COLUMNS, timeline(envelopes), empty="no events")
        say()
        print_task(state)

    show({"at_version": events[-1].version, "state": state, "events": envelopes}, output, table)
