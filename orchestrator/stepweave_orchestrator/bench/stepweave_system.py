"""Stepweave as a contender: embedded servers, orchestrators and workers as processes, a client in this one."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from stepweave.client import Client
from stepweave.messaging import Connection
from stepweave_eventstore.migrate import migrate
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_orchestrator.embedded import Servers, embedded_servers
from stepweave_orchestrator.version import VERSION
from stepweave_schemas.mint import uuid7
from stepweave_schemas.subjects import SHARDS_FREE

from . import workflows
from .child import Child, Program, running
from .completions import Completions
from .contender import Burst
from .cpu import ProcessGroups
from .sizes import Sizes
from .workflows import NAMESPACE, Workflow

TASK_TIMEOUT_SECONDS: Final = 60.0
BURST_TIMEOUT_SECONDS: Final = 300.0
HAND_OVER_TIMEOUT_SECONDS: Final = 30.0
_HAND_OVER_POLL_SECONDS: Final = 0.1
_CONTEXT: Final[Mapping[str, Any]] = {"a": 1}


class StepweaveSystem:
    """A running installation; made by `running_stepweave`."""

    name = "Stepweave"

    def __init__(
        self,
        servers: Servers,
        server_settings: dict[str, Any],
        store: PostgresEventStore,
        connection: Connection,
        client: Client,
        completions: Completions,
        logs: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.servers = servers
        self.store = store
        self._server_settings = server_settings
        self.client = client
        self._connection = connection
        self._completions = completions
        self._logs = logs
        self._environment = environment
        self._orchestrators: list[Child] = []
        self._workers: list[Child] = []
        #: Chains that were run to measure latency, for a replay.
        self.chain_ids: list[str] = []

    @property
    def server_processes(self) -> ProcessGroups:
        """Orchestrators, workers, NATS and PostgreSQL."""
        return {
            "orchestrators": [child.pid for child in self._orchestrators],
            "workers": [child.pid for child in self._workers],
            "nats": [self.servers.nats.pid],
            "postgres": [self.servers.postgres.pid],
        }

    @property
    def processes(self) -> ProcessGroups:
        """Those of the servers' side, and this process without its children, which is the client."""
        return {**self.server_processes, "client": [os.getpid()]}

    @property
    def settings(self) -> dict[str, Any]:
        """Its version and how it was set up."""
        return {
            "version": VERSION,
            **self._server_settings,
            "event_loop": f"uvloop {importlib.metadata.version('uvloop')}",
            "orchestrators": 1,
            "workers": "1 process, 500 steps at a time, an async handler that does nothing",
            "submit": "Client.create_task for latency, Client.create_tasks for bursts",
            "two_orchestrators": "the same worker",
        }

    # -- processes -------------------------------------------------------------------------------

    def _program(self, kind: str, number: int) -> Program:
        return Program(
            name=f"the {kind}",
            command=[sys.executable, "-m", f"{__package__}.{kind}_process"],
            folder=Path.cwd(),
            log=self._logs / f"{kind}-{number}.log",
            environment={
                **self._environment,
                "DATABASE_URL": self.servers.dsn,
                "NATS_URL": self.servers.nats_url,
            },
        )

    @asynccontextmanager
    async def orchestrator(self) -> AsyncIterator[None]:
        """One more orchestrator for the length of the block; the shards are shared out before and after."""
        program = self._program("orchestrator", len(self._orchestrators) + 1)
        async with running(program) as child:
            self._orchestrators.append(child)
            await self._shards_shared_out()
            yield
            self._orchestrators.remove(child)
        if self._orchestrators:
            await self._shards_shared_out()

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """One more worker for the length of the block."""
        async with running(self._program("worker", len(self._workers) + 1)) as child:
            self._workers.append(child)
            yield
            self._workers.remove(child)

    async def _shards_shared_out(self) -> None:
        """Wait until every shard is owned, by as many owners as there are orchestrators, fairly."""
        async with asyncio.timeout(HAND_OVER_TIMEOUT_SECONDS):
            while True:
                rows = await self.store.shards()
                owners = Counter(row.owner for row in rows if row.owner and row.lease_remaining_ms > 0)
                fair = -(-len(rows) // len(self._orchestrators))
                if owners.total() == len(rows) and max(owners.values()) <= fair:
                    return
                # Orchestrators would look by themselves, some seconds later.
                self._connection.send(SHARDS_FREE)
                await asyncio.sleep(_HAND_OVER_POLL_SECONDS)

    # -- templates -------------------------------------------------------------------------------

    async def register(self, sizes: Sizes) -> None:
        """Register every template of the benchmark."""
        for template in (
            workflows.chain(),
            workflows.diamond(),
            workflows.fanout(),
            workflows.batches(),
            *(workflows.layered(steps) for steps in sizes.layered_runs),
        ):
            await self.client.register_template(template)

    # -- measures --------------------------------------------------------------------------------

    async def run_alone(self, template: str, context: Mapping[str, Any] = _CONTEXT) -> float:
        """Run one task; seconds from the submit to seeing it completed."""
        task_id = uuid7()
        expected = self._completions.expect([task_id])
        started = time.perf_counter()
        await self.client.create_task(template, namespace=NAMESPACE, context=context, task_id=task_id)
        finished = await expected.wait(TASK_TIMEOUT_SECONDS)
        if template == "chain":
            self.chain_ids.append(task_id)
        return finished - started

    async def latency_ms(self, workflow: Workflow, *, runs: int, seconds_max: float) -> list[float]:
        """See `Contender`."""
        end = time.perf_counter() + seconds_max
        found: list[float] = []
        while not found or (len(found) < runs and time.perf_counter() < end):
            found.append(await self.run_alone(workflow) * 1000)
        return found

    async def burst(self, sizes: Sizes) -> Burst:
        """Submit chains in bulk and wait for the last one to complete."""
        return await self._burst(sizes.burst_chains)

    async def _burst(self, chains: int) -> Burst:
        task_ids = [uuid7() for _ in range(chains)]
        expected = self._completions.expect(task_ids)
        requests = [
            {"name": "chain", "namespace": NAMESPACE, "context": _CONTEXT, "task_id": task_id}
            for task_id in task_ids
        ]
        started = time.perf_counter()
        answers = await self.client.create_tasks(requests, timeout_seconds=TASK_TIMEOUT_SECONDS)
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        finished = await expected.wait(BURST_TIMEOUT_SECONDS)
        return Burst(chains, finished - started)

    async def warm_up(self, sizes: Sizes) -> None:
        """Run every workflow, and a small burst."""
        for workflow in ("chain", "diamond", "fanout"):
            await self.run_alone(workflow)
        await self._burst(sizes.warm_up_chains)


@asynccontextmanager
async def running_stepweave(
    folder: Path, logs: Path, sizes: Sizes, *, environment: Mapping[str, str] | None = None
) -> AsyncIterator[StepweaveSystem]:
    """An installation on `folder` with one orchestrator and one worker, whose environment has these besides.

    Raises `EmbeddedServerError`, `ChildFailed` and what the client raises.
    """
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(embedded_servers(folder))
        await migrate(servers.dsn)
        store = await PostgresEventStore.connect(servers.dsn)
        stack.push_async_callback(store.close)
        connection = await stack.enter_async_context(
            await Connection.open(servers.nats_url, name="bench-completions")
        )
        completions = await Completions.listen(connection)
        client = await stack.enter_async_context(Client(servers.nats_url, name="bench-client"))
        nats = connection.client.connected_server_version
        server_settings = {
            "postgresql": await _postgres_settings(servers.dsn),
            "nats": f"{nats.major}.{nats.minor}.{nats.patch}",
        }
        system = StepweaveSystem(
            servers, server_settings, store, connection, client, completions, logs, environment or {}
        )
        # The orchestrator makes the rows of the shards that are looked at here.
        await stack.enter_async_context(system.orchestrator())
        await system.register(sizes)
        await stack.enter_async_context(system.worker())
        yield system


async def _postgres_settings(dsn: str) -> dict[str, str]:
    """What shows that PostgreSQL runs with its default durability."""
    connection = await asyncpg.connect(dsn, timeout=TASK_TIMEOUT_SECONDS)
    try:
        return {
            name: str(await connection.fetchval(f"SHOW {name}", timeout=TASK_TIMEOUT_SECONDS))
            for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes")
        }
    finally:
        await connection.close(timeout=TASK_TIMEOUT_SECONDS)
