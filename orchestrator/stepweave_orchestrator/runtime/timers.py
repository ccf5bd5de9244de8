"""Wake-ups of the tasks of owned shards: a heap, whose truth is the store's `wakeups` table."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable

#: Longest sleep, so that a jump of the wall clock is noticed.
SLEEP_SECONDS_MAX = 30.0
#: Entries out of date that the heap may hold beyond its live ones.
STALE_ENTRIES_MAX = 1_000


class Timers:
    """Calls `on_due(task_id, shard)` for each wake-up whose moment has come.

    A task may be woken too often, never too late: an entry that no longer holds is found out by the actor.
    """

    def __init__(self, on_due: Callable[[str, int], None]) -> None:
        self._on_due = on_due
        self._heap: list[tuple[int, str, int]] = []
        #: The earliest entry of each task; an entry of the heap that differs is out of date.
        self._current: dict[str, int] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._armed_at_ms: int | None = None

    def __len__(self) -> int:
        return len(self._current)

    def set(self, task_id: str, shard: int, wake_at_ms: int | None) -> None:
        """Replace the task's wake-up; `None` clears it."""
        if wake_at_ms is None:
            self._current.pop(task_id, None)
            return
        self._current[task_id] = wake_at_ms
        heapq.heappush(self._heap, (wake_at_ms, task_id, shard))
        if len(self._heap) > 2 * len(self._current) + STALE_ENTRIES_MAX:
            self._heap = [entry for entry in self._heap if self._current.get(entry[1]) == entry[0]]
            heapq.heapify(self._heap)
        if self._armed_at_ms is None or wake_at_ms < self._armed_at_ms:
            self._arm()

    def forget_shard(self, shard: int) -> None:
        """Drop every wake-up of a shard that is owned no more."""
        for _, task_id, own in self._heap:
            if own == shard:
                self._current.pop(task_id, None)
        self._heap = [entry for entry in self._heap if entry[2] != shard]
        heapq.heapify(self._heap)

    def close(self) -> None:
        """Stop waking."""
        if self._handle is not None:
            self._handle.cancel()
        self._heap.clear()
        self._current.clear()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed_at_ms = None
        if self._heap:
            self._armed_at_ms = self._heap[0][0]
            delay = min(max(0.0, self._armed_at_ms / 1000 - time.time()), SLEEP_SECONDS_MAX)
            self._handle = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, task_id, shard = heapq.heappop(self._heap)
            if self._current.get(task_id) == at_ms:
                del self._current[task_id]
                self._on_due(task_id, shard)
        self._arm()
