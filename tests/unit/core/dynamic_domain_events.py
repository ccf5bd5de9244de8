"""Which domain events have to come with the other events of a decision, told from the template and from what the
handler said: independent of the core."""

from __future__ import annotations

from typing import Any, Final

from stepweave_schemas import events, result
from stepweave_schemas.template import StepTemplate, TaskTemplate

#: Declared by the workflow; by steps, in one way or another; and by nobody.
COMMON: Final = "any.handler"
UNKNOWN: Final = "nobody.declared.it"
OWN: Final[tuple[dict[str, Any], ...]] = (
    {"name": "own.one"},
    {"name": "own.two", "condition": "failure"},
    {"name": "own.three", "condition": "retryable_failure"},
    {"name": "own.four", "condition": "permanent_failure"},
    {"name": "own.five", "condition": "always"},
    {"name": "own.six", "condition": "always", "payload": "handler"},
)
#: What a handler may publish, by the number that is drawn.
SAID: Final = (
    result.DomainEvent(name=COMMON),
    result.DomainEvent(name=UNKNOWN),
    result.DomainEvent(name="own.one"),
    result.DomainEvent(name="own.five", problem="it is no JSON"),
    result.DomainEvent(name="own.six"),
    result.DomainEvent(name="own.four"),
)
#: How a try ends, by the event that ends it, and the conditions that this meets.
_ENDINGS: Final[dict[type[events.Event], tuple[str, set[str]]]] = {
    events.StepCompleted: ("success", {"success", "always"}),
    events.StepCompletedManually: ("success", {"success", "always"}),
    events.StepCheckpointed: ("checkpoint", {"success", "always"}),
    events.StepRetryScheduled: ("retryable_failure", {"failure", "retryable_failure", "always"}),
    events.StepFailed: ("permanent_failure", {"failure", "permanent_failure", "always"}),
    events.CompensationCompleted: ("success", {"success", "always"}),
}
DomainEvents = (events.DomainPublished, events.StepDomainEventRefused)
Known = tuple[str, str, str, str]


def known(event: events.Event) -> Known:
    """What is compared: the type, the step, the event's name, and how the try ended or why it was refused."""
    assert isinstance(event, DomainEvents)
    said = event.outcome if isinstance(event, events.DomainPublished) else event.refusal
    return (event.TYPE, event.step_name, event.name, said)


def expected(
    template: TaskTemplate, others: list[events.Event], command: object, placeholders: set[str]
) -> list[Known]:
    """The domain events that have to come with `others`, which follow from `command`."""
    steps = {step.name: step for step in template.steps}
    found: list[Known] = []
    for event in others:
        ending = _ENDINGS.get(type(event))
        if ending is None:
            continue
        assert isinstance(event, events.StepEvent)
        about = isinstance(command, result.Outcome) and command.step_name == event.step_name
        said = getattr(command, "domain_events", ()) if about else ()
        is_undoing = event.step_name.startswith("compensate:")
        slot = steps.get(event.step_name) or steps.get(event.step_name.rpartition("_")[0])
        automatic = event.step_name not in placeholders or not isinstance(
            event, events.StepCompleted | events.StepCompletedManually
        )
        found += _of_one(event.step_name, None if is_undoing else slot, ending, said, automatic=automatic)
    return found


def _of_one(
    name: str,
    step: StepTemplate | None,
    ending: tuple[str, set[str]],
    said: tuple[result.DomainEvent, ...],
    *,
    automatic: bool,
) -> list[Known]:
    outcome, met = ending
    declared = {} if step is None else {each.name: each for each in step.publishes_events}
    found: list[Known] = []
    for one in said:
        condition = declared[one.name].condition if one.name in declared else "success"
        if one.name not in declared and one.name != COMMON:
            found.append(("step.domain_event_refused", name, one.name, "undeclared"))
        elif condition in met and one.problem:
            found.append(("step.domain_event_refused", name, one.name, "not_published"))
        elif condition in met:
            found.append(("domain.published", name, one.name, outcome))
    for each in declared.values():
        by_itself = each.payload == "outcome" and outcome != "checkpoint" and automatic
        if by_itself and each.condition in met and all(one.name != each.name for one in said):
            found.append(("domain.published", name, each.name, outcome))
    return found
