"""The order in which a task is undone: a step only after everything that depended on it.

Steps are taken by the plan's numbers. Each waits for its dependents; one that has nothing to undo lets its own
dependencies pass at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .plan import Plan


def opening(plan: Plan, left: Mapping[int, int]) -> tuple[list[int], list[int]]:
    """How many dependents each step waits for at first, and the steps whose undoing can begin.

    `left` holds, by step, how many compensations there are.
    """
    waits = [len(dependents) for dependents in plan.dependents]
    ready: list[int] = []
    free = [number for number, count in enumerate(waits) if not count]
    while free:
        number = free.pop()
        if left.get(number):
            ready.append(number)
            continue
        for parent in plan.parents[number]:
            waits[parent] -= 1
            if not waits[parent]:
                free.append(parent)
    return waits, sorted(ready)


def cascade(
    plan: Plan, undone: int, left_of: Callable[[int], int], waits_of: Callable[[int], int]
) -> tuple[list[int], dict[int, int]]:
    """What the undoing of `undone` lets pass: the steps whose undoing can begin, and by how much each wait shrinks."""
    shrunk: dict[int, int] = {}
    ready: list[int] = []
    free = [undone]
    while free:
        for parent in plan.parents[free.pop()]:
            shrunk[parent] = shrunk.get(parent, 0) + 1
            if waits_of(parent) == shrunk[parent]:
                if left_of(parent):
                    ready.append(parent)
                else:
                    free.append(parent)
    return sorted(ready), shrunk
