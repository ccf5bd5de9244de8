"""How a bulk operation goes on: it orders itself to select tasks and to act on them, over the CMD stream.

Selecting reads the next page of the projection after the cursor, and the page is an event before anything is done
with it. Acting asks the owner of each task, at the operation's rate, and tells the operation when all have answered.
Whatever a crash interrupts comes again: a page is selected once, and a task recognises what it was asked before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from stepweave.messaging import MessagingError
from stepweave_eventstore.store import EventStore, EventStoreError, TaskFilter
from stepweave_orchestrator.core.bulks.actions import operator_command
from stepweave_orchestrator.core.bulks.commands import RecordChunk, SelectTasks
from stepweave_orchestrator.core.bulks.state import BulkState
from stepweave_orchestrator.core.commands import StreamCommand
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas.api import ApiError
from stepweave_schemas.bulk import BulkFilter
from stepweave_schemas.bulk_orders import RunBulk
from stepweave_schemas.envelope import parse_timestamp
from stepweave_schemas.events import BulkRefused

from .actors import Actor, StreamActor
from .owner import OwnerLoop
from .owner_requests import ActForBulk
from .shard_router import ShardRouter
from .work import Done, Ending, Faulty, Query, ShardMoved, Unstorable, Work, into_future

log = structlog.get_logger(__name__)

#: Tasks of a chunk that are asked at the same time.
CONCURRENT_ACTIONS_MAX: Final = 50
#: Of why a task refused so much is kept.
REFUSAL_CHARS_MAX: Final = 300
#: What says nothing about the task: it is asked again.
_PASSING: Final = frozenset({"SERVICE_UNAVAILABLE", "TIMEOUT", "BACKPRESSURE"})


def task_filter(wanted: BulkFilter, *, limit: int, after: tuple[int, str] | None = None) -> TaskFilter:
    """A page of the tasks that a filter finds."""
    return TaskFilter(
        namespace=wanted.namespace,
        name=wanted.name,
        statuses=wanted.status,
        initiator=wanted.initiator,
        source_system=wanted.source_system,
        tag=wanted.tag,
        template_version=wanted.version,
        created_from_ms=_moment_ms(wanted.created_from),
        created_before_ms=_moment_ms(wanted.created_before),
        after=after,
        limit=limit,
    )


def _moment_ms(text: str | None) -> int | None:
    return None if text is None else parse_timestamp(text)


class BulkOrders:
    """Carries out what bulk operations order of themselves, for all shards of the process."""

    def __init__(
        self, owner: OwnerLoop, store: EventStore, router: ShardRouter, shard_of: Callable[[str], int]
    ) -> None:
        self._owner = owner
        self._store = store
        self._router = router
        self._shard_of = shard_of

    async def run(self, shard: int, order: RunBulk) -> None:
        """Carry out one order; raises where it is to come again."""
        state = await self._look(shard, order.task_id)
        if state is None or not state.is_open or state.stage != order.stage:
            return
        if state.pending:
            await self._tell(shard, state, await self._act(state))
        else:
            await self._tell(shard, state, await self._select(state))

    async def _select(self, state: BulkState) -> SelectTasks:
        number = state.chunk_number + 1
        limit = state.chunk_tasks_max
        if limit <= 0:
            return SelectTasks(number=number, task_ids=())
        rows, _ = await self._store.list_tasks(task_filter(state.filter, limit=limit, after=state.cursor))
        if not rows:
            return SelectTasks(number=number, task_ids=())
        return SelectTasks(
            number=number,
            task_ids=tuple(row.task_id for row in rows),
            cursor_created_ms=rows[-1].created_at_ms,
            cursor_task_id=rows[-1].task_id,
        )

    async def _act(self, state: BulkState) -> RecordChunk:
        free = asyncio.Semaphore(CONCURRENT_ACTIONS_MAX)
        loop = asyncio.get_running_loop()
        began = loop.time()
        asking: list[asyncio.Task[BulkRefused | None]] = []
        try:
            async with asyncio.TaskGroup() as group:
                for count, task_id in enumerate(state.pending, start=1):
                    asking.append(group.create_task(self._ask(state, task_id, free)))
                    # The rate holds over chunks too: the pause after the last one is part of it.
                    await asyncio.sleep(max(0.0, began + count / state.rate_per_second - loop.time()))
        except ExceptionGroup as group_error:
            raise TimeoutError(f"not every task answered: {group_error.exceptions[0]}") from group_error
        refused = tuple(one for task in asking if (one := task.result()) is not None)
        return RecordChunk(
            number=state.chunk_number, applied_count=len(state.pending) - len(refused), refused=refused
        )

    async def _ask(self, state: BulkState, task_id: str, free: asyncio.Semaphore) -> BulkRefused | None:
        request = ActForBulk(
            stream_id=task_id,
            bulk_id=state.bulk_id,
            command=operator_command(state, task_id),
            reason=state.reason,
            by=state.requested_by,
        )
        async with free:
            try:
                await self._router.call(self._shard_of(task_id), request)
            except ApiError as error:
                if error.code in _PASSING:
                    raise
                return BulkRefused(task_id=task_id, code=error.code, reason=error.message[:REFUSAL_CHARS_MAX])
            except (EventStoreError, MessagingError, ShardMoved, TimeoutError):
                raise
            except Exception as error:
                # Such as a task that this version cannot replay. It holds up none of the others.
                log.exception("a bulk operation leaves a task out", bulk_id=state.bulk_id, task_uuid=task_id)
                reason = f"it cannot be asked: {type(error).__name__}; the orchestrator's log has more"
                return BulkRefused(task_id=task_id, code="INTERNAL_ERROR", reason=reason)
        return None

    async def _look(self, shard: int, stream_id: str) -> BulkState | None:
        found: list[BulkState] = []

        def look(actor: Actor) -> bytes:
            # Asked again where what it rested on was not committed after all.
            found.clear()
            if isinstance(actor, StreamActor) and isinstance(actor.state, BulkState):
                found.append(msgspec.structs.replace(actor.state))
            return b""

        await self._perform(shard, stream_id, Query(look), "")
        return found[0] if found else None

    async def _tell(self, shard: int, state: BulkState, command: StreamCommand) -> None:
        ending = await self._perform(shard, state.stream_id, command, f"bulk:{state.bulk_id}")
        if not isinstance(ending, Done):
            log.warning("a bulk operation cannot go on", bulk_id=state.bulk_id, why=str(ending))

    async def _perform(
        self, shard: int, stream_id: str, command: StreamCommand | Query, causation_id: str
    ) -> Ending:
        future: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._owner.submit(
            Work(
                stream_id=stream_id,
                shard=shard,
                command=command,
                causation_id=causation_id,
                correlation_id=stream_id,
                actor_name="orchestrator",
                finish=into_future(future),
            )
        )
        ending = await future
        if isinstance(ending, Exception) and not isinstance(ending, Rejection | Unstorable | Faulty):
            raise ending
        return ending
