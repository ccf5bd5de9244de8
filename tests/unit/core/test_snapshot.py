"""A state as bytes and back: at every moment of a story, and then on with the rest of its events."""

from __future__ import annotations

import msgspec
import pytest
from tests.replay.record import STORIES

from stepweave_orchestrator.core import TaskState, evolve
from stepweave_orchestrator.core.snapshot import decode_snapshot, encode_snapshot
from stepweave_orchestrator.core.state import initial
from stepweave_schemas import events
from stepweave_schemas.catalogue import CATALOGUE

from .scenario import (
    CORRELATION_ID,
    TASK_ID,
    Scenario,
    begun,
    blocked,
    cancel,
    cancelled,
    completed,
    create,
    created,
    enqueued,
    fail,
    fail_for_good,
    failed,
    given,
    lose,
    refused,
    release,
    released,
    retry,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    task_started,
    wake,
)
from .templates import AT_ONCE, EVERY_SECOND, compiled, one_step, step


def a_long_story() -> Scenario:
    plan = compiled(
        step("a", retry={**AT_ONCE, "max_attempts": 5}, timeout_seconds=1),
        "b: a",
        step("c", retry=EVERY_SECOND),
        "d: b c",
    )
    return (
        given(plan)
        .when(create(plan, start_at_ms=2 * 10**12, tags=("é", ""), priority=-1, initiator="ada"))
        .then(created())
        .later(10**12)
        .when(wake())
        .then(task_started(), enqueued("a"), enqueued("c"))
        .when(start("a"))
        .then(started("a"))
        .when(release("a"))
        .then(released("a"), enqueued("a"))
        .when(lose("a"))
        .then(retry("a"), enqueued("a", 2))
        .when(succeed("a", 1))
        .then(refused("a", 1))
        .when(start("a"))
        .then(started("a", 2))
        .later(6_000)
        .when(wake())
        .then(retry("a", 2), enqueued("a", 3))
        .when(fail("c", error_code="E"))
        .then(retry("c"))
        .when(succeed("a", result={"text": "\u0000 é"}))
        .then(completed("a", 3), enqueued("b"))
        .when(fail_for_good("b"))
        .then(failed("b"))
        .when(cancel())
        .then(cancelled())
        .when(succeed("a", 2))
        .then(refused("a", 2))
    )


def other_endings() -> list[Scenario]:
    return [
        begun(one_step()).when(succeed("a", result=None)).then(completed("a"), task_completed()),
        begun(one_step()).when(fail_for_good("a")).then(failed("a"), blocked("a")),
        begun(one_step(on_failure="fail")).when(fail_for_good("a")).then(failed("a"), task_failed("a")),
    ]


def without_count(state: TaskState) -> TaskState:
    return msgspec.structs.replace(state, events_since_snapshot=0)


def recorded_stories() -> list[Scenario]:
    """The histories of `tests/replay`, as today's core plays them."""
    return [story(made) for _, made, story in STORIES.values()]


@pytest.mark.parametrize("scenario", [a_long_story(), *other_endings(), *recorded_stories()])
def test_a_snapshot_at_every_moment(scenario: Scenario) -> None:
    live = initial(TASK_ID, scenario.plan, CORRELATION_ID)
    for count in range(len(scenario.history) + 1):
        payload = encode_snapshot(live)
        restored = decode_snapshot(payload, scenario.plan)
        assert restored == without_count(live)
        assert restored.next_wake_ms() == live.next_wake_ms()
        assert encode_snapshot(restored) == payload
        assert live.events_since_snapshot == count, "taking a snapshot changed the state"
        for event, at_ms in scenario.history[count:]:
            evolve(restored, event, at_ms)
        assert without_count(restored) == without_count(scenario.state)
        assert restored.events_since_snapshot == len(scenario.history) - count
        if count < len(scenario.history):
            evolve(live, *scenario.history[count])
    assert live == scenario.state


def test_the_stories_have_every_event() -> None:
    stories = [a_long_story(), *other_endings(), *recorded_stories()]
    told = {type(event) for scenario in stories for event, _ in scenario.history}
    system = {entry.struct for entry in CATALOGUE.values() if entry.stream == "system"}
    assert told | system == set(events.EVENT_TYPES.values())


def test_a_restored_state_shares_nothing_with_the_one_it_was_taken_from() -> None:
    scenario = begun(one_step(retry=AT_ONCE))
    restored = decode_snapshot(encode_snapshot(scenario.state), scenario.plan)
    before = encode_snapshot(restored)
    scenario.when(fail("a")).then(retry("a"), enqueued("a", 2)).when(succeed("a", 1)).then(refused("a", 1))
    assert encode_snapshot(restored) == before


def test_new_states_share_nothing() -> None:
    """The lists and sets of one task are not those of another."""
    first, second = begun(one_step(retry=AT_ONCE)), begun(one_step(retry=AT_ONCE))
    untouched = encode_snapshot(second.state)
    first.when(lose("a")).then(retry("a"), enqueued("a", 2)).when(succeed("a", 1)).then(refused("a", 1))
    first.when(fail_for_good("a")).then(failed("a", 2), blocked("a"))
    assert encode_snapshot(second.state) == untouched


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"{}", b"\x80", msgspec.msgpack.encode({"task_id": 1})])
def test_what_is_no_snapshot_is_an_error_that_the_loader_knows(payload: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_snapshot(payload, one_step())


def test_a_cut_off_snapshot() -> None:
    payload = encode_snapshot(a_long_story().state)
    for length in range(0, len(payload), 37):
        with pytest.raises(msgspec.MsgspecError):
            decode_snapshot(payload[:length], one_step())


def test_the_plan_must_be_there_when_it_is_needed() -> None:
    with pytest.raises(AssertionError, match="plan"):
        _ = msgspec.structs.replace(begun(one_step()).state, plan=None).the_plan
