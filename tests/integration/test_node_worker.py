"""The Node worker of `examples/node-worker` against a real NATS server; the test plays the orchestrator."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig
from nats.js.errors import FetchTimeoutError

from stepweave_orchestrator.embedded import EmbeddedNats
from stepweave_schemas import codec, mint, result, subjects
from stepweave_schemas.dispatch import RESULT_BYTES_MAX, Dispatch
from stepweave_schemas.identity import shard_of, step_uuid

from .node_worker_process import (
    EXAMPLE,
    TIMEOUT_SECONDS,
    NodeWorker,
    example_folder,
    installed_packages,
)

NAMESPACE, QUEUE = "poly.glot", "node"
SHARDS = 8

#: Handlers that behave in all the ways that handlers do; the worker finds them with `--handlers`.
HANDLERS = """
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export const gated = async (step) => { while (!existsSync(step.context.gate)) await sleep(10); };
export const echo = (step) => ({ context: step.context, settings: step.initialization, attempt: step.attempt });
export const slow = async (step) => {
  await sleep(step.context.milliseconds);
  console.error(JSON.stringify({ what: "slept" }));
  return { slept: true };
};
export const endless = (step) => sleep(1e9, null, { signal: step.signal });
export const nothing = () => {};
export const boom = () => { throw new Error("boom \\ud83d"); };
export const refused = () => { throw Object.assign(new Error("no"), { retryable: false, error_code: "NO" }); };
export const later = () => { throw Object.assign(new Error("busy"), { retry_after_ms: 1500 }); };
export const wordy = () => { throw new Error("é".repeat(9000)); };
export const throws_nothing = () => { throw undefined; };
export const cyclic = () => { const ring = {}; ring.ring = ring; return ring; };
export const large = () => ({ text: "x".repeat(262144) });
export const emoji = () => ({ half: "\\ud83d", whole: "\\ud83d\\ude00" });
"""


# -- the worker ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def node_modules(request: pytest.FixtureRequest) -> Path:
    """The packages that the example names."""
    return installed_packages(request.config.cache)


@pytest.fixture
def worker_folder(node_modules: Path, tmp_path: Path) -> Path:
    """The example as a user has it after `npm install`, and the handlers of these tests."""
    folder = example_folder(tmp_path / "node-worker", node_modules)
    (folder / "test_handlers.mjs").write_text(HANDLERS)
    return folder


Start = Callable[..., Awaitable[NodeWorker]]


@pytest.fixture
async def start_worker(worker_folder: Path, nats_url: str) -> AsyncIterator[Start]:
    """Start workers, wait until they are ready; they are killed after the test."""
    async with AsyncExitStack() as started:

        async def start(
            *, handlers: str = "test_handlers.mjs", url: str = nats_url, **options: float
        ) -> NodeWorker:
            arguments = ["--namespace", NAMESPACE, "--queue", QUEUE, "--handlers", handlers]
            for name, value in ({"pull_seconds": 1.0} | options).items():
                arguments += [f"--{name.replace('_', '-')}", f"{value:g}"]
            worker = await NodeWorker.start(worker_folder, url, *arguments)
            started.push_async_callback(worker.kill)
            await worker.hear("ready")
            return worker

        yield start


# -- the orchestrator's side -----------------------------------------------------------------------


class Orchestrator:
    """Makes streams and consumers, dispatches steps and reads what workers say."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.jetstream = client.jetstream(timeout=TIMEOUT_SECONDS)
        self.stream = subjects.dispatch_stream(NAMESPACE)
        self._results: Any = None

    async def set_up(self, *, lease_seconds: float = 30.0) -> None:
        queue = RetentionPolicy.WORK_QUEUE
        await self.jetstream.add_stream(
            StreamConfig(
                name=subjects.CMD_STREAM, subjects=list(subjects.CMD_STREAM_SUBJECTS), retention=queue
            )
        )
        self._results = await self.jetstream.pull_subscribe("sw.res.>", durable="owner")
        dispatches = StreamConfig(
            name=self.stream, subjects=[subjects.dispatch_stream_subjects(NAMESPACE)], retention=queue
        )
        await self.jetstream.add_stream(dispatches)
        for priority in subjects.PRIORITY_CLASSES:
            config = ConsumerConfig(
                durable_name=subjects.dispatch_consumer(QUEUE, priority),
                filter_subject=subjects.dispatches(NAMESPACE, QUEUE, priority),
                ack_wait=lease_seconds,
            )
            await self.jetstream.add_consumer(self.stream, config)

    async def dispatch(
        self, handler: str, priority: subjects.PriorityClass = "normal", **fields: Any
    ) -> Dispatch:
        """Dispatch a step of a new task; `fields` are plain values of `Dispatch`."""
        task_id = mint.uuid7()
        order: dict[str, Any] = {
            "kind": "dispatch",
            "task_id": task_id,
            "step_uuid": step_uuid(task_id, "render"),
            "step_name": "render",
            "attempt": 2,
            "max_attempts": 3,
            "lease_token": mint.entropy(),
            "namespace": NAMESPACE,
            "task_name": "greeting",
            "template_version": "1.0.0",
            "handler": handler,
            "correlation_id": task_id,
            "result_subject": subjects.result(NAMESPACE, shard_of(task_id, SHARDS), task_id),
            "enqueued_at_ms": mint.now_ms(),
        }
        payload = codec.encode(order | fields)
        subject = subjects.dispatch(NAMESPACE, QUEUE, priority, order["lease_token"])
        await self.jetstream.publish(subject, payload)
        return codec.decode_dispatch(payload)

    async def next_outcome(self) -> result.AnyOutcome:
        """What a worker said next; checked against where it said it."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            (message,) = await self._results.fetch(1, timeout=TIMEOUT_SECONDS)
        await message.ack_sync(timeout=TIMEOUT_SECONDS)
        (outcome,) = codec.decode_outcomes(message.data)
        address = subjects.parse_result(message.subject)
        assert address == (NAMESPACE, shard_of(outcome.task_id, SHARDS), outcome.task_id)
        return outcome

    async def outcome_of(self, order: Dispatch, kind: type[result.Outcome]) -> Any:
        """What a worker said next, which is of this kind and about this try, and that it has acknowledged."""
        outcome = await self.next_outcome()
        assert isinstance(outcome, kind)
        assert outcome.step_uuid == order.step_uuid
        assert outcome.step_name == order.step_name
        assert outcome.attempt == order.attempt
        assert outcome.lease_token == order.lease_token
        return outcome

    async def waiting_pulls(self, priority: subjects.PriorityClass) -> int:
        name = subjects.dispatch_consumer(QUEUE, priority)
        return (await self.jetstream.consumer_info(self.stream, name)).num_waiting or 0

    async def nothing_is_open(self) -> None:
        """Every dispatch is acknowledged and nobody said anything more."""

        async def dispatches() -> int:
            state = (await self.jetstream.stream_info(self.stream)).state
            return int(state.messages)

        await until(dispatches, 0)
        with pytest.raises((FetchTimeoutError, nats.errors.TimeoutError)):
            await self._results.fetch(1, timeout=0.2)


async def until(observe: Callable[[], Awaitable[int]], wanted: int) -> None:
    """Return once `observe` says what is wanted."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while await observe() != wanted:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def orchestrator_at(url: str, *, lease_seconds: float = 30.0) -> AsyncIterator[Orchestrator]:
    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    try:
        playing = Orchestrator(client)
        await playing.set_up(lease_seconds=lease_seconds)
        yield playing
    finally:
        await client.close()


@pytest.fixture
async def orchestrator(nats_url: str) -> AsyncIterator[Orchestrator]:
    async with orchestrator_at(nats_url) as playing:
        yield playing


# -- what the protocol asks for --------------------------------------------------------------------


async def test_a_step_succeeds(orchestrator: Orchestrator, start_worker: Start) -> None:
    worker = await start_worker()
    context, settings = {"name": "Ada", "deep": [None, {"é": 1.5}]}, {"format": "text"}
    order = await orchestrator.dispatch("echo", context=context, initialization=settings)

    success = await orchestrator.outcome_of(order, result.Success)

    assert msgspec.json.decode(success.result) == {"context": context, "settings": settings, "attempt": 2}
    assert success.worker_id == (await worker.hear("ready"))["worker_id"]
    assert success.started_at_ms >= order.enqueued_at_ms
    assert success.duration_ms >= 0
    await orchestrator.nothing_is_open()
    assert await worker.stop() == 0


async def test_every_priority_class_is_served_and_absent_fields_have_their_defaults(
    orchestrator: Orchestrator, start_worker: Start
) -> None:
    await start_worker(concurrency=1)
    for priority in subjects.PRIORITY_CLASSES:
        order = await orchestrator.dispatch("echo", priority)
        success = await orchestrator.outcome_of(order, result.Success)
        assert msgspec.json.decode(success.result) == {"context": {}, "settings": {}, "attempt": 2}
    order = await orchestrator.dispatch("nothing")
    assert bytes((await orchestrator.outcome_of(order, result.Success)).result) == b"null"
    order = await orchestrator.dispatch("emoji")
    success = await orchestrator.outcome_of(order, result.Success)
    assert msgspec.json.decode(success.result) == {"half": "\ufffd", "whole": "\U0001f600"}
    await orchestrator.nothing_is_open()


async def test_a_long_step_is_announced_and_keeps_its_lease(nats_url: str, start_worker: Start) -> None:
    async with orchestrator_at(nats_url, lease_seconds=2.0) as orchestrator:
        worker = await start_worker(heartbeat_seconds=0.25)
        order = await orchestrator.dispatch("slow", context={"milliseconds": 2_500})

        started = await orchestrator.outcome_of(order, result.Started)
        success = await orchestrator.outcome_of(order, result.Success)

        assert started.started_at_ms == success.started_at_ms
        assert success.duration_ms >= 2_400
        await orchestrator.nothing_is_open()
        assert await worker.stop() == 0


_HANDLER_ERROR = {
    "error_type": "handler_error",
    "error_code": None,
    "retryable": True,
    "retry_after_ms": None,
}
_PERMANENT = {**_HANDLER_ERROR, "error_type": "permanent_error", "retryable": False}


async def test_a_step_whose_handler_is_not_here_is_handed_back(
    orchestrator: Orchestrator, start_worker: Start
) -> None:
    await start_worker()
    order = await orchestrator.dispatch("unknown")
    released = await orchestrator.outcome_of(order, result.Released)
    assert released.reason == result.HANDLER_MISSING
    await orchestrator.nothing_is_open()


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("boom", {**_HANDLER_ERROR, "error_message": "boom \ufffd"}),
        ("refused", {**_PERMANENT, "error_message": "no", "error_code": "NO"}),
        ("later", {**_HANDLER_ERROR, "error_message": "busy", "retry_after_ms": 1_500}),
        ("wordy", {**_HANDLER_ERROR, "error_message": "é" * result.ERROR_MESSAGE_CHARS_MAX}),
        ("throws_nothing", {**_HANDLER_ERROR, "error_message": "undefined"}),
        ("cyclic", {**_PERMANENT, "error_code": "RESULT_NOT_SERIALIZABLE"}),
        ("large", {**_PERMANENT, "error_code": "RESULT_TOO_LARGE"}),
        ("endless", {**_HANDLER_ERROR, "error_type": "timeout", "error_code": "STEP_TIMEOUT"}),
    ],
)
async def test_failures_say_how_the_step_goes_on(
    handler: str, expected: dict[str, Any], orchestrator: Orchestrator, start_worker: Start
) -> None:
    await start_worker()
    order = await orchestrator.dispatch(handler, timeout_ms=100 if handler == "endless" else 10_000)

    failure = await orchestrator.outcome_of(order, result.Failure)

    assert {name: getattr(failure, name) for name in expected} == expected
    assert failure.error_message
    await orchestrator.nothing_is_open()

    again = await orchestrator.dispatch("echo")
    await orchestrator.outcome_of(again, result.Success)


async def test_a_dispatch_that_comes_again_is_lost_and_not_run(
    orchestrator: Orchestrator, start_worker: Start
) -> None:
    order = await orchestrator.dispatch("echo")
    first = await orchestrator.jetstream.pull_subscribe_bind(
        subjects.dispatch_consumer(QUEUE, "normal"), orchestrator.stream
    )
    (taken,) = await first.fetch(1, timeout=TIMEOUT_SECONDS)
    await taken.nak()

    await start_worker()

    lost = await orchestrator.outcome_of(order, result.Lost)
    assert lost.deliveries == 2
    await orchestrator.nothing_is_open()


async def test_sigterm_finishes_what_runs_and_hands_back_what_did_not_start(
    orchestrator: Orchestrator, start_worker: Start, tmp_path: Path
) -> None:
    worker = await start_worker(concurrency=1, pull_seconds=30)
    for priority in subjects.PRIORITY_CLASSES:
        await until(partial(orchestrator.waiting_pulls, priority), 1)
    gate = tmp_path / "gate"
    running = await orchestrator.dispatch("gated", context={"gate": str(gate)})
    await orchestrator.outcome_of(running, result.Started)

    worker.process.send_signal(signal.SIGTERM)
    assert (await worker.hear("draining"))["running"] == 1
    for priority in ("high", "low"):
        order = await orchestrator.dispatch("echo", priority)
        await orchestrator.outcome_of(order, result.Released)
    gate.touch()

    await orchestrator.outcome_of(running, result.Success)
    await orchestrator.nothing_is_open()
    assert await worker.ended() == 0


async def test_a_handler_that_outlives_the_grace_is_reported(
    orchestrator: Orchestrator, start_worker: Start
) -> None:
    worker = await start_worker(grace_seconds=0.2, pull_seconds=1)
    order = await orchestrator.dispatch("endless")
    await orchestrator.outcome_of(order, result.Started)

    assert await worker.stop() == 0

    failure = await orchestrator.outcome_of(order, result.Failure)
    assert (failure.error_type, failure.error_code) == ("retryable_error", "WORKER_SHUTDOWN")
    assert failure.retryable
    await orchestrator.nothing_is_open()


async def test_a_cancelled_step_stops_and_nothing_is_said_about_it(
    orchestrator: Orchestrator, start_worker: Start
) -> None:
    worker = await start_worker(concurrency=1)
    order = await orchestrator.dispatch("endless")
    await orchestrator.outcome_of(order, result.Started)

    notice = subjects.cancel_notice(NAMESPACE)
    await orchestrator.client.publish(notice, b"not JSON")
    await worker.hear("not a cancel notice")
    told = {"task_id": order.task_id, "step_uuids": [order.step_uuid]}
    await orchestrator.client.publish(notice, msgspec.json.encode(told))

    await orchestrator.nothing_is_open()
    after = await orchestrator.dispatch("echo")
    await orchestrator.outcome_of(after, result.Success)


@pytest.mark.parametrize("payload", [b"", b"{", b"null", b"[1]", b'{"kind":"success"}', b"\xff\xfe"])
async def test_what_is_no_dispatch_is_thrown_away(
    payload: bytes, orchestrator: Orchestrator, start_worker: Start
) -> None:
    worker = await start_worker(concurrency=1)
    subject = subjects.dispatch(NAMESPACE, QUEUE, "normal", "some-token")
    await orchestrator.jetstream.publish(subject, payload)
    await worker.hear("not a dispatch")
    await orchestrator.nothing_is_open()
    order = await orchestrator.dispatch("echo")
    await orchestrator.outcome_of(order, result.Success)


async def test_the_shipped_handler_renders(orchestrator: Orchestrator, start_worker: Start) -> None:
    await start_worker(handlers="handlers.mjs")
    composed = {"compose": {"line": "Hello, <Ada>!", "language": "en"}}
    settings = {"format": "text"}

    order = await orchestrator.dispatch(
        "polyglot_render", context={"format": "html"}, initialization=settings, dependency_results=composed
    )
    rendered = msgspec.json.decode((await orchestrator.outcome_of(order, result.Success)).result)
    assert rendered["page"] == "<p>Hello, &#60;Ada&#62;!</p>"
    assert rendered["rendered_by"].startswith("node ")

    order = await orchestrator.dispatch(
        "polyglot_render", initialization=settings, dependency_results=composed
    )
    rendered = msgspec.json.decode((await orchestrator.outcome_of(order, result.Success)).result)
    assert (rendered["page"], rendered["format"]) == ("Hello, <Ada>!", "text")

    order = await orchestrator.dispatch(
        "polyglot_render", context={"format": "pdf"}, dependency_results=composed
    )
    failure = await orchestrator.outcome_of(order, result.Failure)
    assert (failure.error_type, failure.error_code) == ("validation_error", "UNKNOWN_FORMAT")
    assert not failure.retryable


async def test_results_that_did_not_fit_are_asked_for_page_by_page(
    orchestrator: Orchestrator, start_worker: Start
) -> None:
    pages = {
        0: {"results": {"other": 1}, "next_offset": 1},
        1: {"results": {"compose": {"line": "Hello!", "language": "en"}}, "next_offset": None},
    }
    asked = []

    async def answer(request: Msg) -> None:
        question = msgspec.json.decode(request.data)
        asked.append(question)
        await request.respond(msgspec.json.encode(pages[question["offset"]]))

    await orchestrator.client.subscribe(subjects.api("task", "results"), cb=answer)
    await start_worker(handlers="handlers.mjs")
    order = await orchestrator.dispatch("polyglot_render", dependency_results_complete=False)

    success = await orchestrator.outcome_of(order, result.Success)

    assert msgspec.json.decode(success.result)["page"] == "Hello!"
    wanted = {"task_id": order.task_id, "step_name": "render"}
    assert asked == [{**wanted, "offset": 0}, {**wanted, "offset": 1}]


async def test_a_worker_that_starts_first_waits_for_its_stream(nats_url: str, start_worker: Start) -> None:
    worker = await start_worker()
    await worker.hear("pulling again and again")
    async with orchestrator_at(nats_url) as orchestrator:
        order = await orchestrator.dispatch("echo")
        await orchestrator.outcome_of(order, result.Success)


async def test_a_result_outlives_a_crash_of_nats(tmp_path: Path, start_worker: Start) -> None:
    async with EmbeddedNats(tmp_path / "nats") as server, orchestrator_at(server.url) as orchestrator:
        worker = await start_worker(url=server.url)
        order = await orchestrator.dispatch("slow", context={"milliseconds": 800})
        await orchestrator.outcome_of(order, result.Started)

        await server.kill()
        await worker.hear("slept")
        await server.start()

        success = await orchestrator.outcome_of(order, result.Success)
        assert msgspec.json.decode(success.result) == {"slept": True}
        after = await orchestrator.dispatch("echo")
        await orchestrator.outcome_of(after, result.Success)
        await orchestrator.nothing_is_open()
        assert await worker.stop() == 0


def test_the_bound_of_a_result_is_that_of_the_protocol() -> None:
    written = (EXAMPLE / "wire.mjs").read_text()
    assert f"RESULT_BYTES_MAX = {RESULT_BYTES_MAX // 1024} * 1024" in written
    assert f"ERROR_CHARS_MAX = {result.ERROR_MESSAGE_CHARS_MAX:_}" in written
