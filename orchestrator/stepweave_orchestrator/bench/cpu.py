"""CPU time of processes and everything that they started."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psutil


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time (user and system) used so far by these processes and all their descendants, those that ended too.

    A process that is gone counts nothing, so ask about processes that stay: take the difference of two calls.
    """
    total = 0.0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    total += times.user + times.system + times.children_user + times.children_system
    return total
