"""What the model says about a document, in words for the person who wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from stepweave_schemas.subjects import EVENT_NAME_PATTERN

from .model import KEY_PATH_PATTERN, NAME_PATTERN
from .problems import did_you_mean, excerpt
from .reading import Location, Reading
from .versions import VERSION_PATTERN

_PATTERNS: Final = {
    NAME_PATTERN: "a name: letters, digits, `_`, `-` and `.`, the first a letter, digit or `_`",
    EVENT_NAME_PATTERN: "the name of an event: words of letters, digits, `_` and `-`, joined by dots, as in `order.paid`",
    KEY_PATH_PATTERN: "keys joined by dots, as in `customer.id`",
    VERSION_PATTERN: "a semantic version such as 1.2.0",
}

Hint = str | Callable[[], str | None] | None

#: Error types of pydantic → what is expected.
_EXPECTED: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    "string_type": lambda _: "text",
    "int_type": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "float_type": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "bool_type": lambda _: "true or false",
    "dict_type": lambda _: "a mapping",
    "tuple_type": lambda _: "a list",
    "model_type": lambda _: "a mapping",
    "literal_error": lambda context: f"one of {context['expected']}",
    "string_pattern_mismatch": lambda context: _PATTERNS[context["pattern"]],
    "string_too_long": lambda context: f"at most {context['max_length']} characters",
    "too_long": lambda context: f"at most {context['max_length']} elements",
    "too_short": lambda context: f"at least {context['min_length']} element",
    "greater_than": lambda context: f"more than {_number(context['gt'])}",
    "greater_than_equal": lambda context: f"at least {_number(context['ge'])}",
    "less_than_equal": lambda context: f"at most {_number(context['le'])}",
}


def note_model_errors(error: ValidationError, reading: Reading) -> None:
    """Add a problem for each error of the model that was not reported while reading."""
    for detail in error.errors(include_url=False):
        location: Location = detail["loc"]
        kind: str = detail["type"]
        if location[-1:] == ("[key]",):
            location, kind = location[:-1], "bad_key"
        if reading.is_spoiled(location) or _is_consequence(kind, detail):
            continue
        place = reading.place(location)
        code, message, hint = _describe(kind, detail, location, place.path)
        reading.problems.add(code, message, path=place.path, line=place.line, hint=hint)


def _is_consequence(kind: str, detail: Mapping[str, Any]) -> bool:
    """Whether a list is only short because its bad elements, which have errors of their own, do not count."""
    return kind == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _describe(kind: str, detail: Mapping[str, Any], location: Location, path: str) -> tuple[str, str, Hint]:
    """Code, message and hint of one error of the model."""
    value: object = detail["input"]
    if kind == "bad_key":
        return "BAD_VALUE", f"the key must be {_PATTERNS[NAME_PATTERN]}", None
    if kind == "missing" and location[-1] in ("handler", "callable"):
        code = "COMPENSATION_INVALID" if "compensation" in location else "EMPTY_CALLABLE"
        return code, "no handler is named", "add `handler: NAME`"
    if kind == "empty_callable":
        return "EMPTY_CALLABLE", detail["msg"], "give the name that workers register the handler with"
    if kind == "missing":
        return "BAD_VALUE", f"{location[-1]!r} is missing", None
    expected = _EXPECTED.get(kind)
    if expected is None:
        return "BAD_VALUE", f"{detail['msg']}; found {_shown(value)}", None
    # An older key may be in another unit than the canonical one that the bound is about.
    canonical = str(location[-1])
    about = canonical if isinstance(location[-1], str) and not path.endswith(canonical) else "this"
    return (
        "BAD_VALUE",
        f"{about} must be {expected(detail.get('ctx', {}))}; found {_shown(value)}",
        lambda: _hint(kind, value, detail),
    )


def _hint(kind: str, value: object, detail: Mapping[str, Any]) -> str | None:
    if kind == "string_type" and isinstance(value, int | float | bool):
        return "put it in quotes" if not isinstance(value, bool) else 'put it in quotes, such as "true"'
    if kind in ("int_type", "float_type", "bool_type") and isinstance(value, str):
        return "write it without quotes" if _looks_plain(value) else None
    if kind == "literal_error" and isinstance(value, str):
        return did_you_mean(value, [word.strip("'") for word in _words(detail["ctx"]["expected"])])
    return None


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _words(expected: str) -> list[str]:
    return expected.replace(" or ", ", ").split(", ")


def _looks_plain(value: str) -> bool:
    return value.lower() in ("true", "false") or value.replace(".", "", 1).replace("-", "", 1).isdigit()


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "nothing" if value is None else excerpt(value)
