"""A template as an actor: its versions, and the rule that a registered version never changes."""

from __future__ import annotations

import msgspec

from stepweave_schemas import events

from .rejection import Rejection


class TemplateState(msgspec.Struct):
    """Every registered version of one template: version → (hash, canonical JSON text)."""

    namespace: str
    name: str
    version: int = 0
    versions: dict[str, tuple[str, str]] = {}


class RegisterTemplate(msgspec.Struct, frozen=True):
    """Make a validated template version known."""

    registered: events.TemplateRegistered


def decide_template(
    state: TemplateState, command: RegisterTemplate
) -> list[events.TemplateRegistered] | Rejection:
    """Same content again is a no-op (an empty list); other content under a known version is refused."""
    registered = command.registered
    known = state.versions.get(registered.version)
    if known is None:
        return [registered]
    if known[0] == registered.hash:
        return []
    return Rejection(
        "CONFLICT",
        f"{registered.namespace}/{registered.name}:{registered.version} is registered with other content; "
        "a registered version never changes, so raise the version",
    )


def evolve_template(state: TemplateState, event: events.TemplateRegistered) -> TemplateState:
    """Apply one registration in place."""
    state.version += 1
    state.versions[event.version] = (event.hash, bytes(event.content).decode())
    return state
