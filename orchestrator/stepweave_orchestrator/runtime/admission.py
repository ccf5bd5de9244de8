"""Whether another task may be created now: decided at the door, before anything is done for it.

What is accepted is kept, so what cannot be kept is not accepted. A few *gauges* say how much is under way: depth
(creates and commands that wait), age (of the oldest create that is being decided), lag (commits, feeds, results) and room
(memory, JetStream, database). Each has a bound. At its bound a gauge is *closed*, and creates are refused with
BACKPRESSURE and the seconds after which to try again; it opens again only well below, so that the answer does not
change with every request. Between the two it is *strained*: namespaces that have had more than their share are refused,
the others are not. What waits for the workers of a namespace is bounded for each namespace, so that one that floods is
refused by itself.

Only creates are refused, and forks with them. Results of workers, signals and requests of operators let work go on and end, and are always
taken. What accepted tasks start themselves (children) waits while a gauge is closed that is sure to fall by itself.

Deciding is pure: readings come in, and so does the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal, NamedTuple

from stepweave_schemas.api import ApiError
from stepweave_schemas.load import GaugeLoad, NamespaceLoad, OrchestratorLoad

State = Literal["open", "strained", "closed"]

#: Gauges are read again after so long, at the next create.
READ_SECONDS: Final = 0.05
#: What a namespace had counts less and less: after so long about a third of it.
SHARE_SECONDS: Final = 10.0
#: How quickly the measured rates follow.
RATE_SECONDS: Final = 2.0
RETRY_AFTER_SECONDS_MIN: Final = 1.0
UNKNOWN_RETRY_AFTER_SECONDS: Final = 3.0
#: What waits in a process is soon done, or stands still and then goes on all at once.
BUSY_RETRY_AFTER_SECONDS_MAX: Final = 5.0
#: Room that somebody has to make does not come back by itself.
ROOM_RETRY_AFTER_SECONDS: Final = 10.0
#: Namespaces whose share is remembered.
NAMESPACES_MAX: Final = 10_000

#: What each gauge counts, as a refusal says it.
GAUGES: Final[Mapping[str, str]] = {
    "creates_under_way": "creates are under way",
    "commands_waiting": "commands wait to be decided",
    "requests_waiting": "requests wait to be looked at",
    "round_trip_ms": "ms is how long NATS and what it has sent take to answer",
    "create_age_ms": "ms is the age of the oldest create that is being decided",
    "commit_ms": "ms is how long the commit under way takes",
    "publish_backlog_events": "committed events wait to be published",
    "projections_behind": "tasks have changed since their rows in the lists were written",
    "results_waiting": "messages of workers wait to be taken",
    "memory_bytes": "bytes of memory are in use by the orchestrator",
    "jetstream_bytes": "bytes are stored in JetStream",
    "jetstream_account_percent": "percent of the storage of the JetStream account are used",
    "database_bytes": "bytes are stored in the database",
    "disk_bytes": "bytes are in use on the disk of the servers",
}
#: They fall by themselves, whatever is or is not created: accepted work may wait for them without a deadlock.
DRAINING: Final = frozenset(
    {
        "creates_under_way",
        "commands_waiting",
        "requests_waiting",
        "round_trip_ms",
        "create_age_ms",
        "commit_ms",
        "publish_backlog_events",
        "projections_behind",
    }
)
#: Gauges of room: who is refused for them need not come back soon.
ROOM: Final = frozenset(
    {"memory_bytes", "jetstream_bytes", "jetstream_account_percent", "database_bytes", "disk_bytes"}
)


class Bound(NamedTuple):
    """A gauge closes at `limit`, and opens below `resume`."""

    limit: float
    resume: float


class Bounds(NamedTuple):
    """Every bound; a gauge without one never closes."""

    gauges: Mapping[str, Bound]
    #: Of one namespace: steps that wait for its workers, run, or are held before a gate; bytes of the dispatches.
    namespace_steps: Bound
    namespace_bytes: Bound
    retry_after_seconds_max: float


class Backlog(NamedTuple):
    """What JetStream held for the workers of a namespace when it was asked."""

    dispatches: int
    size_bytes: int
    #: Dispatches that have left it since the stream was made.
    drained: int


def state_of(value: float | None, bound: Bound | None, *, closed: bool) -> State:
    """The state of a gauge that was `closed` or not; one that is not known, or has no bound, is open."""
    if value is None or bound is None:
        return "open"
    if value >= bound.limit:
        return "closed"
    if value < bound.resume:
        return "open"
    return "closed" if closed else "strained"


def states_of(
    readings: Mapping[str, float], bounds: Mapping[str, Bound], before: Mapping[str, State]
) -> dict[str, State]:
    """The states of all gauges that have a bound."""
    return {
        name: state_of(readings.get(name), bound, closed=before.get(name) == "closed")
        for name, bound in bounds.items()
    }


def over_share(shares: Mapping[str, float], namespace: str) -> bool:
    """Whether a namespace had more than an equal share of what all were given of late."""
    if len(shares) < 2:
        return False
    return shares.get(namespace, 0.0) > sum(shares.values()) / len(shares)


def seconds_until(excess: float, per_second: float | None, seconds_max: float) -> float:
    """When so much will have drained at this rate, within sensible limits; in whole tenths.

    Not soon where nothing drains, a guess where the rate is not known yet.
    """
    if per_second is None:
        seconds = UNKNOWN_RETRY_AFTER_SECONDS
    else:
        seconds = excess / per_second if per_second > 0 else seconds_max
    return round(min(max(seconds, RETRY_AFTER_SECONDS_MIN), max(seconds_max, RETRY_AFTER_SECONDS_MIN)), 1)


class _Rate:
    """How many a second, from a counter; smoothed."""

    __slots__ = ("_at", "_count", "per_second")

    def __init__(self, at: float, count: int = 0) -> None:
        self._at = at
        self._count = count
        #: Not known before two readings.
        self.per_second: float | None = None

    def measure(self, at: float, count: int) -> None:
        elapsed = at - self._at
        if elapsed <= 0:
            return
        now = max(0.0, (count - self._count) / elapsed)
        before = now if self.per_second is None else self.per_second
        self.per_second = before + (now - before) * (1 - math.exp(-elapsed / RATE_SECONDS))
        self._at, self._count = at, count


class _Namespace:
    """What is known of the backlog of one namespace."""

    __slots__ = ("admitted", "backlog", "held", "rate", "state")

    def __init__(self) -> None:
        self.backlog = Backlog(0, 0, 0)
        #: Tasks admitted since JetStream was asked: each has a dispatch at least, in all likelihood.
        self.admitted = 0
        #: Steps that wait before a gate.
        self.held = 0
        self.state: State = "open"
        self.rate: _Rate | None = None

    @property
    def steps(self) -> int:
        return self.backlog.dispatches + self.admitted + self.held

    @property
    def idle(self) -> bool:
        return not self.steps


class Admission:
    """The door of one orchestrator process: see the module.

    `read` gives the gauges that cannot be told from in here, by name; `now` is a clock in seconds that never goes back.
    """

    def __init__(
        self, bounds: Bounds, read: Callable[[], Mapping[str, float]], now: Callable[[], float]
    ) -> None:
        self._bounds = bounds
        self._read = read
        self._now = now
        self._states: dict[str, State] = {}
        #: Of the states: the first gauge that is closed, and whether any is strained.
        self._closed: str | None = None
        self._strained = False
        self._readings: dict[str, float] = {}
        self._read_at = -math.inf
        #: Creates without an answer.
        self._under_way_count = 0
        #: Since when requests to create are decided and committed here, the oldest first.
        self._deciding: dict[int, float] = {}
        self._next_ticket = 0
        self._ended = _Rate(now())
        self._shares: dict[str, float] = {}
        self._namespaces: dict[str, _Namespace] = {}
        #: Orchestrators that let creates in, this one included.
        self.doors = 1
        self.admitted_count = 0
        self.ended_count = 0
        self.refused_count = 0
        #: Refused creates by the gauge that was the reason.
        self.refused_by: dict[str, int] = {}

    # -- deciding --------------------------------------------------------------------------------

    @contextmanager
    def taken(self, namespace: str, count: int = 1) -> Iterator[None]:
        """Let so many creates of a namespace in for the length of the block; raises `ApiError` where it cannot."""
        error = self.refusal(namespace, count)
        if error is not None:
            raise error
        self._under_way_count += count
        self.admitted_count += count
        self._shares[namespace] = self._shares.get(namespace, 0.0) + count
        self._namespace(namespace).admitted += count
        try:
            yield
        finally:
            self._under_way_count -= count
            self.ended_count += count

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """While the block lasts, a create that was let in is decided and committed here: its age counts.

        Not while it waits for a shard that changes hands; that says nothing about the shards that are owned here.
        """
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        self._deciding[ticket] = self._now()
        try:
            yield
        finally:
            del self._deciding[ticket]

    def refusal(self, namespace: str, count: int = 1) -> ApiError | None:
        """Why so many creates of a namespace are refused now, and counted as such; `None` where they are not."""
        now = self._now()
        if now - self._read_at >= READ_SECONDS:
            self.look(now)
        reason = self._reason(namespace, count)
        if reason is None:
            return None
        self.refused_count += count
        self.refused_by[reason] = self.refused_by.get(reason, 0) + count
        return self._error(reason, namespace)

    def _reason(self, namespace: str, count: int) -> str | None:
        under_way = self._bounds.gauges.get("creates_under_way")
        if under_way and self._closed == "creates_under_way" and self._under_way_count < under_way.resume:
            # They have been answered since the last look.
            self.look(self._now())
        if self._closed is not None:
            return self._closed
        # Counted exactly; but a request that alone is larger than the bound is not refused for ever.
        if under_way is not None and self._under_way_count:
            after = self._under_way_count + count
            if after > under_way.limit:
                return "creates_under_way"
        known = self._namespaces.get(namespace)
        if known is not None and self._namespace_state(known) == "closed":
            return "namespace_backlog"
        if self._strained and over_share(self._shares, namespace):
            return "namespace_share"
        return None

    def _namespace_state(self, known: _Namespace) -> State:
        closed = known.state == "closed"
        count = state_of(self._steps(known), self._bounds.namespace_steps, closed=closed)
        size = state_of(known.backlog.size_bytes, self._bounds.namespace_bytes, closed=closed)
        known.state = "closed" if "closed" in (count, size) else count
        return known.state

    def _steps(self, known: _Namespace) -> int:
        """What waits, with what the other doors are likely to have let in since JetStream was asked."""
        return known.steps + known.admitted * (self.doors - 1)

    def own_work_waits(self) -> float | None:
        """For how many seconds accepted work is to put off starting more of its own; `None` where it need not."""
        now = self._now()
        if now - self._read_at >= READ_SECONDS:
            self.look(now)
        if any(self._states.get(name) == "closed" for name in DRAINING):
            return RETRY_AFTER_SECONDS_MIN
        return None

    # -- looking ---------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Read every gauge, and let old shares fade."""
        readings = dict(self._read())
        readings["creates_under_way"] = self._under_way_count
        oldest = next(iter(self._deciding.values()), now)
        readings["create_age_ms"] = (now - oldest) * 1000
        self._states = states_of(readings, self._bounds.gauges, self._states)
        self._closed = next((name for name, state in self._states.items() if state == "closed"), None)
        self._strained = "strained" in self._states.values()
        self._readings = readings
        self._ended.measure(now, self.ended_count)
        fade = math.exp(-(now - self._read_at) / SHARE_SECONDS)
        faded = {name: share * fade for name, share in self._shares.items() if share * fade >= 0.5}
        if len(faded) > NAMESPACES_MAX:
            faded = {}
        self._shares = faded
        self._read_at = now

    def namespaces(self) -> list[str]:
        """Those to ask JetStream about: something was admitted, or waits."""
        return [
            name
            for name, known in self._namespaces.items()
            if known.admitted or known.backlog.dispatches or known.state != "open"
        ]

    def heard(self, namespace: str, backlog: Backlog, admitted_before: int, at: float) -> None:
        """What JetStream said of a namespace's stream; `admitted_before` were admitted when it was asked."""
        known = self._namespace(namespace)
        if known.rate is None or backlog.drained < known.backlog.drained:
            # Seen for the first time, or the stream was made anew.
            known.rate = _Rate(at, backlog.drained)
        else:
            known.rate.measure(at, backlog.drained)
        known.backlog = backlog
        known.admitted = max(0, known.admitted - admitted_before)
        self._namespace_state(known)
        if known.idle:
            del self._namespaces[namespace]

    def heard_held(self, held: Mapping[str, int]) -> None:
        """How many steps wait before gates, by namespace; none of those that are not named."""
        for namespace in {*held, *self._namespaces}:
            known = self._namespace(namespace)
            known.held = held.get(namespace, 0)
            self._namespace_state(known)
            if known.idle:
                del self._namespaces[namespace]

    def admitted_of(self, namespace: str) -> int:
        """Tasks of a namespace admitted since JetStream said how much waits."""
        known = self._namespaces.get(namespace)
        return 0 if known is None else known.admitted

    def _namespace(self, namespace: str) -> _Namespace:
        known = self._namespaces.get(namespace)
        if known is None:
            known = self._namespaces[namespace] = _Namespace()
        return known

    # -- telling ---------------------------------------------------------------------------------

    def _error(self, reason: str, namespace: str) -> ApiError:
        seconds = self._retry_after(reason, namespace)
        if reason == "namespace_share":
            why = f"the orchestrator is busy, and namespace {namespace!r} has had more than its share"
        elif reason == "namespace_backlog":
            known = self._namespace(namespace)
            why = (
                f"{self._steps(known):,} steps of namespace {namespace!r} with {known.backlog.size_bytes:,} bytes wait for its "
                f"workers, {known.held:,} of them before a gate (at most {self._bounds.namespace_steps.limit:,.0f} and "
                f"{self._bounds.namespace_bytes.limit:,.0f} bytes)"
            )
        else:
            value = self._under_way_count if reason == "creates_under_way" else self._readings.get(reason, 0)
            why = f"{value:,.0f} {GAUGES[reason]} (at most {self._bounds.gauges[reason].limit:,.0f})"
        return ApiError(
            "BACKPRESSURE",
            f"nothing was done, try again in {seconds:g} s: {why}",
            retry_after_seconds=seconds,
            reason=reason,
        )

    def _retry_after(self, reason: str, namespace: str) -> float:
        longest = self._bounds.retry_after_seconds_max
        if reason == "namespace_backlog":
            known = self._namespace(namespace)
            rate = None if known.rate is None else known.rate.per_second
            count, size = self._bounds.namespace_steps, self._bounds.namespace_bytes
            bytes_each = known.backlog.size_bytes / max(known.backlog.dispatches, 1)
            too_large = (known.backlog.size_bytes - size.resume) / max(bytes_each, 1)
            return seconds_until(max(self._steps(known) - count.resume, too_large), rate, longest)
        if reason in ROOM:
            return min(ROOM_RETRY_AFTER_SECONDS, max(longest, RETRY_AFTER_SECONDS_MIN))
        # What stands still, a database that is away, goes on all at once: nobody should sleep over it.
        longest = min(longest, BUSY_RETRY_AFTER_SECONDS_MAX)
        if reason == "creates_under_way":
            excess = self._under_way_count - self._bounds.gauges[reason].resume
        elif reason == "commands_waiting":
            excess = self._readings[reason] - self._bounds.gauges[reason].resume
        else:
            # Everything under way has to be answered before this is over.
            excess = self._under_way_count
        return seconds_until(excess, self._ended.per_second, longest)

    def load(self, owner: str, counters: Mapping[str, int]) -> OrchestratorLoad:
        """Everything that decides, for people and their metrics."""
        self.look(self._now())
        gauges = tuple(
            GaugeLoad(
                name=name,
                value=None if (value := self._readings.get(name)) is None else round(value),
                limit=None if (bound := self._bounds.gauges.get(name)) is None else round(bound.limit),
                state=self._states.get(name, "open"),
            )
            for name in GAUGES
        )
        namespaces = tuple(
            NamespaceLoad(
                namespace=name,
                steps=self._steps(known),
                held_steps=known.held,
                dispatches_bytes=known.backlog.size_bytes,
                drained_per_second=0.0 if known.rate is None else round(known.rate.per_second or 0.0, 1),
                state=self._namespace_state(known),
            )
            for name, known in sorted(self._namespaces.items(), key=lambda item: item[1].steps, reverse=True)[
                :NAMESPACES_SHOWN_MAX
            ]
        )
        return OrchestratorLoad(
            owner=owner,
            state=worst(self._states.values()),
            gauges=gauges,
            namespaces=namespaces,
            namespace_steps_max=round(self._bounds.namespace_steps.limit),
            namespace_bytes_max=round(self._bounds.namespace_bytes.limit),
            creates_admitted=self.admitted_count,
            creates_refused=self.refused_count,
            refused_by=dict(self.refused_by),
            creates_per_second=round(self._ended.per_second or 0.0, 1),
            counters=dict(counters),
        )


#: Namespaces that `load` lists, those with the most waiting first.
NAMESPACES_SHOWN_MAX: Final = 50


def worst(states: Iterable[State]) -> State:
    """The state of all of them together."""
    found = set(states)
    if "closed" in found:
        return "closed"
    return "strained" if "strained" in found else "open"
