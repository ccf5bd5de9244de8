"""A try that this worker has taken and not yet acknowledged."""

from __future__ import annotations

import asyncio
from enum import Enum

from stepweave.context import StepContext
from stepweave.invocation import Invocation
from stepweave_schemas.dispatch import Dispatch


class StopReason(Enum):
    """Why the worker itself ended a try."""

    TIMEOUT = "timeout"
    #: Nobody wants the result any more; one that comes all the same is published, to be refused and recorded.
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"


class HeldTry:
    """From its delivery until its dispatch is acknowledged; as long its lease is renewed."""

    __slots__ = (
        "announced",
        "beat_at",
        "context",
        "dispatch",
        "entered",
        "invocation",
        "received_at",
        "reply",
        "reported",
        "started_at",
        "started_at_ms",
        "stop_reason",
        "task",
        "timer",
    )

    def __init__(
        self, dispatch: Dispatch, reply: str, invocation: Invocation, context: StepContext, now: float
    ) -> None:
        self.dispatch = dispatch
        #: Where the dispatch is acknowledged; changes where it was delivered once more.
        self.reply = reply
        self.invocation = invocation
        self.context = context
        self.received_at = now
        self.beat_at = now
        self.started_at: float | None = None
        self.started_at_ms: int | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        #: Whether its task has taken its first step.
        self.entered = False
        self.stop_reason: StopReason | None = None
        #: Whether `Started` was published.
        self.announced = False
        #: Whether its outcome is decided; what comes later is ignored.
        self.reported = False
