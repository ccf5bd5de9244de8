"""Events as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .output import moment

if TYPE_CHECKING:
    from rich.text import Text

    from stepweave_schemas.envelope import Envelope

_STYLES: Final = {
    "task.completed": "bold green",
    "step.completed": "green",
    "step.retry_scheduled": "yellow",
    "step.failed": "red",
    "step.domain_event_refused": "yellow",
    "domain.published": "cyan",
    "task.blocked": "bold red",
    "task.failed": "bold red",
    "task.stale": "bold yellow",
    "task.cancelled": "bold magenta",
    "task.paused": "bold yellow",
    "task.given_up": "bold red",
    "task.resolved_manually": "bold magenta",
    "step.reset": "yellow",
    "step.resolved_manually": "magenta",
    "step.completed_manually": "green",
    "signal.awaited": "yellow",
    "signal.timed_out": "yellow",
    "circuit.held": "yellow",
    "breaker.opened": "bold red",
    "breaker.half_opened": "yellow",
    "breaker.closed": "green",
    "concurrency.requested": "yellow",
    "rate.held": "yellow",
    "batch.stopped": "red",
    "compensation.started": "magenta",
    "compensation.completed": "magenta",
    "compensation.failed": "bold red",
}
#: Why a schedule starts no task, by the reason of `schedule.skipped`.
_SKIPPED: Final = {
    "overlap": "a task of the schedule runs",
    "overtaken": "a later firing takes the place",
    "missed": "missed, and older than the catch-up window",
    "paused": "the schedule was paused",
    "replaced": "the settings were replaced before",
}
#: Under which of these keys the result of a compensation tells why not all could be undone, the first wins.
_WHY: Final = ("why", "error", "reason")
#: Most names of a list that are shown.
_NAMES_MAX: Final = 5
#: Longest description, in characters.
_DESCRIPTION_CHARS_MAX: Final = 200


def _error(data: dict[str, Any]) -> str:
    code = f" [{data['error_code']}]" if data.get("error_code") else ""
    return f"{data['error_message']}{code}"


def _task(data: dict[str, Any]) -> str:
    return f"{data['namespace']}/{data['task_name']}"


def _created(data: dict[str, Any]) -> str:
    text = "{namespace}/{name}:{version}".format(**data["template"])
    text += f" by {data['initiator']}" if data.get("initiator") else ""
    origin = data.get("forked_from")
    if not origin:
        return text
    steps = f" from {_names(origin['from_steps'])}" if origin.get("from_steps") else ""
    return f"{text}, a fork of {origin['task_id']}{steps}"


def _by_hand(data: dict[str, Any], who: str, why: str) -> str:
    """Who did it, and why."""
    by = f"by {data[who]}" if data.get(who) else "by somebody"
    return f"{by}: {why}" if why else f"{by}, no reason given"


def _by(data: dict[str, Any], who: str) -> str:
    return f" by {data[who]}" if data.get(who) else ""


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_MAX
    return ", ".join(names[:_NAMES_MAX]) + (f" and {more} more" if more > 0 else "")


def _counted(number: int, one: str, several: str = "") -> str:
    """`1 batch`, `2 batches`: `several` is needed where it is not `one` with an s."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def _routed(data: dict[str, Any]) -> str:
    followed = [name for name in data["created"] if name not in data["chosen"]]
    text = f"{data['step_name']} chose {_names(data['chosen'])}"
    if followed:
        text += f"; {_names(followed)} {'follows' if len(followed) == 1 else 'follow'}"
    return text + _excluded(data)


def _excluded(data: dict[str, Any]) -> str:
    return f"; never: {_names(data['excluded'])}" if data.get("excluded") else ""


def _batches(data: dict[str, Any]) -> str:
    if data.get("is_no_op"):
        why = f": {data['reason']}" if data.get("reason") else ""
        return f"{data['step_name']} found nothing to do{why}; a placeholder stands for {data['worker_template']}"
    count = _counted(len(data["cursors"]), "batch", "batches")
    return f"{data['step_name']} cut the work into {count} of {data['worker_template']}"


def _moment(at_ms: int) -> str:
    from stepweave_schemas.envelope import timestamp

    return moment(timestamp(at_ms))


def _blocked(data: dict[str, Any]) -> str:
    failed = data.get("failed_steps", ())
    return f"{_task(data)}: {_error(data)}" + (f"; failed: {_names(failed)}" if len(failed) > 1 else "")


def _stale(data: dict[str, Any]) -> str:
    if data["threshold"] == "handler_missing":
        text = f"{_task(data)}: no worker serves {_names(data['missing_handlers'])}"
    else:
        text = f"{_task(data)}: {data['status']} for {duration(data['limit_ms'])} ({data['threshold']})"
    if data.get("waiting_for"):
        text += f"; waits for {_names(data['waiting_for'])}"
    return text + ("" if data["action"] == "alert" else f"; {data['action']}")


def _failed_task(data: dict[str, Any]) -> str:
    text = f"{_task(data)}: {_error(data)}"
    if data.get("compensation_status"):
        text += f"; undone: {data['compensation_status']}"
    if data.get("requires_manual_cleanup"):
        text += f"; to be cleaned up by hand: {_names(data['requires_manual_cleanup'])}"
    return text


def _undoing(data: dict[str, Any]) -> str:
    text = (
        f"{_task(data)}: {_error(data)}; to be undone: {_names([*data['steps'], *data.get('handlers', ())])}"
    )
    left_out = data.get("left_out_count", 0)
    return text + (f"; left out, for they were too many: {_counted(left_out, 'name')}" if left_out else "")


def _undone(data: dict[str, Any]) -> str:
    text = f"{data['compensates']}, try {data['attempt']}"
    if data.get("duration_ms") is not None:
        text += f", in {duration(data['duration_ms'])}"
    if data.get("requires_manual_cleanup"):
        why = _why(data.get("result"))
        text += "; not all of it: to be cleaned up by hand" + (f" ({why})" if why else "")
    return text


def _why(result: object) -> str:
    """What a compensation says about the part that it could not undo."""
    found = result if isinstance(result, dict) else {}
    said = (found.get(key) for key in _WHY)
    return next((text for text in said if isinstance(text, str) and text.strip()), "")


def _short(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _child(data: dict[str, Any]) -> str:
    version = f":{data['version']}" if data.get("version") else ""
    text = f"{data['step_name']}: {data['namespace']}/{data['name']}{version}, task {data['child_task_id']}"
    return text + (f"; it cannot start: {'; '.join(data['problems'])}" if data.get("problems") else "")


def _held(data: dict[str, Any]) -> str:
    """Who is held before a gate."""
    text = data["step_name"] or "the task"
    return f"{text}, try {data['attempt']}," if data["step_name"] and "attempt" in data else text


def _waiter(data: dict[str, Any]) -> str:
    """Who is told about in a gate's stream."""
    return f"task {data['task_id']}" + (f", {data['step_name']}" if data["step_name"] else "")


def _next_firing(data: dict[str, Any]) -> str:
    at_ms = data.get("next_at_ms")
    return "; no firing lies ahead" if at_ms is None else f"; next {_moment(at_ms)}"


def _firing(data: dict[str, Any]) -> str:
    by = f" by {data['fired_by']}" if data.get("fired_by") else ""
    return f"{data['cause']} firing of {_moment(data['nominal_at_ms'])}{by}"


_TEXTS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "task.created": _created,
    "task.started": lambda _: "its time has come",
    "task.blocked": _blocked,
    "task.completed": lambda data: (
        f"{_task(data)}: {_counted(data['steps_completed'], 'step')} in {duration(data['duration_ms'])}"
    ),
    "task.failed": _failed_task,
    "task.paused": lambda data: _by_hand(data, "paused_by", data["reason"]),
    "task.resumed": lambda data: _by_hand(data, "resumed_by", data["reason"]),
    "task.given_up": lambda data: _by_hand(data, "given_up_by", data["reason"]),
    "task.resolved_manually": lambda data: f"{_task(data)}: {_by_hand(data, 'resolved_by', data['reason'])}",
    "task.cancelled": lambda data: f"{_task(data)}: {_by_hand(data, 'cancelled_by', data['reason'])}",
    "task.stale": _stale,
    "task.investigated": lambda data: (
        f"dead letter {data['number']}: {data['resolution_status'].replace('_', ' ')}"
        + (f", by {data['resolved_by']}" if data.get("resolved_by") else "")
        + (f": {data['resolution_notes']}" if data.get("resolution_notes") else "")
    ),
    "step.enqueued": lambda data: f"{data['step_name']}, try {data['attempt']}",
    "step.started": lambda data: f"{data['step_name']}, try {data['attempt']}, by {data['worker_id']}",
    "step.completed": lambda data: (
        f"{data['step_name']}, try {data['attempt']}"
        + (f", in {duration(data['duration_ms'])}" if data.get("duration_ms") is not None else "")
    ),
    "step.retry_scheduled": lambda data: (
        f"{data['step_name']}, try {data['attempt']}: {_error(data)}; again in {duration(data['delay_ms'])}"
    ),
    "step.failed": lambda data: (
        f"{data['step_name']}, try {data['attempt']}: {_error(data)} "
        f"({data['failure_reason'].replace('_', ' ')})"
        + ("; the other batches go on" if data.get("tolerated") else "")
    ),
    "step.released": lambda data: (
        f"{data['step_name']}, try {data['attempt']}, by {data['worker_id']}"
        + ("; it does not have the handler" if data.get("reason") == "handler_missing" else "")
    ),
    "step.result_refused": lambda data: (
        f"{data['step_name']}, try {data['attempt']}: {data['refusal'].replace('_', ' ')}"
    ),
    "step.checkpointed": lambda data: (
        f"{data['step_name']}, try {data['attempt']}: {_counted(data['items_processed'], 'item')} done"
    ),
    "step.reused": lambda data: (
        f"{data['step_name']}: {data.get('status', 'complete').replace('_', ' ')} in task {data['from_task_id']}"
    ),
    "step.domain_event_refused": lambda data: (
        f"{data['step_name']}, try {data['attempt']}: {data['name']} is not published "
        f"({data['refusal'].replace('_', ' ')}): {data['message']}"
    ),
    "domain.published": lambda data: (
        f"{data['name']} by {data['step_name']}, try {data['attempt']}: {_short(data['payload'])}"
    ),
    "step.skipped": lambda data: (
        f"{data['step_name']}: "
        + (
            _by_hand(data, "skipped_by", data.get("explanation", ""))
            if data["reason"] == "operator"
            else data["reason"].replace("_", " ")
        )
    ),
    "step.reset": lambda data: (
        f"{data['step_name']}, after try {data['attempt']}: {_by_hand(data, 'reset_by', data['reason'])}"
    ),
    "step.resolved_manually": lambda data: (
        f"{data['step_name']}: {_by_hand(data, 'resolved_by', data['reason'])}"
    ),
    "step.completed_manually": lambda data: (
        f"{data['step_name']}: {_by_hand(data, 'completed_by', data['reason'])}"
    ),
    "decision.routed": _routed,
    "decision.declined": lambda data: (
        f"{data['step_name']} chose no branch: {data['reason'] or 'no reason given'}{_excluded(data)}"
    ),
    "batch.created": _batches,
    "batch.completed": lambda data: (
        f"{data['worker_template']}: {data['succeeded_count']} succeeded, {data['failed_count']} failed"
    ),
    "batch.stopped": lambda data: (
        f"{data['worker_template']}: {data['failed_step']} failed; "
        f"{_counted(data['cancelled_count'], 'batch', 'batches')} cancelled"
    ),
    "signal.awaited": lambda data: (
        f"{data['step_name']} waits for {data['signal']}"
        + (f" until {_moment(data['deadline_at_ms'])}" if data.get("deadline_at_ms") is not None else "")
    ),
    "signal.received": lambda data: (
        data["signal"] + (f", sent by {data['sent_by']}" if data.get("sent_by") else "")
    ),
    "signal.timed_out": lambda data: (
        f"{data['step_name']}: no {data['signal']} came in time"
        + ("; it takes its default" if data["used_default"] else "")
    ),
    "child.requested": _child,
    "child.cancel_requested": lambda data: (
        f"{data['step_name']}: task {data['child_task_id']}: {data['reason']}"
    ),
    "compensation.started": _undoing,
    "compensation.completed": _undone,
    "compensation.failed": lambda data: (
        f"{data['compensates']}, try {data['attempt']}: {_error(data)}; to be cleaned up by hand"
    ),
    "concurrency.requested": lambda data: (
        f"{_held(data)} waits for a slot of {data['group']} = {data['value']}, {data['limit']} at once"
    ),
    "concurrency.granted": lambda data: f"{_held(data)} has a slot",
    "concurrency.released": lambda data: f"{_held(data)} gives its slot back",
    "circuit.held": lambda data: f"{_held(data)} waits for {data['service']}, whose circuit is not closed",
    "circuit.admitted": lambda data: (
        f"{_held(data)} goes on" + (", to try the service out" if data.get("is_probe") else "")
    ),
    "circuit.left": lambda data: (
        f"{_held(data)} {'tried the service out: ' + data['outcome'] if data.get('outcome') else 'is over'}"
    ),
    "rate.held": lambda data: (
        f"{_held(data)} waits for its turn, {data['per_second']:g} steps begin each second"
    ),
    "rate.admitted": lambda data: f"{_held(data)} goes on",
    "rate.left": lambda data: f"{_held(data)} waits no longer",
    "slots.opened": lambda data: f"{data['namespace']}: {data['group']} = {data['value']}",
    "slots.queued": lambda data: f"{_waiter(data)} waits, {data['limit']} at once",
    "slots.granted": lambda data: f"{_waiter(data)} has a slot",
    "slots.freed": lambda data: f"{_waiter(data)} is done",
    "breaker.watched": lambda data: f"{data['namespace']}: {data['service']}",
    "breaker.failure_counted": lambda data: f"{_waiter(data)}: {data['error_message']}",
    "breaker.opened": lambda data: (
        f"until {_moment(data['open_until_ms'])}: {data['cause'].replace('_', ' ')}"
        + (f", {_counted(data['failures_count'], 'failure')}" if data.get("failures_count") else "")
        + (f": {data['reason']}" if data.get("reason") else "")
    ),
    "breaker.half_opened": lambda _: "a few steps may try the service out",
    "breaker.closed": lambda data: (
        data["cause"].replace("_", " ") + (f": {data['reason']}" if data.get("reason") else "")
    ),
    "breaker.queued": lambda data: f"{_waiter(data)} waits",
    "breaker.passed": lambda data: (
        f"{_waiter(data)} goes on" + (", to try the service out" if data.get("is_probe") else "")
    ),
    "breaker.dequeued": lambda data: f"{_waiter(data)} {data.get('outcome') or 'is gone'}",
    "throttle.opened": lambda data: data["namespace"],
    "throttle.queued": lambda data: f"{_waiter(data)} waits, {data['per_second']:g} begin each second",
    "throttle.passed": lambda data: f"{_waiter(data)} goes on",
    "throttle.dequeued": lambda data: f"{_waiter(data)} is gone",
    "template.registered": lambda data: f"{data['namespace']}/{data['name']}:{data['version']}",
    "orchestrator.shard_acquired": lambda data: f"shard {data['shard']} by {data['owner']}",
    "orchestrator.shard_released": lambda data: f"shard {data['shard']} by {data['owner']}",
    "schedule.created": lambda data: (
        f"{data['namespace']}/{data['name']}{_by(data, 'created_by')}{_next_firing(data)}"
    ),
    "schedule.updated": lambda data: f"other settings{_by(data, 'updated_by')}{_next_firing(data)}",
    "schedule.paused": lambda data: _by_hand(data, "paused_by", data.get("note", "")),
    "schedule.resumed": lambda data: _by_hand(data, "resumed_by", data.get("note", "")) + _next_firing(data),
    "schedule.fired": lambda data: f"{_firing(data)}: task {data['task_id']}",
    "schedule.deferred": lambda data: f"{_firing(data)} waits for the task that runs",
    "schedule.skipped": lambda data: (
        f"{_counted(data['count'], 'firing')} from {_moment(data['first_at_ms'])}: "
        + _SKIPPED.get(data["reason"], data["reason"])
    ),
    "schedule.firing_failed": lambda data: f"that of {_moment(data['nominal_at_ms'])}: {_error(data)}",
    "schedule.task_ended": lambda data: (
        f"that of {_moment(data['nominal_at_ms'])}: {data['status'].replace('_', ' ')}"
        + (f": {_error(data)}" if data.get("error_message") else "")
    ),
    "schedule.task_cancel_requested": lambda data: f"task {data['task_id']}: {data['reason']}",
    "schedule.backfill_requested": lambda data: (
        f"{_counted(data['count'], 'firing')} from {_moment(data['from_ms'])}, {data['concurrency']} at once"
        + _by(data, "requested_by")
    ),
    "schedule.backfill_completed": lambda data: f"{_counted(data['fired_count'], 'firing')} made up for",
    "schedule.deleted": lambda data: _by_hand(data, "deleted_by", data.get("reason", "")),
    "bulk.requested": lambda data: (
        f"{data['action']}, {data['rate_per_second']:g} tasks/s, "
        + _by_hand(data, "requested_by", data.get("reason", ""))
    ),
    "bulk.selected": lambda data: _counted(len(data["task_ids"]), "task"),
    "bulk.progressed": lambda data: (
        f"{data['applied_count']} applied, {len(data.get('refused', ()))} refused"
    ),
    "bulk.completed": lambda data: (
        f"{data['applied_count']} applied, {data['refused_count']} refused"
        + (", as many as it was to take" if data.get("limit_reached") else "")
    ),
    "bulk.cancelled": lambda data: _by_hand(data, "cancelled_by", data.get("reason", "")),
}


def duration(milliseconds: float) -> str:
    """A time span, in the unit that suits it."""
    if milliseconds < 1_000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1_000:.1f} s"
    minutes, seconds = divmod(round(milliseconds / 1_000), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def describe(event_type: str, data: dict[str, Any]) -> str:
    """What happened, on one line; for a type that this release does not know, its payload."""
    try:
        text = _TEXTS[event_type](data)
    except (KeyError, TypeError, AttributeError):
        text = msgspec.json.encode(data).decode()
    text = " ".join(text.split())
    return text if len(text) <= _DESCRIPTION_CHARS_MAX else text[: _DESCRIPTION_CHARS_MAX - 1] + "…"


def payload(envelope: Envelope) -> dict[str, Any]:
    """The payload of an event as a dict."""
    found = msgspec.json.decode(envelope.data)
    return found if isinstance(found, dict) else {}


def event_line(envelope: Envelope, *, label: str = "") -> Text:
    """`12:00:00.123 step.completed  validate, try 1, in 12 ms`, after an optional label."""
    from rich.text import Text

    line = Text()
    line.append(clock(envelope.recorded_at), style="dim")
    if label:
        line.append(f"  {label}")
    line.append(f"  {envelope.type:<21}", style=_STYLES.get(envelope.type, ""))
    line.append(f"  {describe(envelope.type, payload(envelope))}")
    return line


def clock(recorded_at: str) -> str:
    """The time of day of an RFC 3339 text, in UTC."""
    return recorded_at[11:23]


def timeline(envelopes: Sequence[Envelope]) -> Iterable[tuple[object, ...]]:
    """Rows of a task's history: version, time, time since the first event, type, what happened."""
    from rich.text import Text

    from stepweave_schemas.envelope import parse_timestamp

    first_ms = parse_timestamp(envelopes[0].recorded_at) if envelopes else 0
    for envelope in envelopes:
        since = parse_timestamp(envelope.recorded_at) - first_ms
        yield (
            envelope.version,
            clock(envelope.recorded_at),
            f"+{duration(since)}",
            Text(envelope.type, style=_STYLES.get(envelope.type, "")),
            describe(envelope.type, payload(envelope)),
        )


def dated_timeline(envelopes: Iterable[Envelope]) -> Iterable[tuple[object, ...]]:
    """Rows of a history that goes over days: version, day and time, type, what happened."""
    for envelope in envelopes:
        yield (
            envelope.version,
            moment(envelope.recorded_at),
            envelope.type,
            describe(envelope.type, payload(envelope)),
        )


#: The columns of `timeline`.
TIMELINE_COLUMNS: Final = (">#", "time (UTC)", ">after", "event", "what")
