"""Tasks that are run in the core by handlers whose answers depend on nothing but the step's name, and forks of them.

Whatever the order, such a task always comes to the same. So does a fork of it, wherever it was taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from stepweave_orchestrator.core import (
    CancelTask,
    CreateTask,
    Moment,
    Plan,
    Rejection,
    compile_plan,
    decide,
    evolve,
)
from stepweave_orchestrator.core.children import task_result
from stepweave_orchestrator.core.commands import AdmitStep, Command, ForkTask, Limits, SignalTask
from stepweave_orchestrator.core.fork import Past, RunAnew, run_anew, taken_over, unknown_steps
from stepweave_orchestrator.core.snapshot import decode_snapshot, encode_snapshot
from stepweave_orchestrator.core.state import ACTIVE, SUSPENDED, initial
from stepweave_schemas import codec, events, result
from stepweave_schemas.events import ForkOrigin
from stepweave_schemas.identity import derived_uuid
from stepweave_schemas.template import TaskTemplate

from .invariants import check_counters, check_state
from .scenario import CORRELATION_ID, T0_MS, entropy, new_task

#: What a step may wait for, and every state in which somebody has to say something.
AWAITED: Final = ACTIVE | SUSPENDED


def plan_of(template: TaskTemplate) -> Plan:
    """A template's plan."""
    return compile_plan(template.canonical_json(), template.content_hash())


class Run:
    """One task with its history; `answers` is the template whose steps the handlers know."""

    def __init__(
        self, plan: Plan, name: str = "original", *, answers: Plan | None = None, salt: int = 0
    ) -> None:
        self.plan = plan
        #: Other decisions and batches.
        self.salt = salt
        self.answers = answers or plan
        self.state = initial(derived_uuid("run", name), plan, CORRELATION_ID)
        self.history: list[events.Event] = []
        #: How often each step was given out.
        self.given_out: dict[str, int] = {}
        #: What a decision is to choose, instead of what its name says.
        self.choices: dict[str, tuple[str, ...]] = {}
        self.cursors: dict[str, int] = {}
        self._decisions = 0

    # -- commands ----------------------------------------------------------------------------------

    def create(self, **fields: Any) -> Run:
        """Begin as a task of its own."""
        self.tell(CreateTask(new_task(self.plan, **fields)))
        return self

    def fork(self, original: Run, *from_steps: str, context: bytes | None = None) -> list[RunAnew]:
        """Begin as a fork; gives what it runs."""
        past = original.past()
        assert not unknown_steps(past, self.plan, from_steps)
        self.tell(fork_command(self.plan, original, past, from_steps, context))
        return run_anew(self.state, past, from_steps)

    def tell(self, command: Command, *, limits: Limits | None = None) -> list[events.Event]:
        """Decide and apply; the events survive their way through JSON, and replay leads to the same state."""
        decision = self.ask(command, limits=limits)
        assert isinstance(decision, list), decision
        for event in decision:
            read = codec.decode_event(codec.encode(event))
            assert read == event
            evolve(self.state, read, T0_MS)
            check_counters(self.state)
            self.history.append(read)
            if isinstance(read, events.StepEnqueued | events.ChildRequested | events.SignalAwaited):
                self.given_out[read.step_name] = self.given_out.get(read.step_name, 0) + 1
        check_state(self.state)
        assert encode_snapshot(decode_snapshot(encode_snapshot(self.state), self.plan)) == encode_snapshot(
            self.state
        )
        return decision

    def ask(self, command: Command, *, limits: Limits | None = None) -> list[events.Event] | Rejection:
        """Decide only; that changes nothing."""
        before = encode_snapshot(self.state)
        self._decisions += 1
        moment = Moment(T0_MS, entropy(self._decisions), limits or Limits())
        decision = decide(self.state, command, moment)
        assert encode_snapshot(self.state) == before, "decide changed the state"
        return decision

    # -- what handlers say -------------------------------------------------------------------------

    def awaited(self) -> list[str]:
        """The steps that somebody has to say something about."""
        return [
            self.state.name_of(number)
            for number, step in enumerate(self.state.steps)
            if step.status in AWAITED
        ]

    def answer(self, name: str) -> None:
        """The step ends as its name says."""
        number = self.state.number_of(name)
        spec = self.state.spec_of(number)
        if spec.wait_for_signal is not None:
            signal = spec.wait_for_signal.name
            payload = json.dumps({"signal": signal})
            self.tell(SignalTask(signal, f"signal-{self._decisions}", payload, "ada"))
            return
        about = self.about(name)
        pick = int.from_bytes(hashlib.blake2b(f"{self.salt}{name}".encode(), digest_size=4).digest())
        value = msgspec.Raw(json.dumps({"of": name}).encode())
        outcome: result.AnyOutcome
        if spec.type == "decision":
            chosen = self._choice(name, pick)
            outcome = result.Decided(**about, create_steps=chosen, reason="none fits", result=value)
        elif spec.type == "batchable":
            count = self.cursors.get(name, pick % 5)
            cursors = tuple(msgspec.Raw(b"%d" % each) for each in range(count))
            outcome = result.Batches(
                **about, cursors=cursors, worker_template=self._worker(name), result=value
            )
        else:
            outcome = result.Success(**about, result=value)
        self.tell(outcome)

    def fail(self, name: str) -> None:
        """The step fails for good."""
        self.tell(result.Failure(**self.about(name), error_message=f"{name} broke", retryable=False))

    def admit(self) -> None:
        """The task gets the slot that it waits for."""
        assert self.state.hold is not None
        self.tell(AdmitStep("", self.state.hold.token))

    def cancel(self) -> None:
        """Somebody cancels the task."""
        self.tell(CancelTask("no need", "ada"))

    def finish(self, choose: Callable[[list[str]], str] = lambda names: names[0]) -> Run:
        """Answer for every step, until nothing is awaited."""
        while names := self.awaited():
            self.answer(choose(names))
        return self

    def about(self, name: str) -> dict[str, Any]:
        """What an outcome of the current try carries."""
        step = self.state.steps[self.state.number_of(name)]
        return {
            "task_id": self.state.task_id,
            "step_uuid": step.uuid,
            "step_name": name,
            "attempt": step.attempt,
            "lease_token": step.lease_token,
            "worker_id": "worker-1",
        }

    def _choice(self, name: str, pick: int) -> tuple[str, ...]:
        if name in self.choices:
            return self.choices[name]
        plan = self.answers
        behind = plan.descendants(plan.index[name])
        allowed = [plan.steps[one].name for one in behind if plan.steps[one].type != "batch_worker"]
        return tuple(sorted(one for number, one in enumerate(allowed) if pick >> number & 1))

    def _worker(self, name: str) -> str:
        plan = self.answers
        return plan.steps[plan.workers_of(plan.index[name])[0]].name

    # -- what it has come to -----------------------------------------------------------------------

    def past(self) -> Past:
        """The task as a fork looks at it: from its events alone."""
        past = Past(self.state.task_id, self.plan, CORRELATION_ID)
        for event in self.history:
            past.apply(codec.decode_event(codec.encode(event)), T0_MS)
        assert encode_snapshot(past.state) == encode_snapshot(self.state)
        return past

    def outcome(self) -> dict[str, Any]:
        """Everything that does not depend on who ran a step, and when."""
        state = self.state
        names = [state.name_of(number) for number in range(len(state.steps))]
        return {
            "status": state.status,
            "steps": {
                name: (step.status, step.result, step.cursor)
                for name, step in zip(names, state.steps, strict=True)
            },
            "result": task_result(state),
            "counts": (state.existing_count, state.done_count, state.active_count, state.suspended_count),
            "batches": {
                names[slot]: (batch.count, batch.begun, batch.running, batch.succeeded, batch.failed)
                for slot, batch in state.batches.items()
            },
        }

    def reused(self) -> set[str]:
        """The steps whose outcomes are those of another task."""
        return {event.step_name for event in self.history if isinstance(event, events.StepReused)}


def fork_command(
    plan: Plan, original: Run, past: Past, from_steps: Iterable[str], context: bytes | None = None
) -> ForkTask:
    """The command that begins a fork."""
    origin = ForkOrigin(
        task_id=original.state.task_id,
        stream_version=original.state.version,
        from_steps=tuple(from_steps),
    )
    given = original.state.context.encode() if context is None else context
    created = new_task(plan, forked_from=origin, context=msgspec.Raw(given))
    return ForkTask(created, taken_over(past, origin.from_steps), original.plan.ref)
