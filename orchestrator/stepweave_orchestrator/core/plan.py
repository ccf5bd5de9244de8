"""A template version compiled for running: steps by index, dependents, ancestors, who decides about whom.

Steps are numbered in the order of the template. A plan is immutable and shared by every task of the version.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stepweave_schemas.dispatch import INLINE_TRANSITIVE_RESULTS_MAX
from stepweave_schemas.events import TemplateRef
from stepweave_schemas.gate import BreakerSpec
from stepweave_schemas.raw import NO_RAW

from .checks import Checks

#: Not the default of a dispatch's field, so that every dispatch carries the field, as the first release's did.
_EMPTY_OBJECT: Final = msgspec.Raw(b"{}")
#: How the name of a step's compensation begins; no step of a template can be called so.
COMPENSATION_PREFIX: Final = "compensate:"


def worker_name(template: str, number: int) -> str:
    """The name of a batch's worker step, counted from 1."""
    return f"{template}_{number:03d}"


class HandlerSpec(msgspec.Struct, frozen=True):
    """Which code runs the step."""

    callable: str
    method: str = "call"
    resolver: str | None = None
    initialization: msgspec.Raw = _EMPTY_OBJECT


class RetrySpec(msgspec.Struct, frozen=True):
    """How often and after which delays a failed step is tried again."""

    max_attempts: int = 3
    retryable: bool = True
    backoff: str = "exponential"
    backoff_base_ms: int = 1_000
    max_backoff_ms: int = 30_000
    jitter: float = 0.1


class BatchSpec(msgspec.Struct, frozen=True):
    """How a batchable step is cut."""

    worker_template: str | None = None
    parallelism: int | None = None
    #: `isolate`, `continue_on_failure` or `fail_fast`.
    failure_strategy: str = "isolate"


class CompensationSpec(msgspec.Struct, frozen=True):
    """What undoes a step."""

    handler: HandlerSpec
    retry: RetrySpec = RetrySpec()
    timeout_seconds: float | None = None


class SignalSpec(msgspec.Struct, frozen=True):
    """The signal that a step waits for."""

    name: str
    timeout_seconds: float | None = None
    #: The result where no signal comes in time; absent: the step fails then.
    default: msgspec.Raw = NO_RAW


class ChildSpec(msgspec.Struct, frozen=True):
    """The task that a step starts and waits for."""

    name: str
    namespace: str | None = None
    version: str | None = None
    context: dict[str, Any] = {}
    parent_close: str = "cancel"


class ConcurrencySpec(msgspec.Struct, frozen=True):
    """How many may run at once, over all tasks."""

    limit: int
    #: A path into the context, each of whose values has slots of its own; absent: one set of slots for all.
    key: str | None = None


class DomainEventSpec(msgspec.Struct, frozen=True):
    """A domain event that a step, or any handler of the workflow, may publish."""

    name: str
    #: `success`, `failure`, `retryable_failure`, `permanent_failure` or `always`.
    condition: str = "success"
    #: `outcome`: published by itself, unless the handler does so; `handler`: only by the handler.
    payload: str = "outcome"
    #: `durable` or `fast`; absent: as the workflow says.
    delivery: str | None = None


class StepSpec(msgspec.Struct, frozen=True):
    """One step of the canonical template, as far as running it needs."""

    name: str
    handler: HandlerSpec
    dependencies: tuple[str, ...] = ()
    type: str = "standard"
    retry: RetrySpec = RetrySpec()
    timeout_seconds: float | None = None
    queue: str = "default"
    batch_config: msgspec.Raw = NO_RAW
    compensation: CompensationSpec | None = None
    wait_for_signal: SignalSpec | None = None
    child_task: ChildSpec | None = None
    #: What the step calls; steps that call the same service share its circuit.
    system_dependency: str | None = None
    circuit_breaker: BreakerSpec | None = None
    concurrency: ConcurrencySpec | None = None
    publishes_events: tuple[DomainEventSpec, ...] = ()
    #: Only whether there is one matters here; it is checked by `Plan.checks`.
    result_schema: msgspec.Raw = NO_RAW
    #: Operators may skip it.
    skippable: bool = False

    @property
    def is_gated(self) -> bool:
        """Whether a try may be held before it begins, by what its template says."""
        return self.concurrency is not None or self.circuit_breaker is not None


class _Canonical(msgspec.Struct, frozen=True):
    """The part of a canonical template that a plan needs."""

    namespace: str
    name: str
    version: str
    steps: tuple[StepSpec, ...]
    on_failure: str | None = None
    max_retry_after_ms: int | None = None
    concurrency: ConcurrencySpec | None = None
    domain_events: tuple[DomainEventSpec, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A template version ready to run; build it with `compile_plan`."""

    ref: TemplateRef
    steps: tuple[StepSpec, ...]
    on_failure: str
    max_retry_after_ms: int | None
    #: Step name → number.
    index: dict[str, int]
    #: For each step: the numbers of its direct dependencies, and of the steps that depend on it.
    parents: tuple[tuple[int, ...], ...]
    dependents: tuple[tuple[int, ...], ...]
    #: How many tasks run at once.
    concurrency: ConcurrencySpec | None
    #: Whether every step is run by a handler, exists from the start and is never held by what the template says.
    plain: bool
    #: Whether it is plain, and nothing besides has to be looked at when a step succeeds.
    swift: bool
    #: For each step whether it exists from the start; the others are created by deciders, or never.
    exists_at_start: tuple[bool, ...]
    #: How many exist from the start.
    start_count: int
    #: Steps that can begin with the task.
    roots: tuple[int, ...]
    #: For each step that depends directly on a decider: it exists only where one of these names it.
    branch_of: dict[int, tuple[int, ...]]
    #: For each decision: how many decisions stand above each other up to it, itself included.
    decision_depths: dict[int, int]
    #: Each decision as a bit, and for each step the bits of all decisions above it.
    decision_bits: dict[int, int]
    decisions_above: tuple[int, ...]
    #: For each step its place in an order in which it comes after everything that it depends on.
    places: tuple[int, ...]
    #: For each signal the steps that wait for it.
    signal_steps: dict[str, tuple[int, ...]]
    #: The `batch_config` of each batchable step.
    batches: dict[int, BatchSpec]
    #: What any handler of the workflow may publish, by name.
    domain_events: dict[str, DomainEventSpec]
    #: The template's schemas; `None` where nobody brought them along, and nothing is checked.
    checks: Checks | None
    _near_ancestors: dict[int, tuple[tuple[int, ...], bool]]
    _compensations: dict[int, StepSpec]

    def near_ancestors(self, step: int) -> tuple[tuple[int, ...], bool]:
        """The ancestors whose results travel with a dispatch, and whether these are all there are.

        Every direct dependency, then further ancestors, nearest first, at most
        `INLINE_TRANSITIVE_RESULTS_MAX` of them.
        """
        known = self._near_ancestors.get(step)
        if known is None:
            known = self._near_ancestors[step] = self._search_ancestors(step, INLINE_TRANSITIVE_RESULTS_MAX)
        return known

    def ancestors(self, step: int) -> tuple[int, ...]:
        """Every transitive ancestor, nearest first."""
        return self._search_ancestors(step, len(self.steps))[0]

    def _search_ancestors(self, step: int, transitive_max: int) -> tuple[tuple[int, ...], bool]:
        found = list(self.parents[step])
        limit = len(found) + transitive_max
        seen = {step, *found}
        position = 0
        while position < len(found):
            for parent in self.parents[found[position]]:
                if parent not in seen:
                    if len(found) >= limit:
                        return tuple(found), False
                    seen.add(parent)
                    found.append(parent)
            position += 1
        return tuple(found), True

    def is_fast(self, step: int, event: str) -> bool:
        """Whether a domain event of a step is sent at once besides (`delivery: fast`)."""
        own = (spec.delivery for spec in self.steps[step].publishes_events if spec.name == event)
        delivery = next(own, None)
        if delivery is None and event in self.domain_events:
            delivery = self.domain_events[event].delivery
        return delivery == "fast"

    def descendants(self, step: int) -> list[int]:
        """Every step that depends on `step`, directly or not, each after its dependencies."""
        found = set(self.dependents[step])
        pending = list(found)
        while pending:
            for dependent in self.dependents[pending.pop()]:
                if dependent not in found:
                    found.add(dependent)
                    pending.append(dependent)
        return sorted(found, key=self.places.__getitem__)

    def descendants_count(self, steps: list[int]) -> int:
        """How many steps depend, directly or not, on any of `steps`."""
        pending = list(steps)
        seen = set(steps)
        while pending:
            for dependent in self.dependents[pending.pop()]:
                if dependent not in seen:
                    seen.add(dependent)
                    pending.append(dependent)
        return len(seen) - len(set(steps))

    def workers_of(self, batchable: int) -> list[int]:
        """The batch worker steps that a batchable step may choose."""
        return [number for number in self.dependents[batchable] if self.steps[number].type == "batch_worker"]

    def batch_of(self, worker: int) -> BatchSpec:
        """How the batches of a worker step are run: the `batch_config` of its batchable step."""
        return self.batches[self.branch_of[worker][0]]

    def compensation(self, step: int) -> StepSpec | None:
        """What undoes a step of the template, as a step of its own; `None` where nothing does."""
        declared = self.steps[step].compensation
        if declared is None:
            return None
        known = self._compensations.get(step)
        if known is None:
            spec = self.steps[step]
            known = self._compensations[step] = StepSpec(
                name=COMPENSATION_PREFIX + spec.name,
                handler=declared.handler,
                type="compensation",
                retry=declared.retry,
                timeout_seconds=declared.timeout_seconds,
                queue=spec.queue,
            )
        return known

    def named_compensation(self, step: int, handler: str) -> StepSpec:
        """A handler that a failure of `step` named and no step declares, as a step of its own."""
        return StepSpec(
            name=COMPENSATION_PREFIX + handler,
            handler=HandlerSpec(handler),
            type="compensation",
            queue=self.steps[step].queue,
        )


def compile_plan(
    canonical: bytes | str | dict[str, Any], content_hash: str, checks: Checks | None = None
) -> Plan:
    """Compile a validated canonical template (JSON text or its dict).

    `content_hash` is the template's `sha256:<hex>`, `checks` its compiled schemas. Raises `msgspec.ValidationError` or `KeyError` where the
    template was not validated before.
    """
    if isinstance(canonical, dict):
        canonical = msgspec.json.encode(canonical)
    template = msgspec.json.decode(canonical, type=_Canonical)
    steps = template.steps
    index = {step.name: number for number, step in enumerate(steps)}
    parents = tuple(tuple(dict.fromkeys(index[name] for name in step.dependencies)) for step in steps)
    dependents: list[list[int]] = [[] for _ in steps]
    for number, own in enumerate(parents):
        for parent in own:
            dependents[parent].append(number)
    order = _order(parents, dependents)
    branch_of = _branches(steps, parents)
    exists = _exists_at_start(steps, parents, order, branch_of)
    signals: dict[str, list[int]] = {}
    for number, step in enumerate(steps):
        if step.wait_for_signal is not None:
            signals.setdefault(step.wait_for_signal.name, []).append(number)
    places = [0] * len(steps)
    for place, number in enumerate(order):
        places[number] = place
    deciding = (number for number, step in enumerate(steps) if step.type == "decision")
    decision_bits = {number: 1 << bit for bit, number in enumerate(deciding)}
    undone = any(step.compensation is not None for step in steps)
    plain = (
        all(exists)
        and template.concurrency is None
        and all(
            step.wait_for_signal is None
            and step.child_task is None
            and not step.is_gated
            and step.type in ("standard", "deferred_convergence")
            for step in steps
        )
    )
    return Plan(
        ref=TemplateRef(
            namespace=template.namespace, name=template.name, version=template.version, hash=content_hash
        ),
        steps=steps,
        on_failure=template.on_failure or ("compensate" if undone else "block"),
        max_retry_after_ms=template.max_retry_after_ms,
        index=index,
        parents=parents,
        dependents=tuple(tuple(numbers) for numbers in dependents),
        concurrency=template.concurrency,
        plain=plain,
        swift=plain and all(not step.publishes_events and step.result_schema is NO_RAW for step in steps),
        exists_at_start=exists,
        start_count=sum(exists),
        roots=tuple(number for number, own in enumerate(parents) if not own and exists[number]),
        branch_of=branch_of,
        decision_depths=_decision_depths(steps, parents, order),
        decision_bits=decision_bits,
        decisions_above=_decisions_above(parents, order, decision_bits),
        places=tuple(places),
        signal_steps={name: tuple(numbers) for name, numbers in signals.items()},
        batches={
            number: msgspec.json.decode(step.batch_config, type=BatchSpec)
            if bytes(step.batch_config)
            else BatchSpec()
            for number, step in enumerate(steps)
            if step.type == "batchable"
        },
        domain_events={event.name: event for event in template.domain_events},
        checks=checks,
        _near_ancestors={},
        _compensations={},
    )


def _order(parents: tuple[tuple[int, ...], ...], dependents: list[list[int]]) -> list[int]:
    """The steps, each after its dependencies."""
    waiting = [len(own) for own in parents]
    order = [number for number, count in enumerate(waiting) if not count]
    for number in order:
        for dependent in dependents[number]:
            waiting[dependent] -= 1
            if not waiting[dependent]:
                order.append(dependent)
    return order


def _branches(
    steps: tuple[StepSpec, ...], parents: tuple[tuple[int, ...], ...]
) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for number, own in enumerate(parents):
        if steps[number].type == "batch_worker":
            deciding = tuple(parent for parent in own if steps[parent].type == "batchable")
        elif steps[number].type == "deferred_convergence":
            # It comes with the first of what it brings together, and never has to be named.
            deciding = ()
        else:
            deciding = tuple(parent for parent in own if steps[parent].type == "decision")
        if deciding:
            found[number] = deciding
    return found


def _exists_at_start(
    steps: tuple[StepSpec, ...],
    parents: tuple[tuple[int, ...], ...],
    order: list[int],
    branch_of: dict[int, tuple[int, ...]],
) -> tuple[bool, ...]:
    exists = [False] * len(steps)
    for number in order:
        own = parents[number]
        if not own:
            exists[number] = True
        elif number in branch_of:
            continue
        elif steps[number].type == "deferred_convergence":
            exists[number] = any(exists[parent] for parent in own)
        else:
            exists[number] = all(exists[parent] for parent in own)
    return tuple(exists)


def _decisions_above(
    parents: tuple[tuple[int, ...], ...], order: list[int], bits: dict[int, int]
) -> tuple[int, ...]:
    above = [0] * len(parents)
    for number in order if bits else ():
        for parent in parents[number]:
            above[number] |= above[parent] | bits.get(parent, 0)
    return tuple(above)


def _decision_depths(
    steps: tuple[StepSpec, ...], parents: tuple[tuple[int, ...], ...], order: list[int]
) -> dict[int, int]:
    above = [0] * len(steps)
    depths: dict[int, int] = {}
    for number in order:
        above[number] = max((above[parent] for parent in parents[number]), default=0)
        if steps[number].type == "decision":
            above[number] += 1
            depths[number] = above[number]
    return depths
