"""What an exception in a handler says about the try."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, Final

import msgspec

from .encoding import encode_json
from .error_types import ErrorType
from .errors import ConfigurationError, PermanentError, RetryableError, StepweaveError
from .results import StepHandlerResult, check_compensation_steps, check_retry_after

#: Of a traceback the last so many characters and frames are kept.
TRACEBACK_CHARS_MAX: Final = 4_000
TRACEBACK_FRAMES_MAX: Final = 20
ERROR_CODE_CHARS_MAX: Final = 200
_SDK_FOLDER: Final = str(Path(__file__).parent)


def failure_of(error: BaseException) -> StepHandlerResult:
    """The failure that an exception stands for.

    | raised | `error_type` | tried again |
    |---|---|---|
    | `PermanentError` and its subclasses | `permanent_error` | no |
    | `ValidationError`, input that does not fit its model | `validation_error` | no |
    | `RetryableError` and its subclasses | `retryable_error` | yes |
    | Python's `TimeoutError` and ours | `timeout` | yes |
    | anything else, `SystemExit` too | `handler_error` | yes |
    """
    if isinstance(error, StepweaveError):
        return _classified(error)
    kind = ErrorType.TIMEOUT if isinstance(error, TimeoutError) else ErrorType.HANDLER_ERROR
    name = type(error).__qualname__
    return StepHandlerResult.failure(
        # Many of Python's own say little without their name: `KeyError: 'order_id'`.
        f"{name}: {_text_of(error)}" if _text_of(error) else name,
        kind,
        True,
        error_code=name,
        metadata={
            "exception": f"{type(error).__module__}.{name}",
            "traceback": traceback_tail(error),
        },
    )


def _classified(error: StepweaveError) -> StepHandlerResult:
    name = type(error).__name__
    # The two that authors raise most say nothing by their names; their subclasses do.
    plain = type(error) in (PermanentError, RetryableError, StepweaveError)
    metadata: dict[str, Any] = dict(error.metadata)
    if error.context:
        metadata.setdefault("context", error.context)
    if error.__cause__ is not None:
        metadata.setdefault("cause", f"{type(error.__cause__).__qualname__}: {_text_of(error.__cause__)}")
    try:
        retry_after = check_retry_after(error.retry_after)
    except ValueError as bad:
        metadata["retry_after_ignored"] = str(bad)
        retry_after = None
    try:
        compensation_steps = check_compensation_steps(error.compensation_steps)
    except ConfigurationError as bad:
        metadata["compensation_steps_ignored"] = str(bad)
        compensation_steps = []
    return StepHandlerResult.failure(
        _text_of(error) or name,
        error.error_type,
        error.retryable,
        error_code=error.error_code or (None if plain else name),
        metadata=metadata,
        retry_after=retry_after,
        compensation_steps=compensation_steps,
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"(its text cannot be read: {type(broken).__name__})"


def traceback_tail(error: BaseException) -> str:
    """The end of a traceback without the SDK's own frames, within the bounds above."""
    try:
        shown = traceback.TracebackException.from_exception(error, limit=-TRACEBACK_FRAMES_MAX, compact=True)
        shown.stack = traceback.StackSummary.from_list(
            [frame for frame in shown.stack if not frame.filename.startswith(_SDK_FOLDER)]
        )
        text = "".join(shown.format())
    except Exception as broken:
        return f"(no traceback: {type(broken).__name__})"
    return text if len(text) <= TRACEBACK_CHARS_MAX else "…" + text[-TRACEBACK_CHARS_MAX:]


def encode_metadata(metadata: dict[str, Any], size_bytes_max: int) -> bytes:
    """JSON of a failure's metadata, whatever is in it: odd values as text, too much of it as its size."""
    try:
        encoded = encode_json(metadata, "metadata")
    except Exception:
        encoded = msgspec.json.encode({str(key)[:200]: repr(value)[:1000] for key, value in metadata.items()})
    if len(encoded) > size_bytes_max:
        return b'{"dropped":"metadata of %d bytes is over %d"}' % (len(encoded), size_bytes_max)
    return encoded


def clean_text(text: object, chars_max: int) -> str:
    """A text that fits on the wire: cut, and without what UTF-8 cannot carry."""
    plain = str(text).encode("utf-8", "replace").decode()
    return plain if len(plain) <= chars_max else plain[: chars_max - 1] + "…"
