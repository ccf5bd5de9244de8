"""What every event means, when it is emitted and what it changes: for people, and for `stepweave events catalog`.

`events` defines the payloads; this module says what to make of them. The page `docs/reference/events.md` is
rendered from here.
"""

from __future__ import annotations

import inspect
from typing import Any, Final, Literal, NamedTuple

from . import events
from .json_schemas import event_schema, schema_file_name

Stream = Literal["task", "system"]
EventClass = type[events.Event]


class CatalogueEntry(NamedTuple):
    """One event type."""

    type: str
    struct: EventClass
    #: `task`: in a task's stream, where it rebuilds the task's state; `system`: in one of the system's own.
    stream: Stream
    meaning: str
    emitted_when: str
    #: The states before and after, by their names in the contract; `none` where no state changes.
    state_change: str
    #: Whether the signal feed carries it by default. The log feed carries every event.
    outcome: bool


def _entry(
    struct: EventClass, stream: Stream, *, outcome: bool, emitted_when: str, state_change: str
) -> CatalogueEntry:
    meaning = " ".join((inspect.getdoc(struct) or "").split())
    return CatalogueEntry(struct.TYPE, struct, stream, meaning, emitted_when, state_change, outcome)


_ENTRIES: Final = (
    _entry(
        events.TaskCreated,
        "task",
        outcome=True,
        emitted_when="A create request passed validation. It is the first event of the task's stream; the "
        "caller gets its answer after this event is committed. A repeated request emits nothing.",
        state_change="task: (none) → steps_in_process; → pending where the start is delayed",
    ),
    _entry(
        events.TaskStarted,
        "task",
        outcome=True,
        emitted_when="The moment of a delayed start came. A task without `start_at` skips this event.",
        state_change="task: pending → steps_in_process",
    ),
    _entry(
        events.TaskBlocked,
        "task",
        outcome=True,
        emitted_when="A step failed for good, no other step runs or waits for a retry, and the template does "
        "not say `on_failure: fail`. It stands in the same append as the event after which nothing can run.",
        state_change="task: steps_in_process | waiting_for_retry → blocked_by_failures",
    ),
    _entry(
        events.TaskCompleted,
        "task",
        outcome=True,
        emitted_when="The last step of the task completed; in the same append as its `step.completed`.",
        state_change="task: steps_in_process → complete",
    ),
    _entry(
        events.TaskFailed,
        "task",
        outcome=True,
        emitted_when="As `task.blocked`, where the template says `on_failure: fail`, or after the last compensation.",
        state_change="task: steps_in_process | waiting_for_retry | compensating → error",
    ),
    _entry(
        events.TaskCancelled,
        "task",
        outcome=True,
        emitted_when="A cancel request reached a task that had not ended. Workers that run its steps are told.",
        state_change="task: any that is not terminal → cancelled; its unfinished steps → cancelled",
    ),
    _entry(
        events.TaskStale,
        "task",
        outcome=True,
        emitted_when="The task has stayed in a state, or has run, for longer than its template's `lifecycle` allows; or "
        "one of its steps has waited for the installation's `handler_missing_seconds` and no worker serves its handler. "
        "Once for each stay in the state, and once for each handler until a step that uses it goes on.",
        state_change="none; with `action: fail` its unfinished steps → cancelled (and `task.failed` or "
        "`compensation.started` follows), with `action: cancel` a `task.cancelled` follows",
    ),
    _entry(
        events.TaskInvestigated,
        "task",
        outcome=True,
        emitted_when="Somebody changed a dead letter of the task (`dlq.update`). A repetition of what is known emits "
        "nothing.",
        state_change="none (the dead letter's resolution status)",
    ),
    _entry(
        events.TaskPaused,
        "task",
        outcome=True,
        emitted_when="A pause request reached a task that had not ended, was not being undone and was not paused.",
        state_change="task: pending | steps_in_process | waiting_for_retry | waiting_for_dependencies | "
        "blocked_by_failures → paused",
    ),
    _entry(
        events.TaskResumed,
        "task",
        outcome=True,
        emitted_when="A resume request reached a paused task. What is ready begins in the same append; where nothing "
        "can, because of failures, what follows these stands there.",
        state_change="task: paused → steps_in_process; → pending where its start is still to come",
    ),
    _entry(
        events.TaskGivenUp,
        "task",
        outcome=True,
        emitted_when="A give-up request reached a blocked task. `task.failed` follows in the same append.",
        state_change="none (the `task.failed` after it moves the task)",
    ),
    _entry(
        events.TaskResolvedManually,
        "task",
        outcome=True,
        emitted_when="A resolve request reached a task that had not ended and was not being undone. Workers that run "
        "its steps are told, its child tasks are cancelled as its template says.",
        state_change="task: any that is not terminal → resolved_manually; its unfinished steps → cancelled",
    ),
    _entry(
        events.StepEnqueued,
        "task",
        outcome=False,
        emitted_when="A step became ready: its dependencies are done, or its retry is due, or its worker handed "
        "the try back. The dispatch goes out after the commit and carries the event's lease token.",
        state_change="step: pending | waiting_for_retry | enqueued | in_progress → enqueued",
    ),
    _entry(
        events.StepStarted,
        "task",
        outcome=False,
        emitted_when="A worker announced that it runs the try, which it does for those that take longer than a "
        "moment. From here on the orchestrator watches the step's time-out too.",
        state_change="step: enqueued → in_progress",
    ),
    _entry(
        events.StepCompleted,
        "task",
        outcome=True,
        emitted_when="The worker of the current try reported success.",
        state_change="step: enqueued | in_progress → complete",
    ),
    _entry(
        events.StepRetryScheduled,
        "task",
        outcome=True,
        emitted_when="The current try failed, ran out of time or lost its worker, the failure may be retried, and "
        "the step has tries left. With a delay of 0 the next `step.enqueued` is in the same append.",
        state_change="step: enqueued | in_progress → waiting_for_retry",
    ),
    _entry(
        events.StepFailed,
        "task",
        outcome=True,
        emitted_when="The current try failed and no other follows: the failure is permanent, the template "
        "forbids retries, or it was the last try.",
        state_change="step: enqueued | in_progress → error",
    ),
    _entry(
        events.StepReleased,
        "task",
        outcome=False,
        emitted_when="A worker handed back a try that it had not started: it shuts down, or has no room, and a "
        "`step.enqueued` of the same try with a new lease token follows in the same append; or it does not have the "
        "handler, and that follows at `retry_at_ms`, or as soon as a worker that has it is seen. While the task is "
        "paused it follows when the task is resumed.",
        state_change="none (the `step.enqueued` after it moves the step), with `retry_at_ms`: enqueued | in_progress → "
        "enqueued; while the task is paused: enqueued | in_progress → pending",
    ),
    _entry(
        events.StepResultRefused,
        "task",
        outcome=False,
        emitted_when="A success or failure came with the right lease token but too late. Recorded once per try; "
        "an exact repetition of what is known, or a wrong token, leaves no event.",
        state_change="none",
    ),
    _entry(
        events.StepCheckpointed,
        "task",
        outcome=False,
        emitted_when="A handler reported a checkpoint. A `step.enqueued` of the same try with a new lease token "
        "follows in the same append (while the task is paused, when it is resumed); its dispatch carries the "
        "checkpoint.",
        state_change="none (the `step.enqueued` after it moves the step); while the task is paused: enqueued | "
        "in_progress → pending",
    ),
    _entry(
        events.StepSkipped,
        "task",
        outcome=True,
        emitted_when="A convergence step has no dependency outside the branches of a decision, and none of them "
        "was taken; in the same append as the decision. Or an operator skipped a step that its template calls "
        "`skippable`, before it began or after it failed.",
        state_change="step: (none) | pending | error → skipped",
    ),
    _entry(
        events.StepReused,
        "task",
        outcome=False,
        emitted_when="A task was forked: in the append of its `task.created`, one for each step whose outcome it takes "
        "over. What follows from the outcome (`decision.routed`, `batch.created`, …) stands behind it.",
        state_change="step: pending → complete | skipped | resolved_manually | error",
    ),
    _entry(
        events.StepReset,
        "task",
        outcome=True,
        emitted_when="An operator asked for a further try of a step that failed or waits for a retry, or for one of all "
        "failed steps of a task. Its next `step.enqueued` (`child.requested`, `signal.awaited`) is in the same append, "
        "unless the task is paused or its batch has no room.",
        state_change="step: error | waiting_for_retry → pending; task: blocked_by_failures → steps_in_process. The "
        "batches that were cancelled with it → pending, once no other of its batch has failed",
    ),
    _entry(
        events.StepResolvedManually,
        "task",
        outcome=True,
        emitted_when="An operator resolved a step that was not done. A decision chooses no branch with it, a batchable "
        "step cuts no batches: their events follow in the same append.",
        state_change="step: pending | enqueued | in_progress | waiting_for_retry | waiting_for_signal | error → "
        "resolved_manually; task: blocked_by_failures → steps_in_process",
    ),
    _entry(
        events.StepCompletedManually,
        "task",
        outcome=True,
        emitted_when="An operator completed a step that was not done, with its result.",
        state_change="step: pending | enqueued | in_progress | waiting_for_retry | waiting_for_signal | error → "
        "complete; task: blocked_by_failures → steps_in_process",
    ),
    _entry(
        events.StepDomainEventRefused,
        "task",
        outcome=True,
        emitted_when="A handler published a domain event that its template does not declare, or a payload that cannot "
        "be sent or does not fit its schema; in the same append as what became of the try.",
        state_change="none",
    ),
    _entry(
        events.DomainPublished,
        "task",
        outcome=True,
        emitted_when="A try ended as the `condition` of an event in the step's `publishes_events` says, or its handler "
        "published an event itself; in the same append as what became of the try. On the signal feed its subject ends "
        "in `domain.<name>`.",
        state_change="none",
    ),
    _entry(
        events.DecisionRouted,
        "task",
        outcome=True,
        emitted_when="A decision step completed with branches; in the same append as its `step.completed`, before "
        "the `step.enqueued` of what can start at once.",
        state_change="steps: (none) → pending, for those created",
    ),
    _entry(
        events.DecisionDeclined,
        "task",
        outcome=True,
        emitted_when="A decision step completed without branches; in the same append as its `step.completed`.",
        state_change="none; its branches can never exist",
    ),
    _entry(
        events.BatchCreated,
        "task",
        outcome=True,
        emitted_when="A batchable step completed; in the same append as its `step.completed`. With nothing to do it "
        "says `is_no_op`, and one placeholder step is made, whose dispatch says so too.",
        state_change="steps: (none) → pending, for the workers and for those created",
    ),
    _entry(
        events.BatchCompleted,
        "task",
        outcome=True,
        emitted_when="The last worker step of a batch ended and what depends on them may go on: all completed, or "
        "the template says `continue_on_failure` and at least one did.",
        state_change="none; the steps that depend on the worker step have one dependency less",
    ),
    _entry(
        events.BatchStopped,
        "task",
        outcome=True,
        emitted_when="A worker step failed for good and the template says `fail_fast`; in the same append as its "
        "`step.failed`.",
        state_change="worker steps: pending | waiting_for_retry → cancelled",
    ),
    _entry(
        events.SignalAwaited,
        "task",
        outcome=True,
        emitted_when="A step with `wait_for_signal` became ready.",
        state_change="step: pending → waiting_for_signal",
    ),
    _entry(
        events.SignalReceived,
        "task",
        outcome=True,
        emitted_when="A signal was sent to the task and some step waits for it or may still do so. Where one waits, "
        "its `step.completed` follows in the same append.",
        state_change="none",
    ),
    _entry(
        events.SignalTimedOut,
        "task",
        outcome=True,
        emitted_when="The time of a wait ran out. A `step.completed` with the template's default or a `step.failed` "
        "follows in the same append.",
        state_change="none (the event after it moves the step)",
    ),
    _entry(
        events.ChildRequested,
        "task",
        outcome=True,
        emitted_when="A step with `child_task` became ready. The order goes to the child's shard after the commit; "
        "the child's id follows from the step and the try, so an order that comes twice starts one child.",
        state_change="step: pending | waiting_for_retry → in_progress",
    ),
    _entry(
        events.ChildCancelRequested,
        "task",
        outcome=False,
        emitted_when="The parent was cancelled or its step ran out of time while a child ran, and the template does "
        "not say `parent_close: abandon`.",
        state_change="none",
    ),
    _entry(
        events.CompensationStarted,
        "task",
        outcome=True,
        emitted_when="Nothing of the task can go on, a step has failed for good, and there is something to undo: "
        "the template says `on_failure: compensate` (the default where a step declares a compensation), or the "
        "failure itself named what to undo.",
        state_change="task: steps_in_process | waiting_for_retry → compensating",
    ),
    _entry(
        events.CompensationCompleted,
        "task",
        outcome=True,
        emitted_when="The handler of a compensation reported success.",
        state_change="step: compensating → compensated",
    ),
    _entry(
        events.CompensationFailed,
        "task",
        outcome=True,
        emitted_when="A compensation failed for good or used up its tries.",
        state_change="step: compensating → complete, marked `requires_manual_cleanup`",
    ),
    _entry(
        events.ConcurrencyRequested,
        "task",
        outcome=False,
        emitted_when="A try is ready, or the task is, and its template limits how many run at once.",
        state_change="step: pending | waiting_for_retry → held; an empty step name: the task waits",
    ),
    _entry(
        events.ConcurrencyGranted,
        "task",
        outcome=False,
        emitted_when="The gate answered. In the same append the try goes on, or the task's first steps begin.",
        state_change="none; the event after it says where the step goes on",
    ),
    _entry(
        events.ConcurrencyReleased,
        "task",
        outcome=False,
        emitted_when="The try that had the slot, or waited for it, is over, or the task is; or it waits for a worker with its handler; in the same append as the event that ends it.",
        state_change="none",
    ),
    _entry(
        events.CircuitHeld,
        "task",
        outcome=False,
        emitted_when="A try is ready while the circuit of its service is known not to be closed.",
        state_change="step: pending | waiting_for_retry | held → held",
    ),
    _entry(
        events.CircuitAdmitted,
        "task",
        outcome=False,
        emitted_when="The circuit has closed, or lets this try out as a probe.",
        state_change="none; the event after it says where the step goes on",
    ),
    _entry(
        events.CircuitLeft,
        "task",
        outcome=False,
        emitted_when="A probe has ended or waits for a worker with its handler, or a held try is over.",
        state_change="none",
    ),
    _entry(
        events.RateHeld,
        "task",
        outcome=False,
        emitted_when="A try is ready in a namespace that has a rate.",
        state_change="step: pending | waiting_for_retry | held → held",
    ),
    _entry(
        events.RateAdmitted,
        "task",
        outcome=False,
        emitted_when="It is the try's turn.",
        state_change="none; the event after it says where the step goes on",
    ),
    _entry(
        events.RateLeft,
        "task",
        outcome=False,
        emitted_when="A try that waited for its turn is over.",
        state_change="none",
    ),
    _entry(
        events.TemplateRegistered,
        "system",
        outcome=True,
        emitted_when="A template version was registered for the first time. The same content again emits nothing.",
        state_change="template version: (none) → registered",
    ),
    _entry(
        events.ShardAcquired,
        "system",
        outcome=False,
        emitted_when="An orchestrator took the lease of a shard; the epoch is new.",
        state_change="shard: free or expired → owned",
    ),
    _entry(
        events.ShardReleased,
        "system",
        outcome=False,
        emitted_when="An orchestrator that shuts down gave the lease back. One that dies emits nothing.",
        state_change="shard: owned → free",
    ),
    _entry(
        events.SlotsOpened,
        "system",
        outcome=False,
        emitted_when="The first event of the stream of these slots.",
        state_change="none",
    ),
    _entry(
        events.SlotsQueued,
        "system",
        outcome=False,
        emitted_when="Somebody asked while all slots were taken, or others waited before.",
        state_change="none",
    ),
    _entry(
        events.SlotsGranted,
        "system",
        outcome=False,
        emitted_when="A slot was free and it was the asker's turn.",
        state_change="none",
    ),
    _entry(
        events.SlotsFreed,
        "system",
        outcome=False,
        emitted_when="The holder has ended, or who waited is gone.",
        state_change="none",
    ),
    _entry(
        events.BreakerWatched,
        "system",
        outcome=False,
        emitted_when="The first event of a circuit's stream.",
        state_change="circuit: (none) → closed",
    ),
    _entry(
        events.BreakerFailureCounted,
        "system",
        outcome=False,
        emitted_when="A try of a step with a circuit breaker failed with `retryable_error`, `timeout` or `handler_error` while the circuit was closed.",
        state_change="none",
    ),
    _entry(
        events.BreakerOpened,
        "system",
        outcome=True,
        emitted_when="As many failures as the threshold fell into the window, a probe failed, or an operator said so.",
        state_change="circuit: closed | half_open → open",
    ),
    _entry(
        events.BreakerHalfOpened,
        "system",
        outcome=True,
        emitted_when="The time for which the circuit opened is over.",
        state_change="circuit: open → half_open",
    ),
    _entry(
        events.BreakerClosed,
        "system",
        outcome=True,
        emitted_when="Every probe that was let out has succeeded, or an operator said so.",
        state_change="circuit: half_open | open → closed",
    ),
    _entry(
        events.BreakerQueued,
        "system",
        outcome=False,
        emitted_when="A try asked while the circuit was not closed.",
        state_change="none",
    ),
    _entry(
        events.BreakerPassed,
        "system",
        outcome=False,
        emitted_when="The circuit closed, or a probe may go out.",
        state_change="none",
    ),
    _entry(
        events.BreakerDequeued,
        "system",
        outcome=False,
        emitted_when="A probe has ended, or who waited is gone.",
        state_change="none",
    ),
    _entry(
        events.ThrottleOpened,
        "system",
        outcome=False,
        emitted_when="The first event of the stream of a namespace's rate.",
        state_change="none",
    ),
    _entry(
        events.ThrottleQueued,
        "system",
        outcome=False,
        emitted_when="A try asked while the namespace had begun as many steps as it may.",
        state_change="none",
    ),
    _entry(
        events.ThrottlePassed,
        "system",
        outcome=False,
        emitted_when="The pace allowed one more step, and it was the asker's turn.",
        state_change="none",
    ),
    _entry(
        events.ThrottleDequeued,
        "system",
        outcome=False,
        emitted_when="Who waited is gone.",
        state_change="none",
    ),
    _entry(
        events.ScheduleCreated,
        "system",
        outcome=True,
        emitted_when="A create request passed validation. The same request again emits nothing.",
        state_change="schedule: (none) or deleted → active",
    ),
    _entry(
        events.ScheduleUpdated,
        "system",
        outcome=False,
        emitted_when="A create request with `replace` has other settings than the schedule.",
        state_change="schedule: its next firing is that of the new settings",
    ),
    _entry(
        events.SchedulePaused,
        "system",
        outcome=False,
        emitted_when="Somebody paused the schedule.",
        state_change="schedule: active → paused",
    ),
    _entry(
        events.ScheduleResumed,
        "system",
        outcome=False,
        emitted_when="Somebody resumed the schedule.",
        state_change="schedule: paused → active",
    ),
    _entry(
        events.ScheduleFired,
        "system",
        outcome=True,
        emitted_when="The moment of a firing came, one that waited may begin, somebody triggered it, or a backfill goes on.",
        state_change="schedule: the task counts as running",
    ),
    _entry(
        events.ScheduleDeferred,
        "system",
        outcome=False,
        emitted_when="A firing met a running task, and the policy is `buffer_one` or `cancel_running`.",
        state_change="schedule: one firing waits",
    ),
    _entry(
        events.ScheduleSkipped,
        "system",
        outcome=True,
        emitted_when="Firings fell to the overlap policy, to a pause, or to an outage longer than the catch-up window.",
        state_change="schedule: its next firing is later",
    ),
    _entry(
        events.ScheduleFiringFailed,
        "system",
        outcome=True,
        emitted_when="The template is not there, or does not take the context.",
        state_change="schedule: the task does not count as running any more",
    ),
    _entry(
        events.ScheduleTaskEnded,
        "system",
        outcome=False,
        emitted_when="The owner of the task's shard said so.",
        state_change="schedule: the task does not count as running any more",
    ),
    _entry(
        events.ScheduleTaskCancelRequested,
        "system",
        outcome=False,
        emitted_when="A firing met a running task, and the policy is `cancel_running`.",
        state_change="none",
    ),
    _entry(
        events.ScheduleBackfillRequested,
        "system",
        outcome=False,
        emitted_when="Somebody asked for a backfill.",
        state_change="schedule: the range is worked off",
    ),
    _entry(
        events.ScheduleBackfillCompleted,
        "system",
        outcome=True,
        emitted_when="The last task of the range has ended.",
        state_change="none",
    ),
    _entry(
        events.ScheduleDeleted,
        "system",
        outcome=True,
        emitted_when="Somebody deleted the schedule.",
        state_change="schedule: any → deleted",
    ),
    _entry(
        events.BulkRequested,
        "system",
        outcome=True,
        emitted_when="A bulk operation was asked for.",
        state_change="bulk operation: begins",
    ),
    _entry(
        events.BulkSelected,
        "system",
        outcome=False,
        emitted_when="The orchestrator has read the next page of the filter.",
        state_change="bulk operation: these tasks are to be acted on",
    ),
    _entry(
        events.BulkProgressed,
        "system",
        outcome=False,
        emitted_when="Every task of the page has answered.",
        state_change="bulk operation: these tasks are done",
    ),
    _entry(
        events.BulkCompleted,
        "system",
        outcome=True,
        emitted_when="Nothing more matches the filter, or `tasks_max` is reached.",
        state_change="bulk operation: running → complete",
    ),
    _entry(
        events.BulkCancelled,
        "system",
        outcome=True,
        emitted_when="Somebody stopped the bulk operation.",
        state_change="bulk operation: running → cancelled",
    ),
)

#: Every event type by its name, in the order of `events.EVENT_TYPES`.
CATALOGUE: Final[dict[str, CatalogueEntry]] = {entry.type: entry for entry in _ENTRIES}

#: The event types that the signal feed carries by default.
OUTCOME_TYPES: Final[frozenset[str]] = frozenset(entry.type for entry in _ENTRIES if entry.outcome)

_INTRODUCTION = """\
# Events

Generated from `stepweave_schemas.catalogue` by `python -m stepweave_schemas`; do not edit.

Every change of state is one immutable event, named `<entity>.<verb>` in the past tense. An event travels in an
envelope (`schemas/json/envelope.schema.json`); the tables below describe the envelope's `data`. Fields may be
added later, so readers ignore what they do not know.

- **Log feed** `sw.log.<shard>`: every event, in arrays of bounded size, positions without gaps.
- **Signal feed** `sw.evt.<namespace>.<template>.<task_id>.<entity>.<verb>`: single events, by default those
  marked *signal* here.
"""


def render_markdown() -> str:
    """The catalogue as the page `docs/reference/events.md`."""
    lines = [_INTRODUCTION, "| event | stream | feeds | state change |", "|---|---|---|---|"]
    for entry in CATALOGUE.values():
        anchor = entry.type.replace(".", "")
        feeds = "log, signal" if entry.outcome else "log"
        lines.append(
            f"| [`{entry.type}`](#{anchor}) | {entry.stream} | {feeds} | {_cell(entry.state_change)} |"
        )
    for entry in CATALOGUE.values():
        lines += ["", *_section(entry)]
    return "\n".join(lines) + "\n"


def _section(entry: CatalogueEntry) -> list[str]:
    schema = event_schema(entry.type)
    file_name = schema_file_name(f"event.{entry.type}")
    lines = [
        f"## {entry.type}",
        "",
        entry.meaning,
        "",
        f"*Emitted when:* {entry.emitted_when}",
        "",
        f"*State change:* {entry.state_change}",
        "",
        f"Schema: [`{file_name}`](../../schemas/json/{file_name})",
        "",
        "| field | type | meaning |",
        "|---|---|---|",
    ]
    for name, field in schema["properties"].items():
        optional = "" if name in schema["required"] else ", optional"
        lines.append(f"| `{name}` | {_cell(_type_text(field))}{optional} | {_cell(_field_text(field))} |")
    return lines


def _type_text(field: dict[str, Any]) -> str:
    """The JSON type of a field in a word or two."""
    if "const" in field:
        return f'`"{field["const"]}"`'
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    kinds = field.get("type", "any JSON")
    return " | ".join(kinds) if isinstance(kinds, list) else str(kinds)


def _field_text(field: dict[str, Any]) -> str:
    text = str(field.get("description", ""))
    if field.get("default") not in (None, "", [], {}):
        text = f"{text} Default `{field['default']}`.".strip()
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
