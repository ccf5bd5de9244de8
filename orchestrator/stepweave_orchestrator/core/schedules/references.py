"""References in the context of a scheduled task: `${schedule.date}` stands for the day that a firing is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from stepweave_schemas.envelope import timestamp

from .timing import Timing

#: What a firing knows, by the name in `${schedule.NAME}`.
NAMES: Final = ("fired_at", "local_time", "date", "time_zone", "namespace", "name", "cause")
_REFERENCE: Final = re.compile(r"\$\{schedule\.([^{}]*)\}")


def firing_values(timing: Timing, namespace: str, name: str, nominal_ms: int, cause: str) -> dict[str, str]:
    """The values of `NAMES` for one firing."""
    local = timing.local(nominal_ms)
    return {
        "fired_at": timestamp(nominal_ms),
        "local_time": local,
        "date": local[:10],
        "time_zone": timing.zone.key,
        "namespace": namespace,
        "name": name,
        "cause": cause,
    }


def fill(value: Any, values: dict[str, str]) -> Any:
    """A JSON value with each reference in its texts replaced."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: values.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: fill(each, values) for key, each in value.items()}
    return [fill(each, values) for each in value] if isinstance(value, list) else value


def unknown_references(value: Any) -> list[str]:
    """The references that name nothing, as they are written."""
    found = {text: None for text in _texts(value) for text in _unknown_in(text)}
    return list(found)


def _unknown_in(text: str) -> Iterator[str]:
    for match in _REFERENCE.finditer(text):
        if match[1] not in NAMES:
            yield match[0]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
