"""Random graphs and random garbage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stepweave_schemas.template import (
    PROBLEM_CODES,
    TaskTemplate,
    check_template,
    drawing,
    layers,
    load_template,
    mermaid,
    topological_order,
)

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True).filter(lambda name: name != "ALL")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)


class _QuotingDumper(yaml.CSafeDumper):
    """Quotes every text: PyYAML knows YAML 1.1 and leaves `08` plain, which is a number in YAML 1.2."""


_QuotingDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A template in canonical keys, with an acyclic graph whose steps stand in any order."""
    names = draw(st.lists(NAMES, min_size=1, max_size=12, unique=True))
    steps: list[dict[str, Any]] = []
    for position, name in enumerate(names):
        step: dict[str, Any] = {"name": name, "handler": {"callable": draw(NAMES)}}
        if position:
            step["dependencies"] = draw(st.lists(st.sampled_from(names[:position]), max_size=4, unique=True))
        if draw(st.booleans()):
            step["handler"]["initialization"] = draw(OBJECTS)
            step["retry"] = {
                "max_attempts": draw(st.integers(1, 9)),
                "backoff": draw(st.sampled_from(["none", "fixed", "linear", "exponential", "fibonacci"])),
                "jitter": draw(st.floats(0, 1)),
            }
            step["timeout_seconds"] = draw(st.integers(1, 99) | st.floats(0.001, 99))
            step["description"] = draw(TEXT)
        steps.append(step)
    return {
        "namespace": draw(NAMES),
        "name": draw(NAMES),
        "version": f"{draw(st.integers(0, 9))}.{draw(st.integers(0, 99))}.0",
        "metadata": draw(OBJECTS),
        "steps": draw(st.permutations(steps)),
    }


@given(documents())
@settings(max_examples=80, deadline=None)
def test_round_trips(document: dict[str, Any]) -> None:
    """JSON, YAML and the canonical form of a template are one template."""
    first = load_template(json.dumps(document)).template
    again = load_template(first.canonical_json()).template
    from_yaml = load_template(yaml.dump(document, Dumper=_QuotingDumper, sort_keys=False)).template
    assert again == first
    assert again.content_hash() == from_yaml.content_hash() == first.content_hash()
    assert TaskTemplate.model_validate(first.canonical()) == first
    assert msgspec.json.decode(first.canonical_json()) == first.canonical()
    assert first.metadata == document["metadata"]


@given(documents())
@settings(max_examples=60, deadline=None)
def test_orders_layers_and_drawings(document: dict[str, Any]) -> None:
    template = load_template(json.dumps(document)).template
    order = topological_order(template)
    position = {name: number for number, name in enumerate(order)}
    level = {name: number for number, layer in enumerate(layers(template)) for name in layer}
    assert len(position) == len(level) == len(template.steps)
    for step in template.steps:
        assert level[step.name] == max((level[name] + 1 for name in step.dependencies), default=0)
        assert all(position[name] < position[step.name] for name in step.dependencies)
    edges = sum(len(step.dependencies) for step in template.steps)
    assert mermaid(template).count(" --> ") == edges
    text = drawing(template)
    if "more" not in text:
        assert all(step.name in text for step in template.steps)


EDGES = st.integers(1, 9).flatmap(
    lambda size: st.lists(st.sets(st.integers(0, size - 1), max_size=3), min_size=size, max_size=size)
)


def reachable(edges: Sequence[set[int]], start: int) -> set[int]:
    """What `start` depends on, by the plainest of searches."""
    found: set[int] = set()
    pending = set(edges[start])
    while pending:
        found |= pending
        pending = {parent for node in pending for parent in edges[node]} - found
    return found


@given(EDGES)
@settings(max_examples=300, deadline=None)
def test_cycles_are_found_if_and_only_if_there_are_some(edges: list[set[int]]) -> None:
    text = "name: t\nsteps:\n" + "".join(
        f"- {{name: s{number}, handler: h, depends_on: [{', '.join(f's{each}' for each in sorted(own))}]}}\n"
        for number, own in enumerate(edges)
    )
    template, problems = check_template(text)
    found = [problem for problem in problems if problem.code == "CYCLE_DETECTED"]
    own = [set(parents) - {number} for number, parents in enumerate(edges)]
    knots = {
        frozenset(other for other in reachable(own, node) if node in reachable(own, other))
        for node in range(len(own))
        if node in reachable(own, node)
    }
    assert len(found) == len(knots)
    named: set[frozenset[int]] = set()
    for problem in found:
        cycle = [int(name[1:]) for name in problem.message.split(": ")[1].split(" -> ")]
        assert cycle[0] == cycle[-1] == min(cycle)
        assert all(earlier in own[later] for earlier, later in pairwise(cycle))
        named |= {knot for knot in knots if set(cycle) <= knot}
    assert named == knots
    selfish = [number for number, parents in enumerate(edges) if number in parents]
    assert [problem.path.split(".")[0] for problem in problems if problem.code == "SELF_DEPENDENCY"] == [
        f"steps[{number}]" for number in selfish
    ]
    assert (template is None) == bool(knots or selfish)


def holds(text: str | bytes) -> None:
    """What is true of any text."""
    template, problems = check_template(text, "x")
    errors = [problem for problem in problems if problem.severity == "error"]
    assert (template is None) == bool(errors)
    for problem in problems:
        assert problem.code in PROBLEM_CODES
        assert problem.message
        assert problem.line is None or 1 <= problem.line <= len(text) + 1
        assert str(problem).encode()
    if template is not None:
        assert load_template(template.canonical_json()).template == template


@given(st.binary(max_size=200) | st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_garbage(text: str | bytes) -> None:
    holds(text)


@given(st.text(st.sampled_from("{}[]:,-&*!|>'\"#%@`?~ \n\tab01.\\<\0\u2028é"), max_size=60))
@settings(max_examples=500, deadline=None)
def test_garbage_that_looks_like_yaml(text: str) -> None:
    holds(text)


KEYS = st.sampled_from(
    [
        "namespace",
        "name",
        "version",
        "description",
        "steps",
        "step_templates",
        "input_schema",
        "metadata",
        "lifecycle",
        "environments",
        "domain_events",
        "identity_strategy",
        "concurrency",
        "on_failure",
        "max_retry_after_ms",
        "handler",
        "handler_class",
        "handler_config",
        "dependencies",
        "depends_on",
        "type",
        "decision_point",
        "deferred",
        "retry",
        "default_retryable",
        "default_retry_limit",
        "timeout_seconds",
        "batch_config",
        "publishes_events",
        "result_schema",
        "compensation",
        "circuit_breaker",
        "queue",
        "skippable",
        "wait_for_signal",
        "child_task",
        "context",
        "default",
        "payload_schema",
        "failure_strategy",
        "worker_template",
        "callable",
        "max_attempts",
        "limit",
        "initial_delay",
        "key",
        "condition",
        "schema",
        "concurrent",
        "other",
        "ALL",
        "a",
        "b",
        "$ref",
        "properties",
    ]
)
VALUES = st.sampled_from(
    [
        None,
        True,
        "a",
        "b",
        "",
        "ALL",
        "decision",
        "batchable",
        "batch_worker",
        "deferred",
        "${context.a}",
        "${steps.a.b}",
        "${steps}",
        "h",
        0,
        1,
        -1,
        2.5,
        10**30,
    ]
)
TREES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=40,
)


@given(
    st.dictionaries(KEYS, TREES, max_size=8), st.lists(st.dictionaries(KEYS, TREES, max_size=6), max_size=5)
)
@settings(max_examples=100, deadline=None)
def test_garbage_that_looks_like_a_template(document: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    holds(json.dumps({"name": "t", **document, "steps": steps}))


@given(documents(), st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_templates(document: dict[str, Any], data: st.DataObject) -> None:
    text = yaml.dump(document, Dumper=_QuotingDumper, allow_unicode=True)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 8)))
    holds(text[:start] + data.draw(st.text(max_size=4)) + text[end:])
