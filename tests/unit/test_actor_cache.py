"""Live actors are bounded in number, in steps and in bytes."""

from __future__ import annotations

from typing import cast

from stepweave_orchestrator.core.plan import Plan
from stepweave_orchestrator.core.state import KeptSignal, SavedProgress, StepState, TaskState
from stepweave_orchestrator.runtime.actors import REMEASURED_BYTES, ActorCache, TaskActor, state_bytes
from stepweave_orchestrator.runtime.memory import give_back
from stepweave_schemas.events import TemplateRef

REF = TemplateRef(namespace="default", name="order", version="1.0.0", hash="h")
PLAN = cast(Plan, None)


def actor(task_id: str, *, context_bytes: int = 2, steps: int = 1) -> TaskActor:
    state = TaskState(
        task_id=task_id,
        plan=PLAN,
        correlation_id="c",
        context="x" * context_bytes,
        steps=[StepState(uuid=f"u{n}", unmet=0) for n in range(steps)],
    )
    return TaskActor(state, 0, REF)


def test_what_takes_most_leaves_when_there_are_too_many_bytes() -> None:
    cache = ActorCache(actors_max=100, steps_max=100, bytes_max=250_000)
    for number in range(4):
        cache.put(str(number), actor(str(number), context_bytes=100_000))
    assert [stream_id for stream_id, _ in cache.evict()] == ["0", "1"]
    assert 200_000 < cache.size_bytes < 250_000
    # Used again, it stays the longest.
    cache.get("2")
    cache.put("4", actor("4", context_bytes=100_000))
    assert [stream_id for stream_id, _ in cache.evict()] == ["3"]
    cache.drop(("2", "4"))
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_one_that_is_larger_than_all_may_leave_too() -> None:
    cache = ActorCache(actors_max=100, steps_max=100, bytes_max=1_000)
    cache.put("large", actor("large", context_bytes=5_000))
    assert [stream_id for stream_id, _ in cache.evict()] == ["large"]
    assert list(cache.evict()) == []


def test_what_an_actor_is_told_counts_and_what_it_replaces_does_not_for_long() -> None:
    cache = ActorCache(actors_max=100, steps_max=100, bytes_max=100 * REMEASURED_BYTES)
    saving = actor("saving")
    cache.put("saving", saving)
    before = cache.size_bytes
    cache.grew(saving, 1_000)
    assert cache.size_bytes == before + 1_000
    # Checkpoints take each other's place: the events are many, and the state is small.
    for number in range(5):
        saving.state.steps[0].checkpoint = SavedProgress(str(number), number, "y" * (REMEASURED_BYTES // 4))
        cache.grew(saving, REMEASURED_BYTES // 2)
    assert cache.size_bytes < 2 * REMEASURED_BYTES
    # One that has left is not counted.
    cache.drop(("saving",))
    cache.grew(saving, 1_000)
    assert cache.size_bytes == 0


def test_a_state_is_as_large_as_what_people_put_into_it() -> None:
    empty = state_bytes(actor("a").state)
    full = actor("a", context_bytes=1_000)
    step = full.state.steps[0]
    step.result = "r" * 2_000
    step.cursor = "c" * 4_000
    step.checkpoint = SavedProgress("k" * 8_000, 1, "a" * 16_000)
    full.state.mailbox = [KeptSignal("approved", "s", "p" * 32_000)]
    assert state_bytes(full.state) - empty == 62_998


def test_half_of_them_leaves_where_memory_is_short() -> None:
    cache = ActorCache(actors_max=100, steps_max=100, bytes_max=1_000_000)
    for number in range(5):
        cache.put(str(number), actor(str(number)))
    cache.peek("0").uncommitted = 1  # type: ignore[union-attr]
    assert [stream_id for stream_id, _ in cache.halve()] == ["1", "2", "3"]
    assert cache.peek("0") is not None, "what it has decided is not committed yet"
    give_back()
