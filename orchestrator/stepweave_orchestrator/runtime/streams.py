"""The JetStream streams and consumers: made where they are missing, recognised where they are new.

Every stream can be rebuilt from Postgres. Whether one *must* be is told by its creation stamp: it differs from
the one a shard was last published to when somebody deleted the storage.
"""

from __future__ import annotations

import asyncio
from typing import Final

import nats.errors
import structlog
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, BadRequestError, NotFoundError

from stepweave.messaging import Connection, NotConnected
from stepweave_schemas import subjects

from .settings import Settings

log = structlog.get_logger(__name__)

#: JetStream forgets message ids after this; a repeat within it is dropped by the server.
DUPLICATE_WINDOW_SECONDS: Final = 120
REQUEST_TIMEOUT_SECONDS: Final = 5.0
#: Questions to the gates of one shard that are given out or put off: more than can wait before a namespace's gates.
QUESTIONS_PUT_OFF_MAX: Final = 1_000_000
#: Dispatches given out and not acknowledged, for one queue and class.
DISPATCHES_IN_FLIGHT_MAX: Final = 50_000
WORKER_PRESENCE_SECONDS: Final = 30


class StreamsUnavailable(NotConnected):
    """JetStream did not answer, or refused to make what the orchestrator needs."""


class Streams:
    """Makes sure of streams and consumers; remembers what it has seen since the last reconnect."""

    def __init__(self, settings: Settings, connection: Connection, shard_count: int) -> None:
        self._settings = settings
        self._connection = connection
        self._shard_count = shard_count
        self._stamps: dict[str, str] = {}
        self._queues: set[tuple[str, str]] = set()
        self._forgotten_count = 0
        self._lock = asyncio.Lock()

    def forget(self) -> None:
        """After a reconnect nothing is known: the server may have lost its storage."""
        self._forgotten_count += 1
        self._stamps.clear()
        self._queues.clear()

    def has_queue(self, namespace: str, queue: str) -> bool:
        """Whether dispatches of the queue can be published right now."""
        return (namespace, queue) in self._queues

    async def ensure_feeds(self) -> dict[str, str]:
        """Make CMD, LOG, EVT and the workers' bucket; returns name → creation stamp.

        Raises `StreamsUnavailable`.
        """
        settings = self._settings
        feed_age = float(settings.feed_age_seconds_max)
        # Not read from `_stamps` at the end: they are forgotten at any time.
        stamps: dict[str, str] = {}
        stamps[subjects.CMD_STREAM] = await self._ensure_stream(
            StreamConfig(
                name=subjects.CMD_STREAM,
                # No wider than what is read: a work queue would keep for ever what nobody takes.
                subjects=[
                    subject
                    for shard in range(self._shard_count)
                    for subject in (*subjects.command_filters(shard), subjects.question_filter(shard))
                ],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                duplicate_window=DUPLICATE_WINDOW_SECONDS,
            )
        )
        for name, bound in (
            (subjects.LOG_STREAM, subjects.LOG_STREAM_SUBJECTS),
            (subjects.EVT_STREAM, subjects.EVT_STREAM_SUBJECTS),
        ):
            stamps[name] = await self._ensure_stream(
                StreamConfig(
                    name=name,
                    subjects=list(bound),
                    retention=RetentionPolicy.LIMITS,
                    discard=DiscardPolicy.OLD,
                    storage=StorageType.FILE,
                    max_age=feed_age,
                    max_bytes=settings.feed_bytes_max,
                    duplicate_window=DUPLICATE_WINDOW_SECONDS,
                )
            )
        await self._ensure_workers_bucket()
        return stamps

    async def renew_command_consumers(self, shard: int) -> None:
        """Make the durable consumers of a shard anew for its new owner.

        What the last owner had pulled and not acknowledged is delivered at once, instead of after its ack wait.
        """
        manager = self._connection.client.jsm(timeout=REQUEST_TIMEOUT_SECONDS)
        for consumer in (subjects.command_consumer(shard), subjects.question_consumer(shard)):
            try:
                await manager.delete_consumer(subjects.CMD_STREAM, consumer)
            except NotFoundError:
                pass
            except (nats.errors.Error, APIError, TimeoutError) as error:
                raise StreamsUnavailable(f"consumer {consumer}: {error}") from error
        await self.ensure_command_consumers(shard)

    async def ensure_command_consumers(self, shard: int) -> None:
        """Make the durable consumers from which the shard's owner pulls: questions to its gates have one of their own.

        Those before a full gate are put off, and count as not acknowledged meanwhile. With the commands, they would
        keep those from coming in that make room.
        """
        for consumer, filters, in_flight_max in (
            (
                subjects.command_consumer(shard),
                subjects.command_filters(shard),
                self._settings.commands_in_flight_max,
            ),
            (subjects.question_consumer(shard), [subjects.question_filter(shard)], QUESTIONS_PUT_OFF_MAX),
        ):
            await self._ensure_consumer(
                subjects.CMD_STREAM,
                ConsumerConfig(
                    durable_name=consumer,
                    filter_subjects=filters,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=30.0,
                    max_ack_pending=in_flight_max,
                    max_waiting=64,
                ),
            )

    async def ensure_queue(self, namespace: str, queue: str) -> None:
        """Make the dispatch stream of a namespace and the consumers of one queue.

        Raises `StreamsUnavailable`.
        """
        while (namespace, queue) not in self._queues:
            async with self._lock:
                if (namespace, queue) not in self._queues:
                    await self._make_queue(namespace, queue)

    async def _make_queue(self, namespace: str, queue: str) -> None:
        forgotten_count = self._forgotten_count
        stream = subjects.dispatch_stream(namespace)
        if stream not in self._stamps:
            await self._ensure_stream(
                StreamConfig(
                    name=stream,
                    subjects=[subjects.dispatch_stream_subjects(namespace)],
                    retention=RetentionPolicy.WORK_QUEUE,
                    storage=StorageType.FILE,
                    duplicate_window=DUPLICATE_WINDOW_SECONDS,
                )
            )
        for priority in subjects.PRIORITY_CLASSES:
            await self._ensure_consumer(
                stream,
                ConsumerConfig(
                    durable_name=subjects.dispatch_consumer(queue, priority),
                    filter_subject=subjects.dispatches(namespace, queue, priority),
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=self._settings.dispatch_lease_seconds,
                    max_ack_pending=DISPATCHES_IN_FLIGHT_MAX,
                    max_waiting=2_048,
                ),
            )
        if self._forgotten_count == forgotten_count:
            # Else the storage may be another one than that in which it was seen.
            self._queues.add((namespace, queue))

    async def ensure_namespace(self, namespace: str) -> tuple[str, str]:
        """Make the dispatch stream of a namespace; returns its name and creation stamp."""
        stream = subjects.dispatch_stream(namespace)
        while True:
            await self.ensure_queue(namespace, "default")
            if (stamp := self._stamps.get(stream)) is not None:
                return stream, stamp

    # -- JetStream -------------------------------------------------------------------------------

    async def _ensure_stream(self, wanted: StreamConfig) -> str:
        """Make a stream where it is missing; returns its creation stamp."""
        assert wanted.name is not None
        manager = self._connection.client.jsm(timeout=REQUEST_TIMEOUT_SECONDS)
        try:
            try:
                info = await manager.stream_info(wanted.name)
            except NotFoundError:
                try:
                    info = await manager.add_stream(wanted)
                    log.info("made a JetStream stream", stream=wanted.name)
                except BadRequestError:
                    # Another orchestrator made it in this moment.
                    info = await manager.stream_info(wanted.name)
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise StreamsUnavailable(f"JetStream stream {wanted.name}: {error}") from error
        stamp = self._stamps[wanted.name] = str(info.created)
        return stamp

    async def _ensure_consumer(self, stream: str, wanted: ConsumerConfig) -> None:
        manager = self._connection.client.jsm(timeout=REQUEST_TIMEOUT_SECONDS)
        try:
            # Making a consumer that exists as wanted is a no-op; with another configuration it is an update.
            await manager.add_consumer(stream, wanted)
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise StreamsUnavailable(f"consumer {wanted.durable_name} of {stream}: {error}") from error

    async def _ensure_workers_bucket(self) -> None:
        try:
            client = self._connection.client.jetstream(timeout=REQUEST_TIMEOUT_SECONDS)
            try:
                await client.key_value(subjects.WORKERS_BUCKET)
            except (NotFoundError, nats.errors.Error):
                await client.create_key_value(
                    KeyValueConfig(bucket=subjects.WORKERS_BUCKET, ttl=WORKER_PRESENCE_SECONDS, history=1)
                )
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise StreamsUnavailable(f"bucket {subjects.WORKERS_BUCKET}: {error}") from error
