"""One commit in the making: what was decided, ready for the ledger and for the wire."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from stepweave_eventstore.store import Append, EventRecord, ShardAppend, ShardRow, Wakeup
from stepweave_schemas.codec import encode
from stepweave_schemas.envelope import envelope_bytes
from stepweave_schemas.events import SCHEMA_VERSION, Event

from .actors import Actor
from .orders import Order
from .work import Ending, Work


class Outgoing(NamedTuple):
    """One committed event, ready for the feeds, and the message that it orders besides."""

    position: int
    envelope: bytes
    #: Subject on the signal feed; `None` where the event does not go there.
    signal_subject: str | None
    order: Order | None
    #: W3C trace context of the task, so that subscribers' spans join its trace.
    traceparent: str | None = None


class Shard:
    """A shard that this process owns. `next_*` run ahead of what is committed."""

    __slots__ = ("committed_hash", "committed_position", "epoch", "next_hash", "next_position", "number")

    def __init__(self, row: ShardRow) -> None:
        self.number = row.shard
        self.epoch = row.epoch
        self.committed_position = self.next_position = row.head_position
        self.committed_hash = self.next_hash = row.head_hash

    def rewind(self) -> None:
        """Forget what was decided and not committed."""
        self.next_position = self.committed_position
        self.next_hash = self.committed_hash


class ShardBatch:
    """The part of a batch that belongs to one shard."""

    __slots__ = (
        "at_once",
        "endings",
        "from_hash",
        "from_position",
        "outgoing",
        "records",
        "shard",
        "touched",
        "wakeups",
    )

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.from_position = shard.next_position
        self.from_hash = shard.next_hash
        self.records: list[EventRecord] = []
        self.outgoing: list[Outgoing] = []
        #: Subject and envelope of what is sent over core NATS besides, as soon as it is committed.
        self.at_once: list[tuple[str, bytes]] = []
        self.touched: dict[str, Actor] = {}
        self.wakeups: dict[str, int | None] = {}
        self.endings: list[tuple[Work, Ending]] = []


class Batch:
    """Decisions that will be committed together."""

    __slots__ = ("bytes_count", "events_count", "now_ms", "parts")

    def __init__(self) -> None:
        self.parts: dict[int, ShardBatch] = {}
        self.events_count = 0
        self.bytes_count = 0
        self.now_ms = 0

    def __bool__(self) -> bool:
        return bool(self.parts)

    def part(self, shard: Shard) -> ShardBatch:
        """The part of one shard, made on first use."""
        part = self.parts.get(shard.number)
        if part is None:
            part = self.parts[shard.number] = ShardBatch(shard)
        return part

    def add_event(
        self, part: ShardBatch, work: Work, version: int, correlation_id: str, event: Event
    ) -> tuple[int, bytes]:
        """Give the event its place in the ledger; returns its position and its envelope's bytes."""
        shard = part.shard
        position = shard.next_position + 1
        data = encode(event)
        envelope = envelope_bytes(
            shard=shard.number,
            position=position,
            task_id=work.stream_id,
            version=version,
            type=event.TYPE,
            schema_version=SCHEMA_VERSION,
            recorded_at_ms=self.now_ms,
            correlation_id=correlation_id,
            causation_id=work.causation_id,
            actor=work.actor_name,
            data=data,
        )
        digest = hashlib.sha256(shard.next_hash + envelope).digest()
        part.records.append(
            EventRecord(
                shard.number,
                position,
                work.stream_id,
                version,
                event.TYPE,
                SCHEMA_VERSION,
                self.now_ms,
                correlation_id,
                work.causation_id,
                work.actor_name,
                data.decode(),
                digest,
            )
        )
        shard.next_position = position
        shard.next_hash = digest
        self.events_count += 1
        self.bytes_count += len(envelope)
        return position, envelope

    def append(self, published: dict[int, int]) -> Append:
        """What the store is asked to append; `published` are the positions known to be published."""
        shards: list[ShardAppend] = []
        events: list[EventRecord] = []
        wakeups: list[Wakeup] = []
        for number, part in self.parts.items():
            if not part.records:
                continue
            shards.append(
                ShardAppend(
                    shard=number,
                    epoch=part.shard.epoch,
                    expected_position=part.from_position,
                    new_position=part.records[-1].position,
                    new_hash=part.records[-1].hash,
                    published_position=published.get(number, 0),
                )
            )
            events.extend(part.records)
            wakeups.extend(Wakeup(task_id, number, at_ms) for task_id, at_ms in part.wakeups.items())
        return Append(shards=shards, events=events, wakeups=wakeups)

    def works(self) -> list[Work]:
        """Every command of the batch, in the order of decision within a shard."""
        return [work for part in self.parts.values() for work, _ in part.endings]
