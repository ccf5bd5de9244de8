"""Gates whose shards belong to the process of their tasks: nothing of what they say goes through JetStream."""

from __future__ import annotations

from collections import Counter

import pytest
from nats.aio.msg import Msg

from stepweave_schemas import subjects
from stepweave_schemas.gate import slots_id

from .conftest import WAIT_SECONDS, noop, running_system, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "home"
TASKS_COUNT = 60


async def test_one_process_talks_to_itself_also_where_nothing_has_room(
    module_database_url: str, module_nats_url: str
) -> None:
    sent: list[str] = []

    def hear(message: Msg) -> None:
        sent.append(message.subject)

    # So little room that the owner waits for the publisher again and again, and never the other way round.
    bounds = {"publish_backlog_events_max": 4, "rates_by_namespace": {NAMESPACE: 1_000.0}}
    async with running_system(module_database_url, module_nats_url, **bounds) as system:
        step = {"name": "only", "handler": "noop", "concurrency": {"key": "customer", "limit": 2}}
        await system.register(template("orders", [step], namespace=NAMESPACE))
        subscription = await system.connection.subscribe(f"{subjects.COMMAND_PREFIX}>", hear)
        async with system.worker(noop, namespace=NAMESPACE):
            requests = [
                {"name": "orders", "namespace": NAMESPACE, "context": {"customer": "ada"}}
                for _ in range(TASKS_COUNT)
            ]
            created = await system.client.create_tasks(requests, timeout_seconds=WAIT_SECONDS)
            for answer in created:
                assert answer.task_uuid is not None, answer.error
                await system.wait(answer.task_uuid)
        await system.all_taken()
        await subscription.unsubscribe()
        assert sent == []
        counted = Counter(await system.types(slots_id(NAMESPACE, "customer", '"ada"')))
        assert counted["slots.granted"] == counted["slots.freed"] == TASKS_COUNT
