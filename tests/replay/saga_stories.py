"""Stories of tasks that are undone."""

from __future__ import annotations

from typing import Any, Final

from tests.unit.core.scenario import (
    Happened,
    Scenario,
    batch_created,
    cancel,
    completed,
    cut,
    enqueued,
    fail,
    fail_for_good,
    failed,
    not_undone,
    refused,
    retry,
    start,
    started,
    succeed,
    task_failed,
    undoing,
    undone,
    wake,
)
from tests.unit.core.templates import EVERY_SECOND, step

from stepweave_schemas import events
from stepweave_schemas.template import TaskTemplate

from .stories import Stories, begun, recorder

SAGA_STORIES: Final[Stories] = {}
recorded: Final = recorder(SAGA_STORIES)


def convergence(text: str) -> dict[str, Any]:
    return step(text, type="deferred_convergence", retry=EVERY_SECOND)


def undoable(text: str, **settings: Any) -> dict[str, Any]:
    name = text.partition(":")[0]
    return step(
        text,
        **{"retry": EVERY_SECOND, "compensation": {"handler": {"callable": f"undo_{name}"}}, **settings},
    )


REGISTRATION: Final = (
    undoable("account"),
    undoable("billing: account"),
    undoable("settings: account"),
    "welcome: billing settings",
)


def registered(made: TaskTemplate) -> Scenario:
    """The registration up to its last step."""
    return (
        begun(made, enqueued("account"))
        .later(10)
        .when(succeed("account", result={"user": 7}))
        .then(completed("account"), enqueued("billing"), enqueued("settings"))
        .later(10)
        .when(succeed("billing", result={"plan": "free"}))
        .then(completed("billing"))
        .later(10)
        .when(succeed("settings"))
        .then(completed("settings"), enqueued("welcome"))
        .later(10)
    )


def undo_begins() -> tuple[Happened, ...]:
    return (
        undoing("account", "billing", "settings", failed_steps=("welcome",)),
        enqueued("compensate:billing"),
        enqueued("compensate:settings"),
    )


@recorded(
    "saga_complete", "the last step fails; both branches are undone, then what was before them", *REGISTRATION
)
def _saga_complete(made: TaskTemplate) -> Scenario:
    return (
        registered(made)
        .when(fail_for_good("welcome", error_code="MAIL", error_message="no such address"))
        .then(failed("welcome"), *undo_begins())
        .when(cancel())
        .then_rejected("CONFLICT")
        .later(10)
        .when(succeed("compensate:settings", result={"undone": True}))
        .then(undone("settings"))
        .later(10)
        .when(fail("compensate:billing"))
        .then(retry("compensate:billing"))
        .later(30_000)
        .when(wake())
        .then(enqueued("compensate:billing", 2))
        .later(10)
        .when(succeed("compensate:billing", duration_ms=4))
        .then(undone("billing", 2), enqueued("compensate:account"))
        .later(10)
        .when(fail("settings"))
        .then(refused("settings", refusal="step_finished"))
        .later(10)
        .when(succeed("compensate:account"))
        .then(undone("account"), task_failed("welcome", compensation_status="complete"))
    )


@recorded(
    "saga_partial", "one compensation fails, another one says that somebody has to clean up", *REGISTRATION
)
def _saga_partial(made: TaskTemplate) -> Scenario:
    return (
        registered(made)
        .when(fail_for_good("welcome"))
        .then(failed("welcome"), *undo_begins())
        .later(10)
        .when(fail_for_good("compensate:billing", error_message="already billed"))
        .then(not_undone("billing"))
        .later(10)
        .when(succeed("compensate:settings"))
        .then(undone("settings"), enqueued("compensate:account"))
        .later(10)
        .when(succeed("compensate:account", result={"requires_manual_cleanup": True}))
        .then(
            undone("account", requires_manual_cleanup=True),
            task_failed(
                "welcome", compensation_status="partial", requires_manual_cleanup=("billing", "account")
            ),
        )
    )


@recorded("saga_under_way", "a task in the middle of being undone", *REGISTRATION)
def _saga_under_way(made: TaskTemplate) -> Scenario:
    return (
        registered(made)
        .when(fail_for_good("welcome"))
        .then(failed("welcome"), *undo_begins())
        .later(10)
        .when(start("compensate:billing", worker_id="worker-2"))
        .then(started("compensate:billing"))
        .later(10)
        .when(succeed("compensate:settings"))
        .then(undone("settings"))
    )


@recorded(
    "saga_named",
    "a failure names itself, a handler that no step declares, and one that never ran",
    undoable("stock"),
    undoable("pay: stock"),
    undoable("ship: pay"),
    on_failure="block",
)
def _saga_named(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("stock"))
        .later(10)
        .when(succeed("stock"))
        .then(completed("stock"), enqueued("pay"))
        .later(10)
        .when(fail_for_good("pay", compensation_steps=["undo_pay", "alert", "ship"]))
        .then(
            failed("pay"),
            undoing("stock", "pay", handlers={"alert": "pay"}),
            enqueued("compensate:pay"),
            enqueued("compensate:alert"),
        )
        .later(10)
        .when(succeed("compensate:pay"))
        .then(undone("pay"))
        .later(10)
        .when(fail_for_good("compensate:alert"))
        .then(
            Happened(events.CompensationFailed, {"step_name": "compensate:alert", "compensates": "pay"}),
            enqueued("compensate:stock"),
        )
        .later(10)
        .when(succeed("compensate:stock"))
        .then(undone("stock"), task_failed("pay", compensation_status="partial"))
    )


@recorded(
    "saga_of_batches",
    "batches that were done are undone beside each other, and the one that failed because it says so",
    undoable("analyse", type="batchable"),
    undoable("load: analyse", type="batch_worker"),
    convergence("merge: load"),
)
def _saga_of_batches(made: TaskTemplate) -> Scenario:
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
        .when(succeed("load_003", result=3))
        .then(completed("load_003"))
        .later(10)
        .when(fail_for_good("load_002", compensation_steps=["load_002"]))
        .then(failed("load_002"))
        .later(10)
        .when(succeed("load_001", result=1))
        .then(
            completed("load_001"),
            undoing("analyse", "load", "load_002"),
            enqueued("compensate:load_001"),
            enqueued("compensate:load_003"),
            enqueued("compensate:load_002"),
        )
        .later(10)
        .when(succeed("compensate:load_002"))
        .then(undone("load_002"))
        .later(10)
        .when(succeed("compensate:load_003"))
        .then(undone("load_003"))
        .later(10)
        .when(succeed("compensate:load_001"))
        .then(undone("load_001"), enqueued("compensate:analyse"))
    )
