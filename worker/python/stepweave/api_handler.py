"""Handlers that call HTTP APIs: functions with a parameter `api`, or classes.

    @api_handler("fetch_order", base_url="https://orders.example.com")
    @inputs("order_id")
    def fetch_order(order_id, api):
        return api.get(f"/orders/{order_id}").json()

    class FetchOrder(ApiHandler):
        handler_name = "fetch_order"
        base_url = "https://orders.example.com"

        def call(self, context):
            return self.api_success(self.get(f"/orders/{context.get_input('order_id')}"))

Async functions get an `AsyncApi` and await its calls, async methods belong into an `AsyncApiHandler`. The
template's `handler.initialization` may replace `base_url` and `timeout_seconds` and add `headers`. What a call
raises, and with that the step's failure, is described in `stepweave.api.classification`. It needs httpx:
`pip install 'stepweave[http]'`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeVar, Unpack

from .api import Api, ApiResponse, ApiSettings, AsyncApi
from .api.calls import CallOptions
from .api.classification import error_of
from .api.clients import require_httpx
from .api.settings import TIMEOUT_SECONDS_DEFAULT
from .context import StepContext
from .current_step import current_context
from .decorators import notes_of, step_handler
from .error_types import ErrorType
from .errors import ConfigurationError
from .failures import failure_of
from .handlers import StepHandler
from .results import StepHandlerResult

F = TypeVar("F", bound=Callable[..., Any])

_PARAMETER: Final = "api"


def api_handler(
    name: str,
    *,
    base_url: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS_DEFAULT,
    version: str = "1.0.0",
) -> Callable[[F], F]:
    """Make a function the handler of this name, with an API as its parameter `api`.

    A plain function gets an `Api`, an async one an `AsyncApi`. `base_url` may be left to the template's
    `handler.initialization`, which wins over what is said here. Raises `ConfigurationError` for settings that
    cannot work, and where httpx is not installed.
    """
    settings = ApiSettings(base_url, dict(headers or {}), timeout_seconds)
    require_httpx()

    def note(function: F) -> F:
        if isinstance(function, type):
            raise TypeError(
                f"@api_handler goes on a function; {function.__qualname__} derives from ApiHandler instead"
            )
        is_async = inspect.iscoroutinefunction(function)

        def fill(context: StepContext) -> Api | AsyncApi:
            if is_async:
                return _api_of(AsyncApi, settings, context)
            return _api_of(Api, settings, context)

        step_handler(name, version)(function)
        notes = notes_of(function)
        assert notes is not None, "step_handler takes notes"
        notes.extras[_PARAMETER] = fill
        return function

    return note


A = TypeVar("A", Api, AsyncApi)


def _api_of(kind: type[A], settings: ApiSettings, context: StepContext | None) -> A:
    if context is not None:
        settings = settings.with_template(context.step_config)
    return kind(
        settings.base_url,
        headers=settings.headers,
        timeout_seconds=settings.timeout_seconds,
        context=context,
    )


class _ApiResults:
    """What plain and async handlers share: settings, and results made of responses."""

    #: Where the API is; the template's `handler.initialization.base_url` wins.
    base_url: str | None = None
    #: Sent with every request; those of the template are added and win.
    headers: Mapping[str, str] = {}
    #: How long one call may take; the template's wins.
    timeout_seconds: float = TIMEOUT_SECONDS_DEFAULT

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if cls.__module__ != __name__:
            require_httpx()

    def _settings(self) -> ApiSettings:
        return ApiSettings(self.base_url, dict(self.headers), self.timeout_seconds)

    def api_success(
        self, response_or_data: Any = None, metadata: Mapping[str, Any] | None = None
    ) -> StepHandlerResult:
        """The step is done. Its result is an object with `data`: the response's JSON or text, or what was given.

        Of a response it has `status_code` and `headers` too (those of interest: no cookies).
        """
        if not isinstance(response_or_data, ApiResponse):
            return StepHandlerResult.success({"data": response_or_data}, metadata)
        return StepHandlerResult.success(
            {
                "data": response_or_data.data,
                "status_code": response_or_data.status_code,
                "headers": response_or_data.headers_of_interest(),
            },
            metadata,
        )

    def api_failure(
        self,
        message_or_response: str | ApiResponse,
        error_type: ErrorType | str | None = None,
        retryable: bool | None = None,
        *,
        error_code: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> StepHandlerResult:
        """The try failed.

        With a message as `StepHandlerResult.failure`. With a response as if the call had raised for its status
        (a good status is a permanent failure then); what is given besides wins.
        """
        if not isinstance(message_or_response, ApiResponse):
            return StepHandlerResult.failure(
                message_or_response,
                error_type,
                retryable,
                error_code=error_code,
                metadata=metadata,
                retry_after=retry_after,
            )
        meant = failure_of(error_of(message_or_response))
        if error_type is None and retryable is None:
            error_type, retryable = meant.error_type, meant.retryable
        return StepHandlerResult.failure(
            meant.error_message,
            error_type,
            retryable,
            error_code=error_code or meant.error_code,
            metadata={**meant.metadata, **(metadata or {})},
            retry_after=meant.retry_after if retry_after is None else retry_after,
        )


class APIMixin(_ApiResults):
    """Gives any `StepHandler` with plain methods `get`, `post`, `put`, `patch`, `delete` and what makes results.

    Set `base_url`, `headers` and `timeout_seconds` on the class or in `__init__`. The calls are those of `Api`
    for the step that runs; outside of any, in a test that calls the method itself, they name no step.
    """

    @property
    def api(self) -> Api:
        """The API, for the step that runs."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return _api_of(Api, self._settings(), current_context())
        raise ConfigurationError(
            f"{type(self).__qualname__} would block the event loop with its call: derive it from AsyncApiHandler"
            " (or AsyncAPIMixin), or let its method be a plain one; tests use stepweave.testing.run_handler",
            error_code="API_CALL_WOULD_BLOCK",
        )

    def get(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """GET; see `Api`."""
        return self.api.get(path, **options)

    def post(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """POST; see `Api`."""
        return self.api.post(path, **options)

    def put(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """PUT; see `Api`."""
        return self.api.put(path, **options)

    def patch(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """PATCH; see `Api`."""
        return self.api.patch(path, **options)

    def delete(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """DELETE; see `Api`."""
        return self.api.delete(path, **options)


class AsyncAPIMixin(_ApiResults):
    """As `APIMixin`, for handlers with async methods: `response = await self.get("/orders")`."""

    @property
    def api(self) -> AsyncApi:
        """The API, for the step that runs."""
        return _api_of(AsyncApi, self._settings(), current_context())

    async def get(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """GET; see `AsyncApi`."""
        return await self.api.get(path, **options)

    async def post(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """POST; see `AsyncApi`."""
        return await self.api.post(path, **options)

    async def put(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """PUT; see `AsyncApi`."""
        return await self.api.put(path, **options)

    async def patch(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """PATCH; see `AsyncApi`."""
        return await self.api.patch(path, **options)

    async def delete(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """DELETE; see `AsyncApi`."""
        return await self.api.delete(path, **options)


class ApiHandler(APIMixin, StepHandler):
    """Base of handler classes that call an HTTP API from plain methods."""

    handler_name: ClassVar[str] = ""


class AsyncApiHandler(AsyncAPIMixin, StepHandler):
    """Base of handler classes that call an HTTP API from async methods."""

    handler_name: ClassVar[str] = ""
