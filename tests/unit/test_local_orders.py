"""Orders that one process carries out itself: when they count as sent, and which take the other way."""

from __future__ import annotations

import asyncio

import pytest

from stepweave_orchestrator.core.gates import slots
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_orchestrator.runtime import local_orders
from stepweave_orchestrator.runtime.local_orders import LocalOrders
from stepweave_orchestrator.runtime.orders import Order, gate_order
from stepweave_orchestrator.runtime.work import Done, ShardMoved, Work
from stepweave_schemas.gate import BreakerSpec, JoinCircuit, JoinSlots, LeaveGate

GATE = "0198c0de-0000-7000-8000-00000000000a"
TASK = "0198c0de-0000-7000-8000-00000000000b"


def join(token: str) -> Order:
    said = JoinSlots(
        task_id=GATE,
        asker=TASK,
        token=token,
        namespace="default",
        group="customer",
        value='"ada"',
        limit=1,
        step_name="only",
        held_at_ms=0,
    )
    return gate_order(said, f"j{token}", lambda _: 3)


def leave(token: str) -> Order:
    said = LeaveGate(task_id=GATE, gate="concurrency", token=token)
    return gate_order(said, f"l{token}", lambda _: 3)


class Owner:
    """Takes works and ends them when it is told."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.left: list[list[str]] = []

    def orders(self) -> LocalOrders:
        return LocalOrders(self.works.append, lambda shard: shard == 3)

    def finish(self, left: list[Order]) -> None:
        self.left.append([order.message_id for order in left])


async def test_what_is_carried_out_counts_and_the_rest_takes_the_other_way() -> None:
    owner = Owner()
    owner.orders().carry_out([join("a"), join("b"), leave("c"), join("d"), join("e")], owner.finish)
    assert isinstance(owner.works[0].command, slots.Join)
    assert {work.shard for work in owner.works} == {3}
    endings = [Done(True), Rejection("FULL", "no room"), Done(False), ShardMoved()]
    for work, ending in zip(owner.works, endings, strict=False):
        work.finish(ending)
        assert owner.left == []
    # The gate knows it already: what it said may be lost, so it is asked again the other way.
    owner.works[4].finish(Done(False))
    assert owner.left == [["jb", "jd", "je"]]


async def test_only_what_is_simple_and_ours_is_tried() -> None:
    orders = Owner().orders()
    assert orders.takes(join("a"))
    assert not orders.takes(join("a")._replace(shard=2))
    assert not orders.takes(Order("sw.job", "d1", b"{}"))
    circuit = JoinCircuit(
        task_id=GATE,
        asker=TASK,
        token="a",
        namespace="default",
        service="bank",
        breaker=BreakerSpec(),
        step_name="only",
        held_at_ms=0,
    )
    assert not orders.takes(gate_order(circuit, "ja", lambda _: 3))


async def test_there_is_a_bound_that_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_orders, "HERE_MAX", 2)
    owner = Owner()
    orders = owner.orders()
    orders.carry_out([join("a"), join("b")], owner.finish)
    assert not orders.takes(join("c"))
    for work in owner.works:
        work.finish(Done(True))
    assert owner.left == [[]]
    assert orders.takes(join("c"))


async def test_what_takes_too_long_goes_the_other_way_and_is_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_orders, "HERE_SECONDS_MAX", 0.0)
    owner = Owner()
    orders = owner.orders()
    given_up = asyncio.Event()

    def finish(left: list[Order]) -> None:
        owner.finish(left)
        given_up.set()

    orders.carry_out([join("a"), leave("b")], finish)
    owner.works[1].finish(Done(True))
    await asyncio.wait_for(given_up.wait(), 10)
    owner.works[0].finish(Done(True))
    assert owner.left == [["ja"]]
    assert orders.takes(join("c"))
