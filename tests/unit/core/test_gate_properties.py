"""Whatever happens between tasks and their gates: no limit is exceeded, nothing is lost, nobody starves."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from stepweave_orchestrator.core import Plan
from stepweave_orchestrator.core.gates.circuit import Reset
from stepweave_schemas.catalogue import CATALOGUE
from stepweave_schemas.gate import circuit_id

from .gate_world import VIEWS, GateWorld
from .templates import AT_ONCE, EVERY_SECOND, compiled, step

BANK: Final[dict[str, Any]] = {
    "system_dependency": "bank",
    "circuit_breaker": {"failure_threshold": 1, "window_seconds": 10, "open_seconds": 4, "half_open_max": 2},
}
KEY: Final[dict[str, Any]] = {"concurrency": {"key": "k", "limit": 1}}
WIDER: Final[dict[str, Any]] = {"concurrency": {"key": "k", "limit": 2}}
UNDO: Final[dict[str, Any]] = {"compensation": {"handler": {"callable": "undo"}}}

FAIL: Final[dict[str, Any]] = {"on_failure": "fail"}
#: Tasks end where they cannot go on, or are tried again at the end.
PLANS: Final[tuple[Plan, ...]] = (
    compiled(step("a", retry=AT_ONCE, **KEY), step("b: a", retry=EVERY_SECOND, **WIDER), **FAIL),
    compiled(step("a", retry=EVERY_SECOND, **KEY), step("b", retry=AT_ONCE, **WIDER, **BANK), **FAIL),
    compiled(step("a", retry=EVERY_SECOND, **BANK), "b: a", concurrency={"limit": 1}),
    compiled(step("a", retry=AT_ONCE, **BANK), step("b", retry=AT_ONCE, **BANK), **FAIL),
    compiled(
        step(
            "cut", type="batchable", batch_config={"worker_template": "part", "failure_strategy": "fail_fast"}
        ),
        step("part: cut", type="batch_worker", retry={**EVERY_SECOND, "max_attempts": 2}, **WIDER, **BANK),
        **FAIL,
    ),
    compiled(step("a", **KEY, **UNDO), step("b: a", **BANK), concurrency={"key": "k", "limit": 2}),
)

number = st.integers(0, 30)
actions = st.one_of(
    st.tuples(st.just("deliver"), number),
    st.tuples(st.just("deliver"), number),
    st.tuples(st.just("deliver"), st.just(0)),
    st.tuples(st.just("deliver"), st.just(0)),
    st.tuples(st.just("again"), number),
    st.tuples(st.just("say"), number, st.sampled_from(["success", "failure"])),
    st.tuples(st.just("say"), number, st.sampled_from(["failure", "permanent"])),
    st.tuples(
        st.just("say"),
        number,
        st.sampled_from(["success", "failure", "failure", "permanent", "lost", "released", "checkpoint"]),
    ),
    st.tuples(st.just("later"), st.sampled_from([1, 300, 1_000, 4_000, 30_000])),
    st.tuples(st.just("cancel"), number),
    st.tuples(st.just("vanish"), number),
    st.tuples(
        st.just("operate"),
        number,
        st.sampled_from(
            ["pause", "pause", "resume", "resume", "reset", "resolve", "complete", "resolve_task"]
        ),
        number,
    ),
    st.tuples(st.just("hear"), st.integers(0, VIEWS - 1)),
    st.tuples(st.just("crash"), st.sampled_from(["before_commit", "after_commit"])),
    st.tuples(st.just("settle")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("storage"), number),
)
tasks = st.tuples(
    st.sampled_from([0, 1, 2, 2, 3, 4, 4, 4, 5]), st.sampled_from([1, 1, "1", None]), st.integers(-1, 1)
)
SEEN: Counter[str] = Counter()


def act(world: GateWorld, action: tuple[Any, ...]) -> None:
    match action:
        case ("deliver", which) if world.mail:
            world.deliver(which)
        case ("again", which) if world.delivered:
            world.deliver_again(which)
        case ("say", which, word) if world.tries:
            world.say(which, word)
        case ("later", milliseconds):
            world.later(milliseconds)
        case ("cancel", which) if which < 12:
            world.cancel(which)
        case ("operate", which, action, pick) if action != "resolve_task" or which < 5:
            world.operate(which, action, pick)
        case ("vanish", which):
            world.vanish(which)
        case ("hear", view):
            world.hear(view)
        case ("crash", where):
            world.crash_at = where
        case ("settle",):
            world.settle()
        # Less often than anything else.
        case ("storage", which) if which < 8:
            world.lose_storage()


STORIES: Final = given(
    made=st.lists(tasks, min_size=2, max_size=5),
    rate_per_second=st.sampled_from([None, None, 3.0]),
    story=st.lists(actions, min_size=40, max_size=70),
)


@settings(max_examples=150)
@STORIES
def test_gates_keep_their_promises_whatever_happens(
    made: list[tuple[int, Any, int]], rate_per_second: float | None, story: list[tuple[Any, ...]]
) -> None:
    follow(made, rate_per_second, story)


def follow(
    made: list[tuple[int, Any, int]], rate_per_second: float | None, story: list[tuple[Any, ...]]
) -> None:
    world = GateWorld(rate_per_second)
    for plan, value, priority in made:
        world.create(PLANS[plan], {} if value is None else {"k": value}, priority)
    for action in story:
        act(world, action)
    world.finish()
    world.check_rate()
    SEEN.update(world.seen)


def test_the_examples_reach_everything() -> None:
    """So that the property above is worth something."""
    if not SEEN:
        test_gates_keep_their_promises_whatever_happens()
    wanted = {
        entry.type
        for entry in CATALOGUE.values()
        if entry.type.startswith(("concurrency.", "circuit.", "rate.", "slots.", "breaker.", "throttle."))
    }
    missed = (
        wanted | {"crash", "storage lost", "dropped as a repetition", "batch.stopped", "task.blocked"}
    ) - set(SEEN)
    assert not missed


def test_who_is_wrong_about_a_circuit_is_told() -> None:
    """Notices can get lost: a failure at an open circuit and a question to a closed one show that somebody is wrong."""
    world = GateWorld(None)
    # Both of its steps need the bank.
    world.create(PLANS[3], {}, 0)
    world.say(0, "failure")
    world.deliver(0)
    world.deliver(0)
    assert world.known_open == [frozenset()] * VIEWS and world.seen["breaker.opened"] == 1
    world.say(0, "failure")
    world.settle()
    assert world.known_open == [frozenset({"tests/bank"})] * VIEWS
    world.do(circuit_id("tests", "bank"), Reset("mended", "ada"))
    # Nobody is told that it is closed.
    assert world.known_open == [frozenset({"tests/bank"})] * VIEWS
    known = len(world.tries)
    world.create(PLANS[3], {}, 0)
    assert len(world.tries) == known
    world.settle()
    assert len(world.tries) == known + 2 and world.known_open == [frozenset()] * VIEWS
    world.finish()
