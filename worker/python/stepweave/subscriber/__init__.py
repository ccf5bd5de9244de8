"""Reacting to events.

    feed (signal or log) ─▶ OrderedFeed ─▶ Subscriber ─▶ one lane per task ─▶ handlers ─▶ Cursor
                                                                   └─ parked after max_attempts ─▶ ParkedEvents

The order of a task's events is kept by reading the feed in order and by handling one event of a task at a time.
JetStream's own redelivery would break it (a message that was not acknowledged comes after newer ones), so the
progress is kept here: everything up to a sequence number, and the numbers above it that are done, in a bucket
entry that one process owns at a time. Positions per shard recognise events that are published again.
"""

from .base import BaseSubscriber
from .events import Event
from .parked import ParkedEvent
from .subscriber import Subscriber

__all__ = ["BaseSubscriber", "Event", "ParkedEvent", "Subscriber"]
