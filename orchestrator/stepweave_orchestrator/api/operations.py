"""The operations of the API, independent of how a request comes in: check, pass to the owner, answer.

Every operation takes a request of `stepweave_schemas.api` and returns the answer's JSON bytes; a refusal is an
`ApiError`.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any, get_args

import msgspec

from stepweave.messaging import MessagingError
from stepweave_eventstore.hash_chain import canonical_bytes
from stepweave_eventstore.store import EventStore, StoreUnavailable, TaskFilter, TaskRow
from stepweave_orchestrator.core import TaskStatus
from stepweave_orchestrator.runtime.admission import Admission
from stepweave_orchestrator.runtime.forks import Forks
from stepweave_orchestrator.runtime.owner_requests import (
    Cancel,
    Create,
    CreateSeveral,
    Fork,
    Get,
    Operate,
    Register,
    Results,
    Signal,
)
from stepweave_orchestrator.runtime.settings import Settings
from stepweave_orchestrator.runtime.shard_router import ShardRouter
from stepweave_orchestrator.runtime.streams import Streams
from stepweave_orchestrator.runtime.template_bounds import out_of_bounds
from stepweave_orchestrator.runtime.templates import TemplateCatalogue, Version
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.catalogue import CATALOGUE
from stepweave_schemas.codec import encode
from stepweave_schemas.envelope import parse_timestamp, timestamp
from stepweave_schemas.events import TaskCreated, TemplateRegistered
from stepweave_schemas.identity import is_uuid, shard_of, template_stream_id
from stepweave_schemas.mint import uuid7
from stepweave_schemas.template import Problem, TaskTemplate, check_template
from stepweave_schemas.template.value_checks import violations_text

from .actions import TaskActionRequest, step_command, task_command
from .bulks import BulkOperations
from .creation import (
    check_context,
    check_own_id,
    check_payload,
    check_request,
    check_text,
    identity,
    request_digest,
)
from .dead_letters import DeadLetterOperations
from .explanations import ExplanationOperations
from .forking import LATEST, check_fork, fork_created
from .gates import GateOperations
from .history import EVENTS_BYTES_MAX, EVENTS_READ_MAX
from .schedules import ScheduleOperations

#: Problems of a template in one answer.
PROBLEMS_MAX = 200
#: Longest name of a template's source that a problem carries.
SOURCE_CHARS_MAX = 200
#: Pages of a task list; further back, filter.
PAGE_MAX = 1_000_000
_STATUSES = get_args(TaskStatus)
_SYSTEM_TYPES = frozenset(entry.type for entry in CATALOGUE.values() if entry.stream == "system")


class Operations:
    """Every operation of `api.OPERATIONS`, by its name."""

    def __init__(
        self,
        settings: Settings,
        store: EventStore,
        shard_count: int,
        templates: TemplateCatalogue,
        forks: Forks,
        router: ShardRouter,
        streams: Streams,
        admission: Admission,
        on_template_changed: Callable[[str], Awaitable[None]],
        explanations: ExplanationOperations,
        dead_letters: DeadLetterOperations,
    ) -> None:
        self._settings = settings
        self._store = store
        self._shard_count = shard_count
        self._templates = templates
        self._forks = forks
        self._router = router
        self._streams = streams
        self._admission = admission
        self._on_template_changed = on_template_changed
        self._handlers: dict[str, Callable[[Any], Awaitable[bytes]]] = {
            "task.create": self.create_task,
            "task.create_many": self.create_many,
            "task.get": self.get_task,
            "task.list": self.list_tasks,
            "task.cancel": self.cancel_task,
            "task.pause": self.act_on_task,
            "task.resume": self.act_on_task,
            "task.retry": self.act_on_task,
            "task.give_up": self.act_on_task,
            "task.resolve": self.act_on_task,
            "step.update": self.update_step,
            "task.signal": self.signal_task,
            "task.fork": self.fork_task,
            "task.results": self.get_results,
            "task.events": self.get_events,
            **dead_letters.handlers,
            "template.register": self.register_template,
            "template.validate": self.validate_template,
            "template.get": self.get_template,
            "template.list": self.list_templates,
            **ScheduleOperations(store, shard_count, templates, router).handlers(),
        }
        self._handlers |= BulkOperations(store, shard_count, router).handlers()
        gates = GateOperations(store, shard_count, router)
        self._handlers |= {
            "gate.list": gates.list_gates,
            "gate.get": gates.get_gate,
            "circuit.open": gates.open_circuit,
            "circuit.close": gates.close_circuit,
        }
        self._handlers |= explanations.handlers
        self._decoders = {name: msgspec.json.Decoder(kind) for name, kind in api.OPERATIONS.items()}

    async def answer(self, operation: str, payload: bytes) -> bytes:
        """Read a request, carry it out, answer; raises `ApiError` for every refusal."""
        try:
            request = self._decoders[operation].decode(payload or b"{}")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError("BAD_REQUEST", f"{operation}: {error}") from None
        try:
            return await self._handlers[operation](request)
        except StoreUnavailable:
            raise ApiError(
                "SERVICE_UNAVAILABLE", "the event store does not answer; try again", retry_after_seconds=1.0
            ) from None
        except MessagingError as error:
            raise ApiError(
                "SERVICE_UNAVAILABLE", f"NATS does not answer; try again ({error})", retry_after_seconds=1.0
            ) from None

    # -- tasks -----------------------------------------------------------------------------------

    async def create_task(self, request: api.CreateTask) -> bytes:
        """Begin a task; answers once its first event is committed."""
        with self._admission.taken(request.namespace):
            shard, command = await self._creation(request)
            return await self._router.call(shard, command)

    async def create_many(self, request: api.CreateMany) -> bytes:
        """Begin several tasks; each is accepted or refused on its own."""
        if len(request.tasks) > api.CREATE_MANY_MAX:
            raise ApiError(
                "BAD_REQUEST", f"{len(request.tasks)} tasks in one request, {api.CREATE_MANY_MAX} at most"
            )
        with ExitStack() as taken:
            refused: dict[str, ApiError] = {}
            counts = Counter(task.namespace for task in request.tasks)
            for namespace, count in counts.items():
                try:
                    taken.enter_context(self._admission.taken(namespace, count))
                except ApiError as error:
                    refused[namespace] = error
            if refused and len(refused) == len(counts):
                raise next(iter(refused.values()))
            return await self._create_taken(request, refused)

    async def _create_taken(self, request: api.CreateMany, refused: Mapping[str, ApiError]) -> bytes:
        """Begin the tasks whose namespaces are not refused."""
        refs: list[msgspec.Raw | None] = [None] * len(request.tasks)
        by_shard: dict[int, list[tuple[int, Create]]] = {}
        for number, task in enumerate(request.tasks):
            try:
                if task.namespace in refused:
                    raise refused[task.namespace]
                shard, command = await self._creation(task)
                by_shard.setdefault(shard, []).append((number, command))
            except ApiError as error:
                refs[number] = msgspec.Raw(encode(api.CreatedRef(error=error.body()["error"])))

        async def of_shard(shard: int, commands: list[tuple[int, Create]]) -> None:
            several = CreateSeveral(stream_id="", tasks=tuple(command for _, command in commands))
            try:
                answers = msgspec.json.decode(await self._router.call(shard, several), type=list[msgspec.Raw])
            except ApiError as error:
                body = error.body()["error"]
                answers = [
                    msgspec.Raw(encode(api.CreatedRef(task_id=command.stream_id, error=body)))
                    for _, command in commands
                ]
            for (number, _), answer in zip(commands, answers, strict=True):
                refs[number] = answer

        await asyncio.gather(*(of_shard(shard, commands) for shard, commands in by_shard.items()))
        return encode({"tasks": refs})

    async def _creation(self, request: api.CreateTask) -> tuple[int, Create]:
        context = check_request(request)
        version = await self._templates.resolve(request.namespace, request.name, request.version)
        violations = version.violations(context)
        if violations:
            raise ApiError(
                "VALIDATION_FAILED",
                f"the context does not fit the input schema of {request.namespace}/{request.name}: "
                + violations_text(violations),
                violations=violations,
            )
        request_id = request.task_id or uuid7()
        task_id, strict = identity(request, version, request_id, context)
        ref = version.plan.ref
        created = TaskCreated(
            template=ref,
            context=request.context,
            request_digest=request_digest(request, version, context),
            request_id=request_id,
            initiator=request.initiator,
            source_system=request.source_system,
            reason=request.reason,
            tags=request.tags,
            priority=request.priority,
            parent_correlation_id=request.parent_correlation_id,
            identity=version.identity_strategy,
            idempotency_key=request.idempotency_key,
            requested_at=request.requested_at,
            start_at_ms=None if request.start_at is None else parse_timestamp(request.start_at),
            traceparent=request.traceparent,
        )
        command = Create(
            stream_id=task_id,
            created=created,
            correlation_id=request.correlation_id or request_id,
            known_identity=task_id != request_id,
            strict=strict,
        )
        return shard_of(task_id, self._shard_count), command

    async def get_task(self, request: api.GetTask) -> bytes:
        """The task as its actor knows it."""
        shard = self._shard_of(request.task_id)
        return await self._router.call(shard, Get(stream_id=request.task_id))

    async def cancel_task(self, request: api.CancelTask) -> bytes:
        """End a task now."""
        shard = self._shard_of(request.task_id)
        check_text(request, "reason", "cancelled_by")
        return await self._router.call(
            shard,
            Cancel(stream_id=request.task_id, reason=request.reason, cancelled_by=request.cancelled_by),
        )

    async def act_on_task(self, request: TaskActionRequest) -> bytes:
        """Pause, resume, retry, give up or resolve a task."""
        shard = self._shard_of(request.task_id)
        return await self._router.call(
            shard, Operate(stream_id=request.task_id, command=task_command(request))
        )

    async def update_step(self, request: api.UpdateStep) -> bytes:
        """Reset, resolve, complete or skip a step."""
        shard = self._shard_of(request.task_id)
        return await self._router.call(
            shard, Operate(stream_id=request.task_id, command=step_command(request))
        )

    async def signal_task(self, request: api.SignalTask) -> bytes:
        """Tell a task what one of its steps waits for; answers once that is committed."""
        shard = self._shard_of(request.task_id)
        check_text(request, "signal", "signal_id", "sent_by")
        check_own_id("signal_id", request.signal_id)
        if not request.signal:
            raise ApiError("BAD_REQUEST", "signal: the signal's name is missing")
        return await self._router.call(
            shard,
            Signal(
                stream_id=request.task_id,
                signal=request.signal,
                signal_id=request.signal_id or uuid7(),
                payload=check_payload(request.payload),
                sent_by=request.sent_by,
            ),
        )

    async def fork_task(self, request: api.ForkTask) -> bytes:
        """Begin a task with what another one has come to; answers once its first events are committed."""
        fork_id = uuid7() if request.fork_id is None else request.fork_id
        self._shard_of(request.task_id)
        shard = self._shard_of(fork_id)
        check_fork(request)
        original, correlation_id = await self._forks.original(request.task_id)
        version = await self._version_of_fork(request.version, original)
        context = original.context if not bytes(request.context) else request.context
        violations = version.violations(check_context(context))
        if violations:
            ref = version.plan.ref
            raise ApiError(
                "VALIDATION_FAILED",
                f"the context does not fit the input schema of {ref.namespace}/{ref.name}:{ref.version}: "
                + violations_text(violations)
                + ("" if bytes(request.context) else "; it is the original's: give another one"),
                violations=violations,
            )
        created = fork_created(request, fork_id, original, version, context)
        if request.dry_run:
            return await self._forks.preview(fork_id, created)
        fork = Fork(
            stream_id=fork_id, created=created, correlation_id=request.correlation_id or correlation_id
        )
        with self._admission.taken(created.template.namespace):
            return await self._router.call(shard, fork)

    async def _version_of_fork(self, wanted: str | None, original: TaskCreated) -> Version:
        ref = original.template
        if wanted is not None:
            version = None if wanted == LATEST else wanted
            return await self._templates.resolve(ref.namespace, ref.name, version)
        try:
            return await self._templates.pinned(ref)
        except LookupError as error:
            raise ApiError("NOT_FOUND", str(error.args[0])) from None

    async def get_results(self, request: api.GetResults) -> bytes:
        """A page of step results."""
        shard = self._shard_of(request.task_id)
        if request.offset < 0:
            raise ApiError("BAD_REQUEST", "offset: expected 0 or more")
        return await self._router.call(
            shard,
            Results(stream_id=request.task_id, step_name=request.step_name, offset=request.offset),
        )

    async def get_events(self, request: api.GetEvents) -> bytes:
        """A page of the task's history, as stored."""
        self._shard_of(request.task_id)
        if request.from_version < 1 or not 1 <= request.limit <= 1_000:
            raise ApiError("BAD_REQUEST", "from_version counts from 1, limit is 1..1000")
        events: list[msgspec.Raw] = []
        size_bytes = 0
        version = request.from_version
        while len(events) < request.limit:
            wanted = min(EVENTS_READ_MAX, request.limit - len(events))
            records = await self._store.read_stream(request.task_id, from_version=version, limit=wanted)
            if records[0].type in _SYSTEM_TYPES if records else version == 1:
                raise ApiError("NOT_FOUND", f"there is no task {request.task_id}")
            for record in records:
                envelope = canonical_bytes(record)
                size_bytes += len(envelope)
                if events and size_bytes > EVENTS_BYTES_MAX:
                    return encode(api.EventsReply(events=tuple(events), next_version=version))
                events.append(msgspec.Raw(envelope))
                version = record.version + 1
            if len(records) < wanted:
                return encode(api.EventsReply(events=tuple(events), next_version=None))
        return encode(api.EventsReply(events=tuple(events), next_version=version))

    async def list_tasks(self, request: api.ListTasks) -> bytes:
        """A page of the task list, newest first."""
        if not 1 <= request.page <= PAGE_MAX or not 1 <= request.per_page <= 200:
            raise ApiError("BAD_REQUEST", f"page is 1..{PAGE_MAX}, per_page is 1..200")
        unknown = [status for status in request.status if status not in _STATUSES]
        if unknown:
            raise ApiError(
                "BAD_REQUEST",
                f"status: no task is {unknown[0][:100]!r}; the states are {', '.join(_STATUSES)}",
            )
        rows, total = await self._store.list_tasks(
            TaskFilter(
                namespace=request.namespace,
                name=request.name,
                statuses=request.status,
                initiator=request.initiator,
                source_system=request.source_system,
                tag=request.tag,
                correlation_id=request.correlation_id,
                limit=request.per_page,
                offset=(request.page - 1) * request.per_page,
            )
        )
        pages = math.ceil(total / request.per_page)
        return encode(
            api.TaskPage(
                tasks=tuple(_list_item(row) for row in rows),
                pagination=api.Pagination(
                    page=request.page,
                    per_page=request.per_page,
                    total_count=total,
                    total_pages=pages,
                    has_next=request.page < pages,
                    has_previous=request.page > 1,
                ),
            )
        )

    def _shard_of(self, task_id: str) -> int:
        if not is_uuid(task_id):
            raise ApiError("INVALID_UUID", f"{task_id!r} is no UUID in its canonical lower-case form")
        return shard_of(task_id, self._shard_count)

    # -- templates -------------------------------------------------------------------------------

    async def register_template(self, request: api.RegisterTemplate) -> bytes:
        """Make a template version known; the same content again is a no-op."""
        check_text(request, "registered_by")
        template, problems = await asyncio.to_thread(self._check, request.content, request.source)
        errors = [problem for problem in problems if problem.severity == "error"]
        if template is None or errors:
            raise ApiError(
                "VALIDATION_FAILED",
                f"the template has {len(errors)} error(s): "
                + "; ".join(_line(problem) for problem in errors[:5]),
                problems=[_problem(problem) for problem in problems[:PROBLEMS_MAX]],
            )
        content = template.canonical_json()
        registered = TemplateRegistered(
            namespace=template.namespace,
            name=template.name,
            version=template.version,
            hash=template.content_hash(),
            content=msgspec.Raw(content),
            registered_by=request.registered_by,
            environment=self._settings.environment,
        )
        stream_id = template_stream_id(template.namespace, template.name)
        answer = await self._router.call(
            shard_of(stream_id, self._shard_count),
            Register(stream_id=stream_id, registered=registered, correlation_id=uuid7()),
        )
        self._templates.forget(stream_id)
        await self._on_template_changed(stream_id)
        for queue in sorted({step.queue for step in template.steps}):
            await self._streams.ensure_queue(template.namespace, queue)
        return await self._template_reply(
            template.namespace,
            template.name,
            template.version,
            created=bool(msgspec.json.decode(answer)["created"]),
            warnings=tuple(_problem(problem) for problem in problems[:PROBLEMS_MAX]),
        )

    async def validate_template(self, request: api.ValidateTemplate) -> bytes:
        """Every problem of a template; stores nothing."""
        template, problems = await asyncio.to_thread(self._check, request.content, request.source)
        valid = template is not None and all(problem.severity != "error" for problem in problems)
        return encode(
            api.ValidationReply(
                valid=valid, problems=tuple(_problem(each) for each in problems[:PROBLEMS_MAX])
            )
        )

    async def get_template(self, request: api.GetTemplate) -> bytes:
        """One version of a template."""
        check_text(request, "namespace", "name", "version")
        return await self._template_reply(request.namespace, request.name, request.version)

    async def list_templates(self, request: api.ListTemplates) -> bytes:
        """All versions of all templates."""
        rows = await self._store.list_templates(request.namespace)
        return encode(
            api.TemplatePage(
                templates=tuple(
                    api.TemplateListItem(
                        namespace=row.namespace,
                        name=row.name,
                        version=row.version,
                        hash=row.hash,
                        description=row.description,
                        total_steps=row.total_steps,
                        registered_at=timestamp(row.registered_at_ms),
                        registered_by=row.registered_by,
                    )
                    for row in rows
                )
            )
        )

    async def _template_reply(
        self,
        namespace: str,
        name: str,
        version: str | None,
        *,
        created: bool = False,
        warnings: tuple[dict[str, Any], ...] = (),
    ) -> bytes:
        found = await self._templates.resolve(namespace, name, version)
        state = await self._templates.versions(namespace, name)
        ref = found.plan.ref
        return encode(
            api.TemplateReply(
                namespace=ref.namespace,
                name=ref.name,
                version=ref.version,
                hash=ref.hash,
                content=msgspec.Raw(found.content),
                created=created,
                versions=tuple(state.versions) if state is not None else (),
                environment=None if state is None else state.versions[ref.version].environment,
                warnings=warnings,
            )
        )

    def _check(self, content: str, source: str) -> tuple[TaskTemplate | None, tuple[Problem, ...]]:
        # It stands in every problem: of a long path the end is enough.
        source = source if len(source) <= SOURCE_CHARS_MAX else f"…{source[1 - SOURCE_CHARS_MAX :]}"
        template, problems = check_template(content, source=source, environment=self._settings.environment)
        if template is not None:
            problems = (*problems, *out_of_bounds(template, source))
        return template, problems


# -- checks and small conversions ----------------------------------------------------------------


def _list_item(row: TaskRow) -> api.TaskListItem:
    return api.TaskListItem(
        task_uuid=row.task_id,
        name=row.name,
        namespace=row.namespace,
        version=row.template_version,
        status=row.status,
        created_at=timestamp(row.created_at_ms),
        updated_at=timestamp(row.updated_at_ms),
        completed_at=None if row.completed_at_ms is None else timestamp(row.completed_at_ms),
        initiator=row.initiator,
        source_system=row.source_system,
        reason=row.reason,
        priority=row.priority,
        tags=tuple(row.tags),
        correlation_id=row.correlation_id,
        parent_correlation_id=row.parent_correlation_id,
        total_steps=row.total_steps,
        completed_steps=row.completed_steps,
        failed_steps=row.failed_steps,
        completion_percentage=round(100 * row.completed_steps / row.total_steps, 2)
        if row.total_steps
        else 100.0,
        error_message=row.error_message,
    )


def _line(problem: Problem) -> str:
    where = f"line {problem.line}: " if problem.line is not None else ""
    return f"{where}{problem.code} {problem.path}: {problem.message}"


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "code": problem.code,
        "message": problem.message,
        "path": problem.path,
        "line": problem.line,
        "severity": problem.severity,
        "hint": problem.hint,
        "source": problem.source,
    }
