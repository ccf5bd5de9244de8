"""Tries that wait for a slot, and which of them is the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from stepweave_schemas.aging import rank_ms
from stepweave_schemas.subjects import PriorityClass, priority_class

from .held import HeldTry

#: Of a try: how many of its namespace run, its rank, its number in order of arrival.
Turn = tuple[int, int, int]


class WaitingTries:
    """Each namespace in turn, by how many of its tries run; within one by priority and age.

    So a namespace with a long backlog gets the slots that no other one wants, and no more. The age counts from when
    the step was enqueued, not from when this worker got it.
    """

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[int, int, HeldTry]]] = {}
        self._count = 0
        self._arrivals = 0

    def __len__(self) -> int:
        return self._count

    def add(self, held: HeldTry) -> None:
        """Take a try in."""
        dispatch = held.dispatch
        heap = self._heaps.setdefault(dispatch.namespace, [])
        self._arrivals += 1
        self._count += 1
        since_ms = dispatch.waiting_since_ms or dispatch.enqueued_at_ms
        heapq.heappush(heap, (rank_ms(since_ms, dispatch.priority), self._arrivals, held))

    def holds(self, namespace: str, priority: PriorityClass) -> bool:
        """Whether a try of this namespace and class waits."""
        heap = self._heaps.get(namespace, ())
        return any(priority_class(held.dispatch.priority) == priority for _, _, held in heap)

    def next_turn(self, running: Mapping[str, int]) -> tuple[Turn, str] | None:
        """The turn of the next one, and its namespace; `running` counts the running tries of each namespace."""
        if not self._count:
            return None
        return min(
            ((running.get(namespace, 0), heap[0][0], heap[0][1]), namespace)
            for namespace, heap in self._heaps.items()
        )

    def pop(self, namespace: str) -> HeldTry:
        """Take the next one of a namespace out."""
        heap = self._heaps[namespace]
        _, _, held = heapq.heappop(heap)
        if not heap:
            del self._heaps[namespace]
        self._count -= 1
        return held

    def remove(self, wanted: Callable[[HeldTry], bool]) -> list[HeldTry]:
        """Take all out for which `wanted` is true, in order of arrival."""
        found: list[tuple[int, HeldTry]] = []
        for namespace, heap in list(self._heaps.items()):
            gone = [(arrival, held) for _, arrival, held in heap if wanted(held)]
            if not gone:
                continue
            found += gone
            heap[:] = [entry for entry in heap if not wanted(entry[2])]
            heapq.heapify(heap)
            if not heap:
                del self._heaps[namespace]
        self._count -= len(found)
        return [held for _, held in sorted(found, key=lambda entry: entry[0])]
