"""Templates: what a workflow is, read from YAML or JSON of three dialects, checked, in one canonical form.

The way of a text: `yaml_lines` (text → tree with lines) → `reading` (any dialect → canonical keys, by the tables in
`dialects`) → `model` (types and ranges) and `rules` (the graph) and `schema_check` → a `TaskTemplate`. Every step of
the way notes problems instead of stopping, so one check finds them all; only text that is no YAML at all ends early.

    loaded = load_template(Path("checkout.yaml").read_bytes(), source="checkout.yaml")
    loaded.template.content_hash()

`load_template` raises `TemplateError`; `check_template` never raises. A `TaskTemplate` is immutable, and its
canonical JSON is what the orchestrator stores and what running tasks are pinned to.
"""

from .drawing import drawing
from .editor_schema import template_json_schema
from .graph import ancestors, dependents, layers, topological_order
from .load import (
    LoadedTemplate,
    check_template,
    load_template,
    load_template_file,
    load_templates_dir,
)
from .mermaid import mermaid
from .model import (
    ALL_STEPS,
    CHILD_TASK_HANDLER,
    NAME_CHARS_MAX,
    NAME_PATTERN,
    SIGNAL_HANDLER,
    STEPS_MAX,
    Backoff,
    BatchConfig,
    ChildTask,
    CircuitBreaker,
    Compensation,
    Concurrency,
    DomainEvent,
    EnvironmentOverride,
    FailureStrategy,
    HandlerSpec,
    IdentityStrategy,
    Lifecycle,
    OnFailure,
    PublishedEvent,
    RetryPolicy,
    SignalWait,
    StepOverride,
    StepTemplate,
    StepType,
    TaskTemplate,
)
from .problems import PROBLEM_CODES, Problem, TemplateError
from .versions import Version, full_version, highest_version, parse_version
from .yaml_lines import TEMPLATE_BYTES_MAX

__all__ = [
    "ALL_STEPS",
    "CHILD_TASK_HANDLER",
    "NAME_CHARS_MAX",
    "NAME_PATTERN",
    "PROBLEM_CODES",
    "SIGNAL_HANDLER",
    "STEPS_MAX",
    "TEMPLATE_BYTES_MAX",
    "Backoff",
    "BatchConfig",
    "ChildTask",
    "CircuitBreaker",
    "Compensation",
    "Concurrency",
    "DomainEvent",
    "EnvironmentOverride",
    "FailureStrategy",
    "HandlerSpec",
    "IdentityStrategy",
    "Lifecycle",
    "LoadedTemplate",
    "OnFailure",
    "Problem",
    "PublishedEvent",
    "RetryPolicy",
    "SignalWait",
    "StepOverride",
    "StepTemplate",
    "StepType",
    "TaskTemplate",
    "TemplateError",
    "Version",
    "ancestors",
    "check_template",
    "dependents",
    "drawing",
    "full_version",
    "highest_version",
    "layers",
    "load_template",
    "load_template_file",
    "load_templates_dir",
    "mermaid",
    "parse_version",
    "template_json_schema",
    "topological_order",
]
