"""Whom a worker with long steps asks for the next one: its lanes one after the other, the most urgent first.

A pull cannot be taken back, and JetStream does not show what waits first. A worker that asked all its lanes at once
for one free slot would start whatever came first, and hold back the rest until it hands it back, to the end of its
queue: neither priorities nor age would count. So a lane is asked for what can start at once, and the next one only
where it has nothing. Who comes first follows from what each lane has given last: a lane gives its oldest first, so
what it has now is hardly more urgent than that.

Where slots are freed often this would cost too much; there the pool keeps one of each lane ready (`TryPool`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from stepweave_schemas.aging import rank_ms
from stepweave_schemas.subjects import PriorityClass

#: How long one lane may take to answer.
ANSWER_SECONDS_MAX: Final = 1.0
#: The priority that is expected of a lane that has nothing now.
_EXPECTED: Final[dict[PriorityClass, int]] = {"high": 50, "normal": 0, "low": -50}


class Asked(Protocol):
    """What a lane is asked through: `messaging.PullLoop`."""

    @property
    def may_be_asked(self) -> bool:
        """Whether nothing is asked for already: a pull that stands shows that there is nothing."""

    async def ask(self, count: int, timeout_seconds: float) -> int:
        """Take so many that are there now; returns how many came."""


class Lane:
    """What a worker takes of one namespace, queue and class."""

    __slots__ = ("namespace", "priority", "pull", "rank")

    def __init__(self, namespace: str, priority: PriorityClass, pull: Asked) -> None:
        self.namespace = namespace
        self.priority: PriorityClass = priority
        self.pull = pull
        #: Of what it gave last (`aging.rank_ms`); one that was never asked may have something very old.
        self.rank = 0


class Turns:
    """Fills free slots from lanes, each namespace in turn, then by priority and age."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        room: Callable[[], int],
        running_of: Callable[[str], int],
        clock: Callable[[], int],
    ) -> None:
        self._lanes = lanes
        self._room = room
        self._running_of = running_of
        #: Milliseconds since the Unix epoch.
        self._clock = clock

    async def fill(self) -> None:
        """Ask until no slot is free, or no lane has anything."""
        left = [lane for lane in self._lanes if lane.pull.may_be_asked]
        while left and (room := self._room()) > 0:
            lane = min(left, key=self._turn)
            count = max(1, room // len(left))
            if await lane.pull.ask(count, ANSWER_SECONDS_MAX) < count:
                left.remove(lane)
                lane.rank = rank_ms(self._clock(), _EXPECTED[lane.priority])

    def _turn(self, lane: Lane) -> tuple[int, int]:
        return self._running_of(lane.namespace), lane.rank
