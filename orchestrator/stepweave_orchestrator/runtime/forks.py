"""What a fork needs of its original: the original's events, from the store, as they are committed at that moment."""

from __future__ import annotations

import asyncio

import msgspec

from stepweave_eventstore.store import EventStore, StoreUnavailable
from stepweave_orchestrator.core import Moment, Plan, Rejection, decide, evolve
from stepweave_orchestrator.core.commands import ForkTask, Limits
from stepweave_orchestrator.core.fork import Past, reused_steps, run_anew, taken_over, unknown_steps
from stepweave_orchestrator.core.state import TaskState, initial
from stepweave_orchestrator.core.view import forked_from
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import decode_event
from stepweave_schemas.events import TaskCreated
from stepweave_schemas.mint import entropy, now_ms

from .templates import TemplateCatalogue

#: Originals replayed at the same time, and how many of an original's events are read at a time.
CONCURRENT_FORKS_MAX = 4
READ_EVENTS_MAX = 200
#: Names in each list of an answer; they have up to 255 bytes.
NAMES_IN_ANSWER_MAX = 1_000


class Forking:
    """A fork about to begin: the command, the plan of the new task, and the original as it was read."""

    def __init__(self, created: TaskCreated, plan: Plan, past: Past) -> None:
        assert created.forked_from is not None
        self.created = created
        self.plan = plan
        self.past = past
        self.command = ForkTask(
            created, taken_over(past, created.forked_from.from_steps), past.state.the_plan.ref
        )


class Forks:
    """Reads originals."""

    def __init__(self, store: EventStore, templates: TemplateCatalogue, limits: Limits) -> None:
        self._store = store
        self._templates = templates
        self._limits = limits
        self._slots = asyncio.Semaphore(CONCURRENT_FORKS_MAX)

    async def original(self, task_id: str) -> tuple[TaskCreated, str]:
        """The first event of a task and its correlation id; raises `ApiError` NOT_FOUND."""
        records = await self._store.read_stream(task_id, to_version=1)
        event = decode_event(records[0].data) if records else None
        if not isinstance(event, TaskCreated):
            raise ApiError("NOT_FOUND", f"there is no task {task_id}", task_id=task_id)
        return event, records[0].correlation_id

    async def begin(self, created: TaskCreated) -> Forking:
        """What a fork takes over. `created` names the original, whose version is filled in.

        Raises `ApiError` where there is no such task or template, or where a step of the request is unknown.
        """
        origin = created.forked_from
        assert origin is not None
        try:
            async with self._slots:
                past = await self._past(origin.task_id)
                plan = await self._templates.plan(created.template)
        except LookupError as error:
            raise ApiError("NOT_FOUND", str(error.args[0])) from None
        except StoreUnavailable:
            raise ApiError(
                "SERVICE_UNAVAILABLE", "the event store does not answer; try again", retry_after_seconds=1.0
            ) from None
        unknown = unknown_steps(past, plan, origin.from_steps)
        if unknown:
            steps = ", ".join(step.name for step in plan.steps[:20])
            more = ", …" if len(plan.steps) > 20 else ""
            raise ApiError(
                "VALIDATION_FAILED",
                f"from_steps: version {plan.ref.version} has no step {unknown[0][:255]!r}; its steps are "
                f"{steps}{more}",
            )
        origin = msgspec.structs.replace(origin, stream_version=past.state.version)
        return Forking(msgspec.structs.replace(created, forked_from=origin), plan, past)

    async def preview(self, task_id: str, created: TaskCreated) -> bytes:
        """What would be reused and what would run; nothing happens. Raises `ApiError`."""
        forking = await self.begin(created)
        state = initial(task_id, forking.plan, "")
        at_ms = now_ms()
        decision = decide(state, forking.command, Moment(at_ms, entropy(), self._limits))
        if isinstance(decision, Rejection):
            raise ApiError("CONFLICT", decision.reason)
        for event in decision:
            evolve(state, event, at_ms)
        return msgspec.json.encode(fork_reply(state, forking.past, dry_run=True))

    async def _past(self, task_id: str) -> Past:
        past: Past | None = None
        while True:
            version = 1 if past is None else past.state.version + 1
            records = await self._store.read_stream(task_id, from_version=version, limit=READ_EVENTS_MAX)
            for record in records:
                event = decode_event(record.data)
                if past is None:
                    if not isinstance(event, TaskCreated):
                        break
                    plan = await self._templates.plan(event.template)
                    past = Past(task_id, plan, record.correlation_id)
                past.apply(event, record.recorded_at_ms)
            if past is None:
                raise ApiError("NOT_FOUND", f"there is no task {task_id}", task_id=task_id)
            if len(records) < READ_EVENTS_MAX:
                return past


def fork_reply(
    fork: TaskState, past: Past | None, *, dry_run: bool = False, replayed: bool = False
) -> api.ForkReply:
    """What a fork reuses and runs; without the `past`, why it runs a step is not known any more."""
    origin = forked_from(fork)
    assert origin is not None
    reused = reused_steps(fork)
    if past is None:
        reused_names = set(reused)
        names = (fork.name_of(number) for number in fork.shown_steps())
        run = [api.StepToRun(step=name) for name in names if name not in reused_names]
    else:
        found = run_anew(fork, past, origin.from_steps)
        run = [api.StepToRun(step=one.step, why=one.why, ran_before=one.ran_before) for one in found]
    return api.ForkReply(
        forked_from=origin,
        version=fork.the_plan.ref.version,
        reused=tuple(reused[:NAMES_IN_ANSWER_MAX]),
        reused_count=len(reused),
        run=tuple(run[:NAMES_IN_ANSWER_MAX]),
        run_count=len(run),
        dry_run=dry_run,
        replayed=replayed,
    )
