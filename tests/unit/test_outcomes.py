"""What the orchestrator makes of outcomes whose parts are out of bounds: kept as far as possible, and said."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave_orchestrator.runtime.outcomes import read_outcomes
from stepweave_schemas import result
from stepweave_schemas.subjects import ResultAddress

TASK_ID = "0198c0de-0000-7000-8000-000000000001"
ADDRESS = ResultAddress("default", 0, TASK_ID)
TRY: dict[str, Any] = {
    "task_id": TASK_ID,
    "step_uuid": "37d5f4c5-1a58-8e49-b6e3-0c8cfb87ff7e",
    "step_name": "a",
    "attempt": 1,
    "lease_token": "t",
    "worker_id": "w",
}


def read(**fields: Any) -> result.AnyOutcome:
    [outcome] = read_outcomes(msgspec.json.encode({**TRY, **fields}), ADDRESS)
    return outcome


def failure(**fields: Any) -> result.Failure:
    outcome = read(**fields)
    assert isinstance(outcome, result.Failure)
    return outcome


def test_compensations_within_bounds_are_kept() -> None:
    names = [f"undo_{number}" for number in range(result.COMPENSATION_STEPS_MAX)]
    kept = failure(kind="failure", error_message="no", compensation_steps=[*names, "undo_0"])
    assert (kept.compensation_steps, kept.error_message) == (tuple(names), "no")


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        ([f"undo_{number}" for number in range(result.COMPENSATION_STEPS_MAX + 50)], 50),
        ([f"{number:0>500}" for number in range(200)], 200 - result.COMPENSATION_STEPS_BYTES_MAX // 500),
        (["good", "", "x" * 513, "nul\x00"], 3),
    ],
    ids=["too many", "too long together", "no names"],
)
def test_what_is_left_out_is_said(names: list[str], left_out: int) -> None:
    cut = failure(kind="failure", error_message="no", compensation_steps=names)
    assert len(cut.compensation_steps) == len(names) - left_out
    assert cut.error_message.startswith(f"no ({left_out} of the names in compensation_steps")
    long = failure(kind="failure", error_message="y" * 10_000, compensation_steps=names)
    assert len(long.error_message) == result.ERROR_MESSAGE_CHARS_MAX
    assert "are left out)" in long.error_message


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"kind": "decision", "create_steps": ["x" * 513]}, "DECISION_INVALID"),
        ({"kind": "decision", "create_steps": ["a"] * (result.NAMES_MAX + 1)}, "DECISION_INVALID"),
        ({"kind": "decision", "result": "z" * 262_145}, "RESULT_TOO_LARGE"),
        ({"kind": "batches", "cursors": ["z" * result.CURSOR_BYTES_MAX]}, "CURSORS_TOO_LARGE"),
        ({"kind": "batches", "cursors": ["z" * 60_000] * 12}, "CURSORS_TOO_LARGE"),
        ({"kind": "batches", "worker_template": "\x00"}, "BATCHES_INVALID"),
        ({"kind": "checkpoint", "items_processed": -1}, "CHECKPOINT_INVALID"),
        ({"kind": "checkpoint", "cursor": "z" * 262_145}, "CHECKPOINT_TOO_LARGE"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value)[:40],
)
def test_what_cannot_be_kept_is_a_failure_for_good(fields: dict[str, Any], code: str) -> None:
    refused = failure(**fields)
    assert (refused.error_code, refused.retryable) == (code, False)


def test_what_is_sound_is_kept_as_it_is() -> None:
    assert read(kind="decision", create_steps=["b"], result={"route": 1}, reason="") == result.Decided(
        **TRY, create_steps=("b",), result=msgspec.Raw(b'{"route":1}')
    )
    assert isinstance(read(kind="batches", cursors=[1, "a", None, {"b": []}]), result.Batches)
    assert isinstance(read(kind="checkpoint", cursor=5, items_processed=3), result.Checkpointed)
