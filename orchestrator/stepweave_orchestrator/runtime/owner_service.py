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

from stepweave.messaging import Connection, Subscription
from stepweave_orchestrator.core.commands import (
    CancelTask,
    CreateTask,
    ForkTask,
    InvestigateTask,
    SignalTask,
    StreamCommand,
)
from stepweave_orchestrator.core.gates.circuit import Reset, Trip
from stepweave_orchestrator.core.operator_commands import StepCommand
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_orchestrator.core.template_stream import RegisterTemplate, TemplateState
from stepweave_schemas import api, subjects
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode
from stepweave_schemas.events import TemplateRef
from stepweave_schemas.identity import is_uuid, shard_of, template_stream_id
from stepweave_schemas.template.value_checks import violations_text

from .actors import Actor, TaskActor
from .admission import Admission
from .bulk_requests import asked_bulk, bulk_query, bulk_work, refusal_of_bulk, would_take
from .endings import done_or_raise, read_answer, too_many_requests
from .forks import Forks
from .gate_kinds import CIRCUIT
from .metrics import Metrics
from .owner import OwnerLoop
from .owner_answers import (
    answer_explain,
    answer_fork,
    answer_gate,
    answer_letters,
    answer_nothing,
    answer_results,
    answer_signal_step,
    answer_standing,
    answer_step,
    answer_taken_by,
    answer_task,
)
from .owner_requests import (
    CREATES,
    ActForBulk,
    AskStanding,
    Cancel,
    CloseCircuit,
    Create,
    CreateSeveral,
    Explain,
    Fork,
    Get,
    GetGate,
    GetLetters,
    Investigate,
    MayAct,
    OfBulk,
    OfSchedule,
    OpenCircuit,
    Operate,
    OwnerRequest,
    Register,
    Results,
    Signal,
    owner_request_decoder,
    stream_ids_of,
)
from .schedule_requests import asked, no_schedule, refusal_of, schedule_query, schedule_work
from .templates import TemplateCatalogue
from .withdrawals import Withdrawals, removed
from .work import Ending, Query, ShardMoved, Work, into_future

log = structlog.get_logger(__name__)

#: How long a request may take altogether.
REQUEST_SECONDS_MAX = 10.0
#: How long the server may take to say that nothing more comes for a shard that is given up.
CLOSE_SECONDS_MAX = 2.0
#: Requests from other orchestrators under way at the same time; of these so many are kept free of creates.
CONCURRENT_REQUESTS_MAX = 5_000
NOT_CREATES_MIN = 1_000
#: Of what is wrong with a malformed request this much is told.
ERROR_CHARS_MAX = 2_000


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
        withdrawals: Withdrawals,
    ) -> None:
        self._admission = admission
        self._withdrawals = withdrawals
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
        if free <= (NOT_CREATES_MIN if message.data.startswith(CREATES) else 0):
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
            request = owner_request_decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError("BAD_REQUEST", str(error)[:ERROR_CHARS_MAX]) from None
        for stream_id in stream_ids_of(request):
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
                return await self._query(shard, request.stream_id, answer_task)
            case Results():
                return await self._query(
                    shard, request.stream_id, lambda actor: answer_results(actor, request)
                )
            case Cancel():
                return await self._cancel(shard, request)
            case Operate():
                return await self._operate(shard, request)
            case Signal():
                return await self._signal(shard, request)
            case GetLetters():
                return await self._query(shard, request.stream_id, answer_letters)
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
                return await self._query(shard, request.stream_id, answer_gate)
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
        replayed = not done_or_raise(ending, request.stream_id).changed
        task = await self._query(shard, request.stream_id, answer_task)
        return b'{"task":%b,"replayed":%b}' % (task, b"true" if replayed else b"false")

    async def _create_several(self, shard: int, request: CreateSeveral) -> bytes:
        """All of them into one commit, where it takes them; each ends on its own."""
        futures = [self._submit(await self._creation(shard, task)) for task in request.tasks]
        endings = await asyncio.gather(*futures)
        refs = []
        for task, ending in zip(request.tasks, endings, strict=True):
            try:
                done = done_or_raise(ending, task.stream_id)
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
        replayed = not done_or_raise(ending, request.stream_id).changed
        task = await self._query(shard, request.stream_id, answer_task)
        return await self._query(
            shard, request.stream_id, lambda actor: answer_fork(actor, forking, task, replayed)
        )

    async def _exists(self, shard: int, stream_id: str) -> bool:
        try:
            await self._query(shard, stream_id, answer_nothing)
        except ApiError as error:
            if error.code == "NOT_FOUND":
                return False
            raise
        return True

    async def _cancel(self, shard: int, request: Cancel) -> bytes:
        done_or_raise(
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
        # Also where it is a repetition: whoever asks again has perhaps seen a handler that has not heard.
        await self._take_back(shard, request.stream_id)
        return await self._query(shard, request.stream_id, answer_task)

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
            done_or_raise(ending, request.stream_id)
        except ApiError as error:
            no_task = isinstance(ending, Rejection) and ending.code == "NOT_FOUND"
            if isinstance(command, StepCommand) and not no_task:
                error.details["step"] = command.step
            raise
        if isinstance(command, StepCommand):
            step = command.step
            await self._take_back(shard, request.stream_id, step)
            return await self._query(shard, request.stream_id, lambda actor: answer_step(actor, step))
        await self._take_back(shard, request.stream_id)
        return await self._query(shard, request.stream_id, answer_task)

    def tell_workers(self, actor: Actor) -> bytes:
        """Whoever runs tries of a task that has been ended hears of it; what waits is removed by and by."""
        assert isinstance(actor, TaskActor)
        if actor.state.is_terminal:
            self._withdrawals.take_back(actor.state)
        return b""

    async def _take_back(self, shard: int, stream_id: str, step: str = "") -> None:
        """As `tell_workers`, or of one step; when it returns nothing of it waits for a worker any more, or removing takes long."""
        removals: list[asyncio.Future[None]] = []

        def look(actor: Actor) -> bytes:
            assert isinstance(actor, TaskActor)
            if step or actor.state.is_terminal:
                removals.extend(self._withdrawals.take_back(actor.state, step))
            return b""

        await self._query(shard, stream_id, look)
        await removed(removals)

    async def _signal(self, shard: int, request: Signal) -> bytes:
        asked = await self._query(
            shard, request.stream_id, lambda actor: answer_signal_step(actor, request.signal)
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
        done = done_or_raise(
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
        task = await self._query(shard, request.stream_id, answer_task)
        taken = await self._query(
            shard, request.stream_id, lambda actor: answer_taken_by(actor, request.signal_id)
        )
        return b'{"task":%b,"signal_id":%b,"taken_by":%b,"replayed":%b}' % (
            task,
            encode(request.signal_id),
            taken,
            b"false" if done.changed else b"true",
        )

    async def _investigate(self, shard: int, request: Investigate) -> bytes:
        done_or_raise(
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
        return await self._query(shard, request.stream_id, answer_letters)

    async def _register(self, shard: int, request: Register) -> bytes:
        registered = request.registered
        stream_id = template_stream_id(registered.namespace, registered.name)
        done = done_or_raise(
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
        done_or_raise(ending, request.stream_id)
        return await self._query(shard, request.stream_id, answer_gate)

    async def _ask_schedule(self, shard: int, request: OfSchedule) -> bytes:
        stream_id, command = request.stream_id, request.command
        changed = False
        if command is not None:
            ending = await self._perform(schedule_work(stream_id, shard, command, request.correlation_id))
            if (refusal := refusal_of(ending, request.schedule)) is not None:
                raise refusal
            changed = done_or_raise(ending, stream_id).changed
        ending = await self._perform(schedule_query(stream_id, shard))
        if (refusal := refusal_of(ending, request.schedule)) is not None:
            raise refusal
        answer = done_or_raise(ending, stream_id).answer
        if answer == b"null" and command is None:
            raise no_schedule(request.schedule)
        return asked(changed, answer)

    async def _ask_bulk(self, shard: int, request: OfBulk) -> bytes:
        stream_id, changed = request.stream_id, False
        if request.command is not None:
            ending = await self._perform(bulk_work(stream_id, shard, request.command))
            if (refusal := refusal_of_bulk(ending)) is not None:
                raise refusal
            changed = done_or_raise(ending, stream_id).changed
        ending = await self._perform(bulk_query(stream_id, shard))
        if (refusal := refusal_of_bulk(ending)) is not None:
            raise refusal
        return asked_bulk(changed, done_or_raise(ending, stream_id).answer)

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
        done_or_raise(await self._perform(work), request.stream_id)
        # Also where it is a repetition: the owner may have died before it could say so.
        await self._take_back(shard, request.stream_id)
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
        return read_answer(done_or_raise(ending, stream_id).answer)

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


def _unset(_ending: Any) -> None:
    """Stands in until `_perform` sets the real one."""
