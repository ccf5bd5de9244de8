"""A whole workflow in memory: the real core decides, the real worker code runs the handlers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from stepweave.api_errors import ValidationFailed
from stepweave.context import StepContext
from stepweave.encoding import encode_json
from stepweave.errors import ConfigurationError
from stepweave.registry import Registry
from stepweave.responses import TaskResponse
from stepweave.results import StepHandlerResult
from stepweave.subscriber.events import Event
from stepweave.tracing import HandlerSpans
from stepweave.worker.execution import outcome_of
from stepweave.worker.held import HeldTry
from stepweave.worker.intake import find_handler
from stepweave.worker.pool import TryPool
from stepweave_orchestrator.core.commands import CancelTask, Command, CreateTask, Moment, Wake
from stepweave_orchestrator.core.decide import decide
from stepweave_orchestrator.core.dispatching import build_dispatch
from stepweave_orchestrator.core.evolve import evolve
from stepweave_orchestrator.core.plan import compile_plan
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_orchestrator.core.state import initial
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas import events, result
from stepweave_schemas.codec import encode
from stepweave_schemas.dispatch import Dispatch
from stepweave_schemas.envelope import Envelope, timestamp
from stepweave_schemas.identity import content_digest, derived_uuid
from stepweave_schemas.template import TaskTemplate, load_template, load_template_file

from .virtual_loop import VirtualClockLoop

_WORKER_ID: Final = "test-worker"
#: The virtual time at which tasks start, unless told otherwise.
DEFAULT_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_ANNOUNCE_AFTER_SECONDS: Final = 0.25
_CONCURRENCY: Final = 1_000
_THREADS_MAX: Final = 16


class WorkflowRun:
    """What became of a task that `run_workflow` ran."""

    def __init__(self, task: TaskResponse, log: list[Event], results: dict[str, Any], seconds: float) -> None:
        #: The task as `Client.get_task` would show it.
        self.task = task
        #: Every event in order, by item and by attribute.
        self.events = log
        #: The results of the finished steps by step name.
        self.results = results
        #: Virtual seconds from the start to the end.
        self.elapsed_seconds = seconds

    @property
    def status(self) -> str:
        """The task's status: `complete`, `blocked_by_failures`, `error` or `cancelled`."""
        return self.task.status

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

    def __repr__(self) -> str:
        return (
            f"<WorkflowRun {self.task.namespace}/{self.task.name} {self.status}, {len(self.events)} events>"
        )


def run_workflow(
    template: str | Path | TaskTemplate,
    handlers: Registry | Iterable[Any],
    context: Any = None,
    *,
    at: datetime = DEFAULT_START,
    start_after_seconds: float = 0.0,
    cancel_after_seconds: float | None = None,
    priority: int = 0,
    environment: str | None = None,
    seed: int = 0,
    real_seconds_max: float = 60.0,
) -> WorkflowRun:
    """Run one task of a template to its end, without any server, and say what happened.

        run = run_workflow(Path("order.yaml"), [validate, charge], {"amount": 5})
        assert run.status == "complete" and run.results["charge"]["charged"] == 5

    `template` is YAML or JSON text, a path or a loaded template; `handlers` a registry, or functions and
    classes. The orchestrator's own core decides and the worker's own code runs the handlers, but the clock is
    virtual: backoff, time-outs and sleeps of async handlers take no time (what runs in threads or talks to
    sockets does, `real_seconds_max` at most). It ends where the task has ended or is blocked. The same `seed`
    gives the same ids and the same jitter.

    Raises `TemplateError` for a template with errors, `ValidationFailed` for a context that does not fit
    `input_schema`, `RealTimeExceeded` where a handler hangs.
    """
    loaded = _load(template, environment)
    registry = handlers if isinstance(handlers, Registry) else Registry(handlers)
    payload = encode_json({} if context is None else context, "context")
    _check_context(loaded, msgspec.json.decode(payload))

    def run() -> WorkflowRun:
        loop = VirtualClockLoop(real_seconds_max=real_seconds_max)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            task = _Task(loaded, registry, payload, loop, at, seed, priority)
            return runner.run(task.run(start_after_seconds, cancel_after_seconds))

    if asyncio._get_running_loop() is None:
        return run()
    # Inside a running loop: in a thread, so that the virtual clock does not touch that loop.
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()


def _load(template: str | Path | TaskTemplate, environment: str | None) -> TaskTemplate:
    if isinstance(template, Path):
        return load_template_file(template, environment=environment).template
    if isinstance(template, str):
        return load_template(template, environment=environment).template
    return template if environment is None else template.for_environment(environment)


def _check_context(template: TaskTemplate, context: Any) -> None:
    schema = template.canonical().get("input_schema")
    if not isinstance(context, dict):
        raise ConfigurationError(f"a task's context is an object, not {type(context).__name__}")
    if schema is None:
        return
    try:
        import jsonschema_rs
    except ImportError:
        raise ConfigurationError(
            "the template has an input_schema, and checking it needs the extra: pip install 'stepweave[server]'"
        ) from None
    violations = [
        {"pointer": "".join(f"/{part}" for part in error.instance_path), "message": error.message}
        for error in jsonschema_rs.validator_for(schema).iter_errors(context)
    ]
    if violations:
        raise ValidationFailed(
            "VALIDATION_FAILED",
            "the context does not fit the template's input_schema: "
            + "; ".join(f"{one['pointer'] or '/'}: {one['message']}" for one in violations[:5]),
            {"violations": violations},
        )


class _Task:
    """The actor of one task, its worker and its timers, all on a virtual clock."""

    def __init__(
        self,
        template: TaskTemplate,
        registry: Registry,
        context: bytes,
        loop: VirtualClockLoop,
        at: datetime,
        seed: int,
        priority: int,
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._context = context
        self._priority = priority
        self._start_ms = round(at.timestamp() * 1000)
        self._random = random.Random(seed)
        self._task_id = derived_uuid("testing", str(seed))
        plan = compile_plan(template.canonical_json(), template.content_hash())
        self._state = initial(self._task_id, plan, derived_uuid("testing", "correlation", str(seed)))
        self._log: list[Event] = []
        self._timer: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._failed: BaseException | None = None

    async def run(self, start_after_seconds: float, cancel_after_seconds: float | None) -> WorkflowRun:
        self._pool = TryPool(
            concurrency=_CONCURRENCY,
            threads_max=_THREADS_MAX,
            only_threads=False,
            announce_after_seconds=_ANNOUNCE_AFTER_SECONDS,
            spans=HandlerSpans(),
            on_result=self._on_result,
            on_dropped=lambda _: None,
            on_started=self._on_started,
            on_room=lambda: None,
            clock=self._now_ms,
        )
        self._loop.busy = lambda: self._pool.threads_busy > 0
        cancelling: asyncio.TimerHandle | None = None
        try:
            if cancel_after_seconds is not None:
                command = CancelTask(reason="the test cancels", cancelled_by="test")
                cancelling = self._loop.call_later(cancel_after_seconds, self._decide, command)
            start_at = self._now_ms() + round(start_after_seconds * 1000) if start_after_seconds else None
            self._decide(CreateTask(self._created(start_at)))
            await self._ended.wait()
        finally:
            if cancelling is not None:
                cancelling.cancel()
            if self._timer is not None:
                self._timer.cancel()
            self._pool.close()
        if self._failed is not None:
            raise self._failed
        task = msgspec.json.decode(encode(task_response(self._state)), type=TaskResponse)
        results = {
            spec.name: msgspec.json.decode(step.result)
            for spec, step in zip(self._state.the_plan.steps, self._state.steps, strict=True)
            if step.result is not None
        }
        return WorkflowRun(task, self._log, results, self._loop.time())

    def _created(self, start_at_ms: int | None) -> events.TaskCreated:
        return events.TaskCreated(
            template=self._state.the_plan.ref,
            context=msgspec.Raw(self._context),
            request_digest=content_digest(msgspec.json.decode(self._context)),
            request_id=self._task_id,
            initiator="test",
            priority=self._priority,
            start_at_ms=start_at_ms,
        )

    def _now_ms(self) -> int:
        return self._start_ms + round(self._loop.time() * 1000)

    # -- the actor -------------------------------------------------------------------------------

    def _decide(self, command: Command) -> None:
        """One command: decide, apply, do what the events say. An error here ends the run."""
        try:
            self._carry_out(command)
        except Exception as error:
            self._failed = error
            self._ended.set()

    def _carry_out(self, command: Command) -> None:
        state = self._state
        now = self._now_ms()
        decision = decide(state, command, Moment(now, f"{self._random.getrandbits(96):024x}"))
        if isinstance(decision, Rejection):
            return
        for event in decision:
            evolve(state, event, now)
            self._log.append(self._logged(event, now))
        if state.is_terminal:
            self._pool.cancel(lambda _: True)
        for event in decision:
            if isinstance(event, events.StepEnqueued):
                dispatch = build_dispatch(
                    state, event.step_name, event.attempt, event.lease_token, "sw.res.test.0.test"
                )
                if dispatch is not None:
                    self._dispatch(dispatch)
        if state.is_terminal or (state.status == "blocked_by_failures" and not self._pool.running_count):
            self._ended.set()
        self._set_timer()

    def _logged(self, event: events.Event, now: int) -> Event:
        ref = self._state.the_plan.ref
        envelope = Envelope(
            0,
            len(self._log) + 1,
            self._task_id,
            self._state.version,
            event.TYPE,
            events.SCHEMA_VERSION,
            timestamp(now),
            self._state.correlation_id,
            "",
            "test",
            msgspec.Raw(encode(event)),
        )
        return Event(envelope, namespace=ref.namespace, task_name=ref.name)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = self._state.next_wake_ms()
        if wake is not None and not self._state.is_terminal:
            delay = max(0, wake - self._now_ms()) / 1000
            self._timer = self._loop.call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._decide(Wake())

    # -- the worker ------------------------------------------------------------------------------

    def _dispatch(self, dispatch: Dispatch) -> None:
        if not dispatch.dependency_results_complete:
            plan = self._state.the_plan
            ancestors = plan.ancestors(plan.index[dispatch.step_name])
            texts = {plan.steps[one].name: self._state.steps[one].result for one in ancestors}
            results = {name: msgspec.Raw(text) for name, text in texts.items() if text is not None}
            dispatch = msgspec.structs.replace(dispatch, dependency_results=results)
        invocation = find_handler(self._registry, dispatch, _WORKER_ID)
        if isinstance(invocation, StepHandlerResult):
            outcome = outcome_of(dispatch, invocation, worker_id=_WORKER_ID)
            self._loop.call_soon(self._decide, outcome)
            return
        context = StepContext(dispatch, worker_id=_WORKER_ID)
        held = HeldTry(dispatch, "", invocation, context, self._loop.time())
        # After the decision at hand is through.
        self._loop.call_soon(self._pool.add, [held])

    def _on_result(self, held: HeldTry, ended: StepHandlerResult) -> None:
        duration = None if held.started_at is None else round((self._loop.time() - held.started_at) * 1000)
        outcome = outcome_of(
            held.dispatch,
            ended,
            worker_id=_WORKER_ID,
            started_at_ms=held.started_at_ms,
            duration_ms=duration,
        )
        self._loop.call_soon(self._decide, outcome)

    def _on_started(self, held: HeldTry) -> None:
        dispatch = held.dispatch
        self._decide(
            result.Started(
                task_id=dispatch.task_id,
                step_uuid=dispatch.step_uuid,
                step_name=dispatch.step_name,
                attempt=dispatch.attempt,
                lease_token=dispatch.lease_token,
                worker_id=_WORKER_ID,
                started_at_ms=held.started_at_ms or 0,
            )
        )
