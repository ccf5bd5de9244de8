"""Subscribers against a real nats-server; the test publishes both feeds as an orchestrator would."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from stepweave import BaseSubscriber, Event, PermanentError, Subscriber
from stepweave.errors import ConfigurationError
from stepweave.messaging import Connection, JetStreamPublisher, Outgoing
from stepweave.testing import eventually
from stepweave_orchestrator.embedded import EmbeddedNats
from stepweave_schemas import subjects
from stepweave_schemas.api import operation_subject
from stepweave_schemas.catalogue import OUTCOME_TYPES
from stepweave_schemas.envelope import Envelope, timestamp
from stepweave_schemas.mint import now_ms, uuid7


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    async with EmbeddedNats(tmp_path / "nats") as nats:
        yield nats


class Feeds:
    """Publishes events on both feeds, as the owner of some shards does."""

    def __init__(self, connection: Connection, publisher: JetStreamPublisher) -> None:
        self.connection = connection
        self.publisher = publisher
        self.positions: dict[int, int] = defaultdict(int)
        self.versions: dict[str, int] = defaultdict(int)
        self.tasks: dict[str, tuple[str, str]] = {}
        self.published: list[Envelope] = []

    async def make_streams(self) -> None:
        js = self.connection.client.jetstream()
        await js.add_stream(StreamConfig(name="LOG", subjects=list(subjects.LOG_STREAM_SUBJECTS)))
        await js.add_stream(StreamConfig(name="EVT", subjects=list(subjects.EVT_STREAM_SUBJECTS)))

    def task(self, namespace: str = "payments", name: str = "process_order") -> str:
        task_id = uuid7()
        self.tasks[task_id] = (namespace, name)
        return task_id

    def envelope(self, task_id: str, event_type: str, shard: int = 0, **data: Any) -> Envelope:
        self.positions[shard] += 1
        self.versions[task_id] += 1
        namespace, name = self.tasks[task_id]
        if event_type == "task.created":
            data["template"] = {"namespace": namespace, "name": name, "version": "1.0.0", "hash": "x"}
        elif event_type in ("task.completed", "step.failed", "task.failed"):
            data |= {"namespace": namespace, "task_name": name}
        return Envelope(
            shard,
            self.positions[shard],
            task_id,
            self.versions[task_id],
            event_type,
            1,
            timestamp(now_ms()),
            f"corr-{task_id}",
            "cause",
            "test",
            msgspec.Raw(msgspec.json.encode({"type": event_type, **data})),
        )

    async def send(self, *envelopes: Envelope, repeat: bool = False) -> None:
        """Publish a commit: one array on the log feed, outcomes one by one."""
        if not repeat:
            self.published += envelopes
        messages: list[Outgoing] = []
        for envelope in envelopes:
            namespace, name = self.tasks[envelope.task_id]
            if envelope.type in OUTCOME_TYPES:
                subject = subjects.event(namespace, name, envelope.task_id, envelope.type)
                messages.append(Outgoing(subject, msgspec.json.encode(envelope)))
        by_shard: dict[int, list[Envelope]] = defaultdict(list)
        for envelope in envelopes:
            by_shard[envelope.shard].append(envelope)
        for shard, some in by_shard.items():
            messages.append(Outgoing(subjects.log(shard), msgspec.json.encode(some)))
        await self.publisher.publish_all(messages)

    async def emit(self, task_id: str, event_type: str, shard: int = 0, **data: Any) -> Envelope:
        envelope = self.envelope(task_id, event_type, shard, **data)
        await self.send(envelope)
        return envelope


@pytest.fixture
async def feeds(server: EmbeddedNats) -> AsyncIterator[Feeds]:
    async with (
        await Connection.open(server.url, name="orchestrator") as connection,
        JetStreamPublisher(connection) as publisher,
    ):
        feeds = Feeds(connection, publisher)
        await feeds.make_streams()
        yield feeds


@pytest.fixture
def make(server: EmbeddedNats) -> Callable[..., Subscriber]:
    def make(name: str = "tracking", **options: Any) -> Subscriber:
        options = {"lease_seconds": 1.0, "retry_seconds_min": 0.01, "retry_seconds_max": 0.05, **options}
        return Subscriber(name, nats_url=server.url, **options)

    return make


class Tracker(BaseSubscriber):
    """The order-tracking subscriber of the seed texts."""

    subscribe_to = ("task.completed", "step.failed")

    def __init__(self) -> None:
        self.analytics: list[Any] = []
        self.alerts: list[str] = []

    def handle_task_completed(self, event: Event) -> None:
        if event["task_name"] != "process_order":
            return
        self.analytics.append(("order_completed", event["context"]))

    def handle_step_failed(self, event: Event) -> None:
        if event["step_name"] == "process_payment":
            self.alerts.append(
                f"Payment failure for order {event['context']['order_id']}: {event['error_message']}"
            )


@pytest.mark.parametrize("feed", ["signal", "log"])
async def test_the_seed_subscriber(feeds: Feeds, make: Callable[..., Subscriber], feed: str) -> None:
    tracker = Tracker()
    subscriber = make(tracker.subscriber_name(), feed=feed)
    subscriber.add(tracker)
    assert subscriber.name == "tracker"
    async with subscriber:
        order, other = feeds.task(), feeds.task(name="other")
        await feeds.emit(order, "task.completed", context={"order_id": 7})
        await feeds.emit(other, "task.completed", context={"order_id": 8})
        await feeds.emit(
            order,
            "step.failed",
            step_name="process_payment",
            step_uuid="s",
            context={"order_id": 7},
            error_message="card declined",
        )
        await eventually(lambda: tracker.alerts)
        assert tracker.analytics == [("order_completed", {"order_id": 7})]
        assert tracker.alerts == ["Payment failure for order 7: card declined"]


async def test_events_by_item_and_attribute(feeds: Feeds, make: Callable[..., Subscriber]) -> None:
    seen: list[Event] = []
    subscriber = make()
    subscriber.on("step.failed")(seen.append)
    async with subscriber:
        task = feeds.task()
        sent = await feeds.emit(task, "step.failed", step_name="pay", error_message="no", context={"a": 1})
        await eventually(lambda: seen)
    event = seen[0]
    assert event.type == event["type"] == "step.failed"
    assert event.task_uuid == event["task_id"] == task
    assert event.step_name == "pay"
    assert event["context"]["a"] == 1
    assert (event.namespace, event.task_name) == ("payments", "process_order")
    assert (event.shard, event.position, event.version) == (0, sent.position, sent.version)
    assert event.correlation_id == f"corr-{task}"
    assert event.get("nothing") is None
    assert event.data["error_message"] == "no"
    with pytest.raises(KeyError, match=r"step\.failed has no 'nothing'; it has: .*step_name"):
        event["nothing"]
    with pytest.raises(AttributeError, match="has no 'nothing'"):
        _ = event.nothing


async def test_a_restart_goes_on_where_it_stopped(feeds: Feeds, make: Callable[..., Subscriber]) -> None:
    seen: list[int] = []

    def fresh() -> Subscriber:
        subscriber = make()
        subscriber.on("task.completed")(lambda event: seen.append(event["context"]["n"]))
        return subscriber

    await feeds.emit(feeds.task(), "task.completed", context={"n": -1})
    for part in range(3):
        async with fresh():
            for number in range(part * 10, part * 10 + 5):
                await feeds.emit(feeds.task(), "task.completed", context={"n": number})
            await eventually(lambda: len(seen) % 5 == 0 and len(seen) > part * 10)  # noqa: B023
        for number in range(part * 10 + 5, part * 10 + 10):
            await feeds.emit(feeds.task(), "task.completed", context={"n": number})
    async with fresh():
        await eventually(lambda: len(seen) == 30)
    assert sorted(seen) == list(range(30))


@pytest.mark.parametrize("patterns", [("task.*", "step.failed"), ("*",)])
async def test_order_in_a_task_concurrency_between_tasks(
    feeds: Feeds, make: Callable[..., Subscriber], patterns: tuple[str, ...]
) -> None:
    seen: dict[str, list[int]] = defaultdict(list)
    running = 0
    most = 0
    subscriber = make(concurrency=8)

    @subscriber.on(*patterns)
    async def handle(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        seen[event.task_id].append(event.version)

    async with subscriber:
        tasks = [feeds.task() for _ in range(20)]
        for _ in range(10):
            await feeds.send(
                *(feeds.envelope(task, "task.created", shard=n % 4) for n, task in enumerate(tasks))
            )
        await eventually(lambda: sum(map(len, seen.values())) == 200)
    assert all(versions == list(range(1, 11)) for versions in seen.values())
    assert 1 < most <= 8


async def test_repeated_events_are_dropped(feeds: Feeds, make: Callable[..., Subscriber]) -> None:
    seen: list[int] = []
    subscriber = make(feed="log")
    subscriber.on("*")(lambda event: seen.append(event.position))
    async with subscriber:
        task = feeds.task()
        envelopes = [feeds.envelope(task, "task.created") for _ in range(6)]
        await feeds.send(*envelopes[:3])
        await feeds.send(*envelopes[1:5], repeat=True)
        await feeds.send(*envelopes[:5], repeat=True)
        await feeds.send(envelopes[5])
        await eventually(lambda: 6 in seen)
    assert seen == [1, 2, 3, 4, 5, 6]


async def test_retry_then_park_retry_and_discard(feeds: Feeds, make: Callable[..., Subscriber]) -> None:
    calls: dict[int, int] = defaultdict(int)
    seen: list[int] = []
    healed = False
    subscriber = make(max_attempts=3)

    @subscriber.on("task.completed")
    async def handle(event: Event) -> None:
        number = event["context"]["n"]
        calls[number] += 1
        if number == 2 and calls[number] < 3:
            raise RuntimeError("not yet")
        if number in (3, 5) and not healed:
            raise ValueError("never") if number == 3 else PermanentError("hopeless")
        seen.append(number)

    @subscriber.on("task.completed")
    def other(event: Event) -> None:
        calls[-event["context"]["n"]] += 1

    async with subscriber:
        task = feeds.task()
        for number in range(1, 7):
            await feeds.emit(task, "task.completed", context={"n": number})
        await eventually(lambda: 6 in seen)
        assert seen == [1, 2, 4, 6]
        assert (calls[2], calls[3], calls[5]) == (3, 3, 1)
        # The other handler saw each event once, whatever the first one did.
        await eventually(lambda: calls[-6] == 1)
        assert [calls[-number] for number in range(1, 7)] == [1] * 6
        parked = await subscriber.list_parked()
    assert [one.envelope.version for one in parked] == [3, 5]
    assert parked[0].handler == "handle"
    assert parked[0].error == "ValueError: never"
    assert "raise ValueError" in parked[0].traceback
    assert (parked[0].attempts, parked[1].attempts) == (3, 1)
    assert (parked[0].namespace, parked[0].task_name) == ("payments", "process_order")

    # Stopped or not, they can be looked at, retried and discarded.
    assert await subscriber.retry_parked(parked[0].id) == {parked[0].id: "ValueError: never"}
    healed = True
    assert await subscriber.retry_parked(parked[0].id) == {parked[0].id: None}
    assert seen[-1] == 3
    assert [one.id for one in await subscriber.list_parked()] == [parked[1].id]
    assert await subscriber.discard_parked() == 1
    assert await subscriber.list_parked() == []
    assert await subscriber.retry_parked("nope") == {"nope": "no such parked event"}


async def test_start_all_positions_and_time(feeds: Feeds, make: Callable[..., Subscriber]) -> None:
    async def read(name: str, count: int, start: Any, feed: str) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        subscriber = make(name, start=start, feed=feed)
        subscriber.on("task.completed")(lambda event: seen.append((event.shard, event.position)))
        async with subscriber:
            await eventually(lambda: len(seen) >= count)
        return sorted(seen)

    for shard in (0, 1):
        for _ in range(3):
            await feeds.emit(feeds.task(), "task.completed", shard=shard, context={})
    await asyncio.sleep(0.02)
    moment = datetime.now(UTC)
    await asyncio.sleep(0.02)
    await feeds.emit(feeds.task(), "task.completed", shard=0, context={})
    everything = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (1, 3)]
    for feed in ("signal", "log"):
        assert await read(f"all-{feed}", 7, "all", feed) == everything
        assert await read(f"at-{feed}", 4, {0: 2, 1: 1}, feed) == [(0, 3), (0, 4), (1, 2), (1, 3)]
        assert await read(f"since-{feed}", 1, moment, feed) == [(0, 4)]
    with pytest.raises(ConfigurationError, match="time zone"):
        await read("naive", 1, datetime(2026, 1, 1), "log")
    rewound = make("all-log", start="all", feed="log")
    await rewound.rewind()
    assert await read("all-log", 7, "all", "log") == everything


async def test_namespace_filter_on_both_feeds(feeds: Feeds, make: Callable[..., Subscriber]) -> None:
    asked: list[bytes] = []

    def answer(message: Msg) -> None:
        asked.append(message.data)
        task_id = json.loads(message.data)["task_id"]
        namespace, name = feeds.tasks[task_id]
        body = task_response(task_id, namespace, name)
        feeds.connection.send(message.reply, msgspec.json.encode(body))

    await feeds.connection.subscribe(operation_subject("task.get"), answer)
    old = feeds.task("payments")
    await feeds.emit(old, "task.created")
    seen: dict[str, list[str]] = {"signal": [], "log": []}
    plumbing: list[tuple[str, str]] = []
    signal, log = make("one", feed="signal"), make("two", feed="log")
    signal.on("task.completed", namespace="payments")(lambda event: seen["signal"].append(event.task_id))
    log.on("task.completed", namespace="payments")(lambda event: seen["log"].append(event.task_id))
    log.on("step.enqueued", namespace="payments")(
        lambda event: plumbing.append((event.task_name, event.task_id))
    )
    async with signal, log:
        new, foreign = feeds.task("payments"), feeds.task("shipping")
        for task in (old, new, foreign):
            if task != old:
                await feeds.emit(task, "task.created")
            await feeds.emit(task, "step.enqueued", step_name="s")
            await feeds.emit(task, "task.completed", context={})
        await eventually(lambda: len(seen["log"]) == len(seen["signal"]) == 2)
    assert sorted(seen["log"]) == sorted(seen["signal"]) == sorted([old, new])
    assert sorted(plumbing) == sorted([("process_order", old), ("process_order", new)])
    # Only the task whose creation was not seen had to be asked for.
    assert [json.loads(one)["task_id"] for one in asked] == [old]


def task_response(task_id: str, namespace: str, name: str) -> dict[str, Any]:
    return {
        "task_uuid": task_id,
        "name": name,
        "namespace": namespace,
        "version": "1.0.0",
        "status": "steps_in_process",
        "created_at": "",
        "updated_at": "",
        "completed_at": None,
        "context": {},
        "initiator": "",
        "source_system": "",
        "reason": "",
        "priority": 0,
        "tags": [],
        "correlation_id": "",
        "parent_correlation_id": None,
        "total_steps": 0,
        "pending_steps": 0,
        "in_progress_steps": 0,
        "completed_steps": 0,
        "failed_steps": 0,
        "ready_steps": 0,
        "execution_status": "processing",
        "recommended_action": None,
        "completion_percentage": 0.0,
        "health_status": "healthy",
        "stream_version": 1,
    }


async def test_one_process_works_another_stands_by(feeds: Feeds, make: Callable[..., Subscriber]) -> None:
    seen: list[tuple[str, int]] = []

    def fresh(who: str) -> Subscriber:
        subscriber = make()
        subscriber.on("task.completed")(lambda event: seen.append((who, event.position)))
        return subscriber

    first, second = fresh("first"), fresh("second")
    await first.start()
    await second.start()
    assert first.active
    assert not second.active
    await feeds.emit(feeds.task(), "task.completed", context={})
    await eventually(lambda: len(seen) == 1)
    await first.stop()
    await eventually(lambda: second.active)
    await feeds.emit(feeds.task(), "task.completed", context={})
    await eventually(lambda: len(seen) == 2)
    assert seen == [("first", 1), ("second", 2)]
    await second.stop()


PROGRAM = """
import asyncio, os, sys
from stepweave import Subscriber

subscriber = Subscriber("tracking", nats_url=sys.argv[1], lease_seconds=1.0)

@subscriber.on("task.completed")
async def handle(event):
    print(event.position, flush=True)
    if event.position == 3:
        await asyncio.sleep(3600)

asyncio.run(subscriber.run())
"""


async def test_a_killed_process_is_taken_over_in_order(
    server: EmbeddedNats, feeds: Feeds, make: Callable[..., Subscriber]
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, server.url, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    bucket = feeds.connection

    async def started() -> bool:
        answer = await bucket.request(
            "$JS.API.STREAM.MSG.GET.KV_subscribers",
            b'{"last_by_subj":"$KV.subscribers.tracking"}',
            timeout_seconds=5,
        )
        return b'"message"' in answer.data

    await eventually(started, what="the first process's cursor")
    task = feeds.task()
    for _ in range(5):
        await feeds.emit(task, "task.completed", context={})
    lines = [await asyncio.wait_for(process.stdout.readline(), 20) for _ in range(3)]
    assert [int(line) for line in lines] == [1, 2, 3]
    process.kill()
    await process.communicate()
    seen: list[int] = []
    subscriber = make()
    subscriber.on("task.completed")(lambda event: seen.append(event.position))
    async with subscriber:
        await eventually(lambda: 5 in seen)
    # What was under way comes again, in order; what was done a moment before may.
    assert seen[-3:] == [3, 4, 5]
    assert seen == sorted(seen)


async def test_it_goes_on_after_nats_was_killed(
    server: EmbeddedNats, feeds: Feeds, make: Callable[..., Subscriber]
) -> None:
    seen: list[int] = []
    subscriber = make()
    subscriber.on("task.completed")(lambda event: seen.append(event.position))
    async with subscriber:
        for round_number in range(3):
            task = feeds.task()
            for _ in range(20):
                await feeds.emit(task, "task.completed", context={})
            if round_number < 2:
                await server.kill()
                await server.start()
                await feeds.connection.wait_connected(10)
        await eventually(lambda: len(set(seen)) == 60, timeout_seconds=20)
    # Each once; those of one task in order. Tasks that have piled up meanwhile are handled side by side.
    assert sorted(seen) == list(range(1, 61))
    for first in (1, 21, 41):
        of_task = range(first, first + 20)
        assert [position for position in seen if position in of_task] == list(of_task)


async def test_it_goes_on_when_the_feed_is_made_anew(
    server: EmbeddedNats, feeds: Feeds, make: Callable[..., Subscriber]
) -> None:
    seen: list[int] = []
    subscriber = make()
    subscriber.on("task.completed")(lambda event: seen.append(event.position))
    async with subscriber:
        for _ in range(3):
            await feeds.emit(feeds.task(), "task.completed", context={})
        await eventually(lambda: len(seen) == 3)
        js = feeds.connection.client.jetstream()
        await js.delete_stream("LOG")
        await js.delete_stream("EVT")
        await feeds.make_streams()
        # The orchestrator publishes from where it knows the feed is whole: everything again.
        await feeds.send(*feeds.published, repeat=True)
        await feeds.emit(feeds.task(), "task.completed", context={})
        await eventually(lambda: len(seen) == 4, timeout_seconds=20)
    assert seen == [1, 2, 3, 4]


async def test_it_waits_for_a_feed_that_is_not_there_yet(
    server: EmbeddedNats, make: Callable[..., Subscriber]
) -> None:
    seen: list[int] = []
    subscriber = make()
    subscriber.on("task.completed")(lambda event: seen.append(event.position))
    async with (
        subscriber,
        await Connection.open(server.url, name="orchestrator") as connection,
        JetStreamPublisher(connection) as publisher,
    ):
        feeds = Feeds(connection, publisher)
        await feeds.make_streams()
        await feeds.emit(feeds.task(), "task.completed", context={})
        await eventually(lambda: seen == [1])


async def test_stop_waits_for_the_handler_and_keeps_the_rest(
    feeds: Feeds, make: Callable[..., Subscriber]
) -> None:
    seen: list[int] = []
    gate = threading.Event()
    subscriber = make()

    @subscriber.on("task.completed")
    def handle(event: Event) -> None:
        gate.wait(10)
        seen.append(event.position)

    await subscriber.start()
    task = feeds.task()
    for _ in range(3):
        await feeds.emit(task, "task.completed", context={})
    await eventually(lambda: subscriber._session is not None and subscriber._session._in_flight == 3)
    stopping = asyncio.create_task(subscriber.stop())
    await asyncio.sleep(0.05)
    gate.set()
    await stopping
    assert seen == [1]
    async with subscriber:
        await eventually(lambda: len(seen) == 3)
    assert seen == [1, 2, 3]


async def test_a_handler_that_takes_too_long_is_tried_again(
    feeds: Feeds, make: Callable[..., Subscriber]
) -> None:
    calls: list[float] = []
    subscriber = make(handler_timeout_seconds=0.05, max_attempts=2)

    @subscriber.on("task.completed")
    async def handle(event: Event) -> None:
        calls.append(time.monotonic())
        await asyncio.sleep(3600)

    async with subscriber:
        await feeds.emit(feeds.task(), "task.completed", context={})
        await eventually(lambda: len(calls) == 2)
        parked = await eventually(subscriber.list_parked)
    assert parked[0].error == "TimeoutError"


def test_wrong_patterns_and_names_are_refused_at_once() -> None:
    subscriber = Subscriber("x")
    with pytest.raises(ConfigurationError, match=r"'tasks\.completed'; did you mean 'task\.completed'"):
        subscriber.on("tasks.completed")
    with pytest.raises(ConfigurationError, match=r"no event type matches 'nothing\.\*'"):
        subscriber.on("nothing.*")
    with pytest.raises(ConfigurationError, match="is no event type"):
        subscriber.on("Task Completed!")
    with pytest.raises(ConfigurationError, match="needs event types"):
        subscriber.on()
    with pytest.raises(ConfigurationError, match="needs a name"):
        Subscriber("")

    class Wrong(BaseSubscriber):
        subscribe_to = "step.failed"

        def handle_task_completed(self, event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="neither handle_step_failed nor handle_event"):
        subscriber.add(Wrong())

    class Nothing(BaseSubscriber): ...

    with pytest.raises(ConfigurationError, match="subscribes to nothing"):
        subscriber.add(Nothing())


async def test_a_subscriber_without_handlers_does_not_start(server: EmbeddedNats) -> None:
    with pytest.raises(ConfigurationError, match="no handlers"):
        await Subscriber("x", nats_url=server.url).start()
