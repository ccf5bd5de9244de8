"""Where commands look for servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepweave_orchestrator.cli.addresses import (
    DEFAULT_NATS_URL,
    DevAddresses,
    announced_dev,
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
