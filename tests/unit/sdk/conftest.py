"""What several tests of the SDK share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.sdk.http_server import HttpServer

from stepweave.api import clients


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    one = HttpServer()
    yield one
    clients.close_clients()
    one.close()
