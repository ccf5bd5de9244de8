"""Why a task is where it is: what its state says, as findings.

`explain` looks at the state once and names what holds the task up, the root before what follows from it: a step that
only waits for another one is counted with that one. What the state cannot know – how long a line before a gate is,
who serves a queue – a finding asks for (`gate`, `work`, `child_task_id`); `explanation_text` makes sentences of the
finding and of what was found out.

| code | meaning | `details` |
|---|---|---|
| `start_delayed` | the task begins later | |
| `task_held` | the task waits for a slot | `group`, `value`, `limit` |
| `paused` | an operator holds the task back | `actions`, `start_at_ms` |
| `stale` | the task is known to stand still for too long | `error_message`, `threshold`, `listed` |
| `stale_later` | the task counts as standing still from then on, where nothing changes | `threshold`, `action` |
| `blocked` | nothing can run until an operator acts | `failed`, `failed_count`, `actions` |
| `failed` | a step failed for good | `error_*`, `tries`, `actions`, `on_failure`, `blocked` |
| `compensating` | the task is being undone | `left`, `error_message` |
| `held_for_slot`, `held_by_circuit`, `held_by_rate` | a try waits before a gate | `group`, `value`, `limit`, `per_second` |
| `waiting_for_signal` | a step waits for a signal | `signal`, `has_default` |
| `waiting_for_child` | a step waits for another task | `child` |
| `waiting_for_retry` | a step is tried again later | `error_*`, `tries`, `actions`, `paused` |
| `enqueued` | a try was given to the workers, or came back and is given out again | `handler`, `queue`, `tries`, `handed_back`, `missing` |
| `in_progress` | a worker has said that it runs a try | `worker_id`, `tries`, `items_processed` |
| `batch_bounded` | no more steps of a batch may run at once | `parallelism`, `count`, `left`, `running`, `ended`, `failed` |
| `batch` | how far a batch is | `count`, `left`, `running`, `ended`, `failed` |
| `pending` | a step waits for others, or for its turn in its batch | `dependencies`, `batch` |
| `absent`, `excluded`, `done` | a step does not exist (yet), or has ended | `deciders`, `status` |
| `clean_up` | a step could not be undone | `error_message` |
| `ended` | the task has ended | `status`, `error_*` |
| `moving` | nothing is awaited: the next event is on its way | |
| `more` | what is not told | counts by status |
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from stepweave_schemas.gate import GateKind
from stepweave_schemas.subjects import PriorityClass, priority_class

from .allowed import allowed_actions, allowed_step_actions
from .dead_letters import open_letter
from .stale_moments import stale_moments
from .state import HIDDEN, MET, BatchState, Fault, Pass, StepState, TaskState

FindingCode = Literal[
    "start_delayed",
    "task_held",
    "paused",
    "stale",
    "stale_later",
    "blocked",
    "failed",
    "compensating",
    "held_for_slot",
    "held_by_circuit",
    "held_by_rate",
    "waiting_for_signal",
    "waiting_for_child",
    "waiting_for_retry",
    "enqueued",
    "in_progress",
    "batch_bounded",
    "batch",
    "pending",
    "absent",
    "excluded",
    "done",
    "clean_up",
    "ended",
    "moving",
    "more",
]
#: Findings about steps in one explanation; the rest is counted.
FINDINGS_MAX: Final = 10
#: Most names that one finding lists.
NAMES_MAX: Final = 5
#: Of a message this much is quoted.
MESSAGE_CHARS_MAX: Final = 300
_HELD: Final[dict[GateKind, FindingCode]] = {
    "concurrency": "held_for_slot",
    "circuit": "held_by_circuit",
    "rate": "held_by_rate",
}
#: What is told first: what only somebody's act or a time can change, then what goes on by itself.
_RANKS: Final[dict[str, int]] = {
    code: rank
    for rank, code in enumerate(
        (
            "failed",
            "held_by_circuit",
            "held_for_slot",
            "waiting_for_signal",
            "waiting_for_child",
            "waiting_for_retry",
            "held_by_rate",
            "enqueued",
            "in_progress",
        )
    )
}


class GateNeed(msgspec.Struct, frozen=True, kw_only=True):
    """Where something waits: how it stands there, only the gate knows."""

    gate: GateKind
    gate_id: str
    token: str


class WorkNeed(msgspec.Struct, frozen=True, kw_only=True):
    """What a try needs to be run: a worker of this queue that has the handler."""

    namespace: str
    queue: str
    priority: PriorityClass
    handler: str


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that holds a task up, or says how it stands; moments in ms since the Unix epoch."""

    code: FindingCode
    step: str = ""
    #: The step's try that it is about; 0 before the first.
    attempt: int = 0
    since_ms: int | None = None
    until_ms: int | None = None
    details: dict[str, Any] = {}
    #: Steps of the same kind that are in the same situation.
    alike_count: int = 0
    #: Steps that exist and wait for this one, directly or not; and those of which is not decided whether they will.
    waiting_count: int = 0
    undecided_count: int = 0
    gate: GateNeed | None = None
    work: WorkNeed | None = None
    child_task_id: str = ""


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """A task's findings, and what a sentence about it needs besides."""

    task_id: str
    namespace: str
    name: str
    template_version: str
    status: str
    version: int
    done_count: int
    total_count: int
    findings: list[Finding]


def number_named(state: TaskState, step: str) -> int:
    """The number of a step by its name or uuid, also of one that does not exist (yet); -1 where there is none."""
    number = state.number_of(step)
    if number >= 0:
        return number
    return next((at for at, one in enumerate(state.steps) if one.uuid == step), -1)


def explained(state: TaskState, now_ms: int, step: str | None = None) -> Explained:
    """The findings of `explain` with what a summary needs; `step` must be one of the task's (`number_named`)."""
    ref = state.the_plan.ref
    return Explained(
        task_id=state.task_id,
        namespace=ref.namespace,
        name=ref.name,
        template_version=ref.version,
        status=state.status,
        version=state.version,
        done_count=state.done_count,
        total_count=state.existing_count,
        findings=explain(state, now_ms)
        if step is None
        else explain_step(state, number_named(state, step), now_ms),
    )


def explain(state: TaskState, now_ms: int) -> list[Finding]:
    """What holds the task up, the root first; what ended it where it has ended. Costs one look at each step.

    `now_ms` is the moment of the question: a delayed start that it has passed is told as one that is due.
    """
    if state.is_terminal:
        return [_ended(state), *_clean_ups(state)]
    found = _general(state, now_ms)
    if state.phase != "pending" and state.hold is None:
        found += _of_steps(state, range(len(state.steps)), FINDINGS_MAX)
        found += _batches(state)
    found = found or [Finding(code="moving", since_ms=state.updated_at_ms)]
    return [*found, *_stale(state)]


def explain_step(state: TaskState, number: int, now_ms: int) -> list[Finding]:
    """What one step waits for, and what holds that up."""
    step, name = state.steps[number], state.name_of(number)
    slot = state.slot_of(number)
    if step.status in ("absent", "excluded"):
        own = Finding(
            code="absent" if step.status == "absent" else "excluded",
            step=name,
            details={"deciders": _deciders(state, slot)},
        )
    elif step.status in MET or step.status == "cancelled":
        return [
            Finding(
                code="done",
                step=name,
                attempt=step.attempt,
                since_ms=step.completed_at_ms or step.updated_at_ms,
                details={"status": step.status},
            )
        ]
    elif step.status == "expanded" and state.batches[slot].begun:
        own = Finding(code="batch", step=name, details=_progress(state.batches[slot]))
    elif step.status in ("pending", "expanded"):
        details: dict[str, Any] = {"dependencies": _dependencies(state, slot)}
        if step.made_from >= 0:
            details["batch"] = state.the_plan.steps[slot].name
        own = Finding(code="pending", step=name, details=details)
    else:
        return _of_steps(state, (number,), FINDINGS_MAX) or [
            Finding(code="moving", step=name, since_ms=step.updated_at_ms)
        ]
    if step.status == "excluded":
        return [own]
    above = _unfinished_above(state, slot)
    if step.made_from >= 0:
        # The others of its batch hold it up as long as they run.
        above = [other for other in above if state.steps[other].status != "error"]
    batch = _batch(state, slot, state.batches[slot]) if slot in state.batches else None
    general = [_ended(state)] if state.is_terminal else _general(state, now_ms)
    bounded = [] if batch is None else [batch]
    return [*general, own, *bounded, *_of_steps(state, above, FINDINGS_MAX)]


# -- steps -----------------------------------------------------------------------------------------


class _Group:
    """Steps in the same situation, and the one of them that is told."""

    __slots__ = ("count", "key", "number")

    def __init__(self, number: int, key: tuple[int, int, int]) -> None:
        self.number = number
        self.key = key
        self.count = 0


def _of_steps(state: TaskState, numbers: Iterable[int], limit: int) -> list[Finding]:
    """The findings about these steps, the weightiest first, and how many are left out."""
    groups: dict[tuple[str, int, str], _Group] = {}
    for number in numbers:
        step = state.steps[number]
        code = _code_of(step)
        if code is None or (code == "failed" and _is_tolerated(state, step)):
            continue
        place = (_RANKS[code], _moment_of(step), number)
        # Compensations and the workers of a batch are told by the first of their kind.
        kind = (code, state.slot_of(number) if step.made_from >= 0 else number, _gate_of(step))
        group = groups.get(kind)
        if group is None:
            group = groups[kind] = _Group(number, place)
        elif place < group.key:
            group.number, group.key = number, place
        group.count += 1
    shown = heapq.nsmallest(limit, groups.values(), key=lambda group: group.key)
    waiting = _waiting_for(state, [state.slot_of(group.number) for group in shown])
    found = [
        msgspec.structs.replace(
            _of_step(state, group.number),
            alike_count=group.count - 1,
            waiting_count=waits,
            undecided_count=undecided,
        )
        for group, (waits, undecided) in zip(shown, waiting, strict=True)
    ]
    if len(groups) > len(shown):
        told = {id(group) for group in shown}
        left: Counter[str] = Counter()
        for group in groups.values():
            if id(group) not in told:
                left[state.steps[group.number].status] += group.count
        found.append(Finding(code="more", details=dict(left)))
    return found


def _code_of(step: StepState) -> FindingCode | None:
    """What there is to say about a step in its state; `None` where it waits for nothing but other steps."""
    match step.status:
        case "error":
            return None if step.compensates >= 0 else "failed"
        case "held":
            return None if step.hold is None else _HELD[step.hold.gate]
        case (
            "enqueued"
            | "in_progress"
            | "waiting_for_retry"
            | "waiting_for_signal"
            | "waiting_for_child" as status
        ):
            return status
        case _:
            return None


def _moment_of(step: StepState) -> int:
    """What is due first is told first, else what waits longest."""
    if step.status == "waiting_for_retry":
        return step.due_at_ms or 0
    if step.hold is not None:
        return step.hold.at_ms
    return step.waiting_since_ms or step.enqueued_at_ms or step.updated_at_ms or 0


def _gate_of(step: StepState) -> str:
    return "" if step.hold is None else step.hold.gate_id


def _is_tolerated(state: TaskState, step: StepState) -> bool:
    """Whether a batch goes on without the step."""
    if step.made_from < 0:
        return False
    return state.the_plan.batch_of(step.made_from).failure_strategy == "continue_on_failure"


def _of_step(state: TaskState, number: int) -> Finding:
    step, name = state.steps[number], state.name_of(number)
    code = _code_of(step)
    assert code is not None
    spec = state.spec_of(number)
    if step.hold is not None and step.status == "held":
        return _held(code, name, step.hold)
    since_ms, until_ms = step.updated_at_ms, None
    details: dict[str, Any] = {}
    work: WorkNeed | None = None
    child_task_id = ""
    if code in ("enqueued", "in_progress"):
        since_ms = step.started_at_ms if code == "in_progress" else step.enqueued_at_ms
        until_ms = step.due_at_ms
        details = {"tries": _tries(state, number), "handler": spec.handler.callable, "queue": spec.queue}
        if code == "enqueued":
            if step.handed_back and not step.lease_token:
                details["handed_back"] = step.handed_back
                since_ms = step.handed_back_since_ms
            watch = state.watch
            details["missing"] = watch is not None and spec.handler.callable in watch.missing_handlers
        else:
            details["worker_id"] = step.worker_id
            if until_ms is None:
                # Nothing but the worker or an operator ends it.
                ways = ("resolve_manually", "complete_manually")
                details["actions"] = [way for way in allowed_step_actions(state, number) if way in ways]
        if step.checkpoint is not None:
            details["items_processed"] = step.checkpoint.items_processed
        work = WorkNeed(
            namespace=state.the_plan.ref.namespace,
            queue=spec.queue,
            priority=priority_class(state.priority),
            handler=spec.handler.callable,
        )
    elif code == "waiting_for_retry":
        until_ms = step.due_at_ms
        actions = [action for action in allowed_step_actions(state, number) if action == "reset_for_retry"]
        details = {
            "tries": _tries(state, number),
            **_error(step.fault),
            "paused": state.phase == "paused",
            "actions": actions,
        }
    elif code == "waiting_for_signal":
        signal = spec.wait_for_signal
        assert signal is not None
        until_ms = step.due_at_ms
        details = {"signal": signal.name, "has_default": bool(bytes(signal.default))}
    elif code == "waiting_for_child":
        child = spec.child_task
        assert child is not None
        child_task_id = step.child_task_id
        details = {"child": f"{child.namespace or state.the_plan.ref.namespace}/{child.name}"}
    else:
        since_ms = step.completed_at_ms or (step.fault.at_ms if step.fault else step.updated_at_ms)
        details = {
            "tries": _tries(state, number),
            **_error(step.fault),
            "on_failure": state.the_plan.on_failure,
            "blocked": state.phase == "blocked_by_failures",
            "rest_goes_on": state.phase == "steps_in_process",
            "actions": list(allowed_step_actions(state, number)),
        }
    return Finding(
        code=code,
        step=name,
        attempt=step.attempt,
        since_ms=since_ms,
        until_ms=until_ms,
        details=details,
        work=work,
        child_task_id=child_task_id,
    )


def _held(code: FindingCode, name: str, hold: Pass) -> Finding:
    details: dict[str, Any]
    if hold.gate == "rate":
        details = {"per_second": hold.per_second}
    elif hold.gate == "circuit":
        details = {"service": hold.group}
    else:
        details = {"group": hold.group, "value": hold.value, "limit": hold.limit}
    return Finding(
        code=code,
        step=name,
        attempt=hold.attempt if name else 0,
        since_ms=hold.at_ms,
        details=details,
        gate=GateNeed(gate=hold.gate, gate_id=hold.gate_id, token=hold.token),
    )


def _tries(state: TaskState, number: int) -> int:
    """How many tries the step has at most."""
    return state.steps[number].forgiven + state.spec_of(number).retry.max_attempts


def _error(fault: Fault | None) -> dict[str, Any]:
    if fault is None:
        return {}
    return {
        "error_type": fault.error_type,
        "error_code": fault.error_code,
        "error_message": fault.error_message[:MESSAGE_CHARS_MAX],
        "failed_at_ms": fault.at_ms,
    }


# -- what waits for what ---------------------------------------------------------------------------


def _waiting_for(state: TaskState, slots: list[int]) -> list[tuple[int, int]]:
    """For each of these steps of the plan, how many wait for it, and of how many it is not decided whether they exist.

    One walk over the plan for all of them: each step knows by a bit whether it waits for one of them.
    """
    plan = state.the_plan
    bits: dict[int, int] = {}
    for slot in slots:
        bits.setdefault(slot, 1 << len(bits))
    if not bits:
        return []
    masks = [0] * len(plan.steps)
    for slot, bit in bits.items():
        masks[slot] = bit
    waiting: Counter[int] = Counter()
    undecided: Counter[int] = Counter()
    for number in sorted(range(len(plan.steps)), key=plan.places.__getitem__):
        mask = 0
        for parent in plan.parents[number]:
            mask |= masks[parent]
        if not mask:
            continue
        counted = waiting if _waits(state, number) else undecided
        if counted is undecided and state.steps[number].status != "absent":
            continue
        masks[number] |= mask
        counted[mask] += 1
    totals: list[tuple[int, int]] = []
    for slot in slots:
        bit = bits[slot]
        totals.append(
            (
                sum(count for mask, count in waiting.items() if mask & bit),
                sum(count for mask, count in undecided.items() if mask & bit),
            )
        )
    return totals


def _waits(state: TaskState, slot: int) -> bool:
    """Whether a step of the plan exists and has not begun."""
    status = state.steps[slot].status
    return status == "pending" or (status == "expanded" and not state.batches[slot].begun)


def _is_done(state: TaskState, slot: int) -> bool:
    """Whether what depends on a step of the plan goes on."""
    status = state.steps[slot].status
    if status == "expanded":
        return state.batches[slot].completed
    return status in MET or status == "excluded"


def _unfinished_above(state: TaskState, slot: int) -> list[int]:
    """The steps that are not done and that a step of the plan depends on, the workers of a batch one by one."""
    plan = state.the_plan
    seen = {slot}
    pending = [slot]
    while pending:
        for parent in plan.parents[pending.pop()]:
            if parent not in seen and not _is_done(state, parent):
                seen.add(parent)
                pending.append(parent)
    if state.steps[slot].status != "expanded":
        seen.discard(slot)
    return state.with_results(tuple(sorted(seen)))


def _dependencies(state: TaskState, slot: int) -> list[dict[str, str]]:
    """The direct dependencies of a step that are not done, and how they stand; of many the first ones."""
    plan = state.the_plan
    found = []
    for parent in plan.parents[slot]:
        if not _is_done(state, parent):
            status = state.steps[parent].status
            if status == "expanded":
                status = "in_progress"
            found.append({"name": plan.steps[parent].name, "status": status})
            if len(found) == NAMES_MAX:
                break
    return found


def _deciders(state: TaskState, slot: int) -> list[str]:
    """Who says whether a step that is not there exists: the decisions and batchable steps right above it."""
    plan = state.the_plan
    seen = {slot}
    pending = [slot]
    found: list[str] = []
    while pending and len(found) < NAMES_MAX:
        for parent in plan.parents[pending.pop()]:
            if parent in seen:
                continue
            seen.add(parent)
            if plan.steps[parent].type in ("decision", "batchable"):
                found.append(plan.steps[parent].name)
            elif state.steps[parent].status in HIDDEN:
                pending.append(parent)
    return found[:NAMES_MAX]


# -- the task as a whole ---------------------------------------------------------------------------


def _general(state: TaskState, now_ms: int) -> list[Finding]:
    """What holds the whole task back, where something does."""
    if state.phase == "pending":
        due = state.start_at_ms is not None and state.start_at_ms <= now_ms
        details = {"due": due}
        return [
            Finding(
                code="start_delayed",
                since_ms=state.created_at_ms,
                until_ms=state.start_at_ms,
                details=details,
            )
        ]
    found: list[Finding] = []
    if state.phase == "paused":
        found.append(_paused(state))
    if state.hold is not None:
        found.append(_held("task_held", "", state.hold))
    if state.phase == "blocked_by_failures":
        found.append(_blocked(state))
    if state.phase == "compensating":
        found.append(_compensating(state))
    return found


def _ended(state: TaskState) -> Finding:
    return Finding(
        code="ended",
        since_ms=state.completed_at_ms or state.updated_at_ms,
        details={
            "status": state.phase,
            "error_message": state.ending_message[:MESSAGE_CHARS_MAX],
            "error_code": state.ending_code,
            "compensation_status": state.compensation_status,
            "failed": [state.name_of(number) for number in state.failed[:NAMES_MAX]],
        },
    )


def _clean_ups(state: TaskState) -> list[Finding]:
    found: list[Finding] = []
    count = 0
    for number, step in enumerate(state.steps) if state.saga is not None else ():
        if not step.requires_manual_cleanup:
            continue
        count += 1
        if count <= NAMES_MAX:
            found.append(Finding(code="clean_up", step=state.name_of(number), since_ms=step.updated_at_ms))
    if count > NAMES_MAX:
        found.append(Finding(code="more", details={"requires_manual_cleanup": count - NAMES_MAX}))
    return found


def _blocked(state: TaskState) -> Finding:
    unreachable = sum(
        _waits(state, slot) or state.steps[slot].status == "absent"
        for slot in range(len(state.the_plan.steps))
    )
    return Finding(
        code="blocked",
        since_ms=_blocked_since_ms(state),
        details={
            "failed": [state.name_of(number) for number in state.failed[:NAMES_MAX]],
            "failed_count": len(state.failed),
            "actions": [action for action in allowed_actions(state) if action != "pause"],
        },
        waiting_count=unreachable,
    )


def _blocked_since_ms(state: TaskState) -> int:
    """When the task was blocked; being paused meanwhile, or looked into, is no interruption."""
    watch = state.watch
    if watch is None:
        return state.updated_at_ms
    letter = watch.letters[-1] if watch.letters else None
    if letter is not None and letter.original_state == state.phase and not letter.closed_by_task:
        return letter.opened_at_ms
    return watch.since_ms


def _stale(state: TaskState) -> list[Finding]:
    """That the task stands still for longer than it may; what it waits for is told by others."""
    letter = open_letter(state)
    if letter is None:
        return _stale_later(state)
    if letter.reason == "failures":
        return []
    return [
        Finding(
            code="stale",
            since_ms=letter.opened_at_ms,
            details={
                "error_message": letter.error_message[:MESSAGE_CHARS_MAX],
                "threshold": letter.threshold,
                "listed": letter.listed,
            },
        )
    ]


def _stale_later(state: TaskState) -> list[Finding]:
    """The next of the template's `lifecycle` times that runs."""
    moments = stale_moments(state)
    lifecycle = state.the_plan.lifecycle
    if not moments or lifecycle is None:
        return []
    threshold, since_ms, limit_ms = min(moments, key=lambda one: one[1] + one[2])
    return [
        Finding(
            code="stale_later",
            since_ms=since_ms,
            until_ms=since_ms + limit_ms,
            details={"threshold": threshold, "action": lifecycle.staleness_action},
        )
    ]


def _paused(state: TaskState) -> Finding:
    details: dict[str, Any] = {
        "actions": [one for one in allowed_actions(state) if one in ("resume", "cancel")]
    }
    if state.paused_from == "pending":
        details["start_at_ms"] = state.start_at_ms
    return Finding(code="paused", details=details)


def _compensating(state: TaskState) -> Finding:
    saga = state.saga
    return Finding(
        code="compensating",
        since_ms=None,
        details={
            "left": 0 if saga is None else saga.left_count,
            "failed": [state.name_of(number) for number in state.failed[:NAMES_MAX]],
        },
    )


def _batches(state: TaskState) -> list[Finding]:
    """The batches of which more could run if their template let them; of many the first ones."""
    found = []
    for slot, batch in state.batches.items():
        one = _batch(state, slot, batch)
        if one is not None:
            found.append(one)
            if len(found) == NAMES_MAX:
                break
    return found


def _batch(state: TaskState, slot: int, batch: BatchState) -> Finding | None:
    """How far a batch is of which more could run; `None` where none could."""
    parallelism = state.the_plan.batch_of(slot).parallelism
    if parallelism is None or batch.stopped or not _left(batch) or not batch.running:
        return None
    return Finding(
        code="batch_bounded",
        step=state.the_plan.steps[slot].name,
        details={"parallelism": parallelism, **_progress(batch)},
    )


def _progress(batch: BatchState) -> dict[str, Any]:
    return {
        "count": batch.count,
        "left": _left(batch),
        "running": batch.running,
        "ended": batch.succeeded + batch.failed,
        "failed": batch.failed,
    }


def _left(batch: BatchState) -> int:
    """Steps of the batch that are not given out, or wait to be given out again."""
    return batch.count - batch.begun + len(batch.again)
