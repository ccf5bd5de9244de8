"""Stories of steps that wait for a signal or for another task."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from tests.unit.core.scenario import (
    T0_MS,
    Scenario,
    awaited,
    blocked,
    cancel,
    cancelled,
    child_cancel_requested,
    child_requested,
    completed,
    enqueued,
    fail,
    fail_for_good,
    failed,
    received,
    refused,
    retry,
    send,
    signal_timed_out,
    start,
    started,
    succeed,
    task_completed,
    task_started,
    wake,
)
from tests.unit.core.templates import EVERY_SECOND, step

from stepweave_schemas import events
from stepweave_schemas.template import TaskTemplate

from .stories import Stories, begun, recorder

WAITING_STORIES: Final[Stories] = {}
recorded: Final = recorder(WAITING_STORIES)


def wait(text: str, signal: str = "approval", **how: Any) -> dict[str, Any]:
    return step(text, handler={"callable": "stepweave:signal"}, wait_for_signal={"name": signal, **how})


@recorded(
    "signal",
    "two steps wait, and each gets its signal; one is sent twice",
    "ask",
    wait("a: ask"),
    wait("b: ask"),
)
def _signal(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("ask"))
        .later(10)
        .when(succeed("ask"))
        .then(completed("ask"), awaited("a", "approval"), awaited("b", "approval"))
        .later(86_400_000)
        .when(send("approval", {"by": "ada"}, "s1"))
        .then(received("approval"), completed("a"))
        .when(send("approval", {"by": "ada"}, "s1"))
        .then_nothing()
        .later(10)
        .when(send("approval", {"by": "bob"}, "s2"))
        .then(received("approval"), completed("b"), task_completed())
        .when(send("approval", {}, "s3"))
        .then_rejected("CONFLICT")
    )


@recorded(
    "signal_early",
    "signals come before anybody waits for them, one even before the delayed start; one is kept still",
    wait("first", "go"),
    "work: first",
    wait("second: work", "release"),
    wait("third: second", "later"),
)
def _signal_early(made: TaskTemplate) -> Scenario:
    return (
        begun(made, start_at_ms=T0_MS + 60_000)
        .later(10)
        .when(send("go", 1, "s1"))
        .then(received("go"))
        .later(59_990)
        .when(wake())
        .then(task_started(), awaited("first", "go"), completed("first"), enqueued("work"))
        .later(10)
        .when(send("release", {"ok": True}, "s2"))
        .then(received("release"))
        .later(10)
        .when(send("later", "é", "s3"))
        .then(received("later"))
    )


@recorded(
    "signal_default",
    "nobody answers in time, and the default is taken",
    wait("approve", timeout_seconds=60.0, default={"approved": False}),
    "tell: approve",
)
def _signal_default(made: TaskTemplate) -> Scenario:
    return (
        begun(made, awaited("approve", "approval", deadline_at_ms=T0_MS + 60_000))
        .later(60_000)
        .when(wake())
        .then(signal_timed_out("approve", used_default=True), completed("approve"), enqueued("tell"))
    )


@recorded(
    "signal_timed_out",
    "nobody answers in time, and there is no default: the step fails",
    wait("approve", timeout_seconds=60.0),
    "tell: approve",
)
def _signal_timed_out(made: TaskTemplate) -> Scenario:
    return (
        begun(made, awaited("approve", "approval"))
        .later(60_000)
        .when(wake())
        .then(
            signal_timed_out("approve", used_default=False),
            failed("approve", error_code="SIGNAL_TIMEOUT"),
            blocked("approve", unreachable_steps_count=1),
        )
    )


# -- children ------------------------------------------------------------------------------------


def child(text: str, *, timeout_seconds: float | None = None, **how: Any) -> dict[str, Any]:
    return step(
        text,
        handler={"callable": "stepweave:child_task"},
        child_task={"name": "refund", "namespace": "payments", **how},
        retry={**EVERY_SECOND, "max_attempts": 2},
        **({} if timeout_seconds is None else {"timeout_seconds": timeout_seconds}),
    )


@recorded(
    "child",
    "a step starts another task with values of this one, and takes its result",
    "approve",
    child(
        "refund: approve",
        version="1.2.0",
        context={"order": "${context.order}", "sum": "${steps.approve.sum}"},
    ),
    "tell: refund",
)
def _child(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("approve"))
        .later(10)
        .when(succeed("approve", result={"sum": 12.5}))
        .then(
            completed("approve"),
            child_requested("refund", context=msgspec.Raw(b'{"order":7,"sum":12.5}'), depth=1, problems=()),
        )
        .later(10)
        .when(start("refund", worker_id="child"))
        .then(started("refund"))
        .later(10)
        .when(succeed("refund", result={"id": "r_1"}, worker_id="child"))
        .then(completed("refund"), enqueued("tell"))
    )


@recorded(
    "child_failed",
    "a child cannot begin and is started again as another task, which fails; references to nothing are told",
    child("refund", context={"x": "${context.nobody}"}),
)
def _child_failed(made: TaskTemplate) -> Scenario:
    return (
        begun(made, child_requested("refund", problems=("${context.nobody} has no value",)))
        .later(10)
        .when(fail("refund", error_type="retryable_error"))
        .then(retry("refund"))
        .later(1_000)
        .when(wake())
        .then(child_requested("refund", 2))
        .later(10)
        .when(
            fail_for_good(
                "refund",
                error_code="CHILD_TASK_FAILED",
                error_message="the child task failed: no",
                metadata=msgspec.Raw(b'{"child_status":"error"}'),
            )
        )
        .then(failed("refund", 2), blocked("refund"))
    )


@recorded(
    "child_cancelled",
    "a task of two children is cancelled: one of them with it; it is a child itself",
    child("refund"),
    child("audit", parent_close="abandon"),
    "work",
)
def _child_cancelled(made: TaskTemplate) -> Scenario:
    parent = events.ParentLink(
        task_id="parent",
        step_name="run",
        step_uuid="uuid",
        attempt=1,
        lease_token="token",
        result_subject="sw.res.0",
    )
    return (
        begun(
            made,
            child_requested("refund", depth=3),
            child_requested("audit", depth=3),
            enqueued("work"),
            parent=parent,
            depth=2,
        )
        .later(10)
        .when(cancel("changed my mind", "ada"))
        .then(child_cancel_requested("refund", reason="changed my mind"), cancelled("work"))
        .later(10)
        .when(succeed("audit"))
        .then(refused("audit", refusal="task_finished"))
    )


@recorded(
    "child_timed_out",
    "a child takes too long: it is cancelled, and another one is started",
    child("refund", timeout_seconds=60.0),
    "tell: refund",
)
def _child_timed_out(made: TaskTemplate) -> Scenario:
    return (
        begun(made, child_requested("refund"))
        .later(60_000)
        .when(wake())
        .then(child_cancel_requested("refund"), retry("refund", settled_by="timeout"))
        .later(1_000)
        .when(wake())
        .then(child_requested("refund", 2))
        .later(10)
        .when(fail_for_good("refund", 1))
        .then(refused("refund", 1, refusal="stale_attempt"))
    )
