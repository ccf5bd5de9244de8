"""Forks: a new task that reuses what another has come to."""

from __future__ import annotations

import msgspec

from stepweave_schemas.raw import NO_RAW

from .request import Request
from .tasks import ForkedFrom, TaskResponse


class ForkTask(Request, frozen=True, kw_only=True):
    """`task.fork`: a new task that reuses what another one has come to, and runs the rest. Answer: `ForkReply`."""

    #: The original: a task in any state.
    task_id: str
    #: The steps to run anew, with all that depends on them; none: those that the original has not done.
    from_steps: tuple[str, ...] = ()
    #: Another version of the original's template, or `latest`; absent: the one that the original runs.
    version: str | None = None
    #: Another context, an object; absent: the original's.
    context: msgspec.Raw = NO_RAW
    #: A UUIDv7 minted by the client, so that a repeated request is the same fork.
    fork_id: str | None = None
    #: Absent: the original's.
    correlation_id: str | None = None
    reason: str = ""
    forked_by: str = ""
    #: Only tell what would be reused and what would run.
    dry_run: bool = False
    traceparent: str | None = None


class StepToRun(msgspec.Struct, frozen=True, kw_only=True):
    """A step that a fork runs, or may run."""

    step: str
    #: `named`: the request names it; `follows`: it depends on one that runs anew; `not_done`, `undone`: in the original;
    #: `new`, `changed`: the original's template has no such step, or one of another type; `misfit`: its result does
    #: not fit the `result_schema` of this version; `choice_gone`: what it chose does not exist in this version;
    #: `undecided`: whether it exists is decided anew. Absent in a repetition's answer.
    why: str | None = None
    #: The original has done it: its effects outside happen once more.
    ran_before: bool = False


class ForkReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a fork reuses and what it runs, in the order of the template; the lists hold the first 1,000 names."""

    #: The fork; absent after a dry run.
    task: TaskResponse | None = None
    forked_from: ForkedFrom
    #: The template version that the fork runs.
    version: str
    reused: tuple[str, ...]
    reused_count: int
    run: tuple[StepToRun, ...]
    run_count: int
    dry_run: bool = False
    #: The fork existed already and this request is the same as the one that made it.
    replayed: bool = False
