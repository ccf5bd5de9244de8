"""Domain events, checked results and environments on real servers: from a template and a handler to a subscriber."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from stepweave import Event, StepContext, Subscriber, step_handler
from stepweave.messaging import Connection
from stepweave.testing import eventually
from stepweave_orchestrator.cli.event_feed import EventFeed
from stepweave_schemas import subjects

from .conftest import WAIT_SECONDS, System, running_system, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "shop"
AMOUNT = {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number"}}}
#: One step that says all there is to say; its settings are another thing in production.
ORDER: dict[str, Any] = {
    "name": "pay",
    "handler": {"callable": "pay", "initialization": {"currency": "XTS"}},
    "publishes_events": [
        {"name": "order.paid", "payload_schema": AMOUNT},
        {"name": "order.shown", "delivery": "fast", "payload": "handler"},
    ],
    "result_schema": AMOUNT,
    "retry": {"max_attempts": 1},
}
ENVIRONMENTS = {"production": {"steps": [{"name": "pay", "handler_config": {"currency": "EUR"}}]}}


@step_handler("pay")
async def pay(context: StepContext) -> dict[str, Any]:
    context.publish_event("order.shown", {"currency": context.get_config("currency")})
    context.publish_event("nobody.declared.it")
    return {"amount": context.get_input("amount")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(module_database_url: str, module_nats_url: str) -> AsyncIterator[System]:
    async with running_system(module_database_url, module_nats_url, environment="production") as running:
        for name in ("order", "by_hand"):
            text = template(name, [ORDER], namespace=NAMESPACE, environments=ENVIRONMENTS)
            registered = await running.register(text)
            assert registered["environment"] == "production"
        yield running


async def signals_of(connection: Connection, task_id: str) -> list[str]:
    """The subjects of a task's domain events on the signal feed, below its id."""
    wanted = {"subjects_filter": f"sw.evt.{NAMESPACE}.*.{task_id}.domain.>"}
    answer = await connection.request(
        f"$JS.API.STREAM.INFO.{subjects.EVT_STREAM}",
        json.dumps(wanted).encode(),
        timeout_seconds=WAIT_SECONDS,
    )
    found = json.loads(answer.data).get("state", {})
    return sorted(one.partition(f"{task_id}.")[2] for one in found.get("subjects") or ())


async def test_from_the_handler_to_the_subscriber(system: System) -> None:
    heard: list[Event] = []
    shown: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
    subscriber = Subscriber("books", nats_url=system.nats_url)

    @subscriber.on("domain.order.paid", namespace=NAMESPACE)
    async def book(event: Event) -> None:
        heard.append(event)

    at_once = await system.connection.subscribe(
        f"sw.now.{NAMESPACE}.order.*.domain.order.shown",
        lambda message: shown.put_nowait((message.subject, json.loads(message.data))),
    )
    async with subscriber, system.worker(pay, namespace=NAMESPACE):
        fields = {"namespace": NAMESPACE, "context": {"amount": 5}, "correlation_id": "cart-7"}
        task_id = await system.create("order", **fields)
        assert (await system.wait(task_id)).status == "complete"
        assert await system.types(task_id) == [
            "task.created",
            "step.enqueued",
            "step.completed",
            "domain.published",
            "step.domain_event_refused",
            "domain.published",
            "task.completed",
        ]

        async def booked() -> bool:
            return bool(heard)

        await eventually(booked, timeout_seconds=WAIT_SECONDS, what="the subscriber's event")
        # Over core NATS the same envelope, for whoever listens.
        subject, envelope = await asyncio.wait_for(shown.get(), WAIT_SECONDS)
    await at_once.drain()
    [event] = heard
    assert (event.name, event.payload, event.step_name) == ("order.paid", {"amount": 5}, "pay")
    assert (event.task_uuid, event.correlation_id) == (task_id, "cart-7")
    assert (event.namespace, event.task_name, event.template_version) == (NAMESPACE, "order", "1.0.0")
    assert subject == f"sw.now.{NAMESPACE}.order.{task_id}.domain.order.shown"
    # The environment's settings reached the handler.
    assert envelope["data"]["payload"] == {"currency": "EUR"}
    assert await signals_of(system.connection, task_id) == ["domain.order.paid", "domain.order.shown"]


@pytest.mark.parametrize("everything", [False, True])
async def test_the_command_line_follows_them_by_name(system: System, everything: bool) -> None:
    task_id, taken = await system.started("by_hand", namespace=NAMESPACE)
    await taken.say("success", result={"amount": 5})
    feed = EventFeed(system.connection, pattern="domain.order.p*", everything=everything, from_start=True)
    async with asyncio.timeout(WAIT_SECONDS), feed:
        async for envelope in feed:
            assert envelope.type == "domain.published"
            assert json.loads(bytes(envelope.data))["name"] == "order.paid"
            if envelope.task_id == task_id:
                break


async def test_a_worker_in_any_language(system: System) -> None:
    task_id, taken = await system.started("by_hand", namespace=NAMESPACE)
    said = [{"name": "order.paid", "payload": {"amount": "much"}}, {"name": "order.shown", "payload": 1}]
    await taken.say("success", result={"amount": 5}, domain_events=said)
    assert (await system.task(task_id))["status"] == "complete"
    history = {record.type: json.loads(record.data) for record in await system.history(task_id)}
    refused = history["step.domain_event_refused"]
    assert (refused["name"], refused["refusal"], refused["worker_id"]) == (
        "order.paid",
        "payload_invalid",
        "by-hand",
    )
    assert "/amount" in refused["message"]
    assert history["domain.published"]["name"] == "order.shown"

    task_id, taken = await system.started("by_hand", namespace=NAMESPACE)
    await taken.say("success", result={"amount": "much"}, domain_events=said)
    # The result comes first: what goes with a success has no place here.
    assert await system.types(task_id) == ["task.created", "step.enqueued", "step.failed", "task.blocked"]
    [step] = (await system.task(task_id))["steps"]
    assert (step["error_type"], step["error_code"]) == ("validation_error", "RESULT_INVALID")
    assert "/amount" in step["error_message"]


async def test_the_feeds_are_built_again_under_the_same_names_and_environments_are_told(
    system: System,
) -> None:
    task_id, taken = await system.started("by_hand", namespace=NAMESPACE)
    await taken.say("success", result={"amount": 5})
    await system.stop_orchestrator(system.orchestrator)
    for stream in (subjects.EVT_STREAM, subjects.LOG_STREAM):
        await system.connection.client.jetstream().delete_stream(stream)
    await system.start_orchestrator(environment="staging")

    async def there_again() -> bool:
        return await signals_of(system.connection, task_id) == ["domain.order.paid"]

    await eventually(there_again, timeout_seconds=WAIT_SECONDS, what="the event on the new signal feed")
    text = template("order", [ORDER], namespace=NAMESPACE, environments=ENVIRONMENTS)
    refused = await system.refusal("template.register", {"content": text})
    assert refused.code == "CONFLICT"
    assert "registered for environment production, this is for environment staging" in refused.message
    # As it was registered, whatever the orchestrator is that answers.
    asked = {"namespace": NAMESPACE, "name": "order", "version": None}
    known = await system.request("template.get", asked)
    assert (known["environment"], "environments" in known["content"]) == ("production", False)
    new = await system.register(template("order", [ORDER], version="2.0.0", environments=ENVIRONMENTS))
    assert [each["code"] for each in new["warnings"]] == ["UNKNOWN_ENVIRONMENT"]
    assert new["environment"] == "staging"
