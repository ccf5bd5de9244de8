"""References inside the context of a child task: `${context.order.id}`, `${steps.charge.amount}`.

A text that is a reference and nothing else stands for the value it names: a part of the parent's context, or of the
result of a step that comes before. The parts of a path are keys of objects, or places in lists, from 0. Text with a
reference in the middle is refused rather than sent on as it stands.

Pure: the checks of templates and the orchestrator's core both read references with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, Final, NamedTuple

from .subjects import NAME_BYTES_MAX

_FORM: Final = "${context.KEY}, ${steps.STEP} or ${steps.STEP.KEY}"
_REFERENCE = re.compile(r"\$\{(context|steps)((?:\.[^\s.{}]+)*)\}")
#: Text that was meant as a reference, whatever is wrong with it.
_MEANT = re.compile(r"\A\s*\$\{|\$\{\s*(?:context|steps)\b")
_PLACE_IN_LIST = re.compile(r"0|[1-9][0-9]{0,8}")


class _Missing:
    """The type of `MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


#: There is no such value (`None` is one: JSON's null).
MISSING: Final = _Missing()


class Reference(NamedTuple):
    """What a reference names, not yet looked up."""

    #: As it is written.
    text: str
    #: `context` or `steps`.
    source: str
    #: What stands behind it, cut at the dots; never empty for `steps`.
    parts: tuple[str, ...]

    def step_and_path(self, step_names: Container[str]) -> tuple[str, tuple[str, ...]] | None:
        """The step it names and the path into the step's result; `None` where no step is called so.

        Names of steps may contain dots: the longest one that fits is meant.
        """
        found: tuple[str, tuple[str, ...]] | None = None
        name = ""
        for count, part in enumerate(self.parts, 1):
            name = f"{name}.{part}" if name else part
            if len(name) > NAME_BYTES_MAX:
                break
            if name in step_names:
                found = name, self.parts[count:]
        return found


def parse_reference(text: str) -> Reference | None:
    """The reference that a text is, or `None` for any other text.

    Raises `ValueError` for text that was meant as a reference and is none.
    """
    if "${" not in text:
        return None
    match = _REFERENCE.fullmatch(text)
    if match is not None and (match[2] or match[1] == "context"):
        return Reference(text, match[1], tuple(match[2].split(".")[1:]))
    if _MEANT.search(text) is None:
        return None
    if _REFERENCE.search(text) is not None:
        raise ValueError("a reference is the whole value, with nothing before or behind it")
    raise ValueError(f"a reference has the form {_FORM}")


def texts_in(
    value: object, location: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text inside a JSON value that may be a reference, with the way to it."""
    if isinstance(value, str):
        if "${" in value:
            yield location, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from texts_in(inner, (*location, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from texts_in(inner, (*location, number))


def resolve(
    value: object,
    context: Mapping[str, Any],
    result_of: Callable[[str], Any],
    step_names: Container[str],
) -> tuple[Any, list[str]]:
    """`value` with each reference replaced by what it names, and the references that name nothing.

    `result_of` gives the result of a step by its name, or `MISSING`; `step_names` holds the names of all steps of
    the template. Where nothing is found, a key of an object is left out, an element of a list is null, and a value
    that is itself the reference is `MISSING`. Malformed references, which no checked template has, name nothing.
    """
    missing: dict[str, None] = {}

    def look_up(text: str) -> Any:
        try:
            reference = parse_reference(text)
        except ValueError:
            return MISSING
        if reference is None:
            return text
        if reference.source == "context":
            return follow(context, reference.parts)
        named = reference.step_and_path(step_names)
        return MISSING if named is None else follow(result_of(named[0]), named[1])

    def replaced(inner: object) -> Any:
        if isinstance(inner, str):
            found = look_up(inner)
            if found is MISSING:
                missing[inner] = None
            return found
        if isinstance(inner, Mapping):
            pairs = ((key, replaced(each)) for key, each in inner.items())
            return {key: each for key, each in pairs if each is not MISSING}
        if isinstance(inner, list):
            return [None if (found := replaced(each)) is MISSING else found for each in inner]
        return inner

    return replaced(value), list(missing)


def follow(value: Any, path: tuple[str, ...]) -> Any:
    """The value at the end of a path of keys and places in lists, or `MISSING`."""
    for part in path:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif (
            isinstance(value, list) and _PLACE_IN_LIST.fullmatch(part) is not None and int(part) < len(value)
        ):
            value = value[int(part)]
        else:
            return MISSING
    return value
