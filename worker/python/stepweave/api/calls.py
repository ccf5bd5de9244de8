"""Calls of an API: `Api` for plain functions, `AsyncApi` for async ones."""

from __future__ import annotations

import asyncio
import builtins
import functools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack
from urllib.parse import unquote, urlsplit

from stepweave.context import StepContext
from stepweave.encoding import encode_json
from stepweave.errors import (
    NetworkError,
    PermanentError,
    ResourceContentionError,
    StepweaveError,
    TimeoutError,
    ValidationError,
)
from stepweave.tracing import current_traceparent

from .classification import error_of
from .clients import async_client_of, client_of
from .response import BODY_BYTES_MAX, ApiResponse, BodyNotReadable, uncompressed
from .settings import (
    TIMEOUT_SECONDS_DEFAULT,
    ApiSettings,
    bad_settings,
    check_headers,
    check_timeout,
    merged_headers,
)

if TYPE_CHECKING:
    import httpx

_Param = str | int | float | bool | None
Params = Mapping[str, _Param | Sequence[_Param]]


class CallOptions(TypedDict, total=False):
    """The options of a call."""

    #: The query.
    params: Params | None
    #: The body: any value that has a JSON form; None: no body.
    json: Any
    #: Added to those of the settings; they win over every other.
    headers: Mapping[str, str] | None
    #: Instead of the settings'.
    timeout_seconds: float | None
    #: False: give back every answer, whatever its status.
    raise_for_status: bool


IDEMPOTENCY_KEY: Final = "Idempotency-Key"
CORRELATION_ID: Final = "X-Correlation-ID"
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    #: As it is called; `shown` is what messages show of it, without the query.
    url: str
    shown: str
    path: str
    server: str
    params: Params | None
    headers: dict[str, str]
    content: bytes | None
    timeout_seconds: float

    def arguments(self) -> dict[str, Any]:
        """What httpx is asked for."""
        return {
            "method": self.method,
            "url": self.url,
            "params": self.params,
            "headers": self.headers,
            "content": self.content,
            "timeout": self.timeout_seconds,
        }

    def facts(self) -> dict[str, Any]:
        """What a failure without an answer keeps."""
        return {"method": self.method, "path": self.path}


class _Calls:
    """What both kinds share: from the arguments of a call to a request, from an answer to a response."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS_DEFAULT,
        context: StepContext | None = None,
    ) -> None:
        """An API at `base_url`; without one, paths are whole URLs. With a `context`, requests name its step."""
        self._settings = ApiSettings(base_url, dict(headers or {}), timeout_seconds)
        self._step_headers = {} if context is None else _step_headers(context)

    @property
    def settings(self) -> ApiSettings:
        """Where and how it calls."""
        return self._settings

    def _request(self, method: str, path: str, options: CallOptions) -> _Request:
        unknown = options.keys() - CallOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"a call has no option {min(unknown)!r}")
        settings = self._settings
        url = _joined(settings.base_url, path)
        params = options.get("params")
        if params is not None and "?" in url:
            raise bad_settings("a call has a query in its path and params besides: put all of it into params")
        parts = urlsplit(url)
        timeout_seconds = options.get("timeout_seconds")
        defaults = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": _user_agent()}
        content = None
        if options.get("json") is not None:
            content = encode_json(options["json"], "json")
            defaults["Content-Type"] = "application/json"
        return _Request(
            method=method.upper(),
            url=url,
            shown=url.partition("?")[0],
            path=parts.path or "/",
            server=f"{parts.scheme}://{parts.netloc}",
            params=params,
            headers=merged_headers(
                defaults, self._step_headers, settings.headers, check_headers(options.get("headers") or {})
            ),
            content=content,
            timeout_seconds=check_timeout(
                settings.timeout_seconds if timeout_seconds is None else timeout_seconds
            ),
        )


class Api(_Calls):
    """An HTTP API, called by a plain function.

        api = Api("https://api.example.com/v1", context=context)
        order = api.get("/orders/17").json()

    Anything but a 2xx answer is raised as the error that tells the worker what to do (see
    `stepweave.api.classification`), a broken connection as a `NetworkError`, slowness as a `TimeoutError`; so a
    handler needs no checks. `raise_for_status=False` gives every answer back instead.

    Each request carries the step's uuid as `Idempotency-Key`, which is the same in every try. A handler that
    changes several things gives each its own: `headers={"Idempotency-Key": f"{context.step_uuid}-capture"}`.
    Besides go `X-Correlation-ID` and, where there is a trace, `traceparent`. Redirects are not followed, cookies
    are not kept. One wait for the server, and the reading of a body, last `timeout_seconds` at most.
    """

    def request(self, method: str, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """Call `path` with any method; the options are `CallOptions`."""
        request = self._request(method, path, options)
        deadline = time.monotonic() + request.timeout_seconds
        try:
            with client_of(request.server) as client, client.stream(**request.arguments()) as answer:
                body = bytearray()
                for chunk in answer.iter_raw():
                    body += chunk
                    if len(body) > BODY_BYTES_MAX:
                        break
                    if time.monotonic() > deadline:
                        raise _too_slow(request)
        except StepweaveError:
            raise
        except Exception as error:
            raise _transport_error(request, error) from error
        return _response(request, answer, bytes(body), options)

    def get(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """GET; the options are `CallOptions`."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """POST; the options are `CallOptions`."""
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """PUT; the options are `CallOptions`."""
        return self.request("PUT", path, **options)

    def patch(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """PATCH; the options are `CallOptions`."""
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """DELETE; the options are `CallOptions`."""
        return self.request("DELETE", path, **options)


class AsyncApi(_Calls):
    """An HTTP API, called by an async function: as `Api`, with `await`. A whole call lasts `timeout_seconds` at most."""

    async def request(self, method: str, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """Call `path` with any method; the options are `CallOptions`."""
        request = self._request(method, path, options)
        try:
            async with (
                asyncio.timeout(request.timeout_seconds),
                async_client_of(request.server) as client,
                client.stream(**request.arguments()) as answer,
            ):
                body = bytearray()
                async for chunk in answer.aiter_raw():
                    body += chunk
                    if len(body) > BODY_BYTES_MAX:
                        break
        except builtins.TimeoutError as error:
            raise _too_slow(request) from error
        except StepweaveError:
            raise
        except Exception as error:
            raise _transport_error(request, error) from error
        return _response(request, answer, bytes(body), options)

    async def get(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """GET; the options are `CallOptions`."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """POST; the options are `CallOptions`."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """PUT; the options are `CallOptions`."""
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """PATCH; the options are `CallOptions`."""
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Unpack[CallOptions]) -> ApiResponse:
        """DELETE; the options are `CallOptions`."""
        return await self.request("DELETE", path, **options)


def _joined(base_url: str | None, path: str) -> str:
    """The URL of a call: `path` below the base, or a whole URL of the same server (such as a link to a next page)."""
    if not isinstance(path, str) or any(ord(character) < 0x20 or character == "\\" for character in path):
        raise _bad_path(f"{path!r} is no path")
    absolute = _ABSOLUTE.match(path) is not None
    if base_url is None and not absolute:
        raise bad_settings(
            f"there is no base_url for {path!r}: set it in the code, or in the template's handler.initialization"
        )
    url = path if absolute or base_url is None else f"{base_url.rstrip('/')}/{path.lstrip('/')}"
    try:
        parts = urlsplit(url)
        server = (parts.scheme, parts.hostname, parts.port)
        known = urlsplit(base_url or url)
        same = server == (known.scheme, known.hostname, known.port)
    except ValueError:
        raise _bad_path("it is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise _bad_path("it is no URL with http:// or https:// and a host, and without a user")
    if not same:
        raise _bad_path(f"{parts.scheme}://{parts.netloc} is another server than base_url")
    # Both come from values that were put into a path unquoted, and would call something else.
    if "#" in url or any(unquote(part) in (".", "..") for part in parts.path.split("/")):
        raise _bad_path(f"{parts.path!r} has a part '.', '..' or a '#': quote what is put into a path")
    return url


def _bad_path(reason: str) -> ValidationError:
    return ValidationError(f"an API cannot be called: {reason}", error_code="HTTP_PATH_INVALID")


def _step_headers(context: StepContext) -> dict[str, str]:
    """What tells the other side which step calls."""
    headers = {IDEMPOTENCY_KEY: context.step_uuid, CORRELATION_ID: context.correlation_id}
    traceparent = current_traceparent() or context.traceparent
    if traceparent:
        headers["traceparent"] = traceparent
    return headers


def _response(request: _Request, answer: httpx.Response, body: bytes, options: CallOptions) -> ApiResponse:
    """The response of an answer; raises unless its status is 2xx, or the caller wants every one."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    status = answer.status_code
    problem = ""
    try:
        content, truncated = uncompressed(body, headers.get("content-encoding", ""))
    except BodyNotReadable as error:
        content, truncated, problem = b"", False, str(error)
    response = ApiResponse(request.method, request.shown, request.path, status, headers, content, truncated)
    if not response.ok and options.get("raise_for_status", True):
        raise error_of(response)
    if problem:
        raise PermanentError(
            f"{request.method} {request.shown} answered {status}, but {problem}",
            error_code="HTTP_BODY_UNREADABLE",
            metadata=response.facts(),
        )
    if truncated and response.ok:
        raise PermanentError(
            f"{request.method} {request.shown} answered {status} with more than {BODY_BYTES_MAX} bytes:"
            " ask for less at a time",
            error_code="HTTP_BODY_TOO_LARGE",
            metadata={**response.facts(), "body_bytes_max": BODY_BYTES_MAX},
        )
    return response


def _too_slow(request: _Request) -> TimeoutError:
    return TimeoutError(
        f"{request.method} {request.shown} was not answered within {request.timeout_seconds:g} s",
        error_code="HTTP_TIMEOUT",
        metadata={**request.facts(), "timeout_seconds": request.timeout_seconds},
    )


def _transport_error(request: _Request, error: Exception) -> StepweaveError:
    """What a call that got no answer means for the step."""
    import httpx

    call = f"{request.method} {request.shown}"
    match error:
        case httpx.PoolTimeout():
            return ResourceContentionError(
                f"{call} found no free connection within {request.timeout_seconds:g} s",
                error_code="HTTP_CONNECTIONS_BUSY",
                metadata=request.facts(),
            )
        case httpx.TimeoutException():
            return _too_slow(request)
        case httpx.LocalProtocolError() | httpx.UnsupportedProtocol() | httpx.InvalidURL():
            return PermanentError(
                f"{call} cannot be sent: {error}", error_code="HTTP_REQUEST_INVALID", metadata=request.facts()
            )
        case httpx.TransportError() | OSError():
            return NetworkError(
                f"{call} got no answer: {str(error) or type(error).__name__}",
                error_code="HTTP_CONNECTION_FAILED",
                metadata=request.facts(),
            )
    return PermanentError(
        f"{call} cannot be sent: {type(error).__name__}: {error}",
        error_code="HTTP_REQUEST_INVALID",
        metadata=request.facts(),
    )


@functools.cache
def _user_agent() -> str:
    try:
        return f"stepweave/{version('stepweave')}"
    except PackageNotFoundError:
        return "stepweave"
