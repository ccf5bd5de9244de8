"""Steps that cut work into batches, and steps that do one batch each.

    @batch_analyzer("analyze_orders", worker_template="process_orders")
    def analyze_orders(context):
        return BatchConfig(count_orders(), batch_size=1_000)

    @batch_worker("process_orders")
    def process_orders(batch_context):
        rows = load(batch_context.start_cursor, batch_context.end_cursor)
        return {"items_processed": len(rows)}

For each cursor of the analyser one step exists: `process_orders_001` and so on. A cursor is any JSON value. Where
there is nothing to do one placeholder stands for all of them, which the SDK completes without calling the function.
Classes do the same with the methods of `Batchable`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Final

import msgspec

from stepweave_schemas.result import CURSORS_BYTES_MAX

from .context import StepContext, name_order
from .errors import ConfigurationError
from .results import StepHandlerResult, check_count, check_names, check_object, check_reason
from .roles import HandlerRole, kind_of

#: Most batches that one step is cut into: so many of the shortest ranges fit into its outcome.
BATCHES_MAX: Final = CURSORS_BYTES_MAX // len(b'{"start_cursor":0,"end_cursor":1},')
#: What a batch worker's result counts.
ITEM_COUNTS: Final = ("items_processed", "items_succeeded", "items_failed", "items_skipped")


# -- cutting -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """What an analyser found: so many items in batches of this size, or cursors of its own, or nothing.

    `BatchConfig(10_000, 500)` is cut into ranges of integers, of which each worker gets one: `start_cursor` (the
    first item, from 0) and `end_cursor` (behind the last). Without `batch_size` the template's `batch_config` says
    it. No items mean no batches. `metadata` becomes part of the step's result.

    Raises `ConfigurationError` for numbers that are none.
    """

    total_items: int | None
    batch_size: int | None = None
    metadata: Mapping[str, Any] | None = None
    #: The author's own cursors; None: ranges are cut.
    cursors: list[Any] | None = field(default=None, kw_only=True)
    #: Why there is nothing to do.
    reason: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if self.total_items is not None or self.cursors is None:
            check_count(self.total_items, "total_items")
        if self.batch_size is not None:
            check_count(self.batch_size, "batch_size", least=1)
        check_object(self.metadata, "metadata of the batches")

    @classmethod
    def from_cursors(
        cls,
        cursors: Iterable[Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        total_items: int | None = None,
        batch_size: int | None = None,
    ) -> BatchConfig:
        """One batch for each cursor: numbers, texts, dates (sent as ISO text), opaque tokens, objects.

        No cursors mean no batches. Raises `ConfigurationError` where they are no list, or too many.
        """
        return cls(total_items, batch_size, metadata, cursors=check_cursors(cursors))

    @classmethod
    def none(cls, reason: str, metadata: Mapping[str, Any] | None = None) -> BatchConfig:
        """There is nothing to do; `reason` is for people."""
        check_reason(reason, "an analyser that makes no batches")
        return cls(0, None, metadata, cursors=[], reason=reason)

    def as_result(self, context: StepContext, worker_template: str = "") -> StepHandlerResult:
        """The outcome of the try that `context` is of.

        Raises `ConfigurationError` where neither this nor the template says the size of a batch.
        """
        template = context.step_inputs.get("batch_config") or {}
        worker_template = worker_template or template.get("worker_template") or ""
        size, cursors, reason = self.batch_size, self.cursors, self.reason
        if cursors is None:
            assert self.total_items is not None, "without cursors there is a number of items"
            if size is None:
                size = template.get("batch_size")
            if self.total_items == 0:
                cursors, reason = [], "there are no items"
            elif size is None:
                raise ConfigurationError(
                    f"how many items are a batch? Neither the analyser's BatchConfig nor the batch_config of step"
                    f" {context.step_name!r} in the template has a batch_size; give one of them",
                    error_code="BATCH_SIZE_MISSING",
                )
            else:
                cursors = cursor_ranges(self.total_items, size)
        return batches_result(
            cursors,
            worker_template=worker_template,
            total_items=self.total_items,
            batch_size=size,
            reason=reason,
            metadata=self.metadata,
        )


def cursor_ranges(total_items: int, batch_size: int, max_batches: int | None = None) -> list[dict[str, Any]]:
    """Cut so many items into ranges: `{batch_id, start_cursor, end_cursor, batch_size}`, the end not included.

    `max_batches` makes the batches larger where they would be more. Raises `ConfigurationError` for numbers that
    are none, and for more than `BATCHES_MAX` batches.
    """
    check_count(total_items, "total_items")
    check_count(batch_size, "batch_size", least=1)
    if max_batches is not None and total_items:
        check_count(max_batches, "max_batches", least=1)
        batch_size = max(batch_size, -(-total_items // max_batches))
    count = -(-total_items // batch_size)
    if count > BATCHES_MAX:
        raise ConfigurationError(
            f"{total_items} items in batches of {batch_size} are {count} batches, {BATCHES_MAX} at most:"
            " take a larger batch_size",
            error_code="TOO_MANY_BATCHES",
        )
    return [
        _range(number, start, min(start + batch_size, total_items))
        for number, start in enumerate(range(0, total_items, batch_size), 1)
    ]


def _range(number: int, start: int, end: int) -> dict[str, Any]:
    return {
        "batch_id": f"{number:03d}",
        "start_cursor": start,
        "end_cursor": end,
        "batch_size": end - start,
    }


def check_cursors(cursors: Iterable[Any]) -> list[Any]:
    """Cursors as a list; raises `ConfigurationError` where they are no list, or more than `BATCHES_MAX`."""
    if isinstance(cursors, str | bytes | Mapping) or not isinstance(cursors, Iterable):
        raise ConfigurationError(
            f"cursors: expected a list with one value for each batch, not {type(cursors).__name__}",
            error_code="BATCHES_INVALID",
        )
    listed = list(islice(cursors, BATCHES_MAX + 1))
    if len(listed) > BATCHES_MAX:
        raise ConfigurationError(
            f"cursors: more than {BATCHES_MAX}; let each stand for more items", error_code="TOO_MANY_BATCHES"
        )
    return listed


def batches_result(
    cursors: list[Any],
    *,
    worker_template: str,
    total_items: int | None,
    batch_size: int | None = None,
    reason: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> StepHandlerResult:
    """An analyser's outcome.

    The step's result is `metadata` with `batch_count`, and as far as they are known `worker_template`,
    `total_items`, `batch_size` and (of no batches) `reason` over it.
    """
    if not isinstance(worker_template, str):
        raise ConfigurationError(
            f"worker_template: expected the name of a step, not {worker_template!r}",
            error_code="BATCHES_INVALID",
        )
    if worker_template:
        check_names(worker_template, "worker_template")
    if not cursors:
        reason = reason or "the analyser made no batches"
    known = {
        "worker_template": worker_template or None,
        "total_items": None if total_items is None else check_count(total_items, "total_items"),
        "batch_size": None if batch_size is None else check_count(batch_size, "batch_size", least=1),
        "reason": reason or None,
    }
    return StepHandlerResult(
        is_success=True,
        result={
            **check_object(metadata, "metadata of the batches"),
            "batch_count": len(cursors),
            **{key: value for key, value in known.items() if value is not None},
        },
        cursors=[_as_sent(cursor, number) for number, cursor in enumerate(cursors, 1)],
        worker_template=worker_template,
        reason=reason,
    )


def _as_sent(cursor: Any, number: int) -> Any:
    """A range of our own without what the dispatch says anyway, so that ten thousand of them fit."""
    if isinstance(cursor, dict) and len(cursor) == 4:
        start, end = cursor.get("start_cursor"), cursor.get("end_cursor")
        if type(start) is int and type(end) is int and cursor == _range(number, start, end):
            return {"start_cursor": start, "end_cursor": end}
    return cursor


# -- one batch -----------------------------------------------------------------------------------


class BatchContext(msgspec.Struct, frozen=True, kw_only=True):
    """The batch that a worker step does; parameter `batch_context` of functions under `@batch_worker`."""

    #: The analyser's value, as JSON carried it; None in the placeholder.
    cursor: Any = None
    #: `001` and so on: the end of the step's name.
    batch_id: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}$")] = "001"
    batch_count: Annotated[int, msgspec.Meta(ge=0)] = 1
    #: The placeholder for no batches at all: there is nothing to do.
    is_no_op: bool = False
    #: The template's.
    batch_config: dict[str, Any] = {}

    @property
    def batch_number(self) -> int:
        """`batch_id` as a number, from 1."""
        return int(self.batch_id)

    @property
    def start_cursor(self) -> Any:
        """Where a range begins; None where the cursor is no such object."""
        return self.cursor.get("start_cursor") if isinstance(self.cursor, dict) else None

    @property
    def end_cursor(self) -> Any:
        """Where a range ends, itself not included; None where the cursor is no such object."""
        return self.cursor.get("end_cursor") if isinstance(self.cursor, dict) else None

    @property
    def batch_size(self) -> int | None:
        """How many items a range of integers has; None of other cursors."""
        start, end = self.start_cursor, self.end_cursor
        return end - start if type(start) is int and type(end) is int else None

    @property
    def checkpoint_interval(self) -> int | None:
        """Items between two checkpoints, as the template wishes; None where it says nothing."""
        value = self.batch_config.get("checkpoint_interval")
        return value if isinstance(value, int) else None


def batch_context_of(context: StepContext) -> BatchContext | None:
    """The batch of a try; None where the step is no batch worker.

    Raises `ConfigurationError` where `step_inputs` are not what the orchestrator sends.
    """
    inputs = context.step_inputs
    if "batch_id" not in inputs and "cursor" not in inputs:
        return None
    try:
        return msgspec.convert(inputs, BatchContext)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"the step_inputs of step {context.step_name!r} are no batch: {error}",
            error_code="STEP_INPUTS_INVALID",
        ) from None


def the_batch(context: StepContext) -> BatchContext:
    """The batch of a try; raises `ConfigurationError` where the step is no batch worker."""
    batch = batch_context_of(context)
    if batch is None:
        raise ConfigurationError(
            f"step {context.step_name!r} is no batch, but its handler {context.handler_name!r} does batches:"
            " it is for steps of `type: batch_worker`",
            error_code="NOT_A_BATCH",
        )
    return batch


def no_op_result(batch: BatchContext) -> StepHandlerResult:
    """What the placeholder for no batches is completed with: nothing was done."""
    return StepHandlerResult.success(
        {"no_op": True, "batch_id": batch.batch_id, **dict.fromkeys(ITEM_COUNTS, 0)}
    )


# -- bringing batches together -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AggregationScenario:
    """What a step behind batches finds: none, or the results of those that succeeded."""

    is_no_batches: bool
    #: The result of the analyser; None where it has none.
    analyzer_result: Any
    #: The workers' results by step name, in order of the batches; empty where there were none.
    batch_results: dict[str, Any]

    @property
    def worker_count(self) -> int:
        """How many batches have a result."""
        return len(self.batch_results)

    @property
    def missing_count(self) -> int:
        """How many batches have none: they failed, and the template puts up with it."""
        return max(0, (_batch_count(self.analyzer_result) or 0) - self.worker_count)

    @classmethod
    def detect(
        cls, source: StepContext | Mapping[str, Any], analyzer_step: str, worker_prefix: str
    ) -> AggregationScenario:
        """Look at the results of earlier steps: a context, or results by step name.

        `worker_prefix` is the worker template's name, with or without an underscore at its end. Raises
        `ConfigurationError` where neither the analyser nor any batch has a result.
        """
        context = source if isinstance(source, StepContext) else None
        names: Iterable[str] = context.get_dependency_result_keys() if context else _mapping(source)
        underscore = "_?" if worker_prefix.endswith("_") else "_"
        batch = re.compile(re.escape(worker_prefix) + underscore + "[0-9]{3,}")
        workers = sorted((name for name in names if batch.fullmatch(name)), key=name_order)
        if not workers and analyzer_step not in names:
            raise ConfigurationError(
                f"neither {analyzer_step!r} nor a batch {worker_prefix.rstrip('_') + '_001'!r} is among the steps"
                f" with results: {', '.join(sorted(names)[:20]) or 'none'}",
                error_code="BATCHES_MISSING",
            )
        read: Callable[[str], Any] = context.get_dependency_result if context else _mapping(source).get
        analyzer_result = read(analyzer_step)
        results = {name: read(name) for name in workers}
        count = _batch_count(analyzer_result)
        no_batches = _is_placeholder(results) if count is None else count == 0
        return cls(no_batches, analyzer_result, {} if no_batches else results)

    def sums(self) -> dict[str, Any]:
        """The sums of the numbers `items_…` in the workers' results, and `worker_count`."""
        sums: dict[str, Any] = dict.fromkeys(ITEM_COUNTS, 0)
        for result in self.batch_results.values():
            for key, value in result.items() if isinstance(result, dict) else ():
                if (
                    key.startswith("items_")
                    and isinstance(value, int | float)
                    and not isinstance(value, bool)
                ):
                    sums[key] = sums.get(key, 0) + value
        return {**sums, "worker_count": self.worker_count}


def _mapping(source: object) -> Mapping[str, Any]:
    if not isinstance(source, Mapping):
        raise ConfigurationError(
            f"expected the context or its dependency_results, not {type(source).__name__}",
            error_code="BATCHES_INVALID",
        )
    return source


def _is_placeholder(results: dict[str, Any]) -> bool:
    result = next(iter(results.values()), None)
    return len(results) == 1 and isinstance(result, dict) and result.get("no_op") is True


def _batch_count(analyzer_result: Any) -> int | None:
    count = analyzer_result.get("batch_count") if isinstance(analyzer_result, dict) else None
    return count if isinstance(count, int) else None


# -- the roles of functions ----------------------------------------------------------------------


class AnalyzerRole(HandlerRole):
    """Of functions under `@batch_analyzer`: whatever they return says what the batches are."""

    def __init__(self, worker_template: str) -> None:
        self._worker_template = worker_template

    def after(self, context: StepContext, value: Any) -> StepHandlerResult:
        """The batches; raises `ConfigurationError` where the function returned something else."""
        if isinstance(value, BatchConfig):
            return value.as_result(context, self._worker_template)
        if isinstance(value, StepHandlerResult) and (
            value.is_batches or value.is_checkpoint or not value.is_success
        ):
            return value
        raise ConfigurationError(
            f"the batch analyser of step {context.step_name!r} returns BatchConfig(total_items, batch_size),"
            f" BatchConfig.from_cursors(...) or BatchConfig.none(reason), not {kind_of(value)}",
            error_code="BATCHES_MISSING",
        )


class WorkerRole(HandlerRole):
    """Of functions under `@batch_worker`: the placeholder for no batches is done without them."""

    def before(self, context: StepContext) -> StepHandlerResult | None:
        """The result of the placeholder."""
        batch = the_batch(context)
        return no_op_result(batch) if batch.is_no_op else None
