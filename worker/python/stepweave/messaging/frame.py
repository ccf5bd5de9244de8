"""The bytes of one publish, built once: for the size check, for the socket and for sending again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_LINE: Final = b"NATS/1.0\r\n"
_END: Final = b"\r\n"


def header_block(headers: Mapping[str, str] | None) -> bytes:
    """The header block of a message; empty without headers.

    Raises `ValueError` for a name or value that would break the block.
    """
    if not headers:
        return b""
    lines = [_LINE]
    for name, value in headers.items():
        if not name or not name.isprintable() or ":" in name or " " in name or "\r" in value or "\n" in value:
            raise ValueError(f"not a header that NATS carries: {name!r}: {value!r}")
        lines.append(f"{name}: {value}\r\n".encode())
    lines.append(_END)
    return b"".join(lines)


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
