"""What JSON carries of a handler's values, and the path of what it does not."""

from __future__ import annotations

import dataclasses
import enum
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest

from stepweave.encoding import NESTING_MAX, NotJson, encode_json


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: Any


class Model(pydantic.BaseModel):
    at: datetime
    ratio: float = 1.0


class Struct(msgspec.Struct):
    value: Any


def test_what_is_carried() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    value = {
        "model": Model(at=at),
        "point": Point(1, (2, {3})),
        "struct": Struct(Colour.RED),
        "uuid": UUID(int=1),
        "decimal": Decimal("1.10"),
        "bytes": b"xx",
        "delta": timedelta(days=1),
        "view": MappingProxyType({"a": 1}),
        5: "five",
        "big": 10**40,
        "none": None,
    }
    assert json.loads(encode_json(value)) == {
        "model": {"at": "2026-01-02T03:04:05Z", "ratio": 1.0},
        "point": {"x": 1, "y": [2, [3]]},
        "struct": {"value": "red"},
        "uuid": "00000000-0000-0000-0000-000000000001",
        "decimal": "1.10",
        "bytes": "eHg=",
        "delta": "P1D",
        "view": {"a": 1},
        "5": "five",
        "big": 10**40,
        "none": None,
    }


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"d": value}
    return value


def endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        (object(), "result", "type object has no JSON form"),
        ({"a": [1, {"b": object()}]}, "result.a[1].b", "type object"),
        (Point(1, {"q": {1: object()}}), "result.y.q.1", "type object"),
        (Struct([object()]), "result.value[0]", "type object"),
        ({(1, 2): 3}, "result[(1, 2)]", "type tuple"),
        ({"a": float("nan"), "b": None}, "result.a", "NaN"),
        (Model(at=datetime(2026, 1, 1, tzinfo=UTC), ratio=float("inf")), "result.ratio", "infinity"),
        ("\ud800", "result", "surrogates"),
        ({"k": ["\ud800"]}, "result.k[0]", "surrogates"),
        (iter(()), "result", "type tuple_iterator"),
        (deep(3_000), "result", "nested"),
        (deep(NESTING_MAX + 1), "result", f"more than {NESTING_MAX} levels"),
        (endless(), "result", "refers to itself"),
    ],
)
def test_what_is_not_carried_is_named_with_its_path(value: Any, path: str, reason: str) -> None:
    with pytest.raises(NotJson) as error:
        encode_json(value)
    assert error.value.path == path
    assert reason in error.value.reason


def test_wide_is_not_deep() -> None:
    wide = [{"a": [1], "n": number} for number in range(1_000)]
    assert json.loads(encode_json(wide)) == wide
    assert json.loads(encode_json(deep(NESTING_MAX))) == deep(NESTING_MAX)


def test_nulls_are_not_mistaken_for_nan() -> None:
    assert (
        encode_json({"text": "null", "none": None, "float": 1.5})
        == b'{"text":"null","none":null,"float":1.5}'
    )
    assert encode_json(None) == b"null"
