"""When a schedule fires: a cron expression, an interval, or one moment; within bounds, and late by its jitter."""

from __future__ import annotations

import hashlib
from difflib import get_close_matches
from typing import Final, Protocol
from zoneinfo import ZoneInfo, available_timezones

from stepweave_schemas.envelope import parse_timestamp
from stepweave_schemas.schedule import OVERLAP_POLICIES, ScheduleSpec
from stepweave_schemas.schedule import Timing as TimingSpec

from .cron import Cron, CronError, local_text

#: Bounds of what a schedule may be told.
EVERY_SECONDS_MAX: Final = 366 * 86_400
JITTER_SECONDS_MAX: Final = 86_400
CATCH_UP_SECONDS_MAX: Final = 366 * 86_400
DESCRIPTION_CHARS_MAX: Final = 1_024
#: 1 January 2200: nothing fires later.
MOMENT_MS_MAX: Final = 7_258_118_400_000
#: Zones of the machine, which differ from one to the next.
_LOCAL_ZONES: Final = frozenset({"localtime", "posixrules"})


class TimingError(ValueError):
    """What is wrong with a schedule's settings; `problems` has one text each, `field: what`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _Moments(Protocol):
    """Whole seconds since the Unix epoch."""

    def next_after(self, moment: int) -> int | None:
        """The first one later than `moment`."""

    def count(self, since: int, until: int) -> int:
        """How many there are from `since` on and before `until`."""


class _Interval:
    def __init__(self, every: int, anchor: int) -> None:
        self._every = every
        self._anchor = anchor

    def next_after(self, moment: int) -> int | None:
        return self._anchor + ((moment - self._anchor) // self._every + 1) * self._every

    def count(self, since: int, until: int) -> int:
        if until <= since:
            return 0
        return (until - 1 - self._anchor) // self._every - (since - 1 - self._anchor) // self._every


class _Once:
    def __init__(self, at: int) -> None:
        self._at = at

    def next_after(self, moment: int) -> int | None:
        return self._at if self._at > moment else None

    def count(self, since: int, until: int) -> int:
        return int(since <= self._at < until)


class Timing:
    """The nominal moments of a schedule, in ms since the Unix epoch."""

    def __init__(self, spec: TimingSpec) -> None:
        """Raises `TimingError` with everything that is wrong."""
        problems: list[str] = []
        self.zone = _zone(spec.time_zone, problems)
        self._starts_ms = _moment("starts_at", spec.starts_at, problems)
        self._ends_ms = _moment("ends_at", spec.ends_at, problems)
        if self._starts_ms is not None and self._ends_ms is not None and self._ends_ms <= self._starts_ms:
            problems.append("ends_at: it is not later than starts_at")
        if not 0 <= spec.jitter_seconds <= JITTER_SECONDS_MAX:
            problems.append(
                f"jitter_seconds: {spec.jitter_seconds} s; a jitter has 0 to {JITTER_SECONDS_MAX} s (1d)"
            )
        self.jitter_ms = spec.jitter_seconds * 1000
        moments = self._moments(spec, problems)
        if moments is None or problems:
            raise TimingError(problems)
        self._of = moments
        #: What the moments follow from.
        self._identity = (
            spec.cron,
            spec.every_seconds,
            spec.at,
            spec.anchor,
            spec.time_zone,
            self._starts_ms,
            self._ends_ms,
        )

    def is_same(self, other: Timing) -> bool:
        """Whether both have the same moments, however late these are by their jitter."""
        return self._identity == other._identity

    def _moments(self, spec: TimingSpec, problems: list[str]) -> _Moments | None:
        given = [
            name
            for name, value in (("cron", spec.cron), ("every_seconds", spec.every_seconds), ("at", spec.at))
            if value is not None
        ]
        if len(given) != 1:
            said = " and ".join(given) or "none of them"
            problems.append(f"exactly one of cron, every_seconds and at says when; given: {said}")
            return None
        if spec.anchor is not None and spec.every_seconds is None:
            problems.append("anchor: only an interval (every_seconds) has one")
        if spec.cron is not None:
            try:
                return Cron(spec.cron, self.zone)
            except CronError as error:
                problems.append(f"cron: {error}")
                return None
        if spec.every_seconds is not None:
            anchor_ms = _moment("anchor", spec.anchor, problems) or 0
            if not 1 <= spec.every_seconds <= EVERY_SECONDS_MAX:
                problems.append(
                    f"every_seconds: {spec.every_seconds} s; an interval has 1 to {EVERY_SECONDS_MAX} s (366d)"
                )
                return None
            return _Interval(spec.every_seconds, anchor_ms // 1000)
        at_ms = _moment("at", spec.at, problems)
        return None if at_ms is None else _Once(at_ms // 1000)

    # -- moments ---------------------------------------------------------------------------------

    def next_after(self, moment_ms: int) -> int | None:
        """The first nominal moment later than this one; `None` where none is left."""
        since_ms = moment_ms
        if self._starts_ms is not None:
            since_ms = max(since_ms, self._starts_ms - 1)
        if since_ms >= MOMENT_MS_MAX:
            return None
        found = self._of.next_after(since_ms // 1000)
        if found is None or found * 1000 > MOMENT_MS_MAX:
            return None
        return found * 1000 if self._ends_ms is None or found * 1000 < self._ends_ms else None

    def first_from(self, moment_ms: int) -> int | None:
        """The first nominal moment that is no earlier than this one."""
        return self.next_after(moment_ms - 1)

    def count(self, since_ms: int, until_ms: int) -> int:
        """How many nominal moments there are from `since_ms` on and before `until_ms`."""
        if self._starts_ms is not None:
            since_ms = max(since_ms, self._starts_ms)
        if self._ends_ms is not None:
            until_ms = min(until_ms, self._ends_ms)
        until_ms = min(until_ms, MOMENT_MS_MAX + 1)
        return self._of.count(-(-since_ms // 1000), -(-until_ms // 1000)) if since_ms < until_ms else 0

    def last_until(self, first_ms: int, until_ms: int) -> int:
        """The last nominal moment from `first_ms`, which is one, to `until_ms`."""
        low, high = first_ms // 1000, until_ms // 1000
        # The first one later than `low - 1` fits, that later than `high` does not.
        while high - low > 0:
            middle = (low + high + 1) // 2
            found = self.first_from(middle * 1000)
            if found is not None and found <= until_ms:
                low = middle
            else:
                high = middle - 1
        found = self.first_from(low * 1000)
        return first_ms if found is None or found > until_ms else found

    def preview(self, after_ms: int, count: int) -> list[int]:
        """The next nominal moments after this one, `count` at most."""
        found: list[int] = []
        last_ms = after_ms
        while len(found) < count and (at_ms := self.next_after(last_ms)) is not None:
            found.append(at_ms)
            last_ms = at_ms
        return found

    def local(self, moment_ms: int) -> str:
        """The moment as RFC 3339 text in the schedule's zone."""
        return local_text(moment_ms // 1000, self.zone)


def jitter_ms(schedule_id: str, nominal_ms: int, jitter_ms_max: int) -> int:
    """How late a firing is: the same whenever and wherever it is asked."""
    if not jitter_ms_max:
        return 0
    digest = hashlib.sha256(f"{schedule_id}:{nominal_ms}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (jitter_ms_max + 1)


def check_spec(spec: ScheduleSpec, now_ms: int) -> Timing:
    """The timing of a schedule's settings; raises `TimingError` with everything that is wrong with them."""
    problems: list[str] = []
    if spec.overlap not in OVERLAP_POLICIES:
        problems.append(f"overlap: expected one of {', '.join(OVERLAP_POLICIES)}, not {spec.overlap[:100]!r}")
    if not 0 <= spec.catch_up_seconds <= CATCH_UP_SECONDS_MAX:
        problems.append(
            f"catch_up_seconds: {spec.catch_up_seconds} s; the window has 0 to {CATCH_UP_SECONDS_MAX} s (366d)"
        )
    if len(spec.description) > DESCRIPTION_CHARS_MAX or "\x00" in spec.description:
        problems.append(
            f"description: {len(spec.description)} characters; {DESCRIPTION_CHARS_MAX} at most, and no NUL"
        )
    timing = None
    try:
        timing = Timing(spec)
    except TimingError as error:
        problems += error.problems
    if timing is not None and timing.next_after(now_ms) is None:
        ends = f" before {spec.ends_at}" if spec.ends_at else ""
        problems.append(
            f"at: {spec.at} is not ahead: it would never fire"
            if spec.at and not ends
            else f"it would never fire: no moment of it lies ahead{ends}"
        )
    if problems or timing is None:
        raise TimingError(problems)
    return timing


def _zone(name: str, problems: list[str]) -> ZoneInfo:
    try:
        if name in _LOCAL_ZONES:
            raise ValueError
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        close = get_close_matches(name[:100], available_timezones(), 1, 0.6)
        hint = f"; did you mean {close[0]}?" if close else "; one is called like Europe/Berlin"
        problems.append(f"time_zone: there is no zone {name[:100]!r}{hint}")
        return ZoneInfo("UTC")


def _moment(field: str, text: str | None, problems: list[str]) -> int | None:
    if text is None:
        return None
    try:
        at_ms = parse_timestamp(text[:100])
    except (ValueError, OverflowError) as error:
        problems.append(f"{field}: {error}")
        return None
    if not 0 <= at_ms <= MOMENT_MS_MAX:
        problems.append(f"{field}: {text} is out of range")
        return None
    if at_ms % 1000:
        problems.append(f"{field}: {text}: a schedule knows whole seconds")
        return None
    return at_ms
