"""The semantics once more, as plainly as they are written in words: no counters, no indexes, no events.

The properties compare the core with this model. It knows templates and messages, not the code of the core; it looks
at every step each time, and says what must follow as *facts*: `("enqueued", "b", 1)`. What chance decides (the delay
within its bounds, the tokens) it is told, and checks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from stepweave_schemas.template import StepTemplate, TaskTemplate

#: What must follow: the kind of fact, then what it is about.
Fact = tuple[Any, ...]

#: The orchestrator waits so much longer than the worker before it calls a time-out.
GRACE_MS = 5_000
HOUR_MS = 3_600_000


@dataclass
class Try:
    """One try of a step, from the moment it is given out."""

    number: int
    token: str = ""
    #: `success`, `failure`, `lost`, `timeout`, `cancel`; empty while its outcome is awaited.
    ended_by: str = ""
    is_running: bool = False
    deadline_ms: int | None = None
    #: A result that came too late was recorded.
    late_recorded: bool = False


@dataclass
class Step:
    """One step: its tries, and how it ended if it did."""

    template: StepTemplate
    tries: list[Try] = field(default_factory=list)
    retry_at_ms: int | None = None
    #: `complete`, `error` or `cancelled`.
    end: str = ""

    @property
    def open_try(self) -> Try | None:
        last = self.tries[-1] if self.tries else None
        return last if last is not None and not last.ended_by else None


class Model:
    """One task of a template."""

    def __init__(self, template: TaskTemplate) -> None:
        self.template = template
        self.steps = {step.name: Step(step) for step in template.steps}
        #: `absent`, `pending`, `going`, `blocked`, `complete`, `error` or `cancelled`.
        self.phase = "absent"
        self.start_at_ms: int | None = None
        #: The delays that chance chose for the step's next try, in milliseconds; told from outside.
        self.chosen_delays_ms: dict[str, int] = {}

    # -- what is asked of the task -----------------------------------------------------------

    def create(self, now_ms: int, start_at_ms: int | None) -> list[Fact]:
        if self.phase != "absent":
            return []
        self.start_at_ms = start_at_ms
        self.phase = "pending"
        facts: list[Fact] = [("task.created",)]
        if start_at_ms is None:
            self.phase = "going"
            return facts + self._go_on()
        return facts + self.wake(now_ms)

    def cancel(self) -> list[Fact]:
        if self.phase in ("absent", "complete", "error", "cancelled"):
            return []
        given_out = [step for step in self.steps.values() if step.open_try]
        for step in self.steps.values():
            if step.open_try:
                step.open_try.ended_by = "cancel"
            if not step.end:
                step.end = "cancelled"
                step.retry_at_ms = None
        self.phase = "cancelled"
        return [("task.cancelled", tuple(sorted(step.template.name for step in given_out)))]

    def wake(self, now_ms: int) -> list[Fact]:
        if self.phase == "pending":
            if self.start_at_ms is None or self.start_at_ms > now_ms:
                return []
            self.phase = "going"
            return [("task.started",), *self._go_on()]
        facts: list[Fact] = []
        for step in self.steps.values():
            current = step.open_try
            if step.retry_at_ms is not None and step.retry_at_ms <= now_ms:
                facts.append(self._next_try(step))
            elif current and current.deadline_ms is not None and current.deadline_ms <= now_ms:
                facts += self._failed(step, "timeout", now_ms, retryable=True, wish_ms=None)
        return facts + self._go_on()

    def told(
        self,
        kind: str,
        name: str,
        attempt: int,
        token: str,
        now_ms: int,
        *,
        retryable: bool = True,
        wish_ms: int | None = None,
    ) -> list[Fact]:
        """A worker's word about a try."""
        step = self.steps[name]
        known = next((each for each in step.tries if (each.number, each.token) == (attempt, token)), None)
        if known is None:
            return []
        if known.ended_by:
            return self._too_late(step, known, kind)
        if kind == "started":
            if known.is_running:
                return []
            known.is_running = True
            if step.template.timeout_seconds is not None:
                known.deadline_ms = now_ms + round(step.template.timeout_seconds * 1_000) + GRACE_MS
            return [("started", name, attempt)]
        if kind == "released":
            # The same try, given out anew; what the old token says counts no more.
            known.token, known.is_running, known.deadline_ms = "", False, None
            return [("released", name, attempt), ("enqueued", name, attempt)]
        if kind == "success":
            known.ended_by = "success"
            step.end = "complete"
            return [("completed", name, attempt), *self._go_on()]
        return self._failed(step, kind, now_ms, retryable=retryable, wish_ms=wish_ms) + self._go_on()

    def given_out(self, name: str, token: str) -> None:
        """The token of the current try became known."""
        self.steps[name].tries[-1].token = token

    # -- what follows ------------------------------------------------------------------------

    def _too_late(self, step: Step, known: Try, kind: str) -> list[Fact]:
        if kind not in ("success", "failure") or kind == known.ended_by or known.late_recorded:
            return []
        known.late_recorded = True
        if known is not step.tries[-1] or not step.end:
            why = "stale_attempt"
        else:
            why = "task_finished" if step.end == "cancelled" else "step_finished"
        return [("refused", step.template.name, known.number, kind, why)]

    def _failed(
        self, step: Step, ended_by: str, now_ms: int, *, retryable: bool, wish_ms: int | None
    ) -> list[Fact]:
        current = step.open_try
        assert current is not None
        current.ended_by = ended_by
        policy = step.template.retry
        name, number = step.template.name, current.number
        if not retryable:
            why = "permanent"
        elif not policy.retryable:
            why = "not_retryable"
        elif number >= policy.max_attempts:
            why = "attempts_exhausted"
        else:
            delay_ms = self.chosen_delays_ms[name]
            lowest_ms, highest_ms, source = self._delay_bounds(step, ended_by, number, wish_ms)
            assert lowest_ms <= delay_ms <= highest_ms, f"{name}: a delay of {delay_ms} ms"
            facts: list[Fact] = [("retry", name, number, source, now_ms + delay_ms)]
            if delay_ms == 0:
                return [*facts, self._next_try(step)]
            step.retry_at_ms = now_ms + delay_ms
            return facts
        step.end = "error"
        return [("failed", name, number, why)]

    def _delay_bounds(
        self, step: Step, ended_by: str, made: int, wish_ms: int | None
    ) -> tuple[int, int, str]:
        if ended_by == "lost":
            return 0, 0, "at_once"
        if wish_ms is not None:
            cap_ms = self.template.max_retry_after_ms
            delay_ms = min(wish_ms, HOUR_MS if cap_ms is None else cap_ms)
            return delay_ms, delay_ms, "retry_after"
        policy = step.template.retry
        factor = {
            "none": 0,
            "fixed": 1,
            "linear": made,
            "exponential": 2 ** (made - 1),
            "fibonacci": [1, 1, 2, 3, 5, 8, 13, 21][made - 1],
        }[policy.backoff]
        formula_ms = min(policy.backoff_base_ms * factor, policy.max_backoff_ms)
        return (
            math.floor(formula_ms * (1 - policy.jitter)),
            math.ceil(formula_ms * (1 + policy.jitter)),
            "backoff",
        )

    def _next_try(self, step: Step) -> Fact:
        step.retry_at_ms = None
        step.tries.append(Try(len(step.tries) + 1))
        return ("enqueued", step.template.name, len(step.tries))

    def _go_on(self) -> list[Fact]:
        """Give out what is ready, and see whether the task is at an end."""
        if self.phase != "going":
            return []
        facts: list[Fact] = []
        for step in self.steps.values():
            done = all(self.steps[name].end == "complete" for name in step.template.dependencies)
            if done and not step.tries:
                facts.append(self._next_try(step))
        ends = [step.end for step in self.steps.values()]
        if all(end == "complete" for end in ends):
            self.phase = "complete"
            return [*facts, ("task.completed",)]
        awaited = any(step.open_try or step.retry_at_ms is not None for step in self.steps.values())
        if "error" in ends and not awaited:
            self.phase = "error" if self.template.on_failure == "fail" else "blocked"
            broken = tuple(sorted(name for name, step in self.steps.items() if step.end == "error"))
            kind = "task.failed" if self.phase == "error" else "task.blocked"
            facts.append(
                (kind, broken, len(self.unreachable())) if kind == "task.blocked" else (kind, broken)
            )
        return facts

    # -- what is seen from outside -----------------------------------------------------------

    def unreachable(self) -> set[str]:
        """The steps that can never start because an ancestor failed for good."""
        found: set[str] = set()
        for _ in self.steps:
            for name, step in self.steps.items():
                if any(self.steps[own].end == "error" or own in found for own in step.template.dependencies):
                    found.add(name)
        return found

    def status(self) -> str:
        """The task's status by its name in the contract."""
        if self.phase == "going":
            given_out = any(step.open_try for step in self.steps.values())
            return "steps_in_process" if given_out else "waiting_for_retry"
        return {"absent": "pending", "blocked": "blocked_by_failures"}.get(self.phase, self.phase)

    def step_status(self, name: str) -> str:
        """A step's status by its name in the contract."""
        step = self.steps[name]
        if step.end:
            return step.end
        if step.open_try:
            return "in_progress" if step.open_try.is_running else "enqueued"
        return "pending" if step.retry_at_ms is None else "waiting_for_retry"

    def next_wake_ms(self) -> int | None:
        """When time alone changes something next."""
        if self.phase == "pending":
            return self.start_at_ms
        moments = [step.retry_at_ms for step in self.steps.values()]
        moments += [step.open_try.deadline_ms for step in self.steps.values() if step.open_try]
        return min((moment for moment in moments if moment is not None), default=None)
