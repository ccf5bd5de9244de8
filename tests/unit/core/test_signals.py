"""Signals: steps that wait for one, those that come early, twice, too late or for nobody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core import Plan, Rejection, decide
from stepweave_orchestrator.core.commands import Moment
from stepweave_orchestrator.core.signals import SIGNAL_IDS_MAX
from stepweave_schemas import events

from .scenario import (
    T0_MS,
    Scenario,
    awaited,
    begun,
    blocked,
    cancel,
    cancelled,
    choose,
    completed,
    create,
    created,
    decline,
    enqueued,
    entered,
    fail_for_good,
    failed,
    given,
    received,
    send,
    signal_timed_out,
    skipped,
    succeed,
    task_completed,
    task_failed,
    task_started,
    undoing,
    undone,
    wake,
)
from .templates import compiled, step


def wait(text: str, signal: str = "approval", **settings: Any) -> dict[str, Any]:
    """A step that waits for a signal; `timeout_seconds` and `default` are those of the wait."""
    own = {key: settings.pop(key) for key in ("timeout_seconds", "default") if key in settings}
    return step(
        text, handler={"callable": "stepweave:signal"}, wait_for_signal={"name": signal, **own}, **settings
    )


def approval(**how: Any) -> Plan:
    return compiled("ask", wait("approve: ask", **how), "ship: approve")


def waiting(**how: Any) -> Scenario:
    return begun(approval(**how)).run(succeed("ask"))


# -- as it should be -------------------------------------------------------------------------------


def test_a_step_waits_and_its_signal_comes() -> None:
    scenario = begun(approval()).when(succeed("ask"))
    scenario.then(completed("ask"), awaited("approve", "approval", deadline_at_ms=None))
    assert scenario.step("approve").status == "waiting_for_signal"
    assert scenario.status == "waiting_for_dependencies"
    assert scenario.state.next_wake_ms() is None
    scenario.later(10**9).when(send("approval", {"by": "ada"}, "s1"))
    scenario.then(
        received("approval", signal_id="s1", payload=msgspec.Raw(b'{"by":"ada"}'), sent_by="ada"),
        completed("approve", 1, result=msgspec.Raw(b'{"by":"ada"}'), worker_id="signal"),
        enqueued("ship"),
    )
    scenario.when(succeed("ship")).then(completed("ship"), task_completed(steps_completed=3))


@pytest.mark.parametrize("payload", [None, False, 0, "", [], {"a": [1]}], ids=repr)
def test_a_payload_is_any_json(payload: object) -> None:
    scenario = waiting().run(send("approval", payload))
    assert msgspec.json.decode(scenario.step("approve").result or "") == payload


def test_the_first_step_may_wait() -> None:
    scenario = entered(compiled(wait("a"), "b: a", "c"), awaited("a", "approval"), enqueued("c"))
    assert scenario.status == "steps_in_process"
    scenario.when(succeed("c")).then(completed("c"))
    scenario.when(send("approval")).then(received("approval"), completed("a"), enqueued("b"))


def test_the_only_step_may_wait() -> None:
    scenario = entered(compiled(wait("a")), awaited("a", "approval"))
    scenario.when(send("approval")).then(received("approval"), completed("a"), task_completed())


def test_what_does_not_depend_on_it_goes_on() -> None:
    scenario = entered(compiled(wait("a"), "b", "c: b"), awaited("a", "approval"), enqueued("b"))
    scenario.when(succeed("b")).then(completed("b"), enqueued("c")).when(succeed("c")).then(completed("c"))
    assert scenario.status == "waiting_for_dependencies"


# -- early, several, twice -------------------------------------------------------------------------


def test_a_signal_that_comes_early_is_kept() -> None:
    scenario = begun(approval()).when(send("approval", 1)).then(received("approval"))
    assert [kept.payload for kept in scenario.state.mailbox] == ["1"]
    scenario.when(succeed("ask")).then(
        completed("ask"),
        awaited("approve", "approval"),
        completed("approve", result=msgspec.Raw(b"1"), worker_id="signal"),
        enqueued("ship"),
    )
    assert scenario.state.mailbox == []


def test_one_signal_leads_to_the_next_that_is_there_already() -> None:
    """A single result ends four steps and the task."""
    plan = compiled("a", wait("b: a", "one"), wait("c: b", "two"), wait("d: c", "one"))
    scenario = begun(plan).run(send("one", 1, "s1"), send("two", 2, "s2"), send("one", 3, "s3"))
    scenario.when(succeed("a")).then(
        completed("a"),
        awaited("b", "one"),
        completed("b", result=msgspec.Raw(b"1")),
        awaited("c", "two"),
        completed("c", result=msgspec.Raw(b"2")),
        awaited("d", "one"),
        completed("d", result=msgspec.Raw(b"3")),
        task_completed(steps_completed=4),
    )


def test_two_steps_wait_for_the_same_signal() -> None:
    plan = compiled(wait("a"), wait("b"), "c: a b")
    scenario = entered(plan, awaited("a", "approval"), awaited("b", "approval"))
    scenario.when(send("approval", 1, "s1")).then(
        received("approval"), completed("a", result=msgspec.Raw(b"1"))
    )
    scenario.when(send("approval", 2, "s2")).then(
        received("approval"), completed("b", result=msgspec.Raw(b"2")), enqueued("c")
    )


def test_signals_are_taken_in_the_order_in_which_they_came() -> None:
    plan = compiled("first", wait("a: first"), wait("b: first"), "c: a b")
    scenario = begun(plan).run(send("approval", 1, "s1"), send("approval", 2, "s2"))
    scenario.when(succeed("first")).then(
        completed("first"),
        awaited("a", "approval"),
        completed("a", result=msgspec.Raw(b"1")),
        awaited("b", "approval"),
        completed("b", result=msgspec.Raw(b"2")),
        enqueued("c"),
    )


def test_one_kept_signal_for_two_steps() -> None:
    plan = compiled("first", wait("a: first"), wait("b: first"))
    scenario = begun(plan).run(send("approval", 1)).when(succeed("first"))
    scenario.then(completed("first"), awaited("a", "approval"), completed("a"), awaited("b", "approval"))
    scenario.when(send("approval", 2, "s2")).then(received("approval"), completed("b"), task_completed())


def test_the_same_signal_again_is_the_same_signal() -> None:
    early = begun(approval()).run(send("approval", 1, "s1")).when(send("approval", 1, "s1")).then_nothing()
    early.run(succeed("ask")).when(send("approval", 1, "s1")).then_nothing()
    early.when(succeed("ship")).then(completed("ship"), task_completed())
    early.when(send("approval", 1, "s1")).then_nothing()
    assert early.step("approve").result == "1"


def test_another_signal_with_the_same_id_is_refused() -> None:
    scenario = begun(approval()).run(send("approval", 1, "s1"))
    scenario.when(send("approval", 2, "s1")).then_rejected("CONFLICT")
    scenario.when(send("another", 1, "s1")).then_rejected("CONFLICT")
    assert [kept.payload for kept in scenario.state.mailbox] == ["1"]


def test_so_many_ids_are_remembered() -> None:
    names = [f"s{number}" for number in range(SIGNAL_IDS_MAX + 1)]
    plan = compiled("first", *(wait(f"{name}: first", name) for name in names))
    scenario = begun(plan)
    for name in names:
        decision = decide(
            scenario.state,
            send(name, 1, name),
            Moment(T0_MS, "e", scenario.limits._replace(signals_kept_max=2_000)),
        )
        assert not isinstance(decision, Rejection)
        scenario.record(*decision)
    assert len(scenario.state.signal_ids) == SIGNAL_IDS_MAX
    scenario.when(send(names[1], 1, names[1])).then_nothing()
    scenario.when(send(names[-1], 1, names[-1])).then_nothing()
    # The oldest one is forgotten, and its step has its signal.
    scenario.when(send(names[0], 1, names[0])).then_rejected("CONFLICT")


# -- refused -------------------------------------------------------------------------------------


def test_an_unknown_signal() -> None:
    scenario = waiting().when(send("other"))
    assert "its signals are: approval" in _reason(scenario)
    scenario.then_rejected("CONFLICT")
    plain = begun(compiled("a")).when(send("approval"))
    assert "no signals" in _reason(plain)
    plain.then_rejected("CONFLICT")


def _reason(scenario: Scenario) -> str:
    decision = scenario._decision
    assert isinstance(decision, Rejection)
    return decision.reason


def test_a_signal_for_a_task_that_does_not_exist() -> None:
    given(approval()).when(send("approval")).then_rejected("NOT_FOUND")


def test_more_signals_than_steps_will_take() -> None:
    scenario = begun(approval()).run(send("approval", 1, "s1"))
    scenario.when(send("approval", 2, "s2")).then_rejected("CONFLICT")
    scenario.run(succeed("ask")).when(send("approval", 2, "s2"))
    assert "every step that waited for it is done" in _reason(scenario)
    scenario.then_rejected("CONFLICT")


def test_as_many_signals_as_are_kept() -> None:
    plan = compiled("first", *(wait(f"s{number}: first", f"signal{number}") for number in range(3)))
    scenario = begun(plan).within(signals_kept_max=2).run(send("signal0", 0, "a"), send("signal1", 0, "b"))
    scenario.when(send("signal2", 0, "c")).then_rejected("CONFLICT")
    # Nothing is kept of one that is taken at once.
    scenario.run(succeed("first")).when(send("signal2", 0, "c"))
    scenario.then(received("signal2"), completed("s2"), task_completed())


def test_as_many_bytes_of_signals_as_are_kept() -> None:
    plan = compiled("first", wait("a: first", "one"), wait("b: first", "two"))
    scenario = begun(plan).within(signals_kept_bytes_max=12).run(send("one", "éé", "a"))  # 6 bytes
    scenario.when(send("two", "12345", "b")).then_rejected("CONFLICT")
    scenario.when(send("two", "1234", "b")).then(received("two"))


def test_a_signal_after_the_end() -> None:
    done = waiting().run(send("approval", 1, "s1"), succeed("ship"))
    done.when(send("approval", 1, "s2"))
    assert "complete" in _reason(done)
    done.then_rejected("CONFLICT")
    stopped = waiting().when(cancel()).then(cancelled())
    stopped.when(send("approval")).then_rejected("CONFLICT")
    assert stopped.step("approve").status == "cancelled"


def test_a_kept_signal_is_forgotten_with_the_end() -> None:
    scenario = begun(approval()).run(send("approval")).when(cancel()).then(cancelled("ask"))
    assert scenario.state.mailbox == []


def test_a_signal_while_the_task_is_undone() -> None:
    compensation = {"compensation": {"handler": {"callable": "undo"}}}
    plan = compiled(step("a", **compensation), "b: a", wait("c: b"))
    scenario = begun(plan).run(succeed("a"), fail_for_good("b"))
    scenario.when(send("approval"))
    assert "being undone" in _reason(scenario)
    scenario.then_rejected("CONFLICT")


def test_nobody_can_report_about_a_step_that_waits() -> None:
    scenario = waiting()
    for told in (succeed("approve", 1), fail_for_good("approve", 1)):
        scenario.when(told.by(lease_token="")).then_rejected("WRONG_TOKEN")
        scenario.when(told.by(lease_token="x")).then_rejected("WRONG_TOKEN")
    scenario.run(send("approval"))
    scenario.when(succeed("approve", 1).by(lease_token="")).then_rejected("WRONG_TOKEN")


# -- time ----------------------------------------------------------------------------------------


def test_the_time_is_over_and_there_is_a_default() -> None:
    scenario = begun(approval(timeout_seconds=60.0, default={"approved": False})).when(succeed("ask"))
    scenario.then(completed("ask"), awaited("approve", "approval", deadline_at_ms=T0_MS + 60_000))
    assert scenario.state.next_wake_ms() == T0_MS + 60_000
    scenario.later(59_999).when(wake()).then_nothing()
    scenario.later(1).when(wake()).then(
        signal_timed_out("approve", used_default=True),
        completed("approve", result=msgspec.Raw(b'{"approved":false}'), worker_id="signal"),
        enqueued("ship"),
    )
    assert scenario.state.next_wake_ms() is None
    scenario.when(send("approval")).then_rejected("CONFLICT")


@pytest.mark.parametrize("default", [False, 0, "", [], {}], ids=repr)
def test_a_default_is_any_json_but_null(default: object) -> None:
    scenario = waiting(timeout_seconds=1.0, default=default).later(1_000).run(wake())
    assert msgspec.json.decode(scenario.step("approve").result or "") == default


def test_the_time_is_over_and_there_is_no_default() -> None:
    scenario = waiting(timeout_seconds=0.5).later(500).when(wake())
    scenario.then(
        signal_timed_out("approve", used_default=False),
        failed(
            "approve",
            error_code="SIGNAL_TIMEOUT",
            error_type="timeout",
            failure_reason="permanent",
            settled_by="timeout",
            error_message="no signal 'approval' within 0.5 s",
        ),
        blocked("approve", unreachable_steps_count=1),
    )
    scenario.when(send("approval")).then_rejected("CONFLICT")


def test_a_signal_and_the_end_of_the_wait_at_the_same_moment() -> None:
    """Whichever is decided first counts."""
    signal_first = waiting(timeout_seconds=1.0).later(1_000).run(send("approval"))
    signal_first.when(wake()).then_nothing()
    time_first = waiting(timeout_seconds=1.0, default=1).later(1_000).run(wake())
    time_first.when(send("approval")).then_rejected("CONFLICT")


def test_two_waits_end_at_once() -> None:
    plan = compiled(
        wait("a", timeout_seconds=1.0, default=1), wait("b", timeout_seconds=1.0, default=2), "c: a b"
    )
    scenario = entered(plan, awaited("a", "approval"), awaited("b", "approval")).later(1_000).when(wake())
    scenario.then(
        signal_timed_out("a", used_default=True),
        completed("a"),
        signal_timed_out("b", used_default=True),
        completed("b"),
        enqueued("c"),
    )


def test_a_wait_that_ends_leads_to_one_whose_signal_is_kept() -> None:
    plan = compiled(wait("a", "one", timeout_seconds=1.0, default=1), wait("b: a", "two"))
    scenario = entered(plan, awaited("a", "one")).run(send("two", 2)).later(1_000).when(wake())
    scenario.then(
        signal_timed_out("a", used_default=True),
        completed("a"),
        awaited("b", "two"),
        completed("b", result=msgspec.Raw(b"2")),
        task_completed(),
    )


# -- with other capabilities -------------------------------------------------------------------------


def test_a_signal_before_a_delayed_start() -> None:
    plan = compiled(wait("a"), "b: a")
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 1_000)).then(created())
    scenario.when(send("approval", 1)).then(received("approval"))
    scenario.later(1_000).when(wake()).then(
        task_started(), awaited("a", "approval"), completed("a"), enqueued("b")
    )


def test_a_signal_before_a_delayed_start_may_end_the_task_with_it() -> None:
    plan = compiled(wait("a"))
    scenario = given(plan).when(create(plan, start_at_ms=T0_MS + 1_000)).then(created()).run(send("approval"))
    scenario.later(1_000).when(wake())
    scenario.then(task_started(), awaited("a", "approval"), completed("a"), task_completed(duration_ms=1_000))


def branches() -> Plan:
    return compiled(
        step("route", type="decision"),
        wait("approve: route"),
        step("join: approve", type="deferred_convergence"),
        "last: join",
    )


def test_a_signal_for_a_step_that_may_come_to_exist_is_kept() -> None:
    scenario = begun(branches()).when(send("approval", 1)).then(received("approval"))
    scenario.when(choose("route", "approve"))
    decision = scenario._decision
    assert isinstance(decision, list)
    assert [event.TYPE for event in decision] == [
        "step.completed",
        "decision.routed",
        "signal.awaited",
        "step.completed",
        "step.enqueued",
    ]


def test_a_signal_for_a_step_that_never_will_is_refused() -> None:
    scenario = begun(branches()).run(decline("route"))
    assert any(skipped("join").matches(event) for event, _ in scenario.history)
    scenario.when(send("approval")).then_rejected("CONFLICT")
    kept = begun(branches()).run(send("approval")).run(decline("route")).when(succeed("last"))
    kept.then(completed("last"), task_completed())
    assert kept.state.mailbox == []


def test_a_sibling_fails_while_a_step_waits() -> None:
    """It is awaited, like a step that runs."""
    plan = compiled(wait("a", timeout_seconds=9.0), "b", "c: a")
    scenario = (
        entered(plan, awaited("a", "approval"), enqueued("b")).when(fail_for_good("b")).then(failed("b"))
    )
    assert scenario.status == "waiting_for_dependencies"
    scenario.when(send("approval")).then(received("approval"), completed("a"), enqueued("c"))
    scenario.when(succeed("c")).then(completed("c"), blocked("b"))


def test_the_wait_that_ends_with_the_default_may_block_the_task() -> None:
    plan = compiled(wait("a", timeout_seconds=9.0, default=1), "b", on_failure="fail")
    scenario = entered(plan, awaited("a", "approval"), enqueued("b")).run(fail_for_good("b"))
    scenario.later(9_000).when(wake())
    scenario.then(signal_timed_out("a", used_default=True), completed("a"), task_failed("b"))


def test_a_signal_that_was_acted_upon_is_undone() -> None:
    compensation = {"handler": {"callable": "withdraw"}}
    plan = compiled(wait("approve", compensation=compensation), "ship: approve")
    scenario = entered(plan, awaited("approve", "approval")).run(send("approval", 1))
    scenario.when(fail_for_good("ship")).then(
        failed("ship"), undoing("approve"), enqueued("compensate:approve")
    )
    scenario.when(succeed("compensate:approve")).then(undone("approve"), task_failed("ship"))


def test_the_answer_to_a_signal_survives_a_snapshot_in_between() -> None:
    scenario = begun(approval()).run(send("approval", 1, "s1"))
    assert isinstance(scenario.history[-1][0], events.SignalReceived)
    assert list(scenario.state.signal_ids) == ["s1"]
