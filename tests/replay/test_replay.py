"""Histories that were recorded once are understood for ever.

Where one of these tests fails, the change under test would misread tasks that run somewhere: do not touch the files,
change the code (a new meaning is a new `schema_version` with an upcaster). `python -m tests.replay.record` adds what is
missing: histories of new stories, and of new inputs of the examples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.core import TaskState
from stepweave_orchestrator.core.snapshot import decode_snapshot, encode_snapshot
from stepweave_schemas import codec, events
from stepweave_schemas.catalogue import CATALOGUE
from stepweave_schemas.identity import content_digest

from .example_histories import EXAMPLES_FOLDER, example_runs
from .history import (
    FOLDER,
    History,
    apply,
    hash_of,
    known_hashes,
    name_of,
    read,
    recorded_files,
    replay,
    statuses,
    summary,
)
from .record import STORIES

FILES = recorded_files()


@pytest.fixture(params=FILES, ids=lambda path: name_of(path.with_suffix("")))
def history(request: pytest.FixtureRequest) -> History:
    path: Path = request.param
    return read(path)


def assert_holds(actual: Any, recorded: Any, where: str = "") -> None:
    """Everything recorded is as it was; fields that were added since do not matter."""
    if isinstance(recorded, dict):
        assert isinstance(actual, dict), where
        for key, value in recorded.items():
            assert key in actual, f"{where}/{key} is gone"
            assert_holds(actual[key], value, f"{where}/{key}")
    elif isinstance(recorded, list):
        assert isinstance(actual, list), where
        assert len(actual) == len(recorded), where
        for number, value in enumerate(recorded):
            assert_holds(actual[number], value, f"{where}/{number}")
    else:
        assert actual == recorded, where


def final(history: History) -> TaskState:
    *_, (_, state) = replay(history.envelopes(), history.plan())
    return state


def test_the_files_are_as_they_were_recorded() -> None:
    assert {name_of(path): hash_of(path) for path in FILES} == known_hashes()


def test_every_story_was_recorded() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(STORIES)


def test_every_input_of_every_example_was_recorded() -> None:
    """A new input comes with a history: run `python -m tests.replay.record`."""
    assert [example.run.title for example in example_runs() if not example.path.exists()] == []


def test_the_task_that_a_step_of_an_example_started_was_recorded_too() -> None:
    """The last one of each step, beside the one that started it."""
    started: dict[Path, str] = {}
    children: dict[Path, str] = {}
    for path in EXAMPLES_FOLDER.rglob("*.json"):
        envelopes = read(path).envelopes()
        if "__" in path.stem:
            children[path] = envelopes[0].task_id
        for envelope in envelopes:
            event = codec.decode_event(bytes(envelope.data))
            if isinstance(event, events.ChildRequested):
                started[path.with_name(f"{path.stem}__{event.step_name}.json")] = event.child_task_id
    assert started
    assert children == started


def test_every_event_of_a_task_is_in_a_history() -> None:
    """A new event type comes with a history that has it: add a story to `record.py`."""
    recorded = {envelope.type for path in FILES for envelope in read(path).envelopes()}
    assert recorded == {entry.type for entry in CATALOGUE.values() if entry.stream == "task"}


def test_a_history_ends_in_its_recorded_state(history: History) -> None:
    assert_holds(summary(final(history)), history.expected)


def test_every_state_on_the_way_is_the_recorded_one(history: History) -> None:
    seen = [statuses(event, state) for event, state in replay(history.envelopes(), history.plan())]
    assert seen == history.states


def test_a_snapshot_on_the_way_changes_nothing(history: History) -> None:
    envelopes, plan = history.envelopes(), history.plan()
    snapshots = [encode_snapshot(state) for _, state in replay(envelopes, plan)]
    for version, snapshot in enumerate(snapshots, start=1):
        state = decode_snapshot(snapshot, plan)
        for envelope in envelopes[version:]:
            apply(state, envelope)
        assert encode_snapshot(state) == snapshots[-1]


def test_a_history_is_sound(history: History) -> None:
    envelopes = history.envelopes()
    assert [envelope.version for envelope in envelopes] == list(range(1, len(envelopes) + 1))
    assert history.template_hash == content_digest(history.template)
    first = codec.decode_event(bytes(envelopes[0].data))
    assert isinstance(first, events.TaskCreated)
    assert first.template.hash == history.template_hash
    for envelope in envelopes:
        event = codec.decode_event(bytes(envelope.data))
        assert envelope.type == event.TYPE
        # What is written today is what was written then, but for fields that were added.
        assert_holds(codec.to_builtins(event), msgspec.json.decode(envelope.data))
