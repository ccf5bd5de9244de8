"""Comparing what happened with what should have, readably."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Any

from stepweave.subscriber.events import Event
from stepweave_schemas.envelope import Envelope

from .workflow import WorkflowRun

#: `"step.completed"`, `"step.completed charge"` (with the step's name), `"domain.order.paid"` (a domain event), a mapping of fields with `type` among them,
#: or `...` for any number of events.
Expected = str | Mapping[str, Any] | EllipsisType


def assert_events(
    happened: WorkflowRun | Iterable[Event | Envelope],
    expected: Sequence[Expected],
    *,
    unordered: bool = False,
) -> None:
    """Check a task's events, those of a `WorkflowRun` or of `Client.get_events`.

        assert_events(run, ["task.created", ..., "step.failed charge", {"type": "task.blocked"}])

    With `unordered` the order does not count (steps that run in parallel; `...` is not allowed then). Raises
    `AssertionError` with both lists, one beside the other.
    """
    log = happened.events if isinstance(happened, WorkflowRun) else happened
    events = [event if isinstance(event, Event) else Event(event) for event in log]
    if unordered:
        _assert_unordered(events, expected)
        return
    if not _matches(events, list(expected)):
        raise AssertionError(_difference(events, expected))


def _matches(events: list[Event], expected: list[Expected]) -> bool:
    """Whether the events fit, by which prefixes of `expected` each prefix of the events can be read as."""
    reachable = {0}
    for event in [*events, None]:
        # An ellipsis may stand for nothing.
        for place in sorted(reachable):
            while place < len(expected) and expected[place] is ...:
                place += 1
                reachable.add(place)
        if event is None:
            break
        following: set[int] = set()
        for place in reachable:
            if place > 0 and expected[place - 1] is ...:
                following.add(place)
            if place < len(expected) and expected[place] is not ... and _fits(event, expected[place]):
                following.add(place + 1)
        reachable = following
    return len(expected) in reachable


def _fits(event: Event, wanted: Expected) -> bool:
    if isinstance(wanted, str):
        event_type, _, step = wanted.partition(" ")
        return event_type in (event.type, event.address) and (not step or event.get("step_name") == step)
    assert isinstance(wanted, Mapping), f"expected events are texts, mappings or ..., not {wanted!r}"
    return all(name in event and event[name] == value for name, value in wanted.items())


def _label(event: Event) -> str:
    step = event.get("step_name")
    return event.type if step is None else f"{event.type} {step}"


def _wanted_label(wanted: Expected) -> str:
    if wanted is ...:
        return "..."
    if isinstance(wanted, str):
        return wanted
    assert isinstance(wanted, Mapping), f"expected events are texts, mappings or ..., not {wanted!r}"
    step = f" {wanted['step_name']}" if "step_name" in wanted else ""
    return f"{wanted.get('type', '(any type)')}{step}"


def _difference(events: list[Event], expected: Sequence[Expected]) -> str:
    # A text without a step's name fits an event with one: show it as that event.
    shown = []
    for wanted in expected:
        label = _wanted_label(wanted)
        fitting = next(
            (_label(event) for event in events if wanted is not ... and _fits(event, wanted)), label
        )
        shown.append(fitting)
    lines = difflib.ndiff(shown, [_label(event) for event in events])
    marked = [line for line in lines if not line.startswith("?")]
    wrong = _wrong_fields(events, expected)
    return "\n".join(
        ["the events differ (- expected, + happened):", *(f"  {line}" for line in marked), *wrong]
    )


def _wrong_fields(events: list[Event], expected: Sequence[Expected]) -> list[str]:
    """For each mapping that fits no event: how the events of its type differ from it."""
    lines: list[str] = []
    for wanted in expected:
        if not isinstance(wanted, Mapping) or any(_fits(event, wanted) for event in events):
            continue
        for event in events:
            if event.type == wanted.get("type") and event.get("step_name") == wanted.get(
                "step_name", event.get("step_name")
            ):
                fields = [
                    f"{name}: expected {value!r}, was {event.get(name)!r}"
                    for name, value in wanted.items()
                    if event.get(name) != value
                ]
                lines.append(f"  {_label(event)} (version {event.version}): {'; '.join(fields)}")
    return lines


def _assert_unordered(events: list[Event], expected: Sequence[Expected]) -> None:
    left = list(events)
    missing: list[str] = []
    # The most particular first, so that a plain type does not take another one's event.
    for wanted in sorted(
        expected, key=lambda one: 0 if isinstance(one, Mapping) else -len(str(one).split()) + 3
    ):
        if wanted is ...:
            raise ValueError("unordered=True compares everything; '...' has no place in it")
        found = next((event for event in left if _fits(event, wanted)), None)
        if found is None:
            missing.append(_wanted_label(wanted))
        else:
            left.remove(found)
    if missing or left:
        lines = [f"  - {label} (expected {count}×)" for label, count in Counter(missing).items()]
        lines += [
            f"  + {label} (not expected, {count}×)" for label, count in Counter(map(_label, left)).items()
        ]
        raise AssertionError("\n".join(["the events differ:", *lines, *_wrong_fields(events, expected)]))
