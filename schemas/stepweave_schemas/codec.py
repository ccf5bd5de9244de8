"""Values to bytes and back, without a socket: one encoder, one decoder per kind of message."""

from __future__ import annotations

from typing import Any

import msgspec

from .dispatch import Dispatch
from .events import AnyEvent
from .result import AnyOutcome

_encoder = msgspec.json.Encoder()
_event_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_dispatch_decoder = msgspec.json.Decoder(Dispatch)
_outcome_decoder: msgspec.json.Decoder[AnyOutcome] = msgspec.json.Decoder(AnyOutcome)
_outcomes_decoder: msgspec.json.Decoder[list[AnyOutcome]] = msgspec.json.Decoder(list[AnyOutcome])

encode = _encoder.encode


class MessageError(ValueError):
    """A message is not what its subject promises; the text says what is wrong and where."""


def decode_event(data: bytes | str) -> AnyEvent:
    """Read an event's payload; raises `MessageError` for an unknown type or a bad field."""
    try:
        return _event_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"not an event: {error}") from error


def decode_dispatch(payload: bytes) -> Dispatch:
    """Read a dispatch; raises `MessageError`."""
    try:
        return _dispatch_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"not a dispatch: {error}") from error


def decode_outcomes(payload: bytes) -> list[AnyOutcome]:
    """Read a worker's message: one outcome or an array; raises `MessageError`."""
    try:
        if payload[:1] == b"[":
            return _outcomes_decoder.decode(payload)
        return [_outcome_decoder.decode(payload)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"not a result: {error}") from error


def json_text(raw: msgspec.Raw) -> str:
    """The text of a raw JSON value that came from outside; raises `MessageError` unless it is sound.

    A raw field is skipped over, not read, when its message is decoded: its text may still be broken UTF-8 or
    nested too deeply for a database. Both are refused here, before anything is stored.
    """
    try:
        text = bytes(raw).decode()
        if len(text) > 512 and (text.count("[") > 500 or text.count("{") > 500):
            msgspec.json.decode(text)
    except (UnicodeDecodeError, RecursionError, msgspec.MsgspecError) as error:
        raise MessageError(f"not sound JSON: {error}") from error
    return text


def to_builtins(value: Any) -> Any:
    """Structs and raw JSON as plain dicts, lists and scalars."""
    return msgspec.json.decode(_encoder.encode(value))
