"""What workers say, checked where it enters.

Two kinds of fault, two answers. A message of which one cannot tell what it is or which try it is about is refused
as a whole. An outcome whose try is plain is never dropped, because its worker will not say it again and the step
would wait for ever: a failure is kept without what is wrong with it, and a success that cannot be stored becomes a
permanent failure that says why. Whether the try is current and its token right is the actor's to judge.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

import msgspec

from stepweave_schemas import result, subjects
from stepweave_schemas.codec import MessageError, decode_outcomes
from stepweave_schemas.dispatch import RESULT_BYTES_MAX
from stepweave_schemas.identity import is_uuid
from stepweave_schemas.raw import NO_RAW

#: Longest step name, worker id, token and error code, in characters.
TEXT_CHARS_MAX: Final = 512
#: The last moment that can be shown, and the longest duration: the end of the year 9999.
MOMENT_MS_MAX: Final = 253_402_300_799_999

#: The outcomes with which a handler may publish domain events.
_Publishing = result.Success | result.Failure | result.Decided | result.Batches | result.Checkpointed

#: More items than any step can count exactly in every language.
ITEMS_PROCESSED_MAX: Final = 2**53 - 1
_NAMES_RULE: Final = f"names of 1 to {TEXT_CHARS_MAX} characters without NUL, {result.NAMES_MAX} at most"

#: An escaped half of a surrogate pair that stands alone, after any number of escaped backslashes.
_HALF_A_PAIR: Final = re.compile(
    rb"(?<!\\)((?:\\\\)*)(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


def read_outcomes(payload: bytes, address: subjects.ResultAddress) -> list[result.AnyOutcome]:
    """The outcomes of one message on a result subject, ready for their actors; raises `MessageError`."""
    outcomes = _decoded(payload)
    if not outcomes:
        raise MessageError("an empty array")
    if len(outcomes) > result.RESULTS_PER_MESSAGE_MAX:
        raise MessageError(
            f"{len(outcomes)} results in one message, {result.RESULTS_PER_MESSAGE_MAX} at most"
        )
    return [_checked(outcome, address) for outcome in outcomes]


def not_storable(outcome: result.AnyOutcome, why: str, code: str = "RESULT_NOT_STORABLE") -> result.Failure:
    """What is recorded instead of an outcome whose content cannot be stored."""
    return result.Failure(
        task_id=outcome.task_id,
        step_uuid=outcome.step_uuid,
        step_name=outcome.step_name,
        attempt=outcome.attempt,
        lease_token=outcome.lease_token,
        worker_id=outcome.worker_id,
        error_type="permanent_error",
        error_code=code,
        error_message=why[: result.ERROR_MESSAGE_CHARS_MAX],
        retryable=False,
    )


def _decoded(payload: bytes) -> list[result.AnyOutcome]:
    """As `decode_outcomes`, also where somebody's encoder has let half a surrogate pair pass, as many do."""
    try:
        return decode_outcomes(payload)
    except MessageError:
        mark = secrets.token_hex(16)
        mended = _HALF_A_PAIR.sub(rb"\g<1>" + mark.encode(), payload)
        if mended == payload:
            raise
        return [_unmarked(outcome, mark) for outcome in decode_outcomes(mended)]


def _unmarked(outcome: result.AnyOutcome, mark: str) -> result.AnyOutcome:
    if isinstance(outcome, _Publishing) and outcome.domain_events:
        events = tuple(_unmarked_event(one, mark) for one in outcome.domain_events)
        outcome = msgspec.structs.replace(outcome, domain_events=events)
    if isinstance(outcome, result.Success | result.Decided | result.Batches | result.Checkpointed):
        if mark.encode() in msgspec.json.encode(outcome):
            return not_storable(outcome, "the result has half a surrogate pair, which is no text")
    elif isinstance(outcome, result.Failure):
        return msgspec.structs.replace(
            outcome,
            error_message=outcome.error_message.replace(mark, "\ufffd"),
            error_code=None if outcome.error_code is None else outcome.error_code.replace(mark, "\ufffd"),
            metadata=NO_RAW if mark.encode() in bytes(outcome.metadata) else outcome.metadata,
        )
    return outcome


def _unmarked_event(event: result.DomainEvent, mark: str) -> result.DomainEvent:
    if mark.encode() not in msgspec.json.encode(event):
        return event
    name = event.name.replace(mark, "\ufffd")
    return result.DomainEvent(name=name, problem="it has half a surrogate pair, which is no text")


def _checked(outcome: result.AnyOutcome, address: subjects.ResultAddress) -> result.AnyOutcome:
    _check_try(outcome, address)
    if getattr(outcome, "domain_events", ()):
        outcome = msgspec.structs.replace(outcome, domain_events=_domain_events(outcome))  # type: ignore[arg-type]
    if isinstance(outcome, result.Success):
        return _success(outcome)
    if isinstance(outcome, result.Failure):
        return _failure(outcome)
    if isinstance(outcome, result.Decided):
        return _decided(outcome)
    if isinstance(outcome, result.Batches):
        return _batches(outcome)
    if isinstance(outcome, result.Checkpointed):
        return _checkpoint(outcome)
    if isinstance(outcome, result.Started) and not _is_moment(outcome.started_at_ms):
        raise MessageError(f"started_at_ms: expected 0 to {MOMENT_MS_MAX}")
    return outcome


def _check_try(outcome: result.AnyOutcome, address: subjects.ResultAddress) -> None:
    """Raise `MessageError` unless it is plain which try the outcome is about, and whose subject that is."""
    if not is_uuid(outcome.task_id):
        raise MessageError("task_id is no UUID in canonical form")
    if address.task_id not in (outcome.task_id, subjects.MANY_TASKS):
        raise MessageError(f"the subject names task {address.task_id}, the result {outcome.task_id}")
    for field in ("step_uuid", "step_name", "worker_id", "lease_token"):
        text = getattr(outcome, field)
        if not text or len(text) > TEXT_CHARS_MAX or "\x00" in text:
            raise MessageError(f"{field}: expected 1 to {TEXT_CHARS_MAX} characters, and no NUL")


def _success(outcome: result.Success) -> result.AnyOutcome:
    fault = _fault_of_result(outcome)
    return _with_sound_times(outcome) if fault is None else fault


def _decided(outcome: result.Decided) -> result.AnyOutcome:
    if not _are_names(outcome.create_steps):
        return not_storable(outcome, f"create_steps: {_NAMES_RULE}", "DECISION_INVALID")
    if (fault := _fault_of_result(outcome)) is not None:
        return fault
    reason = _cut(outcome.reason)
    return _with_sound_times(msgspec.structs.replace(outcome, reason=reason))


def _batches(outcome: result.Batches) -> result.AnyOutcome:
    size = sum(len(memoryview(cursor)) + 1 for cursor in outcome.cursors)
    if size > result.CURSORS_BYTES_MAX:
        why = f"{len(outcome.cursors)} cursors of {size} bytes together, {result.CURSORS_BYTES_MAX} at most"
        return not_storable(outcome, why, "CURSORS_TOO_LARGE")
    largest = max((len(memoryview(cursor)) for cursor in outcome.cursors), default=0)
    if largest > result.CURSOR_BYTES_MAX:
        why = f"a cursor of {largest} bytes, {result.CURSOR_BYTES_MAX} at most"
        return not_storable(outcome, why, "CURSORS_TOO_LARGE")
    try:
        for cursor in outcome.cursors:
            _check_json(cursor)
    except MessageError as error:
        return not_storable(outcome, f"a cursor is {error}")
    if (fault := _fault_of_result(outcome)) is not None:
        return fault
    if len(outcome.worker_template) > TEXT_CHARS_MAX or "\x00" in outcome.worker_template:
        return not_storable(outcome, "worker_template is no step's name", "BATCHES_INVALID")
    return _with_sound_times(msgspec.structs.replace(outcome, reason=_cut(outcome.reason)))


def _checkpoint(outcome: result.Checkpointed) -> result.AnyOutcome:
    size = len(memoryview(outcome.cursor)) + len(memoryview(outcome.accumulated_results))
    if size > RESULT_BYTES_MAX:
        why = f"a checkpoint of {size} bytes, {RESULT_BYTES_MAX} at most"
        return not_storable(outcome, why, "CHECKPOINT_TOO_LARGE")
    if not 0 <= outcome.items_processed <= ITEMS_PROCESSED_MAX:
        why = f"items_processed: expected 0 to {ITEMS_PROCESSED_MAX}"
        return not_storable(outcome, why, "CHECKPOINT_INVALID")
    try:
        _check_json(outcome.cursor)
        _check_json(outcome.accumulated_results)
    except MessageError as error:
        return not_storable(outcome, f"the checkpoint is {error}")
    return outcome


def _domain_events(outcome: _Publishing) -> tuple[result.DomainEvent, ...]:
    """What a handler published, each within bounds or with what is wrong with it: never a fault of the outcome."""
    kept: list[result.DomainEvent] = []
    size_bytes = 0
    for number, one in enumerate(outcome.domain_events):
        problem = _cut(one.problem)
        if number >= result.DOMAIN_EVENTS_MAX:
            left = len(outcome.domain_events) - number
            problem = f"{result.DOMAIN_EVENTS_MAX} events of one try at most: {left} are left out"
            kept.append(result.DomainEvent(name=_event_name(one.name), problem=problem))
            break
        size_bytes += len(memoryview(one.payload))
        if not problem and size_bytes > result.DOMAIN_EVENTS_BYTES_MAX:
            problem = f"the payloads of one try have {result.DOMAIN_EVENTS_BYTES_MAX} bytes together at most"
        if not problem:
            try:
                _check_json(one.payload)
            except MessageError as error:
                problem = f"the payload is {error}"
        kept.append(
            result.DomainEvent(name=_event_name(one.name), problem=problem)
            if problem
            else msgspec.structs.replace(one, name=_event_name(one.name))
        )
    return tuple(kept)


def _event_name(name: str) -> str:
    return name.replace("\x00", "\ufffd")[: result.DOMAIN_EVENT_NAME_CHARS_MAX]


def _are_names(names: tuple[str, ...]) -> bool:
    return len(names) <= result.NAMES_MAX and all(
        0 < len(name) <= TEXT_CHARS_MAX and "\x00" not in name for name in names
    )


def _cut(text: str) -> str:
    text = text.replace("\x00", "\ufffd")
    most = result.ERROR_MESSAGE_CHARS_MAX
    return text if len(text) <= most else text[: most - 1] + "…"


def _fault_of_result(
    outcome: result.Success | result.Decided | result.Batches,
) -> result.Failure | None:
    """What is recorded instead where the result cannot be stored."""
    size = len(memoryview(outcome.result)) + len(memoryview(outcome.metadata))
    if size > RESULT_BYTES_MAX:
        why = f"a result of {size} bytes, {RESULT_BYTES_MAX} at most"
        return not_storable(outcome, why, "RESULT_TOO_LARGE")
    try:
        _check_json(outcome.result)
        if outcome.metadata is not NO_RAW:
            _check_json(outcome.metadata)
    except MessageError as error:
        return not_storable(outcome, f"the result is {error}")
    return None


def _with_sound_times(
    outcome: result.Success | result.Decided | result.Batches,
) -> result.AnyOutcome:
    if not _is_moment(outcome.started_at_ms) or not _is_moment(outcome.duration_ms):
        return msgspec.structs.replace(outcome, started_at_ms=None, duration_ms=None)
    return outcome


def _failure(outcome: result.Failure) -> result.Failure:
    changes: dict[str, object] = {}
    if outcome.error_type not in result.ERROR_TYPES:
        changes["error_type"] = "handler_error"
    if len(outcome.error_message) > result.ERROR_MESSAGE_CHARS_MAX:
        changes["error_message"] = outcome.error_message[: result.ERROR_MESSAGE_CHARS_MAX - 1] + "…"
    if outcome.error_code is not None and len(outcome.error_code) > TEXT_CHARS_MAX:
        changes["error_code"] = outcome.error_code[: TEXT_CHARS_MAX - 1] + "…"
    if outcome.retry_after_ms is not None and outcome.retry_after_ms < 0:
        changes["retry_after_ms"] = None
    if outcome.compensation_steps:
        changes |= _compensation_steps(outcome, changes.get("error_message", outcome.error_message))
    if outcome.metadata is not NO_RAW:
        try:
            if len(memoryview(outcome.metadata)) > RESULT_BYTES_MAX:
                raise MessageError("too large")
            _check_json(outcome.metadata)
        except MessageError:
            changes["metadata"] = NO_RAW
    return msgspec.structs.replace(outcome, **changes) if changes else outcome


def _compensation_steps(outcome: result.Failure, error_message: object) -> dict[str, object]:
    """The names that can be kept; the failure says how many could not."""
    named = dict.fromkeys(outcome.compensation_steps)
    kept: list[str] = []
    size_bytes = 0
    for name in named:
        size_bytes += len(name.encode())
        if not _are_names((name,)):
            continue
        if len(kept) >= result.COMPENSATION_STEPS_MAX or size_bytes > result.COMPENSATION_STEPS_BYTES_MAX:
            break
        kept.append(name)
    left_out = len(named) - len(kept)
    if not left_out:
        return {"compensation_steps": tuple(kept)}
    note = f" ({left_out} of the names in compensation_steps are none, or too many, and are left out)"
    text = str(error_message)[: result.ERROR_MESSAGE_CHARS_MAX - len(note)]
    return {"compensation_steps": tuple(kept), "error_message": text + note}


def _is_moment(at_ms: int | None) -> bool:
    return at_ms is None or 0 <= at_ms <= MOMENT_MS_MAX


def _check_json(raw: msgspec.Raw) -> None:
    """Raise `MessageError` for raw JSON that a reader would stumble over.

    A raw field was skipped over, not read: it may hold broken UTF-8, half a surrogate pair, a number out of range
    or be nested too deeply.
    """
    try:
        msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"not sound JSON: {error}") from error
