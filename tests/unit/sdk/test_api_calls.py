"""Calls of HTTP APIs, plain and async, against a real HTTP server: statuses, bodies, failures, what is sent."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import threading
from typing import Any

import msgspec
import pytest
from tests.unit.sdk.http_server import JSON, Answer, HttpServer

from stepweave import Api, ApiResponse, AsyncApi, Registry, api_handler
from stepweave.api.response import BODY_BYTES_MAX, QUOTED_BYTES_MAX
from stepweave.api.settings import ApiSettings
from stepweave.context import StepContext
from stepweave.errors import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    NetworkError,
    NotFoundError,
    PermanentError,
    RateLimitError,
    ServiceUnavailableError,
    StepweaveError,
    TimeoutError,
    ValidationError,
)
from stepweave.testing import make_dispatch, run_handler

Kind = type[Api] | type[AsyncApi]


def call(kind: Kind, url: str, path: str = "/x", *, verb: str = "get", **options: Any) -> ApiResponse:
    """One call, of either kind."""
    if kind is Api:
        return getattr(Api(url), verb)(path, **options)  # type: ignore[no-any-return]

    async def work() -> ApiResponse:
        return await getattr(AsyncApi(url), verb)(path, **options)  # type: ignore[no-any-return]

    return asyncio.run(work())


both = pytest.mark.parametrize("kind", [Api, AsyncApi])


# -- answers -------------------------------------------------------------------------------------


@both
def test_what_a_response_has(server: HttpServer, kind: Kind) -> None:
    headers = {**JSON, "ETag": '"7"', "Set-Cookie": "session=1", "X-Request-ID": "r-1"}
    server.answers["/orders/1"] = Answer(201, headers, b'{"id": 1}')
    response = call(kind, server.url + "/", "orders/1", params={"q": ["a", "b"], "n": 1})
    assert (response.status_code, response.ok, response.data) == (201, True, {"id": 1})
    assert response.json() == {"id": 1}
    assert (response.url, response.path) == (f"{server.url}/orders/1", "/orders/1")
    assert response.headers_of_interest() == {
        "content-type": "application/json",
        "etag": '"7"',
        "x-request-id": "r-1",
    }
    assert server.seen[0].path == "/orders/1?q=a&q=b&n=1"
    assert repr(response) == f"<ApiResponse 201 to GET {server.url}/orders/1, 9 bytes>"


@both
def test_every_verb_and_the_body(server: HttpServer, kind: Kind) -> None:
    server.answers["/x"] = Answer(204)
    for verb in ("get", "post", "put", "patch", "delete"):
        assert call(kind, server.url, verb=verb, json={"at": (1, 2)}).data is None
    assert [seen.method for seen in server.seen] == ["GET", "POST", "PUT", "PATCH", "DELETE"]
    assert {seen.body for seen in server.seen} == {b'{"at":[1,2]}'}
    assert {seen.headers["content-type"] for seen in server.seen} == {"application/json"}


@both
def test_text_and_compressed_bodies(server: HttpServer, kind: Kind) -> None:
    server.answers["/x"] = Answer(200, {"Content-Type": "text/plain; charset=latin-1"}, b"\xe9t\xe9")
    assert call(kind, server.url).data == "été"
    server.answers["/x"] = Answer(200, {**JSON, "Content-Encoding": "gzip"}, gzip.compress(b"[1]"))
    assert call(kind, server.url).data == [1]
    assert server.seen[-1].headers["accept-encoding"] == "gzip"
    for encoding in ("gzip", "br"):
        server.answers["/x"] = Answer(200, {**JSON, "Content-Encoding": encoding}, b"no such thing")
        with pytest.raises(PermanentError) as raised:
            call(kind, server.url)
        assert raised.value.error_code == "HTTP_BODY_UNREADABLE"


@both
@pytest.mark.parametrize("body", [b"<html>", b'{"a":', b"[" * 100_000])
def test_bad_json(server: HttpServer, kind: Kind, body: bytes) -> None:
    server.answers["/x"] = Answer(200, JSON, body)
    response = call(kind, server.url)
    with pytest.raises(
        PermanentError, match=r"GET http://127\.0\.0\.1:\d+/x answered 200 .* no JSON"
    ) as raised:
        response.data  # noqa: B018
    assert raised.value.error_code == "HTTP_BAD_JSON"
    assert raised.value.metadata["body"] == body[:QUOTED_BYTES_MAX].decode()


@both
def test_large_bodies(server: HttpServer, kind: Kind) -> None:
    server.answers["/x"] = Answer(200, {}, b"x" * BODY_BYTES_MAX)
    assert len(call(kind, server.url).content) == BODY_BYTES_MAX
    over = b"x" * (BODY_BYTES_MAX + 1)
    # The second one is small until it is uncompressed.
    for answer in (
        Answer(200, {}, over),
        Answer(200, {"Content-Encoding": "gzip"}, gzip.compress(over * 100)),
    ):
        server.answers["/x"] = answer
        with pytest.raises(PermanentError, match=f"more than {BODY_BYTES_MAX} bytes") as raised:
            call(kind, server.url)
        assert raised.value.error_code == "HTTP_BODY_TOO_LARGE"
    server.answers["/x"] = Answer(503, {}, over * 3)
    with pytest.raises(ServiceUnavailableError) as unavailable:
        call(kind, server.url)
    assert len(unavailable.value.metadata["body"]) == QUOTED_BYTES_MAX
    assert unavailable.value.metadata["body_truncated"] is True
    assert len(unavailable.value.message) < 400
    response = call(kind, server.url, raise_for_status=False)
    assert (len(response.content), response.truncated) == (BODY_BYTES_MAX, True)


# -- statuses ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (302, PermanentError, False),
        (400, ValidationError, False),
        (401, AuthenticationError, False),
        (403, AuthorizationError, False),
        (404, NotFoundError, False),
        (408, TimeoutError, True),
        (409, PermanentError, False),
        (410, NotFoundError, False),
        (418, PermanentError, False),
        (422, ValidationError, False),
        (429, RateLimitError, True),
        (451, PermanentError, False),
        (500, ServiceUnavailableError, True),
        (502, ServiceUnavailableError, True),
        (503, ServiceUnavailableError, True),
        (599, ServiceUnavailableError, True),
    ],
)
def test_each_class_of_status(
    server: HttpServer, kind: Kind, status: int, error: type[StepweaveError], retryable: bool
) -> None:
    server.answers["/v1/x"] = Answer(status, {**JSON, "Set-Cookie": "s=1"}, b'{"detail": "why"}')
    with pytest.raises(StepweaveError) as raised:
        call(kind, server.url, "/v1/x?token=secret", verb="post")
    assert type(raised.value) is error
    assert raised.value.retryable is retryable
    assert raised.value.error_code == f"HTTP_{status}"
    assert raised.value.metadata == {
        "method": "POST",
        "path": "/v1/x",
        "status": status,
        "headers": {"content-type": "application/json"},
        "body": '{"detail": "why"}',
        "body_truncated": False,
    }
    assert raised.value.message.startswith(f"POST {server.url}/v1/x answered {status}")
    assert "secret" not in raised.value.message
    response = call(kind, server.url, "/v1/x", raise_for_status=False)
    assert (response.status_code, response.ok, response.json()) == (status, False, {"detail": "why"})


@both
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        # Over already.
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "99999999999999"}, None),
        ({}, None),
    ],
)
def test_retry_after(server: HttpServer, kind: Kind, headers: dict[str, str], seconds: float | None) -> None:
    for status in (408, 429, 503):
        server.answers["/x"] = Answer(status, headers)
        with pytest.raises(StepweaveError) as raised:
            call(kind, server.url)
        assert raised.value.retry_after == seconds
    server.answers["/x"] = Answer(400, headers)
    with pytest.raises(ValidationError) as permanent:
        call(kind, server.url)
    assert permanent.value.retry_after is None


@both
def test_redirects_are_not_followed(server: HttpServer, kind: Kind) -> None:
    server.answers["/x"] = Answer(307, {"Location": "/elsewhere"})
    server.answers["/elsewhere"] = Answer()
    with pytest.raises(PermanentError, match="redirects are not followed") as raised:
        call(kind, server.url, verb="post")
    assert raised.value.metadata["headers"]["location"] == "/elsewhere"
    assert [seen.path for seen in server.seen] == ["/x"]


# -- no answer -----------------------------------------------------------------------------------


@both
def test_connection_refused(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(NetworkError, match=f"GET http://127.0.0.1:{port}/x got no answer") as raised:
        call(kind, f"http://127.0.0.1:{port}")
    assert raised.value.error_code == "HTTP_CONNECTION_FAILED"
    assert raised.value.metadata == {"method": "GET", "path": "/x"}
    assert raised.value.retryable


@both
def test_no_such_host(kind: Kind) -> None:
    with pytest.raises(NetworkError):
        call(kind, "http://nowhere.invalid")


@both
@pytest.mark.parametrize(
    "answer", [Answer(0), Answer(200, {"Content-Length": "9", "Connection": "close"}, b"cut")]
)
def test_the_server_hangs_up(server: HttpServer, kind: Kind, answer: Answer) -> None:
    server.answers["/x"] = answer
    with pytest.raises(NetworkError):
        call(kind, server.url)


@both
def test_a_slow_answer(server: HttpServer, kind: Kind) -> None:
    let_go = threading.Event()

    def slow() -> Answer:
        let_go.wait(30)
        return Answer(0)

    server.answers["/x"] = slow
    try:
        with pytest.raises(TimeoutError, match=r"was not answered within 0\.05 s") as raised:
            call(kind, server.url, timeout_seconds=0.05)
    finally:
        let_go.set()
    assert raised.value.error_code == "HTTP_TIMEOUT"
    assert raised.value.metadata["timeout_seconds"] == 0.05
    assert raised.value.retryable


@both
def test_a_body_that_does_not_end(server: HttpServer, kind: Kind) -> None:
    # Nine of ten bytes never come.
    server.answers["/x"] = Answer(200, {"Content-Length": "10"}, b"x")
    with pytest.raises(TimeoutError):
        call(kind, server.url, timeout_seconds=0.05)


def test_a_caller_that_is_cancelled(server: HttpServer) -> None:
    asked, let_go = threading.Event(), threading.Event()

    def slow() -> Answer:
        asked.set()
        let_go.wait(30)
        return Answer(0)

    server.answers["/x"] = slow
    server.answers["/y"] = Answer(200, {}, b"fine")

    async def work() -> None:
        task = asyncio.create_task(AsyncApi(server.url).get("/x"))
        await asyncio.to_thread(asked.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await AsyncApi(server.url).get("/y")).text == "fine"

    try:
        asyncio.run(work())
    finally:
        let_go.set()


# -- what is sent --------------------------------------------------------------------------------


def test_headers_of_the_step(server: HttpServer) -> None:
    server.answers["/x"] = Answer()

    @api_handler("t", base_url=server.url, headers={"X-Code": "code", "X-Both": "code"})
    def handler(context: Any, api: Api) -> str:
        api.get("/x")
        api.post("/x", headers={"idempotency-key": "mine", "X-Call": "call"})
        return str(context.step_uuid)

    result = run_handler(
        handler, config={"headers": {"x-both": "template"}, "other": 1}, correlation_id="corr", attempt=2
    )
    assert result.is_success, result
    first, second = server.seen
    assert first.headers["idempotency-key"] == result.result
    assert first.headers["x-correlation-id"] == "corr"
    assert (first.headers["x-code"], first.headers["x-both"]) == ("code", "template")
    assert first.headers["user-agent"].startswith("stepweave")
    assert first.headers["accept"] == "application/json"
    assert "traceparent" not in first.headers
    assert "content-type" not in first.headers
    assert (second.headers["idempotency-key"], second.headers["x-call"]) == ("mine", "call")


def test_the_trace_of_the_request_goes_on(server: HttpServer) -> None:
    server.answers["/x"] = Answer()
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    dispatch = msgspec.structs.replace(make_dispatch(), traceparent=traceparent)
    Api(server.url, context=StepContext(dispatch)).get("/x")
    assert server.seen[0].headers["traceparent"] == traceparent


@both
def test_cookies_are_not_kept(server: HttpServer, kind: Kind) -> None:
    server.answers["/x"] = Answer(200, {"Set-Cookie": "session=of-another-task; Path=/"})
    for _ in range(2):
        call(kind, server.url)
    assert all("cookie" not in seen.headers for seen in server.seen)


def test_requests_are_not_logged_with_their_query(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers["/x"] = Answer()
    with caplog.at_level(logging.INFO):
        Api(server.url).get("/x?token=secret")
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "path",
    [
        "/users/../admin",
        "/users/%2e%2e/admin",
        "/users/./x",
        "/users/1#x",
        "/users/\r\nX: y",
        "/a\\b",
        "http://elsewhere.invalid/x",
        "https://127.0.0.1/x",
        "http://user@127.0.0.1/x",
        "ftp://127.0.0.1/x",
        "http://[/x",
    ],
)
def test_paths_that_lead_elsewhere(server: HttpServer, path: str) -> None:
    with pytest.raises(ValidationError, match="an API cannot be called") as raised:
        Api(server.url + "/users").get(path)
    assert raised.value.error_code == "HTTP_PATH_INVALID"
    assert server.seen == []


def test_paths_and_the_base(server: HttpServer) -> None:
    server.answers["/v1/x"] = Answer()
    api = Api(f"{server.url}/v1/")
    for path in ("/x", "x", "//x", f"{server.url}/v1/x", "x?page=2"):
        assert api.get(path).ok
    assert server.seen[-1].path == "/v1/x?page=2"
    assert Api().get(f"{server.url}/v1/x").ok
    with pytest.raises(ConfigurationError, match="there is no base_url for '/x'"):
        Api().get("/x")
    with pytest.raises(ConfigurationError, match="put all of it into params"):
        api.get("/x?a=1", params={"b": 2})
    with pytest.raises(TypeError, match="no option 'jsn'"):
        api.get("/x", jsn=1)  # type: ignore[call-arg]


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": 5}, "base_url is a text"),
        ({"base_url": "example.com"}, "no URL with http"),
        ({"base_url": "ftp://example.com"}, "no URL with http"),
        ({"base_url": "http://"}, "no URL with http"),
        ({"base_url": "http://h:99999"}, "no URL with http"),
        ({"base_url": "http://h/a b"}, "no URL with http"),
        ({"base_url": "http://user:secret@h"}, "has a user, a query or a fragment"),
        ({"base_url": "http://h/?key=secret"}, "has a user, a query or a fragment"),
        ({"headers": ["a"]}, "headers are an object"),
        ({"headers": {"a b": "x"}}, "'a b' is no name of a header"),
        ({"headers": {"a": "secret\r\nb: c"}}, "the value of header 'a' is no text of one line"),
        ({"headers": {"a": 5}}, "the value of header 'a'"),
        ({"headers": {f"h{number}": "" for number in range(101)}}, "101 headers are over the limit of 100"),
        ({"timeout_seconds": 0}, "timeout_seconds is a number over 0"),
        ({"timeout_seconds": True}, "timeout_seconds is a number over 0"),
        ({"timeout_seconds": "5"}, "timeout_seconds is a number over 0"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds is a number over 0"),
        ({"timeout_seconds": 3601}, "at most 3600"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as of_code:
        ApiSettings(**settings)
    assert "secret" not in str(of_code.value)
    with pytest.raises(ConfigurationError, match=f"the template's handler.initialization: .*{message}"):
        ApiSettings().with_template(settings)


def test_the_template_wins(server: HttpServer) -> None:
    server.answers["/x"] = Answer(200, JSON, b'"here"')

    @api_handler("t", base_url="http://nowhere.invalid", timeout_seconds=7, version="2.0.0")
    def handler(api: Api) -> Any:
        return [api.get("/x").json(), api.settings.timeout_seconds]

    assert run_handler(handler, config={"base_url": server.url}).result == ["here", 7]
    assert run_handler(handler, config={"base_url": server.url, "timeout_seconds": 9}).result == ["here", 9]
    assert Registry([handler]).list_handlers()[0].version == "2.0.0"
    failure = run_handler(handler, config={"base_url": "nowhere"})
    assert (failure.error_type, failure.error_code) == ("permanent_error", "API_SETTINGS_INVALID")
