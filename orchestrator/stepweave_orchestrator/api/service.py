"""The API as a NATS service: one endpoint for each operation, discoverable by `nats micro`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec
import nats.errors
import nats.micro
import structlog
from nats.aio.client import Client
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, EndpointStats, Service, ServiceConfig

from stepweave.messaging import Connection
from stepweave.messaging.connection import drain_quietly
from stepweave_orchestrator.runtime.endings import too_many_requests
from stepweave_orchestrator.runtime.metrics import Metrics
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode
from stepweave_schemas.load import LOAD_ENDPOINT, OrchestratorLoad

from .operations import Operations

log = structlog.get_logger(__name__)

SERVICE_NAME = "stepweave"
#: Requests under way at the same time; more are refused. So many of them are kept free of creates: whatever is
#: offered, operators are heard.
CONCURRENT_REQUESTS_MAX = 5_000
NOT_CREATES_MIN = 1_000
CREATES = frozenset({"task.create", "task.create_many", "task.fork"})
#: Of an error that does not fit into one message this much of its text is sent.
MESSAGE_CHARS_MAX = 2_000


class ApiService:
    """Serves the operations; follows the connection when its client is replaced."""

    def __init__(
        self,
        connection: Connection,
        operations: Operations,
        metrics: Metrics,
        version: str,
        tell_load: Callable[[], OrchestratorLoad],
    ) -> None:
        self._connection = connection
        self._operations = operations
        self._metrics = metrics
        self._version = version
        self._tell_load = tell_load
        self._service: Service | None = None
        self._client: Client | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to answer; returns once the server knows of every endpoint."""
        self._connection.add_reconnect_listener(self._on_reconnect)
        await self._serve()
        await self._connection.flush()

    async def stop(self, timeout_seconds: float = 5.0) -> None:
        """Take no more requests; finish those under way."""
        self._connection.remove_reconnect_listener(self._on_reconnect)
        service, self._service = self._service, None
        if service is not None:
            # Its own `stop` would drop the requests that are on their way, and who sent them would wait in vain.
            endpoints = [endpoint._subscription for endpoint in service._endpoints]
            draining = [
                asyncio.ensure_future(drain_quietly(subscription))
                for subscription in (*endpoints, *service._subscriptions.values())
            ]
            await asyncio.wait(draining, timeout=timeout_seconds)
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=timeout_seconds)
            for task in pending:
                task.cancel()

    async def _serve(self) -> None:
        client = self._connection.client
        self._client = client
        self._service = await nats.micro.add_service(
            client,
            ServiceConfig(
                name=SERVICE_NAME,
                version=self._version,
                description="Stepweave: tasks and templates",
                stats_handler=self._statistics,
            ),
        )
        for operation in api.OPERATIONS:
            await self._service.add_endpoint(
                EndpointConfig(
                    name=endpoint_name(operation),
                    subject=api.operation_subject(operation),
                    handler=self._handler(operation),
                )
            )

    def requests_waiting(self) -> int:
        """Creates that have come and that nobody has looked at."""
        if self._service is None:
            return 0
        return sum(
            endpoint._subscription.pending_msgs
            for endpoint in self._service._endpoints
            if endpoint._subscription is not None and endpoint._name in _CREATE_ENDPOINTS
        )

    def _statistics(self, endpoint: EndpointStats) -> Any:
        """The load stands at one endpoint, once."""
        return msgspec.to_builtins(self._tell_load()) if endpoint.name == LOAD_ENDPOINT else None

    def _on_reconnect(self) -> None:
        # Subscriptions of a client survive its reconnects; a new client has none.
        if self._connection.client is not self._client:
            self._spawn(self._serve())

    def _handler(self, operation: str) -> Callable[[Request], Coroutine[Any, Any, None]]:
        most = CONCURRENT_REQUESTS_MAX - (NOT_CREATES_MIN if operation in CREATES else 0)

        async def handle(request: Request) -> None:
            # nats.micro runs an endpoint's requests one after the other: leave its task at once.
            if len(self._tasks) >= most:
                self._metrics.requests_refused += 1
                await self._refuse(request, too_many_requests())
                return
            self._spawn(self._answer(operation, request))

        return handle

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, operation: str, request: Request) -> None:
        try:
            answer = await self._operations.answer(operation, request.data)
            if len(answer) > self._connection.max_payload_bytes:
                raise ApiError(
                    "INTERNAL_ERROR", f"the answer has {len(answer)} bytes, more than NATS carries here"
                )
        except ApiError as error:
            self._metrics.requests_refused += 1
            await self._refuse(request, error)
        except Exception:
            log.exception("an operation failed", operation=operation)
            failure = ApiError(
                "INTERNAL_ERROR", "the operation failed; the orchestrator's log has the reason"
            )
            await self._refuse(request, failure)
        else:
            await _deliver(request.respond(answer))

    async def _refuse(self, request: Request, error: ApiError) -> None:
        body = encode(error.body())
        if len(body) > self._connection.max_payload_bytes // 2:
            # It quotes what was sent, or lists too much.
            body = encode(ApiError(error.code, error.message[:MESSAGE_CHARS_MAX] + "…").body())
        await _deliver(request.respond_error(str(error.status), error.code, body))


def endpoint_name(operation: str) -> str:
    """The name of an operation's endpoint."""
    return operation.replace(".", "-").replace("_", "-")


_CREATE_ENDPOINTS = frozenset(map(endpoint_name, CREATES))


async def _deliver(sending: Coroutine[Any, Any, None]) -> None:
    """Send an answer; who named no reply subject, or is gone, gets none."""
    with suppress(nats.errors.Error, ValueError):
        await sending
