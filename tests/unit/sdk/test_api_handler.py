"""Handlers that call HTTP APIs, as functions and as classes, against a real HTTP server; their connections."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from types import MappingProxyType
from typing import Any

import pytest
from tests.unit.sdk.http_server import JSON, Answer, HttpServer

from stepweave import (
    Api,
    ApiHandler,
    APIMixin,
    ApiResponse,
    AsyncApi,
    AsyncApiHandler,
    StepHandler,
    StepHandlerResult,
    api_handler,
    inputs,
)
from stepweave.api import clients
from stepweave.errors import ConfigurationError
from stepweave.testing import make_context, run_handler, run_handler_async, run_workflow


def test_functions_get_what_fits_them(server: HttpServer) -> None:
    server.answers["/orders/17"] = Answer(200, JSON, b'{"total": 5}')

    @api_handler("plain", base_url=server.url)
    @inputs("order_id")
    def plain(order_id: int, api: Api) -> Any:
        return api.get(f"/orders/{order_id}").json()

    @inputs("order_id")
    @api_handler("async", base_url=server.url)
    async def on_the_loop(order_id: int, api: AsyncApi) -> Any:
        return (await api.get(f"/orders/{order_id}")).json()

    for handler in (plain, on_the_loop):
        assert run_handler(handler, {"order_id": 17}).result == {"total": 5}
        failure = run_handler(handler, {"order_id": 18})
        assert (failure.error_code, failure.retryable) == ("HTTP_404", False)
    assert plain(17, Api(server.url)) == {"total": 5}
    with pytest.raises(TypeError, match=r"goes on a function; .*Order derives from ApiHandler"):

        @api_handler("class")
        class Order(StepHandler): ...

    with pytest.raises(ConfigurationError, match="no URL"):
        api_handler("x", base_url="nowhere")


def test_a_try_again_after_what_the_server_says(server: HttpServer) -> None:
    server.answers["/x"] = Answer(429, {"Retry-After": "7"})

    @api_handler("t", base_url=server.url)
    def handler(api: Api) -> Any:
        return api.get("/x").data

    failure = run_handler(handler)
    assert (failure.error_type, failure.retryable, failure.retry_after) == ("retryable_error", True, 7.0)
    assert failure.error_code == "HTTP_429"
    assert failure.metadata["status"] == 429


class Orders(ApiHandler):
    handler_name = "orders"
    headers = MappingProxyType({"X-Class": "yes"})

    def call(self, context: Any) -> StepHandlerResult:
        return self.api_success(self.get("/x", params={"a": 1}), {"from": "api"})

    def change(self, context: Any) -> Any:
        for verb in (self.post, self.put, self.patch, self.delete):
            verb("/x")
        return self.api_success({"changed": True})

    def judged(self, context: Any) -> StepHandlerResult:
        return self.api_failure(self.get("/x", raise_for_status=False), error_code=context.get_input("code"))


class AsyncOrders(AsyncApiHandler):
    handler_name = "orders"
    headers = MappingProxyType({"X-Class": "yes"})

    async def call(self, context: Any) -> StepHandlerResult:
        return self.api_success(await self.get("/x", params={"a": 1}), {"from": "api"})

    async def change(self, context: Any) -> Any:
        for verb in (self.post, self.put, self.patch, self.delete):
            await verb("/x")
        return self.api_success({"changed": True})

    async def judged(self, context: Any) -> StepHandlerResult:
        response = await self.get("/x", raise_for_status=False)
        return self.api_failure(response, error_code=context.get_input("code"))


@pytest.mark.parametrize("handler", [Orders, AsyncOrders, Orders(), AsyncOrders()])
def test_classes(server: HttpServer, handler: Any) -> None:
    server.answers["/x"] = Answer(200, JSON, b'{"id": 1}')
    config = {"base_url": server.url}
    result = run_handler(handler, config=config)
    assert result.result == {
        "data": {"id": 1},
        "status_code": 200,
        "headers": {"content-type": "application/json"},
    }
    assert result.metadata == {"from": "api"}
    assert server.seen[0].headers["x-class"] == "yes"
    assert len(server.seen[0].headers["idempotency-key"]) == 36
    assert run_handler(handler, config=config, method="change").result == {"data": {"changed": True}}
    assert [seen.method for seen in server.seen[1:]] == ["POST", "PUT", "PATCH", "DELETE"]
    judged = run_handler(handler, config=config, method="judged")
    assert (judged.error_code, judged.retryable) == ("HTTP_200", False)
    server.answers["/x"] = Answer(503, {"Retry-After": "3"})
    judged = run_handler(handler, {"code": "OWN"}, config=config, method="judged")
    assert (judged.error_code, judged.retryable, judged.retry_after) == ("OWN", True, 3.0)
    failed = run_handler(handler, config=config)
    assert (failed.error_code, failed.retryable, failed.retry_after) == ("HTTP_503", True, 3.0)


def test_each_try_of_a_shared_object_names_its_own_step(server: HttpServer) -> None:
    server.answers["/x"] = Answer(200, JSON, b"1")
    shared = AsyncOrders()
    shared.base_url = server.url

    async def work() -> None:
        await asyncio.gather(*(run_handler_async(shared, task_uuid=f"task-{n}") for n in range(5)))

    asyncio.run(work())
    assert len({seen.headers["idempotency-key"] for seen in server.seen}) == 5


def test_failures_in_words() -> None:
    handler = Orders()
    failure = handler.api_failure("no stock", retryable=False, error_code="NO_STOCK", metadata={"sku": 1})
    assert (failure.error_message, failure.error_code) == ("no stock", "NO_STOCK")
    assert (failure.retryable, failure.metadata) == (False, {"sku": 1})
    response = ApiResponse("GET", "http://h/x", "/x", 500, {}, b"")
    failure = handler.api_failure(response, retryable=False, metadata={"sku": 1}, retry_after=5)
    assert (failure.error_type, failure.retryable, failure.retry_after) == ("permanent_error", False, 5.0)
    assert failure.metadata == {"method": "GET", "path": "/x", "status": 500, "headers": {}, "sku": 1}


def test_the_mixin_goes_with_any_handler(server: HttpServer) -> None:
    server.answers["/x"] = Answer(200, JSON, b"[1]")

    class Base(StepHandler):
        def call(self, context: Any) -> Any:
            return self.fetch()

        def fetch(self) -> Any:
            raise AssertionError("the class that is mixed together fetches")

    class Mixed(APIMixin, Base):
        handler_name = "mixed"

        def __init__(self) -> None:
            self.base_url = server.url

        def fetch(self) -> Any:
            return self.get("/x").data

    assert run_handler(Mixed).result == [1]
    # In a test that calls it itself there is no step to name.
    assert Mixed().call(make_context()) == [1]
    assert "idempotency-key" not in server.seen[1].headers


def test_a_plain_call_does_not_block_the_event_loop(server: HttpServer) -> None:
    class Wrong(ApiHandler):
        handler_name = "wrong"
        base_url = server.url

        async def call(self, context: Any) -> Any:
            return self.get("/x")

    failure = run_handler(Wrong)
    assert (failure.error_code, failure.retryable) == ("API_CALL_WOULD_BLOCK", False)
    assert "AsyncApiHandler" in failure.error_message
    assert server.seen == []


# -- connections ---------------------------------------------------------------------------------


def test_connections_are_used_again(server: HttpServer) -> None:
    server.answers["/x"] = Answer(200, JSON, b"1")
    for _ in range(3):
        Api(server.url).get("/x")
    assert len({seen.port for seen in server.seen}) == 1

    async def work() -> None:
        for _ in range(3):
            await AsyncApi(server.url).get("/x")
        assert asyncio.get_running_loop() in clients._of_loops

    asyncio.run(work())
    assert len({seen.port for seen in server.seen[3:]}) == 1
    assert not clients._of_loops


def test_few_servers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "SERVERS_MAX", 2)
    kept = clients._Kept[object]()
    a, b, c = (kept.take(server, object) for server in "abc")
    assert kept.take("a", object) is a
    assert kept.give_back("a", a) == []  # it is used once more
    assert kept.give_back("b", b) == [b]
    assert kept.give_back("c", c) == []
    assert kept.take_all() == [c, a]
    assert kept.give_back("a", a) == []


def test_a_workflow_in_memory_waits_for_the_server_and_not_for_the_backoff(server: HttpServer) -> None:
    answers = iter([Answer(503, {"Retry-After": "3600"}), Answer(200, JSON, b'{"id": 1}')])
    server.answers["/x"] = lambda: next(answers)
    template = f"""
name: orders
namespace: shop
version: 1.0.0
steps:
  - name: fetch
    handler:
      callable: orders
      initialization: {{base_url: "{server.url}"}}
    retry: {{max_attempts: 3}}
"""
    run = run_workflow(template, [AsyncOrders], real_seconds_max=20)
    assert run.status == "complete", run.events
    assert run.attempts("fetch") == 2
    assert run.delays_seconds("fetch") == [3600.0]
    assert run.results["fetch"]["data"] == {"id": 1}
    first, second = server.seen
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_without_httpx() -> None:
    """In a process that cannot import it, as where the extra is not installed."""
    program = """
import sys, importlib.abc
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "httpx":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "httpx" else real(name, package)
import stepweave, json
said = []
for attempt in (
    lambda: stepweave.api_handler("x"),
    lambda: type("Mine", (stepweave.ApiHandler,), {"__module__": "mine"}),
    lambda: stepweave.Api("http://127.0.0.1:9").get("/x"),
):
    try:
        attempt()
    except stepweave.ConfigurationError as error:
        said.append([error.error_code, str(error)])
print(json.dumps(said))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = [
        "HTTP_NOT_INSTALLED",
        "handlers that call HTTP APIs need httpx: pip install 'stepweave[http]'",
    ]
    assert json.loads(done.stdout) == [expected] * 3


def test_the_sdk_alone_does_not_load_httpx() -> None:
    program = "import sys, stepweave; print('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
