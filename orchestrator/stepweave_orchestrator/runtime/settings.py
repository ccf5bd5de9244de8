"""What an orchestrator process can be told, with a bound on everything it holds."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Literal

import msgspec

from stepweave_orchestrator.core.commands import DEFAULT_LIMITS, Limits

from .memory import container_bytes, machine_bytes, memory_bytes_max

SignalLevel = Literal["all", "outcomes", "none"]

#: Live actors may take one part in so many of the process's memory, and no more than this.
ACTOR_SHARE = 4
ACTOR_BYTES_MAX = 1024 * 1024 * 1024
DEFAULT_FEED_BYTES_MAX = 4 * 1024 * 1024 * 1024

_ADMISSION = (
    "actor_bytes_max",
    "inbox_works_max",
    "creates_under_way_max",
    "requests_waiting_max",
    "round_trip_ms_max",
    "create_age_ms_max",
    "commit_ms_max",
    "projections_behind_max",
    "results_waiting_max",
    "namespace_backlog_steps_max",
    "namespace_backlog_bytes_max",
    "memory_bytes_max",
    "jetstream_bytes_max",
    "database_bytes_max",
    "disk_free_bytes_min",
    "admission_resume_percent",
    "retry_after_seconds_max",
)


class SettingsError(ValueError):
    """A setting has no usable value; the text names it and says what is expected."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one orchestrator process; `from_environment` reads `STEPWEAVE_<FIELD>` variables."""

    database_url: str
    nats_url: str = "nats://127.0.0.1:4222"
    #: Unique among live processes; it names the owner of shards.
    owner: str = ""
    #: Fixed when the installation is made; later values are ignored.
    shard_count: int = 8
    #: A shard whose owner does not renew for so long may be taken by another one.
    lease_ms: int = 10_000
    #: One commit: events and bytes of payload at most.
    batch_events_max: int = 2_000
    batch_bytes_max: int = 4 * 1024 * 1024
    #: Commands waiting to be decided; beyond it creates are refused with BACKPRESSURE.
    inbox_works_max: int = 20_000
    #: Live actors kept in memory, and their steps in all.
    actors_max: int = 20_000
    actor_steps_max: int = 500_000
    #: What their contexts and results take in memory; without a value a quarter of `memory_bytes_max`, 1 GiB at most.
    actor_bytes_max: int | None = None
    #: Committed events that are not published yet; deciding waits beyond it.
    publish_backlog_events_max: int = 50_000
    #: One message of the log feed.
    log_message_events_max: int = 500
    log_message_bytes_max: int = 512 * 1024
    #: Which events go out one by one on the signal feed, where a namespace says nothing.
    signals: SignalLevel = "outcomes"
    signals_by_namespace: dict[str, SignalLevel] = {}
    #: Retention of both feeds.
    feed_age_seconds_max: int = 7 * 24 * 3600
    feed_bytes_max: int = DEFAULT_FEED_BYTES_MAX
    #: A worker that does not renew a dispatch for so long has lost it.
    dispatch_lease_seconds: float = 30.0
    #: Commands of one shard pulled and not acknowledged.
    commands_in_flight_max: int = 2_000
    #: A snapshot is written when an actor leaves memory with so many events since the last one.
    snapshot_events_min: int = 500
    #: How long a shutdown may take before the process leaves anyway.
    shutdown_seconds_max: float = 20.0
    #: How far a task may grow; what goes beyond fails the step that asks for it.
    decision_depth_max: int = DEFAULT_LIMITS.decision_depth_max
    decision_steps_max: int = DEFAULT_LIMITS.decision_steps_max
    batch_workers_max: int = DEFAULT_LIMITS.batch_workers_max
    child_depth_max: int = DEFAULT_LIMITS.child_depth_max
    #: Signals of one task that no step has taken yet, and the bytes of their payloads together.
    signals_kept_max: int = DEFAULT_LIMITS.signals_kept_max
    signals_kept_bytes_max: int = DEFAULT_LIMITS.signals_kept_bytes_max
    #: How many steps of a namespace may begin each second, over all orchestrators, which must agree on it; JSON, such
    #: as `{"payments": 50}`. In no second begin more; a tenth of them may begin at once.
    rates_by_namespace: dict[str, float] = {}
    #: A step whose handler no live worker serves is named after so long.
    handler_missing_seconds: float = DEFAULT_LIMITS.handler_missing_ms / 1000
    #: How often tasks that stand still are looked at for that.
    handler_check_seconds: float = 30.0
    #: Creates are refused with BACKPRESSURE beyond each of these, and taken again below `admission_resume_percent` of
    #: it: creates that are not answered yet,
    creates_under_way_max: int = 3_000
    #: requests that nobody has looked at,
    requests_waiting_max: int = 4_000
    #: how long NATS takes to answer, which is how long requests wait on the way into the process,
    round_trip_ms_max: int = 1_000
    #: the age of the oldest create that is being decided and committed,
    create_age_ms_max: int = 2_000
    #: how long one commit takes,
    commit_ms_max: int = 5_000
    #: tasks that have changed since their rows in the lists were written (rows of tasks that have left memory cost much
    #: more, so this is well below `actors_max`),
    projections_behind_max: int = 10_000
    #: messages of workers that wait to be taken, of all shards,
    results_waiting_max: int = 100_000
    #: steps of one namespace that wait for its workers, run, or are held before a gate; and the dispatches' bytes,
    namespace_backlog_steps_max: int = 250_000
    namespace_backlog_bytes_max: int = 1024 * 1024 * 1024
    #: resident memory of the orchestrator; without a value 80 % of its container's, else half of the machine's,
    memory_bytes_max: int | None = None
    #: what JetStream stores, feeds included (and 90 % of its account's limit, where that has one),
    jetstream_bytes_max: int = 16 * 1024 * 1024 * 1024
    #: the size of the database (the room left on its disk cannot be asked for).
    database_bytes_max: int | None = None
    #: a folder on the disk that the servers write to, where this process can see it, and what has to stay free there;
    #: without a value 512 MiB, or a fifth of a small disk.
    disk_path: str | None = None
    disk_free_bytes_min: int | None = None
    admission_resume_percent: int = 75
    #: The longest `retry_after_seconds` that a refused create is told.
    retry_after_seconds_max: float = 30.0
    #: Overrides of this environment's templates (`environments`).
    environment: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.shard_count <= 1024:
            raise ValueError("shard_count: expected 1..1024")
        if self.lease_ms < 1_000:
            raise ValueError("lease_ms: expected at least 1000")
        for namespace, rate in self.rates_by_namespace.items():
            if not 0.001 <= rate <= 1_000_000:
                raise ValueError(
                    f"rates_by_namespace: {namespace}: expected 0.001..1000000 steps each second"
                )
        if not 0.05 <= self.handler_check_seconds <= 3600:
            raise ValueError("handler_check_seconds: expected 0.05..3600")
        for name, value in (*self.limits()._asdict().items(), *self._admission().items()):
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1")
        if self.admission_resume_percent > 100:
            raise ValueError("admission_resume_percent: expected 1..100")
        resume_bytes = self.jetstream_bytes_max * self.admission_resume_percent // 100
        if resume_bytes <= 2 * self.feed_bytes_max:
            # The feeds stay full: what was refused once would be refused for ever.
            raise ValueError(
                f"jetstream_bytes_max: {self.admission_resume_percent} % of it are {resume_bytes} bytes, and both "
                f"feeds may have {2 * self.feed_bytes_max}; expected more, or a smaller feed_bytes_max"
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: object) -> Settings:
        """Settings from `STEPWEAVE_…`, `DATABASE_URL` and `NATS_URL`; `given` wins over both.

        Raises `SettingsError` naming the variable and what is wrong with it.
        """
        variables = os.environ if environment is None else environment
        values: dict[str, object] = {}
        if url := variables.get("DATABASE_URL"):
            values["database_url"] = url
        if url := variables.get("NATS_URL"):
            values["nats_url"] = url
        for field in cls.__struct_fields__:
            text = variables.get(f"STEPWEAVE_{field.upper()}")
            if text is not None:
                values[field] = _from_json(field, text) if field.endswith("_by_namespace") else text
        values.update({name: value for name, value in given.items() if value is not None})
        values.setdefault("owner", f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}")
        if "database_url" not in values:
            raise SettingsError(
                "no database given: set DATABASE_URL, such as postgresql://user:password@host:5432/stepweave"
            )
        try:
            return msgspec.convert(values, cls, strict=False)
        except (msgspec.ValidationError, ValueError) as error:
            raise SettingsError(f"settings: {error}") from error

    def limits(self) -> Limits:
        """How far a task may grow."""
        return Limits(
            decision_depth_max=self.decision_depth_max,
            decision_steps_max=self.decision_steps_max,
            batch_workers_max=self.batch_workers_max,
            child_depth_max=self.child_depth_max,
            signals_kept_max=self.signals_kept_max,
            signals_kept_bytes_max=self.signals_kept_bytes_max,
            handler_missing_ms=round(self.handler_missing_seconds * 1000),
        )

    def most_memory_bytes(self) -> int | None:
        """What the process may have before creates are refused; `None` where neither setting nor system tells."""
        if self.memory_bytes_max is not None:
            return self.memory_bytes_max
        return memory_bytes_max(container_bytes(), machine_bytes())

    def live_bytes_max(self) -> int:
        """What live actors may take in memory."""
        if self.actor_bytes_max is not None:
            return self.actor_bytes_max
        most = self.most_memory_bytes()
        return ACTOR_BYTES_MAX if most is None else min(most // ACTOR_SHARE, ACTOR_BYTES_MAX)

    def _admission(self) -> dict[str, float | None]:
        """The settings of the door by name."""
        return {name: getattr(self, name) for name in _ADMISSION}

    def signal_level(self, namespace: str) -> SignalLevel:
        """Which events of the namespace go out on the signal feed."""
        return self.signals_by_namespace.get(namespace, self.signals)


def _from_json(field: str, text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise SettingsError(f"STEPWEAVE_{field.upper()}: expected a JSON object: {error}") from None
