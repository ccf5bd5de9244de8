"""Orders of schedules to tasks and notices of tasks to schedules, from the CMD stream.

Each may come again. A task that exists is not started twice: it says again how it stands, in case that was lost. A
task that cannot begin is told to its schedule before the order is acknowledged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from stepweave_orchestrator.core import Plan
from stepweave_orchestrator.core.commands import CreateTask
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_orchestrator.core.schedules.commands import TaskNotice
from stepweave_orchestrator.core.schedules.orders import ended_notice, refused_notice
from stepweave_schemas.api import ApiError
from stepweave_schemas.dispatch import CONTEXT_BYTES_MAX
from stepweave_schemas.events import TaskCreated
from stepweave_schemas.identity import content_digest
from stepweave_schemas.schedule_orders import CancelScheduled, ScheduleNotice, ScheduleOrder, StartScheduled
from stepweave_schemas.template.value_checks import violations_text

from .actors import Actor, TaskActor
from .orders import Order, notice_order
from .templates import TemplateCatalogue
from .work import Done, Ending, Faulty, Query, Unstorable, Work

log = structlog.get_logger(__name__)

#: Why the task of a firing cannot begin.
TEMPLATE_NOT_FOUND: Final = "SCHEDULED_TEMPLATE_NOT_FOUND"
CONTEXT_INVALID: Final = "SCHEDULED_CONTEXT_INVALID"
REFUSED: Final = "SCHEDULED_TASK_REFUSED"


class ScheduleOrders:
    """Carries out what schedules order, and tells them what became of it."""

    def __init__(
        self,
        templates: TemplateCatalogue,
        perform: Callable[[Work], Awaitable[Ending]],
        say: Callable[[Order], Awaitable[None]],
        cancel: Callable[[int, str, str, str, int], Awaitable[None]],
        shard_of: Callable[[str], int],
    ) -> None:
        """`cancel(shard, task_id, reason, cancelled_by, delivered)` ends a task and tells its workers."""
        self._templates = templates
        self._perform = perform
        self._say = say
        self._cancel = cancel
        self._shard_of = shard_of

    async def carry_out(self, shard: int, order: ScheduleOrder, delivered: int) -> None:
        """Carry out one order, `delivered` for so many times; raises where it is to come again."""
        match order:
            case StartScheduled():
                await self._start(shard, order)
            case CancelScheduled():
                await self._cancel(shard, order.task_id, order.reason, order.cancelled_by, delivered)
            case ScheduleNotice():
                await self._tell(shard, order)

    async def _start(self, shard: int, order: StartScheduled) -> None:
        try:
            created, plan = await self._created(order)
        except ApiError as error:
            code = TEMPLATE_NOT_FOUND if error.code == "NOT_FOUND" else CONTEXT_INVALID
            await self._refuse(order, code, error.message)
            return
        ending = await self._perform(
            Work(
                stream_id=order.task_id,
                shard=shard,
                command=CreateTask(created),
                causation_id=f"schedule:{order.schedule.schedule_id}:{order.schedule.nominal_at_ms}",
                correlation_id=order.task_id,
                actor_name=order.initiator,
                finish=lambda _: None,
                seed=plan,
            )
        )
        if isinstance(ending, Rejection):
            await self._refuse(order, REFUSED, ending.reason)
        elif isinstance(ending, Unstorable | Faulty):
            await self._refuse(order, CONTEXT_INVALID, "the task's first events cannot be stored")
        elif isinstance(ending, Done) and not ending.changed:
            await self._say_again(shard, order)

    async def _created(self, order: StartScheduled) -> tuple[TaskCreated, Plan]:
        version = await self._templates.resolve(order.namespace, order.name, order.version)
        size_bytes = len(memoryview(order.context))
        if size_bytes > CONTEXT_BYTES_MAX:
            raise ApiError(
                "VALIDATION_FAILED", f"the context has {size_bytes} bytes, {CONTEXT_BYTES_MAX} at most"
            )
        if violations := version.violations(msgspec.json.decode(order.context)):
            raise ApiError(
                "VALIDATION_FAILED",
                f"the context does not fit the input schema of {order.namespace}/{order.name}: "
                + violations_text(violations),
            )
        created = TaskCreated(
            template=version.plan.ref,
            context=order.context,
            # Whatever the schedule's settings are by now: the same firing is the same request.
            request_digest=content_digest([order.schedule.schedule_id, order.schedule.nominal_at_ms]),
            request_id=order.task_id,
            initiator=order.initiator,
            source_system="schedule",
            reason=order.reason,
            tags=order.tags,
            priority=order.priority,
            requested_at=order.requested_at,
            schedule=order.schedule,
        )
        return created, version.plan

    async def _refuse(self, order: StartScheduled, code: str, message: str) -> None:
        log.warning("a scheduled task cannot begin", initiator=order.initiator, code=code, why=message[:500])
        notice = refused_notice(order, code, message)
        await self._say(notice_order(notice, self._shard_of, firing_number=order.firing_number))

    async def _say_again(self, shard: int, order: StartScheduled) -> None:
        """The task exists: its schedule may not have heard how it stands."""
        said: list[ScheduleNotice] = []

        def look(actor: Actor) -> bytes:
            notice = ended_notice(actor.state) if isinstance(actor, TaskActor) else None
            # Asked again where what it rested on was not committed after all.
            said[:] = [] if notice is None else [notice]
            return b""

        await self._perform(
            Work(
                stream_id=order.task_id,
                shard=shard,
                command=Query(look),
                causation_id="",
                actor_name="",
                finish=lambda _: None,
            )
        )
        for notice in said:
            await self._say(notice_order(notice, self._shard_of, firing_number=order.firing_number))

    async def _tell(self, shard: int, notice: ScheduleNotice) -> None:
        ending = await self._perform(
            Work(
                stream_id=notice.task_id,
                shard=shard,
                command=TaskNotice(
                    task_id=notice.about_task_id,
                    status=notice.status,
                    error_code=notice.error_code,
                    error_message=notice.error_message,
                ),
                causation_id=f"task:{notice.about_task_id}",
                actor_name=f"task:{notice.about_task_id}",
                finish=lambda _: None,
            )
        )
        if isinstance(ending, Rejection | Unstorable | Faulty):
            log.warning(
                "a schedule does not take what became of its task",
                schedule_id=notice.task_id,
                why=str(ending),
            )
