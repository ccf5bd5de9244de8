"""The delay before the next try: formulas, caps, jitter, and what a handler may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from stepweave_orchestrator.core import compile_plan
from stepweave_orchestrator.core.backoff import DEFAULT_RETRY_AFTER_MS_MAX, backoff_delay_ms, fibonacci
from stepweave_schemas.template.model import ATTEMPTS_MAX, BACKOFF_MS_MAX

from .scenario import begun, enqueued, fail, retry, wake
from .templates import compiled, one_step, step

LOWEST, MIDDLE, HIGHEST = "00000000" + "0" * 16, "7fffffff" + "0" * 16, "ffffffff" + "0" * 16


def delay_ms(attempts_made: int, random: str = MIDDLE, **retry: Any) -> int:
    plan = compiled(step("a", retry={"jitter": 0.0, **retry}))
    return backoff_delay_ms(plan.steps[0], attempts_made, random)


@pytest.mark.parametrize(
    ("backoff", "delays_ms"),
    [
        ("none", [0, 0, 0, 0, 0, 0, 0]),
        ("fixed", [200, 200, 200, 200, 200, 200, 200]),
        ("linear", [200, 400, 600, 800, 1_000, 1_200, 1_400]),
        ("exponential", [200, 400, 800, 1_600, 3_200, 6_400, 12_800]),
        ("fibonacci", [200, 200, 400, 600, 1_000, 1_600, 2_600]),
    ],
)
def test_every_formula(backoff: str, delays_ms: list[int]) -> None:
    found = [delay_ms(n, backoff=backoff, backoff_base_ms=200) for n in range(1, 8)]
    assert found == delays_ms


def test_exponential_is_the_default() -> None:
    plan = compile_plan(
        {
            "namespace": "n",
            "name": "t",
            "version": "1.0.0",
            "steps": [{"name": "a", "handler": {"callable": "h"}}],
        },
        "",
    )
    assert [backoff_delay_ms(plan.steps[0], n, MIDDLE) for n in (1, 2, 3)] == [1_000, 2_000, 4_000]


@pytest.mark.parametrize("backoff", ["fixed", "linear", "exponential", "fibonacci"])
def test_the_cap_holds(backoff: str) -> None:
    delays = [delay_ms(n, backoff=backoff, backoff_base_ms=900, max_backoff_ms=2_000) for n in range(1, 60)]
    assert max(delays) == (900 if backoff == "fixed" else 2_000)
    assert delays == sorted(delays)
    assert delay_ms(1, backoff=backoff, backoff_base_ms=900, max_backoff_ms=0) == 0


@pytest.mark.parametrize("backoff", ["linear", "exponential", "fibonacci"])
def test_the_smallest_base_reaches_the_largest_cap(backoff: str) -> None:
    """However often it was tried: the delay goes on growing until it is capped, and is found quickly."""
    most = delay_ms(ATTEMPTS_MAX, backoff=backoff, backoff_base_ms=500_000, max_backoff_ms=BACKOFF_MS_MAX)
    assert most == BACKOFF_MS_MAX
    if backoff != "linear":
        assert (
            delay_ms(60, backoff=backoff, backoff_base_ms=1, max_backoff_ms=BACKOFF_MS_MAX) == BACKOFF_MS_MAX
        )


def test_fibonacci_numbers() -> None:
    assert [fibonacci(n) for n in range(1, 11)] == [1, 1, 2, 3, 5, 8, 13, 21, 34, 55]


@pytest.mark.parametrize(
    ("jitter", "lowest_ms", "highest_ms"), [(0.0, 1_000, 1_000), (0.1, 900, 1_100), (1.0, 0, 2_000)]
)
def test_jitter_moves_the_delay_either_way(jitter: float, lowest_ms: int, highest_ms: int) -> None:
    given = {"backoff": "fixed", "backoff_base_ms": 1_000, "jitter": jitter}
    assert delay_ms(1, LOWEST, **given) == lowest_ms
    assert delay_ms(1, MIDDLE, **given) == 1_000
    assert delay_ms(1, HIGHEST, **given) == highest_ms
    for number in range(0, 0xFFFFFFFF, 0x01234567):
        assert lowest_ms <= delay_ms(1, f"{number:08x}", **given) <= highest_ms


def test_jitter_comes_after_the_cap() -> None:
    given = {"backoff": "fixed", "backoff_base_ms": 9_000, "max_backoff_ms": 1_000, "jitter": 0.1}
    assert (delay_ms(1, LOWEST, **given), delay_ms(1, HIGHEST, **given)) == (900, 1_100)


# -- in a task -----------------------------------------------------------------------------------


def test_the_chosen_delay_is_written_in_the_event_and_kept() -> None:
    plan = one_step(retry={"backoff": "exponential", "jitter": 0.1, "max_attempts": 4})
    scenario = begun(plan).later(5).when(fail("a"), random=LOWEST)
    scenario.then(retry("a", delay_ms=900, retry_at_ms=scenario.now_ms + 900, delay_source="backoff"))
    assert scenario.status == "waiting_for_retry"
    assert scenario.state.next_wake_ms() == scenario.now_ms + 900
    scenario.later(899).when(wake()).then_nothing()
    scenario.later(1).when(wake()).then(enqueued("a", 2))
    scenario.when(fail("a"), random=HIGHEST).then(retry("a", 2, delay_ms=2_200))
    scenario.later(2_200).when(wake()).then(enqueued("a", 3))
    assert scenario.state.next_wake_ms() is None


@pytest.mark.parametrize("wish_ms", [1, 700, DEFAULT_RETRY_AFTER_MS_MAX])
def test_the_handlers_wish_wins_over_the_formula(wish_ms: int) -> None:
    scenario = begun(one_step()).when(fail("a", retry_after_ms=wish_ms), random=HIGHEST)
    scenario.then(
        retry("a", delay_ms=wish_ms, retry_at_ms=scenario.now_ms + wish_ms, delay_source="retry_after")
    )


@pytest.mark.parametrize(
    ("cap_ms", "delay_ms"), [(None, DEFAULT_RETRY_AFTER_MS_MAX), (500, 500), (2 * 3_600_000, 2 * 3_600_000)]
)
def test_the_handlers_wish_is_capped(cap_ms: int | None, delay_ms: int) -> None:
    plan = one_step(**({} if cap_ms is None else {"max_retry_after_ms": cap_ms}))
    begun(plan).when(fail("a", retry_after_ms=10**9)).then(retry("a", delay_ms=delay_ms))


def test_a_cap_of_zero_means_that_no_handler_may_ask_for_a_delay() -> None:
    scenario = begun(one_step(max_retry_after_ms=0)).when(fail("a", retry_after_ms=10**9))
    scenario.then(retry("a", delay_ms=0, delay_source="retry_after"), enqueued("a", 2))


def test_a_wish_of_zero_is_at_once() -> None:
    scenario = begun(one_step()).when(fail("a", retry_after_ms=0))
    scenario.then(retry("a", delay_ms=0, delay_source="retry_after"), enqueued("a", 2))


def test_without_a_delay_the_next_try_is_in_the_same_append() -> None:
    scenario = begun(one_step(retry={"backoff": "none"})).when(fail("a"))
    scenario.then(retry("a", delay_ms=0, delay_source="backoff"), enqueued("a", 2))
    assert scenario.status == "steps_in_process"
    assert scenario.state.next_wake_ms() is None
