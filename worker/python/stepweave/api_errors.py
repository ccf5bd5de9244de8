"""What the API refuses with, as exceptions."""

from __future__ import annotations

from typing import Any

from .error_types import ErrorType
from .errors import StepweaveError


class ApiError(StepweaveError):
    """The API refused a request. `code` is its word, `details` whatever else it said."""

    error_type = ErrorType.RETRYABLE_ERROR

    def __init__(self, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, error_code=code)
        self.code = code
        self.details = dict(details or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class BadRequest(ApiError):
    """The request makes no sense; the message says what is wrong with it."""


class NotFound(ApiError):
    """There is no such task, step or template."""


class Conflict(ApiError):
    """It contradicts what exists: the same key with another request, the same version with other content, or
    something that is asked of a task or step in a state that does not allow it."""

    @property
    def state(self) -> str | None:
        """The state of the task or step that was to be changed."""
        found = self.details.get("state")
        return found if isinstance(found, str) else None

    @property
    def allowed_actions(self) -> list[str]:
        """What may be asked of that task or step instead."""
        found = self.details.get("allowed_actions")
        return found if isinstance(found, list) else []


class ValidationFailed(ApiError):
    """Context or template do not validate; `violations` lists every one."""

    @property
    def violations(self) -> list[dict[str, Any]]:
        """Each with where it is and what is wrong there."""
        for key in ("violations", "problems"):
            found = self.details.get(key)
            if isinstance(found, list):
                return found
        return []


class Unauthorized(ApiError):
    """Who asks is not known."""


class Forbidden(ApiError):
    """Who asks may not do this."""


class Backpressure(ApiError):
    """The system has more work than it takes; `retry_after` says how many seconds to wait."""

    def __init__(self, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(code, message, details)
        seconds = self.details.get("retry_after", self.details.get("retry_after_seconds"))
        self.retry_after = float(seconds) if isinstance(seconds, int | float) else None


class Unavailable(ApiError):
    """No orchestrator answers, or it cannot serve now; the same request may succeed later."""


class ApiTimeout(Unavailable):
    """No answer in time; the request may have been carried out all the same."""


class ServerError(ApiError):
    """The orchestrator failed in a way that it did not foresee."""


_BY_CODE: dict[str, type[ApiError]] = {
    "BAD_REQUEST": BadRequest,
    "INVALID_UUID": BadRequest,
    "NOT_FOUND": NotFound,
    "CONFLICT": Conflict,
    "VALIDATION_FAILED": ValidationFailed,
    "UNAUTHORIZED": Unauthorized,
    "FORBIDDEN": Forbidden,
    "BACKPRESSURE": Backpressure,
    "SERVICE_UNAVAILABLE": Unavailable,
    "TIMEOUT": ApiTimeout,
    "INTERNAL_ERROR": ServerError,
}

#: Codes after which the same request may be sent again.
RETRYABLE_CODES = frozenset({"BACKPRESSURE", "SERVICE_UNAVAILABLE", "TIMEOUT"})


def api_error(error: dict[str, Any]) -> ApiError:
    """The exception of an answer's `error` object: `{"code", "message", …details}`."""
    details = dict(error)
    code = str(details.pop("code", "INTERNAL_ERROR"))
    message = str(details.pop("message", "the API gave no reason"))
    return _BY_CODE.get(code, ApiError)(code, message, details)
