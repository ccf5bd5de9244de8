"""What a running installation costs while nothing happens."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from stepweave_orchestrator.embedded import EmbeddedPostgres

from .cpu import ProcessGroups, cpu_seconds, used_between

SETTLE_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 10.0
#: What PostgreSQL logs of each statement while it is told to log all, by the simple and the extended protocol.
_STATEMENT: Final = re.compile(rb" LOG:  (?:statement|execute [^:]*): ")


@dataclass(frozen=True, slots=True)
class Idle:
    """The cost of doing nothing."""

    pg_queries_per_s: float
    #: 100 is one core in full; by groups of processes.
    cpu_percent_by: dict[str, float]
    seconds: float

    @property
    def cpu_percent(self) -> float:
        """All processes together."""
        return sum(self.cpu_percent_by.values())


async def measure_idle(postgres: EmbeddedPostgres, processes: ProcessGroups, seconds: float) -> Idle:
    """Count statements and CPU time for so long. PostgreSQL logs every statement meanwhile, and is asked nothing."""
    await _log_statements(postgres.dsn, True)
    # What the moment before has left to do is not idleness.
    await asyncio.sleep(SETTLE_SECONDS)
    try:
        log_start = postgres.log_path.stat().st_size
        before, started = cpu_seconds(processes), time.perf_counter()
        await asyncio.sleep(seconds)
        used, elapsed = used_between(before, cpu_seconds(processes)), time.perf_counter() - started
        queries = await asyncio.to_thread(_count_statements, postgres.log_path, log_start)
    finally:
        await _log_statements(postgres.dsn, False)
    percent = {name: seconds / elapsed * 100 for name, seconds in used.items()}
    return Idle(queries / elapsed, percent, elapsed)


async def _log_statements(dsn: str, wanted: bool) -> None:
    connection = await asyncpg.connect(dsn, timeout=_TIMEOUT_SECONDS)
    try:
        await connection.execute(
            "ALTER SYSTEM SET log_statement = 'all'" if wanted else "ALTER SYSTEM RESET log_statement",
            timeout=_TIMEOUT_SECONDS,
        )
        await connection.execute("SELECT pg_reload_conf()", timeout=_TIMEOUT_SECONDS)
    finally:
        await connection.close(timeout=_TIMEOUT_SECONDS)


def _count_statements(log: Path, start: int) -> int:
    with log.open("rb") as file:
        file.seek(start)
        return len(_STATEMENT.findall(file.read()))
