"""Which of the tries that wait in a worker is the next."""

from __future__ import annotations

from collections import Counter

import msgspec
from tests.unit.schemas.conftest import DISPATCHES

from stepweave.worker.held import HeldTry
from stepweave.worker.waiting import WaitingTries
from stepweave_schemas.aging import AGING_MS, rank_ms

NOW_MS = 1_767_268_800_000


def held(
    name: str, *, namespace: str = "a", priority: int = 0, age_ms: int = 0, since_ms: int = 0
) -> HeldTry:
    dispatch = msgspec.structs.replace(
        DISPATCHES[0],
        step_name=name,
        namespace=namespace,
        priority=priority,
        enqueued_at_ms=NOW_MS - age_ms,
        waiting_since_ms=since_ms,
    )
    return HeldTry(dispatch, "reply", None, None, 0.0)  # type: ignore[arg-type]


def order(*tries: HeldTry, running: dict[str, int] | None = None) -> list[str]:
    """The names in the order of their turns, each running on from then."""
    waiting = WaitingTries()
    for one in tries:
        waiting.add(one)
    counts = Counter(running or {})
    found = []
    while (turn := waiting.next_turn(counts)) is not None:
        taken = waiting.pop(turn[1])
        counts[taken.dispatch.namespace] += 1
        found.append(taken.dispatch.step_name)
    assert len(waiting) == 0
    return found


def test_higher_priorities_go_first_and_equals_by_age() -> None:
    tries = [held("low", priority=-1), held("old", age_ms=5), held("new"), held("high", priority=1)]
    assert order(*tries) == ["high", "old", "new", "low"]


def test_equals_in_order_of_arrival() -> None:
    assert order(held("first"), held("second"), held("third")) == ["first", "second", "third"]


def test_waiting_raises_a_priority() -> None:
    young = held("urgent", priority=100)
    assert order(held("old", age_ms=100 * AGING_MS - 1), young) == ["urgent", "old"]
    assert order(held("old", age_ms=100 * AGING_MS + 1), young) == ["old", "urgent"]
    assert rank_ms(NOW_MS, -100) - rank_ms(NOW_MS, 100) == 200 * AGING_MS


def test_a_try_that_was_handed_back_keeps_its_age() -> None:
    again = held("again", since_ms=NOW_MS - 60_000)
    assert order(held("waited", age_ms=30_000), again) == ["again", "waited"]


def test_namespaces_in_turn_whatever_their_priorities() -> None:
    flood = [held(f"a{number}", priority=100) for number in range(4)]
    few = [held("b0", namespace="b", priority=-100), held("b1", namespace="b", priority=-100)]
    assert order(*flood, *few) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_the_namespace_with_fewer_running_goes_first() -> None:
    tries = [held("a0"), held("b0", namespace="b"), held("b1", namespace="b")]
    assert order(*tries, running={"a": 2}) == ["b0", "b1", "a0"]


def test_what_is_taken_out_is_gone_and_the_rest_keeps_its_order() -> None:
    waiting = WaitingTries()
    for number in range(6):
        waiting.add(held(f"s{number}", priority=-number, namespace="ab"[number % 2]))
    assert waiting.holds("a", "normal") and waiting.holds("b", "low") and not waiting.holds("b", "high")
    gone = waiting.remove(lambda one: one.dispatch.step_name in ("s1", "s3", "s5", "s2"))
    assert [one.dispatch.step_name for one in gone] == ["s1", "s2", "s3", "s5"]
    assert len(waiting) == 2
    assert not waiting.holds("b", "low")
    assert waiting.holds("a", "low")
    assert waiting.next_turn({}) is not None
    assert [waiting.pop("a").dispatch.step_name for _ in range(2)] == ["s0", "s4"]
    assert waiting.next_turn({}) is None
    assert not waiting.holds("a", "normal")
