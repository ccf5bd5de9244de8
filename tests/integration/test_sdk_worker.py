"""The worker against a real nats-server; the orchestrator's side of the wire is played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, KeyValueConfig, RetentionPolicy, StreamConfig

from stepweave import PermanentError, Registry, RetryableError, StepHandler, Worker, inputs, step_handler
from stepweave.errors import ConfigurationError
from stepweave.messaging import (
    ACK,
    ConnectFailed,
    Connection,
    JetStreamPublisher,
    Outgoing,
    PullLoop,
    delivery_of,
)
from stepweave.testing import eventually, make_dispatch
from stepweave_orchestrator.embedded import EmbeddedNats
from stepweave_schemas import subjects
from stepweave_schemas.api import GetResults, ResultsReply, operation_subject
from stepweave_schemas.codec import decode_outcomes, encode
from stepweave_schemas.dispatch import RESULT_BYTES_MAX, Dispatch
from stepweave_schemas.result import HANDLER_MISSING, AnyOutcome, Failure, Lost, Released, Started, Success

SHARD = 3
ACK_WAIT_SECONDS = 1.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    async with EmbeddedNats(tmp_path / "nats") as nats:
        yield nats


class Side:
    """The orchestrator's side: gives out dispatches, collects outcomes."""

    def __init__(self, connection: Connection, publisher: JetStreamPublisher) -> None:
        self.connection = connection
        self.publisher = publisher
        self.outcomes: list[AnyOutcome] = []
        self.messages: list[Msg] = []
        self.sent: dict[str, Dispatch] = {}

    async def make_streams(self, ack_wait: float = ACK_WAIT_SECONDS) -> None:
        js = self.connection.client.jetstream()
        work = RetentionPolicy.WORK_QUEUE
        await js.add_stream(
            StreamConfig(name="CMD", subjects=list(subjects.CMD_STREAM_SUBJECTS), retention=work)
        )
        await js.add_consumer("CMD", ConsumerConfig(durable_name="shard", ack_policy=AckPolicy.EXPLICIT))
        await js.add_stream(
            StreamConfig(
                name=subjects.dispatch_stream("default"),
                subjects=[subjects.dispatch_stream_subjects("default")],
                retention=work,
            )
        )
        for priority in subjects.PRIORITY_CLASSES:
            await js.add_consumer(
                subjects.dispatch_stream("default"),
                ConsumerConfig(
                    durable_name=subjects.dispatch_consumer("default", priority),
                    filter_subject=subjects.dispatches("default", "default", priority),
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=ack_wait,
                    max_ack_pending=10_000,
                ),
            )

    def take(self, messages: list[Msg]) -> None:
        for message in messages:
            self.messages.append(message)
            self.outcomes += decode_outcomes(message.data)
            self.connection.send(message.reply, ACK, keep=True)

    def prepare(self, handler: str, context: Any = None, **fields: Any) -> tuple[Dispatch, Outgoing]:
        extra = {key: fields.pop(key) for key in ("dependency_results_complete", "attempt") if key in fields}
        dispatch = make_dispatch(context, handler=handler, **fields)
        dispatch = msgspec.structs.replace(
            dispatch, result_subject=subjects.result("default", SHARD, dispatch.task_id), **extra
        )
        self.sent[dispatch.lease_token] = dispatch
        priority = subjects.priority_class(dispatch.priority)
        subject = subjects.dispatch("default", "default", priority, dispatch.lease_token)
        return dispatch, Outgoing(subject, encode(dispatch))

    async def dispatch(self, handler: str, context: Any = None, **fields: Any) -> Dispatch:
        dispatch, message = self.prepare(handler, context, **fields)
        await self.publisher.publish_all([message])
        return dispatch

    def of(self, dispatch: Dispatch) -> list[AnyOutcome]:
        return [one for one in self.outcomes if one.lease_token == dispatch.lease_token]

    async def outcome(self, dispatch: Dispatch, timeout_seconds: float = 60.0) -> AnyOutcome:
        def final() -> AnyOutcome | None:
            return next((one for one in self.of(dispatch) if not isinstance(one, Started)), None)

        found: AnyOutcome = await eventually(final, timeout_seconds=timeout_seconds, what="an outcome")
        assert found.task_id == dispatch.task_id
        assert (found.step_uuid, found.step_name) == (dispatch.step_uuid, dispatch.step_name)
        assert found.attempt == dispatch.attempt
        return found

    async def unacknowledged(self) -> int:
        """Dispatches that are waiting or given out."""
        info = await self.connection.client.jetstream().stream_info(subjects.dispatch_stream("default"))
        return int(info.state.messages)

    async def all_acknowledged(self) -> None:
        async def empty() -> bool:
            return await self.unacknowledged() == 0

        await eventually(empty, what="every dispatch acknowledged")


@pytest.fixture
async def side(server: EmbeddedNats) -> AsyncIterator[Side]:
    async with (
        await Connection.open(server.url, name="side") as connection,
        JetStreamPublisher(connection) as publisher,
    ):
        side = Side(connection, publisher)
        await side.make_streams()
        pull = PullLoop(connection, "CMD", "shard", batch=500, on_messages=side.take)
        await pull.start()
        yield side
        await pull.stop()


@pytest.fixture
def make_worker(server: EmbeddedNats) -> Callable[..., Worker]:
    def make(*handlers: Any, **options: Any) -> Worker:
        options.setdefault("heartbeat_seconds", 0.3)
        return Worker(server.url, handlers=Registry(handlers), worker_id="w1", **options)

    return make


@step_handler("echo")
async def echo(context: Any) -> Any:
    return {"got": context.input_data, "from": context.dependency_results, "attempt": context.attempt}


@step_handler("echo_plain")
@inputs("number")
def echo_plain(number: int) -> dict[str, Any]:
    return {"number": number, "thread": threading.current_thread().name}


async def test_async_and_plain_handlers(side: Side, make_worker: Callable[..., Worker]) -> None:
    async with make_worker(echo, echo_plain):
        first = await side.dispatch("echo", {"a": 1}, dependencies={"before": [1, 2]}, attempt=2)
        second = await side.dispatch("echo_plain", {"number": 7})
        outcome = await side.outcome(first)
        assert isinstance(outcome, Success)
        assert json.loads(bytes(outcome.result)) == {
            "got": {"a": 1},
            "from": {"before": [1, 2]},
            "attempt": 2,
        }
        assert outcome.worker_id == "w1"
        assert outcome.started_at_ms is not None
        assert outcome.duration_ms is not None
        plain = await side.outcome(second)
        assert isinstance(plain, Success)
        result = json.loads(bytes(plain.result))
        assert result["number"] == 7
        assert result["thread"].startswith("stepweave-handler")
        await side.all_acknowledged()


async def test_a_burst_is_packed_and_answered_once_each(
    side: Side, make_worker: Callable[..., Worker]
) -> None:
    count = 2_000
    prepared = [side.prepare("echo", {"n": number}) for number in range(count)]
    await side.publisher.publish_all(message for _, message in prepared)
    async with make_worker(echo, concurrency=100):
        await eventually(lambda: len(side.outcomes) >= count, timeout_seconds=30)
        await side.all_acknowledged()
    assert len({one.lease_token for one in side.outcomes}) == count == len(side.outcomes)
    assert all(isinstance(one, Success) for one in side.outcomes)
    packed = [message for message in side.messages if message.data.startswith(b"[")]
    assert packed and len(side.messages) < count / 4
    assert {subjects.parse_result(message.subject).task_id for message in packed} == {"_"}  # type: ignore[union-attr]


async def test_failures_of_every_kind(side: Side, make_worker: Callable[..., Worker]) -> None:
    @step_handler("declined")
    async def declined() -> None:
        raise PermanentError("card declined", error_code="CARD_DECLINED", metadata={"card": "4242"})

    @step_handler("busy")
    async def busy() -> None:
        raise RetryableError("slow down", retry_after=2.5)

    @step_handler("bug")
    async def bug() -> None:
        raise KeyError("oops")

    @step_handler("exits")
    async def exits() -> None:
        raise SystemExit(1)

    @step_handler("exits_plain")
    def exits_plain() -> None:
        raise SystemExit(1)

    @step_handler("not_json")
    async def not_json() -> Any:
        return {"rows": [{"when": object()}]}

    @step_handler("too_large")
    async def too_large() -> Any:
        return "x" * (10 * 1024 * 1024)

    @step_handler("stray_cancel")
    async def stray_cancel() -> None:
        raise asyncio.CancelledError

    handlers = [declined, busy, bug, exits, exits_plain, not_json, too_large, stray_cancel]
    async with make_worker(*handlers):

        async def failure(handler: str) -> Failure:
            outcome = await side.outcome(await side.dispatch(handler))
            assert isinstance(outcome, Failure)
            return outcome

        one = await failure("declined")
        assert (one.error_type, one.error_code, one.retryable) == ("permanent_error", "CARD_DECLINED", False)
        assert one.error_message == "card declined"
        assert json.loads(bytes(one.metadata)) == {"card": "4242"}

        one = await failure("busy")
        assert (one.error_type, one.retryable, one.retry_after_ms) == ("retryable_error", True, 2500)

        one = await failure("bug")
        assert (one.error_type, one.error_code, one.retryable) == ("handler_error", "KeyError", True)
        assert "raise KeyError" in json.loads(bytes(one.metadata))["traceback"]

        for name in ("exits", "exits_plain"):
            one = await failure(name)
            assert (one.error_type, one.error_code, one.retryable) == ("handler_error", "SystemExit", True)

        one = await failure("not_json")
        assert (one.error_type, one.error_code) == ("permanent_error", "RESULT_NOT_SERIALIZABLE")
        assert "result.rows[0].when" in one.error_message

        one = await failure("too_large")
        assert (one.error_type, one.error_code) == ("permanent_error", "RESULT_TOO_LARGE")
        assert str(RESULT_BYTES_MAX) in one.error_message

        one = await failure("stray_cancel")
        assert (one.error_type, one.retryable) == ("handler_error", True)

        await side.all_acknowledged()


async def test_a_step_whose_handler_is_not_here_is_handed_back(
    side: Side, make_worker: Callable[..., Worker]
) -> None:
    @step_handler("known")
    async def known() -> None: ...

    async with make_worker(known) as worker:
        outcome = await side.outcome(await side.dispatch("unknown_name"))
        assert isinstance(outcome, Released)
        assert outcome.reason == HANDLER_MISSING
        assert worker.released_count == 1
        await side.all_acknowledged()


async def test_timeouts_of_async_and_plain_handlers(side: Side, make_worker: Callable[..., Worker]) -> None:
    release = threading.Event()
    seen: dict[str, Any] = {}

    @step_handler("slow")
    async def slow(context: Any) -> None:
        context.heartbeat({"row": 17})
        await asyncio.sleep(3600)

    @step_handler("stubborn")
    async def stubborn() -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    @step_handler("hangs")
    def hangs(context: Any) -> None:
        release.wait(30)
        seen["cancelled"] = context.cancelled

    async with make_worker(slow, stubborn, hangs, threads_max=1, concurrency=5) as worker:
        for name in ("slow", "hangs", "stubborn"):
            outcome = await side.outcome(await side.dispatch(name, timeout_seconds=0.1))
            assert isinstance(outcome, Failure)
            assert (outcome.error_type, outcome.error_code) == ("timeout", "STEP_TIMEOUT")
            assert outcome.retryable
            if name == "slow":
                assert json.loads(bytes(outcome.metadata)) == {"last_heartbeat": {"row": 17}}
        # Both go on, and keep their slots until they end.
        assert worker._pool.running_count == 2
        waiting = await side.dispatch("hangs", timeout_seconds=20)
        await eventually(lambda: worker._pool.waiting_count == 1)
        release.set()
        assert isinstance(await side.outcome(waiting), Success)
        await eventually(lambda: worker._pool.running_count == 0)
        assert seen["cancelled"] is False or seen["cancelled"] is True
        await side.all_acknowledged()


async def test_long_steps_are_announced_and_keep_their_lease(
    side: Side, make_worker: Callable[..., Worker]
) -> None:
    release = asyncio.Event()

    @step_handler("long")
    async def long() -> str:
        await release.wait()
        return "done"

    async with make_worker(long, announce_after_ms=50):
        dispatch = await side.dispatch("long")
        started = await eventually(lambda: side.of(dispatch), what="the announcement")
        assert isinstance(started[0], Started)
        # Well beyond the lease of a second: without heartbeats it would be delivered again and reported lost.
        await asyncio.sleep(2.5 * ACK_WAIT_SECONDS)
        assert len(side.of(dispatch)) == 1
        release.set()
        assert isinstance(await side.outcome(dispatch), Success)
        assert len(side.of(dispatch)) == 2
        await side.all_acknowledged()


async def test_a_redelivery_is_reported_as_lost_and_not_run(
    side: Side, make_worker: Callable[..., Worker]
) -> None:
    runs: list[str] = []

    @step_handler("once")
    async def once(context: Any) -> None:
        runs.append(context.step_uuid)

    dispatch = await side.dispatch("once")
    # A worker that dies with the step in its hands.
    taken: list[Msg] = []
    async with await Connection.open(side.connection.servers, name="dying") as dying:
        consumer = subjects.dispatch_consumer("default", "normal")
        pull = PullLoop(
            dying, subjects.dispatch_stream("default"), consumer, batch=1, on_messages=taken.extend
        )
        await pull.start()
        await eventually(lambda: taken)
    delivery = delivery_of(taken[0].reply)
    assert delivery is not None
    assert delivery.deliveries == 1
    async with make_worker(once) as worker:
        outcome = await side.outcome(dispatch)
        assert isinstance(outcome, Lost)
        assert outcome.deliveries == 2
        await side.all_acknowledged()
        assert runs == []
        assert worker.lost_count == 1


async def all_lanes_asked(worker: Worker) -> None:
    """Wait until the worker has looked into all lanes, and takes from any of them what comes."""
    await eventually(lambda: all(pull.outstanding for pull in worker._pulls), what="a pull for each class")


async def test_priorities_come_first(side: Side, make_worker: Callable[..., Worker]) -> None:
    order: list[int] = []
    gate = asyncio.Event()

    @step_handler("ordered")
    async def ordered(context: Any) -> None:
        await gate.wait()
        order.append(context.priority)

    async with make_worker(ordered, concurrency=1) as worker:
        await all_lanes_asked(worker)
        first = await side.dispatch("ordered")
        await eventually(lambda: side.of(first), what="the first one running")
        for priority in (-5, 0, 5):
            await side.dispatch("ordered", priority=priority)
        await eventually(lambda: worker._pool.waiting_count >= 2)
        gate.set()
        await eventually(lambda: len(order) == 4)
    assert order[0] == 0
    assert order.index(5) < order.index(-5)


async def test_drain_hands_back_what_has_not_started(side: Side, make_worker: Callable[..., Worker]) -> None:
    gate = asyncio.Event()

    @step_handler("gated")
    async def gated() -> str:
        await gate.wait()
        return "finished"

    @step_handler("endless")
    async def endless() -> None:
        await asyncio.sleep(3600)

    worker = make_worker(gated, endless, concurrency=2, grace_seconds=0.5)
    await worker.start()
    await all_lanes_asked(worker)
    running = await side.dispatch("gated")
    forever = await side.dispatch("endless")
    await eventually(lambda: worker._pool.running_count == 2)
    # Two classes still have a pull open, so these two land here and find no slot.
    waiting = [await side.dispatch("gated", priority=5), await side.dispatch("gated", priority=-5)]
    await eventually(lambda: worker._pool.waiting_count == 2)
    stopping = asyncio.create_task(worker.stop())
    for dispatch in waiting:
        assert isinstance(await side.outcome(dispatch), Released)
    gate.set()
    assert isinstance(await side.outcome(running), Success)
    outcome = await side.outcome(forever)
    assert isinstance(outcome, Failure)
    assert (outcome.error_code, outcome.retryable) == ("WORKER_SHUTDOWN", True)
    await stopping
    await side.all_acknowledged()


async def test_a_try_without_a_slot_goes_to_another_worker(
    side: Side, make_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepweave.worker.worker.QUEUE_SECONDS_MAX", 0.2)
    gate = asyncio.Event()

    @step_handler("gated")
    async def gated() -> None:
        await gate.wait()

    async with make_worker(gated, concurrency=1) as worker:
        await all_lanes_asked(worker)
        first = await side.dispatch("gated")
        await eventually(lambda: side.of(first), what="the first one running")
        second = await side.dispatch("gated", priority=5)
        assert isinstance(await side.outcome(second), Released)
        gate.set()
        assert isinstance(await side.outcome(first), Success)


async def test_cancel_notice_ends_running_and_waiting_tries(
    side: Side, make_worker: Callable[..., Worker]
) -> None:
    ended: list[str] = []
    gate = threading.Event()

    @step_handler("waits")
    async def waits(context: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("async" if context.cancelled else "?")

    @step_handler("waits_plain")
    def waits_plain(context: Any) -> None:
        while not context.cancelled:
            gate.wait(0.01)
        ended.append("plain")

    async with make_worker(waits, waits_plain, concurrency=2) as worker:
        await all_lanes_asked(worker)
        tries = [await side.dispatch(name) for name in ("waits", "waits_plain")]
        await eventually(lambda: worker._pool.running_count == 2)
        queued = await side.dispatch("waits", priority=5)
        await eventually(lambda: worker._pool.waiting_count == 1)
        subject = subjects.cancel_notice("default")
        side.connection.send(subject, b"not json")
        for dispatch in (*tries, queued):
            notice = {"task_id": dispatch.task_id, "step_uuids": [dispatch.step_uuid]}
            side.connection.send(subject, encode(notice))
        await eventually(lambda: sorted(ended) == ["async", "plain"])
        await side.all_acknowledged()
        assert await side.outcome(await side.dispatch("unknown"))
    # What a function returns all the same is said, to be recorded; of the others there is nothing to say.
    said = [one for dispatch in (*tries, queued) for one in side.of(dispatch) if not isinstance(one, Started)]
    assert [(one.lease_token, type(one)) for one in said] == [(tries[1].lease_token, Success)]


async def test_a_cancelled_handler_that_does_not_listen_holds_up_no_shutdown(
    side: Side, make_worker: Callable[..., Worker]
) -> None:
    gate = threading.Event()

    @step_handler("deaf")
    def deaf() -> None:
        gate.wait(60)

    async with make_worker(deaf) as worker:
        dispatch = await side.dispatch("deaf")
        await eventually(lambda: worker._pool.running_count == 1)
        notice = {"task_id": dispatch.task_id, "step_uuids": [dispatch.step_uuid]}
        side.connection.send(subjects.cancel_notice("default"), encode(notice))
        await eventually(lambda: next(iter(worker._pool._running)).context.cancelled)
        await worker.stop(grace_seconds=0.01)
        await side.all_acknowledged()
    gate.set()
    assert all(isinstance(one, Started) for one in side.of(dispatch))


async def test_missing_dependency_results_are_fetched_page_by_page(
    side: Side, make_worker: Callable[..., Worker]
) -> None:
    asked: list[GetResults] = []

    def answer(message: Msg) -> None:
        request = msgspec.json.decode(message.data, type=GetResults)
        asked.append(request)
        pages = [{"a": msgspec.Raw(b"1"), "near": msgspec.Raw(b'"old"')}, {"b": msgspec.Raw(b"2")}]
        next_offset = request.offset + 1 if request.offset + 1 < len(pages) else None
        reply = ResultsReply(results=pages[request.offset], next_offset=next_offset)
        side.connection.send(message.reply, encode(reply))

    await side.connection.subscribe(operation_subject("task.results"), answer)
    async with make_worker(echo):
        dispatch = await side.dispatch(
            "echo", dependencies={"near": "inline"}, dependency_results_complete=False
        )
        outcome = await side.outcome(dispatch)
        assert isinstance(outcome, Success)
        assert json.loads(bytes(outcome.result))["from"] == {"near": "inline", "a": 1, "b": 2}
        assert [(one.task_id, one.step_name) for one in asked] == [(dispatch.task_id, "step")] * 2


async def test_forged_messages_do_no_harm(side: Side, make_worker: Callable[..., Worker]) -> None:
    subject = subjects.dispatch("default", "default", "normal", "some-token")
    dispatch, _ = side.prepare("echo")
    bad_subject = msgspec.structs.replace(dispatch, result_subject="$JS.API.STREAM.DELETE.CMD")
    bad_attempt = msgspec.structs.replace(dispatch, attempt=0)
    forged = [b"", b"not json", b"[]", b'{"kind":"dispatch"}', b"\xff\xfe", b"[" * 2000]
    forged += [encode(bad_subject), encode(bad_attempt), b"{" + b" " * 1_000_000]
    async with make_worker(echo):
        await side.publisher.publish_all(Outgoing(subject, payload) for payload in forged)
        assert isinstance(await side.outcome(await side.dispatch("echo")), Success)
        await side.all_acknowledged()
    assert len(side.outcomes) == 1


async def test_work_goes_on_after_nats_was_killed(
    server: EmbeddedNats, side: Side, make_worker: Callable[..., Worker]
) -> None:
    gate = asyncio.Event()

    @step_handler("gated")
    async def gated() -> str:
        await gate.wait()
        return "over the break"

    async with make_worker(gated, echo) as worker:
        held = await side.dispatch("gated")
        await eventually(lambda: worker._pool.running_count == 1)
        await server.kill()
        gate.set()
        await eventually(lambda: worker._pool.running_count == 0)
        await server.start()
        assert isinstance(await side.outcome(held, timeout_seconds=20), Success)
        assert isinstance(await side.outcome(await side.dispatch("echo")), Success)
        await side.all_acknowledged()
    assert len(side.of(held)) in (1, 2)


async def test_it_waits_for_streams_and_says_who_it_is(server: EmbeddedNats) -> None:
    async with (
        Worker(server.url, handlers=[echo], namespaces=["later"], queues=["default", "gpu"]),
        await Connection.open(server.url, name="side") as connection,
    ):
        await connection.flush()
    async with await Connection.open(server.url, name="side") as connection:
        bucket = await connection.client.jetstream().create_key_value(
            KeyValueConfig(bucket=subjects.WORKERS_BUCKET, ttl=30, history=1)
        )
        async with Worker(server.url, handlers=[echo], concurrency=7) as worker:
            key = subjects.token(worker.worker_id)

            async def entry() -> bytes | None:
                with contextlib.suppress(Exception):
                    return bytes((await bucket.get(key)).value or b"")
                return None

            said = json.loads(await eventually(entry, what="the presence") or b"")
            assert said["worker_id"] == worker.worker_id
            assert said["handlers"] == ["echo"]
            assert (said["concurrency"], said["running"], said["pid"]) == (7, 0, os.getpid())
        assert await entry() is None


async def test_a_worker_without_handlers_does_not_start(server: EmbeddedNats) -> None:
    with pytest.raises(ConfigurationError, match="no handlers"):
        await Worker(server.url, handlers=Registry()).start()
    with pytest.raises(ConfigurationError, match="namespaces"):
        Worker(server.url, namespaces=[])
    with pytest.raises(ConnectFailed, match="no NATS server answers"):
        await Worker("nats://127.0.0.1:1", handlers=[echo], connect_timeout_seconds=0.2).run()


async def test_run_ends_when_asked(side: Side, make_worker: Callable[..., Worker]) -> None:
    worker = make_worker(echo)
    running = asyncio.create_task(worker.run())
    assert isinstance(await side.outcome(await side.dispatch("echo")), Success)
    worker.request_stop()
    await asyncio.wait_for(running, 10)
    with pytest.raises(RuntimeError, match="started once"):
        await worker.start()


async def test_class_handlers_and_methods(side: Side, make_worker: Callable[..., Worker]) -> None:
    class Refund(StepHandler):
        handler_name = "refund"

        def call(self, context: Any) -> Any:
            return self.success({"refunded": context.get_config("amount")}, metadata={"by": "class"})

        async def partly(self, context: Any) -> Any:
            return self.failure("not allowed", error_code="NO", retryable=False)

    async with make_worker(Refund):
        outcome = await side.outcome(await side.dispatch("refund", config={"amount": 5}))
        assert isinstance(outcome, Success)
        assert json.loads(bytes(outcome.result)) == {"refunded": 5}
        assert json.loads(bytes(outcome.metadata)) == {"by": "class"}
        failure = await side.outcome(await side.dispatch("refund", method="partly"))
        assert isinstance(failure, Failure)
        assert (failure.error_code, failure.retryable) == ("NO", False)
        missing = await side.outcome(await side.dispatch("refund", method="nothing"))
        assert isinstance(missing, Failure)
        assert missing.error_code == "HANDLER_METHOD_NOT_FOUND"


PROGRAM = """
import asyncio, os, sys, time
from stepweave import Worker, step_handler

@step_handler("gated")
async def gated(context):
    print("running", flush=True)
    await asyncio.sleep(float(sys.argv[2]))
    return "done"

@step_handler("hangs")
def hangs(context):
    print("running", flush=True)
    time.sleep(3600)

@step_handler("dies")
def dies(context):
    print("running", flush=True)
    os._exit(9)

asyncio.run(Worker(sys.argv[1], grace_seconds=float(sys.argv[3])).run())
print("clean", flush=True)
"""


async def _program(server: EmbeddedNats, seconds: float, grace: float) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        server.url,
        str(seconds),
        str(grace),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 20)).strip()


async def test_sigterm_lets_the_running_step_finish(server: EmbeddedNats, side: Side) -> None:
    process = await _program(server, seconds=0.5, grace=20)
    dispatch = await side.dispatch("gated")
    assert await _line(process) == b"running"
    process.send_signal(signal.SIGTERM)
    assert isinstance(await side.outcome(dispatch), Success)
    assert await _line(process) == b"clean"
    await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    await side.all_acknowledged()


async def test_a_second_signal_ends_it_at_once(server: EmbeddedNats, side: Side) -> None:
    process = await _program(server, seconds=3600, grace=3600)
    await side.dispatch("hangs")
    assert await _line(process) == b"running"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert loop.time() - before < 8


async def test_a_handler_that_kills_its_process_is_a_lost_try(server: EmbeddedNats, side: Side) -> None:
    process = await _program(server, seconds=0, grace=1)
    dispatch = await side.dispatch("dies")
    assert await _line(process) == b"running"
    await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 9
    async with Worker(server.url, handlers=[echo]):
        assert isinstance(await side.outcome(dispatch), Lost)
