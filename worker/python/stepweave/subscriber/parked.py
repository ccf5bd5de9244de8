"""Events that a subscriber could not handle, kept until somebody decides."""

from __future__ import annotations

from typing import Final

import msgspec

from stepweave.messaging import Connection
from stepweave.messaging.kv import KeyValue
from stepweave_schemas.envelope import Envelope
from stepweave_schemas.subjects import token

BUCKET: Final = "parked"
BUCKET_BYTES_MAX: Final = 64 * 1024 * 1024


class ParkedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event that one handler gave up on."""

    #: Names it to `retry_parked` and `discard_parked`.
    id: str
    subscriber: str
    handler: str
    envelope: Envelope
    namespace: str | None
    task_name: str | None
    error: str
    traceback: str
    attempts: int
    #: RFC 3339.
    parked_at: str


_decode = msgspec.json.Decoder(ParkedEvent).decode


class ParkedEvents:
    """The parked events of one subscriber, in a bucket."""

    def __init__(self, connection: Connection, subscriber: str) -> None:
        self._store = KeyValue(connection, BUCKET)
        self._prefix = token(subscriber)

    def id_of(self, envelope: Envelope, handler: str) -> str:
        """The id of an event for a handler: the same event is parked once."""
        return f"{envelope.shard}.{envelope.position:012d}.{token(handler)}"

    async def put(self, event: ParkedEvent) -> None:
        """Park an event; raises `MessagingError` where it cannot be stored."""
        await self._store.ensure(size_bytes_max=BUCKET_BYTES_MAX)
        await self._store.put(f"{self._prefix}.{event.id}", msgspec.json.encode(event))

    async def list(self, limit: int) -> list[ParkedEvent]:
        """The first `limit` parked events, by shard and position."""
        found: list[ParkedEvent] = []
        for key in await self._store.keys(self._prefix):
            if len(found) >= limit:
                break
            entry = await self._store.get(key)
            if entry is not None:
                found.append(_decode(entry.value))
        return found

    async def get(self, event_id: str) -> ParkedEvent | None:
        """One parked event."""
        entry = await self._store.get(f"{self._prefix}.{event_id}")
        return None if entry is None else _decode(entry.value)

    async def discard(self, event_id: str) -> None:
        """Forget a parked event."""
        await self._store.delete(f"{self._prefix}.{event_id}")
