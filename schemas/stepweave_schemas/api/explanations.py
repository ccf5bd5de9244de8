"""Explanations: why a task is where it is."""

from __future__ import annotations

from typing import Any

import msgspec

from .request import Request


class ExplainTask(Request, frozen=True, kw_only=True):
    """`task.explain`: why a task is where it is, and what would move it. Answer: `TaskExplanation`."""

    task_id: str
    #: Only what this step waits for; absent: what holds the whole task up.
    step: str | None = None


class ExplanationItem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that holds a task up, or says how it stands."""

    #: Stable, for programs; `docs/reference/explanations.md` lists them.
    code: str
    #: For people.
    sentence: str
    #: Command lines that would move it, or tell more; what is written large in them has to be filled in.
    commands: tuple[str, ...]
    #: The step that it is about; absent: the task as a whole.
    step: str | None
    since: str | None
    #: When it is over by itself.
    until: str | None
    #: Steps of the same kind in the same situation; those that wait for it, and those that may come to exist behind it.
    alike_count: int
    waiting_count: int
    undecided_count: int
    #: What is known besides, by code.
    details: dict[str, Any]


class ExplainedShard(msgspec.Struct, frozen=True, kw_only=True):
    """The shard that the task belongs to, whose owner alone moves it."""

    shard: int
    #: Empty: nobody.
    owner: str
    #: 0 or less: it has run out. Absent: the event store did not answer.
    lease_seconds: float | None
    #: Whether the owner answered.
    answered: bool
    #: Messages of workers and tasks that the owner has not read yet; absent: not known.
    commands_waiting: int | None
    #: Who owns it, for people.
    sentence: str = ""


class TaskExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `task.explain`."""

    task_uuid: str
    status: str
    #: The whole in a line or two.
    summary: str
    #: What holds the task up most comes first.
    findings: tuple[ExplanationItem, ...]
    shard: ExplainedShard
    #: The shard's owner did not answer: this is what the ledger has.
    from_ledger: bool
    #: What could not be found out.
    unknown: tuple[str, ...]
    #: The version of the task's stream, and the moment, that this is about.
    stream_version: int
    explained_at: str
