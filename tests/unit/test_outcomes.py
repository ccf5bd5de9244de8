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


def event(name: str = "order.paid", **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}


def events_of(**fields: Any) -> tuple[result.DomainEvent, ...]:
    outcome = read(**fields)
    assert isinstance(outcome, result.Success), outcome
    return outcome.domain_events


def test_domain_events_within_bounds_are_kept() -> None:
    said = [event(payload={"a": [1, None]}), event("order.counted")]
    kept = events_of(kind="success", domain_events=said)
    assert [(one.name, bytes(one.payload), one.problem) for one in kept] == [
        ("order.paid", b'{"a":[1,null]}', ""),
        ("order.counted", b"null", ""),
    ]


def test_a_domain_event_never_spoils_its_outcome() -> None:
    events = (
        '{"name":"half","payload":"\\ud800"},{"name":"range","payload":1e999},{"name":"good","payload":1}'
    )
    about = msgspec.json.encode(TRY).decode()[1:-1]
    text = f'{{"kind":"success","domain_events":[{events}],{about}}}'
    [outcome] = read_outcomes(text.encode(), ADDRESS)
    assert isinstance(outcome, result.Success)
    assert [(one.name, bool(one.problem)) for one in outcome.domain_events] == [
        ("half", True),
        ("range", True),
        ("good", False),
    ]
    names = events_of(kind="success", domain_events=[event("a\x00b"), event("n" * 1_000)])
    assert [one.name for one in names] == ["a\ufffdb", "n" * 255]


def test_too_many_domain_events_are_cut_and_that_is_said() -> None:
    most = result.DOMAIN_EVENTS_MAX
    kept = events_of(kind="success", domain_events=[event(payload=n) for n in range(most + 7)])
    assert len(kept) == most + 1
    assert not any(one.problem for one in kept[:-1])
    assert "7 are left out" in kept[-1].problem
    large = events_of(kind="success", domain_events=[event(payload="x" * 60_000)] * 6)
    assert [bool(one.problem) for one in large] == [False] * 4 + [True] * 2


def test_failures_and_checkpoints_carry_domain_events_too() -> None:
    kept = failure(kind="failure", error_message="no", domain_events=[event()])
    assert [one.name for one in kept.domain_events] == ["order.paid"]
    saved = read(kind="checkpoint", cursor=1, items_processed=1, domain_events=[event()])
    assert isinstance(saved, result.Checkpointed)
    assert [one.name for one in saved.domain_events] == ["order.paid"]
