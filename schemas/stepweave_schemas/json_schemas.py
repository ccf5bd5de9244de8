"""JSON Schema (draft 2020-12) of every message, for workers and readers in other languages.

Generated from the structs, so that both say the same: types and defaults come from the annotations, texts from
docstrings and `#:` comments, and the bounds that an annotation cannot carry from `_RULES`. Each document stands
on its own (`$defs` inside). `python -m stepweave_schemas` writes them to `schemas/json/`.

A schema says what a sender may send. It leaves objects open to unknown fields, because readers must ignore what
they do not know; only API requests are closed.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect as types

from . import api, result
from .dispatch import Dispatch
from .envelope import Envelope
from .events import EVENT_TYPES, SCHEMA_VERSION

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

#: The answer of each operation of `api.OPERATIONS`; a refusal is an `api.error` instead.
REPLIES: Final[dict[str, type[msgspec.Struct]]] = {
    "task.create": api.CreateTaskReply,
    "task.create_many": api.CreateManyReply,
    "task.get": api.TaskResponse,
    "task.list": api.TaskPage,
    "task.cancel": api.TaskResponse,
    "task.pause": api.TaskResponse,
    "task.resume": api.TaskResponse,
    "task.retry": api.TaskResponse,
    "task.give_up": api.TaskResponse,
    "task.resolve": api.TaskResponse,
    "task.signal": api.SignalReply,
    "step.update": api.UpdateStepReply,
    "task.fork": api.ForkReply,
    "task.results": api.ResultsReply,
    "task.events": api.EventsReply,
    "task.explain": api.TaskExplanation,
    "gate.list": api.GatePage,
    "gate.get": api.GateReply,
    "circuit.open": api.GateReply,
    "circuit.close": api.GateReply,
    "dlq.list": api.DeadLetterPage,
    "dlq.get": api.TaskDeadLetters,
    "dlq.stats": api.DeadLetterStats,
    "dlq.investigation_queue": api.DeadLetterPage,
    "dlq.staleness": api.DeadLetterPage,
    "dlq.update": api.DeadLetterEntry,
    "template.register": api.TemplateReply,
    "template.validate": api.ValidationReply,
    "template.get": api.TemplateReply,
    "template.list": api.TemplatePage,
    "schedule.create": api.ScheduleReply,
    "schedule.get": api.ScheduleResponse,
    "schedule.events": api.ScheduleEventsReply,
    "schedule.list": api.SchedulePage,
    "schedule.pause": api.ScheduleResponse,
    "schedule.resume": api.ScheduleResponse,
    "schedule.trigger": api.TriggerReply,
    "schedule.backfill": api.BackfillReply,
    "schedule.delete": api.DeletedReply,
    "schedule.preview": api.PreviewReply,
    "bulk.start": api.StartBulkReply,
    "bulk.get": api.BulkResponse,
    "bulk.list": api.BulkPage,
    "bulk.tasks": api.BulkTasks,
    "bulk.cancel": api.BulkResponse,
}

_UUID: Final = {"pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
_COUNT: Final = {"minimum": 0}
_FROM_ONE: Final = {"minimum": 1}
_MOMENT: Final = {"format": "date-time"}

#: Bounds by `Struct.field`, else by `field`. Names that end in `_ms` are never negative.
_RULES: Final[dict[str, Schema]] = {
    "task_id": _UUID,
    "step_uuid": _UUID,
    "attempt": _FROM_ONE,
    "max_attempts": _FROM_ONE,
    "StepResolvedManually.attempt": _COUNT,
    "StepCompletedManually.attempt": _COUNT,
    "shard": _COUNT,
    "epoch": _FROM_ONE,
    "priority": {"minimum": -100, "maximum": 100},
    "Envelope.position": _FROM_ONE,
    "Envelope.version": _FROM_ONE,
    "Envelope.schema_version": _FROM_ONE,
    "Envelope.recorded_at": _MOMENT,
    "Dispatch.result_subject": {"pattern": r"^sw\.res\.[A-Za-z0-9_-]+\.[0-9]+\.[A-Za-z0-9_-]+$"},
    "Lost.deliveries": {"minimum": 2},
    "Failure.error_type": {"enum": list(result.ERROR_TYPES)},
    "Failure.error_message": {"maxLength": result.ERROR_MESSAGE_CHARS_MAX},
    "Checkpointed.items_processed": _COUNT,
    "domain_events": {"maxItems": result.DOMAIN_EVENTS_MAX},
    "DomainEvent.name": {"minLength": 1, "maxLength": result.DOMAIN_EVENT_NAME_CHARS_MAX},
    "CreateTask.start_at": _MOMENT,
    "CreateMany.tasks": {"maxItems": api.CREATE_MANY_MAX},
    "GetResults.offset": _COUNT,
    "GetEvents.from_version": _FROM_ONE,
    "GetEvents.limit": {"minimum": 1, "maximum": 1000},
    "EventsReply.events": {"items": {"type": "object", "description": "An envelope."}},
    "page": _FROM_ONE,
    "per_page": {"minimum": 1, "maximum": 200},
}

#: Raw JSON fields that hold an object; any other raw field holds any JSON value.
_RAW_OBJECTS: Final = frozenset(
    {"context", "initialization", "options", "metadata", "data", "content", "step_inputs"}
)


def event_schema(event_type: str) -> Schema:
    """The schema of one event's payload (the `data` of its envelope)."""
    return _of(EVENT_TYPES[event_type])


def schema_file_name(name: str) -> str:
    """The file of a document: `event.task.created` is in `event.task.created.schema.json`."""
    return f"{name}.schema.json"


def documents() -> dict[str, Schema]:
    """Every schema document by its name, in a stable order."""
    # Here, because only this needs the template model and the validation library behind it.
    from .template import template_json_schema

    found = {f"event.{name}": event_schema(name) for name in EVENT_TYPES}
    found["envelope"] = _of(Envelope)
    found["log_feed"] = _of(list[Envelope]) | {
        "title": "LogFeedMessage",
        "description": "One message on `sw.log.<shard>`: envelopes of one shard, in the order of their positions.",
        "minItems": 1,
    }
    found["dispatch"] = _of(Dispatch)
    found["outcome"] = _of(result.AnyOutcome) | {
        "title": "Outcome",
        "description": "What a worker says about one try.",
    }
    found["outcomes"] = _of(list[result.AnyOutcome]) | {
        "title": "Outcomes",
        "description": "What a worker says about several tries of one namespace and shard, in one message.",
        "minItems": 1,
        "maxItems": result.RESULTS_PER_MESSAGE_MAX,
    }
    found["cancel_notice"] = _CANCEL_NOTICE
    for operation, request in api.OPERATIONS.items():
        found[f"api.{operation}.request"] = _of(request)
        found[f"api.{operation}.reply"] = _of(REPLIES[operation])
    found["api.error"] = _ERROR
    found["template"] = template_json_schema()
    return {name: _document(name, schema) for name, schema in found.items()}


def schema_files() -> dict[str, bytes]:
    """The bytes of every file of `schemas/json/` by its name."""
    return {
        schema_file_name(name): msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"
        for name, schema in documents().items()
    }


def _document(name: str, schema: Schema) -> Schema:
    """A schema as a file: its dialect and id first, its definitions last."""
    definitions = schema.get("$defs")
    rest = {key: value for key, value in schema.items() if key not in ("$schema", "$id", "$defs")}
    head = {"$schema": DIALECT, "$id": f"urn:stepweave:schema:{name}:{SCHEMA_VERSION}"}
    return head | rest | ({"$defs": definitions} if definitions else {})


#: `sw.ctl.<namespace>.cancel`, see `subjects.cancel_notice`.
_CANCEL_NOTICE: Final[Schema] = {
    "title": "CancelNotice",
    "description": "Running steps of a task were cancelled; whoever runs one of them stops.",
    "type": "object",
    "properties": {
        "task_id": {"type": "string", **_UUID},
        "step_uuids": {"type": "array", "items": {"type": "string", **_UUID}},
    },
    "required": ["task_id", "step_uuids"],
}

#: `api.ApiError.body`.
_ERROR: Final[Schema] = {
    "title": "ApiError",
    "description": "The answer to a request that was refused; `error` may carry details besides these two.",
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"enum": list(api.ApiError.STATUS)},
                "message": {"type": "string"},
            },
            "required": ["code", "message"],
        }
    },
    "required": ["error"],
}


# -- structs to schemas --------------------------------------------------------------------------


def _of(kind: Any) -> Schema:
    """The schema of a type; the structs inside it are in `$defs`."""
    definitions: dict[str, Schema] = {}
    info = types.type_info(kind)
    schema = (
        _struct_schema(kind, definitions)
        if isinstance(info, types.StructType)
        else _schema(info, definitions)
    )
    return schema | {"$defs": definitions} if definitions else schema


def _schema(info: types.Type, definitions: dict[str, Schema]) -> Schema:
    """The schema of a type; structs in it are put into `definitions` and referred to."""
    match info:
        case types.AnyType() | types.RawType():
            return {}
        case types.NoneType():
            return {"type": "null"}
        case types.BoolType():
            return {"type": "boolean"}
        case types.IntType():
            return {"type": "integer"}
        case types.FloatType():
            return {"type": "number"}
        case types.StrType():
            return {"type": "string"}
        case types.LiteralType(values=values):
            return {"enum": list(values)}
        case types.ListType(item_type=item) | types.VarTupleType(item_type=item):
            return {"type": "array", "items": _schema(item, definitions)}
        case types.DictType(value_type=value):
            inner = _schema(value, definitions)
            return {"type": "object", "additionalProperties": inner} if inner else {"type": "object"}
        case types.UnionType(types=members):
            parts = [_schema(member, definitions) for member in members]
            if all(part.keys() == {"type"} for part in parts):
                return {"type": [part["type"] for part in parts]}
            return {"anyOf": parts}
        case types.StructType(cls=struct):
            name = struct.__name__
            if name not in definitions:
                definitions[name] = {}  # holds the place, so that the order is that of first mention
                definitions[name] = _struct_schema(struct, definitions)
            return {"$ref": f"#/$defs/{name}"}
    raise TypeError(f"no JSON Schema is known for {info!r}; teach `json_schemas._schema`")


def _struct_schema(struct: type[msgspec.Struct], definitions: dict[str, Schema]) -> Schema:
    info = types.type_info(struct)
    assert isinstance(info, types.StructType)
    properties: dict[str, Schema] = {}
    required: list[str] = []
    if info.tag_field is not None:
        properties[info.tag_field] = {"const": info.tag}
        required.append(info.tag_field)
    texts = _field_texts(struct)
    for field in info.fields:
        name = field.encode_name
        schema = _schema(field.type, definitions)
        if isinstance(field.type, types.RawType) and name in _RAW_OBJECTS:
            schema = {"type": "object"}
        if name in texts:
            schema = {"description": texts[name]} | schema
        schema |= _RULES.get(f"{struct.__name__}.{name}") or _RULES.get(name) or {}
        if name.endswith("_ms"):
            schema |= _COUNT
        schema |= _default(field)
        properties[name] = schema
        if field.required:
            required.append(name)
    schema = {"title": struct.__name__, "description": inspect.getdoc(struct) or "", "type": "object"}
    schema |= {"properties": properties, "required": required}
    return schema | ({"additionalProperties": False} if info.forbid_unknown_fields else {})


def _default(field: types.Field) -> Mapping[str, Any]:
    """`{"default": …}` where the field has one that can be sent."""
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, msgspec.Raw):
        return {"default": msgspec.json.decode(value)} if bytes(value) else {}
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    return {} if value is msgspec.NODEFAULT else {"default": list(value) if value == () else value}


_COMMENTED_FIELD = re.compile(r"((?:^ +#: .*\n)+)^ +(\w+):", re.MULTILINE)


@functools.cache
def _field_texts(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The `#:` comments above the fields of a struct and of those it extends."""
    texts: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            for comment, name in _COMMENTED_FIELD.findall(inspect.getsource(base)):
                texts[name] = " ".join(line.strip().removeprefix("#: ") for line in comment.splitlines())
    return texts
