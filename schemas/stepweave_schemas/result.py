"""What a worker says about a try: one message, or an array of them where several finished together."""

from __future__ import annotations

from typing import ClassVar, Final, get_args

import msgspec

from .raw import NO_RAW

_NULL = msgspec.Raw(b"null")

#: Longest `error_message`, in characters; the SDKs cut it, and so does the orchestrator.
ERROR_MESSAGE_CHARS_MAX: Final = 8_192
#: Most results in one message.
RESULTS_PER_MESSAGE_MAX: Final = 500
#: Most bytes in one message of results.
RESULT_MESSAGE_BYTES_MAX: Final = 960 * 1024

#: Bound of the cursors of one `batches` outcome together, in bytes.
CURSORS_BYTES_MAX: Final = 640 * 1024
#: Bound of one of them, in bytes: it travels in each dispatch of its worker.
CURSOR_BYTES_MAX: Final = 64 * 1024
#: Most names in `create_steps` that are looked at at all.
NAMES_MAX: Final = 10_000
#: Most names in `compensation_steps`, and their bytes together; what goes beyond is left out, and the failure says so.
COMPENSATION_STEPS_MAX: Final = 1_000
COMPENSATION_STEPS_BYTES_MAX: Final = 64 * 1024

#: Most domain events in one outcome, and the bound of one payload and of all of them together, in bytes of JSON.
DOMAIN_EVENTS_MAX: Final = 100
DOMAIN_EVENT_NAME_CHARS_MAX: Final = 255
DOMAIN_EVENT_BYTES_MAX: Final = 64 * 1024
DOMAIN_EVENTS_BYTES_MAX: Final = 256 * 1024

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


class DomainEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event of the users' own domain that a handler published during a try."""

    #: One of the names that the template declares.
    name: str
    #: Any JSON value, by custom an object.
    payload: msgspec.Raw = _NULL
    #: Why there is no payload that can be sent; such an event is recorded as refused.
    problem: str = ""


class Started(Outcome, frozen=True, kw_only=True, tag="started"):
    """The handler is running and will not be done at once. Optional; sent once per try."""

    started_at_ms: int


class Success(Outcome, frozen=True, kw_only=True, tag="success"):
    """The handler succeeded; `result` is any JSON value, by custom an object."""

    result: msgspec.Raw = _NULL
    metadata: msgspec.Raw = NO_RAW
    started_at_ms: int | None = None
    duration_ms: int | None = None
    #: What the handler published; it counts where the outcome does.
    domain_events: tuple[DomainEvent, ...] = ()


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
    #: What is to be undone besides the declared compensations: names of steps or of compensation handlers.
    compensation_steps: tuple[str, ...] = ()
    #: What the handler published; it counts where the outcome does.
    domain_events: tuple[DomainEvent, ...] = ()


class Decided(Outcome, frozen=True, kw_only=True, tag="decision"):
    """A decision step chose: `create_steps` names the branches, none of them means that no branch is taken."""

    create_steps: tuple[str, ...] = ()
    #: Why no branch is taken, for people.
    reason: str = ""
    #: The step's result: the routing context.
    result: msgspec.Raw = _NULL
    metadata: msgspec.Raw = NO_RAW
    started_at_ms: int | None = None
    duration_ms: int | None = None
    #: What the handler published; it counts where the outcome does.
    domain_events: tuple[DomainEvent, ...] = ()


class Batches(Outcome, frozen=True, kw_only=True, tag="batches"):
    """A batchable step cut its work: one worker step is made for each cursor; none means there is nothing to do."""

    #: One JSON value for each batch: a number, a text, a date, an opaque token or an object.
    cursors: tuple[msgspec.Raw, ...] = ()
    #: The `batch_worker` step that each batch is made from; empty: the one that the template names.
    worker_template: str = ""
    #: Why there is nothing to do, for people.
    reason: str = ""
    result: msgspec.Raw = _NULL
    metadata: msgspec.Raw = NO_RAW
    started_at_ms: int | None = None
    duration_ms: int | None = None
    #: What the handler published; it counts where the outcome does.
    domain_events: tuple[DomainEvent, ...] = ()


class Checkpointed(Outcome, frozen=True, kw_only=True, tag="checkpoint"):
    """The handler saved its progress and hands the step back; it is dispatched again from here, at no attempt."""

    #: Where to go on: any JSON value.
    cursor: msgspec.Raw = _NULL
    #: Items done since the step began, over all its tries.
    items_processed: int = 0
    #: What the items done so far have come to: any JSON value.
    accumulated_results: msgspec.Raw = _NULL
    #: What the handler published; it counts where the outcome does.
    domain_events: tuple[DomainEvent, ...] = ()


class Released(Outcome, frozen=True, kw_only=True, tag="released"):
    """The worker hands the try back without having started it (it is shutting down)."""


class Lost(Outcome, frozen=True, kw_only=True, tag="lost"):
    """The dispatch was delivered again: whoever had it before is gone or let its lease run out.

    Sent instead of running the handler; the orchestrator counts the try and dispatches the next one.
    """

    #: How often JetStream has delivered the dispatch, from 2.
    deliveries: int


AnyOutcome = Started | Success | Failure | Decided | Batches | Checkpointed | Released | Lost

for _class in get_args(AnyOutcome):
    _class.KIND = str(_class.__struct_config__.tag)
