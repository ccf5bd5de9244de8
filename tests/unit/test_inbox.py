"""The order in which waiting commands are decided."""

from __future__ import annotations

from stepweave_orchestrator.core import Plan
from stepweave_orchestrator.core.commands import Wake
from stepweave_orchestrator.runtime.inbox import Inbox
from stepweave_orchestrator.runtime.work import Work

from .core.templates import compiled


def work(stream_id: str, namespace: str | None = None, *, shard: int = 0, seed: Plan | None = None) -> Work:
    return Work(
        stream_id=stream_id,
        shard=shard,
        command=Wake(),
        causation_id="",
        actor_name="",
        finish=lambda _: None,
        namespace=namespace,
        seed=seed,
    )


def drained(inbox: Inbox) -> list[str]:
    found = []
    while (head := inbox.take()) is not None:
        found.append(head.stream_id)
    return found


def test_each_namespace_in_turn_and_each_in_its_order() -> None:
    inbox = Inbox()
    for name in ("a1", "a2", "a3", "a4"):
        inbox.append(work(name, "a"))
    inbox.append(work("b1", "b"))
    inbox.append(work("timer"))
    inbox.append(work("b2", "b"))
    assert len(inbox) == 7
    assert drained(inbox) == ["a1", "b1", "timer", "a2", "b2", "a3", "a4"]
    assert len(inbox) == 0
    assert inbox.take() is None


def test_one_that_comes_late_does_not_wait_for_a_flood() -> None:
    inbox = Inbox()
    for number in range(1_000):
        inbox.append(work(f"a{number}", "a"))
    inbox.take()
    inbox.append(work("b", "b"))
    assert "b" in [work.stream_id for work in (inbox.take(), inbox.take()) if work is not None]


def test_a_creation_goes_by_the_namespace_of_its_template() -> None:
    inbox = Inbox()
    plan = compiled("a", namespace="shop")
    inbox.append(work("first", "shop"))
    inbox.append(work("second", seed=plan))
    inbox.append(work("other", "else"))
    assert drained(inbox) == ["first", "other", "second"]


def test_what_is_decided_again_goes_first_in_its_order() -> None:
    inbox = Inbox()
    inbox.append(work("new", "a"))
    inbox.put_back([work("x"), work("y", "b")])
    inbox.put_back([work("w")])
    assert [one.stream_id for one in inbox] == ["w", "x", "y", "new"]
    assert drained(inbox) == ["w", "x", "y", "new"]


def test_the_commands_of_a_shard_are_taken_out() -> None:
    inbox = Inbox()
    inbox.append(work("a1", "a", shard=1))
    inbox.append(work("a2", "a", shard=2))
    inbox.append(work("b1", "b", shard=1))
    inbox.put_back([work("c1", shard=1), work("c2", shard=2)])
    assert {one.stream_id for one in inbox.remove_shard(1)} == {"a1", "b1", "c1"}
    assert inbox.remove_shard(1) == []
    assert len(inbox) == 2
    assert drained(inbox) == ["c2", "a2"]
