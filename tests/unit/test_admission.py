"""The door for creates: pure decisions on readings and a clock that the tests hold."""

from __future__ import annotations

import math
import shutil
import tempfile
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepweave_orchestrator.cli.health import Grade
from stepweave_orchestrator.cli.health_servers import of_loads
from stepweave_orchestrator.cli.load import print_loads
from stepweave_orchestrator.runtime.admission import (
    DRAINING,
    GAUGES,
    ROOM,
    Admission,
    Backlog,
    Bound,
    Bounds,
    State,
    over_share,
    seconds_until,
    state_of,
    worst,
)
from stepweave_orchestrator.runtime.disk import disk_bound, disk_bytes, feed_bytes
from stepweave_orchestrator.runtime.load_readings import bounds_of
from stepweave_orchestrator.runtime.memory import memory_bytes, memory_bytes_max
from stepweave_orchestrator.runtime.settings import Settings, SettingsError
from stepweave_schemas.api import ApiError

BOUND = Bound(100, 75)


class Door:
    """An admission with readings and a clock in the test's hand."""

    def __init__(self, **gauges: Bound) -> None:
        self.now = 1_000.0
        self.readings: dict[str, float] = {}
        bounds = Bounds(
            gauges={
                "creates_under_way": Bound(10, 7),
                "commands_waiting": BOUND,
                "memory_bytes": BOUND,
                "create_age_ms": Bound(2_000, 1_500),
                **gauges,
            },
            namespace_steps=Bound(1_000, 750),
            namespace_bytes=Bound(1_000_000, 750_000),
            retry_after_seconds_max=30.0,
        )
        self.admission = Admission(bounds, lambda: self.readings, lambda: self.now)

    def reads(self, **readings: float) -> None:
        """New readings, and time for the door to look at them."""
        self.readings.update(readings)
        self.now += 0.1

    def create(self, namespace: str = "a", count: int = 1) -> ApiError | None:
        """Try to create and be answered at once; the error of a refusal."""
        try:
            with self.admission.taken(namespace, count):
                return None
        except ApiError as error:
            return error

    def refused(self, namespace: str = "a", count: int = 1) -> ApiError:
        error = self.create(namespace, count)
        assert error is not None
        assert error.code == "BACKPRESSURE"
        assert error.details["retry_after_seconds"] >= 1
        assert "nothing was done" in error.message
        return error

    def backlog(self, namespace: str, dispatches: int, drained: int, size_bytes: int = 0) -> None:
        """What JetStream says; everything admitted so far is in it."""
        admission = self.admission
        before = admission.admitted_of(namespace)
        admission.heard(namespace, Backlog(dispatches, size_bytes, drained), before, self.now)


@pytest.mark.parametrize(
    ("value", "closed", "state"),
    [
        (None, True, "open"),
        (0, False, "open"),
        (74, True, "open"),
        (75, False, "strained"),
        (75, True, "closed"),
        (99, False, "strained"),
        (100, False, "closed"),
        (1e12, True, "closed"),
    ],
)
def test_a_gauge_closes_at_its_limit_and_opens_well_below(
    value: float | None, closed: bool, state: State
) -> None:
    assert state_of(value, BOUND, closed=closed) == state
    assert state_of(value, None, closed=closed) == "open"


@given(st.lists(st.integers(min_value=76, max_value=130), min_size=1))
def test_it_does_not_flap_while_it_stays_near_its_limit(values: list[int]) -> None:
    """However the value moves above the resume level, it closes once at most and never opens."""
    state: State = "open"
    changes = 0
    for value in values:
        after = state_of(value, BOUND, closed=state == "closed")
        changes += (state == "closed") != (after == "closed")
        state = after
    assert changes <= 1


def test_creates_are_refused_while_a_gauge_is_closed() -> None:
    door = Door()
    door.reads(commands_waiting=99)
    assert door.create() is None
    door.reads(commands_waiting=100)
    error = door.refused()
    assert error.details["reason"] == "commands_waiting"
    assert "100 commands wait to be decided (at most 100)" in error.message
    door.reads(commands_waiting=80)
    assert door.refused().details["reason"] == "commands_waiting"
    door.reads(commands_waiting=74)
    assert door.create() is None
    assert (door.admission.admitted_count, door.admission.refused_count) == (2, 2)
    assert door.admission.refused_by == {"commands_waiting": 2}


def test_what_cannot_be_read_refuses_nothing() -> None:
    door = Door()
    door.reads(commands_waiting=100)
    door.refused()
    door.readings.clear()
    door.reads()
    assert door.create() is None


def test_readings_are_taken_rarely() -> None:
    door = Door()
    looks = 0

    def read() -> dict[str, float]:
        nonlocal looks
        looks += 1
        return {}

    door.admission._read = read
    for _ in range(1_000):
        door.now += 0.001
        assert door.create() is None
    assert looks <= 21


def test_creates_without_an_answer_are_counted_exactly() -> None:
    """Between two looks nobody gets past the bound, and one request that alone is larger than it is let in."""
    door = Door()
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(door.admission.taken("a"))
        assert door.refused().details["reason"] == "creates_under_way"
    assert door.create(count=10) is None
    assert door.create(count=200) is None
    with door.admission.taken("a", 200):
        assert door.refused().details["reason"] == "creates_under_way"
    door.reads()
    assert door.create() is None
    assert door.admission.ended_count == door.admission.admitted_count == 421


def test_an_old_create_without_an_answer_closes_the_door() -> None:
    door = Door()
    # One that waits for a shard without an owner says nothing about the others.
    with door.admission.taken("a"):
        door.now += 5
        assert door.create() is None
    with door.admission.taken("a"), door.admission.deciding():
        door.now += 1.9
        assert door.create() is None
        door.now += 0.2
        error = door.refused()
        assert error.details["reason"] == "create_age_ms"
        assert "2,100 ms is the age of the oldest create" in error.message
    door.reads()
    assert door.create() is None


def test_a_create_that_fails_is_no_longer_under_way() -> None:
    door = Door()
    with pytest.raises(KeyError), door.admission.taken("a", 10):
        raise KeyError
    assert door.create(count=10) is None


def test_retry_after_is_the_time_in_which_the_excess_drains() -> None:
    door = Door()
    for number in range(400):
        door.now += 0.1
        with door.admission.taken(f"n{number % 10}", 5):
            pass
    # 50 a second are answered; 150 are too many.
    door.reads(commands_waiting=225)
    assert door.refused().details["retry_after_seconds"] == pytest.approx(3, rel=0.05)
    # Nothing has been answered for a minute: what holds it up may be over any moment.
    for _ in range(60):
        door.now += 1
        door.refused()
    assert door.refused().details["retry_after_seconds"] == 5
    assert seconds_until(1e9, 1, 30) == 30
    assert seconds_until(1, 0, 30) == 30
    assert seconds_until(1e9, None, 30) == 3
    assert seconds_until(1, 1e9, 30) == seconds_until(-5, 1, 30) == 1


def test_a_namespace_that_floods_is_refused_before_the_others() -> None:
    door = Door()
    door.reads()
    assert door.create("flood", 999) is None
    assert door.create("flood", 1) is None
    error = door.refused("flood")
    assert error.details["reason"] == "namespace_backlog"
    assert "1,000 steps of namespace 'flood'" in error.message
    assert door.create("calm") is None
    # JetStream has all of it, and workers take a hundred a second.
    door.backlog("flood", 1_000, 0)
    for second in range(1, 21):
        door.now += 1
        door.backlog("flood", 1_000, 100 * second)
    assert door.refused("flood").details["retry_after_seconds"] == pytest.approx(2.5, rel=0.05)
    door.backlog("flood", 800, 2_200)
    door.refused("flood")
    door.backlog("flood", 749, 2_251)
    assert door.create("flood") is None
    assert door.create("calm") is None


def test_several_doors_do_not_take_the_same_room_each() -> None:
    """Until JetStream is asked again, the others are thought to let in as many as this one."""
    door = Door()
    door.admission.doors = 4
    door.reads()
    for _ in range(250):
        assert door.create("flood") is None
    assert "1,000 steps of namespace 'flood'" in door.refused("flood").message
    # They had nothing.
    door.backlog("flood", 250, 0)
    assert door.create("flood") is None
    [told] = door.admission.load("me", {}).namespaces
    assert told.steps == 254


def test_what_has_ended_since_the_last_look_is_not_under_way() -> None:
    door = Door()
    door.reads()
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(door.admission.taken("a"))
        door.reads()
        assert "10 creates are under way" in door.refused().message
        # Closed: also for one whose place is free again.
    assert door.create() is None, "0 creates are under way, and nobody has looked since"


def test_a_namespace_is_bounded_in_bytes_too() -> None:
    door = Door()
    door.reads()
    assert door.create("large") is None
    door.backlog("large", 100, 0, 1_000_000)
    assert "with 1,000,000 bytes" in door.refused("large").message
    door.backlog("large", 70, 30, 700_000)
    assert door.create("large") is None


def test_steps_that_are_held_before_a_gate_are_backlog_too() -> None:
    """A rate that is set too low holds no dispatch in JetStream, and yet everything waits."""
    door = Door()
    door.reads()
    door.admission.heard_held({"slow": 1_000, "other": 5})
    assert "1,000 steps of namespace 'slow'" in (message := door.refused("slow").message)
    assert "1,000 of them before a gate" in message
    assert door.create("other") is None
    door.admission.heard_held({"slow": 700})
    assert door.create("slow") is None
    [told, _] = door.admission.load("me", {}).namespaces
    assert (told.namespace, told.steps, told.held_steps) == ("slow", 701, 700)
    door.backlog("slow", 0, 1)
    door.backlog("other", 0, 1)
    door.admission.heard_held({})
    assert door.admission.load("me", {}).namespaces == ()


def test_a_stream_that_is_made_anew_starts_its_rate_anew() -> None:
    door = Door()
    door.backlog("a", 10, 1_000_000)
    door.now += 1
    door.backlog("a", 10, 5)
    door.now += 1
    door.backlog("a", 10, 15)
    [told] = door.admission.load("me", {}).namespaces
    assert 0 < told.drained_per_second <= 10


def test_a_namespace_without_a_backlog_is_forgotten() -> None:
    door = Door()
    door.reads()
    assert door.create("a") is None
    assert door.admission.namespaces() == ["a"]
    door.backlog("a", 0, 1)
    assert door.admission.namespaces() == []


def test_a_strained_door_refuses_those_with_more_than_their_share() -> None:
    door = Door()
    door.reads(commands_waiting=10)
    for _ in range(9):
        assert door.create("flood", 10) is None
        assert door.create("calm") is None
    door.reads(commands_waiting=80)
    error = door.refused("flood")
    assert error.details["reason"] == "namespace_share"
    assert "'flood'" in error.message
    assert door.create("calm") is None
    assert door.create("new") is None
    door.reads(commands_waiting=70)
    assert door.create("flood") is None
    # What it had fades; nobody is shut out for long.
    door.reads(commands_waiting=80)
    door.refused("flood")
    door.now += 60
    assert door.create("flood") is None


def test_one_namespace_alone_has_no_share_to_exceed() -> None:
    door = Door()
    door.reads(commands_waiting=80)
    for _ in range(50):
        assert door.create("only", 10) is None
    assert not over_share({}, "a")
    assert not over_share({"a": 9.0}, "a")
    assert over_share({"a": 9.0, "b": 1.0}, "a")
    assert not over_share({"a": 5.0, "b": 5.0}, "a")


def test_accepted_work_waits_only_for_what_falls_by_itself() -> None:
    """Room may be taken by tasks that wait for the very children that would be put off."""
    door = Door()
    door.reads(memory_bytes=1_000)
    assert door.refused().details["retry_after_seconds"] == 10.0
    assert door.admission.own_work_waits() is None
    door.reads(commands_waiting=1_000)
    assert door.admission.own_work_waits() == 1.0
    assert not DRAINING & ROOM
    assert GAUGES.keys() >= DRAINING | ROOM


def test_the_load_tells_what_decides(capsys: pytest.CaptureFixture[str]) -> None:
    door = Door()
    door.reads(commands_waiting=80, memory_bytes=50)
    assert door.create("a", 1_000) is None
    door.refused("a")
    load = door.admission.load("me", {"commits": 7})
    gauges = {one.name: one for one in load.gauges}
    assert gauges.keys() == GAUGES.keys()
    assert (gauges["commands_waiting"].value, gauges["commands_waiting"].state) == (80, "strained")
    assert (gauges["database_bytes"].value, gauges["database_bytes"].limit) == (None, None)
    assert (load.state, load.creates_admitted, load.creates_refused) == ("strained", 1_000, 1)
    assert load.refused_by == {"namespace_backlog": 1}
    assert [(one.namespace, one.steps, one.state) for one in load.namespaces] == [("a", 1_000, "closed")]
    assert load.counters == {"commits": 7}
    print_loads([load, load])
    shown = capsys.readouterr().out
    assert "me: strained; creates: 1,000 taken" in shown
    assert "1 refused (1 for namespace_backlog)" in shown
    finding = of_loads([load])
    assert finding.grade == Grade.WARN
    assert "refused in a" in finding.found
    door.reads(memory_bytes=100)
    assert "me (memory_bytes)" in of_loads([door.admission.load("me", {})]).found
    assert of_loads([Door().admission.load("other", {})]).grade == Grade.OK


def test_the_worst_state_counts() -> None:
    assert worst([]) == worst(["open", "open"]) == "open"
    assert worst(["open", "strained"]) == "strained"
    assert worst(["strained", "closed", "open"]) == "closed"


def test_every_bound_comes_from_a_setting() -> None:
    settings = Settings(
        database_url="postgresql://x",
        inbox_works_max=100,
        memory_bytes_max=1_000,
        database_bytes_max=4_000,
        disk_path=tempfile.gettempdir(),
        disk_free_bytes_min=1_000,
        admission_resume_percent=60,
        namespace_backlog_steps_max=10,
    )
    bounds = bounds_of(settings)
    assert bounds.gauges.keys() == GAUGES.keys()
    assert bounds.gauges["creates_under_way"] == bounds.gauges["commands_waiting"] == (100, 60)
    assert bounds.gauges["memory_bytes"] == (1_000, 950)
    assert bounds.gauges["database_bytes"] == (4_000, 2_400)
    assert bounds.namespace_steps == (10, 6)
    total = shutil.disk_usage(tempfile.gettempdir()).total
    assert bounds.gauges["disk_bytes"] == (total - 1_000, total - 1_250)
    assert (
        not {"database_bytes", "disk_bytes"}
        & bounds_of(Settings(database_url="postgresql://x")).gauges.keys()
    )
    with pytest.raises(SettingsError, match=r"STEPWEAVE_DISK_PATH: /nowhere cannot be looked at"):
        bounds_of(Settings(database_url="postgresql://x", disk_path="/nowhere"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("creates_under_way_max", 0, "creates_under_way_max: expected at least 1"),
        ("memory_bytes_max", -5, "memory_bytes_max: expected at least 1"),
        ("retry_after_seconds_max", 0.5, "retry_after_seconds_max: expected at least 1"),
        (
            "feed_bytes_max",
            6 * 1024**3,
            "jetstream_bytes_max: 75 % of it are 12884901888 bytes, and both feeds may",
        ),
        ("admission_resume_percent", 101, r"admission_resume_percent: expected 1\.\.100"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(name: str, value: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings(database_url="postgresql://x", **{name: value})  # type: ignore[arg-type]


def test_a_full_disk_refuses_until_there_is_some_more_room() -> None:
    bound = disk_bound(tempfile.gettempdir(), 1_000)
    assert bound is not None
    door = Door(disk_bytes=bound)
    for value, taken in ((-1, True), (0, False), (-249, False), (-251, True)):
        door.reads(disk_bytes=bound.limit + value)
        error = door.create()
        assert (error is None) is taken, value
        if error is not None:
            assert (error.details["reason"], error.details["retry_after_seconds"]) == ("disk_bytes", 10.0)
    used = disk_bytes(tempfile.gettempdir())
    assert used is not None and used > 0


def test_feeds_fit_onto_small_disks() -> None:
    gib = 1024**3
    assert feed_bytes(100 * gib, 4 * gib) == feed_bytes(16 * gib, 4 * gib) == 4 * gib
    assert feed_bytes(16 * gib - 1, 4 * gib) == 2 * gib
    assert feed_bytes(250 * 1024**2, 4 * gib) == 32 * 1024**2
    assert feed_bytes(0, 4 * gib) == 16 * 1024**2


def test_memory_is_bounded_by_the_container_or_the_machine() -> None:
    assert memory_bytes_max(1_000, 8_000) == 800
    assert memory_bytes_max(9_000, 8_000) == 4_000
    assert memory_bytes_max(None, 8_000) == 4_000
    assert memory_bytes_max(None, None) is None
    assert memory_bytes_max(1_000, None) == 800
    used = memory_bytes()
    assert used is None or math.log2(used) > 20
