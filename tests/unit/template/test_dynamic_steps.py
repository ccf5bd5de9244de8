"""The rules of steps that create steps, wait, or start other tasks."""

from __future__ import annotations

import pytest

from stepweave_schemas.template import Problem, check_template, load_template


def text(*lines: str, more: str = "") -> str:
    """A template whose steps are these lines: the first on line 3."""
    return "name: t\nsteps:\n" + "".join(f"- {{{line}}}\n" for line in lines) + more


def problems(*lines: str, more: str = "") -> tuple[Problem, ...]:
    return check_template(text(*lines, more=more))[1]


def found(*lines: str, more: str = "") -> list[tuple[str, str, int | None, str]]:
    return [(each.code, each.path, each.line, each.severity) for each in problems(*lines, more=more)]


SPLIT = "name: split, handler: h, type: batchable"
CHOOSE = "name: choose, handler: h, type: decision"
ONE = "name: one, handler: h, depends_on: choose"
TWO = "name: two, handler: h, depends_on: choose"


# -- batches ---------------------------------------------------------------------------------------


def test_a_worker_has_one_batchable_step() -> None:
    other = "name: other, handler: h, type: batchable"
    lines = [SPLIT, other, "name: work, handler: h, type: batch_worker, depends_on: [split, other]"]
    (problem,) = problems(*lines)
    assert (problem.code, problem.path, problem.line) == ("BAD_VALUE", "steps[2].depends_on", 5)
    assert "depends on 2: 'split', 'other'" in problem.message


def test_a_worker_may_need_other_steps_too() -> None:
    assert (
        found(
            "name: open, handler: h",
            SPLIT,
            "name: work, handler: h, type: batch_worker, depends_on: [open, split]",
        )
        == []
    )


@pytest.mark.parametrize("config", ["", ", batch_config: {worker_template: fast}"])
def test_a_batchable_step_may_have_several_workers(config: str) -> None:
    workers = (
        f"name: {name}, handler: h, type: batch_worker, depends_on: split" for name in ("fast", "slow")
    )
    assert found(SPLIT + config, *workers) == []


@pytest.mark.parametrize("name", ["work_001", "work_099", "work_999", "work_1000", "work_10000"])
@pytest.mark.parametrize("kind", ["standard", "batch_worker"])
def test_names_of_batches_are_taken(name: str, kind: str) -> None:
    lines = [
        SPLIT,
        "name: work, handler: h, type: batch_worker, depends_on: split",
        f"name: {name}, handler: h, depends_on: split, type: {kind}",
    ]
    (problem,) = problems(*lines)
    assert (problem.code, problem.path, problem.line) == ("DUPLICATE_STEP_NAME", "steps[2].name", 5)
    assert problem.message == f"{name!r} is what a batch of 'work' is called"


@pytest.mark.parametrize(
    "name", ["work_1", "work_01", "work_000", "work_0001", "work_001x", "work001", "split_001"]
)
def test_names_that_no_batch_has(name: str) -> None:
    lines = [
        SPLIT,
        "name: work, handler: h, type: batch_worker, depends_on: split",
        f"name: {name}, handler: h, depends_on: work",
    ]
    assert found(*lines) == []


# -- decisions -------------------------------------------------------------------------------------


JOIN_WARNING = "it needs 'one' and 'two', so it runs only where 'choose' takes both branches"


@pytest.mark.parametrize(
    "behind",
    [
        ["name: join, handler: h, depends_on: [one, two]"],
        ["name: join, handler: h, depends_on: [two, one]"],
        ["name: after, handler: h, depends_on: one", "name: join, handler: h, depends_on: [after, two]"],
        [
            "name: join, handler: h, type: decision, depends_on: [one, two]",
            "name: x, handler: h, depends_on: join",
        ],
        ["name: join, depends_on: [one, two], wait_for_signal: {name: go}"],
    ],
)
def test_a_step_that_needs_two_branches_is_a_warning(behind: list[str]) -> None:
    loaded = load_template(text(CHOOSE, ONE, TWO, *behind))
    (warning,) = loaded.warnings
    assert (warning.code, warning.severity) == ("DECISION_TARGET_INVALID", "warning")
    assert warning.path.endswith(".depends_on")
    assert "takes both branches" in warning.message
    assert warning.hint == "add `type: deferred_convergence` to wait for those that are taken"


def test_the_branches_are_named_once() -> None:
    three = "name: three, handler: h, depends_on: choose"
    (warning,) = problems(CHOOSE, ONE, TWO, three, "name: join, handler: h, depends_on: [one, two, three]")
    assert warning.message == JOIN_WARNING


@pytest.mark.parametrize(
    "behind",
    [
        ["name: join, handler: h, type: deferred, depends_on: [one, two]"],
        # One more branch: it waits for those of its dependencies that exist.
        ["name: join, handler: h, depends_on: [choose, one, two]"],
        ["name: join, handler: h, depends_on: [one]", "name: end, handler: h, depends_on: [join, one]"],
        # Each behind a convergence of its own.
        [
            "name: a, handler: h, type: deferred, depends_on: one",
            "name: b, handler: h, type: deferred, depends_on: two",
            "name: join, handler: h, depends_on: [a, b]",
        ],
    ],
)
def test_other_joins_are_none(behind: list[str]) -> None:
    assert found(CHOOSE, ONE, TWO, *behind) == []


def test_branches_of_different_decisions_may_meet() -> None:
    other = "name: other, handler: h, type: decision"
    assert (
        found(
            CHOOSE,
            other,
            ONE,
            "name: b, handler: h, depends_on: other",
            "name: join, handler: h, depends_on: [one, b]",
        )
        == []
    )


# -- steps without a handler -----------------------------------------------------------------------


def test_two_steps_may_wait_for_the_same_signal() -> None:
    assert (
        found("name: a, wait_for_signal: {name: go}", "name: b, depends_on: a, wait_for_signal: {name: go}")
        == []
    )


@pytest.mark.parametrize(
    "keys",
    ["wait_for_signal: {name: go}", "child_task: {name: other}", "child_task: {name: other}, queue: q"],
)
def test_they_may_be_undone(keys: str) -> None:
    assert found(f"name: a, {keys}, compensation: {{handler: undo}}") == []


@pytest.mark.parametrize(
    ("keys", "path", "hint"),
    [
        (
            "wait_for_signal: {name: go, timeout_seconds: 5}, timeout_seconds: 5",
            "timeout_seconds",
            "take it out",
        ),
        (
            "wait_for_signal: {name: go}, timeout_seconds: 5",
            "timeout_seconds",
            "give `wait_for_signal.timeout_seconds` instead",
        ),
        (
            "wait_for_signal: {name: go, default: 5}",
            "wait_for_signal.default",
            "give `wait_for_signal.timeout_seconds`, or take the default out",
        ),
        ("wait_for_signal: {name: go}, retry: {limit: 1}", "retry", "take it out"),
        ("wait_for_signal: {name: go}, queue: q", "queue", "take it out"),
        ("child_task: {name: other}, queue: q", "queue", "take it out"),
    ],
)
def test_keys_that_mean_nothing_for_them_are_warned_about(keys: str, path: str, hint: str) -> None:
    (warning,) = load_template(text(f"name: a, {keys}")).warnings
    assert (warning.code, warning.path, warning.line) == ("IGNORED_KEY", f"steps[0].{path}", 3)
    assert warning.hint == hint


@pytest.mark.parametrize("signal", ["{name: go, timeout_seconds: 9, default: 5}", "{name: go, default: ~}"])
def test_a_default_that_may_be_taken_is_fine(signal: str) -> None:
    assert found(f"name: a, wait_for_signal: {signal}") == []


def test_tries_and_time_of_a_child_count() -> None:
    assert found("name: a, child_task: {name: other}, retry: {limit: 2}, timeout_seconds: 60") == []


def test_overrides_that_mean_nothing_for_them_are_warned_about() -> None:
    more = (
        "environments:\n  test:\n    steps:\n"
        "    - {name: a, handler: h, retry: {limit: 1}, skippable: true}\n"
        "    - {name: b, queue: slow, timeout_seconds: 9}\n"
        "    - {name: ALL, queue: q}\n"
    )
    waiting = ["name: a, wait_for_signal: {name: go}", "name: b, depends_on: a, child_task: {name: other}"]
    assert found(*waiting, more=more) == [
        ("IGNORED_KEY", "environments.test.steps[0].retry", 8, "warning"),
        ("IGNORED_KEY", "environments.test.steps[0].handler", 8, "warning"),
        ("IGNORED_KEY", "environments.test.steps[1].queue", 9, "warning"),
    ]


# -- the contexts of child tasks -------------------------------------------------------------------


def child(context: str, *before: str, needs: str = "b") -> tuple[Problem, ...]:
    """The problems of a child task with this context, behind `a`, `b` and `a.x`; `later` and `aside` are not before it."""
    return problems(
        "name: a, handler: h",
        "name: a.x, handler: h, depends_on: a",
        "name: b, handler: h, depends_on: a.x",
        f"name: child, depends_on: {needs}, child_task: {{name: other, context: {context}}}",
        "name: later, handler: h, depends_on: child",
        "name: aside, handler: h, depends_on: a",
        *before,
    )


@pytest.mark.parametrize(
    "context",
    [
        "{x: '${context.a.b}'}",
        "{x: '${context}'}",
        "{x: '${steps.b}', y: [{z: '${steps.a.x.y.0}'}, '${steps.a.result}']}",
        "{x: 'plain ${HOME} text', y: '$5', z: 'a {b}'}",
    ],
)
def test_good_references(context: str) -> None:
    assert child(context) == ()


@pytest.mark.parametrize(
    "value",
    [
        "${a}",
        "${steps}",
        "${steps.}",
        "${context.a",
        "${context..a}",
        "${ context.a }",
        "${}",
        "no. ${steps.b}",
        "${context.a}${context.b}",
    ],
)
def test_malformed_references(value: str) -> None:
    (problem,) = child(f"{{x: '{value}'}}")
    assert (problem.code, problem.path) == ("BAD_VALUE", "steps[3].child_task.context.x")
    assert problem.message.startswith(f"{value!r} is no reference: a reference ")
    assert problem.hint == "such as ${context.order.id} or ${steps.charge.amount}"


def test_a_reference_to_no_step() -> None:
    (problem,) = child("{x: '${steps.latter.amount}'}")
    assert (problem.code, problem.message) == (
        "MISSING_DEP_REF",
        "'${steps.latter.amount}' names no step of this template",
    )
    assert problem.hint == "did you mean 'later'?"


@pytest.mark.parametrize("name", ["later", "aside"])
def test_a_reference_to_a_step_that_does_not_come_before(name: str) -> None:
    (problem,) = child(f"{{x: '${{steps.{name}.amount}}'}}")
    assert problem.code == "MISSING_DEP_REF"
    assert problem.message == f"{name!r} does not come before this step, so there may be no result yet"
    assert problem.hint == f"add {name!r} to the dependencies of this step"


def test_a_reference_to_itself() -> None:
    (problem,) = child("{x: '${steps.child}'}")
    assert (problem.code, problem.message) == ("MISSING_DEP_REF", "a step cannot refer to its own result")


def test_a_reference_to_the_template_of_batches() -> None:
    (problem,) = problems(
        SPLIT,
        "name: work, handler: h, type: batch_worker, depends_on: split",
        "name: child, depends_on: work, child_task: {name: other, context: {x: '${steps.work}'}}",
    )
    assert (problem.code, problem.path) == ("MISSING_DEP_REF", "steps[2].child_task.context.x")
    assert problem.message == "'work' is run once for each batch and has no result of its own"


def test_the_longest_name_is_meant() -> None:
    """`a.x` is a step, so `${steps.a.x}` is its result, and no part of that of `a`."""
    (problem,) = child("{y: '${steps.a.x}'}", needs="a")
    assert problem.message.startswith("'a.x' does not come before")
    assert child("{y: '${steps.a.z}'}", needs="a") == ()


def test_references_have_their_own_lines() -> None:
    template, found = check_template(
        "name: t\nsteps:\n- name: child\n  child_task:\n    name: other\n    context:\n      id: ${context.id}\n"
        "      lines:\n      - amount: ${steps.none}\n      - ${context\n"
    )
    assert template is None
    assert [(problem.code, problem.path, problem.line) for problem in found] == [
        ("MISSING_DEP_REF", "steps[0].child_task.context.lines[0].amount", 9),
        ("BAD_VALUE", "steps[0].child_task.context.lines[1]", 10),
    ]


def test_steps_on_a_cycle_are_not_accused_twice() -> None:
    codes = {
        problem.code
        for problem in problems(
            "name: a, handler: h, depends_on: c",
            "name: c, depends_on: a, child_task: {name: other, context: {x: '${steps.a}'}}",
        )
    }
    assert codes == {"CYCLE_DETECTED"}


def test_many_children_with_many_references() -> None:
    count = 4_000
    lines = ["name: s0, handler: h"] + [
        f"name: s{number}, depends_on: s{number - 1}, child_task: {{name: c, context: {{x: '${{steps.s{number // 2}}}'}}}}"
        for number in range(1, count)
    ]
    assert [problem for problem in problems(*lines) if problem.code != "MISSING_DEP_REF"] == []


# -- gates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "gate", "says"),
    [
        (
            "wait_for_signal: {name: go}",
            "concurrency: {limit: 1}",
            "runs nothing whose number could be limited",
        ),
        ("wait_for_signal: {name: go}", "circuit_breaker: {open_seconds: 1}", "calls no service itself"),
        ("child_task: {name: other}", "circuit_breaker: {open_seconds: 1}", "calls no service itself"),
    ],
)
def test_what_runs_nothing_is_held_by_nothing(keys: str, gate: str, says: str) -> None:
    key = gate.partition(":")[0]
    (problem,) = problems("name: first, handler: h", f"name: a, {keys}, depends_on: first, {gate}")
    assert (problem.code, problem.path, problem.line) == ("BAD_VALUE", f"steps[1].{key}", 4)
    assert problem.severity == "error" and says in problem.message and problem.hint
    more = f"environments: {{live: {{steps: [{{name: a, {gate}}}]}}}}\n"
    (problem,) = problems("name: first, handler: h", f"name: a, {keys}, depends_on: first", more=more)
    assert (problem.code, problem.path) == ("BAD_VALUE", f"environments.live.steps[0].{key}")
    assert problem.line == 5


def test_a_child_may_have_slots() -> None:
    assert found("name: a, child_task: {name: other}, concurrency: {key: customer, limit: 2}") == []


def test_gates_for_all_steps_reach_those_that_run_something() -> None:
    gates = "concurrency: {limit: 3}, circuit_breaker: {open_seconds: 5}"
    loaded = load_template(
        text(
            "name: a, handler: h",
            "name: b, depends_on: a, wait_for_signal: {name: go}",
            "name: c, depends_on: a, child_task: {name: other}",
            more=f"environments: {{live: {{steps: [{{name: ALL, {gates}}}]}}}}\n",
        ),
        environment="live",
    )
    steps = loaded.template.canonical()["steps"]
    assert [sorted({"concurrency", "circuit_breaker"} & set(step)) for step in steps] == [
        ["circuit_breaker", "concurrency"],
        [],
        ["concurrency"],
    ]


@pytest.mark.parametrize("key", ["''", "a..b", ".a", "a.", "'a b'", "'a. b'", "5", "[a]", "x" * 300])
def test_a_key_is_a_path(key: str) -> None:
    for line, more, path in (
        (f"name: a, handler: h, concurrency: {{key: {key}, limit: 1}}", "", "steps[0].concurrency.key"),
        ("name: a, handler: h", f"concurrency: {{key: {key}, limit: 1}}\n", "concurrency.key"),
    ):
        (problem,) = problems(line, more=more)
        assert (problem.code, problem.path) == ("BAD_VALUE", path)
        assert problem.line == (4 if more else 3)


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "many", "true"])
def test_a_limit_is_a_number_from_one(limit: str) -> None:
    (problem,) = problems(f"name: a, handler: h, concurrency: {{limit: {limit}}}")
    assert (problem.code, problem.path) == ("BAD_VALUE", "steps[0].concurrency.limit")


@pytest.mark.parametrize(
    "breaker", ["failure_threshold: 0", "window_seconds: 0", "open_seconds: -1", "half_open_max: 0"]
)
def test_a_breaker_s_numbers_are_positive(breaker: str) -> None:
    (problem,) = problems(f"name: a, handler: h, circuit_breaker: {{{breaker}}}")
    assert (problem.code, problem.path) == (
        "BAD_VALUE",
        f"steps[0].circuit_breaker.{breaker.partition(':')[0]}",
    )
