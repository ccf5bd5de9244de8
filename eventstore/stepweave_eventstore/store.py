"""The seam between the ledger and the databases that can hold it.

Every implementation passes the same conformance suite (`tests/store`). The rules:

- A *shard* is a ledger with one writer. Its row carries the fencing `epoch`, the head position, the head
  hash and how far its events have been published.
- An append names, for each shard, the epoch and the head position that the writer believes in. A shard where
  either does not match appends nothing; the other shards of the same call are not affected.
- Positions are dense and gap-free within a shard; versions are dense within a task's stream.
- Events are never changed and never deleted.
- A call that contradicts itself (positions that do not follow the expected one, a limit out of range) is a
  mistake of the program and raises `ValueError`; nothing is sent to the database.

**When the outcome is unknown.** `StoreUnavailable` from `append` says that no answer came, not that nothing
was stored. Read the shard's row (`shards`): at `new_position` with `new_hash` the append is stored. At
`expected_position` it is not stored *yet* – the statement may still be running in the server, for as long as
the server's statement time-out. What settles it is the next append from that position, the same one again or
one decided anew: of all that are sent for a position exactly one is stored, and the others find that the head
has moved. So where that next append is answered without the shard and the epoch is still the writer's, the
first one was stored after all. Taking the shard over settles it too: the new epoch shuts the old statement
out. What a read alone never allows is to tell somebody that the append failed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Literal, Protocol

import msgspec

_EMPTY_OBJECT = msgspec.Raw(b"{}")

#: The `head_hash` of a ledger without events.
GENESIS_HASH = bytes(32)

#: Statuses of the `tasks` projection that a task does not leave; `unfinished_tasks` leaves them out.
FINISHED_STATUSES = frozenset({"complete", "error", "cancelled", "resolved_manually"})

#: The largest `limit` of `list_tasks` and `list_streams`.
LIST_LIMIT_MAX = 1_000

#: The largest number of shards of an installation.
SHARD_COUNT_MAX = 4_096


class EventStoreError(Exception):
    """Base of every error that a store raises on purpose."""


class StoreUnavailable(EventStoreError):
    """The database could not be reached or did not answer in time; nothing is known about the outcome.

    Calling again later is right for everything but `append`; for that see the module's text.
    """


class WrongExpectedVersion(EventStoreError):
    """A stream already holds one of the versions to append. Nothing of the call was stored.

    `task_ids` names the streams in conflict, as far as the database told them (never empty).
    """

    def __init__(self, task_ids: Sequence[str]) -> None:
        super().__init__(f"streams already hold these versions: {', '.join(task_ids)}")
        self.task_ids = tuple(task_ids)


class UnstorableEvent(EventStoreError):
    """The database refused the content of the call (invalid text, too large …). Nothing was stored.

    Sending the same again will be refused again. Refused are: a NUL character or half a surrogate pair in a
    text column, `data` that is not JSON, is nested too deeply or is too large, a `task_id` that is not a UUID
    in canonical form, a number that does not fit its column.
    """


class EventRecord(msgspec.Struct, frozen=True, gc=False):  # texts and numbers: nothing for the gc to follow
    """One event as it stands in the ledger.

    `data` is the exact JSON text of the event's payload; `hash` covers it (see `hash_chain`).
    `recorded_at_ms` counts milliseconds since the Unix epoch, UTC.
    """

    shard: int
    position: int
    task_id: str
    version: int
    type: str
    schema_version: int
    recorded_at_ms: int
    correlation_id: str
    causation_id: str
    actor: str
    data: str
    hash: bytes


#: `(task_id, version)`: the name of one event.
EventKey = tuple[str, int]


class ShardAppend(msgspec.Struct, frozen=True):
    """What an append expects of one shard and what it leaves behind."""

    shard: int
    epoch: int
    expected_position: int
    new_position: int
    new_hash: bytes
    #: Up to where the shard is known to be published; the store keeps the larger value.
    published_position: int = 0


class Wakeup(msgspec.Struct, frozen=True):
    """The earliest moment at which a task wants to be woken; `None` clears it."""

    task_id: str
    shard: int
    wake_at_ms: int | None


class Append(msgspec.Struct, frozen=True):
    """One commit: the events of any number of shards, and the wake-ups that changed with them.

    Each shard is named once. Its events come in order of position, `expected_position + 1` to `new_position`
    without a gap (none where the two are equal); the last one's hash is `new_hash`. Events of different
    shards may be mixed. Wake-ups are of shards that the append names; of two for one task the later counts.
    """

    shards: Sequence[ShardAppend]
    events: Sequence[EventRecord]
    wakeups: Sequence[Wakeup] = ()


class ShardRow(msgspec.Struct, frozen=True):
    """One shard's row. `lease_remaining_ms` is by the database's clock; 0 or less means free to take.

    `owner` is empty while nobody holds the shard.
    """

    shard: int
    epoch: int
    owner: str
    lease_remaining_ms: int
    head_position: int
    head_hash: bytes
    published_position: int


class Snapshot(msgspec.Struct, frozen=True):
    """A task's state at `version`; disposable. `state` is opaque to the store."""

    task_id: str
    version: int
    format: int
    state: bytes


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the `tasks` projection: what lists and searches show."""

    task_id: str
    shard: int
    version: int
    namespace: str
    name: str
    template_version: str
    status: str
    priority: int
    initiator: str
    source_system: str
    reason: str
    tags: Sequence[str]
    correlation_id: str
    parent_correlation_id: str | None
    created_at_ms: int
    updated_at_ms: int
    completed_at_ms: int | None
    total_steps: int
    completed_steps: int
    failed_steps: int
    error_message: str | None = None


class TemplateRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the `templates` projection."""

    namespace: str
    name: str
    version: str
    hash: str
    description: str
    total_steps: int
    registered_at_ms: int
    registered_by: str


class StreamRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the `streams` projection: a stream of the system's own that is an actor."""

    stream_id: str
    shard: int
    version: int
    #: Such as `schedule`.
    kind: str
    namespace: str
    name: str
    status: str
    #: It may have something under way that the shard's next owner has to look after.
    is_open: bool
    updated_at_ms: int
    #: What lists show, as JSON; its shape is the kind's.
    summary: msgspec.Raw = _EMPTY_OBJECT


class DeadLetterRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the `dead_letters` projection: one time that a task was stuck."""

    letter_id: str
    task_id: str
    shard: int
    #: Of the task's stream, when the row was made.
    version: int
    #: Of the task's letters, counted from 1.
    number: int
    #: It lists in the dead letters; otherwise only among what is stale.
    is_listed: bool
    #: Nobody has resolved it, and the task is still stuck.
    is_open: bool
    namespace: str
    name: str
    #: `failures`, `staleness` or `handler_missing`.
    reason: str
    resolution_status: str
    priority: int
    opened_at_ms: int
    resolved_at_ms: int | None
    #: What lists show besides, as JSON.
    summary: msgspec.Raw = _EMPTY_OBJECT


#: A task keeps its last letters; the projection too.
LETTERS_PER_TASK_MAX = 20
#: In the investigation queue one point of a task's priority weighs as much as this age.
PRIORITY_POINT_MS = 3_600_000


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What `list_dead_letters` selects; absent fields do not restrict."""

    letter_id: str | None = None
    namespace: str | None = None
    name: str | None = None
    reasons: Sequence[str] = ()
    resolution_statuses: Sequence[str] = ()
    is_listed: bool | None = None
    is_open: bool | None = None
    #: `newest` first, or `queue`: by age and priority, the most urgent first (`PRIORITY_POINT_MS`).
    order: Literal["newest", "queue"] = "newest"
    #: 1 ≤ limit ≤ LIST_LIMIT_MAX
    limit: int = 50
    offset: int = 0


class DeadLetterCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many listed letters there are of one kind, and how old they are."""

    namespace: str
    name: str
    reason: str
    resolution_status: str
    count: int
    open_count: int
    #: When the oldest open one was opened.
    oldest_open_at_ms: int | None
    #: From the opening to the resolution of those that are resolved, in all (ms).
    resolved_after_ms: int


#: Kinds that `count_dead_letters` tells apart; the most frequent ones.
DEAD_LETTER_KINDS_MAX = 1_000


class StandingTask(msgspec.Struct, frozen=True):
    """A task that has steps with workers."""

    task_id: str
    shard: int
    created_at_ms: int
    namespace: str
    name: str
    template_version: str
    status: str
    #: It has not changed since the moment that was asked about.
    is_still: bool
    #: The handlers that its open dead letter names as missing.
    missing_handlers: Sequence[str] = ()


class MissingHandlerCount(msgspec.Struct, frozen=True):
    """How many tasks are known to wait for a handler that nobody serves, and since when."""

    namespace: str
    handler: str
    count: int
    #: When the oldest of their dead letters was opened.
    oldest_at_ms: int


#: Handlers that `count_missing_handlers` tells; those that most tasks wait for.
MISSING_HANDLERS_MAX = 1_000


#: The streams that steps of a task are held before; their summaries say how many are `waiting`.
GATE_KINDS: Final = ("slots", "circuit", "rate")


class StreamFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What `list_streams` selects; absent fields do not restrict. Ordered by namespace, name and id."""

    kind: str
    #: Instead those first that have changed last.
    latest_first: bool = False
    namespace: str | None = None
    name: str | None = None
    statuses: Sequence[str] = ()
    #: 1 ≤ limit ≤ LIST_LIMIT_MAX
    limit: int = 50
    offset: int = 0


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What `list_tasks` selects; absent fields do not restrict. Ordered by creation, newest first."""

    namespace: str | None = None
    name: str | None = None
    statuses: Sequence[str] = ()
    initiator: str | None = None
    source_system: str | None = None
    tag: str | None = None
    correlation_id: str | None = None
    #: The version of their template.
    template_version: str | None = None
    #: Created then or later, and before then (ms since the Unix epoch).
    created_from_ms: int | None = None
    created_before_ms: int | None = None
    #: Only tasks after this one in the order: its creation (ms) and its id. What matches in all is not
    #: counted then: the total is that of the page.
    after: tuple[int, str] | None = None
    #: 1 ≤ limit ≤ LIST_LIMIT_MAX
    limit: int = 50
    offset: int = 0


class EventStore(Protocol):
    """A database that holds the ledger. All methods raise `StoreUnavailable` when it cannot be reached."""

    async def close(self) -> None:
        """Release every connection. Idempotent."""

    # -- installation and shards -----------------------------------------------------------------
    async def initialise(self, shard_count: int) -> int:
        """Create the shard rows of a new installation; return the shard count that is in force.

        The count (1 to `SHARD_COUNT_MAX`) is fixed for life: a later call with another number returns the
        stored one. Any number of processes may call it at once.
        """

    async def acquire_shards(self, owner: str, shards: Sequence[int], lease_ms: int) -> list[ShardRow]:
        """Take those of `shards` whose lease has run out or that `owner` let go; each gets a new epoch.

        Returns the rows taken, as they stand after the take-over, ordered by shard. A shard still leased is
        skipped, also where `owner` itself holds it. The lease counts from the moment at which the database
        begins with the call, so an owner that counts from before its call never believes in it for too long.
        """

    async def renew_shards(
        self, owner: str, epochs: dict[int, int], lease_ms: int, published: dict[int, int]
    ) -> set[int]:
        """Extend the leases of shards (`{shard: epoch}`) still held at that epoch; return those extended.

        `published` moves `published_position` forward for the shards it names, fenced by the epoch given for
        them in `epochs` (without one it is ignored). A position beyond the head is a `ValueError`. A lease
        that ran out is extended too, as long as nobody took the shard.
        """

    async def release_shards(self, owner: str, epochs: dict[int, int], published: dict[int, int]) -> None:
        """Give up shards at once, so that another owner can take them without waiting.

        Releasing raises the epoch: whatever the old owner may still have under way stores nothing. Shards
        that `owner` does not hold at the epoch given are left alone.
        """

    async def shards(self) -> list[ShardRow]:
        """All shard rows, ordered by shard."""

    async def beat(self, owner: str, lease_ms: int) -> list[str]:
        """Announce a live orchestrator process; return the ids of all that live, its own too, sorted."""

    async def retire(self, owner: str) -> None:
        """Remove an orchestrator process from the list of live ones."""

    async def feed_incarnations(self, shard: int) -> dict[str, str]:
        """The JetStream streams (name → creation stamp) that this shard was last published to."""

    async def set_feed_incarnations(self, shard: int, epoch: int, streams: dict[str, str]) -> None:
        """Replace what `feed_incarnations` returns; does nothing at a stale epoch."""

    # -- the ledger ------------------------------------------------------------------------------
    async def append(self, append: Append) -> set[int]:
        """Append in one statement; return the shards whose epoch and head matched (the others: nothing).

        Raises `WrongExpectedVersion` where a stream already holds a version, `UnstorableEvent` where the
        database refuses the content; in both cases nothing at all is stored. After `StoreUnavailable` the
        outcome is unknown: see the module's text.
        """

    async def read_stream(
        self, task_id: str, *, from_version: int = 1, to_version: int | None = None, limit: int = 100_000
    ) -> list[EventRecord]:
        """The events of one stream in order of version, both bounds included; none for an unknown task."""

    async def last_version(self, task_id: str) -> int:
        """The version of a stream's newest event; 0 for an unknown one."""

    async def read_streams(self, task_ids: Sequence[str]) -> dict[str, list[EventRecord]]:
        """The whole streams of several tasks in one round trip; absent ones are left out."""

    async def read_shard(
        self, shard: int, *, after_position: int = 0, limit: int = 1_000
    ) -> list[EventRecord]:
        """The events of one shard in order of position, those after `after_position`."""

    async def locate(self, keys: Sequence[EventKey]) -> dict[EventKey, tuple[int, int]]:
        """Where single events stand: their `(shard, position)`; those that do not exist are left out."""

    async def wakeups(self, shard: int) -> list[Wakeup]:
        """Every wake-up of the shard."""

    # -- snapshots -------------------------------------------------------------------------------
    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot where it is newer than the one kept."""

    async def load_snapshot(
        self, task_id: str, *, format: int, to_version: int | None = None
    ) -> Snapshot | None:
        """The snapshot of that format, if there is one (and its version is at most `to_version`)."""

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
        """Upsert rows and move the shard's checkpoint forward to `position`, which is not moved before the rows are in.

        The row of a task, stream or dead letter is left alone where the one that is kept has a higher version, so a batch
        may be given again. Of a task's dead letters the last `LETTERS_PER_TASK_MAX` are kept. What a database's text cannot hold (NUL, half a surrogate pair) is kept as U+FFFD: the
        projection is for people and searches, the event has the exact text.
        """

    async def projected_position(self, shard: int) -> int:
        """The checkpoint of the shard's projections; 0 where there is none."""

    async def reset_projections(self, shard: int | None = None) -> None:
        """Empty the projections of a shard (or of all) and set the checkpoint to 0, for a rebuild.

        To be called while nothing projects the shard, or by who does: a projector that goes on from the
        position it remembers would move the checkpoint past rows that are gone.
        """

    async def list_tasks(self, filter: TaskFilter) -> tuple[list[TaskRow], int]:
        """One page of tasks, newest first, and how many match in all."""

    async def unfinished_tasks(self, shard: int) -> list[str]:
        """Ids of the shard's tasks that the projection does not show as finished (`FINISHED_STATUSES`)."""

    async def list_templates(self, namespace: str | None = None) -> list[TemplateRow]:
        """All template versions (of one namespace), ordered by namespace, name and registration."""

    async def list_streams(self, filter: StreamFilter) -> list[StreamRow]:
        """One page of the system's own streams of one kind."""

    async def open_streams(self, shard: int) -> list[str]:
        """Ids of the shard's system streams that are shown as open."""

    async def list_dead_letters(self, filter: DeadLetterFilter) -> tuple[list[DeadLetterRow], int]:
        """One page of dead letters, and how many match in all."""

    async def count_dead_letters(self, namespace: str | None = None) -> list[DeadLetterCount]:
        """How many listed letters there are of each kind, the most frequent `DEAD_LETTER_KINDS_MAX` kinds first."""

    async def count_missing_handlers(self, namespace: str | None = None) -> list[MissingHandlerCount]:
        """The handlers that open dead letters name as missing, the most frequent `MISSING_HANDLERS_MAX` first."""

    async def standing_tasks(
        self, shards: Sequence[int], *, before_ms: int, after: StandingTask | None = None, limit: int = 100
    ) -> list[StandingTask]:
        """Tasks of these shards that have steps with workers, the oldest first; `is_still`: unchanged since `before_ms`.

        `after`: those behind this one, in the same order.
        """

    async def held_steps(self) -> dict[str, int]:
        """How many steps wait before gates, by namespace: the `waiting` of all that are shown as open."""

    async def size_bytes(self) -> int:
        """How much room the store takes where it keeps things, dead rows and indices included."""

    def walk(self, shard: int, *, batch_size: int = 5_000) -> AsyncIterator[EventRecord]:
        """Every event of the shard in order of position.

        Read in batches of at most `batch_size` events, and fewer where events are large: the memory that a
        walk takes is bounded. Events that are appended meanwhile are walked too.
        """
