"""The projections of every event store: what lists and searches read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave_eventstore.store import (
    DeadLetterCount,
    DeadLetterFilter,
    DeadLetterRow,
    EventStore,
    MissingHandlerCount,
    StandingTask,
    StreamFilter,
    StreamRow,
    TaskFilter,
    TaskRow,
    TemplateRow,
)

EMPTY = msgspec.Raw(b"{}")
NOON_MS = 1_767_268_800_123
A, B, C, D = (f"0190b7a2-0000-7000-8000-00000000000{letter}" for letter in "abcd")


def task(task_id: str, **changes: Any) -> TaskRow:
    row = TaskRow(
        task_id=task_id,
        shard=0,
        version=1,
        namespace="payments",
        name="checkout",
        template_version="1.0.0",
        status="steps_in_process",
        priority=-3,
        initiator="shop",
        source_system="web",
        reason="an order",
        tags=("gold", "eu"),
        correlation_id="order-1",
        parent_correlation_id=None,
        created_at_ms=NOON_MS,
        updated_at_ms=NOON_MS + 1,
        completed_at_ms=None,
        total_steps=5,
        completed_steps=2,
        failed_steps=0,
    )
    return msgspec.structs.replace(row, **changes)


def template(version: str, **changes: Any) -> TemplateRow:
    row = TemplateRow(
        namespace="payments",
        name="checkout",
        version=version,
        hash="sha256:00",
        description="",
        total_steps=5,
        registered_at_ms=NOON_MS,
        registered_by="somebody",
    )
    return msgspec.structs.replace(row, **changes)


async def ids(store: EventStore, **conditions: Any) -> list[str]:
    rows, total = await store.list_tasks(TaskFilter(**conditions))
    assert total == len(rows)
    return [row.task_id for row in rows]


async def test_a_row_is_shown_as_it_was_given(store: EventStore) -> None:
    full = task(
        A,
        status="error",
        completed_at_ms=NOON_MS + 2,
        parent_correlation_id="parent",
        error_message="card declined",
        tags=(),
    )
    await store.project(shard=0, position=7, tasks=[full, task(B, shard=2, created_at_ms=NOON_MS - 1)])
    rows, total = await store.list_tasks(TaskFilter())
    assert (rows, total) == ([full, task(B, shard=2, created_at_ms=NOON_MS - 1)], 2)


async def test_a_row_never_goes_back_to_an_older_version(store: EventStore) -> None:
    await store.project(shard=0, position=1, tasks=[task(A, version=5, status="complete")])
    await store.project(shard=0, position=2, tasks=[task(A, version=4, status="pending")])
    assert [row.status for row in (await store.list_tasks(TaskFilter()))[0]] == ["complete"]
    await store.project(shard=0, position=2, tasks=[task(A, version=5, status="error")])
    assert [row.status for row in (await store.list_tasks(TaskFilter()))[0]] == ["error"]
    # Several rows of one task in one call: the newest counts.
    versions = [task(A, version=7, reason="seven"), task(A, version=9, reason="nine"), task(A, version=8)]
    await store.project(shard=0, position=3, tasks=versions)
    assert [row.reason for row in (await store.list_tasks(TaskFilter()))[0]] == ["nine"]


async def test_the_checkpoint_moves_with_the_rows_and_only_forward(store: EventStore) -> None:
    assert await store.projected_position(0) == 0
    await store.project(shard=0, position=10)
    await store.project(shard=0, position=4, tasks=[task(A)])
    await store.project(shard=1, position=3)
    assert [await store.projected_position(shard) for shard in range(3)] == [10, 3, 0]


async def test_every_filter_restricts(store: EventStore) -> None:
    other = {
        "namespace": "shipping",
        "name": "parcel",
        "status": "complete",
        "initiator": "clerk",
        "source_system": "desk",
        "tags": ("eu", "x" * 5_000),
        "correlation_id": "order-2",
    }
    await store.project(
        shard=0, position=1, tasks=[task(A), task(B, **other), task(C, tags=(), created_at_ms=1)]
    )
    assert await ids(store) == [B, A, C]
    assert await ids(store, namespace="payments") == [A, C]
    assert await ids(store, name="parcel") == [B]
    assert await ids(store, statuses=["complete"]) == [B]
    assert await ids(store, statuses=["complete", "steps_in_process", "?"]) == [B, A, C]
    assert await ids(store, initiator="clerk") == [B]
    assert await ids(store, source_system="web") == [A, C]
    assert await ids(store, tag="eu") == [B, A]
    assert await ids(store, tag="gold") == [A]
    assert await ids(store, tag="x" * 5_000) == [B]
    assert await ids(store, tag="x" * 4_999) == []
    assert await ids(store, correlation_id="order-2") == [B]
    assert await ids(store, namespace="payments", tag="eu", initiator="shop") == [A]
    assert await ids(store, template_version="none") == []
    assert await ids(store, template_version=task(A).template_version, name="parcel") == [B]
    assert await ids(store, created_from_ms=NOON_MS) == [B, A]
    assert await ids(store, created_before_ms=NOON_MS) == [C]
    assert await ids(store, created_from_ms=1, created_before_ms=NOON_MS) == [C]
    rest, _ = await store.list_tasks(TaskFilter(created_from_ms=1, after=(NOON_MS, A)))
    assert [row.task_id for row in rest] == [C]
    for nothing in ("", "Payments", "\x00", "half \ud83d"):
        assert await ids(store, namespace=nothing) == await ids(store, tag=nothing) == []


async def test_pages_cover_everything_once_newest_first(store: EventStore) -> None:
    rows = [task(f"0190b7a2-0000-7000-8000-{n:012x}", created_at_ms=NOON_MS + n // 3) for n in range(25)]
    await store.project(shard=0, position=1, tasks=rows)
    seen: list[str] = []
    for offset in range(0, 40, 10):
        page, total = await store.list_tasks(TaskFilter(namespace="payments", limit=10, offset=offset))
        assert total == 25
        seen += [row.task_id for row in page]
    assert seen == [row.task_id for row in reversed(rows)]
    by_key: list[str] = []
    after: tuple[int, str] | None = None
    while True:
        page, total = await store.list_tasks(TaskFilter(namespace="payments", limit=10, after=after))
        if not page:
            break
        by_key += [row.task_id for row in page]
        assert after is None or total == len(page)
        after = (page[-1].created_at_ms, page[-1].task_id)
    assert by_key == seen


@pytest.mark.parametrize("page", [{"limit": 0}, {"limit": 1001}, {"offset": -1}, {"offset": 2**31}])
async def test_a_page_out_of_range_is_refused(store: EventStore, page: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        await store.list_tasks(TaskFilter(**page))


async def test_no_text_from_outside_stops_a_projection(store: EventStore) -> None:
    long = "x" * 100_000
    nasty = task(
        A,
        error_message="NUL \x00, half \ud83d, \\u0000 as text",
        tags=("\x00", long),
        reason='quo"te',
        initiator=long,
        source_system=long,
        correlation_id=long,
    )
    await store.project(shard=0, position=1, tasks=[nasty, task(B)])
    [_, shown], _ = await store.list_tasks(TaskFilter())
    assert shown == msgspec.structs.replace(
        nasty, error_message="NUL \ufffd, half \ufffd, \\u0000 as text", tags=("\ufffd", long)
    )
    assert await ids(store, initiator=long, correlation_id=long, tag=long) == [A]
    assert await ids(store, initiator=long[:-1]) == []
    await store.project(shard=0, position=2, templates=[template("1.0.0", description="\x00")])
    assert [row.description for row in await store.list_templates()] == ["\ufffd"]


async def test_unfinished_tasks_of_a_shard(store: EventStore) -> None:
    finished = ["complete", "error", "cancelled", "resolved_manually"]
    rows = [
        task(f"0190b7a2-0000-7000-8000-{n:012x}", status=status, created_at_ms=NOON_MS - n)
        for n, status in enumerate([*finished, "pending", "blocked_by_failures", "paused"])
    ]
    await store.project(shard=0, position=1, tasks=[*rows, task(A, shard=1)])
    assert await store.unfinished_tasks(0) == [row.task_id for row in reversed(rows[4:])]
    assert await store.unfinished_tasks(1) == [A]
    assert await store.unfinished_tasks(2) == []


async def test_templates_are_listed_in_order_of_registration(store: EventStore) -> None:
    rows = [
        template("2.0.0", registered_at_ms=NOON_MS + 1),
        template("1.0.0", registered_at_ms=NOON_MS),
        template("1.0.0", name="Zebra"),
        template("1.0.0", namespace="a"),
    ]
    await store.project(shard=1, position=1, templates=rows)
    assert await store.list_templates() == [rows[3], rows[2], rows[1], rows[0]]
    assert await store.list_templates("a") == [rows[3]]
    assert await store.list_templates("\x00") == await store.list_templates("none") == []
    changed = [template("1.0.0", description="old"), template("1.0.0", description="new")]
    await store.project(shard=1, position=2, templates=changed)
    assert [row.description for row in await store.list_templates("payments")] == ["", "new", ""]


def stream(stream_id: str, **changes: Any) -> StreamRow:
    row = StreamRow(
        stream_id=stream_id,
        shard=0,
        version=1,
        kind="schedule",
        namespace="payments",
        name="daily",
        status="active",
        is_open=False,
        updated_at_ms=NOON_MS,
        summary=msgspec.Raw(b'{"note": "\\u0000"}'),
    )
    return msgspec.structs.replace(row, **changes)


async def test_steps_before_gates_are_counted_by_namespace(store: EventStore) -> None:
    rows = [
        stream(A, kind="slots", is_open=True, summary=msgspec.Raw(b'{"waiting": 5}')),
        stream(B, kind="rate", is_open=True, summary=msgspec.Raw(b'{"waiting": 7, "per_second": 0.5}')),
        stream(C, kind="circuit", namespace="a", is_open=True, summary=msgspec.Raw(b'{"waiting": 0}')),
        stream(D, is_open=True, summary=msgspec.Raw(b'{"waiting": "for the night"}')),
    ]
    await store.project(shard=0, position=1, streams=rows)
    assert await store.held_steps() == {"payments": 12}
    await store.project(shard=0, position=2, streams=[stream(A, kind="slots", version=2)])
    assert await store.held_steps() == {"payments": 7}


async def test_streams_are_listed_by_kind(store: EventStore) -> None:
    rows = [
        stream(A, name="Zebra"),
        stream(B, status="paused", is_open=True, version=2),
        stream(C, namespace="a", shard=1, is_open=True),
        stream(D, kind="gate", summary=msgspec.Raw(b"{}")),
    ]
    await store.project(shard=0, position=1, streams=rows)
    # An older row does not come back, a newer one does.
    newer = stream(A, name="Zebra", version=3, status="done \x00")
    await store.project(shard=0, position=2, streams=[newer, stream(B), stream(A, name="Zebra")])
    shown = msgspec.structs.replace(newer, status="done \ufffd")

    async def listed(**filter: Any) -> list[StreamRow]:
        found = await store.list_streams(StreamFilter(**{"kind": "schedule", **filter}))
        assert all(
            msgspec.json.decode(row.summary) == {"note": "\ufffd"} for row in found if row.kind == "schedule"
        )
        return [msgspec.structs.replace(row, summary=EMPTY) for row in found]

    rows = [msgspec.structs.replace(row, summary=EMPTY) for row in rows]
    shown = msgspec.structs.replace(shown, summary=EMPTY)
    assert await listed() == [rows[2], shown, rows[1]]
    assert await listed(kind="gate") == [rows[3]]
    assert await listed(namespace="payments", name="daily") == [rows[1]]
    assert await listed(statuses=("paused",)) == [rows[1]]
    assert await listed(limit=1, offset=1) == [shown]
    later = stream(
        C, namespace="a", shard=1, is_open=True, version=9, updated_at_ms=rows[2].updated_at_ms + 1
    )
    await store.project(shard=1, position=3, streams=[later])
    later = rows[2] = msgspec.structs.replace(later, summary=EMPTY)
    assert await listed(latest_first=True) == [later, shown, rows[1]]
    assert await listed(latest_first=True, statuses=("paused",), offset=0, limit=1) == [rows[1]]
    assert await listed(namespace="\x00") == await listed(name="none") == []
    assert await store.open_streams(0) == [B]
    assert await store.open_streams(1) == [C]
    with pytest.raises(ValueError, match="limit"):
        await listed(limit=0)
    await store.reset_projections(1)
    assert await listed() == [shown, rows[1]]
    await store.reset_projections()
    assert await listed() == []
    assert await store.open_streams(0) == []


def letter(letter_id: str, **changes: Any) -> DeadLetterRow:
    row = DeadLetterRow(
        letter_id=letter_id,
        task_id=A,
        shard=0,
        version=1,
        number=1,
        is_listed=True,
        is_open=True,
        namespace="payments",
        name="checkout",
        reason="failures",
        resolution_status="pending",
        priority=0,
        opened_at_ms=NOON_MS,
        resolved_at_ms=None,
        summary=EMPTY,
    )
    return msgspec.structs.replace(row, **changes)


async def test_dead_letters_are_listed_queued_and_counted(store: EventStore) -> None:
    hour_ms = 3_600_000
    first = letter(A)
    urgent = letter(B, task_id=B, priority=5, opened_at_ms=NOON_MS + 4 * hour_ms, reason="staleness")
    stale = letter(C, task_id=C, shard=1, is_listed=False, namespace="a", opened_at_ms=NOON_MS + 1)
    done = letter(D, number=2, is_open=False, resolution_status="retried", resolved_at_ms=NOON_MS + 500)
    await store.project(shard=0, position=1, dead_letters=[first, urgent, stale, done])
    # An older row does not come back.
    await store.project(shard=0, position=1, dead_letters=[letter(A, version=0, is_open=False)])

    async def listed(**filter: Any) -> list[DeadLetterRow]:
        return (await store.list_dead_letters(DeadLetterFilter(**filter)))[0]

    assert await listed() == [urgent, stale, done, first]
    # Five points of priority outweigh four hours.
    assert await listed(order="queue", is_open=True, is_listed=True) == [urgent, first]
    assert await listed(namespace="a") == await listed(is_listed=False) == [stale]
    assert await listed(reasons=("staleness",)) == await listed(letter_id=B) == [urgent]
    assert await listed(resolution_statuses=("retried",), name="checkout") == [done]
    assert await listed(letter_id="none") == await listed(namespace="\x00") == []
    assert await store.list_dead_letters(DeadLetterFilter(limit=1, offset=1)) == ([stale], 4)
    assert await store.list_dead_letters(DeadLetterFilter(limit=3, offset=9)) == ([], 4)
    with pytest.raises(ValueError, match="limit"):
        await listed(limit=0)

    counts: dict[str, Any] = {"namespace": "payments", "name": "checkout", "count": 1, "resolved_after_ms": 0}
    assert await store.count_dead_letters() == [
        DeadLetterCount(
            **{**counts, "resolved_after_ms": 500},
            reason="failures",
            resolution_status="retried",
            open_count=0,
            oldest_open_at_ms=None,
        )
        if one == "retried"
        else DeadLetterCount(
            **counts,
            reason=one,
            resolution_status="pending",
            open_count=1,
            oldest_open_at_ms=NOON_MS + (4 * hour_ms if one == "staleness" else 0),
        )
        for one in ("failures", "retried", "staleness")
    ]
    assert await store.count_dead_letters("a") == await store.count_dead_letters("\x00") == []

    # Of a task the last 20 stay.
    newest = letter("0190b7a2-0000-7000-8000-0000000000ff", number=21)
    await store.project(shard=0, position=1, dead_letters=[newest])
    assert {row.letter_id for row in await listed()} == {B, C, D, newest.letter_id}
    await store.reset_projections(0)
    assert await listed() == [stale]
    await store.reset_projections()
    assert await listed() == []


def standing(row: TaskRow, *missing: str, is_still: bool = True) -> StandingTask:
    return StandingTask(
        row.task_id,
        row.shard,
        row.created_at_ms,
        row.namespace,
        row.name,
        row.template_version,
        row.status,
        is_still,
        list(missing),
    )


async def test_tasks_with_steps_at_workers_are_found_in_order(store: EventStore) -> None:
    rows = [
        task(A, created_at_ms=NOON_MS + 2),
        task(B, shard=1, created_at_ms=NOON_MS + 1, updated_at_ms=NOON_MS + 5, name="other"),
        task(C, status="compensating"),
        task(D, status="waiting_for_retry"),
    ]
    await store.project(shard=0, position=1, tasks=rows)
    found = [standing(rows[2]), standing(rows[1], is_still=False), standing(rows[0])]
    late = NOON_MS + 2
    assert await store.standing_tasks([0, 1], before_ms=late) == found
    assert await store.standing_tasks([0, 1], before_ms=late, after=found[0], limit=1) == [found[1]]
    assert await store.standing_tasks([1], before_ms=late) == [found[1]]
    assert await store.standing_tasks([], before_ms=late) == []


async def test_missing_handlers_are_known_by_task_and_counted(store: EventStore) -> None:
    def names(*handlers: str) -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode({"missing_handlers": handlers}))

    rows = [task(A), task(B), task(C, shard=1)]
    letters = [
        letter(A, opened_at_ms=NOON_MS + 7, summary=names("resize", "crop")),
        letter(B, task_id=B, opened_at_ms=NOON_MS + 5, summary=names("crop"), is_listed=False),
        letter(C, task_id=C, number=1, is_open=False, summary=names("crop")),
        letter(D, task_id=C, number=2, summary=names(), namespace="a"),
    ]
    await store.project(shard=0, position=1, tasks=rows, dead_letters=letters)
    found = await store.standing_tasks([0, 1], before_ms=NOON_MS + 2)
    assert found == [standing(rows[0], "resize", "crop"), standing(rows[1], "crop"), standing(rows[2])]
    assert await store.count_missing_handlers() == [
        MissingHandlerCount("payments", "crop", 2, NOON_MS + 5),
        MissingHandlerCount("payments", "resize", 1, NOON_MS + 7),
    ]
    assert await store.count_missing_handlers("a") == await store.count_missing_handlers("\x00") == []


async def test_projections_can_be_emptied_and_rebuilt(store: EventStore) -> None:
    async def fill() -> None:
        await store.project(shard=0, position=5, tasks=[task(A)], templates=[template("1.0.0")])
        await store.project(shard=1, position=6, tasks=[task(B, shard=1)], templates=[template("2.0.0")])

    async def shown() -> tuple[list[str], list[str], list[int]]:
        templates = [row.version for row in await store.list_templates()]
        return await ids(store), templates, [await store.projected_position(shard) for shard in (0, 1)]

    whole = ([B, A], ["1.0.0", "2.0.0"], [5, 6])
    await fill()
    assert await shown() == whole
    await store.reset_projections(1)
    assert await shown() == ([A], ["1.0.0"], [5, 0])
    await fill()
    assert await shown() == whole
    await store.reset_projections()
    assert await shown() == ([], [], [0, 0])
    await fill()
    assert await shown() == whole
