"""What a worker says about a try: one message, or an array of them where several finished together."""

from __future__ import annotations

from typing import ClassVar, Final, get_args

import msgspec

from .raw import NO_RAW

_NULL = msgspec.Raw(b"null")

#: Longest `error_message`, in characters; the SDKs cut, the orchestrator refuses.
ERROR_MESSAGE_CHARS_MAX: Final = 8_192
#: Most results in one message.
RESULTS_PER_MESSAGE_MAX: Final = 500
#: Most bytes in one message of results.
RESULT_MESSAGE_BYTES_MAX: Final = 960 * 1024

#: The strings of `error_type`.
ERROR_TYPES: Final = (
    "permanent_error",
    "retryable_error",
    "validation_error",
    "timeout",
    "handler_error",
    "worker_lost",
)


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """Base: which try it is about (all from the dispatch) and who says so."""

    #: The struct's tag.
    KIND: ClassVar[str]

    task_id: str
    step_uuid: str
    step_name: str
    attempt: int
    lease_token: str
    worker_id: str


class Started(Outcome, frozen=True, kw_only=True, tag="started"):
    """The handler is running and will not be done at once. Optional; sent once per try."""

    started_at_ms: int


class Success(Outcome, frozen=True, kw_only=True, tag="success"):
    """The handler succeeded; `result` is any JSON value, by custom an object."""

    result: msgspec.Raw = _NULL
    metadata: msgspec.Raw = NO_RAW
    started_at_ms: int | None = None
    duration_ms: int | None = None


class Failure(Outcome, frozen=True, kw_only=True, tag="failure"):
    """The handler failed; `retryable: false` ends the step."""

    error_message: str
    error_type: str = "handler_error"
    error_code: str | None = None
    retryable: bool = True
    #: The handler's wish for the delay before the next try, in milliseconds.
    retry_after_ms: int | None = None
    metadata: msgspec.Raw = NO_RAW
    started_at_ms: int | None = None
    duration_ms: int | None = None


class Released(Outcome, frozen=True, kw_only=True, tag="released"):
    """The worker hands the try back without having started it (it is shutting down)."""


class Lost(Outcome, frozen=True, kw_only=True, tag="lost"):
    """The dispatch was delivered again: whoever had it before is gone or let its lease run out.

    Sent instead of running the handler; the orchestrator counts the try and dispatches the next one.
    """

    #: How often JetStream has delivered the dispatch, from 2.
    deliveries: int


AnyOutcome = Started | Success | Failure | Released | Lost

for _class in get_args(AnyOutcome):
    _class.KIND = str(_class.__struct_config__.tag)
