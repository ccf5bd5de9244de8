"""The circuit of a service: when it opens, who tries it out, when it closes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core import Moment, Wake
from stepweave_orchestrator.core.gates import circuit
from stepweave_orchestrator.core.gates.circuit import PROBE_SILENT_MS_MIN
from stepweave_orchestrator.core.gates.standing import standing
from stepweave_orchestrator.runtime.gate_kinds import CIRCUIT
from stepweave_schemas.aging import AGING_MS
from stepweave_schemas.envelope import timestamp
from stepweave_schemas.events import BreakerOpened, BreakerPassed
from stepweave_schemas.gate import Admit, BreakerSpec, JoinCircuit, ReportFailure, circuit_id
from stepweave_schemas.identity import shard_of

from .gate_actor import GateActor
from .scenario import T0_MS

GATE_ID = circuit_id("tests", "bank")
BREAKER = BreakerSpec(failure_threshold=3, window_seconds=10, open_seconds=5, half_open_max=2)


def report(number: int, *, at_ms: int = 0, **breaker: Any) -> circuit.Report:
    """The failure of a try of its own, so long after the beginning."""
    return circuit.Report(
        ReportFailure(
            task_id=GATE_ID,
            namespace="tests",
            service="bank",
            breaker=msgspec.structs.replace(BREAKER, **breaker),
            asker=f"task-{number}",
            step_name="a",
            step_uuid=f"uuid-{number}",
            attempt=1,
            error_type="timeout",
            error_message=f"boom {number}",
            failed_at_ms=T0_MS + at_ms,
        )
    )


def join(token: str, *, held_in_ms: int = 0, priority: int = 0) -> circuit.Join:
    return circuit.Join(
        JoinCircuit(
            task_id=GATE_ID,
            namespace="tests",
            service="bank",
            breaker=BREAKER,
            asker=f"task-{token}",
            step_name="a",
            token=token,
            priority=priority,
            held_at_ms=T0_MS + held_in_ms,
        )
    )


def leave(token: str, outcome: str = "") -> circuit.Leave:
    return circuit.Leave(token, outcome)


def trip(open_ms: int, reason: str, by: str) -> circuit.Trip:
    return circuit.Trip("tests", "bank", open_ms, reason, by)


@pytest.fixture
def gate() -> GateActor:
    """A circuit that has just opened."""
    gate = GateActor(CIRCUIT)
    gate.when(report(1)).then("breaker.watched", "breaker.failure_counted")
    gate.when(report(2)).then("breaker.failure_counted")
    return gate.when(report(3)).then("breaker.failure_counted", "breaker.opened")


@pytest.fixture
def half_open(gate: GateActor) -> GateActor:
    """Two probes are out, `p` and `q`; `r` and `s` wait."""
    for token in ("p", "q", "r", "s"):
        gate.when(join(token)).then(f"breaker.queued {token}")
    return gate.woken().then("breaker.half_opened", "breaker.passed p", "breaker.passed q")


# -- closed ----------------------------------------------------------------------------------------


def test_so_many_failures_in_the_window_open_it(gate: GateActor) -> None:
    opened = gate.last(BreakerOpened)
    assert (opened.cause, opened.failures_count, opened.reason) == ("threshold", 3, "boom 3")
    assert opened.open_until_ms == T0_MS + 5_000 == CIRCUIT.next_wake_ms(gate.state)
    assert (gate.state.status, gate.state.last_error) == ("open", "boom 3")


def test_failures_that_lie_further_apart_do_not() -> None:
    gate = GateActor(CIRCUIT)
    for number in range(20):
        gate.when(report(number, at_ms=5_000 * number))
        assert gate.state.status == "closed"
    assert list(gate.state.failures) == ["uuid-18:1", "uuid-19:1"], "what has left the window is forgotten"
    # The window does not hold the one that is exactly as old as it is long.
    gate.when(report(20, at_ms=5_000 * 19 + 1)).then("breaker.failure_counted", "breaker.opened")


def test_the_order_in_which_failures_are_reported_does_not_matter() -> None:
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)):
        gate = GateActor(CIRCUIT)
        for number in order:
            gate.when(report(number, at_ms=4_000 * number))
        assert gate.state.status == "open", order
    gate = GateActor(CIRCUIT)
    for number in (2, 1, 0):
        gate.when(report(number, at_ms=6_000 * number))
    assert gate.state.status == "closed"


def test_a_failure_that_is_reported_twice_counts_once() -> None:
    gate = GateActor(CIRCUIT)
    for _ in range(3):
        gate.when(report(1))
    gate.when(report(1)).then_nothing()
    assert gate.state.status == "closed" and len(gate.state.failures) == 1


def test_each_template_says_how_much_is_too_much() -> None:
    gate = GateActor(CIRCUIT)
    gate.when(report(0, failure_threshold=2, window_seconds=60))
    gate.when(report(1, at_ms=30_000, failure_threshold=2, window_seconds=10))
    assert len(gate.state.failures) == 2 and gate.state.status == "closed", "the longest window counts"
    gate = GateActor(CIRCUIT)
    gate.when(report(1, failure_threshold=1, open_seconds=0.5, half_open_max=7))
    opened = gate.last(BreakerOpened)
    assert (opened.open_ms, opened.half_open_max) == (500, 7)


def test_the_last_failures_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "FAILURES_MAX", 2)
    gate = GateActor(CIRCUIT)
    for number in range(4):
        gate.when(report(number, failure_threshold=100))
    assert list(gate.state.failures) == ["uuid-2:1", "uuid-3:1"]


def test_who_comes_to_a_closed_circuit_goes_through() -> None:
    """Somebody has not heard that it is closed."""
    gate = GateActor(CIRCUIT)
    gate.when(join("a")).then("breaker.watched", "breaker.passed a")
    assert not gate.last(BreakerPassed).is_probe and not gate.state.probes
    gate.when(leave("a", "failure")).then_nothing()


def test_nothing_is_known_of_a_circuit_that_never_failed() -> None:
    gate = GateActor(CIRCUIT)
    for command in (leave("a"), circuit.Reset("why", "ada")):
        gate.when(command).then_rejected("NOT_FOUND")


# -- open ------------------------------------------------------------------------------------------


def test_open_it_holds_everybody_and_counts_nothing(gate: GateActor) -> None:
    gate.when(join("a")).then("breaker.queued a").when(join("a")).then_nothing()
    gate.when(report(4)).then_nothing().later(4_999).when(Wake()).then_nothing()
    gate.when(join("b", priority=1)).when(join("c", held_in_ms=-1)).when(join("d", held_in_ms=AGING_MS))
    assert gate.waiting() == ["b", "c", "a", "d"]


def test_who_waits_no_longer_leaves_the_line(gate: GateActor) -> None:
    gate.when(join("a")).when(join("b")).when(leave("a")).then("breaker.dequeued a")
    gate.when(leave("a")).then_nothing()
    gate.woken().then("breaker.half_opened", "breaker.passed b")


def test_a_line_has_an_end(gate: GateActor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "WAITING_MAX", 1)
    gate.when(join("a")).then("breaker.queued a").when(join("b")).then_rejected("FULL")
    gate.when(join("a")).then_nothing()


# -- half open -------------------------------------------------------------------------------------


def test_only_so_many_try_it_out(half_open: GateActor) -> None:
    assert half_open.last(BreakerPassed).is_probe and set(half_open.state.probes) == {"p", "q"}
    half_open.when(join("t")).then("breaker.queued t").when(join("p")).then_nothing()
    assert half_open.wake_in_ms() == PROBE_SILENT_MS_MIN


def test_it_closes_when_all_that_tried_have_succeeded(half_open: GateActor) -> None:
    half_open.when(leave("q", "success")).then("breaker.dequeued q")
    assert half_open.state.status == "half_open"
    half_open.when(join("t")).then("breaker.queued t")
    half_open.when(leave("p", "success")).then(
        "breaker.dequeued p", "breaker.closed", "breaker.passed r", "breaker.passed s", "breaker.passed t"
    )
    assert not half_open.last(BreakerPassed).is_probe
    assert (half_open.state.status, half_open.state.last_error) == ("closed", "")
    assert not half_open.state.failures and half_open.wake_in_ms() is None


def test_one_that_fails_opens_it_again(half_open: GateActor) -> None:
    half_open.later(100).when(leave("p", "failure")).then("breaker.dequeued p", "breaker.opened")
    opened = half_open.last(BreakerOpened)
    assert (opened.cause, opened.open_until_ms) == ("probe_failed", half_open.now_ms + 5_000)
    # What the other one of that time says does not count any more.
    half_open.when(leave("q", "success")).then_nothing()
    half_open.woken().then("breaker.half_opened", "breaker.passed r", "breaker.passed s")
    half_open.when(leave("q", "failure")).then_nothing()
    half_open.when(leave("r", "success")).when(leave("s", "success"))
    assert half_open.state.status == "closed"


def test_one_that_says_nothing_lets_another_try(half_open: GateActor) -> None:
    half_open.when(leave("p")).then("breaker.dequeued p", "breaker.passed r")
    half_open.when(leave("q")).then("breaker.dequeued q", "breaker.passed s")
    assert half_open.last(BreakerPassed).is_probe
    half_open.when(leave("r")).then("breaker.dequeued r")
    half_open.when(leave("s", "success")).then("breaker.dequeued s", "breaker.closed")


def test_room_that_nobody_took_is_there_for_who_comes(half_open: GateActor) -> None:
    for token in ("p", "q", "r", "s"):
        half_open.when(leave(token))
    assert half_open.state.status == "half_open" and not half_open.state.probes
    half_open.when(join("t")).then("breaker.passed t").when(join("u")).then("breaker.passed u")
    half_open.when(join("v")).then("breaker.queued v")
    half_open.when(leave("t", "success")).when(leave("u", "success")).then(
        "breaker.dequeued u", "breaker.closed", "breaker.passed v"
    )


def test_a_probe_of_which_nothing_is_heard_keeps_nobody_from_trying(half_open: GateActor) -> None:
    half_open.when(leave("q", "success")).then("breaker.dequeued q")
    assert half_open.wake_in_ms() == PROBE_SILENT_MS_MIN
    half_open.later(PROBE_SILENT_MS_MIN - 1).when(Wake()).then_nothing()
    half_open.later(1).when(Wake()).then("breaker.passed r")
    assert half_open.last(BreakerPassed).is_probe
    # One for one: nobody else before this one is silent too.
    half_open.when(Wake()).then_nothing()
    assert half_open.wake_in_ms() == PROBE_SILENT_MS_MIN
    half_open.when(leave("r", "success")).then("breaker.dequeued r", "breaker.closed", "breaker.passed s")
    # What it says in the end does not count any more.
    half_open.when(leave("p", "failure")).then_nothing()


def test_who_comes_later_may_try_instead_of_a_silent_probe(gate: GateActor) -> None:
    gate.woken()
    gate.when(join("a")).then("breaker.passed a").when(join("b")).then("breaker.passed b")
    gate.later(PROBE_SILENT_MS_MIN).when(join("c")).then("breaker.passed c")
    gate.when(leave("a")).then("breaker.dequeued a")
    # The two that are left are `b`, which is silent, and `c`.
    gate.when(join("d")).then("breaker.passed d").when(join("e")).then("breaker.queued e")
    gate.when(leave("c", "success")).when(leave("d", "success")).then(
        "breaker.dequeued d", "breaker.closed", "breaker.passed e"
    )


def test_a_silent_probe_that_fails_in_the_end_opens_it_again(half_open: GateActor) -> None:
    half_open.later(PROBE_SILENT_MS_MIN).when(Wake()).then("breaker.passed r", "breaker.passed s")
    half_open.when(leave("p", "failure")).then("breaker.dequeued p", "breaker.opened")


def test_nobody_waits_when_its_time_is_over(gate: GateActor) -> None:
    gate.woken().then("breaker.half_opened")
    assert gate.wake_in_ms() is None
    gate.when(join("a")).then("breaker.passed a").when(leave("a", "success")).then(
        "breaker.dequeued a", "breaker.closed"
    )


def test_one_success_is_enough_where_only_one_came(gate: GateActor) -> None:
    gate.when(join("a"))
    gate.woken().then("breaker.half_opened", "breaker.passed a")
    gate.when(leave("a", "success")).then("breaker.dequeued a", "breaker.closed")


def test_a_failure_of_somebody_else_says_nothing_while_it_is_tried_out(half_open: GateActor) -> None:
    half_open.when(report(9)).then_nothing()


def test_the_silent_never_leave_it_without_a_probe() -> None:
    """Whatever probes say in whatever order: where somebody waits, one is out or the circuit is not half open."""
    for half_open_max in (1, 2, 3):
        for outcomes in range(3**4):
            gate = GateActor(CIRCUIT)
            gate.ask(report(1, failure_threshold=1, half_open_max=half_open_max))
            for number in range(4):
                gate.state.line.join(gate.state.line.joined(f"w{number}", "task", "a", T0_MS, 0))
            gate.now_ms += 5_000
            _ask(gate, Wake())
            said = outcomes
            while gate.state.status == "half_open" and gate.state.probes:
                said, outcome = divmod(said, 3)
                _ask(gate, leave(next(iter(gate.state.probes)), ("", "success", "failure")[outcome]))
                assert len(gate.state.probes) <= half_open_max
            stuck = gate.state.status == "half_open" and gate.state.line and not gate.state.probes
            assert not stuck, (half_open_max, outcomes)


def _ask(gate: GateActor, command: Any) -> None:
    """Without the checks of `ask`: the line was made by hand."""
    decision = CIRCUIT.decide(gate.state, command, Moment(gate.now_ms, "entropy"))
    assert isinstance(decision, list)
    for event in decision:
        CIRCUIT.evolve(gate.state, event, gate.now_ms)


# -- closed again ----------------------------------------------------------------------------------


def test_many_go_on_in_portions(gate: GateActor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "PASSES_MAX", 2)
    for number in range(6):
        gate.when(join(f"n{number}"))
    gate.woken().then("breaker.half_opened", "breaker.passed n0", "breaker.passed n1")
    gate.when(leave("n0", "success")).when(leave("n1", "success")).then(
        "breaker.dequeued n1", "breaker.closed", "breaker.passed n2", "breaker.passed n3"
    )
    assert gate.wake_in_ms() == 0
    # Somebody who comes meanwhile is not behind them: the circuit is closed.
    gate.when(join("new")).then("breaker.passed new")
    gate.woken().then("breaker.passed n4", "breaker.passed n5")
    assert gate.wake_in_ms() is None
    gate.when(Wake()).then_nothing()


def test_it_counts_anew(half_open: GateActor) -> None:
    half_open.when(leave("p", "success")).when(leave("q", "success"))
    half_open.when(report(5)).then("breaker.failure_counted").when(report(6)).then("breaker.failure_counted")
    half_open.when(report(7)).then("breaker.failure_counted", "breaker.opened")


def test_it_opens_while_some_still_wait_to_go_on(gate: GateActor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "PASSES_MAX", 1)
    for number in range(4):
        gate.when(join(f"n{number}"))
    gate.when(circuit.Reset("again", "ada")).then("breaker.closed", "breaker.passed n0")
    gate.when(report(5, failure_threshold=1)).then("breaker.failure_counted", "breaker.opened")
    gate.when(Wake()).then_nothing()
    assert gate.wake_in_ms() == 5_000
    gate.woken().then("breaker.half_opened", "breaker.passed n1", "breaker.passed n2")


# -- operators -------------------------------------------------------------------------------------


def test_an_operator_opens_it_for_so_long(gate: GateActor) -> None:
    gate.when(circuit.Reset("mended", "ada")).then("breaker.closed").when(
        circuit.Reset("mended", "ada")
    ).then_nothing()
    gate.when(trip(60_000, "maintenance", "ada")).then("breaker.opened")
    opened = gate.last(BreakerOpened)
    assert (opened.cause, opened.reason, opened.opened_by) == ("operator", "maintenance", "ada")
    assert gate.wake_in_ms() == 60_000
    # Later it opens for as long as the templates say.
    gate.when(join("a"))
    gate.woken().then("breaker.half_opened", "breaker.passed a").when(leave("a", "failure"))
    assert gate.wake_in_ms() == 5_000


def test_an_operator_opens_one_that_never_failed() -> None:
    gate = GateActor(CIRCUIT)
    gate.when(trip(60_000, "maintenance", "ada")).then("breaker.watched", "breaker.opened")
    assert (gate.state.namespace, gate.state.service, gate.wake_in_ms()) == ("tests", "bank", 60_000)
    for token in "abc":
        gate.when(join(token)).then(f"breaker.queued {token}")
    # As many try it out as their template says.
    gate.woken().then("breaker.half_opened", "breaker.passed a", "breaker.passed b")
    gate.when(leave("a", "success")).then("breaker.dequeued a")
    gate.when(leave("b", "success")).then("breaker.dequeued b", "breaker.closed", "breaker.passed c")


def test_one_that_never_failed_opens_again_for_as_long_as_its_template_says() -> None:
    gate = GateActor(CIRCUIT)
    gate.when(trip(1_800_000, "maintenance", "ada")).when(join("a"))
    gate.woken().when(leave("a", "failure")).then("breaker.dequeued a", "breaker.opened")
    assert gate.wake_in_ms() == 5_000


def test_one_that_never_failed_and_nobody_waited_for_does_too() -> None:
    gate = GateActor(CIRCUIT)
    gate.when(trip(1_800_000, "maintenance", "ada")).woken().then("breaker.half_opened")
    gate.when(join("a")).then("breaker.queued a", "breaker.passed a")
    gate.when(join("b")).then("breaker.passed b").when(join("c")).then("breaker.queued c")
    gate.when(leave("a", "failure"))
    assert gate.wake_in_ms() == 5_000


def test_an_operator_makes_it_last_longer_or_shorter(gate: GateActor) -> None:
    gate.when(trip(60_000, "maintenance", "ada"))
    assert gate.wake_in_ms() == 60_000
    gate.when(trip(1_000, "nearly there", "ada"))
    assert gate.wake_in_ms() == 1_000


def test_an_operator_trips_it_while_it_is_tried_out(half_open: GateActor) -> None:
    half_open.when(trip(60_000, "maintenance", "ada")).then("breaker.opened")
    assert not half_open.state.probes and half_open.waiting() == ["r", "s"]
    half_open.when(leave("p", "success")).then_nothing()
    half_open.woken().then("breaker.half_opened", "breaker.passed r", "breaker.passed s")


def test_an_operator_closes_it_and_all_go_on(half_open: GateActor) -> None:
    half_open.when(circuit.Reset("mended", "ada")).then(
        "breaker.closed", "breaker.passed r", "breaker.passed s"
    )
    assert half_open.state.status == "closed" and not half_open.state.probes
    half_open.when(leave("p", "failure")).then_nothing()


# -- what it orders and what it shows --------------------------------------------------------------


def _shard(stream_id: str) -> int:
    return shard_of(stream_id, 4)


def test_probes_hear_it_again_as_long_as_they_are_out(half_open: GateActor) -> None:
    said = [
        msgspec.json.decode(one.payload, type=Admit) for one in CIRCUIT.open_orders(half_open.state, _shard)
    ]
    assert [(one.task_id, one.token, one.is_probe) for one in said] == [
        ("task-p", "p", True),
        ("task-q", "q", True),
    ]
    assert {(one.gate, one.gate_id) for one in said} == {("circuit", GATE_ID)}
    half_open.when(leave("p", "failure"))
    assert not CIRCUIT.open_orders(half_open.state, _shard)


def test_whoever_goes_through_twice_hears_it_twice(gate: GateActor) -> None:
    ids = set()
    for _ in range(2):
        gate.later(1_000).when(circuit.Reset("mended", "ada"))
        gate.when(join("a")).then("breaker.passed a")
        order = CIRCUIT.order_of(gate.state, gate.last(BreakerPassed), _shard)
        assert order is not None
        ids.add(order.message_id)
        gate.when(trip(1_000, "no", "ada"))
    assert len(ids) == 2


def test_who_opened_it_and_why_is_shown_while_it_is_not_closed(gate: GateActor) -> None:
    def shown() -> tuple[str, str]:
        summary = msgspec.json.decode(CIRCUIT.row(gate.state, GATE_ID, 2).summary)
        seen = standing(gate.state, "a")
        assert (seen.opened_by, seen.reason) == (summary["opened_by"], summary["reason"])
        return summary["opened_by"], summary["reason"]

    assert shown() == ("", "")
    gate.when(trip(60_000, "maintenance", "ada")).when(join("a"))
    assert shown() == ("ada", "maintenance")
    gate.woken()
    assert shown() == ("ada", "maintenance")
    gate.when(leave("a", "failure"))
    assert shown() == ("", "")
    gate.when(trip(60_000, "maintenance", "ada")).when(circuit.Reset("mended", "ada"))
    assert shown() == ("", "")


def test_what_lists_show(gate: GateActor) -> None:
    gate.when(join("a"))
    row = CIRCUIT.row(gate.state, GATE_ID, 2)
    assert (row.status, row.is_open, row.name) == ("open", True, "bank")
    shown = msgspec.json.decode(row.summary)
    assert (shown["waiting"], shown["last_error"], shown["open_until"]) == (
        1,
        "boom 3",
        timestamp(T0_MS + 5_000),
    )
    gate.woken().when(leave("a", "success"))
    row = CIRCUIT.row(gate.state, GATE_ID, 2)
    assert (row.status, row.is_open) == ("closed", False)
    assert msgspec.json.decode(row.summary)["open_until"] is None
