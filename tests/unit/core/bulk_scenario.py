"""A bulk operation in a test: commands in, events and state out, without a runtime."""

from __future__ import annotations

from typing import Any, Final

from stepweave_orchestrator.core.bulks.commands import CancelBulk, RecordChunk, RequestBulk, SelectTasks
from stepweave_orchestrator.core.bulks.decide import decide
from stepweave_orchestrator.core.bulks.evolve import evolve
from stepweave_orchestrator.core.bulks.state import BulkState, initial
from stepweave_orchestrator.core.commands import Moment
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas import events
from stepweave_schemas.bulk import BulkFilter

STREAM_ID: Final = "0198c0de-0000-8000-8000-0000000000b1"
BULK_ID: Final = "0198c0de-0000-7000-8000-0000000000b2"
START_MS: Final = 1_767_225_600_000


def task_id(number: int) -> str:
    """The id of a task."""
    return f"0198c0de-0000-7000-8000-{number:012d}"


def request(**fields: Any) -> RequestBulk:
    """A wish to try blocked tasks again."""
    settings: dict[str, Any] = {
        "bulk_id": BULK_ID,
        "action": "retry",
        "filter": BulkFilter(namespace="shop", status=("blocked_by_failures",)),
        "rate_per_second": 2.0,
        "tasks_max": 100,
        "by": "ada",
        "reason": "mended",
    }
    return RequestBulk(**{**settings, **fields})


def refused(number: int) -> events.BulkRefused:
    """A task that said no."""
    return events.BulkRefused(task_id=task_id(number), code="CONFLICT", reason="the task has ended already")


class Bulk:
    """One operation that was asked for."""

    def __init__(self, **fields: Any) -> None:
        self.state: BulkState = initial(STREAM_ID)
        self.events: list[tuple[events.Event, int]] = []
        self.now_ms = START_MS
        self.ask(request(**fields))

    def ask(self, command: Any) -> list[events.Event] | Rejection:
        """Decide a command and apply what follows."""
        happened = decide(self.state, command, Moment(self.now_ms, "e" * 32))
        if not isinstance(happened, Rejection):
            for event in happened:
                evolve(self.state, event, self.now_ms)
                self.events.append((event, self.now_ms))
        self.now_ms += 1_000
        return happened

    def select(self, *numbers: int, chunk: int | None = None) -> list[events.Event] | Rejection:
        """The next page of the filter."""
        number = self.state.chunk_number + 1 if chunk is None else chunk
        if not numbers:
            return self.ask(SelectTasks(number=number, task_ids=()))
        return self.ask(
            SelectTasks(
                number=number,
                task_ids=tuple(map(task_id, numbers)),
                cursor_created_ms=START_MS - numbers[-1],
                cursor_task_id=task_id(numbers[-1]),
            )
        )

    def record(self, *said_no: int, chunk: int | None = None) -> list[events.Event] | Rejection:
        """All tasks of the chunk have answered; these refused."""
        return self.ask(
            RecordChunk(
                number=self.state.chunk_number if chunk is None else chunk,
                applied_count=len(self.state.pending) - len(said_no),
                refused=tuple(map(refused, said_no)),
            )
        )

    def stop(self) -> list[events.Event] | Rejection:
        """Somebody stops it."""
        return self.ask(CancelBulk(by="bob", reason="enough"))

    @property
    def types(self) -> list[str]:
        """What has happened."""
        return [event.TYPE for event, _ in self.events]
