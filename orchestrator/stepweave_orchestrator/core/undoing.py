"""Undoing a task: which compensations run, in which order, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepweave_schemas import events
from stepweave_schemas.identity import step_uuid
from stepweave_schemas.raw import raw

from . import saga
from .plan import COMPENSATION_PREFIX, worker_name
from .tries import NAMED_STEPS_MAX, NAMED_TO_UNDO_BYTES_MAX, Failed, enqueued

if TYPE_CHECKING:
    from .turn import Turn


class Undoing:
    """The part of a turn that is about compensations."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        #: Differences to the state's saga.
        self._left: dict[int, int] = {}
        self._shrunk: dict[int, int] = {}
        self._uncleaned: list[str] = []

    def task_failed(
        self, names: tuple[str, ...], message: str, code: str | None, *, undone: str | None = None
    ) -> events.TaskFailed:
        """The event that ends the task in error; `undone` is its `compensation_status` where anything was due."""
        state = self._turn.state
        uncleaned = [
            state.name_of(number) for number, step in enumerate(state.steps) if step.requires_manual_cleanup
        ]
        return events.TaskFailed(
            task_name=self._turn.plan.ref.name,
            namespace=self._turn.plan.ref.namespace,
            context=raw(state.context),
            failed_steps=names,
            error_message=message,
            error_code=code,
            compensation_status=undone,
            # A step with two compensations is named once.
            requires_manual_cleanup=tuple(dict.fromkeys((*uncleaned, *self._uncleaned)))[:NAMED_STEPS_MAX]
            if undone
            else (),
        )

    def begin(self, failed: list[int], names: tuple[str, ...], message: str, code: str | None) -> None:
        """Nothing can go on: undo what has to be, or end the task where there is nothing to undo."""
        targets, handlers, left_out = self._to_undo(failed)
        if not targets and not handlers:
            self._turn.happened.append(self.task_failed(names, message, code, undone="complete"))
            return
        self._turn.happened.append(
            events.CompensationStarted(
                task_name=self._turn.plan.ref.name,
                namespace=self._turn.plan.ref.namespace,
                failed_steps=names,
                error_message=message,
                error_code=code,
                steps=tuple(targets),
                handlers=handlers,
                left_out_count=left_out,
            )
        )
        members: dict[int, list[str]] = {}
        for name, slot in targets.items():
            members.setdefault(slot, []).extend(self._undoing_of(name, slot))
        for handler, name in handlers.items():
            slot = self._turn.state.slot_of(self._turn.state.number_of(name))
            members.setdefault(slot, []).append(COMPENSATION_PREFIX + handler)
        _, ready = saga.opening(self._turn.plan, {slot: len(own) for slot, own in members.items()})
        for slot in ready:
            for name in members[slot]:
                self._turn.happened.append(
                    enqueued(name, step_uuid(self._turn.state.task_id, name), 1, self._turn.moment)
                )

    def _to_undo(self, failed: list[int]) -> tuple[dict[str, int], dict[str, str], int]:
        """The steps to undo with their slots, the handlers besides with the step whose failure named each, and how
        many names were too many."""
        state, plan = self._turn.state, self._turn.plan
        targets: dict[str, int] = {}
        by_handler: dict[str, list[int]] = {}
        for slot, spec in enumerate(plan.steps):
            if spec.compensation is None:
                continue
            by_handler.setdefault(spec.compensation.handler.callable, []).append(slot)
            batch = self._turn.batch_or_none(slot)
            if batch is not None:
                # A placeholder has done nothing; neither has a worker that an operator has settled.
                done = bool(batch.succeeded) and not batch.is_no_op
                if done and (state.forked_from is not None or self._turn.stepped_in):
                    workers = range(batch.first, batch.first + batch.count)
                    done = any(self._is_ours_to_undo(worker) for worker in workers)
            else:
                done = self._is_ours_to_undo(slot)
            if done:
                targets[spec.name] = slot
        handlers: dict[str, str] = {}
        size_bytes = left_out = 0
        for number in failed:
            for name in self._turn.undo_of(number):
                named = state.number_of(name)
                if named >= 0 and plan.steps[state.slot_of(named)].compensation is not None:
                    candidates = [named]
                elif name in by_handler:
                    candidates = by_handler[name]
                else:
                    by = state.name_of(number)
                    if name in handlers:
                        continue
                    if size_bytes + len(name.encode()) <= NAMED_TO_UNDO_BYTES_MAX:
                        handlers[name] = by
                        size_bytes += len(name.encode()) + len(by)
                    else:
                        left_out += 1
                    continue
                for candidate in candidates:
                    # By the name of its template or handler, a failed worker of a batch means itself.
                    own = number if candidate == state.steps[number].made_from else candidate
                    # Whatever is complete is undone anyway; whatever was never tried left nothing behind.
                    own_name = state.name_of(own)
                    if (
                        self._turn.status_of(own) == "complete"
                        or not state.steps[own].attempt
                        or own_name in targets
                    ):
                        continue
                    if size_bytes <= NAMED_TO_UNDO_BYTES_MAX:
                        targets[own_name] = state.slot_of(own)
                        size_bytes += len(own_name)
                    else:
                        left_out += 1
        return targets, handlers, left_out

    def _is_ours_to_undo(self, number: int) -> bool:
        """Whether a step is complete, and is not one that a fork reuses and the original undoes."""
        reused = self._turn.state.steps[number].reused
        complete = self._turn.status_of(number) == "complete"
        return complete and (reused is None or not reused.undone_by_original)

    def _undoing_of(self, name: str, slot: int) -> list[str]:
        """The compensations of one target: a step, or all completed workers of a batch."""
        batch = self._turn.batch_or_none(slot)
        if batch is None or name != self._turn.plan.steps[slot].name:
            return [COMPENSATION_PREFIX + name]
        return [
            COMPENSATION_PREFIX + worker_name(name, position + 1)
            for position in range(batch.count)
            if self._is_ours_to_undo(batch.first + position)
        ]

    def failed(self, number: int, failure: Failed, reason: str) -> None:
        """A compensation has failed for good."""
        state = self._turn.state
        step = state.steps[number]
        target = state.name_of(step.compensates)
        self._turn.happened.append(
            events.CompensationFailed(
                step_name=step.name,
                step_uuid=step.uuid,
                compensates=target,
                attempt=step.attempt,
                error_type=failure.error_type,
                error_message=failure.error_message,
                error_code=failure.error_code,
                settled_by=failure.settled_by,
                failure_reason=reason,
                worker_id=failure.worker_id,
                metadata=failure.metadata,
            )
        )
        self.ended(number, target, clean=False)

    def ended(self, number: int, target: str, *, clean: bool) -> None:
        """A compensation has ended (its event is in `happened`): go on with what waited for it."""
        state = self._turn.state
        running = state.saga
        assert running is not None
        self._turn.leave(number, "complete" if clean else "error")
        if not clean:
            self._uncleaned.append(target)
        slot = state.slot_of(number)

        def left_of(one: int) -> int:
            return running.left.get(one, 0) + self._left.get(one, 0)

        self._left[slot] = self._left.get(slot, 0) - 1
        if not left_of(slot):
            ready, shrunk = saga.cascade(
                self._turn.plan, slot, left_of, lambda one: running.waits[one] - self._shrunk.get(one, 0)
            )
            for one, count in shrunk.items():
                self._shrunk[one] = self._shrunk.get(one, 0) + count
            for one in ready:
                for member in running.members[one]:
                    step = state.steps[member]
                    self._turn.happened.append(enqueued(step.name, step.uuid, 1, self._turn.moment))
        if running.left_count + sum(self._left.values()) == 0:
            failed = state.failed
            names = tuple(state.name_of(one) for one in failed[:NAMED_STEPS_MAX])
            message, code = state.ending_message, state.ending_code
            partial = bool(self._uncleaned or running.left_out_count) or any(
                step.requires_manual_cleanup for step in state.steps
            )
            self._turn.happened.append(
                self.task_failed(names, message, code, undone="partial" if partial else "complete")
            )
