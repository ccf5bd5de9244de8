"""What templates may ask for that this version cannot do: refused at registration, never ignored."""

from __future__ import annotations

from typing import Any, Literal

from stepweave_schemas.codec import encode
from stepweave_schemas.template import Problem, TaskTemplate

from .actors import SYSTEM_NAMESPACE

#: A template in its canonical form: it must travel in one message.
TEMPLATE_BYTES_MAX = 640 * 1024
#: The `initialization` of one handler: it travels in each of the step's dispatches.
INITIALIZATION_BYTES_MAX = 256 * 1024

_STEP_KEYS = {
    "batch_config": "batches",
    "publishes_events": "domain events of handlers",
    "result_schema": "checked results",
    "compensation": "compensations",
    "circuit_breaker": "circuit breakers",
    "wait_for_signal": "signals",
    "concurrency": "concurrency limits",
    "child_task": "child tasks",
}
#: Kept with the step, and without effect in this version.
_INERT_STEP_KEYS = ("skippable", "system_dependency")
_TASK_KEYS = {
    "concurrency": "concurrency limits",
    "domain_events": "domain events",
    "lifecycle": "lifecycle thresholds",
}


def unsupported(template: TaskTemplate, source: str) -> tuple[Problem, ...]:
    """One `NOT_SUPPORTED` problem for each thing the template asks for and this version would not do."""
    canonical: dict[str, Any] = template.canonical()
    problems = [
        _problem(key, f"{what} are not run by this version", source)
        for key, what in _TASK_KEYS.items()
        if key in canonical
    ]
    if canonical.get("on_failure") == "compensate":
        problems.append(_problem("on_failure", "compensations are not run by this version", source))
    for number, step in enumerate(canonical["steps"]):
        if step.get("type", "standard") != "standard":
            problems.append(
                _problem(
                    f"steps[{number}].type",
                    f"steps of type {step['type']} are not run by this version",
                    source,
                )
            )
        problems.extend(
            _problem(f"steps[{number}].{key}", f"{what} are not run by this version", source)
            for key, what in _STEP_KEYS.items()
            if key in step
        )
        problems.extend(
            _problem(
                f"steps[{number}].{key}", f"{key} has no effect in this version", source, severity="warning"
            )
            for key in _INERT_STEP_KEYS
            if key in step
        )
    return tuple(problems)


def out_of_bounds(template: TaskTemplate, source: str) -> tuple[Problem, ...]:
    """One `BAD_VALUE` problem for each part of the template that no message of ours could carry."""
    canonical: dict[str, Any] = template.canonical()
    problems = []
    if template.namespace == SYSTEM_NAMESPACE:
        problems.append(_bad("namespace", "this name is the system's own", "choose another one", source))
    size = len(template.canonical_json())
    if size > TEMPLATE_BYTES_MAX:
        message = f"{size} bytes long in its canonical form; a template has at most {TEMPLATE_BYTES_MAX}"
        problems.append(_bad("", message, "split it into several templates", source))
    for number, step in enumerate(canonical["steps"]):
        initialization = step["handler"].get("initialization")
        if initialization and (size := len(encode(initialization))) > INITIALIZATION_BYTES_MAX:
            message = f"{size} bytes long; a handler's settings have at most {INITIALIZATION_BYTES_MAX}"
            path = f"steps[{number}].handler.initialization"
            problems.append(_bad(path, message, "keep large data elsewhere, and name it here", source))
    return tuple(problems)


def _bad(path: str, message: str, hint: str, source: str) -> Problem:
    return Problem(
        code="BAD_VALUE",
        message=message,
        path=path,
        line=None,
        severity="error",
        hint=hint,
        source=source,
    )


def _problem(
    path: str, message: str, source: str, *, severity: Literal["error", "warning"] = "error"
) -> Problem:
    return Problem(
        code="NOT_SUPPORTED",
        message=message,
        path=path,
        line=None,
        severity=severity,
        hint="take it out, or use a version of Stepweave that runs it",
        source=source,
    )
