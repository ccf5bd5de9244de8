"""Stories of forks: what another task has come to, and how the new one goes on."""

from __future__ import annotations

from typing import Final

from tests.unit.core.forking import Run, fork_command, plan_of
from tests.unit.core.scenario import (
    Scenario,
    batch_completed,
    batch_created,
    completed,
    created,
    enqueued,
    fail_for_good,
    failed,
    given,
    reused,
    routed,
    succeed,
    task_completed,
    task_failed,
    undoing,
    undone,
)
from tests.unit.core.templates import EVERY_SECOND, step

from stepweave_schemas.template import TaskTemplate

from .saga_stories import undoable
from .stories import Stories, recorder

FORK_STORIES: Final[Stories] = {}
recorded: Final = recorder(FORK_STORIES)


def fork_of(original: Run, made: TaskTemplate, *from_steps: str) -> Scenario:
    """A fork, asked for and not decided yet."""
    plan = plan_of(made)
    return given(plan).when(fork_command(plan, original, original.past(), from_steps))


CHAIN: Final = ("validate_cart", undoable("charge: validate_cart"), "ship: charge")


@recorded("fork", "a step is run anew with what depends on it; the rest is reused", *CHAIN)
def _fork(made: TaskTemplate) -> Scenario:
    original = Run(plan_of(made)).create().finish()
    return (
        fork_of(original, made, "ship")
        .then(
            created(),
            reused("validate_cart", undone_by_original=True),
            reused("charge", undone_by_original=True),
            enqueued("ship"),
        )
        .later(10)
        .when(succeed("ship", result={"parcel": 2}))
        .then(completed("ship"), task_completed(steps_completed=3))
    )


@recorded(
    "fork_undone",
    "the original was given up; its fork fails too, and undoes what both have done",
    *CHAIN,
    undoable("pack: charge"),
    "send: pack ship",
)
def _undone(made: TaskTemplate) -> Scenario:
    original = Run(plan_of(made)).create()
    original.answer("validate_cart")
    original.answer("charge")
    original.cancel()
    return (
        fork_of(original, made)
        .then(created(), reused("validate_cart"), reused("charge"), enqueued("ship"), enqueued("pack"))
        .later(10)
        .when(succeed("pack"))
        .then(completed("pack"))
        .later(10)
        .when(fail_for_good("ship", error_message="no truck"))
        .then(failed("ship"), undoing("charge", "pack"), enqueued("compensate:pack"))
        .later(10)
        .when(succeed("compensate:pack"))
        .then(undone("pack"), enqueued("compensate:charge"))
        .later(10)
        .when(succeed("compensate:charge"))
        .then(undone("charge"), task_failed("ship", compensation_status="complete"))
    )


@recorded(
    "fork_of_batches",
    "decided as it was and cut as it was; of the batches only the one that had failed is run, and what was put up with "
    "stays so",
    step("choose", type="decision", retry=EVERY_SECOND),
    step("scan: choose", type="batchable", retry=EVERY_SECOND),
    step("load: scan", type="batch_worker", retry=EVERY_SECOND),
    step(
        "other: choose",
        type="batchable",
        retry=EVERY_SECOND,
        batch_config={"failure_strategy": "continue_on_failure"},
    ),
    step("part: other", type="batch_worker", retry=EVERY_SECOND),
    step("merge: load part", type="deferred_convergence", retry=EVERY_SECOND),
    step("left_out: choose", retry=EVERY_SECOND),
)
def _batches(made: TaskTemplate) -> Scenario:
    original = Run(plan_of(made))
    original.choices["choose"] = ("scan", "other")
    original.cursors |= {"scan": 3, "other": 2}
    original.create()
    for name in ("choose", "scan", "other", "load_001", "load_003", "part_002"):
        original.answer(name)
    original.fail("load_002")
    original.fail("part_001")
    return (
        fork_of(original, made)
        .then(
            created(),
            reused("choose"),
            routed("choose", "scan", "other", excluded=("left_out",)),
            reused("scan"),
            batch_created("scan", "load"),
            reused("other"),
            batch_created("other", "part"),
            reused("load_001"),
            reused("load_003"),
            reused("part_001", status="error"),
            reused("part_002"),
            batch_completed("part", 1, 1),
            enqueued("load_002"),
        )
        .later(10)
        .when(succeed("load_002", result=2))
        .then(completed("load_002"), batch_completed("load", 3), enqueued("merge"))
        .later(10)
        .when(succeed("merge", result="all"))
        .then(completed("merge"), task_completed())
    )
