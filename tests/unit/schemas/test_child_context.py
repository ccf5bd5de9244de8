"""References in the contexts of child tasks: their form, and what they stand for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepweave_schemas.child_context import MISSING, Reference, parse_reference, resolve, texts_in

CONTEXT: dict[str, Any] = {
    "order": {"id": 7, "lines": [{"sku": "a"}, {"sku": "b"}]},
    "none": None,
    "0": "zero",
}
RESULTS: dict[str, Any] = {
    "charge": {"amount": 5, "card": {"last": "42"}},
    "charge.card": "dotted",
    "done": None,
}


def found(value: object) -> tuple[Any, list[str]]:
    return resolve(value, CONTEXT, lambda name: RESULTS.get(name, MISSING), {*RESULTS, "never"})


@pytest.mark.parametrize(
    ("text", "source", "parts"),
    [
        ("${context}", "context", ()),
        ("${context.a}", "context", ("a",)),
        ("${context.a.b-c.0}", "context", ("a", "b-c", "0")),
        ("${steps.a}", "steps", ("a",)),
        ("${steps.a.ü.$}", "steps", ("a", "ü", "$")),
    ],
)
def test_references(text: str, source: str, parts: tuple[str, ...]) -> None:
    assert parse_reference(text) == Reference(text, source, parts)


@pytest.mark.parametrize(
    "text", ["", "a", "$", "{context.a}", "$context.a", "cost: ${price}", "a ${} b", "$ {context}"]
)
def test_plain_text(text: str) -> None:
    assert parse_reference(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "${",
        "${}",
        "${steps}",
        "${contexts.a}",
        "${context.}",
        "${context.a.}",
        "${context..a}",
        "${context.a b}",
        "${context.a}}",
        "${{context.a}}",
        " ${context.a}",
        "${context.a}\n",
        "id ${context.a}",
        "a ${ steps.a",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(ValueError, match="a reference "):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${context}", CONTEXT),
        ("${context.order.id}", 7),
        ("${context.order.lines.1.sku}", "b"),
        ("${context.order.lines}", [{"sku": "a"}, {"sku": "b"}]),
        ("${context.none}", None),
        ("${context.0}", "zero"),
        ("${steps.charge}", {"amount": 5, "card": {"last": "42"}}),
        ("${steps.charge.amount}", 5),
        ("${steps.done}", None),
        # The longest name of a step wins.
        ("${steps.charge.card}", "dotted"),
        ("no reference", "no reference"),
    ],
)
def test_what_they_stand_for(text: str, value: object) -> None:
    assert found(text) == (value, [])


@pytest.mark.parametrize(
    "text",
    [
        "${context.order.nothing}",
        "${context.none.deeper}",
        "${context.order.id.deeper}",
        "${context.order.lines.2}",
        "${context.order.lines.-1}",
        "${context.order.lines.01}",
        "${context.order.lines.9999999999}",
        "${steps.never}",
        "${steps.nobody}",
        "${steps.charge.card.last}",
        "${malformed}",
    ],
)
def test_what_is_missing(text: str) -> None:
    assert found(text) == (MISSING, [text])
    assert found({"a": text, "b": [1, text], "c": {"d": text}}) == ({"b": [1, None], "c": {}}, [text])


def test_everything_else_stays() -> None:
    value = {"a": [1, 2.5, None, True, "x", {"id": "${context.order.id}"}], "b": "${context.gone}", "c": {}}
    expected = {"a": [1, 2.5, None, True, "x", {"id": 7}], "c": {}}
    assert found(value) == (expected, ["${context.gone}"])
    assert value["b"] == "${context.gone}"


def test_where_references_may_stand() -> None:
    value = {"a": "${context.a}", "b": [0, {"c": "x ${y}"}], "${context.key}": 1, "d": "plain"}
    assert list(texts_in(value)) == [(("a",), "${context.a}"), (("b", 1, "c"), "x ${y}")]


def test_a_very_long_reference_is_no_work() -> None:
    text = "${steps" + ".a" * 500_000 + "}"
    assert found(text) == (MISSING, [text])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_values_without_references_stay_as_they_are(value: object) -> None:
    if not any(text.strip().startswith("${") for _, text in texts_in(value)):
        assert found(value) == (value, [])


@given(st.text(st.sampled_from("${}. contexstp0a"), max_size=30))
def test_any_text_is_a_reference_or_plain_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ValueError:
        assert "${" in text
    else:
        assert reference is None or ".".join(["${" + reference.source, *reference.parts]) + "}" == text
