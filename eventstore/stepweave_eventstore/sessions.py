"""Connections to PostgreSQL that come back by themselves after the server went away.

A connection whose state is in doubt – broken, timed out, cancelled in the middle of a statement – is thrown
away, never used again; the next call opens a new one. No call outlives its time-out.
"""

from __future__ import annotations

import asyncio

import asyncpg

from .postgres_errors import from_postgres
from .store import StoreUnavailable

_CLOSE_TIMEOUT_SECONDS = 2.0
#: The server gives up a statement before we give up waiting: it then answers, and nothing lingers there.
_SERVER_SHARE_OF_TIMEOUT = 0.9


class Sessions:
    """A few equal connections, opened when needed, with one statement at a time on each.

    `timeout_seconds` bounds every call, the wait for a free connection and for opening it included.
    `settings` are PostgreSQL's, by name.
    """

    def __init__(self, dsn: str, *, size_max: int, timeout_seconds: float, settings: dict[str, str]) -> None:
        self._dsn = dsn
        self._size_max = size_max
        self._timeout_seconds = timeout_seconds
        self._settings = {
            "application_name": "stepweave",
            "default_transaction_isolation": "read committed",
            "jit": "off",
            "statement_timeout": str(max(1, int(timeout_seconds * 1000 * _SERVER_SHARE_OF_TIMEOUT))),
            **settings,
        }
        self._free = asyncio.Semaphore(size_max)
        self._idle: list[asyncpg.Connection] = []
        self._busy: set[asyncpg.Connection] = set()
        self._closed = False

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Run one statement (prepared on its connection's first use) and return its rows.

        Raises what asyncpg raises, `TimeoutError` and `OSError`; see `postgres_errors.translated`.
        """
        self._check_open()
        async with asyncio.timeout(self._timeout_seconds), self._free:
            self._check_open()
            connection = await self._connection()
            self._busy.add(connection)
            keep = False
            try:
                rows: list[asyncpg.Record] = await connection.fetch(sql, *arguments)
                keep = True
                return rows
            except Exception as error:
                # The server said no and goes on: the connection is fine.
                keep = isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError) and not isinstance(
                    from_postgres(error), StoreUnavailable
                )
                raise
            finally:
                self._busy.discard(connection)
                if keep and not self._closed:
                    self._idle.append(connection)
                else:
                    connection.terminate()

    async def close(self) -> None:
        """Close every connection; calls under way get `_CLOSE_TIMEOUT_SECONDS` to end."""
        self._closed = True
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
                for _ in range(self._size_max):
                    await self._free.acquire()
                while self._idle:
                    await self._idle[-1].close()
                    self._idle.pop()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pass  # A server that does not answer does not keep us: what is left is cut off below.
        finally:
            for connection in (*self._idle, *self._busy):
                connection.terminate()
            self._idle.clear()
            for _ in range(self._size_max):
                self._free.release()

    async def _connection(self) -> asyncpg.Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            connection.terminate()
        return await open_connection(self._dsn, self._settings, timeout_seconds=self._timeout_seconds)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")


async def open_connection(
    dsn: str, settings: dict[str, str], *, timeout_seconds: float
) -> asyncpg.Connection:
    """Connect, with PostgreSQL's settings by name.

    Raises what asyncpg raises, and `ValueError` for an address that cannot be read.
    """
    try:
        # Statements stay prepared for the life of the connection, not for asyncpg's five minutes.
        return await asyncpg.connect(
            dsn, timeout=timeout_seconds, max_cached_statement_lifetime=0, server_settings=settings
        )
    except ValueError as error:
        raise ValueError(f"the database address cannot be used: {error}") from error
