"""Domain events: what a try publishes besides its outcome, and what is refused of it.

They are decided together with the outcome and stand in the same append, so they are published exactly where the
outcome counts: a result that comes late or twice publishes nothing. Whatever is wrong with one is recorded, and the
step goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from stepweave_schemas import events, result

from .plan import DomainEventSpec
from .state import TaskState
from .tries import Failed

SUCCESS: Final = "success"
CHECKPOINT: Final = "checkpoint"
RETRYABLE: Final = "retryable_failure"
PERMANENT: Final = "permanent_failure"

#: By condition: how a try has to end.
_PUBLISHED_ON: Final[dict[str, frozenset[str]]] = {
    # What was published before a checkpoint is not done again, so it counts now or never.
    "success": frozenset({SUCCESS, CHECKPOINT}),
    "failure": frozenset({RETRYABLE, PERMANENT}),
    "retryable_failure": frozenset({RETRYABLE}),
    "permanent_failure": frozenset({PERMANENT}),
    "always": frozenset({SUCCESS, CHECKPOINT, RETRYABLE, PERMANENT}),
}
#: Names that a refusal lists, and its longest message in characters.
_NAMES_LISTED_MAX: Final = 20
_MESSAGE_CHARS_MAX: Final = 2_000


def domain_events(
    state: TaskState,
    number: int,
    outcome: str,
    said: Iterable[result.DomainEvent],
    own_payload: msgspec.Raw | None,
    worker_id: str,
) -> list[events.Event]:
    """What a try of a step publishes that has ended with `outcome`.

    `said` is what its handler published. `own_payload` is that of events which the handler left to the template;
    `None` where nothing is published by itself.
    """
    plan = state.the_plan
    slot = state.slot_of(number)
    # What undoes a step is not the step: it publishes only what its handler says.
    is_undoing = state.steps[number].compensates >= 0
    declared = {} if is_undoing else {spec.name: spec for spec in plan.steps[slot].publishes_events}
    publication = _Publication(state, number, plan.steps[slot].name, outcome, worker_id)
    named: set[str] = set()
    for one in said:
        named.add(one.name)
        spec = declared.get(one.name) or plan.domain_events.get(one.name)
        if spec is None:
            publication.refuse(one.name, "undeclared", _undeclared([*declared, *plan.domain_events]))
        elif outcome not in _PUBLISHED_ON[spec.condition]:
            continue
        elif one.problem:
            publication.refuse(one.name, "not_published", one.problem)
        else:
            publication.publish(one.name, one.payload)
    if own_payload is not None:
        for spec in declared.values():
            if _is_automatic(spec, outcome) and spec.name not in named:
                publication.publish(spec.name, own_payload)
    return publication.happened


def failure_payload(failure: Failed, attempt: int, max_attempts: int) -> msgspec.Raw:
    """The payload of an event that a failed try publishes by itself."""
    return msgspec.Raw(
        msgspec.json.encode(
            {
                "error_type": failure.error_type,
                "error_code": failure.error_code,
                "error_message": failure.error_message,
                "attempt": attempt,
                "max_attempts": max_attempts,
            }
        )
    )


def _is_automatic(spec: DomainEventSpec, outcome: str) -> bool:
    return spec.payload == "outcome" and outcome in _PUBLISHED_ON[spec.condition]


def _undeclared(known: list[str]) -> str:
    names = list(dict.fromkeys(known))
    if not names:
        return "the template declares no domain event: name it in publishes_events or domain_events"
    more = ", …" if len(names) > _NAMES_LISTED_MAX else ""
    return f"the template declares no such event here; it has {', '.join(names[:_NAMES_LISTED_MAX])}{more}"


class _Publication:
    """What one try publishes, in the making."""

    def __init__(self, state: TaskState, number: int, step: str, outcome: str, worker_id: str) -> None:
        self.happened: list[events.Event] = []
        self._state = state
        self._number = number
        #: The step of the template.
        self._step = step
        self._outcome = outcome
        self._worker_id = worker_id
        # A signal that came early is taken before the state knows of the wait.
        self._attempt = state.steps[number].attempt or 1

    def publish(self, name: str, payload: msgspec.Raw) -> None:
        """Publish one, unless its payload is too large or does not fit."""
        size = len(memoryview(payload))
        if size > result.DOMAIN_EVENT_BYTES_MAX:
            most = result.DOMAIN_EVENT_BYTES_MAX
            why = f"{size} bytes, {most} at most: publish a reference to what is large"
            self.refuse(name, "payload_too_large", why)
            return
        plan = self._state.the_plan
        misfits = [] if plan.checks is None else plan.checks.of_event(self._step, name, payload)
        if misfits:
            self.refuse(name, "payload_invalid", misfits_text(misfits))
            return
        step = self._state.steps[self._number]
        self.happened.append(
            events.DomainPublished(
                step_name=self._state.name_of(self._number),
                step_uuid=step.uuid,
                name=name,
                payload=payload,
                attempt=self._attempt,
                outcome=self._outcome,
                task_name=plan.ref.name,
                namespace=plan.ref.namespace,
                template_version=plan.ref.version,
            )
        )

    def refuse(self, name: str, refusal: str, message: str) -> None:
        """Record why one is not published."""
        step = self._state.steps[self._number]
        self.happened.append(
            events.StepDomainEventRefused(
                step_name=self._state.name_of(self._number),
                step_uuid=step.uuid,
                name=name,
                attempt=self._attempt,
                refusal=refusal,
                message=message[:_MESSAGE_CHARS_MAX],
                worker_id=self._worker_id,
            )
        )


def misfits_text(found: list[dict[str, str]]) -> str:
    """The first few violations of a schema in one sentence."""
    return "; ".join(f"{each['pointer'] or '/'}: {each['message']}" for each in found[:5])
