"""What templates may say of domain events and of results."""

from __future__ import annotations

import pytest

from stepweave_schemas.template import check_template, load_template
from stepweave_schemas.template.value_checks import ValueChecks

HEAD = "name: t\nsteps:\n- name: a\n  handler: h\n"


def test_every_spelling_loads() -> None:
    text = HEAD + (
        "  publishes_events:\n"
        "  - order.paid\n"
        "  - {name: order.failed, condition: permanent_failure, delivery_mode: fast, schema: {type: object}}\n"
        "  - {name: order-2.x_y, payload: handler, delivery: durable, payload_schema: {}, description: d}\n"
        "domain_events: [stock.low, {name: stock.gone, delivery: fast}]\n"
    )
    template = load_template(text).template
    paid, failed, third = template.steps[0].publishes_events
    assert (paid.name, paid.condition, paid.payload, paid.delivery) == (
        "order.paid",
        "success",
        "outcome",
        None,
    )
    assert (failed.condition, failed.delivery) == ("permanent_failure", "fast")
    assert failed.payload_schema == {"type": "object"}
    assert (third.payload, third.delivery, third.payload_schema) == ("handler", "durable", {})
    assert [event.name for event in template.domain_events] == ["stock.low", "stock.gone"]
    assert load_template(template.canonical_json()).template == template


@pytest.mark.parametrize(
    ("text", "code", "path", "line"),
    [
        ("  publishes_events: [{name: order..paid}]\n", "BAD_VALUE", "publishes_events[0].name", 5),
        ("  publishes_events: [order.paid.]\n", "BAD_VALUE", "publishes_events[0]", 5),
        ("  publishes_events: [{name: published}]\n", "BAD_VALUE", "publishes_events[0].name", 5),
        ("  publishes_events: [a, b, a]\n", "BAD_VALUE", "publishes_events[2]", 5),
        (
            "  publishes_events: [{name: a, condition: sometimes}]\n",
            "BAD_VALUE",
            "publishes_events[0].condition",
            5,
        ),
        ("  publishes_events: [{name: a, delivery: slow}]\n", "BAD_VALUE", "publishes_events[0].delivery", 5),
        ("  publishes_events: [{name: a, payload: mine}]\n", "BAD_VALUE", "publishes_events[0].payload", 5),
        ("  publishes_events: [{name: a, when: b}]\n", "UNKNOWN_KEY", "publishes_events[0].when", 5),
        (
            "  publishes_events:\n  - name: a\n    schema:\n      type: strnig\n",
            "SCHEMA_INVALID",
            "publishes_events[0].schema.type",
            8,
        ),
        (
            "  result_schema:\n    properties:\n      a: {minimum: low}\n",
            "SCHEMA_INVALID",
            "result_schema.properties.a.minimum",
            7,
        ),
        ("  result_schema: {$ref: 'http://elsewhere/x'}\n", "SCHEMA_INVALID", "result_schema", 5),
    ],
)
def test_faults_have_a_line_and_a_path(text: str, code: str, path: str, line: int) -> None:
    template, problems = check_template(HEAD + text)
    assert template is None
    assert [(each.code, each.path, each.line) for each in problems] == [(code, f"steps[0].{path}", line)]


def test_those_of_the_workflow_are_checked_too() -> None:
    _, problems = check_template(HEAD + "domain_events: [a, {name: b, schema: {type: x}}, a]\n")
    assert {(each.code, each.path) for each in problems} == {
        ("BAD_VALUE", "domain_events[2]"),
        ("SCHEMA_INVALID", "domain_events[1].schema.type"),
    }


def test_a_step_without_a_handler_publishes_by_itself_only() -> None:
    text = "name: t\nsteps:\n- name: a\n  wait_for_signal: {name: go}\n  publishes_events: [{name: x, payload: handler}]\n"
    _, problems = check_template(text)
    assert [(each.code, each.path, each.line) for each in problems] == [
        ("BAD_VALUE", "steps[0].publishes_events[0].payload", 5)
    ]


def test_a_default_has_to_fit_the_result_schema() -> None:
    text = (
        "name: t\nsteps:\n- name: a\n  wait_for_signal: {name: go, timeout_seconds: 1, default: {ok: 1}}\n"
        "  result_schema: {properties: {ok: {type: boolean}}}\n"
    )
    template, problems = check_template(text)
    assert template is None
    assert [(each.code, each.path, each.line) for each in problems] == [
        ("BAD_VALUE", "steps[0].wait_for_signal.default.ok", 4)
    ]


def test_a_signal_has_to_fit_the_result_schema_of_its_step() -> None:
    text = HEAD.replace("handler: h", "wait_for_signal: {name: go, payload_schema: {type: object}}")
    template = load_template(text + "  result_schema: {required: [ok]}\n").template
    checks = ValueChecks(template.canonical())
    assert checks.of_signal("a", {"ok": 1}) == []
    assert [each["pointer"] for each in checks.of_signal("a", 7)] == [""]
    assert "ok" in checks.of_signal("a", {})[0]["message"]
