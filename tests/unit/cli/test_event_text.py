"""Events as lines for people."""

from __future__ import annotations

import msgspec
import pytest

from stepweave_orchestrator.cli.event_text import _TEXTS, describe, duration, event_line
from stepweave_schemas.catalogue import CATALOGUE
from stepweave_schemas.envelope import Envelope


def test_every_event_type_has_a_text() -> None:
    assert set(_TEXTS) == set(CATALOGUE)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 ms"), (999, "999 ms"), (1_500, "1.5 s"), (61_000, "1 min 1 s"), (7_260_000, "2 h 1 min")],
)
def test_durations(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


def test_a_failure() -> None:
    data = {
        "step_name": "pay",
        "attempt": 2,
        "error_message": "card\ndeclined",
        "error_code": "DECLINED",
        "failure_reason": "attempts_exhausted",
    }
    assert describe("step.failed", data) == "pay, try 2: card declined [DECLINED] (attempts exhausted)"


def test_unknown_types_and_payloads_are_shown_as_they_are() -> None:
    assert describe("step.dreamt", {"of": 1}) == '{"of":1}'
    assert describe("step.failed", {"other": "shape"}) == '{"other":"shape"}'
    assert len(describe("step.dreamt", {"of": "x" * 5_000})) == 200


def test_a_line_shows_time_label_and_type() -> None:
    envelope = Envelope(
        0,
        1,
        "t",
        1,
        "task.created",
        1,
        "2026-01-31T12:00:00.123Z",
        "c",
        "c",
        "a",
        msgspec.Raw(b'{"template": {"namespace": "n", "name": "m", "version": "1.0.0", "hash": "h"}}'),
    )
    line = event_line(envelope, label="[bold]").plain
    assert line == "12:00:00.123  [bold]  task.created           n/m:1.0.0"
