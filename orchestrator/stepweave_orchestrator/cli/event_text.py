"""Events as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from rich.text import Text

    from stepweave_schemas.envelope import Envelope

_STYLES: Final = {
    "task.completed": "bold green",
    "step.completed": "green",
    "step.retry_scheduled": "yellow",
    "step.failed": "red",
    "task.blocked": "bold red",
    "task.failed": "bold red",
    "task.cancelled": "bold magenta",
}
#: Longest description, in characters.
_DESCRIPTION_CHARS_MAX: Final = 200


def _error(data: dict[str, Any]) -> str:
    code = f" [{data['error_code']}]" if data.get("error_code") else ""
    return f"{data['error_message']}{code}"


def _task(data: dict[str, Any]) -> str:
    return f"{data['namespace']}/{data['task_name']}"


_TEXTS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "task.created": lambda data: (
        "{namespace}/{name}:{version}".format(**data["template"])
        + (f" by {data['initiator']}" if data.get("initiator") else "")
    ),
    "task.started": lambda _: "its time has come",
    "task.blocked": lambda data: f"{_task(data)}: {_error(data)}",
    "task.completed": lambda data: (
        f"{_task(data)}: {data['steps_completed']} steps in {duration(data['duration_ms'])}"
    ),
    "task.failed": lambda data: f"{_task(data)}: {_error(data)}",
    "task.cancelled": lambda data: f"{_task(data)}: {data['reason'] or 'no reason given'}",
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
    ),
    "step.released": lambda data: f"{data['step_name']}, try {data['attempt']}, by {data['worker_id']}",
    "step.result_refused": lambda data: (
        f"{data['step_name']}, try {data['attempt']}: {data['refusal'].replace('_', ' ')}"
    ),
    "template.registered": lambda data: f"{data['namespace']}/{data['name']}:{data['version']}",
    "orchestrator.shard_acquired": lambda data: f"shard {data['shard']} by {data['owner']}",
    "orchestrator.shard_released": lambda data: f"shard {data['shard']} by {data['owner']}",
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


#: The columns of `timeline`.
TIMELINE_COLUMNS: Final = (">#", "time (UTC)", ">after", "event", "what")
