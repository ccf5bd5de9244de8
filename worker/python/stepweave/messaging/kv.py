"""Single values by key in a JetStream bucket, with revisions; no watches."""

from __future__ import annotations

import base64
from typing import Any, Final, NamedTuple

import msgspec

from .connection import Connection
from .errors import MessagingError, NoResponders

_TIMEOUT_SECONDS: Final = 5.0
#: JetStream's own numbers: no such message; no such stream; wrong last sequence of the subject.
_NO_MESSAGE: Final = 10037
_NO_STREAM: Final = 10059
_WRONG_SEQUENCE: Final = frozenset({10071, 10164})


class WrongRevision(MessagingError):
    """Somebody else has written the key since it was read."""


class Entry(NamedTuple):
    """A value and the revision that wrote it."""

    value: bytes
    revision: int


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Stored(msgspec.Struct):
    seq: int
    data: str = ""
    hdrs: str = ""


class _State(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _Answer(msgspec.Struct):
    error: _Error | None = None
    seq: int = 0
    message: _Stored | None = None
    state: _State | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class KeyValue:
    """A bucket. Keys are tokens of `[A-Za-z0-9_=-]` joined by dots.

    Methods raise `MessagingError` where JetStream does not answer or refuses.
    """

    def __init__(self, connection: Connection, bucket: str) -> None:
        self.bucket = bucket
        self._connection = connection
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."

    async def ensure(self, *, size_bytes_max: int) -> None:
        """Make the bucket where it is missing; one that exists stays as it is."""
        info = await self._ask(f"$JS.API.STREAM.INFO.{self._stream}", None, accept=(_NO_STREAM,))
        if info.error is None:
            return
        # The configuration that other clients know as a bucket.
        await self._ask(
            f"$JS.API.STREAM.CREATE.{self._stream}",
            {
                "name": self._stream,
                "subjects": [f"{self._prefix}>"],
                "max_msgs_per_subject": 1,
                "max_bytes": size_bytes_max,
                "discard": "new",
                "allow_rollup_hdrs": True,
                "deny_delete": True,
                "allow_direct": True,
            },
        )

    async def get(self, key: str) -> Entry | None:
        """The value of a key; None where there is none."""
        answer = await self._ask(
            f"$JS.API.STREAM.MSG.GET.{self._stream}",
            {"last_by_subj": self._prefix + key},
            accept=(_NO_MESSAGE, _NO_STREAM),
        )
        if answer.message is None or b"KV-Operation" in base64.b64decode(answer.message.hdrs):
            return None
        return Entry(base64.b64decode(answer.message.data), answer.message.seq)

    async def put(self, key: str, value: bytes, *, expected_revision: int | None = None) -> int:
        """Write a key and return its new revision.

        With `expected_revision` (0: it must not exist) raises `WrongRevision` where another one stands there.
        """
        headers = None
        if expected_revision is not None:
            headers = {"Nats-Expected-Last-Subject-Sequence": str(expected_revision)}
        message = await self._connection.request(
            self._prefix + key, value, headers=headers, timeout_seconds=_TIMEOUT_SECONDS
        )
        answer = _decode(message.data)
        if answer.error is not None:
            if answer.error.err_code in _WRONG_SEQUENCE:
                raise WrongRevision(f"{self.bucket}/{key} was written by somebody else")
            raise MessagingError(f"writing {self.bucket}/{key}: {answer.error.description}")
        return answer.seq

    async def delete(self, key: str) -> None:
        """Forget a key; one that does not exist is fine."""
        await self._ask(
            f"$JS.API.STREAM.PURGE.{self._stream}", {"filter": self._prefix + key}, accept=(_NO_STREAM,)
        )

    async def keys(self, prefix: str) -> list[str]:
        """The keys under `prefix.`, sorted."""
        answer = await self._ask(
            f"$JS.API.STREAM.INFO.{self._stream}",
            {"subjects_filter": f"{self._prefix}{prefix}.>"},
            accept=(_NO_STREAM,),
        )
        found = (answer.state.subjects if answer.state is not None else None) or {}
        return sorted(subject.removeprefix(self._prefix) for subject in found)

    async def _ask(self, subject: str, body: Any, *, accept: tuple[int, ...] = ()) -> _Answer:
        payload = b"" if body is None else msgspec.json.encode(body)
        try:
            message = await self._connection.request(subject, payload, timeout_seconds=_TIMEOUT_SECONDS)
        except NoResponders:
            raise MessagingError("JetStream is not available on this server") from None
        answer = _decode(message.data)
        if answer.error is not None and answer.error.err_code not in accept:
            raise MessagingError(f"{self.bucket}: {answer.error.description} ({answer.error.err_code})")
        return answer
