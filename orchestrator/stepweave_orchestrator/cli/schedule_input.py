"""A schedule's settings from a YAML file or from options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from .errors import CommandError, ExitCode
from .task_input import UNIT_SECONDS
from .template import parse_reference, read

_SPAN: Final = re.compile(r"(\d+)(s|m|h|d)?")
#: Keys of a file whose value is a span of time, by the setting.
_SPANS: Final = {"every": "every_seconds", "jitter": "jitter_seconds", "catch_up": "catch_up_seconds"}
_PLAIN: Final = (
    "cron",
    "at",
    "anchor",
    "time_zone",
    "starts_at",
    "ends_at",
    "overlap",
    "description",
)
_KEYS: Final = ("namespace", "name", *_PLAIN, *_SPANS, "task")
_TASK_KEYS: Final = ("template", "context", "tags", "priority")
#: A file of settings is not larger than that.
FILE_BYTES_MAX: Final = 1024 * 1024


def file_settings(path: Path) -> tuple[str, str, dict[str, Any]]:
    """Namespace, name and settings of a schedule's YAML (or JSON) file; raises `CommandError`."""
    import yaml

    content = read(path)
    if len(content) > FILE_BYTES_MAX:
        raise CommandError(f"{path} has {len(content)} bytes, {FILE_BYTES_MAX} at most", ExitCode.USAGE)
    try:
        found = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError(f"{path} is no YAML: {error}", ExitCode.USAGE) from None
    if not isinstance(found, dict):
        raise CommandError(
            f"{path}: a schedule is a mapping with name, when it fires, and task", ExitCode.USAGE
        )
    _refuse_unknown(path, found, _KEYS, "")
    task = found.get("task")
    if not isinstance(task, dict) or not isinstance(task.get("template"), str):
        raise CommandError(
            f"{path}: task.template is missing: write task: {{template: NAMESPACE/NAME}}", ExitCode.USAGE
        )
    _refuse_unknown(path, task, _TASK_KEYS, "task.")
    name = found.get("name")
    if not isinstance(name, str):
        raise CommandError(f"{path}: name is missing, or is no text", ExitCode.USAGE)
    spec: dict[str, Any] = {}
    for key, value in found.items():
        if value is None:
            continue
        if key in _SPANS:
            spec[_SPANS[key]] = span_seconds(str(value), f"{path}: {key}")
        elif key in _PLAIN:
            spec[key] = _text(value)
    namespace, template, version = parse_reference(task["template"])
    spec["task"] = {
        "namespace": namespace,
        "name": template,
        **({} if version is None else {"version": version}),
        **{key: value for key, value in task.items() if key != "template" and value is not None},
    }
    return str(found.get("namespace") or "default"), name, spec


def span_seconds(text: str, where: str) -> int:
    """Seconds of `90`, `90s`, `15m`, `2h` or `1d`; raises `CommandError`."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise CommandError(
            f"{where}: {text!r} is no span of time: write whole seconds, or 90s, 15m, 2h, 1d", ExitCode.USAGE
        )
    return int(int(match[1]) * UNIT_SECONDS[match[2] or "s"])


def _text(value: Any) -> Any:
    """A value as the API has it: YAML reads moments by itself."""
    if isinstance(value, datetime):
        return value.isoformat()
    return value.isoformat() if isinstance(value, date) else value


def _refuse_unknown(path: Path, found: Mapping[Any, Any], known: tuple[str, ...], prefix: str) -> None:
    for key in found:
        if key not in known:
            close = get_close_matches(str(key), known, 1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known are {', '.join(known)}"
            raise CommandError(f"{path}: unknown key {prefix}{key}; {hint}", ExitCode.USAGE)
