"""A task for people, and the marks of its steps in a demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepweave.responses import ForkResponse, TaskResponse
from stepweave_orchestrator.cli.demo_view import _MARKS, _moved
from stepweave_orchestrator.cli.errors import CommandError, ExitCode
from stepweave_orchestrator.cli.task import _note, _refuse_failure, print_task
from stepweave_orchestrator.cli.task_fork import print_fork
from stepweave_schemas.api import ForkedFrom, StepToRun

_STEP: dict[str, Any] = {
    "workflow_step_uuid": "u",
    "task_uuid": "t",
    "named_step_uuid": "n",
    "dependencies_satisfied": True,
    "retry_eligible": False,
    "ready_for_execution": False,
    "last_failure_at": None,
    "next_retry_at": None,
    "total_parents": 0,
    "completed_parents": 0,
    "attempts": 1,
    "max_attempts": 3,
    "backoff_request_seconds": None,
    "last_attempted_at": None,
}


def task_of(*steps: dict[str, Any], **fields: Any) -> TaskResponse:
    value = {
        "task_uuid": "t",
        "name": "order",
        "namespace": "shop",
        "version": "1.0.0",
        "status": "steps_in_process",
        "created_at": "2026-01-31T12:00:00.000Z",
        "updated_at": "2026-01-31T12:00:00.000Z",
        "completed_at": None,
        "context": {},
        "initiator": "",
        "source_system": "",
        "reason": "",
        "priority": 0,
        "tags": [],
        "correlation_id": "t",
        "parent_correlation_id": None,
        "total_steps": len(steps),
        "pending_steps": 0,
        "in_progress_steps": 0,
        "completed_steps": 0,
        "failed_steps": 0,
        "ready_steps": 0,
        "execution_status": "processing",
        "recommended_action": None,
        "completion_percentage": 0.0,
        "health_status": "healthy",
        "stream_version": 1,
        "steps": [{**_STEP, "name": "a", "current_state": "in_progress", **step} for step in steps],
        **fields,
    }
    return msgspec.convert(value, TaskResponse)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({}, ""),
        ({"waiting_for_signal": "approval"}, "for signal approval"),
        ({"child_task_uuid": "c"}, "child task c"),
        ({"items_processed": 250}, "250 items done"),
        ({"items_processed": 250, "current_state": "complete"}, ""),
        ({"items_processed": 0, "requires_manual_cleanup": True}, "0 items done, to be cleaned up by hand"),
        ({"compensation_attempts": 0, "current_state": "compensating"}, ""),
        ({"compensation_attempts": 1, "current_state": "compensating"}, "undoing, try 1"),
        (
            {
                "compensation_attempts": 2,
                "compensation_error_message": "no answer",
                "compensation_next_retry_at": "2026-01-31T12:00:05.250Z",
                "current_state": "compensating",
            },
            "undoing, try 2 failed: no answer; again at 2026-01-31 12:00:05Z",
        ),
        (
            {
                "compensation_attempts": 3,
                "compensation_error_message": "no answer",
                "current_state": "compensating",
            },
            "undoing, try 3; the one before failed: no answer",
        ),
        (
            {
                "compensation_attempts": 3,
                "compensation_error_message": "no answer",
                "current_state": "compensated",
            },
            "",
        ),
        (
            {
                "compensation_attempts": 3,
                "compensation_error_message": "no answer",
                "current_state": "complete",
                "requires_manual_cleanup": True,
            },
            "to be cleaned up by hand (after 3 tries, last error: no answer)",
        ),
        (
            {"compensation_attempts": 1, "current_state": "complete", "requires_manual_cleanup": True},
            "to be cleaned up by hand",
        ),
    ],
)
def test_notes_of_a_step(fields: dict[str, Any], note: str) -> None:
    assert _note(task_of(fields).steps[0]) == note


def test_a_task_shows_what_it_waits_for(capfd: pytest.CaptureFixture[str]) -> None:
    print_task(
        task_of(
            {"name": "approve", "current_state": "waiting_for_signal", "waiting_for_signal": "approval"},
            {"name": "load", "items_processed": 7},
            status="waiting_for_dependencies",
            parent_task_uuid="above",
            signals_kept=["extra"],
        )
    )
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["started", "by", "task", "above"] in lines
    assert ["signals", "kept", "extra"] in lines
    assert ["step", "state", "tries", "next", "try", "note", "error"] in lines
    assert ["approve", "waiting_for_signal", "1/3", "for", "signal", "approval"] in lines
    assert ["load", "in_progress", "1/3", "7", "items", "done"] in lines


def test_a_plain_task_has_no_column_for_notes(capfd: pytest.CaptureFixture[str]) -> None:
    print_task(task_of({}))
    out = capfd.readouterr().out
    assert "note" not in out and "undone" not in out and "clean up" not in out


def test_what_is_left_to_clean_up_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    failed = {"name": "ship", "current_state": "error", "error_type": "t", "error_message": "no truck"}
    reserve = {"name": "reserve", "current_state": "complete", "requires_manual_cleanup": True}
    task = task_of(reserve, failed, status="error", compensation_status="partial")
    print_task(task)
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["undone", "partial"] in lines
    assert ["clean", "up", "reserve"] in lines
    with pytest.raises(CommandError) as ended:
        _refuse_failure(task)
    assert ended.value.code is ExitCode.FAILED
    assert "the task is error: ship: no truck; to be cleaned up by hand: reserve; " in str(ended.value)


def last_line(task: TaskResponse) -> str:
    """What a command ends with that has waited for the task."""
    with pytest.raises(CommandError) as ended:
        _refuse_failure(task)
    return str(ended.value).partition("; `stepweave")[0]


def test_the_last_line_tells_how_undoing_went() -> None:
    failed = {"name": "ship", "current_state": "error", "error_type": "t", "error_message": "no truck"}
    tried = {"current_state": "complete", "compensation_attempts": 1, "compensation_error_message": "gone"}
    label = {**tried, "name": "label", "requires_manual_cleanup": True}
    charge = {**tried, "name": "charge", "compensation_next_retry_at": "2026-01-31T12:00:05.250Z"}
    assert last_line(task_of(failed, label, status="error")) == (
        "the task is error: ship: no truck; to be cleaned up by hand: label (after 1 try, last error: gone)"
    )
    assert last_line(task_of(failed, charge, status="compensating")) == (
        "the task is compensating: ship: no truck; "
        "not undone yet: charge (undoing, try 1 failed: gone; again at 2026-01-31 12:00:05Z)"
    )


@pytest.mark.parametrize(
    ("shown", "failed_steps", "text"),
    [(1, 1, ""), (3, 3, " (and 2 more failed)"), (2, 9, " (and 8 more failed)")],
)
def test_the_last_line_counts_the_steps_that_failed(shown: int, failed_steps: int, text: str) -> None:
    failed = {"current_state": "error", "error_type": "t", "error_message": "no truck"}
    steps = [{**failed, "name": f"s{number}"} for number in range(shown)]
    task = task_of(*steps, status="blocked_by_failures", failed_steps=failed_steps)
    assert last_line(task) == f"the task is blocked_by_failures: s0: no truck{text}"


@pytest.mark.parametrize(
    ("event_type", "data", "moved"),
    [
        ("step.completed", {"step_name": "a"}, [("a", "complete")]),
        ("step.skipped", {"step_name": "a"}, [("a", "skipped")]),
        ("step.reused", {"step_name": "a"}, [("a", "complete")]),
        ("signal.awaited", {"step_name": "a"}, [("a", "waiting_for_signal")]),
        ("child.requested", {"step_name": "a"}, [("a", "in_progress")]),
        ("decision.routed", {"step_name": "a", "created": ["b"], "excluded": ["c"]}, [("c", "skipped")]),
        ("batch.created", {"step_name": "a", "worker_template": "w"}, [("w", "in_progress")]),
        ("batch.stopped", {"worker_template": "w"}, [("w", "error")]),
        ("batch.completed", {"worker_template": "w"}, [("w", "complete")]),
        ("step.enqueued", {"step_name": "compensate:a"}, [("a", "compensating")]),
        ("step.retry_scheduled", {"step_name": "compensate:a"}, []),
        ("compensation.completed", {"step_name": "compensate:a"}, [("a", "compensated")]),
        ("compensation.failed", {"step_name": "compensate:a"}, [("a", "error")]),
        ("task.completed", {}, []),
    ],
)
def test_events_move_the_marks_of_a_demonstration(
    event_type: str, data: dict[str, Any], moved: list[tuple[str, str]]
) -> None:
    assert _moved(event_type, data) == moved
    assert all(state in _MARKS for _, state in moved)


def test_a_signals_arguments_are_checked_before_anything_is_sent(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .typed import typing_here

    stepweave = typing_here(capfd, monkeypatch)
    nowhere = ("--nats-url", "nats://127.0.0.1:1", "--timeout", "0.3")
    answer = stepweave("task", "signal", "t", "approval", "--payload", "yes", *nowhere)
    assert answer.code == 2 and answer.err.startswith("stepweave: --payload is not JSON")
    assert answer.err.count("\n") == 1
    answer = stepweave("task", "signal", "t", "approval", "--payload", f"@{tmp_path / 'none'}", *nowhere)
    assert answer.code == 3
    assert stepweave("task", "signal", "t").code == 2
    answer = stepweave("task", "signal", "t", "approval", "--set", "approved=true", *nowhere)
    assert answer.code == 5 and "no NATS server answers" in answer.err


def test_a_fork_says_what_it_reuses_and_what_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    print_fork(
        ForkResponse(
            forked_from=ForkedFrom(task_uuid="t", stream_version=9),
            version="1.1.0",
            reused=("a",),
            reused_count=7,
            run=(StepToRun(step="b", why="named", ran_before=True), StepToRun(step="c", why="follows")),
            run_count=2,
        )
    )
    shown = capsys.readouterr()
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert "fork (dry run)" in lines
    assert "of task t as of its event 9" in lines
    assert "a reused" in lines
    assert "b runs named with --from; it has run before" in lines
    assert "c runs depends on one that runs anew" in lines
    assert "6 more steps are not listed" in shown.err


def test_a_task_says_what_it_is_a_fork_of(capsys: pytest.CaptureFixture[str]) -> None:
    step = {**_STEP, "name": "a", "current_state": "complete", "reused_from_step_uuid": "u"}
    origin = {"task_uuid": "o", "stream_version": 9, "from_steps": ["b", "c"]}
    print_task(task_of(step, forked_from=origin))
    shown = " ".join(capsys.readouterr().out.split())
    assert "fork of task o, from b, c" in shown
    assert "reused" in shown
