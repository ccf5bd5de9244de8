"""Tasks: create, get, list, signal, results, events."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .request import EMPTY_OBJECT, NULL, Request

#: Most tasks in one `task.create_many` request.
CREATE_MANY_MAX: Final = 200


class CreateTask(Request, frozen=True, kw_only=True):
    """`task.create`. Answer: `CreateTaskReply`."""

    name: str
    namespace: str = "default"
    version: str | None = None
    context: msgspec.Raw = EMPTY_OBJECT
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
    options: msgspec.Raw = EMPTY_OBJECT
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


class SignalTask(Request, frozen=True, kw_only=True):
    """`task.signal`: tell a task something that one of its steps waits for. Answer: `SignalReply`."""

    task_id: str
    #: The signal's name, as the template's `wait_for_signal.name` has it.
    signal: str
    #: Any JSON value; it becomes the result of the step that waits.
    payload: msgspec.Raw = NULL
    #: The sender's own id of this signal, so that one that is sent again is the same; absent: always a new one.
    signal_id: str | None = None
    sent_by: str = ""


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


class CreateTaskReply(msgspec.Struct, frozen=True, kw_only=True):
    """`replayed` tells that the task existed already and this request is the same as the one that made it."""

    task: TaskResponse
    replayed: bool = False


class SignalReply(msgspec.Struct, frozen=True, kw_only=True):
    """`taken_by` is the step that took the signal; absent where it is kept until one waits for it."""

    task: TaskResponse
    signal_id: str
    taken_by: str | None = None
    #: The same signal (by its id) had come before; nothing was done.
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
