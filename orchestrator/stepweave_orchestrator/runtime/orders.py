"""What the events of a task order to be sent: dispatches for workers, orders for children, outcomes for parents.

An order follows from an event that is committed and from the task's state, so a new owner of the shard sends it
again from the same event; whoever gets it twice recognises it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from stepweave_orchestrator.core import build_dispatch
from stepweave_orchestrator.core.children import begun, cancel_order, ended, start_order
from stepweave_orchestrator.core.holding import join_of, join_order, leave_order, report_order
from stepweave_orchestrator.core.schedules.orders import ended_notice
from stepweave_schemas import events, subjects
from stepweave_schemas.child import TaskOrder
from stepweave_schemas.codec import encode
from stepweave_schemas.dispatch import DISPATCH_BYTES_MAX
from stepweave_schemas.gate import AnyGateOrder, AnyJoin
from stepweave_schemas.result import Outcome
from stepweave_schemas.schedule_orders import ScheduleNotice

from .actors import TaskActor

_HELD: Final = (events.ConcurrencyRequested, events.CircuitHeld, events.RateHeld)
_LEFT: Final = (events.ConcurrencyReleased, events.CircuitLeft, events.RateLeft)
#: The events of a task that tell gates something, and the failures that may count against a service.
GATING: Final[frozenset[type[events.Event]]] = frozenset({*_HELD, *_LEFT})
FAILING: Final[frozenset[type[events.Event]]] = frozenset({events.StepRetryScheduled, events.StepFailed})
#: The types of the events that order something for a step of the task itself, void once the try they are about is
#: over, or for a gate. Where JetStream has lost all of them, they are made again from what the states say.
OPENING: Final = frozenset(
    {events.StepEnqueued.TYPE, events.ChildRequested.TYPE, *(kind.TYPE for kind in GATING | FAILING)}
)
#: Those that order something for another task: they hold whatever has happened since.
REPORTING: Final = frozenset(
    {
        events.ChildCancelRequested.TYPE,
        events.TaskCompleted.TYPE,
        events.TaskFailed.TYPE,
        events.TaskCancelled.TYPE,
        events.TaskResolvedManually.TYPE,
    }
)
#: Those after which a task tells the schedule that started it how it stands.
SAID_TO_SCHEDULES: Final = frozenset(
    {
        events.TaskCompleted.TYPE,
        events.TaskFailed.TYPE,
        events.TaskCancelled.TYPE,
        events.TaskResolvedManually.TYPE,
        events.TaskBlocked.TYPE,
    }
)


class Order(NamedTuple):
    """A message that an event orders, ready to publish."""

    subject: str
    #: The same when the order is published again, and unguessable where workers can read it.
    message_id: str
    payload: bytes
    #: Of a dispatch: the namespace and queue whose stream must exist. Others go to the CMD stream.
    namespace: str = ""
    queue: str = ""
    #: Of what tasks and gates tell each other: what is said, and the shard of who is told.
    gate: AnyGateOrder | None = None
    shard: int = -1


def order_of(actor: TaskActor, event: events.Event, shard_of: Callable[[str], int]) -> Order | None:
    """What an event of a task orders, if anything (any more)."""
    if isinstance(event, events.StepEnqueued):
        return dispatch_order(actor, event.step_name, event.attempt, event.lease_token)
    if isinstance(event, events.ChildRequested):
        start = start_order(actor.state, event, actor.result_subject)
        return None if start is None else task_order(start, f"c{event.lease_token}", shard_of)
    if isinstance(event, _HELD):
        join = join_order(actor.state, event)
        return None if join is None else question_order(join, shard_of)
    if isinstance(event, _LEFT):
        return gate_order(leave_order(event), f"l{event.token}", shard_of)
    if isinstance(event, events.StepRetryScheduled | events.StepFailed):
        report = report_order(actor.state, event)
        return None if report is None else gate_order(report, f"f{event.step_uuid}{event.attempt}", shard_of)
    if isinstance(event, events.ChildCancelRequested):
        return task_order(cancel_order(actor.state, event), f"x{event.child_task_id}", shard_of)
    if actor.state.schedule is not None:
        notice = ended_notice(actor.state) if event.TYPE in SAID_TO_SCHEDULES else None
        return None if notice is None else notice_order(notice, shard_of)
    parent = actor.state.parent
    if parent is None:
        return None
    if isinstance(event, events.TaskCreated):
        said: Outcome | None = begun(actor.state.task_id, parent, actor.state.created_at_ms)
    else:
        said = ended(actor.state) if event.TYPE in REPORTING else None
    return None if said is None else outcome_order(said, parent.result_subject)


def dispatch_order(actor: TaskActor, step_name: str, attempt: int, lease_token: str) -> Order | None:
    """The dispatch of one try; `None` where the try is over."""
    state = actor.state
    dispatch = build_dispatch(state, step_name, attempt, lease_token, actor.result_subject)
    if dispatch is None:
        return None
    payload = encode(dispatch)
    if len(payload) > DISPATCH_BYTES_MAX:
        # Large settings, a large context and a large checkpoint leave no room: the worker asks for the results.
        without = {"dependency_results": {}, "dependency_results_complete": False}
        payload = encode(msgspec.structs.replace(dispatch, **without))
    number = state.the_plan.index.get(step_name, -1)
    spec = state.the_plan.steps[number] if number >= 0 else state.spec_of(state.number_of(step_name))
    queue = spec.queue
    namespace = dispatch.namespace
    priority = subjects.priority_class(state.priority)
    subject = subjects.dispatch(namespace, queue, priority, lease_token)
    return Order(subject, f"d{lease_token}", payload, namespace, queue)


def outcome_order(said: Outcome, result_subject: str) -> Order:
    """What a child says to the step that started it; on the way of a worker's results."""
    return Order(result_subject, f"p{said.lease_token}{said.KIND}", encode(said))


def task_order(order: TaskOrder, message_id: str, shard_of: Callable[[str], int]) -> Order:
    """A durable command to another task, or to a stream that stands for something besides tasks."""
    return Order(subjects.command(shard_of(order.task_id), order.task_id), message_id, encode(order))


def gate_order(order: AnyGateOrder, message_id: str, shard_of: Callable[[str], int]) -> Order:
    """A durable command of a task to a gate, or of a gate to a task."""
    shard = shard_of(order.task_id)
    subject = subjects.command(shard, order.task_id)
    return Order(subject, message_id, encode(order), gate=order, shard=shard)


def question_order(join: AnyJoin, shard_of: Callable[[str], int]) -> Order:
    """The question of whoever waits to the gate before it."""
    shard = shard_of(join.task_id)
    subject = subjects.question(shard, join.task_id)
    return Order(subject, f"j{join.token}", encode(join), gate=join, shard=shard)


def held_orders(actor: TaskActor, shard_of: Callable[[str], int]) -> list[Order]:
    """The questions to gates that a task waits for, from its state."""
    state = actor.state
    if not state.gated_count:
        return []
    holds = [(state.name_of(number), step.hold) for number, step in enumerate(state.steps)]
    return [
        question_order(join_of(state, name, hold), shard_of)
        for name, hold in [("", state.hold), *holds]
        if hold is not None
    ]


def notice_order(
    notice: ScheduleNotice, shard_of: Callable[[str], int], *, firing_number: int | None = None
) -> Order:
    """What a task says to the schedule that started it, by itself or as the answer to one of its firings."""
    asked = "" if firing_number is None else f".{firing_number}"
    return task_order(notice, f"e{notice.about_task_id}{notice.status}{asked}", shard_of)
