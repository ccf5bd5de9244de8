"""A template as Mermaid text."""

from __future__ import annotations

from typing import Final

from .graph import parents_of
from .model import StepTemplate, StepType, TaskTemplate

#: The brackets that give a step's type its shape.
_SHAPES: Final[dict[StepType, tuple[str, str]]] = {
    "standard": ("[", "]"),
    "decision": ("{", "}"),
    "deferred_convergence": ("([", "])"),
    "batchable": ("[/", "\\]"),
    "batch_worker": ("[/", "/]"),
}
#: Those of steps that run no handler.
_SIGNAL_SHAPE: Final = ("{{", "}}")
_CHILD_TASK_SHAPE: Final = ("[[", "]]")


def mermaid(template: TaskTemplate) -> str:
    """The steps as a Mermaid flowchart; raises `ValueError` where a dependency does not exist."""
    lines = [f"---\ntitle: {template.reference}\n---", "flowchart TD"]
    for number, step in enumerate(template.steps):
        opening, closing = _shape(step)
        lines.append(f'  s{number}{opening}"{step.name}"{closing}')
    for number, own in enumerate(parents_of(template)):
        lines += [f"  s{parent} --> s{number}" for parent in own]
    return "\n".join(lines) + "\n"


def _shape(step: StepTemplate) -> tuple[str, str]:
    if step.wait_for_signal is not None:
        return _SIGNAL_SHAPE
    return _SHAPES[step.type] if step.child_task is None else _CHILD_TASK_SHAPE
