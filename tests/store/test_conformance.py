"""What every event store does. Each test runs on each store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from stepweave_eventstore import audit, replay
from stepweave_eventstore.store import (
    GENESIS_HASH,
    Append,
    EventStore,
    ShardAppend,
    Snapshot,
    StoreUnavailable,
    UnstorableEvent,
    Wakeup,
    WrongExpectedVersion,
)
from stepweave_schemas.mint import uuid7

LEASE_MS = 60_000
EXPIRED_MS = 0
A, B, C = (f"0190b7a2-0000-7000-8000-00000000000{letter}" for letter in "abc")

WriterOf = Callable[..., Any]


# -- installation and shards ---------------------------------------------------------------------
async def test_the_shard_count_is_fixed_for_life(store: EventStore) -> None:
    assert await store.initialise(16) == 4
    assert [row.shard for row in await store.shards()] == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, -1, 4097])
async def test_a_shard_count_out_of_range_is_refused(store: EventStore, count: int) -> None:
    with pytest.raises(ValueError, match="shard_count must be 1 to 4096"):
        await store.initialise(count)


async def test_the_store_says_how_much_room_it_takes(store: EventStore, writer: Any) -> None:
    await writer.fill(10)
    assert await store.size_bytes() > 0


async def test_a_new_shard_is_empty_and_free(store: EventStore) -> None:
    row = (await store.shards())[0]
    assert (row.epoch, row.owner, row.head_position, row.published_position) == (0, "", 0, 0)
    assert row.head_hash == GENESIS_HASH
    assert row.lease_remaining_ms <= 0


async def test_taking_a_shard_raises_its_epoch_and_shuts_others_out(store: EventStore) -> None:
    [two, three] = await store.acquire_shards("a", [3, 2, 99], LEASE_MS)
    assert (two.shard, two.epoch, two.owner) == (2, 1, "a")
    assert three.shard == 3
    assert LEASE_MS - 30_000 < two.lease_remaining_ms <= LEASE_MS
    assert await store.acquire_shards("b", [2, 3], LEASE_MS) == []
    assert await store.acquire_shards("a", [2], LEASE_MS) == []  # its own, too: the epoch must not move
    assert (await store.shards())[2].epoch == 1


async def test_a_lease_that_ran_out_can_be_taken(store: EventStore) -> None:
    await store.acquire_shards("a", [0], EXPIRED_MS)
    [row] = await store.acquire_shards("b", [0], LEASE_MS)
    assert (row.owner, row.epoch) == ("b", 2)


async def test_only_one_of_many_takes_a_shard(store: EventStore) -> None:
    takers = [f"owner-{n}" for n in range(10)]
    answers = await asyncio.gather(*(store.acquire_shards(taker, [0, 1, 2, 3], LEASE_MS) for taker in takers))
    taken = [(row.shard, row.owner) for answer in answers for row in answer]
    # Some may have skipped a row that another one was just taking; nobody gets one twice.
    assert len({shard for shard, _ in taken}) == len(taken) > 0
    assert {row.shard: row.owner for row in await store.shards() if row.owner} == dict(taken)


async def test_renewing_needs_owner_and_epoch(store: EventStore) -> None:
    await store.acquire_shards("a", [0, 1, 2], EXPIRED_MS)
    await store.acquire_shards("b", [1], LEASE_MS)
    assert await store.renew_shards("a", {0: 1, 1: 1, 2: 7, 99: 1}, LEASE_MS, {}) == {0}
    assert await store.renew_shards("b", {0: 1}, LEASE_MS, {}) == set()
    assert (await store.shards())[0].lease_remaining_ms > 0
    assert await store.renew_shards("a", {}, LEASE_MS, {}) == set()


async def test_the_published_position_only_moves_forward(store: EventStore, writer: Any) -> None:
    await writer.fill(10)
    epochs = {0: writer.rows[0].epoch}
    for position, kept in ((7, 7), (3, 7), (10, 10)):
        await store.renew_shards("writer", epochs, LEASE_MS, {0: position})
        assert (await store.shards())[0].published_position == kept
    append = writer.build([writer.event(uuid7())])
    append = msgspec.structs.replace(
        append, shards=[msgspec.structs.replace(append.shards[0], published_position=11)]
    )
    assert await store.append(append) == {0}
    assert (await store.shards())[0].published_position == 11


async def test_a_published_position_of_a_stale_epoch_is_ignored(store: EventStore, writer: Any) -> None:
    await writer.fill(5)
    assert await store.renew_shards("writer", {0: 99}, LEASE_MS, {0: 5}) == set()
    assert await store.renew_shards("writer", {1: 1}, LEASE_MS, {0: 5}) == {1}
    await store.release_shards("writer", {0: 99}, {0: 5})
    row = (await store.shards())[0]
    assert (row.published_position, row.owner) == (0, "writer")


async def test_a_published_position_beyond_the_head_is_refused(store: EventStore, writer: Any) -> None:
    await writer.fill(5)
    with pytest.raises(ValueError, match="beyond"):
        await store.renew_shards("writer", {0: writer.rows[0].epoch}, LEASE_MS, {0: 6})
    assert (await store.shards())[0].published_position == 0


async def test_a_released_shard_is_free_at_once_and_fenced(store: EventStore, writer: Any) -> None:
    await writer.fill(5)
    await store.release_shards("writer", {0: 1, 1: 99}, {0: 4})
    rows = await store.shards()
    assert (rows[0].owner, rows[0].published_position, rows[1].owner) == ("", 4, "writer")
    assert rows[0].lease_remaining_ms <= 0
    # What the old owner still has under way is stored no more, even before anybody took the shard.
    assert await store.append(writer.build([writer.event(uuid7())])) == set()
    [row] = await store.acquire_shards("b", [0], LEASE_MS)
    assert row.epoch > rows[0].epoch
    assert (row.head_position, row.head_hash) == (5, rows[0].head_hash)


async def test_live_orchestrators_are_listed(store: EventStore) -> None:
    assert await store.beat("b", LEASE_MS) == ["b"]
    assert await store.beat("a", LEASE_MS) == ["a", "b"]
    assert await store.beat("gone", EXPIRED_MS) == ["a", "b", "gone"]
    assert await store.beat("B", LEASE_MS) == ["B", "a", "b"]
    await store.retire("b")
    await store.retire("nobody")
    assert await store.beat("a", LEASE_MS) == ["B", "a"]


async def test_feed_incarnations_are_fenced(store: EventStore) -> None:
    assert await store.feed_incarnations(0) == {}
    [row] = await store.acquire_shards("a", [0], LEASE_MS)
    await store.set_feed_incarnations(0, row.epoch, {"LOG": "2026-01-01", "EVT": "x"})
    await store.set_feed_incarnations(0, row.epoch - 1, {"LOG": "stale"})
    assert await store.feed_incarnations(0) == {"LOG": "2026-01-01", "EVT": "x"}
    await store.set_feed_incarnations(0, row.epoch, {"LOG": "new"})
    assert await store.feed_incarnations(0) == {"LOG": "new"}
    assert await store.feed_incarnations(1) == {}


# -- appending -----------------------------------------------------------------------------------
async def test_what_is_appended_is_read_back_exactly(store: EventStore, writer: Any) -> None:
    written = await writer.write(
        writer.event(A, 1),
        writer.event(B, 1, shard=1, recorded_at_ms=0, actor="", correlation_id="ü\u2028\U0001f600"),
        writer.event(A, 2, schema_version=7, recorded_at_ms=253_402_300_799_999),
    )
    assert await store.read_shard(0) == [written[0], written[2]]
    assert await store.read_shard(1) == [written[1]]
    assert await store.read_stream(A) == [written[0], written[2]]
    rows = await store.shards()
    assert (rows[0].head_position, rows[0].head_hash) == (2, written[2].hash)
    assert (rows[1].head_position, rows[1].head_hash) == (1, written[1].hash)
    assert (await audit.verify(store)).ok


@pytest.mark.parametrize(
    "data",
    [
        "{}",
        "null",
        ' { "b" : 1,\n"a":2, "b":3 }\t',
        '{"nul": "\\u0000", "half": "\\ud800", "other": "\\udc00\\ud800"}',
        '{"number": 1.10, "big": 123456789012345678901234567890, "e": 1E+400, "minus": -0}',
        json.dumps({"text": "ü\u2028😀\x7f" * 10}, ensure_ascii=False),
        json.dumps({"long": "x" * 1_000_000}),
        "[" * 100 + "]" * 100,
    ],
)
async def test_data_is_kept_byte_by_byte(store: EventStore, writer: Any, data: str) -> None:
    [written] = await writer.write(writer.event(A, data=data))
    assert [event.data for event in await store.read_stream(A)] == [data]
    assert await store.read_shard(0) == [written]
    assert (await audit.verify(store)).ok


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "a\x00b"},
        {"correlation_id": "\x00"},
        {"causation_id": "half \ud83d"},
        {"actor": "\udc00"},
        {"data": ""},
        {"data": "{"},
        {"data": "{'a': 1}"},
        {"data": '{"a": NaN}'},
        {"data": '{"a": Infinity}'},
        {"data": '{"a": "\x00"}'},
        {"data": '"half \ud83d"'},
        {"data": "[" * 200_000 + "]" * 200_000},
        {"task_id": ""},
        {"task_id": "task-1"},
        {"task_id": A.upper()},
        {"task_id": "{" + A + "}"},
        {"version": 0},
        {"version": 2**31},
        {"schema_version": 2**15},
        {"recorded_at_ms": -1},
        {"recorded_at_ms": 253_402_300_800_000},
        {"recorded_at_ms": 2**63},
    ],
    ids=lambda changes: " ".join(f"{key}={value!r}"[:40] for key, value in changes.items()),
)
async def test_content_that_cannot_be_stored_is_refused_whole(
    store: EventStore, writer: Any, changes: dict[str, Any]
) -> None:
    good, bad = writer.event(B, 1, shard=1), writer.event(**{"task_id": A, **changes})
    append = writer.build([good, bad], [Wakeup(B, 1, 1)])
    with pytest.raises(UnstorableEvent):
        await store.append(append)
    assert [row.head_position for row in await store.shards()] == [0, 0, 0, 0]
    assert await store.wakeups(1) == []
    assert await writer.write(good) == await store.read_shard(1)  # and the store goes on


async def test_more_than_an_append_may_hold_is_refused(store: EventStore, writer: Any) -> None:
    big = json.dumps("x" * 33 * 1024 * 1024)
    with pytest.raises(UnstorableEvent, match="characters"):
        await store.append(writer.build([writer.event(A, 1, data=big), writer.event(A, 2, data=big)]))
    assert await store.read_shard(0) == []


async def test_a_shard_that_does_not_match_appends_nothing_and_others_do(
    store: EventStore, writer: Any, writer_of: WriterOf
) -> None:
    await writer.fill(3)
    await store.renew_shards("writer", {0: 1}, EXPIRED_MS, {})
    usurper = await writer_of(store, "usurper").take(0)
    append = writer.build(
        [writer.event(A, 1), writer.event(B, 1, shard=1)], [Wakeup(A, 0, 5), Wakeup(B, 1, 6)]
    )
    assert await store.append(append) == {1}
    assert await store.read_stream(A) == []
    assert [event.task_id for event in await store.read_shard(1)] == [B]
    assert await store.wakeups(0) == []
    assert await store.wakeups(1) == [Wakeup(B, 1, 6)]
    await usurper.write(usurper.event(A, 1))
    assert (await audit.verify(store)).ok


@pytest.mark.parametrize("expected", [0, 2, 4])
async def test_another_head_than_expected_appends_nothing(
    store: EventStore, writer: Any, expected: int
) -> None:
    await writer.fill(3)
    writer.rows[0] = msgspec.structs.replace(writer.rows[0], head_position=expected)
    assert await store.append(writer.build([writer.event(A)])) == set()
    assert (await store.shards())[0].head_position == 3
    assert await store.read_stream(A) == []


async def test_an_append_sent_again_is_stored_once(store: EventStore, writer: Any) -> None:
    append = writer.build([writer.event(A)], [Wakeup(A, 0, 5)])
    assert await store.append(append) == {0}
    assert await store.append(append) == set()
    # So the caller knows the outcome of the first: the row has its hash.
    assert (await store.shards())[0].head_hash == append.shards[0].new_hash
    assert len(await store.read_shard(0)) == 1


async def test_an_unknown_shard_appends_nothing(store: EventStore, writer: Any) -> None:
    event = msgspec.structs.replace(writer.event(A, shard=77), position=1, hash=b"h" * 32)
    assert await store.append(Append([ShardAppend(77, 1, 0, 1, b"h" * 32)], [event])) == set()
    assert await store.read_shard(77) == []


async def test_an_append_may_carry_nothing_but_wakeups(store: EventStore, writer: Any) -> None:
    await writer.fill(2)
    await writer.write(wakeups=[Wakeup(A, 0, 10)])
    assert await store.wakeups(0) == [Wakeup(A, 0, 10)]
    assert (await store.shards())[0].head_position == 2
    assert await store.append(Append([], [])) == set()


async def test_a_version_that_exists_refuses_the_whole_call_and_names_the_streams(
    store: EventStore, writer: Any
) -> None:
    await writer.write(writer.event(A, 1), writer.event(A, 2), writer.event(B, 1))
    append = writer.build(
        [
            writer.event(A, 2),
            writer.event(C, 1, shard=1),
            writer.event(B, 1, shard=1),
        ],
        [Wakeup(C, 1, 5)],
    )
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.append(append)
    assert caught.value.task_ids == (A, B)
    assert A in str(caught.value)
    assert [row.head_position for row in await store.shards()] == [3, 0, 0, 0]
    assert await store.read_stream(C) == []
    assert await store.wakeups(1) == []
    await writer.write(writer.event(A, 3), writer.event(C, 1, shard=1))


async def test_the_same_version_twice_in_one_call_is_refused(store: EventStore, writer: Any) -> None:
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.append(writer.build([writer.event(A, 1), writer.event(A, 1), writer.event(B, 1)]))
    assert caught.value.task_ids == (A,)


async def test_a_version_in_a_shard_that_does_not_match_is_no_conflict(
    store: EventStore, writer: Any
) -> None:
    await writer.write(writer.event(A, 1))
    append = writer.build([writer.event(A, 1), writer.event(B, 1, shard=1)])
    stale = msgspec.structs.replace(append.shards[0], epoch=99)
    assert await store.append(msgspec.structs.replace(append, shards=[stale, append.shards[1]])) == {1}


def _without(append: Append) -> Append:
    return msgspec.structs.replace(append, events=append.events[:-1])


def _reordered(append: Append) -> Append:
    return msgspec.structs.replace(append, events=append.events[::-1])


def _gap(append: Append) -> Append:
    events = [append.events[0], msgspec.structs.replace(append.events[1], position=3)]
    return msgspec.structs.replace(append, events=events)


def _shard(**changes: object) -> Callable[[Append], Append]:
    def change(append: Append) -> Append:
        return msgspec.structs.replace(append, shards=[msgspec.structs.replace(append.shards[0], **changes)])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "the events end at position 1, the append says 2"),
        (_reordered, "position 2 follows position 0"),
        (_gap, "position 3 follows position 1"),
        (_shard(new_position=3), "the append says 3"),
        (_shard(expected_position=1), "position 1 follows position 1"),
        (_shard(shard=3), "an event of shard 0, which the append does not name"),
        (_shard(new_hash=bytes(32)), "not that of its last event"),
        (_shard(new_hash=b"short"), "not that of its last event"),
        (_shard(published_position=3), "beyond its head"),
        (_shard(published_position=-1), "beyond its head"),
        (lambda a: msgspec.structs.replace(a, shards=[*a.shards, *a.shards]), "names shard 0 twice"),
        (lambda a: msgspec.structs.replace(a, wakeups=[Wakeup(A, 1, 5)]), "a wake-up of shard 1"),
    ],
)
async def test_an_append_that_contradicts_itself_is_refused(
    store: EventStore, writer: Any, change: Callable[[Append], Append], message: str
) -> None:
    append = writer.build([writer.event(A, 1), writer.event(A, 2)])
    with pytest.raises(ValueError, match=message):
        await store.append(change(append))
    assert await store.append(append) == {0}


async def test_wakeups_are_replaced_and_cleared(store: EventStore, writer: Any) -> None:
    await writer.write(wakeups=[Wakeup(A, 0, 20), Wakeup(B, 0, 10), Wakeup(C, 1, None)])
    assert await store.wakeups(0) == [Wakeup(B, 0, 10), Wakeup(A, 0, 20)]
    await writer.write(wakeups=[Wakeup(A, 0, 5), Wakeup(B, 0, None)])
    assert await store.wakeups(0) == [Wakeup(A, 0, 5)]
    await writer.write(wakeups=[Wakeup(A, 0, None), Wakeup(A, 0, 7), Wakeup(B, 0, 9), Wakeup(B, 0, None)])
    assert await store.wakeups(0) == [Wakeup(A, 0, 7)]
    assert await store.wakeups(1) == []


@pytest.mark.parametrize("wakeup", [Wakeup("x", 0, 1), Wakeup(A, 0, -1), Wakeup(A, 0, 2**60)])
async def test_a_wakeup_that_cannot_be_stored_is_refused(
    store: EventStore, writer: Any, wakeup: Wakeup
) -> None:
    with pytest.raises(UnstorableEvent):
        await store.append(writer.build([writer.event(B)], [wakeup]))
    assert await store.read_stream(B) == []


# -- reading -------------------------------------------------------------------------------------
async def test_reading_a_stream_respects_bounds_and_limit(store: EventStore, writer: Any) -> None:
    await writer.write(*(writer.event(A, version) for version in range(1, 11)), writer.event(B, 1))

    async def versions(**bounds: int) -> list[int]:
        return [event.version for event in await store.read_stream(A, **bounds)]

    assert await versions() == list(range(1, 11))
    assert await versions(from_version=4, to_version=6) == [4, 5, 6]
    assert await versions(from_version=9, to_version=2**40) == [9, 10]
    assert await versions(limit=2) == [1, 2]
    assert await versions(from_version=2**40) == await versions(to_version=0) == []
    assert await versions(from_version=-5, to_version=1) == [1]
    assert await store.last_version(A) == 10
    for unknown in (C, "", "no id", A.upper(), "\x00"):
        assert await store.read_stream(unknown) == []
        assert await store.last_version(unknown) == 0
    with pytest.raises(ValueError, match="at least 1"):
        await store.read_stream(A, limit=0)


async def test_reading_several_streams_at_once(store: EventStore, writer: Any) -> None:
    written = await writer.write(writer.event(A, 1), writer.event(B, 1, shard=1), writer.event(A, 2))
    assert await store.read_streams([A, C, B, "no id"]) == {A: [written[0], written[2]], B: [written[1]]}
    assert await store.read_streams([]) == {}


async def test_reading_and_walking_a_shard(store: EventStore, writer: Any) -> None:
    written = await writer.fill(25)
    assert await store.read_shard(0, limit=10) == written[:10]
    assert await store.read_shard(0, after_position=20, limit=10) == written[20:]
    assert await store.read_shard(0, after_position=-3, limit=1) == written[:1]
    assert await store.read_shard(0, after_position=25) == await store.read_shard(1) == []
    for size in (1, 7, 25, 5000):
        assert [event async for event in store.walk(0, batch_size=size)] == written
    assert [event async for event in store.walk(3)] == []
    with pytest.raises(ValueError, match="at least 1"):
        await store.read_shard(0, limit=0)


async def test_locating_single_events(store: EventStore, writer: Any) -> None:
    await writer.write(writer.event(A, 1), writer.event(B, 1, shard=1), writer.event(A, 2))
    found = await store.locate([(A, 2), (B, 1), (A, 3), (C, 1), ("no id", 1), (A, 2)])
    assert found == {(A, 2): (0, 2), (B, 1): (1, 1)}
    assert await store.locate([]) == {}


async def test_a_stream_as_it_was(store: EventStore, writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_PAGE_SIZE", 3)
    times = [100, 200, 200, 400, 300, 500, 600]
    written = await writer.write(
        *(writer.event(A, n, recorded_at_ms=time) for n, time in enumerate(times, 1))
    )
    for version in range(9):
        assert await replay.at_version(store, A, version) == written[:version]
    for time, expected in ((99, 0), (100, 1), (200, 3), (300, 3), (400, 5), (500, 6), (10**12, 7)):
        assert await replay.at_time_ms(store, A, time) == written[:expected]
    assert await replay.at_version(store, C, 5) == await replay.at_time_ms(store, C, 5) == []


async def test_only_newer_snapshots_replace(store: EventStore) -> None:
    assert await store.load_snapshot(A, format=1) is None
    for version in (10, 5, 10, 20):
        await store.save_snapshot(Snapshot(A, version, 1, b"\x00state %d" % version))
    await store.save_snapshot(Snapshot(A, 3, 2, b"other format"))
    assert await store.load_snapshot(A, format=1) == Snapshot(A, 20, 1, b"\x00state 20")
    assert await store.load_snapshot(A, format=2) == Snapshot(A, 3, 2, b"other format")
    assert await store.load_snapshot(A, format=1, to_version=20) is not None
    assert await store.load_snapshot(A, format=1, to_version=19) is None
    assert await store.load_snapshot(B, format=1) is await store.load_snapshot("no id", format=1) is None
    with pytest.raises(UnstorableEvent):
        await store.save_snapshot(Snapshot("no id", 1, 1, b""))


# -- audit ---------------------------------------------------------------------------------------
async def test_a_whole_ledger_passes_the_audit(
    store: EventStore, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_BATCH_SIZE", 4)
    await writer.fill(31, streams=7)
    await writer.fill(3, shard=1)
    seen: list[audit.Progress] = []
    report = await audit.verify(store, on_progress=seen.append)
    assert (report.ok, report.events, report.faults) == (True, 34, [])
    assert [(shard.shard, shard.events, shard.head_position) for shard in report.shards] == [
        (0, 31, 31),
        (1, 3, 3),
        (2, 0, 0),
        (3, 0, 0),
    ]
    assert [progress.position for progress in seen if progress.shard == 0] == [4, 8, 12, 16, 20, 24, 28, 31]
    assert [shard.shard for shard in (await audit.verify(store, shards=[1])).shards] == [1]
    with pytest.raises(ValueError, match="there is no shard 9"):
        await audit.verify(store, shards=[9])


@dataclass
class Streams:
    """`(task id, version)` of each event in order, and the first position whose version does not follow."""

    order: list[tuple[str, int]]
    broken: int


@pytest.mark.parametrize(
    "case",
    [
        Streams([(A, 2)], 1),
        Streams([(A, 1), (B, 1), (A, 3)], 3),
        Streams([(A, 2), (A, 1)], 1),
        Streams([(A, 1), (B, 1), (B, 2), (B, 3), (A, 2), (C, 1), (A, 4), (C, 2), (C, 4)], 7),
        Streams([(A, 1), (B, 2), (C, 1), (C, 3)], 2),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3, 5000])
async def test_the_audit_names_the_first_version_that_does_not_follow(
    store: EventStore, writer: Any, monkeypatch: pytest.MonkeyPatch, case: Streams, batch_size: int
) -> None:
    monkeypatch.setattr(audit, "_BATCH_SIZE", batch_size)
    await writer.write(*(writer.event(task_id, version) for task_id, version in case.order))
    [fault] = (await audit.verify(store)).faults
    assert (fault.shard, fault.position, fault.kind) == (0, case.broken, audit.FaultKind.VERSION)
    task_id, version = case.order[case.broken - 1]
    assert f"version {version} of the stream {task_id}" in fault.message


async def test_a_stream_over_two_shards_does_not_pass(store: EventStore, writer: Any) -> None:
    await writer.write(writer.event(A, 1), writer.event(A, 2, shard=1))
    [fault] = (await audit.verify(store)).faults
    assert (fault.shard, fault.position, fault.kind) == (1, 1, audit.FaultKind.VERSION)


async def test_the_audit_runs_beside_a_writer(store: EventStore, writer: Any) -> None:
    await writer.fill(20)
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            await writer.fill(10)
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    try:
        for _ in range(5):
            assert (await audit.verify(store)).faults == []
    finally:
        stop.set()
        await writing


async def test_a_closed_store_says_so(store: EventStore) -> None:
    await store.close()
    await store.close()
    for call in (store.shards(), store.append(Append([], [])), store.read_stream(A), store.beat("a", 1)):
        with pytest.raises(StoreUnavailable, match="closed"):
            await call
