"""Each problem has its code, path and line, and one check finds them all."""

from __future__ import annotations

import pytest

from stepweave_schemas.template import PROBLEM_CODES, Problem, TemplateError, check_template, load_template

HEAD = "name: t\nsteps:\n- name: a\n  handler: h\n"


def found(text: str) -> list[tuple[str, str, int | None, str]]:
    template, problems = check_template(text, "t.yaml")
    assert (template is None) == any(problem.severity == "error" for problem in problems)
    assert all(problem.source == "t.yaml" for problem in problems)
    return [(problem.code, problem.path, problem.line, problem.severity) for problem in problems]


def one(text: str, code: str) -> Problem:
    _, problems = check_template(text, "t.yaml")
    (problem,) = [problem for problem in problems if problem.code == code]
    return problem


CASES = {
    "BAD_YAML": ("name: t\nsteps:\n- name: a\n  handler: *h\n", "", 4),
    "UNKNOWN_KEY": (HEAD + "  retrys: {}\n", "steps[0].retrys", 5),
    "IGNORED_KEY": (HEAD + "concurrent: true\n", "concurrent", 5),
    "BAD_VALUE": (HEAD + "  retry:\n    jitter: 2\n", "steps[0].retry.jitter", 6),
    "SCHEMA_INVALID": (
        HEAD + "input_schema:\n  properties:\n    id:\n      type: strnig\n",
        "input_schema.properties.id.type",
        8,
    ),
    "DUPLICATE_STEP_NAME": (HEAD + "- name: a\n  handler: h\n  depends_on: []\n", "steps[1].name", 5),
    "SELF_DEPENDENCY": (HEAD + "  dependencies:\n  - a\n", "steps[0].dependencies[0]", 6),
    "MISSING_DEP_REF": (HEAD + "  depends_on:\n    - nobody\n", "steps[0].depends_on[0]", 6),
    "CYCLE_DETECTED": (
        HEAD + "  depends_on: b\n- name: b\n  handler: h\n  depends_on_step: a\n",
        "steps[0].depends_on",
        5,
    ),
    "EMPTY_CALLABLE": (HEAD + "- name: b\n  depends_on: a\n  handler: ' '\n", "steps[1].handler", 7),
    "ORPHAN_STEP": (
        HEAD + "- name: b\n  handler: h\n  depends_on: a\n- name: lonely\n  handler: h\n",
        "steps[2]",
        8,
    ),
    "DECISION_TARGET_INVALID": (HEAD + "  type: decision\n", "steps[0]", 3),
    "BATCH_WORKER_MISSING": (HEAD + "  type: batchable\n", "steps[0]", 3),
    "COMPENSATION_INVALID": (
        HEAD + "  compensation:\n    retry: {limit: 1}\n",
        "steps[0].compensation.handler",
        5,
    ),
    "MORE_PROBLEMS": ("\n".join(f"k{number}: 1" for number in range(1_100)), "", None),
}


def test_every_code_has_a_case() -> None:
    # That one needs an environment to be named: see `test_environments`.
    assert set(CASES) == set(PROBLEM_CODES) - {"UNKNOWN_ENVIRONMENT"}


@pytest.mark.parametrize("code", CASES)
def test_code_path_and_line(code: str) -> None:
    text, path, line = CASES[code]
    problem = one(text, code)
    assert (problem.path, problem.line) == (path, line)


def test_all_at_once_in_the_order_of_lines() -> None:
    text = """\
name: two words
versoin: 1.0.0
concurrent: true
input_schema: {type: objekt}
steps:
- name: a
  handler:
    callable: ""
    methode: run
  depends_on: [b, a, bb]
- name: b
  handler: h
  depends_on: a
  retry: {limit: 0, backoff: quick, retryables: true}
- name: b
  handler: h
  circuit_breaker: {failure_treshold: 3}
- name: c
- 7
environments:
  test:
    steps:
    - name: d
      retry: {jitters: 1}
"""
    assert found(text) == [
        ("BAD_VALUE", "name", 1, "error"),
        ("UNKNOWN_KEY", "versoin", 2, "error"),
        ("IGNORED_KEY", "concurrent", 3, "warning"),
        ("SCHEMA_INVALID", "input_schema.type", 4, "error"),
        ("EMPTY_CALLABLE", "steps[0].handler.callable", 8, "error"),
        ("UNKNOWN_KEY", "steps[0].handler.methode", 9, "error"),
        ("SELF_DEPENDENCY", "steps[0].depends_on[1]", 10, "error"),
        ("MISSING_DEP_REF", "steps[0].depends_on[2]", 10, "error"),
        ("CYCLE_DETECTED", "steps[0].depends_on", 10, "error"),
        ("UNKNOWN_KEY", "steps[1].retry.retryables", 14, "error"),
        ("BAD_VALUE", "steps[1].retry.limit", 14, "error"),
        ("BAD_VALUE", "steps[1].retry.backoff", 14, "error"),
        ("DUPLICATE_STEP_NAME", "steps[2].name", 15, "error"),
        ("ORPHAN_STEP", "steps[2]", 15, "warning"),
        ("UNKNOWN_KEY", "steps[2].circuit_breaker.failure_treshold", 17, "error"),
        ("EMPTY_CALLABLE", "steps[3].handler", 18, "error"),
        ("ORPHAN_STEP", "steps[3]", 18, "warning"),
        ("BAD_VALUE", "steps[4]", 19, "error"),
        ("MISSING_DEP_REF", "environments.test.steps[0].name", 23, "error"),
        ("UNKNOWN_KEY", "environments.test.steps[0].retry.jitters", 24, "error"),
    ]


def test_the_error_lists_every_problem() -> None:
    with pytest.raises(TemplateError) as caught:
        load_template(HEAD + "  retrys: {}\n  queue: 5\n", source="shop.yaml")
    assert [problem.line for problem in caught.value.problems] == [5, 6]
    assert str(caught.value).splitlines() == [
        "shop.yaml:5: UNKNOWN_KEY steps[0].retrys: a step has no key 'retrys'; did you mean 'retry'?",
        "shop.yaml:6: BAD_VALUE steps[0].queue: this must be text; found 5; put it in quotes",
    ]


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ("dependson: x", "did you mean 'depends_on'?"),
        ("maxAttempts: 3", None),
        ("max_attempts: 3", "did you mean 'retry.max_attempts'?"),
        ("callable: x", "did you mean 'handler.callable'?"),
        ("retry: {max_atempts: 3}", "did you mean 'max_attempts'?"),
        ("handler_clas: x", "did you mean 'handler_class'?"),
        ("batch_config: {batchsize: 3}", "did you mean 'batch_size'?"),
        ("compensation: {handler: h, retrie: {}}", "did you mean 'retry'?"),
        ("wait_for_signal: {name: a, timeout: 1}", "did you mean 'timeout_seconds'?"),
        ("concurrency: {limits: 1}", "did you mean 'limit'?"),
        ("publishes_events: [{name: a, conditon: always}]", "did you mean 'condition'?"),
        ("child_task: {name: a, contxt: {}}", "did you mean 'context'?"),
        ("qqqqq: 1", None),
    ],
)
def test_unknown_key_names_the_nearest(keys: str, hint: str | None) -> None:
    problem = one(f"name: t\nsteps:\n- {{name: a, handler: h, {keys}}}", "UNKNOWN_KEY")
    if hint is None:
        assert problem.hint is not None
        assert problem.hint.startswith(("known keys: name, ", "did you mean"))
    else:
        assert problem.hint == hint


def test_a_key_that_yaml_1_1_reads_as_a_boolean_is_named_as_written() -> None:
    assert one(HEAD + "on: {}\n", "UNKNOWN_KEY").message == "a template has no key 'on'"


def test_unusual_keys_are_quoted_in_paths() -> None:
    assert one(HEAD + "'a b': 1\n", "UNKNOWN_KEY").path == "['a b']"


def test_missing_dependency_suggests_a_name() -> None:
    problem = one(HEAD + "- {name: bee, handler: h, depends_on: aa}", "MISSING_DEP_REF")
    assert problem.message == "no step is called 'aa'"
    assert problem.hint == "did you mean 'a'?"


def test_cycle_is_named_once_and_from_its_first_step() -> None:
    text = "name: t\nsteps:\n" + "".join(
        f"- {{name: {name}, handler: h, depends_on: [{needs}]}}\n"
        for name, needs in [("behind", "b"), ("a", "c"), ("b", "a"), ("c", "b"), ("x", "y"), ("y", "x")]
    )
    _, problems = check_template(text)
    assert [(problem.message, problem.line) for problem in problems] == [
        ("these steps wait for each other: a -> b -> c -> a", 4),
        ("these steps wait for each other: x -> y -> x", 7),
    ]


def test_a_long_cycle_is_shortened() -> None:
    text = "name: t\nsteps:\n" + "".join(
        f"- {{name: s{number}, handler: h, depends_on: s{(number - 1) % 10_000}}}\n"
        for number in range(10_000)
    )
    message = one(text, "CYCLE_DETECTED").message
    assert "s0 -> s1 ->" in message
    assert "… 9981 more …" in message
    assert message.endswith("s9999 -> s0")
    assert len(message) < 400


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ("handler: 5", "steps[0].handler"),
        ("handler: [h]", "steps[0].handler"),
        ("handler: h, timeout_seconds: 0", "steps[0].timeout_seconds"),
        ("handler: h, timeout_seconds: '30'", "steps[0].timeout_seconds"),
        ("handler: h, retry: {max_attempts: 0}", "steps[0].retry.max_attempts"),
        ("handler: h, retry: {max_attempts: 2.5}", "steps[0].retry.max_attempts"),
        ("handler: h, retry: {max_attempts: true}", "steps[0].retry.max_attempts"),
        ("handler: h, retry: {retryable: 'yes'}", "steps[0].retry.retryable"),
        ("handler: h, retry: {retryable: 1}", "steps[0].retry.retryable"),
        ("handler: h, retry: {initial_delay: soon}", "steps[0].retry.initial_delay"),
        ("handler: h, retry: {initial_delay: 1.0e+308}", "steps[0].retry.initial_delay"),
        ("handler: h, retry: {max_delay: -1}", "steps[0].retry.max_delay"),
        ("handler: h, retry: [1]", "steps[0].retry"),
        ("handler: h, depends_on: {a: b}", "steps[0].depends_on"),
        ("handler: h, depends_on: [~]", "steps[0].depends_on[0]"),
        ("handler: h, type: standart", "steps[0].type"),
        ("handler: h, decision_point: maybe", "steps[0].decision_point"),
        ("handler: h, queue: 'a b'", "steps[0].queue"),
        ("handler: h, publishes_events: x", "steps[0].publishes_events"),
        ("handler: h, publishes_events: [5]", "steps[0].publishes_events[0]"),
        ("handler: h, result_schema: 5", "steps[0].result_schema"),
        ("handler: h, concurrency: {}", "steps[0].concurrency.limit"),
        ("handler: h, concurrency: {limit: 1, key: a..b}", "steps[0].concurrency.key"),
        ("handler: h, batch_config: {batch_size: 1}", "steps[0].batch_config"),
        ("handler: h, metadata: 5", None),
        (r'handler: "a\nb"', "steps[0].handler"),
        ("wait_for_signal: {name: a}, child_task: {name: b}", "steps[0].child_task"),
        ("wait_for_signal: {name: a}, step_type: batchable", "steps[0].step_type"),
    ],
)
def test_bad_values(keys: str, path: str | None) -> None:
    template, problems = check_template(f"name: t\nsteps:\n- {{name: a, {keys}}}")
    assert template is None
    paths = {problem.path for problem in problems if problem.code == "BAD_VALUE"}
    assert paths == ({path} if path is not None else set())


@pytest.mark.parametrize("name", ["", "a b", ".a", "-a", "ä", "a/b", "a:b", "compensate:a", "a" * 256, "ALL"])
def test_step_names_are_bounded(name: str) -> None:
    template, problems = check_template(f"name: t\nsteps: [{{name: '{name}', handler: h}}]")
    assert template is None
    assert [(problem.code, problem.path) for problem in problems] == [("BAD_VALUE", "steps[0].name")]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("name: t\nsteps: []", "steps"),
        ("name: t\nsteps: {a: b}", "steps"),
        ("name: t", "steps"),
        ("name: t\nsteps: ~", "steps"),
        ("steps: [{name: a, handler: h}]", "name"),
        ("name: t\nsteps: [{name: a, handler: h}]\nmetadata: 5", "metadata"),
        ("name: t\nsteps: [{name: a, handler: h}]\nidentity_strategy: loose", "identity_strategy"),
        ("name: t\nsteps: [{name: a, handler: h}]\nenvironments: [test]", "environments"),
        ("name: t\nsteps: [{name: a, handler: h}]\nenvironments: {'a b': {}}", "environments['a b']"),
        ("name: t\nsteps: [{name: a, handler: h}]\nmax_retry_after_ms: -1", "max_retry_after_ms"),
    ],
)
def test_bad_values_of_the_template(text: str, path: str) -> None:
    template, problems = check_template(text)
    assert template is None
    assert [(problem.code, problem.path) for problem in problems] == [("BAD_VALUE", path)]


def test_too_many_steps() -> None:
    steps = ",".join(f"{{name: s{number}, handler: h}}" for number in range(20_001))
    template, problems = check_template(f"name: t\nsteps: [{steps}]")
    assert template is None
    (problem,) = [each for each in problems if each.path == "steps"]
    assert problem.message == "this must be at most 20000 elements; found a list of 20001"


def test_an_orphan_alone_is_only_a_warning() -> None:
    loaded = load_template(CASES["ORPHAN_STEP"][0])
    assert [(problem.code, problem.severity) for problem in loaded.warnings] == [("ORPHAN_STEP", "warning")]
    assert load_template(HEAD).warnings == ()


def steps(*lines: str) -> str:
    return "name: t\nsteps:\n" + "".join(f"- {{{line}}}\n" for line in lines)


def test_a_convergence_without_a_decision_is_a_warning() -> None:
    text = steps("name: a, handler: h", "name: b, handler: h, depends_on: a, type: deferred")
    assert found(text) == [("DECISION_TARGET_INVALID", "steps[1].type", 4, "warning")]


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        (
            [
                "name: a, handler: h, type: batchable, batch_config: {worker_template: work}",
                "name: wirk, handler: h, type: batch_worker, depends_on: a",
            ],
            "steps[0].batch_config.worker_template",
        ),
        (
            [
                "name: a, handler: h, type: batchable, batch_config: {worker_template: work}",
                "name: work, handler: h, depends_on: a",
            ],
            "steps[0].batch_config.worker_template",
        ),
        (["name: a, handler: h", "name: work, handler: h, type: batch_worker, depends_on: a"], "steps[1]"),
    ],
)
def test_batches_need_their_worker(lines: list[str], path: str) -> None:
    _, problems = check_template(steps(*lines))
    assert [(problem.code, problem.path) for problem in problems] == [("BATCH_WORKER_MISSING", path)]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (HEAD + "  compensation: undo\n", "steps[0].compensation"),
        (HEAD + "  compensation: {handler: {method: x}}\n", "steps[0].compensation.handler.callable"),
        (HEAD + "on_failure: compensate\n", "on_failure"),
        (HEAD + "environments: {p: {on_failure: compensate}}\n", "environments.p.on_failure"),
    ],
)
def test_compensations_must_be_able_to_run(text: str, path: str) -> None:
    _, problems = check_template(text)
    assert [(problem.code, problem.path) for problem in problems] == [("COMPENSATION_INVALID", path)]


def test_a_compensation_whose_handler_has_no_name() -> None:
    problem = one(HEAD + "  compensation: {handler: ''}\n", "EMPTY_CALLABLE")
    assert (problem.path, problem.line) == ("steps[0].compensation.handler", 5)


def test_a_handler_beside_a_signal_is_a_warning() -> None:
    text = steps("name: a, handler: h, wait_for_signal: {name: go}")
    assert found(text) == [("IGNORED_KEY", "steps[0].handler", 3, "warning")]


def test_excerpts_of_user_text_are_short() -> None:
    _, problems = check_template("name: t\nsteps: [{name: a, handler: h}]\nqueue" + "e" * 5_000 + ": 1")
    assert all(len(str(problem)) < 1_000 for problem in problems)


def test_problems_are_bounded_and_the_rest_is_counted() -> None:
    _, problems = check_template("\n".join(f"key{number}: 1" for number in range(5_000)))
    assert len(problems) == 1_001
    # `name` and `steps` are missing too.
    assert problems[-1].message == "4,002 more errors are not listed"
