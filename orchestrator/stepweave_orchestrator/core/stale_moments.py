"""When a task will be stale: the moments of its `lifecycle`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .state import TaskState

DURATION: Final = "max_duration_seconds"
#: The threshold of each status that has one.
THRESHOLDS: Final = {
    "steps_in_process": "max_steps_in_process_seconds",
    "waiting_for_dependencies": "max_waiting_for_dependencies_seconds",
    "waiting_for_retry": "max_waiting_for_retry_seconds",
}
#: The time does not run for a task that has not begun; while it is paused nothing is raised.
UNWATCHED: Final = frozenset({"pending", "paused"})


def stale_at_ms(state: TaskState) -> int | None:
    """The earliest moment at which the task becomes stale, if there is one."""
    moments = [since_ms + limit_ms for _, since_ms, limit_ms in stale_moments(state)]
    return min(moments) if moments else None


def stale_moments(state: TaskState) -> list[tuple[str, int, int]]:
    """The thresholds that are not raised yet: name, since when its time runs, how long it is (ms); the whole task's
    first."""
    watch = state.watch
    lifecycle = state.the_plan.lifecycle
    if watch is None or lifecycle is None or state.is_terminal or state.phase in UNWATCHED:
        return []
    found = []
    limit_ms = lifecycle.limit_ms(DURATION)
    if limit_ms is not None and not watch.duration_raised:
        found.append((DURATION, watch.began_at_ms, limit_ms))
    threshold = THRESHOLDS.get(watch.status)
    if threshold is not None and not watch.stay_raised:
        limit_ms = lifecycle.limit_ms(threshold)
        if limit_ms is not None:
            found.append((threshold, watch.since_ms, limit_ms))
    return found
