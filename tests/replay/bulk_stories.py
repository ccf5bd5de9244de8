"""Stories of bulk operations, for `stream_history`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.unit.core.bulk_scenario import STREAM_ID, Bulk

from .stream_history import Told


def _life() -> tuple[str, Told]:
    one = Bulk()
    one.select(9, 8, 7, 6)
    one.record(8)
    one.select(5)
    one.record()
    one.select()
    return STREAM_ID, one.events


def _stopped() -> tuple[str, Told]:
    one = Bulk(action="cancel")
    one.select(9, 8)
    one.stop()
    one.record(9, 8)
    return STREAM_ID, one.events


def _limit() -> tuple[str, Told]:
    one = Bulk(tasks_max=2)
    one.select(9, 8)
    one.record()
    return STREAM_ID, one.events


#: By name: the kind, what it is about, and the story.
BULK_STORIES: Final[dict[str, tuple[str, str, Callable[[], tuple[str, Told]]]]] = {
    "retried": ("bulk", "two chunks, one task refuses, then nothing more matches", _life),
    "stopped": ("bulk", "stopped while its tasks are acted on: those are still counted", _stopped),
    "limit": ("bulk", "as many tasks as it was to take", _limit),
}
