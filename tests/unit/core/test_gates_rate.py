"""The rate of a namespace: who begins when."""

from __future__ import annotations

from math import ceil

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepweave_orchestrator.core import Wake
from stepweave_orchestrator.core.gates import rate
from stepweave_orchestrator.runtime.gate_kinds import RATE
from stepweave_schemas import events
from stepweave_schemas.aging import AGING_MS
from stepweave_schemas.gate import Admit, JoinRate, rate_id
from stepweave_schemas.identity import shard_of

from .gate_actor import GateActor
from .scenario import T0_MS


def join(token: str, *, per_second: float = 2.0, held_in_ms: int = 0, priority: int = 0) -> rate.Join:
    return rate.Join(
        JoinRate(
            task_id=rate_id("tests"),
            namespace="tests",
            per_second=float(per_second),
            asker=f"task-{token}",
            step_name="a",
            token=token,
            priority=priority,
            held_at_ms=T0_MS + held_in_ms,
        )
    )


@pytest.fixture
def gate() -> GateActor:
    """Two a second, and the first one has begun half a second ago, the second one now."""
    gate = GateActor(RATE)
    gate.when(join("a")).then("throttle.opened", "throttle.passed a")
    return gate.later(500).when(join("b")).then("throttle.passed b")


def test_an_even_pace(gate: GateActor) -> None:
    gate.when(join("c")).then("throttle.queued c").when(join("d")).then("throttle.queued d")
    assert gate.wake_in_ms() == 500
    gate.woken().then("throttle.passed c")
    assert gate.wake_in_ms() == 500
    gate.woken().then("throttle.passed d")
    assert gate.wake_in_ms() is None
    gate.when(join("e")).then("throttle.queued e").later(499).when(Wake()).then_nothing()
    gate.later(1).when(Wake()).then("throttle.passed e")


def test_who_rests_has_a_burst_and_a_second_has_no_more_for_that() -> None:
    gate = GateActor(RATE)
    for _ in range(2):
        gate.later(60_000)
        begun_ms = gate.now_ms
        tokens = [f"{begun_ms} {number}" for number in range(21)]
        for token in tokens:
            gate.when(join(token, per_second=20))
        # A tenth at once, the others at an even pace, and the next second's with the next second.
        assert len(gate.state.line) == 19
        while len(gate.state.line) > 1:
            gate.woken()
        assert gate.now_ms - begun_ms == 900
        gate.woken().then(f"throttle.passed {tokens[-1]}")
        assert gate.now_ms - begun_ms == 1_000


@pytest.mark.parametrize("per_second", [0.001, 0.5, 1, 1.5, 2, 3, 6, 7, 11, 999.5, 1_000_000])
def test_a_burst_is_a_tenth_of_what_a_second_has(per_second: float) -> None:
    gate = GateActor(RATE)
    wanted = min(20, max(1, ceil(per_second) // 10))
    for number in range(wanted):
        gate.when(join(f"n{number}", per_second=per_second))
        assert gate.last(events.ThrottlePassed).token == f"n{number}"
    assert not gate.state.line
    if wanted < 20:
        gate.when(join("more", per_second=per_second)).then("throttle.queued more")
        wait_ms = gate.wake_in_ms()
        assert wait_ms is not None and 0 < wait_ms <= 1_000 / per_second + 1
        gate.woken().then("throttle.passed more")


def test_who_comes_stands_behind_who_waits(gate: GateActor) -> None:
    gate.when(join("c")).then("throttle.queued c").later(5_000)
    # Its timer has not fired yet.
    gate.when(join("d")).then("throttle.queued d").when(Wake()).then("throttle.passed c")
    gate.woken().then("throttle.passed d")


def test_in_order_of_priority_and_age(gate: GateActor) -> None:
    gate.when(join("c")).when(join("urgent", priority=1)).when(join("old", held_in_ms=-1))
    gate.when(join("young and urgent", held_in_ms=AGING_MS, priority=1))
    assert gate.waiting() == ["urgent", "old", "c", "young and urgent"]


def test_the_rate_is_what_is_asked_for_now(gate: GateActor) -> None:
    gate.when(join("c")).then("throttle.queued c").when(join("d", per_second=1_000)).then("throttle.queued d")
    assert gate.state.per_second == 1_000
    # The pace so far, less the burst of the new one.
    assert gate.wake_in_ms() == 401
    gate.woken().then("throttle.passed c")
    assert gate.wake_in_ms() == 1
    gate.woken().then("throttle.passed d")


def test_what_comes_twice_counts_once(gate: GateActor) -> None:
    gate.when(join("c")).then("throttle.queued c").when(join("c")).then_nothing()
    gate.when(join("a")).then_nothing()
    gate.woken().then("throttle.passed c").when(join("c")).then_nothing()


def test_only_the_last_ones_are_remembered(gate: GateActor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "RECENT_MAX", 2)
    gate.later(500).when(join("c")).then("throttle.passed c")
    assert list(gate.state.recent) == ["b", "c"]
    gate.when(join("a")).then("throttle.queued a")


def test_who_leaves_takes_no_turn(gate: GateActor) -> None:
    GateActor(RATE).when(rate.Leave("a")).then_rejected("NOT_FOUND")
    gate.when(join("c")).when(join("d")).when(rate.Leave("c")).then("throttle.dequeued c")
    gate.when(rate.Leave("c")).then_nothing().when(rate.Leave("a")).then_nothing()
    gate.woken().then("throttle.passed d")


def test_a_line_has_an_end(gate: GateActor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "WAITING_MAX", 1)
    gate.when(join("c")).then("throttle.queued c").when(join("d")).then_rejected("FULL")
    gate.when(join("c")).then_nothing()


def test_many_are_let_through_in_portions(gate: GateActor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "PASSES_MAX", 2)
    for number in range(5):
        gate.when(join(f"n{number}", per_second=100)).then(f"throttle.queued n{number}")
    gate.later(5_000).when(Wake()).then("throttle.passed n0", "throttle.passed n1")
    assert (gate.wake_in_ms() or 0) <= 0
    gate.when(Wake()).then("throttle.passed n2", "throttle.passed n3").when(Wake()).then("throttle.passed n4")
    gate.when(Wake()).then_nothing()


def test_a_clock_that_steps_back_delays_and_hangs_nothing(gate: GateActor) -> None:
    gate.later(-3_000).when(join("c")).then("throttle.queued c")
    assert gate.wake_in_ms() == 3_500
    gate.woken().then("throttle.passed c")


def test_who_is_let_through_hears_it(gate: GateActor) -> None:
    passed = gate.last(events.ThrottlePassed)
    order = RATE.order_of(gate.state, passed, lambda _: 3)
    assert order is not None
    admit = msgspec.json.decode(order.payload, type=Admit)
    assert (admit.task_id, admit.gate, admit.gate_id) == ("task-b", "rate", rate_id("tests"))
    # A turn is not held; who waits asks again, and is told again.
    assert not RATE.open_orders(gate.state, lambda one: shard_of(one, 4))


def test_what_lists_show(gate: GateActor) -> None:
    row = RATE.row(gate.state, rate_id("tests"), 0)
    assert (row.status, row.is_open, row.name) == ("idle", False, "tests")
    gate.when(join("c"))
    row = RATE.row(gate.state, rate_id("tests"), 0)
    assert (row.status, row.is_open) == ("full", True)
    assert msgspec.json.decode(row.summary) == {"per_second": 2.0, "waiting": 1}


@settings(max_examples=25)
@given(
    per_second=st.sampled_from([0.4, 1.0, 2.5, 6.0, 30.0]),
    waits_ms=st.lists(st.integers(0, 700), min_size=20, max_size=60),
)
def test_no_window_has_more_than_its_share(per_second: float, waits_ms: list[int]) -> None:
    """In no second do more begin than it has, wherever it begins; and none of them waits long."""
    gate = GateActor(RATE)
    passed_ms: list[int] = []

    def take() -> None:
        known = len(gate.ledger)
        gate.when(Wake())
        new = len(gate.ledger) - known
        passed_ms.extend([gate.now_ms] * new)

    for number, wait_ms in enumerate(waits_ms):
        end_ms = gate.now_ms + wait_ms
        while (next_ms := RATE.next_wake_ms(gate.state)) is not None and next_ms <= end_ms:
            gate.now_ms = max(gate.now_ms, next_ms)
            take()
        gate.now_ms = end_ms
        gate.when(join(f"n{number}", per_second=per_second))
        if not gate.state.line.get(f"n{number}"):
            passed_ms.append(gate.now_ms)
    waited = len(gate.state.line)
    begun_ms = gate.now_ms
    while gate.state.line:
        gate.now_ms = max(gate.now_ms, RATE.next_wake_ms(gate.state) or 0)
        take()
    assert len(passed_ms) == len(waits_ms)
    assert gate.now_ms - begun_ms <= (waited + 1) * 1_000 / per_second + 1
    share = ceil(per_second)
    for early_ms, late_ms in zip(passed_ms, passed_ms[share:], strict=False):
        assert late_ms - early_ms >= share * 1_000 / per_second - 1e-6
