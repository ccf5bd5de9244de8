"""A template's versions: registered once, never changed."""

from __future__ import annotations

import msgspec

from stepweave_orchestrator.core.rejection import Rejection
from stepweave_orchestrator.core.template_stream import (
    RegisterTemplate,
    TemplateState,
    decide_template,
    evolve_template,
)
from stepweave_schemas import codec
from stepweave_schemas.events import TemplateRegistered

from .templates import template


def registration(version: str = "1.0.0", **settings: str) -> TemplateRegistered:
    made = template("a", "b: a", version=version, **settings)
    return TemplateRegistered(
        namespace=made.namespace,
        name=made.name,
        version=made.version,
        hash=made.content_hash(),
        content=msgspec.Raw(made.canonical_json()),
        registered_by="ada",
    )


def known(*registered: TemplateRegistered) -> TemplateState:
    state = TemplateState("tests", "scenario")
    for number, event in enumerate(registered):
        stored = codec.decode_event(codec.encode(event))
        assert isinstance(stored, TemplateRegistered)
        assert stored == event
        assert evolve_template(state, stored, 1_000 + number) is state
    return state


def test_a_new_version_is_registered() -> None:
    first = registration()
    assert decide_template(known(), RegisterTemplate(first)) == [first]
    state = known(first)
    assert state.version == 1
    version = state.versions["1.0.0"]
    assert (version.hash, version.registered_at_ms, version.registered_by) == (first.hash, 1_000, "ada")
    assert version.content.encode() == bytes(first.content)


def test_the_same_content_again_changes_nothing() -> None:
    state = known(registration())
    assert decide_template(state, RegisterTemplate(registration())) == []


def test_a_registered_version_never_changes() -> None:
    state = known(registration())
    decision = decide_template(state, RegisterTemplate(registration(description="other")))
    assert isinstance(decision, Rejection)
    assert decision.code == "CONFLICT"
    assert "tests/scenario:1.0.0" in decision.reason
    assert state == known(registration())


def test_versions_stand_side_by_side() -> None:
    old, new = registration("1.0.0"), registration("2.0.0", description="better")
    state = known(old)
    assert decide_template(state, RegisterTemplate(new)) == [new]
    state = known(old, new)
    assert list(state.versions) == ["1.0.0", "2.0.0"]
    assert state.version == 2
    assert decide_template(state, RegisterTemplate(old)) == []
    assert isinstance(
        decide_template(state, RegisterTemplate(registration("2.0.0", description="worse"))), Rejection
    )
    # An older one may come later.
    assert isinstance(decide_template(state, RegisterTemplate(registration("0.9.0"))), list)


def test_two_templates_share_nothing() -> None:
    known(registration())
    assert TemplateState("tests", "another").versions == {}
