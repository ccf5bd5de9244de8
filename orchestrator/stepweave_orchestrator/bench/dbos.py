"""DBOS as a contender: workflows in Python processes, on a database of its own on our PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import asyncpg

from .child import Program, all_running
from .installing import PeerFolder, PeerMissing, peer_program
from .peers import Peer, PeerPlace

KEY: Final = "dbos"
NAME: Final = "DBOS"
PACKAGES: Final = ("dbos~=3.4",)
#: As many Python processes as we have: an orchestrator and a worker.
PROCESSES: Final = 2
_DATABASE: Final = "bench_dbos"
_TIMEOUT_SECONDS: Final = 60.0


@asynccontextmanager
async def running_dbos(place: PeerPlace) -> AsyncIterator[Peer]:
    """A DBOS application whose processes are launched; raises `PeerMissing`, `ChildFailed`."""
    program = peer_program("dbos_app.py")
    folder = PeerFolder(NAME, place.packages / KEY, place.logs)
    if not folder.is_installed(PACKAGES):
        if not place.install:
            raise PeerMissing(f"{NAME} is not installed yet: run `stepweave bench` once without --quick")
        await folder.install_with_pip(PACKAGES)
    dsn = await _create_database(place.dsn)
    programs = [
        Program(
            name=f"the {NAME} application",
            command=[str(folder.python), str(program)],
            folder=folder.path,
            log=place.logs / f"{KEY}-{number}.log",
            environment={"BENCH_DATABASE_URL": dsn, "BENCH_EXECUTOR": f"bench-{number}"},
        )
        for number in range(1, PROCESSES + 1)
    ]
    async with AsyncExitStack() as stack:
        processes = await all_running(stack, programs)
        settings = await processes[0].ask({"measure": "settings"}, timeout_seconds=_TIMEOUT_SECONDS)
        settings["processes"] = f"1 for latency, {PROCESSES} for bursts"
        yield Peer(NAME, processes, {"postgres": [place.postgres_pid]}, settings)


async def _create_database(dsn: str) -> str:
    """Make the database; gives its address."""
    connection = await asyncpg.connect(dsn, timeout=_TIMEOUT_SECONDS)
    try:
        await connection.execute(f"CREATE DATABASE {_DATABASE}", timeout=_TIMEOUT_SECONDS)
    finally:
        await connection.close(timeout=_TIMEOUT_SECONDS)
    return f"{dsn.rpartition('/')[0]}/{_DATABASE}"
