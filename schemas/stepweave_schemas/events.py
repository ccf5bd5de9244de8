"""The events: what happened, in the past tense, never changed once released.

Each is a frozen struct tagged by its `type`; the tag stands in the payload too, so that a payload on its own
says what it is. `catalogue` describes each one for people. Fields may be added with defaults; a change of
meaning is a new `schema_version` with an upcaster.
"""

from __future__ import annotations

from typing import ClassVar, get_args

import msgspec

from .bulk import BulkAction, BulkFilter
from .raw import NO_RAW
from .schedule import ScheduleSpec

#: The version that freshly written payloads carry.
SCHEMA_VERSION = 1


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", gc=False):
    """Base of all events."""

    #: The event type, `<entity>.<verb>`: the struct's tag.
    TYPE: ClassVar[str]


class TemplateRef(msgspec.Struct, frozen=True, kw_only=True):
    """The exact template content that a task is pinned to; `hash` is `sha256:<hex>` of its canonical JSON."""

    namespace: str
    name: str
    version: str
    hash: str


class ParentLink(msgspec.Struct, frozen=True, kw_only=True):
    """The step that started a task as its child, and where it waits for the outcome."""

    task_id: str
    step_name: str
    step_uuid: str
    attempt: int
    lease_token: str
    #: Where the outcome is published; the same as of a worker's result.
    result_subject: str


class ForkOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """The task that a fork was made from."""

    task_id: str
    #: The version of that task's stream at which its results were taken.
    stream_version: int
    #: The steps that were named to be run anew; empty: those that were not done.
    from_steps: tuple[str, ...] = ()


class ScheduleLink(msgspec.Struct, frozen=True, kw_only=True):
    """The firing of a schedule that started a task."""

    schedule_id: str
    #: The moment that the firing stands for.
    nominal_at_ms: int


# -- tasks ---------------------------------------------------------------------------------------


class TaskCreated(Event, frozen=True, kw_only=True, tag="task.created"):
    """A task exists and its caller may rely on it."""

    template: TemplateRef
    context: msgspec.Raw
    #: Digest of the request, by which a repeated request is told from another one with the same key.
    request_digest: str
    #: The id that the client minted for this request: the same id again is the same request.
    request_id: str = ""
    initiator: str = ""
    source_system: str = ""
    reason: str = ""
    tags: tuple[str, ...] = ()
    priority: int = 0
    parent_correlation_id: str | None = None
    identity: str = "always_unique"
    idempotency_key: str | None = None
    requested_at: str | None = None
    #: A delayed start: no step is dispatched before this moment (ms since the Unix epoch).
    start_at_ms: int | None = None
    options: msgspec.Raw = NO_RAW
    #: W3C `traceparent` of the request, so that handlers' spans join the caller's trace.
    traceparent: str | None = None
    #: The step that started this task as its child.
    parent: ParentLink | None = None
    #: How many tasks stand above this one.
    depth: int = 0
    #: The task whose results this one reuses; the `step.reused` events of the same append carry them.
    forked_from: ForkOrigin | None = None
    #: The firing that started this task; its schedule is told of the task's end.
    schedule: ScheduleLink | None = None


class TaskStarted(Event, frozen=True, kw_only=True, tag="task.started"):
    """A task whose start was delayed has begun."""

    start_at_ms: int


class TaskBlocked(Event, frozen=True, kw_only=True, tag="task.blocked"):
    """Nothing of the task can run until an operator acts."""

    task_name: str
    namespace: str
    failed_steps: tuple[str, ...]
    #: Steps that can never start because an ancestor failed.
    unreachable_steps_count: int
    error_message: str
    error_code: str | None = None


class TaskCompleted(Event, frozen=True, kw_only=True, tag="task.completed"):
    """Every step of the task is done."""

    task_name: str
    namespace: str
    template_version: str
    context: msgspec.Raw
    steps_completed: int
    duration_ms: int


class TaskFailed(Event, frozen=True, kw_only=True, tag="task.failed"):
    """The task ended in `error`: its template says `on_failure: fail`, or what could be undone was undone."""

    task_name: str
    namespace: str
    context: msgspec.Raw
    failed_steps: tuple[str, ...]
    error_message: str
    error_code: str | None = None
    #: `complete` or `partial`, where compensations were due; absent where none were.
    compensation_status: str | None = None
    #: Steps whose compensation failed: somebody has to clean up.
    requires_manual_cleanup: tuple[str, ...] = ()


class TaskCancelled(Event, frozen=True, kw_only=True, tag="task.cancelled"):
    """Somebody cancelled the task; results that come later are refused."""

    task_name: str
    namespace: str
    reason: str
    cancelled_by: str
    #: The steps that were dispatched or running at that moment.
    cancelled_steps: tuple[str, ...] = ()


class TaskStale(Event, frozen=True, kw_only=True, tag="task.stale"):
    """The task has stood still for longer than it may, or waits for a handler that nobody serves."""

    task_name: str
    namespace: str
    #: The key of `lifecycle` whose time is over, or `handler_missing`.
    threshold: str
    #: The task's status at that moment.
    status: str
    #: Since when it is so (ms since the Unix epoch), and how long it may be.
    since_ms: int
    limit_ms: int
    #: What follows: `alert` (nothing), `dlq` (it lists in the dead letters), `fail` or `cancel` (events that follow).
    action: str
    #: Steps that it waits for; of many the first ones.
    waiting_for: tuple[str, ...] = ()
    #: Handlers of these steps that no worker serves.
    missing_handlers: tuple[str, ...] = ()


class TaskInvestigated(Event, frozen=True, kw_only=True, tag="task.investigated"):
    """Somebody has looked at a dead letter of the task, and says what came of it; the task itself goes on as before."""

    #: Which of the task's dead letters, counted from 1.
    number: int
    resolution_status: str
    resolution_notes: str = ""
    resolved_by: str = ""
    #: Whatever the investigator keeps with it: a JSON object.
    metadata: msgspec.Raw = NO_RAW


# -- tasks in the hands of operators -----------------------------------------------------------------


class TaskPaused(Event, frozen=True, kw_only=True, tag="task.paused"):
    """Somebody holds the task back: nothing of it begins until it is resumed; tries that are out end as usual."""

    reason: str
    paused_by: str
    #: The request that asked for it: the same one again is a repetition.
    request_id: str = ""


class TaskResumed(Event, frozen=True, kw_only=True, tag="task.resumed"):
    """A paused task goes on: everything that is ready begins."""

    reason: str
    resumed_by: str
    #: The request that asked for it: the same one again is a repetition.
    request_id: str = ""


class TaskGivenUp(Event, frozen=True, kw_only=True, tag="task.given_up"):
    """Somebody decided that a blocked task will not complete; the `task.failed` after it ends it."""

    reason: str
    given_up_by: str
    #: The request that asked for it: the same one again is a repetition.
    request_id: str = ""


class TaskResolvedManually(Event, frozen=True, kw_only=True, tag="task.resolved_manually"):
    """Somebody says that what the task was for is done; it ends, and results that come later are refused."""

    task_name: str
    namespace: str
    reason: str
    resolved_by: str
    #: The steps that were dispatched or running at that moment.
    cancelled_steps: tuple[str, ...] = ()
    #: The request that asked for it: the same one again is a repetition.
    request_id: str = ""


# -- steps ---------------------------------------------------------------------------------------


class StepEvent(Event, frozen=True, kw_only=True):
    """Base of the events of one step."""

    step_name: str
    step_uuid: str


class StepEnqueued(StepEvent, frozen=True, kw_only=True, tag="step.enqueued"):
    """The order to dispatch one try of a step to the workers."""

    attempt: int
    lease_token: str


class StepStarted(StepEvent, frozen=True, kw_only=True, tag="step.started"):
    """A worker announced that it runs this try (short steps skip this: `step.completed` says when)."""

    attempt: int
    worker_id: str
    started_at_ms: int


class StepCompleted(StepEvent, frozen=True, kw_only=True, tag="step.completed"):
    """A try succeeded; `result` is what dependents read."""

    attempt: int
    result: msgspec.Raw
    worker_id: str
    started_at_ms: int | None = None
    duration_ms: int | None = None
    metadata: msgspec.Raw = NO_RAW


class StepRetryScheduled(StepEvent, frozen=True, kw_only=True, tag="step.retry_scheduled"):
    """A try failed and another one follows at `retry_at_ms`."""

    attempt: int
    error_type: str
    error_message: str
    delay_ms: int
    retry_at_ms: int
    #: `backoff` (the template's formula), `retry_after` (the handler's wish) or `at_once`.
    delay_source: str
    #: What ended the try: `failure` (the worker said so), `lost` or `timeout` (nobody did).
    settled_by: str = "failure"
    error_code: str | None = None
    worker_id: str = ""
    metadata: msgspec.Raw = NO_RAW


class StepFailed(StepEvent, frozen=True, kw_only=True, tag="step.failed"):
    """The step failed for good; steps that depend on it never start."""

    attempt: int
    error_type: str
    error_message: str
    #: `permanent`, `attempts_exhausted`, `not_retryable` or `batch_stopped` (another batch failed: `fail_fast`).
    failure_reason: str
    #: What ended the try: `failure` (the worker said so), `lost` or `timeout` (nobody did).
    settled_by: str = "failure"
    task_name: str
    namespace: str
    context: msgspec.Raw
    error_code: str | None = None
    worker_id: str = ""
    metadata: msgspec.Raw = NO_RAW
    #: One batch of many whose failure the template puts up with: the rest go on and so does the task.
    tolerated: bool = False
    #: What the failure wants undone besides the declared compensations.
    compensation_steps: tuple[str, ...] = ()


class StepReleased(StepEvent, frozen=True, kw_only=True, tag="step.released"):
    """A worker handed a try back without having started it; it costs no attempt."""

    attempt: int
    worker_id: str
    #: `handler_missing` where the worker does not have the step's handler; empty where it shuts down or has no room.
    reason: str = ""
    #: When the try is given out again; absent: at once, in the same append.
    retry_at_ms: int | None = None


class StepResultRefused(StepEvent, frozen=True, kw_only=True, tag="step.result_refused"):
    """A result came for a try that is no longer current, or for a task that has ended."""

    attempt: int
    outcome: str
    #: `stale_attempt`, `step_finished` or `task_finished`.
    refusal: str
    worker_id: str


class StepCheckpointed(StepEvent, frozen=True, kw_only=True, tag="step.checkpointed"):
    """A handler saved its progress; the step goes on from here, in the same try."""

    attempt: int
    worker_id: str
    cursor: msgspec.Raw
    items_processed: int
    accumulated_results: msgspec.Raw


class StepSkipped(StepEvent, frozen=True, kw_only=True, tag="step.skipped"):
    """A step has nothing to do, and what depends on it goes on."""

    #: `no_branches`: none of the branches that it brings together was taken; `operator`: somebody said so.
    reason: str
    #: Who skipped it, and why; absent where nobody did.
    skipped_by: str = ""
    explanation: str = ""
    #: The request that asked for it: the same one again is a repetition.
    request_id: str = ""


# -- steps in the hands of operators -----------------------------------------------------------------


class StepReset(StepEvent, frozen=True, kw_only=True, tag="step.reset"):
    """Somebody wants a step tried again: it has all its tries anew, and goes on from its last checkpoint."""

    #: The last try so far. Numbers go on; tries up to this one count no more towards `max_attempts`.
    attempt: int
    reason: str
    reset_by: str
    #: The request that asked for it: the same one again is a repetition.
    request_id: str = ""


class StepResolvedManually(StepEvent, frozen=True, kw_only=True, tag="step.resolved_manually"):
    """Somebody says that a step counts as done, without a result; what depends on it goes on."""

    #: The last try; 0 where there was none. One that is still out ends with this event.
    attempt: int
    reason: str
    resolved_by: str
    #: The request that asked for it: the same one again is a repetition.
    request_id: str = ""


class StepCompletedManually(StepEvent, frozen=True, kw_only=True, tag="step.completed_manually"):
    """Somebody did what a step was to do, and says what its result is; what depends on it reads that."""

    #: The last try; 0 where there was none. One that is still out ends with this event.
    attempt: int
    result: msgspec.Raw
    metadata: msgspec.Raw = NO_RAW
    reason: str
    completed_by: str
    #: The request that asked for it: the same one again is a repetition.
    request_id: str = ""


class StepDomainEventRefused(StepEvent, frozen=True, kw_only=True, tag="step.domain_event_refused"):
    """A domain event was not published, because of what is wrong with it; the step goes on as if it had been."""

    name: str
    attempt: int
    #: `undeclared`, `payload_invalid` (it does not fit its schema), `payload_too_large`, or `not_published`
    #: (the worker could not make its payload, or published too many).
    refusal: str
    message: str
    worker_id: str = ""


class DomainPublished(StepEvent, frozen=True, kw_only=True, tag="domain.published"):
    """A step published an event of the users' own domain; nothing in the task follows from it."""

    #: The event's own name, such as `order.paid`.
    name: str
    payload: msgspec.Raw
    attempt: int
    #: How the try ended: `success`, `checkpoint`, `retryable_failure` or `permanent_failure`.
    outcome: str
    task_name: str
    namespace: str
    template_version: str


class StepReused(StepEvent, frozen=True, kw_only=True, tag="step.reused"):
    """A fork takes over how a step ended in another task: nobody runs it again, and dependents read its result."""

    #: How it ended: `complete`, `skipped`, `resolved_manually`, or `error` (one batch whose failure was put up with).
    status: str = "complete"
    #: Absent where the step has none.
    result: msgspec.Raw = NO_RAW
    #: The task that ran the step, and the step's uuid there, which is the idempotency key of its effects outside.
    from_task_id: str
    from_step_uuid: str
    #: The try there that ended it; 0 where there was none.
    from_attempt: int
    #: The other task stands for what the step did, and undoes it if that is to be; this one never does.
    undone_by_original: bool = False
    #: Of a failure that was put up with.
    error_type: str = ""
    error_message: str = ""
    error_code: str | None = None


# -- steps that shape the task ---------------------------------------------------------------------


class DecisionRouted(StepEvent, frozen=True, kw_only=True, tag="decision.routed"):
    """A decision chose branches: these steps exist from now on."""

    #: What the handler named.
    chosen: tuple[str, ...]
    #: Every step that exists from now on: the chosen ones and those that follow from them.
    created: tuple[str, ...]
    #: Steps that can never exist any more.
    excluded: tuple[str, ...] = ()
    routing_context: msgspec.Raw = NO_RAW


class DecisionDeclined(StepEvent, frozen=True, kw_only=True, tag="decision.declined"):
    """A decision chose no branch."""

    reason: str
    created: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    routing_context: msgspec.Raw = NO_RAW


class BatchCreated(StepEvent, frozen=True, kw_only=True, tag="batch.created"):
    """A batchable step was cut: worker steps `<worker_template>_001` … exist from now on, one for each cursor."""

    worker_template: str
    cursors: tuple[msgspec.Raw, ...]
    #: There was nothing to do: one placeholder without a cursor stands for all of it.
    is_no_op: bool = False
    reason: str = ""
    created: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


class BatchCompleted(Event, frozen=True, kw_only=True, tag="batch.completed"):
    """Every worker step of a batch has ended, and what waits for them goes on."""

    worker_template: str
    succeeded_count: int
    failed_count: int


class BatchStopped(Event, frozen=True, kw_only=True, tag="batch.stopped"):
    """A batch failed and its template says `fail_fast`: those that have not begun never will."""

    worker_template: str
    failed_step: str
    cancelled_count: int


# -- signals ---------------------------------------------------------------------------------------


class SignalAwaited(StepEvent, frozen=True, kw_only=True, tag="signal.awaited"):
    """A step waits for a signal from outside."""

    signal: str
    attempt: int
    #: When the wait is over; absent: never.
    deadline_at_ms: int | None = None


class SignalReceived(Event, frozen=True, kw_only=True, tag="signal.received"):
    """A signal came; the step that waits for it takes it, or it is kept until one does."""

    signal: str
    #: The sender's own id of it: the same one again is the same signal.
    signal_id: str
    payload: msgspec.Raw
    sent_by: str = ""


class SignalTimedOut(StepEvent, frozen=True, kw_only=True, tag="signal.timed_out"):
    """No signal came in time; the step takes the default that its template names, or fails."""

    signal: str
    used_default: bool


# -- child tasks -----------------------------------------------------------------------------------


class ChildRequested(StepEvent, frozen=True, kw_only=True, tag="child.requested"):
    """The order to start another task and to wait for it."""

    attempt: int
    lease_token: str
    child_task_id: str
    namespace: str
    name: str
    #: Absent: the highest at that moment.
    version: str | None = None
    context: msgspec.Raw
    #: How many tasks stand above the child.
    depth: int
    #: Why the child cannot be started, such as references of the template to values that do not exist.
    problems: tuple[str, ...] = ()


class ChildCancelRequested(StepEvent, frozen=True, kw_only=True, tag="child.cancel_requested"):
    """The order to cancel a child whose parent does not wait for it any more."""

    child_task_id: str
    reason: str


# -- compensation ----------------------------------------------------------------------------------


class CompensationStarted(Event, frozen=True, kw_only=True, tag="compensation.started"):
    """The task cannot complete: what its steps did is undone, the last first."""

    task_name: str
    namespace: str
    failed_steps: tuple[str, ...]
    error_message: str
    error_code: str | None = None
    #: The steps to be undone.
    steps: tuple[str, ...]
    #: Handlers that a failure named and no step declares; for each the step whose failure named it.
    handlers: dict[str, str] = {}
    #: How many of the names in failures were too many to be kept; the task counts as undone in part.
    left_out_count: int = 0


class CompensationCompleted(StepEvent, frozen=True, kw_only=True, tag="compensation.completed"):
    """What a step did is undone. `step_name` is that of the compensation; `compensates` the step's."""

    compensates: str
    attempt: int
    result: msgspec.Raw
    worker_id: str
    started_at_ms: int | None = None
    duration_ms: int | None = None
    metadata: msgspec.Raw = NO_RAW
    #: The handler could not undo all of it and says so: somebody has to clean up.
    requires_manual_cleanup: bool = False


class CompensationFailed(StepEvent, frozen=True, kw_only=True, tag="compensation.failed"):
    """What a step did could not be undone; the others go on, and somebody has to clean up."""

    compensates: str
    attempt: int
    error_type: str
    error_message: str
    error_code: str | None = None
    settled_by: str = "failure"
    failure_reason: str = ""
    requires_manual_cleanup: bool = True
    worker_id: str = ""
    metadata: msgspec.Raw = NO_RAW


# -- gates, as a task sees them ----------------------------------------------------------------------


class GateEvent(StepEvent, frozen=True, kw_only=True):
    """Base of what happens to a step before a gate. An empty `step_name` means the whole task, and the uuid is its id."""

    #: The stream of the gate, and what its answer repeats.
    gate_id: str
    token: str


class ConcurrencyRequested(GateEvent, frozen=True, kw_only=True, tag="concurrency.requested"):
    """The order to ask for a slot: the task, or a try of a step, is held until it has one."""

    attempt: int
    #: Whose slots: a path into the context, or the template or step where the template names no path.
    group: str
    #: The value at that path, as JSON.
    value: str
    limit: int


class ConcurrencyGranted(GateEvent, frozen=True, kw_only=True, tag="concurrency.granted"):
    """A slot is there."""


class ConcurrencyReleased(GateEvent, frozen=True, kw_only=True, tag="concurrency.released"):
    """The order to give a slot back, or to wait for one no longer."""


class CircuitHeld(GateEvent, frozen=True, kw_only=True, tag="circuit.held"):
    """A try is held because the circuit of its service is not closed; the order to wait there."""

    attempt: int
    service: str


class CircuitAdmitted(GateEvent, frozen=True, kw_only=True, tag="circuit.admitted"):
    """The circuit lets the try through."""

    #: It tries out whether the service is there again.
    is_probe: bool = False


class CircuitLeft(GateEvent, frozen=True, kw_only=True, tag="circuit.left"):
    """The order to tell the circuit how its probe ended, or that a try does not wait any more."""

    #: Of a probe: `success`, `failure`, or empty where it says nothing about the service.
    outcome: str = ""


class RateHeld(GateEvent, frozen=True, kw_only=True, tag="rate.held"):
    """A try waits for its turn in the rate of its namespace; the order to wait there."""

    attempt: int
    per_second: float


class RateAdmitted(GateEvent, frozen=True, kw_only=True, tag="rate.admitted"):
    """It is the try's turn."""


class RateLeft(GateEvent, frozen=True, kw_only=True, tag="rate.left"):
    """The order to wait no longer."""


# -- gates, as they see themselves -------------------------------------------------------------------


class Waiter(Event, frozen=True, kw_only=True):
    """Base of what happens to one try before a gate."""

    task_id: str
    #: Empty: the whole task.
    step_name: str
    token: str


class SlotsOpened(Event, frozen=True, kw_only=True, tag="slots.opened"):
    """A value of a concurrency key was asked for, for the first time."""

    namespace: str
    group: str
    value: str


class SlotsQueued(Waiter, frozen=True, kw_only=True, tag="slots.queued"):
    """All slots are taken: the asker waits, in order of priority and age."""

    limit: int
    priority: int = 0
    held_at_ms: int


class SlotsGranted(Waiter, frozen=True, kw_only=True, tag="slots.granted"):
    """The order to tell the asker that it has a slot."""

    limit: int


class SlotsFreed(Waiter, frozen=True, kw_only=True, tag="slots.freed"):
    """A slot was given back, or somebody waits no longer."""


class BreakerWatched(Event, frozen=True, kw_only=True, tag="breaker.watched"):
    """A service with a circuit breaker failed, or was waited for, for the first time."""

    namespace: str
    service: str


class BreakerFailureCounted(Event, frozen=True, kw_only=True, tag="breaker.failure_counted"):
    """A failure of a try counts against its service."""

    task_id: str
    step_name: str
    step_uuid: str
    attempt: int
    error_type: str
    error_message: str
    failed_at_ms: int
    #: In how long a time so many failures open the circuit, as the step's template says.
    window_ms: int = 0


class BreakerOpened(Event, frozen=True, kw_only=True, tag="breaker.opened"):
    """The service is left alone: steps that need it are held from now on."""

    #: `threshold`, `probe_failed` or `operator`.
    cause: str
    failures_count: int = 0
    open_until_ms: int
    #: How many may try at once afterwards, and for how long the circuit opens again where they fail (0: nobody has
    #: said so yet, and the first one who waits does).
    half_open_max: int
    open_ms: int
    reason: str = ""
    opened_by: str = ""


class BreakerHalfOpened(Event, frozen=True, kw_only=True, tag="breaker.half_opened"):
    """The time is over: a few steps may try out whether the service is there again."""


class BreakerClosed(Event, frozen=True, kw_only=True, tag="breaker.closed"):
    """The service is there again: whoever waits goes on."""

    #: `probes_succeeded` or `operator`.
    cause: str
    reason: str = ""
    closed_by: str = ""


class BreakerQueued(Waiter, frozen=True, kw_only=True, tag="breaker.queued"):
    """A try waits for the circuit, in order of priority and age."""

    priority: int = 0
    held_at_ms: int
    #: What its template says of the circuit, where nobody has said so yet; else 0.
    half_open_max: int = 0
    open_ms: int = 0


class BreakerPassed(Waiter, frozen=True, kw_only=True, tag="breaker.passed"):
    """The order to tell a try that it may go on."""

    is_probe: bool = False


class BreakerDequeued(Waiter, frozen=True, kw_only=True, tag="breaker.dequeued"):
    """A probe has ended, or a try waits no longer."""

    outcome: str = ""


class ThrottleOpened(Event, frozen=True, kw_only=True, tag="throttle.opened"):
    """A namespace with a rate began its first step under it."""

    namespace: str


class ThrottleQueued(Waiter, frozen=True, kw_only=True, tag="throttle.queued"):
    """A try waits for its turn, in order of priority and age."""

    per_second: float
    priority: int = 0
    held_at_ms: int


class ThrottlePassed(Waiter, frozen=True, kw_only=True, tag="throttle.passed"):
    """The order to tell a try that it is its turn."""

    per_second: float
    #: When the next one would be due at an even pace, in µs since the Unix epoch.
    next_due_us: int


class ThrottleDequeued(Waiter, frozen=True, kw_only=True, tag="throttle.dequeued"):
    """A try waits no longer."""


# -- the system's own streams --------------------------------------------------------------------


class TemplateRegistered(Event, frozen=True, kw_only=True, tag="template.registered"):
    """A template version exists; its content never changes."""

    namespace: str
    name: str
    version: str
    hash: str
    content: msgspec.Raw
    registered_by: str = ""
    #: The environment whose overrides the content holds; absent: none was set.
    environment: str | None = None


class ShardAcquired(Event, frozen=True, kw_only=True, tag="orchestrator.shard_acquired"):
    """An orchestrator became the owner of a shard."""

    shard: int
    epoch: int
    owner: str


class ShardReleased(Event, frozen=True, kw_only=True, tag="orchestrator.shard_released"):
    """An orchestrator handed a shard over on purpose."""

    shard: int
    epoch: int
    owner: str


# -- schedules -----------------------------------------------------------------------------------


class ScheduleCreated(Event, frozen=True, kw_only=True, tag="schedule.created"):
    """A schedule exists; also the first event of its stream, and again where a deleted one is made anew."""

    namespace: str
    name: str
    spec: ScheduleSpec
    #: The next moment that it stands for; absent: none is left.
    next_at_ms: int | None = None
    created_by: str = ""


class ScheduleUpdated(Event, frozen=True, kw_only=True, tag="schedule.updated"):
    """A schedule has other settings from now on."""

    spec: ScheduleSpec
    next_at_ms: int | None = None
    updated_by: str = ""


class SchedulePaused(Event, frozen=True, kw_only=True, tag="schedule.paused"):
    """A schedule does not fire by itself any more."""

    note: str = ""
    paused_by: str = ""


class ScheduleResumed(Event, frozen=True, kw_only=True, tag="schedule.resumed"):
    """A schedule fires again; what fell into the pause is counted by a `schedule.skipped` before this event."""

    next_at_ms: int | None = None
    note: str = ""
    resumed_by: str = ""


class ScheduleFired(Event, frozen=True, kw_only=True, tag="schedule.fired"):
    """The order to start the task of one firing."""

    task_id: str
    #: The moment that the firing stands for.
    nominal_at_ms: int
    #: `regular`, `manual` or `backfill`.
    cause: str
    #: It had to wait for another task: the next moment was settled by its `schedule.deferred`.
    deferred: bool = False
    #: Of a regular firing the next moment of the schedule, of a backfill the next of its range; absent: none is left.
    next_at_ms: int | None = None
    #: The backfill, or what the caller named the manual firing.
    request_id: str = ""
    fired_by: str = ""


class ScheduleDeferred(Event, frozen=True, kw_only=True, tag="schedule.deferred"):
    """A firing waits for the schedule's running task to end."""

    task_id: str
    nominal_at_ms: int
    cause: str
    next_at_ms: int | None = None
    request_id: str = ""
    fired_by: str = ""


class ScheduleSkipped(Event, frozen=True, kw_only=True, tag="schedule.skipped"):
    """Firings that start no task: one event for all in a row."""

    #: `overlap` (a task of the schedule runs), `overtaken` (a later firing takes the place), `missed` (older than the
    #: catch-up window), `paused`, or `replaced` (the settings were, before it was carried out).
    reason: str
    count: int
    #: The first of them, and the moment before which all of them are.
    first_at_ms: int
    until_ms: int
    next_at_ms: int | None = None
    #: It is the firing that waited: the next moment stays as it is.
    deferred: bool = False


class ScheduleFiringFailed(Event, frozen=True, kw_only=True, tag="schedule.firing_failed"):
    """The task of a firing could not be created; the schedule goes on."""

    task_id: str
    nominal_at_ms: int
    error_code: str
    error_message: str


class ScheduleTaskEnded(Event, frozen=True, kw_only=True, tag="schedule.task_ended"):
    """The task of a firing has ended, or is blocked until an operator acts: it holds nothing up any more."""

    task_id: str
    nominal_at_ms: int
    #: `complete`, `error`, `cancelled`, `resolved_manually` or `blocked_by_failures`.
    status: str
    error_code: str | None = None
    error_message: str = ""


class ScheduleTaskCancelRequested(Event, frozen=True, kw_only=True, tag="schedule.task_cancel_requested"):
    """The order to cancel a running task, because the next firing takes its place."""

    task_id: str
    reason: str


class ScheduleBackfillRequested(Event, frozen=True, kw_only=True, tag="schedule.backfill_requested"):
    """Firings of a range in the past are made up for, in order."""

    backfill_id: str
    from_ms: int
    until_ms: int
    count: int
    #: How many tasks of it may run at once.
    concurrency: int
    next_at_ms: int | None = None
    requested_by: str = ""


class ScheduleBackfillCompleted(Event, frozen=True, kw_only=True, tag="schedule.backfill_completed"):
    """Every task of a backfill has ended."""

    backfill_id: str
    fired_count: int


class ScheduleDeleted(Event, frozen=True, kw_only=True, tag="schedule.deleted"):
    """A schedule is gone; the tasks that it started go on."""

    reason: str = ""
    deleted_by: str = ""


# -- bulk operations -----------------------------------------------------------------------------


class BulkRefused(msgspec.Struct, frozen=True, kw_only=True):
    """A selected task that did not take the action, and why."""

    task_id: str
    code: str
    reason: str


class BulkRequested(Event, frozen=True, kw_only=True, tag="bulk.requested"):
    """Somebody wants an action on every task that a filter finds."""

    bulk_id: str
    action: BulkAction
    filter: BulkFilter
    rate_per_second: float
    tasks_max: int
    reason: str = ""
    requested_by: str = ""


class BulkSelected(Event, frozen=True, kw_only=True, tag="bulk.selected"):
    """The next tasks of a bulk operation, noted before anything is done with them."""

    #: Counts from 1.
    number: int
    task_ids: tuple[str, ...]
    #: Where the next ones begin: the creation and id of the last of these.
    cursor_created_ms: int
    cursor_task_id: str


class BulkProgressed(Event, frozen=True, kw_only=True, tag="bulk.progressed"):
    """What became of the tasks of one `bulk.selected`."""

    number: int
    applied_count: int
    #: The others.
    refused: tuple[BulkRefused, ...] = ()


class BulkCompleted(Event, frozen=True, kw_only=True, tag="bulk.completed"):
    """A bulk operation has been through all tasks of its filter, or as many as it was to take."""

    applied_count: int
    refused_count: int
    limit_reached: bool = False


class BulkCancelled(Event, frozen=True, kw_only=True, tag="bulk.cancelled"):
    """Somebody stopped a bulk operation; what it has noted as selected is still done."""

    reason: str = ""
    cancelled_by: str = ""


AnyEvent = (
    TaskCreated
    | TaskStarted
    | TaskBlocked
    | TaskCompleted
    | TaskFailed
    | TaskCancelled
    | TaskStale
    | TaskInvestigated
    | TaskPaused
    | TaskResumed
    | TaskGivenUp
    | TaskResolvedManually
    | StepEnqueued
    | StepStarted
    | StepCompleted
    | StepRetryScheduled
    | StepFailed
    | StepReleased
    | StepResultRefused
    | StepCheckpointed
    | StepSkipped
    | StepReused
    | StepReset
    | StepResolvedManually
    | StepCompletedManually
    | StepDomainEventRefused
    | DomainPublished
    | DecisionRouted
    | DecisionDeclined
    | BatchCreated
    | BatchCompleted
    | BatchStopped
    | SignalAwaited
    | SignalReceived
    | SignalTimedOut
    | ChildRequested
    | ChildCancelRequested
    | CompensationStarted
    | CompensationCompleted
    | CompensationFailed
    | ConcurrencyRequested
    | ConcurrencyGranted
    | ConcurrencyReleased
    | CircuitHeld
    | CircuitAdmitted
    | CircuitLeft
    | RateHeld
    | RateAdmitted
    | RateLeft
    | TemplateRegistered
    | ShardAcquired
    | ShardReleased
    | SlotsOpened
    | SlotsQueued
    | SlotsGranted
    | SlotsFreed
    | BreakerWatched
    | BreakerFailureCounted
    | BreakerOpened
    | BreakerHalfOpened
    | BreakerClosed
    | BreakerQueued
    | BreakerPassed
    | BreakerDequeued
    | ThrottleOpened
    | ThrottleQueued
    | ThrottlePassed
    | ThrottleDequeued
    | ScheduleCreated
    | ScheduleUpdated
    | SchedulePaused
    | ScheduleResumed
    | ScheduleFired
    | ScheduleDeferred
    | ScheduleSkipped
    | ScheduleFiringFailed
    | ScheduleTaskEnded
    | ScheduleTaskCancelRequested
    | ScheduleBackfillRequested
    | ScheduleBackfillCompleted
    | ScheduleDeleted
    | BulkRequested
    | BulkSelected
    | BulkProgressed
    | BulkCompleted
    | BulkCancelled
)

#: Every event type by its name.
EVENT_TYPES: dict[str, type[Event]] = {str(cls.__struct_config__.tag): cls for cls in get_args(AnyEvent)}
for _name, _class in EVENT_TYPES.items():
    _class.TYPE = _name
