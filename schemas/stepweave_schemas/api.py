"""Requests and answers of the API: the same shapes over NATS now and over HTTP."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .bulk import BulkAction, BulkFilter
from .raw import NO_RAW
from .schedule import ClosedSpec, ClosedTiming, ScheduleSpec
from .subjects import API_PREFIX

#: Most tasks in one `task.create_many` request.
CREATE_MANY_MAX: Final = 200

_EMPTY_OBJECT = msgspec.Raw(b"{}")
_NULL = msgspec.Raw(b"null")


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of all requests: an unknown field is refused, not ignored."""


class CreateTask(Request, frozen=True, kw_only=True):
    """`task.create`. Answer: `CreateTaskReply`."""

    name: str
    namespace: str = "default"
    version: str | None = None
    context: msgspec.Raw = _EMPTY_OBJECT
    initiator: str = ""
    source_system: str = ""
    reason: str = ""
    tags: tuple[str, ...] = ()
    priority: int = 0
    correlation_id: str | None = None
    parent_correlation_id: str | None = None
    idempotency_key: str | None = None
    #: RFC 3339, informational.
    requested_at: str | None = None
    #: RFC 3339 with a zone; no step starts earlier.
    start_at: str | None = None
    options: msgspec.Raw = _EMPTY_OBJECT
    #: A UUIDv7 minted by the client, so that a repeated request is the same task.
    task_id: str | None = None
    traceparent: str | None = None


class CreateMany(Request, frozen=True, kw_only=True):
    """`task.create_many`: up to `CREATE_MANY_MAX` tasks in one round trip; each stands on its own."""

    tasks: tuple[CreateTask, ...]


class GetTask(Request, frozen=True, kw_only=True):
    """`task.get`. Answer: `TaskResponse`."""

    task_id: str


class GetResults(Request, frozen=True, kw_only=True):
    """`task.results`: results of finished steps. Answer: `ResultsReply`, in pages of bounded size."""

    task_id: str
    #: Only ancestors of this step; absent: every finished step.
    step_name: str | None = None
    #: Pass the `next_offset` of the page before.
    offset: int = 0


class GetEvents(Request, frozen=True, kw_only=True):
    """`task.events`. Answer: `EventsReply`."""

    task_id: str
    from_version: int = 1
    #: 1..1000; fewer come back where they would not fit into one message.
    limit: int = 200


class ListTasks(Request, frozen=True, kw_only=True):
    """`task.list`. Answer: `TaskPage`. Pages count from 1; `per_page` is 1..200."""

    namespace: str | None = None
    name: str | None = None
    status: tuple[str, ...] = ()
    initiator: str | None = None
    source_system: str | None = None
    tag: str | None = None
    correlation_id: str | None = None
    page: int = 1
    per_page: int = 50


class CancelTask(Request, frozen=True, kw_only=True):
    """`task.cancel`. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    cancelled_by: str = ""


class PauseTask(Request, frozen=True, kw_only=True):
    """`task.pause`: begin nothing any more until the task is resumed. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    paused_by: str = ""
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class ResumeTask(Request, frozen=True, kw_only=True):
    """`task.resume`: go on with a paused task. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    resumed_by: str = ""
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class RetryTask(Request, frozen=True, kw_only=True):
    """`task.retry`: try every step again that has failed for good. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    reset_by: str = ""
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class GiveUpTask(Request, frozen=True, kw_only=True):
    """`task.give_up`: a blocked task will not complete; it ends in `error`. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    given_up_by: str = ""
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class ResolveTask(Request, frozen=True, kw_only=True):
    """`task.resolve`: what the task was for is done; it ends in `resolved_manually`. Answer: `TaskResponse`."""

    task_id: str
    reason: str = ""
    resolved_by: str = ""
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class StepAction(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action_type"
):
    """Base of what may be asked of a step."""

    reason: str = ""


class ResetForRetry(StepAction, frozen=True, kw_only=True, tag="reset_for_retry"):
    """Try a step again that has failed, or waits for its retry; it has all its tries anew."""

    reset_by: str = ""


class ResolveManually(StepAction, frozen=True, kw_only=True, tag="resolve_manually"):
    """A step counts as done, without a result."""

    resolved_by: str = ""


class CompletionData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a step has come to that somebody did by hand."""

    #: Any JSON value. Of a decision, an object that may name the steps it chooses in `create_steps`.
    result: msgspec.Raw = _NULL
    metadata: msgspec.Raw = _EMPTY_OBJECT


class CompleteManually(StepAction, frozen=True, kw_only=True, tag="complete_manually"):
    """A step was done by hand, and this is its result."""

    completion_data: CompletionData
    completed_by: str = ""


class Skip(StepAction, frozen=True, kw_only=True, tag="skip"):
    """A step is not needed; its template has to say `skippable: true`."""

    skipped_by: str = ""


AnyStepAction = ResetForRetry | ResolveManually | CompleteManually | Skip


class UpdateStep(Request, frozen=True, kw_only=True):
    """`step.update`: an operator's action on a step. Answer: `UpdateStepReply`."""

    task_id: str
    #: The step's name or uuid.
    step: str
    #: What to do, told apart by `action_type`.
    action: AnyStepAction
    #: A UUID minted by the client, so that a repeated request is the same one; absent: always a new one.
    request_id: str | None = None


class SignalTask(Request, frozen=True, kw_only=True):
    """`task.signal`: tell a task something that one of its steps waits for. Answer: `SignalReply`."""

    task_id: str
    #: The signal's name, as the template's `wait_for_signal.name` has it.
    signal: str
    #: Any JSON value; it becomes the result of the step that waits.
    payload: msgspec.Raw = _NULL
    #: The sender's own id of this signal, so that one that is sent again is the same; absent: always a new one.
    signal_id: str | None = None
    sent_by: str = ""


class ExplainTask(Request, frozen=True, kw_only=True):
    """`task.explain`: why a task is where it is, and what would move it. Answer: `TaskExplanation`."""

    task_id: str
    #: Only what this step waits for; absent: what holds the whole task up.
    step: str | None = None


class ListGates(Request, frozen=True, kw_only=True):
    """`gate.list`: slots of concurrency keys, circuits and rates that were ever used. Answer: `GatePage`."""

    #: `slots`, `circuit` or `rate`.
    kind: str
    namespace: str | None = None
    #: Such as `full` or `in_use` (slots), `open` (circuits); absent: all.
    status: tuple[str, ...] = ()
    page: int = 1
    #: 1..200.
    per_page: int = 50


class GetGate(Request, frozen=True, kw_only=True):
    """`gate.get`: who holds and who waits. Answer: `GateReply`."""

    gate_id: str


class OpenCircuit(Request, frozen=True, kw_only=True):
    """`circuit.open`: hold the steps that need a service for a while. Answer: `GateReply`."""

    namespace: str
    service: str
    #: For how long; then a few steps try it out.
    open_seconds: float
    reason: str = ""
    opened_by: str = ""


class CloseCircuit(Request, frozen=True, kw_only=True):
    """`circuit.close`: let the steps that need a service go on. Answer: `GateReply`."""

    namespace: str
    service: str
    reason: str = ""
    closed_by: str = ""


class ListDeadLetters(Request, frozen=True, kw_only=True):
    """`dlq.list`: the dead letters, the newest first. Answer: `DeadLetterPage`. `per_page` is 1..200."""

    namespace: str | None = None
    name: str | None = None
    #: `failures`, `staleness`, `handler_missing`.
    dlq_reason: tuple[str, ...] = ()
    resolution_status: tuple[str, ...] = ()
    #: Only open ones, or only resolved ones.
    is_open: bool | None = None
    page: int = 1
    per_page: int = 50


class GetDeadLetters(Request, frozen=True, kw_only=True):
    """`dlq.get`: the dead letters of one task, and the task as it was when one of them began. Answer:
    `TaskDeadLetters`."""

    task_id: str
    #: The one whose snapshot is wanted; absent: the last one.
    dlq_entry_uuid: str | None = None


class GetDeadLetterStats(Request, frozen=True, kw_only=True):
    """`dlq.stats`: how many dead letters there are of which kind, and how old they are. Answer: `DeadLetterStats`."""

    namespace: str | None = None


class GetInvestigationQueue(Request, frozen=True, kw_only=True):
    """`dlq.investigation_queue`: open dead letters, the most urgent first. Answer: `DeadLetterPage`.

    How urgent one is (`priority_score`): its age in hours, and an hour more for each point of the task's priority.
    """

    namespace: str | None = None
    page: int = 1
    per_page: int = 50


class GetStaleness(Request, frozen=True, kw_only=True):
    """`dlq.staleness`: tasks that stand still at the moment, whether they list in the dead letters or not; among them
    those that wait for a handler that nobody serves. The most urgent first. Answer: `DeadLetterPage`."""

    namespace: str | None = None
    page: int = 1
    per_page: int = 50


class UpdateDeadLetter(Request, frozen=True, kw_only=True):
    """`dlq.update`: say what came of a dead letter. Fields that are absent stay as they are. Answer: `DeadLetterEntry`.

    It resolves the letter, not the task: that goes on, or stays stuck, as it is.
    """

    dlq_entry_uuid: str
    #: `pending` and `investigating` leave it open; `manually_resolved`, `permanently_failed` and `cancelled` close it.
    resolution_status: str | None = None
    resolution_notes: str | None = None
    resolved_by: str = ""
    #: A JSON object of the investigator's own, instead of the one before.
    metadata: msgspec.Raw = NO_RAW


class ForkTask(Request, frozen=True, kw_only=True):
    """`task.fork`: a new task that reuses what another one has come to, and runs the rest. Answer: `ForkReply`."""

    #: The original: a task in any state.
    task_id: str
    #: The steps to run anew, with all that depends on them; none: those that the original has not done.
    from_steps: tuple[str, ...] = ()
    #: Another version of the original's template, or `latest`; absent: the one that the original runs.
    version: str | None = None
    #: Another context, an object; absent: the original's.
    context: msgspec.Raw = NO_RAW
    #: A UUIDv7 minted by the client, so that a repeated request is the same fork.
    fork_id: str | None = None
    #: Absent: the original's.
    correlation_id: str | None = None
    reason: str = ""
    forked_by: str = ""
    #: Only tell what would be reused and what would run.
    dry_run: bool = False
    traceparent: str | None = None


class RegisterTemplate(Request, frozen=True, kw_only=True):
    """`template.register`: YAML or JSON text. Answer: `TemplateReply`."""

    content: str
    source: str = "<request>"
    registered_by: str = ""


class ValidateTemplate(Request, frozen=True, kw_only=True):
    """`template.validate`: as register, but nothing is stored. Answer: `ValidationReply`."""

    content: str
    source: str = "<request>"


class GetTemplate(Request, frozen=True, kw_only=True):
    """`template.get`; without a version the highest that is no prerelease. Answer: `TemplateReply`."""

    namespace: str
    name: str
    version: str | None = None


class ListTemplates(Request, frozen=True, kw_only=True):
    """`template.list`. Answer: `TemplatePage`."""

    namespace: str | None = None


class CreateSchedule(Request, frozen=True, kw_only=True):
    """`schedule.create`: the same settings again are a no-op. Answer: `ScheduleReply`."""

    name: str
    namespace: str = "default"
    spec: ClosedSpec
    #: Give an existing schedule these settings, instead of refusing.
    replace: bool = False
    created_by: str = ""


class GetSchedule(Request, frozen=True, kw_only=True):
    """`schedule.get`. Answer: `ScheduleResponse`."""

    name: str
    namespace: str = "default"


class ListSchedules(Request, frozen=True, kw_only=True):
    """`schedule.list`: ordered by namespace and name. Answer: `SchedulePage`."""

    namespace: str | None = None
    #: `active`, `paused`, `finished`.
    status: tuple[str, ...] = ()
    #: 1..200.
    limit: int = 50
    offset: int = 0


class PauseSchedule(Request, frozen=True, kw_only=True):
    """`schedule.pause`. Answer: `ScheduleResponse`."""

    name: str
    namespace: str = "default"
    note: str = ""
    paused_by: str = ""


class ResumeSchedule(Request, frozen=True, kw_only=True):
    """`schedule.resume`. Answer: `ScheduleResponse`."""

    name: str
    namespace: str = "default"
    note: str = ""
    resumed_by: str = ""


class TriggerSchedule(Request, frozen=True, kw_only=True):
    """`schedule.trigger`: fire once now. Answer: `TriggerReply`."""

    name: str
    namespace: str = "default"
    #: Also where the overlap policy would not let it.
    allow_overlap: bool = False
    #: The caller's own id of it: the same one again is the same firing.
    trigger_id: str | None = None
    triggered_by: str = ""


class BackfillSchedule(Request, frozen=True, kw_only=True):
    """`schedule.backfill`: make up for the firings of a range in the past, in order. Answer: `BackfillReply`."""

    name: str
    namespace: str = "default"
    #: RFC 3339; a firing at this moment is one of them.
    from_at: str
    #: RFC 3339; a firing at this moment is not. Absent: now.
    until_at: str | None = None
    #: How many tasks of it may run at once, 1..100.
    concurrency: int = 1
    #: Only say how many firings there are.
    dry_run: bool = False
    #: The caller's own id of it: the same one again is the same backfill.
    backfill_id: str | None = None
    requested_by: str = ""


class DeleteSchedule(Request, frozen=True, kw_only=True):
    """`schedule.delete`: its tasks go on. Answer: `DeletedReply`."""

    name: str
    namespace: str = "default"
    reason: str = ""
    deleted_by: str = ""


class PreviewSchedule(Request, frozen=True, kw_only=True):
    """`schedule.preview`: when a timing would fire, without any schedule. Answer: `PreviewReply`."""

    timing: ClosedTiming
    #: 1..100.
    count: int = 10
    #: RFC 3339; the firings later than this. Absent: now.
    after: str | None = None


# -- answers -------------------------------------------------------------------------------------


class StepSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One element of `TaskResponse.steps`."""

    workflow_step_uuid: str
    task_uuid: str
    named_step_uuid: str
    name: str
    current_state: str
    dependencies_satisfied: bool
    retry_eligible: bool
    ready_for_execution: bool
    last_failure_at: str | None
    next_retry_at: str | None
    total_parents: int
    completed_parents: int
    attempts: int
    max_attempts: int
    backoff_request_seconds: float | None
    last_attempted_at: str | None
    error_type: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    worker_id: str | None = None
    #: The task that the step has started and waits for.
    child_task_uuid: str | None = None
    #: The signal that the step waits for.
    waiting_for_signal: str | None = None
    #: Items done according to the step's last checkpoint; absent where it has none.
    items_processed: int | None = None
    #: The step could not be undone: somebody has to clean up.
    requires_manual_cleanup: bool = False
    #: The step waits for its handler, which no worker was found to serve.
    missing_handler: str | None = None
    #: How often the step's compensation was tried, how its last try failed, and when the next one is; absent where
    #: there is none.
    compensation_attempts: int | None = None
    compensation_error_message: str | None = None
    compensation_next_retry_at: str | None = None
    #: Of a fork: the step of another task, by its uuid, whose outcome this one has; absent where the fork runs it.
    reused_from_step_uuid: str | None = None


class ForkedFrom(msgspec.Struct, frozen=True, kw_only=True):
    """The task that a fork was made from."""

    task_uuid: str
    #: The version of that task's stream at which its results were taken.
    stream_version: int
    #: The steps that were named to run anew.
    from_steps: tuple[str, ...] = ()


class TaskResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A task as callers see it."""

    task_uuid: str
    name: str
    namespace: str
    version: str
    status: str
    created_at: str
    updated_at: str
    completed_at: str | None
    context: msgspec.Raw
    initiator: str
    source_system: str
    reason: str
    priority: int
    tags: tuple[str, ...]
    correlation_id: str
    parent_correlation_id: str | None
    total_steps: int
    pending_steps: int
    in_progress_steps: int
    completed_steps: int
    failed_steps: int
    ready_steps: int
    execution_status: str
    recommended_action: str | None
    completion_percentage: float
    health_status: str
    #: The version of the task's stream that this shows.
    stream_version: int
    #: `complete` or `partial` where the task ended in `error` and was undone; `running` while it is.
    compensation_status: str | None = None
    #: The task that started this one as its child.
    parent_task_uuid: str | None = None
    #: How many tasks stand above this one.
    depth: int = 0
    #: The task that this one is a fork of.
    forked_from: ForkedFrom | None = None
    #: Signals that came before a step waited for them, by name, oldest first.
    signals_kept: tuple[str, ...] = ()
    #: What the task is stuck at the moment for: the id of its open dead letter (also of one that is stale only), and what
    #: is wrong, in a sentence.
    dlq_entry_uuid: str | None = None
    stuck: str | None = None
    steps: tuple[StepSummary, ...] = ()
    #: True where more steps exist than fit into the answer (`steps` holds the first ones).
    steps_truncated: bool = False


class Pagination(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page stands in the whole."""

    page: int
    per_page: int
    total_count: int
    total_pages: int
    has_next: bool
    has_previous: bool


class DeadLetterEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One time that a task was stuck, and what became of it."""

    dlq_entry_uuid: str
    task_uuid: str
    namespace: str
    name: str
    version: str
    priority: int
    correlation_id: str
    #: `failures`: steps failed for good, and nothing else can run; `staleness`: a time of the template's `lifecycle` is
    #: over; `handler_missing`: nobody serves the handler of a step.
    dlq_reason: str
    #: The task's status when it began, and the version of its stream.
    original_state: str
    stream_version: int
    #: When it began, and how long it lasts, or has lasted.
    dlq_timestamp: str
    age_seconds: float
    #: Hours of age, and one more for each point of the task's priority.
    priority_score: float
    is_open: bool
    #: Whether it is among the dead letters; otherwise it is stale only.
    is_listed: bool
    error_message: str
    error_code: str | None
    #: Steps that it is about; of many the first ones.
    steps: tuple[str, ...] = ()
    missing_handlers: tuple[str, ...] = ()
    #: Of a stale task: the key of `lifecycle` whose time is over (or `handler_missing`), since when it ran, how long it
    #: is.
    threshold: str | None = None
    since: str | None = None
    limit_seconds: float | None = None
    #: `pending`, `investigating`; `manually_resolved`, `permanently_failed`, `cancelled`; or, where the task went on:
    #: `retried`, `recovered`.
    resolution_status: str
    resolution_notes: str = ""
    resolved_by: str = ""
    resolved_at: str | None = None
    updated_at: str
    metadata: msgspec.Raw = _EMPTY_OBJECT


class DeadLetterPage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `dlq.list`, `dlq.investigation_queue` and `dlq.staleness`; a moment behind the tasks' own state."""

    entries: tuple[DeadLetterEntry, ...]
    pagination: Pagination


class TaskDeadLetters(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `dlq.get`: the task's dead letters, oldest first."""

    entries: tuple[DeadLetterEntry, ...]
    #: The entry that `task_snapshot` belongs to.
    dlq_entry_uuid: str | None = None
    #: The task as it was when that one began, replayed from its events.
    task_snapshot: TaskResponse | None = None


class DeadLetterKind(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of one template, reason and resolution status."""

    namespace: str
    name: str
    dlq_reason: str
    resolution_status: str
    count: int
    open_count: int
    oldest_open_at: str | None
    oldest_open_age_seconds: float | None
    #: From beginning to resolution, of those that are resolved.
    mean_seconds_to_resolution: float | None


class DeadLetterStats(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `dlq.stats`; `kinds` has the most frequent ones first, a thousand at most, and the sums are over these."""

    total_count: int
    open_count: int
    oldest_open_age_seconds: float | None
    by_reason: dict[str, int]
    by_resolution_status: dict[str, int]
    kinds: tuple[DeadLetterKind, ...]


class CreateTaskReply(msgspec.Struct, frozen=True, kw_only=True):
    """`replayed` tells that the task existed already and this request is the same as the one that made it."""

    task: TaskResponse
    replayed: bool = False


class UpdateStepReply(msgspec.Struct, frozen=True, kw_only=True):
    """The step, and the task without its steps, after the action."""

    task: TaskResponse
    step: StepSummary


class SignalReply(msgspec.Struct, frozen=True, kw_only=True):
    """`taken_by` is the step that took the signal; absent where it is kept until one waits for it."""

    task: TaskResponse
    signal_id: str
    taken_by: str | None = None
    #: The same signal (by its id) had come before; nothing was done.
    replayed: bool = False


class StepToRun(msgspec.Struct, frozen=True, kw_only=True):
    """A step that a fork runs, or may run."""

    step: str
    #: `named`: the request names it; `follows`: it depends on one that runs anew; `not_done`, `undone`: in the original;
    #: `new`, `changed`: the original's template has no such step, or one of another type; `misfit`: its result does
    #: not fit the `result_schema` of this version; `choice_gone`: what it chose does not exist in this version;
    #: `undecided`: whether it exists is decided anew. Absent in a repetition's answer.
    why: str | None = None
    #: The original has done it: its effects outside happen once more.
    ran_before: bool = False


class ForkReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a fork reuses and what it runs, in the order of the template; the lists hold the first 1,000 names."""

    #: The fork; absent after a dry run.
    task: TaskResponse | None = None
    forked_from: ForkedFrom
    #: The template version that the fork runs.
    version: str
    reused: tuple[str, ...]
    reused_count: int
    run: tuple[StepToRun, ...]
    run_count: int
    dry_run: bool = False
    #: The fork existed already and this request is the same as the one that made it.
    replayed: bool = False


class CreatedRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One element of `CreateManyReply`: either the task's id or the error of that one request."""

    task_id: str | None = None
    replayed: bool = False
    error: dict[str, Any] | None = None


class CreateManyReply(msgspec.Struct, frozen=True, kw_only=True):
    """In the order of the request."""

    tasks: tuple[CreatedRef, ...]


class ResultsReply(msgspec.Struct, frozen=True, kw_only=True):
    """One page of results by step name; `next_offset` is `None` on the last page."""

    results: dict[str, msgspec.Raw]
    next_offset: int | None = None


class EventsReply(msgspec.Struct, frozen=True, kw_only=True):
    """Envelopes in order of version; `next_version` is `None` where there are no more."""

    events: tuple[msgspec.Raw, ...]
    next_version: int | None = None


class TaskListItem(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a task list; from the projection, so a moment behind the task's own state."""

    task_uuid: str
    name: str
    namespace: str
    version: str
    status: str
    created_at: str
    updated_at: str
    completed_at: str | None
    initiator: str
    source_system: str
    reason: str
    priority: int
    tags: tuple[str, ...]
    correlation_id: str
    parent_correlation_id: str | None
    total_steps: int
    completed_steps: int
    failed_steps: int
    completion_percentage: float
    error_message: str | None = None


class TaskPage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `task.list`."""

    tasks: tuple[TaskListItem, ...]
    pagination: Pagination


class TemplateReply(msgspec.Struct, frozen=True, kw_only=True):
    """A template version; `created` tells whether this request registered it."""

    namespace: str
    name: str
    version: str
    hash: str
    content: msgspec.Raw
    created: bool = False
    versions: tuple[str, ...] = ()
    #: The environment whose overrides the content holds; absent: none was set where it was registered.
    environment: str | None = None
    warnings: tuple[dict[str, Any], ...] = ()


class ValidationReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `template.validate`: every problem, errors and warnings."""

    valid: bool
    problems: tuple[dict[str, Any], ...]


class ExplanationItem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that holds a task up, or says how it stands."""

    #: Stable, for programs; `docs/reference/explanations.md` lists them.
    code: str
    #: For people.
    sentence: str
    #: Command lines that would move it, or tell more; what is written large in them has to be filled in.
    commands: tuple[str, ...]
    #: The step that it is about; absent: the task as a whole.
    step: str | None
    since: str | None
    #: When it is over by itself.
    until: str | None
    #: Steps of the same kind in the same situation; those that wait for it, and those that may come to exist behind it.
    alike_count: int
    waiting_count: int
    undecided_count: int
    #: What is known besides, by code.
    details: dict[str, Any]


class ExplainedShard(msgspec.Struct, frozen=True, kw_only=True):
    """The shard that the task belongs to, whose owner alone moves it."""

    shard: int
    #: Empty: nobody.
    owner: str
    #: 0 or less: it has run out. Absent: the event store did not answer.
    lease_seconds: float | None
    #: Whether the owner answered.
    answered: bool
    #: Messages of workers and tasks that the owner has not read yet; absent: not known.
    commands_waiting: int | None


class TaskExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `task.explain`."""

    task_uuid: str
    status: str
    #: The whole in a line or two.
    summary: str
    #: What holds the task up most comes first.
    findings: tuple[ExplanationItem, ...]
    shard: ExplainedShard
    #: The shard's owner did not answer: this is what the ledger has.
    from_ledger: bool
    #: What could not be found out.
    unknown: tuple[str, ...]
    #: The version of the task's stream, and the moment, that this is about.
    stream_version: int
    explained_at: str


class GateItem(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a list of gates."""

    gate_id: str
    kind: str
    namespace: str
    #: What it is about: `<key>=<value>` of slots, the service of a circuit, the namespace of a rate.
    name: str
    #: Of slots `idle`, `in_use` or `full`; of a circuit `closed`, `open` or `half_open`; of a rate `idle` or `full`.
    status: str
    updated_at: str
    #: How many hold it and wait for it, and what else is worth knowing, by kind.
    summary: dict[str, Any]


class GatePage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `gate.list`."""

    gates: tuple[GateItem, ...]
    has_next: bool


class GateHolder(msgspec.Struct, frozen=True, kw_only=True):
    """A task, or a step of one, that was let through and has not ended (of a circuit: a probe)."""

    task_uuid: str
    #: Empty: the whole task.
    step_name: str
    since: str


class GateWaiter(msgspec.Struct, frozen=True, kw_only=True):
    """A task, or a step of one, that waits; in the order in which they are let through."""

    task_uuid: str
    step_name: str
    since: str
    priority: int


class GateReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `gate.get`, `circuit.open` and `circuit.close`."""

    gate: GateItem
    #: At most 100 of each.
    holders: tuple[GateHolder, ...]
    waiting: tuple[GateWaiter, ...]
    holders_count: int
    waiting_count: int
    #: When an open circuit lets probes out, or the next one goes in a rate.
    next_at: str | None = None


class TemplateListItem(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a template list."""

    namespace: str
    name: str
    version: str
    hash: str
    description: str
    total_steps: int
    registered_at: str
    registered_by: str


class TemplatePage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `template.list`."""

    templates: tuple[TemplateListItem, ...]


class FiringTime(msgspec.Struct, frozen=True, kw_only=True):
    """A firing ahead; a schedule with jitter carries it out up to `jitter_seconds` later."""

    #: UTC.
    at: str
    #: The same moment by the schedule's clock.
    local: str


class ScheduledRun(msgspec.Struct, frozen=True, kw_only=True):
    """A firing and its task."""

    task_uuid: str
    #: The moment that the firing stands for.
    at: str
    #: `regular`, `manual` or `backfill`.
    cause: str
    #: `waiting`, `running`, how the task has ended, or `failed` where it could not be created.
    status: str
    #: What the caller named a manual firing; the backfill that it belongs to.
    request_id: str = ""
    fired_at: str | None = None
    ended_at: str | None = None
    error_code: str | None = None
    error_message: str | None = None


class BackfillView(msgspec.Struct, frozen=True, kw_only=True):
    """A backfill that is worked off."""

    backfill_id: str
    from_at: str
    until_at: str
    count: int
    fired_count: int
    concurrency: int


class ScheduleResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as callers see it."""

    schedule_id: str
    namespace: str
    name: str
    #: `active`, `paused` or `finished`.
    status: str
    spec: ScheduleSpec
    created_at: str
    created_by: str
    updated_at: str
    paused_at: str | None
    paused_by: str
    #: Of the last pause or resumption.
    note: str
    #: The next ten.
    next_firings: tuple[FiringTime, ...]
    #: Its tasks that have not ended; the first ten.
    running: tuple[ScheduledRun, ...]
    running_count: int
    #: The firing that waits for them.
    waiting: ScheduledRun | None
    backfills: tuple[BackfillView, ...]
    #: The last twenty firings, the newest first.
    runs: tuple[ScheduledRun, ...]
    fired_count: int
    skipped_count: int
    failed_count: int
    #: The version of the schedule's stream that this shows.
    stream_version: int


class ScheduleReply(msgspec.Struct, frozen=True, kw_only=True):
    """`created` and `updated` tell what this request did; neither: it was so already."""

    schedule: ScheduleResponse
    created: bool = False
    updated: bool = False


class TriggerReply(msgspec.Struct, frozen=True, kw_only=True):
    """The firing; `replayed` tells that the same trigger had come before."""

    schedule: ScheduleResponse
    trigger_id: str
    #: Absent where it is too long ago.
    run: ScheduledRun | None = None
    replayed: bool = False


class BackfillReply(msgspec.Struct, frozen=True, kw_only=True):
    """How many firings the range has, and the first of them."""

    count: int
    first: tuple[FiringTime, ...]
    #: Absent after a dry run.
    backfill_id: str | None = None
    replayed: bool = False


class DeletedReply(msgspec.Struct, frozen=True, kw_only=True):
    """The schedule is gone."""

    schedule_id: str
    #: Tasks of it that go on.
    running_count: int


class PreviewReply(msgspec.Struct, frozen=True, kw_only=True):
    """The firings ahead; fewer than asked for where no more are left."""

    firings: tuple[FiringTime, ...]


class ScheduleListItem(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a list of schedules; a moment behind the schedule's own state."""

    schedule_id: str
    namespace: str
    name: str
    status: str
    #: The timing in a few words.
    when: str
    template: str
    next_at: str | None = None
    last_at: str | None = None
    last_status: str | None = None
    running_count: int = 0


class SchedulePage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `schedule.list`; `next_offset` is `None` on the last page."""

    schedules: tuple[ScheduleListItem, ...]
    next_offset: int | None = None


class ApiError(Exception):
    """A refusal with a code; travels as `{"error": {"code", "message", …details}}`."""

    STATUS: Final[dict[str, int]] = {
        "NOT_FOUND": 404,
        "BAD_REQUEST": 400,
        "INVALID_UUID": 400,
        "VALIDATION_FAILED": 422,
        "CONFLICT": 409,
        "UNAUTHORIZED": 401,
        "FORBIDDEN": 403,
        "TIMEOUT": 408,
        "SERVICE_UNAVAILABLE": 503,
        "BACKPRESSURE": 503,
        "INTERNAL_ERROR": 500,
    }

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return self.STATUS.get(self.code, 500)

    def body(self) -> dict[str, Any]:
        """What travels to the caller."""
        return {"error": {"code": self.code, "message": self.message, **self.details}}


#: Every operation: subject suffix → request type.
# -- bulk operations -----------------------------------------------------------------------------


class StartBulk(Request, frozen=True, kw_only=True):
    """`bulk.start`: an action on every task that the filter finds, newest first. Answer: `StartBulkReply`."""

    action: BulkAction
    filter: BulkFilter = BulkFilter()
    #: A UUID of the caller's; the same one again is the same operation.
    bulk_id: str | None = None
    #: Tasks acted on each second; 0.2..1000.
    rate_per_second: float = 10.0
    #: No more tasks than these, the newest; 1..1,000,000.
    tasks_max: int = 100_000
    reason: str = ""
    requested_by: str = ""
    #: Needed where the filter restricts nothing.
    every_task: bool = False
    #: Only count, and show the first ones; stores nothing.
    dry_run: bool = False


class GetBulk(Request, frozen=True, kw_only=True):
    """`bulk.get`. Answer: `BulkResponse`."""

    bulk_id: str


class ListBulks(Request, frozen=True, kw_only=True):
    """`bulk.list`. Answer: `BulkPage`."""

    namespace: str | None = None
    #: `running`, `complete`, `cancelled`.
    status: tuple[str, ...] = ()
    #: 1..200.
    limit: int = 50
    offset: int = 0


class CancelBulk(Request, frozen=True, kw_only=True):
    """`bulk.cancel`: select no more tasks. Answer: `BulkResponse`."""

    bulk_id: str
    reason: str = ""
    cancelled_by: str = ""


class BulkRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A task that did not take the action."""

    task_uuid: str
    code: str
    reason: str


class BulkResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A bulk operation as its actor knows it."""

    bulk_id: str
    #: For `events`: its stream in the ledger.
    stream_id: str
    action: BulkAction
    filter: BulkFilter
    rate_per_second: float
    tasks_max: int
    reason: str = ""
    requested_by: str = ""
    #: `running`, `complete` or `cancelled`.
    status: str
    selected_count: int = 0
    #: Selected tasks that have not answered yet.
    pending_count: int = 0
    applied_count: int = 0
    refused_count: int = 0
    #: The first of those refused; all of them are in its events.
    refused: tuple[BulkRefusal, ...] = ()
    limit_reached: bool = False
    created_at: str
    updated_at: str
    cancelled_by: str = ""
    cancel_reason: str = ""


class BulkPreviewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that the filter finds."""

    task_uuid: str
    namespace: str
    name: str
    #: As its actor knows it: the list may be a moment behind.
    status: str
    #: Why it would refuse; `None` where it would not.
    refusal: str | None = None


class BulkPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What a bulk operation would find now."""

    matching_count: int
    first: tuple[BulkPreviewTask, ...]


class StartBulkReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `bulk.start`: the operation, or of a dry run what it would find."""

    bulk: BulkResponse | None = None
    replayed: bool = False
    preview: BulkPreview | None = None


class BulkListItem(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a list of bulk operations; a moment behind its own state."""

    bulk_id: str
    action: BulkAction
    status: str
    selected_count: int
    applied_count: int
    refused_count: int
    requested_by: str = ""
    reason: str = ""
    created_at: str


class BulkPage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `bulk.list`; `next_offset` is `None` on the last page."""

    bulks: tuple[BulkListItem, ...]
    next_offset: int | None = None


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
    "bulk.cancel": CancelBulk,
}


def operation_subject(operation: str) -> str:
    """The NATS request subject of an operation of `OPERATIONS`."""
    return f"{API_PREFIX}.{operation}"
