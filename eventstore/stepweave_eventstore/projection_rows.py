"""Rows of the projections on their way into a database, as JSON, and back.

Messages of failed handlers and the like come from outside and may contain anything; what a database's text
type cannot hold must not be able to stop a projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from .checks import UNSTORABLE_CHARACTER
from .store import DeadLetterRow, StreamRow, TaskRow, TemplateRow

Row = TypeVar("Row", TaskRow, TemplateRow, StreamRow, DeadLetterRow)
Versioned = TypeVar("Versioned", TaskRow, StreamRow, DeadLetterRow)

_REPLACEMENT: Final = "\ufffd"


def storable(row: Row) -> Row:
    """The row with U+FFFD for every character that cannot be stored, and its tags as a tuple; a summary's JSON anew."""
    changes: dict[str, object] = {}
    for field in row.__struct_fields__:
        value = getattr(row, field)
        if isinstance(value, str):
            changes[field] = UNSTORABLE_CHARACTER.sub(_REPLACEMENT, value)
        elif field == "tags":
            changes[field] = tuple(UNSTORABLE_CHARACTER.sub(_REPLACEMENT, tag) for tag in value)
        elif field == "summary":
            changes[field] = msgspec.Raw(msgspec.json.encode(_clean(msgspec.json.decode(value))))
    return msgspec.structs.replace(row, **changes)


def _clean(value: Any) -> Any:
    """A JSON value with U+FFFD for every character in its texts that cannot be stored."""
    if isinstance(value, str):
        return UNSTORABLE_CHARACTER.sub(_REPLACEMENT, value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def encode_rows(rows: Sequence[Row]) -> str:
    """The JSON array of the rows; the usual case, that nothing has to be replaced, costs one encoding."""
    try:
        text = msgspec.json.encode(rows).decode()
        if "\\u0000" not in text:
            return text
    except UnicodeEncodeError:
        pass
    return msgspec.json.encode([storable(row) for row in rows]).decode()


def _key(row: TaskRow | StreamRow | DeadLetterRow) -> str:
    if isinstance(row, TaskRow):
        return row.task_id
    return row.letter_id if isinstance(row, DeadLetterRow) else row.stream_id


def newest_rows(rows: Sequence[Versioned]) -> list[Versioned]:
    """One row a task, stream or dead letter: the one with the highest version, the later of two equal ones."""
    newest: dict[str, Versioned] = {}
    for row in rows:
        key = _key(row)
        kept = newest.get(key)
        if kept is None or kept.version <= row.version:
            newest[key] = row
    return list(newest.values())


def task_row(columns: Sequence[Any]) -> TaskRow:
    """A row from its columns, in the order of the struct's fields."""
    fields = dict(zip(TaskRow.__struct_fields__, columns, strict=True))
    return TaskRow(**{**fields, "tags": tuple(fields["tags"])})


def template_row(columns: Sequence[Any]) -> TemplateRow:
    """A row from its columns, in the order of the struct's fields."""
    return TemplateRow(**dict(zip(TemplateRow.__struct_fields__, columns, strict=True)))


def dead_letter_row(columns: Sequence[Any]) -> DeadLetterRow:
    """A row from its columns, in the order of the struct's fields."""
    fields = dict(zip(DeadLetterRow.__struct_fields__, columns, strict=True))
    return DeadLetterRow(**{**fields, "summary": msgspec.Raw(fields["summary"].encode())})


def stream_row(columns: Sequence[Any]) -> StreamRow:
    """A row from its columns, in the order of the struct's fields."""
    fields = dict(zip(StreamRow.__struct_fields__, columns, strict=True))
    return StreamRow(**{**fields, "summary": msgspec.Raw(fields["summary"].encode())})
