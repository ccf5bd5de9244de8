"""How the API refuses: a code, a sentence, and what belongs to it."""

from __future__ import annotations

from typing import Any, Final


class ApiError(Exception):
    """A refusal with a code; travels as `{"error": {"code", "message", …details}}`."""

    STATUS: Final[dict[str, int]] = {
        "NOT_FOUND": 404,
        "BAD_REQUEST": 400,
        "INVALID_UUID": 400,
        "VALIDATION_FAILED": 422,
        "CONFLICT": 409,
        "UNAUTHORIZED": 401,
        "FORBIDDEN": 403,
        "TIMEOUT": 408,
        "SERVICE_UNAVAILABLE": 503,
        "BACKPRESSURE": 503,
        "INTERNAL_ERROR": 500,
    }

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return self.STATUS.get(self.code, 500)

    def body(self) -> dict[str, Any]:
        """What travels to the caller."""
        return {"error": {"code": self.code, "message": self.message, **self.details}}
