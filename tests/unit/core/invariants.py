"""What must hold of a task's state at any moment, found by looking at everything."""

from __future__ import annotations

from collections.abc import Callable

from stepweave_orchestrator.core.state import (
    ACTIVE,
    HIDDEN,
    MET,
    NOT_RUNNING,
    OPEN,
    SUSPENDED,
    StepState,
    TaskState,
)

#: A begun batch worker in one of these has not ended.
_UNDER_WAY = OPEN | {"waiting_for_retry", "held"}


def check_state(state: TaskState) -> None:
    """Compare every counter and index of the state with what a full scan of its steps says.

    For the state after all events of one decision; `check_counters` may be asked in between.
    """
    check_counters(state)
    plan = state.the_plan
    steps = {state.name_of(number): step for number, step in enumerate(state.steps)}
    assert len(steps) == len(state.steps), "two steps have the same name"

    def named(*statuses: str) -> list[str]:
        return [name for name, step in steps.items() if step.status in statuses]

    for number, spec in enumerate(plan.steps):
        step = state.steps[number]
        unmet = [parent for parent in plan.parents[number] if not _is_met(state, parent)]
        assert step.unmet == len(unmet), f"{spec.name} waits for {unmet}, and says {step.unmet}"
        tries = step.attempt - step.forgiven
        assert tries <= (spec.retry.max_attempts if spec.retry.retryable else 1)
    for number, (name, step) in enumerate(steps.items()):
        assert state.number_of(name) == number
        _check_step(name, step)
    _check_existence(state)
    _check_batches(state)
    _check_saga(state)
    for kept in state.mailbox:
        waiting = [slot for slot in plan.signal_steps[kept.signal] if _waits_for_signal(state, slot)]
        assert not waiting, f"{kept.signal} is kept although a step waits for it"
    assert state.next_wake_ms() == _next_wake_ms(state), "the next wake-up is another one"
    waiting_count = len(named("waiting_for_retry", *ACTIVE, *SUSPENDED))
    assert len(state.due) <= 2 * waiting_count + 17, "outdated wake-ups pile up"
    _check_task(state, named)
    _check_letters(state)


def check_counters(state: TaskState) -> None:
    """What must hold between the events of one decision, too."""
    statuses = [step.status for step in state.steps]
    own = [number for number, step in enumerate(state.steps) if step.compensates < 0]
    broken = [number for number in own if statuses[number] == "error"]
    tolerated = [number for number in broken if number not in state.failed]
    assert state.existing_count == sum(statuses[number] not in HIDDEN for number in own)
    assert state.done_count == sum(statuses[number] in MET for number in own) + len(tolerated)
    assert state.active_count == sum(status in ACTIVE for status in statuses)
    of_task = state.hold is not None
    assert state.suspended_count == sum(status in SUSPENDED for status in statuses) + of_task
    gated = sum((step.hold is not None) + len(step.passes) for step in state.steps)
    assert state.gated_count == gated + of_task + len(state.passes)
    assert state.waiting_count == statuses.count("waiting_for_retry")
    assert len(set(state.failed)) == len(state.failed)
    assert set(state.failed) <= set(broken)
    for number in tolerated:
        slot = state.steps[number].made_from
        assert slot >= 0, f"the failure of {state.name_of(number)} holds nothing up"
        assert state.the_plan.batch_of(slot).failure_strategy == "continue_on_failure"
    for slot, batch in state.batches.items():
        workers = state.steps[batch.first : batch.first + batch.count]
        assert all(worker.made_from == slot for worker in workers)
        _check_begun(batch.begun, workers)
        waiting = {batch.first + at for at, one in enumerate(workers) if one.status == "pending"}
        assert set(batch.again) == {number for number in waiting if number < batch.first + batch.begun}
        assert len(set(batch.again)) == len(batch.again)
        assert batch.running == sum(worker.status in _UNDER_WAY for worker in workers)
        assert batch.succeeded == sum(worker.status in MET for worker in workers)
        assert batch.failed == sum(worker.status == "error" for worker in workers)


def _has_begun(step: StepState) -> bool:
    """Whether a try of a made step was given out, or a gate was asked for one."""
    return step.attempt > 0 or step.status == "held"


def _check_begun(begun: int, workers: list[StepState]) -> None:
    """The first ones have begun, were settled by an operator before, or are reused; the one after them is none of it."""
    assert not any(_has_begun(worker) for worker in workers[begun:])
    assert begun == len(workers) or (workers[begun].status not in MET and workers[begun].reused is None)


def _may_have_begun(step: StepState) -> bool:
    """Whether nothing tells a step that was cancelled before it began from one that was cancelled while it was held."""
    return step.status == "cancelled" and not step.attempt


def _is_met(state: TaskState, slot: int) -> bool:
    """Whether nothing waits for this step of the plan any more."""
    batch = state.batches.get(slot)
    if batch is None:
        return state.steps[slot].status in MET | {"excluded"}
    if batch.succeeded + batch.failed < batch.count or not batch.succeeded:
        return False
    return not batch.failed or state.the_plan.batch_of(slot).failure_strategy == "continue_on_failure"


def _waits_for_signal(state: TaskState, slot: int) -> bool:
    return state.steps[slot].status == "waiting_for_signal"


def _check_step(name: str, step: StepState) -> None:
    if step.worker_id != "signal" and step.status != "waiting_for_signal":
        assert not step.lease_token or step.attempt, name
    if step.status in (*ACTIVE, "waiting_for_child", "waiting_for_retry"):
        assert step.lease_token or _is_handed_back(step), name
    if step.status in HIDDEN or (step.status in ("pending", "skipped") and not step.attempt):
        assert (step.attempt, step.settled_by, step.due_at_ms, step.lease_token) == (0, "", None, ""), name
    if step.status in OPEN:
        assert not step.settled_by, name
    # An operator may settle a step before its dependencies are done.
    if step.status not in ("pending", "cancelled", *HIDDEN, *MET) or step.settled_by == "success":
        assert step.unmet == 0, f"{name} ran before its dependencies"
    if step.status not in ("in_progress", "waiting_for_retry", *SUSPENDED) and not _is_handed_back(step):
        assert step.due_at_ms is None, f"{name} would be woken for nothing"
    if step.status == "waiting_for_retry":
        assert step.due_at_ms is not None, f"{name} would never be tried again"
    # A hold lasts while the step is held, what it has passed while its try is out or on its way.
    assert (step.hold is not None) == (step.status == "held"), f"{name} is held by nothing"
    keeps = step.status in (*OPEN, "held") and not _is_handed_back(step)
    assert keeps or not step.passes, f"{name} keeps what it does not need"
    if step.status in ("waiting_for_retry", "error"):
        assert step.fault is not None, name
    if step.compensates < 0:
        done = step.status in MET - {"skipped", "resolved_manually"}
        assert (step.result is not None) == done, f"{name} is {step.status}; its result is {step.result}"
    assert len(set(step.refused_attempts)) == len(step.refused_attempts), f"{name}: refused twice"


def _is_handed_back(step: StepState) -> bool:
    """Whether a worker without its handler has handed the step back, and it is given out again later."""
    return (
        step.status == "enqueued"
        and not step.lease_token
        and step.handed_back > 0
        and step.due_at_ms is not None
    )


def _check_existence(state: TaskState) -> None:
    """No step is left in the dark once everybody who could say something about it has spoken."""
    plan = state.the_plan
    silent = {
        number
        for number, spec in enumerate(plan.steps)
        if spec.type in ("decision", "batchable") and state.steps[number].status not in MET | {"excluded"}
    }
    for number, step in enumerate(state.steps[: len(plan.steps)]):
        if step.status == "absent":
            assert silent & set(plan.ancestors(number)), f"{plan.steps[number].name} is absent for ever"
        if step.status == "expanded":
            assert number in state.batches
    assert all(state.steps[slot].status == "expanded" for slot in state.batches)


def _check_batches(state: TaskState) -> None:
    for slot, batch in state.batches.items():
        spec = state.the_plan.batch_of(slot)
        workers = state.steps[batch.first : batch.first + batch.count]
        assert spec.parallelism is None or batch.running <= spec.parallelism, "more batches at once than may"
        if batch.running:
            assert state.steps[slot].unmet == 0, "a batch ran before its dependencies"
        if batch.stopped:
            assert not [
                worker
                for at, worker in enumerate(workers)
                if worker.status in NOT_RUNNING and batch.first + at not in batch.again
            ]
        elif (
            not state.is_terminal
            and state.steps[slot].unmet == 0
            and state.phase != "paused"
            and state.hold is None
        ):
            pending_count = batch.count - batch.begun + len(batch.again)
            assert not pending_count or batch.running == spec.parallelism, "a batch waits for nothing"
        beginnings = [
            _has_begun(worker)
            for worker in workers
            if worker.status not in ("pending", *MET)
            and worker.reused is None
            and not _may_have_begun(worker)
        ]
        assert beginnings == sorted(beginnings, reverse=True), "batches begin out of order"


def _check_saga(state: TaskState) -> None:
    running = state.saga
    if running is None:
        return
    plan = state.the_plan
    made = [number for number, step in enumerate(state.steps) if step.compensates >= 0]
    assert sorted(number for own in running.members.values() for number in own) == made
    left = {
        slot: sum(
            not state.steps[number].settled_by or state.steps[number].status in _UNDER_WAY for number in own
        )
        for slot, own in running.members.items()
    }
    assert running.left == left
    assert running.left_count == sum(left.values())
    for slot in range(len(plan.steps)):
        unpassed = [
            dependent
            for dependent in plan.dependents[slot]
            if running.waits[dependent] or running.left.get(dependent)
        ]
        assert running.waits[slot] == len(unpassed), f"{plan.steps[slot].name} waits for {unpassed}"
        for number in running.members.get(slot, ()):
            began = state.steps[number].attempt > 0
            assert began == (not unpassed), f"{state.name_of(number)} is out of order"


def _next_wake_ms(state: TaskState) -> int | None:
    if state.phase == "pending":
        return state.start_at_ms
    held = {"waiting_for_retry"} if state.phase == "paused" else set()
    moments = [
        step.due_at_ms for step in state.steps if step.due_at_ms is not None and step.status not in held
    ]
    return min([*moments, *_stale_moments(state)], default=None)


def _stale_moments(state: TaskState) -> list[int]:
    """When the task will be stale, by each time of its template that is not known to be over."""
    lifecycle, watch = state.the_plan.lifecycle, state.watch
    if lifecycle is None or state.is_terminal:
        return []
    assert watch is not None, "a task with a lifecycle is not watched"
    assert watch.status == state.status
    if state.phase == "paused":
        return []
    stay = {
        "steps_in_process": lifecycle.max_steps_in_process_seconds,
        "waiting_for_retry": lifecycle.max_waiting_for_retry_seconds,
        "waiting_for_dependencies": lifecycle.max_waiting_for_dependencies_seconds,
    }.get(state.status)
    found = []
    if stay is not None and not watch.stay_raised:
        found.append(watch.since_ms + round(stay * 1_000))
    if lifecycle.max_duration_seconds is not None and not watch.duration_raised:
        found.append(watch.began_at_ms + round(lifecycle.max_duration_seconds * 1_000))
    return found


def _check_letters(state: TaskState) -> None:
    """A task that is stuck has one open dead letter, and one that is not has none."""
    letters = [] if state.watch is None else state.watch.letters
    assert (
        [one.number for one in letters] == list(range(letters[0].number, letters[-1].number + 1))
        if letters
        else True
    )
    assert not any(one.is_open for one in letters[:-1]), "two dead letters are open"
    for one in letters:
        assert one.is_open == (one.resolution_status in ("pending", "investigating"))
        assert one.opened_at_ms <= one.updated_at_ms
    is_open = bool(letters) and letters[-1].is_open
    if state.is_terminal:
        assert not is_open, "a task has ended, and its dead letter has not"
    if state.phase == "blocked_by_failures":
        last = letters[-1]
        assert last.reason == "failures" and last.listed
        assert is_open or not last.closed_by_task, "a blocked task is missing in the dead letters"


def _check_task(state: TaskState, named: Callable[..., list[str]]) -> None:
    open_steps = named("waiting_for_retry", *ACTIVE, *SUSPENDED)
    assert (state.completed_at_ms is not None) == state.is_terminal
    assert not state.is_terminal or not state.gated_count, "something is held for the dead"
    match state.status:
        case "complete":
            assert not state.failed
            assert state.done_count == state.existing_count
            assert not named("absent", "pending", *ACTIVE, *SUSPENDED), "complete, but not all of it"
        case "blocked_by_failures" | "error":
            assert state.failed or state.ending_code == "TASK_STALE", "blocked for no reason"
            assert not open_steps, "blocked while something could go on"
            assert not named("compensating")
        case "cancelled" | "resolved_manually":
            assert not named("pending"), "ended, but steps still wait"
            assert not open_steps
        case "steps_in_process":
            assert named(*ACTIVE), "nothing runs, and nobody says so"
        case "waiting_for_retry":
            assert named("waiting_for_retry")
            assert not named(*ACTIVE)
        case "waiting_for_dependencies":
            assert named(*SUSPENDED) or state.hold is not None
            assert not named("waiting_for_retry", *ACTIVE)
        case "compensating":
            assert state.saga is not None
            assert named("waiting_for_retry", *ACTIVE), "nothing is being undone any more"
        case "pending":
            assert not any(step.attempt for step in state.steps)
        case "paused":
            assert not any(_is_handed_back(step) for step in state.steps), "it would be given out"
            assert not named("held") and state.hold is None, "a paused task stands in a line"
    if state.is_terminal:
        assert not state.mailbox
