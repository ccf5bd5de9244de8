"""A parsed document: plain values that remember their lines.

YAML and JSON both come in through `TreeBuilder`, which holds the bounds: nesting, and the size of the document
after its aliases are expanded (a few lines of YAML can stand for gigabytes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from .problems import ProblemList, excerpt

#: Deepest nesting of mappings and lists.
DEPTH_MAX: Final = 64
#: Size of the document with every alias expanded, in characters, with one more for each value.
EXPANDED_CHARS_MAX: Final = 4 * 1024 * 1024

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


class Unreadable(Exception):
    """The text cannot be read any further; never leaves this package."""

    def __init__(self, message: str, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.hint = hint


@dataclass(slots=True)
class Scalar:
    """A single value; `text` is how it was written, `quoted` whether it can only be text."""

    line: int
    value: str | int | float | bool | None
    text: str
    quoted: bool

    @property
    def weight(self) -> int:
        """What it adds to the size of the document."""
        return 1 + len(self.text)

    @property
    def height(self) -> int:
        """Levels below this one."""
        return 0


@dataclass(slots=True)
class Sequence:
    """A list."""

    line: int
    items: list[Node] = field(default_factory=list)
    weight: int = 1
    height: int = 1


class Entry(NamedTuple):
    """A value in a mapping, and the line of its key."""

    line: int
    node: Node


@dataclass(slots=True)
class Mapping:
    """A mapping; keys are text, however they were written."""

    line: int
    entries: dict[str, Entry] = field(default_factory=dict)
    weight: int = 1
    height: int = 1


Node = Scalar | Sequence | Mapping


def plain(node: Node) -> Any:
    """The value without its lines."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {key: plain(entry.node) for key, entry in node.entries.items()}


def path_of_key(path: str, key: str) -> str:
    """The path of a key below `path`; unusual keys are quoted."""
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{excerpt(key)}]"
    return f"{path}.{key}" if path else key


@dataclass(slots=True)
class _Open:
    """A mapping or list that is still being read."""

    node: Sequence | Mapping
    anchor: str | None
    key: str | None = None
    key_line: int = 0
    #: The value that comes next belongs to no usable key.
    discard: bool = False
    #: The key is the `<<` of YAML.
    merging: bool = False
    #: Mappings brought in by `<<`, the first wins.
    merged: list[Mapping] = field(default_factory=list)


class TreeBuilder:
    """Makes a tree from parser events; raises `Unreadable` where a bound is passed."""

    def __init__(self, problems: ProblemList) -> None:
        self.root: Node | None = None
        self._problems = problems
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._weight = 0

    def scalar(self, node: Scalar, anchor: str | None = None) -> None:
        """Add a single value; as a key where a mapping waits for one."""
        if anchor is not None:
            self._anchors[anchor] = node
        self._attach(node)

    def start(self, node: Sequence | Mapping, anchor: str | None = None) -> None:
        """Open a mapping or a list."""
        if len(self._stack) >= DEPTH_MAX:
            raise Unreadable(f"nested deeper than {DEPTH_MAX} levels", node.line)
        if anchor is not None:
            self._anchors[anchor] = None
        self._stack.append(_Open(node, anchor))

    def end(self) -> None:
        """Close the mapping or list that was opened last."""
        closed = self._stack.pop()
        node = closed.node
        if isinstance(node, Mapping):
            for merged in closed.merged:
                for key, entry in merged.entries.items():
                    if key not in node.entries:
                        node.entries[key] = entry
                        self._grow(node, entry.node, len(key), node.line)
        if closed.anchor is not None:
            self._anchors[closed.anchor] = node
        self._attach(node)

    def alias(self, anchor: str, line: int) -> None:
        """Add the value of an anchor once more."""
        if anchor not in self._anchors:
            raise Unreadable(f"alias *{excerpt(anchor)[1:-1]} has no anchor before it", line)
        node = self._anchors[anchor]
        if node is None:
            raise Unreadable(f"alias *{excerpt(anchor)[1:-1]} stands inside its own anchor", line)
        self._attach(node, line)

    def _attach(self, node: Node, line: int | None = None) -> None:
        if not self._stack:
            self.root = node
            return
        top = self._stack[-1]
        if isinstance(top.node, Sequence):
            self._grow(top.node, node, 0, line or node.line)
            top.node.items.append(node)
        elif top.key is None and not top.discard:
            self._take_key(top, node, line or node.line)
        else:
            self._take_value(top, top.node, node, line or node.line)

    def _take_key(self, top: _Open, node: Node, line: int) -> None:
        if isinstance(node, Scalar):
            top.key, top.key_line = node.text, line
            top.merging = node.text == "<<" and not node.quoted
            if "\0" in node.text:
                self._problems.add(
                    "BAD_VALUE", "a key contains the character NUL", path=self._path(), line=line
                )
            return
        self._problems.add(
            "BAD_YAML", "a list or mapping stands where a key should be", path=self._path(), line=line
        )
        top.discard = True

    def _take_value(self, top: _Open, mapping: Mapping, node: Node, line: int) -> None:
        key, top.key = top.key, None
        if top.discard or key is None:
            top.discard = False
            return
        if top.merging:
            top.merging = False
            self._merge(top, node, line)
            return
        first = mapping.entries.get(key)
        if first is not None:
            self._problems.add(
                "BAD_YAML",
                f"the key stands twice in one mapping, first on line {first.line}",
                path=path_of_key(self._path(), key),
                line=top.key_line,
                hint="keep one of them",
            )
            return
        self._grow(mapping, node, len(key), line)
        mapping.entries[key] = Entry(top.key_line, node)

    def _merge(self, top: _Open, node: Node, line: int) -> None:
        parts = node.items if isinstance(node, Sequence) else [node]
        for part in parts:
            if isinstance(part, Mapping):
                top.merged.append(part)
            else:
                self._problems.add(
                    "BAD_YAML",
                    "`<<` merges mappings only",
                    path=self._path(),
                    line=line,
                    hint="give it an alias",
                )

    def _grow(self, parent: Sequence | Mapping, child: Node, key_chars: int, line: int) -> None:
        """Account for a child; aliases count as often as they are used."""
        parent.weight += child.weight + key_chars
        parent.height = max(parent.height, child.height + 1)
        if len(self._stack) + child.height > DEPTH_MAX:
            raise Unreadable(f"nested deeper than {DEPTH_MAX} levels", line)
        if parent.weight > EXPANDED_CHARS_MAX:
            raise Unreadable(
                f"more than {EXPANDED_CHARS_MAX} characters when its aliases are expanded",
                line,
                hint="use fewer aliases",
            )

    def next_path(self) -> str:
        """Where the value that comes next will stand."""
        path = self._path()
        if self._stack:
            top = self._stack[-1]
            if isinstance(top.node, Sequence):
                return f"{path}[{len(top.node.items)}]"
            if top.key is not None:
                return path_of_key(path, top.key)
        return path

    def _path(self) -> str:
        """Where the mapping or list that is open stands."""
        path = ""
        for open_ in self._stack[:-1]:
            if isinstance(open_.node, Sequence):
                path += f"[{len(open_.node.items)}]"
            else:
                path = path_of_key(path, open_.key or "")
        return path
