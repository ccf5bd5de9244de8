"""How full the disk is that the servers write to, where this process can see it."""

from __future__ import annotations

import shutil
from typing import Final

from .admission import Bound

#: So much is kept free: what accepted tasks still write goes there, and the log that PostgreSQL needs to start.
RESERVE_BYTES: Final = 512 * 1024 * 1024
#: Of a small disk, one part in so many.
RESERVE_PART: Final = 5
#: A feed may take one part in so many of what is free when the servers are started.
FEED_PART: Final = 4
FEED_BYTES_MIN: Final = 16 * 1024 * 1024


def disk_bytes(path: str) -> int | None:
    """What is not free on the disk of a folder; `None` where it cannot be looked at."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return usage.total - usage.free


def disk_bound(path: str, free_bytes_min: int | None) -> Bound | None:
    """When creates are refused for a full disk, and taken again; `None` where it cannot be looked at."""
    try:
        total = shutil.disk_usage(path).total
    except OSError:
        return None
    reserve = min(RESERVE_BYTES, total // RESERVE_PART) if free_bytes_min is None else free_bytes_min
    limit = max(total - reserve, 0)
    return Bound(limit, max(limit - reserve // 4, 0))


def feed_bytes(free_bytes: int, bytes_max: int) -> int:
    """How large each feed may be on a disk with so much free: halves of `bytes_max`, so that it changes seldom.

    JetStream sets the room of both aside when it makes them, and refuses where it does not have that.
    """
    while bytes_max > FEED_BYTES_MIN and bytes_max * FEED_PART > free_bytes:
        bytes_max //= 2
    return bytes_max
