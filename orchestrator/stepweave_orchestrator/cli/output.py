"""What commands print: tables for people, JSON and YAML for programs, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

#: Columns where stdout is no terminal: a table is never cut there.
_WIDTH_OF_FILES: Final = 2_000


class OutputFormat(StrEnum):
    """The values of `-o`."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@cache
def stdout() -> Console:
    """The console for data. Colours only on a terminal, and never with NO_COLOR."""
    return _console(stderr=False)


@cache
def stderr() -> Console:
    """The console for progress and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDTH_OF_FILES
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False, emoji=False)


def progress(text: str) -> None:
    """One line about what is going on."""
    print(text, file=sys.stderr, flush=True)


def say(text: str = "") -> None:
    """One line of data."""
    print(text, flush=True)


def plain(value: Any) -> Any:
    """A struct, or anything made of them, as plain dicts and lists; raw JSON in it is read."""
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(value))


def show(value: Any, form: OutputFormat, table: Callable[[], None]) -> None:
    """Print `value` as JSON or YAML, or call `table` to print it for people."""
    if form is OutputFormat.TABLE:
        table()
    elif form is OutputFormat.JSON:
        import msgspec

        say(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    else:
        import yaml

        say(yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True, width=120).rstrip("\n"))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table on stdout; with no rows, `empty` goes to stderr instead.

    A column named with a leading `>` is right-aligned. Cells are plain text; `None` is an empty cell.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        right = name.startswith(">")
        table.add_column(name.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in row))
    if not table.row_count:
        progress(empty)
        return
    _print_trimmed(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair a line; pairs without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields:
        if value not in (None, "", ()):
            table.add_row(name, value if isinstance(value, Text) else Text(_cell(value)))
    _print_trimmed(table)


def _print_trimmed(table: object) -> None:
    """Print a table; into a file or pipe without the blanks that fill its last column."""
    console = stdout()
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        say(line.rstrip())


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


#: Statuses of tasks and steps by the colour they are shown in.
_COLOURS: Final = {
    "complete": "green",
    "resolved_manually": "green",
    "in_progress": "cyan",
    "enqueued": "cyan",
    "steps_in_process": "cyan",
    "waiting_for_retry": "yellow",
    "waiting_for_signal": "yellow",
    "waiting_for_dependencies": "yellow",
    "compensating": "magenta",
    "compensated": "magenta",
    "skipped": "dim",
    "error": "red",
    "blocked_by_failures": "red",
    "cancelled": "magenta",
    "paused": "yellow",
}


def status_text(status: str) -> Any:
    """A status in its colour."""
    from rich.text import Text

    return Text(status, style=_COLOURS.get(status, ""))


def moment(text: str | None) -> str:
    """An RFC 3339 UTC time, shorter, for tables."""
    if not text:
        return ""
    return text[:19].replace("T", " ") + "Z"
