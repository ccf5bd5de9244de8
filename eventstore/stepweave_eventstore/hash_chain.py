"""The hash chain of a shard's ledger.

`hash(n) = SHA-256(hash(n-1) ‖ canonical bytes of event n)`, the first one over 32 zero bytes. The canonical
bytes are the JSON of the event's envelope (fields in the order of `Envelope`), with the payload as the exact
text that is stored. The same bytes travel on the log feed, so that whoever reads it can check the chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from stepweave_schemas.envelope import envelope_bytes

from .store import EventRecord


def canonical_bytes(event: EventRecord) -> bytes:
    """The bytes of one event that its hash covers; the same as its element on the log feed."""
    return envelope_bytes(
        shard=event.shard,
        position=event.position,
        task_id=event.task_id,
        version=event.version,
        type=event.type,
        schema_version=event.schema_version,
        recorded_at_ms=event.recorded_at_ms,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        actor=event.actor,
        data=event.data.encode(),
    )


def next_hash(previous: bytes, canonical: bytes) -> bytes:
    """The hash of an event from the hash before it (32 bytes) and its canonical bytes."""
    return hashlib.sha256(previous + canonical).digest()


def first_broken(previous: bytes, events: Iterable[EventRecord]) -> EventRecord | None:
    """Walk events in order of position from the hash before the first; return the first that does not fit."""
    for event in events:
        previous = next_hash(previous, canonical_bytes(event))
        if previous != event.hash:
            return event
    return None
