"""Schedules from files: what is read, and what is said about a file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepweave_orchestrator.cli.errors import CommandError
from stepweave_orchestrator.cli.schedule_input import (
    FILE_BYTES_MAX,
    file_settings,
    in_typed_words,
    span_seconds,
)
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
            "starts_at": "2026-01-01T00:00:00Z",
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
        ("[]", ":1: a schedule is a mapping"),
        ("", ":1: the document is empty"),
        ("name: x\n---\nname: y", ":2: a second document starts here; keep one schedule per file"),
        ("name: [", ": while parsing a flow node"),
        ("name: x\ncron: */5 * * * *\ntask: {template: a/b}", "put the text in quotes: it begins with *"),
        ("name: x\ncorn: '* * * * *'\ntask: {template: a/b}", ":2: unknown key corn; did you mean cron?"),
        ("name: x\ntask: {template: a/b, input: {}}", ":2: unknown key task.input; known are template"),
        (
            "name: x\ncron: '* * * * *'\ncron: '0 * * * *'\ntask: {template: a/b}",
            ":3: cron: the key stands twice",
        ),
        ("name: x\ncron: '* * * * *'", "task: it is missing: write task: {template: NAMESPACE/NAME}"),
        ("name: x\ntask: {}", ":2: task.template: it is missing"),
        ("task: {template: a/b}", "name: it is missing"),
        ("name: 7\ntask: {template: a/b}", ":1: name: expected text; put 7 in quotes"),
        ("name: [x]\ntask: {template: a/b}", ":1: name: expected text"),
        ("name: x\nnamespace: [a]\ntask: {template: a/b}", ":2: namespace: expected text"),
        ("name: x\nevery: soon\ntask: {template: a/b}", ":2: every: 'soon' is no span of time"),
        # Not 90 seconds, as some readers of YAML have it.
        ("name: x\nevery: 1:30\ntask: {template: a/b}", ":2: every: '1:30' is no span of time"),
        ("name: x\nat: tomorrow\ntask: {template: a/b}", ":2: at: 'tomorrow' is no time with a zone"),
        (
            "name: x\nat: 2026-01-31T00:00:00\ntask: {template: a/b}",
            ":2: at: '2026-01-31T00:00:00' names no time zone",
        ),
        ("name: x\ntask: {template: a/b/c}", "names no template"),
        ("name: x\ntask: {template: a/b, tags: reports}", ":2: task.tags: expected a list of texts"),
        ("name: x\ntask: {template: a/b, tags: [5]}", ":2: task.tags: expected a list of texts"),
        ("name: x\ntask: {template: a/b, priority: high}", ":2: task.priority: expected a whole number"),
        ("name: x\ntask: {template: a/b, context: [1]}", ":2: task.context: expected a mapping"),
        ("#" * (FILE_BYTES_MAX + 1), "at most"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "schedule.yaml"
    file.write_text(text)
    with pytest.raises(CommandError, match=r".*") as refused:
        file_settings(file)
    assert problem in str(refused.value)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "schedule.yaml"
    file.write_text("name: x\ncorn: 1\nevery: soon\n")
    with pytest.raises(CommandError) as refused:
        file_settings(file)
    assert [line.partition(":")[2][:2] for line in str(refused.value).splitlines()] == ["2:", "3:", " t"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7_200), ("1d", 86_400)]
)
def test_spans(text: str, seconds: int) -> None:
    assert span_seconds(text, "--every") == seconds


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("spec.every_seconds: 0 s; an interval has 1 s", "--every: 0 s; an interval has 1 s"),
        (
            "spec.time_zone: no zone 'x'; spec.jitter_seconds: -1 s",
            "--time-zone: no zone 'x'; --jitter: -1 s",
        ),
        (
            "spec: exactly one of cron, every_seconds and at says when; given: none of them",
            "exactly one of cron, every and at says when; given: none of them",
        ),
        (
            "timing.cron: '61 * * * *': the field minute takes 0-59",
            "--cron: '61 * * * *': the field minute takes 0-59",
        ),
        ("until_at: it is not later than from_at", "--until: it is not later than from"),
        ("task.tags: 49 at most", "--tag: 49 at most"),
        ("name: no slash", "name: no slash"),
    ],
)
def test_what_the_api_says_is_said_in_the_words_that_were_typed(message: str, typed: str) -> None:
    assert in_typed_words(message) == typed


def test_what_the_api_says_about_a_file_names_it() -> None:
    assert in_typed_words("spec.every_seconds: 0 s", Path("a.yaml")) == "a.yaml: every: 0 s"


def test_a_schedule_is_no_template(tmp_path: Path) -> None:
    for name in ("template.yaml", "schedule.yaml", "daily_schedule.yml"):
        (tmp_path / name).touch()
    assert [path.name for path in template_files([tmp_path])] == ["template.yaml"]
