"""Every NATS subject and JetStream stream name, built and parsed in one place.

| subject | who publishes | who reads |
|---|---|---|
| `sw.api.v1.<noun>.<verb>` | clients (request) | any orchestrator (`nats.micro`) |
| `sw.own.<shard>` | orchestrators (request) | the shard's owner |
| `sw.cmd.<shard>.<task_id>` | orchestrators, schedulers | the shard's owner (stream CMD) |
| `sw.cmd.<shard>.join.<gate_id>` | orchestrators | the shard's owner (stream CMD, a consumer of its own) |
| `sw.res.<namespace>.<shard>.<task_id>` | workers | the shard's owner (stream CMD) |
| `sw.disp.<namespace>.<queue>.<class>.<lease_token>` | the shard's owner | workers (stream DISP_<namespace>) |
| `sw.log.<shard>` | the shard's owner | subscribers, projections (stream LOG) |
| `sw.evt.<namespace>.<template>.<task_id>.<entity>.<verb>` | the shard's owner | subscribers (stream EVT) |
| `sw.now.<namespace>.<template>.<task_id>.domain.<name>` | the shard's owner | whoever listens (core NATS, best effort) |
| `sw.ctl.<namespace>.cancel` | the shard's owner | workers (core NATS, best effort) |
| `sw.sys.<word>` | orchestrators | orchestrators (core NATS, hints only) |

On the signal feed a domain event stands under `domain.<name>` in the place of `<entity>.<verb>`.
Names of users go into subjects as tokens of `[A-Za-z0-9_-]`; anything else is escaped as `_xHH`. Names of domain
events are made of such tokens and dots, and stand as they are.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal, NamedTuple

PriorityClass = Literal["high", "normal", "low"]
PRIORITY_CLASSES: Final[tuple[PriorityClass, ...]] = ("high", "normal", "low")

CMD_STREAM: Final = "CMD"
LOG_STREAM: Final = "LOG"
EVT_STREAM: Final = "EVT"
WORKERS_BUCKET: Final = "workers"

CMD_STREAM_SUBJECTS: Final = ("sw.cmd.>", "sw.res.>")
LOG_STREAM_SUBJECTS: Final = ("sw.log.*",)
EVT_STREAM_SUBJECTS: Final = ("sw.evt.>",)

COMMAND_PREFIX: Final = "sw.cmd."
EVT_PREFIX: Final = "sw.evt."
DOMAIN_PREFIX: Final = "domain."
API_PREFIX: Final = "sw.api.v1"
#: Orchestrators say that shards became free, so that others take them at once.
SHARDS_FREE: Final = "sw.sys.shards_free"
#: Orchestrators say that a template got a new version, so that others forget their cached list.
TEMPLATE_CHANGED: Final = "sw.sys.template_changed"
#: A circuit has opened or closed.
CIRCUIT_CHANGED: Final = "sw.sys.circuit_changed"
#: The last token of a result subject where one message carries results of several tasks of a shard.
MANY_TASKS: Final = "_"

#: Names of domain events: words joined by dots, each a token of a subject.
EVENT_NAME_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"
#: Longest name (bytes of UTF-8) that may become a subject token.
NAME_BYTES_MAX: Final = 255

_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]|_(?=x)")
_RESULT = re.compile(r"sw\.res\.([A-Za-z0-9_-]+)\.(\d+)\.([A-Za-z0-9_-]+)")
_EVENT = re.compile(
    r"sw\.evt\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)"
    r"\.([a-z_]+\.[a-z_]+|domain(?:\.[A-Za-z0-9_-]+)+)"
)


@lru_cache(maxsize=4_096)
def token(name: str) -> str:
    """The subject token of a user's name; `untoken` gives the name back.

    Raises `ValueError` for the empty name and for one longer than `NAME_BYTES_MAX`.
    """
    raw = name.encode()
    if not raw or len(raw) > NAME_BYTES_MAX:
        raise ValueError(f"a name in a subject has 1 to {NAME_BYTES_MAX} bytes, this one {len(raw)}")
    return _UNSAFE.sub(lambda match: b"_x%02x" % match.group()[0], raw).decode()


def untoken(text: str) -> str:
    """The name that `token` encoded."""
    if "_x" not in text:
        return text
    raw = re.sub(rb"_x([0-9a-f]{2})", lambda match: bytes([int(match.group(1), 16)]), text.encode())
    return raw.decode()


def priority_class(priority: int) -> PriorityClass:
    """The dispatch class of a task priority (−100..100)."""
    if priority > 0:
        return "high"
    return "low" if priority < 0 else "normal"


def api(noun: str, verb: str) -> str:
    """The request subject of an API operation, such as `sw.api.v1.task.create`."""
    return f"{API_PREFIX}.{noun}.{verb}"


def owner(shard: int) -> str:
    """Where the owner of a shard answers requests."""
    return f"sw.own.{shard}"


def command(shard: int, task_id: str) -> str:
    """Where durable commands to a task go."""
    return f"sw.cmd.{shard}.{task_id}"


def command_filters(shard: int) -> list[str]:
    """What the consumer of one shard reads from the CMD stream."""
    return [f"sw.cmd.{shard}.*", f"sw.res.*.{shard}.*"]


def command_consumer(shard: int) -> str:
    """The durable consumer of one shard on the CMD stream."""
    return f"shard_{shard}"


def question(shard: int, gate_id: str) -> str:
    """Where those go who ask to be let through a gate: what has to wait there holds up no other command."""
    return f"sw.cmd.{shard}.join.{gate_id}"


def question_filter(shard: int) -> str:
    """What the consumer of the questions to one shard's gates reads from the CMD stream."""
    return f"sw.cmd.{shard}.join.*"


def question_consumer(shard: int) -> str:
    """The durable consumer of the questions to one shard's gates."""
    return f"shard_{shard}_join"


def result(namespace: str, shard: int, task_id: str) -> str:
    """Where a worker publishes the result of a step (a dispatch names it)."""
    return f"sw.res.{token(namespace)}.{shard}.{task_id}"


class ResultAddress(NamedTuple):
    """What a result subject says: who may publish there, and for which tasks."""

    namespace: str
    shard: int
    task_id: str


def parse_result(subject: str) -> ResultAddress | None:
    """Read a result subject; `None` where it is not one."""
    match = _RESULT.fullmatch(subject)
    if match is None:
        return None
    try:
        namespace = untoken(match.group(1))
    except UnicodeDecodeError:
        return None
    return ResultAddress(namespace, int(match.group(2)), match.group(3))


def dispatch(namespace: str, queue: str, priority: PriorityClass, lease_token: str) -> str:
    """Where one try is dispatched: a subject of its own, so that it can be taken back (`withdrawn`)."""
    return f"sw.disp.{token(namespace)}.{token(queue)}.{priority}.{lease_token}"


def dispatches(namespace: str, queue: str, priority: PriorityClass) -> str:
    """What the consumer of a queue and priority class reads from a namespace's dispatch stream."""
    return f"sw.disp.{token(namespace)}.{token(queue)}.{priority}.*"


def withdrawn(namespace: str, lease_token: str) -> str:
    """The dispatch of one try, in whatever queue and class."""
    return f"sw.disp.{token(namespace)}.*.*.{lease_token}"


def dispatch_stream(namespace: str) -> str:
    """The work-queue stream of a namespace's dispatches."""
    return f"DISP_{token(namespace)}"


def dispatch_stream_subjects(namespace: str) -> str:
    """What the dispatch stream of a namespace holds."""
    return f"sw.disp.{token(namespace)}.>"


def dispatch_consumer(queue: str, priority: PriorityClass) -> str:
    """The shared durable consumer of one queue and class on a namespace's dispatch stream."""
    return f"{token(queue)}__{priority}"


def log(shard: int) -> str:
    """The log feed of a shard: every event, packed."""
    return f"sw.log.{shard}"


def event(namespace: str, template: str, task_id: str, event_type: str) -> str:
    """The signal feed's subject of one event; `event_type` is `<entity>.<verb>`."""
    return f"sw.evt.{token(namespace)}.{token(template)}.{task_id}.{event_type}"


def domain_event(name: str) -> str:
    """How the subject of a domain event ends, in the place of an event type; also what subscribers ask for."""
    return f"{DOMAIN_PREFIX}{name}"


def at_once(signal_subject: str) -> str:
    """Where a domain event of a signal feed subject is sent besides, where its template says `delivery: fast`."""
    return f"sw.now.{signal_subject.removeprefix(EVT_PREFIX)}"


class EventAddress(NamedTuple):
    """What a signal feed subject says."""

    namespace: str
    template: str
    task_id: str
    #: The event type; of a domain event `domain.<name>`.
    type: str


def parse_event(subject: str) -> EventAddress | None:
    """Read a signal feed subject; `None` where it is not one."""
    match = _EVENT.fullmatch(subject)
    if match is None:
        return None
    namespace, template, task_id, event_type = match.groups()
    try:
        return EventAddress(untoken(namespace), untoken(template), task_id, event_type)
    except UnicodeDecodeError:
        return None


def cancel_notice(namespace: str) -> str:
    """Where workers of a namespace hear that running steps were cancelled."""
    return f"sw.ctl.{token(namespace)}.cancel"
