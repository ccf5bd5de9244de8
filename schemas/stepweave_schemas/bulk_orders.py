"""The order by which a bulk operation goes on, on `sw.cmd.<shard>.<stream>`."""

from __future__ import annotations

from .child import TaskOrder


class RunBulk(TaskOrder, frozen=True, kw_only=True, tag="run_bulk"):
    """To a bulk operation (`task_id` is its stream), of itself: select the next tasks, or act on those selected."""

    #: `BulkState.stage` when it was ordered; another one by now: it was done.
    stage: int
