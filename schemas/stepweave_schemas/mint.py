"""Fresh ids: the only place of the schemas that reads a clock or draws random numbers."""

from __future__ import annotations

import os
import time


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def uuid7() -> str:
    """A UUIDv7 (RFC 9562): ordered by time, unguessable in its other 74 bits."""
    stamp = now_ms() & 0xFFFF_FFFF_FFFF
    random = bytearray(os.urandom(10))
    random[0] = (random[0] & 0x0F) | 0x70
    random[2] = (random[2] & 0x3F) | 0x80
    hexed = f"{stamp:012x}{random.hex()}"
    return f"{hexed[:8]}-{hexed[8:12]}-{hexed[12:16]}-{hexed[16:20]}-{hexed[20:]}"


def entropy() -> str:
    """96 random bits as text, from which a command's lease tokens are made."""
    return os.urandom(12).hex()
