"""What the owner of a shard answers: creations, operator actions and questions, local or from another process.

A request that comes to any orchestrator is checked there and passed to the shard's owner, over `sw.own.<shard>`
where that is another process. The owner answers after the commit.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

import msgspec
import structlog
from nats.aio.msg import Msg

from stepweave.messaging import Connection, MessagingError, NoResponders, PayloadTooLarge, Subscription
from stepweave_orchestrator.core.bulks.commands import AnyBulkCommand
from stepweave_orchestrator.core.commands import (
    CancelTask,
    CreateTask,
    ForkTask,
    InvestigateTask,
    SignalTask,
    StreamCommand,
)
from stepweave_orchestrator.core.dispatching import all_result_numbers
from stepweave_orchestrator.core.explanation import explained, number_named
from stepweave_orchestrator.core.gates.circuit import Reset, Trip
from stepweave_orchestrator.core.gates.standing import standing
from stepweave_orchestrator.core.gates.view import gate_reply
from stepweave_orchestrator.core.operator_commands import AnyOperatorCommand, StepCommand, TaskAction
from stepweave_orchestrator.core.operators import step_number
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_orchestrator.core.schedules.commands import AnyScheduleCommand
from stepweave_orchestrator.core.signals import signal_taker
from stepweave_orchestrator.core.template_stream import RegisterTemplate, TemplateState
from stepweave_orchestrator.core.view import step_summary, task_response
from stepweave_schemas import api, subjects
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode
from stepweave_schemas.dispatch import INLINE_RESULTS_BYTES_MAX
from stepweave_schemas.events import TaskCreated, TemplateRef, TemplateRegistered
from stepweave_schemas.identity import is_uuid, shard_of, template_stream_id
from stepweave_schemas.mint import now_ms
from stepweave_schemas.template.value_checks import violations_text

from .actors import Actor, StreamActor, TaskActor
from .admission import Admission
from .bulk_requests import asked_bulk, bulk_query, bulk_work, refusal_of_bulk, would_take
from .forks import Forking, Forks, fork_reply
from .gate_kinds import CIRCUIT, gate_item
from .letter_rows import letter_rows
from .metrics import Metrics
from .owner import OwnerLoop
from .schedule_requests import asked, no_schedule, refusal_of, schedule_query, schedule_work
from .templates import TemplateCatalogue
from .work import Done, Ending, Faulty, Query, ShardMoved, Unstorable, Work, into_future

log = structlog.get_logger(__name__)

#: How long a request may take altogether, and how long it waits for a shard that changes hands.
REQUEST_SECONDS_MAX = 10.0
OWNER_RETRY_SECONDS = 0.1
#: How long the server may take to say that nothing more comes for a shard that is given up.
CLOSE_SECONDS_MAX = 2.0
#: Requests from other orchestrators under way at the same time; of these so many are kept free of creates.
CONCURRENT_REQUESTS_MAX = 5_000
NOT_CREATES_MIN = 1_000
#: Of what is wrong with a malformed request this much is told.
ERROR_CHARS_MAX = 2_000


class _OwnerRequest(msgspec.Struct, frozen=True, kw_only=True, tag_field="op"):
    """Base: which stream it is about."""

    stream_id: str


class Create(_OwnerRequest, frozen=True, kw_only=True, tag="create"):
    """Begin a task. Answer: `api.CreateTaskReply`."""

    created: TaskCreated
    correlation_id: str
    #: The id is derived from an identity: the stream may exist already.
    known_identity: bool = False
    strict: bool = False


class CreateSeveral(_OwnerRequest, frozen=True, kw_only=True, tag="create_several"):
    """Begin several tasks of one shard. Answer: a JSON array of `api.CreatedRef`."""

    tasks: tuple[Create, ...]


class Get(_OwnerRequest, frozen=True, kw_only=True, tag="get"):
    """The task as it stands. Answer: `api.TaskResponse`."""


class Cancel(_OwnerRequest, frozen=True, kw_only=True, tag="cancel"):
    """End a task. Answer: `api.TaskResponse`."""

    reason: str
    cancelled_by: str


class Operate(_OwnerRequest, frozen=True, kw_only=True, tag="operate"):
    """An operator's action on a task or a step. Answer: `api.TaskResponse`; of a step `api.UpdateStepReply`."""

    command: AnyOperatorCommand


class Signal(_OwnerRequest, frozen=True, kw_only=True, tag="signal"):
    """Tell a task what one of its steps waits for. Answer: `api.SignalReply`."""

    signal: str
    signal_id: str
    payload: msgspec.Raw
    sent_by: str


class GetLetters(_OwnerRequest, frozen=True, kw_only=True, tag="get_letters"):
    """The task's dead letters. Answer: a JSON array of `DeadLetterRow`."""


class Investigate(_OwnerRequest, frozen=True, kw_only=True, tag="investigate"):
    """Say what came of a dead letter. Answer: as of `GetLetters`."""

    letter_id: str
    resolution_status: str | None
    resolution_notes: str | None
    resolved_by: str
    metadata: str | None


class Fork(_OwnerRequest, frozen=True, kw_only=True, tag="fork"):
    """Begin a task with what another one has come to. Answer: `api.ForkReply`."""

    #: As of a creation; of its `forked_from` the owner fills in the version.
    created: TaskCreated
    correlation_id: str


class Results(_OwnerRequest, frozen=True, kw_only=True, tag="results"):
    """A page of results. Answer: `api.ResultsReply`."""

    step_name: str | None = None
    offset: int = 0


class GetGate(_OwnerRequest, frozen=True, kw_only=True, tag="get_gate"):
    """Who holds a gate and who waits. Answer: `api.GateReply`."""


class Explain(_OwnerRequest, frozen=True, kw_only=True, tag="explain"):
    """What a task, or one of its steps, waits for. Answer: `core.explanation.Explained`."""

    step: str | None = None


class AskStanding(_OwnerRequest, frozen=True, kw_only=True, tag="ask_standing"):
    """How one stands before a gate. Answer: `core.gates.standing.Standing`."""

    token: str


class OpenCircuit(_OwnerRequest, frozen=True, kw_only=True, tag="open_circuit"):
    """Hold the steps of a service for so long. Answer: `api.GateReply`."""

    namespace: str
    service: str
    open_ms: int
    reason: str
    by: str


class CloseCircuit(_OwnerRequest, frozen=True, kw_only=True, tag="close_circuit"):
    """Let the steps of a service go on. Answer: `api.GateReply`."""

    reason: str
    by: str


class Register(_OwnerRequest, frozen=True, kw_only=True, tag="register"):
    """Register a template version. Answer: `{"created": bool}`."""

    registered: TemplateRegistered
    correlation_id: str


class OfSchedule(_OwnerRequest, frozen=True, kw_only=True, tag="schedule"):
    """Ask something of a schedule, or without a command how it stands. Answer: `schedule_requests.Asked`."""

    #: For messages: `namespace/name`.
    schedule: str
    command: AnyScheduleCommand | None = None
    correlation_id: str = ""


class OfBulk(_OwnerRequest, frozen=True, kw_only=True, tag="bulk"):
    """Ask something of a bulk operation, or without a command how it stands. Answer: `bulk_requests.AskedBulk`."""

    command: AnyBulkCommand | None = None


class ActForBulk(_OwnerRequest, frozen=True, kw_only=True, tag="act_for_bulk"):
    """What a bulk operation asks of a task; without a command: cancel it. Answer: an empty object."""

    bulk_id: str
    command: TaskAction | None = None
    reason: str = ""
    by: str = ""


class MayAct(_OwnerRequest, frozen=True, kw_only=True, tag="may_act"):
    """Whether a task would take an action now, of `TASK_ACTIONS`. Answer: `bulk_requests.WouldTake`."""

    action: str


OwnerRequest = (
    Create
    | CreateSeveral
    | Fork
    | Get
    | Cancel
    | Operate
    | Signal
    | GetLetters
    | Investigate
    | Results
    | Register
    | Explain
    | AskStanding
    | GetGate
    | OpenCircuit
    | CloseCircuit
    | OfSchedule
    | OfBulk
    | ActForBulk
    | MayAct
)
_decoder: msgspec.json.Decoder[OwnerRequest] = msgspec.json.Decoder(OwnerRequest)
#: A task whose steps do not fit into so many bytes is answered without them (`task.results`, `task.events` have pages).
TASK_BYTES_MAX = 900 * 1024
#: Of any answer, with room for what NATS and clients put around it.
ANSWER_BYTES_MAX = 960 * 1024
_ERROR_PREFIX = b'{"error":'
_NOT_A_GATE = encode(ApiError("NOT_FOUND", "the id is not that of a gate").body())
#: How the requests begin that make something new.
_CREATES = (b'{"op":"create', b'{"op":"fork"')
_NOT_A_TASK = encode(ApiError("NOT_FOUND", "the id is not that of a task").body())


class OwnerService:
    """Answers requests for shards that this process owns."""

    def __init__(
        self,
        connection: Connection,
        owner: OwnerLoop,
        templates: TemplateCatalogue,
        forks: Forks,
        metrics: Metrics,
        shard_count: int,
        admission: Admission,
    ) -> None:
        self._admission = admission
        self._connection = connection
        self._shard_count = shard_count
        self._owner = owner
        self._templates = templates
        self._forks = forks
        self._metrics = metrics
        self._subscriptions: dict[int, Subscription] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open_shard(self, shard: int) -> None:
        """Answer other orchestrators' requests for the shard."""
        await self.close_shard(shard)
        self._subscriptions[shard] = await self._connection.subscribe(
            subjects.owner(shard), lambda message: self._on_message(shard, message)
        )

    async def close_shard(self, shard: int) -> None:
        """Take no more requests for the shard; those that have come are answered, so that nobody waits in vain."""
        subscription = self._subscriptions.pop(shard, None)
        if subscription is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS_MAX):
                    await subscription.drain()

    def _on_message(self, shard: int, message: Msg) -> None:
        if not message.reply:
            log.warning("a request of nobody was dropped", shard=shard, size_bytes=len(message.data))
            return
        free = CONCURRENT_REQUESTS_MAX - len(self._tasks)
        if free <= (NOT_CREATES_MIN if message.data.startswith(_CREATES) else 0):
            self._connection.send(message.reply, encode(too_many_requests().body()))
            return
        task = asyncio.ensure_future(self._answer(shard, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, shard: int, message: Msg) -> None:
        try:
            answer = await self._take(shard, self._read(shard, message.data))
            if len(answer) > self._connection.max_payload_bytes:
                raise ApiError(
                    "INTERNAL_ERROR", f"the answer has {len(answer)} bytes, more than NATS carries here"
                )
        except ShardMoved:
            answer = encode(ApiError("SERVICE_UNAVAILABLE", "the shard is changing hands").body())
        except ApiError as error:
            answer = encode(error.body())
        except Exception:
            log.exception("a request failed", shard=shard)
            answer = encode(
                ApiError("INTERNAL_ERROR", "the request failed; the orchestrator's log has more").body()
            )
        self._connection.send(message.reply, answer)

    def _read(self, shard: int, payload: bytes) -> OwnerRequest:
        """A request of another orchestrator; raises `ApiError` where it is none for this shard."""
        try:
            request = _decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError("BAD_REQUEST", str(error)[:ERROR_CHARS_MAX]) from None
        for stream_id in _stream_ids(request):
            if not is_uuid(stream_id) or shard_of(stream_id, self._shard_count) != shard:
                raise ApiError("BAD_REQUEST", f"{stream_id[:100]!r} is no stream of shard {shard}")
        return request

    async def _take(self, shard: int, request: OwnerRequest) -> bytes:
        """A request of another orchestrator, whose door knows nothing of the load here: creates pass ours too."""
        creates: tuple[Create | Fork, ...] = (request,) if isinstance(request, Create | Fork) else ()
        if isinstance(request, CreateSeveral):
            creates = request.tasks
        counts = Counter(create.created.template.namespace for create in creates)
        with ExitStack() as taken:
            for namespace, count in counts.items():
                taken.enter_context(self._admission.taken(namespace, count))
            return await self.handle(shard, request)

    async def handle(self, shard: int, request: OwnerRequest) -> bytes:
        """Carry a request out; returns the answer's JSON. Raises `ApiError` or `ShardMoved`."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                if isinstance(request, Create | CreateSeveral):
                    with self._admission.deciding():
                        return await self._handle(shard, request)
                return await self._handle(shard, request)
        except TimeoutError:
            raise ApiError(
                "TIMEOUT",
                "the commit took too long; it may still happen, so ask again with the same task id or key",
            ) from None

    async def _handle(self, shard: int, request: OwnerRequest) -> bytes:
        match request:
            case Create():
                return await self._create(shard, request)
            case CreateSeveral():
                return await self._create_several(shard, request)
            case Fork():
                return await self._fork(shard, request)
            case Get():
                return await self._query(shard, request.stream_id, _answer_task)
            case Results():
                return await self._query(
                    shard, request.stream_id, lambda actor: _answer_results(actor, request)
                )
            case Cancel():
                return await self._cancel(shard, request)
            case Operate():
                return await self._operate(shard, request)
            case Signal():
                return await self._signal(shard, request)
            case GetLetters():
                return await self._query(shard, request.stream_id, _answer_letters)
            case Investigate():
                return await self._investigate(shard, request)
            case Register():
                return await self._register(shard, request)
            case Explain():
                return await self._query(
                    shard, request.stream_id, lambda actor: answer_explain(actor, request.step)
                )
            case AskStanding():
                return await self._query(
                    shard, request.stream_id, lambda actor: answer_standing(actor, request.token)
                )
            case GetGate():
                return await self._query(shard, request.stream_id, _answer_gate)
            case OpenCircuit() | CloseCircuit():
                return await self._set_circuit(shard, request)
            case OfSchedule():
                return await self._ask_schedule(shard, request)
            case OfBulk():
                return await self._ask_bulk(shard, request)
            case ActForBulk():
                return await self._act_for_bulk(shard, request)
            case MayAct():
                return await self._query(shard, request.stream_id, would_take(request.action))

    # -- operations ------------------------------------------------------------------------------

    async def _create(self, shard: int, request: Create) -> bytes:
        ending = await self._perform(await self._creation(shard, request))
        replayed = not _done(ending, request.stream_id).changed
        task = await self._query(shard, request.stream_id, _answer_task)
        return b'{"task":%b,"replayed":%b}' % (task, b"true" if replayed else b"false")

    async def _create_several(self, shard: int, request: CreateSeveral) -> bytes:
        """All of them into one commit, where it takes them; each ends on its own."""
        futures = [self._submit(await self._creation(shard, task)) for task in request.tasks]
        endings = await asyncio.gather(*futures)
        refs = []
        for task, ending in zip(request.tasks, endings, strict=True):
            try:
                done = _done(ending, task.stream_id)
                refs.append(api.CreatedRef(task_id=task.stream_id, replayed=not done.changed))
            except ApiError as error:
                refs.append(api.CreatedRef(task_id=task.stream_id, error=error.body()["error"]))
        return encode(refs)

    async def _creation(self, shard: int, request: Create) -> Work:
        created = request.created
        try:
            plan = await self._templates.plan(created.template)
        except LookupError as error:
            raise ApiError("NOT_FOUND", str(error.args[0])) from None
        return Work(
            stream_id=request.stream_id,
            shard=shard,
            command=CreateTask(created, request.strict),
            causation_id=f"create:{created.request_id}",
            correlation_id=request.correlation_id,
            actor_name=f"api:{created.initiator}" if created.initiator else "api",
            finish=_unset,
            fresh=not request.known_identity,
            seed=plan,
        )

    async def _fork(self, shard: int, request: Fork) -> bytes:
        """The results come from the store: the original may be of any shard, and a message could not carry them all."""
        exists = await self._exists(shard, request.stream_id)
        forking = None if exists else await self._forks.begin(request.created)
        created = request.created if forking is None else forking.created
        ending = await self._perform(
            Work(
                stream_id=request.stream_id,
                shard=shard,
                command=ForkTask(created, {}, created.template) if forking is None else forking.command,
                causation_id=f"fork:{created.request_id}",
                correlation_id=request.correlation_id,
                actor_name=f"api:{created.initiator}" if created.initiator else "api",
                finish=_unset,
                fresh=forking is not None,
                seed=None if forking is None else forking.plan,
            )
        )
        replayed = not _done(ending, request.stream_id).changed
        task = await self._query(shard, request.stream_id, _answer_task)
        return await self._query(
            shard, request.stream_id, lambda actor: _answer_fork(actor, forking, task, replayed)
        )

    async def _exists(self, shard: int, stream_id: str) -> bool:
        try:
            await self._query(shard, stream_id, _answer_nothing)
        except ApiError as error:
            if error.code == "NOT_FOUND":
                return False
            raise
        return True

    async def _cancel(self, shard: int, request: Cancel) -> bytes:
        done = _done(
            await self._perform(
                Work(
                    stream_id=request.stream_id,
                    shard=shard,
                    command=CancelTask(request.reason, request.cancelled_by),
                    causation_id="cancel",
                    actor_name=f"api:{request.cancelled_by}" if request.cancelled_by else "api",
                    finish=_unset,
                )
            ),
            request.stream_id,
        )
        if done.changed:
            await self._query(shard, request.stream_id, self.tell_workers)
        return await self._query(shard, request.stream_id, _answer_task)

    async def _operate(self, shard: int, request: Operate) -> bytes:
        command = request.command
        ending = await self._perform(
            Work(
                stream_id=request.stream_id,
                shard=shard,
                command=command,
                causation_id=f"operator:{command.request_id}",
                actor_name=f"api:{command.by}" if command.by else "api",
                finish=_unset,
            )
        )
        try:
            done = _done(ending, request.stream_id)
        except ApiError as error:
            if isinstance(command, StepCommand):
                error.details["step"] = command.step
            raise
        if done.changed:
            await self._query(shard, request.stream_id, self.tell_workers)
        if isinstance(command, StepCommand):
            return await self._query(
                shard, request.stream_id, lambda actor: _answer_step(actor, command.step)
            )
        return await self._query(shard, request.stream_id, _answer_task)

    def tell_workers(self, actor: Actor) -> bytes:
        """Running handlers hear at once, where they listen, that somebody has ended their tries."""
        assert isinstance(actor, TaskActor)
        state = actor.state
        running = [
            step.uuid for step in state.steps if step.settled_by in ("cancel", "operator") and step.attempt
        ]
        if running:
            notice = {"task_id": state.task_id, "step_uuids": running[:1_000]}
            self._connection.send(subjects.cancel_notice(state.the_plan.ref.namespace), encode(notice))
        return b""

    async def _signal(self, shard: int, request: Signal) -> bytes:
        asked = await self._query(
            shard, request.stream_id, lambda actor: _answer_signal_step(actor, request.signal)
        )
        pinned, step_name = msgspec.json.decode(asked, type=tuple[TemplateRef, str])
        version = await self._templates.pinned(pinned)
        violations = version.signal_violations(step_name, msgspec.json.decode(request.payload))
        if violations:
            raise ApiError(
                "VALIDATION_FAILED",
                f"the payload does not fit the payload_schema of step {step_name!r}: "
                + violations_text(violations),
                violations=violations,
            )
        done = _done(
            await self._perform(
                Work(
                    stream_id=request.stream_id,
                    shard=shard,
                    command=SignalTask(
                        request.signal, request.signal_id, bytes(request.payload).decode(), request.sent_by
                    ),
                    causation_id=f"signal:{request.signal_id}",
                    actor_name=f"api:{request.sent_by}" if request.sent_by else "api",
                    finish=_unset,
                )
            ),
            request.stream_id,
        )
        task = await self._query(shard, request.stream_id, _answer_task)
        taken = await self._query(
            shard, request.stream_id, lambda actor: _answer_taken_by(actor, request.signal_id)
        )
        return b'{"task":%b,"signal_id":%b,"taken_by":%b,"replayed":%b}' % (
            task,
            encode(request.signal_id),
            taken,
            b"false" if done.changed else b"true",
        )

    async def _investigate(self, shard: int, request: Investigate) -> bytes:
        _done(
            await self._perform(
                Work(
                    stream_id=request.stream_id,
                    shard=shard,
                    command=InvestigateTask(
                        request.letter_id,
                        request.resolution_status,
                        request.resolution_notes,
                        request.resolved_by,
                        request.metadata,
                    ),
                    causation_id=f"investigate:{request.letter_id}",
                    actor_name=f"api:{request.resolved_by}" if request.resolved_by else "api",
                    finish=_unset,
                )
            ),
            request.stream_id,
        )
        return await self._query(shard, request.stream_id, _answer_letters)

    async def _register(self, shard: int, request: Register) -> bytes:
        registered = request.registered
        stream_id = template_stream_id(registered.namespace, registered.name)
        done = _done(
            await self._perform(
                Work(
                    stream_id=stream_id,
                    shard=shard,
                    command=RegisterTemplate(registered),
                    causation_id="register",
                    correlation_id=request.correlation_id,
                    actor_name=f"api:{registered.registered_by}" if registered.registered_by else "api",
                    finish=_unset,
                    seed=TemplateState(registered.namespace, registered.name),
                )
            ),
            stream_id,
        )
        self._templates.forget(stream_id)
        return encode({"created": done.changed})

    async def _set_circuit(self, shard: int, request: OpenCircuit | CloseCircuit) -> bytes:
        command: StreamCommand
        if isinstance(request, OpenCircuit):
            command = Trip(request.namespace, request.service, request.open_ms, request.reason, request.by)
        else:
            command = Reset(request.reason, request.by)
        ending = await self._perform(
            Work(
                stream_id=request.stream_id,
                shard=shard,
                command=command,
                causation_id=type(request).__name__,
                actor_name=f"api:{request.by}" if request.by else "api",
                finish=_unset,
                seed=CIRCUIT if isinstance(request, OpenCircuit) else None,
            )
        )
        if isinstance(ending, Rejection):
            raise ApiError("NOT_FOUND", "there is no such circuit: nothing of it has failed yet")
        _done(ending, request.stream_id)
        return await self._query(shard, request.stream_id, _answer_gate)

    async def _ask_schedule(self, shard: int, request: OfSchedule) -> bytes:
        stream_id, command = request.stream_id, request.command
        changed = False
        if command is not None:
            ending = await self._perform(schedule_work(stream_id, shard, command, request.correlation_id))
            if (refusal := refusal_of(ending, request.schedule)) is not None:
                raise refusal
            changed = _done(ending, stream_id).changed
        ending = await self._perform(schedule_query(stream_id, shard))
        if (refusal := refusal_of(ending, request.schedule)) is not None:
            raise refusal
        answer = _done(ending, stream_id).answer
        if answer == b"null" and command is None:
            raise no_schedule(request.schedule)
        return asked(changed, answer)

    async def _ask_bulk(self, shard: int, request: OfBulk) -> bytes:
        stream_id, changed = request.stream_id, False
        if request.command is not None:
            ending = await self._perform(bulk_work(stream_id, shard, request.command))
            if (refusal := refusal_of_bulk(ending)) is not None:
                raise refusal
            changed = _done(ending, stream_id).changed
        ending = await self._perform(bulk_query(stream_id, shard))
        if (refusal := refusal_of_bulk(ending)) is not None:
            raise refusal
        return asked_bulk(changed, _done(ending, stream_id).answer)

    async def _act_for_bulk(self, shard: int, request: ActForBulk) -> bytes:
        command = request.command or CancelTask(request.reason, request.by)
        work = Work(
            stream_id=request.stream_id,
            shard=shard,
            command=command,
            causation_id=f"bulk:{request.bulk_id}",
            actor_name=f"api:{request.by}" if request.by else "api",
            finish=_unset,
        )
        if _done(await self._perform(work), request.stream_id).changed:
            await self._query(shard, request.stream_id, self.tell_workers)
        return b"{}"

    async def _query(self, shard: int, stream_id: str, answer: Any) -> bytes:
        ending = await self._perform(
            Work(
                stream_id=stream_id,
                shard=shard,
                command=Query(answer),
                causation_id="",
                actor_name="",
                finish=_unset,
            )
        )
        return read_answer(_done(ending, stream_id).answer)

    async def _perform(self, work: Work) -> Ending:
        ending = await self._submit(work)
        if isinstance(ending, ShardMoved):
            raise ending
        return ending

    def _submit(self, work: Work) -> asyncio.Future[Ending]:
        # Never refused here: creates have passed the door, and the others are bounded by the requests under way.
        self._metrics.requests += 1
        future: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        work.finish = into_future(future)
        self._owner.submit(work)
        return future


class ShardRouter:
    """Brings a request to the owner of its shard, wherever that is."""

    def __init__(self, connection: Connection, owner: OwnerLoop, service: OwnerService) -> None:
        self._connection = connection
        self._owner = owner
        self._service = service

    async def call(self, shard: int, request: OwnerRequest) -> bytes:
        """The owner's answer. Raises `ApiError`; waits a while for a shard that changes hands."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REQUEST_SECONDS_MAX
        while True:
            try:
                if shard in self._owner.shards:
                    return await self._service.handle(shard, request)
                answer = await self._connection.request(
                    subjects.owner(shard), encode(request), timeout_seconds=max(0.1, deadline - loop.time())
                )
            except (ShardMoved, NoResponders):
                if loop.time() >= deadline:
                    raise ApiError(
                        "SERVICE_UNAVAILABLE", f"shard {shard} has no owner at the moment; try again"
                    ) from None
                await asyncio.sleep(OWNER_RETRY_SECONDS)
                continue
            except PayloadTooLarge as error:
                if isinstance(request, CreateSeveral) and len(request.tasks) > 1:
                    return await self._call_in_halves(shard, request)
                raise ApiError(
                    "VALIDATION_FAILED", f"the request is too large to be passed on: {error}"
                ) from None
            except MessagingError as error:
                raise ApiError(
                    "SERVICE_UNAVAILABLE", f"the owner of shard {shard} did not answer: {error}"
                ) from None
            if answer.data.startswith(_ERROR_PREFIX):
                refusal = read_error(answer.data)
                if refusal.code == "SERVICE_UNAVAILABLE" and loop.time() < deadline:
                    await asyncio.sleep(OWNER_RETRY_SECONDS)
                    continue
                raise refusal
            return answer.data

    async def _call_in_halves(self, shard: int, request: CreateSeveral) -> bytes:
        """With what was added on the way the tasks are more than one message carries."""
        middle = len(request.tasks) // 2
        answers: list[msgspec.Raw] = []
        for tasks in (request.tasks[:middle], request.tasks[middle:]):
            answer = await self.call(shard, msgspec.structs.replace(request, tasks=tasks))
            answers += msgspec.json.decode(answer, type=list[msgspec.Raw])
        return encode(answers)


def _stream_ids(request: OwnerRequest) -> list[str]:
    """The streams that a request is about."""
    if isinstance(request, CreateSeveral):
        return [task.stream_id for task in request.tasks]
    if isinstance(request, Register):
        return [template_stream_id(request.registered.namespace, request.registered.name)]
    return [request.stream_id]


def read_error(payload: bytes) -> ApiError:
    """The error that an answer carries."""
    body = msgspec.json.decode(payload)["error"]
    details = {key: value for key, value in body.items() if key not in ("code", "message")}
    return ApiError(body["code"], body["message"], **details)


def read_answer(answer: bytes) -> bytes:
    """What an actor answered; raises `ApiError` where that is an error."""
    if answer.startswith(_ERROR_PREFIX):
        raise read_error(answer)
    return answer


def _unset(_ending: Any) -> None:
    """Stands in until `_perform` sets the real one."""


def too_many_requests() -> ApiError:
    """More requests are under way than a process takes."""
    return ApiError(
        "BACKPRESSURE",
        "nothing was done, try again in 1 s: too many requests are under way",
        retry_after_seconds=1.0,
        reason="requests_under_way",
    )


def _done(ending: Ending, stream_id: str) -> Done:
    if isinstance(ending, Done):
        return ending
    if isinstance(ending, Rejection):
        if ending.code == "NOT_FOUND":
            raise ApiError("NOT_FOUND", f"there is no task {stream_id}", task_id=stream_id)
        if ending.code == "UNKNOWN_STEP":
            raise ApiError("NOT_FOUND", ending.reason, task_id=stream_id)
        if ending.allowed_actions is None:
            raise ApiError("CONFLICT", ending.reason, task_id=stream_id)
        allowed = list(ending.allowed_actions)
        raise ApiError(
            "CONFLICT", ending.reason, task_id=stream_id, state=ending.status, allowed_actions=allowed
        )
    if isinstance(ending, Unstorable):
        raise ApiError(
            "VALIDATION_FAILED", "the event store does not take this; the orchestrator's log has the reason"
        )
    if isinstance(ending, Faulty):
        raise ApiError("INTERNAL_ERROR", "the request failed; the orchestrator's log has more")
    raise ending


def _answer_task(actor: Actor) -> bytes:
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    answer = encode(task_response(actor.state))
    if len(answer) > TASK_BYTES_MAX:
        return encode(task_response(actor.state, with_steps=False))
    return answer


def _answer_letters(actor: Actor) -> bytes:
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    return encode(letter_rows(actor.state, actor.shard))


def _answer_nothing(actor: Actor) -> bytes:
    return b"null" if isinstance(actor, TaskActor) else _NOT_A_TASK


def _answer_fork(actor: Actor, forking: Forking | None, task: bytes, replayed: bool) -> bytes:
    assert isinstance(actor, TaskActor)
    past = None if replayed or forking is None else forking.past
    reply = encode(fork_reply(actor.state, past, replayed=replayed))
    rest = reply.removeprefix(b'{"task":null')
    if len(task) + len(rest) > ANSWER_BYTES_MAX:
        task = encode(task_response(actor.state, with_steps=False))
    return b'{"task":%b%b' % (task, rest)


def _answer_step(actor: Actor, step: str) -> bytes:
    """A step, and its task without the steps."""
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    state = actor.state
    return encode(
        api.UpdateStepReply(
            task=task_response(state, with_steps=False), step=step_summary(state, step_number(state, step))
        )
    )


def _answer_signal_step(actor: Actor, signal: str) -> bytes:
    """The task's template, and the step that a signal would be for; an empty name where there is none."""
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    taker = signal_taker(actor.state, signal)
    return encode((actor.state.the_plan.ref, "" if taker is None else actor.state.name_of(taker)))


def _answer_taken_by(actor: Actor, signal_id: str) -> bytes:
    """The name of the step that took a signal; null where it is kept."""
    assert isinstance(actor, TaskActor)
    state = actor.state
    taken = next((number for number, step in enumerate(state.steps) if step.signal_id == signal_id), None)
    return b"null" if taken is None else encode(state.name_of(taken))


def answer_explain(actor: Actor, step: str | None) -> bytes:
    """What a task, or one of its steps, waits for (`Explained`); an error where there is no such thing."""
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    if step is not None and number_named(actor.state, step) < 0:
        return encode(ApiError("NOT_FOUND", f"the task has no step {step[:100]!r}").body())
    return encode(explained(actor.state, now_ms(), step))


def answer_standing(actor: Actor, token: str) -> bytes:
    """How one stands before a gate (`Standing`)."""
    if not isinstance(actor, StreamActor) or actor.kind.name not in ("slots", "circuit", "rate"):
        return _NOT_A_GATE
    return encode(standing(actor.state, token))


def _answer_gate(actor: Actor) -> bytes:
    if not isinstance(actor, StreamActor) or actor.kind.name not in ("slots", "circuit", "rate"):
        return _NOT_A_GATE
    row = actor.kind.row(actor.state, actor.stream_id, actor.shard)
    return encode(gate_reply(actor.state, gate_item(row)))


def _answer_results(actor: Actor, request: Results) -> bytes:
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    state = actor.state
    if request.step_name is None:
        numbers = state.shown_steps()
    elif state.number_of(request.step_name) >= 0:
        numbers = all_result_numbers(state, state.number_of(request.step_name))
    else:
        return encode(ApiError("NOT_FOUND", f"the task has no step {request.step_name!r}").body())
    results: dict[str, msgspec.Raw] = {}
    size_bytes = 0
    for offset in range(request.offset, len(numbers)):
        text = state.steps[numbers[offset]].result
        if text is None:
            continue
        name = state.name_of(numbers[offset])
        size_bytes += len(text.encode()) + len(name.encode())
        if results and size_bytes > INLINE_RESULTS_BYTES_MAX:
            return encode(api.ResultsReply(results=results, next_offset=offset))
        results[name] = msgspec.Raw(text)
    return encode(api.ResultsReply(results=results))
