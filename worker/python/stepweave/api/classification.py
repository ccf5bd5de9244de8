"""What an HTTP status means for the step.

| status | raised | tried again |
|---|---|---|
| 2xx | nothing | |
| 3xx | `PermanentError`: redirects are never followed | no |
| 400, 422 | `ValidationError` | no |
| 401 | `AuthenticationError` | no |
| 403 | `AuthorizationError` | no |
| 404, 410 | `NotFoundError` | no |
| 408 | `TimeoutError` | yes |
| 429 | `RateLimitError` | yes |
| other 4xx | `PermanentError` | no |
| 5xx | `ServiceUnavailableError` | yes |

`error_code` is `HTTP_` and the status. `Retry-After` of a status that is tried again, in seconds or as a date,
becomes the failure's `retry_after`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from stepweave.errors import (
    AuthenticationError,
    AuthorizationError,
    NotFoundError,
    PermanentError,
    RateLimitError,
    ServiceUnavailableError,
    StepweaveError,
    TimeoutError,
    ValidationError,
)

from .response import ApiResponse

_KINDS: Final[dict[int, type[StepweaveError]]] = {
    400: ValidationError,
    401: AuthenticationError,
    403: AuthorizationError,
    404: NotFoundError,
    408: TimeoutError,
    410: NotFoundError,
    422: ValidationError,
    429: RateLimitError,
}
_SECONDS: Final = re.compile(r"\d{1,10}(\.\d{1,9})?")
#: Of a body so much stands in the message itself.
_MESSAGE_CHARS_MAX: Final = 200


def error_of(response: ApiResponse) -> StepweaveError:
    """The error that a response stands for, whatever its status."""
    kind = _KINDS.get(response.status_code)
    if kind is None:
        kind = ServiceUnavailableError if response.status_code >= 500 else PermanentError
    words = f"{response.status_code} {response.reason}".rstrip()
    message = f"{response.method} {response.url} answered {words}"
    if 300 <= response.status_code < 400:
        message += "; redirects are not followed: call the place that it names"
    elif response.content:
        excerpt = " ".join(response.text[: 4 * _MESSAGE_CHARS_MAX].split())
        message += f": {excerpt[:_MESSAGE_CHARS_MAX]}"
    return kind(
        message,
        error_code=f"HTTP_{response.status_code}",
        metadata=response.facts(),
        retry_after=retry_after_of(response) if kind.retryable else None,
    )


def retry_after_of(response: ApiResponse) -> float | None:
    """The seconds that a response asks to wait; None where it does not, or not understandably.

    A date is counted from the response's own `Date`, so that the server's clock need not be right.
    """
    text = response.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    wanted = _date(text)
    if wanted is None:
        return None
    now = _date(response.headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (wanted - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
