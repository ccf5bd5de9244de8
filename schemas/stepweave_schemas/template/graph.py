"""The dependency graph of a template: order, layers, dependents, cycles.

Nothing here recurses, and everything is linear in steps and dependencies: a chain of ten thousand steps is a
template like any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .model import TaskTemplate

#: For each step, by number: the numbers of the steps that it depends on.
Parents = Sequence[Sequence[int]]


def parents_of(template: TaskTemplate) -> list[list[int]]:
    """For each step, in the order of the template: the numbers of its dependencies.

    Raises `ValueError` where a step depends on one that the template does not have.
    """
    index = {step.name: number for number, step in enumerate(template.steps)}
    try:
        return [[index[name] for name in step.dependencies] for step in template.steps]
    except KeyError as missing:
        raise ValueError(f"{template.reference} has no step {missing.args[0]!r}") from None


def dependents_of(parents: Parents) -> list[list[int]]:
    """For each step: the numbers of the steps that depend on it directly."""
    dependents: list[list[int]] = [[] for _ in parents]
    for number, own in enumerate(parents):
        for parent in own:
            dependents[parent].append(number)
    return dependents


def order_of(parents: Parents) -> list[int]:
    """The steps, each after its dependencies; steps on or behind a cycle are left out."""
    dependents = dependents_of(parents)
    waiting = [len(own) for own in parents]
    ready = deque(number for number, count in enumerate(waiting) if count == 0)
    order: list[int] = []
    while ready:
        number = ready.popleft()
        order.append(number)
        for dependent in dependents[number]:
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                ready.append(dependent)
    return order


def layers_of(parents: Parents) -> list[list[int]]:
    """The steps by the length of the longest path that leads to them; raises `ValueError` on a cycle."""
    order = order_of(parents)
    if len(order) != len(parents):
        raise ValueError("the steps depend on each other in a circle")
    depth = [0] * len(parents)
    for number in order:
        depth[number] = max((depth[parent] + 1 for parent in parents[number]), default=0)
    layers: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for number, level in enumerate(depth):
        layers[level].append(number)
    return layers


def cycles_of(parents: Parents) -> list[list[int]]:
    """One shortest cycle from each knot of steps that wait for each other, in the order in which they would run.

    A knot is a strongly connected component of several steps; a step that depends on itself is not reported. Each
    cycle starts at its step that stands first in the template.
    """
    done = set(order_of(parents))
    rest = [number for number in range(len(parents)) if number not in done]
    dependents = dependents_of(parents)
    cycles = [
        _shortest_cycle(min(knot), set(knot), dependents)
        for knot in _components(rest, parents)
        if len(knot) > 1
    ]
    return sorted(cycles)


def topological_order(template: TaskTemplate) -> tuple[str, ...]:
    """The step names, each after its dependencies, otherwise breadth first in the template's order.

    Raises `ValueError` where there is none (a template that `load_template` made always has one).
    """
    parents = parents_of(template)
    order = order_of(parents)
    if len(order) != len(parents):
        cycle = cycles_of(parents)
        names = " -> ".join(template.steps[number].name for number in cycle[0]) if cycle else "itself"
        raise ValueError(f"{template.reference} has no order: steps wait for {names}")
    return tuple(template.steps[number].name for number in order)


def layers(template: TaskTemplate) -> tuple[tuple[str, ...], ...]:
    """The step names by the longest path that leads to them; the first layer has no dependencies."""
    return tuple(
        tuple(template.steps[number].name for number in layer) for layer in layers_of(parents_of(template))
    )


def dependents(template: TaskTemplate) -> dict[str, tuple[str, ...]]:
    """For each step: the names of the steps that depend on it directly."""
    return {
        step.name: tuple(template.steps[number].name for number in numbers)
        for step, numbers in zip(template.steps, dependents_of(parents_of(template)), strict=True)
    }


def ancestors(template: TaskTemplate, step: str) -> tuple[str, ...]:
    """Every step that `step` depends on, directly or not, nearest first; raises `KeyError` for no such step."""
    by_name = {each.name: each for each in template.steps}
    found = dict.fromkeys(by_name[step].dependencies)
    queue = deque(found)
    while queue:
        for name in by_name[queue.popleft()].dependencies:
            if name not in found:
                found[name] = None
                queue.append(name)
    return tuple(found)


def _components(nodes: Sequence[int], parents: Parents) -> list[list[int]]:
    """Tarjan's strongly connected components of `nodes`, with a stack of our own."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    components: list[list[int]] = []
    for root in nodes:
        if root in index:
            continue
        work = [(root, iter(parents[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, edges = work[-1]
            for parent in edges:
                if parent not in index:
                    index[parent] = low[parent] = len(index)
                    stack.append(parent)
                    on_stack.add(parent)
                    work.append((parent, iter(parents[parent])))
                    break
                if parent in on_stack:
                    low[node] = min(low[node], index[parent])
            else:
                work.pop()
                if work:
                    above = work[-1][0]
                    low[above] = min(low[above], low[node])
                if low[node] == index[node]:
                    component: list[int] = []
                    while not component or component[-1] != node:
                        component.append(stack.pop())
                        on_stack.discard(component[-1])
                    components.append(component)
    return components


def _shortest_cycle(start: int, knot: set[int], dependents: Sequence[Sequence[int]]) -> list[int]:
    """The shortest way from `start` back to itself inside its knot, without the return to the start."""
    came_from: dict[int, int] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for dependent in dependents[node]:
            if dependent == start and node != start:
                path = [node]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return path[::-1]
            if dependent in knot and dependent not in came_from and dependent != start:
                came_from[dependent] = node
                queue.append(dependent)
    raise AssertionError("every step of a knot lies on a cycle")
