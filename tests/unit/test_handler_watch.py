"""Which handlers the workers say they serve."""

from __future__ import annotations

import pytest

from stepweave_orchestrator.runtime.handler_watch import served_handlers
from stepweave_orchestrator.runtime.settings import Settings, SettingsError


def test_what_workers_announce() -> None:
    served = served_handlers(
        [
            {"worker_id": "1", "namespaces": ["a"], "queues": ["x", "y"], "handlers": ["one"]},
            {"worker_id": "2", "namespaces": ["a", "b"], "queues": ["x"], "handlers": ["two"], "running": 3},
            {"worker_id": "3", "namespaces": ["c"], "queues": ["x"], "handlers": ["three"], "resolves": True},
            # In another language, without a list of its handlers.
            {"worker_id": "4", "namespaces": ["d"], "queues": ["x"]},
            # What is none does not get in the way.
            {"worker_id": "5", "namespaces": 7},
            {},
        ]
    )
    assert served.names("a", "x", "one") and served.names("a", "x", "two") and served.names("b", "x", "two")
    assert not served.may_serve("a", "y", "two") and not served.may_serve("b", "y", "two")
    # Who may have more than it names is not taken at its word, but nothing is missing there for sure.
    assert served.may_serve("c", "x", "any") and not served.names("c", "x", "any")
    assert served.may_serve("d", "x", "any") and not served.names("d", "x", "any")
    assert not served_handlers([]).may_serve("a", "x", "one")


def test_the_settings_have_bounds() -> None:
    url = {"DATABASE_URL": "postgresql://localhost/none"}
    given = Settings.from_environment({**url, "STEPWEAVE_HANDLER_MISSING_SECONDS": "1.5"})
    assert given.limits().handler_missing_ms == 1_500
    for name, value in (("HANDLER_CHECK_SECONDS", "0"), ("HANDLER_MISSING_SECONDS", "0")):
        with pytest.raises(SettingsError, match="expected"):
            Settings.from_environment({**url, f"STEPWEAVE_{name}": value})
