"""The slots of a concurrency key: who has one, who waits, in which order they come."""

from __future__ import annotations

import msgspec
import pytest

from stepweave_orchestrator.core import Wake
from stepweave_orchestrator.core.gates import slots
from stepweave_orchestrator.runtime.gate_kinds import SLOTS
from stepweave_schemas import events, subjects
from stepweave_schemas.aging import AGING_MS
from stepweave_schemas.gate import Admit, JoinSlots, slots_id
from stepweave_schemas.identity import shard_of

from .gate_actor import GateActor
from .scenario import T0_MS

GATE_ID = slots_id("tests", "customer", '"ada"')


def join(token: str, *, limit: int = 1, held_in_ms: int = 0, priority: int = 0) -> slots.Join:
    return slots.Join(
        JoinSlots(
            task_id=GATE_ID,
            namespace="tests",
            group="customer",
            value='"ada"',
            limit=limit,
            asker=f"task-{token}",
            step_name="a",
            token=token,
            priority=priority,
            held_at_ms=T0_MS + held_in_ms,
        )
    )


def leave(token: str) -> slots.Leave:
    return slots.Leave(token)


@pytest.fixture
def gate() -> GateActor:
    """One slot, which is taken by `first`."""
    gate = GateActor(SLOTS)
    return gate.when(join("first")).then("slots.opened", "slots.granted first")


def test_a_slot_that_is_free_is_had_at_once(gate: GateActor) -> None:
    assert (gate.state.namespace, gate.state.group, gate.state.value) == ("tests", "customer", '"ada"')
    holder = gate.state.holders["first"]
    assert (holder.task_id, holder.step_name, holder.since_ms) == ("task-first", "a", T0_MS)
    assert gate.wake_in_ms() is None


def test_who_comes_later_waits_and_gets_what_is_given_back(gate: GateActor) -> None:
    gate.when(join("b")).then("slots.queued b").when(join("c")).then("slots.queued c")
    assert gate.waiting() == ["b", "c"]
    gate.when(leave("first")).then("slots.freed first", "slots.granted b")
    gate.when(leave("b")).then("slots.freed b", "slots.granted c")
    gate.when(leave("c")).then("slots.freed c")
    assert not gate.state.holders and not gate.state.line


def test_as_many_run_as_the_limit_says() -> None:
    gate = GateActor(SLOTS)
    gate.when(join("a", limit=3)).then("slots.opened", "slots.granted a")
    gate.when(join("b", limit=3)).then("slots.granted b").when(join("c", limit=3)).then("slots.granted c")
    gate.when(join("d", limit=3)).then("slots.queued d")
    gate.when(leave("b")).then("slots.freed b", "slots.granted d")


def test_what_comes_twice_changes_nothing(gate: GateActor) -> None:
    gate.when(join("b")).then("slots.queued b")
    gate.when(join("first")).then_nothing().when(join("b")).then_nothing()
    gate.when(leave("first")).then("slots.freed first", "slots.granted b")
    gate.when(leave("first")).then_nothing().when(join("b")).then_nothing()


def test_who_asks_again_after_the_end_is_let_through_and_sent_away_again(gate: GateActor) -> None:
    """A question that comes late does no harm: whoever asked says that nobody is there."""
    gate.later(5).when(leave("first")).then("slots.freed first")
    gate.when(join("first")).then("slots.granted first")
    gate.when(leave("first")).then("slots.freed first")


def test_who_leaves_before_the_question_is_unknown(gate: GateActor) -> None:
    GateActor(SLOTS).when(leave("a")).then_rejected("NOT_FOUND")
    gate.when(leave("b")).then_nothing().when(join("b")).then("slots.queued b")


def test_who_leaves_the_line_is_passed_over(gate: GateActor) -> None:
    gate.when(join("b")).when(join("c")).when(leave("b")).then("slots.freed b")
    assert gate.waiting() == ["c"]
    gate.when(leave("first")).then("slots.freed first", "slots.granted c")


def test_the_line_stands_in_order_of_priority_and_age(gate: GateActor) -> None:
    gate.when(join("plain")).when(join("low", priority=-1)).when(join("high", priority=2))
    # A point of priority is ten seconds of waiting, so nobody starves.
    gate.when(join("later", held_in_ms=AGING_MS - 1, priority=1))
    gate.when(join("same", held_in_ms=AGING_MS, priority=1))
    gate.when(join("much later", held_in_ms=3 * AGING_MS, priority=2))
    assert gate.waiting() == ["high", "later", "plain", "same", "low", "much later"]
    assert [gate.state.line.position_of(token) for token in gate.waiting()] == list(range(6))
    assert gate.state.line.position_of("nobody") is None and gate.state.line.get("nobody") is None
    served = []
    holder = "first"
    while gate.state.line:
        gate.when(leave(holder))
        (holder,) = gate.state.holders
        served.append(holder)
    assert served == ["high", "later", "plain", "same", "low", "much later"]


def test_the_limit_is_the_asker_s(gate: GateActor) -> None:
    gate.when(join("wide", limit=2)).then("slots.granted wide")
    gate.when(join("narrow", limit=1)).then("slots.queued narrow")
    # Who waits first goes first, also where a later one would be content with less room.
    gate.when(join("wider", limit=3)).then("slots.queued wider")
    gate.when(leave("first")).then("slots.freed first")
    assert list(gate.state.holders) == ["wide"]
    gate.when(leave("narrow")).then("slots.freed narrow", "slots.granted wider")


def test_who_stands_before_a_smaller_limit_is_let_through(gate: GateActor) -> None:
    gate.when(join("narrow", limit=1)).then("slots.queued narrow")
    gate.when(join("urgent", limit=2, priority=5)).then("slots.queued urgent", "slots.granted urgent")
    assert gate.waiting() == ["narrow"] and gate.wake_in_ms() is None


def test_a_slot_that_is_freed_goes_to_as_many_as_the_limits_let_in() -> None:
    gate = GateActor(SLOTS)
    gate.when(join("a", limit=1)).when(join("b", limit=1)).when(join("c", limit=3)).when(join("d", limit=3))
    assert gate.waiting() == ["b", "c", "d"]
    gate.when(leave("a")).then("slots.freed a", "slots.granted b", "slots.granted c", "slots.granted d")
    assert gate.wake_in_ms() is None


def test_many_are_let_through_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "GRANTS_MAX", 3)
    gate = GateActor(SLOTS)
    gate.when(join("a", limit=1)).when(join("b", limit=1))
    for number in range(8):
        gate.when(join(f"n{number}", limit=100)).then(f"slots.queued n{number}")
    gate.when(leave("b")).then("slots.freed b", *(f"slots.granted n{number}" for number in range(3)))
    assert gate.wake_in_ms() == 0
    gate.woken().then(*(f"slots.granted n{number}" for number in range(3, 6)))
    # In the same millisecond.
    assert gate.wake_in_ms() == 0
    gate.woken().then("slots.granted n6", "slots.granted n7")
    assert gate.wake_in_ms() is None
    gate.when(Wake()).then_nothing()


def test_a_line_has_an_end(gate: GateActor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "WAITING_MAX", 2)
    gate.when(join("b")).when(join("c")).when(join("d")).then_rejected("FULL")
    # Who stands in it is known; and there is room again when somebody goes.
    gate.when(join("c")).then_nothing().when(leave("b")).when(join("d")).then("slots.queued d")


# -- what it orders and what it shows --------------------------------------------------------------


def _shard(stream_id: str) -> int:
    return shard_of(stream_id, 4)


def test_who_is_let_through_hears_it_and_again_as_long_as_it_holds(gate: GateActor) -> None:
    (order,) = SLOTS.open_orders(gate.state, _shard)
    admit = msgspec.json.decode(order.payload, type=Admit)
    assert (admit.task_id, admit.step_name, admit.token) == ("task-first", "a", "first")
    assert (admit.gate, admit.gate_id) == ("concurrency", GATE_ID)
    assert order.subject == subjects.command(_shard("task-first"), "task-first")
    granted = gate.last(events.SlotsGranted)
    assert SLOTS.order_of(gate.state, granted, _shard) == order
    gate.when(leave("first"))
    assert SLOTS.order_of(gate.state, granted, _shard) is None
    assert not SLOTS.open_orders(gate.state, _shard)


def test_the_second_time_is_another_message(gate: GateActor) -> None:
    """JetStream drops what repeats an id: a slot that is had again would never be given back."""
    (before,) = SLOTS.open_orders(gate.state, _shard)
    gate.later(1).when(leave("first")).when(join("first"))
    (after,) = SLOTS.open_orders(gate.state, _shard)
    assert (before.payload == after.payload) and before.message_id != after.message_id


def test_what_lists_show(gate: GateActor) -> None:
    def shown() -> tuple[str, bool, dict[str, object]]:
        row = SLOTS.row(gate.state, GATE_ID, 1)
        return row.status, row.is_open, msgspec.json.decode(row.summary, type=dict[str, object])

    of_key = {"group": "customer", "value": '"ada"', "limit": 1}
    assert shown() == ("in_use", True, {**of_key, "running": 1, "waiting": 0})
    gate.when(join("b"))
    assert shown() == ("full", True, {**of_key, "running": 1, "waiting": 1})
    gate.when(leave("b")).when(leave("first"))
    assert shown() == ("idle", False, {**of_key, "running": 0, "waiting": 0})


def test_a_name_that_is_too_long_for_a_subject_is_cut() -> None:
    """The slots of a step are called after template and step, each of which may be as long as a name is."""
    gate = GateActor(SLOTS)
    gate.apply(events.SlotsOpened(namespace="tests", group="é" * 200 + ".step", value="null"))
    namespace, name = SLOTS.address(gate.state)
    assert len(name.encode()) <= subjects.NAME_BYTES_MAX
    assert subjects.event(namespace, name, GATE_ID, "slots.opened")
