"""Every operation: its name, its request, the subject that it is asked on."""

from __future__ import annotations

from typing import Final

from stepweave_schemas.subjects import API_PREFIX

from .bulks import CancelBulk, GetBulk, ListBulks, ListBulkTasks, StartBulk
from .dead_letters import (
    GetDeadLetters,
    GetDeadLetterStats,
    GetInvestigationQueue,
    GetStaleness,
    ListDeadLetters,
    UpdateDeadLetter,
)
from .explanations import ExplainTask
from .forks import ForkTask
from .gates import CloseCircuit, GetGate, ListGates, OpenCircuit
from .operators import CancelTask, GiveUpTask, PauseTask, ResolveTask, ResumeTask, RetryTask, UpdateStep
from .request import Request
from .schedules import (
    BackfillSchedule,
    CreateSchedule,
    DeleteSchedule,
    GetSchedule,
    GetScheduleEvents,
    ListSchedules,
    PauseSchedule,
    PreviewSchedule,
    ResumeSchedule,
    TriggerSchedule,
)
from .tasks import CreateMany, CreateTask, GetEvents, GetResults, GetTask, ListTasks, SignalTask
from .templates import GetTemplate, ListTemplates, RegisterTemplate, ValidateTemplate

#: Every operation: subject suffix → request type.
OPERATIONS: Final[dict[str, type[Request]]] = {
    "task.create": CreateTask,
    "task.create_many": CreateMany,
    "task.get": GetTask,
    "task.list": ListTasks,
    "task.cancel": CancelTask,
    "task.pause": PauseTask,
    "task.resume": ResumeTask,
    "task.retry": RetryTask,
    "task.give_up": GiveUpTask,
    "task.resolve": ResolveTask,
    "task.signal": SignalTask,
    "step.update": UpdateStep,
    "task.fork": ForkTask,
    "task.results": GetResults,
    "task.events": GetEvents,
    "task.explain": ExplainTask,
    "gate.list": ListGates,
    "gate.get": GetGate,
    "circuit.open": OpenCircuit,
    "circuit.close": CloseCircuit,
    "dlq.list": ListDeadLetters,
    "dlq.get": GetDeadLetters,
    "dlq.stats": GetDeadLetterStats,
    "dlq.investigation_queue": GetInvestigationQueue,
    "dlq.staleness": GetStaleness,
    "dlq.update": UpdateDeadLetter,
    "template.register": RegisterTemplate,
    "template.validate": ValidateTemplate,
    "template.get": GetTemplate,
    "template.list": ListTemplates,
    "schedule.create": CreateSchedule,
    "schedule.get": GetSchedule,
    "schedule.events": GetScheduleEvents,
    "schedule.list": ListSchedules,
    "schedule.pause": PauseSchedule,
    "schedule.resume": ResumeSchedule,
    "schedule.trigger": TriggerSchedule,
    "schedule.backfill": BackfillSchedule,
    "schedule.delete": DeleteSchedule,
    "schedule.preview": PreviewSchedule,
    "bulk.start": StartBulk,
    "bulk.get": GetBulk,
    "bulk.list": ListBulks,
    "bulk.tasks": ListBulkTasks,
    "bulk.cancel": CancelBulk,
}


def operation_subject(operation: str) -> str:
    """The NATS request subject of an operation of `OPERATIONS`."""
    return f"{API_PREFIX}.{operation}"
