"""A task's state as bytes and back; disposable, for streams that are long to replay."""

from __future__ import annotations

import msgspec

from .plan import Plan
from .state import TaskState

#: Raised whenever the shape of the state changes; snapshots of another format are not read.
SNAPSHOT_FORMAT = 4

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(TaskState)


def encode_snapshot(state: TaskState) -> bytes:
    """The state without its plan, which the first event names."""
    return _encoder.encode(msgspec.structs.replace(state, plan=None, events_since_snapshot=0))


def decode_snapshot(payload: bytes, plan: Plan) -> TaskState:
    """The state that `encode_snapshot` wrote; raises `msgspec.DecodeError` where it is none."""
    state = _decoder.decode(payload)
    state.plan = plan
    return state
