"""What is known about a schedule; changed by `evolve` only."""

from __future__ import annotations

from typing import Final

import msgspec

from stepweave_schemas.identity import derived_uuid
from stepweave_schemas.schedule import ScheduleSpec

from .timing import Timing, jitter_ms

#: Raised whenever the shape of the state changes.
SNAPSHOT_FORMAT: Final = 1
#: Tasks of one schedule that run at the same time; further firings wait for one of them to end.
RUNNING_TASKS_MAX: Final = 1_000
#: By so much the clocks of two orchestrators may differ.
CLOCKS_DIFFER_MS_MAX: Final = 60_000
#: Runs that are kept for people to see, and manual firings that are known again.
RUNS_KEPT_MAX: Final = 20
REQUEST_IDS_MAX: Final = 100

REGULAR: Final = "regular"
MANUAL: Final = "manual"
BACKFILL: Final = "backfill"


class Firing(msgspec.Struct, frozen=True):
    """One firing: its task and what brought it about."""

    task_id: str
    nominal_at_ms: int
    cause: str
    request_id: str = ""
    fired_by: str = ""
    #: The version of its `schedule.fired`: a moment that fires again, as in a backfill, is another order.
    number: int = 0


class Run(msgspec.Struct, frozen=True):
    """A firing and what has become of it, for people to see."""

    firing: Firing
    fired_at_ms: int
    #: `running`, how its task has ended, or `failed` where there is no task.
    status: str = "running"
    ended_at_ms: int | None = None
    error_code: str | None = None
    error_message: str = ""


class Backfill(msgspec.Struct, frozen=True):
    """A range in the past that is worked off."""

    backfill_id: str
    from_ms: int
    until_ms: int
    count: int
    concurrency: int
    next_at_ms: int | None
    fired_count: int = 0


class ScheduleState(msgspec.Struct, kw_only=True):
    """One schedule."""

    schedule_id: str
    #: Version of the last event applied; 0 before the first.
    version: int = 0
    namespace: str = ""
    name: str = ""
    #: The settings, as JSON.
    spec_text: str = ""
    #: How often a schedule of this name was created; firings of an earlier one are none of this one's.
    generation: int = 0
    created_at_ms: int = 0
    created_by: str = ""
    updated_at_ms: int = 0
    is_deleted: bool = False
    is_paused: bool = False
    paused_at_ms: int | None = None
    paused_by: str = ""
    note: str = ""
    #: The next moment that the schedule stands for.
    next_at_ms: int | None = None
    #: Firings whose task has not ended, by its id.
    running: dict[str, Firing] = {}
    #: Tasks among them whose cancellation was ordered.
    cancelled: list[str] = []
    #: The one that waits for those to end.
    waiting: Firing | None = None
    backfills: list[Backfill] = []
    #: The newest last.
    runs: list[Run] = []
    #: Of manual firings and backfills, the newest last.
    request_ids: list[str] = []
    fired_count: int = 0
    skipped_count: int = 0
    failed_count: int = 0

    @property
    def exists(self) -> bool:
        """Whether callers see it."""
        return self.version > 0 and not self.is_deleted

    @property
    def spec(self) -> ScheduleSpec:
        """The settings."""
        return msgspec.json.decode(self.spec_text, type=ScheduleSpec)

    @property
    def status(self) -> str:
        """`active`, `paused`, `finished` (nothing is left to do) or `deleted`."""
        if self.is_deleted:
            return "deleted"
        if self.is_paused:
            return "paused"
        left = self.next_at_ms is not None or self.running or self.waiting or self.backfills
        return "active" if left else "finished"

    def task_id_of(self, nominal_ms: int, request_id: str = "") -> str:
        """The id of a firing's task: of a regular firing and of a backfill of that moment the same."""
        return derived_uuid("scheduled", self.schedule_id, str(self.generation), str(nominal_ms), request_id)

    def in_the_way(self) -> list[Firing]:
        """The firings that the overlap policy is about: backfills have a limit of their own."""
        return [firing for firing in self.running.values() if firing.cause != BACKFILL]

    def due_ms(self, nominal_ms: int, jitter_ms_max: int) -> int:
        """When a regular firing is carried out."""
        return nominal_ms + jitter_ms(self.schedule_id, nominal_ms, jitter_ms_max)

    def is_ahead(self, timing: Timing, now_ms: int) -> bool:
        """Whether moments that are yet to come count as past: a clock that was far ahead has moved the schedule on."""
        if self.is_deleted or self.next_at_ms is None:
            return False
        first_ms = timing.next_after(now_ms + CLOCKS_DIFFER_MS_MAX)
        return first_ms is not None and first_ms < self.next_at_ms

    def next_wake_ms(self) -> int | None:
        """When a `Wake` would have an effect."""
        if self.is_deleted or self.is_paused or self.next_at_ms is None:
            return None
        spec = self.spec
        if spec.overlap == "allow" and len(self.running) >= RUNNING_TASKS_MAX:
            # The end of one of them goes on with it.
            return None
        return self.due_ms(self.next_at_ms, spec.jitter_seconds * 1000)


def initial(schedule_id: str) -> ScheduleState:
    """The state before the first event."""
    return ScheduleState(schedule_id=schedule_id)


def copy_of(state: ScheduleState) -> ScheduleState:
    """A copy that may be changed; what is inside its lists never changes."""
    return msgspec.structs.replace(
        state,
        running=dict(state.running),
        cancelled=list(state.cancelled),
        backfills=list(state.backfills),
        runs=list(state.runs),
        request_ids=list(state.request_ids),
    )


def timing_of(state: ScheduleState) -> Timing:
    """When the schedule fires."""
    return Timing(state.spec)
