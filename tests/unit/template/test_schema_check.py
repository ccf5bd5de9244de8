"""JSON Schemas inside templates, with the validator and, in the base install, without."""

from __future__ import annotations

import pytest

from stepweave_schemas.template import check_template, schema_check

STEPS = "steps: [{name: a, handler: h}]\n"


def faults(schema: str) -> list[tuple[str, int | None]]:
    template, problems = check_template(f"name: t\n{STEPS}input_schema:\n{schema}")
    assert (template is None) == bool(problems)
    assert all(problem.code == "SCHEMA_INVALID" for problem in problems)
    return [
        (problem.path.removeprefix("input_schema").removeprefix("."), problem.line) for problem in problems
    ]


BAD = [
    ("  type: objekt", [("type", 4)]),
    ("  type: [string, nothing]", [("type", 4)]),
    ("  properties:\n    a:\n      minimum: low", [("properties.a.minimum", 6)]),
    ("  properties: [a]", [("properties", 4)]),
    ("  properties:\n    a: 5", [("properties.a", 5)]),
    ("  required: a", [("required", 4)]),
    ("  items:\n    maxItems: -1\n    minLength: 1.5", [("items.maxItems", 5), ("items.minLength", 6)]),
    ("  anyOf: []", [("anyOf", 4)]),
    ("  anyOf:\n  - {type: string}\n  - {type: strnig}", [("anyOf[1].type", 6)]),
    ("  enum: a", [("enum", 4)]),
    ("  pattern: 5", [("pattern", 4)]),
    ("  type: objekt\n  required: a", [("type", 4), ("required", 5)]),
]


@pytest.fixture
def base_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_check, "jsonschema_rs", None)


@pytest.mark.parametrize(("schema", "expected"), BAD)
def test_bad_schemas(schema: str, expected: list[tuple[str, int]]) -> None:
    assert faults(schema) == expected


@pytest.mark.usefixtures("base_install")
@pytest.mark.parametrize(("schema", "expected"), BAD)
def test_bad_schemas_without_the_validator(schema: str, expected: list[tuple[str, int]]) -> None:
    assert faults(schema) == expected


GOOD = """\
  $schema: https://json-schema.org/draft/2020-12/schema
  type: object
  required: [id]
  additionalProperties: false
  properties:
    id: {type: [string, "null"], pattern: "^[a-z]+$", minLength: 1}
    items: {type: array, items: {$ref: "#/$defs/item"}, maxItems: 5}
    any: true
  $defs:
    item: {oneOf: [{type: integer, minimum: 0}, {enum: [null, x]}]}
"""


def test_a_good_schema() -> None:
    assert faults(GOOD) == []


@pytest.mark.usefixtures("base_install")
def test_a_good_schema_without_the_validator() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    "schema",
    [
        "  pattern: '('",
        "  $ref: '#/$defs/nothing'",
        "  $ref: 'https://example.invalid/schema.json'",
        "  $ref: 'file:///etc/hostname'",
        "  $schema: 'https://example.invalid/dialect'",
        "  $schema: 'http://json-schema.org/draft-07/schema#'\n  type: objekt",
    ],
)
def test_what_only_the_validator_sees(schema: str) -> None:
    """Nothing is fetched: a reference to the outside is a fault."""
    assert len(faults(schema)) == 1


def test_schemas_everywhere() -> None:
    text = (
        "name: t\ndomain_events: [{name: e, schema: {type: x}}]\n"
        "steps:\n- {name: a, handler: h, result_schema: {type: x}, publishes_events: [{name: e, schema: {type: x}}]}\n"
        "- {name: b, depends_on: a, wait_for_signal: {name: go, timeout_seconds: 9, payload_schema: {type: x}, default: 5}}\n"
    )
    _, problems = check_template(text)
    assert [(problem.code, problem.path) for problem in problems] == [
        ("SCHEMA_INVALID", "domain_events[0].schema.type"),
        ("SCHEMA_INVALID", "steps[0].result_schema.type"),
        ("SCHEMA_INVALID", "steps[0].publishes_events[0].schema.type"),
        ("SCHEMA_INVALID", "steps[1].wait_for_signal.payload_schema.type"),
    ]


SIGNAL = """\
name: t
steps:
- name: a
  wait_for_signal:
    name: go
    payload_schema:
      type: object
      required: [approved]
      properties:
        approved: {type: boolean}
        notes: {type: array, items: {type: string}}
    default:
"""
#: What a default is for.
TIME_OUT = "    timeout_seconds: 9\n"


def unfit(default: str) -> list[tuple[str, int | None]]:
    template, problems = check_template(SIGNAL + default + TIME_OUT)
    assert (template is None) == bool(problems)
    assert all(problem.code == "BAD_VALUE" for problem in problems)
    assert all("the default does not fit payload_schema: " in problem.message for problem in problems)
    way = "steps[0].wait_for_signal.default"
    return [(problem.path.removeprefix(way).removeprefix("."), problem.line) for problem in problems]


def test_a_default_fits_the_schema_of_the_payload() -> None:
    assert unfit("      approved: false\n") == []
    assert unfit("      approved: 1\n      notes:\n      - a\n      - 5\n") == [
        ("approved", 13),
        ("notes[1]", 16),
    ]
    assert unfit("      {}\n") == [("", 12)]
    assert unfit("      false\n") == [("", 12)]


@pytest.mark.usefixtures("base_install")
def test_a_default_is_not_compared_without_the_validator() -> None:
    assert unfit("      approved: 1\n") == []


def test_messages_about_defaults_are_bounded() -> None:
    notes = "".join(f"      - {number}\n" for number in range(1_000))
    _, problems = check_template(SIGNAL + "      approved: true\n      notes:\n" + notes + TIME_OUT)
    assert len(problems) == 20
    _, problems = check_template(SIGNAL + f"      {'x' * 10_000}\n" + TIME_OUT)
    assert [len(problem.message) < 500 for problem in problems] == [True]
