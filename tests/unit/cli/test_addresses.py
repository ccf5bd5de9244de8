"""Where commands look for servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepweave_orchestrator.cli.addresses import (
    DEFAULT_NATS_URL,
    DevAddresses,
    announced_dev,
    check_database_address,
    check_nats_address,
    database_address,
    nats_address,
    running_dev,
    without_secrets,
)
from stepweave_orchestrator.cli.errors import CommandError, ExitCode

DEV = DevAddresses("nats://dev", "postgresql://dev")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPWEAVE_DATA_DIR", raising=False)


def test_without_a_running_dev() -> None:
    assert running_dev() is None
    assert nats_address(None) == DEFAULT_NATS_URL
    assert nats_address("nats://given") == "nats://given"
    with pytest.raises(CommandError) as refused:
        database_address(None)
    assert refused.value.code is ExitCode.USAGE


def test_a_running_dev_is_found_and_forgotten() -> None:
    with announced_dev(Path(".data"), DEV) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert running_dev() == DEV
        assert nats_address(None) == DEV.nats_url
        assert database_address(None) == DEV.database_url
        assert nats_address("nats://given") == "nats://given"
    assert running_dev() is None


def test_another_system_is_not_mixed_with_the_dev_of_this_folder() -> None:
    with announced_dev(Path(".data"), DEV):
        assert database_address(None, DEV.nats_url) == DEV.database_url
        assert nats_address(None, DEV.database_url) == DEV.nats_url
        assert nats_address(None, "postgresql://other") == DEFAULT_NATS_URL
        with pytest.raises(CommandError):
            database_address(None, "nats://other")


def test_what_a_killed_dev_left_behind_does_not_count() -> None:
    Path(".data").mkdir()
    Path(".data/dev.json").write_text('{"nats_url": "a", "database_url": "b"}')
    assert running_dev() is None


def test_two_devs_on_one_folder() -> None:
    with (
        announced_dev(Path(".data"), DEV),
        pytest.raises(CommandError) as refused,
        announced_dev(Path(".data"), DEV),
    ):
        pass
    assert refused.value.code is ExitCode.REFUSED


def test_another_folder_by_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWEAVE_DATA_DIR", str(tmp_path / "elsewhere"))
    with announced_dev(tmp_path / "elsewhere", DEV):
        assert running_dev() == DEV
    assert not Path(".data").exists()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://user:pass@host:4222", "nats://user@host:4222"),
        ("nats://host", "nats://host"),
        ("postgresql://u:p%40@h/d", "postgresql://u@h/d"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40@h:5432/d?sslmode=require",
        "postgres://h",
        "postgresql:///d?host=/run/postgresql",
        "postgresql://a:1,b:2/d",
        "postgresql://[::1]:5432/d",
        "postgresql://[::1]/d",
    ],
)
def test_database_addresses_that_are_fine(url: str) -> None:
    check_database_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "nats://h",
        "h",
        "127.0.0.1:4222",
        "tls://u:p@h:1",
        "nats://a:1, b:2,",
        "wss://h/path",
        "nats://[::1]:4222/",
    ],
)
def test_nats_addresses_that_are_fine(url: str) -> None:
    check_nats_address(url)


@pytest.mark.parametrize(
    "url", [" , ", "nats://", "nats//h:1", "nats://h:0", "nats://h:65536", "nats://[::1"]
)
def test_nats_addresses_that_are_malformed(url: str) -> None:
    with pytest.raises(CommandError, match="NATS_URL") as refused:
        check_nats_address(url)
    assert refused.value.code is ExitCode.USAGE
