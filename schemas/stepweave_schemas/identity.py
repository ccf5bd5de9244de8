"""Ids that follow from other values: shards, step uuids, the ids of tasks with an identity.

Pure: nothing here reads a clock or draws a random number (that is `mint`).
"""

from __future__ import annotations

import hashlib
import re

import msgspec

#: A text in JSON, or a whole number that is written with a fraction.
_TEXT_OR_WHOLE = re.compile(rb'("(?:[^"\\]|\\.)*")|(-?\d+)\.0(?![\deE])')
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in its canonical lower-case form."""
    return _UUID.fullmatch(text) is not None


def shard_of(task_id: str, shard_count: int) -> int:
    """The shard of a stream: FNV-1a-32 of its id modulo the installation's shard count."""
    value = 0x811C9DC5
    for byte in task_id.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value % shard_count


def derived_uuid(*parts: str) -> str:
    """A UUIDv8 (RFC 9562) made of the SHA-256 of the parts; the same parts give the same id."""
    text = "".join([f"{len(part)}:{part}" for part in parts])
    digits = hashlib.sha256(text.encode()).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def step_uuid(task_id: str, step_name: str) -> str:
    """The uuid of a step: stable over retries and redeliveries, so handlers use it as idempotency key."""
    return derived_uuid("step", task_id, step_name)


def identity_task_id(namespace: str, name: str, key: str) -> str:
    """The id of a task that has an identity: its key finds its shard and its stream."""
    return derived_uuid("task", namespace, name, key)


def template_stream_id(namespace: str, name: str) -> str:
    """The stream that holds every registered version of one template."""
    return derived_uuid("template", namespace, name)


def bulk_stream_id(bulk_id: str) -> str:
    """The stream of a bulk operation; its id is the caller's, and may be that of a task too."""
    return derived_uuid("bulk", bulk_id)


def schedule_stream_id(namespace: str, name: str) -> str:
    """The stream of a schedule."""
    return derived_uuid("schedule", namespace, name)


def shard_stream_id(shard: int) -> str:
    """The system's own stream of a shard: who owned it and when."""
    return derived_uuid("shard", str(shard))


def canonical_json(value: object) -> bytes:
    """JSON bytes with sorted keys: two objects that differ only in key order give the same bytes."""
    return msgspec.json.encode(value, order="deterministic")


def content_json(value: object) -> bytes:
    """Canonical JSON in which equal numbers look alike too: `5.0` and `5`, as one language and another writes it."""
    encoded = canonical_json(value)
    return _TEXT_OR_WHOLE.sub(_as_whole, encoded) if b".0" in encoded else encoded


def _as_whole(found: re.Match[bytes]) -> bytes:
    text, whole = found.groups()
    return text or (b"0" if whole == b"-0" else whole)


def content_digest(value: object) -> str:
    """`sha256:<hex>` over the canonical JSON of a value."""
    return json_digest(canonical_json(value))


def json_digest(encoded: bytes) -> str:
    """`sha256:<hex>` over bytes of JSON."""
    return f"sha256:{hashlib.sha256(encoded).hexdigest()}"
