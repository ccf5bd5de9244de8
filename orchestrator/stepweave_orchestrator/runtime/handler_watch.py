"""Finds steps whose handler nobody serves, and gives out those that can run after all.

A dispatch that no worker takes lies in its queue without a sound, and one that only workers without its handler take
comes back again and again, ever more rarely. Now and then this looks at the tasks of the process's shards that have
steps with workers and have not changed for a while: which handlers do the live workers announce? What is missing is
named by the task's actor (`task.stale`); what was handed back and is served now is given out at once.

Bounded: a look begins with one question to the store, none where nothing was committed since the last look found
nothing; only tasks that stand still are looked at, `TASKS_MAX` of them a look, in turn; and the workers' bucket is
read only where there are any.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
import structlog

from stepweave.messaging import Connection
from stepweave_eventstore.store import EventStore, StandingTask, StoreUnavailable
from stepweave_orchestrator.core.commands import CheckHandlers, ServedHandlers
from stepweave_schemas.mint import now_ms

from .actors import TaskActor
from .metrics import Metrics
from .owner import OwnerLoop
from .present_workers import WorkersUnknown, present_workers
from .settings import Settings
from .work import Done, Work

log = structlog.get_logger(__name__)

#: Tasks looked at in one look.
TASKS_MAX: Final = 200
#: A task that changed since is not asked about.
STANDING_MS_MIN: Final = 1_000
#: The projection may be so far behind, and more.
QUIET_SECONDS: Final = 10.0


class _Presence(msgspec.Struct, frozen=True):
    """What of a worker's entry counts here; an entry that lists no handlers may serve any."""

    namespaces: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    handlers: tuple[str, ...] | None = None
    #: It finds handlers by other ways than by name.
    resolves: bool = False


def served_handlers(entries: list[dict[str, Any]]) -> ServedHandlers:
    """Which handlers the workers of these entries serve; an entry that cannot be read counts as none."""
    named: dict[tuple[str, str], frozenset[str]] = {}
    anything: set[tuple[str, str]] = set()
    for entry in entries:
        try:
            worker = msgspec.convert(entry, _Presence, strict=False)
        except msgspec.ValidationError:
            continue
        for namespace in worker.namespaces:
            for queue in worker.queues:
                place = (namespace, queue)
                if worker.handlers is None or worker.resolves:
                    anything.add(place)
                named[place] = named.get(place, frozenset()) | frozenset(worker.handlers or ())
    return ServedHandlers(named, frozenset(anything))


class HandlerWatch:
    """Looks every `handler_check_seconds`; `run` until cancelled."""

    def __init__(
        self,
        settings: Settings,
        store: EventStore,
        connection: Connection,
        owner: OwnerLoop,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._store = store
        self._connection = connection
        self._owner = owner
        self._metrics = metrics
        self._after: StandingTask | None = None
        #: Since when looks find nothing while nothing is committed: that moment (loop time), what was committed then and
        #: which shards were owned.
        self._silent_since: tuple[float, tuple[int, frozenset[int]]] | None = None
        self._quiet = False

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(self._settings.handler_check_seconds)
            try:
                await self.look()
            except StoreUnavailable as error:
                log.info("cannot look for missing handlers, the store is away", error=str(error))
            except WorkersUnknown as error:
                log.info("cannot look for missing handlers, the workers are not known", error=str(error))

    async def look(self) -> int:
        """Look once; returns how many tasks were asked about. Raises `StoreUnavailable` and `WorkersUnknown`."""
        shards = frozenset(self._owner.shards)
        moment = (self._metrics.commits, shards)
        if not shards or self._is_quiet(moment):
            return 0
        found = await self._store.standing_tasks(
            sorted(shards), before_ms=now_ms() - STANDING_MS_MIN, after=self._after, limit=TASKS_MAX
        )
        began_at_first = self._after is None
        self._after = found[-1] if len(found) == TASKS_MAX else None
        if not found:
            if began_at_first:
                self._note_silence(moment)
            return 0
        self._silent_since = None
        served = served_handlers(await present_workers(self._connection))
        for task in found:
            self._ask(task, served)
        return len(found)

    def _is_quiet(self, moment: tuple[int, frozenset[int]]) -> bool:
        if self._silent_since is None or self._silent_since[1] != moment:
            self._quiet = False
        return self._quiet

    def _note_silence(self, moment: tuple[int, frozenset[int]]) -> None:
        """Of what changed a moment ago a look knows nothing yet: it is quiet after a while of looks without a find."""
        now = asyncio.get_running_loop().time()
        if self._silent_since is None or self._silent_since[1] != moment:
            self._silent_since = (now, moment)
        elif now - self._silent_since[0] > QUIET_SECONDS:
            self._quiet = True

    def _ask(self, task: StandingTask, served: ServedHandlers) -> None:
        def finish(ending: Any) -> None:
            if isinstance(ending, Done) and ending.changed:
                self._report(task.task_id)

        self._owner.submit(
            Work(
                stream_id=task.task_id,
                shard=task.shard,
                command=CheckHandlers(served),
                causation_id="handler_check",
                actor_name="orchestrator",
                finish=finish,
            )
        )

    def _report(self, task_id: str) -> None:
        actor = self._owner.actors.peek(task_id)
        if isinstance(actor, TaskActor) and actor.state.watch is not None:
            missing = actor.state.watch.missing_handlers
            if missing:
                self._metrics.handlers_missing += 1
                log.warning(
                    "no worker serves a step's handler; the step waits until one does",
                    task_uuid=task_id,
                    namespace=actor.state.the_plan.ref.namespace,
                    handlers=list(missing),
                )
