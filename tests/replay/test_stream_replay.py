"""Recorded histories of system streams are understood for ever: where this fails, change the code, not the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepweave_orchestrator.runtime.stream_kind import decode_state, encode_state
from stepweave_schemas.catalogue import CATALOGUE

from .bulk_stories import BULK_STORIES
from .schedule_stories import STREAM_STORIES
from .stream_history import KINDS_BY_NAME, StreamHistory, files, hash_of, known_hashes, plain, read, states
from .test_replay import assert_holds


@pytest.fixture(params=files(), ids=lambda path: path.stem)
def history(request: pytest.FixtureRequest) -> StreamHistory:
    path: Path = request.param
    return read(path)


def test_the_files_are_as_they_were_recorded() -> None:
    assert {path.name: hash_of(path) for path in files()} == known_hashes()


def test_every_story_was_recorded() -> None:
    """A new story needs `python -m tests.replay.stream_history`."""
    names = {f"{kind}.{name}" for name, (kind, _, _) in (STREAM_STORIES | BULK_STORIES).items()}
    assert {path.stem for path in files()} == names


def test_every_event_of_such_a_stream_is_in_a_history() -> None:
    recorded = {event.TYPE for path in files() for event, _ in read(path).decoded()}
    assert recorded >= {name for name in CATALOGUE if name.startswith(("schedule.", "bulk."))}


def test_a_history_ends_in_its_recorded_state(history: StreamHistory) -> None:
    kind = KINDS_BY_NAME[history.kind]
    rows = []
    for state in states(kind, history.stream_id, history.decoded()):
        rows.append(plain(kind.row(state, history.stream_id, 0)))
    assert_holds(rows, history.rows)
    assert_holds(plain(state), history.expected)


def test_a_snapshot_on_the_way_changes_nothing(history: StreamHistory) -> None:
    kind = KINDS_BY_NAME[history.kind]
    told = history.decoded()
    snapshots = [encode_state(state) for state in states(kind, history.stream_id, told)]
    for version, snapshot in enumerate(snapshots, start=1):
        state = decode_state(kind, snapshot)
        for event, at_ms in told[version:]:
            kind.evolve(state, event, at_ms)
        assert encode_state(state) == snapshots[-1]
