"""What surrounds a dynamic task: workers that decide, cut, checkpoint and err; children; senders of signals; a network
that repeats, delays, re-orders and loses; a clock; crashes of the owner.

A `DynamicWorld` runs one task in the core and in the model beside it, and compares them after everything that happens.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from stepweave_orchestrator.core import (
    CancelTask,
    CreateTask,
    Moment,
    Rejection,
    TaskState,
    Wake,
    build_dispatch,
    compile_plan,
    decide,
    evolve,
)
from stepweave_orchestrator.core.allowed import allowed_actions, allowed_step_actions
from stepweave_orchestrator.core.children import start_order, task_result
from stepweave_orchestrator.core.commands import (
    AdmitStep,
    CheckHandlers,
    Command,
    ForkTask,
    InvestigateTask,
    Limits,
    SignalTask,
)
from stepweave_orchestrator.core.dispatching import all_result_numbers
from stepweave_orchestrator.core.operator_commands import (
    AnyOperatorCommand,
    CompleteStep,
    GiveUpTask,
    OperatorCommand,
    PauseTask,
    ResetStep,
    ResolveStep,
    ResolveTask,
    ResumeTask,
    RetryTask,
    SkipStep,
    StepAction,
    StepCommand,
    TaskAction,
)
from stepweave_orchestrator.core.snapshot import decode_snapshot, encode_snapshot
from stepweave_orchestrator.core.state import ACTIVE, HIDDEN, SUSPENDED, initial
from stepweave_orchestrator.core.view import task_response
from stepweave_schemas import codec, events, result
from stepweave_schemas.identity import step_uuid
from stepweave_schemas.template import TaskTemplate

from .dynamic_domain_events import SAID, DomainEvents, known
from .dynamic_domain_events import expected as domain_events_with
from .dynamic_model import Fact, Model
from .scenario import CORRELATION_ID, T0_MS, TASK_ID, entropy, new_task

#: Small, so that the examples go beyond them.
LIMITS: Final = Limits(
    decision_depth_max=3, decision_steps_max=5, batch_workers_max=4, child_depth_max=3, signals_kept_max=2
)
#: What a worker may say about a try. `answer` is what its kind of step should say; `wrong` is what it must not.
WORDS: Final = (
    "answer",
    "wrong",
    "failure",
    "wish",
    "permanent",
    "undo",
    "checkpoint",
    "lost",
    "released",
    "started",
)
#: What operators ask: the command and what it is called.
TASK_COMMANDS: Final[dict[str, type[TaskAction]]] = {
    "pause": PauseTask,
    "resume": ResumeTask,
    "retry": RetryTask,
    "give_up": GiveUpTask,
    "resolve_manually": ResolveTask,
}
STEP_COMMANDS: Final[dict[str, type[StepAction]]] = {
    "reset_for_retry": ResetStep,
    "resolve_manually": ResolveStep,
    "complete_manually": CompleteStep,
    "skip": SkipStep,
}
#: What a child may say.
_CHILD_WORDS: Final = frozenset({"answer", "failure", "permanent", "started"})


@dataclass(frozen=True)
class GivenOut:
    """A try that was given out, to the workers or to a child."""

    step: str
    attempt: int
    token: str
    #: Why a child cannot be started.
    problems: tuple[str, ...] = ()


class DynamicWorld:
    """One task and everything around it."""

    def __init__(self, template: TaskTemplate, start_at_ms: int | None, depth: int) -> None:
        self.template = template
        self.plan = compile_plan(template.canonical_json(), template.content_hash())
        self.request = new_task(self.plan, start_at_ms=start_at_ms, depth=depth)
        self.model = Model(template, LIMITS, json.loads(bytes(self.request.context)), depth)
        self.state = initial(TASK_ID, self.plan, CORRELATION_ID)
        self.now_ms = T0_MS
        #: The committed events as bytes, and when they were recorded.
        self.ledger: list[tuple[bytes, int]] = []
        #: The state after each commit, by version.
        self.moments: dict[int, bytes] = {0: encode_snapshot(self.state)}
        #: Every try ever given out; those that nobody has answered yet; those whose worker vanished.
        self.tries: list[GivenOut] = []
        self.unanswered: list[GivenOut] = []
        self.vanished: set[GivenOut] = set()
        #: Messages that are on their way, and those that arrived.
        self.mail: list[result.AnyOutcome] = []
        self.delivered: list[result.AnyOutcome] = []
        self.signals: list[SignalTask] = []
        self.operated: list[AnyOperatorCommand] = []
        self._decisions = 0
        #: How often each type of event, and each situation of interest, occurred.
        self.seen: Counter[str] = Counter()

    # -- what happens ------------------------------------------------------------------------

    def create(self) -> None:
        """The client's request; again, it is a repetition."""
        self._command(CreateTask(self.request))

    def cancel(self) -> None:
        """An operator cancels."""
        self._command(CancelTask("no need", "ada"))

    def operate(self, action: str) -> None:
        """An operator asks something of the task."""
        self._operate(TASK_COMMANDS[action](by="ada", reason="why", request_id=f"r{len(self.operated)}"))

    def operate_step(self, action: str, name: str, pick: int) -> None:
        """An operator asks something of a step."""
        more: dict[str, Any] = {}
        if action == "complete_manually":
            run = self.model.runs.get(name)
            decides = run is not None and run.kind == "handler" and run.template.type == "decision"
            names = list(self._branches(name, pick >> 1)) if decides else []
            if decides and pick % 7 == 0:
                names.append("nobody")
            more["result"] = json.dumps({"create_steps": names} if decides else {"by_hand": pick})
        request_id = f"r{len(self.operated)}"
        self._operate(STEP_COMMANDS[action](step=name, by="ada", reason="why", request_id=request_id, **more))

    def operate_again(self, number: int) -> None:
        """A request of an operator arrives once more; one that was carried out changes nothing."""
        asked, known = self.operated[number], self.state.version
        carried_out = asked.request_id in self.model.operator_requests
        self._operate(asked)
        assert not carried_out or self.state.version == known, "a repeated request changed something"

    def _operate(self, asked: AnyOperatorCommand) -> None:
        self.operated.append(asked)
        self._command(asked)

    def wake(self) -> None:
        """The timer fires, perhaps for nothing."""
        self._command(Wake())

    def signal(self, name: str) -> None:
        """Somebody sends a signal of that name."""
        number = len(self.signals)
        self.signals.append(SignalTask(name, f"signal-{number}", json.dumps({"signal": number}), "bob"))
        self._command(self.signals[-1])

    def signal_again(self, number: int) -> None:
        """A signal that was sent before arrives once more; one that was taken or is kept changes nothing."""
        known, sent = self.state.version, self.signals[number]
        accepted = sent.signal_id in self.model.signal_ids
        self._command(sent)
        assert not accepted or self.state.version == known, "a repeated signal changed something"

    def send(self, given_out: GivenOut, word: str, pick: int = 0) -> None:
        """A worker says a word about a try; it is on its way."""
        if given_out in self.vanished:
            word = "lost"
        if given_out in self.unanswered and word != "started":
            self.unanswered.remove(given_out)
        self.vanished.discard(given_out)
        about: dict[str, Any] = {
            "task_id": TASK_ID,
            "step_uuid": step_uuid(TASK_ID, given_out.step),
            "step_name": given_out.step,
            "attempt": given_out.attempt,
            "lease_token": given_out.token,
            "worker_id": "worker-1",
        }
        outcome = self._publishing(self._said(given_out, word, pick, about), pick)
        assert codec.decode_outcomes(codec.encode(outcome)) == [outcome]
        self.mail.append(outcome)

    def deliver(self, number: int) -> None:
        """One of the messages on their way arrives, in whatever order."""
        outcome = self.mail.pop(number)
        self.delivered.append(outcome)
        self._command(outcome)

    def deliver_again(self, number: int) -> None:
        """A message that arrived before arrives once more: at most it is recorded that it was refused."""
        known, status = self.state.version, self.state.status
        self._command(self.delivered[number])
        recorded = [codec.decode_event(data).TYPE for data, _ in self.ledger[known:]]
        assert recorded in ([], ["step.result_refused"]), f"a repetition changed something: {recorded}"
        assert self.state.status == status

    def lose(self, number: int) -> None:
        """A message never arrives. A child's owner sends it again; a worker's step is given to another one."""
        outcome = self.mail[number]
        given_out = next(each for each in self.tries if each.token == outcome.lease_token)
        if self._is_child(given_out.step):
            return
        del self.mail[number]
        if given_out not in self.unanswered:
            self.unanswered.append(given_out)
        self.vanished.add(given_out)
        self.seen["message lost"] += 1

    def forge(self, number: int) -> None:
        """Somebody sends what was said about a try, with a token of his own."""
        forged = msgspec.structs.replace(self.delivered[number], lease_token="0" * 24)
        assert isinstance(self._decide(forged), Rejection)

    def crash_before_commit(self, number: int) -> None:
        """A message is decided and applied, but never committed: it will come again."""
        decision = self._decide(self.mail[number])
        if not isinstance(decision, Rejection):
            for event in decision:
                evolve(self.state, event, self.now_ms)
        self.restart(0)

    def restart(self, from_version: int, *, by_snapshot: bool = False) -> None:
        """The actor's memory is gone; it is rebuilt from the ledger, perhaps on top of a snapshot."""
        self.state = self.rebuilt(from_version if by_snapshot else 0)
        assert encode_snapshot(self.state) == self.moments[len(self.ledger)]
        if any(batch.running for batch in self.state.batches.values()):
            self.seen["crash with a batch under way"] += 1
        if self.state.phase == "compensating":
            self.seen["crash while compensating"] += 1

    # -- what must hold ----------------------------------------------------------------------

    def rebuilt(self, from_version: int) -> TaskState:
        """The state by replay: the events up to `from_version` by way of a snapshot, then the rest."""
        state = initial(TASK_ID, self.plan, CORRELATION_ID)
        for version, (data, at_ms) in enumerate(self.ledger, start=1):
            evolve(state, codec.decode_event(data), at_ms)
            if version == from_version:
                state = decode_snapshot(encode_snapshot(state), self.plan)
        return msgspec.structs.replace(state, events_since_snapshot=0)

    def check_replay(self) -> None:
        """Replayed from the first event on, the state is at every commit what it was then."""
        state = initial(TASK_ID, self.plan, CORRELATION_ID)
        for version, (data, at_ms) in enumerate(self.ledger, start=1):
            evolve(state, codec.decode_event(data), at_ms)
            if version in self.moments:
                assert encode_snapshot(state) == self.moments[version]
        assert encode_snapshot(state) == encode_snapshot(self.state)

    def drawn(self) -> str:
        """The template and what happened in short, for people who look for the fault."""
        lines = [f"on_failure={self.template.on_failure}"]
        for step in self.template.steps:
            what = step.model_dump(
                mode="json", exclude_defaults=True, exclude={"name", "dependencies", "handler"}
            )
            lines.append(f"{step.name}: {' '.join(step.dependencies)} {json.dumps(what)}")
        return "\n".join([*lines, *(str(fact_of(event)) for event in self.story())])

    def story(self) -> list[events.Event]:
        """Everything that happened, as it comes back from the store."""
        return [codec.decode_event(data) for data, _ in self.ledger]

    def _check(self) -> None:
        state, model = self.state, self.model
        assert state.status == model.status()
        statuses = model.statuses()
        names = [state.name_of(number) for number in range(len(state.steps))]
        for name, step in zip(names, state.steps, strict=True):
            assert step.status == statuses.pop(name), name
        assert not statuses, "steps that do not exist"
        for name, step in zip(names, state.steps, strict=True):
            run = model.runs.get(name)
            assert step.attempt == (0 if run is None else len(run.tries)), name
            assert (step.due_at_ms is not None) <= bool(run and run.awaited), (
                f"{name} would be woken for nothing"
            )
            assert len(set(step.refused_attempts)) == len(step.refused_attempts), f"{name}: refused twice"
        assert state.next_wake_ms() == model.next_wake_ms()
        assert [(kept.signal, json.loads(kept.payload)) for kept in state.mailbox] == model.mailbox
        self._check_counters()
        self._check_allowed()

    def _check_allowed(self) -> None:
        """What operators may do, by the model and by the core."""
        state, model = self.state, self.model
        assert set(allowed_actions(state)) == (model.actions() or set()) or model.phase == "absent"
        for number, step in enumerate(state.steps):
            if step.status not in HIDDEN and model.phase != "absent":
                run = model.runs.get(state.name_of(number))
                allowed = set() if run is None or model.is_skipped(run) else model.step_actions(run)
                assert set(allowed_step_actions(state, number)) == allowed, state.name_of(number)

    def _check_counters(self) -> None:
        """Every counter is what a count says."""
        state, model, found = self.state, self.model, self.model.existence()
        steps = state.steps
        awaited = [step.status for step in steps]
        assert state.active_count == sum(status in ACTIVE for status in awaited)
        assert state.suspended_count == sum(status in SUSPENDED for status in awaited)
        assert state.waiting_count == awaited.count("waiting_for_retry")
        assert len(state.due) <= 2 * (state.active_count + state.suspended_count + state.waiting_count) + 17
        runs, skipped = model.existing(), list(found.values()).count("skipped")
        assert state.existing_count == len(runs) + skipped
        assert state.existing_count == len(state.shown_steps())
        assert state.done_count == skipped + sum(run.done or run.tolerated for run in runs)
        assert sorted(map(state.name_of, state.failed)) == sorted(run.name for run in model.broken())
        for number, spec in enumerate(self.plan.steps):
            unmet = [parent for parent in set(spec.dependencies) if not model.met(parent, found)]
            assert steps[number].unmet == len(unmet), spec.name
        for number, counted in state.batches.items():
            workers = model.batches[self.plan.steps[number].name].workers
            ends = [worker.end for worker in workers]
            batch = model.batches[self.plan.steps[number].name]
            done = sum(worker.done for worker in workers)
            assert (counted.count, counted.begun) == (len(workers), batch.begun)
            assert (counted.succeeded, counted.failed) == (done, ends.count("error"))
            assert counted.running == sum(worker.awaited for worker in workers)
            assert [state.name_of(one) for one in counted.again] == [one.name for one in batch.queue]
            assert counted.completed == batch.told_complete
        if state.saga is not None:
            left = sum(not run.end for run in model.compensations())
            assert state.saga.left_count == left == sum(state.saga.left.values())
        assert (state.status == "complete") == (
            state.version > 0
            and state.done_count == state.existing_count
            and state.phase not in ("cancelled", "resolved_manually")
        )

    def check_end(self) -> None:
        """Everything was answered and every timer fired: the task has ended, or says why it can not."""
        state, status = self.state, self.state.status
        assert status in ("complete", "cancelled", "error", "blocked_by_failures", "resolved_manually")
        assert state.next_wake_ms() is None
        assert len(set(self.tries)) == len(self.tries)
        assert len({each.token for each in self.tries}) == len(self.tries), "a token was given twice"
        shown = task_response(state)
        assert shown.total_steps == state.existing_count
        assert {each.name for each in shown.steps} == {
            state.name_of(number) for number in state.shown_steps()
        }
        if status == "complete":
            assert shown.completion_percentage == 100.0
            assert json.loads(task_result(state)) == self.model.task_result()

    # -- what workers say --------------------------------------------------------------------

    def _publishing(self, outcome: result.AnyOutcome, pick: int) -> result.AnyOutcome:
        """The outcome, with what its handler published now and then."""
        if pick % 3 or isinstance(outcome, result.Started | result.Lost | result.Released):
            return outcome
        said = tuple(one for number, one in enumerate(SAID) if pick >> number & 1)
        return msgspec.structs.replace(outcome, domain_events=said)

    def _is_child(self, name: str) -> bool:
        return self.model.runs[name].kind == "child"

    def _said(self, given_out: GivenOut, word: str, pick: int, about: dict[str, Any]) -> result.AnyOutcome:
        if self._is_child(given_out.step):
            word = word if word in _CHILD_WORDS else "permanent"
            if given_out.problems:
                word = "permanent"
        match word:
            case "answer":
                return self._answer(given_out.step, pick, about)
            case "wrong":
                return self._wrong_answer(given_out.step, pick, about)
            case "failure":
                return result.Failure(**about, error_message="boom")
            case "wish":
                return result.Failure(**about, error_message="busy", retry_after_ms=pick)
            case "permanent":
                return result.Failure(**about, error_message="never", retryable=False)
            case "undo":
                names = [*self.model.slots, *self.model.runs, "undo_any", "undo_any", "call_the_bank"]
                undo = {names[pick % len(names)], names[(pick >> 6) % len(names)]}
                named = tuple(sorted(name for name in undo if not name.startswith("compensate:")))
                return result.Failure(
                    **about, error_message="undo it", retryable=False, compensation_steps=named
                )
            case "checkpoint":
                cursor, sums = msgspec.Raw(b"%d" % pick), msgspec.Raw(b'{"sum":%d}' % pick)
                return result.Checkpointed(
                    **about, cursor=cursor, items_processed=pick, accumulated_results=sums
                )
            case "lost":
                return result.Lost(**about, deliveries=2)
            case "released":
                return result.Released(**about)
            case _:
                return result.Started(**about, started_at_ms=self.now_ms)

    def _answer(self, name: str, pick: int, about: dict[str, Any]) -> result.AnyOutcome:
        run = self.model.runs[name]
        value = msgspec.Raw(json.dumps({"of": name, "pick": pick}).encode())
        if run.kind == "compensation":
            unclean = b'{"requires_manual_cleanup":true}' if pick % 5 == 0 else b"null"
            return result.Success(**about, result=msgspec.Raw(unclean))
        if run.template.type == "decision":
            return result.Decided(
                **about, create_steps=self._branches(name, pick), reason="why", result=value
            )
        if run.template.type == "batchable":
            cursors = tuple(msgspec.Raw(json.dumps([name, each]).encode()) for each in range(pick % 5))
            return result.Batches(**about, cursors=cursors, result=value)
        return result.Success(**about, result=value)

    def _branches(self, name: str, pick: int) -> tuple[str, ...]:
        """None, one or all of the direct branches, or any of the steps behind the decision."""
        behind = [step for step in self.template.steps if step.name in self.model.graph.behind(name)]
        allowed = [step.name for step in behind if step.type != "batch_worker"]
        direct = [
            step.name
            for step in behind
            if step.name in allowed and name in step.dependencies and step.type != "deferred_convergence"
        ]
        how, pick = pick % 8, pick >> 3
        if how == 0 or not allowed:
            return ()
        if how in (1, 2, 3) and direct:
            return (direct[pick % len(direct)],)
        if how in (4, 5):
            return tuple(direct)
        return tuple(each for number, each in enumerate(allowed) if pick >> number & 1)

    def _wrong_answer(self, name: str, pick: int, about: dict[str, Any]) -> result.AnyOutcome:
        """Something that may not be said, or sometimes may: too much, of the wrong kind, about the wrong steps."""
        names = ("nobody", name, *self.model.slots)
        wanted, one = names[pick // 3 % len(names)], (msgspec.Raw(b"1"),)
        plain = result.Success(**about, result=msgspec.Raw(b'"plain"'))
        named = result.Decided(**about, create_steps=(wanted,))
        cut = result.Batches(**about, cursors=one, worker_template=wanted)
        run = self.model.runs[name]
        match run.template.type if run.kind == "handler" else run.kind:
            case "decision":
                everything = result.Decided(**about, create_steps=tuple(sorted(self.model.slots)))
                return (named, everything, plain, cut)[pick % 4]
            case "batchable":
                too_many = result.Batches(**about, cursors=one * (LIMITS.batch_workers_max + 1))
                return (cut, too_many, cut, plain, named)[pick % 5]
            case _:
                return (named, cut)[pick % 2]

    # -- inside ------------------------------------------------------------------------------

    def _decide(self, command: Command) -> list[events.Event] | Rejection:
        """The decision, which is the same when asked twice and leaves the state alone."""
        before = encode_snapshot(self.state)
        moment = Moment(self.now_ms, entropy(self._decisions), LIMITS)
        decision = decide(self.state, command, moment)
        assert decide(self.state, command, moment) == decision
        assert encode_snapshot(self.state) == before, "decide changed the state"
        return decision

    def _expected(self, command: Command, happened: list[events.Event]) -> list[Fact] | None:
        """What the model says, `None` where it refuses; it is told which delays chance chose, and checks that they are within bounds."""
        model = self.model
        model.now_ms = self.now_ms
        model.chosen_delays_ms = {
            event.step_name: event.delay_ms
            for event in happened
            if isinstance(event, events.StepRetryScheduled)
        }
        match command:
            case CreateTask():
                return model.create(self.request.start_at_ms)
            case CancelTask():
                return model.cancel()
            case Wake():
                return model.wake()
            case StepCommand():
                value = json.loads(command.result) if isinstance(command, CompleteStep) else None
                action = str(command.__struct_config__.tag)
                return model.operate_step(action, command.step, value, command.request_id)
            case OperatorCommand():
                action = next(name for name, kind in TASK_COMMANDS.items() if kind is type(command))
                return model.operate(action, command.request_id)
            case SignalTask():
                return model.signal(command.signal, command.signal_id, json.loads(command.payload))
            case AdmitStep():
                raise AssertionError("no template of this world has a gate")
            case CheckHandlers() | InvestigateTask():
                raise AssertionError("these have a property of their own, see test_stale_properties")
            case ForkTask():
                raise AssertionError("forks have a property of their own")
            case _:
                return model.told(command)

    def _command(self, command: Command) -> None:
        decision = self._decide(command)
        self._decisions += 1
        happened = [] if isinstance(decision, Rejection) else decision
        expected = self._expected(command, happened)
        if isinstance(command, OperatorCommand):
            assert isinstance(decision, Rejection) == (expected is None), f"{decision}, expected {expected}"
        expected = expected or []
        others = [event for event in happened if not isinstance(event, DomainEvents)]
        published = [known(event) for event in happened if isinstance(event, DomainEvents)]
        placeholders = {
            self.state.name_of(batch.first) for batch in self.state.batches.values() if batch.is_no_op
        }
        wanted = domain_events_with(self.template, others, command, placeholders)
        assert sorted(published) == sorted(wanted), f"{published}, expected {wanted}"
        facts = sorted(map(repr, map(fact_of, others)))
        assert facts == sorted(map(repr, expected)), f"{facts}, expected {expected}"
        ended = self.state.is_terminal
        first = self.state.version
        stopped = [slot for slot, batch in self.state.batches.items() if batch.stopped]
        for event in happened:
            self._commit(event, ended)
        if any(not self.state.batches[slot].stopped for slot in stopped):
            self.seen["a batch goes on after it was stopped"] += 1
        if happened:
            self.moments[self.state.version] = encode_snapshot(self.state)
        self._check()
        for data, _ in self.ledger[first:]:
            self._given_out(codec.decode_event(data))

    def _commit(self, event: events.Event, ended: bool) -> None:
        data = codec.encode(event)
        stored = codec.decode_event(data)
        assert stored == event, "the event does not come back as it was"
        assert not ended or isinstance(stored, events.StepResultRefused), "something happened after the end"
        self.seen[stored.TYPE] += 1
        self.ledger.append((data, self.now_ms))
        evolve(self.state, stored, self.now_ms)
        assert self.state.version == len(self.ledger)
        if isinstance(stored, events.StepEnqueued | events.ChildRequested):
            self.model.given_out(stored.step_name, stored.lease_token)
            problems = stored.problems if isinstance(stored, events.ChildRequested) else ()
            given_out = GivenOut(stored.step_name, stored.attempt, stored.lease_token, problems)
            self.tries.append(given_out)
            self.unanswered.append(given_out)

    def _given_out(self, event: events.Event) -> None:
        """What goes to the workers, and to other tasks, is what it should be."""
        if isinstance(event, events.ChildRequested):
            order = start_order(self.state, event, "results")
            assert order is not None
            assert (order.task_id, order.problems) == (event.child_task_id, event.problems)
            assert order.depth == self.model.depth + 1
            assert order.parent.lease_token == event.lease_token
        if not isinstance(event, events.StepEnqueued):
            return
        name = event.step_name
        dispatch = build_dispatch(self.state, name, event.attempt, event.lease_token, "results")
        assert dispatch is not None, "an open try is not dispatched"
        run, saved = self.model.runs[name], dispatch.checkpoint
        assert (None if saved is None else _decoded(saved)) == run.checkpoint, f"{name} lost its checkpoint"
        assert json.loads(bytes(dispatch.step_inputs)) == self.model.step_inputs(name)
        assert dispatch.compensates == run.undoes
        results = {step: json.loads(bytes(value)) for step, value in dispatch.dependency_results.items()}
        assert results == self.model.readable(name)
        assert dispatch.dependency_results_complete
        readable = [
            self.state.name_of(number)
            for number in all_result_numbers(self.state, self.state.number_of(name))
            if self.state.steps[number].result is not None
        ]
        assert sorted(readable) == sorted(results)
        assert self.state.steps[self.state.number_of(name)].status not in HIDDEN


def _decoded(saved: Any) -> tuple[Any, int, Any]:
    return (
        json.loads(bytes(saved.cursor)),
        saved.items_processed,
        json.loads(bytes(saved.accumulated_results)),
    )


def fact_of(event: events.Event) -> Fact:
    """The event as the model would say it."""
    match event:
        case events.StepEnqueued():
            return ("enqueued", event.step_name, event.attempt)
        case events.StepStarted():
            return ("started", event.step_name, event.attempt)
        case events.StepCompleted():
            return ("completed", event.step_name, event.attempt)
        case events.StepReleased():
            return ("released", event.step_name, event.attempt)
        case events.StepCheckpointed():
            return ("checkpointed", event.step_name, event.attempt, event.items_processed)
        case events.StepRetryScheduled():
            return ("retry", event.step_name, event.attempt, event.delay_source, event.retry_at_ms)
        case events.StepFailed():
            why = event.failure_reason
            return ("failed", event.step_name, event.attempt, why, event.tolerated, event.error_code)
        case events.StepResultRefused():
            return ("refused", event.step_name, event.attempt, event.outcome, event.refusal)
        case events.StepSkipped():
            return ("skipped", event.step_name)
        case events.DecisionRouted() | events.DecisionDeclined():
            chosen = sorted(event.chosen) if isinstance(event, events.DecisionRouted) else []
            kind = "routed" if isinstance(event, events.DecisionRouted) else "declined"
            return (kind, event.step_name, chosen, sorted(event.created), sorted(event.excluded))
        case events.BatchCreated():
            made = (event.worker_template, len(event.cursors), event.is_no_op)
            return ("batch.created", event.step_name, *made, sorted(event.created), sorted(event.excluded))
        case events.BatchCompleted():
            return (event.TYPE, event.worker_template, event.succeeded_count, event.failed_count)
        case events.BatchStopped():
            return (event.TYPE, event.worker_template, event.failed_step, event.cancelled_count)
        case events.SignalAwaited():
            return (event.TYPE, event.step_name, event.signal, event.deadline_at_ms)
        case events.SignalReceived():
            return (event.TYPE, event.signal_id)
        case events.SignalTimedOut():
            return (event.TYPE, event.step_name, event.used_default)
        case events.ChildRequested():
            context = json.loads(bytes(event.context))
            return (event.TYPE, event.step_name, event.attempt, context, len(event.problems))
        case events.ChildCancelRequested():
            return (event.TYPE, event.step_name)
        case events.CompensationStarted():
            failed, handlers = sorted(event.failed_steps), sorted(event.handlers.items())
            return (event.TYPE, failed, sorted(event.steps), handlers)
        case events.CompensationCompleted():
            undone = (event.step_name, event.compensates, event.attempt)
            return (event.TYPE, *undone, event.requires_manual_cleanup)
        case events.CompensationFailed():
            undone = (event.step_name, event.compensates, event.attempt)
            return (event.TYPE, *undone, event.failure_reason, event.error_code)
        case events.TaskCompleted():
            return (event.TYPE, event.steps_completed)
        case events.TaskBlocked():
            return (event.TYPE, sorted(event.failed_steps), event.unreachable_steps_count)
        case events.TaskResolvedManually():
            return (event.TYPE, sorted(event.cancelled_steps))
        case events.StepReset():
            return ("reset", event.step_name, event.attempt)
        case events.StepResolvedManually():
            return ("resolve_manually", event.step_name, event.attempt)
        case events.StepCompletedManually():
            return ("complete_manually", event.step_name, event.attempt)
        case events.TaskFailed():
            cleanup = sorted(event.requires_manual_cleanup)
            return (event.TYPE, sorted(event.failed_steps), event.compensation_status, cleanup)
        case events.TaskCancelled():
            return (event.TYPE, sorted(event.cancelled_steps))
        case _:
            return (event.TYPE,)
