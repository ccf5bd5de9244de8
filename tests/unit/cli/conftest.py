"""Running the command line inside the test process."""

from __future__ import annotations

import pytest

from .typed import Type, typing_here


@pytest.fixture
def stepweave(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type a command; no server is given by the environment."""
    return typing_here(capfd, monkeypatch)
