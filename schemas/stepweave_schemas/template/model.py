"""The template model: what a workflow is, in its one canonical form.

These classes hold values that were read and checked; `load` makes them from text of any dialect. They check types
and ranges themselves, but the rules between steps (cycles, missing dependencies …) are in `rules`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

from stepweave_schemas.identity import canonical_json, content_digest
from stepweave_schemas.subjects import EVENT_NAME_PATTERN

from .versions import VERSION_CHARS_MAX, VERSION_PATTERN

#: Longest name of a namespace, template, step, queue …, in characters.
NAME_CHARS_MAX: Final = 255
#: Letters, digits, `_`, `-` and `.`, the first a letter, digit or `_`.
NAME_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
#: Most domain events that one step publishes, and that one workflow lists.
PUBLISHED_EVENTS_MAX: Final = 50
DOMAIN_EVENTS_MAX: Final = 500
#: Keys joined by dots, as in `customer.id`.
KEY_PATH_PATTERN: Final = r"^[^\s.]+(\.[^\s.]+)*$"
#: Most steps of one template.
STEPS_MAX: Final = 20_000
#: Longest text such as a description, in characters.
TEXT_CHARS_MAX: Final = 10_000
#: Most tries of one step.
ATTEMPTS_MAX: Final = 10_000
#: Longest delay between two tries: 30 days, in milliseconds.
BACKOFF_MS_MAX: Final = 30 * 86_400_000
#: Longest timeout of a step or a signal: 365 days, in seconds.
TIMEOUT_SECONDS_MAX: Final = 365 * 86_400

#: The handler of a step that waits for a signal or for a child task: no worker runs it.
SIGNAL_HANDLER: Final = "stepweave:signal"
CHILD_TASK_HANDLER: Final = "stepweave:child_task"

#: In `environments`, the step name that matches every step.
ALL_STEPS: Final = "ALL"

StepType = Literal["standard", "decision", "deferred_convergence", "batchable", "batch_worker"]
Backoff = Literal["none", "fixed", "linear", "exponential", "fibonacci"]
IdentityStrategy = Literal["always_unique", "strict", "caller_provided"]
OnFailure = Literal["compensate", "block", "fail"]
FailureStrategy = Literal["isolate", "continue_on_failure", "fail_fast"]
StalenessAction = Literal["dlq", "alert", "none"]
EventCondition = Literal["success", "failure", "retryable_failure", "permanent_failure", "always"]
EventPayload = Literal["outcome", "handler"]
EventDelivery = Literal["durable", "fast"]
JsonObject = dict[str, JsonValue]


def _callable(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("empty_callable", "the handler has no name")
    if text != text.strip() or not text.isprintable():
        raise PydanticCustomError(
            "bad_callable", "a handler's name has no spaces around it and no control characters"
        )
    return text


Name = Annotated[str, Field(max_length=NAME_CHARS_MAX, pattern=NAME_PATTERN)]
EventName = Annotated[str, Field(max_length=NAME_CHARS_MAX, pattern=EVENT_NAME_PATTERN)]
HandlerName = Annotated[str, Field(max_length=NAME_CHARS_MAX), AfterValidator(_callable)]
Text = Annotated[str, Field(max_length=TEXT_CHARS_MAX)]
Attempts = Annotated[int, Field(ge=1, le=ATTEMPTS_MAX)]
BackoffMs = Annotated[int, Field(ge=0, le=BACKOFF_MS_MAX)]
Jitter = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seconds = Annotated[float, Field(gt=0, le=TIMEOUT_SECONDS_MAX)]
KeyPath = Annotated[str, Field(max_length=NAME_CHARS_MAX, pattern=KEY_PATH_PATTERN)]
SemanticVersion = Annotated[str, Field(max_length=VERSION_CHARS_MAX, pattern=VERSION_PATTERN)]


class Model(BaseModel):
    """Base of all parts of a template: frozen, closed, and strict about types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class HandlerSpec(Model):
    """Which code runs a step: a name that workers know."""

    callable: HandlerName
    """The handler's name."""
    method: Name = "call"
    """The method of a class-based handler."""
    resolver: Name | None = None
    """The resolver that finds the handler, where a worker has several."""
    initialization: JsonObject = {}
    """Settings that the handler reads from its context."""


class RetryPolicy(Model):
    """How often, and after which delays, a failed step is tried again."""

    max_attempts: Attempts = 3
    """Total tries, the first included."""
    retryable: bool = True
    """`false` stops every try after the first."""
    backoff: Backoff = "exponential"
    """How the delay grows from try to try."""
    backoff_base_ms: BackoffMs = 1_000
    """The first delay, in milliseconds."""
    max_backoff_ms: BackoffMs = 30_000
    """The longest delay, in milliseconds."""
    jitter: Jitter = 0.1
    """How far a delay may be off by chance: 0.1 is 10 % either way."""


class BatchConfig(Model):
    """How a batchable step is cut into worker steps."""

    worker_template: Name | None = None
    """The `batch_worker` step that each batch is made from."""
    batch_size: Count | None = None
    """Items in one batch."""
    parallelism: Count | None = None
    """Most batches that run at once."""
    cursor_field: KeyPath | None = None
    """The field that orders the items."""
    checkpoint_interval: Count | None = None
    """Items between two checkpoints."""
    failure_strategy: FailureStrategy = "isolate"
    """What a batch that failed for good means for the others, and for what depends on them."""


class CircuitBreaker(Model):
    """When a failing dependency is left alone for a while."""

    failure_threshold: Count = 5
    """Failures within the window that open the circuit."""
    window_seconds: Seconds = 60.0
    """The window in which failures are counted."""
    open_seconds: Seconds = 30.0
    """How long the circuit stays open."""
    half_open_max: Count = 1
    """Steps that may try while the circuit is half open."""


class Concurrency(Model):
    """How many may run at once, over all tasks."""

    key: KeyPath | None = None
    """A path into the context; each value has its own limit. Absent: one limit for all."""
    limit: Count
    """How many run at once."""


class DomainEvent(Model):
    """An event of the users' own domain that handlers may publish."""

    name: EventName
    """The event's name, such as `order.paid`: words of letters, digits, `_` and `-`, joined by dots."""
    description: Text = ""
    """What it says to those who subscribe."""
    payload_schema: JsonObject | None = None
    """JSON Schema of its payload; one that does not fit is not published, and that is recorded."""
    delivery: EventDelivery | None = None
    """`durable` (the default): subscribers get it at least once. `fast`: besides, whoever listens gets it at once."""


class PublishedEvent(DomainEvent):
    """A domain event that a step publishes. What it leaves out is as in the workflow's `domain_events`."""

    condition: EventCondition = "success"
    """How a try has to end: `failure` is any failed try, `permanent_failure` the one after which none follows."""
    payload: EventPayload = "outcome"
    """`outcome`: by itself, with the step's result or error as payload; `handler`: only where its handler does so."""


class Compensation(Model):
    """What undoes a completed step when its task cannot complete."""

    handler: HandlerSpec
    """Runs with the step's inputs and result."""
    retry: RetryPolicy = RetryPolicy()
    """How often it is tried."""
    timeout_seconds: Seconds | None = None
    """Longest run of one try, in seconds."""


class SignalWait(Model):
    """A signal that a step waits for; its payload becomes the step's result."""

    name: Name
    """The signal's name."""
    timeout_seconds: Seconds | None = None
    """How long the step waits, in seconds; absent: for ever."""
    default: JsonValue = None
    """The step's result where no signal comes in time; absent (or null): the step fails then."""
    payload_schema: JsonObject | None = None
    """JSON Schema of the payload; a signal that does not fit is refused."""


class ChildTask(Model):
    """A task of another template that a step starts and waits for."""

    name: Name
    """The template's name."""
    namespace: Name | None = None
    """The template's namespace; absent: the same one."""
    version: SemanticVersion | None = None
    """The template's version; absent: the highest."""
    context: JsonObject = {}
    """The child's context; `${context.KEY}` and `${steps.STEP.KEY}` stand for values of this task."""
    parent_close: Literal["cancel", "abandon"] = "cancel"
    """What happens to the child when the parent is cancelled."""


class Lifecycle(Model):
    """How long a task may stay in a state before it counts as stale."""

    max_duration_seconds: Seconds | None = None
    """The whole task."""
    max_steps_in_process_seconds: Seconds | None = None
    """In `steps_in_process` without any change."""
    max_waiting_for_dependencies_seconds: Seconds | None = None
    """In `waiting_for_dependencies`."""
    max_waiting_for_retry_seconds: Seconds | None = None
    """In `waiting_for_retry`."""
    staleness_action: StalenessAction = "dlq"
    """What happens to a stale task."""


class StepTemplate(Model):
    """One step of a workflow."""

    name: Name
    """Unique within the template."""
    description: Text = ""
    """For people."""
    type: StepType = "standard"
    """What the step's outcome may do to the task."""
    handler: HandlerSpec
    """Which code runs the step."""
    dependencies: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    """Steps that must be complete before this one starts."""
    retry: RetryPolicy = RetryPolicy()
    """What happens when the step fails."""
    timeout_seconds: Seconds | None = None
    """Longest run of one try, in seconds; absent: no limit."""
    batch_config: BatchConfig | None = None
    """Of a `batchable` step."""
    publishes_events: Annotated[
        tuple[PublishedEvent, ...], Field(strict=False, max_length=PUBLISHED_EVENTS_MAX)
    ] = ()
    """Domain events that the step publishes."""
    result_schema: JsonObject | None = None
    """JSON Schema of the step's result; a result that does not fit is a failure for good."""
    compensation: Compensation | None = None
    """What undoes the step."""
    circuit_breaker: CircuitBreaker | None = None
    """When the step is held because its dependency fails."""
    system_dependency: Name | None = None
    """The outside system that the step talks to."""
    queue: Name = "default"
    """The queue of workers that run the step."""
    skippable: bool = False
    """Whether an operator may skip the step."""
    wait_for_signal: SignalWait | None = None
    """The step runs no handler but waits for a signal."""
    concurrency: Concurrency | None = None
    """How many of this step run at once, over all tasks."""
    child_task: ChildTask | None = None
    """The step runs no handler but a task of another template."""


class HandlerOverride(Model):
    """Changes of a handler in one environment."""

    callable: HandlerName | None = None
    method: Name | None = None
    resolver: Name | None = None
    initialization: JsonObject | None = None
    """Merged into the handler's own, key by key."""


class RetryOverride(Model):
    """Changes of a retry policy in one environment."""

    max_attempts: Attempts | None = None
    retryable: bool | None = None
    backoff: Backoff | None = None
    backoff_base_ms: BackoffMs | None = None
    max_backoff_ms: BackoffMs | None = None
    jitter: Jitter | None = None


class CircuitBreakerOverride(Model):
    """Changes of a circuit breaker in one environment."""

    failure_threshold: Count | None = None
    window_seconds: Seconds | None = None
    open_seconds: Seconds | None = None
    half_open_max: Count | None = None


class BatchOverride(Model):
    """Changes of how batches are cut in one environment; under `ALL` they reach the batchable steps only."""

    batch_size: Count | None = None
    parallelism: Count | None = None
    checkpoint_interval: Count | None = None
    failure_strategy: FailureStrategy | None = None


class CompensationOverride(Model):
    """Changes of a compensation in one environment; under `ALL` they reach the steps that declare one."""

    handler: HandlerOverride | None = None
    retry: RetryOverride | None = None
    timeout_seconds: Seconds | None = None


class SignalOverride(Model):
    """Changes of a wait for a signal in one environment; under `ALL` they reach the steps that wait for one."""

    timeout_seconds: Seconds | None = None


class StepOverride(Model):
    """Changes of one step, or of every step (`ALL`), in one environment. The graph stays as it is."""

    name: Name
    """The step, or `ALL`."""
    handler: HandlerOverride | None = None
    retry: RetryOverride | None = None
    timeout_seconds: Seconds | None = None
    batch_config: BatchOverride | None = None
    compensation: CompensationOverride | None = None
    wait_for_signal: SignalOverride | None = None
    circuit_breaker: CircuitBreakerOverride | None = None
    system_dependency: Name | None = None
    queue: Name | None = None
    skippable: bool | None = None
    concurrency: Concurrency | None = None


class LifecycleOverride(Model):
    """Changes of a lifecycle in one environment."""

    max_duration_seconds: Seconds | None = None
    max_steps_in_process_seconds: Seconds | None = None
    max_waiting_for_dependencies_seconds: Seconds | None = None
    max_waiting_for_retry_seconds: Seconds | None = None
    staleness_action: StalenessAction | None = None


class EnvironmentOverride(Model):
    """What is different in one environment."""

    steps: Annotated[tuple[StepOverride, ...], Field(strict=False)] = ()
    """Changes of steps; `ALL` first, then the named ones."""
    metadata: JsonObject | None = None
    """Merged into the template's own, key by key."""
    lifecycle: LifecycleOverride | None = None
    concurrency: Concurrency | None = None
    on_failure: OnFailure | None = None
    max_retry_after_ms: BackoffMs | None = None


class TaskTemplate(Model):
    """A workflow: a graph of steps and how its tasks behave. Make one with `load_template`."""

    namespace: Name = "default"
    """The team or business domain."""
    name: Name
    """The workflow's name."""
    version: SemanticVersion = "1.0.0"
    """A registered version never changes."""
    description: Text = ""
    """For people."""
    steps: Annotated[tuple[StepTemplate, ...], Field(strict=False, min_length=1, max_length=STEPS_MAX)]
    """The steps, in any order."""
    input_schema: JsonObject | None = None
    """JSON Schema of a task's context."""
    metadata: JsonObject = {}
    """Anything the team wants to keep with the template."""
    lifecycle: Lifecycle | None = None
    """When a task counts as stale."""
    environments: dict[Name, EnvironmentOverride] = {}
    """What is different in an environment such as `production`."""
    domain_events: Annotated[tuple[DomainEvent, ...], Field(strict=False, max_length=DOMAIN_EVENTS_MAX)] = ()
    """Domain events that any handler of this workflow may publish; steps take schema and delivery from here."""
    identity_strategy: IdentityStrategy = "always_unique"
    """When two requests are the same task."""
    concurrency: Concurrency | None = None
    """How many tasks of this template run at once."""
    on_failure: OnFailure | None = None
    """What happens when a task cannot complete; absent: `compensate` with compensations, else `block`."""
    max_retry_after_ms: BackoffMs | None = None
    """Longest delay that a handler may ask for, in milliseconds; absent: one hour."""

    @property
    def reference(self) -> str:
        """`namespace/name:version`."""
        return f"{self.namespace}/{self.name}:{self.version}"

    def canonical(self) -> dict[str, Any]:
        """The one canonical form, made of JSON values.

        Values that equal their defaults are left out, so templates that mean the same look the same, whichever
        dialect they were written in. `namespace`, `name`, `version` and `steps` always stand in it.
        """
        kept = self.model_dump(mode="json", exclude_defaults=True)
        return {"namespace": self.namespace, "name": self.name, "version": self.version} | kept

    def canonical_json(self) -> bytes:
        """The canonical form as JSON, keys sorted; the bytes that `content_hash` covers."""
        return canonical_json(self.canonical())

    def content_hash(self) -> str:
        """`sha256:<hex>` of the canonical JSON: what a running task is pinned to."""
        return content_digest(self.canonical())

    def for_environment(self, environment: str) -> TaskTemplate:
        """The template as it runs in one environment: its overrides applied, `environments` gone."""
        content = self.canonical()
        content.pop("environments", None)
        changes = self.environments.get(environment)
        if changes is not None:
            override = changes.model_dump(mode="json", exclude_defaults=True)
            by_name: dict[str, list[JsonObject]] = {}
            for change in override.pop("steps", []):
                by_name.setdefault(change.pop("name"), []).append(change)
            for step in content["steps"]:
                without = meaningless_for(step)
                for change in by_name.get(ALL_STEPS, []) + by_name.get(step["name"], []):
                    _merge(step, {key: change[key] for key in change if key not in without})
            _merge(content, override)
        return TaskTemplate.model_validate(content)


def meaningless_for(step: JsonObject) -> set[str]:
    """The keys that a step of this kind cannot have, so that what is said of all steps does not reach it."""
    beside = {key for key in ("compensation", "wait_for_signal") if key not in step}
    if step.get("type") != "batchable":
        beside.add("batch_config")
    if "wait_for_signal" in step:
        # It runs nothing that could be limited, and calls nobody.
        beside |= {"concurrency", "circuit_breaker"}
    elif "child_task" in step:
        # The failures of another task are not those of a service.
        beside.add("circuit_breaker")
    return beside


def _merge(target: JsonObject, changes: JsonObject) -> None:
    """Put `changes` over `target`, mappings key by key."""
    for key, value in changes.items():
        existing = target.get(key)
        if isinstance(existing, dict) and isinstance(value, dict):
            _merge(existing, value)
        else:
            target[key] = value
