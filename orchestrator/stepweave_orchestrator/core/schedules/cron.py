"""Cron expressions in a time zone, to the second.

A schedule that names hours (`30 2 * * *`, `*/15 9-17 * * 1-5`) follows the clock on the wall: a local time that a
change to daylight-saving time leaves out fires once, at the first moment after the gap, and one that comes twice fires
the first time only. One that runs in every hour (`0 * * * *`) follows real time: 23 or 25 times on such days.

Cronsim knows which local times fit an expression; it is asked without a zone, and the zone is applied here, the same
for five fields and for six. All moments are whole seconds since the Unix epoch.
"""

from __future__ import annotations

import bisect
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

#: Longest expression, in characters.
CRON_CHARS_MAX: Final = 200
#: Short names for common expressions.
SHORTHANDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EPOCH: Final = datetime(1970, 1, 1)
_HOUR: Final = 3_600
#: No zone changes its offset twice within so long.
_STEP: Final = 6 * _HOUR
#: Around a match so much is looked at for changes of the offset.
_NEAR: Final = 36 * _HOUR


class CronError(ValueError):
    """The expression is no cron expression; the text says what is wrong with it."""


class Cron:
    """The moments that an expression names in a zone."""

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        """Raises `CronError`."""
        self._zone = zone
        self._sim = _parse(expression)
        self._hours = sorted(self._sim.hours)
        self._minutes = sorted(self._sim.minutes)
        self._seconds = sorted(self._sim.seconds)
        self._per_hour = len(self._minutes) * len(self._seconds)
        self._per_day = len(self._hours) * self._per_hour
        #: Whether each real hour counts, as opposed to hours of the day.
        self._real = len(self._hours) == 24

    def next_after(self, moment: int) -> int | None:
        """The first match later than `moment`; `None` where there is none within 50 years."""
        return self._next_real(moment) if self._real else self._next_on_wall(moment)

    def count(self, since: int, until: int) -> int:
        """How many matches there are from `since` on and before `until`; costs O(days), not O(matches)."""
        total = 0
        offset = self._offset(since)
        begin = since
        local_begin = since + offset
        while begin < until:
            change = self._change(begin, until - 1)
            end = until if change is None else change
            total += self._count_local(local_begin, end + offset)
            if change is None:
                break
            before, offset = offset, self._offset(change)
            begin = change
            local_begin = change + offset
            if not self._real:
                if offset < before:
                    # These local times have been.
                    local_begin = change + before
                elif self._count_local(change + before, local_begin) and not self._matches(local_begin):
                    total += 1
        return total

    # -- following the clock on the wall ---------------------------------------------------------

    def _next_on_wall(self, moment: int) -> int | None:
        local = moment + self._offset(moment)
        while True:
            match = self._match_after(local)
            if match is None:
                return None
            found, local = self._moment_of(match)
            if found > moment:
                return found

    def _moment_of(self, local: int) -> tuple[int, int]:
        """The moment at which a local time fires, and the last local time that fires then or earlier."""
        aware = _naive(local).replace(tzinfo=self._zone)
        moment = round(aware.timestamp())
        after = self._offset(moment)
        if moment + after == local:
            return moment, local
        before = local - moment
        change = self._change(moment - abs(after - before) - 1, moment)
        assert change is not None, "a local time that does not exist lies in a gap"
        return change, max(local, change + self._offset(change) - 1)

    # -- following real time ---------------------------------------------------------------------

    def _next_real(self, moment: int) -> int | None:
        #: The first moment that is looked at, under the offset that holds there.
        since = moment + 1
        while True:
            offset = self._offset(since)
            match = self._match_after(since - 1 + offset)
            if match is None:
                return None
            candidate = match - offset
            change = self._change(since, min(candidate, since + _NEAR))
            if change is not None:
                since = change
            elif candidate <= since + _NEAR:
                return candidate
            else:
                # Nothing fits in between, whatever the offset does meanwhile.
                since = max(since + _NEAR, candidate - _NEAR)

    # -- local times and offsets -----------------------------------------------------------------

    def _match_after(self, local: int) -> int | None:
        """The first local time later than `local` that fits."""
        self._sim.dt = _naive(local)
        try:
            match = next(self._sim, None)
        except (OverflowError, ValueError):
            # Beyond the year 9999.
            return None
        return None if match is None else round((match - _EPOCH).total_seconds())

    def _matches(self, local: int) -> bool:
        return self._match_after(local - 1) == local

    def _count_local(self, since: int, until: int) -> int:
        """How many local times fit from `since` on and before `until`."""
        if until <= since:
            return 0
        first, last = since // 86_400, until // 86_400
        total = self._rank(last, until % 86_400) - self._rank(first, since % 86_400)
        return total + self._per_day * sum(self._fits(day) for day in range(first, last))

    def _rank(self, day: int, second: int) -> int:
        """How many of a day's times fit before a second of it."""
        if not second or not self._fits(day):
            return 0
        hour, minute = second // _HOUR, second // 60 % 60
        rank = bisect.bisect_left(self._hours, hour) * self._per_hour
        if hour in self._sim.hours:
            rank += bisect.bisect_left(self._minutes, minute) * len(self._seconds)
            if minute in self._sim.minutes:
                rank += bisect.bisect_left(self._seconds, second % 60)
        return rank

    def _fits(self, day: int) -> bool:
        """Whether a day, counted from 1970, fits."""
        found = date.fromordinal(_EPOCH.toordinal() + day)
        return found.month in self._sim.months and self._sim.match_day(found)

    def _offset(self, moment: int) -> int:
        """What a local time is ahead of UTC, in seconds."""
        offset = datetime.fromtimestamp(moment, self._zone).utcoffset()
        assert offset is not None, "a zone knows its offsets"
        return round(offset.total_seconds())

    def _change(self, after: int, until: int) -> int | None:
        """The first moment later than `after`, and not later than `until`, from which another offset holds."""
        if self._zone.key in ("UTC", "Etc/UTC"):
            return None
        offset = self._offset(after)
        low = after
        while low < until:
            high = min(low + _STEP, until)
            if self._offset(high) != offset:
                while high - low > 1:
                    middle = (low + high) // 2
                    if self._offset(middle) == offset:
                        low = middle
                    else:
                        high = middle
                return high
            low = high
        return None


def local_text(moment: int, zone: ZoneInfo) -> str:
    """A moment as RFC 3339 text with the zone's offset."""
    return datetime.fromtimestamp(moment, UTC).astimezone(zone).isoformat(timespec="seconds")


def _naive(local: int) -> datetime:
    return _EPOCH + timedelta(seconds=local)


def _parse(expression: str) -> CronSim:
    text = SHORTHANDS.get(expression.strip().lower(), expression)
    if len(text) > CRON_CHARS_MAX:
        raise CronError(f"{len(text)} characters, {CRON_CHARS_MAX} at most")
    count = len(text.split())
    known = ", ".join(SHORTHANDS)
    if text.strip().startswith("@"):
        raise CronError(f"{expression!r} stands for nothing; what does: {known}")
    if count not in (5, 6):
        raise CronError(
            f"{expression!r} has {count} fields; expected five (minute hour day month weekday), six with seconds in "
            f"front, or one of {known}"
        )
    try:
        return CronSim(text, _EPOCH)
    except CronSimError as error:
        problem = str(error).removeprefix("Bad ")
    except (ValueError, AssertionError, TypeError, IndexError, RecursionError):
        # The parser's answer to combinations that it does not foresee, such as steps of a last weekday.
        problem = ""
    where = _RANGES.get(problem)
    if where is None:
        raise CronError(f"{expression!r} is no cron expression")
    raise CronError(f"{expression!r}: the field {problem} takes {where}")


#: What each field may hold, by its name in cronsim's errors.
_RANGES: Final = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L (the last day) or LW (the last weekday), and some month must have that day",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT (0 and 7 are Sunday), 5L (the last Friday) or MON#2 (the second Monday)",
}
