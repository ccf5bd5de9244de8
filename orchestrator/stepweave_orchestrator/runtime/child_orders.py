"""Orders of one task to another, from the CMD stream: start as a child, or be cancelled with the parent.

Those of schedules and of bulk operations come the same way and are handed to `schedule_orders` and `bulk_orders`.

An order may come again. A child that exists is not started twice: it says again how far it is, in case that was
lost. A child that cannot begin says why to the step that wants it, before the order is acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from nats.aio.msg import Msg

from stepweave.messaging import ACK, Connection, JetStreamPublisher, MessagingError, nak
from stepweave.messaging import Outgoing as Message
from stepweave_eventstore.store import EventStoreError
from stepweave_orchestrator.core import Plan
from stepweave_orchestrator.core.children import (
    CONTEXT_INVALID,
    REFUSED,
    TEMPLATE_NOT_FOUND,
    begun,
    ended,
    refused,
)
from stepweave_orchestrator.core.commands import CancelTask, CreateTask
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas import result
from stepweave_schemas.api import ApiError
from stepweave_schemas.bulk_orders import RunBulk
from stepweave_schemas.child import AnyTaskOrder, CancelChild, StartChild
from stepweave_schemas.events import TaskCreated
from stepweave_schemas.gate import AnyGateOrder, GateOrder
from stepweave_schemas.identity import content_digest, is_uuid
from stepweave_schemas.schedule_orders import ScheduleOrder, StartScheduled
from stepweave_schemas.template.value_checks import violations_text

from .actors import Actor, TaskActor
from .gate_orders import GateFull, GateOrders, NotCarriedOut, full_pause_seconds
from .loading import Unloadable
from .metrics import Metrics
from .orders import Order, outcome_order
from .owner import OwnerLoop
from .schedule_orders import ScheduleOrders
from .templates import TemplateCatalogue
from .work import Done, Ending, Faulty, Query, ShardMoved, Unstorable, Work, into_future

log = structlog.get_logger(__name__)

_decoder: msgspec.json.Decoder[AnyTaskOrder | AnyGateOrder | ScheduleOrder | RunBulk] = msgspec.json.Decoder(
    AnyTaskOrder | AnyGateOrder | ScheduleOrder | RunBulk
)
#: When an order comes again that could not be carried out now.
AGAIN_SECONDS: Final = 1.0
MOVED_SECONDS: Final = 0.1
#: A task that is to be cancelled may not exist yet, its start being on the way: so often it is looked for, after
#: pauses of so long at most, which is more than an hour in all.
CANCEL_TRIES_MAX: Final = 100
CANCEL_PAUSE_SECONDS_MAX: Final = 60.0
#: How long the owner may take; well under the time after which JetStream delivers an order again.
ORDER_SECONDS_MAX: Final = 15.0


class ChildOrders:
    """Carries out the orders of parents, for all shards of the process."""

    def __init__(
        self,
        connection: Connection,
        messages: JetStreamPublisher,
        owner: OwnerLoop,
        templates: TemplateCatalogue,
        tell_workers: Callable[[Actor], bytes],
        shard_of: Callable[[str], int],
        metrics: Metrics,
        put_off: Callable[[], float | None],
        run_bulk: Callable[[int, RunBulk], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._messages = messages
        self._owner = owner
        self._templates = templates
        self._tell_workers = tell_workers
        self._shard_of = shard_of
        self._metrics = metrics
        self.gates = GateOrders(messages, self._perform, shard_of)
        #: For how long neither a child nor a scheduled task is to be started, where too much is under way.
        self._put_off = put_off
        self._schedules = ScheduleOrders(templates, self._perform, self._say, self._cancel, shard_of)
        self._run_bulk = run_bulk
        #: Bounded by what the consumer has pulled and not acknowledged.
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, shard: int, message: Msg) -> asyncio.Task[None]:
        """Carry out one message, and acknowledge it afterwards."""
        task = asyncio.ensure_future(self._carry_out(shard, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Give up what is under way; it comes again to the next owner."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, shard: int, message: Msg) -> None:
        reply = ACK
        try:
            order = _decoder.decode(message.data)
            if not is_uuid(order.task_id) or self._shard_of(order.task_id) != shard:
                raise msgspec.ValidationError(f"task_id is no task of shard {shard}")
            async with asyncio.timeout(ORDER_SECONDS_MAX):
                if isinstance(order, StartChild):
                    await self._start(shard, order)
                elif isinstance(order, GateOrder):
                    await self.gates.carry_out(shard, order)
                elif isinstance(order, CancelChild):
                    by = f"task:{order.parent_task_id}"
                    delivered = message.metadata.num_delivered
                    await self._cancel(shard, order.task_id, order.reason, by, delivered)
                elif isinstance(order, RunBulk):
                    await self._run_bulk(shard, order)
                else:
                    if isinstance(order, StartScheduled) and (seconds := self._put_off()) is not None:
                        raise _Later(seconds)
                    await self._schedules.carry_out(shard, order, message.metadata.num_delivered)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._metrics.messages_refused += 1
            log.warning("refused an order", subject=message.subject, why=str(error))
        except ShardMoved:
            reply = nak(MOVED_SECONDS)
        except GateFull as full:
            log.warning("an order to a gate is carried out later", subject=message.subject, why=str(full))
            reply = nak(full_pause_seconds(message.metadata.num_delivered))
        except _Later as later:
            reply = nak(later.seconds)
        except (MessagingError, EventStoreError, Unloadable, NotCarriedOut, TimeoutError) as error:
            log.info("an order is carried out later", subject=message.subject, why=str(error))
            reply = nak(AGAIN_SECONDS)
        except Exception:
            log.exception("an order failed, it comes again", subject=message.subject)
            reply = nak(AGAIN_SECONDS)
        self._connection.send(message.reply, reply)

    # -- starting --------------------------------------------------------------------------------

    async def _start(self, shard: int, order: StartChild) -> None:
        seconds = self._put_off()
        if seconds is not None:
            raise _Later(seconds)
        try:
            created, plan = await self._created(order)
        except ApiError as error:
            # A template that is not there may be on its way: the step's own retries say how long to wait for it.
            code = TEMPLATE_NOT_FOUND if error.code == "NOT_FOUND" else CONTEXT_INVALID
            await self._refuse(order, code, error.message, retryable=error.code == "NOT_FOUND")
            return
        ending = await self._perform(
            Work(
                stream_id=order.task_id,
                shard=shard,
                command=CreateTask(created),
                causation_id=f"child:{order.parent.step_uuid}:{order.parent.attempt}",
                correlation_id=order.correlation_id,
                actor_name=f"task:{order.parent.task_id}",
                finish=lambda _: None,
                seed=plan,
            )
        )
        if isinstance(ending, Rejection):
            await self._refuse(order, REFUSED, ending.reason, retryable=False)
        elif isinstance(ending, Unstorable | Faulty):
            why = "the child's first events cannot be stored"
            await self._refuse(order, CONTEXT_INVALID, why, retryable=False)
        elif isinstance(ending, Done) and not ending.changed:
            await self._say_again(shard, order.task_id)

    async def _created(self, order: StartChild) -> tuple[TaskCreated, Plan]:
        name = f"{order.namespace}/{order.name}"
        if order.problems:
            raise ApiError("VALIDATION_FAILED", f"{name} cannot be started: {'; '.join(order.problems[:10])}")
        version = await self._templates.resolve(order.namespace, order.name, order.version)
        context = msgspec.json.decode(order.context)
        if violations := version.violations(context):
            raise ApiError(
                "VALIDATION_FAILED",
                f"the context does not fit the input schema of {name}: {violations_text(violations)}",
            )
        created = TaskCreated(
            template=version.plan.ref,
            context=order.context,
            request_digest=content_digest([order.namespace, order.name, order.version, context]),
            request_id=order.task_id,
            initiator=f"task:{order.parent.task_id}",
            source_system=order.parent_namespace,
            reason=f"step {order.parent.step_name}",
            priority=order.priority,
            parent_correlation_id=order.parent_correlation_id,
            traceparent=order.traceparent,
            parent=order.parent,
            depth=order.depth,
        )
        return created, version.plan

    async def _refuse(self, order: StartChild, code: str, message: str, *, retryable: bool) -> None:
        said = refused(order.task_id, order.parent, code, message, retryable=retryable)
        await self._say(outcome_order(said, order.parent.result_subject))

    async def _say_again(self, shard: int, task_id: str) -> None:
        """The child exists: its parent may not have heard how far it is."""
        said: list[tuple[result.Outcome, str]] = []

        def look(actor: Actor) -> bytes:
            if isinstance(actor, TaskActor) and actor.state.parent is not None:
                parent = actor.state.parent
                outcome = ended(actor.state) or begun(task_id, parent, actor.state.created_at_ms)
                # Asked again where what it rested on was not committed after all.
                said[:] = [(outcome, parent.result_subject)]
            return b""

        await self._ask(shard, task_id, look)
        for outcome, result_subject in said:
            await self._say(outcome_order(outcome, result_subject))

    async def _say(self, order: Order) -> None:
        await self._messages.room()
        await self._messages.publish_all([Message(order.subject, order.payload, order.message_id)])

    # -- cancelling ------------------------------------------------------------------------------

    async def _cancel(self, shard: int, task_id: str, reason: str, by: str, delivered: int) -> None:
        ending = await self._perform(
            Work(
                stream_id=task_id,
                shard=shard,
                command=CancelTask(reason, by),
                causation_id=by.replace("task:", "parent:", 1),
                actor_name=by,
                finish=lambda _: None,
            )
        )
        if isinstance(ending, Rejection):
            if ending.code == "NOT_FOUND" and delivered < CANCEL_TRIES_MAX:
                raise _Later(min(delivered * AGAIN_SECONDS, CANCEL_PAUSE_SECONDS_MAX))
            return
        await self._ask(shard, task_id, self._tell_workers)

    async def _ask(self, shard: int, task_id: str, answer: Callable[[Actor], bytes]) -> None:
        await self._perform(
            Work(
                stream_id=task_id,
                shard=shard,
                command=Query(answer),
                causation_id="",
                actor_name="",
                finish=lambda _: None,
            )
        )

    async def _perform(self, work: Work) -> Ending:
        future: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        work.finish = into_future(future)
        self._owner.submit(work)
        ending = await future
        if isinstance(ending, Exception) and not isinstance(ending, Unstorable | Faulty):
            raise ending
        return ending


class _Later(Exception):
    """The order cannot be carried out yet; it is to come again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds:g} s")
        self.seconds = seconds
