"""JSON Schema of template files, for editors: the canonical keys and those of the older dialects."""

from __future__ import annotations

import copy
from typing import Any, Final

from .dialects import (
    BATCH_CONFIG,
    BATCH_OVERRIDE,
    CHILD_TASK,
    CIRCUIT_BREAKER,
    COMPENSATION,
    CONCURRENCY,
    DOMAIN_EVENT,
    ENVIRONMENT,
    FLAG_WORDS,
    HANDLER,
    LIFECYCLE,
    PUBLISHED_EVENT,
    RETRY,
    SIGNAL,
    SIGNAL_OVERRIDE,
    STEP,
    STEP_OVERRIDE,
    STEP_TYPE_WORDS,
    TEMPLATE,
    Form,
    Key,
    Shape,
)
from .model import TaskTemplate

#: The definition of the model → the shape that says which keys are read.
_SHAPES: Final[dict[str, Shape]] = {
    "BatchConfig": BATCH_CONFIG,
    "BatchOverride": BATCH_OVERRIDE,
    "ChildTask": CHILD_TASK,
    "CircuitBreaker": CIRCUIT_BREAKER,
    "CircuitBreakerOverride": CIRCUIT_BREAKER,
    "Compensation": COMPENSATION,
    "CompensationOverride": COMPENSATION,
    "Concurrency": CONCURRENCY,
    "DomainEvent": DOMAIN_EVENT,
    "EnvironmentOverride": ENVIRONMENT,
    "HandlerOverride": HANDLER,
    "HandlerSpec": HANDLER,
    "Lifecycle": LIFECYCLE,
    "LifecycleOverride": LIFECYCLE,
    "PublishedEvent": PUBLISHED_EVENT,
    "RetryOverride": RETRY,
    "RetryPolicy": RETRY,
    "SignalOverride": SIGNAL_OVERRIDE,
    "SignalWait": SIGNAL,
    "StepOverride": STEP_OVERRIDE,
    "StepTemplate": STEP,
    "TaskTemplate": TEMPLATE,
}

Schema = dict[str, Any]


def template_json_schema() -> Schema:
    """The schema of a template file (draft 2020-12); it accepts every dialect.

    It knows keys, types and ranges. The rules between steps, and those between keys, only `check_template` knows.
    """
    root: Schema = TaskTemplate.model_json_schema(mode="validation")
    definitions: dict[str, Schema] = root.pop("$defs")
    model = copy.deepcopy(definitions)
    for name, schema in [*definitions.items(), ("TaskTemplate", root)]:
        shape = _SHAPES.get(name)
        if shape is not None:
            _widen(schema, shape, model)
    for name, schema in list(definitions.items()):
        shape = _SHAPES.get(name)
        if shape is not None and shape.shorthand is not None:
            short = schema["properties"][shape.shorthand]
            definitions[name] = {"title": schema["title"], "anyOf": [short, schema]}
    root |= {
        "title": "Stepweave template",
        "description": "A workflow: a graph of steps, and how its tasks behave.",
    }
    return {**root, "$defs": definitions}


def _widen(schema: Schema, shape: Shape, model: dict[str, Schema]) -> None:
    """Add the older keys, and say that a key may be absent or null where another one may stand for it.

    `model` holds the definitions as the model has them.
    """
    properties: dict[str, Schema] = schema["properties"]
    canonical = dict(properties)
    for name, key in shape.keys.items():
        target = _target(key, canonical, model)
        properties[name] = _written(key, target)
        properties[name].pop("title", None)
        if name not in canonical:
            properties[name].pop("default", None)
            properties[name]["description"] = _same_as(key)
    for name in sorted(shape.ignored):
        properties[name] = {"description": "Means nothing here.", "deprecated": True}
    required = schema.pop("required", [])
    for name in required:
        targets = ((name,), (name, "callable"))
        spellings = [spelling for spelling, key in shape.keys.items() if key.target in targets]
        if shape is STEP and name == "handler":
            spellings += ["wait_for_signal", "child_task"]
        if spellings == [name]:
            schema.setdefault("required", []).append(name)
        else:
            choice = {"anyOf": [{"required": [spelling]} for spelling in spellings]}
            schema.setdefault("allOf", []).append(choice)
    for name, value in properties.items():
        if name not in schema.get("required", []):
            properties[name] = _nullable(value)


def _same_as(key: Key) -> str:
    target = ".".join(key.target)
    match key.form:
        case Form.SECONDS:
            return f"The same as `{target}`, in seconds."
        case Form.MINUTES:
            return f"The same as `{target}`, in minutes."
        case Form.DECISION:
            return "`true` is the same as `type: decision`."
        case Form.DEFERRED:
            return "`true` is the same as `type: deferred_convergence`."
    return f"The same as `{target}`."


def _target(key: Key, properties: dict[str, Schema], model: dict[str, Schema]) -> Schema:
    """The canonical schema of the value that a key stands for."""
    schema = properties[key.target[0]]
    for part in key.target[1:]:
        reference = next(
            each["$ref"]
            for each in [schema, *schema.get("anyOf", []), *schema.get("allOf", [])]
            if "$ref" in each
        )
        schema = model[reference.removeprefix("#/$defs/")]["properties"][part]
    return schema


def _written(key: Key, canonical: Schema) -> Schema:
    """How a value is written in a file, where that is more than the model takes."""
    about = {name: canonical[name] for name in ("description", "title", "default") if name in canonical}
    match key.form:
        case Form.FLAG:
            return about | {"enum": [True, False, *FLAG_WORDS]}
        case Form.DECISION | Form.DEFERRED:
            return about | {"enum": [True, False, *FLAG_WORDS]}
        case Form.SECONDS | Form.MINUTES:
            return about | {"type": "number", "minimum": 0}
        case Form.VERSION:
            return about | {"type": ["string", "number"]}
        case Form.NAMES:
            return about | {"anyOf": [canonical["items"], {key: canonical[key] for key in ("type", "items")}]}
        case Form.STEP_TYPE:
            return about | {"enum": [*canonical["enum"], *STEP_TYPE_WORDS]}
    return dict(canonical)


def _nullable(schema: Schema) -> Schema:
    """Null counts as absent."""
    kinds = schema.get("type")
    if "enum" in schema:
        return schema | {"enum": [*schema["enum"], None]} | ({"type": [kinds, "null"]} if kinds else {})
    if isinstance(kinds, str):
        return schema | {"type": [kinds, "null"]}
    if isinstance(kinds, list):
        return schema | {"type": [*kinds, "null"]}
    if "anyOf" in schema:
        return (
            schema
            if {"type": "null"} in schema["anyOf"]
            else schema | {"anyOf": [*schema["anyOf"], {"type": "null"}]}
        )
    if "$ref" in schema:
        rest = {name: value for name, value in schema.items() if name != "$ref"}
        return rest | {"anyOf": [{"$ref": schema["$ref"]}, {"type": "null"}]}
    return schema
