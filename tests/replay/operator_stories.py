"""Stories in which operators step in."""

from __future__ import annotations

from typing import Any, Final

from tests.unit.core.scenario import (
    T0_MS,
    Scenario,
    asked,
    awaited,
    batch_completed,
    batch_created,
    batch_stopped,
    blocked,
    checkpointed,
    child_cancel_requested,
    child_requested,
    complete,
    completed,
    completed_by_hand,
    cut,
    declined,
    enqueued,
    fail,
    fail_for_good,
    failed,
    given_back,
    given_up,
    granted,
    paused,
    refused,
    release,
    released,
    reset,
    resolved,
    resumed,
    retry,
    routed,
    save,
    skipped,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    task_resolved,
    task_started,
    undoing,
    undone,
    wake,
    wish,
)
from tests.unit.core.templates import AT_ONCE, EVERY_SECOND, step

from stepweave_orchestrator.core.operator_commands import (
    GiveUpTask,
    PauseTask,
    ResetStep,
    ResolveStep,
    ResolveTask,
    ResumeTask,
    RetryTask,
    SkipStep,
)
from stepweave_schemas.template import TaskTemplate

from .stories import Stories, begun, recorder

OPERATOR_STORIES: Final[Stories] = {}
recorded: Final = recorder(OPERATOR_STORIES)

_ONE_TRY: Final[dict[str, Any]] = {**AT_ONCE, "max_attempts": 1}


@recorded(
    "operator_pause",
    "a task is paused while steps run, wait for a retry, save their progress and are handed back; then it goes on",
    "runs",
    "waits",
    "saves",
    "returned",
    "last: runs waits saves returned",
)
def _pause(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("runs"), enqueued("waits"), enqueued("saves"), enqueued("returned"))
        .later(10)
        .when(fail("waits"))
        .then(retry("waits"))
        .later(10)
        .when(wish(PauseTask, request_id="r1"))
        .then(paused())
        .when(wish(PauseTask, request_id="r2"))
        .then_nothing()
        .later(10)
        .when(start("runs"))
        .then(started("runs"))
        .when(succeed("runs", result={"n": 1}))
        .then(completed("runs"))
        .when(save("saves", {"row": 7}, items_processed=7))
        .then(checkpointed("saves"))
        .when(release("returned"))
        .then(released("returned"))
        .later(5_000)
        .when(wake())
        .then_nothing()
        .when(wish(ResumeTask, request_id="r3"))
        .then(resumed(), enqueued("waits", 2), enqueued("saves"), enqueued("returned"))
        .later(10)
        .when(succeed("waits"))
        .then(completed("waits", 2))
        .when(succeed("saves"))
        .then(completed("saves"))
        .when(succeed("returned"))
        .then(completed("returned"), enqueued("last"))
        .when(succeed("last"))
        .then(completed("last"), task_completed())
    )


@recorded(
    "operator_pause_before_start", "the start of a paused task passes, and it begins when it is resumed", "a"
)
def _pause_before_start(made: TaskTemplate) -> Scenario:
    return (
        begun(made, start_at_ms=T0_MS + 1_000)
        .when(wish(PauseTask))
        .then(paused())
        .later(2_000)
        .when(wish(ResumeTask))
        .then(resumed(), task_started(), enqueued("a"))
    )


@recorded(
    "operator_retry",
    "a blocked task is retried: tries anew, a late result of an old one; then given up",
    step("a", retry={**AT_ONCE, "max_attempts": 2}),
    step("b", retry=_ONE_TRY),
    "c: a b",
)
def _retry(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("a"), enqueued("b"))
        .when(fail("a"))
        .then(retry("a"), enqueued("a", 2))
        .when(fail("a"))
        .then(failed("a", 2))
        .when(fail("b", error_code="E7"))
        .then(failed("b"), blocked("a", "b"))
        .later(60_000)
        .when(wish(RetryTask, request_id="r1"))
        .then(reset("a", 2), reset("b"), enqueued("a", 3), enqueued("b", 2))
        .when(succeed("a", 2))
        .then(refused("a", 2))
        .when(fail("a"))
        .then(retry("a", 3), enqueued("a", 4))
        .when(succeed("a"))
        .then(completed("a", 4))
        .when(fail("b", error_code="E8"))
        .then(failed("b", 2), blocked("b"))
        .when(wish(GiveUpTask, request_id="r2"))
        .then(given_up(), task_failed("b", error_code="E8"))
    )


@recorded(
    "operator_steps",
    "steps are reset, resolved, completed and skipped, before they begin, while they run and after they failed",
    step("a", retry=EVERY_SECOND),
    step("b", skippable=True, retry=EVERY_SECOND),
    step("c: a b", skippable=True, retry=EVERY_SECOND),
    "d: c",
    "e: d",
)
def _steps(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("a"), enqueued("b"))
        .when(fail("a"))
        .then(retry("a"))
        .when(wish(ResetStep, "a", request_id="r1"))
        .then(reset("a"), enqueued("a", 2))
        .when(start("a"))
        .then(started("a", 2))
        .when(complete("a", {"by": "hand"}, metadata='{"ticket":7}', request_id="r2"))
        .then(completed_by_hand("a", 2))
        .when(succeed("a"))
        .then(refused("a", 2))
        .when(fail_for_good("b"))
        .then(failed("b"), blocked("b"))
        .when(wish(SkipStep, "c", request_id="r3"))
        .then(skipped("c", reason="operator"), enqueued("d"))
        .when(fail_for_good("d"))
        .then(failed("d"), blocked("b", "d"))
        .when(wish(ResolveStep, "d", request_id="r4"))
        .then(resolved("d"), enqueued("e"))
        .when(wish(SkipStep, "b", request_id="r5"))
        .then(skipped("b", reason="operator"))
        .when(succeed("e"))
        .then(completed("e"), task_completed())
    )


@recorded(
    "operator_deciders",
    "an operator chooses for one decision, and another one that is resolved chooses nothing",
    step("one", type="decision", retry=EVERY_SECOND),
    "left: one",
    "right: one",
    step("two: left", type="decision", retry=EVERY_SECOND),
    "more: two",
    step("join: right more", type="deferred_convergence", retry=EVERY_SECOND),
)
def _deciders(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("one"))
        .when(complete("one", {"create_steps": ["left"]}))
        .then(completed_by_hand("one"), routed("one", "left"), enqueued("left"))
        .when(succeed("left"))
        .then(completed("left"), enqueued("two"))
        .when(wish(ResolveStep, "two"))
        .then(resolved("two"), declined("two"), skipped("join", reason="no_branches"), task_completed())
    )


@recorded(
    "operator_batches",
    "a stopped batch goes on once its failures are mended; another batchable step is resolved and cuts nothing",
    step(
        "cut",
        type="batchable",
        retry=EVERY_SECOND,
        batch_config={"failure_strategy": "fail_fast", "parallelism": 2},
    ),
    step("w: cut", type="batch_worker", retry=_ONE_TRY),
    "sum: w",
    step("cut_2: sum", type="batchable", retry=EVERY_SECOND),
    step("v: cut_2", type="batch_worker", retry=EVERY_SECOND),
)
def _batches(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("cut"))
        .when(cut("cut", 1, 2, 3, 4))
        .then(completed("cut"), batch_created("cut", "w"), enqueued("w_001"), enqueued("w_002"))
        .when(fail("w_001"))
        .then(failed("w_001"), batch_stopped("w", "w_001", 2))
        .when(fail("w_002"))
        .then(failed("w_002"), blocked("w_001", "w_002"))
        .when(wish(ResetStep, "w_001"))
        .then(reset("w_001"), enqueued("w_001", 2))
        .when(wish(ResolveStep, "w_002"))
        .then(resolved("w_002"), enqueued("w_003"))
        .when(succeed("w_001"))
        .then(completed("w_001", 2), enqueued("w_004"))
        .when(succeed("w_003"))
        .then(completed("w_003"))
        .when(complete("w_004", 4))
        .then(completed_by_hand("w_004"), batch_completed("w", 4), enqueued("sum"))
        .when(succeed("sum"))
        .then(completed("sum"), enqueued("cut_2"))
        .when(wish(ResolveStep, "cut_2"))
        .then(resolved("cut_2"), batch_created("cut_2", "v", is_no_op=True), enqueued("v_001"))
    )


@recorded(
    "operator_mended_batch",
    "all batches failed, one is resolved, and the failures of the others are put up with",
    step(
        "cut", type="batchable", retry=EVERY_SECOND, batch_config={"failure_strategy": "continue_on_failure"}
    ),
    step("w: cut", type="batch_worker", retry=_ONE_TRY),
    "sum: w",
)
def _mended_batch(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("cut"))
        .when(cut("cut", 1, 2))
        .then(completed("cut"), batch_created("cut", "w"), enqueued("w_001"), enqueued("w_002"))
        .when(fail("w_001"))
        .then(failed("w_001", tolerated=True))
        .when(fail("w_002"))
        .then(failed("w_002", tolerated=False), blocked("w_002"))
        .when(wish(ResolveStep, "w_001"))
        .then(resolved("w_001"), batch_completed("w", 1, 1), enqueued("sum"))
        .when(succeed("sum"))
        .then(completed("sum"), task_completed())
    )


@recorded(
    "operator_resolve_task",
    "a task that waits for a child, a signal and a worker is resolved",
    "a",
    step("ask", handler={"callable": "stepweave:signal"}, wait_for_signal={"name": "go"}),
    step("child", handler={"callable": "stepweave:child_task"}, child_task={"name": "other"}),
    "last: a ask child",
)
def _resolve_task(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("a"), awaited("ask", "go"), child_requested("child"))
        .when(wish(ResolveTask, request_id="r1"))
        .then(child_cancel_requested("child"), task_resolved("a"))
        .when(wish(ResolveTask, request_id="r1"))
        .then_nothing()
        .when(succeed("a"))
        .then(refused("a", refusal="task_finished"))
    )


@recorded(
    "operator_gates",
    "a paused task leaves the lines in which it waits, and what it holds is given back by tries that are settled",
    step("a", retry=EVERY_SECOND, concurrency={"limit": 1}),
    step("b", retry=EVERY_SECOND, concurrency={"limit": 1}),
    concurrency={"limit": 2},
)
def _gates(made: TaskTemplate) -> Scenario:
    scenario = begun(made, asked())
    scenario.later(5).when(wish(PauseTask)).then(paused(), given_back())
    scenario.later(5).when(wish(ResumeTask)).then(resumed(), asked())
    scenario.later(5).when(scenario.admit()).then(granted(), asked("a"), asked("b"))
    scenario.later(5).when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.later(5).when(wish(PauseTask)).then(paused(), given_back("b"))
    scenario.later(5).when(save("a", 1)).then(checkpointed("a"), given_back("a"))
    scenario.later(5).when(wish(ResumeTask)).then(resumed(), asked("a"), asked("b"))
    scenario.later(5).when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.later(5).when(wish(ResolveStep, "a")).then(resolved("a"), given_back("a"))
    return scenario.when(wish(ResolveTask)).then(given_back("b"), given_back(), task_resolved())


@recorded(
    "operator_compensation",
    "a step that was completed by hand is undone, and its compensation is tried again at once",
    step("a", compensation={"handler": {"callable": "undo"}, "retry": EVERY_SECOND}),
    step("b: a", retry=_ONE_TRY),
)
def _compensation(made: TaskTemplate) -> Scenario:
    name = "compensate:a"
    return (
        begun(made, enqueued("a"))
        .when(complete("a", 1))
        .then(completed_by_hand("a"), enqueued("b"))
        .when(fail("b"))
        .then(failed("b"), undoing("a"), enqueued(name))
        .when(fail(name))
        .then(retry(name))
        .when(wish(ResetStep, name))
        .then(reset(name), enqueued(name, 2))
        .when(succeed(name))
        .then(undone("a", 2), task_failed("b", compensation_status="complete"))
    )
