"""Patterns, feeds, progress and events of subscribers, without a server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave import BaseSubscriber, Event
from stepweave.subscriber.base import method_name
from stepweave.subscriber.cursor import CursorRecord
from stepweave.subscriber.patterns import Pattern, choose_feed, filter_subjects, stream_of
from stepweave.subscriber.progress import Progress
from stepweave_schemas.catalogue import CATALOGUE, OUTCOME_TYPES
from stepweave_schemas.envelope import Envelope


def envelope(position: int, shard: int = 0, event_type: str = "task.completed", **data: Any) -> Envelope:
    payload = msgspec.Raw(msgspec.json.encode({"type": event_type, **data}))
    at = f"2026-01-01T00:00:{position:02d}.000Z"
    return Envelope(shard, position, f"task-{shard}", position, event_type, 1, at, "c", "", "a", payload)


def test_patterns() -> None:
    assert Pattern("step.failed").types == {"step.failed"}
    assert Pattern("task.*").types == {one for one in CATALOGUE if one.startswith("task.")}
    assert Pattern("*").types == set(CATALOGUE)
    assert Pattern("*.failed").matches("task.failed")
    assert Pattern("task.*").matches("task.something_new")
    assert not Pattern("task.completed").matches("task.failed")


def test_the_feed_that_carries_what_is_wanted() -> None:
    assert choose_feed([Pattern("task.completed"), Pattern("step.failed")]) == "signal"
    assert choose_feed([Pattern("*")]) == "log"
    plumbing = next(one for one in CATALOGUE if one not in OUTCOME_TYPES)
    assert choose_feed([Pattern("task.completed"), Pattern(plumbing)]) == "log"
    assert (stream_of("signal"), stream_of("log")) == ("EVT", "LOG")


def test_filters_do_not_overlap() -> None:
    one, two = Pattern("task.completed"), Pattern("task.*")
    assert filter_subjects("log", [(one, "a")]) == ["sw.log.*"]
    assert filter_subjects("signal", [(one, "a b"), (one, "b")]) == [
        "sw.evt.a_x20b.*.*.task.completed",
        "sw.evt.b.*.*.task.completed",
    ]
    everywhere = filter_subjects("signal", [(one, "a"), (one, None), (two, "b")])
    assert len(everywhere) == len(set(everywhere)) == len(two.types)
    assert all(subject.startswith("sw.evt.*.*.*.task.") for subject in everywhere)


def test_progress_is_contiguous_and_knows_what_is_done_beyond() -> None:
    progress = Progress(CursorRecord(feed="signal", created="x", seq=10), "signal")
    messages = [progress.begin(seq) for seq in (11, 12, 13)]
    for position, message in enumerate(messages, start=1):
        assert progress.is_new(message, envelope(position))
        message.left = 1
        progress.settle(message)
    assert progress.advance().seq == 10
    messages[2].left = 0
    progress.settle(messages[2])
    assert progress.changed.is_set()
    record = progress.advance()
    assert (record.seq, record.done, record.positions) == (10, [13], {})
    messages[0].left = 0
    progress.settle(messages[0])
    record = progress.advance()
    assert (record.seq, record.done, record.positions) == (11, [13], {"0": 1})
    assert record.recorded_at == "2026-01-01T00:00:01.000Z"

    # A restart: 12 comes again and is new, 13 was done.
    stored = msgspec.json.decode(msgspec.json.encode(record), type=CursorRecord)
    restarted = Progress(stored, "signal")
    assert restarted.is_new(restarted.begin(12), envelope(2))
    assert not restarted.is_new(restarted.begin(13), envelope(3))
    assert not restarted.is_new(restarted.begin(14), envelope(3))
    assert restarted.is_new(restarted.begin(15), envelope(4))
    assert restarted.is_new(restarted.begin(16), envelope(1, shard=1))
    assert restarted.duplicates_count == 1


def test_another_feed_goes_by_time_and_position() -> None:
    record = CursorRecord(
        feed="signal",
        created="x",
        seq=50,
        done=[52],
        positions={"0": 7},
        recorded_at="2026-01-01T00:05:00.000Z",
    )
    progress = Progress(record, "log")
    assert (record.feed, record.seq, record.done, record.created) == ("log", 0, [], "")
    assert record.start_time == "2026-01-01T00:04:00.000Z"
    message = progress.begin(1)
    assert not progress.is_new(message, envelope(7))
    assert progress.is_new(message, envelope(8))
    progress.settle(message)
    assert progress.advance().start_time is None


def test_a_feed_made_anew_keeps_the_positions() -> None:
    progress = Progress(CursorRecord(feed="log", created="x", seq=50, positions={"0": 7}), "log")
    under_way = progress.begin(51)
    assert progress.is_new(under_way, envelope(8))
    under_way.left = 1
    progress.new_stream("y")
    record = progress.advance()
    assert (record.created, record.seq, len(progress)) == ("y", 0, 0)
    assert not progress.is_new(progress.begin(1), envelope(8))


def test_events_merge_envelope_and_payload() -> None:
    event = Event(
        envelope(3, event_type="task.created", template={"namespace": "n", "name": "t"}, version="payload's"),
    )
    assert (event.namespace, event.task_name) == ("n", "t")
    # The envelope's own fields win; the payload stands in `data`.
    assert event["version"] == 3
    assert event.data["version"] == "payload's"
    assert "type" not in event.data
    assert {"task_id", "task_uuid", "type", "recorded_at"} <= set(event)
    assert len(event) == len(dict(event))
    assert "task.created" in repr(event)
    with pytest.raises(AttributeError):
        _ = event._hidden


def test_subscriber_classes() -> None:
    class OrderTracking(BaseSubscriber):
        subscribe_to = ("task.*", "step.failed")

        def handle_task_completed(self, event: Event) -> None: ...

        def handle_event(self, event: Event) -> None: ...

    subscriber = OrderTracking()
    assert subscriber.subscriber_name() == "order_tracking"
    by_type = {pattern.text: method.__name__ for pattern, method in subscriber.handlers()}
    assert by_type["task.completed"] == "handle_task_completed"
    assert by_type["step.failed"] == by_type["task.failed"] == "handle_event"

    class Narrow(BaseSubscriber):
        name = "other name"
        subscribe_to = "task.*"

        def handle_task_completed(self, event: Event) -> None: ...

    assert Narrow().subscriber_name() == "other name"
    assert [pattern.text for pattern, _ in Narrow().handlers()] == ["task.completed"]
    assert method_name("step.retry_scheduled") == "handle_step_retry_scheduled"
