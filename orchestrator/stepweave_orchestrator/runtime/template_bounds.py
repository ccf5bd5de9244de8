"""What no message of ours could carry of a sound template: refused at registration, not when a task runs."""

from __future__ import annotations

from typing import Any

from stepweave_schemas.codec import encode
from stepweave_schemas.dispatch import CONTEXT_BYTES_MAX, RESULT_BYTES_MAX
from stepweave_schemas.template import Problem, TaskTemplate

from .actors import SYSTEM_NAMESPACE

#: A template in its canonical form: it must travel in one message.
TEMPLATE_BYTES_MAX = 640 * 1024
#: The `initialization` of one handler: it travels in each of the step's dispatches.
INITIALIZATION_BYTES_MAX = 256 * 1024

#: Parts of a step that travel in messages: where they stand, what has the bound, and the bound in bytes of JSON.
_BOUNDED = (
    ("handler.initialization", "a handler's settings have", INITIALIZATION_BYTES_MAX),
    ("compensation.handler.initialization", "a handler's settings have", INITIALIZATION_BYTES_MAX),
    ("wait_for_signal.default", "it becomes the step's result, which has", RESULT_BYTES_MAX),
    ("child_task.context", "the context of a task has", CONTEXT_BYTES_MAX),
)


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
        for path, what, bytes_max in _BOUNDED:
            value = _at(step, path)
            if value is not None and (size := len(encode(value))) > bytes_max:
                message = f"{size} bytes long; {what} at most {bytes_max}"
                hint = "keep large data elsewhere, and name it here"
                problems.append(_bad(f"steps[{number}].{path}", message, hint, source))
    return tuple(problems)


def _at(value: Any, path: str) -> Any:
    """The value at the end of a path of keys, or `None`."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


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
