from __future__ import annotations

import itertools

import pytest

from stepweave_schemas.template import full_version, highest_version, parse_version

#: The example of semantic versioning §11, lowest first.
ORDERED = [
    "0.9.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.2.0",
    "1.10.0",
    "2.0.0",
]


def test_precedence() -> None:
    for lower, higher in itertools.combinations(ORDERED, 2):
        assert parse_version(lower) < parse_version(higher)
        assert parse_version(higher) > parse_version(lower)
    assert [str(parse_version(text)) for text in ORDERED] == ORDERED


@pytest.mark.parametrize(
    ("versions", "highest"),
    [
        ([], None),
        (["1.0.0"], "1.0.0"),
        (["1.2.0", "1.10.0", "2.0.0-rc.1"], "1.10.0"),
        (["1.0.0-alpha", "1.0.0-beta"], "1.0.0-beta"),
        (["1.0.0+a", "1.0.0+b", "1.0.0"], "1.0.0+b"),
    ],
)
def test_highest(versions: list[str], highest: str | None) -> None:
    for order in itertools.permutations(versions):
        assert highest_version(order) == highest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.0",
        "01.0.0",
        "1.0.0-",
        "1.0.0-01",
        "1.0.0+",
        "v1.0.0",
        "1.0.0 ",
        "1.0.0\n",
        "1.0.0-" + "a" * 300,
    ],
)
def test_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="no semantic version"):
        parse_version(text)


@pytest.mark.parametrize(
    ("text", "full"), [("1", "1.0.0"), ("1.10", "1.10.0"), ("1.2.3", "1.2.3"), ("x", "x")]
)
def test_padding(text: str, full: str) -> None:
    assert full_version(text) == full
