"""What of a feed is handled: in order of the feed, although tasks are handled at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Final

from stepweave_schemas.envelope import Envelope

from .cursor import CursorRecord
from .patterns import Feed

#: Where another feed is read than before: so much is read again, and what is known is dropped.
_OVERLAP: Final = timedelta(minutes=1)


class InFlight:
    """A message of the feed; done when all its wanted events are."""

    __slots__ = ("done", "left", "positions", "recorded_at", "seq")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        #: Wanted events that are not handled yet.
        self.left = 0
        self.done = False
        self.positions: dict[int, int] = {}
        self.recorded_at: str | None = None


class Progress:
    """Keeps a cursor record up to date; `changed` is set when there is something to store."""

    def __init__(self, record: CursorRecord, feed: Feed) -> None:
        if record.feed != feed:
            _switch_feed(record, feed)
        self.record = record
        self.changed = asyncio.Event()
        self.duplicates_count = 0
        self._messages: deque[InFlight] = deque()
        #: By shard: the highest position received.
        self._highest = {int(shard): position for shard, position in record.positions.items()}
        self._already_done = set(record.done)

    def __len__(self) -> int:
        """How many messages are received and not yet behind us."""
        return len(self._messages)

    def begin(self, seq: int) -> InFlight:
        """A message has come; call `is_new` for each of its events, then `settle`."""
        message = InFlight(seq)
        self._messages.append(message)
        return message

    def is_new(self, message: InFlight, envelope: Envelope) -> bool:
        """Whether an event must be handled: not one that was published again, nor handled before a restart."""
        if envelope.position <= self._highest.get(envelope.shard, 0):
            self.duplicates_count += 1
            return False
        self._highest[envelope.shard] = envelope.position
        message.positions[envelope.shard] = envelope.position
        message.recorded_at = envelope.recorded_at
        return message.seq not in self._already_done

    def settle(self, message: InFlight) -> None:
        """Count a message as done where nothing of it is left."""
        if message.left == 0:
            message.done = True
            self._already_done.discard(message.seq)
            self.changed.set()

    def advance(self) -> CursorRecord:
        """The record as it is now."""
        record = self.record
        while self._messages and self._messages[0].done:
            message = self._messages.popleft()
            record.seq = message.seq
            record.start_time = None
            record.recorded_at = message.recorded_at or record.recorded_at
            for shard, position in message.positions.items():
                record.positions[str(shard)] = position
        record.done = [message.seq for message in self._messages if message.done]
        return record

    def new_stream(self, created: str) -> None:
        """The feed was made anew: its numbers are others, positions stay."""
        self.record.created = created
        self.record.seq = 0
        self.record.done = []
        self._already_done.clear()
        # What is under way has numbers of the old stream; it is finished all the same.
        self._messages.clear()
        self.changed.set()


def _switch_feed(record: CursorRecord, feed: Feed) -> None:
    """Other patterns read another feed: go by time, and drop what is known by its position."""
    record.feed = feed
    record.created = ""
    record.seq = 0
    record.done = []
    if record.recorded_at is not None:
        record.start_time = rfc3339(datetime.fromisoformat(record.recorded_at) - _OVERLAP)


def rfc3339(moment: datetime) -> str:
    """A moment as JetStream and our messages write it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
