"""A template as an actor: its versions, and the rule that a registered version never changes."""

from __future__ import annotations

import msgspec

from stepweave_schemas import events

from .rejection import Rejection


class RegisteredVersion(msgspec.Struct, frozen=True):
    """One version as it was registered; `content` is its canonical JSON text."""

    hash: str
    content: str
    registered_at_ms: int
    registered_by: str
    #: The environment whose overrides the content holds.
    environment: str | None = None


class TemplateState(msgspec.Struct):
    """Every registered version of one template, by its version."""

    namespace: str
    name: str
    version: int = 0
    versions: dict[str, RegisteredVersion] = {}


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
    if known.hash == registered.hash:
        return []
    return Rejection(
        "CONFLICT",
        f"{registered.namespace}/{registered.name}:{registered.version} is registered with other content; "
        f"a registered version never changes, so raise the version{_environments(known, registered)}",
    )


def _environments(known: RegisteredVersion, registered: events.TemplateRegistered) -> str:
    """What differs besides, where the same text may have been registered for another environment."""
    if known.environment == registered.environment:
        return ""
    before, now = (
        f"environment {one}" if one else "no environment"
        for one in (known.environment, registered.environment)
    )
    return f". It was registered for {before}, this is for {now}: an installation has one (STEPWEAVE_ENVIRONMENT)"


def evolve_template(
    state: TemplateState, event: events.TemplateRegistered, recorded_at_ms: int
) -> TemplateState:
    """Apply one registration in place."""
    state.version += 1
    state.versions[event.version] = RegisteredVersion(
        event.hash, bytes(event.content).decode(), recorded_at_ms, event.registered_by, event.environment
    )
    return state
