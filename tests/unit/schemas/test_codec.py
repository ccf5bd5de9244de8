from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepweave_schemas import codec, result
from stepweave_schemas.codec import MessageError
from stepweave_schemas.envelope import (
    decode_envelope,
    decode_envelopes,
    envelope_bytes,
    parse_timestamp,
    timestamp,
)
from stepweave_schemas.events import EVENT_TYPES

Samples = dict[str, list[Any]]

BROKEN = [b"", b"{", b"null", b"1", b'"text"', b"{}", b'{"kind":"nothing"}', b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_events_come_back_as_they_were(name: str, samples: Samples) -> None:
    for sample in samples[f"event.{name}"]:
        event = codec.decode_event(msgspec.json.encode(sample))
        assert type(event) is EVENT_TYPES[name]
        assert name == event.TYPE
        assert codec.to_builtins(event) == sample


def test_dispatches_and_outcomes_come_back_as_they_were(samples: Samples) -> None:
    for sample in samples["dispatch"]:
        assert codec.to_builtins(codec.decode_dispatch(msgspec.json.encode(sample))) == sample
    for sample in samples["outcome"]:
        (alone,) = codec.decode_outcomes(msgspec.json.encode(sample))
        assert codec.to_builtins(alone) == sample
        assert sample["kind"] == alone.KIND
    together = codec.decode_outcomes(msgspec.json.encode(samples["outcome"]))
    assert codec.to_builtins(together) == samples["outcome"]


def test_fields_that_came_later_are_ignored(samples: Samples) -> None:
    for name, decode in (("dispatch", codec.decode_dispatch), ("outcome", codec.decode_outcomes)):
        sample = samples[name][0]
        newer = msgspec.json.encode({**sample, "added_later": {"deep": [1]}})
        assert decode(newer) == decode(msgspec.json.encode(sample))


@pytest.mark.parametrize("payload", BROKEN)
def test_what_is_broken_is_refused_with_a_reason(payload: bytes) -> None:
    for decode in (codec.decode_event, codec.decode_dispatch, codec.decode_outcomes):
        with pytest.raises(MessageError, match=r"^not a"):
            decode(payload)


@given(st.binary(max_size=200))
def test_noise_is_read_or_refused_and_nothing_else(payload: bytes) -> None:
    for decode in (codec.decode_event, codec.decode_dispatch, codec.decode_outcomes):
        try:
            decode(payload)
        except MessageError:
            continue
        assert payload.strip() == b"[]" and decode is codec.decode_outcomes


def test_a_wrong_type_is_refused_with_its_place(samples: Samples) -> None:
    wrong = msgspec.json.encode({**samples["outcome"][0], "attempt": "one"})
    with pytest.raises(MessageError, match=r"\$\.attempt"):
        codec.decode_outcomes(wrong)


def test_raw_json_that_no_database_takes_is_refused() -> None:
    assert codec.json_text(msgspec.Raw('{"é": [1]}'.encode())) == '{"é": [1]}'
    for broken in (b'"\xff"', b"[" * 50_000 + b"]" * 50_000):
        with pytest.raises(MessageError, match="not sound JSON"):
            codec.json_text(msgspec.Raw(broken))


def test_the_default_of_a_failure_may_be_retried(samples: Samples) -> None:
    least = next(sample for sample in samples["outcome"] if sample["kind"] == "failure")
    (failure,) = codec.decode_outcomes(msgspec.json.encode(least))
    assert isinstance(failure, result.Failure)
    assert failure.retryable
    assert failure.error_type == "handler_error"
    assert set(result.ERROR_TYPES) >= {failure.error_type}


_FIELDS: dict[str, Any] = {
    "shard": 3,
    "position": 7,
    "task_id": "0198c0de-0000-7000-8000-000000000001",
    "version": 2,
    "type": "task.created",
    "schema_version": 1,
    "correlation_id": "correlation",
    "causation_id": "causation",
    "actor": "someone",
}


def test_the_bytes_of_an_envelope_are_the_same_for_ever() -> None:
    """Hashes cover them."""
    payload = envelope_bytes(**_FIELDS, recorded_at_ms=1_769_860_800_123, data=b'{ "b":1,"a":[ ]}')
    assert payload == (
        b'{"shard":3,"position":7,"task_id":"0198c0de-0000-7000-8000-000000000001","version":2,'
        b'"type":"task.created","schema_version":1,"recorded_at":"2026-01-31T12:00:00.123Z",'
        b'"correlation_id":"correlation","causation_id":"causation","actor":"someone","data":{ "b":1,"a":[ ]}}'
    )
    envelope = decode_envelope(payload)
    assert bytes(envelope.data) == b'{ "b":1,"a":[ ]}'
    assert decode_envelopes(b"[" + payload + b"," + payload + b"]") == [envelope, envelope]


@given(st.integers(0, 253_402_300_799_999))
def test_times_come_back_to_the_millisecond(at_ms: int) -> None:
    text = timestamp(at_ms)
    assert len(text) == 24 and text.endswith("Z")
    assert parse_timestamp(text) == at_ms


def test_two_times_in_a_row_are_both_right() -> None:
    for at_ms, text in ((0, "1970-01-01T00:00:00.000Z"), (1, "1970-01-01T00:00:00.001Z")):
        payload = envelope_bytes(**_FIELDS, recorded_at_ms=at_ms, data=b"{}")
        assert decode_envelope(payload).recorded_at == text


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-31", "2026-01-31T12:00:00", "12:00Z"])
def test_a_time_without_a_zone_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_timestamp(text)
