"""What differs between environments, and the canonical form."""

from __future__ import annotations

from stepweave_schemas.template import TEMPLATE_BYTES_MAX, check_template, load_template

TEXT = """\
name: t
metadata: {team: a, limits: {cpu: 1}}
concurrency: {key: user.id, limit: 5}
lifecycle: {staleness_action: alert, max_duration_seconds: 10}
steps:
- name: a
  handler: {callable: h, initialization: {url: live, options: {x: 1, y: 2}}}
  retry: {max_attempts: 5, jitter: 0}
  timeout_seconds: 10
- name: b
  handler: h
  depends_on: a
environments:
  test:
    metadata: {limits: {memory: 2}}
    concurrency: {limit: 1}
    lifecycle: {staleness_action: dlq}
    on_failure: fail
    steps:
    - name: a
      handler_config: {url: test, options: {y: 3}}
      queue: special
    - name: ALL
      retry: {limit: 1}
      queue: slow
      timeout_seconds: 1
    - name: b
      circuit_breaker: {}
  production: {}
"""


def test_overrides_are_merged() -> None:
    template = load_template(TEXT, environment="test").template
    first, second = template.steps
    assert first.handler.callable == "h"
    assert first.handler.initialization == {"url": "test", "options": {"x": 1, "y": 3}}
    assert (first.retry.max_attempts, first.retry.jitter, first.timeout_seconds) == (1, 0, 1)
    assert (second.retry.max_attempts, second.retry.jitter, second.timeout_seconds) == (1, 0.1, 1)
    # The step's own override wins over `ALL`, wherever it stands.
    assert (first.queue, second.queue) == ("special", "slow")
    assert second.circuit_breaker is not None
    assert template.metadata == {"team": "a", "limits": {"cpu": 1, "memory": 2}}
    assert template.concurrency is not None
    assert (template.concurrency.key, template.concurrency.limit) == ("user.id", 1)
    assert template.lifecycle is not None
    assert (template.lifecycle.staleness_action, template.lifecycle.max_duration_seconds) == ("dlq", 10)
    assert template.on_failure == "fail"
    assert template.environments == {}


def test_how_batches_fail_may_differ() -> None:
    text = (
        "name: t\nsteps:\n- {name: a, handler: h, type: batchable, batch_config: {parallelism: 2}}\n"
        "- {name: w, handler: h, type: batch_worker, depends_on: a}\n"
        "environments:\n  test: {steps: [{name: ALL, batch_config: {failure_strategy: fail_fast}}]}\n"
    )
    first, worker = load_template(text, environment="test").template.steps
    assert first.batch_config is not None
    assert (first.batch_config.parallelism, first.batch_config.failure_strategy) == (2, "fail_fast")
    assert worker.batch_config is None


def test_an_environment_without_overrides() -> None:
    plain = load_template(TEXT.split("environments:", maxsplit=1)[0]).template
    for environment in ("production", "elsewhere"):
        assert load_template(TEXT, environment=environment).template == plain


def test_without_an_environment_the_overrides_are_kept() -> None:
    template = load_template(TEXT).template
    assert set(template.environments) == {"test", "production"}
    again = load_template(template.canonical_json()).template
    assert again == template
    assert again.for_environment("test") == load_template(TEXT, environment="test").template
    assert again.content_hash() != again.for_environment("test").content_hash()


def test_errors_in_other_environments_are_found() -> None:
    template, problems = check_template(TEXT + "  broken: {on_failure: maybe}\n", "t.yaml", "test")
    assert template is None
    assert [(problem.path, problem.line) for problem in problems] == [
        ("environments.broken.on_failure", TEXT.count("\n") + 1)
    ]


def test_the_graph_is_the_same_in_every_environment() -> None:
    template, problems = check_template(TEXT.replace("queue: special", "depends_on: []"))
    assert template is None
    assert [(problem.code, problem.path) for problem in problems] == [
        ("UNKNOWN_KEY", "environments.test.steps[0].depends_on")
    ]


def test_the_hash_follows_the_meaning() -> None:
    base = "name: t\nsteps: [{name: a, handler: h}]"
    same = "# a comment\nsteps:\n- handler: {callable: h, method: call}\n  name: a\n  retry: {jitter: 0.1}\nname: t\n"
    other = "name: t\nsteps: [{name: a, handler: h, retry: {jitter: 0.2}}]"
    first = load_template(base).template.content_hash()
    assert first.startswith("sha256:")
    assert len(first) == len("sha256:") + 64
    assert load_template(same).template.content_hash() == first
    assert load_template(other).template.content_hash() != first
    assert load_template(base).template.canonical_json() == (
        b'{"name":"t","namespace":"default","steps":[{"handler":{"callable":"h"},"name":"a"}],"version":"1.0.0"}'
    )


def test_the_canonical_form_is_bounded() -> None:
    half = "x" * (TEMPLATE_BYTES_MAX // 2)
    template, problems = check_template(
        f"name: t\nmetadata: {{a: &half {half}, b: *half}}\nsteps: [{{name: a, handler: h}}]"
    )
    assert template is None
    (problem,) = problems
    assert problem.code == "BAD_VALUE"
    assert "bytes long in its canonical form" in problem.message


BATCHES = """\
name: t
steps:
- {name: split, handler: h, type: batchable, batch_config: {batch_size: 100, worker_template: work}}
- {name: work, handler: h, type: batch_worker, depends_on: split}
environments:
  test:
    steps: [{name: ALL, batch_config: {batch_size: 2}}]
"""


def test_batches_change_for_batchable_steps_only() -> None:
    template = load_template(BATCHES, environment="test").template
    assert template.steps[0].batch_config is not None
    assert template.steps[0].batch_config.batch_size == 2
    assert template.steps[0].batch_config.worker_template == "work"
    assert template.steps[1].batch_config is None
    assert load_template(template.canonical_json()).template == template
    _, problems = check_template(BATCHES.replace("ALL", "work"))
    assert [(problem.code, problem.path, problem.line) for problem in problems] == [
        ("BAD_VALUE", "environments.test.steps[0].batch_config", 7)
    ]


WAITS = """\
name: t
steps:
- name: charge
  handler: h
  compensation: {handler: {callable: undo, initialization: {url: live}}, retry: {max_attempts: 5}}
- {name: approve, depends_on: charge, wait_for_signal: {name: go, timeout_seconds: 60}}
environments:
  test:
    steps:
    - name: ALL
      compensation: {retry: {limit: 1}, timeout_seconds: 2}
      wait_for_signal: {timeout_seconds: 1}
    - name: charge
      compensation: {handler_config: {url: test}}
"""


def test_waits_and_compensations_may_differ() -> None:
    charge, approve = load_template(WAITS, environment="test").template.steps
    assert charge.compensation is not None
    assert charge.compensation.handler.callable == "undo"
    assert charge.compensation.handler.initialization == {"url": "test"}
    assert (charge.compensation.retry.max_attempts, charge.compensation.timeout_seconds) == (1, 2)
    assert approve.wait_for_signal is not None
    assert (approve.wait_for_signal.name, approve.wait_for_signal.timeout_seconds) == ("go", 1)
    assert (charge.wait_for_signal, approve.compensation) == (None, None)
    _, problems = check_template(WAITS.replace("name: ALL", "name: approve"))
    assert [(problem.code, problem.path, problem.line) for problem in problems] == [
        ("BAD_VALUE", "environments.test.steps[0].compensation", 11)
    ]
    _, problems = check_template(WAITS.replace("{timeout_seconds: 1}", "{name: other}"))
    assert [(problem.code, problem.path) for problem in problems] == [
        ("UNKNOWN_KEY", "environments.test.steps[0].wait_for_signal.name")
    ]


def test_an_environment_that_the_template_does_not_name() -> None:
    template, problems = check_template(TEXT, "t.yaml", "prodction")
    assert template is not None
    assert [(problem.code, problem.path, problem.line, problem.severity) for problem in problems] == [
        ("UNKNOWN_ENVIRONMENT", "environments", 13, "warning")
    ]
    assert (problems[0].hint, "test, production" in problems[0].message) == (
        "did you mean 'production'?",
        True,
    )
    # A template that differs nowhere says nothing of environments.
    _, problems = check_template("name: t\nsteps: [{name: a, handler: h}]", "t.yaml", "anything")
    assert problems == ()
