from __future__ import annotations

import pytest

from stepweave_schemas.catalogue import CATALOGUE, OUTCOME_TYPES, render_markdown
from stepweave_schemas.events import EVENT_TYPES

#: What events of the system's own streams are about; a task's stream has none of these.
SYSTEM_ENTITIES = ("template", "orchestrator", "slots", "breaker", "throttle", "schedule", "bulk")


def test_every_event_has_an_entry_and_none_is_unknown() -> None:
    assert list(CATALOGUE) == list(EVENT_TYPES), "in the order of `events.AnyEvent`"
    for name, entry in CATALOGUE.items():
        assert entry.type == name
        assert entry.struct is EVENT_TYPES[name]


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_an_entry_says_what_a_reader_needs(name: str) -> None:
    entry = CATALOGUE[name]
    assert entry.meaning.endswith(".")
    assert entry.emitted_when.endswith(".")
    assert entry.state_change
    assert entry.stream == ("system" if name.partition(".")[0] in SYSTEM_ENTITIES else "task")


def test_outcomes_are_what_ends_something_and_not_the_plumbing() -> None:
    plumbing = {
        "step.enqueued",
        "step.started",
        "step.released",
        "step.result_refused",
        "step.checkpointed",
        "step.reused",
        "child.cancel_requested",
        "orchestrator.shard_acquired",
        "orchestrator.shard_released",
    }
    outcomes_of_gates = {"breaker.opened", "breaker.half_opened", "breaker.closed"}
    gates = ("concurrency", "circuit", "rate", "slots", "breaker", "throttle")
    plumbing |= {name for name in EVENT_TYPES if name.startswith(gates)} - outcomes_of_gates
    outcomes_of_schedules = {
        f"schedule.{verb}"
        for verb in ("created", "fired", "skipped", "firing_failed", "backfill_completed", "deleted")
    }
    plumbing |= {name for name in EVENT_TYPES if name.startswith("schedule.")} - outcomes_of_schedules
    plumbing |= {"bulk.selected", "bulk.progressed"}
    assert EVENT_TYPES.keys() - plumbing == OUTCOME_TYPES


def test_the_page_has_a_section_for_each_event_with_all_of_its_fields() -> None:
    sections = {part.split("\n", 1)[0]: part for part in render_markdown().split("\n## ")[1:]}
    assert list(sections) == list(EVENT_TYPES)
    for name, struct in EVENT_TYPES.items():
        for field in struct.__struct_encode_fields__:
            assert f"| `{field}` |" in sections[name]
