"""What registration refuses although the template is sound."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepweave_orchestrator.runtime.template_bounds import INITIALIZATION_BYTES_MAX, out_of_bounds
from stepweave_schemas.dispatch import CONTEXT_BYTES_MAX, RESULT_BYTES_MAX
from stepweave_schemas.template import Problem, TaskTemplate, load_template

EVERYTHING_DYNAMIC = """\
name: t
on_failure: compensate
domain_events: [work.started]
steps:
- {name: choose, handler: h, type: decision_point}
- name: split
  handler: h
  type: batchable
  depends_on: choose
  batch_config: {worker_template: work, parallelism: 4, failure_strategy: continue_on_failure}
- {name: work, handler: h, type: batch_worker, depends_on: split, compensation: {handler: undo, retry: {limit: 2}}}
- {name: approve, depends_on: choose, wait_for_signal: {name: go, timeout_seconds: 5, default: {ok: false}}}
- {name: refund, depends_on: approve, child_task: {name: other, context: {by: "${steps.approve.by}"}}}
- name: finish
  handler: h
  type: deferred
  depends_on: [work, refund]
  publishes_events: [order.finished]
  result_schema: {type: object}
"""


def template(step: dict[str, Any], **fields: Any) -> TaskTemplate:
    document = {"name": "t", "steps": [{"name": "a", **step}], **fields}
    return load_template(json.dumps(document)).template


def paths(problems: tuple[Problem, ...], code: str, severity: str = "error") -> list[str]:
    return [problem.path for problem in problems if (problem.code, problem.severity) == (code, severity)]


def test_what_runs_is_not_refused() -> None:
    loaded = load_template(EVERYTHING_DYNAMIC)
    assert loaded.warnings == ()
    assert out_of_bounds(loaded.template, "t.yaml") == ()


@pytest.mark.parametrize(
    ("path", "bytes_max"),
    [
        ("handler.initialization", INITIALIZATION_BYTES_MAX),
        ("compensation.handler.initialization", INITIALIZATION_BYTES_MAX),
        ("wait_for_signal.default", RESULT_BYTES_MAX),
        ("child_task.context", CONTEXT_BYTES_MAX),
    ],
)
def test_what_no_message_could_carry_is_refused(path: str, bytes_max: int) -> None:
    def sized(length: int) -> TaskTemplate:
        around = len('{"x":""}')
        step: dict[str, Any] = (
            {"handler": {"callable": "h"}} if path.split(".")[0] in ("handler", "compensation") else {}
        )
        inner = step
        *way, last = path.split(".")
        for key in way:
            inner = inner.setdefault(key, {} if key != "handler" else {"callable": "h"})
        if way[0] in ("wait_for_signal", "child_task"):
            inner["name"] = "other"
        inner[last] = {"x": "x" * (length - around)}
        return template(step)

    assert out_of_bounds(sized(bytes_max), "t.yaml") == ()
    found = out_of_bounds(sized(bytes_max + 1), "t.yaml")
    assert paths(found, "BAD_VALUE") == [f"steps[0].{path}"]
    assert f"at most {bytes_max}" in found[0].message
