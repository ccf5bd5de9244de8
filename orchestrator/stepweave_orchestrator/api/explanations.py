"""`task.explain`: the findings of the task's actor, with what the rest of the system knows, in sentences.

The findings come from the shard's owner or, where nobody answers for it, from the ledger. What they need besides is
asked for all at once, each question with a time-out of its own; what is not answered is said not to be known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec
import nats.errors
import structlog
from nats.js.errors import APIError, NotFoundError

from stepweave.messaging import Connection, MessagingError
from stepweave_eventstore.store import EventStore, ShardRow, StoreUnavailable
from stepweave_orchestrator.core.explanation import Explained, Finding, GateNeed, WorkNeed
from stepweave_orchestrator.core.explanation_facts import (
    ChildFact,
    Facts,
    PauseFact,
    QueueFact,
    ShardFact,
    WorkerFact,
)
from stepweave_orchestrator.core.explanation_text import (
    Said,
    owner_sentence,
    say,
    say_shard,
    summary,
)
from stepweave_orchestrator.core.gates.standing import Standing
from stepweave_orchestrator.core.state import TERMINAL_STATUSES
from stepweave_orchestrator.runtime.actors import Actor
from stepweave_orchestrator.runtime.endings import read_answer
from stepweave_orchestrator.runtime.loading import ActorLoader, Unloadable
from stepweave_orchestrator.runtime.owner_answers import answer_explain, answer_standing
from stepweave_orchestrator.runtime.owner_requests import AskStanding, Explain, OwnerRequest
from stepweave_orchestrator.runtime.present_workers import WorkersUnknown, present_workers
from stepweave_orchestrator.runtime.shard_router import ShardRouter
from stepweave_schemas import api, subjects
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import decode_event, encode
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.events import TaskPaused
from stepweave_schemas.identity import is_uuid, shard_of
from stepweave_schemas.mint import now_ms

from .creation import check_text

log = structlog.get_logger(__name__)

#: How long the owner of a shard may take; it answers at once where it is there.
OWNER_SECONDS_MAX: Final = 2.0
#: How long the ledger may take where the owner does not answer; and where it has just not answered.
LEDGER_SECONDS_MAX: Final = 2.0
LEDGER_AGAIN_SECONDS_MAX: Final = 0.5
#: How long each other question may take.
FACT_SECONDS_MAX: Final = 2.0
#: How long it may take to ask another owner and, where that is away, the ledger.
TALK_SECONDS_MAX: Final = OWNER_SECONDS_MAX + LEDGER_SECONDS_MAX
#: An owner that did not answer is not asked again for so long: a caller's next try, and questions about gates and
#: children of the same owner, get to the ledger at once.
SILENT_SECONDS: Final = 4.0
#: The owner is there and has too much to do, or what it was asked makes no sense: the ledger would not say more.
_OWNERS_WORD: Final = frozenset({"NOT_FOUND", "BAD_REQUEST", "INVALID_UUID", "INTERNAL_ERROR"})
_FAILURES: Final = (
    StoreUnavailable,
    MessagingError,
    WorkersUnknown,
    ApiError,
    Unloadable,
    APIError,
    nats.errors.Error,
    TimeoutError,
)

#: The classes of a queue, the highest first.
_PRIORITIES: Final[tuple[subjects.PriorityClass, ...]] = ("high", "normal", "low")
#: Of a paused task so many of its last events are read for who paused it.
PAUSE_EVENTS_MAX: Final = 500

T = TypeVar("T")


class _Silent:
    """Who has not answered a moment ago: owners by name (by shard where that is not known), and the event store."""

    STORE: Final = -1

    def __init__(self) -> None:
        #: No more than there are shards, their owners and the store.
        self._until: dict[int | str, float] = {}

    def add(self, who: int | str) -> None:
        """It has not answered."""
        self._until[who] = asyncio.get_running_loop().time() + SILENT_SECONDS

    def has(self, who: int | str) -> bool:
        """Whether asking it is of no use yet."""
        self._forget()
        return who in self._until

    def __bool__(self) -> bool:
        """Whether there is anybody."""
        self._forget()
        return bool(self._until)

    def _forget(self) -> None:
        if self._until:
            now = asyncio.get_running_loop().time()
            self._until = {who: until for who, until in self._until.items() if until > now}


class ExplanationOperations:
    """`task.explain`, by its name in `handlers`. Without a router and a connection it has only the ledger."""

    def __init__(
        self,
        store: EventStore,
        loader: ActorLoader,
        router: ShardRouter | None,
        connection: Connection | None,
        shard_count: int,
    ) -> None:
        self._store = store
        self._loader = loader
        self._router = router
        self._connection = connection
        self._shard_count = shard_count
        self._silent = _Silent()
        self.handlers: dict[str, Callable[[Any], Awaitable[bytes]]] = {"task.explain": self.explain_task}

    async def explain_task(self, request: api.ExplainTask) -> bytes:
        """Why a task is where it is."""
        return encode(await self.explanation(request))

    async def explanation(self, request: api.ExplainTask) -> api.TaskExplanation:
        """The answer. Raises `ApiError`, and `StoreUnavailable` where neither the owner nor the ledger answers."""
        if not is_uuid(request.task_id):
            raise ApiError("INVALID_UUID", f"{request.task_id!r} is no UUID in its canonical lower-case form")
        check_text(request, "step")
        return await _Explaining(
            self._store, self._loader, self._router, self._connection, self._shard_count, self._silent
        ).run(request)


class _Explaining:
    """One explanation in the making; remembers what it could not find out."""

    def __init__(
        self,
        store: EventStore,
        loader: ActorLoader,
        router: ShardRouter | None,
        connection: Connection | None,
        shard_count: int,
        silent: _Silent,
    ) -> None:
        self._store = store
        self._loader = loader
        self._router = router
        self._connection = connection
        self._shard_count = shard_count
        self._silent = silent
        self._unknown: dict[str, None] = {}
        self._rows: asyncio.Task[dict[int, ShardRow]] = asyncio.create_task(self._shard_rows())

    async def run(self, request: api.ExplainTask) -> api.TaskExplanation:
        """Ask, and say it."""
        try:
            return await self._explanation(request)
        finally:
            self._rows.cancel()

    async def _explanation(self, request: api.ExplainTask) -> api.TaskExplanation:
        shard = shard_of(request.task_id, self._shard_count)
        task, answered = await self._task(request.task_id, request.step)
        facts = await self._facts(task, await self._shard(shard, answered=answered))
        findings = [(finding, say(finding, facts)) for finding in task.findings]
        findings.sort(key=lambda told: told[1].rank)
        said = [_item(finding, one) for finding, one in findings]
        of_shard = say_shard(facts, is_over=task.status in TERMINAL_STATUSES)
        if of_shard is not None:
            said.insert(0 if of_shard.rank < 0 else len(said), _item(None, of_shard))
        return api.TaskExplanation(
            task_uuid=task.task_id,
            status=task.status,
            summary=summary(task, said[0].sentence if said else ""),
            findings=tuple(said),
            shard=api.ExplainedShard(
                shard=shard,
                owner=facts.shard.owner,
                lease_seconds=None
                if facts.shard.lease_remaining_ms is None
                else facts.shard.lease_remaining_ms / 1000,
                answered=answered,
                commands_waiting=facts.shard.behind_count,
                sentence=owner_sentence(facts),
            ),
            from_ledger=not answered,
            unknown=tuple(self._unknown),
            stream_version=task.version,
            explained_at=timestamp(facts.now_ms),
        )

    # -- the task --------------------------------------------------------------------------------

    async def _task(self, task_id: str, step: str | None) -> tuple[Explained, bool]:
        """The task's findings, and whether the owner of its shard has said them; else they are from the ledger."""
        asked = Explain(stream_id=task_id, step=step)
        answer = await self._ask_owner(asked)
        if answer is None:
            actor = await self._from_ledger(task_id)
            if actor is None:
                raise ApiError("NOT_FOUND", f"there is no task {task_id}", task_id=task_id)
            return msgspec.json.decode(read_answer(answer_explain(actor, step)), type=Explained), False
        return msgspec.json.decode(answer, type=Explained), True

    async def _from_ledger(self, stream_id: str) -> Actor | None:
        """The actor as the ledger has it; `None` where there is none. Raises `ApiError` where the ledger does not say."""
        again = self._silent.has(_Silent.STORE)
        try:
            async with asyncio.timeout(LEDGER_AGAIN_SECONDS_MAX if again else LEDGER_SECONDS_MAX):
                actor = (await self._loader.load((stream_id,))).get(stream_id)
        except (TimeoutError, StoreUnavailable):
            shard = shard_of(stream_id, self._shard_count)
            # The next try is to hear this too, and not to wait for the owner first.
            self._silent.add(await self._owner(shard))
            self._silent.add(_Silent.STORE)
            raise ApiError(
                "SERVICE_UNAVAILABLE",
                f"neither the owner of shard {shard} nor the event store answers; try again",
                event_store_answers=False,
            ) from None
        if isinstance(actor, Unloadable):
            raise ApiError("INTERNAL_ERROR", str(actor))
        return actor

    async def _ask_owner(self, request: OwnerRequest) -> bytes | None:
        """The owner's answer; `None` where nobody answers. Raises `ApiError` for what the owner refuses."""
        shard = shard_of(request.stream_id, self._shard_count)
        if self._router is None or (self._silent and self._silent.has(await self._owner(shard))):
            return None
        try:
            async with asyncio.timeout(OWNER_SECONDS_MAX):
                return await self._router.call(shard, request)
        except TimeoutError:
            self._silent.add(await self._owner(shard))
            return None
        except ApiError as error:
            if error.code in _OWNERS_WORD:
                raise
            return None

    # -- what else is known ----------------------------------------------------------------------

    async def _facts(self, task: Explained, shard: ShardFact, *, of_child: bool = False) -> Facts:
        needs = {finding.gate.token: finding.gate for finding in task.findings if finding.gate is not None}
        work = {
            (need.namespace, need.queue, need.priority): need
            for finding in task.findings
            if (need := finding.work) is not None
        }
        children = [] if of_child else [one.child_task_id for one in task.findings if one.child_task_id]
        is_paused = any(finding.code == "paused" for finding in task.findings)
        workers, gates, queues, kin, pause = await asyncio.gather(
            self._workers() if work else _nothing(),
            self._each(needs, self._standing),
            self._each(work, self._queue),
            self._each({child: child for child in children}, self._child),
            self._try("who paused the task", self._pause(task)) if is_paused else _nothing(),
        )
        return Facts(
            now_ms=now_ms(),
            task_id=task.task_id,
            namespace=task.namespace,
            shard=shard,
            gates=gates,
            queues=queues,
            workers=workers,
            children=kin,
            pause=pause,
            asks_children=not of_child,
        )

    async def _each(self, wanted: dict[Any, T], ask: Callable[[T], Awaitable[Any]]) -> dict[Any, Any]:
        answers = await asyncio.gather(*(ask(one) for one in wanted.values()))
        return {key: answer for key, answer in zip(wanted, answers, strict=True) if answer is not None}

    async def _try(self, what: str, question: Awaitable[T], seconds: float = FACT_SECONDS_MAX) -> T | None:
        """The answer to a question; `None` where there is none in time, which is remembered."""
        try:
            async with asyncio.timeout(seconds):
                return await question
        except _FAILURES as error:
            log.info("could not find out a fact of an explanation", what=what, error=str(error))
            self._unknown[what] = None
            return None

    async def _shard_rows(self) -> dict[int, ShardRow]:
        """Who owns which shard; nothing where the event store does not say it."""
        what = "who owns the shard: the event store did not answer"
        if self._silent.has(_Silent.STORE):
            self._unknown[what] = None
            return {}
        rows = await self._try(what, self._store.shards())
        if rows is None:
            self._silent.add(_Silent.STORE)
            return {}
        return {row.shard: row for row in rows}

    async def _owner(self, shard: int) -> int | str:
        """Who is asked about a shard: its owner's name, and the shard's number where that is not known."""
        row = (await self._rows).get(shard)
        return shard if row is None else row.owner or shard

    async def _shard(self, shard: int, *, answered: bool) -> ShardFact:
        row = (await self._rows).get(shard)
        behind = None
        if answered and self._connection is not None:
            info = await self._try(
                "how far behind the shard's owner is: NATS did not answer",
                self._consumer(subjects.CMD_STREAM, subjects.command_consumer(shard)),
            )
            behind = None if info is None else info.waiting_count
        return ShardFact(
            shard=shard,
            owner="" if row is None else row.owner,
            lease_remaining_ms=None if row is None else row.lease_remaining_ms,
            answered=answered,
            asked=self._router is not None,
            behind_count=behind,
        )

    async def _consumer(self, stream: str, consumer: str) -> QueueFact:
        """What waits for a consumer, and what is out; nothing where it does not exist (yet)."""
        assert self._connection is not None
        manager = self._connection.client.jsm(timeout=FACT_SECONDS_MAX)
        try:
            info = await manager.consumer_info(stream, consumer)
        except NotFoundError:
            return QueueFact(waiting_count=0, out_count=0)
        return QueueFact(waiting_count=info.num_pending or 0, out_count=info.num_ack_pending or 0)

    async def _queue(self, need: WorkNeed) -> QueueFact | None:
        if self._connection is None:
            return None

        async def ask() -> QueueFact:
            stream = subjects.dispatch_stream(need.namespace)
            found = await asyncio.gather(
                *(self._consumer(stream, subjects.dispatch_consumer(need.queue, one)) for one in _PRIORITIES)
            )
            place = _PRIORITIES.index(need.priority)
            return QueueFact(
                waiting_count=found[place].waiting_count,
                out_count=found[place].out_count,
                higher_waiting_count=sum(one.waiting_count for one in found[:place]),
                lower_waiting_count=sum(one.waiting_count for one in found[place + 1 :]),
                others_out_count=sum(one.out_count for one in found) - found[place].out_count,
            )

        return await self._try(
            f"how full queue {need.queue} of namespace {need.namespace} is: NATS did not answer", ask()
        )

    async def _workers(self) -> tuple[WorkerFact, ...] | None:
        if self._connection is None:
            return None
        entries = await self._try(
            "which workers are alive: NATS did not answer", present_workers(self._connection)
        )
        return None if entries is None else tuple(_workers(entries))

    async def _pause(self, task: Explained) -> PauseFact | None:
        """Who paused the task, as far as that is among its last events."""
        records = await self._store.read_stream(
            task.task_id, from_version=max(1, task.version - PAUSE_EVENTS_MAX), to_version=task.version
        )
        for record in reversed(records):
            if record.type == TaskPaused.TYPE:
                event = decode_event(record.data)
                assert isinstance(event, TaskPaused)
                return PauseFact(at_ms=record.recorded_at_ms, by=event.paused_by, reason=event.reason)
        return None

    async def _standing(self, need: GateNeed) -> Standing | None:
        async def ask() -> Standing:
            try:
                answer = await self._ask_owner(AskStanding(stream_id=need.gate_id, token=need.token))
            except ApiError as error:
                if error.code != "NOT_FOUND":
                    raise
                # The first request for it is on its way.
                return Standing(place="unknown")
            if answer is None:
                actor = await self._from_ledger(need.gate_id)
                if actor is None:
                    return Standing(place="unknown")
                answer = read_answer(answer_standing(actor, need.token))
            return msgspec.json.decode(answer, type=Standing)

        return await self._try(
            f"how the gate {need.gate_id} stands: nobody answers for it", ask(), TALK_SECONDS_MAX
        )

    async def _child(self, task_id: str) -> ChildFact | None:
        async def ask() -> ChildFact:
            try:
                task, answered = await self._task(task_id, None)
            except ApiError as error:
                if error.code != "NOT_FOUND":
                    raise
                return ChildFact()
            first = msgspec.structs.replace(task, findings=task.findings[:1])
            shard = ShardFact(shard=shard_of(task_id, self._shard_count), answered=answered)
            facts = await self._facts(first, shard, of_child=True)
            sentences = [say(finding, facts).sentence for finding in first.findings]
            return ChildFact(status=task.status, sentence=" ".join(sentences))

        return await self._try(
            f"how child task {task_id} stands: nobody answers for it", ask(), TALK_SECONDS_MAX
        )


async def _nothing() -> None:
    return None


def _workers(entries: Iterable[dict[str, Any]]) -> Iterable[WorkerFact]:
    """The workers of these entries, by their ids; one that cannot be read counts as none."""
    found = []
    for entry in entries:
        try:
            found.append(msgspec.convert(entry, WorkerFact, strict=False))
        except msgspec.ValidationError:
            continue
    return sorted(found, key=lambda worker: worker.worker_id)


def _at(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else timestamp(moment_ms)


def _item(finding: Finding | None, said: Said) -> api.ExplanationItem:
    return api.ExplanationItem(
        code=said.code,
        sentence=said.sentence,
        commands=said.commands,
        step=None if finding is None else finding.step or None,
        since=None if finding is None else _at(finding.since_ms),
        until=None if finding is None else _at(finding.until_ms),
        alike_count=0 if finding is None else finding.alike_count,
        waiting_count=0 if finding is None else finding.waiting_count,
        undecided_count=0 if finding is None else finding.undecided_count,
        details={} if finding is None else finding.details,
    )
