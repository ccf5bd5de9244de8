"""A refused command is a value, not an exception."""

from __future__ import annotations

from typing import Literal

import msgspec

from stepweave_schemas.events import Event

RejectionCode = Literal[
    "NOT_FOUND",
    "CONFLICT",
    "DUPLICATE",
    "WRONG_TOKEN",
    "STALE",
    "UNKNOWN_STEP",
    "NOT_DUE",
    "FULL",
]


class Rejection(msgspec.Struct, frozen=True):
    """Nothing happens, because of `code`; `reason` is for people."""

    code: RejectionCode
    reason: str
    #: Of what an operator asked: the status of the task or step, and what may be asked of it instead.
    status: str = ""
    allowed_actions: tuple[str, ...] | None = None


#: What follows from a command: events in order, or why none do.
Decision = list[Event] | Rejection
