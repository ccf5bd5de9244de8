"""The client: starts tasks and asks about them, over NATS alone."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec

from stepweave_schemas import api
from stepweave_schemas.api import StepSummary, operation_subject
from stepweave_schemas.codec import encode
from stepweave_schemas.envelope import Envelope, decode_envelope
from stepweave_schemas.mint import uuid7

from .api_errors import (
    RETRYABLE_CODES,
    ApiError,
    ApiTimeout,
    Backpressure,
    BadRequest,
    Unavailable,
    api_error,
)
from .bulk_calls import BulkCalls
from .dead_letter_calls import DeadLetterCalls
from .gate_calls import GateCalls
from .messaging import Connection, NoResponders, NotConnected, PayloadTooLarge, RequestTimeout, Subscription
from .operator_calls import OperatorCalls
from .responses import CreatedTask, CreateTaskResponse, ForkResponse, SignalResponse, TaskResponse
from .schedule_calls import ScheduleCalls
from .task_requests import checked_id, chunks_of, create_request, fork_request, signal_request
from .template_calls import TemplateCalls

T = TypeVar("T")

#: One try of a request; the next one repeats it with the same ids.
TRY_TIMEOUT_SECONDS: Final = 2.5
#: With less time than this before the end there is no further try: what is known already says more.
TRY_SECONDS_MIN: Final = 0.1
#: Before each repetition; really between half of it and one and a half, so that clients that failed together do not
#: come back together.
RETRY_PAUSE_SECONDS_MIN: Final = 0.05
RETRY_PAUSE_SECONDS_MAX: Final = 2.0
#: Whatever a refusal says, asking again is not put off for longer.
RETRY_AFTER_SECONDS_MAX: Final = 60.0
#: Events may be switched off in a namespace, so waiting looks by itself too, this often.
WAIT_POLL_SECONDS: Final = 2.0
WATCH_POLL_SECONDS: Final = 1.0
#: Most requests of a bulk creation under way at once.
BULK_REQUESTS_MAX: Final = 4
#: Room for what surrounds the tasks in a bulk request.
_ENVELOPE_BYTES: Final = 1024

_TERMINAL_EVENTS: Final = frozenset(
    {"task.completed", "task.failed", "task.cancelled", "task.resolved_manually"}
)


class Client(OperatorCalls, DeadLetterCalls, TemplateCalls, GateCalls, ScheduleCalls, BulkCalls):
    """Talks to the orchestrators through NATS; `async with Client() as client:`, or `connect` and `close`.

    Every request is repeated until it is answered or `timeout_seconds` are over, which is safe: the ids are
    minted once. A create that is refused because too much is under way is asked for again when the answer said, and
    raises `Backpressure` where that does not help within `timeout_seconds`. Other refusals raise a subclass of `ApiError`; without any answer it is `Unavailable` or `ApiTimeout`.
    """

    def __init__(
        self,
        nats_url: str | Sequence[str] | None = None,
        *,
        name: str = "stepweave-client",
        timeout_seconds: float = 30.0,
        connect_timeout_seconds: float = 10.0,
        connection_options: Mapping[str, Any] | None = None,
        connection: Connection | None = None,
    ) -> None:
        """`nats_url`: default `NATS_URL`, then this machine; `timeout_seconds`: for each call that gives none.

        With a `connection` it uses that one and leaves it open.
        """
        self.timeout_seconds = timeout_seconds
        self._url = nats_url
        self._name = name
        self._connect_timeout_seconds = connect_timeout_seconds
        self._connection_options = connection_options
        self._connection = connection
        self._owns_connection = connection is None
        self._connecting = asyncio.Lock()

    async def connect(self) -> Client:
        """Connect now instead of with the first call; raises `ConnectFailed`."""
        await self._link()
        return self

    async def close(self) -> None:
        """Disconnect; the next call would connect again."""
        if self._owns_connection and self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    async def __aenter__(self) -> Client:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _link(self) -> Connection:
        async with self._connecting:
            if self._connection is None:
                self._connection = await Connection.open(
                    self._url,
                    name=self._name,
                    connect_timeout_seconds=self._connect_timeout_seconds,
                    options=self._connection_options,
                )
            return self._connection

    async def create_task(
        self,
        name: str,
        *,
        namespace: str = "default",
        version: str | None = None,
        context: Any = None,
        initiator: str = "",
        source_system: str = "",
        reason: str = "",
        tags: Iterable[str] = (),
        priority: int = 0,
        correlation_id: str | None = None,
        parent_correlation_id: str | None = None,
        idempotency_key: str | None = None,
        requested_at: datetime | str | None = None,
        start_at: datetime | str | None = None,
        options: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> TaskResponse:
        """Start a task; when this returns, the task survives any crash.

        `context` is the input (a mapping or model, validated against the template's `input_schema`). Without a
        `version` the highest that is no prerelease runs. With an `idempotency_key` the same request gives the
        same task (`replayed` is true then), another one raises `Conflict`. Times need a zone. Raises
        `ValidationFailed`, `NotFound` (no such template), `BadRequest`, `Conflict`.
        """
        request = create_request(
            {
                "name": name,
                "namespace": namespace,
                "version": version,
                "context": context,
                "initiator": initiator,
                "source_system": source_system,
                "reason": reason,
                "tags": tags,
                "priority": priority,
                "correlation_id": correlation_id,
                "parent_correlation_id": parent_correlation_id,
                "idempotency_key": idempotency_key,
                "requested_at": requested_at,
                "start_at": start_at,
                "options": options,
                "task_id": task_id,
            }
        )
        reply = await self._call("task.create", request, CreateTaskResponse, timeout_seconds)
        return msgspec.structs.replace(reply.task, replayed=reply.replayed)

    async def create_tasks(
        self,
        requests: Iterable[Mapping[str, Any] | api.CreateTask],
        *,
        timeout_seconds: float | None = None,
    ) -> list[CreatedTask]:
        """Start many tasks in few round trips; each element is a mapping with the arguments of `create_task`.

        Each task stands on its own: the answer has, in the same order, its id or its error, also where nobody
        answered for some of them. Those that are refused because too much is under way are sent again for as long
        as `timeout_seconds`, which is the time of each round trip too.
        """
        prepared = [one if isinstance(one, api.CreateTask) else create_request(dict(one)) for one in requests]
        prepared = [one if one.task_id else msgspec.structs.replace(one, task_id=uuid7()) for one in prepared]
        limit = (await self._link()).max_payload_bytes - _ENVELOPE_BYTES
        chunks = chunks_of(prepared, limit)
        slots = asyncio.Semaphore(BULK_REQUESTS_MAX)

        async def send_once(chunk: list[api.CreateTask]) -> list[CreatedTask]:
            many = api.CreateMany(tasks=tuple(chunk))
            async with slots:
                try:
                    reply = await self._call("task.create_many", many, api.CreateManyReply, timeout_seconds)
                except ApiError as error:
                    return [CreatedTask(task_uuid=one.task_id, error=error) for one in chunk]
            return [
                CreatedTask(
                    task_uuid=one.task_id,
                    replayed=one.replayed,
                    error=None if one.error is None else api_error(one.error.get("error", one.error)),
                )
                for one in reply.tasks
            ]

        async def send(chunk: list[api.CreateTask]) -> list[CreatedTask]:
            """Those that only their namespace's backlog keeps out are sent again, like a request that is refused."""
            loop = asyncio.get_running_loop()
            deadline = loop.time() + (self.timeout_seconds if timeout_seconds is None else timeout_seconds)
            answers = await send_once(chunk)
            while refused := {
                number: one.error for number, one in enumerate(answers) if isinstance(one.error, Backpressure)
            }:
                pause = max(map(_backpressure_pause, refused.values())) + RETRY_PAUSE_SECONDS_MIN
                if loop.time() + pause >= deadline:
                    break
                await asyncio.sleep(pause)
                again = await send_once([chunk[number] for number in refused])
                for number, answer in zip(refused, again, strict=True):
                    answers[number] = answer
            return answers

        answers = await asyncio.gather(*(send(chunk) for chunk in chunks))
        return [one for answer in answers for one in answer]

    async def get_task(self, task_id: str, *, timeout_seconds: float | None = None) -> TaskResponse:
        """A task with its steps; raises `NotFound`."""
        return await self._call("task.get", api.GetTask(task_id=task_id), TaskResponse, timeout_seconds)

    async def list_tasks(
        self,
        *,
        namespace: str | None = None,
        name: str | None = None,
        status: str | Iterable[str] = (),
        initiator: str | None = None,
        source_system: str | None = None,
        tag: str | None = None,
        correlation_id: str | None = None,
        page: int = 1,
        per_page: int = 50,
        timeout_seconds: float | None = None,
    ) -> api.TaskPage:
        """One page of the tasks that fit, the newest first; a moment behind the tasks' own state."""
        request = api.ListTasks(
            namespace=namespace,
            name=name,
            status=(status,) if isinstance(status, str) else tuple(status),
            initiator=initiator,
            source_system=source_system,
            tag=tag,
            correlation_id=correlation_id,
            page=page,
            per_page=per_page,
        )
        return await self._call("task.list", request, api.TaskPage, timeout_seconds)

    async def signal(
        self,
        task_id: str,
        name: str,
        payload: Any = None,
        *,
        signal_id: str | None = None,
        sent_by: str = "",
        timeout_seconds: float | None = None,
    ) -> SignalResponse:
        """Tell a task something that one of its steps waits for; the `payload` becomes that step's result.

        The step that waits for the signal `name` takes it; where none does yet, it is kept (`taken_by` is `None`).
        A `signal_id` makes a signal that is sent again the same one; without it each call is a new signal. Raises
        `NotFound`, `ValidationFailed` (the template's `payload_schema`), `BadRequest`, and `Conflict` where the
        task has ended or no step will ever wait for it.
        """
        request = signal_request(task_id, name, payload, signal_id=signal_id, sent_by=sent_by)
        return await self._call("task.signal", request, SignalResponse, timeout_seconds)

    async def fork_task(
        self,
        task_id: str,
        from_steps: str | Iterable[str] = (),
        *,
        version: str | None = None,
        context: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        reason: str = "",
        forked_by: str = "",
        fork_id: str | None = None,
        correlation_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> ForkResponse:
        """Start a new task that reuses what a task in any state has come to, and runs the rest.

        `from_steps` run anew with all that depends on them; without any, what the original has not done does. `version`
        is another version of its template, or `latest`; `context` another context. `dry_run` only tells what would be
        reused and what would run. Raises `NotFound`, `ValidationFailed` (an unknown step; a context that does not fit
        the version's schema), `BadRequest`, and `Conflict` where nothing would run or too much would be taken over.
        """
        request = fork_request(
            task_id,
            from_steps,
            version=version,
            context=context,
            fork_id=fork_id,
            correlation_id=correlation_id,
            reason=reason,
            forked_by=forked_by,
            dry_run=dry_run,
        )
        return await self._call("task.fork", request, ForkResponse, timeout_seconds)

    async def explain_task(
        self, task_id: str, *, step: str | None = None, timeout_seconds: float | None = None
    ) -> api.TaskExplanation:
        """Why a task is where it is: what holds it up, in sentences, with the commands that would move it.

        With `step` only what that step waits for. Answers also where nobody owns the task's shard, and says so then.
        Raises `NotFound`.
        """
        request = api.ExplainTask(task_id=task_id, step=step)
        return await self._call("task.explain", request, api.TaskExplanation, timeout_seconds)

    async def wait_for_task(
        self, task_id: str, *, timeout_seconds: float | None = None, until_terminal: bool = False
    ) -> TaskResponse:
        """Wait until a task has ended or is blocked by failures, and give it back as it then is.

        `until_terminal` waits on while it is blocked. Without `timeout_seconds` it waits for ever, otherwise it
        raises `ApiTimeout`. It listens to the task's events and looks every `WAIT_POLL_SECONDS` besides.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
        async with _Nudge(await self._link(), f"sw.evt.*.*.{checked_id(task_id)}.task.*") as nudge:
            status = "not known"
            while True:
                left = math.inf if deadline is None else deadline - loop.time()
                if left <= 0:
                    raise ApiTimeout(
                        "TIMEOUT", f"task {task_id} is still {status} after {timeout_seconds:g} s"
                    )
                try:
                    task = await self.get_task(task_id, timeout_seconds=min(left, self.timeout_seconds))
                except (Unavailable, Backpressure):
                    # An orchestrator that is away for a while does not end the waiting.
                    pass
                else:
                    status = task.status
                    if task.is_terminal or (task.is_blocked and not until_terminal):
                        return task
                left = math.inf if deadline is None else deadline - loop.time()
                await nudge.wait(min(WAIT_POLL_SECONDS, left))

    async def watch_task(
        self, task_id: str, *, from_version: int = 1, until_blocked: bool = False
    ) -> AsyncIterator[Envelope]:
        """Every event of a task in order, those so far and then those to come, until it ends.

        `until_blocked` ends too where the task waits for an operator: not at an earlier block that one has lifted.
        """
        version = from_version
        # Where the first events are left out, the block may stand there.
        may_be_blocked = until_blocked
        async with _Nudge(await self._link(), f"sw.evt.*.*.{checked_id(task_id)}.>") as nudge:
            while True:
                ended = False
                async for envelope in self._events(task_id, version):
                    version = envelope.version + 1
                    # Late results are recorded behind the end.
                    ended = ended or envelope.type in _TERMINAL_EVENTS
                    may_be_blocked = may_be_blocked or (until_blocked and envelope.type == "task.blocked")
                    yield envelope
                if ended:
                    return
                if may_be_blocked:
                    task = await self.get_task(task_id)
                    if task.is_blocked and task.stream_version < version:
                        return
                    may_be_blocked = task.is_blocked
                    if task.stream_version >= version:
                        continue
                await nudge.wait(WATCH_POLL_SECONDS)

    async def get_events(
        self, task_id: str, *, from_version: int = 1, timeout_seconds: float | None = None
    ) -> list[Envelope]:
        """Every event of a task so far, in order."""
        return [one async for one in self._events(task_id, from_version, timeout_seconds)]

    async def _events(
        self, task_id: str, from_version: int, timeout_seconds: float | None = None
    ) -> AsyncIterator[Envelope]:
        version: int | None = from_version
        while version is not None:
            request = api.GetEvents(task_id=task_id, from_version=version)
            page = await self._call("task.events", request, api.EventsReply, timeout_seconds)
            for raw in page.events:
                yield decode_envelope(bytes(raw))
            version = page.next_version

    async def get_results(
        self, task_id: str, *, step_name: str | None = None, timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        """The results of all finished steps by step name; with `step_name` only those of its ancestors."""
        results: dict[str, Any] = {}
        offset: int | None = 0
        while offset is not None:
            request = api.GetResults(task_id=task_id, step_name=step_name, offset=offset)
            page = await self._call("task.results", request, api.ResultsReply, timeout_seconds)
            results.update((step, msgspec.json.decode(raw)) for step, raw in page.results.items())
            offset = page.next_offset
        return results

    async def list_task_steps(
        self, task_id: str, *, timeout_seconds: float | None = None
    ) -> tuple[StepSummary, ...]:
        """The steps of a task (of a very large one the first ones)."""
        return (await self.get_task(task_id, timeout_seconds=timeout_seconds)).steps

    async def get_step(self, task_id: str, step: str, *, timeout_seconds: float | None = None) -> StepSummary:
        """One step by its name or uuid; raises `KeyError` naming the steps there are."""
        return (await self.get_task(task_id, timeout_seconds=timeout_seconds)).step(step)

    async def _call(
        self, operation: str, request: api.Request, reply_type: type[T], timeout_seconds: float | None
    ) -> T:
        """Send a request until it is answered; every operation may be repeated."""
        subject = operation_subject(operation)
        payload = encode(request)
        loop = asyncio.get_running_loop()
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = loop.time() + limit
        pause = RETRY_PAUSE_SECONDS_MIN
        connection = await self._link()
        while True:
            left = max(0.001, deadline - loop.time())
            try:
                answer = await connection.request(
                    subject, payload, timeout_seconds=min(TRY_TIMEOUT_SECONDS, left)
                )
                return _read(answer.data, reply_type)
            except PayloadTooLarge as error:
                raise BadRequest("BAD_REQUEST", f"{operation}: {error}") from error
            except NoResponders:
                failure: ApiError = Unavailable(
                    "SERVICE_UNAVAILABLE",
                    f"no orchestrator answers {operation}: is one running on this NATS?",
                )
            except (RequestTimeout, NotConnected) as error:
                failure = ApiTimeout(
                    "TIMEOUT",
                    f"{operation}: no answer within {limit:g} s ({error}); it may be carried out all the same",
                )
            except ApiError as error:
                if error.code not in RETRYABLE_CODES:
                    raise
                failure = error
            wait = pause * random.uniform(0.5, 1.5)
            if isinstance(failure, Backpressure):
                wait += _backpressure_pause(failure)
                if loop.time() + wait >= deadline:
                    failure.message += f" (given up: not within {limit:g} s)"
            if loop.time() + wait + TRY_SECONDS_MIN >= deadline:
                raise failure
            await asyncio.sleep(wait)
            pause = min(pause * 2, RETRY_PAUSE_SECONDS_MAX)


def _backpressure_pause(refusal: Backpressure) -> float:
    """How long to wait before asking again: what was told or somewhat more, so that not all come back at once."""
    told = min(refusal.retry_after or 0.0, RETRY_AFTER_SECONDS_MAX)
    return told * random.uniform(1.0, 1.5)


class _ErrorAnswer(msgspec.Struct):
    error: dict[str, Any] | None = None


def _read(data: bytes, reply_type: type[T]) -> T:
    if data.startswith(b'{"error"'):
        answer = msgspec.json.decode(data, type=_ErrorAnswer)
        raise api_error(answer.error or {})
    try:
        return msgspec.json.decode(data, type=reply_type)
    except msgspec.MsgspecError as error:
        raise ApiError(
            "INTERNAL_ERROR", f"the orchestrator's answer cannot be read ({error}); is it of another version?"
        ) from error


class _Nudge:
    """Wakes a waiter whenever an event of a task passes by; a hint, nothing more."""

    def __init__(self, connection: Connection, subject: str) -> None:
        self._connection = connection
        self._subject = subject
        self._event = asyncio.Event()
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> _Nudge:
        self._subscription = await self._connection.subscribe(self._subject, lambda _: self._event.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def wait(self, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.001, timeout_seconds)):
                await self._event.wait()
        except TimeoutError:
            return
        finally:
            self._event.clear()
