"""The SQL of the store: files that can be read and reviewed on their own, in `sql/`.

`sql/<name>.sql` is one statement, `sql/migrations/<number>_<name>.sql` one step of the database schema.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

import msgspec


class Migration(msgspec.Struct, frozen=True):
    """One step of the database schema: its file's name without the ending, text, and `sha256:<hex>` of it."""

    name: str
    sql: str
    checksum: str


@cache
def statement(name: str) -> str:
    """The text of `sql/<name>.sql`."""
    return (files(__package__) / "sql" / f"{name}.sql").read_text("utf-8").strip()


@cache
def migrations() -> tuple[Migration, ...]:
    """Every migration of this release, in the order in which they are applied."""
    folder = files(__package__) / "sql" / "migrations"
    found = []
    for file in folder.iterdir():
        if file.name.endswith(".sql"):
            sql = file.read_text("utf-8").replace("\r\n", "\n")
            checksum = f"sha256:{hashlib.sha256(sql.encode()).hexdigest()}"
            found.append(Migration(file.name.removesuffix(".sql"), sql, checksum))
    return tuple(sorted(found, key=lambda migration: migration.name))
