"""The envelope that every event travels in: on the feeds, in the ledger's hash, in `stepweave replay`."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """One event as the world sees it. The order of the fields is part of the contract: hashes cover it.

    `data` is the payload whose shape the event's `type` names in the catalogue.
    """

    shard: int
    position: int
    task_id: str
    version: int
    type: str
    schema_version: int
    #: RFC 3339, UTC, milliseconds: `2026-01-31T12:00:00.000Z`
    recorded_at: str
    correlation_id: str
    causation_id: str
    actor: str
    data: msgspec.Raw


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Envelope)
_list_decoder = msgspec.json.Decoder(list[Envelope])


def timestamp(at_ms: int) -> str:
    """RFC 3339 text of a moment given in milliseconds since the Unix epoch."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).strftime('%Y-%m-%dT%H:%M:%S')}.{milliseconds:03d}Z"


def parse_timestamp(text: str) -> int:
    """Milliseconds since the Unix epoch of an RFC 3339 text with a time zone.

    Raises `ValueError` where the text is no such thing or names no zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time with a zone, such as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone; write it like 2026-01-31T12:00:00Z")
    return round(moment.timestamp() * 1000)


_last_timestamp: tuple[int, str] = (-1, "")


def _cached_timestamp(at_ms: int) -> str:
    """`timestamp`, remembering the last answer: a commit's events share one moment."""
    global _last_timestamp
    if _last_timestamp[0] != at_ms:
        _last_timestamp = (at_ms, timestamp(at_ms))
    return _last_timestamp[1]


def envelope_bytes(
    *,
    shard: int,
    position: int,
    task_id: str,
    version: int,
    type: str,
    schema_version: int,
    recorded_at_ms: int,
    correlation_id: str,
    causation_id: str,
    actor: str,
    data: bytes,
) -> bytes:
    """The canonical JSON bytes of an event; `data` must be valid JSON already."""
    return _encoder.encode(
        Envelope(
            shard,
            position,
            task_id,
            version,
            type,
            schema_version,
            _cached_timestamp(recorded_at_ms),
            correlation_id,
            causation_id,
            actor,
            msgspec.Raw(data),
        )
    )


def decode_envelope(payload: bytes) -> Envelope:
    """Read one envelope; raises `msgspec.DecodeError` (or `ValidationError`) where it is none."""
    return _decoder.decode(payload)


def decode_envelopes(payload: bytes) -> list[Envelope]:
    """Read a log feed message: the array of a commit's envelopes."""
    return _list_decoder.decode(payload)
