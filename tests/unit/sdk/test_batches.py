"""Batches: cutting, doing one, bringing them together."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest

from stepweave import (
    AggregationScenario,
    Batchable,
    BatchConfig,
    BatchContext,
    ConfigurationError,
    StepContext,
    StepHandler,
    StepHandlerResult,
    batch_analyzer,
    batch_worker,
    depends_on,
    inputs,
    step_handler,
)
from stepweave.batches import BATCHES_MAX, cursor_ranges
from stepweave.invocation import HandlerDefinitionError, invocation_of
from stepweave.testing import make_context, make_dispatch, run_handler
from stepweave.worker.execution import outcome_of
from stepweave_schemas.codec import decode_outcomes, encode
from stepweave_schemas.result import CURSORS_BYTES_MAX, Batches, Failure

# -- cutting -----------------------------------------------------------------------------------


@batch_analyzer("analyze_orders", worker_template="process_orders")
@inputs("count", "size")
def analyze_orders(count: int, size: int | None) -> BatchConfig:
    return BatchConfig(count, size, {"source": "orders"})


def test_an_analyser_cuts_ranges() -> None:
    cut = run_handler(analyze_orders, {"count": 25, "size": 10})
    assert (cut.is_success, cut.is_batches, cut.is_decision) == (True, True, False)
    assert cut.cursors == [
        {"start_cursor": 0, "end_cursor": 10},
        {"start_cursor": 10, "end_cursor": 20},
        {"start_cursor": 20, "end_cursor": 25},
    ]
    assert (cut.worker_template, cut.reason) == ("process_orders", "")
    assert cut.result == {
        "source": "orders",
        "batch_count": 3,
        "worker_template": "process_orders",
        "total_items": 25,
        "batch_size": 10,
    }
    assert analyze_orders(25, 10).total_items == 25


def test_the_size_may_be_the_templates() -> None:
    template = {"batch_config": {"batch_size": 20, "worker_template": "other"}}
    cut = run_handler(analyze_orders, {"count": 25}, step_inputs=template)
    assert cut.cursors is not None
    assert (len(cut.cursors), cut.result["batch_size"]) == (2, 20)
    # The decorator's worker wins over the template's, the analyser's own size over the template's.
    assert cut.worker_template == "process_orders"
    own = run_handler(analyze_orders, {"count": 25, "size": 25}, step_inputs=template)
    assert own.result["batch_count"] == 1

    @batch_analyzer("unnamed")
    def unnamed(context: StepContext) -> BatchConfig:
        return BatchConfig(5)

    assert run_handler(unnamed, step_inputs=template).worker_template == "other"
    missing = run_handler(unnamed, step_name="cut")
    assert (missing.error_code, missing.retryable) == ("BATCH_SIZE_MISSING", False)
    assert missing.error_message == (
        "how many items are a batch? Neither the analyser's BatchConfig nor the batch_config of step 'cut' in the"
        " template has a batch_size; give one of them"
    )
    wrong = run_handler(unnamed, step_inputs={"batch_config": {"batch_size": "x"}})
    assert wrong.error_message == "batch_size: expected a whole number from 1 on, not 'x'"


def test_no_items_are_no_batches() -> None:
    none = run_handler(analyze_orders, {"count": 0})
    assert (none.is_batches, none.cursors, none.reason) == (True, [], "there are no items")
    assert none.result == {
        "source": "orders",
        "batch_count": 0,
        "worker_template": "process_orders",
        "total_items": 0,
        "reason": "there are no items",
    }

    @batch_analyzer("nothing", "work")
    async def nothing() -> BatchConfig:
        return BatchConfig.none("the file is empty", {"file": "a.csv"})

    said = run_handler(nothing)
    assert (said.cursors, said.reason, said.worker_template) == ([], "the file is empty", "work")
    assert said.result["file"] == "a.csv"

    @batch_analyzer("no_cursors", "work")
    def no_cursors() -> BatchConfig:
        return BatchConfig.from_cursors([])

    empty = run_handler(no_cursors)
    assert (empty.cursors, empty.reason) == ([], "the analyser made no batches")


def test_cursors_of_every_kind() -> None:
    cursors = [
        7,
        "eyJwYWdlIjoyfQ",
        date(2026, 1, 31),
        datetime(2026, 1, 31, 12, tzinfo=UTC),
        {"region": "eu", "days": [1, 2]},
        None,
        {"batch_id": "eu-west", "start_cursor": 0, "end_cursor": 5, "batch_size": 5},
        {"start_cursor": "a", "end_cursor": "m"},
    ]

    @batch_analyzer("kinds", "work")
    def kinds() -> BatchConfig:
        return BatchConfig.from_cursors(cursors, {"by": "hand"}, total_items=40)

    cut = run_handler(kinds)
    assert cut.cursors == [
        7,
        "eyJwYWdlIjoyfQ",
        "2026-01-31",
        "2026-01-31T12:00:00Z",
        {"region": "eu", "days": [1, 2]},
        None,
        {"batch_id": "eu-west", "start_cursor": 0, "end_cursor": 5, "batch_size": 5},
        {"start_cursor": "a", "end_cursor": "m"},
    ]
    assert cut.result == {"by": "hand", "batch_count": 8, "worker_template": "work", "total_items": 40}


def test_batches_on_the_wire() -> None:
    config = BatchConfig.from_cursors([1, "b"])
    outcome = outcome_of(make_dispatch(), config.as_result(make_context(), "work"), worker_id="w")
    (read,) = decode_outcomes(encode(outcome))
    assert isinstance(read, Batches)
    assert [bytes(cursor) for cursor in read.cursors] == [b"1", b'"b"']
    assert (read.worker_template, read.reason) == ("work", "")
    assert msgspec.json.decode(read.result) == {"batch_count": 2, "worker_template": "work"}


def test_any_handler_may_return_a_batch_config() -> None:
    class ByClass(StepHandler):
        handler_name = "by_class"

        async def call(self, context: StepContext) -> BatchConfig:
            return BatchConfig(3, 2)

    cut = run_handler(ByClass)
    assert (cut.cursors is not None and len(cut.cursors), cut.worker_template) == (2, "")
    assert "worker_template" not in cut.result
    assert run_handler(lambda context: BatchConfig(3)).error_code == "BATCH_SIZE_MISSING"


@pytest.mark.parametrize(
    ("total", "size", "most", "ranges"),
    [
        (0, 10, None, []),
        (0, 10, 3, []),
        (1, 10, None, [("001", 0, 1, 1)]),
        (20, 10, None, [("001", 0, 10, 10), ("002", 10, 20, 10)]),
        (25, 10, 2, [("001", 0, 13, 13), ("002", 13, 25, 12)]),
        (25, 20, 100, [("001", 0, 20, 20), ("002", 20, 25, 5)]),
    ],
)
def test_ranges(total: int, size: int, most: int | None, ranges: list[tuple[Any, ...]]) -> None:
    keys = ("batch_id", "start_cursor", "end_cursor", "batch_size")
    assert Batchable().create_cursor_ranges(total, size, most) == [
        dict(zip(keys, one, strict=True)) for one in ranges
    ]


def test_ten_thousand_ranges_fit() -> None:
    cut = run_handler(analyze_orders, {"count": 1_000_000_000, "size": 100_000})
    assert cut.result["batch_count"] == 10_000
    assert cut.cursors is not None
    assert cut.cursors[-1] == {"start_cursor": 999_900_000, "end_cursor": 1_000_000_000}
    assert cursor_ranges(10_000, 1)[-1]["batch_id"] == "10000"


def test_too_many_or_too_large_cursors_fail_for_good() -> None:
    many = run_handler(analyze_orders, {"count": 10**12, "size": 1})
    assert (many.error_code, many.retryable) == ("TOO_MANY_BATCHES", False)
    assert many.error_message == (
        f"{10**12} items in batches of 1 are {10**12} batches, {BATCHES_MAX} at most: take a larger batch_size"
    )
    with pytest.raises(
        ConfigurationError, match=f"cursors: more than {BATCHES_MAX}; let each stand for more"
    ):
        BatchConfig.from_cursors(iter(range(10**12)))

    @batch_analyzer("large", "work")
    def large() -> BatchConfig:
        return BatchConfig.from_cursors(["x" * 1_000] * 1_000)

    failure = run_handler(large)
    assert (failure.error_code, failure.retryable) == ("CURSORS_TOO_LARGE", False)
    assert failure.error_message == (
        f"the 1000 cursors of the batches have 1003000 bytes as JSON, the limit is {CURSORS_BYTES_MAX}:"
        " make them shorter, or fewer"
    )


def test_what_json_cannot_carry_is_a_permanent_failure() -> None:
    config = BatchConfig.from_cursors([1, {"at": object()}])
    outcome = outcome_of(make_dispatch(), config.as_result(make_context()), worker_id="w")
    assert isinstance(outcome, Failure)
    assert (outcome.error_code, outcome.retryable) == ("CURSORS_NOT_SERIALIZABLE", False)
    assert outcome.error_message.startswith("a cursor of the batches is not JSON: cursors[1].at: ")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchConfig(-1), "total_items: expected a whole number from 0 on, not -1"),
        (lambda: BatchConfig(None), "total_items: expected a whole number from 0 on, not None"),
        (lambda: BatchConfig("5"), "total_items: expected a whole number from 0 on, not '5'"),  # type: ignore[arg-type]
        (lambda: BatchConfig(5, 0), "batch_size: expected a whole number from 1 on, not 0"),
        (lambda: BatchConfig(5, True), "batch_size: expected a whole number from 1 on, not True"),
        (lambda: BatchConfig(5, 1, [1]), r"metadata of the batches: expected a dict, not \[1\]"),  # type: ignore[arg-type]
        (lambda: BatchConfig.none(""), "makes no batches says why: expected a reason, not ''"),
        (lambda: BatchConfig.from_cursors("abc"), "cursors: expected a list with one value .* not str"),
        (lambda: BatchConfig.from_cursors({"a": 1}), "cursors: expected a list with .* not dict"),
        (lambda: BatchConfig.from_cursors(5), "cursors: expected a list with .* not int"),  # type: ignore[arg-type]
        (lambda: BatchConfig.from_cursors([1], total_items=-1), "total_items: expected"),
        (lambda: cursor_ranges(10, 0), "batch_size: expected a whole number from 1 on, not 0"),
        (lambda: cursor_ranges(-1, 1), "total_items: expected a whole number from 0 on, not -1"),
        (lambda: cursor_ranges(10, 1, 0), "max_batches: expected a whole number from 1 on, not 0"),
        (
            lambda: Batchable().no_batches_outcome(" "),
            "makes no batches says why: expected a reason, not ' '",
        ),
        (lambda: Batchable().batch_analyzer_success("w"), "needs cursors, or total_items and batch_size"),
        (lambda: Batchable().batch_analyzer_success("w", total_items=5), "needs cursors, or total_items"),
        (
            lambda: Batchable().batch_analyzer_success("w", [1], cursor_configs=[1]),
            "cursors and cursor_configs are the same: give one of them",
        ),
        (lambda: Batchable().batch_analyzer_success(5, [1]), "worker_template: expected the name of a step"),  # type: ignore[arg-type]
        (lambda: Batchable().batch_analyzer_success("\ud800", [1]), "half a surrogate pair"),
        (lambda: Batchable().batch_analyzer_success("w", "abc"), "cursors: expected a list"),
        (lambda: Batchable().batch_worker_success(-1), "items_processed: expected a whole number from 0"),
        (lambda: Batchable().batch_worker_success(1, 1.5), "items_succeeded: expected a whole"),  # type: ignore[arg-type]
        (lambda: Batchable().batch_worker_success(1, items_failed=-1), "items_failed: expected a whole"),
        (lambda: Batchable().batch_worker_success(1, items_skipped=None), "items_skipped: expected a whole"),  # type: ignore[arg-type]
        (
            lambda: Batchable().batch_worker_success(3, items_failed=2, items_skipped=2),
            "counts every item that was looked at: 3 are fewer than 2 failed and 2 skipped ones",
        ),
        (lambda: Batchable().no_batches_aggregation_result([1]), "zero_metrics: expected a dict"),  # type: ignore[arg-type]
        (lambda: AggregationScenario.detect([], "a", "w"), "expected the context or its dependency_results"),  # type: ignore[arg-type]
    ],
)
def test_wrong_values_are_permanent_failures(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()
    failure = run_handler(lambda context: make())
    assert (failure.error_type, failure.retryable) == ("permanent_error", False)
    assert failure.error_code not in (None, "ConfigurationError")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "a value of type NoneType"),
        ([1, 2], "a value of type list"),
        (StepHandlerResult.success({}), "a plain success"),
    ],
)
def test_an_analyser_that_cuts_nothing_fails_for_good(value: Any, kind: str) -> None:
    @batch_analyzer("cuts_nothing", "work")
    def cuts_nothing() -> Any:
        return value

    failure = run_handler(cuts_nothing, step_name="cut")
    assert (failure.error_code, failure.retryable) == ("BATCHES_MISSING", False)
    assert failure.error_message == (
        "the batch analyser of step 'cut' returns BatchConfig(total_items, batch_size),"
        f" BatchConfig.from_cursors(...) or BatchConfig.none(reason), not {kind}"
    )


def test_an_analyser_may_fail_or_save_its_progress() -> None:
    @batch_analyzer("ends", "work")
    @inputs("how")
    def ends(how: str, context: StepContext) -> Any:
        if how == "fails":
            return StepHandlerResult.failure("no", error_code="NO")
        if how == "batches":
            return Batchable().batch_analyzer_success("own", [1])
        return context.checkpoint_yield(1, 1)

    assert run_handler(ends, {"how": "fails"}).error_code == "NO"
    assert run_handler(ends, {"how": "saves"}).is_checkpoint
    assert run_handler(ends, {"how": "batches"}).worker_template == "own"


# -- one batch ---------------------------------------------------------------------------------


@batch_worker("process_orders")
def process_orders(batch_context: BatchContext) -> dict[str, Any]:
    return {"items_processed": batch_context.end_cursor - batch_context.start_cursor}


_BATCH = {
    "cursor": {"start_cursor": 10, "end_cursor": 25},
    "batch_id": "1002",
    "batch_count": 2000,
    "is_no_op": False,
    "batch_config": {"batch_size": 15, "checkpoint_interval": 5, "failure_strategy": "isolate"},
}


def test_a_function_does_one_batch() -> None:
    assert run_handler(process_orders, step_inputs=_BATCH).result == {"items_processed": 15}
    assert invocation_of(process_orders).reads == frozenset()

    @batch_worker("with_more")
    @inputs("factor")
    @depends_on(rates="load_rates")
    async def with_more(
        batch_context: BatchContext, factor: int, rates: list[int], context: StepContext
    ) -> Any:
        return [batch_context.cursor, factor, rates, context.step_name]

    seen = run_handler(
        with_more, {"factor": 2}, dependencies={"load_rates": [1]}, step_inputs={"cursor": "token"}
    )
    assert seen.result == ["token", 2, [1], "step"]

    @batch_worker("without_parameter")
    def without_parameter(context: StepContext) -> Any:
        return context.step_inputs["cursor"]

    assert run_handler(without_parameter, step_inputs=_BATCH).result == _BATCH["cursor"]


def test_what_a_batch_says_of_itself() -> None:
    batch = Batchable().get_batch_worker_inputs(make_context(step_inputs=_BATCH))
    assert batch is not None
    assert (batch.batch_id, batch.batch_number, batch.batch_count) == ("1002", 1002, 2000)
    assert (batch.start_cursor, batch.end_cursor, batch.batch_size) == (10, 25, 15)
    assert (batch.is_no_op, batch.checkpoint_interval) == (False, 5)
    assert batch.batch_config["failure_strategy"] == "isolate"
    token = Batchable().get_batch_worker_inputs(make_context(step_inputs={"cursor": "abc"}))
    assert token is not None
    assert (token.cursor, token.start_cursor, token.end_cursor, token.batch_size) == ("abc", None, None, None)
    assert (token.batch_id, token.batch_count, token.checkpoint_interval) == ("001", 1, None)
    assert Batchable().get_batch_worker_inputs(make_context()) is None
    assert Batchable().get_batch_worker_inputs(make_context(step_inputs={"batch_config": {}})) is None


_NO_OP = {"is_no_op": True, "batch_id": "001", "batch_count": 0, "batch_config": {}}
_NOTHING_DONE = {
    "no_op": True,
    "batch_id": "001",
    "items_processed": 0,
    "items_succeeded": 0,
    "items_failed": 0,
    "items_skipped": 0,
}


def test_the_placeholder_is_done_without_the_function() -> None:
    called: list[object] = []

    @batch_worker("sync_worker")
    def sync_worker(batch_context: BatchContext) -> None:
        called.append(batch_context)

    @batch_worker("async_worker")
    async def async_worker() -> None:
        called.append("async")

    for worker in (sync_worker, async_worker):
        result = run_handler(worker, step_inputs=_NO_OP)
        assert result.is_success
        assert result.result == _NOTHING_DONE
    assert called == []


def test_a_worker_is_for_batches() -> None:
    failure = run_handler(process_orders, step_name="plain")
    assert (failure.error_code, failure.retryable) == ("NOT_A_BATCH", False)
    assert failure.error_message == (
        "step 'plain' is no batch, but its handler 'process_orders' does batches: it is for steps of"
        " `type: batch_worker`"
    )


@pytest.mark.parametrize(
    ("step_inputs", "where"),
    [
        ({"batch_id": 1}, "batch_id"),
        ({"batch_id": "x"}, "batch_id"),
        ({"cursor": 1, "is_no_op": "yes"}, "is_no_op"),
        ({"cursor": 1, "batch_config": []}, "batch_config"),
        ({"cursor": 1, "batch_count": -1}, "batch_count"),
    ],
)
def test_step_inputs_that_are_no_batch(step_inputs: dict[str, Any], where: str) -> None:
    failure = run_handler(process_orders, step_inputs=step_inputs)
    assert (failure.error_code, failure.retryable) == ("STEP_INPUTS_INVALID", False)
    assert failure.error_message.startswith("the step_inputs of step 'step' are no batch: ")
    assert where in failure.error_message


class ProcessOrders(StepHandler, Batchable):
    handler_name = "process_orders_class"

    def call(self, context: StepContext) -> StepHandlerResult:
        if (nothing_to_do := self.handle_no_op_worker(context)) is not None:
            return nothing_to_do
        batch = self.get_batch_worker_inputs(context)
        assert batch is not None, "a batch worker has a batch"
        skipped = [item for item in range(batch.start_cursor, batch.end_cursor) if item % 5 == 0]
        return self.batch_worker_success(
            items_processed=batch.batch_size or 0,
            items_skipped=len(skipped),
            results={"skipped": skipped},
            last_cursor=batch.end_cursor,
            metadata={"took": "long"},
        )


def test_a_class_does_one_batch() -> None:
    done = run_handler(ProcessOrders, step_inputs=_BATCH)
    assert done.result == {
        "items_processed": 15,
        "items_succeeded": 12,
        "items_failed": 0,
        "items_skipped": 3,
        "results": {"skipped": [10, 15, 20]},
        "last_cursor": 25,
    }
    assert done.metadata == {"took": "long"}
    assert run_handler(ProcessOrders, step_inputs=_NO_OP).result == _NOTHING_DONE
    assert Batchable().batch_worker_success(3, 1, 1, errors=["x"]).result == {
        "items_processed": 3,
        "items_succeeded": 1,
        "items_failed": 1,
        "items_skipped": 0,
        "errors": ["x"],
    }


def test_a_class_analyses() -> None:
    class Analyzer(StepHandler, Batchable):
        handler_name = "analyzer"

        def call(self, context: StepContext) -> StepHandlerResult:
            total = context.get_input("total")
            if not total:
                return self.no_batches_outcome("the table is empty", {"table": "orders"})
            ranges = self.create_cursor_ranges(total, 10, max_batches=2)
            return self.batch_analyzer_success(
                "work", cursor_configs=ranges, total_items=total, batch_size=10, metadata={"table": "orders"}
            )

    cut = run_handler(Analyzer, {"total": 30})
    assert cut.cursors == [{"start_cursor": 0, "end_cursor": 15}, {"start_cursor": 15, "end_cursor": 30}]
    assert cut.worker_template == "work"
    assert cut.result == {
        "table": "orders",
        "batch_count": 2,
        "worker_template": "work",
        "total_items": 30,
        "batch_size": 10,
    }
    none = run_handler(Analyzer, {"total": 0})
    assert (none.cursors, none.reason) == ([], "the table is empty")
    assert none.result == {
        "table": "orders",
        "batch_count": 0,
        "total_items": 0,
        "reason": "the table is empty",
    }
    assert Batchable().batch_analyzer_success("w", total_items=3, batch_size=2).cursors == [
        {"start_cursor": 0, "end_cursor": 2},
        {"start_cursor": 2, "end_cursor": 3},
    ]
    assert Batchable().batch_analyzer_success("w", []).cursors == []


def test_decorators_say_what_they_need() -> None:
    with pytest.raises(TypeError, match="@batch_analyzer needs the handler's name"):
        batch_analyzer("")
    with pytest.raises(TypeError, match=r"worker_template=…\) is the name of a step, not 5"):
        batch_analyzer("a", worker_template=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="@batch_worker needs the handler's name"):
        batch_worker(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="@batch_worker goes on a function"):
        batch_worker("w")(ProcessOrders)
    with pytest.raises(TypeError, match="@batch_analyzer goes on a function"):
        batch_analyzer("w")(ProcessOrders)

    @step_handler("no_batch")
    def no_batch(batch_context: BatchContext) -> None: ...

    with pytest.raises(HandlerDefinitionError, match="nothing fills its parameter 'batch_context'"):
        invocation_of(no_batch)


# -- bringing batches together -----------------------------------------------------------------


def _results(count: int) -> dict[str, Any]:
    return {
        "analyze": {"batch_count": count},
        **{
            f"work_{number:03d}": {"items_processed": 10, "items_failed": 1, "batch": number}
            for number in range(count, 0, -1)
        },
        "work_summary": {"items_processed": 1_000},
        "workers_001": {"items_processed": 1_000},
    }


@pytest.mark.parametrize("prefix", ["work", "work_"])
def test_the_results_of_batches_come_in_their_order(prefix: str) -> None:
    results = _results(1_002)
    for source in (results, make_context(dependencies=results)):
        scenario = Batchable().detect_aggregation_scenario(source, "analyze", prefix)
        assert not scenario.is_no_batches
        assert (scenario.worker_count, scenario.missing_count) == (1_002, 0)
        assert [one["batch"] for one in scenario.batch_results.values()] == list(range(1, 1_003))
        assert scenario.analyzer_result == {"batch_count": 1_002}
    batches = make_context(dependencies=results).get_all_dependency_results("work_")
    assert [one["batch"] for one in batches if "batch" in one] == list(range(1, 1_003))


def test_a_template_whose_name_ends_in_an_underscore() -> None:
    scenario = AggregationScenario.detect({"w__001": {"items_processed": 1}}, "analyze", "w_")
    assert list(scenario.batch_results) == ["w__001"]


class Aggregate(StepHandler, Batchable):
    handler_name = "aggregate"

    def call(self, context: StepContext) -> StepHandlerResult:
        scenario = self.detect_aggregation_scenario(context, "analyze", "work")
        if scenario.is_no_batches:
            return self.no_batches_aggregation_result({"revenue": 0.0})
        return self.aggregate_batch_worker_results(
            scenario, aggregation_fn=lambda results: {"last": results[-1]["batch"]}
        )


def test_batches_are_summed() -> None:
    summed = run_handler(Aggregate, dependencies=_results(3))
    assert summed.result == {
        "items_processed": 30,
        "items_succeeded": 0,
        "items_failed": 3,
        "items_skipped": 0,
        "worker_count": 3,
        "last": 3,
    }
    # The context gives every result, so a worker fetches those that did not fit into the dispatch.
    assert invocation_of(Aggregate).reads is None
    odd = AggregationScenario.detect(
        {
            "w_001": {"items_weight": 1.5, "items_ok": True, "items_processed": 2},
            "w_002": [1],
            "w_003": {"items_weight": 2, "items_processed": "x"},
        },
        "analyze",
        "w",
    )
    assert odd.sums()["items_weight"] == 3.5
    assert (odd.sums()["items_processed"], odd.sums()["worker_count"]) == (2, 3)
    assert "items_ok" not in odd.sums()


@pytest.mark.parametrize(
    "results",
    [
        {"analyze": {"batch_count": 0, "reason": "empty"}, "work_001": _NOTHING_DONE},
        {"analyze": {"batch_count": 0}},
        {"analyze": "its own", "work_001": _NOTHING_DONE},
        {"work_001": _NOTHING_DONE},
    ],
)
def test_no_batches_are_brought_together(results: dict[str, Any]) -> None:
    scenario = AggregationScenario.detect(results, "analyze", "work")
    assert (scenario.is_no_batches, scenario.batch_results) == (True, {})
    assert scenario.analyzer_result == results.get("analyze")
    zero = {
        "items_processed": 0,
        "items_succeeded": 0,
        "items_failed": 0,
        "items_skipped": 0,
        "worker_count": 0,
        "no_batches": True,
        "revenue": 0.0,
    }
    assert run_handler(Aggregate, dependencies=results).result == zero
    assert Batchable().aggregate_batch_worker_results(scenario, {"revenue": 0.0}).result == zero


def test_batches_that_failed_are_missing() -> None:
    results = _results(3)
    del results["work_002"]
    scenario = AggregationScenario.detect(results, "analyze", "work")
    assert (scenario.worker_count, scenario.missing_count) == (2, 1)
    assert scenario.sums()["items_processed"] == 20


def test_steps_that_are_not_there() -> None:
    with pytest.raises(ConfigurationError) as error:
        AggregationScenario.detect({"b": 1, "a": 2}, "analyze", "work_")
    assert str(error.value) == (
        "neither 'analyze' nor a batch 'work_001' is among the steps with results: a, b"
    )
    with pytest.raises(ConfigurationError, match="steps with results: none"):
        AggregationScenario.detect(make_context(), "analyze", "work")


def test_an_aggregation_function_returns_an_object() -> None:
    scenario = AggregationScenario.detect(_results(1), "analyze", "work")
    with pytest.raises(ConfigurationError, match="what aggregation_fn returns: expected a dict, not 5"):
        Batchable().aggregate_batch_worker_results(scenario, None, lambda results: 5)  # type: ignore[arg-type, return-value]
