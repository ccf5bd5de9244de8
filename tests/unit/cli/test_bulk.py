"""`stepweave bulk` where nothing answers: what is refused before anything is asked."""

from __future__ import annotations

import io

import pytest

from stepweave_orchestrator.cli.bulk import _confirm
from stepweave_orchestrator.cli.errors import CommandError
from stepweave_schemas.api import BulkPreview

from .typed import Type


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "retry", "give-up", "resolve"])
def test_without_a_filter_it_says_how_to_say_which_tasks(stepweave: Type, action: str) -> None:
    answer = stepweave("bulk", action, "--yes", "--nats-url", "nats://127.0.0.1:1")
    assert answer.code == 2
    assert "--created-from or --created-before, or --all for every task" in answer.err


def test_it_asks_with_the_number_of_tasks_and_the_time_that_they_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preview = BulkPreview(matching_count=2_000, first=())
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    _confirm("give_up", preview, 10.0, 100_000)
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    with pytest.raises(CommandError, match="nothing was done"):
        _confirm("give_up", preview, 10.0, 600)
    asked = "".join(capsys.readouterr())
    assert "give up 2000 of 2000 task(s), 3 min 20 s at 10 each second?" in asked
    assert "give up 600 of 2000 task(s), 1 min 0 s at 10 each second?" in asked
