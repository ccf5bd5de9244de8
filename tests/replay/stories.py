"""How a story is told: its name, what it is about, its template, and what happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tests.unit.core.scenario import Scenario, create, created, given
from tests.unit.core.templates import template

from stepweave_orchestrator.core import compile_plan
from stepweave_schemas.template import TaskTemplate

Story = Callable[[TaskTemplate], Scenario]
#: By name: what it is about, the template, and the story.
Stories = dict[str, tuple[str, TaskTemplate, Story]]


class Recorder(Protocol):
    """A decorator that makes a story known; `steps` and `settings` are those of its template."""

    def __call__(
        self, name: str, about: str, *steps: str | dict[str, Any], **settings: Any
    ) -> Callable[[Story], Story]: ...


def recorder(stories: Stories) -> Recorder:
    """The decorator that puts stories into `stories`."""

    def recorded(
        name: str, about: str, *steps: str | dict[str, Any], **settings: Any
    ) -> Callable[[Story], Story]:
        def keep(story: Story) -> Story:
            stories[name] = (about, template(*steps, **settings), story)
            return story

        return keep

    return recorded


def begun(made: TaskTemplate, *expected: Any, **request: Any) -> Scenario:
    """A new task; `expected` are the events after `task.created`."""
    plan = compile_plan(made.canonical_json(), made.content_hash())
    fields = {"initiator": "ada", "source_system": "shop", "reason": "order 7", "tags": ("new",), **request}
    return given(plan).when(create(plan, **fields)).then(created(), *expected)
