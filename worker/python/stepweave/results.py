"""What a handler hands back when a plain value does not say enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .error_types import ErrorType

#: Kinds of failure after which another try makes no sense, unless the handler says otherwise.
_FINAL_TYPES = frozenset({ErrorType.PERMANENT_ERROR, ErrorType.VALIDATION_ERROR})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepHandlerResult:
    """The outcome of one try; make it with `success(...)` or `failure(...)`.

    A handler may as well return its result as a dict, a model or None, and raise errors for failures. A dict is
    always a result: `{"success": False}` in it has no meaning.
    """

    is_success: bool
    result: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    error_message: str = ""
    error_type: ErrorType | None = None
    error_code: str | None = None
    retryable: bool = False
    #: Wished delay before the next try, in seconds.
    retry_after: float | None = None

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
    ) -> StepHandlerResult:
        """The try failed.

        Where only one of `error_type` and `retryable` is given the other follows from it; without both it is
        a retryable `handler_error`. Raises `ValueError` for an unknown `error_type` or a bad `retry_after`.
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
        )

    @classmethod
    def permanent_failure(cls, code: str, data: Mapping[str, Any] | None = None) -> StepHandlerResult:
        """No further try can succeed; `data` is kept, its `message` or `reason` becomes the message."""
        return cls.failure(
            _message_of(code, data), ErrorType.PERMANENT_ERROR, False, error_code=code, metadata=data
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
