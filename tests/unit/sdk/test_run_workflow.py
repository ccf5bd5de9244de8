"""`run_workflow` and `assert_events`: a template in memory on a virtual clock."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stepweave import (
    Conflict,
    PermanentError,
    Registry,
    RetryableError,
    ValidationFailed,
    depends_on,
    inputs,
    step_handler,
)
from stepweave.errors import ConfigurationError
from stepweave.testing import RealTimeExceeded, assert_events, run_workflow
from stepweave_schemas.template import TemplateError

DIAMOND = """
namespace: shop
name: diamond
version: 1.0.0
on_failure: {on_failure}
steps:
  - {{name: start, handler: start}}
  - {{name: left, handler: left, dependencies: [start], retry: {{max_attempts: 4, backoff_base_ms: 3600000,
      max_backoff_ms: 86400000, jitter: 0.1}}}}
  - {{name: right, handler: right, dependencies: [start], timeout_seconds: 60}}
  - {{name: join, handler: join, dependencies: [left, right]}}
"""


def diamond(on_failure: str = "block") -> str:
    return DIAMOND.format(on_failure=on_failure)


class Shop:
    """Handlers whose failures a test sets."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = defaultdict(int)
        self.errors: dict[str, list[Callable[[], Any] | Exception]] = {}

    @property
    def registry(self) -> Registry:
        registry = Registry()
        for name in ("start", "left", "right", "join"):
            registry.register(self._handler(name), name)
        return registry

    def _handler(self, name: str) -> Any:
        async def handler(context: Any) -> Any:
            self.calls[name] += 1
            planned = self.errors.get(name, [])
            if planned:
                step = planned.pop(0)
                if isinstance(step, Exception):
                    raise step
                return await step()
            return {"step": name, "sees": sorted(context.dependency_results)}

        return handler


def test_a_diamond_completes() -> None:
    shop = Shop()
    run = run_workflow(diamond(), shop.registry, {"a": 1})
    assert run.status == "complete"
    assert run.results["join"] == {"step": "join", "sees": ["left", "right", "start"]}
    assert run.task.context == {"a": 1}
    assert run.elapsed_seconds < 1
    assert_events(
        run,
        [
            "task.created",
            "step.enqueued start",
            "step.completed start",
            "step.enqueued left",
            "step.enqueued right",
            ...,
            "step.enqueued join",
            {"type": "step.completed", "step_name": "join", "attempt": 1},
            {"type": "task.completed", "task_name": "diamond", "namespace": "shop"},
        ],
    )
    assert_events(
        run,
        ["task.created", "task.completed"]
        + [f"{verb} {step}" for step in shop.calls for verb in ("step.enqueued", "step.completed")],
        unordered=True,
    )


def test_hours_of_backoff_take_no_time() -> None:
    shop = Shop()
    shop.errors["left"] = [
        RetryableError("down"),
        ValueError("bug"),
        RetryableError("wait", retry_after=1800),
    ]
    before = time.monotonic()
    run = run_workflow(diamond(), shop.registry, seed=7)
    assert time.monotonic() - before < 5
    assert run.status == "complete"
    assert (shop.calls["left"], run.attempts("left")) == (4, 4)
    first, second, third = run.delays_seconds("left")
    assert 3240 <= first <= 3960
    assert 6480 <= second <= 7920
    assert third == 1800
    assert run.elapsed_seconds == pytest.approx(first + second + third, abs=0.01)
    again = Shop()
    again.errors["left"] = [
        RetryableError("down"),
        ValueError("bug"),
        RetryableError("wait", retry_after=1800),
    ]
    repeated = run_workflow(diamond(), again.registry, seed=7)
    assert repeated.delays_seconds("left") == [first, second, third]
    assert repeated.task.task_uuid == run.task.task_uuid


def test_time_outs_and_sleeps_are_virtual_too() -> None:
    async def sleeps() -> Any:
        await asyncio.sleep(10**6)

    async def is_just_in_time() -> Any:
        await asyncio.sleep(59)
        return "in time"

    shop = Shop()
    shop.errors["right"] = [sleeps, is_just_in_time]
    run = run_workflow(diamond(), shop.registry)
    assert run.status == "complete"
    assert run.results["right"] == "in time"
    assert_events(
        run,
        [
            ...,
            {"type": "step.retry_scheduled", "error_type": "timeout", "error_code": "STEP_TIMEOUT"},
            ...,
            "step.started right",
            "step.completed right",
            ...,
        ],
    )


@pytest.mark.parametrize(
    ("on_failure", "status", "last"),
    [("block", "blocked_by_failures", "task.blocked"), ("fail", "error", "task.failed")],
)
def test_a_permanent_failure_lets_the_other_branch_finish(on_failure: str, status: str, last: str) -> None:
    shop = Shop()
    shop.errors["left"] = [PermanentError("declined", error_code="DECLINED")]
    run = run_workflow(diamond(on_failure), shop.registry)
    assert run.status == status
    assert run.task.step("right").current_state == "complete"
    assert run.task.step("join").current_state == "pending"
    assert run.task.step("left").error_code == "DECLINED"
    assert shop.calls["join"] == 0
    assert_events(run, [..., {"type": "step.failed", "failure_reason": "permanent"}, ..., last])


def test_a_fork_reuses_what_a_run_has_come_to() -> None:
    shop = Shop()
    shop.errors["right"] = [PermanentError("no")]
    run = run_workflow(diamond(), shop.registry, {"order": 7})
    assert run.status == "blocked_by_failures"
    fork = run_workflow(diamond(), shop.registry, fork_of=run)
    assert fork.status == "complete"
    assert shop.calls == {"start": 1, "left": 1, "right": 2, "join": 1}
    assert fork.results["left"] == run.results["left"]
    assert fork.task.context == {"order": 7}
    assert fork.task.forked_from is not None
    assert fork.task.forked_from.task_uuid == run.task.task_uuid != fork.task.task_uuid
    again = run_workflow(diamond(), shop.registry, {"order": 8}, fork_of=fork, from_steps=["left"])
    assert again.status == "complete"
    assert shop.calls == {"start": 1, "left": 2, "right": 2, "join": 2}
    with pytest.raises(Conflict, match="every step is done"):
        run_workflow(diamond(), shop.registry, fork_of=fork)
    with pytest.raises(ValidationFailed, match="there is no step 'rihgt'"):
        run_workflow(diamond(), shop.registry, fork_of=fork, from_steps=["rihgt"])


def test_cancellation_and_delayed_start() -> None:
    async def sleeps() -> Any:
        await asyncio.sleep(10**6)

    shop = Shop()
    shop.errors["start"] = [sleeps]
    at = datetime(2027, 5, 1, tzinfo=UTC)
    run = run_workflow(diamond(), shop.registry, at=at, start_after_seconds=600, cancel_after_seconds=700)
    assert run.status == "cancelled"
    assert run.elapsed_seconds == pytest.approx(700, abs=0.01)
    assert run.events[0].recorded_at == "2027-05-01T00:00:00.000Z"
    assert_events(
        run,
        [
            "task.created",
            "task.started",
            "step.enqueued start",
            "step.started start",
            {"type": "task.cancelled", "cancelled_steps": ["start"]},
        ],
    )


def test_plain_handlers_run_in_real_threads() -> None:
    @step_handler("start")
    @inputs("n")
    def start(n: int) -> int:
        time.sleep(0.02)
        return n

    @step_handler("left")
    @depends_on(start="start")
    def left(start: int) -> int:
        return start + 1

    @step_handler("right")
    @depends_on(start="start")
    async def right(start: int) -> int:
        return start + 2

    @step_handler("join")
    @depends_on(left="left", right="right")
    def join(left: int, right: int) -> int:
        return left * right

    run = run_workflow(diamond(), [start, left, right, join], {"n": 1})
    assert run.results == {"start": 1, "left": 2, "right": 3, "join": 6}

    hang = threading.Event()

    @step_handler("start")
    def hangs() -> None:
        hang.wait(20)

    with pytest.raises(RealTimeExceeded, match=r"0\.3 s of real time"):
        run_workflow(diamond(), [hangs, left, right, join], real_seconds_max=0.3)
    hang.set()


def test_a_handler_that_is_missing_fails_its_step() -> None:
    run = run_workflow("name: one\nversion: 1.0.0\nsteps:\n  - {name: a, handler: nobody}\n", [])
    assert run.status == "blocked_by_failures"
    assert run.attempts("a") == 3
    assert run.task.step("a").error_code == "HANDLER_NOT_FOUND"


def test_templates_and_contexts_are_checked(tmp_path: Path) -> None:
    with pytest.raises(TemplateError):
        run_workflow("name: x\nsteps: []\nbogus: 1\n", [])
    path = tmp_path / "t.yaml"
    path.write_text(
        "name: x\nversion: 1.0.0\ninput_schema: {type: object, required: [a]}\nsteps:\n  - {name: s, handler: s}\n"
    )
    with pytest.raises(ValidationFailed) as refused:
        run_workflow(path, [], {})
    assert refused.value.violations[0]["message"]
    with pytest.raises(ConfigurationError, match="context is an object"):
        run_workflow(path, [], [1])

    @step_handler("s")
    def s(context: Any) -> int:
        return int(context.input_data["a"])

    assert run_workflow(path, [s], {"a": 4}).results == {"s": 4}


async def test_inside_a_running_loop() -> None:
    run = run_workflow(diamond(), Shop().registry)
    assert run.status == "complete"


def test_large_fan_out_reads_every_result() -> None:
    count = 300
    steps = "".join(f"  - {{name: s{n}, handler: s}}\n" for n in range(count))
    names = ", ".join(f"s{n}" for n in range(count))
    text = f"name: wide\nversion: 1.0.0\nsteps:\n{steps}  - {{name: join, handler: join, dependencies: [{names}]}}\n"

    @step_handler("s")
    async def s(context: Any) -> str:
        return "x" * 2_000

    @step_handler("join")
    async def join(context: Any) -> int:
        return len(context.get_all_dependency_results("s"))

    # Together larger than what travels inside a dispatch.
    assert run_workflow(text, [s, join]).results["join"] == count


def test_differences_are_readable() -> None:
    run = run_workflow(diamond(), Shop().registry)
    with pytest.raises(AssertionError) as wrong:
        assert_events(run, ["task.created", ..., "step.failed left", "task.completed"])
    text = str(wrong.value)
    assert "- step.failed left" in text
    assert "+ step.completed left" in text
    assert "  task.completed" in text
    with pytest.raises(AssertionError, match=r"attempt: expected 2, was 1"):
        assert_events(run, [..., {"type": "step.completed", "step_name": "join", "attempt": 2}, ...])
    with pytest.raises(AssertionError) as unordered:
        assert_events(run, ["task.created", "task.failed"], unordered=True)
    assert "- task.failed (expected 1×)" in str(unordered.value)
    assert "+ task.completed (not expected, 1×)" in str(unordered.value)
    with pytest.raises(ValueError, match="no place"):
        assert_events(run, [...], unordered=True)
    assert_events(run, [...])
    assert_events([], [])
    with pytest.raises(AssertionError):
        assert_events(run, [])
    with pytest.raises(AssertionError):
        assert_events([], ["task.created"])
