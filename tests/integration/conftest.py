"""A whole system in this process: a migrated database, an orchestrator, a client, a worker, all on real servers.

`system` is shared by the tests of a module, which therefore run on the module's loop:

    pytestmark = pytest.mark.asyncio(loop_scope="module")

Tests that stop orchestrators or want settings of their own start a system with `running_system`.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import pytest
import pytest_asyncio
from nats.aio.client import Client as NatsClient
from tests.conftest import _delete_our_streams, _execute, run_alone

from stepweave import Client, Registry, StepContext, Worker, step_handler
from stepweave.messaging import ACK, Connection
from stepweave.responses import TaskResponse
from stepweave.testing import eventually
from stepweave_eventstore.audit import verify
from stepweave_eventstore.migrate import migrate
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_eventstore.store import EventRecord
from stepweave_orchestrator.embedded import EmbeddedNats
from stepweave_orchestrator.runtime.orchestrator import Orchestrator
from stepweave_orchestrator.runtime.settings import Settings
from stepweave_schemas import subjects
from stepweave_schemas.api import operation_subject
from stepweave_schemas.codec import decode_dispatch, encode
from stepweave_schemas.dispatch import Dispatch

SHARDS = 4
#: For what takes milliseconds; so long because the machine may be busy.
WAIT_SECONDS = 60.0

#: On a busy machine anything may take its time; that is no reason to refuse what a test asks for.
PATIENCE = {"create_age_ms_max": 60_000, "commit_ms_max": 60_000, "round_trip_ms_max": 60_000}

#: A template of this namespace is served by the system's own worker; no other namespace is.
GOOD_NAMESPACE = "good"


def template(
    name: str,
    steps: Iterable[Mapping[str, Any]] = ({"name": "only", "handler": "noop"},),
    *,
    version: str = "1.0.0",
    namespace: str = "default",
    **fields: Any,
) -> str:
    """A template's text."""
    return json.dumps(
        {"namespace": namespace, "name": name, "version": version, "steps": list(steps), **fields}
    )


@step_handler("noop")
async def noop(context: StepContext) -> dict[str, Any]:
    return {"ok": True}


async def in_place(client: NatsClient) -> None:
    """Return once the server knows of every subscription of a plain nats-py client.

    Its `flush` alone writes the `PING` past what waits in its buffer: on a busy machine the answer may come before
    the server has read the `SUB`, and what another client publishes then is not heard.
    """
    await client._flush_pending(force_flush=True)
    await client.flush()


class Refused(Exception):
    """An answer of the API that is an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.code: str = error["code"]
        self.message: str = error["message"]
        self.details = {key: value for key, value in error.items() if key not in ("code", "message")}


class Try:
    """A dispatch that a test took as a worker would, and what it says about it."""

    def __init__(self, system: System, dispatch: Dispatch, reply: str) -> None:
        self.system = system
        self.dispatch = dispatch
        self.reply = reply

    def outcome(self, kind: str, **fields: Any) -> dict[str, Any]:
        """A message about this try; `fields` are added or replace what is in it."""
        dispatch = self.dispatch
        told: dict[str, Any] = {
            "kind": kind,
            "task_id": dispatch.task_id,
            "step_uuid": dispatch.step_uuid,
            "step_name": dispatch.step_name,
            "attempt": dispatch.attempt,
            "lease_token": dispatch.lease_token,
            "worker_id": "by-hand",
        }
        return {**told, **fields}

    async def say(self, kind: str, **fields: Any) -> None:
        """Publish an outcome of this try, acknowledge the dispatch, wait until the orchestrator took it."""
        await self.system.say(self.dispatch.result_subject, self.outcome(kind, **fields))
        self.system.connection.send(self.reply, ACK)


class System:
    """Everything that a test talks to."""

    def __init__(
        self,
        dsn: str,
        nats_url: str,
        store: PostgresEventStore,
        connection: Connection,
        settings: dict[str, Any],
    ) -> None:
        self.dsn = dsn
        self.nats_url = nats_url
        self.store = store
        #: A link of the test's own, for messages that no client would send.
        self.connection = connection
        self.client = Client(connection=connection)
        self.orchestrators: list[Orchestrator] = []
        self._settings = settings
        self._links: dict[Orchestrator, Connection] = {}
        self._running: dict[Orchestrator, asyncio.Future[None]] = {}

    # -- orchestrators ---------------------------------------------------------------------------

    @property
    def orchestrator(self) -> Orchestrator:
        """The only orchestrator."""
        [only] = self.orchestrators
        return only

    async def start_orchestrator(self, **settings: Any) -> Orchestrator:
        """Start one more orchestrator; `settings` go over those of the system."""
        given = {
            "owner": f"orchestrator-{uuid.uuid4().hex[:6]}",
            "shard_count": SHARDS,
            **PATIENCE,
            **self._settings,
            **settings,
        }
        made = Settings(database_url=self.dsn, nats_url=self.nats_url, **given)
        link = await Connection.open(self.nats_url, name=made.owner)
        orchestrator = Orchestrator(made, self.store, link)
        self._links[orchestrator] = link
        await orchestrator.start()
        self.orchestrators.append(orchestrator)
        self._running[orchestrator] = asyncio.ensure_future(orchestrator.run())
        return orchestrator

    async def stop_orchestrator(self, orchestrator: Orchestrator) -> None:
        """Stop an orchestrator, which must not have failed before."""
        running = self._running.pop(orchestrator)
        self.orchestrators.remove(orchestrator)
        await orchestrator.stop()
        await self._links.pop(orchestrator).close()
        if running.done():
            running.result()
        running.cancel()

    async def close(self) -> None:
        """Stop every orchestrator."""
        for orchestrator in list(self.orchestrators):
            await self.stop_orchestrator(orchestrator)

    # -- the API, without the client's own checks ------------------------------------------------

    async def request(self, operation: str, request: Any = None, *, seconds: float = WAIT_SECONDS) -> Any:
        """An operation's answer as plain JSON; raises `Refused`. Bytes are sent as they are."""
        payload = request if isinstance(request, bytes) else encode({} if request is None else request)
        answer = await self.connection.request(operation_subject(operation), payload, timeout_seconds=seconds)
        told = json.loads(answer.data)
        if "error" in told:
            headers = answer.headers or {}
            assert headers["Nats-Service-Error"] == told["error"]["code"]
            raise Refused(told["error"])
        return told

    async def refusal(self, operation: str, request: Any = None) -> Refused:
        """The error of a request that must be refused."""
        try:
            answer = await self.request(operation, request)
        except Refused as refused:
            return refused
        raise AssertionError(f"{operation} was not refused: {str(answer)[:500]}")

    async def register(self, text: str) -> dict[str, Any]:
        """Register a template."""
        answer: dict[str, Any] = await self.request("template.register", {"content": text})
        return answer

    async def create(self, name: str, **fields: Any) -> str:
        """Create a task; returns its id."""
        answer = await self.request("task.create", {"name": name, **fields})
        return str(answer["task"]["task_uuid"])

    async def task(self, task_id: str) -> dict[str, Any]:
        """A task as it stands."""
        answer: dict[str, Any] = await self.request("task.get", {"task_id": task_id})
        return answer

    async def wait(self, task_id: str, *statuses: str) -> TaskResponse:
        """Wait until a task has one of these states (default: `complete`)."""
        wanted = statuses or ("complete",)

        async def reached() -> TaskResponse | None:
            task = await self.client.get_task(task_id)
            assert not task.is_terminal or task.status in wanted, task
            return task if task.status in wanted else None

        found: TaskResponse = await eventually(
            reached, timeout_seconds=WAIT_SECONDS, what=f"{task_id} {wanted}"
        )
        return found

    # -- the ledger ------------------------------------------------------------------------------

    async def heads(self) -> dict[int, int]:
        """Each shard's head position: it moves with every event that is stored."""
        return {row.shard: row.head_position for row in await self.store.shards()}

    async def history(self, task_id: str) -> list[EventRecord]:
        """The events of a stream."""
        return await self.store.read_stream(task_id)

    async def types(self, task_id: str) -> list[str]:
        """The types of a stream's events."""
        return [event.type for event in await self.history(task_id)]

    async def last(self, task_id: str) -> dict[str, Any]:
        """The payload of a stream's last event."""
        payload: dict[str, Any] = json.loads((await self.history(task_id))[-1].data)
        return payload

    @asynccontextmanager
    async def unharmed(self) -> AsyncIterator[None]:
        """What happens inside stores nothing, and the system works as before."""
        before = await self.heads()
        yield
        await self.all_taken()
        assert await self.heads() == before
        await self.proves_itself()

    async def proves_itself(self) -> None:
        """A good task runs to its end, and no part of an orchestrator has failed."""
        task = await self.client.create_task("proof", namespace=GOOD_NAMESPACE, timeout_seconds=WAIT_SECONDS)
        done = await self.client.wait_for_task(task.task_uuid, timeout_seconds=WAIT_SECONDS)
        assert done.status == "complete"
        for running in self._running.values():
            assert not running.done(), running

    async def verify(self) -> None:
        """The ledger's chains hold, and everything in it was published."""

        async def published() -> bool:
            positions: dict[int, int] = {}
            for orchestrator in self.orchestrators:
                positions |= orchestrator.publisher.published()
            return positions == await self.heads()

        await eventually(published, timeout_seconds=WAIT_SECONDS, what="every event on the feeds")
        report = await verify(self.store)
        assert report.ok, report

    # -- as a worker -----------------------------------------------------------------------------

    async def take(self, namespace: str, *, queue: str = "default", priority: str = "normal") -> Try:
        """Pull one dispatch of a namespace."""
        consumer = f"{queue}__{priority}"
        pull = f"$JS.API.CONSUMER.MSG.NEXT.{subjects.dispatch_stream(namespace)}.{consumer}"
        # In the old style: a dispatch comes with its own subject, not with that of the inbox.
        message = await self.connection.client.request(
            pull, b'{"batch":1,"expires":%d}' % int(WAIT_SECONDS * 1e9), timeout=WAIT_SECONDS, old_style=True
        )
        assert message.data, f"no dispatch came: {message.headers}"
        return Try(self, decode_dispatch(message.data), message.reply)

    async def finish(self, taken: Try) -> None:
        """The first of two steps is still good, whatever was said about it: let its task run to its end."""
        await taken.say("success", result={"fine": True})
        await (await self.take(taken.dispatch.namespace)).say("success", result=None)
        assert (await self.task(taken.dispatch.task_id))["status"] == "complete"

    @property
    def refused_count(self) -> int:
        """How many messages of workers were refused so far."""
        return self.orchestrator.metrics.messages_refused

    async def nothing_dispatched(self, namespace: str) -> None:
        """Wait until every dispatch of a namespace was taken and acknowledged."""
        jetstream = self.connection.client.jetstream()

        async def empty() -> bool:
            info = await jetstream.stream_info(subjects.dispatch_stream(namespace))
            return info.state.messages == 0

        await eventually(empty, timeout_seconds=WAIT_SECONDS, what="no dispatch left")

    async def started(self, name: str, *, namespace: str, **fields: Any) -> tuple[str, Try]:
        """Create a task of one step and take its dispatch."""
        task_id = await self.create(name, namespace=namespace, **fields)
        while True:
            taken = await self.take(namespace)
            if taken.dispatch.task_id == task_id:
                return task_id, taken
            # What another test left behind.
            self.connection.send(taken.reply, ACK)

    async def publish(self, subject: str, *messages: Any) -> None:
        """Publish to JetStream as a worker does; bytes are sent as they are."""
        jetstream = self.connection.client.jetstream(timeout=WAIT_SECONDS)
        for message in messages:
            await jetstream.publish(subject, message if isinstance(message, bytes) else encode(message))

    async def say(self, subject: str, *messages: Any) -> None:
        """`publish`, and wait until the orchestrator has taken all of it."""
        await self.publish(subject, *messages)
        await self.all_taken()

    async def all_taken(self) -> None:
        """Wait until no message to an orchestrator is left: each was committed or refused."""
        jetstream = self.connection.client.jetstream(timeout=WAIT_SECONDS)

        async def empty() -> bool:
            info = await jetstream.stream_info(subjects.CMD_STREAM)
            return info.state.messages == 0

        await eventually(empty, timeout_seconds=WAIT_SECONDS, what="an empty CMD stream")

    @asynccontextmanager
    async def worker(self, *handlers: Any, namespace: str, **options: Any) -> AsyncIterator[Worker]:
        """A worker of the SDK for one namespace."""
        async with Worker(
            self.nats_url, namespaces=[namespace], handlers=Registry(handlers), **options
        ) as worker:
            yield worker


@pytest.fixture(scope="module")
def module_database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty database for the tests of one module."""
    server_url = os.environ.get("DATABASE_URL") or request.getfixturevalue("postgres_server").dsn
    name = f"test_{uuid.uuid4().hex}"
    run_alone(_execute(server_url, f"CREATE DATABASE {name} TEMPLATE template0"))
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        run_alone(_execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="module")
def module_nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a NATS server with an empty JetStream for the tests of one module."""
    existing = os.environ.get("NATS_URL")
    if existing:
        run_alone(_delete_our_streams(existing))
        yield existing
        return
    server = EmbeddedNats(tmp_path_factory.mktemp("nats"))
    run_alone(server.start())
    try:
        yield server.url
    finally:
        run_alone(server.stop())


@asynccontextmanager
async def running_system(dsn: str, nats_url: str, **settings: Any) -> AsyncIterator[System]:
    """A system with one orchestrator, and a worker for the namespace `good`."""
    await migrate(dsn)
    store = await PostgresEventStore.connect(dsn)
    try:
        async with await Connection.open(nats_url, name="test") as connection:
            system = System(dsn, nats_url, store, connection, settings)
            try:
                await system.start_orchestrator()
                await system.register(template("proof", namespace=GOOD_NAMESPACE))
                async with system.worker(noop, namespace=GOOD_NAMESPACE):
                    await system.proves_itself()
                    yield system
                await system.verify()
            finally:
                await system.close()
    finally:
        await store.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(module_database_url: str, module_nats_url: str) -> AsyncIterator[System]:
    """The module's system; at the end its ledger is verified."""
    async with running_system(module_database_url, module_nats_url) as running:
        yield running


def json_of(raw: bytes | str | msgspec.Raw) -> Any:
    """JSON that came raw."""
    return json.loads(bytes(raw) if isinstance(raw, msgspec.Raw) else raw)
