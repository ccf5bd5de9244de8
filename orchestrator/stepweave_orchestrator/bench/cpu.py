"""CPU time of processes and everything that they started."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import psutil

#: Processes (by their ids) in groups that are reported together, such as all workers.
ProcessGroups = Mapping[str, Sequence[int]]


def cpu_seconds(groups: ProcessGroups) -> dict[str, float]:
    """CPU time (user and system) that each group has used so far.

    A process counts with all its descendants, those that ended too; but this process counts alone, because the
    others are its children. One that is gone counts nothing, so compare two moments between which they stayed.
    """
    return {name: sum(_tree_seconds(pids)) for name, pids in groups.items()}


def used_between(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What each group used between two calls of `cpu_seconds`."""
    return {name: seconds - before[name] for name, seconds in after.items()}


def _tree_seconds(pids: Iterable[int]) -> Iterable[float]:
    for pid in pids:
        if pid == os.getpid():
            yield time.process_time()
            continue
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    yield times.user + times.system + times.children_user + times.children_system
