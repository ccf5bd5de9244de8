"""How work that was asked for ended, for who asked: the answer, or the error that says why there is none."""

from __future__ import annotations

import msgspec

from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas.api import ApiError

from .work import Done, Ending, Faulty, Unstorable

#: How an answer begins that is an error.
ERROR_PREFIX = b'{"error":'


def read_error(payload: bytes) -> ApiError:
    """The error that an answer carries."""
    body = msgspec.json.decode(payload)["error"]
    details = {key: value for key, value in body.items() if key not in ("code", "message")}
    return ApiError(body["code"], body["message"], **details)


def read_answer(answer: bytes) -> bytes:
    """What an actor answered; raises `ApiError` where that is an error."""
    if answer.startswith(ERROR_PREFIX):
        raise read_error(answer)
    return answer


def too_many_requests() -> ApiError:
    """More requests are under way than a process takes."""
    return ApiError(
        "BACKPRESSURE",
        "nothing was done, try again in 1 s: too many requests are under way",
        retry_after_seconds=1.0,
        reason="requests_under_way",
    )


def done_or_raise(ending: Ending, stream_id: str) -> Done:
    """The work's ending where it was done; raises what else became of it, refusals as `ApiError`."""
    if isinstance(ending, Done):
        return ending
    if isinstance(ending, Rejection):
        if ending.code == "NOT_FOUND":
            raise ApiError("NOT_FOUND", f"there is no task {stream_id}", task_id=stream_id)
        if ending.code == "UNKNOWN_STEP":
            raise ApiError("NOT_FOUND", ending.reason, task_id=stream_id)
        if ending.allowed_actions is None:
            raise ApiError("CONFLICT", ending.reason, task_id=stream_id)
        allowed = list(ending.allowed_actions)
        raise ApiError(
            "CONFLICT", ending.reason, task_id=stream_id, state=ending.status, allowed_actions=allowed
        )
    if isinstance(ending, Unstorable):
        raise ApiError(
            "VALIDATION_FAILED", "the event store does not take this; the orchestrator's log has the reason"
        )
    if isinstance(ending, Faulty):
        raise ApiError("INTERNAL_ERROR", "the request failed; the orchestrator's log has more")
    raise ending
