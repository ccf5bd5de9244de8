"""Which steps of a dynamic task exist, which never will: found from nothing each time, by the words of the semantics.

A part of the model in `dynamic_model`. What is known is only which steps decisions and batchables have named so far,
and which steps are complete; the rest follows, by looking at all steps until nothing changes any more.
"""

from __future__ import annotations

from collections.abc import Set

from stepweave_schemas.template import StepTemplate, TaskTemplate


class Graph:
    """The steps of a template, and which come before which."""

    def __init__(self, template: TaskTemplate) -> None:
        self.steps = {step.name: step for step in template.steps}
        #: For each step: every step that it depends on, directly or not.
        self.above: dict[str, set[str]] = {}
        for name in self.steps:
            self._look_above(name)

    def _look_above(self, name: str) -> set[str]:
        if name not in self.above:
            direct = set(self.steps[name].dependencies)
            self.above[name] = direct.union(*(self._look_above(parent) for parent in direct))
        return self.above[name]

    def behind(self, name: str) -> set[str]:
        """Every step that depends on `name`, directly or not."""
        return {other for other in self.steps if name in self.above[other]}

    def is_convergence(self, name: str) -> bool:
        """Whether the step comes with the first of what it brings together."""
        return self.steps[name].type == "deferred_convergence"

    def choosers(self, name: str) -> list[str]:
        """The direct dependencies one of which has to choose the step, if it is a branch or a batch worker."""
        if self.is_convergence(name):
            return []
        kind = "batchable" if self.steps[name].type == "batch_worker" else "decision"
        return [parent for parent in self.steps[name].dependencies if self.steps[parent].type == kind]

    def who_may_name(self, step: StepTemplate) -> list[str]:
        """Everybody whose outcome may make the step exist."""
        if step.type == "batch_worker":
            return self.choosers(step.name)
        return [name for name in self.above[step.name] if self.steps[name].type == "decision"]


def existence(graph: Graph, named: Set[str], complete: Set[str]) -> dict[str, str]:
    """For each step of the template: `exists`, `skipped`, `never`, or `open` where that is not said yet."""
    found = dict.fromkeys(graph.steps, "open")
    while True:
        before = dict(found)
        for name, step in graph.steps.items():
            if found[name] == "open":
                found[name] = _existence_of(graph, step, named, complete, found)
        if found == before:
            return found


def _existence_of(
    graph: Graph, step: StepTemplate, named: Set[str], complete: Set[str], found: dict[str, str]
) -> str:
    parents = [found[parent] for parent in step.dependencies]
    there = [each in ("exists", "skipped") for each in parents]
    nobody_left = all(
        decider in complete or found[decider] == "never" for decider in graph.who_may_name(step)
    )
    if step.name in named or not parents:
        return "exists"
    if graph.is_convergence(step.name):
        if any(there):
            return "exists"
        if all(each == "never" for each in parents) and nobody_left:
            declined = any(_was_declined(graph, parent, complete, found) for parent in step.dependencies)
            return "skipped" if declined else "never"
    elif graph.choosers(step.name):
        if nobody_left:
            return "never"
    elif all(there):
        return "exists"
    elif "never" in parents and nobody_left:
        return "never"
    return "open"


def _was_declined(graph: Graph, name: str, complete: Set[str], found: dict[str, str]) -> bool:
    """Whether a step that never exists is so because somebody who ran did not choose it."""
    if found[name] != "never":
        return False
    if graph.choosers(name):
        return any(chooser in complete for chooser in graph.choosers(name))
    return any(_was_declined(graph, parent, complete, found) for parent in graph.steps[name].dependencies)
