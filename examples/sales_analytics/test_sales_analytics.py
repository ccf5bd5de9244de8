"""The analytics without a server: single steps on small files, and the whole of it in memory."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry
from stepweave.testing import WorkflowRun, assert_events, run_handler, run_workflow

from . import exports, handlers
from .models import Customers, Inventory, Period, Sales

FOLDER = Path(__file__).parent
CONTEXT: dict[str, Any] = json.loads((FOLDER / "context.json").read_text())
TASK = "0197c3a0-0000-7000-8000-000000000004"
SOURCES = ("sales", "inventory", "customers")


def run(work_dir: Path, **changes: Any) -> WorkflowRun:
    """The whole template in memory."""
    registry = Registry()
    registry.discover(handlers)
    return run_workflow(FOLDER / "template.yaml", registry, CONTEXT | {"work_dir": str(work_dir)} | changes)


def test_the_exports_are_always_the_same() -> None:
    last_day = date(2026, 3, 31)
    orders = list(exports.sales(500, last_day, 30))
    assert orders == list(exports.sales(500, last_day, 30))
    assert len({row["order_id"] for row in orders}) == 500
    assert {row["day"] for row in orders} == {f"2026-03-{day:02d}" for day in range(2, 32)}
    assert {row["product"] for row in orders} == set(exports.PRICES)


def test_sales_are_added_up(tmp_path: Path) -> None:
    rows = [
        {"order_id": "1", "day": "2026-03-01", "product": "mug", "customer_id": "7", "quantity": "2"},
        {"order_id": "2", "day": "2026-03-02", "product": "mug", "customer_id": "8", "quantity": "1"},
        {"order_id": "3", "day": "2026-03-02", "product": "lamp", "customer_id": "7", "quantity": "1"},
    ]
    for row, cents in zip(rows, ("2500", "1250", "4990"), strict=True):
        row["amount_cents"] = cents
    exports.write(tmp_path / TASK / "sales.csv", handlers.SALES_COLUMNS, rows)
    result = run_handler(
        handlers.transform_sales,
        {"work_dir": str(tmp_path)},
        dependencies={"extract_sales": {"file": "sales.csv", "records": 3}},
        task_uuid=TASK,
    )
    assert result.result == {
        "orders": 3,
        "units": {"mug": 3, "lamp": 1},
        "cents_by_product": {"mug": 3750, "lamp": 4990},
        "cents_by_customer": {"7": 7490, "8": 1250},
    }


def test_the_stock_lasts_as_long_as_the_pace_says() -> None:
    metrics = handlers.aggregate_metrics(
        Sales(orders=2, units={"mug": 6}, cents_by_product={"mug": 7500}, cents_by_customer={"1": 7500}),
        Inventory({"mug": 10, "lamp": 3}),
        Customers({"1": "business"}),
        Period(last_day="2026-03-31", days=30, orders=2),
    )
    assert metrics.products["mug"].days_of_stock == 50
    assert metrics.products["lamp"].days_of_stock is None
    assert metrics.cents_by_segment == {"business": 7500}


def test_customers_that_nobody_knows_are_a_segment_of_their_own() -> None:
    metrics = handlers.aggregate_metrics(
        Sales(orders=1, units={}, cents_by_product={}, cents_by_customer={"9": 100}),
        Inventory({}),
        Customers({}),
        Period(last_day="2026-03-31", days=30, orders=1),
    )
    assert metrics.cents_by_segment == {"unknown": 100}


def test_three_sources_begin_at_once_and_meet_once(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.status == "complete"
    assert_events(
        done,
        [
            "task.created",
            *(f"step.enqueued extract_{source}" for source in SOURCES),
            ...,
            "step.enqueued aggregate_metrics",
            "step.completed aggregate_metrics",
            "step.enqueued generate_insights",
            "step.completed generate_insights",
            "task.completed",
        ],
    )
    ended = [event["step_name"] for event in done.events if event.type == "step.completed"]
    assert set(ended[:6]) == {f"{kind}_{source}" for kind in ("extract", "transform") for source in SOURCES}


def test_no_cent_is_lost_on_the_way(tmp_path: Path) -> None:
    done = run(tmp_path)
    orders = list(exports.sales(200, date(2026, 3, 31), 30))
    metrics = done.results["aggregate_metrics"]
    assert metrics["orders"] == 200
    assert metrics["cents"] == sum(int(row["amount_cents"]) for row in orders)
    assert sum(metrics["cents_by_segment"].values()) == metrics["cents"]
    assert sum(one["cents"] for one in metrics["products"].values()) == metrics["cents"]
    assert sum(one["units"] for one in metrics["products"].values()) == sum(
        int(row["quantity"]) for row in orders
    )


def test_the_insights_are_in_the_report(tmp_path: Path) -> None:
    done = run(tmp_path)
    result = done.results["generate_insights"]
    assert json.loads(Path(result["report"]).read_text()) == result["insights"]
    metrics = done.results["aggregate_metrics"]
    short = [name for name, one in metrics["products"].items() if (one["days_of_stock"] or 99) < 14]
    assert short
    assert [text.split(":")[0] for text in result["insights"][3:]] == [f"Order {name}" for name in short]
    assert result["insights"][0] == f"200 orders brought {metrics['cents'] / 100:,.2f}."


def test_a_month_without_sales_has_an_insight_too(tmp_path: Path) -> None:
    done = run(tmp_path, orders=0)
    assert done.status == "complete"
    assert done.results["generate_insights"]["insights"] == ["Nothing was sold in this period."]


def test_one_slow_source_does_not_stop_the_others(tmp_path: Path) -> None:
    done = run(tmp_path, simulate={"inventory_down_for_tries": 2})
    assert done.status == "complete"
    assert done.attempts("extract_inventory") == 3
    ended = [event["step_name"] for event in done.events if event.type == "step.completed"]
    assert set(ended[:4]) == {"extract_sales", "transform_sales", "extract_customers", "transform_customers"}
    assert done.results == run(tmp_path).results


def test_a_source_that_stays_down_blocks_the_meeting(tmp_path: Path) -> None:
    done = run(tmp_path, simulate={"inventory_down_for_tries": 3})
    assert done.status == "blocked_by_failures"
    step = done.task.step("extract_inventory")
    assert (step.error_code, step.attempts) == ("INVENTORY_UNAVAILABLE", 3)
    assert done.state("transform_sales") == done.state("transform_customers") == "complete"
    assert done.state("aggregate_metrics") == "pending"


@pytest.mark.parametrize("column", handlers.SALES_COLUMNS)
def test_a_column_that_is_missing_fails_for_good(tmp_path: Path, column: str) -> None:
    done = run(tmp_path, simulate={"sales_export_without": column})
    assert done.status == "blocked_by_failures"
    step = done.task.step("transform_sales")
    assert (step.error_code, step.attempts) == ("SCHEMA_MISMATCH", 1)


def test_a_day_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, last_day="2026-02-30")
    assert done.task.step("extract_sales").error_code == "INVALID_DATE"


def test_typed_results_are_what_the_next_step_gets(tmp_path: Path) -> None:
    """A result that does not fit its type fails the step that reads it, and says where."""
    result = run_handler(
        handlers.generate_insights,
        {"work_dir": str(tmp_path)},
        dependencies={"aggregate_metrics": {"orders": "many"}},
        config={"days_of_stock_min": 14},
    )
    assert (result.error_code, result.retryable) == ("DEPENDENCY_INVALID", False)
    assert result.error_message.startswith("the result of step 'aggregate_metrics' does not fit: /orders: ")


def test_the_readme_shows_what_comes_out(tmp_path: Path) -> None:
    shown = json.loads((FOLDER / "README.md").read_text().split("```json\n")[1].split("```")[0])
    assert run(tmp_path).results["generate_insights"]["insights"] == shown


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(tmp_path: Path, path: Path) -> None:
    wanted = json.loads(path.read_text())
    done = run(tmp_path, **wanted["context"])
    assert done.status == wanted["expect"]
    failed = [step.name for step in done.task.steps if step.current_state == "error"]
    assert failed == ([wanted["expect_failed_step"]] if "expect_failed_step" in wanted else [])
