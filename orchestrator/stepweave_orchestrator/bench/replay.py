"""How quick a task's state comes back from its events, in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

from stepweave_eventstore.store import EventRecord, EventStore
from stepweave_orchestrator.core import Plan, TaskState, evolve
from stepweave_orchestrator.core.state import initial
from stepweave_orchestrator.runtime.templates import TemplateCatalogue
from stepweave_schemas.codec import decode_event
from stepweave_schemas.events import TaskCreated


async def measure_replay(store: EventStore, task_ids: Sequence[str], seconds: float) -> float:
    """Events a second of replaying these tasks of one template, decoding included, for so long on one core."""
    streams = list((await store.read_streams(task_ids)).values())
    created = decode_event(streams[0][0].data)
    assert isinstance(created, TaskCreated), "a task's first event creates it"
    plan = await TemplateCatalogue(store).plan(created.template)
    events = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for stream in streams:
            state = replayed(plan, stream)
            assert state.is_terminal, "the tasks are complete"
            events += len(stream)
    return events / elapsed


def replayed(plan: Plan, stream: Sequence[EventRecord]) -> TaskState:
    """A task's state from all its events."""
    state = initial(stream[0].task_id, plan, stream[0].correlation_id)
    for record in stream:
        evolve(state, decode_event(record.data), record.recorded_at_ms)
    return state
