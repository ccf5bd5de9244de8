"""Walk the ledgers and prove that they are whole: nothing changed, missing, added or reordered.

Checked for every event: its position follows the one before it, its hash is that of its content and of the
hash before it, and its version follows the one before it in its stream. Checked at the end of a shard: the
events reach the head that the shard's row names, with its hash, and none lies beyond. So a changed event, a
removed one and a tail cut off are all found, at the first position that does not fit.

Who can rewrite every hash after a change, and the shard's row with them, is not found by this; that is what
the sealed heads are for.

The walk takes little memory, however many tasks there are. Whether a version follows is not looked up in a
table of all streams: within a batch it is seen directly, and for the first event of each stream in a batch the
store is asked once a batch where the version before stands (`EventStore.locate`, by an index).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from .hash_chain import canonical_bytes, next_hash
from .store import GENESIS_HASH, EventKey, EventRecord, EventStore, ShardRow

#: How many events are checked between two look-ups of where the versions before them stand.
_BATCH_SIZE: Final = 5_000


class FaultKind(StrEnum):
    """What is wrong with a ledger."""

    POSITION = "position"  #: an event is missing, or stands where it does not belong
    HASH = "hash"  #: an event's content, or the hash before it, was changed
    VERSION = "version"  #: an event's version does not follow in its stream
    TAIL_MISSING = "tail_missing"  #: events up to the head of the shard's row are gone
    HEAD_HASH = "head_hash"  #: the shard's row has another hash than the last event
    BEYOND_HEAD = "beyond_head"  #: there are events that the shard's row does not know


class Fault(msgspec.Struct, frozen=True):
    """The first thing that is wrong in a shard: where, and what."""

    shard: int
    position: int
    kind: FaultKind
    message: str


class ShardAudit(msgspec.Struct, frozen=True):
    """What was found in one shard. `events` counts those that were checked and fit."""

    shard: int
    events: int
    head_position: int
    head_hash: bytes
    fault: Fault | None = None


class AuditReport(msgspec.Struct, frozen=True):
    """What was found, shard by shard."""

    shards: Sequence[ShardAudit]

    @property
    def ok(self) -> bool:
        """Whether every shard is whole."""
        return not self.faults

    @property
    def events(self) -> int:
        """How many events were checked and fit."""
        return sum(shard.events for shard in self.shards)

    @property
    def faults(self) -> list[Fault]:
        """The first fault of each shard that has one."""
        return [shard.fault for shard in self.shards if shard.fault is not None]


class Progress(msgspec.Struct, frozen=True):
    """How far the walk of a shard has come: the last position that fits, and where it ends."""

    shard: int
    position: int
    head_position: int


async def verify(
    store: EventStore,
    *,
    shards: Sequence[int] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> AuditReport:
    """Check the ledgers of `shards` (all, where it is `None`) up to the head they have when their turn comes.

    May run while events are appended. `on_progress` is called every few thousand events and at the end of
    each shard. Raises `StoreUnavailable`, and `ValueError` where there is no such shard.
    """
    known = {row.shard for row in await store.shards()}
    wanted = sorted(known if shards is None else set(shards))
    if strangers := set(wanted) - known:
        raise ValueError(f"there is no shard {min(strangers)}; this installation has {len(known)}")
    return AuditReport([await _Walk(store, await _row(store, shard), on_progress).run() for shard in wanted])


class _Broken(Exception):
    """Ends a walk."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class _Walk:
    """The check of one shard. `position` and `hash` are those of the last event that fits."""

    def __init__(
        self, store: EventStore, row: ShardRow, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self._store = store
        self._row = row
        self._on_progress = on_progress
        self._position = 0
        self._hash = GENESIS_HASH
        #: The last version of each stream seen in this batch.
        self._versions: dict[str, int] = {}
        #: Events that must stand before this batch, with the position of the one that follows in the stream.
        self._predecessors: dict[EventKey, int] = {}

    async def run(self) -> ShardAudit:
        fault = None
        try:
            await self._check_events()
            await self._check_end()
        except _Broken as broken:
            fault = broken.fault
        self._report()
        row = self._row
        return ShardAudit(row.shard, self._position, row.head_position, row.head_hash, fault)

    async def _check_events(self) -> None:
        try:
            async for event in self._store.walk(self._row.shard):
                if event.position > self._row.head_position:
                    break
                self._check(event)
                if self._position % _BATCH_SIZE == 0:
                    await self._check_predecessors()
                    self._report()
        except _Broken:
            # What the batch still owes may be broken at a lower position.
            await self._check_predecessors()
            raise
        await self._check_predecessors()

    def _check(self, event: EventRecord) -> None:
        expected = self._position + 1
        if event.position != expected:
            raise self._broken(
                expected,
                FaultKind.POSITION,
                f"event {expected} is missing: after {self._position} comes {event.position}",
            )
        digest = next_hash(self._hash, canonical_bytes(event))
        if digest != event.hash:
            raise self._broken(
                expected,
                FaultKind.HASH,
                f"the hash does not fit: this event ({event.type} of {event.task_id}, version "
                f"{event.version}) or its hash was changed",
            )
        before = self._versions.get(event.task_id)
        if before is None and event.version > 1:
            self._predecessors[event.task_id, event.version - 1] = event.position
        elif event.version != (before or 0) + 1:
            raise self._broken_version(event.task_id, event.version, event.position)
        self._versions[event.task_id] = event.version
        self._position, self._hash = expected, digest

    async def _check_predecessors(self) -> None:
        """Settle what the events of a batch presume of earlier batches, and begin a new batch."""
        wanted, self._predecessors = self._predecessors, {}
        self._versions.clear()
        if not wanted:
            return
        found = await self._store.locate(list(wanted))
        for (task_id, version), follower in wanted.items():
            shard, position = found.get((task_id, version), (None, 0))
            if shard != self._row.shard or position >= follower:
                self._position = min(self._position, follower - 1)
                raise self._broken_version(task_id, version + 1, follower)

    async def _check_end(self) -> None:
        row = self._row
        if self._position < row.head_position:
            raise self._broken(
                self._position + 1,
                FaultKind.TAIL_MISSING,
                f"the shard's row names {row.head_position} as its head, and the events end at {self._position}",
            )
        if self._hash != row.head_hash:
            raise self._broken(
                row.head_position,
                FaultKind.HEAD_HASH,
                "the shard's row does not have the hash of the last event",
            )
        beyond = await self._store.read_shard(row.shard, after_position=row.head_position, limit=1)
        # Where events were appended meanwhile, the row has moved with them.
        if beyond and beyond[0].position > (await _row(self._store, row.shard)).head_position:
            raise self._broken(
                beyond[0].position,
                FaultKind.BEYOND_HEAD,
                f"the shard's row names {row.head_position} as its head, and there are events beyond it",
            )

    def _broken_version(self, task_id: str, version: int, position: int) -> _Broken:
        return self._broken(
            position,
            FaultKind.VERSION,
            f"version {version} of the stream {task_id} does not follow the stream's events before it",
        )

    def _broken(self, position: int, kind: FaultKind, message: str) -> _Broken:
        return _Broken(Fault(self._row.shard, position, kind, message))

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(self._row.shard, self._position, self._row.head_position))


async def _row(store: EventStore, shard: int) -> ShardRow:
    return next(row for row in await store.shards() if row.shard == shard)
