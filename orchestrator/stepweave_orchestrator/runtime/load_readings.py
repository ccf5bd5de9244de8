"""The readings that decide whether creates are taken: those of this process at once, those of the servers rarely.

Nothing is read while nothing is created. JetStream and the database are asked at most once in `POLL_SECONDS`, by the
create that comes then, which does not wait for the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import nats.errors
import structlog
from nats.js.errors import APIError, NotFoundError

from stepweave.messaging import Connection, MessagingError
from stepweave_eventstore.store import EventStore, EventStoreError
from stepweave_schemas import subjects

from .admission import Admission, Backlog, Bound, Bounds
from .disk import disk_bound, disk_bytes
from .memory import give_back, memory_bytes
from .owner import OwnerLoop
from .projector import Projector
from .publisher import Publisher
from .settings import Settings, SettingsError

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0
#: The size of a database changes slowly, and asking for it looks at every file.
DATABASE_POLL_SECONDS: Final = 15.0
#: Steps that wait before gates are in the database only.
HELD_POLL_SECONDS: Final = 5.0
#: Readings that are older than this say nothing any more.
STALE_SECONDS: Final = 60.0
REQUEST_TIMEOUT_SECONDS: Final = 2.0
PING_SECONDS_MAX: Final = 10
#: Namespaces asked about in one poll; the others have their turn in the next ones.
NAMESPACES_POLLED_MAX: Final = 100
#: Of an account's storage in JetStream this much may be used.
ACCOUNT_PERCENT_MAX: Final = 90
#: Memory that was used once is given back in pieces, so its gauge opens again soon below its limit.
MEMORY_RESUME_SHARE: Final = 0.95
#: Where memory is short, what can be done without is let go no more often: it takes some time.
RELIEF_SECONDS: Final = 3.0


def bounds_of(settings: Settings) -> Bounds:
    """The bounds that the settings give."""
    share = settings.admission_resume_percent / 100

    def bound(limit: float) -> Bound:
        return Bound(limit, limit * share)

    gauges = {
        # Creates go through the inbox too.
        "creates_under_way": bound(min(settings.creates_under_way_max, settings.inbox_works_max)),
        "commands_waiting": bound(settings.inbox_works_max),
        "requests_waiting": bound(settings.requests_waiting_max),
        "create_age_ms": bound(settings.create_age_ms_max),
        "round_trip_ms": bound(settings.round_trip_ms_max),
        "commit_ms": bound(settings.commit_ms_max),
        "publish_backlog_events": bound(settings.publish_backlog_events_max),
        "projections_behind": bound(settings.projections_behind_max),
        "results_waiting": bound(settings.results_waiting_max),
        "jetstream_bytes": bound(settings.jetstream_bytes_max),
        "jetstream_account_percent": bound(ACCOUNT_PERCENT_MAX),
    }
    memory_max = settings.most_memory_bytes()
    if memory_max is not None:
        gauges["memory_bytes"] = Bound(memory_max, memory_max * MEMORY_RESUME_SHARE)
    if settings.database_bytes_max is not None:
        gauges["database_bytes"] = bound(settings.database_bytes_max)
    if settings.disk_path is not None:
        disk = disk_bound(settings.disk_path, settings.disk_free_bytes_min)
        if disk is None:
            raise SettingsError(f"STEPWEAVE_DISK_PATH: {settings.disk_path} cannot be looked at")
        gauges["disk_bytes"] = disk
    return Bounds(
        gauges=gauges,
        namespace_steps=bound(settings.namespace_backlog_steps_max),
        namespace_bytes=bound(settings.namespace_backlog_bytes_max),
        retry_after_seconds_max=settings.retry_after_seconds_max,
    )


class LoadReadings:
    """Reads the gauges of one orchestrator process, and keeps its `admission` informed about the servers."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        store: EventStore,
        owner: OwnerLoop,
        publisher: Publisher,
        projector: Projector,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._store = store
        self._owner = owner
        self._publisher = publisher
        self._projector = projector
        self._clock = asyncio.get_running_loop().time
        self._polled_at = -STALE_SECONDS
        self._answered_at = -STALE_SECONDS
        self._database_at = -STALE_SECONDS
        self._held_at = -STALE_SECONDS
        self._relieved_at = -RELIEF_SECONDS
        self._polling: asyncio.Task[None] | None = None
        self._namespaces_from = 0
        self._pinged_at: float | None = None
        self._round_trip_ms = 0.0
        self._of_servers: dict[str, float] = {}
        bounds = bounds_of(settings)
        self._memory_bound = bounds.gauges.get("memory_bytes")
        self.admission = Admission(bounds, self.read, self._clock)
        #: How many requests wait in front of the API, and how many orchestrators live; set by the orchestrator.
        self.requests_waiting: Callable[[], int] = int
        self.orchestrators_alive: Callable[[], int] = lambda: 1

    def read(self) -> Mapping[str, float]:
        """Every gauge that is known, and the beginning of a poll where one is due."""
        now = self._clock()
        self.admission.doors = self.orchestrators_alive()
        if self._polling is None and now - self._polled_at >= POLL_SECONDS:
            self._polled_at = now
            self._polling = asyncio.ensure_future(self._poll())
            self._polling.add_done_callback(self._polled)
        readings: dict[str, float] = {
            "requests_waiting": self.requests_waiting(),
            "round_trip_ms": self._round_trip_ms,
            "publish_backlog_events": self._publisher.backlog_events,
            "projections_behind": self._projector.behind_count,
            "commands_waiting": self._owner.waiting_count,
            "commit_ms": self._owner.commit_seconds * 1000,
        }
        if self._settings.disk_path is not None:
            occupied = disk_bytes(self._settings.disk_path)
            if occupied is not None:
                readings["disk_bytes"] = occupied
        if self._pinged_at is not None:
            # No answer yet: it is so much at least.
            readings["round_trip_ms"] = max(self._round_trip_ms, (now - self._pinged_at) * 1000)
        used = self._memory_bytes(now)
        if used is not None:
            readings["memory_bytes"] = used
        if now - self._answered_at < STALE_SECONDS:
            readings.update(self._of_servers)
        return readings

    def _memory_bytes(self, now: float) -> int | None:
        """What the process has; where that is too much, what it has after letting go of what it can do without."""
        used = memory_bytes()
        bound = self._memory_bound
        if used is None or bound is None or used < bound.resume or now - self._relieved_at < RELIEF_SECONDS:
            return used
        self._relieved_at = now
        self._owner.let_go()
        give_back()
        return memory_bytes()

    async def close(self) -> None:
        """End a poll that is under way."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)

    def _polled(self, task: asyncio.Task[None]) -> None:
        self._polling = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the load of the servers cannot be read", exc_info=error)

    async def _poll(self) -> None:
        try:
            await self._ping()
            await self._ask_jetstream()
        except (nats.errors.Error, MessagingError, APIError, TimeoutError) as error:
            # The last readings hold for a while; without NATS no create comes in either.
            log.info("JetStream does not say how full it is", error=str(error) or type(error).__name__)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS * 2):
                await self._ask_store()
        except (EventStoreError, TimeoutError) as error:
            log.info("the database does not say how full it is", error=str(error) or "no answer")

    async def _ask_store(self) -> None:
        now = self._clock()
        if now - self._held_at >= HELD_POLL_SECONDS:
            self._held_at = now
            self.admission.heard_held(await self._store.held_steps())
        if self._settings.database_bytes_max is not None and now - self._database_at >= DATABASE_POLL_SECONDS:
            self._database_at = now
            self._of_servers["database_bytes"] = await self._store.size_bytes()

    async def _ping(self) -> None:
        """How long NATS takes to answer: as long as the requests wait that came before the answer on the same link."""
        self._pinged_at = began = self._clock()
        try:
            await self._connection.client.flush(timeout=PING_SECONDS_MAX)
        finally:
            self._pinged_at = None
            self._round_trip_ms = (self._clock() - began) * 1000

    async def _ask_jetstream(self) -> None:
        manager = self._connection.client.jsm(timeout=REQUEST_TIMEOUT_SECONDS)
        account = await manager.account_info()
        limit = account.limits.max_storage or 0
        if limit > 0:
            self._of_servers["jetstream_account_percent"] = 100 * account.storage / limit
        commands = await manager.stream_info(subjects.CMD_STREAM)
        self._of_servers["jetstream_bytes"] = account.storage
        self._of_servers["results_waiting"] = commands.state.messages
        self._answered_at = self._clock()
        names = self.admission.namespaces()
        start = self._namespaces_from if self._namespaces_from < len(names) else 0
        self._namespaces_from = start + NAMESPACES_POLLED_MAX
        for namespace in names[start : start + NAMESPACES_POLLED_MAX]:
            before = self.admission.admitted_of(namespace)
            try:
                info = await manager.stream_info(subjects.dispatch_stream(namespace))
            except NotFoundError:
                continue
            state = info.state
            self.admission.heard(
                namespace,
                Backlog(state.messages, state.bytes, state.last_seq - state.messages),
                before,
                self._clock(),
            )
