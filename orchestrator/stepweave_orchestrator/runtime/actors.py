"""Live actors: state in memory, a bounded number of them, the least recently used leaving first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from stepweave_orchestrator.core.state import TaskState
from stepweave_orchestrator.core.template_stream import TemplateState
from stepweave_schemas import subjects
from stepweave_schemas.events import TemplateRef

if TYPE_CHECKING:
    from .stream_kind import StreamKind

#: Where events of the system's own streams stand on the signal feed.
SYSTEM_NAMESPACE = "_system"
#: What a task and each of its steps take besides what people put into them, roughly.
TASK_BYTES: Final = 2_000
STEP_BYTES: Final = 600
#: An actor's size is what its events had; after so much more it is measured again, for some take the place of others.
REMEASURED_BYTES: Final = 4 * 1024 * 1024


def state_bytes(state: TaskState) -> int:
    """How much memory a task's state takes, roughly: contexts, results, cursors, checkpoints, signals."""
    size = TASK_BYTES + len(state.context) + sum(len(kept.payload) for kept in state.mailbox)
    for step in state.steps:
        size += STEP_BYTES + len(step.result or "") + len(step.cursor or "")
        if step.checkpoint is not None:
            size += len(step.checkpoint.cursor) + len(step.checkpoint.accumulated_results)
    return size


class TaskActor:
    """A task's state and what the process knows about it besides."""

    __slots__ = (
        "event_prefix",
        "measured_bytes",
        "result_subject",
        "saved_wake_ms",
        "shard",
        "size_bytes",
        "state",
        "uncommitted",
        "weight",
    )

    def __init__(self, state: TaskState, shard: int, ref: TemplateRef) -> None:
        self.state = state
        self.shard = shard
        #: The wake-up that the store holds.
        self.saved_wake_ms: int | None = None
        #: Batches that hold events of this actor and are not committed.
        self.uncommitted = 0
        self.weight = 1 + len(state.steps)
        self.size_bytes = self.measured_bytes = state_bytes(state)
        self.event_prefix = subjects.event(ref.namespace, ref.name, state.task_id, "")
        self.result_subject = subjects.result(ref.namespace, shard, state.task_id)


class TemplateActor:
    """A template's versions."""

    __slots__ = ("event_prefix", "shard", "state", "uncommitted", "weight")

    def __init__(self, state: TemplateState, stream_id: str, shard: int) -> None:
        self.state = state
        self.shard = shard
        self.uncommitted = 0
        self.weight = 1
        self.event_prefix = subjects.event(state.namespace, state.name, stream_id, "")


class StreamActor:
    """A stream of the system's own that decides, of one kind or another."""

    __slots__ = (
        "event_prefix",
        "events_since_snapshot",
        "kind",
        "namespace",
        "saved_wake_ms",
        "shard",
        "snapshot_bytes",
        "state",
        "stream_id",
        "uncommitted",
        "weight",
    )

    def __init__(self, kind: StreamKind, state: Any, stream_id: str, shard: int) -> None:
        self.kind = kind
        self.state = state
        self.stream_id = stream_id
        self.shard = shard
        #: The wake-up that the store holds.
        self.saved_wake_ms: int | None = None
        self.uncommitted = 0
        self.weight = 1
        self.events_since_snapshot = 0
        #: The size of the last snapshot that was written here.
        self.snapshot_bytes = 0
        #: Known once the first event is applied.
        self.namespace = self.event_prefix = ""
        if state.version:
            self.learn_address()

    def learn_address(self) -> None:
        """Find out where its events stand on the signal feed."""
        self.namespace, name = self.kind.address(self.state)
        self.event_prefix = subjects.event(self.namespace, name, self.stream_id, "")


class SystemState:
    """What is known of a system stream: its length."""

    __slots__ = ("version",)

    def __init__(self, version: int) -> None:
        self.version = version


class SystemActor:
    """A stream of the system's own that only records: who owned a shard and when."""

    __slots__ = ("event_prefix", "shard", "state", "uncommitted", "weight")

    def __init__(self, stream_id: str, version: int, shard: int) -> None:
        self.state = SystemState(version)
        self.shard = shard
        self.uncommitted = 0
        self.weight = 1
        self.event_prefix = subjects.event(SYSTEM_NAMESPACE, SYSTEM_NAMESPACE, stream_id, "")


Actor = TaskActor | TemplateActor | StreamActor | SystemActor


class ActorCache:
    """Actors by stream id, bounded by number, by steps and by bytes."""

    def __init__(self, actors_max: int, steps_max: int, bytes_max: int) -> None:
        self._actors: OrderedDict[str, Actor] = OrderedDict()
        self._actors_max = actors_max
        self._weight_max = steps_max + actors_max
        self._weight = 0
        self._bytes_max = bytes_max
        #: What the states of the live tasks take, roughly.
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._actors)

    def get(self, stream_id: str) -> Actor | None:
        """The live actor, marked as used now."""
        actor = self._actors.get(stream_id)
        if actor is not None:
            self._actors.move_to_end(stream_id)
        return actor

    def peek(self, stream_id: str) -> Actor | None:
        """The live actor, without marking it as used."""
        return self._actors.get(stream_id)

    def put(self, stream_id: str, actor: Actor) -> None:
        """Make an actor live."""
        self.drop((stream_id,))
        self._actors[stream_id] = actor
        self._weight += actor.weight
        if isinstance(actor, TaskActor):
            self.size_bytes += actor.size_bytes

    def reweigh(self, actor: TaskActor) -> None:
        """A task has got more steps: count them."""
        weight = 1 + len(actor.state.steps)
        if self._actors.get(actor.state.task_id) is actor:
            self._weight += weight - actor.weight
        actor.weight = weight

    def grew(self, actor: TaskActor, added_bytes: int) -> None:
        """A task has got events of so many bytes."""
        before = actor.size_bytes
        actor.size_bytes += added_bytes
        if actor.size_bytes - actor.measured_bytes > REMEASURED_BYTES:
            actor.size_bytes = actor.measured_bytes = state_bytes(actor.state)
        if self._actors.get(actor.state.task_id) is actor:
            self.size_bytes += actor.size_bytes - before

    def drop(self, stream_ids: Iterable[str]) -> None:
        """Forget actors; their events are in the store or are to be decided again."""
        for stream_id in stream_ids:
            actor = self._actors.pop(stream_id, None)
            if actor is not None:
                self._weight -= actor.weight
                if isinstance(actor, TaskActor):
                    self.size_bytes -= actor.size_bytes

    def of_shard(self, shard: int) -> list[str]:
        """The ids of a shard's live actors."""
        return [stream_id for stream_id, actor in self._actors.items() if actor.shard == shard]

    def evict(self, keep_max: int = 64) -> Iterator[tuple[str, Actor]]:
        """Remove and yield what is over the bounds, the least recently used first.

        Actors with uncommitted events stay. Looks at no more than `keep_max` of those in a row.
        """
        return self._leave(self._is_over, keep_max)

    def halve(self) -> Iterator[tuple[str, Actor]]:
        """Remove and yield half of the actors, the least recently used first; those with uncommitted events stay."""
        half = len(self._actors) // 2
        return self._leave(lambda: len(self._actors) > half, half)

    def _is_over(self) -> bool:
        return (
            len(self._actors) > self._actors_max
            or self._weight > self._weight_max
            or (self.size_bytes > self._bytes_max and bool(self._actors))
        )

    def _leave(self, more: Callable[[], bool], keep_max: int) -> Iterator[tuple[str, Actor]]:
        passed = 0
        while more():
            stream_id, actor = next(iter(self._actors.items()))
            if actor.uncommitted:
                self._actors.move_to_end(stream_id)
                passed += 1
                if passed > keep_max:
                    return
                continue
            self.drop((stream_id,))
            yield stream_id, actor
