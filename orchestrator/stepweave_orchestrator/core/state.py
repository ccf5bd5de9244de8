"""What is known about a task and its steps; changed by `evolve` only."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from stepweave_schemas.identity import step_uuid

from .plan import Plan

StepStatus = Literal[
    "pending", "enqueued", "in_progress", "waiting_for_retry", "complete", "error", "cancelled"
]
TaskStatus = Literal[
    "pending",
    "steps_in_process",
    "waiting_for_retry",
    "blocked_by_failures",
    "complete",
    "error",
    "cancelled",
]
TERMINAL_STATUSES: Final[frozenset[str]] = frozenset({"complete", "error", "cancelled"})
#: A try was given out and its outcome is awaited.
ACTIVE: Final[frozenset[str]] = frozenset({"enqueued", "in_progress"})

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


class StepState(msgspec.Struct, kw_only=True, gc=False):
    """One step of one task."""

    uuid: str
    #: Dependencies that are not done yet.
    unmet: int
    status: StepStatus = "pending"
    #: The current try, from 1; 0 before the first.
    attempt: int = 0
    lease_token: str = ""
    #: Earlier tries, by number.
    earlier: dict[int, EarlierTry] = {}
    #: What ended the current try: the outcome's kind, `timeout` or `cancel`; empty while it is open.
    settled_by: str = ""
    #: Tries whose late results were recorded as refused already.
    refused_attempts: list[int] = []
    result: str | None = None
    worker_id: str = ""
    fault: Fault | None = None
    enqueued_at_ms: int | None = None
    started_at_ms: int | None = None
    completed_at_ms: int | None = None
    retry_delay_ms: int | None = None
    #: When the step wants to be woken: its retry or its time-out.
    due_at_ms: int | None = None
    updated_at_ms: int | None = None


class TaskState(msgspec.Struct, kw_only=True, gc=False):
    """One task. Steps are numbered as in the plan."""

    task_id: str
    plan: Plan | None
    correlation_id: str
    #: Version of the last event applied; 0 before the first.
    version: int = 0
    steps: list[StepState] = []
    #: `pending`, `steps_in_process`, `blocked_by_failures` or terminal; see `status`.
    phase: TaskStatus = "pending"
    request_id: str = ""
    request_digest: str = ""
    context: str = "{}"
    initiator: str = ""
    source_system: str = ""
    reason: str = ""
    tags: tuple[str, ...] = ()
    priority: int = 0
    parent_correlation_id: str | None = None
    traceparent: str | None = None
    start_at_ms: int | None = None
    created_at_ms: int = 0
    updated_at_ms: int = 0
    completed_at_ms: int | None = None
    done_count: int = 0
    active_count: int = 0
    waiting_count: int = 0
    failed: list[int] = []
    #: The steps with a `due_at_ms`, as a heap of `(due_at_ms, step)`. Its first entry holds; others may be out of
    #: date: one that differs from its step's `due_at_ms` means nothing.
    due: list[tuple[int, int]] = []
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
        if self.phase == "steps_in_process" and not self.active_count and self.waiting_count:
            return "waiting_for_retry"
        return self.phase

    def next_wake_ms(self) -> int | None:
        """The earliest moment at which a `Wake` would have an effect, if there is one."""
        if self.phase == "pending":
            return self.start_at_ms
        return self.due[0][0] if self.due else None

    def due_steps(self, now_ms: int) -> list[int]:
        """The steps that are due at `now_ms`, in the order of the plan; looks at no more than these."""
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
    return TaskState(
        task_id=task_id,
        plan=plan,
        correlation_id=correlation_id,
        steps=[
            StepState(uuid=step_uuid(task_id, spec.name), unmet=len(parents))
            for spec, parents in zip(plan.steps, plan.parents, strict=True)
        ],
    )
