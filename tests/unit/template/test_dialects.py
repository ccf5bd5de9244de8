"""Every accepted spelling, and what it becomes."""

from __future__ import annotations

from typing import Any

import pytest

from stepweave_schemas.template import (
    CHILD_TASK_HANDLER,
    SIGNAL_HANDLER,
    Problem,
    StepTemplate,
    TaskTemplate,
    check_template,
    load_template,
)

FIRST = "- {name: first, handler: h}\n"


def template(text: str) -> TaskTemplate:
    return load_template(text).template


def step(keys: str, *, others: str = "") -> StepTemplate:
    """The step that these keys make, in a template whose first step is `first`."""
    return template(f"name: t\nsteps:\n{others or FIRST}- {{name: s, {keys}}}\n").steps[-1]


def only_problem(text: str) -> Problem:
    found, problems = check_template(text)
    assert found is None
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize(
    "written",
    [
        "handler: pay, depends_on: first",
        "handler: {callable: pay}, depends_on: [first]",
        "handler_class: pay, depends_on_step: first",
        "handler_class: pay, handler: pay, depends_on_steps: [first], dependencies: [first]",
        "handler: {callable: pay, method: call, resolver: ~}, dependencies: [first], timeout_seconds: null",
        "handler: pay, depends_on: first, type: standard, decision_point: false, deferred: no",
        "handler: pay, depends_on: first, retry: {max_attempts: 3, retryable: yes}, default_retry_limit: 3",
        "handler: pay, depends_on: first, handler_config: {}, retry: {}, queue: default, skippable: false",
    ],
)
def test_spellings_of_one_step(written: str) -> None:
    canonical = template(f"name: t\nsteps:\n{FIRST}- {{name: s, handler: pay, dependencies: [first]}}\n")
    same = template(f"name: t\nsteps:\n{FIRST}- {{name: s, {written}}}\n")
    assert same.canonical_json() == canonical.canonical_json()
    assert same.content_hash() == canonical.content_hash()


def test_handler_settings_from_two_keys() -> None:
    handler = step("handler: {callable: h, method: run}, handler_config: {url: u, deep: {a: ~}}").handler
    assert (handler.callable, handler.method) == ("h", "run")
    assert handler.initialization == {"url": "u", "deep": {"a": None}}


@pytest.mark.parametrize(
    ("written", "attempts", "retryable", "base_ms", "max_ms"),
    [
        ("retry: {max_attempts: 5, backoff_base_ms: 250, max_backoff_ms: 9000}", 5, True, 250, 9_000),
        ("retry: {limit: 5, initial_delay: 0.25, max_delay: 9}", 5, True, 250, 9_000),
        ("default_retry_limit: 5, default_retryable: off", 5, False, 1_000, 30_000),
        ("default_retryable: false, retry: {limit: 2}", 2, False, 1_000, 30_000),
    ],
)
def test_retry(written: str, attempts: int, retryable: bool, base_ms: int, max_ms: int) -> None:
    retry = step(f"handler: h, {written}").retry
    assert (retry.max_attempts, retry.retryable) == (attempts, retryable)
    assert (retry.backoff_base_ms, retry.max_backoff_ms) == (base_ms, max_ms)


@pytest.mark.parametrize("written", ["type: decision", "step_type: decision_point", "decision_point: true"])
def test_decision(written: str) -> None:
    text = f"name: t\nsteps:\n- {{name: d, handler: h, {written}}}\n- {{name: b, handler: h, depends_on: d}}"
    assert template(text).steps[0].type == "decision"


@pytest.mark.parametrize(
    "written", ["type: deferred_convergence", "step_type: deferred", "type: deferred", "deferred: yes"]
)
def test_deferred(written: str) -> None:
    others = "- {name: d, handler: h, type: decision}\n- {name: b, handler: h, depends_on: d}\n"
    assert step(f"handler: h, depends_on: b, {written}", others=others).type == "deferred_convergence"


@pytest.mark.parametrize(
    ("written", "version"),
    [
        ("1.10", "1.10.0"),
        ("1.0", "1.0.0"),
        ("'1.0'", "1.0.0"),
        ("2", "2.0.0"),
        ("1.2.3-rc.1+build.5", "1.2.3-rc.1+build.5"),
    ],
)
def test_version(written: str, version: str) -> None:
    assert template(f"name: t\nversion: {written}\nsteps: [{{name: a, handler: h}}]").version == version


def test_absent_version_and_namespace_have_defaults() -> None:
    assert template("name: t\nsteps: [{name: a, handler: h}]").reference == "default/t:1.0.0"


@pytest.mark.parametrize("written", ["01.0", "1e3", "v1.2.0", "1.2.3.4", "0x10", "true", "[1]", "1.0-beta"])
def test_bad_version(written: str) -> None:
    problem = only_problem(f"name: t\nversion: {written}\nsteps: [{{name: a, handler: h}}]")
    assert (problem.code, problem.path, problem.line) == ("BAD_VALUE", "version", 2)


def test_task_level_spellings() -> None:
    written = template(
        "namespace_name: shop\nname: t\nschema: {type: object}\ndescription: ~\n"
        "step_templates: [{name: a, handler: h}]\ndomain_events: [order.paid, {name: b, schema: {type: object}}]"
    )
    assert written.namespace == "shop"
    assert written.input_schema == {"type": "object"}
    assert [event.name for event in written.domain_events] == ["order.paid", "b"]
    assert written.domain_events[1].payload_schema == {"type": "object"}


@pytest.mark.parametrize(
    "key",
    [
        "task_handler",
        "task_handler_class",
        "module_namespace",
        "named_steps",
        "system_dependencies",
        "default_dependent_system",
        "concurrent",
    ],
)
def test_keys_that_mean_nothing_warn(key: str) -> None:
    loaded = load_template(f"name: t\nsteps: [{{name: a, handler: h}}]\n{key}: [x]\n", source="t.yaml")
    (warning,) = loaded.warnings
    assert (warning.code, warning.severity, warning.path, warning.line) == ("IGNORED_KEY", "warning", key, 3)
    assert key not in loaded.template.canonical()


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ("handler: a, handler_class: b", "steps[1].handler_class"),
        ("handler: h, depends_on: first, dependencies: []", "steps[1].dependencies"),
        ("handler: h, retry: {max_attempts: 2, limit: 3}", "steps[1].retry.limit"),
        ("handler: h, default_retry_limit: 2, retry: {limit: 3}", "steps[1].retry"),
        ("handler: h, decision_point: true, type: standard", "steps[1].type"),
        ("handler: h, retry: {initial_delay: 1, backoff_base_ms: 999}", "steps[1].retry.backoff_base_ms"),
    ],
)
def test_spellings_that_contradict(keys: str, path: str) -> None:
    _, problems = check_template(f"name: t\nsteps:\n{FIRST}- {{name: s, {keys}}}\n")
    (problem,) = [each for each in problems if each.severity == "error" and "spellings" in each.message]
    assert (problem.code, problem.path, problem.line) == ("BAD_VALUE", path, 4)


@pytest.mark.parametrize(
    ("keys", "handler"),
    [
        ("wait_for_signal: {name: approved, timeout_seconds: 60}", SIGNAL_HANDLER),
        (
            "child_task: {name: refund, namespace: billing, version: 1.2, parent_close: abandon}",
            CHILD_TASK_HANDLER,
        ),
    ],
)
def test_steps_that_run_no_handler(keys: str, handler: str) -> None:
    waiting = step(f"depends_on: first, {keys}")
    assert waiting.handler.callable == handler
    if waiting.child_task is not None:
        assert waiting.child_task.version == "1.2.0"


@pytest.mark.parametrize("default", ["false", "0", "''", "{}", "[]", "0.0", "{a: ~}", "[~]", "no", "7"])
def test_every_default_of_a_signal_but_null_is_kept(default: str) -> None:
    waiting = template(f"name: t\nsteps:\n- {{name: s, wait_for_signal: {{name: go, default: {default}}}}}")
    (canonical,) = waiting.canonical()["steps"]
    expected = {"false": False, "0": 0, "''": "", "{}": {}, "[]": [], "0.0": 0.0, "{a: ~}": {"a": None}}
    expected |= {"[~]": [None], "no": "no", "7": 7}
    value = canonical["wait_for_signal"]["default"]
    assert value == expected[default]
    assert type(value) is type(expected[default])
    again = template(waiting.canonical_json().decode())
    assert again.content_hash() == waiting.content_hash()


def test_a_default_of_null_is_none() -> None:
    text = "name: t\nsteps:\n- {name: s, wait_for_signal: {name: go%s}}"
    without = template(text % "")
    assert template(text % ", default: ~").content_hash() == without.content_hash()
    assert without.canonical()["steps"][0]["wait_for_signal"] == {"name": "go"}


def test_batches_are_isolated_unless_said_otherwise() -> None:
    text = (
        "name: t\nsteps:\n- {name: a, handler: h, type: batchable, batch_config: {failure_strategy: %s}}\n"
        "- {name: w, handler: h, type: batch_worker, depends_on: a}\n"
    )
    assert "batch_config" in template(text % "fail_fast").canonical()["steps"][0]
    config = template(text % "~").steps[0].batch_config
    assert config is not None
    assert config.failure_strategy == "isolate"
    problem = only_problem(text % "isolated")
    assert (problem.path, problem.hint) == (
        "steps[0].batch_config.failure_strategy",
        "did you mean 'isolate'?",
    )


def test_lifecycle_in_minutes() -> None:
    lifecycle = template(
        "name: t\nsteps: [{name: a, handler: h}]\nlifecycle: {max_duration_minutes: 2, max_waiting_for_retry_seconds: 9}"
    ).lifecycle
    assert lifecycle is not None
    assert (lifecycle.max_duration_seconds, lifecycle.max_waiting_for_retry_seconds) == (120, 9)


CHILD_CONTEXT: dict[str, Any] = {"a": 1, "b": [{"paid": "${steps.pay.amount}"}, None], "id": "${context.id}"}
FULL: dict[str, Any] = {
    "namespace": "shop",
    "name": "everything",
    "version": "2.1.0-rc.1",
    "description": "one of each",
    "input_schema": {"type": "object", "properties": {"id": {"type": "string", "default": None}}},
    "metadata": {"team": "a", "list": [1, 2.5, None, True, {"x": "ü"}]},
    "lifecycle": {"max_duration_seconds": 60.0, "staleness_action": "alert"},
    "domain_events": [{"name": "order.paid", "description": "d", "payload_schema": {"type": "object"}}],
    "identity_strategy": "strict",
    "concurrency": {"key": "customer.id", "limit": 2},
    "on_failure": "fail",
    "max_retry_after_ms": 5,
    "environments": {
        "test": {
            "steps": [{"name": "ALL", "retry": {"max_attempts": 3}}, {"name": "pay", "queue": "slow"}],
            "metadata": {"team": "b"},
            "lifecycle": {"staleness_action": "dlq"},
            "concurrency": {"limit": 9},
            "on_failure": "compensate",
            "max_retry_after_ms": 7,
        }
    },
    "steps": [
        {
            "name": "split",
            "type": "batchable",
            "handler": {"callable": "a", "method": "run", "resolver": "r", "initialization": {"k": None}},
            "batch_config": {
                "worker_template": "work",
                "batch_size": 10,
                "parallelism": 2,
                "cursor_field": "a.b",
                "checkpoint_interval": 5,
                "failure_strategy": "fail_fast",
            },
        },
        {"name": "work", "type": "batch_worker", "handler": {"callable": "b"}, "dependencies": ["split"]},
        {
            "name": "merge",
            "type": "deferred_convergence",
            "handler": {"callable": "c"},
            "dependencies": ["work"],
        },
        {"name": "choose", "type": "decision", "handler": {"callable": "d"}, "dependencies": ["merge"]},
        {
            "name": "pay",
            "description": "charge",
            "handler": {"callable": "A::B"},
            "dependencies": ["choose"],
            "retry": {
                "max_attempts": 9,
                "retryable": False,
                "backoff": "fibonacci",
                "backoff_base_ms": 1,
                "max_backoff_ms": 2,
                "jitter": 0.5,
            },
            "timeout_seconds": 1.5,
            "publishes_events": [{"name": "order.paid", "condition": "always"}],
            "result_schema": {"type": "object"},
            "compensation": {
                "handler": {"callable": "undo"},
                "retry": {"max_attempts": 2},
                "timeout_seconds": 3.0,
            },
            "circuit_breaker": {
                "failure_threshold": 2,
                "window_seconds": 1.0,
                "open_seconds": 2.0,
                "half_open_max": 3,
            },
            "system_dependency": "gateway",
            "queue": "money",
            "skippable": True,
            "concurrency": {"limit": 1},
        },
        {
            "name": "wait",
            "handler": {"callable": SIGNAL_HANDLER},
            "dependencies": ["pay"],
            "wait_for_signal": {
                "name": "go",
                "timeout_seconds": 5.0,
                "default": {"approved": False, "by": None},
                "payload_schema": {"type": "object", "properties": {"approved": {"type": "boolean"}}},
            },
        },
        {
            "name": "child",
            "handler": {"callable": CHILD_TASK_HANDLER},
            "dependencies": ["wait"],
            "child_task": {"name": "other", "namespace": "n", "version": "1.0.0", "context": CHILD_CONTEXT},
        },
    ],
}


def test_every_key_survives() -> None:
    """Nothing of a template that uses every key is lost or changed."""
    loaded = load_template(TaskTemplate.model_validate(FULL).canonical_json())
    assert loaded.warnings == ()
    assert loaded.template.canonical() == FULL
    used = {key for each in FULL["steps"] for key in each}
    assert used == set(StepTemplate.model_fields)
    assert set(FULL) == set(TaskTemplate.model_fields)
