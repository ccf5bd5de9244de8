"""What a handler hands back when a plain value does not say enough."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from stepweave_schemas.dispatch import RESULT_BYTES_MAX
from stepweave_schemas.result import COMPENSATION_STEPS_BYTES_MAX, COMPENSATION_STEPS_MAX, NAMES_MAX

from .error_types import ErrorType
from .errors import ConfigurationError

#: Kinds of failure after which another try makes no sense, unless the handler says otherwise.
_FINAL_TYPES = frozenset({ErrorType.PERMANENT_ERROR, ErrorType.VALIDATION_ERROR})


class PublishedEvent(msgspec.Struct, frozen=True):
    """A domain event that a handler published with `context.publish_event`."""

    name: str
    payload: Any = None
    #: Why it cannot be sent; such an event is recorded as refused, and the step goes on.
    problem: str = ""


class StepHandlerResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one try; make it with `success(...)`, `failure(...)` or `checkpoint(...)`.

    A handler may as well return its result as a dict, a model or None, and raise errors for failures. A dict is
    always a result: `{"success": False}` in it has no meaning. Decisions are made with `Decision`, batches with
    `BatchConfig` or `Batchable`.
    """

    #: The try went well; of a checkpoint too, although the step is not done then.
    is_success: bool
    result: Any = None
    metadata: dict[str, Any] = {}
    error_message: str = ""
    error_type: ErrorType | None = None
    error_code: str | None = None
    retryable: bool = False
    #: Wished delay before the next try, in seconds.
    retry_after: float | None = None
    #: Of a failure: what is to be undone besides the declared compensations.
    compensation_steps: list[str] = []
    #: Of a decision: the steps that are to exist, none where no branch is taken. None: no decision.
    decision_steps: list[str] | None = None
    #: Of an analyser: one value for each batch, none where there is nothing to do. None: no analyser.
    cursors: list[Any] | None = None
    #: Of an analyser: the step that each batch is made from; empty: the one that the template names.
    worker_template: str = ""
    #: Why no branch is taken, or why there are no batches.
    reason: str = ""
    #: The step is not done: it is dispatched again, from the checkpoint.
    is_checkpoint: bool = False
    checkpoint_cursor: Any = None
    checkpoint_items_processed: int = 0
    accumulated_results: Any = None
    #: What the handler published with `context.publish_event`, as `run_handler` has read it.
    domain_events: list[PublishedEvent] = []

    @property
    def is_decision(self) -> bool:
        """Whether a decision was made, for branches or for none."""
        return self.decision_steps is not None

    @property
    def is_batches(self) -> bool:
        """Whether work was cut into batches, or found to be none."""
        return self.cursors is not None

    @classmethod
    def success(cls, result: Any = None, metadata: Mapping[str, Any] | None = None) -> StepHandlerResult:
        """The step is done; dependent steps read `result`."""
        return cls(is_success=True, result=result, metadata=dict(metadata or {}))

    @classmethod
    def failure(
        cls,
        message: str,
        error_type: ErrorType | str | None = None,
        retryable: bool | None = None,
        *,
        error_code: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        compensation_steps: Iterable[str] = (),
    ) -> StepHandlerResult:
        """The try failed.

        Where only one of `error_type` and `retryable` is given the other follows from it; without both it is
        a retryable `handler_error`. `compensation_steps` names steps or compensation handlers that are to run
        besides the declared compensations once the step has failed for good. Raises `ValueError` for an unknown
        `error_type` or a bad `retry_after`, `ConfigurationError` for bad `compensation_steps`.
        """
        if error_type is None:
            kind = ErrorType.HANDLER_ERROR
            if retryable is not None:
                kind = ErrorType.RETRYABLE_ERROR if retryable else ErrorType.PERMANENT_ERROR
        else:
            kind = _error_type(error_type)
        if retryable is None:
            retryable = kind not in _FINAL_TYPES
        return cls(
            is_success=False,
            metadata=dict(metadata or {}),
            error_message=message,
            error_type=kind,
            error_code=error_code,
            retryable=retryable,
            retry_after=check_retry_after(retry_after),
            compensation_steps=check_compensation_steps(compensation_steps),
        )

    @classmethod
    def permanent_failure(cls, code: str, data: Mapping[str, Any] | None = None) -> StepHandlerResult:
        """No further try can succeed; `data` is kept, its `message` or `reason` becomes the message."""
        return cls.failure(
            _message_of(code, data), ErrorType.PERMANENT_ERROR, False, error_code=code, metadata=data
        )

    @classmethod
    def permanent_failure_with_compensation(
        cls, code: str, data: Mapping[str, Any] | None = None, steps: Iterable[str] = ()
    ) -> StepHandlerResult:
        """As `permanent_failure`; besides the declared compensations, `steps` are to be undone.

        A name is that of a step, whose compensation runs, or of a handler that undoes something.
        """
        return cls.failure(
            _message_of(code, data),
            ErrorType.PERMANENT_ERROR,
            False,
            error_code=code,
            metadata=data,
            compensation_steps=steps,
        )

    @classmethod
    def retryable_failure(
        cls, code: str, data: Mapping[str, Any] | None = None, *, retry_after: float | None = None
    ) -> StepHandlerResult:
        """Another try may succeed; `data` is kept, its `message` or `reason` becomes the message."""
        return cls.failure(
            _message_of(code, data),
            ErrorType.RETRYABLE_ERROR,
            True,
            error_code=code,
            metadata=data,
            retry_after=retry_after,
        )

    @classmethod
    def checkpoint(
        cls, cursor: Any, items_processed: int, accumulated_results: Any = None
    ) -> StepHandlerResult:
        """Save the progress and go on from it: the step is dispatched again at once, at no attempt.

        The next try finds the three values in its context, and so does a retry after a failure or a lost worker.
        All are any JSON values; `items_processed` counts from the step's beginning, over all its tries
        (`context.checkpoint_items_processed` plus what was done now). Raises `ConfigurationError` unless it is
        a whole number from 0 on.
        """
        return cls(
            is_success=True,
            is_checkpoint=True,
            checkpoint_cursor=cursor,
            checkpoint_items_processed=check_count(items_processed, "items_processed"),
            accumulated_results=accumulated_results,
        )


def check_names(
    names: str | Iterable[str],
    what: str,
    *,
    names_max: int = NAMES_MAX,
    bytes_max: int = RESULT_BYTES_MAX,
) -> list[str]:
    """Names of steps as a list, each once; a single text is one name.

    Raises `ConfigurationError` where one is no text or empty, or where they are too many to be sent.
    """
    if isinstance(names, str):
        names = (names,)
    elif isinstance(names, Mapping | bytes) or not isinstance(names, Iterable):
        raise ConfigurationError(
            f"{what}: expected the name of a step or a list of names, not {_shown(names)}",
            error_code="STEP_NAMES_INVALID",
        )
    unique: dict[str, None] = {}
    size = 0
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(
                f"{what}[{number}]: expected the name of a step, not {_shown(name)}",
                error_code="STEP_NAMES_INVALID",
            )
        try:
            size += len(name.encode())
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"{what}[{number}]: {name!r} has half a surrogate pair, which is no text",
                error_code="STEP_NAMES_INVALID",
            ) from None
        unique[name] = None
        if number >= names_max or size > bytes_max:
            raise ConfigurationError(
                f"{what}: too many names, {names_max} and {bytes_max} bytes at most",
                error_code="STEP_NAMES_INVALID",
            )
    return list(unique)


def check_compensation_steps(names: str | Iterable[str]) -> list[str]:
    """What a failure wants undone, as `check_names`."""
    return check_names(
        names,
        "compensation_steps",
        names_max=COMPENSATION_STEPS_MAX,
        bytes_max=COMPENSATION_STEPS_BYTES_MAX,
    )


def check_count(value: Any, what: str, *, least: int = 0) -> int:
    """Give back a whole number; raises `ConfigurationError` unless it is one from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise ConfigurationError(
            f"{what}: expected a whole number from {least} on, not {_shown(value)}",
            error_code="COUNT_INVALID",
        )
    return value


def check_object(value: Any, what: str) -> dict[str, Any]:
    """A JSON object of its own, empty for None; raises `ConfigurationError` for anything but a mapping."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{what}: expected a dict, not {_shown(value)}", error_code="OBJECT_EXPECTED"
        )
    return dict(value)


def check_reason(reason: Any, who: str) -> str:
    """Give back a text for people; raises `ConfigurationError` where it is none, or empty."""
    if not isinstance(reason, str) or not reason.strip():
        raise ConfigurationError(
            f"{who} says why: expected a reason, not {_shown(reason)}", error_code="REASON_MISSING"
        )
    return reason


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def check_retry_after(seconds: float | None) -> float | None:
    """Give back a wished delay; raises `ValueError` unless it is a finite number of seconds from 0 on."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ValueError(f"retry_after is a number of seconds, not {seconds!r}")
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"retry_after is a finite number of seconds from 0 on, not {seconds!r}")
    return float(seconds)


def _error_type(value: ErrorType | str) -> ErrorType:
    try:
        kind = ErrorType(value)
    except ValueError:
        known = ", ".join(kind.value for kind in ErrorType if kind is not ErrorType.WORKER_LOST)
        raise ValueError(f"error_type {value!r} is none of {known}") from None
    if kind is ErrorType.WORKER_LOST:
        raise ValueError("error_type 'worker_lost' is for the orchestrator to say")
    return kind


def _message_of(code: str, data: Mapping[str, Any] | None) -> str:
    for key in ("message", "reason"):
        text = (data or {}).get(key)
        if isinstance(text, str) and text:
            return text
    return code
