"""Large tasks: no recursion, bounded messages, and work that grows no faster than the task."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import stepweave_orchestrator.core
from stepweave_orchestrator.core import (
    CancelTask,
    CreateTask,
    Moment,
    Plan,
    Rejection,
    TaskState,
    Wake,
    build_dispatch,
    compile_plan,
    decide,
    evolve,
)
from stepweave_orchestrator.core.commands import Command
from stepweave_orchestrator.core.state import initial
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas import codec, events, result
from stepweave_schemas.dispatch import CONTEXT_BYTES_MAX, DISPATCH_BYTES_MAX
from stepweave_schemas.raw import raw

from .invariants import check_state
from .scenario import CORRELATION_ID, T0_MS, TASK_ID, entropy, new_task
from .templates import compiled, step

CORE = str(Path(stepweave_orchestrator.core.__file__).parent)


class Run:
    """A task of many steps, run as a shard owner does: decide, apply, dispatch, ask for the next wake-up."""

    def __init__(self, plan: Plan, **request: Any) -> None:
        self.plan = plan
        self.state: TaskState = initial(TASK_ID, plan, CORRELATION_ID)
        self.now_ms = T0_MS
        self.request = new_task(plan, **request)
        #: Tries that were given out, the oldest first.
        self.given_out: list[events.StepEnqueued] = []
        self.history: list[events.Event] = []

    @property
    def last(self) -> events.Event:
        """The latest event."""
        return self.history[-1]

    def begin(self) -> None:
        self.perform(CreateTask(self.request))

    def perform(self, command: Command) -> None:
        decision = decide(self.state, command, Moment(self.now_ms, entropy(self.state.version)))
        assert not isinstance(decision, Rejection), decision
        for event in decision:
            evolve(self.state, event, self.now_ms)
            self.history.append(event)
            if isinstance(event, events.StepEnqueued):
                self.given_out.append(event)
                dispatch = build_dispatch(self.state, event.step_name, event.attempt, event.lease_token, "sw")
                assert dispatch is not None
        self.state.next_wake_ms()

    def answer(self, kind: Callable[..., Command], **fields: Any) -> None:
        """The oldest try gets this outcome."""
        given_out = self.given_out.pop(0)
        self.perform(
            kind(
                task_id=TASK_ID,
                step_name=given_out.step_name,
                step_uuid=given_out.step_uuid,
                attempt=given_out.attempt,
                lease_token=given_out.lease_token,
                worker_id="worker-1",
                **fields,
            )
        )

    def answer_all(self) -> None:
        while self.given_out:
            self.answer(result.Success, result=raw("1"))


def chain(count: int) -> Plan:
    return compiled("s0", *(f"s{number}: s{number - 1}" for number in range(1, count)))


def fan(count: int, **settings: Any) -> Plan:
    """One step, `count` beside each other after it, and one that waits for them all."""
    names = [f"s{number}" for number in range(count)]
    return compiled(
        "first", *(step(f"{name}: first", **settings) for name in names), f"last: {' '.join(names)}"
    )


@pytest.mark.parametrize(("shape", "count"), [(chain, 5_000), (fan, 10_000)])
def test_large_tasks_run_to_their_end(shape: Callable[[int], Plan], count: int) -> None:
    plan = shape(count)
    run = Run(plan)
    run.begin()
    run.answer_all()
    check_state(run.state)
    assert run.state.status == "complete"
    assert run.state.done_count == len(plan.steps)
    # task.created and task.completed, and two events a step.
    assert run.state.version == 2 + 2 * len(plan.steps)
    assert len(task_response(run.state).steps) == 1_000
    assert len(plan.ancestors(len(plan.steps) - 1)) == len(plan.steps) - 1
    assert plan.descendants_count([0]) == len(plan.steps) - 1


def test_a_large_chain_blocks() -> None:
    plan = chain(5_000)
    run = Run(plan)
    run.begin()
    run.answer(result.Failure, error_message="boom", retryable=False)
    assert isinstance(run.last, events.TaskBlocked)
    assert run.last.unreachable_steps_count == 4_999


# -- how the work grows --------------------------------------------------------------------------


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of the core `work` runs through, loops counted by their turns."""
    count = 0

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += 1
        return local

    def entered(frame: FrameType, event: str, arg: Any) -> Any:
        return local(frame, event, arg) if frame.f_code.co_filename.startswith(CORE) else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def all_succeed(plan: Plan) -> None:
    run = Run(plan)
    run.begin()
    run.answer_all()
    assert run.state.status == "complete"


def all_begin_with_a_time_limit(plan: Plan) -> None:
    run = Run(plan)
    run.begin()
    run.answer(result.Success)
    for _ in range(len(run.given_out)):
        run.given_out.append(run.given_out[0])
        run.now_ms += 1
        run.answer(result.Started, started_at_ms=run.now_ms)
    run.answer_all()
    assert run.state.status == "complete"


def all_wait_for_a_retry(plan: Plan) -> None:
    run = Run(plan)
    run.begin()
    run.answer(result.Success)
    while run.given_out:
        run.now_ms += 1
        run.answer(result.Failure, error_message="busy", retry_after_ms=50_000)
    while (due_ms := run.state.next_wake_ms()) is not None:
        run.now_ms = due_ms
        run.perform(Wake())
    run.answer_all()
    assert run.state.status == "complete"


def all_fail(plan: Plan) -> None:
    run = Run(plan)
    run.begin()
    run.answer(result.Success)
    while run.given_out:
        run.answer(result.Failure, error_message="boom", retryable=False)
    assert run.state.status == "blocked_by_failures"


@pytest.mark.parametrize(
    ("story", "plan_of"),
    [
        (all_succeed, fan),
        (all_succeed, lambda count: chain(count + 500)),
        (all_begin_with_a_time_limit, lambda count: fan(count, timeout_seconds=600.0)),
        (all_wait_for_a_retry, fan),
        (all_fail, fan),
    ],
    ids=["fan", "chain", "time limits", "retries", "failures"],
)
def test_the_work_grows_with_the_size_of_the_task(
    story: Callable[[Plan], None], plan_of: Callable[[int], Plan]
) -> None:
    """Four times the steps is about four times the work: nothing looks at all steps on the way."""
    small, large = plan_of(100), plan_of(400)
    work = lines_run(lambda: story(large)) / lines_run(lambda: story(small))
    size = len(large.steps) / len(small.steps)
    assert work < 1.15 * size


def test_compiling_grows_with_the_size_of_the_template() -> None:
    def compiling(count: int) -> int:
        canonical = [
            {
                "name": f"s{number}",
                "handler": {"callable": "h"},
                "dependencies": [f"s{number - 1}"] if number else [],
            }
            for number in range(count)
        ]
        content = {"namespace": "n", "name": "t", "version": "1.0.0", "steps": canonical}
        return lines_run(lambda: compile_plan(content, ""))

    assert compiling(4_000) < 4.1 * compiling(1_000)


# -- how large things get ------------------------------------------------------------------------


def test_events_about_very_many_steps_fit_into_a_message() -> None:
    names = [f"{'s' * 250}{number}" for number in range(4_500)]
    content: dict[str, Any] = {
        "namespace": "tests",
        "name": "scenario",
        "version": "1.0.0",
        "steps": [{"name": name, "handler": {"callable": "h"}} for name in names],
    }
    context = raw('{"x":"%s"}' % ("x" * (CONTEXT_BYTES_MAX - 8)))

    run = Run(compile_plan(content, ""), context=context)
    run.begin()
    run.perform(CancelTask("no need", "ada"))
    assert isinstance(run.last, events.TaskCancelled)
    assert run.last.cancelled_steps == tuple(names[:1_000])
    assert len(codec.encode(run.last)) < DISPATCH_BYTES_MAX

    for on_failure in ("block", "fail"):
        run = Run(compile_plan({**content, "on_failure": on_failure}, ""), context=context)
        run.begin()
        while run.given_out:
            run.answer(result.Failure, error_message="é" * 8_192, retryable=False)
        assert isinstance(run.last, events.TaskBlocked | events.TaskFailed)
        assert run.last.failed_steps == tuple(names[:1_000])
        assert len(codec.encode(run.last)) < DISPATCH_BYTES_MAX
