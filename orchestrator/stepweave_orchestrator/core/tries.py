"""One try of a step: how it is given out, and how it fails."""

from __future__ import annotations

import hashlib
from typing import Any

from stepweave_schemas import events
from stepweave_schemas.raw import NO_RAW

from .commands import Moment

#: Most steps that one event names (up to 255 bytes each), so that it fits into one message.
NAMED_STEPS_MAX = 1_000
#: Most that the failures of one task may add to what is undone anyway: names together, for the same reason.
NAMED_TO_UNDO_BYTES_MAX = 128 * 1_024


class Failed:
    """One failed try, whoever reported it."""

    __slots__ = (
        "error_code",
        "error_message",
        "error_type",
        "metadata",
        "retry_after_ms",
        "retryable",
        "settled_by",
        "undo",
        "worker_id",
    )

    def __init__(
        self,
        *,
        settled_by: str,
        error_type: str,
        error_code: str | None,
        error_message: str,
        worker_id: str,
        retryable: bool = True,
        retry_after_ms: int | None = None,
        metadata: Any = None,
        undo: tuple[str, ...] = (),
    ) -> None:
        self.settled_by = settled_by
        self.error_type = error_type
        self.error_code = error_code
        self.error_message = error_message
        self.worker_id = worker_id
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.metadata = metadata if metadata is not None else NO_RAW
        self.undo = undo


def enqueued(name: str, uuid: str, attempt: int, moment: Moment) -> events.StepEnqueued:
    """The order to dispatch one try."""
    return events.StepEnqueued(
        step_name=name, step_uuid=uuid, attempt=attempt, lease_token=lease_token(uuid, attempt, moment)
    )


def lease_token(uuid: str, attempt: int, moment: Moment) -> str:
    """A token unguessable from the outside and from the other tokens of the same decision."""
    token = hashlib.blake2b(f"{uuid}{attempt}".encode(), key=moment.entropy.encode(), digest_size=12)
    return token.hexdigest()
