"""From what asyncpg raises to what the store promises to raise.

PostgreSQL's error codes come in classes of two characters; the class says what a caller can do about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from .store import EventStoreError, StoreUnavailable, UnstorableEvent

#: Trouble of the server or of the way to it, which passes: connection (08), transaction rolled back (40),
#: resources (53), operator intervention and time-outs (57), files (58), log-in (28), no such database (3D).
_PASSING_CLASSES: Final = frozenset({"08", "28", "3D", "40", "53", "57", "58"})
#: The same, by code: a standby where a primary is expected, a lock that did not come in time.
_PASSING_CODES: Final = frozenset({"25006", "55P03"})
#: What was sent does not fit: bad data (22), limits of the server (54), a constraint on a value (23).
_CONTENT_CLASSES: Final = frozenset({"22", "23", "54"})
#: Rights, or tables, that are not there.
_SET_UP_CODES: Final = {
    "42501": "grant the role its rights: SELECT stepweave.grant_service('<role>')",
    "42P01": "run `stepweave migrate`",
    "42703": "run `stepweave migrate`",
    "42883": "run `stepweave migrate`",
    "3F000": "run `stepweave migrate`",
}

_CONFLICT: Final = re.compile(r"\(task_id, version\)=\(([0-9a-f-]{36}), \d+\)")


def from_postgres(error: BaseException) -> Exception | None:
    """The store's error for one of asyncpg's, of the system's or of time; `None` for any other."""
    if isinstance(error, asyncpg.PostgresError):
        return _from_server(error)
    # asyncpg's own DataError: a value that it cannot encode. Not the server's error of the same name.
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return UnstorableEvent(f"the database cannot hold this: {error}")
    if isinstance(error, TimeoutError):
        return StoreUnavailable("the database did not answer in time")
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return StoreUnavailable(f"the database cannot be reached: {error or type(error).__name__}")
    return None


def _from_server(error: asyncpg.PostgresError) -> Exception:
    code: str = error.sqlstate or ""
    said = f"{error} (SQLSTATE {code or 'unknown'})"
    if code[:2] in _PASSING_CLASSES or code in _PASSING_CODES:
        return StoreUnavailable(f"the database cannot serve this now: {said}")
    if error.constraint_name == "published_is_behind_head":
        return ValueError("the published position lies beyond the head of its shard")
    if code[:2] in _CONTENT_CLASSES:
        return UnstorableEvent(f"the database refused the content: {said}")
    if code in _SET_UP_CODES:
        return EventStoreError(f"the database is not set up for this: {said}; {_SET_UP_CODES[code]}")
    return EventStoreError(f"the database refused: {said}")


@contextmanager
def translated() -> Iterator[None]:
    """Raise the store's errors instead of asyncpg's."""
    try:
        yield
    except Exception as error:
        ours = from_postgres(error)
        if ours is None:
            raise
        raise ours from error


def stream_in_conflict(error: asyncpg.UniqueViolationError) -> str | None:
    """The task id that a violation of `events_version_key` names, whatever the server's language."""
    match = _CONFLICT.search(error.detail or "")
    return match[1] if match else None
