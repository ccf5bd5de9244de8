"""What a worker with the right token may say: it is stored as it is, or the try ends, and no step waits for ever."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import pytest_asyncio

from stepweave_schemas import subjects
from stepweave_schemas.codec import encode
from stepweave_schemas.dispatch import RESULT_BYTES_MAX
from stepweave_schemas.identity import shard_of
from stepweave_schemas.result import ERROR_MESSAGE_CHARS_MAX

from .conftest import SHARDS, System, json_of, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "said"
AT_ONCE = {"max_attempts": 3, "backoff": "none"}
#: A pair of steps, so that a result has a reader.
STEPS: list[dict[str, Any]] = [
    {"name": "first", "handler": "noop", "retry": AT_ONCE},
    {"name": "second", "handler": "noop", "dependencies": ["first"]},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def templates(system: System) -> None:
    await system.register(template("pair", STEPS, namespace=NAMESPACE))


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (b'"\xff"', "RESULT_NOT_STORABLE"),
        (b'{"\xc3(":1}', "RESULT_NOT_STORABLE"),
        (rb'"\ud800"', "RESULT_NOT_STORABLE"),
        (rb'{"\udc00":1}', "RESULT_NOT_STORABLE"),
        (b"1e999", "RESULT_NOT_STORABLE"),
        (b'"' + b"x" * RESULT_BYTES_MAX + b'"', "RESULT_TOO_LARGE"),
        (b'"' + b"x" * 900_000 + b'"', "RESULT_TOO_LARGE"),
    ],
    ids=lambda value: value[:16].decode(errors="backslashreplace") if isinstance(value, bytes) else "",
)
async def test_a_result_that_cannot_be_stored_fails_the_step_for_good(
    system: System, result: bytes, code: str
) -> None:
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    told = encode(taken.outcome("success"))
    payload = told[:-1] + b',"result":%b}' % result
    await system.say(taken.dispatch.result_subject, payload)
    task = await system.task(task_id)
    assert task["status"] == "blocked_by_failures"
    [first, second] = task["steps"]
    assert (first["current_state"], first["error_type"], first["error_code"]) == (
        "error",
        "permanent_error",
        code,
    )
    assert first["error_message"]
    assert second["current_state"] == "pending"
    assert (await system.types(task_id))[-2:] == ["step.failed", "task.blocked"]
    await system.proves_itself()


async def test_half_a_surrogate_pair_spoils_only_its_own_result(system: System) -> None:
    """As `JSON.stringify` and `json.dumps` write it."""
    _, one = await system.started("pair", namespace=NAMESPACE)
    fields = {"error_message": "half \ud83d pair", "error_code": "\udc00", "metadata": {"a": "\ud800"}}
    shard = shard_of(one.dispatch.task_id, SHARDS)
    told = [one.outcome("failure", retryable=False, **fields)]
    sound = "an escaped one: \\ud800, a pair: 😀"
    while True:
        _, other = await system.started("pair", namespace=NAMESPACE)
        if shard_of(other.dispatch.task_id, SHARDS) == shard:
            break
    told.append(other.outcome("success", result=sound))
    await system.say(subjects.result(NAMESPACE, shard, "_"), json.dumps(told).encode())
    failed = json.loads((await system.history(one.dispatch.task_id))[2].data)
    assert (failed["error_message"], failed["error_code"]) == ("half \ufffd pair", "\ufffd")
    assert "metadata" not in failed
    assert await system.client.get_results(other.dispatch.task_id) == {"first": sound}


async def test_a_result_nested_too_deeply_to_be_read_is_refused(system: System) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    told = encode(taken.outcome("success"))
    before = system.refused_count
    async with system.unharmed():
        for deep in (b"[" * 5_000 + b"]" * 5_000, b'{"a":' * 20_000 + b"1" + b"}" * 20_000):
            await system.say(taken.dispatch.result_subject, told[:-1] + b',"result":%b}' % deep)
        assert system.refused_count == before + 2
    await system.finish(taken)


async def test_a_forged_result_that_cannot_be_stored_fails_nothing(system: System) -> None:
    _, taken = await system.started("pair", namespace=NAMESPACE)
    async with system.unharmed():
        for result in (b'"\xff"', b'"' + b"x" * RESULT_BYTES_MAX + b'"'):
            told = encode(taken.outcome("success", lease_token="forged"))
            await system.say(taken.dispatch.result_subject, told[:-1] + b',"result":%b}' % result)
    await system.finish(taken)


async def test_odd_but_sound_results_reach_their_readers(system: System) -> None:
    result = {
        "nul": "a\x00b",
        "k\x00": [],
        "😀": "\u2028",
        "big": 12345678901234567890123,
        "deep": json.loads("[" * 300 + "]" * 300),
    }
    metadata = {"note": "\x00"}
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    await taken.say("success", result=result, metadata=metadata)
    second = await system.take(NAMESPACE)
    assert {step: json_of(raw) for step, raw in second.dispatch.dependency_results.items()} == {
        "first": result
    }
    await second.say("success", result="x" * (RESULT_BYTES_MAX - 2))
    assert (await system.task(task_id))["status"] == "complete"
    assert await system.client.get_results(task_id) == {
        "first": result,
        "second": "x" * (RESULT_BYTES_MAX - 2),
    }
    completed = json.loads((await system.history(task_id))[2].data)
    assert (completed["result"], completed["metadata"]) == (result, metadata)


@pytest.mark.parametrize(
    "times",
    [
        {"started_at_ms": -1},
        {"duration_ms": -5},
        {"started_at_ms": 2**70, "duration_ms": 2**70},
        {"started_at_ms": 10**300},
    ],
    ids=str,
)
async def test_a_success_stands_whatever_its_clock_says(system: System, times: dict[str, Any]) -> None:
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    await taken.say("success", result=1, **times)
    assert (await system.task(task_id))["steps"][0]["current_state"] == "complete"
    completed = json.loads((await system.history(task_id))[2].data)
    assert completed.keys().isdisjoint({"started_at_ms", "duration_ms"})
    await (await system.take(NAMESPACE)).say("success", result=1)


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({"error_type": "oops"}, {"error_type": "handler_error"}),
        ({"error_type": "\x00" * 900}, {"error_type": "handler_error"}),
        ({"error_message": "m" * 500_000}, {"error_message": "m" * (ERROR_MESSAGE_CHARS_MAX - 1) + "…"}),
        ({"error_code": "c" * 2_000}, {"error_code": "c" * 511 + "…"}),
        ({"error_message": "a\x00b"}, {"error_message": "a\x00b"}),
        ({"metadata": {"blob": "x" * RESULT_BYTES_MAX}}, {"metadata": None}),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_failure_stands_without_what_is_wrong_with_it(
    system: System, fields: dict[str, Any], stored: dict[str, Any]
) -> None:
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    await taken.say("failure", **{"error_message": "no", "retryable": False, **fields})
    assert (await system.task(task_id))["status"] == "blocked_by_failures"
    failed = json.loads((await system.history(task_id))[2].data)
    assert {key: failed.get(key) for key in stored} == stored
    await system.proves_itself()


async def test_a_failure_may_not_ask_for_a_time_before_now(system: System) -> None:
    task_id, taken = await system.started("pair", namespace=NAMESPACE)
    await taken.say("failure", error_message="no", retry_after_ms=-(2**70))
    again = await system.take(NAMESPACE)
    assert again.dispatch.attempt == 2
    scheduled = json.loads((await system.history(task_id))[2].data)
    assert (scheduled["delay_source"], scheduled["delay_ms"]) == ("backoff", 0)
    await again.say("failure", error_message="no", retry_after_ms=2**70)
    scheduled = json.loads((await system.history(task_id))[-1].data)
    assert (scheduled["delay_source"], scheduled["delay_ms"]) == ("retry_after", 3_600_000)
    await system.request("task.cancel", {"task_id": task_id})


ODD_VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 1.5, 1e300, 2**31, 2**53, 2**63, 2**64, 10**30, 10**400),
    *("", "\x00", "x", "x" * 10_000, "\ud800", "😀", [], [[]], {}, {"": {"\x00": "\udfff"}}, ["\x00"] * 50),
]
ODD_FIELDS = (
    *("result", "metadata", "started_at_ms", "duration_ms", "error_message", "error_type", "error_code"),
    *("retryable", "retry_after_ms", "deliveries", "worker_id", "step_name", "attempt", "unheard_of"),
)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_a_worker_with_the_right_token_says_the_system_goes_on(
    system: System, seed: int
) -> None:
    """Odd values in every field: the message is refused or the try ends, and the task can always be shown."""
    chance = random.Random(seed)
    ended = refused_count = 0
    for _ in range(40):
        task_id, taken = await system.started("pair", namespace=NAMESPACE)
        kind = chance.choice(["started", "success", "success", "failure", "failure", "lost", "released"])
        fields = {"started_at_ms": 1, "deliveries": 2, "error_message": "no", "retryable": False}
        for field in chance.sample(ODD_FIELDS, chance.randint(1, 3)):
            fields[field] = chance.choice(ODD_VALUES)
        before = system.refused_count
        # Unlike the encoder of ours it writes whatever it is given.
        await system.say(taken.dispatch.result_subject, json.dumps(taken.outcome(kind, **fields)).encode())
        types = await system.types(task_id)
        if system.refused_count > before:
            refused_count += 1
            assert types == ["task.created", "step.enqueued"], (kind, fields)
        else:
            ended += 1
            assert len(types) > 2, (kind, fields)
        task = await system.task(task_id)
        assert len((await system.request("task.events", {"task_id": task_id}))["events"]) == len(types)
        await system.client.get_results(task_id)
        if task["status"] == "steps_in_process":
            await system.request("task.cancel", {"task_id": task_id})
    assert ended and refused_count
    await system.proves_itself()
    await system.verify()
