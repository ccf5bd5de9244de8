"""What an unquoted YAML word stands for: the core schema of YAML 1.2, which is JSON's view of values.

So `no`, `on`, `2024-01-01` and `1_000` are text (in YAML 1.1 they are not, which surprises people), and every value
has a JSON form. Keys that hold a boolean still take `yes` and `no`: see `dialects.flag`.
"""

from __future__ import annotations

import math
import re
from typing import Final

from .problems import excerpt

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

#: JSON numbers that every reader of a template can hold.
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1

_TAG_PREFIX: Final = "tag:yaml.org,2002:"
_CORE_TAGS: Final = frozenset(f"{_TAG_PREFIX}{name}" for name in ("str", "int", "float", "bool", "null"))


class BadScalar(ValueError):
    """A value that has no JSON form."""


def resolve(text: str) -> str | int | float | bool | None:
    """The value of an unquoted word; raises `BadScalar` for numbers that JSON does not have."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in "-+.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text, 10)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise BadScalar("the number is too large")
        return number
    if _HEXADECIMAL.fullmatch(text):
        return _integer(text, 16)
    if _OCTAL.fullmatch(text):
        return _integer(text, 8)
    if _NOT_FINITE.fullmatch(text):
        raise BadScalar("JSON has neither infinity nor NaN")
    return text


def resolve_tagged(tag: str, text: str) -> str | int | float | bool | None:
    """The value of a scalar with an explicit tag (`!!str 1.0`); raises `BadScalar`."""
    if tag not in _CORE_TAGS:
        shown = excerpt(tag.replace(_TAG_PREFIX, "!!"))
        raise BadScalar(f"the tag {shown} is not understood here")
    kind = tag.removeprefix(_TAG_PREFIX)
    if kind == "str":
        return text
    value = resolve(text)
    fits = {
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "null": value is None,
    }
    if not fits[kind]:
        raise BadScalar(f"the value is no !!{kind}")
    return float(value) if kind == "float" and isinstance(value, int) else value


def _integer(text: str, base: int) -> int:
    digits_max = 40  # more than any number in range has, in any base used; int() itself is slow on long texts
    if len(text) <= digits_max:
        number = int(text, base)
        if INTEGER_MIN <= number <= INTEGER_MAX:
            return number
    raise BadScalar("the number is too large")
