"""The JSON Schemas of a registered template, compiled: what contexts, signals, results and domain events have to fit.

Needs `jsonschema_rs` (the `server` extra) where the template has a schema at all. Nothing is ever fetched, and
checking is a pure function of template and value: the same in the orchestrator and in `stepweave.testing`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

#: Violations of a schema that one answer lists.
VIOLATIONS_MAX: Final = 50
#: Longest pointer and longest message of a violation, in characters.
VIOLATION_CHARS_MAX: Final = 500

#: JSON pointer and message.
Violation = dict[str, str]


class ValueChecks:
    """The schemas of one template version, from its canonical form.

    Raises `ImportError` where there is a schema and no `jsonschema_rs`, `ValueError` or an error of that library
    where a schema is none (registered templates were checked).
    """

    def __init__(self, canonical: dict[str, Any]) -> None:
        self._context = _compiled(canonical.get("input_schema"))
        #: By step: of what it waits for, and of its result.
        self._signals: dict[str, list[Any]] = {}
        self._results: dict[str, Any] = {}
        #: By step and name, and by name.
        self._events: dict[tuple[str, str], Any] = {}
        self._common_events: dict[str, Any] = {}
        for event in canonical.get("domain_events", ()):
            if "payload_schema" in event:
                self._common_events[event["name"]] = _compiled(event["payload_schema"])
        for step in canonical["steps"]:
            self._add_step(step)

    def _add_step(self, step: dict[str, Any]) -> None:
        name = step["name"]
        result = _compiled(step.get("result_schema"))
        signal = step.get("wait_for_signal")
        if signal is not None:
            # A signal's payload becomes the step's result: it is checked before it is taken.
            payload = _compiled(signal.get("payload_schema"))
            self._signals[name] = [each for each in (payload, result) if each is not None]
        elif result is not None:
            self._results[name] = result
        for event in step.get("publishes_events", ()):
            if "payload_schema" in event:
                self._events[name, event["name"]] = _compiled(event["payload_schema"])

    def of_context(self, context: Any) -> list[Violation]:
        """What of a task's context does not fit `input_schema`."""
        return [] if self._context is None else violations(self._context, context)

    def of_signal(self, step: str, payload: Any) -> list[Violation]:
        """What of a signal's payload does not fit the `payload_schema` and `result_schema` of the step it is for."""
        found = (violations(validator, payload) for validator in self._signals.get(step, ()))
        return next((each for each in found if each), [])

    def of_result(self, step: str, result: msgspec.Raw) -> list[Violation]:
        """What of a result does not fit the step's `result_schema`."""
        validator = self._results.get(step)
        return [] if validator is None else violations(validator, msgspec.json.decode(result))

    def of_event(self, step: str, name: str, payload: msgspec.Raw) -> list[Violation]:
        """What of a domain event's payload does not fit its schema: the step's own, else the workflow's."""
        validator = self._events.get((step, name))
        if validator is None:
            validator = self._common_events.get(name)
        return [] if validator is None else violations(validator, msgspec.json.decode(payload))


def violations_text(found: list[Violation]) -> str:
    """The first few violations in one sentence."""
    return "; ".join(f"{each['pointer'] or '/'}: {each['message']}" for each in found[:5])


def violations(validator: Any, value: Any) -> list[Violation]:
    """Pointer and message of each place that a compiled schema does not take, `VIOLATIONS_MAX` at most."""
    found: list[Violation] = []
    for error in validator.iter_errors(value):
        pointer = "".join(
            f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in error.instance_path
        )
        # The message quotes the value, whatever its size.
        found.append({"pointer": _cut(pointer), "message": _cut(error.message)})
        if len(found) >= VIOLATIONS_MAX:
            break
    return found


def _compiled(schema: Any) -> Any:
    if schema is None:
        return None
    import jsonschema_rs

    return jsonschema_rs.validator_for(schema, retriever=_refuse)


def _refuse(uri: str) -> Any:
    """No schema is ever fetched from anywhere."""
    raise ValueError(f"references to other documents are not followed: {uri}")


def _cut(text: str) -> str:
    return text if len(text) <= VIOLATION_CHARS_MAX else text[: VIOLATION_CHARS_MAX - 1] + "…"
