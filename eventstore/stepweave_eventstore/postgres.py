"""The event store on PostgreSQL.

One connection of its own carries everything that writes shard rows: appends, and the leases. Statements on
it follow one another, so two of them never wait for each other's row locks. It plans each statement once, for
all arguments. A pool of a few connections does the rest; these plan each time, so that absent filters and the
lengths of arrays are seen. Both kinds come back by themselves (`sessions`).

An append is one statement and one round trip, `sql/append.sql`; what it costs over a bare insert of the same
events is measured by `benchmarks/append.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from operator import attrgetter
from typing import Any, Final

import asyncpg
import msgspec

from stepweave_schemas.identity import is_uuid

from .checks import (
    INT_MAX,
    check_append,
    check_columns,
    check_limit,
    check_page,
    check_shard_count,
)
from .migrate import refuse_unmigrated
from .postgres_errors import stream_in_conflict, translated
from .projection_rows import dead_letter_row, encode_rows, newest_rows, stream_row, task_row, template_row
from .sessions import Sessions
from .statements import statement
from .store import (
    DEAD_LETTER_KINDS_MAX,
    GATE_KINDS,
    LETTERS_PER_TASK_MAX,
    MISSING_HANDLERS_MAX,
    PRIORITY_POINT_MS,
    Append,
    DeadLetterCount,
    DeadLetterFilter,
    DeadLetterRow,
    EventKey,
    EventRecord,
    EventStore,
    EventStoreError,
    MissingHandlerCount,
    ShardAppend,
    ShardRow,
    Snapshot,
    StandingTask,
    StreamFilter,
    StreamRow,
    TaskFilter,
    TaskRow,
    TemplateRow,
    UnstorableEvent,
    Wakeup,
    WrongExpectedVersion,
)

#: A walk reads at most this much payload at a time, or one event where that is larger.
_WALK_BYTES_MAX: Final = 16 * 1024 * 1024
#: Emptying projections may take long where there are many tasks.
_RESET_TIMEOUT_SECONDS: Final = 300.0

#: Of the connection for appends. Its plans are made once and live long, maybe made while a table is empty: they
#: go by index, whatever the tables look like. Row locks are then taken in the order of the arrays, too.
LEDGER_SETTINGS: Final = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
}

#: Of the other connections: plans for the arguments at hand. A ledger is read by index, in order, on storage
#: where that is cheap; and a read does not take several processors.
POOL_SETTINGS: Final = {
    "plan_cache_mode": "force_custom_plan",
    "random_page_cost": "1.1",
    "max_parallel_workers_per_gather": "0",
}


class PostgresEventStore(EventStore):
    """An event store in the database schema `stepweave` of a PostgreSQL database; made by `connect`.

    Safe for any number of tasks of one event loop.
    """

    def __init__(self, dsn: str, *, pool_size_max: int, command_timeout_seconds: float) -> None:
        self._dsn = dsn
        self._ledger = Sessions(
            dsn,
            size_max=1,
            timeout_seconds=command_timeout_seconds,
            settings=LEDGER_SETTINGS,
        )
        self._pool = Sessions(
            dsn,
            size_max=pool_size_max,
            timeout_seconds=command_timeout_seconds,
            settings=POOL_SETTINGS,
        )

    @classmethod
    async def connect(
        cls, dsn: str, *, pool_size_max: int = 4, command_timeout_seconds: float = 10
    ) -> PostgresEventStore:
        """Open the store at a `postgresql://` address, whose database must be migrated (`migrate`).

        It takes up to `pool_size_max` connections for reading and one for appends. No call takes longer than
        `command_timeout_seconds`. Raises `StoreUnavailable`, `MigrationsPending` where the database is older
        than this program, `ValueError` for an address that cannot be read.
        """
        if pool_size_max < 1 or command_timeout_seconds <= 0:
            raise ValueError("pool_size_max must be at least 1, and command_timeout_seconds more than 0")
        store = cls(dsn, pool_size_max=pool_size_max, command_timeout_seconds=command_timeout_seconds)
        try:
            with translated():
                await refuse_unmigrated(store._pool.fetch)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Release every connection. Idempotent."""
        await self._ledger.close()
        await self._pool.close()

    async def _on_ledger(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        with translated():
            return await self._ledger.fetch(statement(name), *arguments)

    async def _on_pool(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        with translated():
            return await self._pool.fetch(statement(name), *arguments)

    # -- installation and shards -----------------------------------------------------------------
    async def initialise(self, shard_count: int) -> int:
        """Create the shard rows of a new installation; return the shard count that is in force."""
        check_shard_count(shard_count)
        await self._on_ledger("initialise", shard_count)
        [row] = await self._on_ledger("shard_count")
        return int(row[0])

    async def acquire_shards(self, owner: str, shards: Sequence[int], lease_ms: int) -> list[ShardRow]:
        """Take those of `shards` that are free; each gets a new epoch."""
        rows = await self._on_ledger("acquire_shards", owner, shards, lease_ms)
        return [ShardRow(*row) for row in rows]

    async def renew_shards(
        self, owner: str, epochs: dict[int, int], lease_ms: int, published: dict[int, int]
    ) -> set[int]:
        """Extend the leases of shards still held at these epochs; return those extended."""
        held, at, marks = _held(epochs, published)
        rows = await self._on_ledger("renew_shards", owner, held, at, lease_ms, marks)
        return {row[0] for row in rows}

    async def release_shards(self, owner: str, epochs: dict[int, int], published: dict[int, int]) -> None:
        """Give up shards at once."""
        await self._on_ledger("release_shards", owner, *_held(epochs, published))

    async def shards(self) -> list[ShardRow]:
        """All shard rows, ordered by shard."""
        return [ShardRow(*row) for row in await self._on_pool("shards")]

    async def beat(self, owner: str, lease_ms: int) -> list[str]:
        """Announce a live orchestrator process; return all that are alive, sorted."""
        rows = await self._on_pool("beat", owner, lease_ms)
        return sorted([owner, *(row[0] for row in rows)])

    async def retire(self, owner: str) -> None:
        """Remove an orchestrator process from the list of live ones."""
        await self._on_pool("retire", owner)

    async def feed_incarnations(self, shard: int) -> dict[str, str]:
        """The JetStream streams that this shard was last published to."""
        rows = await self._on_pool("feed_incarnations", shard)
        return msgspec.json.decode(rows[0][0], type=dict[str, str]) if rows else {}

    async def set_feed_incarnations(self, shard: int, epoch: int, streams: dict[str, str]) -> None:
        """Replace what `feed_incarnations` returns; does nothing at a stale epoch."""
        await self._on_ledger("set_feed_incarnations", shard, epoch, msgspec.json.encode(streams).decode())

    # -- the ledger ------------------------------------------------------------------------------
    async def append(self, append: Append) -> set[int]:
        """Append in one statement; return the shards whose epoch and head matched."""
        check_append(append)
        # Ascending: the order of the row locks, and the same in every process.
        shards = _columns(ShardAppend, sorted(append.shards, key=attrgetter("shard")))
        events = _columns(EventRecord, append.events)
        wakeups = _columns(Wakeup, {wakeup.task_id: wakeup for wakeup in append.wakeups}.values())
        check_columns(events[2], events[6], events[10])
        check_columns(wakeups[0], [at for at in wakeups[2] if at is not None])
        with translated():
            try:
                rows = await self._ledger.fetch(statement("append"), *shards, *events, *wakeups)
            except asyncpg.UniqueViolationError as error:
                if error.constraint_name == "events_version_key":
                    raise WrongExpectedVersion(
                        await self._streams_in_conflict(shards, events, error)
                    ) from error
                # The head matched and yet the position is taken: the shard's row is behind its events.
                raise EventStoreError(
                    f"the ledger is damaged, run `stepweave audit verify`: {error.detail or error}"
                ) from error
        return {row[0] for row in rows}

    async def _streams_in_conflict(
        self,
        shards: Sequence[Sequence[Any]],
        events: Sequence[Sequence[Any]],
        error: asyncpg.UniqueViolationError,
    ) -> Sequence[str]:
        """Every stream of a refused append that is in conflict; the error itself names only one."""
        try:
            rows = await self._on_pool(
                "conflicting_streams", events[0], events[2], events[3], shards[0], shards[1], shards[2]
            )
        except EventStoreError:
            rows = []
        named = stream_in_conflict(error)
        return sorted({*(row[0] for row in rows), *([named] if named else [])}) or sorted(set(events[2]))

    async def read_stream(
        self, task_id: str, *, from_version: int = 1, to_version: int | None = None, limit: int = 100_000
    ) -> list[EventRecord]:
        """The events of one stream in order of version, both bounds included."""
        check_limit(limit)
        if not is_uuid(task_id):
            return []
        to_version = INT_MAX if to_version is None else to_version
        rows = await self._on_pool(
            "read_stream", task_id, min(INT_MAX, from_version), min(INT_MAX, to_version), limit
        )
        return [EventRecord(*row) for row in rows]

    async def last_version(self, task_id: str) -> int:
        """The version of a stream's newest event; 0 for an unknown one."""
        if not is_uuid(task_id):
            return 0
        [row] = await self._on_pool("last_version", task_id)
        return int(row[0])

    async def read_streams(self, task_ids: Sequence[str]) -> dict[str, list[EventRecord]]:
        """The whole streams of several tasks in one round trip; absent ones are left out."""
        streams: dict[str, list[EventRecord]] = {}
        wanted = [task_id for task_id in task_ids if is_uuid(task_id)]
        for row in await self._on_pool("read_streams", wanted) if wanted else ():
            event = EventRecord(*row)
            streams.setdefault(event.task_id, []).append(event)
        return streams

    async def read_shard(
        self, shard: int, *, after_position: int = 0, limit: int = 1_000
    ) -> list[EventRecord]:
        """The events of one shard in order of position, those after `after_position`."""
        check_limit(limit)
        return [EventRecord(*row) for row in await self._on_pool("read_shard", shard, after_position, limit)]

    async def locate(self, keys: Sequence[EventKey]) -> dict[EventKey, tuple[int, int]]:
        """Where single events stand: their `(shard, position)`."""
        wanted = [(task_id, version) for task_id, version in keys if is_uuid(task_id)]
        if not wanted:
            return {}
        task_ids, versions = zip(*wanted, strict=True)
        rows = await self._on_pool("locate", task_ids, versions)
        return {(row[0], row[1]): (row[2], row[3]) for row in rows}

    async def wakeups(self, shard: int) -> list[Wakeup]:
        """Every wake-up of the shard, the earliest first."""
        return [Wakeup(*row) for row in await self._on_pool("wakeups", shard)]

    # -- snapshots -------------------------------------------------------------------------------
    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot where it is newer than the one kept."""
        await self._on_pool(
            "save_snapshot", snapshot.task_id, snapshot.format, snapshot.version, snapshot.state
        )

    async def load_snapshot(
        self, task_id: str, *, format: int, to_version: int | None = None
    ) -> Snapshot | None:
        """The snapshot of that format, if there is one (and its version is at most `to_version`)."""
        if not is_uuid(task_id):
            return None
        to_version = INT_MAX if to_version is None else to_version
        rows = await self._on_pool("load_snapshot", task_id, format, min(INT_MAX, to_version))
        return Snapshot(*rows[0]) if rows else None

    # -- projections -----------------------------------------------------------------------------
    async def project(
        self,
        *,
        shard: int,
        position: int,
        tasks: Sequence[TaskRow] = (),
        templates: Sequence[TemplateRow] = (),
        streams: Sequence[StreamRow] = (),
        dead_letters: Sequence[DeadLetterRow] = (),
    ) -> None:
        """Upsert rows (never with an older version) and move the shard's checkpoint to `position`."""
        if streams:
            await self._on_pool("project_streams", encode_rows(newest_rows(streams)))
        if dead_letters:
            await self._on_pool(
                "project_dead_letters",
                encode_rows(newest_rows(dead_letters)),
                PRIORITY_POINT_MS,
                LETTERS_PER_TASK_MAX,
            )
        latest = {(row.namespace, row.name, row.version): row for row in templates}
        await self._on_pool(
            "project", shard, position, encode_rows(newest_rows(tasks)), encode_rows(list(latest.values()))
        )

    async def projected_position(self, shard: int) -> int:
        """The checkpoint of the shard's projections; 0 where there is none."""
        rows = await self._on_pool("projected_position", shard)
        return int(rows[0][0]) if rows else 0

    async def reset_projections(self, shard: int | None = None) -> None:
        """Empty the projections of a shard (or of all) and set the checkpoint to 0, for a rebuild."""
        patient = Sessions(self._dsn, size_max=1, timeout_seconds=_RESET_TIMEOUT_SECONDS, settings={})
        try:
            with translated():
                if shard is None:
                    await patient.fetch(statement("reset_projections"))
                else:
                    await patient.fetch(statement("reset_shard_projections"), shard)
        finally:
            await patient.close()

    async def list_tasks(self, filter: TaskFilter) -> tuple[list[TaskRow], int]:
        """One page of tasks, newest first, and how many match in all."""
        check_page(filter)
        conditions = (
            filter.namespace,
            filter.name,
            filter.statuses,
            filter.initiator,
            filter.source_system,
            filter.tag,
            filter.correlation_id,
            filter.template_version,
            filter.created_from_ms,
            filter.created_before_ms,
        )
        try:
            after_ms, after_id = filter.after or (None, None)
            rows = await self._on_pool(
                "list_tasks", *conditions, filter.limit, filter.offset, after_ms, after_id
            )
        except UnstorableEvent:  # What cannot be stored is not found.
            return [], 0
        page = [task_row(row) for row in rows]
        if filter.after is not None:
            return page, len(page)
        if len(page) < filter.limit and (page or filter.offset == 0):
            return page, filter.offset + len(page)
        [total] = await self._on_pool("count_tasks", *conditions)
        return page, int(total[0])

    async def unfinished_tasks(self, shard: int) -> list[str]:
        """Ids of the shard's tasks that the projection does not show as finished, the oldest first."""
        return [row[0] for row in await self._on_pool("unfinished_tasks", shard)]

    async def list_templates(self, namespace: str | None = None) -> list[TemplateRow]:
        """All template versions, ordered by namespace, name and registration."""
        try:
            return [template_row(row) for row in await self._on_pool("list_templates", namespace)]
        except UnstorableEvent:  # What cannot be stored is not found.
            return []

    async def list_streams(self, filter: StreamFilter) -> list[StreamRow]:
        """One page of the system's own streams of one kind, in order of namespace, name and id or of their last change."""
        check_page(filter)
        asked = (filter.kind, filter.namespace, filter.name, filter.statuses, filter.limit, filter.offset)
        try:
            if filter.latest_first:
                rows = await self._on_pool("list_latest_streams", *asked)
            else:
                rows = await self._on_pool("list_streams", *asked)
        except UnstorableEvent:  # What cannot be stored is not found.
            return []
        return [stream_row(row) for row in rows]

    async def open_streams(self, shard: int) -> list[str]:
        """Ids of the shard's system streams that are shown as open."""
        return [row[0] for row in await self._on_pool("open_streams", shard)]

    async def list_dead_letters(self, filter: DeadLetterFilter) -> tuple[list[DeadLetterRow], int]:
        """One page of dead letters, and how many match in all."""
        check_page(filter)
        if filter.letter_id is not None and not is_uuid(filter.letter_id):
            return [], 0
        conditions = (
            filter.letter_id,
            filter.namespace,
            filter.name,
            filter.reasons,
            filter.resolution_statuses,
            filter.is_listed,
            filter.is_open,
        )
        try:
            rows = await self._on_pool(
                "list_dead_letters", *conditions, filter.order == "queue", filter.limit, filter.offset
            )
        except UnstorableEvent:  # What cannot be stored is not found.
            return [], 0
        page = [dead_letter_row(row) for row in rows]
        if len(page) < filter.limit and (page or filter.offset == 0):
            return page, filter.offset + len(page)
        [total] = await self._on_pool("count_matching_dead_letters", *conditions)
        return page, int(total[0])

    async def count_dead_letters(self, namespace: str | None = None) -> list[DeadLetterCount]:
        """How many listed letters there are of each kind, the most frequent kinds first."""
        try:
            rows = await self._on_pool("count_dead_letters", namespace, DEAD_LETTER_KINDS_MAX)
        except UnstorableEvent:  # What cannot be stored is not found.
            return []
        names = DeadLetterCount.__struct_fields__
        return [DeadLetterCount(**dict(zip(names, row, strict=True))) for row in rows]

    async def standing_tasks(
        self, shards: Sequence[int], *, before_ms: int, after: StandingTask | None = None, limit: int = 100
    ) -> list[StandingTask]:
        """Tasks with steps at workers, the oldest first; `is_still`: unchanged since `before_ms`."""
        check_limit(limit)
        after_ms, after_id = (None, None) if after is None else (after.created_at_ms, after.task_id)
        rows = await self._on_pool("standing_tasks", list(shards), before_ms, after_ms, after_id, limit)
        return [StandingTask(*row) for row in rows]

    async def count_missing_handlers(self, namespace: str | None = None) -> list[MissingHandlerCount]:
        """The handlers that open dead letters name as missing, the most frequent first."""
        try:
            rows = await self._on_pool("count_missing_handlers", namespace, MISSING_HANDLERS_MAX)
        except UnstorableEvent:  # What cannot be stored is not found.
            return []
        return [MissingHandlerCount(*row) for row in rows]

    async def held_steps(self) -> dict[str, int]:
        """How many steps wait before gates, by namespace."""
        return {row[0]: int(row[1]) for row in await self._on_pool("held_steps", GATE_KINDS)}

    async def size_bytes(self) -> int:
        """The size of the database; neither its write-ahead log nor what is free on its disk can be asked for."""
        return int((await self._on_pool("size"))[0][0])

    async def walk(self, shard: int, *, batch_size: int = 5_000) -> AsyncIterator[EventRecord]:
        """Every event of the shard in order of position."""
        check_limit(batch_size)
        position = 0
        while batch := await self._on_pool("walk_shard", shard, position, batch_size, _WALK_BYTES_MAX):
            for row in batch:
                event = EventRecord(*row)
                position = event.position
                yield event


def _columns(kind: type[msgspec.Struct], rows: Collection[msgspec.Struct]) -> Sequence[Sequence[Any]]:
    """The fields of the rows, column by column, in the order of the struct's fields."""
    if not rows:
        return [()] * len(kind.__struct_fields__)
    return list(zip(*map(msgspec.structs.astuple, rows), strict=True))


def _held(
    epochs: dict[int, int], published: dict[int, int]
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Three columns, in ascending order of shard: shard, epoch, published position (0 where not named)."""
    shards = sorted(epochs)
    return shards, [epochs[shard] for shard in shards], [published.get(shard, 0) for shard in shards]
