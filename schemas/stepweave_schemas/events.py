"""The events: what happened, in the past tense, never changed once released.

Each is a frozen struct tagged by its `type`; the tag stands in the payload too, so that a payload on its own
says what it is. `catalogue` describes each one for people. Fields may be added with defaults; a change of
meaning is a new `schema_version` with an upcaster.
"""

from __future__ import annotations

from typing import ClassVar, get_args

import msgspec

from .raw import NO_RAW

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
    """The task ended in `error`: its template says `on_failure: fail`."""

    task_name: str
    namespace: str
    context: msgspec.Raw
    failed_steps: tuple[str, ...]
    error_message: str
    error_code: str | None = None


class TaskCancelled(Event, frozen=True, kw_only=True, tag="task.cancelled"):
    """Somebody cancelled the task; results that come later are refused."""

    task_name: str
    namespace: str
    reason: str
    cancelled_by: str
    #: The steps that were dispatched or running at that moment.
    cancelled_steps: tuple[str, ...] = ()


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
    #: `permanent`, `attempts_exhausted` or `not_retryable`.
    failure_reason: str
    #: What ended the try: `failure` (the worker said so), `lost` or `timeout` (nobody did).
    settled_by: str = "failure"
    task_name: str
    namespace: str
    context: msgspec.Raw
    error_code: str | None = None
    worker_id: str = ""
    metadata: msgspec.Raw = NO_RAW


class StepReleased(StepEvent, frozen=True, kw_only=True, tag="step.released"):
    """A worker handed a try back without having started it; it costs no attempt."""

    attempt: int
    worker_id: str


class StepResultRefused(StepEvent, frozen=True, kw_only=True, tag="step.result_refused"):
    """A result came for a try that is no longer current, or for a task that has ended."""

    attempt: int
    outcome: str
    #: `stale_attempt`, `step_finished` or `task_finished`.
    refusal: str
    worker_id: str


# -- the system's own streams --------------------------------------------------------------------


class TemplateRegistered(Event, frozen=True, kw_only=True, tag="template.registered"):
    """A template version exists; its content never changes."""

    namespace: str
    name: str
    version: str
    hash: str
    content: msgspec.Raw
    registered_by: str = ""


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


AnyEvent = (
    TaskCreated
    | TaskStarted
    | TaskBlocked
    | TaskCompleted
    | TaskFailed
    | TaskCancelled
    | StepEnqueued
    | StepStarted
    | StepCompleted
    | StepRetryScheduled
    | StepFailed
    | StepReleased
    | StepResultRefused
    | TemplateRegistered
    | ShardAcquired
    | ShardReleased
)

#: Every event type by its name.
EVENT_TYPES: dict[str, type[Event]] = {str(cls.__struct_config__.tag): cls for cls in get_args(AnyEvent)}
for _name, _class in EVENT_TYPES.items():
    _class.TYPE = _name
