"""The semantics of dynamic workflows once more, as plainly as they are written in words.

No counters, no indexes, nothing kept that follows from something else: which steps exist, which never will, what is
ready and whether the task is at an end is found anew each time, by looking at everything until nothing changes. What
must follow from a message is said as *facts*: `("enqueued", "b", 1)`. What chance decides (delays within their
bounds, tokens) the model is told, and checks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from stepweave_orchestrator.core.commands import Limits
from stepweave_schemas import result
from stepweave_schemas.template import RetryPolicy, TaskTemplate

from .dynamic_existence import Graph, existence
from .dynamic_steps import Batch, Run, Try, compensation_of, run_of, saved, status

#: What must follow: the kind of fact, then what it is about.
Fact = tuple[Any, ...]

#: The orchestrator waits so much longer than the worker before it calls a time-out.
GRACE_MS = 5_000
_SAYS = {"success": "success", "decision": "success", "batches": "success", "failure": "failure"}


class Model:
    """One task of a template."""

    def __init__(self, template: TaskTemplate, limits: Limits, context: dict[str, Any], depth: int) -> None:
        self.template = template
        self.limits = limits
        self.context = context
        self.depth = depth
        self.graph = Graph(template)
        self.slots = self.graph.steps
        self.runs = {step.name: run_of(step) for step in template.steps if step.type != "batch_worker"}
        #: The steps that decisions and batchables have named.
        self.named: set[str] = set()
        self.batches: dict[str, Batch] = {}
        self.failures: list[Run] = []
        self.mailbox: list[tuple[str, Any]] = []
        self.signal_ids: set[str] = set()
        #: `absent`, `pending`, `going`, `paused`, `blocked`, `compensating`, `complete`, `error`, `cancelled` or
        #: `resolved_manually`.
        self.phase = "absent"
        self.paused_from = ""
        self.operator_requests: set[str] = set()
        self.start_at_ms: int | None = None
        self.now_ms = 0
        #: The delays that chance chose for the step's next try, in milliseconds; told from outside.
        self.chosen_delays_ms: dict[str, int] = {}

    # -- who exists ------------------------------------------------------------------------------

    def existence(self) -> dict[str, str]:
        """For each step of the template: `exists`, `skipped`, `never`, or `open`; found from nothing."""
        return existence(self.graph, self.named, {run.name for run in self.runs.values() if run.done})

    def met(self, slot: str, found: dict[str, str]) -> bool:
        """Whether what depends on a step of the template may go on, as far as that step is concerned."""
        if found[slot] in ("never", "skipped"):
            return True
        if self.slots[slot].type == "batch_worker":
            return slot in self.batches and self.batches[slot].complete
        return self.runs[slot].done

    # -- what is asked of the task -----------------------------------------------------------------

    def create(self, start_at_ms: int | None) -> list[Fact]:
        if self.phase != "absent":
            return []
        self.start_at_ms = start_at_ms
        self.phase = "pending"
        facts: list[Fact] = [("task.created",)]
        if start_at_ms is None:
            self.phase = "going"
            return facts + self._go_on()
        return facts + self.wake()

    def cancel(self) -> list[Fact]:
        if self.phase == "absent" or self.is_out_of_reach:
            return []
        facts, given_out = self._cut_short("cancel")
        self.phase = "cancelled"
        return [*facts, ("task.cancelled", given_out)]

    def _cut_short(self, ended_by: str) -> tuple[list[Fact], list[str]]:
        """The task ends before its steps do; also the names of those that workers run."""
        facts: list[Fact] = []
        given_out: list[str] = []
        found = self.existence()
        for run in self.runs.values():
            if run.open_try and run.kind == "handler":
                given_out.append(run.name)
            if run.open_try and run.kind == "child":
                facts += self._child_given_up(run)
            if run.tries and not run.tries[-1].ended_by:
                run.tries[-1].ended_by = ended_by
            if not run.end and found.get(run.name, "exists") == "exists":
                run.end = "cancelled"
                run.retry_at_ms = None
        for batch in self.batches.values():
            batch.queue.clear()
        self.mailbox = []
        return facts, sorted(given_out)

    def wake(self) -> list[Fact]:
        if self.phase == "pending":
            if self.start_at_ms is None or self.start_at_ms > self.now_ms:
                return []
            self.phase = "going"
            return [("task.started",), *self._go_on()]
        facts: list[Fact] = []
        for run in list(self.runs.values()):
            current = run.open_try
            if run.retry_at_ms is not None and run.retry_at_ms <= self.now_ms:
                if self.phase == "paused":
                    continue
                facts.append(self._next_try(run))
            elif current and current.deadline_ms is not None and current.deadline_ms <= self.now_ms:
                facts += self._timed_out(run)
        return facts + self._go_on()

    def signal(self, name: str, signal_id: str, payload: Any) -> list[Fact]:
        """A signal from outside; one that nobody will ever take, or that came before, is nothing."""
        waiting = [
            run
            for run in self.runs.values()
            if run.template.wait_for_signal is not None
            and run.template.wait_for_signal.name == name
            and run.kind == "signal"
        ]
        if signal_id in self.signal_ids or self.phase not in ("pending", "going", "paused", "blocked"):
            return []
        taker = next((run for run in waiting if run.open_try), None)
        if taker is None:
            found = self.existence()
            coming = [run for run in waiting if found[run.name] in ("open", "exists") and run.to_begin]
            kept = [each for each in self.mailbox if each[0] == name]
            if len(kept) >= len(coming) or len(self.mailbox) >= self.limits.signals_kept_max:
                return []
            self.mailbox.append((name, payload))
        self.signal_ids.add(signal_id)
        facts: list[Fact] = [("signal.received", signal_id)]
        if taker is not None:
            facts += self._complete(taker, payload) + self._go_on()
        return facts

    def told(self, said: result.AnyOutcome) -> list[Fact]:
        """A worker's word about a try, or a child's."""
        run = self.runs.get(said.step_name)
        tries = run.tries if run is not None else []
        known = next(
            (each for each in tries if (each.number, each.token) == (said.attempt, said.lease_token)), None
        )
        if run is None or known is None:
            return []
        if known.ended_by:
            return self._too_late(run, known, said.KIND)
        match said:
            case result.Started():
                if known.is_running:
                    return []
                known.is_running = True
                if run.timeout_seconds is not None and run.kind != "child":
                    known.deadline_ms = self.now_ms + round(run.timeout_seconds * 1_000) + GRACE_MS
                return [("started", run.name, known.number)]
            case result.Checkpointed() if run.checkpoint == saved(said):
                return self._failed(run, "failure", code="CHECKPOINT_WITHOUT_PROGRESS") + self._go_on()
            case result.Released() | result.Checkpointed():
                # The same try, given out anew; what the old token says counts no more.
                known.token, known.is_running, known.deadline_ms = "", False, None
                again = [("enqueued", run.name, known.number)]
                if self.phase == "paused":
                    known.held, again = True, []
                    if (batch := self._batch_of(run)) is not None:
                        batch.queue.append(run)
                if isinstance(said, result.Released):
                    return [("released", run.name, known.number), *again]
                run.checkpoint = saved(said)
                return [("checkpointed", run.name, known.number, said.items_processed), *again]
            case result.Lost():
                return self._failed(run, "lost", code="WORKER_LOST") + self._go_on()
            case result.Failure():
                return (
                    self._failed(
                        run,
                        "failure",
                        retryable=said.retryable,
                        wish_ms=said.retry_after_ms,
                        code=said.error_code,
                        undo=said.compensation_steps,
                    )
                    + self._go_on()
                )
            case result.Success() | result.Decided() | result.Batches():
                return self._answered(run, said) + self._go_on()

    def given_out(self, name: str, token: str) -> None:
        """The token of the current try became known."""
        self.runs[name].tries[-1].token = token

    # -- what operators ask: `None` where it is refused ------------------------------------------------

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the task has ended, or is being undone."""
        return self.phase in ("compensating", "complete", "error", "cancelled", "resolved_manually")

    def actions(self) -> set[str]:
        """What may be asked of the task."""
        if self.is_out_of_reach:
            return set()
        allowed = {"cancel", "resolve_manually", "resume" if self.phase == "paused" else "pause"}
        allowed |= {"give_up"} if self.phase == "blocked" else set()
        return allowed | ({"retry"} if self.broken() else set())

    def step_actions(self, run: Run) -> set[str]:
        """What may be asked of a step."""
        batch = self._batch_of(run)
        if run.kind == "compensation":
            waits = self.phase == "compensating" and run.retry_at_ms is not None
            return {"reset_for_retry"} if waits else set()
        if self.is_out_of_reach or run.done or run.end == "cancelled":
            return set()
        if run.end == "error" and batch is not None and batch.told_complete:
            return set()
        allowed = {"resolve_manually", "complete_manually"}
        failed = run.end == "error" or run.retry_at_ms is not None
        allowed |= {"reset_for_retry"} if failed else set()
        untouched = run.to_begin and not (run.tries and run.tries[-1].held)
        may_skip = run.template.skippable and (untouched or run.end == "error")
        return allowed | ({"skip"} if may_skip else set())

    def is_skipped(self, run: Run) -> bool:
        """Whether the step exists only in name: the branches that it would bring together were not chosen."""
        return self.existence().get(run.name) == "skipped"

    def operate(self, action: str, request_id: str) -> list[Fact] | None:
        """An operator asks something of the task."""
        if self.phase == "absent":
            return None
        if request_id in self.operator_requests:
            return []
        if action == "pause" and self.phase == "paused":
            return []
        if action not in self.actions():
            return None
        self.operator_requests.add(request_id)
        match action:
            case "pause":
                self.paused_from = "pending" if self.phase == "pending" else "going"
                self.phase = "paused"
                return [("task.paused",)]
            case "resume":
                return self._resume()
            case "retry":
                facts = [fact for run in self.broken() for fact in self._reset(run)]
                return self._stepped_in(facts)
            case "give_up":
                self.phase, self.mailbox = "error", []
                names = sorted(run.name for run in self.broken())
                return [("task.given_up",), ("task.failed", names, None, [])]
            case _:
                facts, given_out = self._cut_short("operator")
                self.phase = "resolved_manually"
                return [*facts, ("task.resolved_manually", given_out)]

    def _resume(self) -> list[Fact]:
        facts: list[Fact] = [("task.resumed",)]
        self.phase = self.paused_from
        if self.phase == "pending":
            if self.start_at_ms is None or self.start_at_ms > self.now_ms:
                return facts
            self.phase = "going"
            facts.append(("task.started",))
        due = [run for run in self.runs.values() if run.retry_at_ms is not None]
        facts += [self._next_try(run) for run in due if (run.retry_at_ms or 0) <= self.now_ms]
        return facts + self._go_on()

    def operate_step(self, action: str, name: str, value: Any, request_id: str) -> list[Fact] | None:
        """An operator asks something of a step; `value` is the result of one that is completed."""
        if self.phase == "absent":
            return None
        if request_id in self.operator_requests:
            return []
        run = self.runs.get(name)
        if run is None or (run.kind != "compensation" and run not in self.existing()):
            return None
        if action not in self.step_actions(run):
            return None
        if action == "complete_manually" and run.template.type == "decision":
            allowed = {each for each in self.graph.behind(name) if self.slots[each].type != "batch_worker"}
            named = value.get("create_steps", [])
            too_deep = self._decisions_deep(name) > self.limits.decision_depth_max
            if too_deep or len(named) > self.limits.decision_steps_max or not set(named) <= allowed:
                return None
        self.operator_requests.add(request_id)
        if action == "reset_for_retry":
            return self._stepped_in(self._reset(run))
        ends = {
            "resolve_manually": "resolved_manually",
            "complete_manually": "complete",
            "skip": "skipped",
        }
        facts = self._settle(run, ends[action], value)
        kind = "skipped" if action == "skip" else action
        facts.append((kind, name) if action == "skip" else (kind, name, len(run.tries)))
        return self._stepped_in(facts + self._settled_decider(run, value))

    def _stepped_in(self, facts: list[Fact]) -> list[Fact]:
        if self.phase == "blocked":
            self.phase = "going"
        return facts + self._go_on()

    def _reset(self, run: Run) -> list[Fact]:
        run.forgiven = len(run.tries)
        facts: list[Fact] = [("reset", run.name, len(run.tries))]
        if run.kind == "compensation":
            return [*facts, self._next_try(run)]
        self._take_failure_back(run)
        run.retry_at_ms = None
        batch = self._batch_of(run)
        if batch is not None:
            batch.queue.append(run)
            self._start_again_if_mended(batch)
        return facts

    def _take_failure_back(self, run: Run) -> None:
        if run.end == "error":
            run.end, run.tolerated, run.undo = "", False, ()
            self.failures.remove(run)

    def _settle(self, run: Run, end: str, value: Any) -> list[Fact]:
        facts = self._child_given_up(run) if run.open_try and run.kind == "child" else []
        if run.tries and not run.tries[-1].ended_by:
            run.tries[-1].ended_by, run.tries[-1].held = "operator", False
        self._take_failure_back(run)
        run.end, run.retry_at_ms = end, None
        run.result = value if end == "complete" else None
        batch = self._batch_of(run)
        if batch is not None:
            batch.queue = [each for each in batch.queue if each is not run]
            self._start_again_if_mended(batch)
        return facts

    def _start_again_if_mended(self, batch: Batch) -> None:
        """What was cancelled because of failures in a batch runs after all, once none of them is left."""
        if not batch.stopped or any(worker.end == "error" for worker in batch.workers):
            return
        batch.stopped = False
        for worker in batch.workers:
            if worker.end == "cancelled":
                worker.end = ""
                if worker.tries:
                    batch.queue.append(worker)

    def _settled_decider(self, run: Run, value: Any) -> list[Fact]:
        """A decision has chosen nothing, unless its result says what; a batchable step has cut nothing."""
        if run.template.type not in ("decision", "batchable"):
            return []
        run_end, run.end = run.end, ""
        before = self.existence()
        run.end = run_end
        if run.template.type == "decision":
            named = sorted(value.get("create_steps", [])) if run.end == "complete" else []
            created, excluded, skipped = self._grown(before, named)
            return [("routed" if named else "declined", run.name, named, created, excluded), *skipped]
        config = run.template.batch_config
        assert config is not None
        workers = [
            step.name
            for step in self.template.steps
            if step.type == "batch_worker" and run.name in step.dependencies
        ]
        return self._made(run, config.worker_template or workers[0], (), before)

    # -- answers -----------------------------------------------------------------------------------

    def _answered(self, run: Run, said: result.Success | result.Decided | result.Batches) -> list[Fact]:
        step_type = "standard" if run.kind == "compensation" else run.template.type
        wanted = {"decision": "decision", "batchable": "batches"}.get(step_type, "success")
        value = msgspec.json.decode(said.result)
        if wanted != said.KIND:
            return self._failed(run, "failure", retryable=False, code="UNEXPECTED_OUTCOME")
        if isinstance(said, result.Decided):
            return self._decision(run, said, value)
        if isinstance(said, result.Batches):
            return self._cut(run, said, value)
        if run.kind == "compensation":
            unclean = isinstance(value, dict) and value.get("requires_manual_cleanup") is True
            self._complete(run, value)
            run.clean = not unclean
            return [("compensation.completed", run.name, run.undoes, len(run.tries), unclean)]
        return self._complete(run, value)

    def _complete(self, run: Run, value: Any) -> list[Fact]:
        current = run.open_try
        assert current is not None
        current.ended_by = "success"
        run.end, run.result = "complete", value
        return [("completed", run.name, current.number)]

    def _decision(self, run: Run, said: result.Decided, value: Any) -> list[Fact]:
        allowed = {name for name in self.graph.behind(run.name) if self.slots[name].type != "batch_worker"}
        code = None
        if self._decisions_deep(run.name) > self.limits.decision_depth_max:
            code = "DECISION_DEPTH_EXCEEDED"
        elif len(said.create_steps) > self.limits.decision_steps_max:
            code = "DECISION_STEPS_EXCEEDED"
        elif not set(said.create_steps) <= allowed:
            code = "DECISION_INVALID"
        if code:
            return self._failed(run, "failure", retryable=False, code=code)
        before = self.existence()
        facts = self._complete(run, value)
        created, excluded, skipped = self._grown(before, said.create_steps)
        kind = "routed" if said.create_steps else "declined"
        return [*facts, (kind, run.name, sorted(said.create_steps), created, excluded), *skipped]

    def _decisions_deep(self, name: str) -> int:
        deep = [self._decisions_deep(parent) for parent in self.slots[name].dependencies]
        return max(deep, default=0) + (self.slots[name].type == "decision")

    def _cut(self, run: Run, said: result.Batches, value: Any) -> list[Fact]:
        config = run.template.batch_config
        assert config is not None
        workers = [
            step.name
            for step in self.template.steps
            if step.type == "batch_worker" and run.name in step.dependencies
        ]
        chosen = said.worker_template or config.worker_template or (workers[0] if len(workers) == 1 else "")
        code = None
        if len(said.cursors) > self.limits.batch_workers_max:
            code = "BATCHES_EXCEEDED"
        elif chosen not in workers:
            code = "BATCHES_INVALID"
        if code:
            return self._failed(run, "failure", retryable=False, code=code)
        before = self.existence()
        facts = self._complete(run, value)
        return facts + self._made(run, chosen, said.cursors, before)

    def _made(
        self, run: Run, chosen: str, given: tuple[msgspec.Raw, ...], before: dict[str, str]
    ) -> list[Fact]:
        """The workers of a batch, one for each cursor."""
        config = run.template.batch_config
        assert config is not None
        created, excluded, skipped = self._grown(before, (chosen,))
        created.remove(chosen)
        cursors = [msgspec.json.decode(each) for each in given] or [None]
        batch = Batch([], not given, config.failure_strategy, config.parallelism)
        for number, cursor in enumerate(cursors, 1):
            worker = run_of(self.slots[chosen], f"{chosen}_{number:03d}")
            worker.step_inputs = {
                "cursor": cursor,
                "batch_id": f"{number:03d}",
                "batch_count": len(cursors),
                "is_no_op": batch.is_no_op,
                "batch_config": config.model_dump(mode="json", exclude_defaults=True),
            }
            batch.workers.append(worker)
            self.runs[worker.name] = worker
        self.batches[chosen] = batch
        made = ("batch.created", run.name, chosen, len(given), batch.is_no_op, created, excluded)
        return [made, *skipped]

    def _grown(self, before: dict[str, str], named: Iterable[str]) -> tuple[list[str], list[str], list[Fact]]:
        """What comes to exist, what never will, and what is skipped, now that somebody has named steps."""
        self.named.update(named)
        after = self.existence()

        def turned(into: str) -> list[str]:
            return sorted(name for name in self.slots if before[name] == "open" and after[name] == into)

        assert all(after[name] == each for name, each in before.items() if each != "open")
        return turned("exists"), turned("never"), [("skipped", name) for name in turned("skipped")]

    def _too_late(self, run: Run, known: Try, kind: str) -> list[Fact]:
        said = _SAYS.get(kind)
        if said is None or said == known.ended_by or known.late_recorded:
            return []
        known.late_recorded = True
        if known is not run.tries[-1] or not run.end:
            why = "stale_attempt"
        else:
            over = run.end == "cancelled" and self.phase in ("cancelled", "resolved_manually")
            why = "task_finished" if over else "step_finished"
        return [("refused", run.name, known.number, kind, why)]

    # -- failures ----------------------------------------------------------------------------------

    def _timed_out(self, run: Run) -> list[Fact]:
        signal = run.template.wait_for_signal
        if run.kind == "signal" and signal is not None:
            over = ("signal.timed_out", run.name, signal.default is not None)
            if signal.default is not None:
                return [over, *self._complete(run, signal.default)]
            return [over, *self._failed(run, "timeout", retryable=False, code="SIGNAL_TIMEOUT")]
        given_up = self._child_given_up(run) if run.kind == "child" else []
        return given_up + self._failed(run, "timeout", code="STEP_TIMEOUT")

    def _child_given_up(self, run: Run) -> list[Fact]:
        child = run.template.child_task
        assert child is not None
        return [("child.cancel_requested", run.name)] if child.parent_close == "cancel" else []

    def _failed(
        self,
        run: Run,
        ended_by: str,
        *,
        code: str | None = None,
        retryable: bool = True,
        wish_ms: int | None = None,
        undo: tuple[str, ...] = (),
    ) -> list[Fact]:
        current = run.open_try
        assert current is not None
        current.ended_by = ended_by
        batch = self._batch_of(run)
        if not retryable:
            why = "permanent"
        elif not run.retry.retryable:
            why = "not_retryable"
        elif current.number - run.forgiven >= run.retry.max_attempts:
            why = "attempts_exhausted"
        elif batch is not None and batch.stopped:
            why = "batch_stopped"
        else:
            return self._try_later(run, ended_by, wish_ms)
        if run.kind == "compensation":
            run.end = "error"
            return [("compensation.failed", run.name, run.undoes, current.number, why, code)]
        run.end, run.undo = "error", undo
        self.failures.append(run)
        run.tolerated = (
            batch is not None
            and batch.failure_strategy == "continue_on_failure"
            and any(worker.end != "error" for worker in batch.workers)
        )
        facts: list[Fact] = [("failed", run.name, current.number, why, run.tolerated, code)]
        if batch is not None and batch.failure_strategy == "fail_fast" and not batch.stopped:
            batch.stopped = True
            batch.queue.clear()
            # What is with a worker goes on; the rest never will.
            others = [worker for worker in batch.workers if not worker.end and not worker.open_try]
            for worker in others:
                worker.end, worker.retry_at_ms = "cancelled", None
            facts.append(("batch.stopped", run.template.name, run.name, len(others)))
        return facts

    def _batch_of(self, run: Run) -> Batch | None:
        return next((batch for batch in self.batches.values() if run in batch.workers), None)

    def _try_later(self, run: Run, ended_by: str, wish_ms: int | None) -> list[Fact]:
        made = len(run.tries) - run.forgiven
        delay_ms = self.chosen_delays_ms[run.name]
        if ended_by == "lost":
            lowest_ms, highest_ms, source = 0, 0, "at_once"
        elif wish_ms is not None:
            lowest_ms, highest_ms, source = wish_ms, wish_ms, "retry_after"
        else:
            factor = {"none": 0, "fixed": 1, "exponential": 2 ** (made - 1)}[run.retry.backoff]
            formula_ms = min(run.retry.backoff_base_ms * factor, run.retry.max_backoff_ms)
            lowest_ms = math.floor(formula_ms * (1 - run.retry.jitter))
            highest_ms, source = math.ceil(formula_ms * (1 + run.retry.jitter)), "backoff"
        assert lowest_ms <= delay_ms <= highest_ms, f"{run.name}: a delay of {delay_ms} ms"
        facts: list[Fact] = [("retry", run.name, len(run.tries), source, self.now_ms + delay_ms)]
        if delay_ms == 0 and self.phase != "paused":
            return [*facts, self._next_try(run)]
        run.retry_at_ms = self.now_ms + delay_ms
        return facts

    # -- what follows ------------------------------------------------------------------------------

    def _next_try(self, run: Run) -> Fact:
        run.retry_at_ms = None
        if run.tries and run.tries[-1].held:
            run.tries[-1].held = False
            return ("enqueued", run.name, len(run.tries))
        run.tries.append(Try(len(run.tries) + 1))
        if run.kind == "child":
            if run.timeout_seconds is not None:
                run.tries[-1].deadline_ms = self.now_ms + round(run.timeout_seconds * 1_000)
            return ("child.requested", run.name, len(run.tries), *self._child_context(run))
        if run.kind == "signal":
            signal = run.template.wait_for_signal
            assert signal is not None
            if signal.timeout_seconds is not None:
                run.tries[-1].deadline_ms = self.now_ms + round(signal.timeout_seconds * 1_000)
            return ("signal.awaited", run.name, signal.name, run.tries[-1].deadline_ms)
        return ("enqueued", run.name, len(run.tries))

    def _child_context(self, run: Run) -> tuple[dict[str, Any], int]:
        """What the child is given, and how many problems stand against it."""
        child = run.template.child_task
        assert child is not None
        context: dict[str, Any] = {}
        problems = 1 if self.depth + 1 > self.limits.child_depth_max else 0
        for key, text in sorted(child.context.items()):
            assert isinstance(text, str)
            if text == "${context.order}":
                context[key] = self.context["order"]
            elif self.runs[text[len("${steps.") : -1]].end == "complete":
                context[key] = self.runs[text[len("${steps.") : -1]].result
            else:
                problems += 1
        return context, problems

    def _go_on(self) -> list[Fact]:
        """Begin what is ready until nothing more is, and see whether the task is at an end."""
        facts: list[Fact] = []
        while more := self._batches_completed() or (self._begin_one_more() if self.phase == "going" else []):
            facts += more
        if self.phase == "compensating":
            return self._go_on_undoing()
        return facts + self._end() if self.phase in ("going", "paused", "pending") else facts

    def _batches_completed(self) -> list[Fact]:
        for slot, batch in self.batches.items():
            if batch.complete and not batch.told_complete:
                batch.told_complete = True
                failed = [worker for worker in batch.workers if worker.end == "error"]
                for worker in failed:
                    worker.tolerated = True
                done = sum(worker.done for worker in batch.workers)
                return [("batch.completed", slot, done, len(failed))]
        return []

    def _begin_one_more(self) -> list[Fact]:
        found = self.existence()
        for name, step in self.slots.items():
            if found[name] != "exists" or not all(self.met(each, found) for each in step.dependencies):
                continue
            if step.type == "batch_worker":
                facts = self._go_on_with_batch(name)
                if facts:
                    return facts
            elif self.runs[name].to_begin:
                return self._begin(self.runs[name])
        return []

    def _begin(self, run: Run) -> list[Fact]:
        facts = [self._next_try(run)]
        signal = run.template.wait_for_signal
        if run.kind == "signal" and signal is not None:
            kept = next((each for each in self.mailbox if each[0] == signal.name), None)
            if kept is not None:
                self.mailbox.remove(kept)
                facts += self._complete(run, kept[1])
        return facts

    def _go_on_with_batch(self, slot: str) -> list[Fact]:
        batch = self.batches[slot]
        fresh = [worker for worker in batch.workers if not worker.tries and not worker.end]
        waiting = [*batch.queue, *fresh]
        in_flight = [worker for worker in batch.workers if worker.awaited]
        if waiting and (batch.parallelism is None or len(in_flight) < batch.parallelism):
            del batch.queue[:1]
            return self._begin(waiting[0])
        return []

    def existing(self) -> list[Run]:
        """The steps that exist and are not skipped, compensations left out."""
        found = self.existence()
        return [
            run
            for run in self.runs.values()
            if run.kind != "compensation" and found.get(run.name, "exists") == "exists"
        ]

    def broken(self) -> list[Run]:
        """The steps that failed for good and hold the task up, in the order in which they failed."""
        return [run for run in self.failures if not run.tolerated]

    def _end(self) -> list[Fact]:
        found = self.existence()
        runs, broken = self.existing(), self.broken()
        if any(run.awaited for run in runs):
            return []
        names = sorted(run.name for run in broken)
        if self.phase != "going" and (broken or not all(run.end for run in runs)):
            return []
        if not broken:
            assert all(run.done or run.end == "error" for run in runs), "the task is stuck"
            assert "open" not in found.values(), "the task is stuck"
            self.phase, self.mailbox = "complete", []
            return [("task.completed", len(runs) + list(found.values()).count("skipped"))]
        on_failure = self.template.on_failure
        if on_failure is None:
            undoable = any(step.compensation is not None for step in self.template.steps)
            on_failure = "compensate" if undoable else "block"
        # Now that the task cannot complete, the wishes of failures that were put up with count too.
        wishing = [*broken, *(run for run in runs if run.tolerated)]
        if on_failure == "compensate" or any(run.undo for run in wishing):
            return self._begin_undoing(wishing, names)
        if on_failure == "fail":
            self.phase, self.mailbox = "error", []
            return [("task.failed", names, None, [])]
        self.phase = "blocked"
        return [("task.blocked", names, len(self.unreachable()))]

    def unreachable(self) -> set[str]:
        """The steps of the template that never start because a step before them failed for good."""
        found = self.existence()
        begun = {run.template.name for run in self.runs.values() if run.tries or run.done}
        begun -= {slot for slot, batch in self.batches.items() if not batch.begun}
        behind = set[str]().union(*(self.graph.behind(run.template.name) for run in self.broken()))
        return {name for name in behind - begun if found[name] in ("open", "exists")}

    # -- compensation ------------------------------------------------------------------------------

    def _begin_undoing(self, wishing: list[Run], names: list[str]) -> list[Fact]:
        targets, handlers = self._what_to_undo(wishing)
        if not targets and not handlers:
            self.phase, self.mailbox = "error", []
            return [("task.failed", names, "complete", [])]
        self.phase = "compensating"
        for target in targets:
            made = compensation_of(self.runs[target], f"compensate:{target}")
            self.runs[made.name] = made
        for handler, failed in handlers.items():
            made = compensation_of(self.runs[failed], f"compensate:{handler}")
            made.retry, made.timeout_seconds = RetryPolicy(), None
            self.runs[made.name] = made
        named = {
            self.runs[target].template.name if self.runs[target].end == "complete" else target
            for target in targets
        }
        started = ("compensation.started", names, sorted(named), sorted(handlers.items()))
        return [started, *self._go_on_undoing()]

    def _what_to_undo(self, wishing: list[Run]) -> tuple[list[str], dict[str, str]]:
        """The steps to undo, and the handlers to run besides with the step that named each."""
        undoable = [run for run in self.existing() if run.template.compensation is not None]
        # The placeholder of an empty batch has done nothing.
        idle = [worker for batch in self.batches.values() if batch.is_no_op for worker in batch.workers]
        targets = {run.name for run in undoable if run.end == "complete" and run not in idle}
        handlers: dict[str, str] = {}
        for failed in wishing:
            for name in failed.undo:
                meant = self._declaring(name)
                if meant:
                    # By the name of its template or of its handler, a failed batch means itself.
                    own = {failed.name} if failed.template.name in meant else set()
                    targets.update(
                        run.name
                        for run in undoable
                        if run.tries and run.end != "complete" and run.name in meant | own
                    )
                else:
                    handlers.setdefault(name, failed.name)
        return [name for name in self.runs if name in targets], handlers

    def _declaring(self, name: str) -> set[str]:
        """The steps that are called so, or whose compensation is; where they declare one."""
        slot = self.runs[name].template if name in self.runs else self.slots.get(name)
        if slot is not None and slot.compensation is not None:
            return {name}
        return {
            step.name
            for step in self.template.steps
            if step.compensation is not None and step.compensation.handler.callable == name
        }

    def compensations(self) -> list[Run]:
        """The compensations of the task, ended or not."""
        return [run for run in self.runs.values() if run.kind == "compensation"]

    def _go_on_undoing(self) -> list[Fact]:
        """Begin each compensation of which everything that came after it is undone."""
        facts: list[Fact] = []
        for run in self.compensations():
            later = self.graph.behind(run.template.name)
            in_the_way = [
                other for other in self.compensations() if other.template.name in later and not other.end
            ]
            if not run.tries and not in_the_way:
                facts.append(self._next_try(run))
        if all(run.end for run in self.compensations()):
            unclean = sorted({run.undoes for run in self.compensations() if not run.clean})
            self.phase, self.mailbox = "error", []
            names = sorted(run.name for run in self.broken())
            facts.append(("task.failed", names, "partial" if unclean else "complete", unclean))
        return facts

    # -- what is seen from outside -----------------------------------------------------------------

    def status(self) -> str:
        """The task's status by its name in the contract."""
        if self.phase != "going":
            return {"absent": "pending", "blocked": "blocked_by_failures"}.get(self.phase, self.phase)
        if any(run.open_try and run.kind == "handler" for run in self.runs.values()):
            return "steps_in_process"
        retries = any(run.retry_at_ms is not None for run in self.runs.values())
        return "waiting_for_retry" if retries else "waiting_for_dependencies"

    def statuses(self) -> dict[str, str]:
        """The status of every step, of those that do not exist too; `expanded` is a worker with batches."""
        found = self.existence()
        shown = {"open": "absent", "never": "excluded", "skipped": "skipped", "exists": "expanded"}
        statuses = {name: shown[each] for name, each in found.items()}
        statuses.update({run.name: status(run) for run in self.existing()})
        for run in self.compensations():
            statuses[run.name] = status(run)
            if statuses[run.undoes] == "complete" and run.tries:
                undone = "compensated" if run.clean else "complete"
                statuses[run.undoes] = undone if run.end else "compensating"
        return statuses

    def next_wake_ms(self) -> int | None:
        """When time alone changes something next."""
        if self.phase == "pending":
            return self.start_at_ms
        moments = [] if self.phase == "paused" else [run.retry_at_ms for run in self.runs.values()]
        moments += [run.open_try.deadline_ms for run in self.runs.values() if run.open_try]
        return min((moment for moment in moments if moment is not None), default=None)

    def readable(self, name: str) -> dict[str, Any]:
        """The results that a step may read, by step."""
        run = self.runs[name]
        above = self.graph.above[run.template.name]
        found = {
            other.name: other.result
            for other in self.existing()
            if other.template.name in above and other.end == "complete"
        }
        if run.undoes and self.runs[run.undoes].end == "complete":
            found[run.undoes] = self.runs[run.undoes].result
        return found

    def step_inputs(self, name: str) -> dict[str, Any]:
        """What a step works on besides the context."""
        run = self.runs[name]
        return self.step_inputs(run.undoes) if run.undoes else run.step_inputs

    def task_result(self) -> Any:
        """What the completed task has come to: the result of its last step, or those of its last steps."""
        found = self.existence()
        needed = {
            parent
            for name, step in self.slots.items()
            if found[name] != "never"
            for parent in step.dependencies
        }
        done = [run for run in self.existing() if run.template.name not in needed and run.done]
        last = [run for run in done if run.end == "complete"]
        # The workers of a batch stand by their names, however many they are.
        if len(last) == 1 and not any(run.template.type == "batch_worker" for run in done):
            return last[0].result
        return {run.name: run.result for run in last} or None
