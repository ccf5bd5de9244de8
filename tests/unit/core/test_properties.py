"""Random graphs, random outcomes, repetitions, delays, re-ordering and crashes, against the model.

The examples are the same in every run. To look further, take other and more ones:
`STEPWEAVE_EXAMPLES=5000 python -m pytest --timeout 0 tests/unit/core/test_properties.py` (minutes); a failure prints how to
repeat it.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from stepweave_schemas.catalogue import CATALOGUE
from stepweave_schemas.template import TaskTemplate

from .scenario import T0_MS
from .templates import step, template
from .world import WORDS, World

_asked = os.environ.get("STEPWEAVE_EXAMPLES")
EXAMPLES: Final = settings(
    max_examples=int(_asked or 300),
    derandomize=_asked is None,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
STEPS_MAX: Final = 15
ACTIONS_MIN: Final = 25
ACTIONS_MAX: Final = 90

retries = st.fixed_dictionaries(
    {
        "max_attempts": st.integers(1, 4),
        "retryable": st.sampled_from([True, True, True, False]),
        "backoff": st.sampled_from(["fixed", "linear", "exponential", "fibonacci", "none"]),
        "backoff_base_ms": st.sampled_from([100, 20_000, 1, 0]),
        "max_backoff_ms": st.sampled_from([30_000, 30_000, 150, 0]),
        "jitter": st.sampled_from([0.0, 0.1, 1.0]),
    }
)
timeouts = st.sampled_from([None, 0.05, 3.0])


@st.composite
def templates(draw: st.DrawFn) -> TaskTemplate:
    """A random graph of up to 15 steps, written down in random order."""
    count = draw(st.integers(1, STEPS_MAX))
    density = draw(st.sampled_from([1, 2, 4]))
    policies = draw(st.lists(st.tuples(retries, timeouts), min_size=1, max_size=3))
    steps = []
    for number in range(count):
        earlier = draw(st.lists(st.integers(0, number - 1), max_size=density)) if number else []
        retry, timeout = policies[number % len(policies)]
        own: dict[str, Any] = (
            {"retry": retry} if timeout is None else {"retry": retry, "timeout_seconds": timeout}
        )
        steps.append(step(f"s{number}: {' '.join(f's{each}' for each in earlier)}", **own))
    task: dict[str, Any] = {"on_failure": draw(st.sampled_from(["block", "fail"]))}
    cap_ms = draw(st.sampled_from([None, 0, 700]))
    if cap_ms is not None:
        task["max_retry_after_ms"] = cap_ms
    return template(*draw(st.permutations(steps)), **task)


#: Which of several things an action is about; taken modulo their number.
which = st.integers(0, 1_000)
words = st.sampled_from(["success"] * 5 + ["failure"] * 2 + ["started", *WORDS])
delays_ms = st.sampled_from([0, 1, 90, 1_000, 5_050, 8_000, 4_000_000])
actions = st.one_of(
    # What an action that does not matter to a failure is simplified to.
    st.just(("rest",)),
    # The usual course of things, so that stories get somewhere.
    st.tuples(st.just("work"), which, words),
    st.tuples(st.just("work"), which, words),
    st.tuples(st.just("work"), which, words),
    st.tuples(st.just("say"), which, words),
    st.tuples(st.just("say_late"), which, words),
    st.tuples(st.just("deliver"), which),
    st.tuples(st.just("deliver_again"), which),
    st.tuples(st.just("pass_time"), delays_ms),
    st.tuples(st.just("fire"), which),
    st.tuples(st.sampled_from(["wake", "create", "create_another"]), which),
    st.tuples(st.just("forge"), which),
    st.tuples(st.just("crash_before_commit"), which),
    st.tuples(st.just("restart"), which, st.booleans()),
)


def act(world: World, action: tuple[Any, ...]) -> None:
    """Carry out one action; one that makes no sense at the moment does nothing."""
    match action:
        case ("work", number, word) if world.unanswered:
            world.send(world.unanswered[number % len(world.unanswered)], word, wish_ms=number)
            world.deliver(-1)
        case ("say", number, word) if world.unanswered:
            world.send(world.unanswered[number % len(world.unanswered)], word, wish_ms=number)
        case ("say_late", number, word) if world.tries:
            world.send(world.tries[number % len(world.tries)], word, wish_ms=number)
        case ("deliver", number) if world.mail:
            world.deliver(number % len(world.mail))
        case ("deliver_again", number) if world.delivered:
            world.deliver_again(number % len(world.delivered))
        case ("pass_time", milliseconds):
            world.now_ms += milliseconds
        case ("fire", _) if (due_ms := world.state.next_wake_ms()) is not None:
            world.now_ms = max(world.now_ms, due_ms)
            world.wake()
        case ("wake", _):
            world.wake()
        case ("create", _):
            world.create()
        case ("create_another", _):
            world.create_another()
        case ("cancel", _):
            world.cancel()
        case ("forge", number) if world.delivered:
            world.forge(number % len(world.delivered))
        case ("crash_before_commit", number) if world.mail:
            world.crash_before_commit(number % len(world.mail))
        case ("restart", number, by_snapshot):
            world.restart(number % (len(world.ledger) + 1), by_snapshot=by_snapshot)


def finish(world: World, endings: list[str]) -> None:
    """Every message arrives, every try is answered, every timer fires, until nothing is left to do."""
    answers = 0
    while True:
        while world.mail:
            world.deliver(0)
        if world.unanswered:
            world.send(world.unanswered[0], endings[answers % len(endings)])
            answers += 1
        elif (due_ms := world.state.next_wake_ms()) is not None:
            world.now_ms = max(world.now_ms, due_ms)
            world.wake()
        else:
            return


@EXAMPLES
@given(
    template=templates(),
    start_in_ms=st.sampled_from([None, None, None, -5, 1_000]),
    story=st.lists(actions, min_size=ACTIONS_MIN, max_size=ACTIONS_MAX),
    cancel_at=st.none() | st.none() | st.integers(0, ACTIONS_MIN),
    endings=st.lists(
        st.sampled_from(["success"] * 5 + ["failure", "failure", "wish", "lost", "permanent"]),
        min_size=1,
        max_size=8,
    ),
)
def test_a_task_follows_the_semantics_whatever_happens(
    template: TaskTemplate,
    start_in_ms: int | None,
    story: list[tuple[Any, ...]],
    cancel_at: int | None,
    endings: list[str],
) -> None:
    world = World(template, None if start_in_ms is None else T0_MS + start_in_ms)
    world.create()
    for number, action in enumerate(story):
        if number == cancel_at:
            world.cancel()
        act(world, action)
    finish(world, endings)
    note(f"{world.state.status} after {len(world.ledger)} events")
    world.check_end()
    world.check_replay()
    for version in range(0, len(world.ledger) + 1, 1 + len(world.ledger) // 3):
        assert world.rebuilt(version) == world.rebuilt(0)
    SEEN.update(world.types)
    for repeated in range(len(world.delivered)):
        world.deliver_again(repeated)


#: What no step of a plain template brings about; other tests of this folder have the properties of these.
OF_DYNAMIC_WORKFLOWS = (
    "batch.",
    "child.",
    "circuit.",
    "compensation.",
    "concurrency.",
    "decision.",
    "domain.",
    "rate.",
    "signal.",
    "step.checkpointed",
    "step.completed_manually",
    "step.domain_event_refused",
    "step.reset",
    "step.resolved_manually",
    "step.reused",
    "step.skipped",
    "task.given_up",
    "task.paused",
    "task.resolved_manually",
    "task.resumed",
    "concurrency.",
    "circuit.",
    "rate.",
    "task.stale",
    "task.investigated",
)
#: How often each event type occurred in the examples.
SEEN: Counter[str] = Counter()


def test_the_examples_reach_every_kind_of_event() -> None:
    """So that the property above is worth something."""
    if not SEEN:
        test_a_task_follows_the_semantics_whatever_happens()
    of_tasks = {entry.type for entry in CATALOGUE.values() if entry.stream == "task"}
    assert set(SEEN) == {type for type in of_tasks if not type.startswith(OF_DYNAMIC_WORKFLOWS)}
    assert min(SEEN.values()) >= 20, SEEN
