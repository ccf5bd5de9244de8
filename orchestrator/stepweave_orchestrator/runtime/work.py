"""One command on its way to an actor, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from stepweave_orchestrator.core.commands import Command, StreamCommand
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_orchestrator.core.template_stream import RegisterTemplate
from stepweave_schemas.events import Event

from .actors import Actor


class ShardMoved(Exception):
    """The process does not own the shard (any more); somebody else answers."""


class Unstorable(Exception):
    """The store refuses the content of the command's events."""


class Faulty(Exception):
    """A fault of the orchestrator keeps the command from being carried out; its log says which."""


class Query:
    """A question to an actor, answered from committed state: `answer(actor)` runs in turn."""

    __slots__ = ("answer",)

    def __init__(self, answer: Callable[[Actor], bytes]) -> None:
        self.answer = answer


class Record:
    """Append this event to a system stream, as it is."""

    __slots__ = ("event",)

    def __init__(self, event: Event) -> None:
        self.event = event


#: What an actor may be given.
AnyCommand = Command | StreamCommand | RegisterTemplate | Query | Record


class Work:
    """A command for one stream. `finish` is called exactly once, after the commit."""

    __slots__ = (
        "actor_name",
        "alone",
        "causation_id",
        "command",
        "correlation_id",
        "finish",
        "fresh",
        "namespace",
        "seed",
        "shard",
        "stream_id",
    )

    def __init__(
        self,
        *,
        stream_id: str,
        shard: int,
        command: AnyCommand,
        causation_id: str,
        actor_name: str,
        finish: Callable[[Any], None],
        correlation_id: str = "",
        fresh: bool = False,
        seed: Any = None,
        namespace: str | None = None,
    ) -> None:
        self.stream_id = stream_id
        self.shard = shard
        self.command = command
        self.causation_id = causation_id
        self.correlation_id = correlation_id
        self.actor_name = actor_name
        #: Called with `Done`, `Rejection` or an exception.
        self.finish = finish
        #: The stream is believed to be new: do not look for it in the store.
        self.fresh = fresh
        #: What a new actor is made of: the `Plan` of a task, the `StreamKind` of a system stream, the empty state of a
        #: template or of a stream that only records.
        self.seed = seed
        #: Where the command may only be for a task of one namespace (a worker's): which one.
        self.namespace = namespace
        #: Commit it on its own, because a commit it was part of was refused.
        self.alone = False


class Done:
    """The command was carried out. `changed`: events were appended; `answer`: a query's bytes."""

    __slots__ = ("answer", "changed")

    def __init__(self, changed: bool, answer: bytes = b"") -> None:
        self.changed = changed
        self.answer = answer


Ending = Done | Rejection | Exception
#: Hands a command to its owner and waits for how it ends; raises where the shard has moved, and the like.
Performing = Callable[[Work], Awaitable[Ending]]


def into_future(future: asyncio.Future[Ending]) -> Callable[[Any], None]:
    """A `finish` that hands the ending to whoever awaits the future."""

    def finish(ending: Ending) -> None:
        if not future.done():
            future.set_result(ending)

    return finish
