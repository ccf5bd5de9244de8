"""A document of any dialect to the canonical keys, with every unknown key found on the way.

The result is a plain dict for the model, and a record of where each value stood, so that what the model or the
rules find wrong later can name the line and the key as the user wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from .dialects import FLAG_WORDS, STEP_TYPE_WORDS, TEMPLATE, Form, Key, Shape
from .problems import ProblemList, did_you_mean, excerpt
from .tree import Mapping, Node, Scalar, Sequence, path_of_key, plain
from .versions import full_version

Location = tuple[str | int, ...]


class Place(NamedTuple):
    """Where a value stands in the document."""

    path: str
    line: int


class SchemaText(NamedTuple):
    """A JSON Schema found in the document."""

    place: Place
    node: Node


def place_inside(place: Place, node: Node | None, way: Iterable[str | int]) -> Place:
    """The place of a value inside the one at `place`, its line as near as the document goes."""
    path, line = place
    for part in way:
        if isinstance(node, Mapping) and part in node.entries:
            line, node = node.entries[str(part)]
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            line = node.line
        else:
            node = None
        path = f"{path}[{part}]" if isinstance(part, int) else path_of_key(path, part)
    return Place(path, line)


class _Skip:
    """The value is unusable (and reported) or absent."""


_SKIP: Final = _Skip()


class Reading:
    """The canonical form of a document, as far as it could be read."""

    def __init__(self, root: Node, problems: ProblemList) -> None:
        self.problems = problems
        #: Values whose shape was wrong: what the model says about them is no news.
        self.spoiled: set[Location] = set()
        self.schemas: list[SchemaText] = []
        self._places: dict[Location, Place] = {(): Place("", root.line)}
        #: Values that are the user's own, whatever is in them.
        self._free: dict[Location, Node] = {}
        value = self._shape(TEMPLATE, root, (), "")
        #: `None` where the document is no mapping at all.
        self.data: dict[str, Any] | None = None if isinstance(value, _Skip) else value

    def place(self, location: Location) -> Place:
        """Where the value at a canonical location stands, or the nearest value around it."""
        for length in range(len(location), -1, -1):
            place = self._places.get(location[:length])
            if place is not None:
                return place_inside(place, self._free.get(location[:length]), location[length:])
        raise AssertionError("the document itself has a place")

    def is_spoiled(self, location: Location) -> bool:
        """Whether the value, or one around it, was reported already."""
        return any(location[:length] in self.spoiled for length in range(len(location) + 1))

    # -- mappings ----------------------------------------------------------------------------------

    def _shape(self, shape: Shape, node: Node, location: Location, path: str) -> dict[str, Any] | _Skip:
        if shape.shorthand is not None and isinstance(node, Scalar):
            self._places[(*location, shape.shorthand)] = Place(path, node.line)
            return {shape.shorthand: node.value}
        if not isinstance(node, Mapping):
            self._spoil(location, path, node, f"a {shape.title} is a mapping of keys", code=shape.code)
            return _SKIP
        found: dict[str, Any] = {}
        for name, (line, child) in node.entries.items():
            here = path_of_key(path, name)
            key = shape.keys.get(name)
            if key is None:
                self._unknown(shape, name, here, line)
            elif not (isinstance(child, Scalar) and child.value is None):
                target = (*location, *key.target)
                value = self._value(key, child, target, here)
                if not isinstance(value, _Skip):
                    self._places[target] = Place(here, line)
                    self._put(found, key.target, value, shape, Place(here, line))
        return found

    def _unknown(self, shape: Shape, name: str, path: str, line: int) -> None:
        if name in shape.ignored:
            self.problems.add(
                "IGNORED_KEY",
                "this key of an older dialect means nothing here",
                path=path,
                line=line,
                severity="warning",
                hint="take it out",
            )
            return
        self.problems.add(
            "UNKNOWN_KEY",
            f"a {shape.title} has no key {excerpt(name)}",
            path=path,
            line=line,
            hint=lambda: _known_key_hint(shape, name),
        )

    def _put(
        self, found: dict[str, Any], target: tuple[str, ...], value: Any, shape: Shape | None, place: Place
    ) -> None:
        """Store a value under its canonical key; two spellings of one key must say the same."""
        key, *rest = target
        part = shape.part(key) if shape is not None else None
        if rest:
            self._put(found.setdefault(key, {}), tuple(rest), value, part, place)
        elif key not in found:
            found[key] = value
        elif part is not None:
            for inner, inner_value in value.items():
                self._put(found[key], (inner,), inner_value, part, place)
        elif found[key] != value:
            self.problems.add(
                "BAD_VALUE",
                f"{key!r} is given twice in two spellings that differ: {excerpt(found[key])} and {excerpt(value)}",
                path=place.path,
                line=place.line,
                hint="keep one of them",
            )

    # -- values ------------------------------------------------------------------------------------

    def _value(self, key: Key, node: Node, location: Location, path: str) -> Any:
        match key.form:
            case Form.SHAPE:
                assert key.shape is not None
                return self._shape(key.shape, node, location, path)
            case Form.LIST:
                assert key.shape is not None
                return self._list(key.shape, node, location, path)
            case Form.TABLE:
                assert key.shape is not None
                return self._table(key.shape, node, location, path)
            case Form.NAMES:
                return self._names(node, location, path)
            case Form.SCHEMA:
                self.schemas.append(SchemaText(Place(path, node.line), node))
                return plain(node)
        if not isinstance(node, Scalar):
            self._free[location] = node
            return plain(node)
        match key.form:
            case Form.FLAG:
                return _flag(node)
            case Form.SECONDS:
                return self._scaled(node, location, path, 1_000, "seconds", whole=True)
            case Form.MINUTES:
                return self._scaled(node, location, path, 60, "minutes", whole=False)
            case Form.VERSION:
                number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
                return full_version(node.text) if number or isinstance(node.value, str) else node.value
            case Form.STEP_TYPE:
                return STEP_TYPE_WORDS.get(node.text, node.value)
            case Form.DECISION:
                return self._type_flag(node, location, path, "decision")
            case Form.DEFERRED:
                return self._type_flag(node, location, path, "deferred_convergence")
        return node.value

    def _list(self, shape: Shape, node: Node, location: Location, path: str) -> list[Any] | _Skip:
        if not isinstance(node, Sequence):
            self._spoil(location, path, node, f"this is a list, each element a {shape.title}")
            return _SKIP
        found: list[Any] = []
        for number, item in enumerate(node.items):
            # An unusable element keeps its number, so that later ones keep theirs.
            here = (*location, number)
            self._places[here] = Place(f"{path}[{number}]", item.line)
            value = self._shape(shape, item, here, f"{path}[{number}]")
            found.append({} if isinstance(value, _Skip) else value)
        return found

    def _table(self, shape: Shape, node: Node, location: Location, path: str) -> dict[str, Any] | _Skip:
        if not isinstance(node, Mapping):
            self._spoil(location, path, node, f"this is a mapping of names, each to one {shape.title}")
            return _SKIP
        found: dict[str, Any] = {}
        for name, (line, child) in node.entries.items():
            if isinstance(child, Scalar) and child.value is None:
                continue
            here = (*location, name)
            self._places[here] = Place(path_of_key(path, name), line)
            value = self._shape(shape, child, here, path_of_key(path, name))
            if not isinstance(value, _Skip):
                found[name] = value
        return found

    def _names(self, node: Node, location: Location, path: str) -> list[Any] | _Skip:
        if isinstance(node, Mapping):
            self._spoil(location, path, node, "this is a name or a list of names")
            return _SKIP
        if isinstance(node, Scalar):
            self._places[(*location, 0)] = Place(path, node.line)
            return [node.value]
        for number, item in enumerate(node.items):
            self._places[(*location, number)] = Place(f"{path}[{number}]", item.line)
        return [plain(item) for item in node.items]

    def _scaled(
        self, node: Scalar, location: Location, path: str, factor: int, unit: str, *, whole: bool
    ) -> Any:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            self._spoil(location, path, node, f"this is a number of {unit}")
            return _SKIP
        scaled = node.value * factor
        if not math.isfinite(scaled):
            self._spoil(location, path, node, f"this is a sensible number of {unit}")
            return _SKIP
        return round(scaled) if whole else scaled

    def _type_flag(self, node: Scalar, location: Location, path: str, meaning: str) -> Any:
        value = _flag(node)
        if not isinstance(value, bool):
            self._spoil(location, path, node, "this is true or false")
        return meaning if value is True else _SKIP

    def _spoil(
        self, location: Location, path: str, node: Node, expected: str, *, code: str = "BAD_VALUE"
    ) -> None:
        self.spoiled.add(location)
        self.problems.add(code, f"{expected}; found {_kind(node)}", path=path, line=node.line)


def _known_key_hint(shape: Shape, name: str) -> str:
    """The nearest known key, one that stands a level deeper, or all of them."""
    for key in shape.keys:
        part = shape.part(key)
        if part is not None and name in part.keys:
            return f"did you mean {key + '.' + name!r}?"
    canonical = (key for key, entry in shape.keys.items() if entry.target == (key,))
    return did_you_mean(name, shape.keys) or f"known keys: {', '.join(canonical)}"


def _flag(node: Scalar) -> Any:
    return node.value if node.quoted else FLAG_WORDS.get(node.text.lower(), node.value)


def _kind(node: Node) -> str:
    if isinstance(node, Scalar):
        return excerpt(node.value) if node.value is not None else "nothing"
    return "a list" if isinstance(node, Sequence) else "a mapping"
