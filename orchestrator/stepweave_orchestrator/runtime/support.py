"""What templates may ask for that this version does not run yet: refused at registration, never ignored."""

from __future__ import annotations

from typing import Any, Literal

from stepweave_schemas.template import Problem, TaskTemplate

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
