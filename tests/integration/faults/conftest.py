"""Whole set-ups that a fault test can kill, pause and restart, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepweave.client import Client
from stepweave.messaging import Connection
from stepweave_eventstore.audit import verify
from stepweave_eventstore.migrate import migrate
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_eventstore.store import EventRecord
from stepweave_orchestrator.embedded import Servers
from stepweave_schemas.envelope import Envelope, decode_envelopes

HERE = Path(__file__).parent
SHARDS = 4
ENDINGS = ("task.completed", "task.failed", "task.cancelled", "task.resolved_manually")
CHAIN = """
namespace: faults
name: {name}
version: 1.0.0
steps:
"""
STEP = """
  - name: s{number}
    handler: {handler}
    dependencies: [{dependencies}]
    retry: {{max_attempts: 5, backoff: none}}
"""


def chain(name: str, handlers: list[str]) -> str:
    """A chain of steps, one for each handler."""
    steps = (
        STEP.format(number=number, handler=handler, dependencies=f"s{number - 1}" if number else "")
        for number, handler in enumerate(handlers)
    )
    return CHAIN.format(name=name) + "".join(steps)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 90.0) -> None:
    """Wait for a condition; fails the test where it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


class Process:
    """A child process that said it is ready."""

    def __init__(
        self, script: str, folder: Path, environment: dict[str, str], *, stdin: int = subprocess.DEVNULL
    ) -> None:
        self.log = folder / f"{script}-{time.monotonic_ns()}.log"
        self._file = self.log.open("w")
        self.popen = subprocess.Popen(
            [sys.executable, str(HERE / script)],
            env={**os.environ, **environment},
            stdin=stdin,
            stdout=self._file,
            stderr=subprocess.STDOUT,
        )
        self.pid = self.popen.pid

    def code(self) -> int | None:
        """With which code it has ended; `None` while it lives."""
        return self.popen.poll()

    async def said(self, what: str, count: int = 1) -> None:
        """Wait until its output holds the text so many times."""

        async def has() -> bool:
            text = self.log.read_text() if self.log.exists() else ""
            assert self.code() is None, text
            return text.count(what) >= count

        await until(has)

    async def ready(self) -> None:
        await self.said("ready")

    async def dead(self) -> int:
        async def ended() -> bool:
            return self.code() is not None

        try:
            await until(ended)
        except AssertionError:
            raise AssertionError(f"still alive:\n{self.log.read_text()[-5000:]}") from None
        code = self.code()
        assert code is not None
        return code

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.dead()

    def close(self) -> None:
        if self.code() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.popen.wait(60)
        self._file.close()


class Nursery(Process):
    """A process that forks others: they are up much sooner than one that has to load everything."""

    def __init__(self, folder: Path) -> None:
        super().__init__("nursery_process.py", folder, {}, stdin=subprocess.PIPE)
        self._started = 0

    async def start(self, script: str, environment: dict[str, str], log: Path) -> int:
        """Start one; returns the id of its process."""
        assert self.popen.stdin is not None
        order = {"script": str(HERE / script), "environment": environment, "log": str(log)}
        self.popen.stdin.write(json.dumps(order).encode() + b"\n")
        self.popen.stdin.flush()
        self._started += 1
        await self.said(" started", self._started)
        started = [line for line in self.log.read_text().splitlines() if line.endswith(" started")]
        return int(started[-1].split()[0])

    def close(self) -> None:
        """End it and whatever it has started."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        self.popen.wait(60)
        self._file.close()

    def code_of(self, pid: int) -> int | None:
        """With which code one has ended."""
        for line in self.log.read_text().splitlines():
            if line.startswith(f"{pid} ended "):
                return int(line.split()[2])
        return None


class Forked(Process):
    """A process from the nursery."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self.nursery = nursery
        self.pid = pid
        self.log = log

    def code(self) -> int | None:
        return self.nursery.code_of(self.pid)

    def signal(self, number: int) -> None:
        if self.code() is None:
            os.kill(self.pid, number)

    async def arm(self, crash_file: Path, point: str, count: int) -> None:
        """Let an orchestrator die when it passes the point for so many times from now on."""
        crash_file.write_text(f"{point}:{count}")
        self.signal(signal.SIGUSR1)
        await self.said("armed")

    def close(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)


class Stack:
    """Servers, orchestrators, workers and a client of one test."""

    def __init__(self, servers: Servers, folder: Path, nursery: Nursery) -> None:
        self.servers = servers
        self.nursery = nursery
        self.folder = folder
        self.processes: list[Process] = []
        self.client: Client

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.servers.dsn,
            "NATS_URL": self.servers.nats_url,
            "STEPWEAVE_SHARD_COUNT": str(SHARDS),
            "STEPWEAVE_LEASE_MS": "2000",
            "STEPWEAVE_DISPATCH_LEASE_SECONDS": "1.5",
            # On a busy machine anything may take its time; that is no reason to refuse what a test asks for.
            "STEPWEAVE_CREATE_AGE_MS_MAX": "60000",
            "STEPWEAVE_COMMIT_MS_MAX": "60000",
            "STEPWEAVE_ROUND_TRIP_MS_MAX": "60000",
            "TEST_FOLDER": str(self.folder),
        }

    async def orchestrator(self, **extra: str) -> Forked:
        return await self.forked("orchestrator_process.py", **extra)

    async def worker(self) -> Forked:
        return await self.forked("worker_process.py")

    async def forked(self, script: str, **extra: str) -> Forked:
        environment = {**self.environment, **extra}
        log = self.folder / f"{script}-{time.monotonic_ns()}.log"
        process = Forked(self.nursery, await self.nursery.start(script, environment, log), log)
        self.processes.append(process)
        await process.ready()
        return process

    async def create(self, name: str, count: int) -> list[str]:
        """Create tasks one by one, each retried until it is accepted."""
        tasks = await asyncio.gather(
            *(
                self.client.create_task(name, namespace="faults", context={"n": number}, timeout_seconds=90)
                for number in range(count)
            )
        )
        return [task.task_uuid for task in tasks]

    async def complete(self, task_ids: list[str], seconds: float = 120.0) -> None:
        tasks = await asyncio.gather(
            *(self.client.wait_for_task(task_id, timeout_seconds=seconds) for task_id in task_ids)
        )
        for task in tasks:
            assert task.status == "complete", (task, [p.log.read_text()[-3000:] for p in self.processes])

    def runs(self) -> list[list[str]]:
        path = self.folder / "runs.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    async def check(self, task_ids: list[str]) -> dict[str, list[EventRecord]]:
        """The ledger verifies, each step was counted once, each task ended once, and the log feed is the ledger."""
        store = await PostgresEventStore.connect(self.servers.dsn)
        try:
            report = await verify(store)
            assert report.ok, report
            histories = {task_id: await store.read_stream(task_id) for task_id in task_ids}
            for history in histories.values():
                done = Counter(
                    msgspec.json.decode(event.data)["step_name"]
                    for event in history
                    if event.type in ("step.completed", "compensation.completed")
                )
                assert set(done.values()) <= {1}, done
                assert sum(event.type in ENDINGS for event in history) == 1
            ledger = {shard: [event async for event in store.walk(shard)] for shard in range(SHARDS)}

            async def caught_up() -> bool:
                rows = await store.shards()
                return all(row.published_position == row.head_position for row in rows)

            await until(caught_up)
        finally:
            await store.close()
        await check_log_feed(self.servers.nats_url, ledger)
        return histories


async def check_log_feed(url: str, ledger: dict[int, list[EventRecord]]) -> None:
    """Every event of the ledger is on the feed, first sights in order of position, repeats equal."""
    feed: dict[int, list[Envelope]] = {shard: [] for shard in ledger}
    async with await Connection.open(url, name="check") as connection:
        jetstream = connection.client.jetstream()
        info = await jetstream.stream_info("LOG")
        sequence, last = info.state.first_seq, info.state.last_seq
        while sequence <= last:
            some = range(sequence, min(sequence + 100, last + 1))
            for message in await asyncio.gather(*(jetstream.get_msg("LOG", number) for number in some)):
                assert message.data is not None
                for envelope in decode_envelopes(message.data):
                    feed[envelope.shard].append(envelope)
            sequence += len(some)
    for shard, events in ledger.items():
        first_seen: dict[int, Envelope] = {}
        for envelope in feed[shard]:
            known = first_seen.get(envelope.position)
            if known is None:
                assert envelope.position == len(first_seen) + 1, "a gap or a change of order on the feed"
                first_seen[envelope.position] = envelope
            else:
                assert msgspec.json.encode(known) == msgspec.json.encode(envelope)
        # What is committed after the ledger was read may be on the feed already.
        assert len(first_seen) >= len(events)
        for event in events:
            seen = first_seen[event.position]
            assert (seen.task_id, seen.version, seen.type) == (event.task_id, event.version, event.type)
            assert bytes(seen.data).decode() == event.data


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture
async def stack(servers: Servers, nursery: Nursery, tmp_path: Path) -> AsyncIterator[Stack]:
    await nursery.ready()
    await migrate(servers.dsn)
    folder = tmp_path / "stack"
    folder.mkdir()
    stack = Stack(servers, folder, nursery)
    async with Client(servers.nats_url) as client:
        stack.client = client
        try:
            yield stack
        finally:
            for process in stack.processes:
                process.close()
    shutil.rmtree(folder, ignore_errors=True)


def pytest_configure(config: Any) -> None:
    config.addinivalue_line("markers", "faults: kills real processes")
