"""A store that answers and refuses: what waits for it is not lost, and goes on when it takes events again."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

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
        owner = system.orchestrator.owner
        while owner._store_failures < 3:
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
