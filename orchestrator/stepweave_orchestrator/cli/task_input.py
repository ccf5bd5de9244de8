"""What is sent to a task: its context or a signal's payload from JSON, a file, stdin and `--set`, and its start."""

from __future__ import annotations

import getpass
import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from .errors import CommandError, ExitCode

#: Seconds in each unit of a time span such as `90s` or `2h`.
UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def context_of(text: str | None, settings: Sequence[str]) -> dict[str, Any]:
    """The context: a JSON object, `@file` or `-` (stdin), with `key=value` settings put into it.

    A value that reads as JSON is taken as JSON, any other as text; dots in a key go into nested objects.
    """
    example = '{"name": "Ada"}'
    source, found = ("--context", {}) if text is None else _read(text, "--context", example)
    if not isinstance(found, dict):
        raise CommandError(
            f"{source}: a context is a JSON object, this is {type(found).__name__}", ExitCode.USAGE
        )
    _put_all(found, settings, "context")
    return found


def payload_of(text: str | None, settings: Sequence[str], option: str = "--payload") -> Any:
    """A signal's payload, or whatever `option` stands for: any JSON value, `@file` or `-` (stdin); with `key=value` settings it is an object.

    Without any of them it is `None`, JSON's null.
    """
    if text is None and not settings:
        return None
    source, found = (option, {}) if text is None else _read(text, option, '{"approved": true}')
    if settings and not isinstance(found, dict):
        raise CommandError(
            f"{source}: --set puts values into an object, this is {type(found).__name__}", ExitCode.USAGE
        )
    _put_all(found, settings, option.removeprefix("--"))
    return found


def _read(text: str, option: str, example: str) -> tuple[str, Any]:
    """Where the JSON of an option comes from, and what it is."""
    source = option
    if text == "-":
        text, source = sys.stdin.read(), "stdin"
    elif text.startswith("@"):
        path = Path(text[1:])
        try:
            text, source = path.read_text("utf-8"), str(path)
        except FileNotFoundError:
            raise CommandError(f"{option}: there is no file {path}", ExitCode.NOT_FOUND) from None
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{option}: {path} cannot be read: {error}", ExitCode.USAGE) from None
    try:
        return source, json.loads(text)
    except ValueError as error:
        raise CommandError(
            f"{source} is not JSON: {error}; give JSON such as '{example}', @FILE or -", ExitCode.USAGE
        ) from None


def _put_all(found: Any, settings: Sequence[str], what: str) -> None:
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise CommandError(
                f"--set {setting}: write key=value, with dots for nested keys, such as customer.id=7",
                ExitCode.USAGE,
            )
        _put(found, key, _value(value), what)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(found: dict[str, Any], key: str, value: Any, what: str) -> None:
    *above, last = key.split(".")
    inner = found
    for part in above:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise CommandError(f"--set {key}: {part!r} is not an object in this {what}", ExitCode.USAGE)
    inner[last] = value


def moment_of(text: str, option: str, *, past: bool = False) -> datetime:
    """A moment: RFC 3339 with a zone, or a span from now such as `90s` or `2h` (with `past`: before now)."""
    span = _SPAN.fullmatch(text.removeprefix("+"))
    if span is not None:
        distance = timedelta(seconds=float(span[1]) * UNIT_SECONDS[span[2]])
        return datetime.now(UTC) - distance if past else datetime.now(UTC) + distance
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise CommandError(
            f"{option} {text}: write a time with its zone, such as 2030-01-31T12:00:00Z, or a span such as 90s",
            ExitCode.USAGE,
        )
    return found


def who() -> str:
    """Who runs this command, for the history."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "cli"
