"""Recorded histories: how their files look, and how a task is rebuilt from one.

A file of `recorded/`, or of `recorded/examples/`, holds the history of one task, as the ledger and the feeds hold it, and what was known of the
task when it was recorded:

| key | meaning |
|---|---|
| `name`, `story` | what the history is about |
| `template`, `template_hash` | the canonical template that the task is pinned to |
| `events` | its envelopes, in order of version |
| `states` | after each event: the task's status, and that of the step that the event is about |
| `expected` | at the end: the task as callers see it, its plan, results, tries and dispatches |

`SHA256SUMS` names every file and its hash, in the format of `sha256sum -c`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from stepweave_orchestrator.core import Plan, TaskState, build_dispatch, compile_plan, evolve
from stepweave_orchestrator.core.state import ACTIVE, initial
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas import events
from stepweave_schemas.codec import decode_event, to_builtins
from stepweave_schemas.envelope import Envelope, decode_envelope, parse_timestamp
from stepweave_schemas.raw import NO_RAW

FOLDER: Final = Path(__file__).parent / "recorded"
SUMS: Final = FOLDER / "SHA256SUMS"


class History(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    name: str
    story: str
    template: dict[str, Any]
    template_hash: str
    events: list[msgspec.Raw]
    states: list[list[str]]
    expected: dict[str, Any]

    def plan(self) -> Plan:
        """The template, compiled."""
        return compile_plan(self.template, self.template_hash)

    def envelopes(self) -> list[Envelope]:
        """The events as they travel."""
        return [decode_envelope(bytes(raw)) for raw in self.events]


def apply(state: TaskState, envelope: Envelope) -> events.Event:
    """Apply one event as it comes from the ledger; returns it."""
    event = decode_event(bytes(envelope.data))
    evolve(state, event, parse_timestamp(envelope.recorded_at))
    return event


def replay(envelopes: list[Envelope], plan: Plan) -> Iterator[tuple[events.Event, TaskState]]:
    """Rebuild the task as an orchestrator does; yields each event and the state after it, the same object."""
    state = initial(envelopes[0].task_id, plan, envelopes[0].correlation_id)
    for envelope in envelopes:
        yield apply(state, envelope), state


def statuses(event: events.Event, state: TaskState) -> list[str]:
    """The task's status and, for an event of a step, that step's."""
    step = (
        [state.steps[state.number_of(event.step_name)].status] if isinstance(event, events.StepEvent) else []
    )
    return [state.status, *step]


#: What the view of a task makes of the facts: it may change its mind.
_ADVICE: Final = frozenset({"execution_status", "recommended_action", "health_status"})


def _known(value: Any) -> Any:
    """A part of a plan in plain values, without the raw fields that the template does not give."""
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name: _known(each) for name, each in fields.items() if each is not NO_RAW}
    if isinstance(value, tuple):
        return [_known(each) for each in value]
    return value


def summary(state: TaskState) -> dict[str, Any]:
    """Every fact that the outside can learn of a task, in JSON values."""
    plan = state.the_plan
    steps = {state.name_of(number): step for number, step in enumerate(state.steps)}
    task: dict[str, Any] = to_builtins(task_response(state))
    dispatches = [
        build_dispatch(state, name, step.attempt, step.lease_token, "sw.res.0")
        for name, step in steps.items()
        if step.status in ACTIVE
    ]
    found: dict[str, Any] = to_builtins(
        {
            "task": {name: value for name, value in task.items() if name not in _ADVICE},
            "plan": {
                "steps": _known(plan.steps),
                "on_failure": plan.on_failure,
                "max_retry_after_ms": plan.max_retry_after_ms,
            },
            "results": {
                name: msgspec.Raw(step.result) for name, step in steps.items() if step.result is not None
            },
            # Also the steps that callers do not see: those that may still come to exist, or never can.
            "statuses": {name: step.status for name, step in steps.items()},
            "next_wake_ms": state.next_wake_ms(),
            "signals_kept": [
                [kept.signal, kept.signal_id, msgspec.Raw(kept.payload)] for kept in state.mailbox
            ],
            "dispatches": dispatches,
            "tries": {
                name: {
                    "token": step.lease_token,
                    "ended_by": step.settled_by,
                    "earlier": {
                        str(number): [each.lease_token, each.settled_by]
                        for number, each in step.earlier.items()
                    },
                    "refused": step.refused_attempts,
                }
                for name, step in steps.items()
                if step.attempt
            },
        }
    )
    return found


def read(path: Path) -> History:
    """One file; raises `msgspec.MsgspecError` where it is none."""
    return msgspec.json.decode(path.read_bytes(), type=History)


def write(path: Path, history: History) -> None:
    """A new file, an event a line; raises `FileExistsError` rather than change one."""
    encode = msgspec.json.encode

    def lines(values: list[Any]) -> bytes:
        return b"[\n" + b",\n".join(map(encode, values)) + b"\n]"

    parts = {
        "name": encode(history.name),
        "story": encode(history.story),
        "template": encode(history.template),
        "template_hash": encode(history.template_hash),
        "events": lines(history.events),
        "states": lines(history.states),
        "expected": msgspec.json.format(encode(history.expected), indent=1),
    }
    with path.open("xb") as file:
        file.write(
            b"{\n"
            + b",\n".join(b'"%b": %b' % (name.encode(), value) for name, value in parts.items())
            + b"\n}\n"
        )


def recorded_files() -> list[Path]:
    """Every history there is, those of the examples too."""
    return sorted(FOLDER.rglob("*.json"))


def name_of(path: Path) -> str:
    """How `SHA256SUMS` calls a file."""
    return path.relative_to(FOLDER).as_posix()


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def known_hashes() -> dict[str, str]:
    """The hash that `SHA256SUMS` holds for each file name."""
    pairs = (line.split("  ", 1) for line in SUMS.read_text().splitlines()) if SUMS.exists() else ()
    return {name: digest for digest, name in pairs}
