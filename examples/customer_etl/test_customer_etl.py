"""The pipeline without a server: rows, partitions and checkpoints one at a time, and the whole of it in memory."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry
from stepweave.testing import WorkflowRun, assert_events, run_handler, run_workflow

from . import files, handlers, services, sources

FOLDER = Path(__file__).parent
TEMPLATE = (FOLDER / "template.yaml").read_text()
TASK = "0197c3a0-0000-7000-8000-000000000003"


class Pipeline:
    """Runs the pipeline in a folder of the test, and remembers whom the demographics service was asked about."""

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir
        self.asked: list[int] = []

    def run(self, template: str = TEMPLATE, **context: Any) -> WorkflowRun:
        registry = Registry()
        registry.discover(handlers)
        start = {"processing_date": "2026-03-31", "customers": 120, "work_dir": str(self.work_dir)}
        return run_workflow(template, registry, start | context)

    def warehouse(self, query: str) -> list[Any]:
        (database,) = self.work_dir.glob("*/warehouse.db")
        with closing(sqlite3.connect(database)) as connection:
            return connection.execute(query).fetchall()

    @property
    def folder(self) -> Path:
        (folder,) = self.work_dir.iterdir()
        return folder


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    made = Pipeline(tmp_path / "work")
    look_up = services.DemographicsApi.look_up

    def counted(api: services.DemographicsApi, customer: services.Customer) -> services.Demographics:
        made.asked.append(customer.customer_id)
        return look_up(api, customer)

    monkeypatch.setattr(services.DemographicsApi, "look_up", counted)
    return made


# -- rows ------------------------------------------------------------------------------------------


def test_the_sources_are_always_the_same() -> None:
    assert list(sources.customers(50, {7})) == list(sources.customers(50, {7}))


@pytest.mark.parametrize(
    ("number", "said"),
    [(6, "2 columns instead of 4"), (7, "'no address' is no e-mail address"), (8, "'N/A' is no postcode")],
)
def test_each_kind_of_damage_is_noticed(number: int, said: str) -> None:
    rows = list(sources.customers(10, {number}))
    with pytest.raises(services.MalformedRecord) as error:
        services.read_customer(rows[number - 1])
    assert str(error.value) == f"customer {number}: {said}"
    others = [services.read_customer(row).customer_id for row in rows if row is not rows[number - 1]]
    assert others == [one for one in range(1, 11) if one != number]


@pytest.mark.parametrize("row", [[], ["x", "Ada", "ada@mail.example", "12345"]])
def test_rows_of_another_shape_are_malformed_too(row: list[str]) -> None:
    with pytest.raises(services.MalformedRecord):
        services.read_customer(row)


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def broken() -> Any:
        yield ("1",)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        files.write_rows(tmp_path / "rows.csv", ("number",), broken())
    assert list(tmp_path.iterdir()) == []


# -- one partition ---------------------------------------------------------------------------------


def enrich(work_dir: Path, rows: int, corrupt: set[int], **fields: Any) -> Any:
    """One call of the worker on a partition of so many rows."""
    name = "extracted/partition.csv"
    files.write_rows(work_dir / TASK / name, sources.CUSTOMER_COLUMNS, sources.customers(rows, corrupt))
    return run_handler(
        handlers.EnrichCustomerData,
        {"work_dir": str(work_dir), "simulate": fields.pop("simulate", {})},
        config={"skipped_percent_max": 10},
        task_uuid=TASK,
        step_name="enrich_customer_data_001",
        step_inputs={
            "cursor": {"file": name, "rows": rows},
            "batch_id": "001",
            "batch_config": {"checkpoint_interval": fields.pop("interval", 1000)},
        },
        **fields,
    )


@pytest.mark.parametrize(("skipped", "good"), [(0, True), (3, True), (4, False), (30, False)])
def test_a_tenth_of_the_rows_may_be_skipped(tmp_path: Path, skipped: int, good: bool) -> None:
    result = enrich(tmp_path, 30, set(range(1, skipped + 1)))
    assert result.is_success == good
    if good:
        assert result.result["items_processed"] == 30
        assert (result.result["items_succeeded"], result.result["items_skipped"]) == (30 - skipped, skipped)
        assert len(result.result["errors"]) == skipped
    else:
        assert (result.error_code, result.retryable) == ("data_quality_issue", False)
        assert result.error_message == f"{skipped} of 30 rows skipped, 10 % at most"
        assert result.metadata["error_rate"] == skipped / 30
        assert len(result.metadata["errors"]) == min(skipped, handlers.MESSAGES_MAX)


def test_a_partition_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = enrich(tmp_path, 25, {4}, interval=10)
    assert first.is_checkpoint
    assert (first.checkpoint_cursor, first.checkpoint_items_processed) == (10, 10)
    assert first.accumulated_results["skipped"] == 1
    second = enrich(tmp_path, 25, {4}, interval=10, checkpoint=first)
    assert second.checkpoint_cursor == 20
    last = enrich(tmp_path, 25, {4}, interval=10, checkpoint=second)
    assert not last.is_checkpoint
    assert (last.result["items_processed"], last.result["items_skipped"]) == (25, 1)
    rows = [
        row for name in last.result["results"]["files"] for row in files.read_rows(tmp_path / TASK / name)
    ]
    assert [int(row[0]) for row in rows] == [number for number in range(1, 26) if number != 4]


def test_rows_without_an_answer_are_not_written(tmp_path: Path) -> None:
    simulate = {"api_timeout_at_customer": 5}
    first = enrich(tmp_path, 10, set(), simulate=simulate)
    assert (first.error_code, first.retryable) == ("api_timeout", True)
    assert not list((tmp_path / TASK).glob("enriched/*"))
    assert enrich(tmp_path, 10, set(), simulate=simulate, attempt=2).is_success


# -- the whole -------------------------------------------------------------------------------------


def test_everything_that_is_good_reaches_the_warehouse(pipeline: Pipeline) -> None:
    done = pipeline.run(corrupt_customers=[17, 64, 65])
    assert done.status == "complete"
    report = done.results["generate_summary_report"]
    assert report["partitions"] == 4
    assert (report["customers_read"], report["customers_skipped"]) == (120, 3)
    loaded = {row[0] for row in pipeline.warehouse("select customer_id from customers")}
    assert loaded == set(range(1, 121)) - {17, 64, 65}
    # Customers 17, 64 and 65 have 1, 0 and 1 transactions.
    assert report["transactions_without_customer"] == 2
    (total,) = pipeline.warehouse("select sum(transaction_count), sum(amount_cents) from customers")
    assert total == (report["transactions"] - 2, report["amount_cents"])
    assert sum(report["amount_cents_by_region"].values()) == report["amount_cents"]


def test_partitions_are_done_side_by_side_but_two_at_a_time(pipeline: Pipeline) -> None:
    done = pipeline.run(customers=300)
    running: set[str] = set()
    most = 0
    for event in done.events:
        name = str(event.get("step_name"))
        if not name.startswith("enrich_customer_data_"):
            continue
        if event.type == "step.enqueued":
            running.add(name)
        elif event.type == "step.completed":
            running.remove(name)
        most = max(most, len(running))
    assert most == 2
    assert done.state("enrich_customer_data_010") == "complete"
    assert done.state("enrich_customer_data_011") is None


def test_the_transactions_do_not_wait_for_the_customers(pipeline: Pipeline) -> None:
    assert_events(
        pipeline.run(),
        [
            "task.created",
            "step.enqueued extract_customer_profiles",
            "step.enqueued extract_transaction_history",
            ...,
            {"type": "batch.completed", "succeeded_count": 4, "failed_count": 0},
            ...,
            "step.enqueued join_transactions",
            ...,
            "task.completed",
        ],
    )


def test_a_retry_does_not_ask_again_for_rows_behind_a_checkpoint(pipeline: Pipeline) -> None:
    """The time-out at customer 55: rows 31 to 50 are behind checkpoints, 51 to 55 are asked for twice."""
    done = pipeline.run(customers=90, simulate={"api_timeout_at_customer": 55})
    assert done.status == "complete"
    assert done.attempts("enrich_customer_data_002") == 2
    twice = {number for number, count in Counter(pipeline.asked).items() if count == 2}
    assert twice == set(range(51, 56))
    assert set(pipeline.asked) == set(range(1, 91))
    assert len(pipeline.warehouse("select customer_id from customers")) == 90
    assert_events(
        [event for event in done.events if event.get("step_name") == "enrich_customer_data_002"],
        [
            "step.enqueued",
            {"type": "step.checkpointed", "attempt": 1, "cursor": 10},
            "step.enqueued",
            {"type": "step.checkpointed", "attempt": 1, "cursor": 20},
            "step.enqueued",
            {"type": "step.retry_scheduled", "attempt": 1, "error_code": "api_timeout"},
            {"type": "step.enqueued", "attempt": 2},
            "step.completed",
        ],
    )


def test_a_service_that_stays_silent_uses_up_the_tries(pipeline: Pipeline) -> None:
    done = pipeline.run(simulate={"api_timeout_at_customer": 55, "api_timeouts": 3})
    assert done.status == "blocked_by_failures"
    step = done.task.step("enrich_customer_data_002")
    assert (step.error_code, step.attempts) == ("api_timeout", 3)


BAD_PARTITION = [31, 40, 44, 58]


def test_a_bad_partition_stops_the_load_but_not_the_others(pipeline: Pipeline) -> None:
    done = pipeline.run(corrupt_customers=BAD_PARTITION)
    assert done.status == "blocked_by_failures"
    states = {step.name: step.current_state for step in done.task.steps}
    assert [name for name, state in states.items() if state == "error"] == ["enrich_customer_data_002"]
    assert done.task.step("enrich_customer_data_002").error_code == "data_quality_issue"
    assert {states[f"enrich_customer_data_{number}"] for number in ("001", "003", "004")} == {"complete"}
    assert states["join_transactions"] == states["load_to_warehouse"] == "pending"
    assert not list(pipeline.work_dir.glob("*/warehouse.db"))


def test_what_the_other_strategies_would_do(pipeline: Pipeline) -> None:
    """As the README says."""
    tolerant = pipeline.run(
        TEMPLATE.replace("failure_strategy: isolate", "failure_strategy: continue_on_failure"),
        corrupt_customers=BAD_PARTITION,
    )
    assert tolerant.status == "complete"
    assert tolerant.results["join_transactions"]["partitions_missing"] == 1
    assert len(pipeline.warehouse("select customer_id from customers")) == 90

    hasty = pipeline.run(
        TEMPLATE.replace("failure_strategy: isolate", "failure_strategy: fail_fast").replace(
            "parallelism: 2", "parallelism: 1"
        ),
        corrupt_customers=BAD_PARTITION,
    )
    assert hasty.status == "blocked_by_failures"
    assert hasty.state("enrich_customer_data_001") == "complete"
    assert {hasty.state(f"enrich_customer_data_{number}") for number in ("003", "004")} == {"cancelled"}


def test_a_load_that_was_made_but_not_answered_is_not_made_again(pipeline: Pipeline) -> None:
    done = pipeline.run(simulate={"warehouse_answer_lost": True})
    assert done.status == "complete"
    assert done.attempts("load_to_warehouse") == 2
    assert done.results["load_to_warehouse"]["loaded_by_earlier_try"] is True
    (step_uuid,) = {e["step_uuid"] for e in done.events if e.get("step_name") == "load_to_warehouse"}
    assert pipeline.warehouse("select load_id, row_count from loads") == [(step_uuid, 120)]


def test_a_load_that_is_not_whole_is_noticed(tmp_path: Path) -> None:
    files.write_rows(tmp_path / TASK / "joined.csv", handlers.JOINED_COLUMNS, [])
    result = run_handler(
        handlers.load_to_warehouse,
        {"work_dir": str(tmp_path)},
        dependencies={"join_transactions": {"file": "joined.csv", "customers": 7}},
        task_uuid=TASK,
    )
    assert (result.error_code, result.retryable) == ("LOAD_INCOMPLETE", False)


def test_no_customers_are_no_partitions(pipeline: Pipeline) -> None:
    done = pipeline.run(customers=0)
    assert done.status == "complete"
    assert done.results["enrich_customer_data_001"]["no_op"] is True
    assert done.results["join_transactions"]["no_batches"] is True
    assert done.results["generate_summary_report"]["customers_loaded"] == 0
    assert pipeline.asked == []


def test_a_day_that_does_not_exist_stops_the_transactions_alone(pipeline: Pipeline) -> None:
    done = pipeline.run(processing_date="2026-02-30")
    assert done.status == "blocked_by_failures"
    assert done.task.step("extract_transaction_history").error_code == "INVALID_DATE"
    assert done.state("enrich_customer_data_004") == "complete"


def test_what_is_left_is_the_warehouse_the_report_and_an_archive(pipeline: Pipeline) -> None:
    done = pipeline.run()
    assert {path.name for path in pipeline.folder.iterdir()} == {
        "archive.zip",
        "joined.csv",
        "report.json",
        "warehouse.db",
    }
    assert json.loads((pipeline.folder / "report.json").read_text())["customers_loaded"] == 120
    with zipfile.ZipFile(pipeline.folder / "archive.zip") as packed:
        names = packed.namelist()
    # Four partitions of 30 customers, of which each ten are a file.
    assert len([name for name in names if name.startswith("enriched/")]) == 12
    assert "sources/customers.csv" in names
    # Packed already: another try changes nothing.
    before = (pipeline.folder / "archive.zip").read_bytes()
    files.archive_sources(pipeline.folder)
    assert (pipeline.folder / "archive.zip").read_bytes() == before
    assert done.results["generate_summary_report"]["folder"] == str(pipeline.folder)


def test_the_readme_shows_what_comes_out(pipeline: Pipeline) -> None:
    shown = json.loads((FOLDER / "README.md").read_text().split("```json\n")[1].split("```")[0])
    done = pipeline.run(**json.loads((FOLDER / "context.json").read_text()))
    files_of_the_run = {"folder": str(pipeline.folder), "archive": "archive.zip"}
    assert done.results["generate_summary_report"] == shown | files_of_the_run


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(pipeline: Pipeline, path: Path) -> None:
    wanted = json.loads(path.read_text())
    done = pipeline.run(**wanted["context"])
    assert done.status == wanted["expect"]
    failed = [step.name for step in done.task.steps if step.current_state == "error"]
    assert failed == (["enrich_customer_data_002"] if path.stem == "bad_partition" else [])
