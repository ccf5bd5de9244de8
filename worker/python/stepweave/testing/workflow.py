"""A whole workflow in memory: the real core decides, the real worker code runs the handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from stepweave.api_errors import ValidationFailed
from stepweave.encoding import encode_json
from stepweave.errors import ConfigurationError
from stepweave.registry import Registry
from stepweave.responses import TaskResponse
from stepweave.subscriber.events import Event
from stepweave_orchestrator.core.commands import DEFAULT_LIMITS, Limits
from stepweave_orchestrator.core.fork import Past
from stepweave_schemas.template import TaskTemplate, load_template, load_template_file
from stepweave_schemas.template.value_checks import violations_text

from .actors import Sent, World
from .checking import checks_of
from .operations import Operation, command_of
from .virtual_loop import VirtualClockLoop

#: The virtual time at which tasks start, unless told otherwise.
DEFAULT_START: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Signal(NamedTuple):
    """A signal that `run_workflow` sends to the task."""

    name: str
    #: Any value that has a JSON form.
    payload: Any = None
    #: Virtual seconds after the task was created.
    after_seconds: float = 0.0
    sent_by: str = "test"


class WorkflowRun:
    """What became of a task that `run_workflow` ran."""

    def __init__(
        self,
        task: TaskResponse,
        log: list[Event],
        results: dict[str, Any],
        seconds: float,
        children: dict[str, WorkflowRun],
        refused_signals: list[str],
        refused_operations: list[str],
        past: Callable[[], Past],
    ) -> None:
        self._past = past
        #: The task as `Client.get_task` would show it.
        self.task = task
        #: Every event in order, by item and by attribute.
        self.events = log
        #: The results of the finished steps by step name, workers of batches and compensations included.
        self.results = results
        #: Virtual seconds from the start to the end.
        self.elapsed_seconds = seconds
        #: The last child task that each step started, by step name.
        self.children = children
        #: Why signals were refused, oldest first.
        self.refused_signals = refused_signals
        #: Why operations were refused, oldest first.
        self.refused_operations = refused_operations

    @property
    def status(self) -> str:
        """The task's status; one that is not terminal where nothing more would have happened without help."""
        return self.task.status

    def state(self, step: str) -> str | None:
        """The state of a step; `None` where it does not exist, as a branch that was not chosen."""
        return next((one.current_state for one in self.task.steps if one.name == step), None)

    def attempts(self, step: str) -> int:
        """How many tries a step took."""
        return self.task.step(step).attempts

    def delays_seconds(self, step: str) -> list[float]:
        """The waits before the further tries of a step."""
        return [
            event["delay_ms"] / 1000
            for event in self.events
            if event.type == "step.retry_scheduled" and event["step_name"] == step
        ]

    def published(self, name: str) -> list[Any]:
        """The payloads of a domain event that the task published, oldest first."""
        return [
            event["payload"]
            for event in self.events
            if event.type == "domain.published" and event["name"] == name
        ]

    def __repr__(self) -> str:
        return (
            f"<WorkflowRun {self.task.namespace}/{self.task.name} {self.status}, {len(self.events)} events>"
        )


def run_workflow(
    template: str | Path | TaskTemplate,
    handlers: Registry | Iterable[Any],
    context: Any = None,
    *,
    signals: Iterable[Signal] = (),
    operations: Iterable[Operation] = (),
    templates: Iterable[str | Path | TaskTemplate] = (),
    at: datetime = DEFAULT_START,
    start_after_seconds: float = 0.0,
    cancel_after_seconds: float | None = None,
    priority: int = 0,
    environment: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    fork_of: WorkflowRun | None = None,
    from_steps: Iterable[str] = (),
    seed: int = 0,
    real_seconds_max: float = 60.0,
) -> WorkflowRun:
    """Run one task of a template to its end, without any server, and say what happened.

        run = run_workflow(Path("order.yaml"), [validate, charge], {"amount": 5})
        assert run.status == "complete" and run.results["charge"]["charged"] == 5

    `template` is YAML or JSON text, a path or a loaded template; `handlers` a registry, or functions and
    classes. The orchestrator's own core decides and the worker's own code runs the handlers, but the clock is
    virtual: backoff, time-outs and sleeps of async handlers take no time (what runs in threads or talks to
    sockets does, `real_seconds_max` at most). `signals` are sent to the task at their times, and `operations`
    are what an operator does to it then; `templates` are what child tasks are made of, with the same handlers. Slots
    of concurrency keys and circuits are those of this run: a step waits for the other steps and the child tasks of
    it. It ends where the task has ended or is blocked, or where nothing more would happen (a signal that nobody
    sends). The same `seed` gives the same ids and the same jitter.

    `fork_of` is a run whose results are reused, as `Client.fork_task` does it: `from_steps` run anew with all that
    depends on them, by default what that run has not done; without a `context` it has that run's.

    Raises `TemplateError` for a template with errors, `ValidationFailed` for a context or a signal that does not
    fit its schema and for an unknown step in `from_steps`, `Conflict` for a fork that would run nothing,
    `ConfigurationError` for an operation that there is not, `RealTimeExceeded` where a handler hangs.
    """
    loaded = _load(template, environment)
    registry = handlers if isinstance(handlers, Registry) else Registry(handlers)
    others = [_load(other, environment) for other in templates]
    if context is None:
        context = {} if fork_of is None else fork_of.task.context
    original = None if fork_of is None else fork_of._past()
    payload = encode_json(context, "context")
    _check_context(loaded, msgspec.json.decode(payload))
    sent = [_sent(loaded, signal) for signal in signals]
    operated = [(each.after_seconds, command_of(each, number)) for number, each in enumerate(operations)]

    def run() -> WorkflowRun:
        loop = VirtualClockLoop(real_seconds_max=real_seconds_max)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            world = World(loop, registry, (loaded, *others), at, seed, limits)
            ran = world.run(
                loaded,
                payload,
                priority,
                start_after_seconds,
                cancel_after_seconds,
                sent,
                operated,
                original,
                tuple(from_steps),
            )
            return _as_run(world, runner.run(ran))

    if asyncio._get_running_loop() is None:
        return run()
    # Inside a running loop: in a thread, so that the virtual clock does not touch that loop.
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()


def _as_run(world: World, task_id: str) -> WorkflowRun:
    actor = world.actors[task_id]
    children = {
        step_name: _as_run(world, child_id)
        for step_name, child_id in actor.children().items()
        if child_id in world.actors
    }
    return WorkflowRun(
        actor.response(),
        actor.log,
        actor.results(),
        world.loop.time(),
        children,
        actor.refused_signals,
        actor.refused_operations,
        actor.past,
    )


def _load(template: str | Path | TaskTemplate, environment: str | None) -> TaskTemplate:
    if isinstance(template, Path):
        return load_template_file(template, environment=environment).template
    if isinstance(template, str):
        return load_template(template, environment=environment).template
    return template if environment is None else template.for_environment(environment)


def _check_context(template: TaskTemplate, context: Any) -> None:
    if not isinstance(context, dict):
        raise ConfigurationError(f"a task's context is an object, not {type(context).__name__}")
    found = checks_of(template).of_context(context)
    if found:
        raise ValidationFailed(
            "VALIDATION_FAILED",
            f"the context does not fit the template's input_schema: {violations_text(found)}",
            {"violations": found},
        )


def _sent(template: TaskTemplate, signal: Signal) -> Sent:
    payload = encode_json(signal.payload, f"signals.{signal.name}")
    value = msgspec.json.decode(payload)
    checks = checks_of(template)
    found = [
        checks.of_signal(step.name, value)
        for step in template.steps
        if step.wait_for_signal is not None and step.wait_for_signal.name == signal.name
    ]
    # Which of the steps it will be for is not known yet: it has to fit one of them.
    if found and all(found):
        raise ValidationFailed(
            "VALIDATION_FAILED",
            f"the payload does not fit the payload_schema of signal {signal.name!r}: {violations_text(found[0])}",
            {"violations": found[0]},
        )
    return Sent(signal.name, payload.decode(), signal.after_seconds, signal.sent_by)
