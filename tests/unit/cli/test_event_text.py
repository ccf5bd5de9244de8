"""Events as lines for people."""

from __future__ import annotations

from typing import Any

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


_STEP = {"step_name": "greet", "step_uuid": "u", "attempt": 2}
_FAULT = {"error_message": "no such account", "error_code": "GONE"}
_TASK = {"namespace": "shop", "task_name": "order"}
_REF = {"namespace": "shop", "name": "order", "version": "1.0.0", "hash": "sha256:0"}


@pytest.mark.parametrize(
    ("event_type", "data", "text"),
    [
        ("step.checkpointed", {"items_processed": 1}, "greet, try 2: 1 item done"),
        ("step.checkpointed", {"items_processed": 250}, "greet, try 2: 250 items done"),
        ("step.skipped", {"reason": "no_branches"}, "greet: no branches"),
        ("step.reused", {"from_task_id": "t"}, "greet: complete in task t"),
        ("step.reused", {"status": "error", "from_task_id": "t"}, "greet: error in task t"),
        ("task.created", {"template": _REF, "initiator": "ada"}, "shop/order:1.0.0 by ada"),
        (
            "task.created",
            {"template": _REF, "forked_from": {"task_id": "t", "stream_version": 4}},
            "shop/order:1.0.0, a fork of t",
        ),
        (
            "task.created",
            {"template": _REF, "forked_from": {"task_id": "t", "from_steps": ["a", "b"]}},
            "shop/order:1.0.0, a fork of t from a, b",
        ),
        (
            "step.failed",
            {**_FAULT, "failure_reason": "permanent", "tolerated": True},
            "greet, try 2: no such account [GONE] (permanent); the other batches go on",
        ),
        ("decision.routed", {"chosen": ["a"], "created": ["a"]}, "greet chose a"),
        (
            "decision.routed",
            {"chosen": ["a", "b"], "created": ["a", "b", "sum"], "excluded": ["c"]},
            "greet chose a, b; sum follows; never: c",
        ),
        (
            "decision.routed",
            {"chosen": [*"abcdefg"], "created": [*"abcdefghi"]},
            "greet chose a, b, c, d, e and 2 more; h, i follow",
        ),
        (
            "decision.declined",
            {"reason": "it is too little", "excluded": ["a"]},
            "greet chose no branch: it is too little; never: a",
        ),
        ("decision.declined", {"reason": ""}, "greet chose no branch: no reason given"),
        (
            "batch.created",
            {"worker_template": "load", "cursors": [1, 2]},
            "greet cut the work into 2 batches of load",
        ),
        (
            "batch.created",
            {"worker_template": "load", "cursors": [], "is_no_op": True, "reason": "no rows"},
            "greet found nothing to do: no rows; a placeholder stands for load",
        ),
        (
            "batch.completed",
            {"worker_template": "load", "succeeded_count": 9, "failed_count": 1},
            "load: 9 succeeded, 1 failed",
        ),
        (
            "batch.stopped",
            {"worker_template": "load", "failed_step": "load_003", "cancelled_count": 1},
            "load: load_003 failed; 1 batch cancelled",
        ),
        ("signal.awaited", {"signal": "approval"}, "greet waits for approval"),
        (
            "signal.awaited",
            {"signal": "approval", "deadline_at_ms": 1_769_860_800_000},
            "greet waits for approval until 2026-01-31 12:00:00Z",
        ),
        ("signal.received", {"signal": "approval", "signal_id": "1", "payload": 1}, "approval"),
        (
            "signal.received",
            {"signal": "approval", "signal_id": "1", "payload": 1, "sent_by": "ada"},
            "approval, sent by ada",
        ),
        (
            "signal.timed_out",
            {"signal": "approval", "used_default": True},
            "greet: no approval came in time; it takes its default",
        ),
        (
            "signal.timed_out",
            {"signal": "approval", "used_default": False},
            "greet: no approval came in time",
        ),
        (
            "child.requested",
            {"namespace": "pay", "name": "refund", "version": "1.0.0", "child_task_id": "c"},
            "greet: pay/refund:1.0.0, task c",
        ),
        (
            "child.requested",
            {"namespace": "pay", "name": "refund", "child_task_id": "c", "problems": ["x", "y"]},
            "greet: pay/refund, task c; it cannot start: x; y",
        ),
        (
            "child.cancel_requested",
            {"child_task_id": "c", "reason": "its parent was cancelled"},
            "greet: task c: its parent was cancelled",
        ),
        (
            "compensation.started",
            {**_TASK, **_FAULT, "steps": ["a", "b"], "handlers": {"tell": "b"}},
            "shop/order: no such account [GONE]; to be undone: a, b, tell",
        ),
        (
            "compensation.started",
            {**_TASK, **_FAULT, "steps": ["a"], "left_out_count": 3},
            "shop/order: no such account [GONE]; to be undone: a; left out, for they were too many: 3 names",
        ),
        (
            "compensation.completed",
            {"compensates": "reserve", "duration_ms": 12},
            "reserve, try 2, in 12 ms",
        ),
        (
            "compensation.completed",
            {"compensates": "reserve", "requires_manual_cleanup": True},
            "reserve, try 2; not all of it: to be cleaned up by hand",
        ),
        (
            "compensation.completed",
            {
                "compensates": "reserve",
                "requires_manual_cleanup": True,
                "result": {"reason": "later", "error": "the label is gone", "why": " "},
            },
            "reserve, try 2; not all of it: to be cleaned up by hand (the label is gone)",
        ),
        (
            "compensation.completed",
            {"compensates": "reserve", "requires_manual_cleanup": True, "result": {"why": 5}},
            "reserve, try 2; not all of it: to be cleaned up by hand",
        ),
        (
            "compensation.completed",
            {"compensates": "reserve", "result": {"reason": "nothing was left"}},
            "reserve, try 2",
        ),
        (
            "compensation.failed",
            {"compensates": "reserve", **_FAULT},
            "reserve, try 2: no such account [GONE]; to be cleaned up by hand",
        ),
        (
            "task.failed",
            {
                **_TASK,
                **_FAULT,
                "compensation_status": "partial",
                "requires_manual_cleanup": ["reserve"],
            },
            "shop/order: no such account [GONE]; undone: partial; to be cleaned up by hand: reserve",
        ),
        ("task.failed", {**_TASK, "error_message": "boom"}, "shop/order: boom"),
        ("task.blocked", {**_TASK, **_FAULT, "failed_steps": ["a"]}, "shop/order: no such account [GONE]"),
        (
            "task.blocked",
            {**_TASK, **_FAULT, "failed_steps": [*"abcdefg"]},
            "shop/order: no such account [GONE]; failed: a, b, c, d, e and 2 more",
        ),
        ("task.completed", {**_TASK, "steps_completed": 1, "duration_ms": 14}, "shop/order: 1 step in 14 ms"),
        (
            "task.completed",
            {**_TASK, "steps_completed": 2, "duration_ms": 14},
            "shop/order: 2 steps in 14 ms",
        ),
    ],
)
def test_what_shapes_a_task(event_type: str, data: dict[str, Any], text: str) -> None:
    assert describe(event_type, {**_STEP, **data}) == text


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
