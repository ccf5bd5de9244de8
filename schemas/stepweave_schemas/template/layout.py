"""Where the boxes of a drawing stand: layers from top to bottom, few crossings, straight lines where possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from .folding import Box
from .graph import layers_of

#: Columns between two boxes of a layer.
_GAP: Final = 3
_SWEEPS: Final = 4


@dataclass(slots=True)
class Spot:
    """A box, or a line that passes a layer (`label` is `None`)."""

    label: str | None
    parents: list[Spot] = field(default_factory=list)
    children: list[Spot] = field(default_factory=list)
    #: The column of the middle.
    center: int = 0
    #: The place within the layer.
    rank: int = 0

    @property
    def width(self) -> int:
        """Columns that it takes."""
        return 1 if self.label is None else len(self.label) + 4

    @property
    def left(self) -> int:
        """The first column."""
        return self.center - self.width // 2


def lay_out(boxes: list[Box], spots_max: int) -> list[list[Spot]] | None:
    """The layers with their columns, from 0; `None` where more than `spots_max` places would be needed."""
    layers = _spots(boxes, spots_max)
    if layers is None:
        return None
    _order(layers)
    _columns(layers)
    return layers


def _spots(boxes: list[Box], spots_max: int) -> list[list[Spot]] | None:
    numbered = layers_of([box.parents for box in boxes])
    spots = [Spot(box.label) for box in boxes]
    layers = [[spots[number] for number in layer] for layer in numbered]
    level = {number: depth for depth, layer in enumerate(numbered) for number in layer}
    #: The line that runs down from a box: one for all that depend on it.
    passing: dict[tuple[int, int], Spot] = {}
    count = len(boxes)
    for number, box in enumerate(boxes):
        for parent in box.parents:
            above = spots[parent]
            for depth in range(level[parent] + 1, level[number]):
                line = passing.get((parent, depth))
                if line is None:
                    count += 1
                    if count > spots_max:
                        return None
                    line = passing[parent, depth] = Spot(None)
                    _join(above, line)
                    layers[depth].append(line)
                above = line
            _join(above, spots[number])
    return layers


def _join(parent: Spot, child: Spot) -> None:
    parent.children.append(child)
    child.parents.append(parent)


def _order(layers: list[list[Spot]]) -> None:
    """Sort each layer by where its neighbours stand, down and up a few times."""
    for layer in layers:
        _rank(layer)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            means = {
                id(spot): _mean([float(each.rank) for each in _neighbours(spot, down)], spot.rank)
                for spot in layer
            }
            layer.sort(key=lambda spot, means=means: means[id(spot)])  # type: ignore[misc]
            _rank(layer)


def _rank(layer: list[Spot]) -> None:
    for rank, spot in enumerate(layer):
        spot.rank = rank


def _neighbours(spot: Spot, down: bool) -> list[Spot]:
    return spot.parents if down else spot.children


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _columns(layers: list[list[Spot]]) -> None:
    """Put each spot under the middle of its parents and over that of its children, as far as there is room."""
    widest = max(sum(spot.width + _GAP for spot in layer) for layer in layers)
    for layer in layers:
        _place(layer, lambda _: widest / 2)
    for down in (True, False, True):
        for layer in layers if down else reversed(layers):
            _place(
                layer,
                lambda spot, down=down: _mean(  # type: ignore[misc]
                    [float(each.center) for each in _neighbours(spot, down)], spot.center
                ),
            )
    leftmost = min(spot.left for layer in layers for spot in layer)
    for layer in layers:
        for spot in layer:
            spot.center -= leftmost


def _place(layer: list[Spot], wish: Callable[[Spot], float]) -> None:
    """The columns nearest to the wishes that keep the order and the gaps (least squares, pooled neighbours)."""
    offsets = [0]
    for left, right in pairwise(layer):
        offsets.append(offsets[-1] + left.width - left.width // 2 + _GAP + right.width // 2)
    pools: list[tuple[float, int]] = []
    for spot, offset in zip(layer, offsets, strict=True):
        total, size = wish(spot) - offset, 1
        while pools and pools[-1][0] / pools[-1][1] > total / size:
            before = pools.pop()
            total, size = total + before[0], size + before[1]
        pools.append((total, size))
    number = 0
    for total, size in pools:
        for _ in range(size):
            layer[number].center = round(total / size) + offsets[number]
            number += 1
