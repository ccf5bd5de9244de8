"""Plans for tests, written as short texts: `compiled("a", "b: a", "c: a", "d: b c")` is the diamond."""

from __future__ import annotations

from typing import Any, Final

from stepweave_orchestrator.core import Plan, compile_plan
from stepweave_schemas.template import TaskTemplate
from stepweave_schemas.template.value_checks import ValueChecks

#: A retry policy whose delays are known: 1 s each.
EVERY_SECOND: Final[dict[str, Any]] = {"backoff": "fixed", "backoff_base_ms": 1_000, "jitter": 0.0}
#: A failed try is followed by the next one at once.
AT_ONCE: Final[dict[str, Any]] = {"backoff": "none", "jitter": 0.0}


def step(text: str, **settings: Any) -> dict[str, Any]:
    """One canonical step; `text` is its name, or `name: dependency dependency …`."""
    name, _, dependencies = text.partition(":")
    made: dict[str, Any] = {"name": name, "handler": {"callable": f"run_{name}"}, **settings}
    if dependencies:
        made["dependencies"] = dependencies.split()
    return made


def template(*steps: str | dict[str, Any], **settings: Any) -> TaskTemplate:
    """A template, checked by the model as a registered one is. A text step retries every second."""
    return TaskTemplate.model_validate(
        {
            "namespace": "tests",
            "name": "scenario",
            "steps": [step(each, retry=EVERY_SECOND) if isinstance(each, str) else each for each in steps],
            **settings,
        }
    )


def compiled(*steps: str | dict[str, Any], **settings: Any) -> Plan:
    """The plan of `template(…)`, compiled from its canonical JSON as the orchestrator does."""
    made = template(*steps, **settings)
    return compile_plan(made.canonical_json(), made.content_hash())


def checked(*steps: str | dict[str, Any], **settings: Any) -> Plan:
    """As `compiled`, with the template's schemas."""
    made = template(*steps, **settings)
    return compile_plan(made.canonical_json(), made.content_hash(), ValueChecks(made.canonical()))


def one_step(**settings: Any) -> Plan:
    """A plan of the single step `a`; `retry` and `timeout_seconds` are the step's, the rest the template's."""
    of_step = {key: settings.pop(key) for key in ("retry", "timeout_seconds") if key in settings}
    return compiled(step("a", **{"retry": EVERY_SECOND, **of_step}), **settings)


def diamond(**settings: Any) -> Plan:
    """`a`, then `b` and `c` beside each other, then `d`."""
    return compiled("a", "b: a", "c: a", "d: b c", **settings)
