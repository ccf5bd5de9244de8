"""A stream as it was: its events up to a version, or up to a moment."""

from __future__ import annotations

from typing import Final

from .store import EventRecord, EventStore

_PAGE_SIZE: Final = 10_000


async def at_version(store: EventStore, task_id: str, version: int) -> list[EventRecord]:
    """The events of a stream up to and with `version`; all of them where the stream is shorter."""
    events: list[EventRecord] = []
    while len(events) < version:
        page = await store.read_stream(
            task_id, from_version=len(events) + 1, to_version=version, limit=_PAGE_SIZE
        )
        events += page
        if len(page) < _PAGE_SIZE:
            break
    return events


async def at_time_ms(store: EventStore, task_id: str, time_ms: int) -> list[EventRecord]:
    """The events of a stream that were recorded up to and with `time_ms` (ms since the Unix epoch, UTC).

    What comes back is always a beginning of the stream: it ends before the first event recorded later, even
    where a clock was set back after that.
    """
    events: list[EventRecord] = []
    while True:
        page = await store.read_stream(task_id, from_version=len(events) + 1, limit=_PAGE_SIZE)
        for event in page:
            if event.recorded_at_ms > time_ms:
                return events
            events.append(event)
        if len(page) < _PAGE_SIZE:
            return events
