"""How long an operator waits for dispatches to be removed."""

from __future__ import annotations

import asyncio

import pytest

from stepweave_orchestrator.runtime import withdrawals
from stepweave_orchestrator.runtime.withdrawals import removed


async def test_many_removals_at_a_silent_server_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawals, "REMOVAL_SECONDS_MAX", 0.01)
    loop = asyncio.get_running_loop()
    removals: list[asyncio.Future[None]] = [loop.create_future() for _ in range(1_000)]
    removals[0].set_result(None)
    await asyncio.wait_for(removed(removals), 10)
    assert sum(removal.done() for removal in removals) == 1, "the others go on by themselves"
    assert not any(removal.cancelled() for removal in removals)


async def test_nothing_to_remove() -> None:
    await removed([])
