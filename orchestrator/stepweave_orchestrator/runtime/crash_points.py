"""Named places where a test kills the process, as a power cut would.

`STEPWEAVE_CRASH_POINT=after_append:3` kills the process with SIGKILL when it passes `after_append` for the
third time. Without the variable every call returns at once.
"""

from __future__ import annotations

import os
import signal
from typing import Final, Literal

CrashPoint = Literal["before_append", "after_append", "half_published", "before_acks"]

VARIABLE: Final = "STEPWEAVE_CRASH_POINT"


def _read(text: str) -> tuple[str, int]:
    name, _, count = text.partition(":")
    return name, int(count or 1)


_armed, _remaining = _read(os.environ.get(VARIABLE, ""))


def crash_point(name: CrashPoint) -> None:
    """Die here, if the environment says so and this is the time."""
    global _remaining
    if name == _armed:
        _remaining -= 1
        if _remaining <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
