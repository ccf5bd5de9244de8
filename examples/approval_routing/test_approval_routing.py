"""The approval without a server: the decision alone, and every route in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry
from stepweave.testing import WorkflowRun, assert_events, run_handler, run_workflow

from . import handlers

FOLDER = Path(__file__).parent
CONTEXT: dict[str, Any] = json.loads((FOLDER / "context.json").read_text())
THRESHOLDS = {"manager_from": 1000, "finance_from": 5000}
BRANCHES = {"auto_approve", "manager_approval", "finance_review"}


def request(**changes: Any) -> dict[str, Any]:
    return CONTEXT | changes


def run(**changes: Any) -> WorkflowRun:
    """The whole template in memory."""
    registry = Registry()
    registry.discover(handlers)
    return run_workflow(FOLDER / "template.yaml", registry, request(**changes))


@pytest.mark.parametrize(
    ("amount", "steps", "route_type"),
    [
        (1, ["auto_approve"], "automatic"),
        (999.99, ["auto_approve"], "automatic"),
        (1000, ["manager_approval"], "manager"),
        (4999.99, ["manager_approval"], "manager"),
        (5000, ["manager_approval", "finance_review"], "manager_and_finance"),
        (1_000_000, ["manager_approval", "finance_review"], "manager_and_finance"),
    ],
)
def test_the_amount_chooses_the_route(amount: float, steps: list[str], route_type: str) -> None:
    decision = run_handler(handlers.RoutingDecision, request(amount=amount), config=THRESHOLDS)
    assert decision.is_decision
    assert decision.decision_steps == steps
    assert decision.result == {"route_type": route_type, "amount": amount}


def test_the_thresholds_are_the_templates() -> None:
    low = {"manager_from": 10, "finance_from": 20}
    decision = run_handler(handlers.RoutingDecision, request(amount=15), config=low)
    assert decision.decision_steps == ["manager_approval"]


@pytest.mark.parametrize(
    ("amount", "chosen"),
    [
        (750, {"auto_approve"}),
        (2500, {"manager_approval"}),
        (12000, {"manager_approval", "finance_review"}),
    ],
)
def test_a_branch_that_was_not_chosen_does_not_exist(amount: int, chosen: set[str]) -> None:
    done = run(amount=amount)
    assert done.status == "complete"
    assert {step.name for step in done.task.steps} == {
        "validate_request",
        "routing_decision",
        "finalize_approval",
        *chosen,
    }
    for branch in BRANCHES - chosen:
        assert done.state(branch) is None
        assert branch not in done.results
        assert not [event for event in done.events if event.get("step_name") == branch]
    assert all(done.state(branch) == "complete" for branch in chosen)


def test_the_final_step_waits_for_everyone_who_was_asked() -> None:
    done = run(amount=12000)
    assert_events(
        done,
        [
            ...,
            "step.completed routing_decision",
            {
                "type": "decision.routed",
                "chosen": ["manager_approval", "finance_review"],
                "created": ["manager_approval", "finance_review", "finalize_approval"],
                "excluded": ["auto_approve"],
            },
            # Both begin at once; which of them ends first is theirs.
            "step.enqueued manager_approval",
            "step.enqueued finance_review",
            ...,
            "step.enqueued finalize_approval",
            "step.completed finalize_approval",
            "task.completed",
        ],
    )
    ended = [event["step_name"] for event in done.events if event.type == "step.completed"]
    assert set(ended[2:4]) == {"manager_approval", "finance_review"}
    assert ended[4:] == ["finalize_approval"]
    assert done.results["finalize_approval"] == {
        "request_id": "PR-2001",
        "status": "approved",
        "route_type": "manager_and_finance",
        "amount": 12000,
        "approved_by": ["manager of engineering", "finance"],
        "rejected_by": [],
    }


@pytest.mark.parametrize(
    ("changes", "rejected_by"),
    [
        ({"department": "marketing", "amount": 4500}, ["manager of marketing"]),
        ({"department": "engineering", "amount": 40000}, ["finance"]),
        ({"department": "sales", "amount": 25000}, ["manager of sales", "finance"]),
    ],
)
def test_a_rejection_is_a_result(changes: dict[str, Any], rejected_by: list[str]) -> None:
    done = run(**changes)
    assert done.status == "complete"
    assert done.results["finalize_approval"]["status"] == "rejected"
    assert done.results["finalize_approval"]["rejected_by"] == rejected_by


def test_without_a_branch_nothing_is_finalized() -> None:
    done = run(withdrawn=True)
    assert done.status == "complete"
    assert not BRANCHES & {step.name for step in done.task.steps}
    assert done.state("finalize_approval") == "skipped"
    assert set(done.results) == {"validate_request", "routing_decision"}
    assert done.results["routing_decision"]["reason"] == "the request was withdrawn"


@pytest.mark.parametrize(
    ("changes", "error_code"),
    [({"amount": -5}, "INVALID_AMOUNT"), ({"department": "catering"}, "UNKNOWN_DEPARTMENT")],
)
def test_what_cannot_be_a_purchase_is_never_routed(changes: dict[str, Any], error_code: str) -> None:
    done = run(**changes)
    assert done.status == "blocked_by_failures"
    assert done.task.step("validate_request").error_code == error_code
    assert not BRANCHES & {step.name for step in done.task.steps}


def test_an_approval_that_is_written_again_is_the_same_entry() -> None:
    first, second = (
        run_handler(
            handlers.manager_approval,
            request(amount=2500),
            attempt=attempt,
            task_uuid="0197c3a0-0000-7000-8000-000000000002",
            step_name="manager_approval",
        )
        for attempt in (1, 2)
    )
    assert first.result == second.result


def test_the_readme_shows_what_comes_out() -> None:
    shown = json.loads((FOLDER / "README.md").read_text().split("```json\n")[1].split("```")[0])
    assert run(amount=12000).results["finalize_approval"] == shown


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(path: Path) -> None:
    wanted = json.loads(path.read_text())
    done = run(**wanted["context"])
    assert done.status == wanted["expect"]
    assert not [step.name for step in done.task.steps if step.current_state == "error"]
