"""Real servers for the tests: PostgreSQL and NATS as child processes, shared where that is safe.

| fixture | what a test gets |
|---|---|
| `database_url` | an empty database of its own on the session's PostgreSQL |
| `nats_url` | a NATS server of its own, with empty JetStream (it starts in some 30 ms) |
| `servers` | its own pair, with default durability, to kill and restart |
| `postgres_server`, `nats_server` | the session's servers themselves |

`DATABASE_URL` and `NATS_URL` in the environment switch the first two to servers that run already: a database
is then created there for each test, and Stepweave's JetStream streams are deleted there before each test.

The fixtures are plain functions that run their own short event loops, so that tests of any kind and loop
scope can ask for them. The servers belong to the main thread and end with it, whatever happens.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import pytest
from hypothesis import settings

from stepweave.testing import eventually
from stepweave_orchestrator.embedded import EmbeddedNats, EmbeddedPostgres, EmbeddedServerError, Servers

# Before any test module imports them: golden histories use them too.
pytest.register_assert_rewrite(
    "tests.unit.core.invariants", "tests.unit.core.scenario", "tests.unit.core.world"
)
# The machine may be busy: a wait for a condition costs nothing when it comes true soon.
(eventually.__kwdefaults__ or {})["timeout_seconds"] = 60.0
# The same examples in every run; `STEPWEAVE_EXAMPLES` (any value) looks for new ones.
settings.register_profile("fixed", derandomize="STEPWEAVE_EXAMPLES" not in os.environ, deadline=None)
settings.load_profile("fixed")

T = TypeVar("T")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """One NATS for all tests is for one process: each test deletes what is there."""
    if os.environ.get("NATS_URL") and hasattr(config.option, "numprocesses"):
        config.option.numprocesses = 0


_CONNECT_TIMEOUT_SECONDS = 30.0
_STATEMENT_TIMEOUT_SECONDS = 60.0


def run_alone(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in a loop of its own, without touching the loop that pytest-asyncio has set."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _execute(dsn: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(dsn, timeout=_CONNECT_TIMEOUT_SECONDS)
    try:
        await connection.execute(statement, timeout=_STATEMENT_TIMEOUT_SECONDS)
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT_SECONDS)


async def _delete_our_streams(url: str) -> None:
    """Delete the JetStream streams of Stepweave (all of its subjects start with `sw.`) and its buckets."""
    import nats

    client = await nats.connect(url, connect_timeout=_CONNECT_TIMEOUT_SECONDS, max_reconnect_attempts=0)
    try:
        jetstream = client.jetstream(timeout=_CONNECT_TIMEOUT_SECONDS)
        for info in await jetstream.streams_info():
            name, subjects = info.config.name or "", info.config.subjects or []
            if name in ("KV_workers", "KV_subscribers", "KV_parked") or any(
                subject.startswith("sw.") for subject in subjects
            ):
                await jetstream.delete_stream(name)
    finally:
        await client.close()


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Where the session's servers keep their data; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="stepweave-tests-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL. Without fsync: tests of durability take `servers`."""
    server = EmbeddedPostgres(server_folder / "postgres", durable=False, settings={"max_connections": "300"})
    run_alone(server.start())
    try:
        yield server
    finally:
        run_alone(server.stop())


@pytest.fixture(scope="session")
def nats_server(server_folder: Path) -> Iterator[EmbeddedNats]:
    """The session's NATS, for tests that leave nothing in it; others take `nats_url`."""
    server = EmbeddedNats(server_folder / "nats")
    run_alone(server.start())
    try:
        yield server
    finally:
        run_alone(server.stop())


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty database that only this test uses."""
    server_url = os.environ.get("DATABASE_URL") or request.getfixturevalue("postgres_server").dsn
    name = f"test_{uuid.uuid4().hex}"
    run_alone(_execute(server_url, f"CREATE DATABASE {name} TEMPLATE template0"))
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        run_alone(_execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def nats_url(tmp_path: Path) -> Iterator[str]:
    """The address of a NATS server with an empty JetStream that only this test uses."""
    existing = os.environ.get("NATS_URL")
    if existing:
        run_alone(_delete_our_streams(existing))
        yield existing
        return
    server = EmbeddedNats(tmp_path / "nats-server")
    run_alone(server.start())
    try:
        yield server.url
    finally:
        run_alone(server.stop())
        shutil.rmtree(server.data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def fresh_postgres(server_folder: Path) -> Path:
    """The folder of a PostgreSQL that was started once and stopped: copying it is quicker than making one."""
    server = EmbeddedPostgres(server_folder / "fresh-postgres")
    run_alone(server.start())
    run_alone(server.stop())
    (server.data_dir / "port").unlink()
    return server.data_dir


@pytest.fixture
def postgres_folder(tmp_path: Path, fresh_postgres: Path) -> Iterator[Path]:
    """A data folder of this test's own for `EmbeddedPostgres`, with a cluster in it."""
    folder = tmp_path / "servers" / "postgres"
    _copy_with_owners(fresh_postgres, folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def servers(tmp_path: Path, postgres_folder: Path) -> Iterator[Servers]:
    """A durable PostgreSQL and a NATS of this test's own: `kill()` and `restart()` them as you like."""
    postgres = EmbeddedPostgres(postgres_folder)
    nats = EmbeddedNats(tmp_path / "servers" / "nats")
    try:
        run_alone(postgres.start())
        run_alone(nats.start())
        yield Servers(postgres.dsn, nats.url, postgres, nats)
    finally:
        run_alone(nats.stop())
        run_alone(_stop_for_good(postgres))
        shutil.rmtree(nats.data_dir, ignore_errors=True)


async def _stop_for_good(server: EmbeddedPostgres) -> None:
    """Stop a server; one that the test left killed is started first, which frees its shared memory."""
    if not server.is_running:
        with suppress(EmbeddedServerError):
            await server.start()
    await server.stop()


def _copy_with_owners(source: Path, target: Path) -> None:
    """Copy a tree with modes and, as root, owners (PostgreSQL's files then belong to another account)."""
    shutil.copytree(source, target)
    if os.geteuid() == 0:
        for path in (source, *source.rglob("*")):
            state = path.stat()
            os.chown(target / path.relative_to(source), state.st_uid, state.st_gid)
