"""The event store in memory: for tests and for the test kit. It keeps the same promises, but for durability.

Nothing here awaits, so every call is atomic within one event loop.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NoReturn

from stepweave_schemas.identity import is_uuid
from stepweave_schemas.mint import now_ms

from .checks import (
    INT_MAX,
    UNSTORABLE_CHARACTER,
    check_append,
    check_columns,
    check_limit,
    check_page,
    check_shard_count,
)
from .projection_rows import newest_rows, storable
from .store import (
    DEAD_LETTER_KINDS_MAX,
    FINISHED_STATUSES,
    GATE_KINDS,
    GENESIS_HASH,
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
    MissingHandlerCount,
    ShardRow,
    Snapshot,
    StandingTask,
    StoreUnavailable,
    StreamFilter,
    StreamRow,
    TaskFilter,
    TaskRow,
    TemplateRow,
    UnstorableEvent,
    Wakeup,
    WrongExpectedVersion,
)

_SMALLINT_MAX: Final = 2**15 - 1


class _Shard:
    """One ledger."""

    def __init__(self) -> None:
        self.epoch = 0
        self.owner = ""
        self.lease_until_ms = 0
        self.published_position = 0
        self.head_hash = GENESIS_HASH
        #: The event at position n is at index n - 1.
        self.events: list[EventRecord] = []
        self.feed_incarnations: dict[str, str] = {}

    def publish_to(self, position: int) -> None:
        if position > len(self.events):
            raise ValueError("the published position lies beyond the head of its shard")
        self.published_position = max(self.published_position, position)


class MemoryEventStore(EventStore):
    """An event store that is gone with the process. `clock` gives the milliseconds that leases count in."""

    def __init__(self, *, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._closed = False
        self._shards: dict[int, _Shard] = {}
        self._streams: dict[str, list[EventRecord]] = {}
        self._events: dict[EventKey, EventRecord] = {}
        self._wakeups: dict[str, Wakeup] = {}
        self._alive_until_ms: dict[str, int] = {}
        self._snapshots: dict[tuple[str, int], Snapshot] = {}
        self._checkpoints: dict[int, int] = {}
        self._tasks: dict[str, TaskRow] = {}
        self._templates: dict[tuple[str, str, str], tuple[int, TemplateRow]] = {}
        self._stream_rows: dict[str, StreamRow] = {}
        self._letters: dict[str, DeadLetterRow] = {}

    async def close(self) -> None:
        """Refuse every further call. Idempotent."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    # -- installation and shards -----------------------------------------------------------------
    async def initialise(self, shard_count: int) -> int:
        """Create the shards of a new installation; return the shard count that is in force."""
        self._check_open()
        check_shard_count(shard_count)
        if not self._shards:
            self._shards = {shard: _Shard() for shard in range(shard_count)}
        return len(self._shards)

    def _row(self, number: int) -> ShardRow:
        shard = self._shards[number]
        return ShardRow(
            number,
            shard.epoch,
            shard.owner,
            shard.lease_until_ms - self._clock(),
            len(shard.events),
            shard.head_hash,
            shard.published_position,
        )

    async def acquire_shards(self, owner: str, shards: Sequence[int], lease_ms: int) -> list[ShardRow]:
        """Take those of `shards` that are free; each gets a new epoch."""
        self._check_open()
        taken = []
        for number in sorted(self._shards.keys() & set(shards)):
            shard = self._shards[number]
            if shard.owner == "" or shard.lease_until_ms <= self._clock():
                shard.epoch += 1
                shard.owner = owner
                shard.lease_until_ms = self._clock() + lease_ms
                taken.append(self._row(number))
        return taken

    def _held(self, owner: str, epochs: dict[int, int], published: dict[int, int]) -> dict[int, _Shard]:
        """The shards that `owner` holds at these epochs, with their published positions moved."""
        self._check_open()
        held = {
            number: shard
            for number, epoch in epochs.items()
            if (shard := self._shards.get(number)) and (shard.owner, shard.epoch) == (owner, epoch)
        }
        for number, shard in held.items():
            shard.publish_to(published.get(number, 0))
        return held

    async def renew_shards(
        self, owner: str, epochs: dict[int, int], lease_ms: int, published: dict[int, int]
    ) -> set[int]:
        """Extend the leases of shards still held at these epochs; return those extended."""
        held = self._held(owner, epochs, published)
        for shard in held.values():
            shard.lease_until_ms = self._clock() + lease_ms
        return set(held)

    async def release_shards(self, owner: str, epochs: dict[int, int], published: dict[int, int]) -> None:
        """Give up shards at once."""
        for shard in self._held(owner, epochs, published).values():
            shard.epoch += 1
            shard.owner = ""
            shard.lease_until_ms = self._clock()

    async def shards(self) -> list[ShardRow]:
        """All shard rows, ordered by shard."""
        self._check_open()
        return [self._row(number) for number in self._shards]

    async def beat(self, owner: str, lease_ms: int) -> list[str]:
        """Announce a live orchestrator process; return all that are alive, sorted."""
        self._check_open()
        self._alive_until_ms[owner] = self._clock() + lease_ms
        self._alive_until_ms = {
            name: until
            for name, until in self._alive_until_ms.items()
            if until > self._clock() or name == owner
        }
        return sorted(self._alive_until_ms)

    async def retire(self, owner: str) -> None:
        """Remove an orchestrator process from the list of live ones."""
        self._check_open()
        self._alive_until_ms.pop(owner, None)

    async def feed_incarnations(self, shard: int) -> dict[str, str]:
        """The JetStream streams that this shard was last published to."""
        self._check_open()
        return dict(self._shards[shard].feed_incarnations) if shard in self._shards else {}

    async def set_feed_incarnations(self, shard: int, epoch: int, streams: dict[str, str]) -> None:
        """Replace what `feed_incarnations` returns; does nothing at a stale epoch."""
        self._check_open()
        kept = self._shards.get(shard)
        if kept is not None and kept.epoch == epoch:
            kept.feed_incarnations = dict(streams)

    # -- the ledger ------------------------------------------------------------------------------
    async def append(self, append: Append) -> set[int]:
        """Append; return the shards whose epoch and head matched."""
        self._check_open()
        check_append(append)
        for event in append.events:
            _check_storable(event)
        check_columns(
            [event.task_id for event in append.events] + [wakeup.task_id for wakeup in append.wakeups],
            [event.recorded_at_ms for event in append.events]
            + [wakeup.wake_at_ms for wakeup in append.wakeups if wakeup.wake_at_ms is not None],
            [event.data for event in append.events],
        )
        moved = {
            wanted.shard
            for wanted in append.shards
            if (shard := self._shards.get(wanted.shard))
            and (shard.epoch, len(shard.events)) == (wanted.epoch, wanted.expected_position)
        }
        events = [event for event in append.events if event.shard in moved]
        self._check_versions(events)
        for event in events:
            self._shards[event.shard].events.append(event)
            self._events[event.task_id, event.version] = event
            insort(self._streams.setdefault(event.task_id, []), event, key=_version)
        for wanted in append.shards:
            if wanted.shard in moved:
                self._shards[wanted.shard].head_hash = wanted.new_hash
                self._shards[wanted.shard].publish_to(wanted.published_position)
        for wakeup in append.wakeups:
            if wakeup.shard in moved:
                if wakeup.wake_at_ms is None:
                    self._wakeups.pop(wakeup.task_id, None)
                else:
                    self._wakeups[wakeup.task_id] = wakeup
        return moved

    def _check_versions(self, events: Sequence[EventRecord]) -> None:
        new: set[EventKey] = set()
        conflicts: set[str] = set()
        for event in events:
            key = (event.task_id, event.version)
            if key in new or key in self._events:
                conflicts.add(event.task_id)
            new.add(key)
        if conflicts:
            raise WrongExpectedVersion(sorted(conflicts))

    async def read_stream(
        self, task_id: str, *, from_version: int = 1, to_version: int | None = None, limit: int = 100_000
    ) -> list[EventRecord]:
        """The events of one stream in order of version, both bounds included."""
        self._check_open()
        check_limit(limit)
        stream = self._streams.get(task_id, [])
        first = bisect_left(stream, from_version, key=_version)
        last = bisect_right(stream, INT_MAX if to_version is None else to_version, key=_version)
        return stream[first : min(last, first + limit)]

    async def last_version(self, task_id: str) -> int:
        """The version of a stream's newest event; 0 for an unknown one."""
        self._check_open()
        stream = self._streams.get(task_id)
        return stream[-1].version if stream else 0

    async def read_streams(self, task_ids: Sequence[str]) -> dict[str, list[EventRecord]]:
        """The whole streams of several tasks; absent ones are left out."""
        self._check_open()
        return {task_id: list(self._streams[task_id]) for task_id in task_ids if task_id in self._streams}

    async def read_shard(
        self, shard: int, *, after_position: int = 0, limit: int = 1_000
    ) -> list[EventRecord]:
        """The events of one shard in order of position, those after `after_position`."""
        self._check_open()
        check_limit(limit)
        events = self._shards[shard].events if shard in self._shards else []
        return events[max(0, after_position) : max(0, after_position) + limit]

    async def locate(self, keys: Sequence[EventKey]) -> dict[EventKey, tuple[int, int]]:
        """Where single events stand: their `(shard, position)`."""
        self._check_open()
        return {key: (event.shard, event.position) for key in keys if (event := self._events.get(key))}

    async def wakeups(self, shard: int) -> list[Wakeup]:
        """Every wake-up of the shard, the earliest first."""
        self._check_open()
        found = [wakeup for wakeup in self._wakeups.values() if wakeup.shard == shard]
        return sorted(found, key=lambda wakeup: (wakeup.wake_at_ms or 0, wakeup.task_id))

    # -- snapshots -------------------------------------------------------------------------------
    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot where it is newer than the one kept."""
        self._check_open()
        if not is_uuid(snapshot.task_id):
            raise UnstorableEvent(f"{snapshot.task_id!r} is not a task id")
        key = (snapshot.task_id, snapshot.format)
        kept = self._snapshots.get(key)
        if kept is None or kept.version < snapshot.version:
            self._snapshots[key] = snapshot

    async def load_snapshot(
        self, task_id: str, *, format: int, to_version: int | None = None
    ) -> Snapshot | None:
        """The snapshot of that format, if there is one (and its version is at most `to_version`)."""
        self._check_open()
        kept = self._snapshots.get((task_id, format))
        return None if kept is None or (to_version is not None and kept.version > to_version) else kept

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
        self._check_open()
        for task in newest_rows(tasks):
            kept = self._tasks.get(task.task_id)
            if kept is None or kept.version <= task.version:
                self._tasks[task.task_id] = storable(task)
        for template in map(storable, templates):
            self._templates[template.namespace, template.name, template.version] = (shard, template)
        for stream in newest_rows(streams):
            shown = self._stream_rows.get(stream.stream_id)
            if shown is None or shown.version <= stream.version:
                self._stream_rows[stream.stream_id] = storable(stream)
        for letter in newest_rows(dead_letters):
            known = self._letters.get(letter.letter_id)
            if known is None or known.version <= letter.version:
                self._letters[letter.letter_id] = storable(letter)
                last = letter.number - LETTERS_PER_TASK_MAX
                self._letters = {
                    key: one
                    for key, one in self._letters.items()
                    if one.task_id != letter.task_id or one.number > last
                }
        self._checkpoints[shard] = max(self._checkpoints.get(shard, 0), position)

    async def projected_position(self, shard: int) -> int:
        """The checkpoint of the shard's projections; 0 where there is none."""
        self._check_open()
        return self._checkpoints.get(shard, 0)

    async def reset_projections(self, shard: int | None = None) -> None:
        """Empty the projections of a shard (or of all) and set the checkpoint to 0, for a rebuild."""
        self._check_open()
        if shard is None:
            self._tasks, self._templates, self._stream_rows, self._checkpoints = {}, {}, {}, {}
            self._letters = {}
            return
        self._letters = {key: row for key, row in self._letters.items() if row.shard != shard}
        self._tasks = {key: row for key, row in self._tasks.items() if row.shard != shard}
        self._templates = {key: row for key, row in self._templates.items() if row[0] != shard}
        self._stream_rows = {key: row for key, row in self._stream_rows.items() if row.shard != shard}
        self._checkpoints.pop(shard, None)

    async def list_tasks(self, filter: TaskFilter) -> tuple[list[TaskRow], int]:
        """One page of tasks, newest first, and how many match in all."""
        self._check_open()
        check_page(filter)
        found = [row for row in self._tasks.values() if _matches(row, filter)]
        found.sort(key=lambda row: (row.created_at_ms, row.task_id), reverse=True)
        if filter.after is not None:
            found = [row for row in found if (row.created_at_ms, row.task_id) < filter.after]
        page = found[filter.offset : filter.offset + filter.limit]
        return page, len(found) if filter.after is None else len(page)

    async def unfinished_tasks(self, shard: int) -> list[str]:
        """Ids of the shard's tasks that the projection does not show as finished, the oldest first."""
        self._check_open()
        found = [
            row for row in self._tasks.values() if row.shard == shard and row.status not in FINISHED_STATUSES
        ]
        return [row.task_id for row in sorted(found, key=lambda row: (row.created_at_ms, row.task_id))]

    async def list_templates(self, namespace: str | None = None) -> list[TemplateRow]:
        """All template versions, ordered by namespace, name and registration."""
        self._check_open()
        found = [row for _, row in self._templates.values() if namespace in (None, row.namespace)]
        return sorted(found, key=lambda row: (row.namespace, row.name, row.registered_at_ms, row.version))

    async def list_streams(self, filter: StreamFilter) -> list[StreamRow]:
        """One page of the system's own streams of one kind, in order of namespace, name and id or of their last change."""
        self._check_open()
        check_page(filter)
        found = [
            row
            for row in self._stream_rows.values()
            if row.kind == filter.kind
            and filter.namespace in (None, row.namespace)
            and filter.name in (None, row.name)
            and (not filter.statuses or row.status in filter.statuses)
        ]
        found.sort(key=lambda row: (row.namespace[:200], row.name[:200], row.stream_id))
        if filter.latest_first:
            found.sort(key=lambda row: (-row.updated_at_ms, row.stream_id))
        return found[filter.offset : filter.offset + filter.limit]

    async def open_streams(self, shard: int) -> list[str]:
        """Ids of the shard's system streams that are shown as open."""
        self._check_open()
        return sorted(
            row.stream_id for row in self._stream_rows.values() if row.shard == shard and row.is_open
        )

    async def list_dead_letters(self, filter: DeadLetterFilter) -> tuple[list[DeadLetterRow], int]:
        """One page of dead letters, and how many match in all."""
        self._check_open()
        check_page(filter)
        found = [row for row in self._letters.values() if _letter_matches(row, filter)]
        if filter.order == "queue":
            found.sort(key=lambda row: (row.opened_at_ms - row.priority * PRIORITY_POINT_MS, row.letter_id))
        else:
            found.sort(key=lambda row: (row.opened_at_ms, row.letter_id), reverse=True)
        return found[filter.offset : filter.offset + filter.limit], len(found)

    async def count_dead_letters(self, namespace: str | None = None) -> list[DeadLetterCount]:
        """How many listed letters there are of each kind, the most frequent kinds first."""
        self._check_open()
        kinds: dict[tuple[str, str, str, str], list[DeadLetterRow]] = {}
        for row in self._letters.values():
            if row.is_listed and namespace in (None, row.namespace):
                kind = (row.namespace, row.name, row.reason, row.resolution_status)
                kinds.setdefault(kind, []).append(row)
        ordered = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
        return [_letter_count(kind, rows) for kind, rows in ordered[:DEAD_LETTER_KINDS_MAX]]

    async def standing_tasks(
        self, shards: Sequence[int], *, before_ms: int, after: StandingTask | None = None, limit: int = 100
    ) -> list[StandingTask]:
        """Tasks with steps at workers, the oldest first; `is_still`: unchanged since `before_ms`."""
        self._check_open()
        check_limit(limit)
        missing = {
            row.task_id: _missing_handlers(row)
            for row in sorted(self._letters.values(), key=lambda row: row.number)
            if row.is_open
        }
        found = [
            StandingTask(
                row.task_id,
                row.shard,
                row.created_at_ms,
                row.namespace,
                row.name,
                row.template_version,
                row.status,
                row.updated_at_ms < before_ms,
                missing.get(row.task_id, []),
            )
            for row in self._tasks.values()
            if row.status in ("steps_in_process", "compensating") and row.shard in shards
        ]
        found.sort(key=lambda one: (one.created_at_ms, one.task_id))
        if after is not None:
            first = (after.created_at_ms, after.task_id)
            found = [one for one in found if (one.created_at_ms, one.task_id) > first]
        return found[:limit]

    async def count_missing_handlers(self, namespace: str | None = None) -> list[MissingHandlerCount]:
        """The handlers that open dead letters name as missing, the most frequent first."""
        self._check_open()
        opened: dict[tuple[str, str], list[int]] = {}
        for row in self._letters.values():
            if row.is_open and namespace in (None, row.namespace):
                for handler in _missing_handlers(row):
                    opened.setdefault((row.namespace, handler), []).append(row.opened_at_ms)
        ordered = sorted(opened.items(), key=lambda item: (-len(item[1]), item[0]))
        return [
            MissingHandlerCount(*place, len(times), min(times))
            for place, times in ordered[:MISSING_HANDLERS_MAX]
        ]

    async def held_steps(self) -> dict[str, int]:
        """How many steps wait before gates, by namespace."""
        self._check_open()
        held: dict[str, int] = {}
        for row in self._stream_rows.values():
            if row.kind not in GATE_KINDS or not row.is_open:
                continue
            waiting = json.loads(bytes(row.summary)).get("waiting", 0)
            if waiting:
                held[row.namespace] = held.get(row.namespace, 0) + waiting
        return held

    async def size_bytes(self) -> int:
        """The payloads of the events."""
        self._check_open()
        return sum(len(event.data.encode()) for stream in self._streams.values() for event in stream)

    async def walk(self, shard: int, *, batch_size: int = 5_000) -> AsyncIterator[EventRecord]:
        """Every event of the shard in order of position."""
        check_limit(batch_size)
        position = 0
        while batch := await self.read_shard(shard, after_position=position, limit=batch_size):
            for event in batch:
                yield event
            position = batch[-1].position


def _version(event: EventRecord) -> int:
    return event.version


def _matches(row: TaskRow, filter: TaskFilter) -> bool:
    return (
        filter.namespace in (None, row.namespace)
        and filter.name in (None, row.name)
        and (not filter.statuses or row.status in filter.statuses)
        and filter.initiator in (None, row.initiator)
        and filter.source_system in (None, row.source_system)
        and (filter.tag is None or filter.tag in row.tags)
        and filter.correlation_id in (None, row.correlation_id)
        and filter.template_version in (None, row.template_version)
        and (filter.created_from_ms is None or row.created_at_ms >= filter.created_from_ms)
        and (filter.created_before_ms is None or row.created_at_ms < filter.created_before_ms)
    )


def _missing_handlers(row: DeadLetterRow) -> list[str]:
    found: list[str] = json.loads(bytes(row.summary)).get("missing_handlers", [])
    return found


def _letter_matches(row: DeadLetterRow, filter: DeadLetterFilter) -> bool:
    return (
        filter.letter_id in (None, row.letter_id)
        and filter.namespace in (None, row.namespace)
        and filter.name in (None, row.name)
        and (not filter.reasons or row.reason in filter.reasons)
        and (not filter.resolution_statuses or row.resolution_status in filter.resolution_statuses)
        and filter.is_listed in (None, row.is_listed)
        and filter.is_open in (None, row.is_open)
    )


def _letter_count(kind: tuple[str, str, str, str], rows: list[DeadLetterRow]) -> DeadLetterCount:
    open_since = [row.opened_at_ms for row in rows if row.is_open]
    return DeadLetterCount(
        namespace=kind[0],
        name=kind[1],
        reason=kind[2],
        resolution_status=kind[3],
        count=len(rows),
        open_count=len(open_since),
        oldest_open_at_ms=min(open_since, default=None),
        resolved_after_ms=sum(
            row.resolved_at_ms - row.opened_at_ms for row in rows if row.resolved_at_ms is not None
        ),
    )


def _check_storable(event: EventRecord) -> None:
    """Refuse what PostgreSQL's columns would refuse."""
    for text in (event.type, event.correlation_id, event.causation_id, event.actor):
        if UNSTORABLE_CHARACTER.search(text):
            raise UnstorableEvent("a text holds NUL or half a surrogate pair")
    if not 1 <= event.version <= INT_MAX or not -_SMALLINT_MAX <= event.schema_version <= _SMALLINT_MAX:
        raise UnstorableEvent("a version does not fit its column")
    try:
        event.data.encode()
        json.loads(event.data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UnstorableEvent(f"the data is not JSON that can be stored: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
