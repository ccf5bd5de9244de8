"""Whatever happens to a task that may become stale: it is told of in time, once, and its timers come to rest.

The invariants (`check_state`) say after each decision which times run, when the next one is over, and which dead letter
has to be open.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stepweave_orchestrator.core import Rejection, evolve
from stepweave_orchestrator.core.commands import InvestigateTask
from stepweave_orchestrator.core.dead_letters import INVESTIGATED, letter_uuid
from stepweave_orchestrator.core.operator_commands import (
    GiveUpTask,
    PauseTask,
    ResolveStep,
    ResolveTask,
    ResumeTask,
    RetryTask,
)
from stepweave_orchestrator.core.snapshot import encode_snapshot
from stepweave_orchestrator.core.state import initial
from stepweave_schemas import events

from .invariants import check_state
from .scenario import (
    TASK_ID,
    Scenario,
    Told,
    cancel,
    create,
    fail,
    fail_for_good,
    release,
    start,
    succeed,
    wake,
    wish,
)
from .scenario import given as given_events
from .templates import compiled, step
from .test_staleness import hand_back, look

SECONDS = st.sampled_from([None, 0.5, 2, 60])
LIFECYCLES = st.fixed_dictionaries(
    {
        "max_duration_seconds": SECONDS,
        "max_steps_in_process_seconds": SECONDS,
        "max_waiting_for_retry_seconds": SECONDS,
        "staleness_action": st.sampled_from(["dlq", "alert", "fail", "cancel"]),
    }
)
NAMES = ("a", "b", "c", "d", "compensate:a")
MOVES = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "succeed",
                "fail",
                "fail_for_good",
                "start",
                "release",
                "hand_back",
                "wake",
                "look",
                "say",
                "cancel",
                "pause",
                "resume",
                "retry",
                "give_up",
                "resolve",
                "resolve_step",
            ]
        ),
        st.integers(0, 20),
        st.sampled_from([0, 1, 100, 500, 2_000, 70_000]),
    ),
    max_size=30,
)
TOLD: dict[str, Any] = {
    "succeed": succeed,
    "fail": fail,
    "fail_for_good": fail_for_good,
    "start": start,
    "release": release,
    "hand_back": hand_back,
}


ASKED: dict[str, Any] = {
    "pause": PauseTask,
    "resume": ResumeTask,
    "retry": RetryTask,
    "give_up": GiveUpTask,
    "resolve": ResolveTask,
}


def _move(scenario: Scenario, kind: str, pick: int) -> Any:
    """The command of a move; `None` where there is nothing that it could be about."""
    if kind in TOLD:
        held = [
            name for name in NAMES if scenario.state.number_of(name) >= 0 and scenario.step(name).lease_token
        ]
        told: Told | None = TOLD[kind](held[pick % len(held)]) if held else None
        return told
    if kind in ASKED:
        return wish(ASKED[kind])
    if kind == "resolve_step":
        return wish(ResolveStep, "abcd"[pick % 4])
    if kind == "look":
        return look(*(f"run_{name}" for name in "abcd"[: pick % 5]))
    if kind == "say":
        return InvestigateTask(
            letter_uuid(TASK_ID, 1 + pick % 3), INVESTIGATED[pick % len(INVESTIGATED)], str(pick), "ada", None
        )
    return cancel() if kind == "cancel" and not pick % 5 else wake()


@settings(deadline=None, max_examples=150)
@given(lifecycle=LIFECYCLES, moves=MOVES, undone=st.booleans(), delay_ms=st.sampled_from([0, 1_500]))
def test_a_watched_task_keeps_its_laws(
    lifecycle: dict[str, Any], moves: list[tuple[str, int, int]], undone: bool, delay_ms: int
) -> None:
    undoing = {"compensation": {"handler": {"callable": "undo_a"}}} if undone else {}
    plan = compiled(step("a", **undoing), "b: a", "c: a", "d: b c", lifecycle=lifecycle)
    scenario = given_events(plan)
    start_at: dict[str, Any] = {"start_at_ms": scenario.now_ms + delay_ms} if delay_ms else {}
    scenario.run(create(plan, **start_at))
    for kind, pick, later_ms in moves:
        command = _move(scenario.later(later_ms), kind, pick)
        if command is not None:
            _ask(scenario, command)
    _come_to_rest(scenario)
    _read_again(scenario)


def _ask(scenario: Scenario, command: Any) -> int:
    """Ask; a refusal changes nothing. Returns how many events followed."""
    scenario.when(command)
    decision, scenario._decision = scenario._decision, None
    if isinstance(decision, Rejection):
        return 0
    assert decision is not None
    stale = [event.threshold for event in decision if isinstance(event, events.TaskStale)]
    assert len(stale) == len(set(stale))
    scenario.record(*decision)
    check_state(scenario.state)
    return len(decision)


def _come_to_rest(scenario: Scenario) -> None:
    """Each timer that is due has an effect, so that none is set again and again; and they end."""
    for _ in range(200):
        due_ms = scenario.state.next_wake_ms()
        if due_ms is None:
            return
        scenario.now_ms = max(scenario.now_ms, due_ms)
        assert _ask(scenario, wake()), "a timer without an effect would fire for ever"
    raise AssertionError("the timers do not come to rest")


def _read_again(scenario: Scenario) -> None:
    """The events give the same state again."""
    state = initial(TASK_ID, scenario.plan, scenario.state.correlation_id)
    for event, at_ms in scenario.history:
        evolve(state, event, at_ms)
    assert encode_snapshot(state) == encode_snapshot(scenario.state)
