"""What is known about a task and its steps; changed by `evolve` only.

The first steps of a task are those of its plan, under the same numbers, whether they exist (yet) or not. Behind
them come the steps that are made while it runs: the workers of batches, and compensations.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from stepweave_schemas.events import ScheduleLink, StepCheckpointed
from stepweave_schemas.gate import GateKind
from stepweave_schemas.identity import step_uuid
from stepweave_schemas.result import Checkpointed

from .plan import Plan, StepSpec
from .stale_moments import stale_at_ms

#: `absent`, `excluded`, `expanded` and `waiting_for_child` are not shown: a step that may still come to exist, one
#: that never can, a batch worker that has been multiplied, and one that is in progress in another task.
StepStatus = Literal[
    "absent",
    "excluded",
    "expanded",
    "pending",
    "enqueued",
    "in_progress",
    "waiting_for_retry",
    "waiting_for_signal",
    "waiting_for_child",
    "held",
    "complete",
    "error",
    "cancelled",
    "skipped",
    "resolved_manually",
    "compensating",
    "compensated",
]
TaskStatus = Literal[
    "pending",
    "steps_in_process",
    "waiting_for_retry",
    "waiting_for_dependencies",
    "paused",
    "blocked_by_failures",
    "compensating",
    "complete",
    "error",
    "cancelled",
    "resolved_manually",
]
TERMINAL_STATUSES: Final[frozenset[str]] = frozenset({"complete", "error", "cancelled", "resolved_manually"})
#: A try was given out to a worker and its outcome is awaited.
ACTIVE: Final[frozenset[str]] = frozenset({"enqueued", "in_progress"})
#: Something outside is awaited that is no worker.
SUSPENDED: Final[frozenset[str]] = frozenset({"waiting_for_signal", "waiting_for_child", "held"})
#: No try of the step is out, and none has to be: it can be cancelled without telling anybody.
NOT_RUNNING: Final[frozenset[str]] = frozenset({"pending", "waiting_for_retry", "held"})
#: A try was given out, to a worker or to another task.
OPEN: Final[frozenset[str]] = ACTIVE | {"waiting_for_child"}
#: The step is no step (yet): callers do not see it.
HIDDEN: Final[frozenset[str]] = frozenset({"absent", "excluded", "expanded"})
#: What depends on the step goes on.
MET: Final[frozenset[str]] = frozenset(
    {"complete", "skipped", "resolved_manually", "compensating", "compensated"}
)
#: The ids of so many requests of operators are remembered, to tell one that is sent again.
OPERATOR_REQUESTS_MAX: Final = 100

#: The orchestrator waits this much longer than the worker before it calls a time-out itself.
TIMEOUT_GRACE_MS: Final = 5_000


class Fault(msgspec.Struct, gc=False):
    """The last failure of a step."""

    error_type: str
    error_message: str
    error_code: str | None
    at_ms: int


class EarlierTry(msgspec.Struct, frozen=True, gc=False):
    """A try that another one has followed."""

    lease_token: str
    #: `failure`, `lost` or `timeout`.
    settled_by: str


class SavedProgress(msgspec.Struct, frozen=True, gc=False):
    """A step's last checkpoint, as JSON texts."""

    cursor: str
    items_processed: int
    accumulated_results: str


class Reused(msgspec.Struct, frozen=True, gc=False):
    """Where the outcome of a step comes from that this task does not run itself."""

    #: The step's uuid in the task that ran it.
    step_uuid: str
    #: That task undoes what the step did, if it is to be undone; this one never does.
    undone_by_original: bool = False


def saved_progress(said: StepCheckpointed | Checkpointed) -> SavedProgress:
    """A checkpoint as it is kept."""
    return SavedProgress(
        bytes(said.cursor).decode(), said.items_processed, bytes(said.accumulated_results).decode()
    )


class Pass(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a try, or the task, waits for before a gate, or holds since it was let through."""

    gate: GateKind
    gate_id: str
    token: str
    #: The try that it is for.
    attempt: int
    at_ms: int
    #: Of slots: whose, of which value, how many; of a circuit: its service.
    group: str = ""
    value: str = ""
    limit: int = 0
    per_second: float = 0.0


class StepState(msgspec.Struct, kw_only=True, gc=False):
    """One step of one task."""

    uuid: str
    #: Dependencies that are not done yet and may still have to be.
    unmet: int
    status: StepStatus = "pending"
    #: The current try, from 1; 0 before the first.
    attempt: int = 0
    lease_token: str = ""
    #: The token that the current try had before it was handed back or saved its progress.
    former_token: str = ""
    #: Earlier tries, by number.
    earlier: dict[int, EarlierTry] = {}
    #: The tries up to this one count no more: an operator has reset the step.
    forgiven: int = 0
    #: What ended the current try: the outcome's kind, `timeout`, `cancel` or `operator`; empty while it is open.
    settled_by: str = ""
    #: Tries whose late results were recorded as refused already.
    refused_attempts: list[int] = []
    result: str | None = None
    worker_id: str = ""
    fault: Fault | None = None
    enqueued_at_ms: int | None = None
    #: When the current try was given out for the first time.
    waiting_since_ms: int = 0
    started_at_ms: int | None = None
    completed_at_ms: int | None = None
    retry_delay_ms: int | None = None
    #: When the step wants to be woken: its retry or its time-out.
    due_at_ms: int | None = None
    updated_at_ms: int | None = None
    checkpoint: SavedProgress | None = None
    #: The signal that the step took.
    signal_id: str = ""
    #: The task that the step started.
    child_task_id: str = ""
    #: Its compensation failed, or could not undo all.
    requires_manual_cleanup: bool = False
    #: Of a batch worker: the number of the step that it was made from, its own name, its cursor (JSON text).
    made_from: int = -1
    name: str = ""
    cursor: str | None = None
    #: Of a compensation: the step that it undoes, and the handler where no step declares it.
    compensates: int = -1
    handler: str = ""
    #: What the step's last failure wants undone.
    undo: tuple[str, ...] = ()
    #: The gate before which its next try is held, and what its current one holds.
    hold: Pass | None = None
    passes: tuple[Pass, ...] = ()
    #: How often workers without its handler have handed the current try back, and since when. A step that is enqueued
    #: without a lease token is given out again at `due_at_ms`.
    handed_back: int = 0
    handed_back_since_ms: int | None = None
    #: The step's outcome is that of another task's.
    reused: Reused | None = None

    @property
    def is_to_undo(self) -> bool:
        """Whether the step has done something that is undone where its task cannot complete."""
        return self.status == "complete" and (self.reused is None or not self.reused.undone_by_original)


class BatchState(msgspec.Struct, kw_only=True, gc=False):
    """The workers of one batch: steps `first` … `first + count - 1`; the first `begun` of them have been begun,
    settled by an operator before, or are reused."""

    first: int
    count: int
    is_no_op: bool = False
    begun: int = 0
    #: Begun and not ended.
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    stopped: bool = False
    #: What waits for the batch has gone on.
    completed: bool = False
    #: Workers that have begun before and wait to be given out once more, by their numbers.
    again: list[int] = []


class SagaState(msgspec.Struct, kw_only=True, gc=False):
    """What is undone and what has to be undone before; by the plan's numbers."""

    #: The compensations of a step, by their numbers, and how many of them have not ended.
    members: dict[int, list[int]]
    left: dict[int, int]
    #: For each step: how many of its dependents are not undone yet.
    waits: list[int]
    #: Compensations that have not ended, altogether.
    left_count: int
    #: Names in failures that were too many to be undone.
    left_out_count: int = 0


class KeptSignal(msgspec.Struct, frozen=True, gc=False):
    """A signal that no step has taken yet."""

    signal: str
    signal_id: str
    payload: str


class ParentStep(msgspec.Struct, frozen=True, gc=False):
    """The step that started this task, and where it waits."""

    task_id: str
    step_name: str
    step_uuid: str
    attempt: int
    lease_token: str
    result_subject: str


class DeadLetter(msgspec.Struct, kw_only=True, gc=False):
    """One time that a task was stuck: what for, since when, and what became of it."""

    #: Counted from 1.
    number: int
    #: `failures`, `staleness` or `handler_missing`.
    reason: str
    #: Whether it lists in the dead letters; otherwise only among what is stale.
    listed: bool
    #: The task's version and status when it began.
    opened_version: int
    original_state: str
    opened_at_ms: int
    updated_at_ms: int
    error_message: str = ""
    error_code: str | None = None
    #: Steps that it is about; of many the first ones.
    steps: tuple[str, ...] = ()
    missing_handlers: tuple[str, ...] = ()
    #: Of a stale task: which time is over, since when it ran, and how long it was.
    threshold: str = ""
    since_ms: int = 0
    limit_ms: int = 0
    resolution_status: str = "pending"
    resolution_notes: str = ""
    resolved_by: str = ""
    resolved_at_ms: int | None = None
    #: It was closed by what became of the task, not by an investigator.
    closed_by_task: bool = False
    #: Then: what an investigator had said before (status, notes, who).
    before: tuple[str, str, str] = ("pending", "", "")
    #: A JSON object, as text.
    metadata: str = "{}"

    @property
    def is_open(self) -> bool:
        """Whether nobody has resolved it, and the task is still as it was."""
        return self.resolved_at_ms is None


class Watch(msgspec.Struct, kw_only=True, gc=False):
    """What is kept of a task that may become stale, or has been stuck. A plain task has none."""

    #: When the task began to run; later by as long as it was paused.
    began_at_ms: int
    #: The status that it stays in, and since when; in `steps_in_process` since its last change.
    status: TaskStatus
    since_ms: int
    #: The stay, and the whole task, are known to last too long.
    stay_raised: bool = False
    duration_raised: bool = False
    #: Handlers that nobody was found to serve, and no step has used since.
    missing_handlers: tuple[str, ...] = ()
    #: The last ones, oldest first; at most the last of them is open.
    letters: list[DeadLetter] = []


class Origin(msgspec.Struct, frozen=True, gc=False):
    """The task that this one is a fork of."""

    task_id: str
    stream_version: int
    from_steps: tuple[str, ...]


class TaskState(msgspec.Struct, kw_only=True, gc=False):
    """One task. See the module for how its steps are numbered."""

    task_id: str
    plan: Plan | None
    correlation_id: str
    #: Version of the last event applied; 0 before the first.
    version: int = 0
    steps: list[StepState] = []
    #: The numbers of the steps that are not in the plan, by name.
    made: dict[str, int] = {}
    #: `pending`, `steps_in_process`, `paused`, `blocked_by_failures`, `compensating` or terminal; see `status`.
    phase: TaskStatus = "pending"
    #: Of a paused task, what it goes on with: `pending` (its start), `waiting_for_dependencies` (it had no slot yet)
    #: or `steps_in_process`.
    paused_from: TaskStatus = "pending"
    #: An operator has settled or reset a step: a step may be done before its dependencies are.
    stepped_in: bool = False
    #: The ids of the last requests of operators.
    operator_requests: list[str] = []
    request_id: str = ""
    request_digest: str = ""
    context: str = "{}"
    initiator: str = ""
    source_system: str = ""
    reason: str = ""
    tags: tuple[str, ...] = ()
    priority: int = 0
    parent_correlation_id: str | None = None
    parent: ParentStep | None = None
    #: The firing of a schedule that started it.
    schedule: ScheduleLink | None = None
    depth: int = 0
    forked_from: Origin | None = None
    traceparent: str | None = None
    start_at_ms: int | None = None
    created_at_ms: int = 0
    updated_at_ms: int = 0
    completed_at_ms: int | None = None
    #: Steps that exist, those that are done, and those in one state or another.
    existing_count: int = 0
    done_count: int = 0
    active_count: int = 0
    suspended_count: int = 0
    waiting_count: int = 0
    #: Steps that failed for good and hold the task up.
    failed: list[int] = []
    batches: dict[int, BatchState] = {}
    saga: SagaState | None = None
    compensation_status: str | None = None
    #: Why the task ended, where it did not complete.
    ending_message: str = ""
    ending_code: str | None = None
    #: Signals that no step has taken yet, oldest first; and the ids of the last ones that came, with what tells each
    #: from another signal of that id.
    mailbox: list[KeptSignal] = []
    signal_ids: dict[str, str] = {}
    #: What the whole task is held by before it begins, and what it holds; and how many holds and passes there are
    #: of the task and its steps.
    hold: Pass | None = None
    passes: tuple[Pass, ...] = ()
    gated_count: int = 0
    #: The steps with a `due_at_ms`, as a heap of `(due_at_ms, step)`. Its first entry holds; others may be out of
    #: date: one that differs from its step's `due_at_ms` means nothing. Retries are not in it while the task is paused.
    due: list[tuple[int, int]] = []
    watch: Watch | None = None
    #: Events applied since the last snapshot.
    events_since_snapshot: int = 0

    @property
    def the_plan(self) -> Plan:
        """The plan, where it must be known."""
        assert self.plan is not None, "the state was used before its plan was attached"
        return self.plan

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
        return self.phase in TERMINAL_STATUSES

    @property
    def status(self) -> TaskStatus:
        """The task's status by its name in the contract."""
        if self.phase == "steps_in_process" and not self.active_count:
            if self.waiting_count:
                return "waiting_for_retry"
            if self.suspended_count:
                return "waiting_for_dependencies"
        return self.phase

    # -- steps by number and name ----------------------------------------------------------------

    def number_of(self, name: str) -> int:
        """The number of a step; -1 where there is none of that name."""
        number = self.the_plan.index.get(name)
        return self.made.get(name, -1) if number is None else number

    def name_of(self, number: int) -> str:
        """The name of a step."""
        steps = self.the_plan.steps
        return steps[number].name if number < len(steps) else self.steps[number].name

    def slot_of(self, number: int) -> int:
        """The number in the plan of the step that this one is, was made from, or undoes."""
        if number < len(self.the_plan.steps):
            return number
        step = self.steps[number]
        return step.made_from if step.made_from >= 0 else self.slot_of(step.compensates)

    def spec_of(self, number: int) -> StepSpec:
        """How the step is run. That of a batch worker is that of the step it was made from, with that one's name."""
        plan = self.the_plan
        if number < len(plan.steps):
            return plan.steps[number]
        step = self.steps[number]
        if step.made_from >= 0:
            return plan.steps[step.made_from]
        slot = self.slot_of(number)
        if step.handler:
            return plan.named_compensation(slot, step.handler)
        declared = plan.compensation(slot)
        assert declared is not None, "a compensation without a declaration names its handler"
        return declared

    def exists(self, number: int) -> bool:
        """Whether callers see the step: it exists and is no compensation."""
        step = self.steps[number]
        return step.status not in HIDDEN and step.compensates < 0

    def shown_steps(self) -> list[int]:
        """The numbers of the steps that callers see, the workers of a batch where their template stands."""
        if self.the_plan.plain:
            return list(range(len(self.the_plan.steps)))
        found: list[int] = []
        for number in range(len(self.the_plan.steps)):
            batch = self.batches.get(number)
            if batch is not None:
                found.extend(range(batch.first, batch.first + batch.count))
            elif self.exists(number):
                found.append(number)
        return found

    def with_results(self, slots: tuple[int, ...]) -> list[int]:
        """The steps that stand for these steps of the plan: the workers of a batch instead of their template."""
        if not self.batches:
            return list(slots)
        found: list[int] = []
        for slot in slots:
            batch = self.batches.get(slot)
            if batch is None:
                found.append(slot)
            else:
                found.extend(range(batch.first, batch.first + batch.count))
        return found

    # -- time ------------------------------------------------------------------------------------

    def next_wake_ms(self) -> int | None:
        """The earliest moment at which a `Wake` would have an effect, if there is one."""
        if self.phase == "pending":
            return self.start_at_ms
        due_ms = self.due[0][0] if self.due else None
        if self.watch is None:
            return due_ms
        stale_ms = stale_at_ms(self)
        return stale_ms if due_ms is None or (stale_ms is not None and stale_ms < due_ms) else due_ms

    def next_attempt(self, number: int) -> int:
        """The number of the try that would be given out next; that of the last one where it was only held."""
        step = self.steps[number]
        return step.attempt if step.attempt and not step.settled_by else step.attempt + 1

    def due_steps(self, now_ms: int) -> list[int]:
        """The steps that are due at `now_ms`, in the order of their numbers; looks at no more than these."""
        found: set[int] = set()
        places = [0]
        while places:
            place = places.pop()
            if place < len(self.due) and self.due[place][0] <= now_ms:
                due_at_ms, number = self.due[place]
                if self.steps[number].due_at_ms == due_at_ms:
                    found.add(number)
                places += (2 * place + 1, 2 * place + 2)
        return sorted(found)


def initial(task_id: str, plan: Plan, correlation_id: str) -> TaskState:
    """The state of a task before its first event."""
    steps = [
        StepState(uuid=step_uuid(task_id, spec.name), unmet=len(parents))
        for spec, parents in zip(plan.steps, plan.parents, strict=True)
    ]
    if plan.start_count < len(steps):
        for step, exists in zip(steps, plan.exists_at_start, strict=True):
            if not exists:
                step.status = "absent"
    return TaskState(
        task_id=task_id,
        plan=plan,
        correlation_id=correlation_id,
        steps=steps,
        existing_count=plan.start_count,
    )
