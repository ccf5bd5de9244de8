"""The approval without a server: signals arrive, or do not, on a virtual clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry, ValidationFailed
from stepweave.testing import Signal, WorkflowRun, run_handler, run_workflow

from . import handlers

FOLDER = Path(__file__).parent
TEMPLATES = {
    "finance/expense_approval": FOLDER / "templates/expense_approval.yaml",
    "finance/small_expense": FOLDER / "templates/small_expense.yaml",
}
CONTEXT: dict[str, Any] = json.loads((FOLDER / "context.json").read_text())
YES = {"approved": True}


def claim(
    *signals: Signal, template: str = "finance/expense_approval", context: dict[str, Any] = CONTEXT
) -> WorkflowRun:
    """The whole template in memory; waiting for a person takes no time."""
    registry = Registry()
    registry.discover(handlers)
    return run_workflow(TEMPLATES[template], registry, context, signals=signals)


def decided(*, after_seconds: float = 1.0, **payload: Any) -> Signal:
    return Signal("manager_decision", payload, after_seconds)


@pytest.mark.parametrize("category", ["gifts", ""])
def test_not_everything_is_paid_back(category: str) -> None:
    result = run_handler(handlers.submit, CONTEXT | {"category": category})
    assert (result.error_code, result.retryable) == ("CATEGORY_NOT_PAID", False)


@pytest.mark.parametrize(
    ("answer", "chosen", "outcome"),
    [
        ({"approved": True, "comment": "fine"}, "pay_out", "approved"),
        ({"approved": False, "comment": "no"}, "notify_rejection", "rejected"),
    ],
)
def test_the_answer_chooses_the_step(answer: dict[str, Any], chosen: str, outcome: str) -> None:
    result = run_handler(handlers.settle, dependencies={"manager_decision": answer})
    assert result.decision_steps == [chosen]
    assert result.result == {"outcome": outcome, "comment": answer["comment"]}


def test_a_yes_is_paid() -> None:
    run = claim(decided(approved=True, comment="fine", after_seconds=300.0))
    assert run.status == "complete"
    assert run.elapsed_seconds == pytest.approx(300.0, abs=1.0)
    assert run.results["manager_decision"] == {"approved": True, "comment": "fine"}
    assert run.results["pay_out"]["amount_cents"] == CONTEXT["amount_cents"]
    assert run.state("notify_rejection") is None


def test_a_no_is_explained() -> None:
    run = claim(decided(approved=False, comment="we have three of these"))
    assert run.status == "complete"
    assert "we have three of these" in run.results["notify_rejection"]["text"]
    assert run.state("pay_out") is None


def test_an_answer_that_comes_early_is_kept() -> None:
    run = claim(
        decided(approved=True, after_seconds=0.0),
        context=CONTEXT | {"simulate": {"receipts_down_for_tries": 2}},
    )
    types = [event.type for event in run.events]
    assert run.status == "complete"
    assert types.index("signal.received") < types.index("signal.awaited")


@pytest.mark.parametrize(
    ("template", "seconds", "paid"),
    [("finance/expense_approval", 600.0, False), ("finance/small_expense", 2.0, True)],
)
def test_no_answer_is_the_default(template: str, seconds: float, paid: bool) -> None:
    run = claim(template=template)
    assert run.status == "complete"
    assert run.elapsed_seconds == pytest.approx(seconds, abs=0.5)
    assert ("pay_out" in run.results, "notify_rejection" in run.results) == (paid, not paid)


def test_an_objection_in_time_stops_a_small_one() -> None:
    run = claim(decided(approved=False), template="finance/small_expense")
    assert "no reason given" in run.results["notify_rejection"]["text"]


def test_the_first_answer_counts() -> None:
    run = claim(decided(approved=True), decided(approved=False))
    assert "pay_out" in run.results
    assert len(run.refused_signals) == 1


@pytest.mark.parametrize("payload", [None, {}, {"approved": "yes"}, YES | {"amount_cents": 1}])
def test_an_answer_of_the_wrong_make_is_refused(payload: Any) -> None:
    with pytest.raises(ValidationFailed):
        claim(Signal("manager_decision", payload))


def test_a_large_amount_is_no_small_expense() -> None:
    with pytest.raises(ValidationFailed):
        claim(template="finance/small_expense", context=CONTEXT | {"amount_cents": 5001})


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(path: Path) -> None:
    wanted = json.loads(path.read_text())
    signals = [
        decided(**each["payload"], after_seconds=0.0 if each.get("early") else 1.0)
        for each in wanted.get("signals", ())
    ]
    run = claim(*signals, template=wanted["template"], context=wanted["context"])
    assert run.status == wanted["expect"]
    assert [step.name for step in run.task.steps if step.current_state == "error"] == []
