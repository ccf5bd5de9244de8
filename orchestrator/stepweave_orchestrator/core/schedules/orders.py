"""What the events of a schedule order of tasks; and what a task says to the schedule that started it."""

from __future__ import annotations

from typing import Final

import msgspec

from stepweave_orchestrator.core.state import TaskState
from stepweave_schemas import events
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.events import ScheduleLink
from stepweave_schemas.result import ERROR_MESSAGE_CHARS_MAX
from stepweave_schemas.schedule_orders import CancelScheduled, ScheduleNotice, StartScheduled

from .references import fill, firing_values
from .state import Firing, ScheduleState
from .timing import Timing

#: The event types of a schedule that order something.
ORDERING: Final[frozenset[type[events.Event]]] = frozenset(
    {events.ScheduleFired, events.ScheduleTaskCancelRequested}
)
#: How a scheduled task stands when its schedule need not wait for it any more.
_TOLD: Final = frozenset({"complete", "error", "cancelled", "resolved_manually", "blocked_by_failures"})


def start_order(state: ScheduleState, firing: Firing) -> StartScheduled:
    """The order to start the task of a firing."""
    spec = state.spec
    task = spec.task
    schedule = f"{state.namespace}/{state.name}"
    values = firing_values(Timing(spec), state.namespace, state.name, firing.nominal_at_ms, firing.cause)
    fired_at = timestamp(firing.nominal_at_ms)
    return StartScheduled(
        task_id=firing.task_id,
        namespace=task.namespace,
        name=task.name,
        version=task.version,
        context=msgspec.Raw(msgspec.json.encode(fill(msgspec.json.decode(task.context), values))),
        tags=(*fill(list(task.tags), values), f"schedule:{schedule}"),
        priority=task.priority,
        initiator=f"schedule:{schedule}",
        reason=f"{firing.cause} firing of {fired_at}" + (f" by {firing.fired_by}" if firing.fired_by else ""),
        requested_at=fired_at,
        schedule=ScheduleLink(schedule_id=state.schedule_id, nominal_at_ms=firing.nominal_at_ms),
        firing_number=firing.number,
    )


def cancel_order(state: ScheduleState, task_id: str, reason: str) -> CancelScheduled:
    """The order to cancel a task that the next firing takes the place of."""
    return CancelScheduled(
        task_id=task_id, cancelled_by=f"schedule:{state.namespace}/{state.name}", reason=reason
    )


def ended_notice(state: TaskState) -> ScheduleNotice | None:
    """What a task says to the schedule that started it; `None` where it runs on or nobody waits."""
    link = state.schedule
    if link is None or state.phase not in _TOLD:
        return None
    message, code = state.ending_message, state.ending_code
    if state.phase == "blocked_by_failures" and state.failed:
        number = state.failed[-1]
        fault = state.steps[number].fault
        message = f"step {state.name_of(number)} failed" + (f": {fault.error_message}" if fault else "")
        code = fault.error_code if fault else None
    return ScheduleNotice(
        task_id=link.schedule_id,
        about_task_id=state.task_id,
        status=state.phase,  # type: ignore[arg-type]
        error_code=code,
        error_message=message[:ERROR_MESSAGE_CHARS_MAX],
    )


def refused_notice(order: StartScheduled, error_code: str, error_message: str) -> ScheduleNotice:
    """That the task of a firing cannot begin, and why."""
    return ScheduleNotice(
        task_id=order.schedule.schedule_id,
        about_task_id=order.task_id,
        status="refused",
        error_code=error_code,
        error_message=error_message[:ERROR_MESSAGE_CHARS_MAX],
    )
