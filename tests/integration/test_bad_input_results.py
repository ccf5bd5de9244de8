"""Malformed and forged messages of workers, on every subject that an orchestrator reads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from nats.js.errors import NoStreamResponseError

from stepweave.messaging import PayloadTooLarge
from stepweave_schemas import subjects
from stepweave_schemas.codec import encode
from stepweave_schemas.identity import shard_of, step_uuid
from stepweave_schemas.mint import uuid7
from stepweave_schemas.result import RESULTS_PER_MESSAGE_MAX

from .conftest import SHARDS, System, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "raw"
AT_ONCE = {"max_attempts": 3, "backoff": "none"}
#: A pair of steps, so that a result has a reader.
STEPS: list[dict[str, Any]] = [
    {"name": "first", "handler": "noop", "retry": AT_ONCE},
    {"name": "second", "handler": "noop", "dependencies": ["first"]},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def templates(system: System) -> None:
    for namespace in (NAMESPACE, "other"):
        await system.register(template("pair", STEPS, namespace=namespace))


# -- messages that are none ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"   ",
        b"not json",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"[[]]",
        b"[null]",
        b'"success"',
        b"{}",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"kind":"success"}',
        b'{"kind":"won"}',
        b'{"kind":7}',
        rb'{"kind":"\ud800"}',
    ],
    ids=lambda payload: payload[:20].decode(errors="backslashreplace"),
)
async def test_what_is_no_outcome_is_refused(system: System, payload: bytes) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    before = system.refused_count
    async with system.unharmed():
        await system.say(taken.dispatch.result_subject, payload)
        assert system.refused_count == before + 1
    await system.finish(taken)


FORGED: list[dict[str, Any]] = [
    {"lease_token": "0" * 24},
    {"lease_token": ""},
    {"lease_token": "x" * 100_000},
    {"lease_token": "\x00"},
    {"lease_token": 7},
    {"lease_token": None},
    {"attempt": 0},
    {"attempt": -1},
    {"attempt": 2},
    {"attempt": 2**70},
    {"attempt": True},
    {"attempt": "1"},
    {"attempt": 1.0},
    {"step_name": "second"},
    {"step_name": "third"},
    {"step_name": ""},
    {"step_name": "x" * 100_000},
    {"step_uuid": "00000000-0000-8000-8000-000000000000"},
    {"step_uuid": "x" * 100_000},
    {"step_uuid": ""},
    {"worker_id": ""},
    {"worker_id": "w\x00"},
    {"worker_id": "w" * 100_000},
    {"worker_id": ["w"]},
    {"task_id": "42"},
    {"task_id": ""},
    {"task_id": uuid7()},
    {"kind": "completed"},
]


@pytest.mark.parametrize("kind", ["success", "failure", "started", "lost", "released"])
async def test_forged_outcomes_of_every_kind_are_refused(system: System, kind: str) -> None:
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    needed: dict[str, dict[str, Any]] = {
        "failure": {"error_message": "no"},
        "started": {"started_at_ms": 1},
        "lost": {"deliveries": 2},
    }
    good = taken.outcome(kind, **needed.get(kind, {}))
    missing = [{key: value for key, value in good.items() if key != gone} for gone in good]
    if kind == "success":
        missing = [one for one in missing if one.keys() != good.keys() - {"result"}]
    forged = [{**good, **change} for change in FORGED] + missing
    before = system.refused_count
    async with system.unharmed():
        await system.say(taken.dispatch.result_subject, *forged)
        assert system.refused_count == before + len(forged)
        assert (await system.task(task_id))["steps"][0]["current_state"] == "enqueued"
    await system.finish(taken)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("started", {"started_at_ms": -1}),
        ("started", {"started_at_ms": 2**63}),
        ("started", {"started_at_ms": 10**400}),
        ("started", {"started_at_ms": True}),
        ("started", {"started_at_ms": None}),
        ("success", {"duration_ms": "1"}),
        ("success", {"started_at_ms": 1.5}),
        ("failure", {"error_message": 7}),
        ("failure", {"error_message": "no", "retryable": "yes"}),
        ("failure", {"error_message": "no", "retryable": 1}),
        ("failure", {"error_message": "no", "retry_after_ms": "soon"}),
        ("lost", {"deliveries": "many"}),
    ],
    ids=str,
)
async def test_fields_of_the_wrong_type_are_refused(
    system: System, kind: str, fields: dict[str, Any]
) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    before = system.refused_count
    async with system.unharmed():
        await system.say(taken.dispatch.result_subject, taken.outcome(kind, **fields))
        assert system.refused_count == before + 1
    await system.finish(taken)


# -- the wrong place -----------------------------------------------------------------------------


async def test_a_result_must_come_on_the_subject_of_its_task(system: System) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    _, other = await system.started("pair", namespace="other")
    good = taken.outcome("success", result=1)
    shard = shard_of(taken.dispatch.task_id, SHARDS)
    places = [
        # another task's, another namespace's, both with the right shard; a wrong shard with and without the id
        subjects.result(NAMESPACE, shard, uuid7()),
        subjects.result("other", shard, taken.dispatch.task_id),
        subjects.result("other", shard, "_"),
        subjects.result("nowhere", shard, taken.dispatch.task_id),
        subjects.result(NAMESPACE, (shard + 1) % SHARDS, taken.dispatch.task_id),
        subjects.result(NAMESPACE, (shard + 1) % SHARDS, "_"),
        f"sw.res._xff.{shard}.{taken.dispatch.task_id}",
        f"sw.cmd.{shard}.{taken.dispatch.task_id}",
        f"sw.cmd.{shard}.x",
        f"sw.cmd.{shard}.join.{taken.dispatch.task_id}",
    ]
    before = system.refused_count
    async with system.unharmed():
        for place in places:
            await system.say(place, good)
        assert system.refused_count == before + len(places)
    await system.finish(taken)
    await system.finish(other)


async def test_no_stream_takes_what_no_orchestrator_would_read(system: System) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    good = taken.outcome("success", result=1)
    shard = shard_of(taken.dispatch.task_id, SHARDS)
    async with system.unharmed():
        for place in (
            f"sw.res.{NAMESPACE}.{SHARDS}.{taken.dispatch.task_id}",
            f"sw.res.{NAMESPACE}.007.{taken.dispatch.task_id}",
            f"sw.res.{NAMESPACE}.{shard}.{taken.dispatch.task_id}.more",
            f"sw.res.{NAMESPACE}.{shard}",
            "sw.res.x",
            f"sw.cmd.{SHARDS}.x",
            f"sw.cmd.{shard}.a.b.c",
            "sw.cmd.x",
        ):
            with pytest.raises(NoStreamResponseError):
                await system.publish(place, good)
    await system.finish(taken)


async def test_a_task_of_another_namespace_cannot_be_reported(system: System) -> None:
    """Also with the right token: the subject says who may speak."""
    _, taken = await system.started("pair", namespace=NAMESPACE)
    shard = shard_of(taken.dispatch.task_id, SHARDS)
    async with system.unharmed():
        await system.say(
            subjects.result("other", shard, taken.dispatch.task_id), taken.outcome("success", result=1)
        )
    await system.finish(taken)


async def test_results_for_tasks_that_are_none(system: System) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    before = system.refused_count
    unknown = [uuid7() for _ in range(20)]
    async with system.unharmed():
        for task_id in unknown:
            shard = shard_of(task_id, SHARDS)
            await system.say(
                subjects.result(NAMESPACE, shard, task_id),
                taken.outcome("success", task_id=task_id, step_uuid=step_uuid(task_id, "first"), result=1),
            )
        assert system.refused_count == before + len(unknown)
    await system.finish(taken)


# -- arrays --------------------------------------------------------------------------------------


async def test_an_array_with_one_bad_element_is_refused_as_a_whole(system: System) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    good = taken.outcome("success", result={"fine": True})
    before = system.refused_count
    async with system.unharmed():
        for bad in (7, None, {**good, "kind": "won"}, {**good, "task_id": "42"}, {**good, "worker_id": ""}):
            await system.say(taken.dispatch.result_subject, [good, bad])
        assert system.refused_count == before + 5
    await system.finish(taken)


async def test_a_forged_element_does_not_harm_the_others(system: System) -> None:
    """It is sound as a message; its actor refuses it, and the rest is taken."""
    _, taken = await system.started("pair", namespace=NAMESPACE)
    good = taken.outcome("success", result={"fine": True})
    await system.say(taken.dispatch.result_subject, [{**good, "lease_token": "forged"}, good, good])
    assert (await system.task(taken.dispatch.task_id))["steps"][0]["current_state"] == "complete"
    await (await system.take(NAMESPACE)).say("success", result=None)


async def test_an_array_has_a_largest_length(system: System) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    good = taken.outcome("success", result={"fine": True})
    before = system.refused_count
    async with system.unharmed():
        await system.say(taken.dispatch.result_subject, [good] * (RESULTS_PER_MESSAGE_MAX + 1))
        assert system.refused_count == before + 1
    await system.say(taken.dispatch.result_subject, [good] * RESULTS_PER_MESSAGE_MAX)
    assert (await system.types(taken.dispatch.task_id)).count("step.completed") == 1
    await (await system.take(NAMESPACE)).say("success", result=None)


# -- old tries and repetitions -------------------------------------------------------------------


async def test_the_result_of_an_old_try_is_recorded_once_and_changes_nothing(system: System) -> None:
    task_id, old = await system.started("pair", namespace=NAMESPACE)
    await old.say("lost", deliveries=2)
    new = await system.take(NAMESPACE)
    assert (new.dispatch.attempt, new.dispatch.step_uuid) == (2, old.dispatch.step_uuid)
    assert new.dispatch.lease_token != old.dispatch.lease_token
    for _ in range(5):
        await old.say("success", result="old")
    # The new number with the old token, and the other way round.
    async with system.unharmed():
        await old.say("success", result="forged", attempt=2)
        await new.say("success", result="forged", attempt=1)
        await old.say("success", result="forged", attempt=3)
    await system.finish(new)
    types = await system.types(task_id)
    assert types.count("step.result_refused") == 1
    assert (await system.client.get_results(task_id))["first"] == {"fine": True}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("started", {"started_at_ms": 1}),
        ("success", {"result": 1}),
        ("failure", {"error_message": "no"}),
        ("failure", {"error_message": "no", "retryable": False}),
        ("lost", {"deliveries": 2}),
        ("released", {}),
    ],
    ids=str,
)
async def test_repetitions_change_nothing(system: System, kind: str, fields: dict[str, Any]) -> None:
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    await taken.say(kind, **fields)
    once = await system.types(task_id)
    async with system.unharmed():
        told = taken.outcome(kind, **fields)
        await system.say(taken.dispatch.result_subject, *[told] * 5, [told] * 5)
        assert await system.types(task_id) == once
    await system.request("task.cancel", {"task_id": task_id})


async def test_ten_results_at_once_count_once(system: System) -> None:
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    told = [taken.outcome("success", result=number) for number in range(10)]
    await asyncio.gather(*(system.publish(taken.dispatch.result_subject, one) for one in told))
    await system.all_taken()
    assert (await system.types(task_id)).count("step.completed") == 1
    await (await system.take(NAMESPACE)).say("success", result=None)


# -- quantity ------------------------------------------------------------------------------------


async def test_thousands_of_forged_messages_do_not_grow_the_ledger(system: System) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    forged = encode(taken.outcome("success", lease_token="forged", result={"x": "y" * 200}))
    packed = b"[" + b",".join([forged] * 100) + b"]"
    before = system.refused_count
    async with system.unharmed():
        for _ in range(6):
            await asyncio.gather(
                *(system.publish(taken.dispatch.result_subject, forged, packed) for _ in range(5))
            )
        await system.all_taken()
        assert system.refused_count == before + 30 * 101
    await system.finish(taken)


async def test_ten_megabytes_never_leave_the_worker(system: System) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    payload = encode(taken.outcome("success", result="x" * 10_000_000))
    async with system.unharmed():
        with pytest.raises(PayloadTooLarge):
            system.connection.send(taken.dispatch.result_subject, payload)
        assert system.connection.connected
    await system.finish(taken)


# -- dispatches that no orchestrator made --------------------------------------------------------


async def test_what_is_no_dispatch_is_thrown_away_by_the_worker(system: System) -> None:
    good = subjects.dispatch("good", "default", "normal", "some-token")
    async with system.unharmed():
        await system.publish(good, b"not json", b"{}", b'{"kind":"dispatch"}', b'{"kind":"success"}', b"\xff")
    await system.nothing_dispatched("good")
