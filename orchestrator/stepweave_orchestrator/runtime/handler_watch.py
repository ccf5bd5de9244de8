"""Finds steps whose handler nobody serves, and gives out those that can run after all.

A dispatch that no worker takes lies in its queue without a sound, one that only workers without its handler take
comes back again and again, ever more rarely, and that a worker is lost is found out by the next worker of its queue. Now and then this looks at the tasks of the process's shards that have
steps with workers and have not changed for a while: which handlers do the live workers announce? What is missing is
named by the task's actor (`task.stale`); what was handed back and is served now is given out at once.

Bounded: a look begins with one question to the store, none where nothing was committed since the last look found
nothing; the workers' bucket is read only where tasks have steps with workers; of these only those are asked of which
something may be missing, so many of each template a look (`standing`). Where that was not enough and helped somebody,
the next look follows soon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from stepweave.messaging import Connection
from stepweave_eventstore.store import EventStore, StandingTask, StoreUnavailable
from stepweave_orchestrator.core.commands import CheckHandlers, ServedHandlers
from stepweave_schemas.api import ApiError
from stepweave_schemas.mint import now_ms

from .actors import TaskActor
from .metrics import Metrics
from .owner import OwnerLoop
from .present_workers import WorkersUnknown, present_workers
from .settings import Settings
from .standing import Turns, Unserved, Version, unserved_of, version_of
from .templates import TemplateCatalogue
from .work import Done, Work

log = structlog.get_logger(__name__)

#: Tasks read at once.
PAGE_TASKS_MAX: Final = 1_000
#: A task that changed since is not asked about, unless its template has a handler that nobody serves.
STANDING_MS_MIN: Final = 1_000
#: The next look follows so soon where more is to be done.
SOON_SECONDS: Final = 1.0
#: The projection may be so far behind, and more.
QUIET_SECONDS: Final = 10.0


class _Presence(msgspec.Struct, frozen=True):
    """What of a worker's entry counts here; an entry that lists no handlers may serve any."""

    worker_id: str = ""
    namespaces: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    handlers: tuple[str, ...] | None = None
    #: It finds handlers by other ways than by name.
    resolves: bool = False


def served_handlers(entries: list[dict[str, Any]]) -> ServedHandlers:
    """Which handlers the workers of these entries serve; an entry that cannot be read counts as none."""
    named: dict[tuple[str, str], frozenset[str]] = {}
    anything: set[tuple[str, str]] = set()
    workers: set[str] = set()
    for entry in entries:
        try:
            worker = msgspec.convert(entry, _Presence, strict=False)
        except msgspec.ValidationError:
            continue
        if worker.worker_id:
            workers.add(worker.worker_id)
        for namespace in worker.namespaces:
            for queue in worker.queues:
                place = (namespace, queue)
                if worker.handlers is None or worker.resolves:
                    anything.add(place)
                named[place] = named.get(place, frozenset()) | frozenset(worker.handlers or ())
    return ServedHandlers(named, frozenset(anything), frozenset(workers))


class RecentWorkers:
    """Workers that were alive a moment ago: one whose entry is away for a while, as after a restart of NATS, is not gone."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[str, float] = {}

    def add(self, served: ServedHandlers) -> ServedHandlers:
        """What is served, with those that were seen before among its `workers`."""
        now = self._clock()
        self._seen |= dict.fromkeys(served.workers, now)
        self._seen = {worker: at for worker, at in self._seen.items() if now - at <= self._seconds}
        return msgspec.structs.replace(served, workers=frozenset(self._seen))


class HandlerWatch:
    """Looks every `handler_check_seconds`; `run` until cancelled."""

    def __init__(
        self,
        settings: Settings,
        store: EventStore,
        connection: Connection,
        owner: OwnerLoop,
        templates: TemplateCatalogue,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._store = store
        self._connection = connection
        self._owner = owner
        self._templates = templates
        self._metrics = metrics
        self._turns = Turns()
        self._recent = RecentWorkers(settings.handler_missing_seconds)
        #: Tasks that have changed because of the last look.
        self._helped_count = 0
        #: What the log has been told since the last look began: of thousands of tasks one line.
        self._told: set[tuple[str, tuple[str, ...]]] = set()
        #: Since when looks find nothing while nothing is committed: that moment (loop time), what was committed then and
        #: which shards were owned.
        self._silent_since: tuple[float, tuple[int, frozenset[int]]] | None = None
        self._quiet = False

    async def run(self) -> None:
        """Look again and again."""
        while True:
            more = self._turns.is_cut and self._helped_count
            check_seconds = self._settings.handler_check_seconds
            await asyncio.sleep(min(SOON_SECONDS, check_seconds) if more else check_seconds)
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
        self._turns.begin()
        self._helped_count = 0
        self._told.clear()
        began_at_first = self._turns.after is None
        asked = 0
        served: ServedHandlers | None = None
        unserved: dict[Version, Unserved] = {}
        while True:
            page = await self._store.standing_tasks(
                sorted(shards),
                before_ms=now_ms() - STANDING_MS_MIN,
                after=self._turns.after,
                limit=PAGE_TASKS_MAX,
            )
            if served is None:
                if not page and began_at_first:
                    self._note_silence(moment)
                    return 0
                self._silent_since = None
                served = self._recent.add(served_handlers(await present_workers(self._connection)))
            for task in page:
                version = version_of(task)
                if version not in unserved:
                    unserved[version] = await self._unserved(version, served)
            for task in self._turns.choose(page, unserved):
                self._ask(task, served)
                asked += 1
            if not self._turns.goes_on(page, is_last=len(page) < PAGE_TASKS_MAX):
                return asked

    async def _unserved(self, version: Version, served: ServedHandlers) -> Unserved:
        """The handlers of a template version that nobody serves; `None` where the version is not found."""
        try:
            return unserved_of((await self._templates.resolve(*version)).plan, served)
        except (ApiError, LookupError):
            return None

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
                self._helped_count += 1
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
        if not isinstance(actor, TaskActor) or actor.state.watch is None:
            return
        missing = actor.state.watch.missing_handlers
        namespace = actor.state.the_plan.ref.namespace
        if not missing:
            return
        self._metrics.handlers_missing += 1
        if (namespace, missing) not in self._told:
            self._told.add((namespace, missing))
            log.warning(
                "no worker serves a step's handler; the step waits until one does; `stepweave dlq stale` lists all such tasks",
                task_uuid=task_id,
                namespace=namespace,
                handlers=list(missing),
            )
