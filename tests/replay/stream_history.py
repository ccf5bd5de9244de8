"""Recorded histories of the system's own streams that are actors: `recorded_streams/KIND.NAME.json`.

| key | meaning |
|---|---|
| `kind`, `name`, `story` | what the history is about |
| `stream_id` | the stream |
| `events` | each event's payload and when it was recorded (ms) |
| `rows` | after each event: what lists show |
| `expected` | the state at the end |

`python -m tests.replay.stream_history`, from the project's folder, records the stories that have no file yet; a file that
exists is never written again.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from stepweave_orchestrator.runtime.stream_kind import StreamKind
from stepweave_orchestrator.runtime.stream_kinds import KINDS
from stepweave_schemas import events
from stepweave_schemas.codec import decode_event, encode

FOLDER: Final = Path(__file__).parent / "recorded_streams"
SUMS: Final = FOLDER / "SHA256SUMS"
KINDS_BY_NAME: Final = {kind.name: kind for kind in KINDS}
#: What happens in a story: events, each with its moment.
Told = list[tuple[events.Event, int]]


class StreamHistory(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    kind: str
    name: str
    story: str
    stream_id: str
    events: list[tuple[int, msgspec.Raw]]
    rows: list[dict[str, Any]]
    expected: dict[str, Any]

    def decoded(self) -> Told:
        """The events as the ledger gives them."""
        return [(decode_event(bytes(raw)), at_ms) for at_ms, raw in self.events]


def states(kind: StreamKind, stream_id: str, told: Told) -> Iterator[Any]:
    """The state after each event, the same object."""
    state = kind.initial(stream_id)
    for event, at_ms in told:
        kind.evolve(state, event, at_ms)
        yield state


def plain(value: Any) -> Any:
    """A struct as JSON values."""
    return msgspec.json.decode(msgspec.json.encode(value))


def made(kind_name: str, name: str, story: str, stream_id: str, told: Told) -> StreamHistory:
    """A history as the core of today plays it."""
    kind = KINDS_BY_NAME[kind_name]
    rows: list[dict[str, Any]] = []
    expected: dict[str, Any] = {}
    for state in states(kind, stream_id, told):
        rows.append(plain(kind.row(state, stream_id, 0)))
        expected = plain(state)
    return StreamHistory(
        kind=kind_name,
        name=name,
        story=story,
        stream_id=stream_id,
        events=[(at_ms, msgspec.Raw(encode(event))) for event, at_ms in told],
        rows=rows,
        expected=expected,
    )


def files() -> list[Path]:
    """Every recorded history."""
    return sorted(FOLDER.glob("*.json"))


def read(path: Path) -> StreamHistory:
    """One recorded history."""
    return msgspec.json.decode(path.read_bytes(), type=StreamHistory)


def hash_of(path: Path) -> str:
    """The checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def known_hashes() -> dict[str, str]:
    """The checksums that were written down, by file name."""
    if not SUMS.exists():
        return {}
    pairs = (line.split("  ", 1) for line in SUMS.read_text().splitlines())
    return {name: digest for digest, name in pairs}


def record(stories: dict[str, tuple[str, str, Callable[[], tuple[str, Told]]]]) -> int:
    """Write the stories that have no file yet; returns how many."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, (kind, about, tell) in stories.items():
        path = FOLDER / f"{kind}.{name}.json"
        if path.exists():
            continue
        stream_id, told = tell()
        text = msgspec.json.format(msgspec.json.encode(made(kind, name, about, stream_id, told)), indent=1)
        path.write_bytes(text + b"\n")
        with SUMS.open("a") as sums:
            sums.write(f"{hash_of(path)}  {path.name}\n")
        print(f"recorded {path.name}")
        count += 1
    return count


if __name__ == "__main__":
    from .bulk_stories import BULK_STORIES
    from .schedule_stories import STREAM_STORIES

    record(STREAM_STORIES | BULK_STORIES)
    sys.exit(0)
