"""Tasks and the gates that they share, all as real actors, and the world between them: a stream that delivers late, in
any order and twice, and drops what repeats an id; workers that err and vanish; owners that crash before and after a
commit; JetStream's storage deleted; orchestrators that hear of open circuits late or never; a clock.

What crosses is what the runtime sends: `order_of` of both sides, carried out by the real `GateOrders`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import msgspec

from stepweave.messaging import Outgoing as Message
from stepweave_orchestrator.core import CancelTask, CreateTask, Moment, Plan, Rejection, Wake, decide, evolve
from stepweave_orchestrator.core.gates.circuit import PROBE_SILENT_MS_MIN, CircuitState
from stepweave_orchestrator.core.gates.slots import SlotsState
from stepweave_orchestrator.core.holding import circuit_key, service_of
from stepweave_orchestrator.core.operator_commands import (
    CompleteStep,
    OperatorCommand,
    PauseTask,
    ResetStep,
    ResolveStep,
    ResolveTask,
    ResumeTask,
    RetryTask,
)
from stepweave_orchestrator.core.plan import COMPENSATION_PREFIX
from stepweave_orchestrator.core.snapshot import encode_snapshot
from stepweave_orchestrator.core.state import ACTIVE, initial
from stepweave_orchestrator.runtime.actors import StreamActor, TaskActor
from stepweave_orchestrator.runtime.gate_orders import GateFull, GateOrders
from stepweave_orchestrator.runtime.orders import held_orders, order_of
from stepweave_orchestrator.runtime.stream_kind import StreamKind, encode_state
from stepweave_orchestrator.runtime.work import Done, Ending, Query, Work
from stepweave_schemas import codec, events, result
from stepweave_schemas.aging import AGING_MS
from stepweave_schemas.gate import AnyGateOrder
from stepweave_schemas.identity import derived_uuid

from .scenario import CORRELATION_ID, T0_MS, WORKER, entropy, new_task

_decoder: Final[msgspec.json.Decoder[AnyGateOrder]] = msgspec.json.Decoder(AnyGateOrder)
#: JetStream's memory of ids.
DUPLICATE_WINDOW_MS: Final = 120_000
#: Orchestrators, each with its own idea of which circuits are open.
VIEWS: Final = 2


class Crash(Exception):
    """The owner of an actor died."""


@dataclass(frozen=True)
class Try:
    """A try that a worker has."""

    task_id: str
    step: str
    attempt: int
    token: str


@dataclass(frozen=True)
class Letter:
    """A message on its way: an order as bytes, or what a worker says about a try."""

    order: bytes = b""
    outcome: result.AnyOutcome | None = None


class Owned:
    """One actor, what the ledger has of it and how much of that was published."""

    def __init__(self, actor: TaskActor | StreamActor) -> None:
        self.actor = actor
        self.ledger: list[tuple[bytes, int]] = []
        self.published = 0


class GateWorld:
    """Everything of one example."""

    def __init__(self, rate_per_second: float | None) -> None:
        self.rate_per_second = rate_per_second
        self.now_ms = T0_MS
        self.streams: dict[str, Owned] = {}
        self.mail: list[Letter] = []
        self.delivered: list[Letter] = []
        self.tries: list[Try] = []
        self.vanished: set[Try] = set()
        self.seen: Counter[str] = Counter()
        #: `before_commit` or `after_commit`: where the next actor that decides anything dies.
        self.crash_at = ""
        #: By orchestrator: the circuits that it knows to be open.
        self.known_open: list[frozenset[str]] = [frozenset()] * VIEWS
        self.orders = GateOrders(self, self._perform, lambda _: 0)  # type: ignore[arg-type]
        self.orders.on_circuit_mistaken = self._tell_everybody
        self.passed_us: list[int] = []
        self._ids: dict[str, int] = {}
        self._lines: dict[str, dict[str, tuple[int, int]]] = {}
        self._decisions = 0

    # -- what happens ------------------------------------------------------------------------------

    def create(self, plan: Plan, context: dict[str, Any], priority: int) -> None:
        """A client's request."""
        task_id = derived_uuid("world", str(len(self.tasks())))
        state = initial(task_id, plan, CORRELATION_ID)
        self.streams[task_id] = Owned(TaskActor(state, 0, plan.ref))
        raw = msgspec.Raw(msgspec.json.encode(context))
        self.do(task_id, CreateTask(new_task(plan, context=raw, priority=priority, request_id=task_id)))

    def cancel(self, number: int) -> None:
        """An operator cancels a task."""
        tasks = self.tasks()
        self.do(tasks[number % len(tasks)].state.task_id, CancelTask("no need", "ada"))

    def operate(self, number: int, action: str, pick: int) -> None:
        """An operator does something to a task or to a step of it, where that is allowed."""
        tasks = self.tasks()
        state = tasks[number % len(tasks)].state
        step = state.name_of(pick % len(state.steps))
        who = {"by": "ada", "reason": "because"}
        command: OperatorCommand
        match action:
            case "pause":
                command = PauseTask(**who)
            case "resume":
                command = ResumeTask(**who)
            case "reset":
                command = ResetStep(**who, step=step)
            case "resolve":
                command = ResolveStep(**who, step=step)
            case "complete":
                command = CompleteStep(**who, step=step, result="1")
            case _:
                command = ResolveTask(**who)
        self.do(state.task_id, command)

    def say(self, number: int, word: str) -> None:
        """A worker says something about a try; it is on its way."""
        said = self.tries.pop(number % len(self.tries))
        about: dict[str, Any] = {
            "task_id": said.task_id,
            "step_uuid": derived_uuid("step", said.task_id, said.step),
            "step_name": said.step,
            "attempt": said.attempt,
            "lease_token": said.token,
            "worker_id": WORKER,
        }
        if said in self.vanished:
            word = "lost"
        outcome: result.AnyOutcome
        match word:
            case "failure":
                outcome = result.Failure(**about, error_type="timeout", error_message="boom")
            case "permanent":
                outcome = result.Failure(
                    **about, error_type="permanent_error", error_message="no", retryable=False
                )
            case "lost":
                outcome = result.Lost(**about, deliveries=2)
            case "released":
                outcome = result.Released(**about)
            case "checkpoint":
                cursor = msgspec.Raw(str(len(self.delivered)).encode())
                outcome = result.Checkpointed(
                    **about, cursor=cursor, items_processed=1, accumulated_results=msgspec.Raw(b"null")
                )
            case _ if said.step == "cut":
                outcome = result.Batches(**about, cursors=tuple([msgspec.Raw(b"1")] * 3))
            case _:
                outcome = result.Success(**about, result=msgspec.Raw(b"1"))
        self.mail.append(Letter(outcome=outcome))

    def deliver(self, number: int) -> None:
        """One of the messages on their way arrives; where its reader dies, it comes again."""
        position = number % len(self.mail)
        letter = self.mail[position]
        if self._carry_out(letter):
            self.mail.remove(letter)
            self.delivered.append(letter)

    def deliver_again(self, number: int) -> None:
        """One that arrived before arrives once more."""
        self._carry_out(self.delivered[number % len(self.delivered)])

    def vanish(self, number: int) -> None:
        """A worker dies with what it had to say: its step will be given to another one."""
        said = [letter for letter in self.mail if letter.outcome is not None]
        if not said:
            return
        letter = said[number % len(said)]
        assert letter.outcome is not None
        self.mail.remove(letter)
        one = letter.outcome
        self.tries.append(Try(one.task_id, one.step_name, one.attempt, one.lease_token))
        self.vanished.add(self.tries[-1])

    def hear(self, view: int) -> None:
        """An orchestrator hears what is true of all circuits."""
        self.known_open[view] = frozenset(
            circuit_key(state.namespace, state.service)
            for state in self._circuits()
            if state.status != "closed"
        )

    def later(self, milliseconds: int) -> None:
        """Time passes, and timers fire in their order."""
        end_ms = self.now_ms + milliseconds
        while (due := self._next_wake()) is not None and due[0] <= end_ms:
            self.now_ms = max(self.now_ms, due[0])
            self.do(due[1], Wake())
        self.now_ms = end_ms

    def lose_storage(self) -> None:
        """JetStream forgets everything; orders and tries are made again from what the actors know."""
        self.mail.clear()
        self.delivered.clear()
        self._ids.clear()
        self.tries.clear()
        self.seen["storage lost"] += 1
        for owned in list(self.streams.values()):
            self._publish(owned)
        for owned in list(self.streams.values()):
            actor = owned.actor
            if isinstance(actor, StreamActor):
                if actor.kind.row(actor.state, actor.stream_id, 0).is_open:
                    self._send(actor.kind.open_orders(actor.state, lambda _: 0))
                continue
            state = actor.state
            for number, step in enumerate(state.steps):
                if step.status in ACTIVE:
                    again = Try(state.task_id, state.name_of(number), step.attempt, step.lease_token)
                    if again not in self.tries:
                        self.tries.append(again)
            if not state.is_terminal:
                self._send(held_orders(actor, lambda _: 0))

    # -- until nothing more happens ----------------------------------------------------------------

    def settle(self) -> None:
        """Everything arrives, and timers that are due fire; no try ends."""
        for _ in range(10_000):
            if self.mail:
                self.deliver(0)
            elif (due := self._next_wake()) is not None and due[0] <= self.now_ms:
                self.do(due[1], Wake())
            else:
                break
        else:
            raise AssertionError("it does not come to rest")
        self.check_rest()

    def finish(self) -> None:
        """Workers succeed, everybody hears everything, time passes: each task comes to its end."""
        self.crash_at = ""
        for _ in range(1_000):
            self.settle()
            for view in range(VIEWS):
                self.hear(view)
            for actor in self.tasks():
                if actor.state.phase == "paused":
                    self.do(actor.state.task_id, ResumeTask(by="ada", reason="on with it"))
                if actor.state.phase == "blocked_by_failures":
                    self.do(actor.state.task_id, RetryTask(by="ada", reason="on with it"))
            if self.mail:
                continue
            if self.tries:
                self.say(0, "success")
            elif (due := self._next_wake()) is not None:
                self.now_ms = max(self.now_ms, due[0])
            else:
                break
        else:
            raise AssertionError("it does not come to an end")
        for actor in self.tasks():
            assert actor.state.is_terminal, f"{actor.state.status}: {_drawn(actor)}"
        for owned in self.streams.values():
            if isinstance(owned.actor, StreamActor):
                state = owned.actor.state
                assert not state.line, f"somebody waits for ever before {owned.actor.kind.name}"
                assert not getattr(state, "holders", None), "a slot is held by the dead"
                assert not getattr(state, "probes", None), "a probe is out for ever"

    # -- what must hold ----------------------------------------------------------------------------

    def check(self) -> None:
        """At any moment: what a task has passed its gate knows of; so no limit is exceeded."""
        held: Counter[str] = Counter()
        limits: dict[str, int] = {}
        for actor in self.tasks():
            state = actor.state
            for one in [*state.passes, *(each for step in state.steps for each in step.passes)]:
                gate = self.streams[one.gate_id].actor.state
                if isinstance(gate, SlotsState):
                    assert one.token in gate.holders, "a slot was given away that is in use"
                    held[one.gate_id] += 1
                    limits[one.gate_id] = max(limits.get(one.gate_id, 0), one.limit)
        for gate_id, count in held.items():
            assert count <= limits[gate_id], "more run than may"
        for circuit in self._circuits():
            patience_ms = max(circuit.open_ms, PROBE_SILENT_MS_MIN)
            heard = [one for one in circuit.probes.values() if one.since_ms + patience_ms > self.now_ms]
            assert len(heard) <= circuit.half_open_max, "more try it out than may"
            assert not circuit.probes or circuit.status == "half_open"

    def check_rest(self) -> None:
        """Everything has arrived: nobody waits while there is room, nothing is held that nobody has."""
        waiting: dict[str, set[str]] = {}
        holding: dict[str, set[str]] = {}
        for actor in self.tasks():
            state = actor.state
            for hold in [state.hold, *(step.hold for step in state.steps)]:
                if hold is not None:
                    waiting.setdefault(hold.gate_id, set()).add(hold.token)
            for one in [*state.passes, *(each for step in state.steps for each in step.passes)]:
                holding.setdefault(one.gate_id, set()).add(one.token)
        for stream_id, owned in self.streams.items():
            if isinstance(owned.actor, TaskActor):
                continue
            gate = owned.actor.state
            tokens = {one.token for one in gate.line.waiting}
            # One who went before his question came stands there too, until it is his turn: he says that he is gone.
            assert tokens >= waiting.get(stream_id, set()), f"{owned.actor.kind.name}: who waits is forgotten"
            if isinstance(gate, SlotsState):
                assert set(gate.holders) == holding.get(stream_id, set()), "a slot is held by nobody"
                first = gate.line.first
                assert first is None or len(gate.holders) >= first.limit, (
                    "somebody waits though there is room"
                )
            elif isinstance(gate, CircuitState):
                assert set(gate.probes) <= holding.get(stream_id, set()), "a probe is out that nobody has"
                assert not gate.line or gate.status == "open" or gate.probes, "nobody tries it out"
                assert not gate.line or gate.status != "closed", "somebody waits for what is there"

    def check_rate(self) -> None:
        """In no second do more begin than it has, wherever it begins."""
        if self.rate_per_second is None:
            return
        share = ceil(self.rate_per_second)
        for early_us, late_us in zip(self.passed_us, self.passed_us[share:], strict=False):
            assert late_us - early_us >= share * 1e6 / self.rate_per_second - 1e-3

    # -- actors ------------------------------------------------------------------------------------

    def tasks(self) -> list[TaskActor]:
        return [one.actor for one in self.streams.values() if isinstance(one.actor, TaskActor)]

    def _circuits(self) -> list[CircuitState]:
        states = (owned.actor.state for owned in self.streams.values())
        return [state for state in states if isinstance(state, CircuitState) and state.version]

    def _next_wake(self) -> tuple[int, str] | None:
        found = []
        for stream_id, owned in self.streams.items():
            actor = owned.actor
            at_ms = (
                actor.state.next_wake_ms()
                if isinstance(actor, TaskActor)
                else actor.kind.next_wake_ms(actor.state)
            )
            if at_ms is not None and not (isinstance(actor, TaskActor) and actor.state.is_terminal):
                found.append((at_ms, stream_id))
        return min(found, default=None)

    def do(self, stream_id: str, command: Any) -> bool:
        """A command that comes from no message; it is given again where its reader dies."""
        work = _work(stream_id, command)
        for _ in range(2):
            try:
                self._ask(work)
                return True
            except Crash:
                continue
        raise AssertionError("it dies twice")

    def _carry_out(self, letter: Letter) -> bool:
        try:
            if letter.outcome is not None:
                self._ask(_work(letter.outcome.task_id, letter.outcome))
            else:
                order = _decoder.decode(letter.order)
                _at_once(self.orders.carry_out(0, order))
        except Crash:
            return False
        except GateFull:
            return False
        return True

    async def _perform(self, work: Work) -> Ending:
        return self._ask(work)

    def _ask(self, work: Work) -> Ending:
        owned = self.streams.get(work.stream_id)
        if owned is None:
            if work.seed is None:
                return Rejection("NOT_FOUND", "there is no such stream")
            assert isinstance(work.seed, StreamKind)
            actor = StreamActor(work.seed, work.seed.initial(work.stream_id), work.stream_id, 0)
            owned = self.streams[work.stream_id] = Owned(actor)
        command = work.command
        if isinstance(command, Query):
            command.answer(owned.actor)
            return Done(False)
        decision = self._decide(owned, command)
        if isinstance(decision, Rejection):
            return decision
        if decision:
            self._commit(work.stream_id, owned, decision)
        return Done(bool(decision))

    def _decide(self, owned: Owned, command: Any) -> list[events.Event] | Rejection:
        actor, state = owned.actor, owned.actor.state
        self._decisions += 1
        bits = entropy(self._decisions)
        if isinstance(actor, StreamActor):
            before = encode_state(state)
            stream_decision: list[events.Event] | Rejection = actor.kind.decide(
                state, command, Moment(self.now_ms, bits)
            )
            assert encode_state(state) == before, "decide changed the state"
            return stream_decision
        known = self.known_open[int(state.task_id[-1], 16) % VIEWS]
        moment = Moment(self.now_ms, bits, rate_per_second=self.rate_per_second, open_circuits=known)
        of_task = encode_snapshot(state)
        decision = decide(state, command, moment)
        assert encode_snapshot(state) == of_task, "decide changed the state"
        if not isinstance(decision, Rejection):
            self._check_knowledge(actor, decision, known)
        return decision

    def _check_knowledge(self, actor: TaskActor, decision: list[events.Event], known: frozenset[str]) -> None:
        """Nothing begins before a circuit that is known to be open, unless that has let it through."""
        state = actor.state
        free: set[str] = set()
        for event in decision:
            if isinstance(
                event,
                events.CircuitAdmitted | events.RateAdmitted | events.StepReleased | events.StepCheckpointed,
            ):
                free.add(event.step_name)
            if not isinstance(event, events.StepEnqueued) or event.step_name in free:
                continue
            # What undoes a step passes no gate.
            if event.step_name.startswith(COMPENSATION_PREFIX):
                continue
            number = state.number_of(event.step_name)
            spec = state.the_plan.steps[state.the_plan.index["part"]] if number < 0 else state.spec_of(number)
            if spec.circuit_breaker is not None:
                key = circuit_key(state.the_plan.ref.namespace, service_of(spec))
                assert key not in known, "a step begins though its circuit is known to be open"

    def _commit(self, stream_id: str, owned: Owned, decision: list[events.Event]) -> None:
        if self.crash_at == "before_commit":
            self.crash_at = ""
            self._restart(stream_id, owned)
            raise Crash
        for event in decision:
            data = codec.encode(event)
            stored = codec.decode_event(data)
            assert stored == event
            owned.ledger.append((data, self.now_ms))
            if isinstance(owned.actor, TaskActor):
                evolve(owned.actor.state, stored, self.now_ms)
            else:
                owned.actor.kind.evolve(owned.actor.state, stored, self.now_ms)
                self._check_order(stream_id, stored)
            self.seen[stored.TYPE] += 1
        self.check()
        if self.crash_at == "after_commit":
            # Its next owner publishes what it had committed.
            self.crash_at = ""
            self._restart(stream_id, owned)
            self._publish(owned)
            raise Crash
        self._publish(owned)

    def _restart(self, stream_id: str, owned: Owned) -> None:
        """The actor's memory is gone; it is rebuilt from the ledger."""
        self.seen["crash"] += 1
        actor = owned.actor
        known = _encoded(actor)
        if isinstance(actor, TaskActor):
            state = initial(stream_id, actor.state.the_plan, CORRELATION_ID)
            owned.actor = TaskActor(state, 0, actor.state.the_plan.ref)
            for data, at_ms in owned.ledger:
                evolve(state, codec.decode_event(data), at_ms)
        else:
            gate = actor.kind.initial(stream_id)
            for data, at_ms in owned.ledger:
                actor.kind.evolve(gate, codec.decode_event(data), at_ms)
            owned.actor = StreamActor(actor.kind, gate, stream_id, 0)
        assert _encoded(owned.actor) == known, "a replay comes to another state"

    def _publish(self, owned: Owned) -> None:
        """Send what the events order that were not published yet."""
        actor = owned.actor
        for data, _ in owned.ledger[owned.published :]:
            event = codec.decode_event(data)
            if isinstance(actor, StreamActor):
                order = actor.kind.order_of(actor.state, event, lambda _: 0)
            else:
                order = order_of(actor, event, lambda _: 0)
            if order is None:
                continue
            if isinstance(event, events.StepEnqueued):
                task_id = actor.state.task_id
                self.tries.append(Try(task_id, event.step_name, event.attempt, event.lease_token))
            else:
                self._send([order])
        owned.published = len(owned.ledger)

    def _check_order(self, stream_id: str, event: events.Event) -> None:
        """Who is let through waits longest, by a list of our own."""
        line = self._lines.setdefault(stream_id, {})
        match event:
            case events.SlotsQueued() | events.BreakerQueued() | events.ThrottleQueued():
                line[event.token] = (
                    event.held_at_ms - AGING_MS * event.priority,
                    len(self.seen) + self._count(),
                )
            case events.SlotsGranted() | events.BreakerPassed() | events.ThrottlePassed():
                if event.token in line:
                    assert line[event.token] == min(line.values()), "somebody was passed over"
                    del line[event.token]
                if isinstance(event, events.ThrottlePassed):
                    self.passed_us.append(self.now_ms * 1_000)
            case events.SlotsFreed() | events.BreakerDequeued() | events.ThrottleDequeued():
                line.pop(event.token, None)

    def _count(self) -> int:
        return self.seen.total()

    def _tell_everybody(self, actor: StreamActor) -> None:
        state: CircuitState = actor.state
        key = frozenset({circuit_key(state.namespace, state.service)})
        for view in range(VIEWS):
            known = self.known_open[view]
            self.known_open[view] = known - key if state.status == "closed" else known | key

    # -- the stream --------------------------------------------------------------------------------

    def _send(self, orders: Any) -> None:
        for order in orders:
            self._put(order.message_id, order.payload)

    def _put(self, message_id: str, payload: bytes) -> None:
        """What repeats an id within the window is dropped."""
        until_ms = self._ids.get(message_id)
        if until_ms is not None and until_ms > self.now_ms:
            self.seen["dropped as a repetition"] += 1
            return
        self._ids[message_id] = self.now_ms + DUPLICATE_WINDOW_MS
        self.mail.append(Letter(order=payload))

    async def room(self) -> None:
        """As the publisher's."""

    async def publish_all(self, messages: list[Message]) -> None:
        """As the publisher's."""
        for message in messages:
            self._put(message.msg_id or "", message.payload)


def _work(stream_id: str, command: Any) -> Work:
    return Work(
        stream_id=stream_id,
        shard=0,
        command=command,
        causation_id="",
        actor_name="",
        finish=lambda _: None,
    )


def _at_once(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


def _encoded(actor: TaskActor | StreamActor) -> bytes:
    return encode_snapshot(actor.state) if isinstance(actor, TaskActor) else encode_state(actor.state)


def _drawn(actor: TaskActor) -> str:
    state = actor.state
    return ", ".join(f"{state.name_of(number)} {step.status}" for number, step in enumerate(state.steps))
