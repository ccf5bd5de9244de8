"""Which handlers the workers say they serve."""

from __future__ import annotations

import pytest
from tests.unit.core.templates import compiled, step

from stepweave_eventstore.store import StandingTask
from stepweave_orchestrator.runtime.handler_watch import RecentWorkers, served_handlers
from stepweave_orchestrator.runtime.settings import Settings, SettingsError
from stepweave_orchestrator.runtime.standing import (
    GROUP_TASKS_MAX,
    LOOK_TASKS_MAX,
    Turns,
    Version,
    unserved_of,
    version_of,
)


def test_what_workers_announce() -> None:
    served = served_handlers(
        [
            {"worker_id": "1", "namespaces": ["a"], "queues": ["x", "y"], "handlers": ["one"]},
            {"worker_id": "2", "namespaces": ["a", "b"], "queues": ["x"], "handlers": ["two"], "running": 3},
            {"worker_id": "3", "namespaces": ["c"], "queues": ["x"], "handlers": ["three"], "resolves": True},
            # In another language, without a list of its handlers.
            {"worker_id": "4", "namespaces": ["d"], "queues": ["x"]},
            # What is none does not get in the way.
            {"worker_id": "5", "namespaces": 7},
            {},
        ]
    )
    assert served.names("a", "x", "one") and served.names("a", "x", "two") and served.names("b", "x", "two")
    assert not served.may_serve("a", "y", "two") and not served.may_serve("b", "y", "two")
    # Who may have more than it names is not taken at its word, but nothing is missing there for sure.
    assert served.may_serve("c", "x", "any") and not served.names("c", "x", "any")
    assert served.may_serve("d", "x", "any") and not served.names("d", "x", "any")
    assert not served_handlers([]).may_serve("a", "x", "one")
    assert served.workers == {"1", "2", "3", "4"}


def test_a_worker_whose_entry_is_away_for_a_moment_is_not_gone() -> None:
    now = [100.0]
    recent = RecentWorkers(60, lambda: now[0])
    both = served_handlers([{"worker_id": "1"}, {"worker_id": "2"}])
    assert recent.add(both).workers == {"1", "2"}
    now[0] += 30
    assert recent.add(served_handlers([{"worker_id": "2"}])).workers == {"1", "2"}
    now[0] += 31
    assert recent.add(served_handlers([])).workers == {"2"}


def test_the_settings_have_bounds() -> None:
    url = {"DATABASE_URL": "postgresql://localhost/none"}
    given = Settings.from_environment({**url, "STEPWEAVE_HANDLER_MISSING_SECONDS": "1.5"})
    assert given.limits().handler_missing_ms == 1_500
    for name, value in (("HANDLER_CHECK_SECONDS", "0"), ("HANDLER_MISSING_SECONDS", "0")):
        with pytest.raises(SettingsError, match="expected"):
            Settings.from_environment({**url, f"STEPWEAVE_{name}": value})


def test_what_of_a_template_nobody_serves() -> None:
    plan = compiled(
        step("a", compensation={"handler": {"callable": "undo_a"}}),
        step("b", queue="far"),
        step("c", wait_for_signal={"name": "go"}),
        step("d", child_task={"name": "other"}),
    )
    assert unserved_of(plan, served_handlers([])) == {"run_a", "undo_a", "run_b"}
    served = served_handlers(
        [{"namespaces": ["tests"], "queues": ["default"], "handlers": ["run_a", "run_b"]}]
    )
    assert unserved_of(plan, served) == {"undo_a", "run_b"}


def standing(
    at_ms: int, name: str, *missing: str, status: str = "steps_in_process", is_still: bool = True
) -> StandingTask:
    return StandingTask(f"{name}-{at_ms}", 0, at_ms, "shop", name, "1.0.0", status, is_still, missing)


def asked(turns: Turns, tasks: list[StandingTask], **unserved: set[str] | None) -> list[str]:
    """Who is asked in one look over all tasks."""
    known = {
        version_of(task): None if (names := unserved.get(task.name, set())) is None else frozenset(names)
        for task in tasks
    }
    turns.begin()
    chosen = turns.choose(tasks, known)
    turns.goes_on(tasks, is_last=True)
    return [task.task_id for task in chosen]


def test_a_look_asks_those_of_whom_something_may_be_missing() -> None:
    tasks = [
        standing(1, "served"),
        standing(2, "served", is_still=False),
        standing(3, "unserved", is_still=False),
        standing(4, "unserved", "resize"),
        standing(5, "unserved", "crop"),
        standing(6, "served", "resize"),
        standing(7, "served", status="compensating", is_still=False),
        standing(8, "unknown"),
    ]
    # Not the second, which goes on, and not the fourth, of which all is said.
    assert asked(Turns(), tasks, unserved={"resize"}, unknown=None) == [
        "served-1",
        "unserved-3",
        "unserved-5",
        "served-6",
        "served-7",
        "unknown-8",
    ]


def test_thousands_of_one_template_do_not_hold_up_another() -> None:
    many = [standing(at, "many") for at in range(GROUP_TASKS_MAX + 50)]
    tasks = [*many, standing(9_999, "late")]
    turns = Turns()
    missing = {"many": {"resize"}, "late": {"crop"}}
    first = asked(turns, tasks, **missing)
    assert first == [*(task.task_id for task in many[:GROUP_TASKS_MAX]), "late-9999"]
    assert turns.is_cut
    second = asked(turns, tasks, **missing)
    assert second == [*(task.task_id for task in many[GROUP_TASKS_MAX:]), "late-9999"]
    assert not turns.is_cut
    assert asked(turns, tasks, **missing) == first


def test_a_look_that_asks_many_goes_on_where_it_ended() -> None:
    names = [f"t{number}" for number in range(LOOK_TASKS_MAX // GROUP_TASKS_MAX + 1)]
    pages = [
        [standing(place * 1_000 + at, name) for at in range(GROUP_TASKS_MAX)]
        for place, name in enumerate(names)
    ]
    known: dict[Version, frozenset[str] | None] = {
        version_of(page[0]): frozenset(("resize",)) for page in pages
    }
    turns = Turns()
    turns.begin()
    read = [page for page in pages[:-1] if turns.choose(page, known) and turns.goes_on(page, is_last=False)]
    assert len(read) == len(pages) - 2
    assert turns.is_cut and turns.after == pages[-2][-1]
    turns.begin()
    assert turns.choose(pages[-1], known) == pages[-1]
    assert not turns.goes_on(pages[-1], is_last=True) and turns.after is None
