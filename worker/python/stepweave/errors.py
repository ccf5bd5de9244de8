"""The errors of the SDK: a small tree.

Authors of handlers meet two: raise `PermanentError` where another try cannot help, `RetryableError` where it
can. Their subclasses only name the reason. Everything else here tells callers of the client what went wrong.

    StepweaveError
    ├── RetryableError      TimeoutError, NetworkError, RateLimitError, ServiceUnavailableError,
    │                       ResourceContentionError
    └── PermanentError      ValidationError, NotFoundError, AuthenticationError, AuthorizationError,
                            ConfigurationError, BusinessLogicError
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from .error_types import ErrorType


class StepweaveError(Exception):
    """Base of every error of the SDK.

    `message` is for people. `error_code` is a short constant that programs and operators can tell apart,
    `metadata` a JSON object kept with the failure, `context` what the handler was about (kept in the
    metadata), `retry_after` the wished delay before the next try in seconds, `compensation_steps` what is to be
    undone besides the declared compensations once the step has failed for good (names of steps or of
    compensation handlers).
    """

    #: What a step's failure says when a handler raises this.
    error_type: ClassVar[ErrorType] = ErrorType.HANDLER_ERROR
    retryable: ClassVar[bool] = True

    def __init__(
        self,
        message: str = "",
        *,
        error_code: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        context: Mapping[str, Any] | None = None,
        compensation_steps: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.retry_after = retry_after
        self.context: dict[str, Any] = dict(context or {})
        self.compensation_steps = compensation_steps


class RetryableError(StepweaveError):
    """Another try may succeed; the template's backoff, or `retry_after` in seconds, says when."""

    error_type = ErrorType.RETRYABLE_ERROR


class TimeoutError(RetryableError):
    """Something outside did not answer in time."""

    error_type = ErrorType.TIMEOUT


class NetworkError(RetryableError):
    """A connection failed."""


class RateLimitError(RetryableError):
    """Something outside asked to slow down; give `retry_after` where it said for how long."""


class ServiceUnavailableError(RetryableError):
    """Something outside is down for now."""


class ResourceContentionError(RetryableError):
    """A lock, a row or another resource is held by somebody else."""


class PermanentError(StepweaveError):
    """No further try can succeed: the step fails for good."""

    error_type = ErrorType.PERMANENT_ERROR
    retryable = False


class ValidationError(PermanentError):
    """The input is wrong."""

    error_type = ErrorType.VALIDATION_ERROR


class NotFoundError(PermanentError):
    """A thing that must exist does not."""


class AuthenticationError(PermanentError):
    """Credentials are missing or wrong."""


class AuthorizationError(PermanentError):
    """The credentials are known but not allowed to do this."""


class ConfigurationError(PermanentError):
    """The handler or its template is set up wrong."""


class BusinessLogicError(PermanentError):
    """A rule of the business forbids it."""
