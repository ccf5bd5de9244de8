"""Creating a task: at once or later, and a request that comes again."""

from __future__ import annotations

from typing import Any

import pytest

from .scenario import (
    CONTEXT,
    T0_MS,
    Scenario,
    begun,
    cancel,
    cancelled,
    completed,
    create,
    created,
    enqueued,
    given,
    succeed,
    task_completed,
    task_started,
    wake,
)
from .templates import compiled, diamond, one_step

ANOTHER: dict[str, Any] = {"request_id": "0198c0de-0000-7000-8000-000000000002"}
OTHER_CONTENT: dict[str, Any] = {"request_digest": "sha256:other"}


def test_a_task_begins_with_its_request_and_its_roots() -> None:
    plan = compiled("a", "b: a", "c")
    fields: dict[str, Any] = {
        "initiator": "ada",
        "source_system": "shop",
        "reason": "order",
        "tags": ("x", "y"),
        "priority": -3,
        "parent_correlation_id": "parent",
        "identity": "caller_provided",
        "idempotency_key": "order-7",
        "requested_at": "2026-01-01T12:00:00Z",
        "traceparent": "00-1-2-01",
    }
    scenario = given(plan).when(create(plan, **fields))
    scenario.then(created(template=plan.ref, context=CONTEXT, **fields), enqueued("a"), enqueued("c"))
    state = scenario.state
    assert (state.status, state.created_at_ms, state.updated_at_ms) == ("steps_in_process", T0_MS, T0_MS)
    assert (state.initiator, state.source_system, state.reason) == ("ada", "shop", "order")
    assert (state.tags, state.priority, state.context) == (("x", "y"), -3, '{"order":7}')
    assert (state.parent_correlation_id, state.traceparent) == ("parent", "00-1-2-01")
    assert state.version == 3


# -- delayed start -------------------------------------------------------------------------------


def test_a_delayed_start() -> None:
    plan = diamond()
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 100)).then(created())
    assert scenario.status == "pending"
    assert scenario.state.next_wake_ms() == T0_MS + 100
    scenario.later(99).when(wake()).then_nothing()
    scenario.later(1).when(wake()).then(task_started(start_at_ms=T0_MS + 100), enqueued("a"))
    assert scenario.status == "steps_in_process"
    assert scenario.state.next_wake_ms() is None
    scenario.when(wake()).then_nothing()
    scenario.when(succeed("a")).then(completed("a"), enqueued("b"), enqueued("c"))


@pytest.mark.parametrize("ago_ms", [0, 1, 10**9])
def test_a_start_that_is_past_is_at_once(ago_ms: int) -> None:
    plan = one_step()
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS - ago_ms))
    scenario.then(created(), task_started(start_at_ms=T0_MS - ago_ms), enqueued("a"))
    assert scenario.state.next_wake_ms() is None


def test_a_delayed_task_may_start_late() -> None:
    plan = one_step()
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 1)).then(created())
    scenario.later(10**6).when(wake()).then(task_started(start_at_ms=T0_MS + 1), enqueued("a"))


def test_a_wake_up_of_a_task_that_does_not_exist() -> None:
    scenario = given(one_step()).when(wake()).then_nothing()
    assert scenario.state.next_wake_ms() is None


# -- the same request again ----------------------------------------------------------------------


def stories() -> list[Scenario]:
    """A task in several states, the same request behind all of them."""
    plan = one_step()
    return [
        begun(plan),
        begun(plan).when(succeed("a")).then(completed("a"), task_completed()),
        begun(plan).when(cancel()).then(cancelled("a")),
    ]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("strict", [False, True])
def test_a_repeated_request_is_the_same_task(number: int, strict: bool) -> None:
    scenario = stories()[number].later(10)
    scenario.when(create(scenario.plan, strict=strict)).then_nothing()
    # What does not make it another request: who asks for it, and why.
    scenario.when(create(scenario.plan, strict=strict, reason="other", initiator="bob")).then_nothing()


@pytest.mark.parametrize("number", range(3))
def test_another_request_with_the_same_key_and_content_is_the_same_task(number: int) -> None:
    scenario = stories()[number]
    scenario.when(create(scenario.plan, **ANOTHER)).then_nothing()


@pytest.mark.parametrize("number", range(3))
def test_the_same_key_with_other_content_is_a_conflict(number: int) -> None:
    scenario = stories()[number]
    scenario.when(create(scenario.plan, **ANOTHER, **OTHER_CONTENT)).then_rejected("CONFLICT")


@pytest.mark.parametrize("number", range(3))
def test_the_same_task_id_with_other_content_is_a_conflict(number: int) -> None:
    """It would be answered with a task that its caller did not ask for."""
    scenario = stories()[number]
    scenario.when(create(scenario.plan, **OTHER_CONTENT)).then_rejected("CONFLICT")


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("content", [{}, OTHER_CONTENT])
def test_strict_refuses_a_second_task(number: int, content: dict[str, Any]) -> None:
    scenario = stories()[number]
    scenario.when(create(scenario.plan, strict=True, **ANOTHER, **content)).then_rejected("CONFLICT")


def test_a_repeated_request_for_a_delayed_task() -> None:
    plan = one_step()
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 100)).then(created())
    scenario.when(create(plan, start_at_ms=T0_MS + 100)).then_nothing()
    scenario.later(200).when(create(plan, start_at_ms=T0_MS + 100)).then_nothing()
    assert scenario.status == "pending"
