"""What `stepweave demo` does while it runs: everything up, all runs at once, their stories, everything down."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stepweave.api_errors import Conflict
from stepweave.client import Client
from stepweave.responses import TaskResponse
from stepweave_schemas.envelope import Envelope

from .demo_examples import Example, Run
from .demo_signals import SignalSender, sent_text
from .demo_view import Progress, progress_view
from .dev_session import first_of
from .errors import CommandError, ExitCode
from .event_text import TIMELINE_COLUMNS, timeline
from .output import print_table, progress, say, status_text, stdout
from .stack import places_of, running_stack, running_workers
from .worker_processes import WorkerSettings

#: Handlers of examples are quick.
GRACE_SECONDS = 2.0


@dataclass(slots=True)
class Story:
    """What came of one run."""

    run: Run
    task: TaskResponse | None = None
    events: list[Envelope] = field(default_factory=list)
    #: The histories of the tasks that its steps started, by step.
    children: dict[str, list[Envelope]] = field(default_factory=dict)
    #: Why the run is not as its example says; empty where it is.
    fault: str = ""


class DemoSession:
    """One demonstration."""

    def __init__(self, examples: Sequence[Example], run_timeout_seconds: float) -> None:
        self._examples = examples
        self._run_timeout_seconds = run_timeout_seconds

    async def run(self, data_dir: Path, database_url: str | None, nats_url: str | None) -> bool:
        """Run all examples; whether each run ended as its example says."""
        async with running_stack(
            data_dir, database_url=database_url, nats_url=nats_url, say=progress
        ) as stack:
            await self._register(stack.client, None if database_url else data_dir)
            namespaces, queues = places_of(
                [template for example in self._examples for template in example.templates.values()]
            )
            settings = WorkerSettings(
                modules=tuple(str(example.handlers_file) for example in self._examples),
                namespaces=namespaces,
                queues=queues,
                grace_seconds=GRACE_SECONDS,
            )
            async with running_workers(settings, 1, nats_url=stack.addresses.nats_url, say=progress):
                stories = [Story(run) for example in self._examples for run in example.runs]
                await first_of(stack.orchestrator.run(), self._run_all(stack.client, stories))
                for story in stories:
                    _tell(story)
        return not any(story.fault for story in stories)

    async def _register(self, client: Client, data_dir: Path | None) -> None:
        """Register the templates; `data_dir` is where the embedded database is, `None` where another is used."""
        other = "give another database in DATABASE_URL" if data_dir is None else f"remove {data_dir}"
        files = [pair for example in self._examples for pair in example.templates.items()]
        for path, template in files:
            try:
                await client.register_template(path, registered_by="demo")
            except Conflict:
                raise CommandError(
                    f"{path} differs from the registered {template.reference}: raise its version, or {other}",
                    ExitCode.REFUSED,
                ) from None

    async def _run_all(self, client: Client, stories: list[Story]) -> None:
        with progress_view([story.run for story in stories]) as view:
            await asyncio.gather(*(self._run_one(client, story, view) for story in stories))

    async def _run_one(self, client: Client, story: Story, view: Progress) -> None:
        run = story.run
        try:
            async with asyncio.timeout(self._run_timeout_seconds):
                task = await client.create_task(
                    run.template.name,
                    namespace=run.template.namespace,
                    version=run.template.version,
                    context=run.input.context,
                    initiator="demo",
                    reason=run.input.description,
                    # Whatever identity the template asks for: each demonstration is a new task.
                    idempotency_key=f"demo-{run.name}-{secrets.token_hex(8)}",
                )
                view.created(run, task)
                sender = SignalSender(client, task.task_uuid, run.input.signals)
                await sender.begin()
                async for envelope in client.watch_task(task.task_uuid, until_blocked=True):
                    story.events.append(envelope)
                    view.happened(run, envelope)
                    await sender.happened(envelope)
                story.task = await client.get_task(task.task_uuid)
                for step in story.task.steps:
                    if step.child_task_uuid is not None:
                        story.children[step.name] = await client.get_events(step.child_task_uuid)
        except TimeoutError:
            story.fault = f"it did not end within {self._run_timeout_seconds:g} s"
        else:
            story.fault = _fault(run, story.task) or sender.fault
        view.ended(run, story.task, story.fault)


def _fault(run: Run, task: TaskResponse) -> str:
    wanted = run.input
    if task.status != wanted.expect:
        return f"it should be {wanted.expect}, and is {task.status}"
    step = wanted.expect_failed_step
    if step is not None and (state := task.step(step).current_state) != "error":
        return f"its step {step} should have failed, and is {state}"
    if task.compensation_status != wanted.expect_compensation:
        undone = {None: "nothing", "complete": "all", "partial": "a part"}
        return (
            f"{undone[wanted.expect_compensation]} of it should have been undone, "
            f"and it says {task.compensation_status}"
        )
    return ""


def _tell(story: Story) -> None:
    """A run's outcome and its history."""
    run = story.run
    say()
    console = stdout()
    console.rule(run.title) if console.is_terminal else say(f"== {run.title}")
    if run.input.description:
        say(run.input.description)
    for signal in run.input.signals:
        say(f"the demonstration sends what a person would type: {sent_text(signal)}")
    if story.task is not None:
        task = story.task
        line = status_text(task.status)
        line.append(
            f"  {task.namespace}/{task.name}:{task.version}, {task.completed_steps} of {task.total_steps} steps done"
            f"  {task.task_uuid}",
            style="default",
        )
        console.print(line, soft_wrap=True)
    if story.fault:
        say(f"NOT AS EXPECTED: {story.fault}")
    say()
    print_table(TIMELINE_COLUMNS, timeline(story.events), empty="no events")
    for step, events in story.children.items():
        say(f"\nthe task that {step} started:")
        print_table(TIMELINE_COLUMNS, timeline(events), empty="no events")
