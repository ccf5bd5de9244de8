"""Progress that a handler saves."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from stepweave import Batchable, ConfigurationError, StepContext, StepHandler, StepHandlerResult, step_handler
from stepweave.encoding import NotJson
from stepweave.testing import make_context, make_dispatch, run_handler
from stepweave.worker.execution import outcome_of
from stepweave_schemas.codec import decode_outcomes, encode
from stepweave_schemas.dispatch import RESULT_BYTES_MAX
from stepweave_schemas.result import Checkpointed, Failure


@step_handler("import_rows")
def import_rows(context: StepContext) -> Any:
    """Three rows a try."""
    rows: list[int] = context.get_input("rows")
    at: int = context.checkpoint_cursor or 0
    total: int = (context.accumulated_results or {"total": 0})["total"]
    for row in rows[at : at + 3]:
        total += row
    done = min(at + 3, len(rows))
    if done < len(rows):
        return context.checkpoint_yield(done, done, {"total": total})
    return {"total": total, "rows": done}


def test_a_handler_goes_on_from_what_it_saved() -> None:
    rows = {"rows": [1, 2, 3, 4, 5, 6, 7]}
    first = run_handler(import_rows, rows)
    assert (first.is_checkpoint, first.is_success) == (True, True)
    assert (first.checkpoint_cursor, first.checkpoint_items_processed) == (3, 3)
    assert first.accumulated_results == {"total": 6}
    second = run_handler(import_rows, rows, checkpoint=first)
    assert (second.checkpoint_cursor, second.accumulated_results) == (6, {"total": 21})
    last = run_handler(import_rows, rows, checkpoint=second)
    assert not last.is_checkpoint
    assert last.result == {"total": 28, "rows": 7}


def test_the_context_without_and_with_a_checkpoint() -> None:
    new = make_context()
    assert not new.has_checkpoint()
    assert (new.checkpoint_cursor, new.checkpoint_items_processed, new.accumulated_results) == (None, 0, None)
    assert (new.step_inputs, new.compensates) == ({}, "")
    saved = make_context(checkpoint={"cursor": None, "items_processed": 4})
    assert saved.has_checkpoint()
    assert (saved.checkpoint_cursor, saved.checkpoint_items_processed) == (None, 4)
    assert saved.accumulated_results is None
    lists = make_context(checkpoint={"cursor": {"page": 2}, "accumulated_results": [1]})
    lists.accumulated_results.append(2)
    assert lists.accumulated_results == [1, 2]
    assert lists.checkpoint_cursor == {"page": 2}
    assert lists.checkpoint_cursor is lists.checkpoint_cursor


def test_inputs_of_a_step_and_what_it_undoes() -> None:
    context = make_context(step_inputs={"cursor": 5}, compensates="charge_card")
    assert (context.step_inputs, context.compensates) == ({"cursor": 5}, "charge_card")


def test_all_ways_to_say_it_are_one() -> None:
    class Importer(StepHandler, Batchable):
        handler_name = "importer"

        def call(self, context: StepContext) -> StepHandlerResult:
            return self.checkpoint_yield("token", 10, [1])

    said = StepHandlerResult.checkpoint("token", 10, [1])
    assert run_handler(Importer) == said
    assert make_context().checkpoint_yield("token", 10, [1]) == said


def test_a_checkpoint_on_the_wire() -> None:
    outcome = outcome_of(
        make_dispatch(attempt=2), StepHandlerResult.checkpoint({"page": 3}, 30), worker_id="w", duration_ms=5
    )
    (read,) = decode_outcomes(encode(outcome))
    assert isinstance(read, Checkpointed)
    assert (read.attempt, read.items_processed) == (2, 30)
    assert msgspec.json.decode(read.cursor) == {"page": 3}
    assert msgspec.json.decode(read.accumulated_results) is None


@pytest.mark.parametrize("items", [-1, 1.5, True, "3", None, 2**63])
def test_items_are_counted_from_zero(items: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"items_processed: expected a whole number from 0 on, not "):
        StepHandlerResult.checkpoint(1, items)

    def handler(context: StepContext) -> StepHandlerResult:
        return context.checkpoint_yield(1, items)

    failure = run_handler(handler)
    assert (failure.error_code, failure.retryable) == ("COUNT_INVALID", False)
    assert failure.error_type == "permanent_error"


@pytest.mark.parametrize(
    ("saved", "where"),
    [
        (StepHandlerResult.checkpoint({"at": object()}, 1), "cursor.at"),
        (StepHandlerResult.checkpoint(math.nan, 1), "cursor"),
        (StepHandlerResult.checkpoint(1, 1, {"a": [1, math.inf]}), "accumulated_results.a[1]"),
        (StepHandlerResult.checkpoint("\ud800", 1), "cursor"),
    ],
)
def test_what_json_cannot_carry_is_a_permanent_failure(saved: StepHandlerResult, where: str) -> None:
    outcome = outcome_of(make_dispatch(), saved, worker_id="w")
    assert isinstance(outcome, Failure)
    assert (outcome.error_code, outcome.error_type) == ("CHECKPOINT_NOT_SERIALIZABLE", "permanent_error")
    assert not outcome.retryable
    assert outcome.error_message.startswith(f"the checkpoint is not JSON: {where}: ")
    assert msgspec.json.decode(outcome.metadata) == {"path": where}


def test_a_checkpoint_is_bounded() -> None:
    half = "x" * (RESULT_BYTES_MAX // 2 - 2)
    fits = outcome_of(make_dispatch(), StepHandlerResult.checkpoint(half, 1, half), worker_id="w")
    assert isinstance(fits, Checkpointed)
    large = outcome_of(make_dispatch(), StepHandlerResult.checkpoint(half, 1, half + "x"), worker_id="w")
    assert isinstance(large, Failure)
    assert (large.error_code, large.retryable) == ("CHECKPOINT_TOO_LARGE", False)
    assert large.error_message == (
        f"the checkpoint's cursor and accumulated_results have {RESULT_BYTES_MAX + 1} bytes as JSON, the limit is"
        f" {RESULT_BYTES_MAX}: store them elsewhere and save a reference"
    )
    assert msgspec.json.decode(large.metadata) == {
        "size_bytes": RESULT_BYTES_MAX + 1,
        "size_bytes_max": RESULT_BYTES_MAX,
    }


def test_wrong_arguments_of_a_test_itself() -> None:
    with pytest.raises(ValueError, match="given as the checkpoint is none"):
        make_context(checkpoint=StepHandlerResult.success({}))
    with pytest.raises(TypeError, match="position"):
        make_context(checkpoint={"position": 3})
    with pytest.raises(ConfigurationError, match="items_processed"):
        make_context(checkpoint={"cursor": 1, "items_processed": -1})
    with pytest.raises(NotJson, match=r"checkpoint\.cursor"):
        make_context(checkpoint={"cursor": object()})
    with pytest.raises(NotJson, match=r"step_inputs\.cursor"):
        make_context(step_inputs={"cursor": object()})
