"""A template as Mermaid text."""

from __future__ import annotations

from typing import Final

from .graph import parents_of
from .model import StepType, TaskTemplate

#: The brackets that give a step's type its shape.
_SHAPES: Final[dict[StepType, tuple[str, str]]] = {
    "standard": ("[", "]"),
    "decision": ("{", "}"),
    "deferred_convergence": ("([", "])"),
    "batchable": ("[[", "]]"),
    "batch_worker": ("[/", "/]"),
}


def mermaid(template: TaskTemplate) -> str:
    """The steps as a Mermaid flowchart; raises `ValueError` where a dependency does not exist."""
    lines = [f"---\ntitle: {template.reference}\n---", "flowchart TD"]
    for number, step in enumerate(template.steps):
        opening, closing = _SHAPES[step.type]
        lines.append(f'  s{number}{opening}"{step.name}"{closing}')
    for number, own in enumerate(parents_of(template)):
        lines += [f"  s{parent} --> s{number}" for parent in own]
    return "\n".join(lines) + "\n"
