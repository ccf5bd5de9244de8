"""What is sent to a task."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stepweave_orchestrator.cli.errors import CommandError, ExitCode
from stepweave_orchestrator.cli.task_input import context_of, moment_of, payload_of
from stepweave_orchestrator.cli.template import parse_reference


@pytest.mark.parametrize(
    ("text", "settings", "context"),
    [
        (None, [], {}),
        ('{"a": 1}', [], {"a": 1}),
        (
            None,
            ["a=1", "b=text", "c=true", "d=null", 'e="7"', "f=[1, 2]"],
            {"a": 1, "b": "text", "c": True, "d": None, "e": "7", "f": [1, 2]},
        ),
        ('{"a": {"b": 1}}', ["a.c=2"], {"a": {"b": 1, "c": 2}}),
        (None, ["a.b.c=x=y"], {"a": {"b": {"c": "x=y"}}}),
        (None, ["name="], {"name": ""}),
    ],
)
def test_context(text: str | None, settings: list[str], context: dict[str, Any]) -> None:
    assert context_of(text, settings) == context


def test_context_from_a_file_and_from_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.json").write_text('{"name": "Zoë"}', "utf-8")
    assert context_of(f"@{tmp_path / 'c.json'}", ["n=1"]) == {"name": "Zoë", "n": 1}
    monkeypatch.setattr("sys.stdin", io.StringIO('{"from": "stdin"}'))
    assert context_of("-", []) == {"from": "stdin"}


@pytest.mark.parametrize(
    ("text", "settings", "code"),
    [
        ("{", [], ExitCode.USAGE),
        ("[1]", [], ExitCode.USAGE),
        ("@nowhere.json", [], ExitCode.NOT_FOUND),
        (None, ["novalue"], ExitCode.USAGE),
        (None, ["=1"], ExitCode.USAGE),
        (None, ["a..b=1"], ExitCode.USAGE),
        ('{"a": 1}', ["a.b=2"], ExitCode.USAGE),
    ],
)
def test_bad_context(text: str | None, settings: list[str], code: ExitCode) -> None:
    with pytest.raises(CommandError) as refused:
        context_of(text, settings)
    assert refused.value.code is code


@pytest.mark.parametrize(
    ("text", "settings", "payload"),
    [
        (None, [], None),
        ("null", [], None),
        ("true", [], True),
        ('"yes"', [], "yes"),
        ("[1, 2]", [], [1, 2]),
        (None, ["approved=true", "by.name=Ada"], {"approved": True, "by": {"name": "Ada"}}),
        ('{"a": 1}', ["b=2"], {"a": 1, "b": 2}),
    ],
)
def test_payload(text: str | None, settings: list[str], payload: Any) -> None:
    assert payload_of(text, settings) == payload


def test_payload_from_a_file_and_from_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.json").write_text("[7]", "utf-8")
    assert payload_of(f"@{tmp_path / 'p.json'}", []) == [7]
    monkeypatch.setattr("sys.stdin", io.StringIO("7"))
    assert payload_of("-", []) == 7


@pytest.mark.parametrize(
    ("text", "settings", "code", "message"),
    [
        ("approved", [], ExitCode.USAGE, "--payload is not JSON"),
        ("@nowhere.json", [], ExitCode.NOT_FOUND, "--payload: there is no file nowhere.json"),
        ("[1]", ["a=1"], ExitCode.USAGE, "--set puts values into an object, this is list"),
        (None, ["novalue"], ExitCode.USAGE, "write key=value"),
        ('{"a": 1}', ["a.b=2"], ExitCode.USAGE, "'a' is not an object in this payload"),
    ],
)
def test_bad_payload(text: str | None, settings: list[str], code: ExitCode, message: str) -> None:
    with pytest.raises(CommandError) as refused:
        payload_of(text, settings)
    assert refused.value.code is code
    assert message in str(refused.value)


def test_moments() -> None:
    assert moment_of("2030-01-31T12:00:00Z", "--start-at") == datetime(2030, 1, 31, 12, tzinfo=UTC)
    now = datetime.now(UTC)
    assert now + timedelta(seconds=89) < moment_of("90s", "--start-at") < now + timedelta(seconds=100)
    assert now + timedelta(hours=1.4) < moment_of("+1.5h", "--start-at") < now + timedelta(hours=1.6)
    assert now - timedelta(days=3) < moment_of("2d", "--from", past=True) < now - timedelta(days=1)
    assert moment_of("250ms", "--start-at") < now + timedelta(seconds=60)


@pytest.mark.parametrize("text", ["soon", "2030-01-31T12:00:00", "10", "-5s", "5 s", ""])
def test_bad_moments(text: str) -> None:
    with pytest.raises(CommandError) as refused:
        moment_of(text, "--start-at")
    assert refused.value.code is ExitCode.USAGE
    assert "--start-at" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("checkout", ("default", "checkout", None)),
        ("shop/checkout", ("shop", "checkout", None)),
        ("shop/checkout:1.2.0", ("shop", "checkout", "1.2.0")),
    ],
)
def test_references(text: str, parts: tuple[str, str, str | None]) -> None:
    assert parse_reference(text) == parts


@pytest.mark.parametrize("text", ["", "/x", "shop/", "a/b/c", "x:", ":1.0.0"])
def test_bad_references(text: str) -> None:
    with pytest.raises(CommandError) as refused:
        parse_reference(text)
    assert refused.value.code is ExitCode.USAGE
