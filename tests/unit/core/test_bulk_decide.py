"""Bulk operations: what follows from what, whatever comes twice or late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepweave_orchestrator.core.bulks.actions import operator_command
from stepweave_orchestrator.core.bulks.commands import RecordChunk
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_orchestrator.runtime.bulk_kind import BULK
from stepweave_schemas import events
from stepweave_schemas.bulk import BulkFilter
from stepweave_schemas.bulk_orders import RunBulk
from stepweave_schemas.codec import encode

from .bulk_scenario import BULK_ID, Bulk, request, task_id


def test_a_page_is_selected_before_anything_is_done_with_it() -> None:
    one = Bulk()
    assert one.state.stage == 0
    one.select(9, 8)
    assert one.state.pending == (task_id(9), task_id(8))
    assert (one.state.stage, one.state.cursor and one.state.cursor[1]) == (1, task_id(8))
    one.record(8)
    assert (one.state.applied_count, one.state.refused_count, one.state.stage) == (1, 1, 2)
    assert [said.task_id for said in one.state.refused] == [task_id(8)]
    assert one.select() == [events.BulkCompleted(applied_count=1, refused_count=1)]
    assert not one.state.is_open


def test_the_same_again_is_the_same_and_another_one_is_refused() -> None:
    one = Bulk()
    assert one.ask(request()) == []
    for other in (
        request(action="cancel"),
        request(filter=BulkFilter(name="x")),
        request(tasks_max=1),
        request(rate_per_second=1.0),
    ):
        assert isinstance(one.ask(other), Rejection)


def test_a_chunk_is_what_the_rate_allows_and_tasks_max_ends_it() -> None:
    one = Bulk(rate_per_second=1.5, tasks_max=4)
    assert one.state.chunk_tasks_max == 3
    assert isinstance(one.select(9, 8, 7, 6), Rejection)
    one.select(9, 8, 7)
    one.record()
    assert one.state.chunk_tasks_max == 1
    one.select(6)
    one.record()
    assert one.types[-1] == "bulk.completed"
    assert one.state.limit_reached


def test_what_is_selected_is_still_done_after_a_stop() -> None:
    one = Bulk()
    one.select(9)
    one.stop()
    assert one.stop() == []
    assert one.state.is_open
    one.record()
    assert one.types[-2:] == ["bulk.cancelled", "bulk.progressed"]
    assert not one.state.is_open
    assert one.select(8) == []


def test_a_chunk_is_told_of_whole_or_not_at_all() -> None:
    one = Bulk()
    one.select(9, 8)
    assert isinstance(one.ask(RecordChunk(number=1, applied_count=1)), Rejection)
    assert len(one.state.pending) == 2
    assert isinstance(one.ask(object()), Rejection)


def test_a_task_is_asked_the_same_thing_each_time() -> None:
    one = Bulk()
    first, again = (operator_command(one.state, task_id(1)) for _ in range(2))
    assert first == again
    assert first is not None
    assert (first.by, first.reason) == ("ada", "mended")
    other = operator_command(one.state, task_id(2))
    assert other is not None and other.request_id != first.request_id
    assert operator_command(Bulk(action="cancel").state, task_id(1)) is None


def test_each_stage_orders_the_next_and_what_is_done_orders_nothing() -> None:
    one = Bulk()
    seen = []
    for step in (lambda: None, lambda: one.select(9), lambda: one.record(), lambda: one.select()):
        step()
        [*orders] = BULK.open_orders(one.state, lambda _: 0)
        seen.append([order.payload for order in orders])
    stages = [encode(RunBulk(task_id=one.state.stream_id, stage=stage)) for stage in (0, 1, 2)]
    assert seen == [[stages[0]], [stages[1]], [stages[2]], []]


@given(st.data())
def test_each_task_is_done_once_and_none_is_lost_whatever_comes_twice(data: st.DataObject) -> None:
    """The runtime as it may be: orders come several times and late, and a crash forgets what was not told."""
    flips: st.SearchStrategy[bool] = st.booleans()
    matching = data.draw(st.integers(0, 20))
    tasks_max = data.draw(st.integers(1, 25))
    one = Bulk(tasks_max=tasks_max, rate_per_second=data.draw(st.sampled_from((0.2, 1.0, 3.0))))
    acted: dict[str, set[str]] = {}
    applied: list[str] = []
    selected: list[str] = []
    late: list[tuple[str, tuple[int, ...], int]] = []
    for _ in range(200):
        if not one.state.is_open:
            break
        if data.draw(flips) and late:
            what, numbers, chunk = late[data.draw(st.integers(0, len(late) - 1))]
            before = one.state.version
            if what == "select":
                one.select(*numbers, chunk=chunk)
            else:
                one.record(chunk=chunk)
            assert one.state.version == before
            continue
        if one.state.pending:
            for task in one.state.pending:
                # A task does what it is asked once for each request id.
                command = operator_command(one.state, task)
                assert command is not None
                known = acted.setdefault(task, set())
                if command.request_id not in known:
                    known.add(command.request_id)
                    applied.append(task)
            if data.draw(flips):
                chunk = one.state.chunk_number
                one.record()
                late.append(("record", (), chunk))
            continue
        after = matching if one.state.cursor is None else int(one.state.cursor[1][-12:]) - 1
        page = tuple(range(after, 0, -1))[: one.state.chunk_tasks_max]
        if data.draw(flips):
            chunk = one.state.chunk_number + 1
            one.select(*page)
            selected += map(task_id, page)
            if page:
                late.append(("select", page, chunk))
    assert len(applied) == len(set(applied))
    done = set(selected) - set(one.state.pending)
    assert done <= set(applied) <= set(selected)
    if one.state.status == "complete":
        assert applied == [task_id(number) for number in range(matching, 0, -1)][:tasks_max]
        assert one.state.applied_count == min(matching, tasks_max)
    assert one.state.bulk_id == BULK_ID
