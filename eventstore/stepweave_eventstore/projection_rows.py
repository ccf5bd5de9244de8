"""Rows of the projections on their way into a database, as JSON, and back.

Messages of failed handlers and the like come from outside and may contain anything; what a database's text
type cannot hold must not be able to stop a projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from .checks import UNSTORABLE_CHARACTER
from .store import TaskRow, TemplateRow

Row = TypeVar("Row", TaskRow, TemplateRow)

_REPLACEMENT: Final = "\ufffd"


def storable(row: Row) -> Row:
    """The row with U+FFFD for every character that cannot be stored, and its tags as a tuple."""
    changes: dict[str, object] = {}
    for field in row.__struct_fields__:
        value = getattr(row, field)
        if isinstance(value, str):
            changes[field] = UNSTORABLE_CHARACTER.sub(_REPLACEMENT, value)
        elif field == "tags":
            changes[field] = tuple(UNSTORABLE_CHARACTER.sub(_REPLACEMENT, tag) for tag in value)
    return msgspec.structs.replace(row, **changes)


def encode_rows(rows: Sequence[Row]) -> str:
    """The JSON array of the rows; the usual case, that nothing has to be replaced, costs one encoding."""
    try:
        text = msgspec.json.encode(rows).decode()
        if "\\u0000" not in text:
            return text
    except UnicodeEncodeError:
        pass
    return msgspec.json.encode([storable(row) for row in rows]).decode()


def newest_rows(rows: Sequence[TaskRow]) -> list[TaskRow]:
    """One row a task: the one with the highest version, the later of two equal ones."""
    newest: dict[str, TaskRow] = {}
    for row in rows:
        kept = newest.get(row.task_id)
        if kept is None or kept.version <= row.version:
            newest[row.task_id] = row
    return list(newest.values())


def task_row(columns: Sequence[Any]) -> TaskRow:
    """A row from its columns, in the order of the struct's fields."""
    fields = dict(zip(TaskRow.__struct_fields__, columns, strict=True))
    return TaskRow(**{**fields, "tags": tuple(fields["tags"])})


def template_row(columns: Sequence[Any]) -> TemplateRow:
    """A row from its columns, in the order of the struct's fields."""
    return TemplateRow(**dict(zip(TemplateRow.__struct_fields__, columns, strict=True)))
