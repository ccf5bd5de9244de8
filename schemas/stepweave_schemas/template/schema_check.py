"""Whether a JSON Schema inside a template is one.

With `jsonschema_rs` (the `server` extra) it is checked against its meta-schema and compiled, references and regular
expressions included; nothing is ever fetched. Without it, the base install checks the structure of the common
keywords; the orchestrator checks again at registration.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from .problems import ProblemList, excerpt
from .reading import Reading, SchemaText, place_inside
from .tree import Mapping, Node, plain

jsonschema_rs: Any
try:
    jsonschema_rs = importlib.import_module("jsonschema_rs")
except ImportError:  # the base install
    jsonschema_rs = None

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
#: Longest message of the validator that is passed on, in characters.
_MESSAGE_CHARS_MAX: Final = 300
#: Places of one default that are listed where they do not fit.
_MISFITS_MAX: Final = 20
_HINT: Final = "see json-schema.org for what this keyword takes"

#: Keywords by the kind of their value.
_SCHEMAS_BY_NAME: Final = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
)
_SCHEMA_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_ONE_SCHEMA: Final = frozenset(
    {"additionalProperties", "items", "contains", "not", "if", "then", "else", "propertyNames"}
)
_COUNTS: Final = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
)
_NUMBERS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})


def note_bad_schemas(schemas: list[SchemaText], problems: ProblemList) -> None:
    """Add a `SCHEMA_INVALID` problem for each fault of each schema."""
    for schema in schemas:
        if isinstance(schema.node, Mapping):
            faults = _structure(schema.node) if jsonschema_rs is None else _compiled(schema.node)
            for path, message in faults:
                place = place_inside(schema.place, schema.node, path)
                problems.add("SCHEMA_INVALID", message, path=place.path, line=place.line, hint=_HINT)


def note_unfit_defaults(reading: Reading) -> None:
    """Add a `BAD_VALUE` problem for each default of a signal that does not fit the schemas of signal and step.

    Only where `jsonschema_rs` is there, and only for schemas that are sound (the others were reported).
    """
    steps = None if jsonschema_rs is None or reading.data is None else reading.data.get("steps")
    for number, step in enumerate(steps if isinstance(steps, list) else []):
        signal = step.get("wait_for_signal")
        if not isinstance(signal, dict) or "default" not in signal:
            continue
        for key, schema in (
            ("payload_schema", signal.get("payload_schema")),
            ("result_schema", step.get("result_schema")),
        ):
            if schema is not None:
                _note_unfit_default(reading, number, signal["default"], key, schema)


def _note_unfit_default(reading: Reading, number: int, default: Any, key: str, schema: Any) -> None:
    try:
        validator = jsonschema_rs.validator_for(schema, retriever=_refuse)
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError):
        return
    for error in itertools.islice(validator.iter_errors(default), _MISFITS_MAX):
        place = reading.place(("steps", number, "wait_for_signal", "default", *error.instance_path))
        reading.problems.add(
            "BAD_VALUE",
            f"the default does not fit {key}: {_cut(error.message)}",
            path=place.path,
            line=place.line,
        )


#: The way to a fault inside a schema, and what is wrong.
Fault = tuple[list[str | int], str]


# -- with jsonschema_rs --------------------------------------------------------------------------


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not part of the schema")


@functools.cache
def _meta_validator() -> Any:
    return jsonschema_rs.validator_for({"$ref": _DIALECT}, retriever=_refuse)


def _compiled(node: Node) -> list[Fault]:
    content: dict[str, Any] = plain(node)
    faults: list[Fault] = []
    if content.get("$schema", _DIALECT) == _DIALECT:
        faults = [_fault(error) for error in _meta_validator().iter_errors(content)]
    if not faults:
        try:
            jsonschema_rs.validator_for(content, retriever=_refuse)
        except jsonschema_rs.ValidationError as error:
            faults = [_fault(error)]
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            faults = [([], excerpt(str(error)))]
    return faults


def _fault(error: Any) -> Fault:
    path = list(error.instance_path)
    message: str = error.message
    if path and path[-1] == "type" and "anyOf" in message:
        message = f"{message.split(' is not ')[0]} is no type; the types are {', '.join(sorted(_TYPES))}"
    return path, _cut(message)


def _cut(message: str) -> str:
    """A message of the validator, which quotes the value, whatever its size."""
    return message if len(message) <= _MESSAGE_CHARS_MAX else message[: _MESSAGE_CHARS_MAX - 1] + "…"


# -- without -------------------------------------------------------------------------------------


def _structure(node: Node) -> list[Fault]:
    return list(_faults(plain(node), []))


def _faults(schema: Any, path: list[str | int]) -> Iterator[Fault]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield path, "a schema is a mapping or a boolean"
        return
    for keyword, value in schema.items():
        here = [*path, keyword]
        if keyword in _SCHEMAS_BY_NAME:
            if not isinstance(value, dict):
                yield here, "this is a mapping of names to schemas"
                continue
            for name, inner in value.items():
                yield from _faults(inner, [*here, name])
        elif keyword in _SCHEMA_LISTS:
            if not isinstance(value, list) or not value:
                yield here, "this is a list of at least one schema"
                continue
            for number, inner in enumerate(value):
                yield from _faults(inner, [*here, number])
        elif keyword in _ONE_SCHEMA:
            yield from _faults(value, here)
        else:
            message = _keyword_fault(keyword, value)
            if message is not None:
                yield here, message


def _keyword_fault(keyword: str, value: Any) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if keyword == "type":
        names = value if isinstance(value, list) else [value]
        if not names or any(not isinstance(name, str) or name not in _TYPES for name in names):
            return f"{excerpt(value)} is no type; the types are {', '.join(sorted(_TYPES))}"
    elif keyword == "required":
        if not isinstance(value, list) or any(not isinstance(name, str) for name in value):
            return "this is a list of names"
    elif keyword == "enum" and not isinstance(value, list):
        return "this is a list of values"
    elif keyword in _COUNTS and (not number or value < 0 or value != int(value)):
        return "this is a whole number, at least 0"
    elif keyword in _NUMBERS and not number:
        return "this is a number"
    elif keyword in ("pattern", "$ref", "format") and not isinstance(value, str):
        return "this is text"
    return None
