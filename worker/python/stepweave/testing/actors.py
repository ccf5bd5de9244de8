"""The tasks of one in-memory run – the one that was asked for and its children – and the worker they share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from stepweave.api_errors import Conflict, ValidationFailed
from stepweave.context import StepContext
from stepweave.registry import Registry
from stepweave.responses import TaskResponse
from stepweave.results import StepHandlerResult
from stepweave.subscriber.events import Event
from stepweave.tracing import HandlerSpans
from stepweave.worker.execution import outcome_of
from stepweave.worker.held import HeldTry
from stepweave.worker.intake import find_handler
from stepweave.worker.pool import TryPool
from stepweave_orchestrator.core.children import begun, cancel_order, ended, refused, start_order
from stepweave_orchestrator.core.commands import (
    CancelTask,
    Command,
    CreateTask,
    ForkTask,
    Limits,
    Moment,
    SignalTask,
    Wake,
)
from stepweave_orchestrator.core.decide import decide
from stepweave_orchestrator.core.dispatching import all_result_numbers, build_dispatch
from stepweave_orchestrator.core.evolve import evolve
from stepweave_orchestrator.core.fork import Past, taken_over, unknown_steps
from stepweave_orchestrator.core.operator_commands import AnyOperatorCommand
from stepweave_orchestrator.core.plan import compile_plan
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_orchestrator.core.state import initial
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas import events, result
from stepweave_schemas.child import StartChild
from stepweave_schemas.codec import encode
from stepweave_schemas.dispatch import Dispatch
from stepweave_schemas.envelope import Envelope, timestamp
from stepweave_schemas.identity import content_digest, derived_uuid
from stepweave_schemas.template import TaskTemplate, highest_version
from stepweave_schemas.template.value_checks import violations_text

from .checking import checks_of
from .gates import GatesInMemory
from .virtual_loop import VirtualClockLoop

_WORKER_ID: Final = "test-worker"
_RESULT_SUBJECT: Final = "sw.res.test.0.test"
_ANNOUNCE_AFTER_SECONDS: Final = 0.25
_CONCURRENCY: Final = 1_000
_THREADS_MAX: Final = 16


class Sent(NamedTuple):
    """A signal on its way; `payload` is JSON text."""

    name: str
    payload: str
    after_seconds: float
    sent_by: str


class World:
    """Everything of one run: its clock, its tasks by id, the worker, what the tasks order from each other."""

    def __init__(
        self,
        loop: VirtualClockLoop,
        registry: Registry,
        templates: Iterable[TaskTemplate],
        at: datetime,
        seed: int,
        limits: Limits,
    ) -> None:
        self.loop = loop
        self.registry = registry
        self.limits = limits
        self.actors: dict[str, TaskInMemory] = {}
        self.gates = GatesInMemory(self)
        self.random = random.Random(seed)
        self._seed = seed
        self._templates = list(templates)
        self._start_ms = round(at.timestamp() * 1000)
        self._ended = asyncio.Event()
        self._failed: BaseException | None = None
        #: Calls that are scheduled on the loop and have not been made.
        self._scheduled = 0
        self._root_id = ""
        self.pool: TryPool

    async def run(
        self,
        template: TaskTemplate,
        context: bytes,
        priority: int,
        start_after_seconds: float,
        cancel_after_seconds: float | None,
        signals: list[Sent],
        operations: Sequence[tuple[float, AnyOperatorCommand]] = (),
        original: Past | None = None,
        from_steps: tuple[str, ...] = (),
    ) -> str:
        """Run a task of a template, perhaps a fork, until nothing more happens; returns its id."""
        self.pool = TryPool(
            concurrency=_CONCURRENCY,
            threads_max=_THREADS_MAX,
            only_threads=False,
            announce_after_seconds=_ANNOUNCE_AFTER_SECONDS,
            spans=HandlerSpans(),
            on_result=self._on_result,
            on_dropped=lambda _: None,
            on_started=self._on_started,
            on_room=lambda: None,
            clock=self.now_ms,
        )
        self.loop.busy = lambda: self.pool.threads_busy > 0
        self._root_id = derived_uuid("testing", str(self._seed))
        if original is not None:
            self._root_id = derived_uuid("testing", str(self._seed), "fork", original.state.task_id)
        correlation_id = derived_uuid("testing", "correlation", str(self._seed))
        root = self.actors[self._root_id] = TaskInMemory(self, self._root_id, template, correlation_id)
        try:
            start_at = self.now_ms() + round(start_after_seconds * 1000) if start_after_seconds else None
            created = events.TaskCreated(
                template=root.state.the_plan.ref,
                context=msgspec.Raw(context),
                request_digest=content_digest(msgspec.json.decode(context)),
                request_id=self._root_id,
                initiator="test",
                priority=priority,
                start_at_ms=start_at,
            )
            self.soon(partial(root.begin, created, original, from_steps))
            for number, signal in enumerate(signals):
                self.later(signal.after_seconds, partial(root.signal, signal, f"signal-{number}"))
            for after_seconds, operation in operations:
                self.later(after_seconds, partial(root.operate, operation))
            if cancel_after_seconds is not None:
                command = CancelTask(reason="the test cancels", cancelled_by="test")
                self.later(cancel_after_seconds, partial(root.decide, command))
            await self._ended.wait()
        finally:
            for actor in self.actors.values():
                actor.close()
            self.pool.close()
        if self._failed is not None:
            raise self._failed
        return self._root_id

    def now_ms(self) -> int:
        """Virtual milliseconds since the Unix epoch."""
        return self._start_ms + round(self.loop.time() * 1000)

    # -- calls -----------------------------------------------------------------------------------

    def soon(self, call: Callable[[], None]) -> None:
        """Make a call after the one at hand."""
        self.later(0.0, call)

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Make a call in so many virtual seconds; gives what takes it back."""
        self._scheduled += 1
        open_call = [True]

        def close() -> bool:
            was_open = open_call.pop() if open_call else False
            self._scheduled -= was_open
            return was_open

        def make() -> None:
            close()
            self._guarded(call)

        handle = self.loop.call_later(seconds, make) if seconds else self.loop.call_soon(make)

        def take_back() -> None:
            if close():
                handle.cancel()

        return take_back

    def _guarded(self, call: Callable[[], None]) -> None:
        """An error here ends the run."""
        try:
            call()
        except Exception as error:
            self._failed = error
            self._ended.set()
            return
        root = self.actors[self._root_id].state
        quiet = not self._scheduled and not self.pool.running_count and not self.pool.waiting_count
        if root.is_terminal or quiet:
            self._ended.set()

    # -- children --------------------------------------------------------------------------------

    def start(self, order: StartChild) -> None:
        """Start a child, or tell its parent why not."""
        known = self.actors.get(order.task_id)
        if known is not None:
            return
        template, code, why = self._template_for(order)
        if template is None:
            retryable = code == "CHILD_TEMPLATE_NOT_FOUND"
            self.say(refused(order.task_id, order.parent, code, why, retryable=retryable))
            return
        child = self.actors[order.task_id] = TaskInMemory(self, order.task_id, template, order.correlation_id)
        created = events.TaskCreated(
            template=child.state.the_plan.ref,
            context=order.context,
            request_digest="",
            request_id=order.task_id,
            initiator=f"task:{order.parent.task_id}",
            source_system=order.parent_namespace,
            reason=f"step {order.parent.step_name}",
            priority=order.priority,
            parent_correlation_id=order.parent_correlation_id,
            parent=order.parent,
            depth=order.depth,
        )
        self.soon(partial(child.decide, CreateTask(created)))
        self.say(begun(order.task_id, order.parent, self.now_ms()))

    def _template_for(self, order: StartChild) -> tuple[TaskTemplate | None, str, str]:
        name = f"{order.namespace}/{order.name}"
        if order.problems:
            return None, "CHILD_CONTEXT_INVALID", f"{name} cannot be started: {'; '.join(order.problems)}"
        versions = {
            one.version: one
            for one in self._templates
            if (one.namespace, one.name) == (order.namespace, order.name)
        }
        version = order.version or highest_version(list(versions))
        if version is None or version not in versions:
            why = f"there is no template {name}{':' + version if version else ''} among `templates`"
            return None, "CHILD_TEMPLATE_NOT_FOUND", why
        template = versions[version]
        found = checks_of(template).of_context(msgspec.json.decode(order.context))
        if found:
            why = f"the context does not fit the input schema of {name}: {violations_text(found)}"
            return None, "CHILD_CONTEXT_INVALID", why
        return template, "", ""

    def say(self, outcome: result.AnyOutcome) -> None:
        """Bring an outcome to its task."""
        actor = self.actors.get(outcome.task_id)
        if actor is not None:
            self.soon(partial(actor.decide, outcome))

    def cancel(self, task_id: str, reason: str, cancelled_by: str) -> None:
        """Cancel a child."""
        actor = self.actors.get(task_id)
        if actor is not None:
            self.soon(partial(actor.decide, CancelTask(reason=reason, cancelled_by=cancelled_by)))

    # -- the worker ------------------------------------------------------------------------------

    def dispatch(self, dispatch: Dispatch) -> None:
        """Run a try, after the decision at hand is through."""
        invocation = find_handler(self.registry, dispatch, _WORKER_ID)
        if isinstance(invocation, StepHandlerResult):
            self.say(outcome_of(dispatch, invocation, worker_id=_WORKER_ID))
            return
        context = StepContext(dispatch, worker_id=_WORKER_ID)
        held = HeldTry(dispatch, "", invocation, context, self.loop.time())
        self.soon(partial(self.pool.add, [held]))

    def _on_result(self, held: HeldTry, done: StepHandlerResult) -> None:
        duration = None if held.started_at is None else round((self.loop.time() - held.started_at) * 1000)
        self.say(
            outcome_of(
                held.dispatch,
                done,
                worker_id=_WORKER_ID,
                started_at_ms=held.started_at_ms,
                duration_ms=duration,
                domain_events=held.context.domain_events(),
            )
        )

    def _on_started(self, held: HeldTry) -> None:
        dispatch = held.dispatch
        self._guarded(
            partial(
                self.actors[dispatch.task_id].decide,
                result.Started(
                    task_id=dispatch.task_id,
                    step_uuid=dispatch.step_uuid,
                    step_name=dispatch.step_name,
                    attempt=dispatch.attempt,
                    lease_token=dispatch.lease_token,
                    worker_id=_WORKER_ID,
                    started_at_ms=held.started_at_ms or 0,
                ),
            )
        )


class TaskInMemory:
    """One task: its state, its events, its timer."""

    def __init__(self, world: World, task_id: str, template: TaskTemplate, correlation_id: str) -> None:
        self._world = world
        plan = compile_plan(template.canonical_json(), template.content_hash(), checks_of(template))
        self.state = initial(task_id, plan, correlation_id)
        self.log: list[Event] = []
        self._history: list[tuple[events.Event, int]] = []
        self.refused_signals: list[str] = []
        self.refused_operations: list[str] = []
        self._timer: Callable[[], None] | None = None

    def decide(self, command: Command) -> None:
        """One command: decide, apply, do what the events say."""
        self._carry_out(command)

    def begin(self, created: events.TaskCreated, original: Past | None, from_steps: tuple[str, ...]) -> None:
        """The task's creation; that of a fork is refused where nothing would run."""
        if original is None:
            self.decide(CreateTask(created))
            return
        unknown = unknown_steps(original, self.state.the_plan, from_steps)
        if unknown:
            raise ValidationFailed("VALIDATION_FAILED", f"from_steps: there is no step {unknown[0]!r}")
        origin = events.ForkOrigin(
            task_id=original.state.task_id, stream_version=original.state.version, from_steps=from_steps
        )
        created = msgspec.structs.replace(created, forked_from=origin)
        taken = taken_over(original, from_steps)
        refusal = self._carry_out(ForkTask(created, taken, original.state.the_plan.ref))
        if refusal is not None:
            raise Conflict(refusal.code, refusal.reason)

    def past(self) -> Past:
        """The task as a fork looks at it."""
        past = Past(self.state.task_id, self.state.the_plan, self.state.correlation_id)
        for event, recorded_at_ms in self._history:
            past.apply(event, recorded_at_ms)
        return past

    def signal(self, signal: Sent, signal_id: str) -> None:
        """One signal; why it is refused is kept."""
        refusal = self._carry_out(SignalTask(signal.name, signal_id, signal.payload, signal.sent_by))
        if refusal is not None:
            self.refused_signals.append(refusal.reason)

    def operate(self, command: AnyOperatorCommand) -> None:
        """What an operator asks; why it is refused is kept."""
        refusal = self._carry_out(command)
        if refusal is not None:
            self.refused_operations.append(refusal.reason)

    def close(self) -> None:
        """Set no timer any more."""
        if self._timer is not None:
            self._timer()

    def response(self) -> TaskResponse:
        """The task as callers see it."""
        return msgspec.json.decode(encode(task_response(self.state)), type=TaskResponse)

    def results(self) -> dict[str, Any]:
        """The results of the finished steps by name."""
        return {
            self.state.name_of(number): msgspec.json.decode(step.result)
            for number, step in enumerate(self.state.steps)
            if step.result is not None
        }

    def children(self) -> dict[str, str]:
        """The ids of the tasks that steps have started last, by step name."""
        return {
            self.state.name_of(number): step.child_task_id
            for number, step in enumerate(self.state.steps)
            if step.child_task_id
        }

    def _carry_out(self, command: Command) -> Rejection | None:
        world, state = self._world, self.state
        now = world.now_ms()
        moment = Moment(
            now,
            f"{world.random.getrandbits(96):024x}",
            world.limits,
            open_circuits=world.gates.open_circuits,
        )
        decision = decide(state, command, moment)
        if isinstance(decision, Rejection):
            return decision
        for event in decision:
            evolve(state, event, now)
            self.log.append(self._logged(event, now))
            self._history.append((event, now))
        if state.is_terminal:
            world.pool.cancel(lambda held: held.dispatch.task_id == state.task_id)
        by_hand = {
            event.step_uuid
            for event in decision
            if isinstance(event, events.StepResolvedManually | events.StepCompletedManually)
        }
        if by_hand:
            world.pool.cancel(lambda held: held.dispatch.step_uuid in by_hand)
        for event in decision:
            self._follow(event)
        if decision and state.is_terminal and (outcome := ended(state)) is not None:
            world.say(outcome)
        self._set_timer()
        return None

    def _follow(self, event: events.Event) -> None:
        """What an event orders."""
        if isinstance(event, events.StepEnqueued):
            dispatch = build_dispatch(
                self.state, event.step_name, event.attempt, event.lease_token, _RESULT_SUBJECT
            )
            if dispatch is not None:
                self._world.dispatch(self._with_all_results(dispatch))
        elif isinstance(event, events.ChildRequested):
            order = start_order(self.state, event, _RESULT_SUBJECT)
            if order is not None:
                self._world.soon(partial(self._world.start, order))
        elif isinstance(event, events.ChildCancelRequested):
            cancelled = cancel_order(self.state, event)
            self._world.cancel(cancelled.task_id, cancelled.reason, f"task:{self.state.task_id}")
        else:
            self._world.gates.follow(self, event)

    def _with_all_results(self, dispatch: Dispatch) -> Dispatch:
        """What a worker would ask for besides, where not all fitted."""
        if dispatch.dependency_results_complete:
            return dispatch
        state = self.state
        numbers = all_result_numbers(state, state.number_of(dispatch.step_name))
        texts = {state.name_of(number): state.steps[number].result for number in numbers}
        results = {name: msgspec.Raw(text) for name, text in texts.items() if text is not None}
        return msgspec.structs.replace(dispatch, dependency_results=results)

    def _logged(self, event: events.Event, now: int) -> Event:
        ref = self.state.the_plan.ref
        envelope = Envelope(
            0,
            len(self.log) + 1,
            self.state.task_id,
            self.state.version,
            event.TYPE,
            events.SCHEMA_VERSION,
            timestamp(now),
            self.state.correlation_id,
            "",
            "test",
            msgspec.Raw(encode(event)),
        )
        return Event(envelope, namespace=ref.namespace, task_name=ref.name)

    def _set_timer(self) -> None:
        self.close()
        self._timer = None
        wake = self.state.next_wake_ms()
        if wake is not None and not self.state.is_terminal:
            delay = max(0, wake - self._world.now_ms()) / 1000
            self._timer = self._world.later(delay, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.decide(Wake())
