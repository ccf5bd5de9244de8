"""What a handler knows about the try that it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from stepweave_schemas.dispatch import Dispatch
from stepweave_schemas.result import DomainEvent

from .published import Publications, as_read
from .results import PublishedEvent, StepHandlerResult

_decode = msgspec.json.Decoder().decode
_NOT_READ: Final = object()
_DIGITS: Final = "0123456789"


class StepContext:
    """One try of a step: ids, the task's context, the ancestors' results, the step's configuration.

    Everything JSON is decoded where it is first looked at. The values are this try's own: changing them changes
    nothing elsewhere. `step_uuid` is the same in every try, so it is the idempotency key for effects outside.
    """

    __slots__ = (
        "_accumulated",
        "_all_results",
        "_cancelled",
        "_config",
        "_cursor",
        "_dispatch",
        "_input",
        "_published",
        "_raw_results",
        "_results",
        "_step_inputs",
        "heartbeat_details",
        "on_heartbeat",
        "worker_id",
    )

    def __init__(
        self,
        dispatch: Dispatch,
        *,
        worker_id: str = "",
    ) -> None:
        self._dispatch = dispatch
        self.worker_id = worker_id
        self._raw_results: Mapping[str, msgspec.Raw] = dispatch.dependency_results
        self._results: dict[str, Any] = {}
        self._all_results: dict[str, Any] | None = None
        self._input: dict[str, Any] | None = None
        self._config: dict[str, Any] | None = None
        self._step_inputs: dict[str, Any] | None = None
        self._cursor: Any = _NOT_READ
        self._accumulated: Any = _NOT_READ
        self._cancelled = False
        #: Most handlers publish nothing.
        self._published: Publications | None = None
        #: What `heartbeat` calls besides; set by the worker.
        self.on_heartbeat: Callable[[], object] | None = None
        #: What the last `heartbeat` said; kept with a failure by time-out or shutdown.
        self.heartbeat_details: Any = None

    # -- who and what ----------------------------------------------------------------------------

    @property
    def task_uuid(self) -> str:
        """The task's id."""
        return self._dispatch.task_id

    @property
    def step_uuid(self) -> str:
        """The step's id, the same in every try."""
        return self._dispatch.step_uuid

    @property
    def step_name(self) -> str:
        """The step's name in the template."""
        return self._dispatch.step_name

    @property
    def task_name(self) -> str:
        """The template's name."""
        return self._dispatch.task_name

    @property
    def namespace(self) -> str:
        """The template's namespace."""
        return self._dispatch.namespace

    @property
    def template_version(self) -> str:
        """The template's version."""
        return self._dispatch.template_version

    @property
    def handler_name(self) -> str:
        """The handler's name, as the template has it."""
        return self._dispatch.handler

    @property
    def correlation_id(self) -> str:
        """The id that follows a business transaction through all systems."""
        return self._dispatch.correlation_id

    @property
    def parent_correlation_id(self) -> str | None:
        """The correlation id of what this task belongs to."""
        return self._dispatch.parent_correlation_id

    @property
    def traceparent(self) -> str | None:
        """The W3C `traceparent` of the request that the task belongs to; None where nobody records traces."""
        return self._dispatch.traceparent

    @property
    def priority(self) -> int:
        """The task's priority, −100..100."""
        return self._dispatch.priority

    @property
    def timeout_seconds(self) -> float | None:
        """After so long the worker cancels the handler; None: never."""
        return None if self._dispatch.timeout_ms is None else self._dispatch.timeout_ms / 1000

    # -- tries -----------------------------------------------------------------------------------

    @property
    def attempt(self) -> int:
        """The number of this try, from 1."""
        return self._dispatch.attempt

    @property
    def retry_count(self) -> int:
        """How many tries were made before this one."""
        return self._dispatch.attempt - 1

    @property
    def max_retries(self) -> int:
        """How many tries there may be after the first one."""
        return self._dispatch.max_attempts - 1

    def is_retry(self) -> bool:
        """Whether an earlier try failed."""
        return self._dispatch.attempt > 1

    def is_last_retry(self) -> bool:
        """Whether no further try follows this one."""
        return self._dispatch.attempt >= self._dispatch.max_attempts

    # -- input -----------------------------------------------------------------------------------

    @property
    def input_data(self) -> dict[str, Any]:
        """The task's context."""
        if self._input is None:
            self._input = _decode(self._dispatch.context)
        return self._input

    @property
    def configuration(self) -> dict[str, Any]:
        """The same as `input_data`."""
        return self.input_data

    def get_input(self, key: str) -> Any:
        """A value of the task's context; None where there is none."""
        return self.input_data.get(key)

    def get_input_or(self, key: str, default: Any) -> Any:
        """A value of the task's context; `default` where it is missing or null."""
        value = self.input_data.get(key)
        return default if value is None else value

    def get_task_field(self, key: str) -> Any:
        """The same as `get_input`."""
        return self.input_data.get(key)

    @property
    def step_config(self) -> dict[str, Any]:
        """The step's `handler.initialization` from the template."""
        if self._config is None:
            self._config = _decode(self._dispatch.initialization)
        return self._config

    def get_config(self, key: str) -> Any:
        """A value of `step_config`; None where there is none."""
        return self.step_config.get(key)

    @property
    def step_inputs(self) -> dict[str, Any]:
        """What this step works on besides the task's context.

        Of a batch worker: `cursor`, `batch_id`, `batch_count`, `is_no_op` and `batch_config`; of a batchable step:
        `batch_config`; of others, nothing.
        """
        if self._step_inputs is None:
            self._step_inputs = _decode(self._dispatch.step_inputs)
        return self._step_inputs

    @property
    def compensates(self) -> str:
        """The step that this one undoes, whose result is among the `dependency_results`; else an empty text."""
        return self._dispatch.compensates

    # -- progress that was saved -----------------------------------------------------------------

    def has_checkpoint(self) -> bool:
        """Whether an earlier try, or an earlier part of this one, saved its progress."""
        return self._dispatch.checkpoint is not None

    @property
    def compensates_step_uuid(self) -> str:
        """The uuid of the step that this one undoes, by which its effects can be found; empty otherwise."""
        return self._dispatch.compensates_step_uuid

    @property
    def checkpoint_cursor(self) -> Any:
        """Where to go on; None where nothing was saved."""
        if self._cursor is _NOT_READ:
            saved = self._dispatch.checkpoint
            self._cursor = None if saved is None else _decode(saved.cursor)
        return self._cursor

    @property
    def checkpoint_items_processed(self) -> int:
        """How many items are done since the step began; 0 where nothing was saved."""
        saved = self._dispatch.checkpoint
        return 0 if saved is None else saved.items_processed

    @property
    def accumulated_results(self) -> Any:
        """What the items that are done have come to; None where nothing was saved."""
        if self._accumulated is _NOT_READ:
            saved = self._dispatch.checkpoint
            self._accumulated = None if saved is None else _decode(saved.accumulated_results)
        return self._accumulated

    def checkpoint_yield(
        self, cursor: Any, items_processed: int, accumulated_results: Any = None
    ) -> StepHandlerResult:
        """The result that saves the progress, to be returned: `return context.checkpoint_yield(...)`.

        The same as `StepHandlerResult.checkpoint`.
        """
        return StepHandlerResult.checkpoint(cursor, items_processed, accumulated_results)

    # -- results of ancestors --------------------------------------------------------------------

    @property
    def dependency_results(self) -> dict[str, Any]:
        """The results of all ancestors by step name."""
        if self._all_results is None:
            self._all_results = {step: self.get_dependency_result(step) for step in self._raw_results}
        return self._all_results

    @property
    def parent_results(self) -> dict[str, Any]:
        """The same as `dependency_results`."""
        return self.dependency_results

    def use_dependency_results(self, results: Mapping[str, msgspec.Raw]) -> None:
        """Take these results instead of the dispatch's (for the worker, before the handler starts)."""
        self._raw_results = results
        self._results.clear()
        self._all_results = None

    def has_dependency_result(self, step: str) -> bool:
        """Whether an ancestor of this name has a result (which may be null)."""
        return step in self._raw_results

    def get_dependency_result(self, step: str) -> Any:
        """The result of an ancestor as its handler returned it; None where there is none."""
        if step in self._results:
            return self._results[step]
        raw = self._raw_results.get(step)
        if raw is None:
            return None
        value = self._results[step] = _decode(raw)
        return value

    def get_dependency_field(self, step: str, *path: str | int) -> Any:
        """A value inside an ancestor's result: keys of objects, indexes of lists; None where it is missing."""
        value = self.get_dependency_result(step)
        for part in path:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and -len(value) <= part < len(value):
                value = value[part]
            else:
                return None
        return value

    def get_all_dependency_results(self, prefix: str = "") -> list[Any]:
        """The results of the ancestors whose names start with `prefix`, in order of their names.

        Numbers at the end of names count as such: batch `…_1000` comes after `…_999`.
        """
        steps = sorted((step for step in self._raw_results if step.startswith(prefix)), key=name_order)
        return [self.get_dependency_result(step) for step in steps]

    def get_dependency_result_keys(self) -> list[str]:
        """The names of the ancestors that have results."""
        return list(self._raw_results)

    # -- while it runs ---------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether the try was cancelled or timed out; a handler in a thread looks here now and then."""
        return self._cancelled

    def cancel(self) -> None:
        """Mark the try as cancelled (for the worker and for tests)."""
        self._cancelled = True

    def heartbeat(self, details: Any = None) -> None:
        """Say that the handler is alive; from any thread.

        The worker keeps the lease of a running try by itself, so this is needed only by code that blocks the
        event loop. `details` (any JSON value) are kept with a failure by time-out or shutdown.
        """
        self.heartbeat_details = details
        if self.on_heartbeat is not None:
            self.on_heartbeat()

    def publish_event(self, name: str, payload: Any = None) -> None:
        """Publish an event of your own domain, such as `order.paid`; from any thread.

        The template declares it, in the step's `publishes_events` or the workflow's `domain_events`. `payload` is any
        value that a result may be. It is sent with the step's outcome, and only if that counts and ends as the
        declaration's `condition` says (by default: well), so a try that is repeated publishes once. Never raises and
        never fails the step: what cannot be published is recorded as `step.domain_event_refused`.
        """
        if self._published is None:
            self._published = Publications()
        self._published.add(name, payload)

    @property
    def published_events(self) -> list[PublishedEvent]:
        """What the handler has published so far, as subscribers will read it."""
        return as_read(self.domain_events())

    def domain_events(self) -> tuple[DomainEvent, ...]:
        """The same as it stands in the outcome (for the worker)."""
        return () if self._published is None else self._published.sent()

    def __repr__(self) -> str:
        return f"<StepContext {self.task_name}/{self.step_name} attempt {self.attempt} task {self.task_uuid}>"


def name_order(step: str) -> tuple[str, int, str]:
    """Sorts names of steps as people count: a number at the end by its value."""
    stem = step.rstrip(_DIGITS)
    return stem, int(step[len(stem) :] or -1), step
