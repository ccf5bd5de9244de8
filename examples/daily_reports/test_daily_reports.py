"""The reports without a server: the whole template in memory, with what the schedule would put into the context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepweave import Registry, ValidationFailed
from stepweave.testing import WorkflowRun, run_workflow
from stepweave_orchestrator.cli.schedule_input import file_settings
from stepweave_orchestrator.core.schedules.references import fill, firing_values
from stepweave_orchestrator.core.schedules.timing import check_spec
from stepweave_schemas.envelope import parse_timestamp
from stepweave_schemas.schedule import ClosedSpec

from . import handlers

FOLDER = Path(__file__).parent


def run(context: dict[str, Any]) -> WorkflowRun:
    registry = Registry()
    registry.discover(handlers)
    return run_workflow(FOLDER / "template.yaml", registry, context)


def test_the_schedule_fires_in_the_evening_and_fills_the_day_in() -> None:
    namespace, name, settings = file_settings(FOLDER / "schedule.yaml")
    spec = msgspec.json.decode(msgspec.json.encode(settings), type=ClosedSpec)
    # In winter, over the change to summer time, and in summer: always at six.
    for now, at in (
        ("2026-01-31T12:00:00Z", "2026-01-31T17:00:00Z"),
        ("2026-03-28T18:00:00Z", "2026-03-29T16:00:00Z"),
        ("2026-07-01T00:00:00Z", "2026-07-01T16:00:00Z"),
    ):
        timing = check_spec(spec, parse_timestamp(now))
        moment = timing.next_after(parse_timestamp(now))
        assert moment == parse_timestamp(at)
        context = fill(settings["task"]["context"], firing_values(timing, namespace, name, moment, "regular"))
        assert context["report_date"] == at[:10]
        assert run(context).results["send_reports"]["subject"] == f"Reports of {at[:10]}"


def test_only_the_reports_that_are_asked_for() -> None:
    done = run({"report_date": "2026-01-31", "report_types": ["inventory"]})
    assert [line.partition(":")[0] for line in done.results["send_reports"]["lines"]] == ["inventory"]


def test_a_day_that_is_none_fails_for_good() -> None:
    done = run({"report_date": "2026-02-30"})
    assert done.status == "blocked_by_failures"
    assert done.task.step("refresh_data").error_code == "INVALID_DATE"


def test_a_context_without_a_day_never_starts() -> None:
    with pytest.raises(ValidationFailed):
        run({"report_types": ["sales"]})


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(path: Path) -> None:
    wanted = json.loads(path.read_text())
    assert run(wanted["context"]).status == wanted["expect"]


def test_data_that_come_late_are_waited_for() -> None:
    done = run({"report_date": "2026-02-28", "simulate": {"refresh_late_for_tries": 2}})
    assert done.attempts("refresh_data") == 3
