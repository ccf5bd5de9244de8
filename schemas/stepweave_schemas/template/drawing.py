"""A template as a drawing for the terminal: boxes in layers, arrows from top to bottom, plain text.

Steps that are alike are folded into one box ("… 97 more"). A graph too wide or too tangled for lines is printed as a
list of layers instead; either way the text stays small, whatever the template.
"""

from __future__ import annotations

from typing import Final

from .folding import fold, more
from .graph import layers_of, parents_of
from .layout import Spot, lay_out
from .model import StepTemplate, TaskTemplate

#: Longest label, in characters.
_LABEL_CHARS_MAX: Final = 40
#: Most boxes, and boxes and passing lines together, of a drawing with lines.
_BOXES_MAX: Final = 80
_SPOTS_MAX: Final = 400
#: Most lines of a list of layers, and most dependencies named in one.
_LIST_LINES_MAX: Final = 200
_LIST_DEPENDENCIES_SHOWN: Final = 5

_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8
_STROKES: Final = {
    _UP | _DOWN: "│",
    _LEFT | _RIGHT: "─",
    _UP | _RIGHT: "└",
    _UP | _LEFT: "┘",
    _DOWN | _RIGHT: "┌",
    _DOWN | _LEFT: "┐",
    _UP | _DOWN | _RIGHT: "├",
    _UP | _DOWN | _LEFT: "┤",
    _DOWN | _LEFT | _RIGHT: "┬",
    _UP | _LEFT | _RIGHT: "┴",
    _UP | _DOWN | _LEFT | _RIGHT: "┼",
}


def drawing(template: TaskTemplate, *, width_max: int = 120) -> str:
    """The template as text of at most `width_max` columns where lines are drawn.

    Raises `ValueError` where the steps depend on each other in a circle or on steps that do not exist.
    """
    parents = parents_of(template)
    labels = [_label(step) for step in template.steps]
    boxes = fold(labels, parents)
    layers = lay_out(boxes, _SPOTS_MAX) if len(boxes) <= _BOXES_MAX else None
    if layers is None or max(_right(layer) for layer in layers) > width_max:
        lines = _list(labels, parents)
    else:
        lines = _draw(layers)
    count = len(template.steps)
    title = f"{template.reference} · {count:,} step{'s' if count != 1 else ''}"
    return "\n".join([title, "", *lines]) + "\n"


def _label(step: StepTemplate) -> str:
    name = step.name
    shown = name if len(name) <= _LABEL_CHARS_MAX else name[: _LABEL_CHARS_MAX - 1] + "…"
    if step.wait_for_signal is not None:
        return f"{shown} (signal)"
    if step.child_task is not None:
        return f"{shown} (child task)"
    return shown if step.type == "standard" else f"{shown} ({step.type.replace('_', ' ')})"


def _right(layer: list[Spot]) -> int:
    return max(spot.left + spot.width for spot in layer)


# -- boxes and lines -----------------------------------------------------------------------------


def _draw(layers: list[list[Spot]]) -> list[str]:
    width = max(_right(layer) for layer in layers)
    lines: list[str] = []
    for depth, layer in enumerate(layers):
        if depth:
            lines += _Channel(layers[depth - 1], layer, width).lines()
        lines += _boxes(layer, width)
    return [line.rstrip() for line in lines]


def _boxes(layer: list[Spot], width: int) -> list[str]:
    rows = [[" "] * width for _ in range(3)]
    for spot in layer:
        if spot.label is None:
            for row in rows:
                row[spot.center] = "│"
            continue
        inner = spot.width - 2
        left = spot.left
        rows[0][left : left + spot.width] = "┌" + "─" * inner + "┐"
        rows[1][left : left + spot.width] = f"│ {spot.label} │"
        rows[2][left : left + spot.width] = "└" + "─" * inner + "┘"
        if spot.children:
            rows[2][spot.center] = "┬"
    return ["".join(row) for row in rows]


class _Channel:
    """The lines between two layers.

    Sources with the same targets run sideways together on one row; others share a row only where they do not overlap.
    A line that crosses another without joining it is drawn on top of it.
    """

    def __init__(self, above: list[Spot], below: list[Spot], width: int) -> None:
        self._below = below
        self._width = width
        self._ports = {id(spot): self._port(spot, above) for spot in below}
        self._sources = [spot for spot in above if spot.children]
        by_targets: dict[tuple[int, ...], list[Spot]] = {}
        for spot in self._sources:
            by_targets.setdefault(tuple(id(child) for child in spot.children), []).append(spot)
        self._groups = list(by_targets.values())
        self._rows = self._assign_rows()

    def lines(self) -> list[str]:
        """The rows, the last one with the arrow heads."""
        height = max(self._rows.values(), default=-1) + 1
        strokes = [[0] * self._width for _ in range(max(height, 1))]
        for group in self._groups:
            row = self._rows.get(id(group[0]))
            if row is not None:
                first, last = self._span(group)
                for column in range(first, last + 1):
                    strokes[row][column] |= (_LEFT if column > first else 0) | (
                        _RIGHT if column < last else 0
                    )
        self._verticals(strokes)
        heads = [" "] * self._width
        for spot in self._below:
            if spot.parents:
                heads[self._ports[id(spot)]] = "│" if spot.label is None else "▼"
        body = ["".join(_STROKES.get(cell, " ") for cell in row) for row in strokes]
        return [*body, "".join(heads)]

    def _verticals(self, strokes: list[list[int]]) -> None:
        height = len(strokes)
        for source in self._sources:
            row = self._rows.get(id(source), height)
            below = (child for child in source.children if self._ports[id(child)] == source.center)
            joined = {other for child in below for other in self._rows_into(child)}
            for above in range(min(row, height)):
                crossed = 0 if above not in joined else strokes[above][source.center]
                strokes[above][source.center] = crossed | _UP | _DOWN
            if row < height:
                strokes[row][source.center] |= _UP
        for spot in self._below:
            column = self._ports[id(spot)]
            own = self._rows_into(spot)
            for row in range(min(own, default=height), height):
                if row in own:
                    strokes[row][column] |= _DOWN | (_UP if row > min(own) else 0)
                else:
                    strokes[row][column] = _UP | _DOWN

    def _rows_into(self, spot: Spot) -> set[int]:
        """The rows on which lines run sideways to a spot."""
        return {self._rows[id(parent)] for parent in spot.parents if id(parent) in self._rows}

    def _port(self, spot: Spot, above: list[Spot]) -> int:
        """The column where lines arrive: the middle, unless another's line comes down just there."""
        if spot.label is None:
            return spot.center
        own = {id(parent) for parent in spot.parents}
        foreign = {each.center for each in above if each.children and id(each) not in own}
        for offset in (0, 1, -1, 2, -2):
            column = spot.center + offset
            if column not in foreign and spot.left < column < spot.left + spot.width - 1:
                return column
        return spot.center

    def _span(self, group: list[Spot]) -> tuple[int, int]:
        """The first and the last column of the lines of sources with the same targets."""
        columns = [source.center for source in group]
        columns += [self._ports[id(child)] for child in group[0].children]
        return min(columns), max(columns)

    def _assign_rows(self) -> dict[int, int]:
        """The row of each source whose line runs sideways."""
        rows: dict[int, int] = {}
        taken: list[int] = []  # for each row, the last column in use
        for group in sorted(self._groups, key=self._span):
            first, last = self._span(group)
            if first == last:
                continue
            row = next((row for row, used in enumerate(taken) if used < first - 1), len(taken))
            taken[row:] = [last, *taken[row + 1 :]]
            rows.update({id(source): row for source in group})
        return rows


# -- a list of layers ----------------------------------------------------------------------------


def _list(labels: list[str], parents: list[list[int]]) -> list[str]:
    boxes = fold(labels, parents)
    layers = layers_of([box.parents for box in boxes])
    digits = len(str(len(layers)))
    lines: list[str] = []
    for depth, layer in enumerate(layers):
        wide = max(len(boxes[number].label) for number in layer)
        for position, number in enumerate(layer):
            box = boxes[number]
            head = str(depth + 1).rjust(digits) if position == 0 else " " * digits
            names = [boxes[parent].label for parent in box.parents[:_LIST_DEPENDENCIES_SHOWN]]
            if len(box.parents) > len(names):
                names.append(more(len(box.parents) - len(names)))
            lines.append(
                f"{head}  {box.label.ljust(wide)}  ← {', '.join(names)}" if names else f"{head}  {box.label}"
            )
    if len(lines) > _LIST_LINES_MAX:
        lines[_LIST_LINES_MAX:] = [" " * digits + f"  {more(len(lines) - _LIST_LINES_MAX)}"]
    return lines
