"""The bytes of one publish, built once: for the size check, for the socket and for sending again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

_LINE: Final = "NATS/1.0\r\n"
#: How many combinations of names are remembered as sound.
_NAMES_KNOWN_MAX: Final = 256


def header_block(headers: Mapping[str, str] | None) -> bytes:
    """The header block of a message; empty without headers.

    Raises `ValueError` for a name or value that would break the block.
    """
    if not headers:
        return b""
    _check_names(tuple(headers))
    text = "".join([_LINE, *[f"{name}: {value}\r\n" for name, value in headers.items()], "\r\n"])
    # Every line ends once. One that ends in the middle of a value would begin another header.
    ends = len(headers) + 2
    if text.count("\r") != ends or text.count("\n") != ends:
        raise ValueError(
            f"not headers that NATS carries, for the end of a line in a value: {dict(headers)!r}"
        )
    return text.encode()


# The names are those of a few kinds of messages, the values are new each time.
@lru_cache(maxsize=_NAMES_KNOWN_MAX)
def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if not name or not name.isprintable() or ":" in name or " " in name:
            raise ValueError(f"not the name of a header that NATS carries: {name!r}")


def publish_frame(subject: str, reply: str, payload: bytes, headers: bytes) -> bytes:
    """The protocol's `PUB` or `HPUB` command; `headers` is a `header_block`.

    Raises `ValueError` for a subject that would break the protocol.
    """
    if not subject.isprintable() or " " in subject or not subject:
        raise ValueError(f"not a subject: {subject!r}")
    if headers:
        total = len(headers) + len(payload)
        return b"%b%b%b\r\n" % (
            f"HPUB {subject} {reply} {len(headers)} {total}\r\n".encode(),
            headers,
            payload,
        )
    return b"%b%b\r\n" % (f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload)
