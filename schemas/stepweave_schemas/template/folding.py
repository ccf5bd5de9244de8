"""A graph made small enough to draw: many alike become one box that says how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from .graph import Parents, dependents_of, order_of

#: Steps with the same dependencies and dependents: so many are drawn before the rest is counted.
_SIBLINGS_SHOWN: Final = 3
#: More than so many such steps are folded.
_SIBLINGS_MAX: Final = 8
#: A chain without branches longer than this is folded, keeping so many at each end.
_CHAIN_MAX: Final = 16
_CHAIN_ENDS: Final = 5


@dataclass(slots=True)
class Box:
    """Something to draw: a step, or several that are counted."""

    label: str
    parents: list[int] = field(default_factory=list)


def more(count: int) -> str:
    """What stands for `count` things that are not shown."""
    return f"… {count:,} more"


def fold(labels: Sequence[str], parents: Parents) -> list[Box]:
    """The boxes of a graph without cycles; `parents` of a box are numbers of boxes."""
    boxes = [Box(label, list(own)) for label, own in zip(labels, parents, strict=True)]
    return _merge(*_chains(_merge(*_siblings(boxes))))


#: Boxes; for each, the box that stands for it; and the new labels of those that stand for several.
_Folded = tuple[list[Box], list[int], dict[int, str]]


def _siblings(boxes: list[Box]) -> _Folded:
    dependents = dependents_of([box.parents for box in boxes])
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for number, box in enumerate(boxes):
        groups.setdefault((tuple(sorted(box.parents)), tuple(dependents[number])), []).append(number)
    stands_for = list(range(len(boxes)))
    labels: dict[int, str] = {}
    for group in groups.values():
        if len(group) > _SIBLINGS_MAX:
            hidden = group[_SIBLINGS_SHOWN:]
            labels[hidden[0]] = more(len(hidden))
            for number in hidden:
                stands_for[number] = hidden[0]
    return boxes, stands_for, labels


def _chains(boxes: list[Box]) -> _Folded:
    parents = [box.parents for box in boxes]
    dependents = dependents_of(parents)
    stands_for = list(range(len(boxes)))
    labels: dict[int, str] = {}
    seen: set[int] = set()
    for start in order_of(parents):
        if start in seen:
            continue
        chain = [start]
        while len(dependents[chain[-1]]) == 1 and len(parents[dependents[chain[-1]][0]]) == 1:
            chain.append(dependents[chain[-1]][0])
        seen.update(chain)
        if len(chain) > _CHAIN_MAX:
            hidden = chain[_CHAIN_ENDS:-_CHAIN_ENDS]
            labels[hidden[0]] = more(len(hidden))
            for number in hidden:
                stands_for[number] = hidden[0]
    return boxes, stands_for, labels


def _merge(boxes: list[Box], stands_for: list[int], labels: dict[int, str]) -> list[Box]:
    """One box for all that one stands for, numbered anew."""
    kept = [number for number, representative in enumerate(stands_for) if number == representative]
    renumbered = {number: position for position, number in enumerate(kept)}
    merged = [Box(labels.get(number, boxes[number].label)) for number in kept]
    edges: list[dict[int, None]] = [{} for _ in kept]
    for number, box in enumerate(boxes):
        target = renumbered[stands_for[number]]
        for parent in box.parents:
            source = renumbered[stands_for[parent]]
            if source != target:
                edges[target][source] = None
    for target, own in enumerate(edges):
        merged[target].parents = list(own)
    return merged
