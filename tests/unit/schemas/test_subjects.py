from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stepweave_schemas import subjects

NAMES = st.text(min_size=1, max_size=60).filter(
    lambda name: not any("\ud800" <= sign <= "\udfff" for sign in name) and len(name.encode()) <= 255
)
TASK_ID = "0198c0de-0000-7000-8000-000000000001"


@given(NAMES)
@example("_x2e")
@example("__x_x")
@example("a.b c*>é")
def test_any_name_becomes_a_token_and_comes_back(name: str) -> None:
    token = subjects.token(name)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert subjects.untoken(token) == name


@given(NAMES, NAMES)
def test_two_names_never_share_a_token(one: str, other: str) -> None:
    assert (subjects.token(one) == subjects.token(other)) is (one == other)


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128])
def test_a_name_has_1_to_255_bytes(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        subjects.token(name)


@given(NAMES, st.integers(0, 1023))
def test_a_result_subject_is_read_as_it_was_built(namespace: str, shard: int) -> None:
    address = subjects.parse_result(subjects.result(namespace, shard, TASK_ID))
    assert address == (namespace, shard, TASK_ID)


@given(NAMES, NAMES)
def test_an_event_subject_is_read_as_it_was_built(namespace: str, template: str) -> None:
    address = subjects.parse_event(subjects.event(namespace, template, TASK_ID, "step.retry_scheduled"))
    assert address == (namespace, template, TASK_ID, "step.retry_scheduled")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "sw.res",
        "sw.res.default.3",
        "sw.res.default.three.task",
        "sw.res.default.3.task.more",
        "sw.res.a b.3.task",
        "sw.res._xff.3.task",
        "sw.cmd.default.3.task",
        "sw.res.default.3.task\n",
    ],
)
def test_what_is_no_result_subject_is_none(subject: str) -> None:
    assert subjects.parse_result(subject) is None


@pytest.mark.parametrize(
    "subject", ["", "sw.evt.a.b.c.step", "sw.evt.a.b.c.Step.failed", "sw.evt.a.b.c.step.failed.more"]
)
def test_what_is_no_event_subject_is_none(subject: str) -> None:
    assert subjects.parse_event(subject) is None


@pytest.mark.parametrize(
    ("priority", "expected"), [(-100, "low"), (-1, "low"), (0, "normal"), (1, "high"), (100, "high")]
)
def test_the_class_follows_from_the_sign_of_the_priority(priority: int, expected: str) -> None:
    assert subjects.priority_class(priority) == expected


def test_the_streams_hold_the_subjects_that_are_published_to() -> None:
    def held(pattern: str, subject: str) -> bool:
        shape = re.escape(pattern).replace(r"\*", "[^.]+").replace(">", ".+")
        return re.fullmatch(shape, subject) is not None

    result = subjects.result("billing", 3, TASK_ID)
    assert any(held(pattern, result) for pattern in subjects.CMD_STREAM_SUBJECTS)
    assert any(held(pattern, result) for pattern in subjects.command_filters(3))
    assert not any(held(pattern, result) for pattern in subjects.command_filters(4))
    assert any(held(pattern, subjects.command(3, TASK_ID)) for pattern in subjects.command_filters(3))
    question = subjects.question(3, TASK_ID)
    assert any(held(pattern, question) for pattern in subjects.CMD_STREAM_SUBJECTS)
    assert held(subjects.question_filter(3), question)
    # Each message of a work queue has one reader.
    assert not any(held(pattern, question) for pattern in subjects.command_filters(3))
    assert not held(subjects.question_filter(3), subjects.command(3, TASK_ID))
    assert any(held(pattern, subjects.log(3)) for pattern in subjects.LOG_STREAM_SUBJECTS)
    event = subjects.event("billing", "invoice", TASK_ID, "task.created")
    assert any(held(pattern, event) for pattern in subjects.EVT_STREAM_SUBJECTS)
    order = subjects.dispatch("bill.ing", "default", "normal", "token")
    assert held(subjects.dispatch_stream_subjects("bill.ing"), order)
    assert held(subjects.dispatches("bill.ing", "default", "normal"), order)
    assert not held(subjects.dispatches("bill.ing", "default", "low"), order)
    assert held(subjects.withdrawn("bill.ing", "token"), order)
    assert not held(subjects.withdrawn("bill.ing", "other"), order)
    assert not held(subjects.dispatch_stream_subjects("bill"), order)
