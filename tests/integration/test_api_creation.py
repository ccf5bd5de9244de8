"""Creating tasks: what is checked, what makes two requests the same, and that nothing half-made is left."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from stepweave import Client
from stepweave.api_errors import BadRequest, Conflict, ValidationFailed
from stepweave.messaging import PayloadTooLarge
from stepweave_schemas.api import CREATE_MANY_MAX, operation_subject
from stepweave_schemas.dispatch import CONTEXT_BYTES_MAX
from stepweave_schemas.identity import shard_of, shard_stream_id, template_stream_id
from stepweave_schemas.mint import uuid7

from .conftest import GOOD_NAMESPACE, SHARDS, Refused, System, json_of, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORDER = {
    "type": "object",
    "required": ["order_id", "amount"],
    "properties": {
        "order_id": {"type": "string", "maxLength": 20},
        "amount": {"type": "number", "exclusiveMinimum": 0},
        "lines": {"type": "array", "items": {"type": "object", "required": ["sku"]}},
        "a/b~c": {"type": "null"},
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def templates(system: System) -> None:
    await system.register(template("order", input_schema=ORDER))
    await system.register(template("free"))
    await system.register(template("strict", identity_strategy="strict"))
    await system.register(template("keyed", identity_strategy="caller_provided"))
    await system.register(template("served", namespace=GOOD_NAMESPACE))
    await system.register(template("unread", namespace="creation"))


# -- the context ---------------------------------------------------------------------------------


async def test_every_violation_is_named_by_its_pointer(system: System) -> None:
    async with system.unharmed():
        context = {"amount": 0, "lines": [{"sku": 1}, {}], "a/b~c": 1}
        refused = await system.refusal("task.create", {"name": "order", "context": context})
        assert refused.code == "VALIDATION_FAILED"
        violations = {one["pointer"]: one["message"] for one in refused.details["violations"]}
        assert violations.keys() == {"", "/amount", "/lines/1", "/a~1b~0c"}
        assert "order_id" in violations[""]
        assert "sku" in violations["/lines/1"]
        with pytest.raises(ValidationFailed) as raised:
            await system.client.create_task("order", context=context)
        assert {one["pointer"] for one in raised.value.violations} == violations.keys()


async def test_violations_of_large_values_still_fit_into_an_answer(system: System) -> None:
    async with system.unharmed():
        context = {"order_id": "x" * 200_000, "amount": 1}
        refused = await system.refusal("task.create", {"name": "order", "context": context})
        [violation] = refused.details["violations"]
        assert violation["pointer"] == "/order_id"
        assert len(violation["message"]) < 1_000
        lines = {"order_id": "o", "amount": 1, "lines": [{} for _ in range(1_000)]}
        refused = await system.refusal("task.create", {"name": "order", "context": lines})
        assert len(refused.details["violations"]) == 50


@pytest.mark.parametrize("context", [[], "text", 1, None, True, [{"order_id": "o"}]])
async def test_a_context_is_an_object(system: System, context: Any) -> None:
    async with system.unharmed():
        refused = await system.refusal("task.create", {"name": "free", "context": context})
        assert (refused.code, refused.message) == ("VALIDATION_FAILED", "context: expected an object")


@pytest.mark.parametrize(
    "context",
    [
        rb'{"a": "\ud800"}',
        rb'{"\udfff": 1}',
        rb'{"a": ["\ud83d x"]}',
        b'{"a": "\xff\xfe"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": 1e999}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 01}',
        b'{"a": "line\nbreak"}',
        b'{"a": 1',
        b'{"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"a": ' + b'{"b":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
        b'{"a": ' + b"1" * 5_000 + b"}",
    ],
    ids=lambda context: context[:24].decode(errors="backslashreplace"),
)
async def test_a_context_that_is_no_sound_json_is_refused(system: System, context: bytes) -> None:
    async with system.unharmed():
        refused = await system.refusal("task.create", b'{"name":"free","context":%b}' % context)
        assert refused.code == "BAD_REQUEST", refused


async def test_odd_but_sound_contexts_come_back_as_they_were(system: System) -> None:
    context = {
        "nul": "a\x00b",
        "k\x00y": 1,
        "": "",
        "emoji": "😀 \u2028",
        "big": 123456789012345678901234567890,
        "small": -0.0,
        "deep": json_of("[" * 300 + "]" * 300),
        "__proto__": {"toString": "x"},
        "type": "task.created",
    }
    task_id, taken = await system.started("unread", namespace="creation", context=context)
    assert (await system.task(task_id))["context"] == context
    assert json_of(taken.dispatch.context) == context
    events = (await system.request("task.events", {"task_id": task_id}))["events"]
    assert events[0]["data"]["context"] == context
    await taken.say("success", result=context)
    assert (await system.task(task_id))["status"] == "complete"
    results = await system.request("task.results", {"task_id": task_id})
    assert results["results"] == {"only": context}


async def test_a_context_has_a_largest_size(system: System) -> None:
    room = CONTEXT_BYTES_MAX - len('{"a":""}')
    async with system.unharmed():
        for size in (room + 1, 300 * 1024, 900 * 1024):
            refused = await system.refusal("task.create", {"name": "free", "context": {"a": "x" * size}})
            assert refused.code == "VALIDATION_FAILED"
            assert str(CONTEXT_BYTES_MAX) in refused.message
    task_id = await system.create("free", context={"a": "x" * room})
    assert len((await system.task(task_id))["context"]["a"]) == room


async def test_ten_megabytes_are_refused_before_they_are_sent(system: System) -> None:
    async with system.unharmed():
        with pytest.raises(BadRequest, match="bytes"):
            await system.client.create_task("free", context={"a": "x" * 10_000_000})
        with pytest.raises(PayloadTooLarge):
            await system.request("task.create", {"name": "free", "context": {"a": "x" * 10_000_000}})
        assert system.connection.connected


async def test_ten_megabytes_sent_all_the_same_cost_their_sender_the_link(system: System) -> None:
    async with system.unharmed():
        host, port = system.nats_url.rpartition("@")[2].removeprefix("nats://").split(":")
        credentials = system.nats_url.removeprefix("nats://").rpartition("@")[0].split(":")
        login = {"verbose": False, "pedantic": False, "lang": "test", "version": "0"}
        if len(credentials) == 2:
            login |= {"user": credentials[0], "pass": credentials[1]}
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            assert (await reader.readline()).startswith(b"INFO")
            subject = operation_subject("task.create").encode()
            writer.write(b"CONNECT %b\r\nPUB %b 10000000\r\n" % (json.dumps(login).encode(), subject))
            async with asyncio.timeout(5):
                said = await reader.read()
            assert b"-ERR 'Maximum Payload Violation'" in said
        finally:
            writer.close()


# -- the other fields ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"surprise": 1}, "BAD_REQUEST", "surprise"),
        ({"name": None}, "BAD_REQUEST", "name"),
        ({"name": 7}, "BAD_REQUEST", "name"),
        ({"priority": 101}, "VALIDATION_FAILED", "priority"),
        ({"priority": -(2**70)}, "VALIDATION_FAILED", "priority"),
        ({"priority": 1.5}, "BAD_REQUEST", "priority"),
        ({"priority": True}, "BAD_REQUEST", "priority"),
        ({"tags": "red"}, "BAD_REQUEST", "tags"),
        ({"tags": [""]}, "VALIDATION_FAILED", "tags"),
        ({"tags": ["a\x00"]}, "VALIDATION_FAILED", "tags"),
        ({"tags": ["t"] * 51}, "VALIDATION_FAILED", "tags"),
        ({"tags": ["t" * 1_025]}, "VALIDATION_FAILED", "tags"),
        ({"task_id": "42"}, "INVALID_UUID", "task_id"),
        ({"task_id": "01A1FAAA-FC38-7014-93B7-FF2310C8A0AA"}, "INVALID_UUID", "task_id"),
        ({"task_id": "01a1faaafc38701493b7ff2310c8a0aa"}, "INVALID_UUID", "task_id"),
        ({"initiator": "\x00"}, "VALIDATION_FAILED", "initiator"),
        ({"reason": "x" * 1_025}, "VALIDATION_FAILED", "reason"),
        ({"correlation_id": "a\x00b"}, "VALIDATION_FAILED", "correlation_id"),
        ({"parent_correlation_id": "\x00"}, "VALIDATION_FAILED", "parent_correlation_id"),
        ({"idempotency_key": "\x00"}, "VALIDATION_FAILED", "idempotency_key"),
        ({"idempotency_key": ""}, "VALIDATION_FAILED", "idempotency_key: it is empty"),
        ({"idempotency_key": " "}, "VALIDATION_FAILED", "idempotency_key: it is empty"),
        ({"options": {"surprise": 1}}, "VALIDATION_FAILED", "options"),
        ({"start_at": "tomorrow"}, "VALIDATION_FAILED", "start_at"),
        ({"start_at": "2026-01-31T12:00:00"}, "VALIDATION_FAILED", "zone"),
        ({"start_at": "0001-01-01T00:00:00Z"}, "VALIDATION_FAILED", "start_at"),
        ({"start_at": "0001-01-01T00:00:00+14:00"}, "VALIDATION_FAILED", "start_at"),
        ({"start_at": "9999-12-31T23:59:59Z"}, "VALIDATION_FAILED", "start_at"),
        ({"start_at": 1_800_000_000}, "BAD_REQUEST", "start_at"),
        ({"requested_at": "yesterday"}, "VALIDATION_FAILED", "requested_at"),
        ({"name": "x" * 1_025}, "VALIDATION_FAILED", "name"),
        ({"version": "9" * 500_000}, "VALIDATION_FAILED", "version"),
        ({"task_id": "9" * 900_000}, "INVALID_UUID", "task_id"),
        ({"x" * 900_000: 1}, "BAD_REQUEST", "xxx"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
async def test_fields_out_of_bounds_are_named(
    system: System, fields: dict[str, Any], code: str, named: str
) -> None:
    async with system.unharmed():
        refused = await system.refusal("task.create", {"name": "free", **fields})
        assert refused.code == code, refused
        assert named in refused.message


@pytest.mark.parametrize("field", ["name", "initiator", "idempotency_key", "correlation_id"])
async def test_half_a_surrogate_pair_in_a_text_is_no_json_of_ours(system: System, field: str) -> None:
    async with system.unharmed():
        request = rb'{"name":"free","%b":"\ud800"}' if field != "name" else rb'{"%b":"\ud800"}'
        assert (await system.refusal("task.create", request % field.encode())).code == "BAD_REQUEST"


async def test_what_was_given_comes_back(system: System) -> None:
    given = {
        "initiator": "ana",
        "source_system": "shop",
        "reason": "a test",
        "priority": -100,
        "tags": ["b", "a"],
        "correlation_id": "c-1",
        "parent_correlation_id": "p-1",
    }
    task_id = await system.create("free", **given, requested_at="2026-01-31T12:00:00+01:00")
    task = await system.task(task_id)
    assert {key: task[key] for key in given} == given
    first = (await system.history(task_id))[0]
    assert (first.type, first.correlation_id, first.actor) == ("task.created", "c-1", "api:ana")
    assert json.loads(first.data)["requested_at"] == "2026-01-31T12:00:00+01:00"
    bare = await system.task(await system.create("free"))
    assert bare["correlation_id"] == bare["task_uuid"]


# -- delayed start -------------------------------------------------------------------------------


async def test_a_delayed_start_waits_for_its_moment(system: System) -> None:
    start = datetime.now(UTC) + timedelta(seconds=1)
    begun_at = time.time()
    created = await system.client.create_task("served", namespace=GOOD_NAMESPACE, start_at=start)
    task_id = created.task_uuid
    assert created.status == "pending"
    assert await system.types(task_id) == ["task.created"]
    done = await system.client.wait_for_task(task_id, timeout_seconds=10)
    assert done.status == "complete"
    assert await system.types(task_id) == [
        "task.created",
        "task.started",
        "step.enqueued",
        "step.completed",
        "task.completed",
    ]
    started = (await system.history(task_id))[1]
    assert started.recorded_at_ms >= start.timestamp() * 1000 - 1
    assert time.time() - begun_at < 5


async def test_a_start_in_the_past_is_now(system: System) -> None:
    task_id = await system.create("served", namespace=GOOD_NAMESPACE, start_at="2020-01-01T00:00:00Z")
    assert (await system.wait(task_id)).status == "complete"
    assert (await system.types(task_id))[:3] == ["task.created", "task.started", "step.enqueued"]


# -- identity ------------------------------------------------------------------------------------


async def test_an_idempotency_key_names_one_task(system: System) -> None:
    request = {"name": "free", "context": {"a": 1, "b": 2}, "idempotency_key": "key-1", "tags": ["x", "y"]}
    first = await system.request("task.create", request)
    assert first["replayed"] is False
    async with system.unharmed():
        again = await system.request(
            "task.create", {**request, "context": {"b": 2, "a": 1}, "tags": ["y", "x"]}
        )
        assert again["replayed"] is True
        assert again["task"]["task_uuid"] == first["task"]["task_uuid"]
        for change in ({"context": {"a": 1}}, {"priority": 1}, {"start_at": "2020-01-01T00:00:00Z"}):
            refused = await system.refusal("task.create", {**request, **change})
            assert refused.code == "CONFLICT"
            assert refused.details["task_id"] == first["task"]["task_uuid"]
        with pytest.raises(Conflict):
            await system.client.create_task("free", context={"other": 1}, idempotency_key="key-1")
    other = await system.request("task.create", {**request, "name": "keyed"})
    assert other["task"]["task_uuid"] != first["task"]["task_uuid"]


async def test_the_same_key_after_a_new_version_is_the_same_task(system: System) -> None:
    await system.register(template("grows"))
    first = await system.request("task.create", {"name": "grows", "idempotency_key": "k"})
    await system.register(template("grows", version="2.0.0"))
    again = await system.request("task.create", {"name": "grows", "idempotency_key": "k"})
    assert again["replayed"] is True
    assert again["task"]["version"] == "1.0.0" == first["task"]["version"]


async def test_a_strict_template_has_one_task_a_context(system: System) -> None:
    first = await system.request("task.create", {"name": "strict", "context": {"a": {"x": 1, "y": [1, 2]}}})
    async with system.unharmed():
        refused = await system.refusal(
            "task.create", {"name": "strict", "context": {"a": {"y": [1, 2], "x": 1}}}
        )
        assert refused.code == "CONFLICT"
        assert refused.details["task_id"] == first["task"]["task_uuid"]
    other = await system.request("task.create", {"name": "strict", "context": {"a": {"x": 1, "y": [2, 1]}}})
    assert other["replayed"] is False
    # The same request once more, as a client repeats it after a time-out.
    request = {"name": "strict", "context": {"again": 1}, "task_id": uuid7()}
    assert (await system.request("task.create", request))["replayed"] is False
    assert (await system.request("task.create", request))["replayed"] is True
    # A key overrides the strategy.
    keyed = {"name": "strict", "context": {"again": 1}, "idempotency_key": "one"}
    assert (await system.request("task.create", keyed))["replayed"] is False


async def test_a_caller_provided_identity_must_be_given(system: System) -> None:
    async with system.unharmed():
        for request in ({"name": "keyed"}, {"name": "keyed", "idempotency_key": ""}):
            refused = await system.refusal("task.create", request)
            assert refused.code == "VALIDATION_FAILED"
            assert "idempotency_key" in refused.message
    first = await system.request("task.create", {"name": "keyed", "idempotency_key": "mine"})
    again = await system.request("task.create", {"name": "keyed", "idempotency_key": "mine"})
    assert (first["replayed"], again["replayed"]) == (False, True)


async def test_a_task_id_names_one_request(system: System) -> None:
    request = {"name": "free", "context": {"a": 1}, "task_id": uuid7()}
    assert (await system.request("task.create", request))["replayed"] is False
    async with system.unharmed():
        again = await system.request("task.create", request)
        assert again["replayed"] is True
        assert again["task"]["task_uuid"] == request["task_id"]
        refused = await system.refusal("task.create", {**request, "context": {"a": 2}})
        assert refused.code == "CONFLICT"
        assert refused.details["task_id"] == request["task_id"]


async def test_the_id_of_another_stream_is_no_task_id(system: System) -> None:
    async with system.unharmed():
        for stream_id in (template_stream_id("default", "free"), shard_stream_id(0)):
            refused = await system.refusal("task.create", {"name": "free", "task_id": stream_id})
            assert refused.code in ("CONFLICT", "NOT_FOUND"), refused


@pytest.mark.parametrize("by", ["key", "task_id"])
async def test_fifty_identical_requests_at_once_make_one_task(system: System, by: str) -> None:
    request: dict[str, Any] = {"name": "served", "namespace": GOOD_NAMESPACE, "context": {"by": by}}
    if by == "task_id":
        request["task_id"] = uuid7()
    else:
        request["idempotency_key"] = "race"
    answers = await asyncio.gather(*(system.request("task.create", request) for _ in range(50)))
    assert len({answer["task"]["task_uuid"] for answer in answers}) == 1
    assert [answer["replayed"] for answer in answers].count(False) == 1
    task_id = answers[0]["task"]["task_uuid"]
    await system.wait(task_id)
    assert (await system.types(task_id)).count("task.created") == 1
    assert (await system.types(task_id)).count("step.completed") == 1


async def test_different_requests_with_one_key_at_once_make_one_task(system: System) -> None:
    requests = [{"name": "free", "context": {"n": n}, "idempotency_key": "clash"} for n in range(20)]
    endings = await asyncio.gather(
        *(system.request("task.create", request) for request in requests), return_exceptions=True
    )
    refused = [ending for ending in endings if isinstance(ending, Refused)]
    assert len(refused) == 19
    assert {one.code for one in refused} == {"CONFLICT"}


# -- several at once -----------------------------------------------------------------------------


async def test_each_of_many_stands_on_its_own(system: System) -> None:
    same = uuid7()
    good = {"name": "served", "namespace": GOOD_NAMESPACE}
    tasks = [
        good,
        {**good, "name": "nowhere"},
        {"name": "order", "context": {}},
        {**good, "priority": 1_000},
        {**good, "task_id": same},
        {**good, "task_id": same},
        {**good, "idempotency_key": "of-many", "context": {"a": 1}},
        {**good, "idempotency_key": "of-many", "context": {"a": 2}},
        {**good, "context": []},
    ]
    told = (await system.request("task.create_many", {"tasks": tasks}))["tasks"]
    assert [one.get("error", {}).get("code") for one in told] == [
        None,
        "NOT_FOUND",
        "VALIDATION_FAILED",
        "VALIDATION_FAILED",
        None,
        None,
        None,
        "CONFLICT",
        "VALIDATION_FAILED",
    ]
    assert told[2]["error"]["violations"]
    assert (told[4]["task_id"], told[4].get("replayed"), told[5].get("replayed")) == (same, None, True)
    for number in (0, 4, 6):
        await system.wait(told[number]["task_id"])


async def test_many_through_the_client(system: System) -> None:
    requests: list[dict[str, Any]] = [
        {"name": "served", "namespace": GOOD_NAMESPACE, "context": {"n": number, "pad": "x" * 3_000}}
        for number in range(450)
    ]
    requests[100]["name"] = "nowhere"
    created = await system.client.create_tasks(requests)
    assert [number for number, one in enumerate(created) if one.error is not None] == [100]
    ids = [one.task_uuid for one in created if one.error is None and one.task_uuid is not None]
    assert len(set(ids)) == 449
    assert {shard_of(task_id, SHARDS) for task_id in ids} == set(range(SHARDS))
    done = await asyncio.gather(*(system.client.wait_for_task(one, timeout_seconds=30) for one in ids))
    assert {task.status for task in done} == {"complete"}


async def test_too_many_in_one_request_are_refused_together(system: System) -> None:
    async with system.unharmed():
        tasks = [{"name": "free"}] * (CREATE_MANY_MAX + 1)
        refused = await system.refusal("task.create_many", {"tasks": tasks})
        assert refused.code == "BAD_REQUEST"
        assert str(CREATE_MANY_MAX) in refused.message
        odd: tuple[dict[str, Any], ...] = (
            {"tasks": [{"name": "free"}, 7]},
            {"tasks": {}},
            {"tasks": [{"nam": "free"}]},
        )
        for request in odd:
            assert (await system.refusal("task.create_many", request)).code == "BAD_REQUEST"
        assert (await system.request("task.create_many", {"tasks": []}))["tasks"] == []


# -- the client's own checks ---------------------------------------------------------------------


async def test_the_client_refuses_before_sending(system: System) -> None:
    async with system.unharmed(), Client(system.nats_url) as client:
        naive = datetime(2026, 1, 31, 12)
        for fields in (
            {"context": [1]},
            {"context": {"a": float("nan")}},
            {"context": {"a": object()}},
            {"context": {"a": "\ud800"}},
            {"start_at": naive},
            {"priority": "high"},
            {"initiator": 7},
        ):
            with pytest.raises(BadRequest):
                await client.create_task("free", **fields)


# -- identity, further ---------------------------------------------------------------------------


async def test_a_strict_context_at_once_many_times_is_one_task(system: System) -> None:
    request = {"name": "strict", "context": {"race": [1, 2.0]}}
    endings = await asyncio.gather(
        *(system.request("task.create", request) for _ in range(30)), return_exceptions=True
    )
    [first] = [one for one in endings if isinstance(one, dict)]
    refused = [one for one in endings if isinstance(one, Refused)]
    assert len(refused) == 29
    task_id = first["task"]["task_uuid"]
    assert {(one.code, one.details["task_id"]) for one in refused} == {("CONFLICT", task_id)}
    # Equal numbers are equal, however a language writes them.
    again = await system.refusal("task.create", b'{"name":"strict","context":{"race":[1.0,2]}}')
    assert (again.code, again.details["task_id"]) == ("CONFLICT", task_id)


@pytest.mark.parametrize("strategy", ["strict", "caller_provided"])
async def test_an_identity_outlives_its_task(system: System, strategy: str) -> None:
    name = f"ends_{strategy}"
    await system.register(template(name, namespace=GOOD_NAMESPACE, identity_strategy=strategy))
    request: dict[str, Any] = {"name": name, "namespace": GOOD_NAMESPACE, "context": {"once": True}}
    if strategy == "caller_provided":
        request["idempotency_key"] = "once"
    first = await system.request("task.create", request)
    task_id = first["task"]["task_uuid"]
    await system.wait(task_id)
    async with system.unharmed():
        if strategy == "strict":
            refused = await system.refusal("task.create", request)
            assert (refused.code, refused.details["task_id"]) == ("CONFLICT", task_id)
        else:
            again = await system.request("task.create", request)
            assert (again["replayed"], again["task"]["status"]) == (True, "complete")


async def test_identities_are_those_of_a_namespace_a_template_and_a_version(system: System) -> None:
    for namespace in ("default", "elsewhere"):
        for version in ("1.0.0", "2.0.0"):
            text = template("scoped", namespace=namespace, version=version, identity_strategy="strict")
            await system.register(text)
    context = {"same": 1}
    requests = [
        {"name": "scoped", "namespace": namespace, "version": version, "context": context}
        for namespace in ("default", "elsewhere")
        for version in ("1.0.0", "2.0.0")
    ]
    told = [await system.request("task.create", request) for request in requests]
    assert len({one["task"]["task_uuid"] for one in told}) == 4
    # Without a version it is the highest, which has this context already.
    refused = await system.refusal("task.create", {"name": "scoped", "context": context})
    assert refused.details["task_id"] == told[1]["task"]["task_uuid"]
    # A key is the template's, over its versions: with another one it is another request.
    keyed = {"name": "scoped", "context": {"keyed": 1}, "idempotency_key": "k"}
    first = await system.request("task.create", {**keyed, "version": "1.0.0"})
    assert (await system.request("task.create", {**keyed, "version": "1.0.0"}))["replayed"] is True
    refused = await system.refusal("task.create", {**keyed, "version": "2.0.0"})
    assert (refused.code, refused.details["task_id"]) == ("CONFLICT", first["task"]["task_uuid"])
    other = await system.request("task.create", {**keyed, "namespace": "elsewhere"})
    assert other["replayed"] is False


async def test_identities_within_one_request_of_many(system: System) -> None:
    strict = {"name": "strict", "context": {"of_many": 1}}
    keyed = {"name": "keyed", "idempotency_key": "of_many"}
    unkeyed = {"name": "keyed"}
    tasks = [strict, {**strict, "context": {"of_many": 1.0}}, keyed, keyed, unkeyed]
    told = (await system.request("task.create_many", {"tasks": tasks}))["tasks"]
    assert [one.get("error", {}).get("code") for one in told] == [
        None,
        "CONFLICT",
        None,
        None,
        "VALIDATION_FAILED",
    ]
    assert told[1]["error"]["task_id"] == told[0]["task_id"]
    assert (told[2].get("replayed", False), told[3]["replayed"]) == (False, True)
