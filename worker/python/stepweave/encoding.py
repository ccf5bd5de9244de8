"""A handler's values as JSON, or a clear word on why they cannot be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
import pydantic

#: Deepest nesting of arrays and objects: what every language's JSON reader takes.
NESTING_MAX: Final = 100
#: How deep the search for the guilty value goes.
_PATH_DEPTH_MAX: Final = 50
#: Not guilty themselves; what is in them may be.
_CONTAINERS: Final = (Mapping, list, tuple, set, frozenset, msgspec.Struct, pydantic.BaseModel)
_JSON_ERRORS: Final = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


class NotJson(Exception):
    """A value has no JSON form; `path` says where it stands."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def _hook(value: Any) -> Any:
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_hook)


def encode_json(value: Any, root: str = "result") -> bytes:
    """JSON of a handler's value.

    Carried besides JSON's own: pydantic models, dataclasses, msgspec structs, mappings, sets and tuples
    (arrays), datetime, date, time, timedelta, UUID, Decimal (text), Enum (its value), bytes (base64). Raises
    `NotJson` naming the path of the value that cannot be carried, NaN and infinities among them, and where
    the whole is nested deeper than `NESTING_MAX`.
    """
    try:
        encoded = _encoder.encode(value)
    except NotJson:
        raise
    except _JSON_ERRORS as error:
        path, reason = _guilty(value, root, error)
        raise NotJson(path, reason) from error
    # msgspec writes NaN and infinities as null, which would change the value without a word.
    if b"null" in encoded:
        culprit = next(_paths(value, root, _is_not_finite, 0), None)
        if culprit is not None:
            raise NotJson(culprit, "NaN and infinity have no JSON form")
    if encoded.count(b"[") + encoded.count(b"{") > NESTING_MAX and not _is_flat(encoded):
        raise NotJson(root, f"it is nested more than {NESTING_MAX} levels deep")
    return encoded


def _is_flat(encoded: bytes) -> bool:
    """Whether nothing is nested deeper than `NESTING_MAX`; looked at level by level."""
    try:
        level: list[Any] = [msgspec.json.decode(encoded)]
    except RecursionError:
        return False
    for _ in range(NESTING_MAX + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return True
        level = below
    return False


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _guilty(value: Any, root: str, error: Exception) -> tuple[str, str]:
    if isinstance(error, RecursionError):
        return root, "it is nested too deeply, or refers to itself"
    path = next(_paths(value, root, _is_guilty, 0), root)
    return path, str(error)


def _is_guilty(value: Any) -> bool:
    if isinstance(value, _CONTAINERS) or dataclasses.is_dataclass(value):
        return False
    try:
        _encoder.encode(value)
    except _JSON_ERRORS:
        return True
    return False


def _is_bad_key(key: Any) -> bool:
    try:
        _encoder.encode({key: None})
    except _JSON_ERRORS:
        return True
    return False


def _paths(value: Any, path: str, wanted: Callable[[Any], bool], depth: int) -> Iterator[str]:
    """The paths of the values that are wanted, outermost first."""
    if wanted(value):
        yield path
        return
    if depth >= _PATH_DEPTH_MAX:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if wanted is _is_guilty and _is_bad_key(key):
                yield f"{path}[{repr(key)[:80]}]"
            yield from _paths(item, f"{path}.{str(key)[:80]}", wanted, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield from _paths(item, f"{path}[{index}]", wanted, depth + 1)
    elif isinstance(value, pydantic.BaseModel):
        for key, item in value:
            yield from _paths(item, f"{path}.{key}", wanted, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for one in dataclasses.fields(value):
            yield from _paths(getattr(value, one.name), f"{path}.{one.name}", wanted, depth + 1)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _paths(getattr(value, name), f"{path}.{name}", wanted, depth + 1)
