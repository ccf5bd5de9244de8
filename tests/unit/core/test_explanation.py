"""Why a task is where it is: every state that waits, in the sentences that people read and with the commands to type."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest
from tests.unit.cli.typed import parsed

from stepweave_orchestrator.core import Moment, decide, evolve
from stepweave_orchestrator.core.commands import InvestigateTask
from stepweave_orchestrator.core.dead_letters import letter_uuid
from stepweave_orchestrator.core.explanation import FINDINGS_MAX, Explained, Finding, FindingCode, explained
from stepweave_orchestrator.core.explanation_facts import (
    ChildFact,
    Facts,
    PauseFact,
    QueueFact,
    ShardFact,
    WorkerFact,
)
from stepweave_orchestrator.core.explanation_text import (
    BEHIND_MIN,
    SHARPENED_CODES,
    Said,
    clock,
    owner_sentence,
    say,
    say_shard,
    span,
    summary,
)
from stepweave_orchestrator.core.gates.standing import Holding, Standing
from stepweave_orchestrator.core.operator_commands import PauseTask, ResolveTask
from stepweave_schemas.result import HANDLER_MISSING

from .scenario import (
    T0_MS,
    TASK_ID,
    Scenario,
    asked,
    awaited,
    begun,
    cancel,
    child_requested,
    choose,
    create,
    created,
    cut,
    entered,
    entropy,
    fail,
    fail_for_good,
    given,
    held_by_circuit,
    held_by_rate,
    release,
    save,
    start,
    started,
    succeed,
    wake,
)
from .templates import compiled, diamond, one_step, step

OTHER_TASK: Final = "0198c0de-0000-7000-8000-000000000002"
SHARD: Final = ShardFact(shard=3, owner="orchestrator-1", lease_remaining_ms=20_000)
#: `T0_MS` is 12:00:00 UTC.
NOON: Final = "12:00:00 UTC"


@dataclass
class Known:
    """What the rest of the system says, as far as a test cares."""

    later_ms: int = 0
    standing: Standing | None = None
    queue: QueueFact | None = None
    workers: tuple[WorkerFact, ...] | None = None
    children: dict[str, ChildFact] = field(default_factory=dict)
    pause: PauseFact | None = None
    shard: ShardFact = SHARD
    asks_children: bool = True


def worker(worker_id: str = "w-1", *handlers: str, running: int = 0, **fields: Any) -> WorkerFact:
    """A worker of the queue that the tests' steps use."""
    known: dict[str, Any] = {"namespaces": ("tests",), "queues": ("default",), "concurrency": 10}
    return WorkerFact(worker_id=worker_id, handlers=handlers, running=running, **{**known, **fields})


def findings(scenario: Scenario, named: str | None = None, later_ms: int = 0) -> Explained:
    """What the state says, after its way through JSON."""
    found = explained(scenario.state, scenario.now_ms + later_ms, named)
    return msgspec.json.decode(msgspec.json.encode(found), type=Explained)


def facts_for(scenario: Scenario, task: Explained, known: Known) -> Facts:
    gates = {one.gate.token: known.standing for one in task.findings if one.gate and known.standing}
    queues = {}
    for one in task.findings:
        if one.work is not None and known.queue is not None:
            queues[one.work.namespace, one.work.queue, str(one.work.priority)] = known.queue
    return Facts(
        now_ms=scenario.now_ms + known.later_ms,
        task_id=TASK_ID,
        namespace=task.namespace,
        shard=known.shard,
        gates=gates,
        queues=queues,
        workers=known.workers,
        children=known.children,
        pause=known.pause,
        asks_children=known.asks_children,
    )


def told(scenario: Scenario, known: Known | None = None, named: str | None = None) -> list[Said]:
    """The explanation of a task, or of one of its steps."""
    known = known or Known()
    task = findings(scenario, named, known.later_ms)
    facts = facts_for(scenario, task, known)
    said = [say(finding, facts) for finding in task.findings]
    for line in (line for one in said for line in one.commands):
        parsed(line)
    return said


def only(scenario: Scenario, known: Known | None = None, named: str | None = None) -> Said:
    [said] = told(scenario, known, named)
    return said


# -- the task as a whole ---------------------------------------------------------------------------


def test_a_delayed_start() -> None:
    scenario = entered(one_step(), start_at_ms=T0_MS + 3 * 3_600_000)
    assert only(scenario) == Said(
        code="start_delayed",
        sentence="The task begins at 15:00:00 UTC, in 3 h, as its creator asked (start_at); no step runs before.",
    )
    assert only(scenario, Known(later_ms=3 * 3_600_000 + 5_000)).sentence == (
        "The task was to begin at 15:00:00 UTC, 5 s ago: it begins as soon as the owner of its shard gets to it."
    )


def test_a_task_that_waits_for_its_slot() -> None:
    scenario = entered(one_step(concurrency={"limit": 2}), asked())
    gate = scenario.state.hold
    assert gate is not None
    show = f"stepweave limit show {gate.gate_id}"
    holders = (Holding(task_id=OTHER_TASK, step_name="", since_ms=T0_MS),)
    standing = Standing(
        place="waiting", ahead_count=3, waiting_count=9, holders=holders, holders_count=2, limit=2
    )
    assert only(scenario, Known(later_ms=90_000, standing=standing)) == Said(
        code="task_held",
        sentence=(
            f"The task waits for a slot of scenario since {NOON} (90 s): at most 2 may run at once over all tasks, "
            f"and 2 are held by task {OTHER_TASK} and 1 more. 3 go before it."
        ),
        commands=(f"stepweave explain {OTHER_TASK}", show),
    )
    assert only(scenario) == Said(
        code="task_held",
        sentence=(
            f"The task waits for a slot of scenario since {NOON} (less than a second): at most 2 may run at once over "
            "all tasks. How many go before it could not be found out."
        ),
        commands=(show,),
    )
    on_its_way = only(scenario, Known(standing=Standing(place="unknown"))).sentence
    assert on_its_way.endswith("Its request, or the answer, is on its way.")


def test_a_blocked_task() -> None:
    scenario = begun(diamond()).run(succeed("a"), fail_for_good("b", error_code="NO_FUNDS"), succeed("c"))
    block, failed = told(scenario)
    assert block == Said(
        code="blocked",
        sentence=(
            f"The task is blocked since {NOON} (less than a second): 1 step failed for good (b), 1 more step waits for"
            " that, and nothing can run until somebody acts."
        ),
        commands=(
            *(f"stepweave task {word} {TASK_ID}" for word in ("retry", "give-up", "resolve", "cancel")),
            f"stepweave dlq show {TASK_ID}",
        ),
        rank=0,
    )
    assert failed.code == "failed"
    assert failed.sentence == (
        f"Step b failed for good at {NOON}, try 1 of 3, with NO_FUNDS (boom). 1 more step waits for it."
    )
    assert failed.commands == (
        f"stepweave step reset {TASK_ID} b",
        f"stepweave step resolve {TASK_ID} b",
        f"stepweave step complete {TASK_ID} b --result JSON",
    )
    # Whoever looks into it changes nothing about since when.
    letter = letter_uuid(TASK_ID, 1)
    for status in ("investigating", "manually_resolved"):
        scenario.later(30_000).run(InvestigateTask(letter, status, None, "ada", None))
        assert told(scenario)[0].sentence.startswith(f"The task is blocked since {NOON} (")
    skippable = begun(compiled(step("a", skippable=True))).run(fail_for_good("a"))
    assert told(skippable)[1].commands[-1] == f"stepweave step skip {TASK_ID} a"


def test_a_paused_task() -> None:
    scenario = begun(diamond()).run(
        succeed("a"), start("b"), fail("c"), PauseTask(reason="too late", by="ada")
    )
    pause = PauseFact(at_ms=T0_MS, by="ada", reason="too late")
    paused, retried, running = told(scenario, Known(later_ms=5_000, pause=pause))
    assert paused == Said(
        code="paused",
        sentence=(
            f"The task is paused since {NOON} (5 s) by ada (too late): nothing of it begins until it is resumed, and what"
            " runs already ends as usual."
        ),
        commands=(f"stepweave task resume {TASK_ID}", f"stepweave task cancel {TASK_ID}"),
        rank=0,
    )
    assert running.code == "in_progress"
    assert "; try 2 begins once the task is resumed." in retried.sentence
    assert told(scenario)[0].sentence.startswith("The task is paused: nothing of it begins")
    before, *_ = told(scenario, named="d")
    assert before.code == "paused"


def test_a_task_that_is_paused_before_its_start() -> None:
    scenario = entered(one_step(), start_at_ms=T0_MS + 3_600_000).run(PauseTask(reason="", by="ada"))
    assert only(scenario).sentence.endswith("It had not begun: its start is at 13:00:00 UTC.")


def test_a_failure_while_others_run() -> None:
    scenario = begun(compiled("a", "b")).run(fail_for_good("a"))
    assert [one.code for one in told(scenario)] == ["failed", "enqueued"]
    # Paused while it is blocked, it will be blocked again: nothing goes on that could end first.
    scenario.run(fail_for_good("b"), PauseTask(reason="", by="ada"))
    assert "goes on" not in " ".join(one.sentence for one in told(scenario))
    for on_failure, then in (
        ("block", "is blocked until an operator acts"),
        ("fail", "fails"),
        ("compensate", "is undone"),
    ):
        undone = {"compensation": {"handler": {"callable": "undo"}}} if on_failure == "compensate" else {}
        plan = compiled(step("a", **undone), "b", on_failure=on_failure)
        sentence = told(begun(plan).run(fail_for_good("a")))[0].sentence
        assert sentence.endswith(f"What does not depend on it goes on; after that the task {then}.")


def test_a_task_that_is_being_undone() -> None:
    undo = {"compensation": {"handler": {"callable": "give_back"}}}
    scenario = begun(compiled(step("a", **undo), step("b: a"))).run(succeed("a"), fail_for_good("b"))
    undoing, running, failed = sorted(told(scenario), key=lambda one: one.code)
    assert (undoing.code, running.code, failed.code) == ("compensating", "enqueued", "failed")
    assert undoing.sentence == (
        "The task is being undone because of b: 1 compensation is left. It ends in error when they are through."
    )
    assert running.sentence.startswith("Step compensate:a, try 1 of 3, was given to the workers")
    assert failed.sentence.endswith("with permanent_error (boom).")


def test_tasks_that_have_ended() -> None:
    scenario = begun(one_step()).run(succeed("a"))
    assert only(scenario, Known(later_ms=60_000)) == Said(
        code="ended",
        sentence=f"The task completed at {NOON}, 60 s ago; it waits for nothing.",
        commands=(f"stepweave task get {TASK_ID} --results",),
    )
    scenario = begun(one_step()).run(cancel("no need"))
    assert only(scenario).sentence.startswith(
        f"The task ended in cancelled at {NOON}, less than a second ago"
    )
    scenario = begun(one_step()).run(ResolveTask(reason="done by hand", by="ada"))
    assert ": done by hand." in only(scenario).sentence
    scenario = begun(one_step(on_failure="fail")).run(fail_for_good("a", error_code="NO_FUNDS"))
    assert only(scenario) == Said(
        code="ended",
        sentence=(
            f"The task ended in error at {NOON}, less than a second ago: boom [NO_FUNDS]. Failed for good: a."
        ),
        commands=(f"stepweave events list {TASK_ID}",),
    )


def test_what_could_not_be_undone() -> None:
    undo = {"compensation": {"handler": {"callable": "give_back"}}}
    scenario = begun(compiled(step("a", **undo), step("b: a"))).run(
        succeed("a"), fail_for_good("b"), fail_for_good("compensate:a")
    )
    ended, clean_up = told(scenario)
    assert ended.sentence.endswith("What it had done was undone: partial.")
    assert clean_up.code == "clean_up"
    assert clean_up.sentence == "Step a could not be undone: what it did has to be cleaned up by hand."


def test_nothing_in_the_way() -> None:
    # Between the events of one append, as a replay up to a version may show it.
    scenario = given(one_step(), created())
    assert only(scenario).code in ("moving", "start_delayed")


# -- steps that workers run ------------------------------------------------------------------------


def test_a_step_that_was_given_out() -> None:
    scenario = begun(one_step())
    before = (
        f"Step a, try 1 of 3, was given to the workers of queue default of namespace tests since {NOON} (5 s)"
    )
    queue = QueueFact(waiting_count=5, out_count=3)
    run = "stepweave worker run MODULE --namespace tests --queue default"
    cases: list[tuple[tuple[WorkerFact, ...] | None, QueueFact | None, Said]] = [
        (
            None,
            None,
            Said(
                code="enqueued",
                sentence=f"{before}. How many tries lie in it could not be found out. Which workers serve it could not be found out.",
                commands=("stepweave worker list",),
            ),
        ),
        (
            (worker("w-1", "run_a", queues=("slow",)), worker("w-2", "run_a", namespaces=("other",))),
            queue,
            Said(
                code="no_worker",
                sentence=(
                    f"{before}, and no live worker serves that queue. 5 tries lie in it untaken, this one among them or with"
                    " a worker already; 3 are with workers. The step needs a worker with handler run_a."
                ),
                commands=(run, "stepweave worker list"),
                rank=0,
            ),
        ),
        (
            (worker("w-1", "run_b"), worker("w-2")),
            QueueFact(waiting_count=0, out_count=1),
            Said(
                code="handler_missing",
                sentence=(
                    f"{before}, and no live worker there has its handler run_a: w-1, w-2 have other ones. No try lies in it"
                    " untaken, so a worker has this one (1 try with workers)."
                ),
                commands=(run, "stepweave worker list"),
                rank=0,
            ),
        ),
        (
            (worker("w-1", "run_a", running=10), worker("w-2", "run_b")),
            queue,
            Said(
                code="workers_busy",
                sentence=(
                    f"{before}, and all workers that have its handler run_a are busy with 10 steps: w-1. 5 tries lie in it"
                    " untaken, this one among them or with a worker already; 3 are with workers."
                ),
                commands=(run, "stepweave worker list"),
            ),
        ),
        (
            (worker("w-1", "run_a", running=9), worker("w-2", resolves=True), worker("w-3", "run_b")),
            QueueFact(waiting_count=1, out_count=0),
            Said(
                code="enqueued",
                sentence=(
                    f"{before}. Its handler run_a is with w-1, w-2. 1 try lies in it untaken, this one among them or with a"
                    " worker already; 0 are with workers."
                ),
                commands=("stepweave worker list",),
            ),
        ),
    ]
    for workers, line, wanted in cases:
        assert only(scenario, Known(later_ms=5_000, workers=workers, queue=line)) == wanted
    crowd = QueueFact(
        waiting_count=5, out_count=0, higher_waiting_count=30, lower_waiting_count=2, others_out_count=4
    )
    assert only(scenario, Known(queue=crowd, workers=())).sentence.endswith(
        "37 tries lie in it untaken, this one among them or with a worker already; 4 are with workers. 30 of the untaken have a"
        " higher priority. The step needs a worker with handler run_a."
    )
    empty = Known(queue=QueueFact(waiting_count=0, out_count=0))
    assert "No try lies in it: this one's outcome is on its way." in only(scenario, empty).sentence


def test_a_step_that_comes_back_for_want_of_its_handler() -> None:
    scenario = begun(one_step())
    for delay_ms in (100, 200):
        scenario.run(release("a", reason=HANDLER_MISSING)).later(delay_ms).run(wake())
    scenario.run(release("a", reason=HANDLER_MISSING))
    before = (
        "Step a, try 1 of 3, came back 3 times since 12:00:00 UTC (less than a second) from workers of queue default of"
        " namespace tests that do not have its handler run_a"
    )
    again = "It is given out again at 12:00:00 UTC, in less than a second."
    missing = only(scenario, Known(workers=(worker("w-1", "run_b"),)))
    assert (missing.code, missing.rank) == ("handler_missing", 0)
    assert missing.sentence == (
        f"{before}, and no live worker there has its handler run_a: w-1 has other ones. {again}"
    )
    assert only(scenario).code == "handler_missing"
    able = only(scenario, Known(workers=(worker("w-1", "run_a"),)))
    assert (able.code, able.sentence) == ("enqueued", f"{before}. Its handler run_a is with w-1. {again}")


def test_a_task_that_stands_still() -> None:
    lifecycle = {"max_steps_in_process_seconds": 60, "staleness_action": "dlq"}
    scenario = begun(compiled("a", lifecycle=lifecycle)).later(10_000)
    _, later = told(scenario)
    assert later == Said(
        code="stale_later",
        sentence=(
            "Where it stays like this, the task counts as stale at 12:01:00 UTC, in 50 s, and lists in the dead letters"
            " (lifecycle.max_steps_in_process_seconds)."
        ),
        rank=3,
    )
    scenario.later(50_000).run(wake())
    given_out, stale = told(scenario, Known(later_ms=5_000))
    assert given_out.code == "enqueued"
    assert stale == Said(
        code="stale",
        sentence=(
            "It is known to stand still since 12:01:00 UTC (5 s): the task has been in steps_in_process for more than 60 s;"
            " it lists in the dead letters."
        ),
        commands=(f"stepweave dlq show {TASK_ID}",),
        rank=3,
    )


def test_a_step_that_runs() -> None:
    scenario = begun(one_step(timeout_seconds=30)).later(1_000).when(start("a")).then(started("a"))
    known = Known(later_ms=4_000, workers=(worker("worker-1", "run_a"),))
    assert only(scenario, known) == Said(
        code="in_progress",
        sentence=(
            "Step a, try 1 of 3, runs on worker worker-1 since 12:00:01 UTC (4 s); its time-out is at 12:00:36 UTC, in 31 s."
        ),
        commands=("stepweave worker list",),
    )
    gone = only(scenario, Known(workers=()))
    assert (gone.code, gone.rank) == ("worker_gone", 0)
    assert gone.sentence.endswith(
        "That worker is not among the live ones: where it is lost, its lease runs out and the step is tried again, but no"
        " live worker serves its queue that would find that out."
    )
    assert gone.commands[0] == "stepweave worker run MODULE --namespace tests --queue default"
    another = only(scenario, Known(workers=(worker("w-2", "run_b"),)))
    assert another.sentence.endswith("its lease runs out and the step is tried again.")
    scenario = begun(one_step()).run(save("a", {"row": 7}, items_processed=7), start("a"))
    endless = only(scenario)
    assert "by its last checkpoint 7 items are done; it has no time-out." in endless.sentence
    # Nothing but somebody's act may ever end it.
    assert endless.commands == (
        "stepweave worker list",
        f"stepweave step resolve {TASK_ID} a",
        f"stepweave step complete {TASK_ID} a --result JSON",
    )


def test_what_is_overdue() -> None:
    """The moment of a retry is over, and nobody has acted: its owner is away."""
    scenario = begun(one_step()).run(fail("a"))
    assert only(scenario, Known(later_ms=1_500)).sentence.endswith("begins at 12:00:01 UTC, which is now.")
    assert only(scenario, Known(later_ms=47_000)).sentence.endswith("begins at 12:00:01 UTC, 46 s overdue.")


def test_a_step_that_waits_for_its_retry() -> None:
    scenario = begun(compiled("charge", "ship: charge", "mail: ship")).later(63_000)
    scenario.run(fail("charge", error_type="timeout", error_code="TIMEOUT", error_message="no answer"))
    scenario.state.steps[0].due_at_ms = scenario.now_ms + 30_000
    said = only(scenario, Known(later_ms=9_000))
    assert (said.code, said.commands) == (
        "waiting_for_retry",
        (f"stepweave step reset {TASK_ID} charge",),
    )
    assert said.sentence == (
        "Step charge waits for its retry: try 1 of 3 failed at 12:01:03 UTC with TIMEOUT (no answer); try 2 begins at"
        " 12:01:33 UTC, in 21 s. 2 more steps wait for it."
    )


# -- steps that wait for something else ------------------------------------------------------------


def test_a_step_that_waits_for_a_signal() -> None:
    def waiting(**signal: Any) -> Scenario:
        plan = compiled(step("ask", wait_for_signal={"name": "approval", **signal}), "go: ask")
        return entered(plan, awaited("ask", "approval"))

    send = f"stepweave task signal {TASK_ID} approval --payload JSON"
    assert only(waiting(), Known(later_ms=5_000)) == Said(
        code="waiting_for_signal",
        sentence=(
            f"Step ask waits for signal approval since {NOON} (5 s), for as long as it takes. 1 more step waits for it."
        ),
        commands=(send,),
    )
    assert (
        "If none comes the step fails at 12:01:00 UTC, in 60 s." in only(waiting(timeout_seconds=60)).sentence
    )
    sentence = only(waiting(timeout_seconds=60, default={"ok": False})).sentence
    assert "If none comes its default is taken at 12:01:00 UTC, in 60 s." in sentence


def test_a_step_that_waits_for_another_task() -> None:
    scenario = entered(compiled(step("ship", child_task={"name": "shipping"})), child_requested("ship"))
    child = scenario.step("ship").child_task_id
    before = f"Step ship, try 1, waits for its child task {child} (tests/shipping) since {NOON} (less than a second). "
    commands = (f"stepweave explain {child}",)
    cases = {
        "That one is paused: It was paused by ada.": ChildFact(
            status="paused", sentence="It was paused by ada."
        ),
        "That one was ordered and has not begun yet.": ChildFact(),
        "That one is complete.": ChildFact(status="complete"),
    }
    for after, fact in cases.items():
        assert only(scenario, Known(children={child: fact})) == Said(
            code="waiting_for_child", sentence=before + after, commands=commands
        )
    assert only(scenario).sentence == before + "How that one stands could not be found out."
    assert only(scenario, Known(asks_children=False)).sentence == before.rstrip()


def test_a_step_that_waits_for_a_slot() -> None:
    plan = compiled(step("a", concurrency={"key": "order", "limit": 1}))
    scenario = entered(plan, asked("a"))
    hold = scenario.step("a").hold
    assert hold is not None
    holders = (Holding(task_id=OTHER_TASK, step_name="a", since_ms=T0_MS),)
    standing = Standing(place="waiting", waiting_count=1, holders=holders, holders_count=1, limit=1)
    assert only(scenario, Known(later_ms=5_000, standing=standing)) == Said(
        code="held_for_slot",
        sentence=(
            f"Step a, try 1, waits for a slot of order = 7 since {NOON} (5 s): at most 1 may run at once over all tasks, and"
            f" 1 is held by task {OTHER_TASK} (step a). It is the next one."
        ),
        commands=(f"stepweave explain {OTHER_TASK}", f"stepweave limit show {hold.gate_id}"),
    )
    through = only(scenario, Known(standing=Standing(place="through")))
    assert through.sentence.endswith("It was let through in this moment.")


def test_a_step_that_is_held_by_a_circuit() -> None:
    breaker = {"failure_threshold": 3, "open_seconds": 30}
    plan = compiled(step("pay", system_dependency="bank", circuit_breaker=breaker))
    scenario = given(plan).with_open("bank").when(create(plan)).then(created(), held_by_circuit("pay"))
    before = f"Step pay, try 1, is held since {NOON} (5 s) because the circuit of bank is not closed"
    close = "stepweave circuit close bank --namespace tests"
    show = "stepweave circuit show bank --namespace tests"
    is_open = Standing(
        place="waiting",
        ahead_count=1,
        status="open",
        last_error="no answer",
        probes_max=1,
        changed_at_ms=T0_MS,
        next_at_ms=T0_MS + 30_000,
    )
    assert only(scenario, Known(later_ms=5_000, standing=is_open)) == Said(
        code="held_by_circuit",
        sentence=(
            f"{before}: it is open since {NOON} (5 s); the last failure: no answer. 1 step will try it out at 12:00:30 UTC,"
            " in 25 s. 1 goes before it."
        ),
        commands=(close, show),
    )
    by_hand = msgspec.structs.replace(is_open, last_error="", opened_by="ada", reason="the bank moves")
    assert f"it is open since {NOON} (5 s), opened by ada (the bank moves). 1 step will" in (
        only(scenario, Known(later_ms=5_000, standing=by_hand)).sentence
    )
    holders = (Holding(task_id=OTHER_TASK, step_name="pay", since_ms=T0_MS),)
    half_open = Standing(place="waiting", status="half_open", holders=holders, holders_count=1, probes_max=1)
    assert only(scenario, Known(later_ms=5_000, standing=half_open)).sentence == (
        f"{before}: it is half open. 1 step is trying it out: task {OTHER_TASK} (step pay). It is the next one."
    )
    closed = Standing(place="waiting", status="closed")
    assert (
        ": it has closed, and those who wait are let through."
        in only(scenario, Known(standing=closed)).sentence
    )
    unknown = only(scenario, Known(later_ms=5_000))
    assert unknown.sentence == f"{before}. How it stands could not be found out."


def test_a_step_that_waits_for_its_turn_in_a_rate() -> None:
    scenario = given(one_step()).at_rate(2).when(create(one_step())).then(created(), held_by_rate("a"))
    hold = scenario.step("a").hold
    assert hold is not None
    standing = Standing(place="waiting", ahead_count=4, next_at_ms=T0_MS + 6_000, per_second=2)
    assert only(scenario, Known(later_ms=5_000, standing=standing)) == Said(
        code="held_by_rate",
        sentence=(
            f"Step a, try 1, waits for its turn since {NOON} (5 s): namespace tests may begin 2 steps a second. 4 go before"
            " it. At that pace it begins at 12:00:08 UTC, in 3 s."
        ),
        commands=(f"stepweave limit show {hold.gate_id}",),
    )
    assert only(scenario).sentence.endswith("How many go before it could not be found out.")


# -- many steps ------------------------------------------------------------------------------------


def batches(count: int, **config: Any) -> Scenario:
    """A batch of so many steps, and one step behind it."""
    plan = compiled(
        step("cut", type="batchable", batch_config={"worker_template": "work", **config}),
        step("work: cut", type="batch_worker"),
        step("sum: work", type="deferred_convergence"),
    )
    return begun(plan).run(cut("cut", *range(count)))


def test_the_steps_of_a_batch_are_told_once() -> None:
    scenario = batches(200)
    said = only(scenario)
    assert said.sentence.startswith("Step work_001, try 1 of 3, was given to the workers")
    assert said.sentence.endswith(
        " 199 more steps of its kind are in the same situation. 1 more step waits for it."
    )


def test_a_batch_with_a_bound() -> None:
    scenario = batches(20, parallelism=3).run(succeed("work_001"))
    bounded = told(scenario)[-1]
    assert bounded == Said(
        code="batch_bounded",
        sentence=(
            "Batch work runs 3 of its 20 steps at once, and at most 3 may (batch_config.parallelism): 1 has ended, 16 more to"
            " come."
        ),
        rank=2,
    )


def test_the_steps_of_a_batch_one_by_one() -> None:
    scenario = batches(20, parallelism=3).run(succeed("work_001"), fail_for_good("work_002"))
    waiting, bounded, running = sorted(
        told(scenario, named="work_010"), key=lambda one: one.code != "pending"
    )
    assert waiting.sentence == "Step work_010 waits for its turn in batch work."
    assert {bounded.code, running.code} == {"batch_bounded", "enqueued"}
    whole = next(one for one in told(scenario, named="work") if one.code == "batch")
    assert whole.sentence == "Batch work runs 3 of its 20 steps: 2 have ended (1 failed), 15 more to come."
    alone = told(batches(2), named="work")
    assert [one.code for one in alone] == ["batch", "enqueued"]


def test_branches_that_do_not_exist_yet() -> None:
    plan = compiled(
        "first",
        step("route: first", type="decision"),
        "left: route",
        "right: route",
        step("join: left right", type="deferred_convergence"),
    )
    scenario = begun(plan)
    assert only(scenario).sentence.endswith(
        "1 more step waits for it. Behind it 3 steps do not exist yet: whether they will is not decided."
    )
    absent, *roots = told(scenario, named="left")
    assert absent.code == "absent"
    assert absent.sentence == "Step left does not exist yet: whether it will is decided by route."
    assert [one.code for one in roots] == ["enqueued"]
    scenario.run(succeed("first"), choose("route", "left"))
    excluded = only(scenario, named="right")
    assert excluded.code == "excluded"
    assert excluded.sentence == (
        "Step right does not exist in this task: the decision above it (route) did not choose it."
    )


def test_what_one_step_waits_for() -> None:
    scenario = begun(diamond()).run(succeed("a"), fail("b"))
    own, *roots = told(scenario, named="d")
    assert own.code == "pending"
    assert own.sentence == (
        "Step d waits for 2 steps that it depends on: b (waiting_for_retry), c (enqueued)."
    )
    assert [one.code for one in roots] == ["waiting_for_retry", "enqueued"]
    done = only(scenario, named="a")
    assert (done.code, done.sentence) == (
        "done",
        f"Step a is complete since {NOON} (less than a second); it waits for nothing.",
    )
    assert only(scenario, named="c").code == "enqueued"


def test_an_explanation_is_bounded() -> None:
    """Ten thousand steps that wait are told in a few sentences, and looked at once."""
    width = 5_000
    texts = [f"s{number}" for number in range(width)] + [f"t{number}: s{number}" for number in range(width)]
    plan = compiled(*texts)
    scenario = Scenario(plan)
    decision = decide(scenario.state, create(plan), Moment(T0_MS, entropy(1)))
    assert isinstance(decision, list)
    # Without the scenario's checks, which look at every step after every event.
    for event in decision:
        evolve(scenario.state, event, T0_MS)
    found = findings(scenario).findings
    assert len(found) == FINDINGS_MAX + 1
    assert found[-1] == Finding(code="more", details={"enqueued": width - FINDINGS_MAX})
    assert {one.waiting_count for one in found[:-1]} == {1}
    more = told(scenario)[-1]
    assert more.sentence == f"There are more steps like these: {width - FINDINGS_MAX:,} enqueued."


# -- the shard, the summary, times -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fact", "wanted", "owner"),
    [
        (SHARD, None, "whose owner orchestrator-1 answers."),
        (
            ShardFact(shard=3, behind_count=BEHIND_MIN - 1),
            None,
            "whose owner answers; who that is could not be found out.",
        ),
        (
            ShardFact(shard=3, owner="o-1", lease_remaining_ms=9_000, answered=False, asked=False),
            None,
            "which is leased to o-1 for 9 s more. That one was not asked: what is said here is what the ledger has.",
        ),
        (
            ShardFact(shard=3, owner="o-1", lease_remaining_ms=-9_000, answered=False, asked=False),
            Said(
                code="shard_unowned",
                sentence=(
                    "No orchestrator owns shard 3 (the lease of o-1 ran out 9 s ago): nothing of the task moves until one"
                    " takes it. What is said here is what the ledger has."
                ),
                commands=("stepweave orchestrator run", "stepweave doctor"),
                rank=-1,
            ),
            "and nobody is known to own that: the lease of o-1 ran out 9 s ago.",
        ),
        (
            ShardFact(shard=3, owner="o-1", behind_count=BEHIND_MIN),
            Said(
                code="shard_behind",
                sentence=(
                    "o-1, which owns shard 3, has 100 messages of workers and tasks to read yet: what is said here is older"
                    " than they are."
                ),
                commands=("stepweave doctor",),
                rank=2,
            ),
            "whose owner o-1 answers.",
        ),
        (
            ShardFact(shard=3, owner="o-1", lease_remaining_ms=9_000, answered=False),
            Said(
                code="shard_silent",
                sentence=(
                    "Shard 3 is leased to o-1, which does not answer: nothing of the task moves until it does, or until the"
                    " lease runs out in 9 s and another orchestrator takes it. What is said here is what the ledger has."
                ),
                commands=("stepweave doctor",),
                rank=-1,
            ),
            "which is leased to o-1 for 9 s more; that one does not answer.",
        ),
        (
            ShardFact(shard=3, owner="o-1", lease_remaining_ms=-9_000, answered=False),
            Said(
                code="shard_unowned",
                sentence=(
                    "No orchestrator answers for shard 3 (the lease of o-1 ran out 9 s ago): nothing of the task moves until"
                    " one takes it. What is said here is what the ledger has."
                ),
                commands=("stepweave orchestrator run", "stepweave doctor"),
                rank=-1,
            ),
            "and nobody is known to own that: the lease of o-1 ran out 9 s ago.",
        ),
        (
            ShardFact(shard=3, lease_remaining_ms=0, answered=False),
            Said(
                code="shard_unowned",
                sentence=(
                    "No orchestrator answers for shard 3 (nobody holds its lease): nothing of the task moves until one takes"
                    " it. What is said here is what the ledger has."
                ),
                commands=("stepweave orchestrator run", "stepweave doctor"),
                rank=-1,
            ),
            "and nobody is known to own that: nobody holds its lease.",
        ),
    ],
)
def test_the_shard(fact: ShardFact, wanted: Said | None, owner: str) -> None:
    facts = Facts(now_ms=T0_MS, task_id=TASK_ID, namespace="tests", shard=fact)
    assert say_shard(facts, is_over=False) == wanted
    assert say_shard(facts, is_over=True) is None
    assert owner_sentence(facts) == f"The task belongs to shard 3, {owner}"
    for line in wanted.commands if wanted is not None else ():
        parsed(line)


def test_the_summary() -> None:
    scenario = begun(diamond()).run(succeed("a"))
    task = findings(scenario)
    assert summary(task, "Step b runs.") == (
        "tests/scenario:1.0.0 is steps_in_process, 1 of 4 steps done. Step b runs."
    )


def test_every_code_is_in_the_reference() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "explanations.md"
    listed = re.findall(r"^\| `(\w+)` \|", page.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted((*get_args(FindingCode), *SHARPENED_CODES))


def test_times() -> None:
    assert [span(ms) for ms in (0, 999, 1_000, 119_000, 120_000, 7_200_000, 172_800_000)] == [
        "less than a second",
        "less than a second",
        "1 s",
        "119 s",
        "2 min",
        "2 h",
        "2 days",
    ]
    assert clock(T0_MS, T0_MS) == NOON
    assert clock(T0_MS + 86_400_000, T0_MS) == "2026-01-02 12:00:00 UTC"
