"""Results, errors and what an exception says about a try."""

from __future__ import annotations

import math
from typing import Any

import pytest

import stepweave
from stepweave import (
    BusinessLogicError,
    ErrorType,
    NetworkError,
    NotFoundError,
    PermanentError,
    RateLimitError,
    RetryableError,
    StepHandlerResult,
    StepweaveError,
    ValidationError,
)
from stepweave.failures import (
    TRACEBACK_CHARS_MAX,
    clean_text,
    encode_metadata,
    failure_of,
    traceback_tail,
)


def test_success_and_failure() -> None:
    good = StepHandlerResult.success({"a": 1}, metadata={"m": 2})
    assert (good.is_success, good.result, good.metadata) == (True, {"a": 1}, {"m": 2})
    bad = StepHandlerResult.failure("no", error_code="E", metadata={"m": 2}, retry_after=1.5)
    assert (bad.is_success, bad.error_message, bad.error_code) == (False, "no", "E")
    assert (bad.error_type, bad.retryable, bad.retry_after) == (ErrorType.HANDLER_ERROR, True, 1.5)


@pytest.mark.parametrize(
    ("error_type", "retryable", "expected"),
    [
        (None, None, ("handler_error", True)),
        (None, True, ("retryable_error", True)),
        (None, False, ("permanent_error", False)),
        (ErrorType.PERMANENT_ERROR, None, ("permanent_error", False)),
        ("validation_error", None, ("validation_error", False)),
        ("timeout", None, ("timeout", True)),
        ("timeout", False, ("timeout", False)),
    ],
)
def test_kind_and_retry_follow_from_each_other(
    error_type: Any, retryable: bool | None, expected: tuple[str, bool]
) -> None:
    result = StepHandlerResult.failure("no", error_type, retryable)
    assert (result.error_type, result.retryable) == expected


def test_wrong_failures_are_refused() -> None:
    with pytest.raises(ValueError, match="'nonsense' is none of permanent_error"):
        StepHandlerResult.failure("no", "nonsense")
    with pytest.raises(ValueError, match="for the orchestrator to say"):
        StepHandlerResult.failure("no", ErrorType.WORKER_LOST)
    for wrong in (-1, math.inf, math.nan, True, "3"):
        with pytest.raises(ValueError, match="retry_after"):
            StepHandlerResult.failure("no", retry_after=wrong)  # type: ignore[arg-type]


def test_shorthands_of_the_seed_texts() -> None:
    fraud = StepHandlerResult.permanent_failure("fraud_detected", {"reason": "High fraud risk"})
    assert (fraud.error_code, fraud.retryable, fraud.error_message) == (
        "fraud_detected",
        False,
        "High fraud risk",
    )
    assert fraud.metadata == {"reason": "High fraud risk"}
    busy = StepHandlerResult.retryable_failure("gateway_down", retry_after=3)
    assert (busy.error_message, busy.retryable, busy.retry_after) == ("gateway_down", True, 3.0)


def test_the_tree_of_errors() -> None:
    error = RateLimitError("slow", error_code="E", metadata={"a": 1}, retry_after=2, context={"b": 2})
    assert isinstance(error, RetryableError)
    assert isinstance(error, StepweaveError)
    assert (str(error), error.error_code, error.retry_after) == ("slow", "E", 2)
    assert (error.metadata, error.context) == ({"a": 1}, {"b": 2})
    for name in stepweave.__all__:
        found = getattr(stepweave, name)
        if isinstance(found, type) and issubclass(found, PermanentError):
            assert not found("x").retryable


@pytest.mark.parametrize(
    ("error", "kind", "code", "retryable"),
    [
        (PermanentError("x"), "permanent_error", None, False),
        (BusinessLogicError("x"), "permanent_error", "BusinessLogicError", False),
        (NotFoundError("x", error_code="GONE"), "permanent_error", "GONE", False),
        (ValidationError("x"), "validation_error", "ValidationError", False),
        (RetryableError("x"), "retryable_error", None, True),
        (NetworkError("x"), "retryable_error", "NetworkError", True),
        (stepweave.TimeoutError("x"), "timeout", "TimeoutError", True),
        (TimeoutError("x"), "timeout", "TimeoutError", True),
        (ZeroDivisionError("x"), "handler_error", "ZeroDivisionError", True),
        (SystemExit("x"), "handler_error", "SystemExit", True),
        (KeyboardInterrupt("x"), "handler_error", "KeyboardInterrupt", True),
    ],
)
def test_classification(error: BaseException, kind: str, code: str | None, retryable: bool) -> None:
    failure = failure_of(error)
    assert (failure.error_type, failure.error_code, failure.retryable) == (kind, code, retryable)
    ours = isinstance(error, stepweave.StepweaveError)
    assert failure.error_message == ("x" if ours else f"{type(error).__name__}: x")


def test_cause_context_and_a_wrong_delay_are_kept() -> None:
    try:
        try:
            raise ConnectionError("refused")
        except ConnectionError as cause:
            raise RetryableError("down", context={"host": "a"}, retry_after=-3) from cause
    except RetryableError as error:
        failure = failure_of(error)
    assert failure.metadata["cause"] == "ConnectionError: refused"
    assert failure.metadata["context"] == {"host": "a"}
    assert "retry_after" in failure.metadata["retry_after_ignored"]
    assert failure.retry_after is None


def test_tracebacks_are_bounded() -> None:
    def recurse(depth: int) -> None:
        if depth:
            recurse(depth - 1)
        raise ValueError("deep" * 5_000)

    try:
        recurse(500)
    except ValueError as error:
        text = traceback_tail(error)
    assert len(text) <= TRACEBACK_CHARS_MAX + 1


def test_exceptions_that_cannot_be_read() -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    failure = failure_of(Nasty())
    assert failure.error_code is not None
    assert failure.error_code.endswith("Nasty")
    assert "cannot be read" in failure.error_message


def test_texts_and_metadata_always_fit() -> None:
    assert clean_text("x" * 20, 10) == "x" * 9 + "…"
    assert clean_text("a\ud800b", 10) == "a?b"
    assert b"object at" in encode_metadata({"odd": object()}, 10_000)
    assert encode_metadata({"x": "y" * 100}, 50) == b'{"dropped":"metadata of 108 bytes is over 50"}'
