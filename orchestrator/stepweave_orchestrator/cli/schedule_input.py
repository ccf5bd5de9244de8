"""A schedule's settings from a YAML file or from options."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import CommandError, ExitCode
from .task_input import UNIT_SECONDS
from .template import parse_reference, read

if TYPE_CHECKING:
    from stepweave_schemas.template.tree import Mapping, Node

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
_MOMENTS: Final = ("at", "anchor", "starts_at", "ends_at")
_KEYS: Final = ("namespace", "name", *_PLAIN, *_SPANS, "task")
_TASK_KEYS: Final = ("template", "context", "tags", "priority")
#: A file of settings is not larger than that.
FILE_BYTES_MAX: Final = 1024 * 1024


def file_settings(path: Path) -> tuple[str, str, dict[str, Any]]:
    """Namespace, name and settings of a schedule's YAML (or JSON) file.

    Raises `CommandError` with everything that is wrong with it, a line each.
    """
    from stepweave_schemas.template.problems import ProblemList
    from stepweave_schemas.template.yaml_lines import parse

    content = read(path)
    if len(content) > FILE_BYTES_MAX:
        raise CommandError(f"{path} has {len(content)} bytes, {FILE_BYTES_MAX} at most", ExitCode.USAGE)
    problems = ProblemList(str(path))
    root = parse(content, problems)
    settings = _File(path)
    for problem in problems.in_order():
        where = f"{problem.path}: " if problem.path else ""
        # The reader is that of templates.
        hint = f"; {problem.hint.replace('template', 'schedule')}" if problem.hint else ""
        if "alias" in problem.message:
            hint = "; put the text in quotes: it begins with *"
        settings.note(problem.line, f"{where}{problem.message}{hint}")
    found = settings.read(root) if root is not None else None
    if settings.problems or found is None:
        raise CommandError("\n".join(settings.problems), ExitCode.USAGE)
    return found


class _File:
    """A file that is read, and what is wrong with it so far."""

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self._path = path

    def note(self, line: int | None, problem: str) -> None:
        where = self._path if line is None else f"{self._path}:{line}"
        self.problems.append(f"{where}: {problem}")

    def read(self, root: Node) -> tuple[str, str, dict[str, Any]] | None:
        """Namespace, name and settings; `None` or nonsense where `problems` says so."""
        from stepweave_schemas.template.tree import Mapping

        if not isinstance(root, Mapping):
            self.note(root.line, "a schedule is a mapping with name, when it fires, and task")
            return None
        given = self._entries(root, _KEYS, "")
        spec: dict[str, Any] = {}
        texts: dict[str, str] = {}
        for key, (line, node) in given.items():
            if key in _SPANS:
                spec[_SPANS[key]] = self._span(key, line, node)
            elif key == "task":
                spec["task"] = self._task(line, node)
            else:
                text = self._text(key, line, node)
                (texts if key in ("namespace", "name") else spec)[key] = text
                if key in _MOMENTS and text:
                    self._check_moment(key, line, text)
        for key, example in (("name", "daily"), ("task", "{template: NAMESPACE/NAME}")):
            if key not in given:
                self.note(None, f"{key}: it is missing: write {key}: {example}")
        return texts.get("namespace") or "default", texts.get("name", ""), spec

    def _entries(self, mapping: Mapping, known: tuple[str, ...], prefix: str) -> dict[str, tuple[int, Node]]:
        """The keys that have a value, each with its line; notes those that nothing reads."""
        from stepweave_schemas.template.tree import Scalar

        for key in [key for key in mapping.entries if key not in known]:
            close = get_close_matches(key, known, 1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known are {', '.join(known)}"
            self.note(mapping.entries[key].line, f"unknown key {prefix}{key[:100]}; {hint}")
        return {
            key: (entry.line, entry.node)
            for key, entry in mapping.entries.items()
            if key in known and not (isinstance(entry.node, Scalar) and entry.node.value is None)
        }

    def _text(self, key: str, line: int, node: Node) -> str:
        from stepweave_schemas.template.tree import Scalar

        if isinstance(node, Scalar):
            if isinstance(node.value, str):
                return node.value
            self.note(line, f"{key}: expected text; put {node.text[:100]} in quotes")
        else:
            self.note(line, f"{key}: expected text")
        return ""

    def _span(self, key: str, line: int, node: Node) -> int:
        from stepweave_schemas.template.tree import Scalar

        try:
            return span_seconds(node.text if isinstance(node, Scalar) else "", key)
        except CommandError as error:
            self.note(line, str(error))
            return 0

    def _check_moment(self, key: str, line: int, text: str) -> None:
        from stepweave_schemas.envelope import parse_timestamp

        try:
            parse_timestamp(text[:100])
        except (ValueError, OverflowError) as error:
            self.note(line, f"{key}: {error}")

    def _task(self, line: int, node: Node) -> dict[str, Any]:
        from stepweave_schemas.template.tree import Mapping, plain

        if not isinstance(node, Mapping):
            self.note(line, "task: expected a mapping, such as {template: NAMESPACE/NAME}")
            return {}
        given = self._entries(node, _TASK_KEYS, "task.")
        if "template" not in given:
            self.note(line, "task.template: it is missing: write NAMESPACE/NAME")
            return {}
        task: dict[str, Any] = {}
        for key, (key_line, each) in given.items():
            value = plain(each)
            if key == "template":
                task |= self._reference(key_line, self._text("task.template", key_line, each))
                continue
            expected = _WRONG[key](value)
            if expected:
                self.note(key_line, f"task.{key}: expected {expected}")
            task[key] = value
        return task

    def _reference(self, line: int, text: str) -> dict[str, Any]:
        try:
            namespace, name, version = parse_reference(text)
        except CommandError as error:
            self.note(line, f"task.template: {error}")
            return {}
        return {"namespace": namespace, "name": name, **({} if version is None else {"version": version})}


def _no_texts(value: Any) -> str:
    is_list = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return "" if is_list else "a list of texts, such as [reports]"


def _no_number(value: Any) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"


def _no_mapping(value: Any) -> str:
    return "" if isinstance(value, dict) else "a mapping"


#: What was expected of a value of `task`; empty where it is that.
_WRONG: Final[dict[str, Callable[[Any], str]]] = {
    "context": _no_mapping,
    "tags": _no_texts,
    "priority": _no_number,
}


def span_seconds(text: str, where: str) -> int:
    """Seconds of `90`, `90s`, `15m`, `2h` or `1d`; raises `CommandError`."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise CommandError(
            f"{where}: {text!r} is no span of time: write whole seconds, or 90s, 15m, 2h, 1d", ExitCode.USAGE
        )
    return int(int(match[1]) * UNIT_SECONDS[match[2] or "s"])


#: What the API calls a setting otherwise than files and options do.
_OTHER_NAMES: Final = {
    **{setting: key for key, setting in _SPANS.items()},
    "from_at": "from",
    "until_at": "until",
}
_OWN_NAMES: Final = re.compile(rf"(?<![\w'\"])({'|'.join(_OTHER_NAMES)})(?![\w'\"])")
_SETTINGS: Final = re.compile(r"(?<![\w.])(?:spec|timing)[.:] ?(?=[a-z])")
_OPTIONS: Final = {"task.context": "--context", "task.priority": "--priority", "task.tags": "--tag"}
#: A setting at the beginning of a problem; a text about something else stays as it is.
_PROBLEM: Final = re.compile(r"(^|; )(task\.[a-z]+|[a-z_]+): ")


def in_typed_words(message: str, file: Path | None = None) -> str:
    """What the API says about settings, in the words of the file they come from, or of the options."""
    text = _OWN_NAMES.sub(lambda found: _OTHER_NAMES[found[1]], _SETTINGS.sub("", message))
    if file is not None:
        return f"{file}: {text}"
    return _PROBLEM.sub(lambda found: f"{found[1]}{_option(found[2])}: ", text)


def _option(key: str) -> str:
    if key in _OPTIONS:
        return _OPTIONS[key]
    return f"--{key.replace('_', '-')}" if key in _TYPED else key


_TYPED: Final = {*_PLAIN, *_SPANS, "from", "until", "concurrency"}
