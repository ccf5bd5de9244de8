"""Tasks and steps before gates: every end of a try gives back exactly what it holds, once."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from stepweave_orchestrator.core import Plan, evolve
from stepweave_orchestrator.core.holding import join_of, join_order, leave_order, report_order
from stepweave_orchestrator.core.snapshot import decode_snapshot, encode_snapshot
from stepweave_orchestrator.core.view import task_response
from stepweave_orchestrator.runtime.actors import TaskActor
from stepweave_orchestrator.runtime.orders import held_orders, order_of
from stepweave_schemas import events
from stepweave_schemas.gate import (
    BreakerSpec,
    JoinCircuit,
    JoinRate,
    JoinSlots,
    LeaveGate,
    ReportFailure,
    circuit_id,
    rate_id,
    slots_id,
)
from stepweave_schemas.identity import step_uuid

from .scenario import (
    TASK_ID,
    Happened,
    Scenario,
    asked,
    awaited,
    batch_created,
    batch_stopped,
    blocked,
    cancel,
    cancelled,
    checkpointed,
    child_cancel_requested,
    child_requested,
    choose,
    completed,
    create,
    created,
    cut,
    enqueued,
    fail,
    fail_for_good,
    failed,
    given,
    given_back,
    granted,
    held_by_circuit,
    held_by_rate,
    in_turn,
    left_circuit,
    left_rate,
    lose,
    refused,
    release,
    released,
    retry,
    routed,
    save,
    send,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    task_started,
    through_circuit,
    undoing,
    undone,
    wake,
)
from .templates import AT_ONCE, EVERY_SECOND, compiled, step

SLOT: Final[dict[str, Any]] = {"limit": 1}
BREAKER: Final[dict[str, Any]] = {"failure_threshold": 2, "window_seconds": 10, "open_seconds": 5}
BANK: Final[dict[str, Any]] = {"system_dependency": "bank", "circuit_breaker": BREAKER}


def entered(plan: Plan, *expected: Happened, **fields: Any) -> Scenario:
    return given(plan).when(create(plan, **fields)).then(created(), *expected)


def running(**settings: Any) -> Scenario:
    """A task of the step `a`, which has its slot and was given out; `b` comes after it."""
    plan = compiled(step("a", **{"retry": EVERY_SECOND, "concurrency": SLOT, **settings}), "b: a")
    scenario = entered(plan, asked("a"))
    return scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))


# -- a slot of a step ------------------------------------------------------------------------------


def test_a_step_is_held_until_it_has_a_slot() -> None:
    plan = compiled(step("a", concurrency=SLOT))
    scenario = entered(plan, asked("a", group="scenario.a", value="null", limit=1))
    assert scenario.statuses() == {"a": "held"} and scenario.status == "waiting_for_dependencies"
    shown = task_response(scenario.state)
    assert (shown.pending_steps, shown.steps[0].current_state) == (1, "held")
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    assert scenario.step("a").attempt == 1 and scenario.status == "steps_in_process"


def test_success_gives_it_back() -> None:
    running().when(start("a")).then(started("a")).when(succeed("a")).then(
        completed("a"), given_back("a"), enqueued("b")
    )


def test_a_retry_gives_it_back_and_asks_anew() -> None:
    scenario = running()
    first = scenario.step("a").passes[0].token
    scenario.when(fail("a")).then(retry("a"), given_back("a", token=first))
    scenario.later(1_000).when(wake()).then(asked("a", 2))
    hold = scenario.step("a").hold
    assert hold is not None and hold.token != first
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a", 2))


def test_a_retry_at_once_gives_it_back_before_it_asks() -> None:
    running(retry=AT_ONCE).when(fail("a")).then(retry("a"), given_back("a"), asked("a", 2))


def test_a_failure_for_good_gives_it_back() -> None:
    running().when(fail_for_good("a")).then(failed("a"), given_back("a"), blocked("a"))


def test_a_lost_worker_gives_it_back() -> None:
    scenario = running()
    scenario.when(lose("a")).then(retry("a", settled_by="lost"), given_back("a"), asked("a", 2))
    scenario.when(succeed("a", 1)).then(refused("a", 1, refusal="stale_attempt"))
    scenario.when(succeed("a", 1)).then_rejected("STALE")


def test_a_time_out_gives_it_back() -> None:
    scenario = running(timeout_seconds=1).when(start("a")).then(started("a"))
    scenario.later(6_000).when(wake()).then(retry("a", settled_by="timeout"), given_back("a"))


def test_who_is_handed_back_keeps_it() -> None:
    scenario = running().when(release("a")).then(released("a"), enqueued("a"))
    assert len(scenario.step("a").passes) == 1
    scenario.when(succeed("a")).then(completed("a"), given_back("a"), enqueued("b"))


def test_a_checkpoint_keeps_it() -> None:
    scenario = running().when(save("a", 1)).then(checkpointed("a"), enqueued("a"))
    # One that gets no further is a failure.
    scenario.when(save("a", 1)).then(retry("a", error_code="CHECKPOINT_WITHOUT_PROGRESS"), given_back("a"))


def test_cancelling_gives_back_what_runs_and_what_waits() -> None:
    plan = compiled(step("a", concurrency=SLOT), step("b", concurrency=SLOT))
    scenario = entered(plan, asked("a"), asked("b"))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.when(cancel()).then(given_back("a"), given_back("b"), cancelled("a"))
    scenario.when(succeed("a")).then(refused("a", refusal="task_finished"))


def test_cancelling_between_two_tries_gives_nothing_back_twice() -> None:
    running().when(fail("a")).then(retry("a"), given_back("a")).when(cancel()).then(cancelled())


def test_the_end_of_the_task_gives_it_back_before() -> None:
    scenario = entered(compiled(step("a", concurrency=SLOT)), asked("a"))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.when(succeed("a")).then(completed("a"), given_back("a"), task_completed())


def test_a_failing_task_gives_it_back_before() -> None:
    plan = compiled(step("a", concurrency=SLOT), on_failure="fail")
    scenario = entered(plan, asked("a"))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.when(fail_for_good("a")).then(failed("a"), given_back("a"), task_failed("a"))


def test_a_decision_gives_it_back() -> None:
    plan = compiled(step("a", type="decision", concurrency=SLOT), step("b: a", concurrency=SLOT), "c: a")
    scenario = entered(plan, asked("a"))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.when(choose("a", "b")).then(completed("a"), given_back("a"), routed("a", "b"), asked("b"))


def test_a_child_has_it_until_it_ends() -> None:
    plan = compiled(step("a", child_task={"name": "other"}, concurrency=SLOT), "b: a")
    scenario = entered(plan, asked("a"))
    scenario.when(scenario.admit("a")).then(granted("a"), child_requested("a"))
    assert scenario.statuses()["a"] == "waiting_for_child"
    scenario.when(start("a")).then(started("a")).when(succeed("a")).then(
        completed("a"), given_back("a"), enqueued("b")
    )


def test_a_cancelled_parent_gives_back_what_its_child_needed() -> None:
    plan = compiled(step("a", child_task={"name": "other"}, concurrency=SLOT))
    scenario = entered(plan, asked("a"))
    scenario.when(scenario.admit("a")).then(granted("a"), child_requested("a"))
    scenario.when(cancel()).then(child_cancel_requested("a"), given_back("a"), cancelled())


def test_a_held_child_is_not_cancelled_with_its_parent() -> None:
    plan = compiled(step("a", child_task={"name": "other"}, concurrency=SLOT))
    entered(plan, asked("a")).when(cancel()).then(given_back("a"), cancelled())


def test_a_compensation_needs_none() -> None:
    undo = {"handler": {"callable": "undo"}}
    plan = compiled(step("a", concurrency=SLOT, compensation=undo), step("b: a", retry=EVERY_SECOND))
    scenario = entered(plan, asked("a"))
    scenario.when(scenario.admit("a")).then(granted("a"), enqueued("a"))
    scenario.when(succeed("a")).then(completed("a"), given_back("a"), enqueued("b"))
    scenario.at_rate(1).when(fail_for_good("b")).then(failed("b"), undoing("a"), enqueued("compensate:a"))
    scenario.when(fail("compensate:a")).then(retry("compensate:a"))
    scenario.later(2_000).when(wake()).then(enqueued("compensate:a", 2))
    scenario.when(succeed("compensate:a")).then(undone("a", 2), task_failed("b"))


# -- answers that come late or twice ---------------------------------------------------------------


def test_an_answer_that_comes_twice_is_known() -> None:
    scenario = entered(compiled(step("a", concurrency=SLOT)), asked("a"))
    admit = scenario.admit("a")
    scenario.when(admit).then(granted("a"), enqueued("a")).when(admit).then_nothing()
    scenario.when(succeed("a")).then(completed("a"), given_back("a"), task_completed())
    scenario.when(admit).then_rejected("STALE")


def test_an_answer_for_an_earlier_try_is_refused() -> None:
    scenario = running()
    stale = scenario.admit("a", token=scenario.step("a").passes[0].token)
    scenario.when(fail("a")).then(retry("a"), given_back("a")).when(stale).then_rejected("STALE")
    scenario.later(1_000).when(wake()).then(asked("a", 2)).when(stale).then_rejected("STALE")
    assert scenario.statuses()["a"] == "held"


def test_an_answer_to_nobody_is_refused() -> None:
    plan = compiled(step("a", concurrency=SLOT))
    given(plan).when(Scenario(plan).admit("a", token="x")).then_rejected("NOT_FOUND")
    scenario = entered(plan, asked("a"))
    for name, token in (("nobody", "x"), ("a", "x"), ("", "x")):
        scenario.when(scenario.admit(name, token=token)).then_rejected("STALE")
    admit = scenario.admit("a")
    scenario.when(cancel()).then(given_back("a"), cancelled()).when(admit).then_rejected("STALE")


# -- a slot of the task ----------------------------------------------------------------------------


def test_a_task_is_held_as_a_whole() -> None:
    plan = compiled("a", "b", concurrency={"limit": 1})
    scenario = entered(plan, asked(group="task:scenario", value="null"))
    assert scenario.status == "waiting_for_dependencies" and set(scenario.statuses().values()) == {"pending"}
    admit = scenario.admit()
    scenario.when(admit).then(granted(), enqueued("a"), enqueued("b")).when(admit).then_nothing()
    scenario.when(fail("a")).then(retry("a")).when(succeed("b")).then(completed("b"))
    scenario.later(1_000).when(wake()).then(enqueued("a", 2))
    scenario.when(succeed("a")).then(completed("a", 2), given_back(), task_completed())
    scenario.when(admit).then_rejected("STALE")


def test_a_delayed_task_asks_when_it_starts() -> None:
    plan = compiled("a", concurrency={"key": "order", "limit": 1})
    scenario = given(plan).when(create(plan, start_at_ms=Scenario(plan).now_ms + 1_000)).then(created())
    scenario.later(1_000).when(wake()).then(task_started(), asked(group="task:order", value="7"))
    scenario.when(scenario.admit()).then(granted(), enqueued("a"))


@pytest.mark.parametrize("is_admitted", [False, True])
def test_a_cancelled_task_gives_it_back(is_admitted: bool) -> None:
    scenario = entered(compiled("a", concurrency={"limit": 1}), asked())
    if is_admitted:
        scenario.when(scenario.admit()).then(granted(), enqueued("a"))
    scenario.when(cancel()).then(given_back(), cancelled(*("a" if is_admitted else "")))


def test_a_blocked_task_gives_it_back() -> None:
    scenario = entered(compiled("a", concurrency={"limit": 1}), asked())
    scenario.when(scenario.admit()).then(granted(), enqueued("a"))
    scenario.when(fail_for_good("a")).then(failed("a"), given_back(), blocked("a"))
    assert not scenario.state.passes
    scenario.when(cancel()).then(cancelled())


def test_a_task_that_is_undone_keeps_it_until_then() -> None:
    undo = {"handler": {"callable": "undo"}}
    plan = compiled(step("a", compensation=undo), "b: a", concurrency={"limit": 1})
    scenario = entered(plan, asked())
    scenario.when(scenario.admit()).then(granted(), enqueued("a")).run(succeed("a"), fail_for_good("b"))
    assert scenario.state.passes and scenario.status == "compensating"
    scenario.when(succeed("compensate:a")).then(undone("a"), given_back(), task_failed("b"))


def test_a_task_that_is_done_at_once_gives_it_back_at_once() -> None:
    """The signal it waits for came while the task was held."""
    plan = compiled(step("a", wait_for_signal={"name": "go"}), concurrency={"limit": 1})
    scenario = entered(plan, asked()).run(send("go"))
    decided = [type(event) for event, _ in scenario.run(scenario.admit()).history[-5:]]
    assert decided == [
        events.ConcurrencyGranted,
        events.SignalAwaited,
        events.StepCompleted,
        events.ConcurrencyReleased,
        events.TaskCompleted,
    ]
    assert not scenario.state.passes and not scenario.state.gated_count


def test_the_slot_of_the_task_is_not_that_of_its_steps() -> None:
    plan = compiled(
        step("a", concurrency={"key": "order", "limit": 1}), concurrency={"key": "order", "limit": 1}
    )
    scenario = entered(plan, asked())
    outer = scenario.last(events.ConcurrencyRequested)
    scenario.when(scenario.admit()).then(granted(), asked("a"))
    inner = scenario.last(events.ConcurrencyRequested)
    assert outer.gate_id != inner.gate_id and outer.token != inner.token


# -- the key ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "context", "value"),
    [
        ("customer", {"customer": "ada"}, '"ada"'),
        ("context.customer", {"customer": "ada"}, '"ada"'),
        ("context.customer", {"context": {"customer": "bob"}, "customer": "ada"}, '"bob"'),
        ("context", {"context": 1}, "1"),
        ("order.customer.id", {"order": {"customer": {"id": 7}}}, "7"),
        ("order.lines.1", {"order": {"lines": ["a", "b"]}}, '"b"'),
        ("customer", {"customer": "7"}, '"7"'),
        ("customer", {"customer": True}, "true"),
        ("customer", {"customer": None}, "null"),
        ("customer", {"customer": {"b": 1, "a": [2]}}, '{"a":[2],"b":1}'),
        ("customer", {}, "null"),
        ("order.customer.id", {"order": {"customer": "ada"}}, "null"),
        ("customer", {"customer": "\u0000"}, '"\\u0000"'),
    ],
)
def test_the_value_of_a_key(key: str, context: dict[str, Any], value: str) -> None:
    plan = compiled(step("a", concurrency={"key": key, "limit": 3}))
    raw = msgspec.Raw(msgspec.json.encode(context))
    # Both ways to write a path are the same slots.
    group = key if "context" in context else key.removeprefix("context.")
    scenario = entered(plan, asked("a", group=group, value=value, limit=3), context=raw)
    assert scenario.last(events.ConcurrencyRequested).gate_id == slots_id("tests", group, value)


def test_a_long_value_counts_by_its_beginning() -> None:
    plan = compiled(step("a", concurrency={"key": "k", "limit": 1}))
    raw = msgspec.Raw(msgspec.json.encode({"k": "x" * 5_000}))
    scenario = given(plan).when(create(plan, context=raw)).then(created(), asked("a"))
    assert len(scenario.last(events.ConcurrencyRequested).value) == 1_000


# -- batches ---------------------------------------------------------------------------------------


def batch(**config: Any) -> Plan:
    return compiled(
        step("a", type="batchable", batch_config={"worker_template": "w", **config}),
        step("w: a", type="batch_worker", retry=EVERY_SECOND, concurrency={"limit": 2}),
    )


def cut_in(plan: Plan, count: int, *expected: Happened) -> Scenario:
    scenario = entered(plan, enqueued("a"))
    return scenario.when(cut("a", *range(count))).then(completed("a"), batch_created("a", "w"), *expected)


def test_held_batches_count_as_running() -> None:
    scenario = cut_in(batch(parallelism=2), 3, asked("w_001"), asked("w_002"))
    assert scenario.state.batches[1].running == 2
    scenario.when(scenario.admit("w_002")).then(granted("w_002"), enqueued("w_002"))
    scenario.when(succeed("w_002")).then(completed("w_002"), given_back("w_002"), asked("w_003"))
    scenario.when(cancel()).then(given_back("w_001"), given_back("w_003"), cancelled())


def test_a_batch_that_is_stopped_takes_back_those_that_wait() -> None:
    scenario = cut_in(batch(failure_strategy="fail_fast"), 3, asked("w_001"), asked("w_002"), asked("w_003"))
    waiting = scenario.admit("w_003")
    for name in ("w_001", "w_002"):
        scenario.when(scenario.admit(name)).then(granted(name), enqueued(name))
    scenario.when(fail_for_good("w_001")).then(
        failed("w_001"), given_back("w_001"), batch_stopped("w", "w_001", 1), given_back("w_003")
    )
    scenario.when(waiting).then_rejected("STALE")
    assert scenario.statuses()["w_003"] == "cancelled"
    # What runs goes on to its end.
    scenario.when(succeed("w_002")).then(completed("w_002"), given_back("w_002"), blocked("w_001"))


def test_a_batch_is_stopped_in_the_decision_that_asks_again_for_one_of_it() -> None:
    """Of two that are due at the same moment, the first asks for its next try and the second fails for good."""
    plan = compiled(
        step("a", type="batchable", batch_config={"worker_template": "w", "failure_strategy": "fail_fast"}),
        step(
            "w: a",
            type="batch_worker",
            retry={**EVERY_SECOND, "max_attempts": 2},
            timeout_seconds=1,
            concurrency={"limit": 2},
        ),
    )
    scenario = cut_in(plan, 2, asked("w_001"), asked("w_002"))
    for name in ("w_002", "w_001"):
        scenario.when(scenario.admit(name)).then(granted(name), enqueued(name))
    scenario.when(fail("w_002")).then(retry("w_002"), given_back("w_002"))
    scenario.later(1_000).when(wake()).then(asked("w_002", 2))
    scenario.when(scenario.admit("w_002")).then(granted("w_002"), enqueued("w_002", 2))
    scenario.when(start("w_002")).then(started("w_002", 2))
    scenario.later(5_500).when(fail("w_001")).then(retry("w_001"), given_back("w_001"))
    assert scenario.state.gated_count == 1
    scenario.later(1_000).when(wake()).then(
        asked("w_001", 2),
        failed("w_002", 2),
        given_back("w_002"),
        batch_stopped("w", "w_002", 1),
        given_back("w_001", token=_next_token(scenario)),
        blocked("w_002"),
    )
    assert scenario.statuses()["w_001"] == "cancelled" and not scenario.state.gated_count


def _next_token(scenario: Scenario) -> Any:
    """Equals the token of the question that comes first in the decision."""
    decision = scenario._decision
    assert isinstance(decision, list)
    return next(event.token for event in decision if isinstance(event, events.ConcurrencyRequested))


# -- circuits --------------------------------------------------------------------------------------


def test_a_closed_circuit_is_nothing() -> None:
    scenario = entered(compiled(step("a", retry=EVERY_SECOND, **BANK), "b: a"), enqueued("a"))
    scenario.with_open("another").when(fail("a")).then(retry("a")).later(1_000).when(wake()).then(
        enqueued("a", 2)
    )
    scenario.when(succeed("a")).then(completed("a", 2), enqueued("b"))


def test_who_goes_through_a_closed_circuit_holds_nothing() -> None:
    plan = compiled(step("a", **BANK))
    scenario = given(plan).with_open("bank").when(create(plan)).then(created(), held_by_circuit("a"))
    admit = scenario.admit("a")
    scenario.when(admit).then(through_circuit("a", is_probe=False), enqueued("a"))
    assert not scenario.state.gated_count
    scenario.when(admit).then_rejected("STALE")
    scenario.when(succeed("a")).then(completed("a"), task_completed())


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        (succeed("a"), "success"),
        (fail("a"), "failure"),
        (fail("a", error_type="timeout"), "failure"),
        (fail("a", error_type="retryable_error"), "failure"),
        # It has answered.
        (fail_for_good("a"), "success"),
        # Nobody asked it.
        (fail_for_good("a", error_type="validation_error"), ""),
        (lose("a"), ""),
        (cancel(), ""),
    ],
)
def test_what_a_probe_says_of_its_service(ends: Any, outcome: str) -> None:
    plan = compiled(step("a", retry=EVERY_SECOND, **BANK), "b: a")
    scenario = given(plan).with_open("bank").when(create(plan)).then(created(), held_by_circuit("a"))
    scenario.when(scenario.admit("a", is_probe=True)).then(through_circuit("a", is_probe=True), enqueued("a"))
    # Handed back, it is still the probe.
    scenario.when(release("a")).then(released("a"), enqueued("a")).run(ends)
    assert scenario.last(events.CircuitLeft).outcome == outcome
    assert sum(isinstance(event, events.CircuitLeft) for event, _ in scenario.history) == 1


def test_a_probe_that_times_out_has_failed() -> None:
    plan = compiled(step("a", retry=EVERY_SECOND, timeout_seconds=1, **BANK))
    scenario = given(plan).with_open("bank").when(create(plan)).then(created(), held_by_circuit("a"))
    scenario.when(scenario.admit("a", is_probe=True)).then(through_circuit("a"), enqueued("a"))
    scenario.when(start("a")).then(started("a")).later(6_000).when(wake()).then(
        retry("a"), left_circuit("a", outcome="failure")
    )


def test_steps_of_one_service_share_its_circuit_others_have_one_each() -> None:
    plan = compiled(
        step("a", **BANK),
        step("b", **BANK),
        step("c", circuit_breaker=BREAKER),
        step("d", system_dependency="bank"),
    )
    scenario = given(plan).with_open("bank", "run_c").when(create(plan))
    scenario.then(
        created(),
        held_by_circuit("a", gate_id=circuit_id("tests", "bank"), service="bank"),
        held_by_circuit("b", gate_id=circuit_id("tests", "bank")),
        held_by_circuit("c", gate_id=circuit_id("tests", "run_c"), service="run_c"),
        enqueued("d"),
    )


# -- one gate after the other ----------------------------------------------------------------------


def chained() -> Scenario:
    plan = compiled(step("a", retry=EVERY_SECOND, concurrency=SLOT, **BANK), "b: a")
    return given(plan).with_open("bank").at_rate(5).when(create(plan)).then(created(), asked("a"))


def test_slots_then_circuit_then_rate() -> None:
    scenario = chained()
    scenario.when(scenario.admit("a")).then(granted("a"), held_by_circuit("a"))
    scenario.when(scenario.admit("a", is_probe=True)).then(
        through_circuit("a"), held_by_rate("a", per_second=5.0, gate_id=rate_id("tests"))
    )
    assert scenario.state.gated_count == 3 and scenario.step("a").attempt == 0
    scenario.when(scenario.admit("a")).then(in_turn("a"), enqueued("a"))
    scenario.when(succeed("a")).then(
        completed("a"), given_back("a"), left_circuit("a", outcome="success"), held_by_rate("b")
    )
    scenario.when(scenario.admit("b")).then(in_turn("b"), enqueued("b"))
    scenario.when(succeed("b")).then(completed("b"), task_completed())


def test_a_circuit_that_has_closed_meanwhile_is_passed_by() -> None:
    scenario = chained()
    scenario.with_open().when(scenario.admit("a")).then(granted("a"), held_by_rate("a"))
    # One that opens after it was passed is not asked again.
    scenario.with_open("bank").at_rate(None).when(scenario.admit("a")).then(in_turn("a"), enqueued("a"))


def test_who_is_cancelled_before_the_last_gate_gives_all_back() -> None:
    scenario = chained()
    scenario.when(scenario.admit("a")).then(granted("a"), held_by_circuit("a"))
    scenario.when(scenario.admit("a", is_probe=True)).then(through_circuit("a"), held_by_rate("a"))
    scenario.when(cancel()).then(left_rate("a"), given_back("a"), left_circuit("a", outcome=""), cancelled())


def test_who_is_cancelled_before_the_circuit_gives_the_slot_back() -> None:
    scenario = chained()
    scenario.when(scenario.admit("a")).then(granted("a"), held_by_circuit("a"))
    scenario.when(cancel()).then(left_circuit("a", outcome=""), given_back("a"), cancelled())


def test_a_retry_passes_all_of_them_again() -> None:
    scenario = chained()
    scenario.when(scenario.admit("a")).then(granted("a"), held_by_circuit("a"))
    scenario.when(scenario.admit("a", is_probe=True)).then(through_circuit("a"), held_by_rate("a"))
    scenario.when(scenario.admit("a")).then(in_turn("a"), enqueued("a"))
    scenario.when(fail("a")).then(retry("a"), given_back("a"), left_circuit("a", outcome="failure"))
    scenario.later(1_000).when(wake()).then(asked("a", 2))
    scenario.when(scenario.admit("a")).then(granted("a"), held_by_circuit("a", 2))
    scenario.when(scenario.admit("a")).then(through_circuit("a", is_probe=False), held_by_rate("a", 2))
    scenario.when(scenario.admit("a")).then(in_turn("a"), enqueued("a", 2))


def test_a_rate_reaches_steps_that_no_template_limits() -> None:
    plan = compiled("a", step("s", wait_for_signal={"name": "go"}))
    # Who waits for a signal begins nothing.
    given(plan).at_rate(1).when(create(plan)).then(created(), held_by_rate("a"), awaited("s", "go"))


def test_a_rate_that_is_taken_away_lets_who_waits_go_on() -> None:
    plan = compiled("a", "b", "c: a")
    scenario = given(plan).at_rate(1).when(create(plan)).then(created(), held_by_rate("a"), held_by_rate("b"))
    scenario.at_rate(None).when(scenario.admit("a")).then(in_turn("a"), enqueued("a"))
    scenario.when(succeed("a")).then(completed("a"), enqueued("c")).when(succeed("c")).then(completed("c"))
    scenario.when(scenario.admit("b")).then(in_turn("b"), enqueued("b"))
    scenario.when(succeed("b")).then(completed("b"), task_completed())


def test_a_task_does_not_end_while_a_step_is_held() -> None:
    plan = compiled("a", step("b", concurrency=SLOT))
    scenario = entered(plan, enqueued("a"), asked("b"))
    scenario.when(fail_for_good("a")).then(failed("a"))
    assert scenario.status == "waiting_for_dependencies"
    scenario.when(scenario.admit("b")).then(granted("b"), enqueued("b"))
    scenario.when(succeed("b")).then(completed("b"), given_back("b"), blocked("a"))


# -- what is sent ----------------------------------------------------------------------------------


def actor(scenario: Scenario) -> TaskActor:
    return TaskActor(scenario.state, 0, scenario.plan.ref)


def test_the_questions_that_are_asked_again_are_the_same() -> None:
    scenario = chained()
    seen = []
    kinds: tuple[type[JoinSlots | JoinCircuit | JoinRate], ...] = (JoinSlots, JoinCircuit, JoinRate)
    for kind in kinds:
        (again,) = held_orders(actor(scenario), lambda _: 3)
        event = scenario.history[-1][0]
        assert order_of(actor(scenario), event, lambda _: 3) == again
        join = msgspec.json.decode(again.payload, type=kind)
        assert (join.asker, join.step_name, join.namespace) == (TASK_ID, "a", "tests")
        assert join.held_at_ms == scenario.now_ms
        seen.append(again.message_id)
        scenario.later(10).run(scenario.admit("a", is_probe=kind is JoinCircuit))
        # It is answered: nobody asks any more.
        assert order_of(actor(scenario), event, lambda _: 3) is None
    assert len(set(seen)) == 3 and not held_orders(actor(scenario), lambda _: 3)


def test_a_snapshot_keeps_what_is_held() -> None:
    scenario = chained()
    scenario.run(scenario.admit("a"))
    state = decode_snapshot(encode_snapshot(scenario.state), scenario.plan)
    hold = state.steps[0].hold
    assert hold is not None and state.steps[0].passes == scenario.step("a").passes
    assert join_of(state, "a", hold) == JoinCircuit(
        task_id=circuit_id("tests", "bank"),
        namespace="tests",
        service="bank",
        breaker=BreakerSpec(**BREAKER),
        asker=TASK_ID,
        step_name="a",
        token=hold.token,
        held_at_ms=scenario.now_ms,
    )


def test_the_question_of_a_task_names_no_step() -> None:
    plan = compiled("a", concurrency={"key": "order", "limit": 4})
    scenario = entered(plan, asked(), priority=5)
    event = scenario.last(events.ConcurrencyRequested)
    join = join_order(scenario.state, event)
    assert isinstance(join, JoinSlots)
    assert (join.step_name, join.limit, join.priority, join.group, join.value) == (
        "",
        4,
        5,
        "task:order",
        "7",
    )
    assert [each.message_id for each in held_orders(actor(scenario), lambda _: 1)] == [f"j{event.token}"]
    scenario.run(cancel())
    assert join_order(scenario.state, event) is None
    left = scenario.last(events.ConcurrencyReleased)
    assert leave_order(left) == LeaveGate(task_id=event.gate_id, gate="concurrency", token=event.token)


def test_a_failure_is_reported_to_its_circuit() -> None:
    scenario = entered(compiled(step("a", retry=EVERY_SECOND, **BANK)), enqueued("a"))
    scenario.later(7).when(fail("a", error_message="x" * 5_000)).then(retry("a"))
    report = report_order(scenario.state, scenario.last(events.StepRetryScheduled))
    assert report == ReportFailure(
        task_id=circuit_id("tests", "bank"),
        namespace="tests",
        service="bank",
        breaker=BreakerSpec(**BREAKER),
        asker=TASK_ID,
        step_name="a",
        step_uuid=step_uuid(TASK_ID, "a"),
        attempt=1,
        error_type="handler_error",
        error_message="x" * 1_000,
        failed_at_ms=scenario.now_ms,
    )


@pytest.mark.parametrize(
    "ends", [fail_for_good("a"), fail_for_good("a", error_type="validation_error"), lose("a")]
)
def test_what_is_not_the_service_s_fault_is_not_reported(ends: Any) -> None:
    scenario = entered(compiled(step("a", retry=EVERY_SECOND, **BANK)), enqueued("a")).run(ends)
    last = next(
        event
        for event, _ in scenario.history
        if isinstance(event, events.StepRetryScheduled | events.StepFailed)
    )
    assert report_order(scenario.state, last) is None
    plain = entered(compiled("a"), enqueued("a")).run(fail("a"))
    assert report_order(plain.state, plain.last(events.StepRetryScheduled)) is None


def test_a_replay_comes_to_the_same() -> None:
    scenario = chained()
    for _ in range(3):
        scenario.later(3).run(scenario.admit("a", is_probe=True))
    replayed = Scenario(scenario.plan)
    for event, at_ms in scenario.history:
        evolve(replayed.state, event, at_ms)
    assert encode_snapshot(replayed.state) == encode_snapshot(scenario.state)
