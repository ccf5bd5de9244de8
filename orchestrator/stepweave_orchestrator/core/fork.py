"""A fork: a new task that takes over what another one, the original, has come to, and runs the rest.

Three steps, all pure. `Past` replays the original's events and keeps besides what its state forgets. `taken_over` says
which outcomes may be reused. `decide_fork` walks the new task's plan, a step after its dependencies: an outcome is
reused where everything that the step depends on is reused too, so what is named to run anew runs anew with all that
follows from it. Decisions are decided again as they were, and batches are cut as they were.

The events of the new task carry every result that it reuses: it is replayed without the original.

What a step did may have to be undone, and by one task only. What was undone is not reused. A task that was cancelled
or has failed (or was given up) undoes nothing any more: its fork does, where the fork cannot complete. Any other original – one that goes
on, is paused or blocked, has completed or was resolved by somebody – stands for its steps itself, and its fork does not undo them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, TypeGuard, cast

import msgspec

from stepweave_schemas import events
from stepweave_schemas.identity import step_uuid
from stepweave_schemas.raw import NO_RAW, raw

from .checks import Checks
from .commands import ForkTask, Moment, Taken
from .evolve import evolve
from .holding import task_held
from .outcomes import choose, cut
from .plan import Plan, StepSpec, worker_name
from .rejection import Decision, Rejection
from .state import MET, StepStatus, TaskState, initial
from .turn import Turn

#: Why a step of the fork is not reused: it was named; the original has no such step, or one of another type; it was not
#: done there, or was undone; its result does not fit the `result_schema` of this version; it depends on one that runs
#: anew; what it chose does not exist in this version; whether it exists is decided anew.
Why = Literal[
    "named", "new", "changed", "not_done", "undone", "misfit", "follows", "choice_gone", "undecided"
]
_SHAPING: Final = frozenset({"decision", "batchable"})
#: What nobody runs again.
_TAKEN: Final = (MET | {"complete"}) - {"compensating", "compensated"}
#: An original that ended so undoes nothing any more, and nobody relies on what it did.
_LEAVES_BEHIND: Final = frozenset({"cancelled", "error"})


class RunAnew(NamedTuple):
    """A step that the fork runs."""

    step: str
    why: Why
    #: It was done in the original: its effects outside happen once more.
    ran_before: bool


class Past:
    """The original: its state, and what only its events tell."""

    def __init__(self, task_id: str, plan: Plan, correlation_id: str) -> None:
        self.state = initial(task_id, plan, correlation_id)
        #: What each decision chose, and how each batchable step was cut, by step.
        self.shaped: dict[str, events.DecisionRouted | events.DecisionDeclined | events.BatchCreated] = {}
        #: Where the original had the outcomes from that it reused itself.
        self.reused: dict[str, events.StepReused] = {}
        #: Steps that were skipped although they had something to do.
        self.passed_over: set[str] = set()

    def apply(self, event: events.Event, recorded_at_ms: int) -> None:
        """Apply the next event of the original."""
        evolve(self.state, event, recorded_at_ms)
        match event:
            case events.DecisionRouted() | events.DecisionDeclined() | events.BatchCreated():
                self.shaped[event.step_name] = event
            case events.StepReused():
                self.reused[event.step_name] = event
                if event.status == "skipped":
                    self.passed_over.add(event.step_name)
            case events.StepSkipped() if event.reason != "no_branches":
                self.passed_over.add(event.step_name)


# -- what may be reused ----------------------------------------------------------------------------


def unknown_steps(past: Past, plan: Plan, from_steps: Iterable[str]) -> list[str]:
    """The names that are those of no step: neither of the fork's plan nor of a batch that the original has cut."""
    return [name for name in from_steps if name not in plan.index and _template_of(past, name) == ""]


def _template_of(past: Past, name: str) -> str:
    """The batch worker of the template that a step was made from; empty where it was not."""
    number = past.state.made.get(name, -1)
    made_from = past.state.steps[number].made_from if number >= 0 else -1
    return past.state.the_plan.steps[made_from].name if made_from >= 0 else ""


def taken_over(past: Past, from_steps: Iterable[str]) -> dict[str, Taken]:
    """The outcomes of the original that a fork may reuse, by step; `from_steps` are to run anew."""
    state = past.state
    anew = frozenset(from_steps)
    undone = {step.compensates for step in state.steps if step.compensates >= 0}
    taken: dict[str, Taken] = {}
    for number, step in enumerate(state.steps):
        name = state.name_of(number)
        if step.compensates >= 0 or number in undone or name in anew or _template_of(past, name) in anew:
            continue
        if not _is_done(past, number, name) or step.requires_manual_cleanup:
            continue
        before = past.reused.get(name) if step.reused is not None else None
        tolerated = step.fault if step.status == "error" else None
        taken[name] = Taken(
            type=state.spec_of(number).type,
            status=step.status,
            result=NO_RAW if step.result is None else raw(step.result),
            task_id=state.task_id if before is None else before.from_task_id,
            step_uuid=step.uuid if before is None else before.from_step_uuid,
            attempt=step.attempt if before is None else before.from_attempt,
            undone_by_original=state.phase not in _LEAVES_BEHIND
            or (step.reused is not None and step.reused.undone_by_original),
            shaped=past.shaped.get(name),
            error_type="" if tolerated is None else tolerated.error_type,
            error_message="" if tolerated is None else tolerated.error_message,
            error_code=None if tolerated is None else tolerated.error_code,
        )
    return taken


def _is_done(past: Past, number: int, name: str) -> bool:
    state = past.state
    step = state.steps[number]
    if step.status == "skipped":
        # One without branches follows from the decisions, and may be another matter in the fork.
        return name in past.passed_over
    if step.status == "error":
        # One batch of many: the others have made up for it.
        batch = state.batches.get(step.made_from)
        return batch is not None and batch.completed and number not in state.failed
    return step.status in _TAKEN


# -- the decision ----------------------------------------------------------------------------------


def decide_fork(state: TaskState, command: ForkTask, moment: Moment) -> Decision:
    """The events that a fork begins with; see `decide`."""
    created = command.created
    if state.version:
        if (state.request_digest, state.request_id) == (created.request_digest, created.request_id):
            return []
        return Rejection(
            "CONFLICT", "the id of the fork is that of another task, or was used for another fork"
        )
    begun = msgspec.structs.replace(
        state, context=bytes(created.context).decode(), created_at_ms=moment.now_ms
    )
    turn = Turn(begun, moment)
    turn.happened.append(created)
    plan = turn.plan
    # Results that were good enough for the same version are so again, also those that an operator has given.
    checks = None if created.template == command.template else plan.checks
    for slot in sorted(range(len(plan.steps)), key=plan.places.__getitem__):
        if turn.is_ready(slot):
            if plan.steps[slot].type == "batch_worker":
                _reuse_batch(turn, slot, command.taken, checks)
            else:
                _reuse_step(turn, slot, command.taken, checks)
    refusal = _ruled_out(turn, created) or _too_much(turn.happened, moment)
    if refusal is not None:
        return refusal
    if turn.is_done and created.template == command.template:
        return Rejection(
            "CONFLICT", "every step is done, so a fork would run none: name the step that it is to run from"
        )
    held = None if turn.is_done else task_held(begun, moment)
    if held is not None:
        return [*turn.happened, held]
    turn.begin_ready()
    return turn.finish()


def _is_usable(known: Taken | None, spec: StepSpec, checks: Checks | None) -> TypeGuard[Taken]:
    """Whether an outcome is one of such a step, as this version has it."""
    return known is not None and known.type == spec.type and not _is_misfit(known.result, spec, checks)


def _is_misfit(result: msgspec.Raw, spec: StepSpec, checks: Checks | None) -> bool:
    return checks is not None and bool(bytes(result)) and bool(checks.of_result(spec.name, result))


def _reuse_step(turn: Turn, slot: int, taken: dict[str, Taken], checks: Checks | None) -> None:
    spec = turn.plan.steps[slot]
    known = taken.get(spec.name)
    if not _is_usable(known, spec, checks):
        return
    if spec.type not in _SHAPING:
        _reuse(turn, slot, known)
        return
    shaped = known.shaped
    if isinstance(shaped, events.BatchCreated) and spec.type == "batchable":
        worker = turn.plan.index.get(shaped.worker_template, -1)
        if worker in turn.plan.workers_of(slot):
            _reuse(turn, slot, known)
            cut(turn, slot, worker, () if shaped.is_no_op else shaped.cursors, shaped.reason)
    elif isinstance(shaped, events.DecisionRouted | events.DecisionDeclined) and spec.type == "decision":
        chosen = shaped.chosen if isinstance(shaped, events.DecisionRouted) else ()
        if _may_choose(turn.plan, slot, chosen):
            _reuse(turn, slot, known)
            reason = shaped.reason if isinstance(shaped, events.DecisionDeclined) else ""
            choose(turn, slot, chosen, reason, shaped.routing_context)


def _may_choose(plan: Plan, decision: int, names: tuple[str, ...]) -> bool:
    """Whether this version has the steps that a decision chose, and has them behind it."""
    if not names:
        return True
    behind = set(plan.descendants(decision))
    numbers = [plan.index.get(name, -1) for name in names]
    return all(number in behind and plan.steps[number].type != "batch_worker" for number in numbers)


def _reuse_batch(turn: Turn, slot: int, taken: dict[str, Taken], checks: Checks | None) -> None:
    batch = turn.batch_or_none(slot)
    assert batch is not None, "a batch worker that exists has its batches"
    spec = turn.plan.steps[slot]
    tolerant = turn.plan.batch_of(slot).failure_strategy == "continue_on_failure"
    if batch.is_no_op:
        # A placeholder has done nothing, and has nothing to show.
        checks = None
    found = [taken.get(worker_name(spec.name, position + 1)) for position in range(batch.count)]
    # A failure is put up with where the whole batch is reused; it is another matter once one of them runs anew.
    whole = tolerant and all(_is_usable(known, spec, checks) for known in found)
    for position, known in enumerate(found):
        if not _is_usable(known, spec, checks) or (known.status == "error" and not whole):
            continue
        name = worker_name(spec.name, position + 1)
        turn.happened.append(_reused(name, step_uuid(turn.state.task_id, name), known))
        turn.reuse_worker(slot, position, cast(StepStatus, known.status))


def _reuse(turn: Turn, slot: int, known: Taken) -> None:
    turn.happened.append(_reused(turn.plan.steps[slot].name, turn.state.steps[slot].uuid, known))
    turn.reuse(slot, cast(StepStatus, known.status), known.result)


def _reused(name: str, uuid: str, known: Taken) -> events.StepReused:
    return events.StepReused(
        step_name=name,
        step_uuid=uuid,
        status=known.status,
        result=known.result,
        from_task_id=known.task_id,
        from_step_uuid=known.step_uuid,
        from_attempt=known.attempt,
        undone_by_original=known.undone_by_original,
        error_type=known.error_type,
        error_message=known.error_message,
        error_code=known.error_code,
    )


def _ruled_out(turn: Turn, created: events.TaskCreated) -> Rejection | None:
    """Why a step that was named will not run, where it will not."""
    origin = created.forked_from
    for name in origin.from_steps if origin is not None else ():
        slot = turn.plan.index.get(name, -1)
        if slot >= 0 and turn.status_of(slot) in ("excluded", "skipped"):
            return Rejection(
                "CONFLICT",
                f"step {name!r} would not run: the decisions of the original, which are reused, leave it out; "
                "fork from the decision above it",
            )
    return None


def _too_much(happened: list[events.Event], moment: Moment) -> Rejection | None:
    """Why so much cannot be reused: all of it has to stand in one append."""
    limits = moment.limits
    steps = size_bytes = 0
    for event in happened:
        if isinstance(event, events.StepReused):
            steps += 1
            size_bytes += len(bytes(event.result))
        elif isinstance(event, events.BatchCreated):
            size_bytes += sum(len(bytes(cursor)) for cursor in event.cursors)
    if steps <= limits.reused_steps_max and size_bytes <= limits.reused_bytes_max:
        return None
    return Rejection(
        "CONFLICT",
        f"the fork would take over {steps} steps with {size_bytes} bytes of results; a fork takes over at most "
        f"{limits.reused_steps_max} steps with {limits.reused_bytes_max} bytes: fork from an earlier step",
    )


# -- what a fork runs ------------------------------------------------------------------------------


def reused_steps(fork: TaskState) -> list[str]:
    """The steps whose outcomes the fork reuses, in the order of the template."""
    return [fork.name_of(number) for number in fork.shown_steps() if fork.steps[number].reused is not None]


def run_anew(fork: TaskState, past: Past, from_steps: Iterable[str]) -> list[RunAnew]:
    """The steps that the fork runs, or may run, in the order of the template, and why; `fork` has just begun."""
    anew = frozenset(from_steps)
    plan = fork.the_plan
    undone = {step.compensates for step in past.state.steps}
    found: list[RunAnew] = []
    for slot in range(len(plan.steps)):
        batch = fork.batches.get(slot)
        numbers = [slot] if batch is None else range(batch.first, batch.first + batch.count)
        for number in numbers:
            step = fork.steps[number]
            name = fork.name_of(number)
            if step.status == "absent":
                found.append(RunAnew(name, "undecided", ran_before=_ran(past, name)))
            elif step.reused is None and step.status not in ("excluded", "skipped"):
                found.append(
                    RunAnew(name, _why(fork, slot, name, past, anew, undone), ran_before=_ran(past, name))
                )
    return found


def _ran(past: Past, name: str) -> bool:
    number = past.state.number_of(name)
    return number >= 0 and past.state.steps[number].status == "complete"


def _why(fork: TaskState, slot: int, name: str, past: Past, anew: frozenset[str], undone: set[int]) -> Why:
    plan = fork.the_plan
    if name in anew or plan.steps[slot].name in anew:
        return "named"
    number = past.state.number_of(name)
    if number < 0:
        return "new"
    if past.state.spec_of(number).type != plan.steps[slot].type:
        return "changed"
    if number in undone:
        return "undone"
    if past.state.steps[number].status not in _TAKEN:
        return "not_done"
    ready = not fork.steps[slot].unmet
    result = past.state.steps[number].result
    checks = None if plan.ref == past.state.the_plan.ref else plan.checks
    if ready and result is not None and _is_misfit(raw(result), plan.steps[slot], checks):
        return "misfit"
    return "choice_gone" if ready and plan.steps[slot].type in _SHAPING else "follows"
