"""`stepweave bulk` where nothing answers: what is refused before anything is asked."""

from __future__ import annotations

import pytest

from .typed import Type


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "retry", "give-up", "resolve"])
def test_without_a_filter_it_says_how_to_say_which_tasks(stepweave: Type, action: str) -> None:
    answer = stepweave("bulk", action, "--yes", "--nats-url", "nats://127.0.0.1:1")
    assert answer.code == 2
    assert "--created-from or --created-before, or --all for every task" in answer.err
