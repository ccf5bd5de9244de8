"""What `stepweave dev` does while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from stepweave.api_errors import Conflict
from stepweave_eventstore.store import StoreUnavailable
from stepweave_orchestrator.version import VERSION
from stepweave_schemas import subjects
from stepweave_schemas.codec import decode_event
from stepweave_schemas.events import TemplateRegistered
from stepweave_schemas.identity import template_stream_id
from stepweave_schemas.template import HandlerSpec, TaskTemplate, load_template

from .addresses import without_secrets
from .output import progress, say
from .stack import Stack, places_of, running_stack, running_workers
from .task_input import who
from .worker_processes import WorkerProcesses, WorkerSettings

#: How many methods of a handler a warning lists.
_METHODS_MAX: Final = 10


class DevSession:
    """Servers, orchestrator and workers, until it is cancelled or a part fails for good.

    The workers serve every namespace and queue of the registered templates; a template that is registered
    meanwhile and brings new ones lets them start anew.
    """

    def __init__(
        self,
        data_dir: Path,
        templates: Mapping[Path, TaskTemplate],
        settings: WorkerSettings,
        worker_count: int,
    ) -> None:
        """`templates` are those to register, by their files."""
        self._data_dir = data_dir
        self._given = templates
        self._settings = settings
        self._worker_count = worker_count
        #: Streams of templates that changed since the workers started.
        self._changed: asyncio.Queue[str] = asyncio.Queue()

    async def run(self, database_url: str | None, nats_url: str | None) -> None:
        """Bring everything up, say where it is, and keep it so."""
        async with running_stack(
            self._data_dir, database_url=database_url, nats_url=nats_url, say=progress
        ) as stack:
            connection = stack.orchestrator.connection
            subscription = await connection.subscribe(subjects.TEMPLATE_CHANGED, self._on_template_changed)
            try:
                await self._register(stack)
                await first_of(stack.orchestrator.run(), self._serve(stack))
            finally:
                await subscription.unsubscribe()

    async def _register(self, stack: Stack) -> None:
        for path, template in self._given.items():
            try:
                await stack.client.register_template(path, registered_by=who())
            except Conflict:
                progress(
                    f"warning: {path} differs from the registered {template.reference}, which stays as it is; "
                    "raise its version to run the new content"
                )

    async def _serve(self, stack: Stack) -> None:
        """Keep workers for all namespaces and queues that there are."""
        known = {template.reference: template for template in self._given.values()}
        for row in await stack.store.list_templates():
            known |= await self._versions(stack, template_stream_id(row.namespace, row.name))
        if not self._settings.modules:
            self._greet(stack, None)
            await asyncio.get_running_loop().create_future()
        greeted = False
        while True:
            namespaces, queues = places = places_of(list(known.values()))
            settings = replace(self._settings, namespaces=namespaces, queues=queues)
            async with running_workers(
                settings, self._worker_count, nats_url=stack.addresses.nats_url, say=progress
            ) as workers:
                if not greeted:
                    greeted = True
                    self._greet(stack, workers)
                else:
                    progress(f"the workers now serve the namespaces {', '.join(namespaces)}")
                while places_of(list(known.values())) == places:
                    fresh = await self._versions(stack, await self._changed.get())
                    _warn_of_missing_handlers(
                        [one for name, one in fresh.items() if name not in known], workers, settings
                    )
                    known |= fresh

    async def _versions(self, stack: Stack, stream_id: str) -> dict[str, TaskTemplate]:
        """Every version of a registered template, by its reference."""
        found = {}
        try:
            records = await stack.store.read_stream(stream_id)
        except StoreUnavailable as error:
            progress(f"cannot look up what was registered: {error}")
            return {}
        for record in records:
            event = decode_event(record.data)
            if isinstance(event, TemplateRegistered):
                template = load_template(bytes(event.content)).template
                found[template.reference] = template
        return found

    def _on_template_changed(self, message: Msg) -> None:
        self._changed.put_nowait(message.data.decode(errors="replace"))

    def _greet(self, stack: Stack, workers: WorkerProcesses | None) -> None:
        """Say where things are and what to type next."""
        templates = list(self._given.values())
        say(f"\nStepweave {VERSION} runs here.\n")
        say(f"  PostgreSQL  {without_secrets(stack.addresses.database_url)}")
        say(f"  NATS        {without_secrets(stack.addresses.nats_url)}")
        say(f"  addresses   {stack.dev_file}, with passwords; commands typed in this folder find it")
        for template in templates:
            say(f"  template    {template.reference}, {_count(len(template.steps), 'step')}")
        if workers is not None:
            say(
                f"  workers     {_count(self._worker_count, 'process', 'processes')} with "
                f"{_count(len(workers.handlers), 'handler')}: {', '.join(list(workers.handlers)[:12])}"
                + (" …" if len(workers.handlers) > 12 else "")
            )
        say("\nType in another terminal, in this folder:\n")
        for line in _suggestions(templates, with_workers=workers is not None):
            say(f"  {line}")
        say("\nCtrl-C stops everything.")
        if workers is not None:
            _warn_of_missing_handlers(templates, workers, self._settings)


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run several things at once until one of them ends or fails; the others are cancelled then."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _suggestions(templates: list[TaskTemplate], *, with_workers: bool) -> list[str]:
    lines = []
    if templates:
        first = templates[0]
        needed = " ".join(f"--set {name}=…" for name in _required(first))
        lines.append(f"stepweave task create {first.namespace}/{first.name} {needed}".rstrip() + " --watch")
    else:
        lines.append("stepweave new hello                 # a first template and its handlers")
        lines.append("stepweave template register FILE")
    if not with_workers:
        lines.append("stepweave worker run MODULE")
    return [*lines, "stepweave task list", "stepweave events tail", "stepweave doctor"]


def _required(template: TaskTemplate) -> list[str]:
    """The input fields that a task of the template needs."""
    canonical = msgspec.json.decode(template.canonical_json())
    required = (canonical.get("input_schema") or {}).get("required")
    return [str(name) for name in required] if isinstance(required, list) else []


def _warn_of_missing_handlers(
    templates: list[TaskTemplate], workers: WorkerProcesses, settings: WorkerSettings
) -> None:
    if settings.resolve_imports:
        return
    for template in templates:
        for line in missing_handlers(template, workers.handlers, settings.modules):
            progress(f"warning: {line}")


def missing_handlers(
    template: TaskTemplate, handlers: Mapping[str, Sequence[str]], modules: Sequence[str]
) -> Iterator[str]:
    """A line for each handler or method that the template names and the workers do not have.

    `handlers` are the methods of each handler of `modules` that a template may name.
    """
    for step in template.steps:
        wanted: list[tuple[str, HandlerSpec]] = []
        if step.wait_for_signal is None and step.child_task is None:
            wanted.append(("", step.handler))
        if step.compensation is not None:
            wanted.append((", compensation", step.compensation.handler))
        for role, handler in wanted:
            methods = handlers.get(handler.callable)
            where = f"{template.reference}, step {step.name}{role}"
            if methods is None:
                yield f"{where}: no handler is named {handler.callable!r} in {', '.join(modules)}"
            elif handler.method not in methods:
                listed = ", ".join(methods[:_METHODS_MAX]) + (" …" if len(methods) > _METHODS_MAX else "")
                yield (
                    f"{where}: handler {handler.callable!r} has no method {handler.method!r} for templates; "
                    f"it has: {listed or 'none'}"
                )


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
