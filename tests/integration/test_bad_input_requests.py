"""Malformed requests to the API and to the owners of shards, and what discovery says of the service."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from stepweave.messaging import NoResponders
from stepweave.testing import eventually
from stepweave_orchestrator.version import VERSION
from stepweave_schemas import api, subjects
from stepweave_schemas.codec import encode
from stepweave_schemas.identity import shard_of, shard_stream_id, template_stream_id
from stepweave_schemas.mint import uuid7

from .conftest import GOOD_NAMESPACE, SHARDS, System

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_REQUESTS = [
    b"not json",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'"text"',
    b"7",
    b"{",
    b'{"no_such_field": 1}',
    b'{"a": "\xff"}',
    rb'{"a": "\ud800"}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\x00" * 1_000,
    b'{"%b": 1}' % (b"x" * 900_000),
]

#: A field of each operation with a value of the wrong type.
WRONG_TYPES: dict[str, dict[str, Any]] = {
    "task.create": {"name": ["free"]},
    "task.create_many": {"tasks": 7},
    "task.get": {"task_id": 7},
    "task.list": {"page": "1"},
    "task.cancel": {"task_id": uuid7(), "reason": 7},
    "task.pause": {"task_id": uuid7(), "paused_by": 7},
    "task.resume": {"task_id": uuid7(), "reason": None},
    "task.retry": {"task_id": uuid7(), "reset_by": []},
    "task.give_up": {"task_id": 7},
    "task.resolve": {"task_id": uuid7(), "request_id": 7},
    "task.signal": {"task_id": uuid7(), "signal": 7},
    "step.update": {"task_id": uuid7(), "step": "a", "action": {"action_type": "skip", "reason": 7}},
    "task.fork": {"task_id": uuid7(), "from_steps": 7},
    "task.results": {"task_id": uuid7(), "offset": "1"},
    "task.events": {"task_id": uuid7(), "limit": None},
    "task.explain": {"task_id": uuid7(), "step": 7},
    "gate.list": {"kind": 7},
    "gate.get": {"gate_id": 7},
    "circuit.open": {"namespace": "default", "service": "bank", "open_seconds": "long"},
    "circuit.close": {"namespace": "default", "service": 7},
    "dlq.list": {"dlq_reason": "failures"},
    "dlq.get": {"task_id": 7},
    "dlq.stats": {"namespace": 7},
    "dlq.investigation_queue": {"page": "1"},
    "dlq.staleness": {"per_page": None},
    "dlq.update": {"dlq_entry_uuid": uuid7(), "resolved_by": 7},
    "template.register": {"content": {"name": "t"}},
    "template.validate": {"content": 7},
    "template.get": {"namespace": "default", "name": None},
    "template.list": {"namespace": 7},
    "schedule.create": {"name": "s", "spec": {"cron": 7, "task": {"name": "t"}}},
    "schedule.get": {"name": 7},
    "schedule.events": {"name": "s", "limit": None},
    "schedule.list": {"limit": "1"},
    "schedule.pause": {"name": "s", "note": 7},
    "schedule.resume": {"name": "s", "note": 7},
    "schedule.trigger": {"name": "s", "allow_overlap": "yes"},
    "schedule.backfill": {"name": "s", "from_at": 7},
    "schedule.delete": {"name": 7},
    "schedule.preview": {"timing": {"cron": 7}},
    "bulk.start": {"action": "fork", "filter": {"name": "n"}},
    "bulk.get": {"bulk_id": 7},
    "bulk.list": {"status": "running"},
    "bulk.tasks": {"bulk_id": uuid7(), "outcome": 7},
    "bulk.cancel": {"bulk_id": 7},
}


@pytest.mark.parametrize("operation", api.OPERATIONS)
async def test_every_operation_says_what_is_wrong_with_a_request(system: System, operation: str) -> None:
    async with system.unharmed():
        for payload in NOT_REQUESTS:
            refused = await system.refusal(operation, payload)
            assert refused.code == "BAD_REQUEST", (payload[:40], refused)
            assert refused.message.startswith(f"{operation}: ")
        refused = await system.refusal(operation, WRONG_TYPES[operation])
        assert refused.code == "BAD_REQUEST"
        assert "$." in refused.message
        needed = [one.name for one in msgspec.structs.fields(api.OPERATIONS[operation]) if one.required]
        for empty in (b"", b"{}"):
            if needed:
                refused = await system.refusal(operation, empty)
                assert refused.code == "BAD_REQUEST"
                assert needed[0] in refused.message
            else:
                assert await system.request(operation, empty)


@pytest.mark.parametrize("operation", api.OPERATIONS)
async def test_requests_without_a_reply_subject_harm_nobody(system: System, operation: str) -> None:
    async with system.unharmed():
        for payload in (b"not json", b"{}", b""):
            system.connection.send(api.operation_subject(operation), payload)
        await system.connection.flush()


async def test_a_creation_without_a_reply_subject_is_carried_out(system: System) -> None:
    task_id = uuid7()
    request = api.CreateTask(name="proof", namespace=GOOD_NAMESPACE, task_id=task_id)
    system.connection.send(api.operation_subject("task.create"), encode(request))

    async def there() -> bool:
        return bool(await system.history(task_id))

    await eventually(there, what="the task")
    await system.wait(task_id)


async def test_an_answer_to_somebody_who_has_left_harms_nobody(system: System) -> None:
    async with system.unharmed():
        for number in range(50):
            system.connection.send(
                api.operation_subject("task.get"),
                encode(api.GetTask(task_id=uuid7())),
                reply=f"_INBOX.gone.{number}",
            )
        await system.connection.flush()


async def test_there_are_no_other_operations(system: System) -> None:
    async with system.unharmed():
        for operation in ("task.delete", "task", "task.create.now", "template.delete"):
            with pytest.raises(NoResponders):
                await system.request(operation, {})


async def test_more_requests_than_fit_at_once_are_all_answered(system: System) -> None:
    answers = await asyncio.gather(
        *(system.request("template.get", {"namespace": GOOD_NAMESPACE, "name": "proof"}) for _ in range(500))
    )
    assert {answer["version"] for answer in answers} == {"1.0.0"}


# -- the owners of shards ------------------------------------------------------------------------


async def ask_owner(system: System, shard: int, payload: bytes) -> dict[str, Any]:
    answer = await system.connection.request(subjects.owner(shard), payload, timeout_seconds=10)
    told: dict[str, Any] = json.loads(answer.data)
    return told


@pytest.mark.parametrize("shard", range(SHARDS))
async def test_owners_refuse_what_is_no_request(system: System, shard: int) -> None:
    async with system.unharmed():
        for payload in (
            *NOT_REQUESTS,
            b"",
            b'{"op":"erase","stream_id":"x"}',
            b'{"op":"get"}',
            b'{"op":"get","stream_id":7}',
            b'{"op":"create","stream_id":"x"}',
            b'{"op":"create_several","stream_id":"","tasks":[7]}',
        ):
            told = await ask_owner(system, shard, payload)
            assert told["error"]["code"] == "BAD_REQUEST", (payload[:40], told)
        for stream_id in ("", "x", "\x00", "x" * 900_000):
            told = await ask_owner(system, shard, encode({"op": "get", "stream_id": stream_id}))
            assert told["error"]["code"] == "BAD_REQUEST"
        system.connection.send(subjects.owner(shard), b"without a reply subject")
        system.connection.send(subjects.owner(shard), encode({"op": "get", "stream_id": uuid7()}))
        await system.connection.flush()


async def test_an_owner_answers_for_its_own_streams_only(system: System) -> None:
    """A task stored in the ledger of a shard that nobody would look into could never be found again."""
    task_id = await system.create("proof", namespace=GOOD_NAMESPACE)
    await system.wait(task_id)
    wrong = (shard_of(task_id, SHARDS) + 1) % SHARDS
    first = (await system.history(task_id))[0]
    lost_id = next(one for one in (uuid7() for _ in range(1_000)) if shard_of(one, SHARDS) != wrong)
    created = {**json.loads(first.data), "request_id": lost_id}
    creation = {"op": "create", "stream_id": lost_id, "created": created, "correlation_id": "c"}
    registered = (await system.history(template_stream_id(GOOD_NAMESPACE, "proof")))[0]
    register = {
        "op": "register",
        "stream_id": "x",
        "registered": {**json.loads(registered.data), "name": "elsewhere"},
        "correlation_id": "c",
    }
    elsewhere = shard_of(template_stream_id(GOOD_NAMESPACE, "elsewhere"), SHARDS)
    async with system.unharmed():
        for request in (
            {"op": "get", "stream_id": task_id},
            {"op": "cancel", "stream_id": task_id, "reason": "", "cancelled_by": ""},
            {"op": "results", "stream_id": task_id},
        ):
            told = await ask_owner(system, wrong, encode(request))
            assert told["error"]["code"] == "BAD_REQUEST", told
        told = await ask_owner(system, wrong, encode(creation))
        assert told["error"]["code"] == "BAD_REQUEST", told
        several = {"op": "create_several", "stream_id": "", "tasks": [creation]}
        told = await ask_owner(system, wrong, encode(several))
        assert told["error"]["code"] == "BAD_REQUEST", told
        told = await ask_owner(system, (elsewhere + 1) % SHARDS, encode(register))
        assert told["error"]["code"] == "BAD_REQUEST", told
    assert (await system.task(task_id))["status"] == "complete"


async def test_a_creation_with_an_id_that_is_none_is_refused(system: System) -> None:
    task_id = await system.create("proof", namespace=GOOD_NAMESPACE)
    await system.wait(task_id)
    first = (await system.history(task_id))[0]
    async with system.unharmed():
        for stream_id in ("", "x", "\x00", task_id.upper()):
            creation: dict[str, Any] = {
                "op": "create",
                "stream_id": stream_id,
                "created": {**json.loads(first.data), "request_id": stream_id},
                "correlation_id": "c",
            }
            told = await ask_owner(system, shard_of(stream_id, SHARDS), encode(creation))
            assert told["error"]["code"] == "BAD_REQUEST", told
        stranger = uuid7()
        creation["stream_id"] = stranger
        creation["created"]["template"] = {**creation["created"]["template"], "hash": "sha256:0"}
        told = await ask_owner(system, shard_of(stranger, SHARDS), encode(creation))
        assert told["error"]["code"] == "NOT_FOUND", told


async def test_hints_between_orchestrators_may_say_anything(system: System) -> None:
    async with system.unharmed():
        for payload in (b"", b"\xff\xfe", b"x" * 900_000, shard_stream_id(0).encode()):
            system.connection.send(subjects.TEMPLATE_CHANGED, payload)
            system.connection.send(subjects.SHARDS_FREE, payload)
        await system.connection.flush()


# -- discovery -----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
@pytest.mark.parametrize("address", ["", ".stepweave"])
async def test_the_service_can_be_found(system: System, verb: str, address: str) -> None:
    answer: Msg = await system.connection.request(f"$SRV.{verb}{address}", timeout_seconds=5)
    told = json.loads(answer.data)
    assert (told["name"], told["version"]) == ("stepweave", VERSION)
    assert told["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
    again = await system.connection.request(f"$SRV.{verb}.stepweave.{told['id']}", timeout_seconds=5)
    assert json.loads(again.data)["id"] == told["id"]
    if verb == "PING":
        return
    endpoints = {one["subject"]: one for one in told["endpoints"]}
    assert endpoints.keys() == {api.operation_subject(operation) for operation in api.OPERATIONS}


async def test_statistics_count_requests(system: System) -> None:
    async def count() -> int:
        answer = await system.connection.request("$SRV.STATS.stepweave", timeout_seconds=5)
        endpoints = json.loads(answer.data)["endpoints"]
        [one] = [one for one in endpoints if one["subject"] == api.operation_subject("template.list")]
        return int(one["num_requests"])

    before = await count()
    for _ in range(3):
        await system.request("template.list")
    assert await count() == before + 3
