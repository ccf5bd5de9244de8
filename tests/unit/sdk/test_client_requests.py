"""What the client sends and how it reads what comes back, without a server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave import BadRequest, Client, SyncClient
from stepweave.responses import SignalResponse
from stepweave.task_requests import fork_request, signal_request
from stepweave_schemas import api
from stepweave_schemas.codec import encode
from stepweave_schemas.identity import is_uuid

TASK_ID = "0198c0de-0000-7000-8000-000000000001"


def _sent(payload: Any = None, **given: Any) -> dict[str, Any]:
    fields = {"signal_id": None, "sent_by": "", **given}
    found: dict[str, Any] = msgspec.json.decode(
        encode(signal_request(TASK_ID, "approval", payload, **fields))
    )
    return found


def test_a_signal_gets_an_id_that_every_repetition_has() -> None:
    one, other = _sent(), _sent()
    assert is_uuid(one["signal_id"])
    assert one["signal_id"] != other["signal_id"]
    assert one == {
        "task_id": TASK_ID,
        "signal": "approval",
        "payload": None,
        "signal_id": one["signal_id"],
    }


def test_a_signal_carries_what_was_given() -> None:
    assert _sent({"approved": True}, signal_id="mail-17", sent_by="ada") == {
        "task_id": TASK_ID,
        "signal": "approval",
        "payload": {"approved": True},
        "signal_id": "mail-17",
        "sent_by": "ada",
    }
    assert _sent([1, None])["payload"] == [1, None]
    assert _sent(False)["payload"] is False


@pytest.mark.parametrize(
    ("name", "payload", "given", "message"),
    [
        ("", None, {}, "a signal needs a name"),
        ("approval", {"at": object()}, {}, r"not JSON: payload\.at"),
        ("approval", float("nan"), {}, "not JSON: payload"),
        ("approval", None, {"signal_id": ""}, "signal_id"),
        ("approval", None, {"signal_id": 7}, "signal_id"),
        ("approval", None, {"sent_by": None}, "sent_by"),
    ],
)
def test_a_signal_that_cannot_be_sent(name: str, payload: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        signal_request(TASK_ID, name, payload, **{"signal_id": None, "sent_by": "", **given})


def test_what_a_signal_is_answered_with() -> None:
    task = {
        "task_uuid": TASK_ID,
        "name": "order",
        "namespace": "shop",
        "version": "1.0.0",
        "status": "waiting_for_dependencies",
        "created_at": "",
        "updated_at": "",
        "completed_at": None,
        "context": {"amount": 5},
        "initiator": "",
        "source_system": "",
        "reason": "",
        "priority": 0,
        "tags": [],
        "correlation_id": TASK_ID,
        "parent_correlation_id": None,
        "total_steps": 1,
        "pending_steps": 0,
        "in_progress_steps": 1,
        "completed_steps": 0,
        "failed_steps": 0,
        "ready_steps": 0,
        "execution_status": "processing",
        "recommended_action": None,
        "completion_percentage": 0.0,
        "health_status": "healthy",
        "stream_version": 3,
        "signals_kept": ["approval"],
    }
    reply = msgspec.convert({"task": task, "signal_id": "mail-17", "taken_by": None}, SignalResponse)
    assert (reply.signal_id, reply.taken_by, reply.replayed) == ("mail-17", None, False)
    assert reply.task.context == {"amount": 5}
    assert reply.task.signals_kept == ("approval",)
    assert not reply.task.is_terminal and not reply.task.is_blocked


def fork(*steps: str, **fields: Any) -> api.ForkTask:
    given = {
        "version": None,
        "context": None,
        "fork_id": None,
        "correlation_id": None,
        "reason": "",
        "forked_by": "",
        "dry_run": False,
    }
    return fork_request(TASK_ID, steps, **{**given, **fields})


def test_a_request_for_a_fork() -> None:
    request = fork("a", "b", context={"amount": 5}, dry_run=True)
    assert (request.task_id, request.from_steps, request.dry_run) == (TASK_ID, ("a", "b"), True)
    assert request.fork_id is not None
    assert request.fork_id != fork("a").fork_id
    assert bytes(request.context) == b'{"amount":5}'
    sent = msgspec.json.decode(msgspec.json.encode(fork("a")))
    assert sent.keys() == {"task_id", "from_steps", "fork_id"}, "the original's context is not sent"
    assert fork_request(
        TASK_ID,
        "only",
        version=None,
        context=None,
        fork_id="id",
        correlation_id=None,
        reason="",
        forked_by="",
        dry_run=False,
    ).from_steps == ("only",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context": [1]}, "is an object"),
        ({"context": {"a": object()}}, "not JSON"),
        ({"version": 7}, "fork's request is wrong"),
    ],
)
def test_a_fork_that_cannot_be_asked_for(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        fork(**fields)


def test_the_sync_client_has_what_the_client_has() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(Client) == public(SyncClient)
