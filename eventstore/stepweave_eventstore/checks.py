"""What must hold of a call before it is sent, in every store.

The ledger's promises start with an append that keeps them: the database checks that a shard's epoch and head
match; that the events between the old head and the new one are there, dense and in order, is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .store import (
    LIST_LIMIT_MAX,
    SHARD_COUNT_MAX,
    Append,
    DeadLetterFilter,
    StreamFilter,
    TaskFilter,
    UnstorableEvent,
)

#: The largest version, and the largest offset into a list.
INT_MAX: Final = 2**31 - 1

#: The most that the payloads of one append may come to, in characters of JSON.
APPEND_DATA_CHARS_MAX: Final = 64 * 1024 * 1024

#: The last moment that an event or a wake-up can name: the end of the year 9999, in ms since the Unix epoch.
MOMENT_MS_MAX: Final = 253_402_300_799_999

#: NUL, which PostgreSQL's text cannot hold, and halves of surrogate pairs, which UTF-8 cannot.
UNSTORABLE_CHARACTER: Final = re.compile("[\x00\ud800-\udfff]")

_UUIDS: Final = re.compile(r"(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})*")


def check_append(append: Append) -> None:
    """Raise `ValueError`, naming what is wrong, where the append contradicts itself."""
    heads: dict[int, int] = {}
    hashes: dict[int, bytes] = {}
    for shard in append.shards:
        if shard.shard in heads:
            raise ValueError(f"the append names shard {shard.shard} twice")
        heads[shard.shard] = shard.expected_position
    for event in append.events:
        position = heads.get(event.shard)
        if position is None:
            raise ValueError(f"an event of shard {event.shard}, which the append does not name")
        if event.position != position + 1:
            raise ValueError(f"shard {event.shard}: position {event.position} follows position {position}")
        heads[event.shard] = event.position
        hashes[event.shard] = event.hash
    for shard in append.shards:
        if heads[shard.shard] != shard.new_position:
            raise ValueError(
                f"shard {shard.shard}: the events end at position {heads[shard.shard]}, "
                f"the append says {shard.new_position}"
            )
        if len(shard.new_hash) != 32 or hashes.get(shard.shard, shard.new_hash) != shard.new_hash:
            raise ValueError(f"shard {shard.shard}: the new head's hash is not that of its last event")
        if not 0 <= shard.published_position <= shard.new_position:
            raise ValueError(
                f"shard {shard.shard}: published up to {shard.published_position}, beyond its head "
                f"{shard.new_position}"
            )
    for wakeup in append.wakeups:
        if wakeup.shard not in heads:
            raise ValueError(f"a wake-up of shard {wakeup.shard}, which the append does not name")


def check_columns(task_ids: Sequence[str], moments_ms: Sequence[int], data: Sequence[str] = ()) -> None:
    """Raise `UnstorableEvent` where values could be stored only as something else, or are too large.

    PostgreSQL reads more spellings of a UUID than the one that it writes; the hash would not fit any more.
    """
    distinct = set(task_ids)
    joined = "".join(distinct)
    if len(joined) != 36 * len(distinct) or not _UUIDS.fullmatch(joined):
        raise UnstorableEvent("a task_id is not a UUID in its canonical form (lower case, with hyphens)")
    if moments_ms and not (min(moments_ms) >= 0 and max(moments_ms) <= MOMENT_MS_MAX):
        raise UnstorableEvent(f"a moment lies outside 0 to {MOMENT_MS_MAX} ms since the Unix epoch")
    size = sum(map(len, data))
    if size > APPEND_DATA_CHARS_MAX:
        raise UnstorableEvent(
            f"the payloads come to {size} characters, {APPEND_DATA_CHARS_MAX} are allowed in one append"
        )


def check_limit(limit: int) -> None:
    """Raise `ValueError` for a number of rows that makes no sense."""
    if limit < 1:
        raise ValueError(f"a limit must be at least 1, not {limit}")


def check_page(filter: TaskFilter | StreamFilter | DeadLetterFilter) -> None:
    """Raise `ValueError` where the filter asks for a page that cannot be."""
    if not 1 <= filter.limit <= LIST_LIMIT_MAX:
        raise ValueError(f"limit must be 1 to {LIST_LIMIT_MAX}, not {filter.limit}")
    if not 0 <= filter.offset <= INT_MAX:
        raise ValueError(f"offset must be 0 to {INT_MAX}, not {filter.offset}")


def check_shard_count(shard_count: int) -> None:
    """Raise `ValueError` for a number of shards that an installation cannot have."""
    if not 1 <= shard_count <= SHARD_COUNT_MAX:
        raise ValueError(f"shard_count must be 1 to {SHARD_COUNT_MAX}, not {shard_count}")
