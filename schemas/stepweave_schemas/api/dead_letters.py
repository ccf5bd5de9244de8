"""Dead letters: tasks that stand still and what came of looking into them."""

from __future__ import annotations

import msgspec

from stepweave_schemas.raw import NO_RAW

from .request import EMPTY_OBJECT, Request
from .tasks import Pagination, TaskResponse


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
    metadata: msgspec.Raw = EMPTY_OBJECT


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


class MissingHandler(msgspec.Struct, frozen=True, kw_only=True):
    """A handler that steps wait for and nobody serves; whether their tasks list in the dead letters or only as stale."""

    namespace: str
    handler: str
    #: Tasks that wait for it, and when the oldest of their dead letters began.
    task_count: int
    oldest_at: str
    oldest_age_seconds: float


class DeadLetterStats(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `dlq.stats`; `kinds` has the most frequent ones first, a thousand at most, and the sums are over these."""

    total_count: int
    open_count: int
    oldest_open_age_seconds: float | None
    by_reason: dict[str, int]
    by_resolution_status: dict[str, int]
    kinds: tuple[DeadLetterKind, ...]
    #: The handlers that most tasks wait for first, a thousand at most.
    missing_handlers: tuple[MissingHandler, ...] = ()
