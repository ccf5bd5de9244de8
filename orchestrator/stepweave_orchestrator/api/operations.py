"""The operations of the API, independent of how a request comes in: check, pass to the owner, answer.

Every operation takes a request of `stepweave_schemas.api` and returns the answer's JSON bytes; a refusal is an
`ApiError`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from stepweave_eventstore.hash_chain import canonical_bytes
from stepweave_eventstore.store import EventStore, StoreUnavailable, TaskFilter, TaskRow
from stepweave_orchestrator.runtime.requests import (
    Cancel,
    Create,
    CreateSeveral,
    Get,
    Register,
    Results,
    ShardRouter,
)
from stepweave_orchestrator.runtime.settings import Settings
from stepweave_orchestrator.runtime.streams import Streams
from stepweave_orchestrator.runtime.support import unsupported
from stepweave_orchestrator.runtime.templates import TemplateCatalogue, Version
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import MessageError, encode, json_text
from stepweave_schemas.dispatch import CONTEXT_BYTES_MAX
from stepweave_schemas.envelope import parse_timestamp, timestamp
from stepweave_schemas.events import TaskCreated, TemplateRegistered
from stepweave_schemas.identity import (
    canonical_json,
    content_digest,
    identity_task_id,
    is_uuid,
    shard_of,
    template_stream_id,
)
from stepweave_schemas.mint import uuid7
from stepweave_schemas.template import Problem, TaskTemplate, check_template

#: Bounds of a task request, in characters and numbers.
TEXT_CHARS_MAX = 1_024
TAGS_MAX = 50
PRIORITY_MAX = 100
START_AFTER_SECONDS_MAX = 5 * 366 * 24 * 3600
#: A template in its canonical form: it must travel in one message.
TEMPLATE_BYTES_MAX = 640 * 1024
#: Problems of a template in one answer.
PROBLEMS_MAX = 200
#: Bytes of events in one answer.
EVENTS_BYTES_MAX = 768 * 1024


class Operations:
    """Every operation of `api.OPERATIONS`, by its name."""

    def __init__(
        self,
        settings: Settings,
        store: EventStore,
        shard_count: int,
        templates: TemplateCatalogue,
        router: ShardRouter,
        streams: Streams,
        on_template_changed: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._shard_count = shard_count
        self._templates = templates
        self._router = router
        self._streams = streams
        self._on_template_changed = on_template_changed
        self._handlers: dict[str, Callable[[Any], Awaitable[bytes]]] = {
            "task.create": self.create_task,
            "task.create_many": self.create_many,
            "task.get": self.get_task,
            "task.list": self.list_tasks,
            "task.cancel": self.cancel_task,
            "task.results": self.get_results,
            "task.events": self.get_events,
            "template.register": self.register_template,
            "template.validate": self.validate_template,
            "template.get": self.get_template,
            "template.list": self.list_templates,
        }
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

    # -- tasks -----------------------------------------------------------------------------------

    async def create_task(self, request: api.CreateTask) -> bytes:
        """Begin a task; answers once its first event is committed."""
        shard, command = await self._creation(request)
        return await self._router.call(shard, command)

    async def create_many(self, request: api.CreateMany) -> bytes:
        """Begin several tasks; each is accepted or refused on its own."""
        if len(request.tasks) > api.CREATE_MANY_MAX:
            raise ApiError(
                "BAD_REQUEST", f"{len(request.tasks)} tasks in one request, {api.CREATE_MANY_MAX} at most"
            )
        refs: list[msgspec.Raw | None] = [None] * len(request.tasks)
        by_shard: dict[int, list[tuple[int, Create]]] = {}
        for number, task in enumerate(request.tasks):
            try:
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
        _check_request(request)
        version = await self._templates.resolve(request.namespace, request.name, request.version)
        violations = version.violations(request.context)
        if violations:
            raise ApiError(
                "VALIDATION_FAILED",
                f"the context does not fit the input schema of {request.namespace}/{request.name}: "
                + "; ".join(f"{each['pointer'] or '/'}: {each['message']}" for each in violations[:5]),
                violations=violations,
            )
        request_id = request.task_id or uuid7()
        task_id, strict = _identity(request, version, request_id)
        ref = version.plan.ref
        created = TaskCreated(
            template=ref,
            context=request.context,
            request_digest=_digest(request, version),
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
        _check_text(request, "reason", "cancelled_by")
        return await self._router.call(
            shard,
            Cancel(stream_id=request.task_id, reason=request.reason, cancelled_by=request.cancelled_by),
        )

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
        records = await self._store.read_stream(
            request.task_id, from_version=request.from_version, limit=request.limit
        )
        if not records and request.from_version == 1:
            raise ApiError("NOT_FOUND", f"there is no task {request.task_id}")
        events: list[msgspec.Raw] = []
        size_bytes = 0
        for record in records:
            envelope = canonical_bytes(record)
            size_bytes += len(envelope)
            if events and size_bytes > EVENTS_BYTES_MAX:
                break
            events.append(msgspec.Raw(envelope))
        more = len(events) < len(records) or len(records) == request.limit
        following = request.from_version + len(events) if more else None
        return encode(api.EventsReply(events=tuple(events), next_version=following))

    async def list_tasks(self, request: api.ListTasks) -> bytes:
        """A page of the task list, newest first."""
        if request.page < 1 or not 1 <= request.per_page <= 200:
            raise ApiError("BAD_REQUEST", "page counts from 1, per_page is 1..200")
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
        if len(content) > TEMPLATE_BYTES_MAX:
            raise ApiError(
                "VALIDATION_FAILED",
                f"the template has {len(content)} bytes in its canonical form, {TEMPLATE_BYTES_MAX} at most",
            )
        registered = TemplateRegistered(
            namespace=template.namespace,
            name=template.name,
            version=template.version,
            hash=template.content_hash(),
            content=msgspec.Raw(content),
            registered_by=request.registered_by,
        )
        stream_id = template_stream_id(template.namespace, template.name)
        answer = await self._router.call(
            shard_of(stream_id, self._shard_count),
            Register(stream_id=stream_id, registered=registered, correlation_id=uuid7()),
        )
        self._templates.forget(stream_id)
        self._on_template_changed(stream_id)
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
                warnings=warnings,
            )
        )

    def _check(self, content: str, source: str) -> tuple[TaskTemplate | None, tuple[Problem, ...]]:
        template, problems = check_template(content, source=source, environment=self._settings.environment)
        if template is not None:
            problems = (*problems, *unsupported(template, source))
        return template, problems


# -- checks and small conversions ----------------------------------------------------------------


def _check_request(request: api.CreateTask) -> None:
    """Raise `ApiError` for a field that is out of bounds."""
    if len(memoryview(request.context)) > CONTEXT_BYTES_MAX:
        size = len(memoryview(request.context))
        raise ApiError(
            "VALIDATION_FAILED",
            f"context: {size} bytes, {CONTEXT_BYTES_MAX} at most; keep large data elsewhere and pass a reference",
        )
    try:
        text = json_text(request.context)
    except MessageError as error:
        raise ApiError("BAD_REQUEST", f"context: {error}") from None
    if not text.lstrip().startswith("{"):
        raise ApiError("VALIDATION_FAILED", "context: expected an object")
    if request.task_id is not None and not is_uuid(request.task_id):
        raise ApiError(
            "INVALID_UUID", f"task_id: {request.task_id!r} is no UUID in its canonical lower-case form"
        )
    if not -PRIORITY_MAX <= request.priority <= PRIORITY_MAX:
        raise ApiError("VALIDATION_FAILED", f"priority: {request.priority} is not in -100..100")
    if len(request.tags) > TAGS_MAX or any(not 0 < len(tag) <= TEXT_CHARS_MAX for tag in request.tags):
        raise ApiError(
            "VALIDATION_FAILED", f"tags: {TAGS_MAX} at most, each of 1 to {TEXT_CHARS_MAX} characters"
        )
    _check_text(
        request,
        "name",
        "namespace",
        "initiator",
        "source_system",
        "reason",
        "correlation_id",
        "parent_correlation_id",
        "idempotency_key",
        "requested_at",
        "traceparent",
    )
    if bytes(request.options).strip() not in (b"{}", b""):
        raise ApiError("VALIDATION_FAILED", "options: this version knows none; leave it out")
    for field in ("start_at", "requested_at"):
        value = getattr(request, field)
        if value is None:
            continue
        try:
            moment = parse_timestamp(value)
        except (ValueError, OverflowError) as error:
            raise ApiError("VALIDATION_FAILED", f"{field}: {error}") from None
        if moment / 1000 > 253_402_300_799:
            raise ApiError("VALIDATION_FAILED", f"{field}: beyond the year 9999")


def _check_text(request: msgspec.Struct, *fields: str) -> None:
    for field in fields:
        text = getattr(request, field)
        if text is not None and len(text) > TEXT_CHARS_MAX:
            raise ApiError("VALIDATION_FAILED", f"{field}: {TEXT_CHARS_MAX} characters at most")
        if text is not None and "\x00" in text:
            raise ApiError("VALIDATION_FAILED", f"{field}: the character NUL is not allowed")


def _identity(request: api.CreateTask, version: Version, request_id: str) -> tuple[str, bool]:
    """The task's id, and whether a second task of the same content is a conflict (semantics §3)."""
    ref = version.plan.ref
    if request.idempotency_key:
        return identity_task_id(ref.namespace, ref.name, f"key:{request.idempotency_key}"), False
    if version.identity_strategy == "caller_provided":
        raise ApiError(
            "VALIDATION_FAILED",
            f"template {ref.namespace}/{ref.name} takes its identity from the caller: give an idempotency_key",
        )
    if version.identity_strategy == "strict":
        content = canonical_json(msgspec.json.decode(request.context)).decode()
        return identity_task_id(ref.namespace, ref.name, f"strict:{ref.version}:{content}"), True
    return request_id, False


def _digest(request: api.CreateTask, version: Version) -> str:
    """What must be equal for two requests with one key to be the same request."""
    return content_digest(
        [
            version.plan.ref.hash if request.version else [request.namespace, request.name],
            msgspec.json.decode(request.context),
            request.priority,
            request.start_at,
            sorted(request.tags),
        ]
    )


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
