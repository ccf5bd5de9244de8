"""Everything on this machine: servers, an orchestrator in this process, workers; up and down in order.

Up: PostgreSQL, NATS, migrations, orchestrator, workers. Down the other way round: workers drain, the orchestrator
hands its shards over, then NATS and PostgreSQL stop. What is cancelled while it goes up or down is ended at once,
and nothing stays behind.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stepweave.client import Client
from stepweave_eventstore.migrate import migrate
from stepweave_eventstore.store import EventStore
from stepweave_orchestrator.embedded import existing_or_embedded_servers
from stepweave_orchestrator.runtime.disk import feed_bytes
from stepweave_orchestrator.runtime.orchestrator import Orchestrator
from stepweave_orchestrator.runtime.process import running_orchestrator
from stepweave_orchestrator.runtime.settings import DEFAULT_FEED_BYTES_MAX, Settings
from stepweave_schemas.template import TaskTemplate

from .addresses import DevAddresses, announced_dev
from .worker_processes import WorkerProcesses, WorkerSettings

Say = Callable[[str], None]

#: A killed orchestrator of this folder keeps its shards for so long.
LEASE_MS: Final = 5_000
CONNECT_TIMEOUT_SECONDS: Final = 10.0
REQUEST_TIMEOUT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs, and where."""

    addresses: DevAddresses
    #: The file that tells other commands of the folder.
    dev_file: Path
    orchestrator: Orchestrator
    client: Client
    store: EventStore


@asynccontextmanager
async def running_stack(
    data_dir: Path, *, database_url: str | None, nats_url: str | None, say: Say
) -> AsyncIterator[Stack]:
    """Servers and an orchestrator; `say` gets a line for each thing that takes a while.

    Servers whose address is given are used, the others are embedded. Raises what each part raises.
    """
    async with AsyncExitStack() as stack:
        if not (database_url and nats_url):
            say("starting PostgreSQL and NATS …" if not (database_url or nats_url) else "starting a server …")
        servers = await stack.enter_async_context(
            existing_or_embedded_servers(data_dir, database_url=database_url, nats_url=nats_url)
        )
        addresses = DevAddresses(servers.nats_url, servers.dsn)
        dev_file = stack.enter_context(announced_dev(data_dir, addresses))
        applied = await migrate(servers.dsn)
        if applied:
            say(f"prepared the database: {len(applied)} migrations")
        lease_ms = None if "STEPWEAVE_LEASE_MS" in os.environ else LEASE_MS
        # On this disk are the servers that were embedded.
        local = None if database_url and nats_url else data_dir
        settings = Settings.from_environment(
            database_url=servers.dsn, nats_url=servers.nats_url, lease_ms=lease_ms, **_disk_settings(local)
        )
        orchestrator = await stack.enter_async_context(running_orchestrator(settings))
        client = Client(
            servers.nats_url,
            name="stepweave-dev",
            timeout_seconds=REQUEST_TIMEOUT_SECONDS,
            connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
        )
        stack.push_async_callback(client.close)
        yield Stack(addresses, dev_file, orchestrator, client, orchestrator.store)


def _disk_settings(data_dir: Path | None) -> dict[str, Any]:
    """What the disk of the embedded servers allows, where nothing else is said."""
    if data_dir is None:
        return {}
    settings: dict[str, Any] = {}
    if "STEPWEAVE_DISK_PATH" not in os.environ:
        settings["disk_path"] = str(data_dir)
    if "STEPWEAVE_FEED_BYTES_MAX" not in os.environ:
        settings["feed_bytes_max"] = feed_bytes(shutil.disk_usage(data_dir).free, DEFAULT_FEED_BYTES_MAX)
    return settings


@asynccontextmanager
async def running_workers(
    settings: WorkerSettings, count: int, *, nats_url: str, say: Say
) -> AsyncIterator[WorkerProcesses]:
    """Worker processes for the length of the block; raises `WorkersFailed`."""
    workers = WorkerProcesses(settings, count, nats_url=nats_url, say=say)
    await workers.start()
    try:
        yield workers
    finally:
        await workers.stop()


def places_of(templates: Sequence[TaskTemplate]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The namespaces and the queues that workers of these templates serve, the defaults among them."""
    namespaces = {"default", *(template.namespace for template in templates)}
    queues = {"default", *(step.queue for template in templates for step in template.steps)}
    return tuple(sorted(namespaces)), tuple(sorted(queues))
