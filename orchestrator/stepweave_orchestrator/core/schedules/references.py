"""References in the context and the tags of a scheduled task: `${schedule.date}` is the day that a firing is about.

They stand in texts, not in the keys of objects. Whatever looks like one and is none is refused when the schedule is
created: it would be in every task, unfilled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from stepweave_schemas.envelope import timestamp

from .timing import Timing

#: What a firing knows, by the name in `${schedule.NAME}`.
NAMES: Final = ("fired_at", "local_time", "date", "time_zone", "namespace", "name", "cause")
_REFERENCE: Final = re.compile(r"\$\{schedule\.([^{}]*)\}")
#: What is meant as one, however it is written.
_MEANT: Final = re.compile(r"\$\{\s*schedule\b[^{}]*\}?", re.IGNORECASE)


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
    """What is written like a reference in a JSON value and stands for nothing: as it is written, each once."""
    return list(dict.fromkeys(_unknown(value)))


def _unknown(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        for meant in _MEANT.findall(value):
            match = _REFERENCE.fullmatch(meant)
            if match is None or match[1] not in NAMES:
                yield meant
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from (f"the key {meant}" for meant in _MEANT.findall(key))
            yield from _unknown(each)
    elif isinstance(value, list):
        for each in value:
            yield from _unknown(each)
