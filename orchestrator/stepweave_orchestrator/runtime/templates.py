"""Registered templates as the orchestrator uses them: plans by hash, versions by name.

The truth is each template's stream. What is read is kept in memory; another process that registers a version says
so (`sw.sys.template_changed`), and a template that is not found is always looked up again.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

from stepweave_eventstore.store import EventStore
from stepweave_orchestrator.core import Plan, compile_plan
from stepweave_orchestrator.core.template_stream import TemplateState, evolve_template
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import decode_event
from stepweave_schemas.events import TemplateRef, TemplateRegistered
from stepweave_schemas.identity import template_stream_id
from stepweave_schemas.template import highest_version
from stepweave_schemas.template.value_checks import ValueChecks

# Templates have schemas: an orchestrator without the library must not begin.
importlib.import_module("jsonschema_rs")

#: Templates and compiled versions kept in memory.
TEMPLATES_MAX = 2_000
VERSIONS_MAX = 2_000
#: Versions that a message names.
VERSIONS_LISTED_MAX = 20


def _listed(versions: Iterable[str]) -> str:
    """The versions registered last, for a message."""
    names = list(versions)
    return ("…, " if len(names) > VERSIONS_LISTED_MAX else "") + ", ".join(names[-VERSIONS_LISTED_MAX:])


class Version:
    """One template version, compiled."""

    def __init__(self, ref: TemplateRef, content: str) -> None:
        self.content = content
        self.canonical: dict[str, Any] = msgspec.json.decode(content)
        self._checks = ValueChecks(self.canonical)
        self.plan: Plan = compile_plan(content, ref.hash, self._checks)
        self.identity_strategy: str = self.canonical.get("identity_strategy") or "always_unique"
        self.queues: frozenset[str] = frozenset(step.queue for step in self.plan.steps)

    def violations(self, context: Any) -> list[dict[str, str]]:
        """What of the context does not fit `input_schema`: JSON pointer and message of each violation."""
        return self._checks.of_context(context)

    def signal_violations(self, step_name: str, payload: Any) -> list[dict[str, str]]:
        """What of a signal's payload does not fit the schemas of the step that it is for."""
        return self._checks.of_signal(step_name, payload)


class TemplateCatalogue:
    """Finds versions and plans; `forget` after a change elsewhere."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._templates: OrderedDict[str, TemplateState] = OrderedDict()
        self._versions: OrderedDict[str, Version] = OrderedDict()
        #: The latest read of each template that is under way; what `forget` removes here is not kept.
        self._reading: dict[str, object] = {}

    def forget(self, stream_id: str) -> None:
        """Look the template up again next time."""
        self._templates.pop(stream_id, None)
        self._reading.pop(stream_id, None)

    async def versions(self, namespace: str, name: str) -> TemplateState | None:
        """Every version of a template, or `None`."""
        stream_id = template_stream_id(namespace, name)
        state = self._templates.get(stream_id)
        if state is None:
            mark = self._reading[stream_id] = object()
            try:
                state = await self._read(stream_id)
            finally:
                current = self._reading.get(stream_id) is mark
                if current:
                    del self._reading[stream_id]
            if state is not None and current:
                self._templates[stream_id] = state
                if len(self._templates) > TEMPLATES_MAX:
                    self._templates.popitem(last=False)
        else:
            self._templates.move_to_end(stream_id)
        return state

    async def resolve(self, namespace: str, name: str, version: str | None) -> Version:
        """The version asked for, or the highest; raises `ApiError` NOT_FOUND."""
        for fresh in (False, True):
            if fresh:
                self.forget(template_stream_id(namespace, name))
            state = await self.versions(namespace, name)
            if state is None:
                continue
            wanted = version if version is not None else highest_version(list(state.versions))
            if wanted is not None and wanted in state.versions:
                return self._version(state, wanted)
        if state is None:
            raise ApiError(
                "NOT_FOUND",
                f"there is no template {namespace}/{name}; register it with `stepweave template register FILE`",
            )
        raise ApiError(
            "NOT_FOUND",
            f"template {namespace}/{name} has no version {version}; it has {_listed(state.versions)}",
        )

    async def plan(self, ref: TemplateRef) -> Plan:
        """The plan that a task is pinned to; raises `LookupError` where the ledger does not hold it."""
        return (await self.pinned(ref)).plan

    async def pinned(self, ref: TemplateRef) -> Version:
        """The version that a task is pinned to; raises `LookupError` where the ledger does not hold it."""
        known = self._versions.get(ref.hash)
        if known is not None:
            self._versions.move_to_end(ref.hash)
            return known
        for fresh in (False, True):
            if fresh:
                self.forget(template_stream_id(ref.namespace, ref.name))
            state = await self.versions(ref.namespace, ref.name)
            known_version = None if state is None else state.versions.get(ref.version)
            if state is not None and known_version is not None and known_version.hash == ref.hash:
                return self._version(state, ref.version)
        raise LookupError(
            f"template {ref.namespace}/{ref.name}:{ref.version} ({ref.hash}) is not in the ledger"
        )

    def _version(self, state: TemplateState, version: str) -> Version:
        registered = state.versions[version]
        known = self._versions.get(registered.hash)
        if known is None:
            ref = TemplateRef(
                namespace=state.namespace, name=state.name, version=version, hash=registered.hash
            )
            known = self._versions[registered.hash] = Version(ref, registered.content)
            if len(self._versions) > VERSIONS_MAX:
                self._versions.popitem(last=False)
        return known

    async def _read(self, stream_id: str) -> TemplateState | None:
        state: TemplateState | None = None
        for record in await self._store.read_stream(stream_id):
            event = decode_event(record.data)
            if not isinstance(event, TemplateRegistered):
                return None
            if state is None:
                state = TemplateState(event.namespace, event.name)
            evolve_template(state, event, record.recorded_at_ms)
        return state
