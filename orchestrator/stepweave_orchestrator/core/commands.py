"""What may be asked of a task, besides the outcomes that workers report (`stepweave_schemas.result`)."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from stepweave_schemas.events import (
    BatchCreated,
    DecisionDeclined,
    DecisionRouted,
    TaskCreated,
    TemplateRef,
)
from stepweave_schemas.result import AnyOutcome

from .operator_commands import AnyOperatorCommand

#: What one fork takes over, for all of it has to stand in one append: steps, and bytes of results and cursors.
REUSED_STEPS_MAX: Final = 25_000
REUSED_BYTES_MAX: Final = 16 * 1_024 * 1_024


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
    #: What one fork takes over.
    reused_steps_max: int = REUSED_STEPS_MAX
    reused_bytes_max: int = REUSED_BYTES_MAX


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


class Taken(msgspec.Struct, frozen=True):
    """How a step ended in another task, as a fork takes it over."""

    #: The step's type there.
    type: str
    #: `complete`, `skipped`, `resolved_manually`, or `error` (one batch whose failure was put up with).
    status: str
    result: msgspec.Raw
    #: The task that ran it, the step's uuid there, and the try that ended it.
    task_id: str
    step_uuid: str
    attempt: int
    #: The other task undoes what the step did, if it is to be undone.
    undone_by_original: bool
    #: What a decision chose, or how a batchable step was cut.
    shaped: DecisionRouted | DecisionDeclined | BatchCreated | None = None
    error_type: str = ""
    error_message: str = ""
    error_code: str | None = None


class ForkTask(msgspec.Struct, frozen=True):
    """Begin a task with what another one has come to. Its `created` says of which, and which steps are to run anew."""

    created: TaskCreated
    #: By step name: what may be reused, as far as the template allows.
    taken: dict[str, Taken]
    #: The template of the other task.
    template: TemplateRef


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
    #: The ids of all workers that live, or did a moment ago.
    workers: frozenset[str] = frozenset()

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
    | ForkTask
    | CancelTask
    | SignalTask
    | Wake
    | AdmitStep
    | InvestigateTask
    | CheckHandlers
    | AnyOperatorCommand
    | AnyOutcome
)
