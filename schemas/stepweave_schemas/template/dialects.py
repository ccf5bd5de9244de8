"""The keys of a template, in every dialect, and what each of them means in the canonical form.

A `Shape` lists the keys of one kind of mapping. A `Key` says where its value goes (`default_retry_limit` goes to
`retry.max_attempts`) and how it is read (`initial_delay` is in seconds, `backoff_base_ms` in milliseconds).
`reading` walks a document along these tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple


class Form(Enum):
    """How the value of a key is written."""

    VALUE = "value"
    """A value whose type the model checks."""
    FLAG = "flag"
    """A boolean; unquoted `yes`, `no`, `on` and `off` too."""
    SECONDS = "seconds"
    """A number of seconds, kept as milliseconds."""
    MINUTES = "minutes"
    """A number of minutes, kept as seconds."""
    VERSION = "version"
    """A version; a number is taken as it was written."""
    NAMES = "names"
    """A name or a list of names, kept as a list."""
    STEP_TYPE = "step type"
    """A step type; the words of the older dialects too."""
    DECISION = "decision"
    """`true` makes the step a decision."""
    DEFERRED = "deferred"
    """`true` makes the step a deferred convergence."""
    SCHEMA = "schema"
    """A JSON Schema."""
    SHAPE = "shape"
    """A mapping of its own shape."""
    LIST = "list"
    """A list of mappings of one shape."""
    TABLE = "table"
    """A mapping of names that the user chooses to mappings of one shape."""


class Key(NamedTuple):
    """What one key means."""

    #: The key, or the path of keys, in the canonical form.
    target: tuple[str, ...]
    form: Form = Form.VALUE
    shape: Shape | None = None


@dataclass(frozen=True)
class Shape:
    """The keys of one kind of mapping."""

    #: As it is called in messages.
    title: str
    keys: dict[str, Key]
    #: Keys that load with a warning and do nothing.
    ignored: frozenset[str] = field(default_factory=frozenset)
    #: A single value instead of the mapping is the value of this key.
    shorthand: str | None = None
    #: The code of the problem where something else stands in its place.
    code: str = "BAD_VALUE"

    def part(self, key: str) -> Shape | None:
        """The shape of the mapping under a canonical key, if it has one."""
        entry = self.keys.get(key)
        return entry.shape if entry is not None and entry.form is Form.SHAPE else None


def _keys(*names: str, form: Form = Form.VALUE) -> dict[str, Key]:
    return {name: Key((name,), form) for name in names}


def _shapes(**shapes: Shape) -> dict[str, Key]:
    return {name: Key((name,), Form.SHAPE, shape) for name, shape in shapes.items()}


HANDLER: Final = Shape(
    "handler", _keys("callable", "method", "resolver", "initialization"), shorthand="callable"
)
RETRY: Final = Shape(
    "retry",
    _keys("max_attempts", "backoff", "backoff_base_ms", "max_backoff_ms", "jitter")
    | _keys("retryable", form=Form.FLAG)
    | {
        "limit": Key(("max_attempts",)),
        "initial_delay": Key(("backoff_base_ms",), Form.SECONDS),
        "max_delay": Key(("max_backoff_ms",), Form.SECONDS),
    },
)
CONCURRENCY: Final = Shape("concurrency", _keys("key", "limit"))
CIRCUIT_BREAKER: Final = Shape(
    "circuit_breaker", _keys("failure_threshold", "window_seconds", "open_seconds", "half_open_max")
)
BATCH_CONFIG: Final = Shape(
    "batch_config",
    _keys("worker_template", "batch_size", "parallelism", "cursor_field", "checkpoint_interval")
    | _keys("failure_strategy"),
)
BATCH_OVERRIDE: Final = Shape(
    "batch_config", _keys("batch_size", "parallelism", "checkpoint_interval", "failure_strategy")
)
SIGNAL: Final = Shape(
    "wait_for_signal",
    _keys("name", "timeout_seconds", "default") | {"payload_schema": Key(("payload_schema",), Form.SCHEMA)},
)
SIGNAL_OVERRIDE: Final = Shape("wait_for_signal", _keys("timeout_seconds"))
CHILD_TASK: Final = Shape(
    "child_task",
    _keys("name", "namespace", "context", "parent_close") | _keys("version", form=Form.VERSION),
)
_EVENT_KEYS: Final = _keys("name", "description") | {
    "payload_schema": Key(("payload_schema",), Form.SCHEMA),
    "schema": Key(("payload_schema",), Form.SCHEMA),
    "delivery": Key(("delivery",)),
    "delivery_mode": Key(("delivery",)),
}
DOMAIN_EVENT: Final = Shape("domain event", _EVENT_KEYS, shorthand="name")
PUBLISHED_EVENT: Final = Shape(
    "published event", _EVENT_KEYS | _keys("condition", "payload"), shorthand="name"
)
LIFECYCLE: Final = Shape(
    "lifecycle",
    _keys(
        "max_duration_seconds",
        "max_steps_in_process_seconds",
        "max_waiting_for_dependencies_seconds",
        "max_waiting_for_retry_seconds",
        "staleness_action",
    )
    | {
        f"{name}_minutes": Key((f"{name}_seconds",), Form.MINUTES)
        for name in (
            "max_duration",
            "max_steps_in_process",
            "max_waiting_for_dependencies",
            "max_waiting_for_retry",
        )
    },
)

#: Ways to name a handler that stand beside the step's other keys.
_HANDLER_KEYS: Final = _shapes(handler=HANDLER) | {
    "handler_class": Key(("handler", "callable")),
    "handler_config": Key(("handler", "initialization")),
}
COMPENSATION: Final = Shape(
    "compensation",
    _HANDLER_KEYS | _shapes(retry=RETRY) | _keys("timeout_seconds"),
    code="COMPENSATION_INVALID",
)

#: Keys of a step that may differ between environments.
_CHANGEABLE: Final = (
    _HANDLER_KEYS
    | _keys("timeout_seconds", "system_dependency", "queue")
    | _keys("skippable", form=Form.FLAG)
    | _shapes(retry=RETRY, circuit_breaker=CIRCUIT_BREAKER, concurrency=CONCURRENCY)
    | {
        "default_retry_limit": Key(("retry", "max_attempts")),
        "default_retryable": Key(("retry", "retryable"), Form.FLAG),
    }
)
STEP: Final = Shape(
    "step",
    _keys("name", "description")
    | {
        "type": Key(("type",), Form.STEP_TYPE),
        "step_type": Key(("type",), Form.STEP_TYPE),
        "decision_point": Key(("type",), Form.DECISION),
        "deferred": Key(("type",), Form.DEFERRED),
        "dependencies": Key(("dependencies",), Form.NAMES),
        "depends_on": Key(("dependencies",), Form.NAMES),
        "depends_on_step": Key(("dependencies",), Form.NAMES),
        "depends_on_steps": Key(("dependencies",), Form.NAMES),
        "publishes_events": Key(("publishes_events",), Form.LIST, PUBLISHED_EVENT),
        "result_schema": Key(("result_schema",), Form.SCHEMA),
    }
    | _CHANGEABLE
    | _shapes(
        batch_config=BATCH_CONFIG, compensation=COMPENSATION, wait_for_signal=SIGNAL, child_task=CHILD_TASK
    ),
)
STEP_OVERRIDE: Final = Shape(
    "step of an environment",
    _keys("name")
    | _CHANGEABLE
    | _shapes(batch_config=BATCH_OVERRIDE, compensation=COMPENSATION, wait_for_signal=SIGNAL_OVERRIDE),
)
ENVIRONMENT: Final = Shape(
    "environment",
    _keys("metadata", "on_failure", "max_retry_after_ms")
    | _shapes(lifecycle=LIFECYCLE, concurrency=CONCURRENCY)
    | {
        "steps": Key(("steps",), Form.LIST, STEP_OVERRIDE),
        "step_templates": Key(("steps",), Form.LIST, STEP_OVERRIDE),
    },
)
TEMPLATE: Final = Shape(
    "template",
    _keys("namespace", "name", "description", "metadata", "identity_strategy", "on_failure")
    | _keys("max_retry_after_ms")
    | _shapes(lifecycle=LIFECYCLE, concurrency=CONCURRENCY)
    | {
        "namespace_name": Key(("namespace",)),
        "version": Key(("version",), Form.VERSION),
        "steps": Key(("steps",), Form.LIST, STEP),
        "step_templates": Key(("steps",), Form.LIST, STEP),
        "input_schema": Key(("input_schema",), Form.SCHEMA),
        "schema": Key(("input_schema",), Form.SCHEMA),
        "environments": Key(("environments",), Form.TABLE, ENVIRONMENT),
        "domain_events": Key(("domain_events",), Form.LIST, DOMAIN_EVENT),
    },
    ignored=frozenset(
        {
            "task_handler",
            "task_handler_class",
            "module_namespace",
            "named_steps",
            "system_dependencies",
            "default_dependent_system",
            "concurrent",
        }
    ),
)

#: Words of `step_type` in the older dialects.
STEP_TYPE_WORDS: Final = {"decision_point": "decision", "deferred": "deferred_convergence"}
#: Words of YAML 1.1 that a flag takes besides `true` and `false`.
FLAG_WORDS: Final = {"yes": True, "on": True, "no": False, "off": False}
