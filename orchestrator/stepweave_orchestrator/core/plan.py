"""A template version compiled for running: steps by index, dependents, ancestors.

Steps are numbered in the order of the template. A plan is immutable and shared by every task of the version.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stepweave_schemas.dispatch import INLINE_TRANSITIVE_RESULTS_MAX
from stepweave_schemas.events import TemplateRef

_EMPTY_OBJECT = msgspec.Raw(b"{}")


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


class StepSpec(msgspec.Struct, frozen=True):
    """One step of the canonical template, as far as running it needs."""

    name: str
    handler: HandlerSpec
    dependencies: tuple[str, ...] = ()
    type: str = "standard"
    retry: RetrySpec = RetrySpec()
    timeout_seconds: float | None = None
    queue: str = "default"


class _Canonical(msgspec.Struct, frozen=True):
    """The part of a canonical template that a plan needs."""

    namespace: str
    name: str
    version: str
    steps: tuple[StepSpec, ...]
    on_failure: str | None = None
    max_retry_after_ms: int | None = None


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
    roots: tuple[int, ...]
    _near_ancestors: dict[int, tuple[tuple[int, ...], bool]] = {}

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


def compile_plan(canonical: bytes | str | dict[str, Any], content_hash: str) -> Plan:
    """Compile a validated canonical template (JSON text or its dict).

    `content_hash` is the template's `sha256:<hex>`. Raises `msgspec.ValidationError` or `KeyError` where the
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
    return Plan(
        ref=TemplateRef(
            namespace=template.namespace, name=template.name, version=template.version, hash=content_hash
        ),
        steps=steps,
        on_failure=template.on_failure or "block",
        max_retry_after_ms=template.max_retry_after_ms,
        index=index,
        parents=parents,
        dependents=tuple(tuple(numbers) for numbers in dependents),
        roots=tuple(number for number, own in enumerate(parents) if not own),
        _near_ancestors={},
    )
