"""The strings of `error_type` as an enumeration."""

from __future__ import annotations

from enum import StrEnum


class ErrorType(StrEnum):
    """What kind of failure a try ended in; the values travel on the wire."""

    #: No further try can succeed.
    PERMANENT_ERROR = "permanent_error"
    #: The handler says that another try may succeed.
    RETRYABLE_ERROR = "retryable_error"
    #: The input is wrong; never tried again.
    VALIDATION_ERROR = "validation_error"
    #: The handler, or something it called, took too long.
    TIMEOUT = "timeout"
    #: The handler raised something that it did not classify; tried again.
    HANDLER_ERROR = "handler_error"
    #: The worker is gone; said by the orchestrator.
    WORKER_LOST = "worker_lost"
