"""Stories of workflows that shape themselves: decisions, batches; and of steps that save their progress."""

from __future__ import annotations

from typing import Any, Final

from tests.unit.core.scenario import (
    Scenario,
    batch_completed,
    batch_created,
    batch_stopped,
    blocked,
    checkpointed,
    choose,
    completed,
    cut,
    decline,
    declined,
    enqueued,
    fail,
    fail_for_good,
    failed,
    lose,
    refused,
    retry,
    routed,
    save,
    skipped,
    start,
    started,
    succeed,
    task_completed,
    wake,
)
from tests.unit.core.templates import EVERY_SECOND, step

from stepweave_schemas.template import TaskTemplate

from .stories import Stories, begun, recorder

DYNAMIC_STORIES: Final[Stories] = {}
recorded: Final = recorder(DYNAMIC_STORIES)


def typed(type: str, text: str, **settings: Any) -> dict[str, Any]:
    return step(text, **{"type": type, "retry": EVERY_SECOND, **settings})


def convergence(text: str, **settings: Any) -> dict[str, Any]:
    return typed("deferred_convergence", text, **settings)


# -- decisions -----------------------------------------------------------------------------------

APPROVAL: Final = (
    "validate",
    typed("decision", "route: validate"),
    "auto: route",
    "manager: route",
    "finance: route",
    convergence("finish: auto manager finance"),
    "notify: finish",
)


@recorded("decision_routed", "two of three branches are taken, and brought together again", *APPROVAL)
def _routed(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("validate"))
        .later(10)
        .when(succeed("validate", result={"amount": 9_000}))
        .then(completed("validate"), enqueued("route"))
        .later(10)
        .when(choose("route", "manager", "finance", result={"amount": 9_000, "rule": "both"}, duration_ms=3))
        .then(
            completed("route"),
            routed(
                "route",
                "manager",
                "finance",
                created=("manager", "finance", "finish", "notify"),
                excluded=("auto",),
            ),
            enqueued("manager"),
            enqueued("finance"),
        )
        .later(10)
        .when(succeed("finance", result={"by": "bob"}))
        .then(completed("finance"))
        .later(10)
        .when(succeed("manager", result={"by": "ada"}))
        .then(completed("manager"), enqueued("finish"))
        .when(choose("route", "auto"))
        .then_rejected("DUPLICATE")
        .later(10)
        .when(succeed("finish", result="approved"))
        .then(completed("finish"), enqueued("notify"))
        .later(10)
        .when(succeed("notify"))
        .then(completed("notify"), task_completed(steps_completed=6))
    )


@recorded(
    "decision_declined", "no branch is taken: their convergence is skipped, what follows it runs", *APPROVAL
)
def _declined(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("validate"))
        .later(10)
        .when(succeed("validate"))
        .then(completed("validate"), enqueued("route"))
        .later(10)
        .when(decline("route", "nothing to approve", result={"amount": 0}))
        .then(
            completed("route"),
            declined("route", created=("notify",), excluded=("auto", "manager", "finance")),
            skipped("finish"),
            enqueued("notify"),
        )
        .later(10)
        .when(succeed("notify"))
        .then(completed("notify"), task_completed(steps_completed=4))
    )


@recorded("decision_invalid", "a decision names a step that is not behind it, and fails for good", *APPROVAL)
def _invalid(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("validate"))
        .later(10)
        .when(succeed("validate"))
        .then(completed("validate"), enqueued("route"))
        .later(10)
        .when(choose("route", "auto", "validate"))
        .then(failed("route", error_code="DECISION_INVALID"), blocked("route", unreachable_steps_count=5))
    )


@recorded(
    "decisions_nested",
    "one decision creates another, which is tried twice; two decisions feed one convergence",
    typed("decision", "outer"),
    typed("decision", "inner: outer"),
    "a: inner",
    "b: inner",
    convergence("join: a b"),
    "other: outer",
    typed("decision", "beside"),
    "c: beside",
    convergence("end: join other c"),
)
def _nested(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("outer"), enqueued("beside"))
        .later(10)
        .when(choose("outer", "inner"))
        .then(
            completed("outer"),
            routed("outer", "inner", created=("inner",), excluded=("other",)),
            enqueued("inner"),
        )
        .later(10)
        .when(fail("inner"))
        .then(retry("inner"))
        .later(10)
        .when(decline("beside"))
        .then(completed("beside"), declined("beside", created=(), excluded=("c",)))
        .later(990)
        .when(wake())
        .then(enqueued("inner", 2))
        .later(10)
        .when(choose("inner", "b"))
        .then(
            completed("inner", 2),
            routed("inner", "b", created=("b", "join", "end"), excluded=("a",)),
            enqueued("b"),
        )
        .later(10)
        .when(succeed("b", result="b"))
        .then(completed("b"), enqueued("join"))
        .later(10)
        .when(succeed("join"))
        .then(completed("join"), enqueued("end"))
        .later(10)
        .when(succeed("end", result={"done": True}))
        .then(completed("end"), task_completed())
    )


# -- batches -------------------------------------------------------------------------------------


def etl(**config: Any) -> tuple[Any, ...]:
    return (
        typed("batchable", "analyse", batch_config=config),
        typed("batch_worker", "load: analyse"),
        convergence("merge: load"),
        "report: merge",
    )


@recorded(
    "batches",
    "five batches with cursors of every kind, two at once; one of them is tried twice and saves its progress",
    *etl(batch_size=100, parallelism=2),
)
def _batches(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("analyse"))
        .later(10)
        .when(cut("analyse", 0, "b", "2026-01-01", {"from": 1, "to": 2}, None, result={"rows": 500}))
        .then(
            completed("analyse"),
            batch_created("analyse", "load", created=("merge", "report")),
            enqueued("load_001"),
            enqueued("load_002"),
        )
        .later(10)
        .when(succeed("load_002", result=2))
        .then(completed("load_002"), enqueued("load_003"))
        .later(10)
        .when(save("load_001", 50, items_processed=50, accumulated_results={"sum": 1}))
        .then(checkpointed("load_001"), enqueued("load_001"))
        .later(10)
        .when(fail("load_001"))
        .then(retry("load_001"))
        .later(10)
        .when(succeed("load_003", result=3))
        .then(completed("load_003"), enqueued("load_004"))
        .later(980)
        .when(wake())
        .then()
        .later(10)
        .when(wake())
        .then(enqueued("load_001", 2))
        .later(10)
        .when(succeed("load_004", result=4))
        .then(completed("load_004"), enqueued("load_005"))
        .later(10)
        .when(succeed("load_001", result=1))
        .then(completed("load_001", 2))
        .later(10)
        .when(succeed("load_005", result=5))
        .then(completed("load_005"), batch_completed("load", 5), enqueued("merge"))
        .later(10)
        .when(succeed("merge", result=15))
        .then(completed("merge"), enqueued("report"))
        .later(10)
        .when(succeed("report"))
        .then(completed("report"), task_completed(steps_completed=8))
    )


@recorded("batches_nothing_to_do", "no batches: one placeholder stands for all of them", *etl())
def _no_batches(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("analyse"))
        .later(10)
        .when(cut("analyse", reason="no rows"))
        .then(completed("analyse"), batch_created("analyse", "load", is_no_op=True), enqueued("load_001"))
        .later(10)
        .when(succeed("load_001"))
        .then(completed("load_001"), batch_completed("load", 1), enqueued("merge"))
    )


@recorded("batches_isolated", "a batch fails: the others go on, what depends on them is blocked", *etl())
def _isolated(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("analyse"))
        .later(10)
        .when(cut("analyse", 1, 2, 3))
        .then(
            completed("analyse"),
            batch_created("analyse", "load"),
            *(enqueued(f"load_00{number}") for number in (1, 2, 3)),
        )
        .later(10)
        .when(fail_for_good("load_002", error_code="CORRUPT"))
        .then(failed("load_002", tolerated=False))
        .later(10)
        .when(succeed("load_001"))
        .then(completed("load_001"))
        .later(10)
        .when(succeed("load_003"))
        .then(completed("load_003"), blocked("load_002", unreachable_steps_count=2))
    )


@recorded(
    "batches_continued",
    "a batch fails and is put up with: what depends on them runs with the results of the others",
    *etl(failure_strategy="continue_on_failure"),
)
def _continued(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("analyse"))
        .later(10)
        .when(cut("analyse", 1, 2))
        .then(
            completed("analyse"),
            batch_created("analyse", "load"),
            enqueued("load_001"),
            enqueued("load_002"),
        )
        .later(10)
        .when(fail_for_good("load_001"))
        .then(failed("load_001", tolerated=True))
        .later(10)
        .when(succeed("load_002", result=2))
        .then(completed("load_002"), batch_completed("load", 1, 1), enqueued("merge"))
        .later(10)
        .when(succeed("merge"))
        .then(completed("merge"), enqueued("report"))
        .later(10)
        .when(succeed("report"))
        .then(completed("report"), task_completed())
    )


@recorded(
    "batches_fail_fast",
    "a batch fails: those that wait are cancelled, the one in flight is awaited",
    *etl(failure_strategy="fail_fast", parallelism=3),
)
def _fail_fast(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("analyse"))
        .later(10)
        .when(cut("analyse", *range(5)))
        .then(
            completed("analyse"),
            batch_created("analyse", "load"),
            *(enqueued(f"load_00{number}") for number in (1, 2, 3)),
        )
        .later(10)
        .when(fail("load_003"))
        .then(retry("load_003"))
        .later(10)
        .when(fail_for_good("load_001"))
        .then(failed("load_001"), batch_stopped("load", "load_001", 3))
        .later(10)
        .when(succeed("load_003"))
        .then(refused("load_003", refusal="step_finished"))
        .later(10)
        .when(succeed("load_002"))
        .then(completed("load_002"), blocked("load_001"))
    )


@recorded(
    "batches_chosen",
    "an analyser behind a decision chooses one of two workers, which waits for another step too",
    typed("decision", "route"),
    typed("batchable", "analyse: route"),
    "schema",
    typed("batch_worker", "small: analyse"),
    typed("batch_worker", "large: analyse schema"),
    convergence("merge: small large"),
)
def _chosen(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("route"), enqueued("schema"))
        .later(10)
        .when(choose("route", "analyse"))
        .then(completed("route"), routed("route", "analyse"), enqueued("analyse"))
        .later(10)
        .when(cut("analyse", "x", "y", worker_template="large"))
        .then(
            completed("analyse"),
            batch_created("analyse", "large", created=("merge",), excluded=("small",)),
        )
        .later(10)
        .when(succeed("schema"))
        .then(completed("schema"), enqueued("large_001"), enqueued("large_002"))
        .later(10)
        .when(succeed("large_001", result=1))
        .then(completed("large_001"))
    )


# -- checkpoints ---------------------------------------------------------------------------------


@recorded(
    "checkpoints",
    "progress is saved, survives a lost worker, a failed try and a time-out, and costs no try",
    step("import", retry={**EVERY_SECOND, "max_attempts": 4}, timeout_seconds=60.0),
)
def _checkpoints(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("import"))
        .later(10)
        .when(start("import"))
        .then(started("import"))
        .later(10)
        .when(save("import", {"row": 10}, items_processed=10, accumulated_results={"sum": 5}))
        .then(checkpointed("import"), enqueued("import"))
        .when(save("import", {"row": 10}, 1, 0, items_processed=10))
        .then_rejected("STALE")
        .later(10)
        .when(save("import", {"row": 20}, items_processed=20, accumulated_results={"sum": 9}))
        .then(checkpointed("import"), enqueued("import"))
        .later(10)
        .when(lose("import", worker_id="worker-2"))
        .then(retry("import", settled_by="lost"), enqueued("import", 2))
        .later(10)
        .when(fail("import"))
        .then(retry("import", 2))
        .later(1_000)
        .when(wake())
        .then(enqueued("import", 3))
        .when(start("import"))
        .then(started("import", 3))
        .later(65_000)
        .when(wake())
        .then(retry("import", 3, settled_by="timeout"))
        .later(1_000)
        .when(wake())
        .then(enqueued("import", 4))
        .later(10)
        .when(save("import", "token", items_processed=30))
        .then(checkpointed("import", 4), enqueued("import", 4))
    )
