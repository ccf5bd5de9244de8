"""Batches for handlers that are classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .batches import (
    ITEM_COUNTS,
    AggregationScenario,
    BatchContext,
    batch_context_of,
    batches_result,
    check_cursors,
    cursor_ranges,
    no_op_result,
)
from .context import StepContext
from .errors import ConfigurationError
from .results import StepHandlerResult, check_count, check_object, check_reason


class Batchable:
    """Mixin of handlers that cut work into batches, do one batch, or bring the batches together.

    class ProcessOrders(StepHandler, Batchable):
        handler_name = "process_orders"

        def call(self, context):
            if (nothing_to_do := self.handle_no_op_worker(context)) is not None:
                return nothing_to_do
            batch = self.get_batch_worker_inputs(context)
            ...
            return self.batch_worker_success(items_processed=done)
    """

    # -- the analyser ----------------------------------------------------------------------------

    def create_cursor_ranges(
        self, total_items: int, batch_size: int, max_batches: int | None = None
    ) -> list[dict[str, Any]]:
        """Cut so many items into ranges; see `stepweave.batches.cursor_ranges`."""
        return cursor_ranges(total_items, batch_size, max_batches)

    def batch_analyzer_success(
        self,
        worker_template: str,
        cursors: Iterable[Any] | None = None,
        total_items: int | None = None,
        batch_size: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        cursor_configs: Iterable[Any] | None = None,
    ) -> StepHandlerResult:
        """One batch for each cursor, done by steps made from `worker_template`.

        Without cursors (`cursor_configs` is another name of them) ranges are cut from `total_items` and `batch_size`.
        None at all mean no batches. The step's result is `metadata` with `batch_count`, `worker_template` and, where
        they are given, `total_items` and `batch_size` over it.
        """
        if cursors is not None and cursor_configs is not None:
            raise ConfigurationError(
                "cursors and cursor_configs are the same: give one of them", error_code="BATCHES_INVALID"
            )
        given = cursor_configs if cursors is None else cursors
        if given is not None:
            listed = check_cursors(given)
        elif total_items is not None and batch_size is not None:
            listed = cursor_ranges(total_items, batch_size)
        else:
            raise ConfigurationError(
                "batch_analyzer_success needs cursors, or total_items and batch_size to cut them from",
                error_code="BATCHES_INVALID",
            )
        return batches_result(
            listed,
            worker_template=worker_template,
            total_items=total_items,
            batch_size=batch_size,
            metadata=metadata,
        )

    def no_batches_outcome(self, reason: str, metadata: Mapping[str, Any] | None = None) -> StepHandlerResult:
        """There is nothing to do: one placeholder stands for all batches; `reason` is for people."""
        check_reason(reason, "an analyser that makes no batches")
        return batches_result([], worker_template="", total_items=0, reason=reason, metadata=metadata)

    # -- the worker ------------------------------------------------------------------------------

    def get_batch_worker_inputs(self, context: StepContext) -> BatchContext | None:
        """The batch that this step does; None where the step is no batch worker."""
        return batch_context_of(context)

    def handle_no_op_worker(self, context: StepContext) -> StepHandlerResult | None:
        """The result to return where this step is the placeholder for no batches; None: there is work to do."""
        batch = batch_context_of(context)
        return no_op_result(batch) if batch is not None and batch.is_no_op else None

    def batch_worker_success(
        self,
        items_processed: int,
        items_succeeded: int | None = None,
        items_failed: int = 0,
        items_skipped: int = 0,
        results: Any = None,
        last_cursor: Any = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        errors: Any = None,
    ) -> StepHandlerResult:
        """The batch is done.

        The step's result holds the four numbers and those of `results`, `last_cursor` and `errors` that are given.
        `items_processed` counts every item that was looked at; without `items_succeeded` it is those that neither
        failed nor were skipped. `metadata` is the step's, not part of the result.
        """
        check_count(items_processed, "items_processed")
        check_count(items_failed, "items_failed")
        check_count(items_skipped, "items_skipped")
        if items_succeeded is None:
            items_succeeded = items_processed - items_failed - items_skipped
            if items_succeeded < 0:
                raise ConfigurationError(
                    f"items_processed counts every item that was looked at: {items_processed} are fewer than"
                    f" {items_failed} failed and {items_skipped} skipped ones",
                    error_code="COUNT_INVALID",
                )
        counts = (
            items_processed,
            check_count(items_succeeded, "items_succeeded"),
            items_failed,
            items_skipped,
        )
        result: dict[str, Any] = dict(zip(ITEM_COUNTS, counts, strict=True))
        given = {"results": results, "last_cursor": last_cursor, "errors": errors}
        result.update((key, value) for key, value in given.items() if value is not None)
        return StepHandlerResult.success(result, metadata)

    def checkpoint_yield(
        self, cursor: Any, items_processed: int, accumulated_results: Any = None
    ) -> StepHandlerResult:
        """The result that saves the progress, to be returned; see `StepHandlerResult.checkpoint`."""
        return StepHandlerResult.checkpoint(cursor, items_processed, accumulated_results)

    # -- behind the batches ----------------------------------------------------------------------

    def detect_aggregation_scenario(
        self, source: StepContext | Mapping[str, Any], analyzer_step: str, worker_prefix: str
    ) -> AggregationScenario:
        """What the batches came to; see `AggregationScenario.detect`."""
        return AggregationScenario.detect(source, analyzer_step, worker_prefix)

    def no_batches_aggregation_result(
        self, zero_metrics: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None
    ) -> StepHandlerResult:
        """The result of bringing no batches together: every number is 0, `zero_metrics` besides, `no_batches` true."""
        return StepHandlerResult.success(
            {
                **dict.fromkeys(ITEM_COUNTS, 0),
                "worker_count": 0,
                "no_batches": True,
                **check_object(zero_metrics, "zero_metrics"),
            },
            metadata,
        )

    def aggregate_batch_worker_results(
        self,
        scenario: AggregationScenario,
        zero_metrics: Mapping[str, Any] | None = None,
        aggregation_fn: Callable[[list[Any]], Mapping[str, Any]] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> StepHandlerResult:
        """The result of bringing the batches together.

        It holds the sums of the workers' numbers `items_…`, `worker_count`, and what `aggregation_fn` makes of the
        list of their results (a dict, over the rest). Of no batches it is `no_batches_aggregation_result`.
        """
        if scenario.is_no_batches:
            return self.no_batches_aggregation_result(zero_metrics, metadata)
        own: dict[str, Any] = {}
        if aggregation_fn is not None:
            own = check_object(
                aggregation_fn(list(scenario.batch_results.values())), "what aggregation_fn returns"
            )
        return StepHandlerResult.success({**scenario.sums(), **own}, metadata)
