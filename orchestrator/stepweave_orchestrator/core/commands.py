"""What may be asked of a task, besides the outcomes that workers report (`stepweave_schemas.result`)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from stepweave_schemas.events import TaskCreated
from stepweave_schemas.result import AnyOutcome

from .operator_commands import AnyOperatorCommand


class Limits(NamedTuple):
    """How far a task may grow; whatever goes beyond fails the step that asks for it."""

    #: Decisions above each other.
    decision_depth_max: int = 20
    #: Steps that one decision names.
    decision_steps_max: int = 100
    #: Worker steps of one batchable step.
    batch_workers_max: int = 20_000
    #: Tasks above each other.
    child_depth_max: int = 20
    #: Signals of one task that no step has taken yet, and the size of their payloads together.
    signals_kept_max: int = 1_000
    signals_kept_bytes_max: int = 1_024 * 1_024
    #: A step whose handler nobody serves is named after so long.
    handler_missing_ms: int = 60_000


DEFAULT_LIMITS = Limits()


class Moment(NamedTuple):
    """What the outside contributes to a decision: the time, fresh random bits, and the installation's limits."""

    #: Milliseconds since the Unix epoch.
    now_ms: int
    #: At least 96 random bits as text; lease tokens and jitter are made of them.
    entropy: str
    limits: Limits = DEFAULT_LIMITS
    #: The rate of the task's namespace, in steps that begin each second; none where it has none.
    rate_per_second: float | None = None
    #: Circuits that are known not to be closed (`holding.circuit_key`).
    open_circuits: frozenset[str] = frozenset()


class CreateTask(msgspec.Struct, frozen=True):
    """Begin the task. The request was validated against template and schema before."""

    created: TaskCreated
    #: `identity_strategy: strict` – a second task of the same content is a conflict, not a replay.
    strict: bool = False


class CancelTask(msgspec.Struct, frozen=True):
    """End the task now; handlers that run are told, results that come later are refused."""

    reason: str
    cancelled_by: str


class SignalTask(msgspec.Struct, frozen=True):
    """Something that a step waits for, or will wait for, has happened outside."""

    signal: str
    #: The sender's id of it: the same one again is the same signal.
    signal_id: str
    #: JSON text.
    payload: str
    sent_by: str


class AdmitStep(msgspec.Struct, frozen=True):
    """A gate lets a try of a step through, or the whole task (an empty name)."""

    step_name: str
    token: str
    is_probe: bool = False


class StreamCommand(msgspec.Struct, frozen=True):
    """Base of what may be asked of a stream of the system's own, by its kind."""


class Wake(msgspec.Struct, frozen=True):
    """A timer of the task is due (a delayed start, a retry, a time-out), or one of a system stream."""


class InvestigateTask(msgspec.Struct, frozen=True):
    """Somebody says what came of one of the task's dead letters."""

    #: The letter's id.
    letter_id: str
    #: One of `dead_letters.INVESTIGATED`; `None` leaves it as it is.
    resolution_status: str | None
    #: `None` leaves them as they are.
    resolution_notes: str | None
    resolved_by: str
    #: A JSON object as text; `None` leaves it as it is.
    metadata: str | None


class ServedHandlers(msgspec.Struct, frozen=True):
    """Which handlers live workers serve."""

    #: Those that they name, by namespace and queue.
    named: dict[tuple[str, str], frozenset[str]]
    #: The namespaces and queues with a worker that may have others besides.
    anything: frozenset[tuple[str, str]] = frozenset()

    def names(self, namespace: str, queue: str, handler: str) -> bool:
        """Whether a live worker says that it has the handler."""
        return handler in self.named.get((namespace, queue), ())

    def may_serve(self, namespace: str, queue: str, handler: str) -> bool:
        """Whether a live worker has the handler, or may have it."""
        return (namespace, queue) in self.anything or self.names(namespace, queue, handler)


class CheckHandlers(msgspec.Struct, frozen=True):
    """Look whether workers serve what the task's steps wait for."""

    served: ServedHandlers


Command = (
    CreateTask
    | CancelTask
    | SignalTask
    | Wake
    | AdmitStep
    | InvestigateTask
    | CheckHandlers
    | AnyOperatorCommand
    | AnyOutcome
)
