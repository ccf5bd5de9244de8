"""Whole set-ups that a fault test can kill, pause and restart, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
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


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait for a condition; fails the test where it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.05)


class Process:
    """A child process that said it is ready."""

    def __init__(self, script: str, folder: Path, environment: dict[str, str]) -> None:
        self.log = folder / f"{script}-{time.monotonic_ns()}.log"
        self._file = self.log.open("w")
        self.popen = subprocess.Popen(
            [sys.executable, str(HERE / script)],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
        )

    async def ready(self) -> None:
        async def said() -> bool:
            assert self.popen.poll() is None, self.log.read_text()
            return "ready" in self.log.read_text()

        await until(said)

    async def dead(self) -> int:
        async def ended() -> bool:
            return self.popen.poll() is not None

        try:
            await until(ended)
        except AssertionError:
            raise AssertionError(f"still alive:\n{self.log.read_text()[-5000:]}") from None
        return int(self.popen.returncode)

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    async def kill(self) -> None:
        self.popen.kill()
        await self.dead()

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
            self.popen.wait(10)
        self._file.close()


class Stack:
    """Servers, orchestrators, workers and a client of one test."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        self.servers = servers
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
            "TEST_FOLDER": str(self.folder),
        }

    async def orchestrator(self, **extra: str) -> Process:
        process = Process("orchestrator_process.py", self.folder, {**self.environment, **extra})
        self.processes.append(process)
        await process.ready()
        return process

    async def worker(self) -> Process:
        process = Process("worker_process.py", self.folder, self.environment)
        self.processes.append(process)
        await process.ready()
        return process

    async def create(self, name: str, count: int) -> list[str]:
        """Create tasks one by one, each retried until it is accepted."""
        tasks = await asyncio.gather(
            *(
                self.client.create_task(name, namespace="faults", context={"n": number}, timeout_seconds=60)
                for number in range(count)
            )
        )
        return [task.task_uuid for task in tasks]

    async def complete(self, task_ids: list[str], seconds: float = 60.0) -> None:
        tasks = await asyncio.gather(
            *(self.client.wait_for_task(task_id, timeout_seconds=seconds) for task_id in task_ids)
        )
        for task in tasks:
            assert task.status == "complete", (task, [p.log.read_text()[-3000:] for p in self.processes])

    def runs(self) -> list[list[str]]:
        path = self.folder / "runs.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    async def check(self, task_ids: list[str]) -> dict[str, list[EventRecord]]:
        """The ledger verifies, each step was counted once, and the log feed is the ledger."""
        store = await PostgresEventStore.connect(self.servers.dsn)
        try:
            report = await verify(store)
            assert report.ok, report
            histories = {task_id: await store.read_stream(task_id) for task_id in task_ids}
            for history in histories.values():
                done = Counter(
                    msgspec.json.decode(event.data)["step_name"]
                    for event in history
                    if event.type == "step.completed"
                )
                assert done and set(done.values()) == {1}, done
                assert [event.type for event in history].count("task.completed") == 1
            ledger = {shard: [event async for event in store.walk(shard)] for shard in range(SHARDS)}

            async def caught_up() -> bool:
                rows = await store.shards()
                return all(row.published_position == row.head_position for row in rows)

            await until(caught_up, 20)
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
            message = await jetstream.get_msg("LOG", sequence)
            assert message.data is not None
            for envelope in decode_envelopes(message.data):
                feed[envelope.shard].append(envelope)
            sequence += 1
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


@pytest.fixture
async def stack(servers: Servers, tmp_path: Path) -> AsyncIterator[Stack]:
    await migrate(servers.dsn)
    folder = tmp_path / "stack"
    folder.mkdir()
    stack = Stack(servers, folder)
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
