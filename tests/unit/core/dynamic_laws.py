"""What every story of a dynamic task has to keep, told from its events and its template alone.

Independent of the model and of the state: a reader of the event log could check it. On the way it is noted which
situations of interest the story came through.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from stepweave_schemas import events
from stepweave_schemas.template import StepTemplate, TaskTemplate

from .dynamic_existence import Graph

_Closing = events.StepCompleted | events.CompensationCompleted | events.CompensationFailed
_ENDS = (
    events.TaskCompleted,
    events.TaskFailed,
    events.TaskBlocked,
    events.TaskCancelled,
    events.TaskResolvedManually,
)
_BY_HAND = (
    events.StepReset,
    events.StepResolvedManually,
    events.StepCompletedManually,
    events.StepSkipped,
    events.TaskPaused,
)
#: They end a task whatever runs.
_CUT_SHORT = (events.TaskCancelled, events.TaskResolvedManually)


class Laws:
    """Reads a story event by event; what is broken fails."""

    def __init__(self, template: TaskTemplate) -> None:
        self._template = template
        graph = Graph(template)
        self._steps, self._above = graph.steps, graph.above
        self._created: set[str] = set()
        self._gone: set[str] = set()
        #: The step of the template that a step is, was made from, or undoes.
        self._slots = {name: name for name in self._steps}
        self._workers: dict[str, list[str]] = {}
        self._placeholders: set[str] = set()
        self._batches_done: set[str] = set()
        #: The tries that were given out and are not settled, and the number of the last try of each step.
        self._open: set[str] = set()
        self._attempts: Counter[str] = Counter()
        self._again: set[str] = set()
        self._checkpointed: set[str] = set()
        self._completed: set[str] = set()
        #: Those of them that have a result; the others were skipped or resolved.
        self._did: set[str] = set()
        self._paused = False
        self._failed: set[str] = set()
        #: The compensations that are due, by the step that each undoes; and how each ended.
        self._due: dict[str, str] = {}
        self._undone: dict[str, bool] = {}
        self._ends: list[type[events.Event]] = []
        self.situations: Counter[str] = Counter()

    def keep(self, story: list[events.Event]) -> None:
        """Read the whole story."""
        for event, following in zip(story, [*story[1:], None], strict=True):
            blocked = self._ends == [events.TaskBlocked]
            if blocked and isinstance(event, (*_BY_HAND, events.TaskGivenUp, *_CUT_SHORT)):
                # Blocked is not the end: an operator may act.
                self._ends.clear()
            allowed = isinstance(event, events.StepResultRefused) or (
                blocked and isinstance(event, events.SignalReceived)
            )
            assert not self._ends or allowed, f"{event.TYPE} after the end"
            self._read(event)
            self._note(event, following)
        assert len(self._ends) == 1

    # -- the laws --------------------------------------------------------------------------------

    def _read(self, event: events.Event) -> None:
        match event:
            case events.StepEnqueued() | events.ChildRequested() | events.SignalAwaited():
                self._given_out(event.step_name, event.attempt)
            case events.StepCompleted() | events.CompensationCompleted() | events.CompensationFailed():
                self._settled(event.step_name, event.attempt)
                self._finished(event)
            case events.StepFailed():
                self._settled(event.step_name, event.attempt)
                self._failed.add(event.step_name)
            case events.StepRetryScheduled():
                self._settled(event.step_name, event.attempt)
            case events.StepReleased() | events.StepCheckpointed():
                self._settled(event.step_name, event.attempt)
                self._again.add(event.step_name)
            case events.DecisionRouted() | events.DecisionDeclined():
                self._grown(event.step_name, event.created, event.excluded)
                if isinstance(event, events.DecisionRouted):
                    named = set(event.chosen)
                    assert all(event.step_name in self._above[name] for name in named)
                    assert not named & self._gone, "a chosen step was excluded before, or at once"
            case events.BatchCreated():
                self._grown(event.step_name, (event.worker_template, *event.created), event.excluded)
                count = max(1, len(event.cursors))
                names = [f"{event.worker_template}_{number:03d}" for number in range(1, count + 1)]
                self._workers[event.worker_template] = names
                self._slots.update(dict.fromkeys(names, event.worker_template))
                self._placeholders.update(names if event.is_no_op else ())
            case events.BatchCompleted():
                self._batches_done.add(event.worker_template)
            case events.StepReset():
                assert event.attempt == self._attempts[event.step_name]
                assert event.step_name not in self._completed | self._open
                self._failed.discard(event.step_name)
            case events.StepResolvedManually() | events.StepCompletedManually():
                self._settled_by_hand(event.step_name)
                if isinstance(event, events.StepCompletedManually):
                    self._did.add(event.step_name)
            case events.StepSkipped() if event.skipped_by:
                assert self._steps[self._slots[event.step_name]].skippable
                self._settled_by_hand(event.step_name)
            case events.TaskPaused():
                self._paused = True
            case events.TaskResumed():
                self._paused = False
            case events.StepSkipped():
                assert set(self._steps[event.step_name].dependencies) <= self._gone
                assert event.step_name not in self._created
                self._completed.add(event.step_name)
            case events.CompensationStarted():
                self._undoing_begins(event)
            case events.TaskFailed():
                self._task_failed(event)
            case _:
                pass
        if isinstance(event, _ENDS):
            self._ends.append(type(event))
            assert isinstance(event, _CUT_SHORT) or not self._open, "it ended with open tries"

    def _settled_by_hand(self, name: str) -> None:
        assert name not in self._completed, f"{name} was done already"
        self._open.discard(name)
        self._failed.discard(name)
        self._again.discard(name)
        self._completed.add(name)

    def _given_out(self, name: str, attempt: int) -> None:
        assert not self._paused, f"{name} was given out while the task was paused"
        assert name not in self._open, f"{name} was given out twice"
        assert name not in self._completed | self._failed, f"{name} was given out after its end"
        last = self._attempts[name]
        assert attempt == (last if name in self._again else last + 1), f"{name}: try {attempt} after {last}"
        self._again.discard(name)
        self._open.add(name)
        self._attempts[name] = attempt
        if name in self._due.values():
            self._undoing(name)
            return
        slot = self._steps[self._slots[name]]
        assert slot.name not in self._gone, f"{name} can never exist"
        assert self._must_be_chosen(slot) <= (slot.name in self._created), f"{name} was not chosen"
        for parent in slot.dependencies:
            assert parent in self._gone | self._completed | self._batches_done, f"{name} before {parent}"
        if name not in self._steps:
            in_flight = [worker for worker in self._workers[slot.name] if worker in self._open]
            parallelism = self._batch_config(slot).parallelism
            assert parallelism is None or len(in_flight) <= parallelism, f"{len(in_flight)} at once"

    def _must_be_chosen(self, slot: StepTemplate) -> bool:
        if slot.type == "batch_worker":
            return True
        above = [self._steps[parent].type for parent in slot.dependencies]
        return slot.type != "deferred_convergence" and "decision" in above

    def _batch_config(self, worker: StepTemplate) -> Any:
        """The `batch_config` of the batchable step of a worker."""
        configs = [self._steps[parent].batch_config for parent in worker.dependencies]
        return next(config for config in configs if config is not None)

    def _settled(self, name: str, attempt: int) -> None:
        assert name in self._open, f"{name} was settled twice"
        assert attempt == self._attempts[name]
        self._open.discard(name)

    def _finished(self, event: _Closing) -> None:
        if isinstance(event, events.StepCompleted):
            self._completed.add(event.step_name)
            self._did.add(event.step_name)
            return
        assert event.step_name not in self._undone, f"{event.step_name} ran twice"
        self._undone[event.step_name] = not event.requires_manual_cleanup
        assert self._due_to(event.step_name) == event.compensates

    def _due_to(self, compensation: str) -> str:
        return next(name for name, each in self._due.items() if each == compensation).partition(" ")[0]

    def _grown(self, decider: str, created: tuple[str, ...], excluded: tuple[str, ...]) -> None:
        assert decider in self._completed
        assert not (self._created | self._gone) & {*created, *excluded}, "decided twice"
        assert not set(created) & set(excluded)
        assert all(self._attempts[name] == 0 for name in (*created, *excluded))
        self._created.update(created)
        self._gone.update(excluded)

    def _undoing_begins(self, event: events.CompensationStarted) -> None:
        assert not self._open
        assert not self._due, "it was undone twice"
        for name in {*self._to_undo(), *(name for name in event.steps if name not in self._workers)}:
            self._due[name] = f"compensate:{name}"
            self._slots[f"compensate:{name}"] = self._slots[name]
        for handler, name in event.handlers.items():
            # One step may have several; the handler tells them apart.
            self._due[f"{name} {handler}"] = f"compensate:{handler}"
            self._slots[f"compensate:{handler}"] = self._slots[name]

    def _to_undo(self) -> list[str]:
        """The steps that did something and declare what undoes it."""
        did = self._did - self._placeholders
        return [name for name in did if self._steps[self._slots[name]].compensation is not None]

    def _undoing(self, name: str) -> None:
        """Everything that depends on it is undone before."""
        for other in self._due.values():
            if self._slots[name] in self._above[self._slots[other]]:
                assert other in self._undone, f"{name} is undone before {other}"

    def _task_failed(self, event: events.TaskFailed) -> None:
        assert set(self._undone) == set(self._due.values()), "not everything was undone"
        unclean = {self._due_to(name) for name, clean in self._undone.items() if not clean}
        assert sorted(event.requires_manual_cleanup) == sorted(unclean)
        if self._due:
            assert event.compensation_status == ("partial" if unclean else "complete")
        asked = self._template.on_failure in (None, "compensate")
        assert self._due or not (asked and self._to_undo()), "nothing was undone"

    # -- what the story came through -----------------------------------------------------------------

    def _note(self, event: events.Event, following: events.Event | None) -> None:
        for situation in self._situations_of(event, following):
            self.situations[situation] += 1

    def _situations_of(self, event: events.Event, following: events.Event | None) -> list[str]:
        match event:
            case events.DecisionRouted() if any(
                self._is_decision(name) for name in self._above[event.step_name]
            ):
                return ["a decision behind a decision"]
            case events.BatchCreated() if any(
                self._is_decision(name) for name in self._above[event.step_name]
            ):
                return ["a batch behind a decision", *(["a placeholder"] if event.is_no_op else [])]
            case events.StepEnqueued() | events.ChildRequested():
                return self._situations_of_try(event)
            case events.SignalAwaited() if isinstance(following, events.StepCompleted):
                return ["a signal that came early"]
            case events.SignalTimedOut():
                return ["a default instead of a signal" if event.used_default else "no signal in time"]
            case events.StepCheckpointed():
                self._checkpointed.add(event.step_name)
            case events.StepRetryScheduled() if event.step_name in self._due.values():
                return ["a compensation tried again"]
            case events.StepReset() | events.StepResolvedManually() | events.StepCompletedManually():
                return self._situations_by_hand(event)
            case events.StepSkipped() if event.skipped_by:
                return ["skipped by hand"]
            case events.StepFailed():
                return self._situations_of_failure(event)
            case events.StepResultRefused():
                return [f"refused: {event.refusal}"]
            case events.CompensationStarted():
                return self._situations_of_undoing(event)
            case events.TaskFailed():
                return [f"failed, undone: {event.compensation_status}"]
            case _:
                pass
        return []

    def _situations_by_hand(
        self, event: events.StepReset | events.StepResolvedManually | events.StepCompletedManually
    ) -> list[str]:
        name, kind = event.step_name, event.TYPE
        found = [f"{kind}: {'tried' if self._attempts[name] else 'untouched'}"]
        if name in self._due.values():
            return [f"{kind}: compensation"]
        if name not in self._steps:
            strategy = self._batch_config(self._steps[self._slots[name]]).failure_strategy
            found.append(f"{kind}: a batch, {strategy}")
        else:
            found.append(f"{kind}: {self._steps[name].type}")
        return found

    def _is_decision(self, name: str) -> bool:
        return self._steps[name].type == "decision"

    def _situations_of_try(self, event: events.StepEnqueued | events.ChildRequested) -> list[str]:
        name, found = event.step_name, []
        if name in self._checkpointed and event.attempt > 1 and name not in self._again:
            found.append("a retry from a checkpoint")
        if isinstance(event, events.ChildRequested):
            found += ["a child that cannot be started"] if event.problems else []
            found += ["a second child for one step"] if event.attempt > 1 else []
        if name in self._due.values():
            beside = [other for other in self._due.values() if other in self._open and other != name]
            return [*found, "undone side by side"] if beside else found
        slot = self._steps[self._slots[name]]
        gone = set(slot.dependencies) & self._gone
        if slot.type == "deferred_convergence" and gone and gone < set(slot.dependencies):
            found.append("a convergence of some of its branches")
        waiting = [worker for worker in self._workers.get(slot.name, ()) if not self._attempts[worker]]
        if waiting and self._batch_config(slot).parallelism is not None:
            found.append("a batch that waits for another one")
        return found

    def _situations_of_failure(self, event: events.StepFailed) -> list[str]:
        name = event.step_name
        found = [
            f"failed: {event.failure_reason}",
            f"failed: {event.error_code}",
            f"ended by {event.settled_by}",
        ]
        if event.tolerated:
            found.append("a failed batch that is put up with")
        elif name not in self._steps:
            strategy = self._batch_config(self._steps[self._slots[name]]).failure_strategy
            found.append(f"a failed batch: {strategy}")
        return found

    def _situations_of_undoing(self, event: events.CompensationStarted) -> list[str]:
        found = ["a handler that only the failure names"] if event.handlers else []
        if self._template.on_failure in ("block", "fail"):
            found.append("undone because the failure asks for it")
        if any(name not in self._completed and name not in self._workers for name in event.steps):
            found.append("a failed step that is undone")
        if any(name in self._workers for name in event.steps):
            found.append("a batch that is undone")
        slots = [self._slots[name] for name in self._due.values()] if self._due else []
        if any(one in self._above[other] for one in slots for other in slots):
            found.append("undone one after another")
        return found
