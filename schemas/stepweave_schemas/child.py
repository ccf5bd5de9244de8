"""What one task orders for another: durable commands on `sw.cmd.<shard>.<task_id>`.

They come from the owner of the parent's shard, after the event that orders them is committed, and may come again:
the child's id follows from the step and the try that want it, so the same order is the same child.
"""

from __future__ import annotations

import msgspec

from .events import ParentLink


class TaskOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Base: which task it is about."""

    task_id: str


class StartChild(TaskOrder, frozen=True, kw_only=True, tag="start_child"):
    """Begin a task for a step of another one. The child's owner answers on `parent.result_subject`: that it has
    begun, how it ended, or why it cannot begin."""

    namespace: str
    name: str
    version: str | None = None
    context: msgspec.Raw
    parent: ParentLink
    parent_namespace: str
    correlation_id: str
    parent_correlation_id: str | None = None
    priority: int = 0
    depth: int
    traceparent: str | None = None
    #: Why it cannot begin; the owner says so to the parent.
    problems: tuple[str, ...] = ()


class CancelChild(TaskOrder, frozen=True, kw_only=True, tag="cancel_child"):
    """Cancel a task because the step that started it does not wait any more."""

    parent_task_id: str
    reason: str


AnyTaskOrder = StartChild | CancelChild
