"""Which tasks a look for missing handlers asks about, and in which order: fairly, and few where there are many.

A task need not be asked where all handlers of its template are served, or where those that are not have been named
already. The rest is asked in groups: one for each template with a handler that nobody serves, and one for the tasks
that nothing is known against, in case a worker has handed back what another one can run. Of each group at most
`GROUP_TASKS_MAX` are asked in one look, in turn; so thousands of tasks of one template do not hold up another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from stepweave_eventstore.store import StandingTask
from stepweave_orchestrator.core import Plan
from stepweave_orchestrator.core.commands import ServedHandlers

#: Tasks of one group that are asked in one look.
GROUP_TASKS_MAX: Final = 200
#: Tasks that are asked in one look, and tasks that it reads.
LOOK_TASKS_MAX: Final = 1_000
LOOK_ROWS_MAX: Final = 50_000
#: A template version: namespace, name, version.
Version = tuple[str, str, str]
#: The tasks of which nothing seems to be missing.
_ALL_SERVED: Final[Version] = ("", "", "")
#: The handlers of a template version that nobody serves; `None`: that is not known.
Unserved = frozenset[str] | None


def version_of(task: StandingTask) -> Version:
    """The template version that a task runs."""
    return (task.namespace, task.name, task.template_version)


def unserved_of(plan: Plan, served: ServedHandlers) -> frozenset[str]:
    """The handlers that no worker serves, of those that a template's steps need and those that undo them."""
    found = set()
    for number, step in enumerate(plan.steps):
        needs = [] if step.wait_for_signal is not None or step.child_task is not None else [step]
        undoing = plan.compensation(number)
        if undoing is not None:
            needs.append(undoing)
        for one in needs:
            if not served.may_serve(plan.ref.namespace, one.queue, one.handler.callable):
                found.add(one.handler.callable)
    return frozenset(found)


class Turns:
    """Chooses whom to ask, look by look; remembers how far each group has come."""

    def __init__(self) -> None:
        #: Where the next look begins: behind this task, or at the oldest one.
        self.after: StandingTask | None = None
        #: Of groups that were not asked to their end: the last task that was asked.
        self._last: dict[Version, tuple[int, str]] = {}
        self._asked: Counter[Version] = Counter()
        self._rows = 0
        #: Some task has to wait for another look.
        self.is_cut = False

    def begin(self) -> None:
        """A look begins."""
        self._asked.clear()
        self._rows = 0
        self.is_cut = False

    def choose(
        self, page: Sequence[StandingTask], unserved: Mapping[Version, Unserved]
    ) -> list[StandingTask]:
        """Those of one page who are asked now; `unserved` has every version of the page."""
        chosen = []
        for task in page:
            group = _group(task, unserved[version_of(task)])
            at = (task.created_at_ms, task.task_id)
            if group is None or at <= self._last.get(group, (-1, "")):
                continue
            if self._asked[group] >= GROUP_TASKS_MAX:
                self.is_cut = True
                continue
            self._asked[group] += 1
            self._last[group] = at
            chosen.append(task)
        self._rows += len(page)
        return chosen

    def goes_on(self, page: Sequence[StandingTask], *, is_last: bool) -> bool:
        """Whether the look reads another page after this one."""
        if is_last:
            self.after = None
            # Who has come to the end of its group begins anew.
            self._last = {
                group: at for group, at in self._last.items() if self._asked[group] >= GROUP_TASKS_MAX
            }
            return False
        self.after = page[-1]
        if self._rows < LOOK_ROWS_MAX and self._asked.total() < LOOK_TASKS_MAX:
            return True
        self.is_cut = True
        return False


def _group(task: StandingTask, unserved: Unserved) -> Version | None:
    """With whom a task is asked; `None`: it need not be."""
    if unserved is None or task.status == "compensating":
        # A failure may name compensations that no template has.
        return version_of(task)
    named = frozenset(task.missing_handlers)
    if named != unserved:
        return version_of(task)
    # Where something is missing, it has been named and is missing still.
    return None if named or not task.is_still else _ALL_SERVED
