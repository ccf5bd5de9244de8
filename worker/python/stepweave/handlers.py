"""Handlers as classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from .context import StepContext
from .error_types import ErrorType
from .results import StepHandlerResult


class StepHandler:
    """Base of handlers that are classes: set `handler_name`, write `call` (plain or async).

    A fresh object is made for every try, without arguments; register an object instead of the class where it
    needs some (then all tries share it, at the same time). A template's `handler.method` may name another
    method with the same signature.
    """

    #: The name that templates use.
    handler_name: ClassVar[str] = ""
    handler_version: ClassVar[str] = "1.0.0"

    def call(self, context: StepContext) -> Any:
        """Run one try; return a `StepHandlerResult`, or the result itself, or raise."""
        raise NotImplementedError(f"{type(self).__qualname__} does not define call")

    def success(self, result: Any = None, metadata: Mapping[str, Any] | None = None) -> StepHandlerResult:
        """The step is done; dependent steps read `result`."""
        return StepHandlerResult.success(result, metadata)

    def failure(
        self,
        message: str,
        error_type: ErrorType | str | None = None,
        retryable: bool | None = None,
        *,
        error_code: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        compensation_steps: Iterable[str] = (),
    ) -> StepHandlerResult:
        """The try failed; see `StepHandlerResult.failure`."""
        return StepHandlerResult.failure(
            message,
            error_type,
            retryable,
            error_code=error_code,
            metadata=metadata,
            retry_after=retry_after,
            compensation_steps=compensation_steps,
        )
