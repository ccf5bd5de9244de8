"""How far a subscriber has come, and which process of several works for it."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from stepweave.messaging import Connection, MessagingError
from stepweave.messaging.kv import KeyValue, WrongRevision
from stepweave.telemetry import get_logger
from stepweave_schemas.subjects import token

log = get_logger("stepweave.subscriber")

BUCKET: Final = "subscribers"
BUCKET_BYTES_MAX: Final = 64 * 1024 * 1024
#: Progress is written at most so often.
WRITE_PAUSE_SECONDS: Final = 0.05


class CursorRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is kept of a subscriber."""

    #: The process that works for it; None after a clean stop.
    owner: str | None = None
    #: `signal` or `log`, and the creation stamp of its stream: sequence numbers mean nothing in another one.
    feed: str
    created: str
    #: Everything up to this sequence number is handled, and so are those in `done` above it.
    seq: int = 0
    done: list[int] = []
    #: By shard: the highest position of an event up to `seq`.
    positions: dict[str, int] = {}
    #: When the last event up to `seq` was recorded, RFC 3339.
    recorded_at: str | None = None
    #: Begin at this time instead of `seq` (set when the subscriber is new).
    start_time: str | None = None


_decode = msgspec.json.Decoder(CursorRecord).decode


class LeaseLost(Exception):
    """Another process works for the subscriber now."""


class Cursor:
    """The record of one subscriber in the bucket, held by at most one process at a time.

    Every write names the revision it replaces, so two processes cannot both go on: the slower one gets
    `LeaseLost`. A record that its owner has not renewed for `lease_seconds` may be taken over.
    """

    def __init__(self, connection: Connection, name: str, lease_seconds: float) -> None:
        self._store = KeyValue(connection, BUCKET)
        self._key = token(name)
        self._name = name
        self._lease_seconds = lease_seconds
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._revision = 0
        self._written_at = 0.0

    async def acquire(
        self, make: Callable[[], Awaitable[CursorRecord]], on_standby: Callable[[], None]
    ) -> CursorRecord:
        """Become the owner and return the record; `make` gives the first one of a new subscriber.

        Waits while another process owns it (`on_standby` is called then), and while NATS does not answer.
        """
        loop = asyncio.get_running_loop()
        seen: tuple[int, float] | None = None
        pause = max(0.05, min(2.0, self._lease_seconds / 5))
        while True:
            try:
                await self._store.ensure(size_bytes_max=BUCKET_BYTES_MAX)
                entry = await self._store.get(self._key)
                if entry is None:
                    record = await make()
                    revision = 0
                else:
                    record = _decode(entry.value)
                    revision = entry.revision
                    if record.owner is not None:
                        if seen is None or seen[0] != revision:
                            seen = (revision, loop.time())
                        if loop.time() - seen[1] < self._lease_seconds:
                            on_standby()
                            await asyncio.sleep(pause)
                            continue
                        log.warning("taking over from a process that is gone", subscriber=self._name)
                record.owner = self._owner
                self._revision = revision
                await self.write(record)
                return record
            except LeaseLost:
                continue
            except MessagingError as error:
                log.info(
                    "the subscriber cannot start yet, trying again", subscriber=self._name, error=str(error)
                )
                on_standby()
                await asyncio.sleep(pause)

    @property
    def renew_due_in_seconds(self) -> float:
        """When the record must be written again for the lease to hold."""
        return self._written_at + self._lease_seconds / 3 - asyncio.get_running_loop().time()

    async def write(self, record: CursorRecord) -> None:
        """Store the record; raises `LeaseLost`, or `MessagingError` where NATS does not answer."""
        payload = msgspec.json.encode(record)
        try:
            self._revision = await self._store.put(self._key, payload, expected_revision=self._revision)
        except WrongRevision:
            await self._check_own(payload)
        self._written_at = asyncio.get_running_loop().time()

    async def _check_own(self, payload: bytes) -> None:
        """A write whose answer was lost looks like somebody else's; tell them apart by the owner."""
        entry = await self._store.get(self._key)
        if entry is None or _decode(entry.value).owner != self._owner:
            raise LeaseLost(f"another process works for subscriber {self._name!r} now")
        self._revision = await self._store.put(self._key, payload, expected_revision=entry.revision)

    async def release(self, record: CursorRecord) -> None:
        """Store the record and let go of it."""
        record.owner = None
        payload = msgspec.json.encode(record)
        self._revision = await self._store.put(self._key, payload, expected_revision=self._revision)

    async def forget(self) -> None:
        """Delete the record: the subscriber is new the next time it starts."""
        await self._store.delete(self._key)
