"""An explanation in sentences, and the commands that would change something: the one place where findings are worded."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from .explanation import NAMES_MAX, Explained, Finding
from .explanation_facts import Facts, ShardFact, WorkerFact, shard_state
from .gates.standing import Standing

#: The owner of a shard has so many messages to read before it is said.
BEHIND_MIN: Final = 100
_PROGRAM: Final = "stepweave"
_DAY_MS: Final = 86_400_000
#: What is late by more is said to be overdue.
_LATE_MS_MIN: Final = 2_000


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One finding in words. `code` is the finding's, or what the facts make of it."""

    code: str
    sentence: str
    commands: tuple[str, ...] = ()
    #: What is said first has the smaller one.
    rank: int = 1


#: What facts make of the codes of findings, and what is said of the shard.
SHARPENED_CODES: Final = (
    "no_worker",
    "handler_missing",
    "workers_busy",
    "worker_gone",
    "shard_unowned",
    "shard_silent",
    "shard_behind",
)

# -- time and names --------------------------------------------------------------------------------


def clock(at_ms: int, now_ms: int) -> str:
    """A moment, in UTC; with its date where it is not today's."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    today = at_ms // _DAY_MS == now_ms // _DAY_MS
    return moment.strftime("%H:%M:%S UTC" if today else "%Y-%m-%d %H:%M:%S UTC")


def span(milliseconds: int) -> str:
    """A duration, as exact as it matters."""
    seconds = max(0, milliseconds) / 1000
    if seconds < 1:
        return "less than a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3_600:.0f} h"
    return f"{seconds / 86_400:.0f} days"


def _due(at_ms: int, now_ms: int) -> str:
    """When something is due, and in which time."""
    if at_ms < now_ms - _LATE_MS_MIN:
        return f"at {clock(at_ms, now_ms)}, {span(now_ms - at_ms)} overdue"
    if at_ms <= now_ms:
        return f"at {clock(at_ms, now_ms)}, which is now"
    return f"at {clock(at_ms, now_ms)}, in {span(at_ms - now_ms)}"


def _since(at_ms: int | None, now_ms: int) -> str:
    return "" if at_ms is None else f" since {clock(at_ms, now_ms)} ({span(now_ms - at_ms)})"


def counted(number: int, one: str, several: str = "") -> str:
    """A number of things."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _listed(names: Sequence[str], total: int | None = None) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(names[:NAMES_MAX])
    more = (len(names) if total is None else total) - min(len(names), NAMES_MAX)
    return f"{shown} and {more:,} more" if more > 0 else shown


def command(*words: str) -> str:
    """A command line; names are quoted where a shell needs that."""
    return shlex.join((_PROGRAM, *words))


def _error_text(details: dict[str, Any]) -> str:
    code = details.get("error_code") or details.get("error_type") or "an error"
    message = details.get("error_message")
    return f"{code} ({message})" if message else str(code)


def _behind(finding: Finding) -> str:
    """What else waits for it, as sentences of their own."""
    text = ""
    if finding.alike_count:
        text += f" {counted(finding.alike_count, 'more step')} of its kind {_are(finding.alike_count)} in the same situation."
    if finding.waiting_count:
        verb = "waits" if finding.waiting_count == 1 else "wait"
        text += f" {counted(finding.waiting_count, 'more step')} {verb} for it."
    if finding.undecided_count:
        count = finding.undecided_count
        text += (
            f" Behind it {counted(count, 'step')} {'does' if count == 1 else 'do'} not exist yet:"
            " whether they will is not decided."
        )
    return text


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


# -- findings --------------------------------------------------------------------------------------


def say(finding: Finding, facts: Facts) -> Said:
    """A finding in words."""
    said = _SAYING[finding.code](finding, facts)
    # Where it is quoted in the explanation of a parent, what waits for it there is meant.
    extra = _behind(finding) if finding.step and facts.asks_children else ""
    return msgspec.structs.replace(said, sentence=said.sentence + extra)


def _start_delayed(finding: Finding, facts: Facts) -> Said:
    at_ms = finding.until_ms
    if at_ms is None:
        sentence = "The task was accepted and begins with the next commit of its shard."
    elif finding.details.get("due"):
        sentence = (
            f"The task was to begin at {clock(at_ms, facts.now_ms)}, {span(facts.now_ms - at_ms)} ago: it begins as soon as"
            " the owner of its shard gets to it."
        )
    else:
        sentence = f"The task begins {_due(at_ms, facts.now_ms)}, as its creator asked (start_at); no step runs before."
    return Said(code=finding.code, sentence=sentence, rank=1)


def _group(finding: Finding) -> str:
    """What the slots are of."""
    group, value = str(finding.details["group"]), str(finding.details["value"])
    group = group.removeprefix("task:")
    return group if value == "null" else f"{group} = {value}"


def _slots(finding: Finding, facts: Facts) -> Said:
    who = f"Step {finding.step}, try {finding.attempt}," if finding.step else "The task"
    limit = finding.details["limit"]
    text = f"{who} waits for a slot of {_group(finding)}{_since(finding.since_ms, facts.now_ms)}: at most {limit} may run at once over all tasks"
    gate_id = "" if finding.gate is None else finding.gate.gate_id
    show = command("limit", "show", gate_id)
    standing = facts.gate(finding.gate)
    if standing is None:
        return Said(
            code=finding.code,
            sentence=f"{text}. How many go before it could not be found out.",
            commands=(show,),
        )
    if standing.place != "waiting":
        return Said(code=finding.code, sentence=f"{text}. {_on_its_way(standing)}", commands=(show,))
    holders = _holders(standing, facts, " by ")
    text += f", and {_are_held(standing.holders_count)}{holders}. {_place(standing)}"
    others = dict.fromkeys(one.task_id for one in standing.holders if one.task_id != facts.task_id)
    return Said(
        code=finding.code,
        sentence=text,
        commands=(*(command("explain", task_id) for task_id in others), show),
    )


def _are_held(number: int) -> str:
    return "1 is held" if number == 1 else f"{number} are held"


def _holders(standing: Standing, facts: Facts, before: str) -> str:
    """Who holds what is waited for, behind a word; nothing where nobody is known."""
    if not standing.holders:
        return ""
    names = [
        ("this task" if one.task_id == facts.task_id else f"task {one.task_id}")
        + (f" (step {one.step_name})" if one.step_name else "")
        for one in standing.holders
    ]
    return f"{before}{_listed(names, standing.holders_count)}"


def _place(standing: Standing) -> str:
    if not standing.ahead_count:
        return "It is the next one."
    verb = "goes" if standing.ahead_count == 1 else "go"
    return f"{standing.ahead_count:,} {verb} before it."


def _on_its_way(standing: Standing) -> str:
    if standing.place == "through":
        return "It was let through in this moment."
    return "Its request, or the answer, is on its way."


def _circuit(finding: Finding, facts: Facts) -> Said:
    service = str(finding.details["service"])
    text = f"Step {finding.step}, try {finding.attempt}, is held{_since(finding.since_ms, facts.now_ms)} because the circuit of {service} is not closed"
    close = command("circuit", "close", service, "--namespace", facts.namespace)
    show = command("circuit", "show", service, "--namespace", facts.namespace)
    standing = facts.gate(finding.gate)
    if standing is None:
        return Said(
            code=finding.code,
            sentence=f"{text}. How it stands could not be found out.",
            commands=(close, show),
        )
    if standing.place != "waiting":
        return Said(code=finding.code, sentence=f"{text}. {_on_its_way(standing)}", commands=(show,))
    why = f", opened by {standing.opened_by}" if standing.opened_by else ""
    why += f" ({standing.reason})" if standing.reason else ""
    why += f"; the last failure: {standing.last_error}" if standing.last_error else ""
    if standing.status == "open" and standing.next_at_ms is not None:
        text += (
            f": it is open{_since(standing.changed_at_ms, facts.now_ms)}{why}. "
            f"{counted(standing.probes_max, 'step')} will try it out {_due(standing.next_at_ms, facts.now_ms)}. "
        )
    elif standing.status == "half_open":
        text += f": it is half open{why}. {counted(standing.holders_count, 'step')} {_are(standing.holders_count)} trying it out{_holders(standing, facts, ': ')}. "
    else:
        text += ": it has closed, and those who wait are let through. "
    return Said(code=finding.code, sentence=text + _place(standing), commands=(close, show))


def _rate(finding: Finding, facts: Facts) -> Said:
    per_second = float(finding.details["per_second"])
    text = f"Step {finding.step}, try {finding.attempt}, waits for its turn{_since(finding.since_ms, facts.now_ms)}: namespace {facts.namespace} may begin {per_second:g} {'step' if per_second == 1 else 'steps'} a second"
    gate_id = "" if finding.gate is None else finding.gate.gate_id
    show = command("limit", "show", gate_id)
    standing = facts.gate(finding.gate)
    if standing is None:
        return Said(
            code=finding.code,
            sentence=f"{text}. How many go before it could not be found out.",
            commands=(show,),
        )
    if standing.place != "waiting":
        return Said(code=finding.code, sentence=f"{text}. {_on_its_way(standing)}", commands=(show,))
    pace = standing.per_second or per_second
    at_ms = max(standing.next_at_ms or 0, facts.now_ms) + round(1_000 * standing.ahead_count / pace)
    return Said(
        code=finding.code,
        sentence=f"{text}. {_place(standing)} At that pace it begins {_due(at_ms, facts.now_ms)}.",
        commands=(show,),
    )


def _stale(finding: Finding, facts: Facts) -> Said:
    details = finding.details
    listed = "; it lists in the dead letters" if details["listed"] else ""
    return Said(
        code=finding.code,
        sentence=f"It is known to stand still{_since(finding.since_ms, facts.now_ms)}: {details['error_message']}{listed}.",
        commands=(command("dlq", "show", facts.task_id),),
        rank=3,
    )


def _stale_later(finding: Finding, facts: Facts) -> Said:
    assert finding.until_ms is not None
    then = {
        "dlq": ", and lists in the dead letters",
        "fail": ", and ends in error",
        "cancel": ", and is cancelled",
    }.get(str(finding.details["action"]), "")
    return Said(
        code=finding.code,
        sentence=(
            f"Where it stays like this, the task counts as stale {_due(finding.until_ms, facts.now_ms)}{then} "
            f"(lifecycle.{finding.details['threshold']})."
        ),
        rank=3,
    )


def _paused(finding: Finding, facts: Facts) -> Said:
    pause = facts.pause
    text = "The task is paused"
    if pause is not None:
        text += _since(pause.at_ms, facts.now_ms)
        text += f" by {pause.by}" if pause.by else ""
        text += f" ({pause.reason})" if pause.reason else ""
    text += ": nothing of it begins until it is resumed, and what runs already ends as usual."
    start_at_ms = finding.details.get("start_at_ms")
    if start_at_ms is not None:
        text += f" It had not begun: its start is at {clock(start_at_ms, facts.now_ms)}."
    return Said(code=finding.code, sentence=text, commands=_of_task(finding, facts), rank=0)


#: What may be asked of a task, and of a step, as the command that asks for it.
_TASK_COMMANDS: Final = {
    "retry": "retry",
    "resume": "resume",
    "give_up": "give-up",
    "resolve_manually": "resolve",
    "cancel": "cancel",
}
_STEP_COMMANDS: Final = {
    "reset_for_retry": ("reset",),
    "resolve_manually": ("resolve",),
    "complete_manually": ("complete", "--result", "JSON"),
    "skip": ("skip",),
}


def _of_task(finding: Finding, facts: Facts) -> tuple[str, ...]:
    """The commands for what an operator may do with the task."""
    actions = finding.details["actions"]
    return tuple(
        command("task", _TASK_COMMANDS[action], facts.task_id)
        for action in actions
        if action in _TASK_COMMANDS
    )


def _of_step(finding: Finding, facts: Facts) -> tuple[str, ...]:
    """The commands for what an operator may do with the step."""
    found = []
    for action in finding.details.get("actions", ()):
        word, *options = _STEP_COMMANDS[action]
        found.append(command("step", word, facts.task_id, finding.step, *options))
    return tuple(found)


def _signal(finding: Finding, facts: Facts) -> Said:
    name = str(finding.details["signal"])
    text = f"Step {finding.step} waits for signal {name}{_since(finding.since_ms, facts.now_ms)}"
    if finding.until_ms is None:
        text += ", for as long as it takes."
    else:
        then = "its default is taken" if finding.details["has_default"] else "the step fails"
        text += f". If none comes {then} {_due(finding.until_ms, facts.now_ms)}."
    return Said(
        code=finding.code,
        sentence=text,
        commands=(command("task", "signal", facts.task_id, name, "--payload", "JSON"),),
    )


def _child(finding: Finding, facts: Facts) -> Said:
    child = finding.child_task_id
    text = f"Step {finding.step}, try {finding.attempt}, waits for its child task {child} ({finding.details['child']}){_since(finding.since_ms, facts.now_ms)}"
    fact = facts.children.get(child)
    commands: tuple[str, ...] = (command("explain", child),)
    if not facts.asks_children:
        text += "."
    elif fact is None:
        text += ". How that one stands could not be found out."
    elif not fact.status:
        text += ". That one was ordered and has not begun yet."
    else:
        text += f". That one is {fact.status}"
        text += f": {fact.sentence}" if fact.sentence else "."
    return Said(code=finding.code, sentence=text, commands=commands)


def _retry(finding: Finding, facts: Facts) -> Said:
    details, tries = finding.details, finding.details["tries"]
    failed_at = details.get("failed_at_ms")
    at = f" at {clock(failed_at, facts.now_ms)}" if failed_at is not None else ""
    text = (
        f"Step {finding.step} waits for its retry: try {finding.attempt} of {tries} failed{at}"
        f" with {_error_text(details)}"
    )
    if details["paused"] or finding.until_ms is None:
        text += f"; try {finding.attempt + 1} begins once the task is resumed."
    else:
        text += f"; try {finding.attempt + 1} begins {_due(finding.until_ms, facts.now_ms)}."
    return Said(code=finding.code, sentence=text, commands=_of_step(finding, facts))


def _tried(finding: Finding) -> str:
    return f"Step {finding.step}, try {finding.attempt} of {finding.details['tries']},"


def _enqueued(finding: Finding, facts: Facts) -> Said:
    need = finding.work
    assert need is not None
    where = f"queue {need.queue} of namespace {need.namespace}"
    text = f"{_tried(finding)} was given to the workers of {where}{_since(finding.since_ms, facts.now_ms)}"
    end = "" if finding.until_ms is None else f" Its time-out is {_due(finding.until_ms, facts.now_ms)}."
    run = command("worker", "run", "MODULE", "--namespace", need.namespace, "--queue", need.queue)
    workers = command("worker", "list")
    line = _line(finding, facts)
    if "handed_back" in finding.details:
        times = counted(finding.details["handed_back"], "time")
        text = f"{_tried(finding)} came back {times}{_since(finding.since_ms, facts.now_ms)} from workers of {where} that do not have its handler {need.handler}"
        end = (
            ""
            if finding.until_ms is None
            else f" It is given out again {_due(finding.until_ms, facts.now_ms)}."
        )
        line = ""
    if facts.workers is None:
        missing = finding.details.get("missing") or "handed_back" in finding.details
        return Said(
            code="handler_missing" if missing else "enqueued",
            rank=0 if missing else 1,
            sentence=f"{text}.{line} Which workers serve it could not be found out.{end}",
            commands=(workers,),
        )
    serving = [worker for worker in facts.workers if worker.serves(need)]
    if not serving:
        return Said(
            code="no_worker",
            sentence=f"{text}, and no live worker serves that queue.{line} The step needs a worker with handler {need.handler}.{end}",
            commands=(run, workers),
            rank=0,
        )
    able = [worker for worker in serving if worker.has(need.handler)]
    if not able:
        verb = "has" if len(serving) == 1 else "have"
        return Said(
            code="handler_missing",
            sentence=(
                f"{text}, and no live worker there has its handler {need.handler}: "
                f"{_listed([worker.worker_id for worker in serving])} {verb} other ones.{line}{end}"
            ),
            commands=(run, workers),
            rank=0,
        )
    names = _listed([worker.worker_id for worker in able])
    if all(worker.concurrency and worker.running >= worker.concurrency for worker in able):
        slots = sum(worker.concurrency for worker in able)
        return Said(
            code="workers_busy",
            sentence=f"{text}, and all workers that have its handler {need.handler} are busy with {counted(slots, 'step')}: {names}.{line}{end}",
            commands=(run, workers),
        )
    return Said(
        code="enqueued",
        sentence=f"{text}. Its handler {need.handler} is with {names}.{line}{end}",
        commands=(workers,),
    )


def _line(finding: Finding, facts: Facts) -> str:
    """How full the queue is."""
    assert finding.work is not None
    queue = facts.queue(finding.work)
    if queue is None:
        return " How many tries lie in it could not be found out."
    if not queue.waiting_count:
        if not queue.out_count:
            return " No try lies in it: this one's outcome is on its way."
        return f" No try lies in it untaken, so a worker has this one ({counted(queue.out_count, 'try', 'tries')} with workers)."
    total = queue.waiting_count + queue.higher_waiting_count + queue.lower_waiting_count
    out = queue.out_count + queue.others_out_count
    verb = "lies" if total == 1 else "lie"
    text = f" {counted(total, 'try', 'tries')} {verb} in it untaken, this one among them or with a worker already; {out:,} {_are(out)} with workers."
    higher = queue.higher_waiting_count
    return text + (f" {higher:,} of the untaken {_have(higher)} a higher priority." if higher else "")


def _in_progress(finding: Finding, facts: Facts) -> Said:
    worker_id = str(finding.details["worker_id"])
    text = f"{_tried(finding)} runs on worker {worker_id}{_since(finding.since_ms, facts.now_ms)}"
    items = finding.details.get("items_processed")
    if items is not None:
        text += f"; by its last checkpoint {counted(items, 'item')} {_are(items)} done"
    if finding.until_ms is not None:
        text += f"; its time-out is {_due(finding.until_ms, facts.now_ms)}"
    else:
        text += "; it has no time-out"
    code, rank = "in_progress", 1
    commands: tuple[str, ...] = ()
    if facts.workers is not None and not _is_alive(worker_id, facts.workers):
        code, rank = "worker_gone", 0
        text += ". That worker is not among the live ones: where it is lost, its lease runs out and the step is tried again"
        need = finding.work
        assert need is not None
        if not any(worker.serves(need) for worker in facts.workers):
            text += ", but no live worker serves its queue that would find that out"
            commands += (
                command("worker", "run", "MODULE", "--namespace", need.namespace, "--queue", need.queue),
            )
    commands += (command("worker", "list"), *_of_step(finding, facts))
    return Said(code=code, sentence=f"{text}.", commands=commands, rank=rank)


def _is_alive(worker_id: str, workers: Iterable[WorkerFact]) -> bool:
    return any(worker.worker_id == worker_id for worker in workers)


def _bounded(finding: Finding, _facts: Facts) -> Said:
    details = finding.details
    return Said(
        code=finding.code,
        sentence=(
            f"Batch {finding.step} runs {details['running']:,} of its {counted(details['count'], 'step')} at once, and at most"
            f" {details['parallelism']:,} may (batch_config.parallelism): {_how_far(details)}."
        ),
        rank=2,
    )


def _batch(finding: Finding, _facts: Facts) -> Said:
    details = finding.details
    text = f"Batch {finding.step} runs {details['running']:,} of its {counted(details['count'], 'step')}"
    return Said(code=finding.code, sentence=f"{text}: {_how_far(details)}.")


def _how_far(details: dict[str, Any]) -> str:
    failed = f" ({details['failed']:,} failed)" if details["failed"] else ""
    return f"{details['ended']:,} {_have(details['ended'])} ended{failed}, {details['left']:,} more to come"


def _failed(finding: Finding, facts: Facts) -> Said:
    details = finding.details
    text = f"Step {finding.step} failed for good at {clock(finding.since_ms or 0, facts.now_ms)}, try {finding.attempt} of {details['tries']}, with {_error_text(details)}."
    if details["rest_goes_on"]:
        then = {
            "compensate": "is undone",
            "fail": "fails",
        }.get(str(details["on_failure"]), "is blocked until an operator acts")
        text += f" What does not depend on it goes on; after that the task {then}."
    return Said(code=finding.code, sentence=text, commands=_of_step(finding, facts))


def _blocked(finding: Finding, facts: Facts) -> Said:
    details = finding.details
    failed = _listed(details["failed"], details["failed_count"])
    waiting = finding.waiting_count
    behind = (
        f", {counted(waiting, 'more step')} {'waits' if waiting == 1 else 'wait'} for that" if waiting else ""
    )
    return Said(
        code=finding.code,
        sentence=(
            f"The task is blocked{_since(finding.since_ms, facts.now_ms)}: {counted(details['failed_count'], 'step')} failed for good"
            f" ({failed}){behind}, and nothing can run until somebody acts."
        ),
        commands=(*_of_task(finding, facts), command("dlq", "show", facts.task_id)),
        rank=0,
    )


def _compensating(finding: Finding, _facts: Facts) -> Said:
    details = finding.details
    failed = _listed(details["failed"])
    why = f" because of {failed}" if failed else ""
    return Said(
        code=finding.code,
        sentence=(
            f"The task is being undone{why}: {counted(details['left'], 'compensation')} {_are(details['left'])} left."
            " It ends in error when they are through."
        ),
        rank=0,
    )


def _pending(finding: Finding, _facts: Facts) -> Said:
    dependencies = finding.details["dependencies"]
    if finding.details.get("batch"):
        text = f"Step {finding.step} waits for its turn in batch {finding.details['batch']}."
    elif not dependencies:
        text = f"Step {finding.step} waits for no other step, and has not begun."
    else:
        names = ", ".join(f"{one['name']} ({one['status']})" for one in dependencies)
        text = (
            f"Step {finding.step} waits for {counted(len(dependencies), 'step')} that it depends on: {names}."
        )
    return Said(code=finding.code, sentence=text)


def _absent(finding: Finding, _facts: Facts) -> Said:
    deciders = _listed(finding.details["deciders"])
    by = f" by {deciders}" if deciders else ""
    return Said(
        code=finding.code,
        sentence=f"Step {finding.step} does not exist yet: whether it will is decided{by}.",
    )


def _excluded(finding: Finding, _facts: Facts) -> Said:
    deciders = _listed(finding.details["deciders"])
    by = f" ({deciders})" if deciders else ""
    return Said(
        code=finding.code,
        sentence=f"Step {finding.step} does not exist in this task: the decision above it{by} did not choose it.",
    )


def _done(finding: Finding, facts: Facts) -> Said:
    return Said(
        code=finding.code,
        sentence=f"Step {finding.step} is {finding.details['status']}{_since(finding.since_ms, facts.now_ms)}; it waits for nothing.",
    )


def _clean_up(finding: Finding, _facts: Facts) -> Said:
    return Said(
        code=finding.code,
        sentence=f"Step {finding.step} could not be undone: what it did has to be cleaned up by hand.",
    )


def _ended(finding: Finding, facts: Facts) -> Said:
    details = finding.details
    status = str(details["status"])
    at = _since_end(finding.since_ms, facts.now_ms)
    events = command("events", "list", facts.task_id)
    if status == "complete":
        return Said(
            code=finding.code,
            sentence=f"The task completed {at}; it waits for nothing.",
            commands=(command("task", "get", facts.task_id, "--results"),),
        )
    text = f"The task ended in {status} {at}"
    if details.get("error_message"):
        text += f": {details['error_message']}"
        if details.get("error_code"):
            text += f" [{details['error_code']}]"
    text += "."
    failed = _listed(details["failed"])
    if failed:
        text += f" Failed for good: {failed}."
    if details.get("compensation_status"):
        text += f" What it had done was undone: {details['compensation_status']}."
    return Said(code=finding.code, sentence=text, commands=(events,))


def _since_end(at_ms: int | None, now_ms: int) -> str:
    return "" if at_ms is None else f"at {clock(at_ms, now_ms)}, {span(now_ms - at_ms)} ago"


def _moving(finding: Finding, facts: Facts) -> Said:
    return Said(
        code=finding.code,
        sentence=f"Nothing holds the task up: its last event was recorded at {clock(finding.since_ms or 0, facts.now_ms)}, and the next one is on its way.",
    )


def _more(finding: Finding, facts: Facts) -> Said:
    told = ", ".join(
        f"{number:,} {status.replace('_', ' ')}" for status, number in sorted(finding.details.items())
    )
    return Said(
        code=finding.code,
        sentence=f"There are more steps like these: {told}.",
        commands=(command("task", "get", facts.task_id),),
        rank=9,
    )


_SAYING: Final[dict[str, Callable[[Finding, Facts], Said]]] = {
    "start_delayed": _start_delayed,
    "task_held": _slots,
    "paused": _paused,
    "stale": _stale,
    "stale_later": _stale_later,
    "blocked": _blocked,
    "failed": _failed,
    "compensating": _compensating,
    "held_for_slot": _slots,
    "held_by_circuit": _circuit,
    "held_by_rate": _rate,
    "waiting_for_signal": _signal,
    "waiting_for_child": _child,
    "waiting_for_retry": _retry,
    "enqueued": _enqueued,
    "in_progress": _in_progress,
    "batch_bounded": _bounded,
    "batch": _batch,
    "pending": _pending,
    "absent": _absent,
    "excluded": _excluded,
    "done": _done,
    "clean_up": _clean_up,
    "ended": _ended,
    "moving": _moving,
    "more": _more,
}


# -- the shard -------------------------------------------------------------------------------------


def say_shard(facts: Facts, *, is_over: bool) -> Said | None:
    """What is wrong with the shard of a task, which then moves no task of it; `None` where nothing is known to be.

    `is_over`: the task has ended, so that nothing of it has to move.
    """
    fact = facts.shard
    state = shard_state(fact)
    if is_over or state == "leased":
        return None
    doctor = command("doctor")
    if state == "owned":
        behind = fact.behind_count
        if behind is None or behind < BEHIND_MIN:
            return None
        return Said(
            code="shard_behind",
            sentence=f"{fact.owner or 'Its owner'}, which owns shard {fact.shard}, has {counted(behind, 'message')} of workers and tasks to read yet: what is said here is older than they are.",
            commands=(doctor,),
            rank=2,
        )
    ledger = "What is said here is what the ledger has"
    if state == "silent":
        return Said(
            code="shard_silent",
            sentence=(
                f"Shard {fact.shard} is leased to {fact.owner}, which does not answer: nothing of the task moves until it does,"
                f" or until the lease runs out in {span(fact.lease_remaining_ms or 0)} and another orchestrator takes it. {ledger}."
            ),
            commands=(doctor,),
            rank=-1,
        )
    verb = "answers for" if fact.asked else "owns"
    return Said(
        code="shard_unowned",
        sentence=f"No orchestrator {verb} shard {fact.shard} ({_no_owner(fact)}): nothing of the task moves until one takes it. {ledger}.",
        commands=(command("orchestrator", "run"), doctor),
        rank=-1,
    )


def _no_owner(fact: ShardFact) -> str:
    if fact.lease_remaining_ms is None:
        return "who owns it could not be found out"
    if fact.owner:
        return f"the lease of {fact.owner} ran out {span(-fact.lease_remaining_ms)} ago"
    return "nobody holds its lease"


def owner_sentence(facts: Facts) -> str:
    """Who moves the task, in a sentence."""
    fact = facts.shard
    state = shard_state(fact)
    its = f"The task belongs to shard {fact.shard}"
    if state == "owned":
        return (
            f"{its}, whose owner {fact.owner} answers."
            if fact.owner
            else f"{its}, whose owner answers; who that is could not be found out."
        )
    if state == "unowned":
        return f"{its}, and nobody is known to own that: {_no_owner(fact)}."
    lease = f"{its}, which is leased to {fact.owner} for {span(fact.lease_remaining_ms or 0)} more"
    if state == "silent":
        return f"{lease}; that one does not answer."
    return f"{lease}. That one was not asked: what is said here is what the ledger has."


def summary(task: Explained, first: str) -> str:
    """The whole in a line or two: where the task is, and the sentence that says what holds it up most."""
    steps = f"{task.done_count:,} of {counted(task.total_count, 'step')} done"
    named = f"{task.namespace}/{task.name}:{task.template_version}"
    return f"{named} is {task.status}, {steps}. {first}".rstrip()
