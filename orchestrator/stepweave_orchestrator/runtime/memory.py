"""How much memory this process has, and may have."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Final

#: Of a container's limit, and of a machine without one, this much may be used before creates are refused.
CONTAINER_SHARE: Final = 0.8
MACHINE_SHARE: Final = 0.5
#: Limits above it stand for "none" in old kernels.
_NO_LIMIT_BYTES: Final = 1 << 60
_CGROUP_FILES: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_STATM: Final = Path("/proc/self/statm")
#: What is linked into this process, its C library among it.
_LIBRARY: Final = ctypes.CDLL(None) if os.name == "posix" else None


def memory_bytes() -> int | None:
    """Resident memory of this process; `None` where the system does not tell (it is read from `/proc`)."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def give_back() -> None:
    """Collect garbage, and hand memory that is free back to the system, where the process's C library can (glibc).

    Requests that have ended lie in cycles until they are collected, and free pieces between used ones stay with the
    process otherwise: it looks as large as it has ever been. Takes some tens of milliseconds.
    """
    gc.collect()
    trim = getattr(_LIBRARY, "malloc_trim", None)
    if trim is not None:
        trim(0)


def container_bytes() -> int | None:
    """The memory limit of the container that this process is in; `None` without one."""
    for path in _CGROUP_FILES:
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):
            # Not there, or "max".
            continue
        if 0 < limit < _NO_LIMIT_BYTES:
            return limit
    return None


def machine_bytes() -> int | None:
    """The memory of the machine; `None` where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def memory_bytes_max(container: int | None, machine: int | None) -> int | None:
    """The bound where none is set: most of the container's limit, half of a machine's memory."""
    if container is not None and (machine is None or container <= machine):
        return int(container * CONTAINER_SHARE)
    return None if machine is None else int(machine * MACHINE_SHARE)
