"""Schedules from files: what is read, and what is said about a file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepweave_orchestrator.cli.errors import CommandError
from stepweave_orchestrator.cli.schedule_input import FILE_BYTES_MAX, file_settings, span_seconds
from stepweave_orchestrator.cli.template import template_files


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "schedule.yaml"
    file.write_text(
        "namespace: reports\nname: daily\ncron: 0 6 * * *\ntime_zone: Europe/Berlin\njitter: 2m\ncatch_up: 90\n"
        "starts_at: 2026-01-01T00:00:00Z\noverlap: allow\ndescription:\n"
        "task:\n  template: jobs/report:1.2.0\n  context: {day: '${schedule.date}'}\n  tags: [a]\n"
    )
    assert file_settings(file) == (
        "reports",
        "daily",
        {
            "cron": "0 6 * * *",
            "time_zone": "Europe/Berlin",
            "jitter_seconds": 120,
            "catch_up_seconds": 90,
            "starts_at": "2026-01-01T00:00:00+00:00",
            "overlap": "allow",
            "task": {
                "namespace": "jobs",
                "name": "report",
                "version": "1.2.0",
                "context": {"day": "${schedule.date}"},
                "tags": ["a"],
            },
        },
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "a schedule is a mapping"),
        ("name: [", "is no YAML"),
        ("name: x\ncorn: '* * * * *'\ntask: {template: a/b}", "unknown key corn; did you mean cron?"),
        ("name: x\ntask: {template: a/b, input: {}}", "unknown key task.input; known are template"),
        ("name: x\ncron: '* * * * *'", "task.template is missing"),
        ("task: {template: a/b}", "name is missing"),
        ("name: x\nevery: soon\ntask: {template: a/b}", "every: 'soon' is no span of time"),
        ("name: x\ntask: {template: a/b/c}", "names no template"),
        ("#" * (FILE_BYTES_MAX + 1), "at most"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "schedule.yaml"
    file.write_text(text)
    with pytest.raises(CommandError, match=r".*") as refused:
        file_settings(file)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7_200), ("1d", 86_400)]
)
def test_spans(text: str, seconds: int) -> None:
    assert span_seconds(text, "--every") == seconds


def test_a_schedule_is_no_template(tmp_path: Path) -> None:
    for name in ("template.yaml", "schedule.yaml", "daily_schedule.yml"):
        (tmp_path / name).touch()
    assert [path.name for path in template_files([tmp_path])] == ["template.yaml"]
