"""Pages of a stream's history: as many events as were asked for, and as fit into one message."""

from __future__ import annotations

from typing import Final

import msgspec

from stepweave_eventstore.hash_chain import canonical_bytes
from stepweave_eventstore.store import EventStore

#: Bytes of events in one answer.
EVENTS_BYTES_MAX: Final = 768 * 1024
#: Events read at a time: each may be as large as a message.
EVENTS_READ_MAX: Final = 50


async def events_before(store: EventStore, stream_id: str, end: int, limit: int) -> tuple[msgspec.Raw, ...]:
    """The last `limit` envelopes of a stream before version `end`, in order of version.

    Fewer where they would not fit into one message, but at least one where there is one.
    """
    found: list[msgspec.Raw] = []
    size_bytes = 0
    begin = max(1, end - limit)
    while end > begin:
        first = max(begin, end - EVENTS_READ_MAX)
        for record in reversed(await store.read_stream(stream_id, from_version=first, to_version=end - 1)):
            envelope = canonical_bytes(record)
            size_bytes += len(envelope)
            if found and size_bytes > EVENTS_BYTES_MAX:
                return tuple(reversed(found))
            found.append(msgspec.Raw(envelope))
        end = first
    return tuple(reversed(found))
