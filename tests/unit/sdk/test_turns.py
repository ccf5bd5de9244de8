"""Which lane a worker with long steps asks for the next one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from stepweave.worker.turns import Lane, Turns
from stepweave_schemas.aging import AGING_MS, rank_ms
from stepweave_schemas.subjects import PriorityClass, priority_class

NOW_MS = 1_767_268_800_000

pytestmark = pytest.mark.asyncio


class Queue:
    """What waits in one lane: the moments since when, and the priorities."""

    def __init__(self, place: Place, namespace: str, waiting: Sequence[tuple[int, int]]) -> None:
        self.place = place
        self.waiting = list(waiting)
        priority: PriorityClass = priority_class(waiting[0][1]) if waiting else "normal"
        self.lane = Lane(namespace, priority, self)
        self.stands = False
        self.asked_count = 0

    @property
    def may_be_asked(self) -> bool:
        return not self.stands

    async def ask(self, count: int, timeout_seconds: float) -> int:
        self.asked_count += 1
        given = self.waiting[:count]
        del self.waiting[:count]
        for since_ms, priority in given:
            self.lane.rank = rank_ms(since_ms, priority)
            self.place.start(self.lane.namespace, priority)
        return len(given)


class Place:
    """A worker with so many slots."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.running: Counter[str] = Counter()
        self.started: list[tuple[str, int]] = []
        self.queues: list[Queue] = []

    def add(self, namespace: str, *waiting: tuple[int, int]) -> Queue:
        queue = Queue(self, namespace, waiting)
        self.queues.append(queue)
        return queue

    def start(self, namespace: str, priority: int) -> None:
        self.running[namespace] += 1
        self.started.append((namespace, priority))

    async def fill(self, *, times: int = 1) -> list[int]:
        """Fill the slots, so many times, with everything over in between; the priorities in order of their start."""
        lanes = [queue.lane for queue in self.queues]
        turns = Turns(
            lanes, lambda: self.slots - self.running.total(), self.running.__getitem__, lambda: NOW_MS
        )
        for _ in range(times):
            self.running.clear()
            await turns.fill()
        return [priority for _, priority in self.started]


def since(age_s: int, priority: int, count: int = 1) -> list[tuple[int, int]]:
    """Some that have waited for so long, each a second shorter than the one before."""
    return [(NOW_MS - (age_s - number) * 1_000, priority) for number in range(count)]


async def test_no_more_is_taken_than_can_start() -> None:
    place = Place(slots=2)
    queues = [place.add("a", *since(60, priority, 10)) for priority in (50, 0, -50)]
    await place.fill()
    assert len(place.started) == 2
    assert sum(len(queue.waiting) for queue in queues) == 28


async def test_the_most_urgent_goes_first_once_each_lane_is_known() -> None:
    place = Place(slots=1)
    for priority in (50, 0, -50):
        place.add("a", *since(60, priority, 10))
    # Each lane is asked once, since it may have something very old.
    assert await place.fill(times=14) == [50, 0, -50] + [50] * 9 + [0] * 2


async def test_what_has_waited_for_long_goes_before_higher_priorities() -> None:
    place = Place(slots=1)
    worth_s = AGING_MS // 1_000 * 100
    place.add("a", *since(60, 50, 10))
    place.add("a", *since(60 + worth_s + 100, -50, 3))
    assert await place.fill(times=6) == [50, -50, -50, -50, 50, 50]


async def test_a_lane_that_has_nothing_is_passed_over_and_asked_again_later() -> None:
    place = Place(slots=1)
    high = place.add("a")
    high.lane.priority = "high"
    place.add("a", *since(60, 0, 10))
    await place.fill(times=2)
    high.waiting += since(0, 50)
    assert await place.fill() == [0, 0, 50]


async def test_the_namespace_with_the_fewest_running_goes_first() -> None:
    place = Place(slots=4)
    place.add("a", *since(600, 50, 10))
    place.add("b", *since(60, 0, 10))
    await place.fill()
    assert Counter(namespace for namespace, _ in place.started) == {"a": 2, "b": 2}


async def test_a_lane_that_is_asked_already_has_nothing() -> None:
    place = Place(slots=1)
    standing = place.add("a")
    standing.stands = True
    other = place.add("a", *since(60, 0))
    await place.fill()
    assert (standing.asked_count, other.asked_count) == (0, 1)
