"""Text that is hardly YAML, or not at all: a problem, never an exception, and never much memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from stepweave_schemas.template import TEMPLATE_BYTES_MAX, Problem, check_template, load_template, yaml_lines

STEPS = "steps: [{name: a, handler: h}]\n"


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers of PyYAML: the C one is absent on some machines."""
    loader = getattr(yaml, request.param, None)
    if loader is None:
        pytest.skip("PyYAML was built without its C parser")
    monkeypatch.setattr(yaml_lines, "_Loader", loader)


def refused(text: str | bytes) -> tuple[Problem, ...]:
    template, problems = check_template(text, "t.yaml")
    assert template is None
    return problems


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("", 1, "empty"),
        ("# only a comment\n", 1, "empty"),
        ("name: [t", 1, "flow"),
        ("name: t\nsteps:\n  - a\n b", 4, ""),
        ("name: t\nsteps:\n\t- a", 3, "cannot start any token"),
        ("name: 'open", 1, "quoted scalar"),
        ("name: t\x07", 1, "U+0007"),
        ("name: t\nx: \x00", 2, "U+0000"),
        ("name: t\n---\nname: u", 2, "second document"),
        ("name: *nowhere", 1, "no anchor"),
        ("name: t\nx: &x {a: *x}", 2, "inside its own anchor"),
        (b"name: t\nx: \xff", 2, "byte 0xff"),
        ("name: t\nx: \ud800", 2, "not UTF-8"),
        ("a: " + "[" * 5_000, 1, "deeper than 64"),
        ("a: " + "{a: " * 5_000, 1, "deeper than 64"),
        ("- " * 5_000, 1, "deeper than 64"),
        ('{"a": ' * 100 + "1" + "}" * 100, 1, "deeper than 64"),
    ],
)
def test_unreadable(text: str | bytes, line: int, part: str) -> None:
    (problem,) = refused(text)
    assert problem.code == "BAD_YAML"
    assert problem.line is not None
    # The parsers differ on whether they blame the opening line or the end of the text.
    assert line <= problem.line <= line + 1
    assert part in problem.message


def test_tabs_get_a_hint() -> None:
    assert refused("name: t\nsteps:\n\t- a")[0].hint == "indent with spaces, not with tabs"


def test_too_long() -> None:
    (problem,) = refused("#" * (TEMPLATE_BYTES_MAX + 1))
    assert (problem.code, problem.message) == ("BAD_YAML", f"longer than {TEMPLATE_BYTES_MAX} bytes")


@pytest.mark.parametrize("text", ["a", "5", "[]", "- a", "true"])
def test_no_mapping(text: str) -> None:
    (problem,) = refused(text)
    assert (problem.code, problem.path, problem.line) == ("BAD_VALUE", "", 1)
    assert problem.message.startswith("a template is a mapping of keys")


@pytest.mark.parametrize("joint", ["\n", ", "])
def test_duplicate_keys(joint: str) -> None:
    text = joint.join(["name: t", "steps: [{name: a, handler: h, handler: i}]", "name: u"])
    problems = refused(text if joint == "\n" else f"{{{text}}}")
    assert [(problem.code, problem.path) for problem in problems] == [
        ("BAD_YAML", "steps[0].handler"),
        ("BAD_YAML", "name"),
    ]
    assert [problem.line for problem in problems] == ([2, 3] if joint == "\n" else [1, 1])


def test_aliases_and_merges() -> None:
    text = """\
name: t
metadata: {a: &words [x, y], b: *words}
steps:
- &base
  name: a
  handler: h
  retry: &patient
    max_attempts: 7
    backoff: fixed
- <<: *base
  name: b
  depends_on: a
- name: c
  handler: h
  depends_on: b
  retry:
    <<: [{jitter: 0}, *patient]
    max_attempts: 2
"""
    template = load_template(text).template
    assert template.metadata == {"a": ["x", "y"], "b": ["x", "y"]}
    retry = template.steps[2].retry
    assert (template.steps[1].handler.callable, template.steps[1].retry.max_attempts) == ("h", 7)
    assert (retry.max_attempts, retry.backoff, retry.jitter) == (2, "fixed", 0)


def test_merging_something_else_is_a_problem() -> None:
    problems = refused(f"name: t\n{STEPS}<<: 5\n")
    assert [(problem.code, problem.line) for problem in problems] == [("BAD_YAML", 3)]


def bomb(first: str, follow: str) -> str:
    return f"m0: &m0 {first}\n" + "".join(
        f"m{number}: &m{number} {follow.format(f'*m{number - 1}')}\n" for number in range(1, 60)
    )


@pytest.mark.parametrize(
    "text",
    [
        bomb("[x]", "[{0}, {0}, {0}]"),
        bomb("{a: b}", "{{a: {0}, b: {0}}}"),
        "a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 1_000 + "]",
        "a: &a {"
        + ", ".join(f"k{number}: 1" for number in range(2_000))
        + "}\n"
        + "".join(f"b{number}: {{<<: *a}}\n" for number in range(1_000)),
    ],
)
def test_alias_bombs(text: str) -> None:
    problem = refused(text)[0]
    assert problem.code == "BAD_YAML"
    assert "aliases" in problem.message


def test_aliases_may_not_nest_deeper_than_text() -> None:
    chain = "m0: &m0 [x]\n" + "".join(f"m{number}: &m{number} [*m{number - 1}]\n" for number in range(1, 100))
    assert "deeper than 64" in refused(chain)[0].message


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (".inf", "infinity"),
        ("-.INF", "infinity"),
        (".nan", "NaN"),
        ("1e999", "too large"),
        ("9" * 30, "too large"),
        ("9" * 10_000, "too large"),
        ("0x" + "f" * 17, "too large"),
        ("!!python/name:os.system x", "tag"),
        ("!mine x", "tag"),
        ("!!int x", "no !!int"),
        ("!!binary aGk=", "tag"),
        ("!mine {a: b}", "tag"),
        ("!mine [a]", "tag"),
        (r'"a\0b"', "NUL"),
    ],
)
def test_values_without_a_json_form(value: str, part: str) -> None:
    (problem,) = refused(f"name: t\n{STEPS}metadata:\n  deep:\n  - {value}\n")
    assert (problem.code, problem.path, problem.line) == ("BAD_VALUE", "metadata.deep[0]", 5)
    assert part in problem.message


def test_keys_must_be_text_without_nul() -> None:
    (problem,) = refused(f"name: t\n{STEPS}metadata: {{[a]: b}}\n")
    assert (problem.code, problem.path, problem.line) == ("BAD_YAML", "metadata", 3)
    (problem,) = refused(f'name: t\n{STEPS}metadata: {{"a\\0": b}}\n')
    assert (problem.code, problem.line) == ("BAD_VALUE", 3)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("-5", -5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("True", True),
        ("~", None),
        ("", None),
        ("'~'", "~"),
        ("!!str 1.0", "1.0"),
        ("! 1.0", "1.0"),
        ("!!float 3", 3.0),
        ("!!null ''", None),
        ('"\\u00e4 \\U0001F600"', "ä 😀"),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_scalars_follow_json(written: str, value: Any) -> None:
    metadata = load_template(f"name: t\n{STEPS}metadata:\n  on: {written}\n").template.metadata
    assert metadata == {"on": value}
    assert type(metadata["on"]) is type(value)


def test_json_text() -> None:
    document = {
        "name": "t",
        "metadata": {
            "line separator": "a\u2028b\u0085c\x7f",
            "emoji": "😀",
            "/": "\\u0041",
            "numbers": [1e5, -0.0, 7],
        },
        "steps": [{"name": "a", "handler": "h"}],
    }
    for text in (json.dumps(document), json.dumps(document, ensure_ascii=False, indent="\t")):
        metadata = load_template("\ufeff" + text).template.metadata
        assert metadata == document["metadata"]


def test_json_has_lines_too() -> None:
    text = json.dumps({"name": "t", "steps": [{"name": "a", "handler": "h", "retrys": {}}]}, indent=2)
    (problem,) = refused(text)
    assert (problem.code, problem.path, problem.line) == ("UNKNOWN_KEY", "steps[0].retrys", 7)


def test_half_a_surrogate_pair() -> None:
    (problem,) = refused(
        '{"name": "t", "metadata": {"a": "\\ud800"}, "steps": [{"name": "a", "handler": "h"}]}'
    )
    assert (problem.code, problem.path) == ("BAD_VALUE", "metadata.a")


def test_flow_style_is_no_json() -> None:
    assert load_template("{name: t, steps: [{name: a, handler: h},]}").template.name == "t"
