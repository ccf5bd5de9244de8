"""The steps of the model in `dynamic_model`: their tries, and how they ended. Nothing here is an index or a counter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from stepweave_schemas import result
from stepweave_schemas.template import RetryPolicy, StepTemplate


@dataclass
class Try:
    """One try of a step, from the moment it is given out."""

    number: int
    token: str = ""
    #: `success`, `failure`, `lost`, `timeout`, `cancel`; empty while its outcome is awaited.
    ended_by: str = ""
    is_running: bool = False
    deadline_ms: int | None = None
    #: A result that came too late was recorded.
    late_recorded: bool = False
    #: It was handed back while the task was paused, and goes on afterwards.
    held: bool = False


#: What depends on a step that ended so goes on.
DONE = frozenset({"complete", "resolved_manually", "skipped"})


@dataclass
class Run:
    """One step that runs: a step of the template, a batch's worker or a compensation."""

    name: str
    #: The step of the template that it is, was made from, or undoes.
    template: StepTemplate
    retry: RetryPolicy
    timeout_seconds: float | None
    #: `handler`, `signal`, `child` or `compensation`.
    kind: str
    #: Of a compensation: the step that it undoes, and whether it did.
    undoes: str = ""
    clean: bool = False
    step_inputs: dict[str, Any] = field(default_factory=dict)
    tries: list[Try] = field(default_factory=list)
    retry_at_ms: int | None = None
    checkpoint: tuple[Any, int, Any] | None = None
    #: Tries up to this one count no more.
    forgiven: int = 0
    #: `complete`, `error`, `cancelled`, `resolved_manually` or `skipped` (by an operator).
    end: str = ""
    result: Any = None
    #: One batch of many whose failure is put up with.
    tolerated: bool = False
    #: What its failure names to be undone.
    undo: tuple[str, ...] = ()

    @property
    def open_try(self) -> Try | None:
        last = self.tries[-1] if self.tries else None
        return last if last is not None and not last.ended_by and not last.held else None

    @property
    def done(self) -> bool:
        return self.end in DONE

    @property
    def to_begin(self) -> bool:
        """Whether it has to be given out: for the first time, because it was reset, or because it was held."""
        return not self.end and not self.awaited

    @property
    def awaited(self) -> bool:
        """Whether something will become of it without anybody's doing, or somebody's outside."""
        return self.open_try is not None or self.retry_at_ms is not None


@dataclass
class Batch:
    """The workers of one batch."""

    workers: list[Run]
    is_no_op: bool
    failure_strategy: str
    parallelism: int | None
    stopped: bool = False
    told_complete: bool = False
    #: The workers that have begun before and wait to be given out again, the first one first.
    queue: list[Run] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether what waits for the batch may go on."""
        ends = {worker.end for worker in self.workers}
        if self.failure_strategy == "continue_on_failure":
            return bool(ends & DONE) and ends <= DONE | {"error"}
        return ends <= DONE

    @property
    def begun(self) -> int:
        """How many of the first workers have begun, or were settled before."""
        for number, worker in enumerate(self.workers):
            if not worker.tries and not worker.done:
                return number
        return len(self.workers)


def run_of(step: StepTemplate, name: str = "") -> Run:
    """A step of the template, or one batch of it, that has not begun."""
    kind = "signal" if step.wait_for_signal else "child" if step.child_task else "handler"
    made = Run(name or step.name, step, step.retry, step.timeout_seconds, kind)
    if step.batch_config is not None:
        made.step_inputs = {"batch_config": step.batch_config.model_dump(mode="json", exclude_defaults=True)}
    return made


def saved(said: result.Checkpointed) -> tuple[Any, int, Any]:
    """A checkpoint as it is kept."""
    return (
        msgspec.json.decode(said.cursor),
        said.items_processed,
        msgspec.json.decode(said.accumulated_results),
    )


def compensation_of(target: Run, name: str) -> Run:
    """What undoes a step, not begun."""
    declared = target.template.compensation
    retry = RetryPolicy() if declared is None else declared.retry
    seconds = None if declared is None else declared.timeout_seconds
    return Run(name, target.template, retry, seconds, "compensation", undoes=target.name)


def status(run: Run) -> str:
    """The status of a step by its name in the contract."""
    current = run.open_try
    if run.end:
        return run.end
    if run.retry_at_ms is not None:
        return "waiting_for_retry"
    if current is None:
        return "pending"
    if run.kind in ("signal", "child"):
        return f"waiting_for_{run.kind}"
    return "in_progress" if current.is_running else "enqueued"
