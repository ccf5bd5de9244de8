"""What an explanation needs besides the task's state: how gates, queues, workers, children and the shard stand.

Whatever could not be found out is absent, and the sentence says so: an explanation never waits for a fact.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .explanation import GateNeed, WorkNeed
from .gates.standing import Standing


class QueueFact(msgspec.Struct, frozen=True, kw_only=True):
    """A queue as one priority class sees it: tries that no worker has taken, and those that workers have."""

    waiting_count: int
    out_count: int
    #: Those of higher and of lower priority in the same queue.
    higher_waiting_count: int = 0
    lower_waiting_count: int = 0
    others_out_count: int = 0


class WorkerFact(msgspec.Struct, frozen=True, kw_only=True):
    """A live worker, as it says itself."""

    worker_id: str
    namespaces: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    #: `None`: it does not say.
    handlers: tuple[str, ...] | None = None
    #: It finds handlers by other ways than by name.
    resolves: bool = False
    running: int = 0
    concurrency: int = 0

    def serves(self, need: WorkNeed) -> bool:
        """Whether it takes tries of that queue."""
        return need.namespace in self.namespaces and need.queue in self.queues

    def has(self, handler: str) -> bool:
        """Whether it has the handler, or may."""
        return self.handlers is None or self.resolves or handler in self.handlers


class ChildFact(msgspec.Struct, frozen=True, kw_only=True):
    """A task that another one waits for; no status: it has not begun."""

    status: str = ""
    #: What it waits for itself, in a sentence.
    sentence: str = ""


class PauseFact(msgspec.Struct, frozen=True, kw_only=True):
    """Who paused a task, when and why."""

    at_ms: int
    by: str
    reason: str


class ShardFact(msgspec.Struct, frozen=True, kw_only=True):
    """The shard of the task: who owns it, and whether that one answered."""

    shard: int
    #: Empty: nobody.
    owner: str = ""
    #: 0 or less: free to take. `None`: the event store did not tell.
    lease_remaining_ms: int | None = None
    answered: bool = True
    #: An explanation from Postgres alone asks no orchestrator.
    asked: bool = True
    #: Results and commands that the owner has not read yet; `None`: not known.
    behind_count: int | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, for one task at one moment."""

    now_ms: int
    task_id: str
    namespace: str
    shard: ShardFact
    gates: dict[str, Standing] = {}
    queues: dict[tuple[str, str, str], QueueFact] = {}
    #: `None`: could not be found out.
    workers: tuple[WorkerFact, ...] | None = None
    children: dict[str, ChildFact] = {}
    #: `None`: could not be found out.
    pause: PauseFact | None = None
    #: Whether children were asked for at all: those of a child are not.
    asks_children: bool = True

    def gate(self, need: GateNeed | None) -> Standing | None:
        """How one stands before its gate; `None` where that is not known."""
        return None if need is None else self.gates.get(need.token)

    def queue(self, need: WorkNeed) -> QueueFact | None:
        """How full the queue is; `None` where that is not known."""
        return self.queues.get((need.namespace, need.queue, need.priority))


#: How a shard is looked after.
ShardState = Literal["owned", "leased", "silent", "unowned"]


def shard_state(fact: ShardFact) -> ShardState:
    """Whether the shard's owner is at work; `leased`: it holds the lease, and more is not known."""
    if fact.answered:
        return "owned"
    if not fact.owner or (fact.lease_remaining_ms or 0) <= 0:
        return "unowned"
    return "silent" if fact.asked else "leased"
