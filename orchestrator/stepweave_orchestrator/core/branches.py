"""Which steps exist: what follows from the choice of a decision, or of a batchable step.

A step of the plan is *absent* while it may still come to exist, and *excluded* once it never can. What a decider
names exists. Besides, without being named:

- a convergence exists as soon as one of its dependencies does;
- a branch (a step that depends directly on a decision, or the worker of a batchable step) never does;
- any other step exists once all of its dependencies do.

A step is excluded when every decision above it is settled and it was not named, and it is a branch, or a
dependency of it is excluded (of a convergence: all of them). A convergence all of whose dependencies are excluded
is *skipped* where a decision that ran has declined them, so that what follows it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .plan import Plan
from .state import StepStatus

_SETTLED = frozenset({"complete", "excluded", "skipped", "resolved_manually", "compensating", "compensated"})


class Growth:
    """What a settled decider changes; `status_of` says what each step of the plan was before."""

    def __init__(self, plan: Plan, status_of: Callable[[int], StepStatus]) -> None:
        self._plan = plan
        self._before = status_of
        self._now: dict[int, StepStatus] = {}
        #: The decisions that may still choose, as bits.
        self._undecided = 0
        #: The steps that exist from now on (those that are named first), those that never can any more, and those
        #: that are skipped; each after its dependencies.
        self.created: list[int] = []
        self.excluded: list[int] = []
        self.skipped: list[int] = []

    def settle(self, decider: int, named: Iterable[int]) -> None:
        """Follow up: `decider` has completed and names these steps. Once a growth."""
        plan = self._plan
        self._now[decider] = "complete"
        for number, bit in plan.decision_bits.items():
            if self._status(number) not in _SETTLED:
                self._undecided |= bit
        for number in named:
            if self._status(number) == "absent":
                self._create(number)
        # What becomes of a step depends on what comes before it only: one look at each is enough.
        for number in plan.descendants(decider):
            self._consider(number)

    def _status(self, number: int) -> StepStatus:
        return self._now.get(number) or self._before(number)

    def _create(self, number: int) -> None:
        # A batch worker exists as its workers; what depends on it may exist with them.
        self._now[number] = "expanded" if self._plan.steps[number].type == "batch_worker" else "pending"
        self.created.append(number)

    def _exclude(self, number: int) -> None:
        self._now[number] = "excluded"
        self.excluded.append(number)
        self._undecided &= ~self._plan.decision_bits.get(number, 0)

    def _consider(self, number: int) -> None:
        plan = self._plan
        if self._status(number) != "absent":
            return
        parents = plan.parents[number]
        statuses = [self._status(parent) for parent in parents]
        if number in plan.branch_of:
            if self._is_decided(number):
                self._exclude(number)
        elif plan.steps[number].type == "deferred_convergence":
            if any(status not in ("absent", "excluded") for status in statuses):
                self._create(number)
            elif all(status == "excluded" for status in statuses) and self._is_decided(number):
                if any(self._declined(parent) for parent in parents):
                    self._now[number] = "skipped"
                    self.skipped.append(number)
                else:
                    self._exclude(number)
        elif any(status == "excluded" for status in statuses):
            if self._is_decided(number):
                self._exclude(number)
        elif all(status != "absent" for status in statuses):
            self._create(number)

    def _is_decided(self, number: int) -> bool:
        """Whether nobody is left who could name the step."""
        plan = self._plan
        if plan.steps[number].type == "batch_worker":
            return all(self._status(decider) in _SETTLED for decider in plan.branch_of[number])
        return not plan.decisions_above[number] & self._undecided

    def _declined(self, number: int) -> bool:
        """Whether an excluded step is so because somebody who ran did not choose it, or what it follows from."""
        pending, seen = [number], {number}
        while pending:
            number = pending.pop()
            deciding = self._plan.branch_of.get(number)
            if deciding is not None:
                if any(self._status(decider) not in ("absent", "excluded") for decider in deciding):
                    return True
                continue
            for parent in self._plan.parents[number]:
                if parent not in seen and self._status(parent) == "excluded":
                    seen.add(parent)
                    pending.append(parent)
        return False
