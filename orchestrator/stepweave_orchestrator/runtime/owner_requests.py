"""What one orchestrator asks of another: the owner of the shard that it is about."""

from __future__ import annotations

import msgspec

from stepweave_orchestrator.core.bulks.commands import AnyBulkCommand
from stepweave_orchestrator.core.operator_commands import AnyOperatorCommand, TaskAction
from stepweave_orchestrator.core.schedules.commands import AnyScheduleCommand
from stepweave_schemas.events import TaskCreated, TemplateRegistered
from stepweave_schemas.identity import template_stream_id


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
#: How the requests begin that make something new.
CREATES = (b'{"op":"create', b'{"op":"fork"')
#: Reads what comes over `sw.own.<shard>`.
owner_request_decoder: msgspec.json.Decoder[OwnerRequest] = msgspec.json.Decoder(OwnerRequest)


def stream_ids_of(request: OwnerRequest) -> list[str]:
    """The streams that a request is about."""
    if isinstance(request, CreateSeveral):
        return [task.stream_id for task in request.tasks]
    if isinstance(request, Register):
        return [template_stream_id(request.registered.namespace, request.registered.name)]
    return [request.stream_id]
