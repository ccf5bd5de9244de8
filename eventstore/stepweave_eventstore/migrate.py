"""Bring a database to the schema of this release.

A migration is a file in `sql/migrations`, applied once, in a transaction, and recorded with its checksum. Any
number of processes may migrate at once: an advisory lock makes them follow one another, and the later ones
find nothing left to do.

**Expand, then contract.** Several releases run side by side during an upgrade, so a migration only adds what
the release before it can live with: new tables, columns with a default or that may be null, indexes,
functions. What is no longer used is removed one release later. An applied migration is never edited; a
changed file is refused. A database may be newer than the program (more is recorded than the program knows):
that is the program that is about to be replaced, and it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from .postgres_errors import translated
from .sessions import open_connection
from .statements import Migration, migrations, statement
from .store import EventStoreError

#: Names the advisory lock; any number will do that nobody else takes in this database.
_LOCK_KEY: Final = 0x5357_4D49_4752
#: A change of a table that waits for running statements holds up those that come after it: not for long.
_TABLE_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '5s'"
_HAS_RECORD: Final = "SELECT to_regclass('stepweave.migrations') IS NOT NULL"

Fetch = Callable[..., Awaitable[list[Any]]]


class MigrationError(EventStoreError):
    """What was applied to the database does not agree with the migrations of this release."""


class MigrationsPending(EventStoreError):
    """The database lacks migrations that this release needs; `names` says which."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"the database lacks {', '.join(names)}: run `stepweave migrate`")
        self.names = tuple(names)


async def migrate(dsn: str, *, timeout_seconds: float = 60) -> list[str]:
    """Apply what is missing; return the names of the migrations that this call applied, in order.

    Needs a role that owns the database schema `stepweave` or may create it. Each migration is applied wholly
    or not at all. Raises `MigrationError` where an applied migration was changed since, and
    `StoreUnavailable` where the database cannot be reached or the time runs out: calling again goes on from
    where it stopped.
    """
    with translated():
        async with asyncio.timeout(timeout_seconds):
            connection = await _connect(dsn, timeout_seconds)
            try:
                applied = []
                if await _missing(connection.fetch):
                    # Taken outside of a transaction: one that begins after it sees what others have made.
                    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
                    for migration in await _missing(connection.fetch):
                        await _apply(connection, migration)
                        applied.append(migration.name)
                await connection.close()
                return applied
            finally:
                connection.terminate()


async def pending(dsn: str, *, timeout_seconds: float = 60) -> list[str]:
    """The names of the migrations that `migrate` would apply. Changes nothing; raises what `migrate` does."""
    with translated():
        async with asyncio.timeout(timeout_seconds):
            connection = await _connect(dsn, timeout_seconds)
            try:
                return [migration.name for migration in await _missing(connection.fetch)]
            finally:
                connection.terminate()


async def refuse_unmigrated(fetch: Fetch) -> None:
    """Raise `MigrationsPending` where the database is older than this release.

    `fetch` runs a statement and returns its rows.
    """
    if missing := await _missing(fetch):
        raise MigrationsPending([migration.name for migration in missing])


async def _connect(dsn: str, timeout_seconds: float) -> asyncpg.Connection:
    settings = {
        "application_name": "stepweave migrate",
        "default_transaction_isolation": "read committed",
        "client_min_messages": "warning",
    }
    return await open_connection(dsn, settings, timeout_seconds=timeout_seconds)


async def _missing(fetch: Fetch) -> list[Migration]:
    """The migrations that are not recorded; checks that the recorded ones are those of this release."""
    [exists] = await fetch(_HAS_RECORD)
    rows = await fetch(statement("applied_migrations")) if exists[0] else []
    recorded = {row[0]: row[1] for row in rows}
    known = migrations()
    for migration in known:
        if recorded.get(migration.name, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"the migration {migration.name} was changed after it was applied to this database. Applied "
                "migrations are never edited: restore the file, and put the change into a new migration"
            )
    strangers = sorted(recorded.keys() - {migration.name for migration in known})
    if strangers and strangers[0] < known[-1].name:
        raise MigrationError(
            f"the database has the migration {strangers[0]}, which this release does not know and which is "
            f"older than its newest one ({known[-1].name}): this is another program's database"
        )
    return [migration for migration in known if migration.name not in recorded]


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    """Apply one migration in a transaction.

    On any error the caller drops the connection, and the server the transaction and the lock: a ROLLBACK sent
    from here could wait for ever.
    """
    await connection.execute("BEGIN")
    await connection.execute(_TABLE_LOCK_TIMEOUT)
    if not await connection.fetchval("SELECT to_regnamespace('stepweave') IS NOT NULL"):
        await connection.execute("CREATE SCHEMA stepweave")
    if not await connection.fetchval(_HAS_RECORD):
        await connection.execute(statement("migrations_table"))
    await connection.execute(migration.sql)
    await connection.execute(statement("record_migration"), migration.name, migration.checksum)
    await connection.execute("COMMIT")
