"""When schedules fire: cron in time zones, intervals, single moments, bounds, jitter."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from stepweave_orchestrator.core.schedules.timing import Timing, TimingError, check_spec, jitter_ms
from stepweave_schemas.schedule import Timing as TimingSpec

from .schedule_scenario import DAY, HOUR, MINUTE, at, spec_of

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"


def ahead(after: str, count: int, **fields: Any) -> list[str]:
    """The next firings in the schedule's own time, short."""
    timing = Timing(TimingSpec(**fields))
    return [
        timing.local(moment)[:16].replace("T", " ") + timing.local(moment)[19:]
        for moment in timing.preview(at(after), count)
    ]


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        (
            "*/30 9 * * MON-THU",
            ["2026-01-01 09:00", "2026-01-01 09:30", "2026-01-05 09:00"],
        ),
        ("5,50 8-10/2 * * *", ["2026-01-01 08:05", "2026-01-01 08:50", "2026-01-01 10:05"]),
        ("0 0 29 FEB *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 12 L * *", ["2026-01-31 12:00", "2026-02-28 12:00", "2026-03-31 12:00"]),
        ("0 12 31 * *", ["2026-01-31 12:00", "2026-03-31 12:00", "2026-05-31 12:00"]),
        ("0 9 LW * *", ["2026-01-30 09:00", "2026-02-27 09:00"]),
        ("0 9 * * MON#1", ["2026-01-05 09:00", "2026-02-02 09:00"]),
        ("0 9 * * 5L", ["2026-01-30 09:00", "2026-02-27 09:00"]),
        ("0 9 * * 7", ["2026-01-04 09:00", "2026-01-11 09:00"]),
        ("@daily", ["2026-01-02 00:00", "2026-01-03 00:00"]),
        ("@yearly", ["2027-01-01 00:00"]),
        # Where both days are given either is enough, as in any cron.
        ("0 0 13 * FRI", ["2026-01-02 00:00", "2026-01-09 00:00", "2026-01-13 00:00"]),
    ],
)
def test_cron(cron: str, expected: list[str]) -> None:
    assert ahead("2026-01-01 00:00", len(expected), cron=cron) == [one + "+00:00" for one in expected]


def test_six_fields_have_seconds_in_front() -> None:
    timing = Timing(TimingSpec(cron="*/30 59 23 * * *"))
    first = at("2026-01-01 23:59")
    assert timing.preview(at("2026-01-01 00:00"), 3) == [first, first + 30_000, first + DAY]


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize(
    ("zone", "cron", "after", "expected"),
    [
        # A local time that does not exist fires once, at the first moment after the gap.
        (BERLIN, "30 2 * * *", "2026-03-28 12:00", ["2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00"]),
        (NEW_YORK, "30 2 * * *", "2026-03-07 12:00", ["2026-03-08 03:00-04:00", "2026-03-09 02:30-04:00"]),
        (BERLIN, "*/15 2 * * *", "2026-03-28 12:00", ["2026-03-29 03:00+02:00", "2026-03-30 02:00+02:00"]),
        # What fires then anyway does not fire twice.
        (BERLIN, "30,0 2,3 * * *", "2026-03-28 12:00", ["2026-03-29 03:00+02:00", "2026-03-29 03:30+02:00"]),
        # A local time that comes twice fires the first time.
        (
            BERLIN,
            "30 2 * * *",
            "2026-10-24 12:00",
            ["2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"],
        ),
        (
            NEW_YORK,
            "30 1 * * *",
            "2026-10-31 12:00",
            ["2026-11-01 01:30-04:00", "2026-11-02 01:30-05:00"],
        ),
        # Asked in the second of the two hours, it has been.
        (NEW_YORK, "30 1 * * *", "2026-11-01 06:10", ["2026-11-02 01:30-05:00"]),
        # Every hour means every real hour.
        (
            BERLIN,
            "0 * * * *",
            "2026-03-29 00:30",
            ["2026-03-29 03:00+02:00", "2026-03-29 04:00+02:00"],
        ),
        (
            BERLIN,
            "0 * * * *",
            "2026-10-24 23:30",
            ["2026-10-25 02:00+02:00", "2026-10-25 02:00+01:00", "2026-10-25 03:00+01:00"],
        ),
        (
            NEW_YORK,
            "*/30 * * * *",
            "2026-11-01 05:00",
            ["2026-11-01 01:30-04:00", "2026-11-01 01:00-05:00", "2026-11-01 01:30-05:00"],
        ),
        # Zones where midnight is missing, and where the change is half an hour.
        (
            "Africa/Cairo",
            "0 0 * * *",
            "2026-04-23 12:00",
            ["2026-04-24 01:00+03:00", "2026-04-25 00:00+03:00"],
        ),
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            "2026-10-03 12:00",
            ["2026-10-04 02:30+11:00", "2026-10-05 02:15+11:00"],
        ),
    ],
)
def test_changes_of_daylight_saving_time(
    zone: str, cron: str, after: str, expected: list[str], six: bool
) -> None:
    said = f"0 {cron}" if six else cron
    assert ahead(after, len(expected), cron=said, time_zone=zone) == expected


def test_a_day_of_each_length_has_as_many_hours_as_it_has() -> None:
    hourly = Timing(TimingSpec(cron="0 * * * *", time_zone=BERLIN))
    assert hourly.count(at("2026-03-28 23:00"), at("2026-03-29 22:00")) == 23
    assert hourly.count(at("2026-10-24 22:00"), at("2026-10-25 23:00")) == 25


@pytest.mark.parametrize(
    "cron", ["30 2 * * *", "*/15 1-3 * * *", "0 */2 * * *", "* * * * *", "*/20 30 2 * * *", "@weekly"]
)
@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, "Australia/Lord_Howe", "Africa/Cairo", "UTC"])
def test_counting_is_the_same_as_going_from_one_to_the_next(cron: str, zone: str) -> None:
    timing = Timing(TimingSpec(cron=cron, time_zone=zone))
    chance = random.Random(f"{cron} {zone}")
    for _ in range(4):
        month, day = chance.choice([(3, 6), (3, 27), (4, 3), (10, 2), (10, 23), (10, 30)])
        since = round(datetime(2026, month, day, tzinfo=UTC).timestamp() + chance.randrange(86_400)) * 1000
        until = since + chance.randrange(4 * DAY)
        within = []
        moment = timing.first_from(since)
        while moment is not None and moment < until:
            within.append(moment)
            moment = timing.next_after(moment)
        assert timing.count(since, until) == len(within)
        if within:
            assert timing.last_until(within[0], until - 1) == within[-1]


def test_years_of_seconds_are_counted_at_once() -> None:
    assert (
        Timing(TimingSpec(cron="* * * * * *", time_zone=BERLIN)).count(
            at("2026-01-01 00:00"), at("2030-01-01 00:00")
        )
        == (4 * 365 + 1) * 86_400
    )


def test_an_interval_is_anchored() -> None:
    assert ahead("2026-01-01 00:01", 2, every_seconds=900) == [
        "2026-01-01 00:15+00:00",
        "2026-01-01 00:30+00:00",
    ]
    assert ahead("2026-01-01 00:01", 2, every_seconds=900, anchor="2030-01-01T00:05:00Z") == [
        "2026-01-01 00:05+00:00",
        "2026-01-01 00:20+00:00",
    ]


def test_once_and_bounds() -> None:
    assert ahead("2026-01-01 00:00", 5, at="2026-01-02T01:00:00+01:00") == ["2026-01-02 00:00+00:00"]
    assert ahead("2026-01-02 00:00", 5, at="2026-01-02T00:00:00Z") == []
    assert ahead(
        "2026-01-01 00:00",
        9,
        cron="@daily",
        starts_at="2026-01-03T00:00:00Z",
        ends_at="2026-01-05T00:00:00Z",
    ) == ["2026-01-03 00:00+00:00", "2026-01-04 00:00+00:00"]


def test_jitter_is_within_bounds_spread_and_always_the_same() -> None:
    found = [jitter_ms("id", nominal, 10 * MINUTE) for nominal in range(0, 1_000 * HOUR, HOUR)]
    assert found == [jitter_ms("id", nominal, 10 * MINUTE) for nominal in range(0, 1_000 * HOUR, HOUR)]
    assert min(found) >= 0
    assert max(found) <= 10 * MINUTE
    assert min(found) < MINUTE < 9 * MINUTE < max(found)
    assert found != [jitter_ms("other", nominal, 10 * MINUTE) for nominal in range(0, 1_000 * HOUR, HOUR)]
    assert jitter_ms("id", 1, 0) == 0


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"cron": "61 * * * *"}, "cron: '61 * * * *': the field minute takes 0-59"),
        ({"cron": "* * * *"}, "has 4 fields"),
        ({"cron": "@reboot"}, "'@reboot' stands for nothing; what does: @hourly"),
        ({"cron": "0 0 31 2 *"}, "some month must have that day"),
        ({"cron": "0 0 5L/2 * *"}, "day-of-month"),
        ({"cron": "x" * 300}, "200 at most"),
        (
            {"cron": "@daily", "every_seconds": 60},
            "exactly one of cron, every_seconds and at says when; given: cron and every_seconds",
        ),
        ({"cron": "@daily", "time_zone": "Europe/Berlim"}, "did you mean Europe/Berlin?"),
        ({"cron": "@daily", "time_zone": "../etc/passwd"}, "time_zone: there is no zone"),
        ({"cron": "@daily", "time_zone": "localtime"}, "time_zone: there is no zone"),
        ({"cron": "@daily", "anchor": "2026-01-01T00:00:00Z"}, "anchor: only an interval"),
        ({"every_seconds": 0}, "every_seconds: 0 s; an interval has 1 to"),
        ({"at": "2026-01-01 00:00"}, "at: "),
        ({"at": "2020-01-01T00:00:00Z"}, "at: 2020-01-01T00:00:00Z is not ahead"),
        ({"at": "2026-06-01T00:00:00.5Z"}, "whole seconds"),
        ({"cron": "@daily", "ends_at": "2020-01-01T00:00:00Z"}, "no moment of it lies ahead before 2020"),
        (
            {"cron": "@daily", "starts_at": "2026-02-01T00:00:00Z", "ends_at": "2026-02-01T00:00:00Z"},
            "ends_at: it is not later",
        ),
        ({"cron": "@daily", "jitter_seconds": -1}, "jitter_seconds: -1 s; a jitter has 0 to"),
        ({"cron": "@daily", "overlap": "queue"}, "overlap: expected one of skip, buffer_one"),
        ({"cron": "@daily", "catch_up_seconds": -1}, "catch_up_seconds: -1 s; the window has 0 to"),
    ],
)
def test_settings_that_are_wrong_say_so(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(TimingError) as refused:
        check_spec(spec_of(**fields), at("2026-01-05 12:00"))
    assert problem in str(refused.value)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(TimingError) as refused:
        check_spec(
            spec_of(cron="x", time_zone="Mars", overlap="never", jitter_seconds=-1), at("2026-01-05 12:00")
        )
    assert {problem.partition(":")[0] for problem in refused.value.problems} == {
        "cron",
        "time_zone",
        "overlap",
        "jitter_seconds",
    }
