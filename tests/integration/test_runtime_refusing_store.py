"""A store that answers and refuses: what waits for it is not lost, and goes on when it takes events again."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from stepweave_orchestrator.core import TaskState, evolve
from stepweave_schemas.events import Event, TaskCancelled

from .conftest import System, noop, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON stepweave.events FOR EACH ROW EXECUTE FUNCTION refuse();
"""


async def test_appends_that_the_database_refuses_are_made_later(
    system: System, module_database_url: str
) -> None:
    await system.register(template("refused", namespace="refused"))
    administrator = await asyncpg.connect(module_database_url)
    try:
        await administrator.execute(REFUSE)
        heads = await system.heads()
        creating = asyncio.ensure_future(system.create("refused", namespace="refused"))
        loop = system.orchestrator.owner
        while loop._store_failures < 3:
            await asyncio.sleep(0.01)
        assert await system.heads() == heads
        assert not creating.done()
        await administrator.execute("DROP TRIGGER refuse ON stepweave.events")
        task_id = await creating
    finally:
        await administrator.close()
    async with system.worker(noop, namespace="refused"):
        await system.wait(task_id, "complete")
    await system.verify()


async def test_a_fault_of_ours_costs_one_command_and_nothing_else(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    await system.register(template("cursed", namespace="cursed"))

    def cursed(state: TaskState, event: Event, at_ms: int) -> TaskState:
        if isinstance(event, TaskCancelled):
            raise ZeroDivisionError("a fault of ours")
        return evolve(state, event, at_ms)

    monkeypatch.setattr("stepweave_orchestrator.runtime.owner.evolve", cursed)
    task_id, _ = await system.started("cursed", namespace="cursed")
    refused = await system.refusal("task.cancel", {"task_id": task_id})
    assert refused.code == "INTERNAL_ERROR" and "ZeroDivision" not in refused.message
    assert (await system.task(task_id))["status"] == "steps_in_process"
    await system.proves_itself()
    monkeypatch.undo()
    assert (await system.request("task.cancel", {"task_id": task_id}))["status"] == "cancelled"
