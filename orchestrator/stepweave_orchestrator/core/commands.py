"""What may be asked of a task, besides the outcomes that workers report (`stepweave_schemas.result`)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from stepweave_schemas.events import TaskCreated
from stepweave_schemas.result import AnyOutcome


class Moment(NamedTuple):
    """What the outside contributes to a decision: the time and fresh random bits."""

    #: Milliseconds since the Unix epoch.
    now_ms: int
    #: At least 96 random bits as text; lease tokens and jitter are made of them.
    entropy: str


class CreateTask(msgspec.Struct, frozen=True):
    """Begin the task. The request was validated against template and schema before."""

    created: TaskCreated
    #: `identity_strategy: strict` – a second task of the same content is a conflict, not a replay.
    strict: bool = False


class CancelTask(msgspec.Struct, frozen=True):
    """End the task now; handlers that run are told, results that come later are refused."""

    reason: str
    cancelled_by: str


class Wake(msgspec.Struct, frozen=True):
    """A timer of the task is due: a delayed start, a retry, a time-out."""


Command = CreateTask | CancelTask | Wake | AnyOutcome
