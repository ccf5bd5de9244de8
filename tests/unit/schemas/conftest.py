"""One or more real messages for every schema document."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from stepweave_schemas import api, events, result
from stepweave_schemas.bulk import BulkFilter
from stepweave_schemas.dispatch import Dispatch, StepCheckpoint
from stepweave_schemas.envelope import Envelope, timestamp
from stepweave_schemas.identity import step_uuid
from stepweave_schemas.schedule import ClosedSpec, ClosedTask, ClosedTiming

TASK_ID: Final = "0198c0de-0000-7000-8000-000000000001"
STEP_UUID: Final = step_uuid(TASK_ID, "greet")
CONTEXT: Final = msgspec.Raw(b'{"name": "Ada", "tags": [1, null]}')

_REF = events.TemplateRef(namespace="default", name="greeting", version="1.0.0", hash="sha256:00ff")
_STEP: Final[dict[str, Any]] = {"step_name": "greet", "step_uuid": STEP_UUID, "attempt": 1}
_TASK: Final[dict[str, Any]] = {"task_name": "greeting", "namespace": "default"}
_NAMED: Final[dict[str, Any]] = {"step_name": "greet", "step_uuid": STEP_UUID}
_PARENT: Final = events.ParentLink(
    task_id="0198c0de-0000-7000-8000-000000000009",
    step_name="start_it",
    step_uuid=step_uuid("0198c0de-0000-7000-8000-000000000009", "start_it"),
    attempt=1,
    lease_token="token",
    result_subject="sw.res.billing.3.0198c0de-0000-7000-8000-000000000009",
)
_GATE: Final[dict[str, Any]] = {"gate_id": "0198c0de-0000-7000-8000-00000000000a", "token": "token"}
_WAITER: Final[dict[str, Any]] = {"task_id": TASK_ID, "step_name": "greet", "token": "token"}
_FAULT: Final[dict[str, Any]] = {"error_type": "handler_error", "error_message": "boom", "worker_id": "w-1"}

SCHEDULE_ID: Final = "0198c0de-0000-8000-8000-000000000002"
_SPEC: Final = ClosedSpec(
    cron="0 6 * * *",
    time_zone="Europe/Berlin",
    jitter_seconds=60,
    overlap="buffer_one",
    task=ClosedTask(name="greeting", context=CONTEXT, tags=("daily",)),
)

EVENTS: Final[list[events.Event]] = [
    events.TaskCreated(template=_REF, context=CONTEXT, request_digest="sha256:11"),
    events.TaskCreated(
        template=_REF,
        context=CONTEXT,
        request_digest="sha256:11",
        request_id=TASK_ID,
        initiator="someone",
        tags=("a", "b"),
        priority=-100,
        parent_correlation_id="parent",
        start_at_ms=1,
        options=msgspec.Raw(b"{}"),
        parent=_PARENT,
        depth=1,
    ),
    events.TaskStarted(start_at_ms=1),
    events.DomainPublished(
        **_STEP,
        **_TASK,
        name="order.paid",
        payload=msgspec.Raw(b'{"order":7}'),
        outcome="success",
        template_version="1.0.0",
    ),
    events.StepDomainEventRefused(
        **_STEP, name="order.paid", refusal="undeclared", message="no such event", worker_id="w-1"
    ),
    events.TaskBlocked(**_TASK, failed_steps=("greet",), unreachable_steps_count=0, error_message="boom"),
    events.TaskCompleted(
        **_TASK, template_version="1.0.0", context=CONTEXT, steps_completed=4, duration_ms=12
    ),
    events.TaskFailed(**_TASK, context=CONTEXT, failed_steps=("greet",), error_message="", error_code="E"),
    events.TaskFailed(
        **_TASK,
        context=CONTEXT,
        failed_steps=("greet",),
        error_message="boom",
        compensation_status="partial",
        requires_manual_cleanup=("reserve",),
    ),
    events.TaskCancelled(**_TASK, reason="no need", cancelled_by="someone", cancelled_steps=("greet",)),
    events.TaskStale(
        **_TASK,
        threshold="handler_missing",
        status="steps_in_process",
        since_ms=1,
        limit_ms=60_000,
        action="alert",
        waiting_for=("greet",),
        missing_handlers=("say_hello",),
    ),
    events.TaskInvestigated(
        number=1,
        resolution_status="manually_resolved",
        resolution_notes="paid by hand",
        resolved_by="ada",
        metadata=msgspec.Raw(b'{"ticket":7}'),
    ),
    events.StepEnqueued(**_STEP, lease_token="token"),
    events.StepStarted(**_STEP, worker_id="w-1", started_at_ms=1),
    events.StepCompleted(**_STEP, result=msgspec.Raw(b"[1]"), worker_id="w-1", metadata=msgspec.Raw(b"{}")),
    events.StepRetryScheduled(**_STEP, **_FAULT, delay_ms=0, retry_at_ms=5, delay_source="backoff"),
    events.StepFailed(**_STEP, **_FAULT, **_TASK, failure_reason="permanent", context=CONTEXT),
    events.StepFailed(
        **_STEP,
        **_FAULT,
        **_TASK,
        failure_reason="permanent",
        context=CONTEXT,
        tolerated=True,
        compensation_steps=("reserve",),
    ),
    events.StepReleased(**_STEP, worker_id="w-1"),
    events.StepResultRefused(**_STEP, outcome="success", refusal="stale_attempt", worker_id="w-1"),
    events.StepCheckpointed(
        **_STEP,
        worker_id="w-1",
        cursor=msgspec.Raw(b"250"),
        items_processed=250,
        accumulated_results=CONTEXT,
    ),
    events.StepSkipped(**_NAMED, reason="no_branches"),
    events.StepReused(
        **_NAMED, result=CONTEXT, from_task_id=TASK_ID, from_step_uuid=STEP_UUID, from_attempt=2
    ),
    events.StepReused(
        **_NAMED,
        status="error",
        from_task_id=TASK_ID,
        from_step_uuid=STEP_UUID,
        from_attempt=3,
        undone_by_original=True,
        error_type="timeout",
        error_message="no answer",
        error_code="STEP_TIMEOUT",
    ),
    events.StepSkipped(**_NAMED, reason="operator", skipped_by="ada", explanation="no need", request_id="r"),
    events.StepReset(**_STEP, reason="it is mended", reset_by="ada", request_id="r"),
    events.StepResolvedManually(**_NAMED, attempt=0, reason="", resolved_by=""),
    events.StepCompletedManually(
        **_STEP,
        result=msgspec.Raw(b"[1]"),
        metadata=msgspec.Raw(b'{"ticket":7}'),
        reason="done",
        completed_by="ada",
    ),
    events.TaskPaused(reason="wait", paused_by="ada", request_id="r"),
    events.TaskResumed(reason="", resumed_by="ada"),
    events.TaskGivenUp(reason="no use", given_up_by="ada"),
    events.TaskResolvedManually(**_TASK, reason="done", resolved_by="ada", cancelled_steps=("greet",)),
    events.DecisionRouted(**_NAMED, chosen=("a",), created=("a", "b")),
    events.DecisionRouted(
        **_NAMED, chosen=("a",), created=("a", "b"), excluded=("c",), routing_context=CONTEXT
    ),
    events.DecisionDeclined(**_NAMED, reason="nothing to route", excluded=("a", "b")),
    events.BatchCreated(
        **_NAMED, worker_template="import", cursors=(msgspec.Raw(b"1"), CONTEXT), created=("merge",)
    ),
    events.BatchCreated(**_NAMED, worker_template="import", cursors=(), is_no_op=True, reason="no rows"),
    events.BatchCompleted(worker_template="import", succeeded_count=2, failed_count=1),
    events.BatchStopped(worker_template="import", failed_step="import_002", cancelled_count=7),
    events.SignalAwaited(**_NAMED, signal="approval", attempt=1),
    events.SignalAwaited(**_NAMED, signal="approval", attempt=1, deadline_at_ms=1_769_860_800_000),
    events.SignalReceived(signal="approval", signal_id="mail-17", payload=CONTEXT, sent_by="ada"),
    events.SignalTimedOut(**_NAMED, signal="approval", used_default=True),
    events.ChildRequested(
        **_STEP,
        lease_token="token",
        child_task_id=TASK_ID,
        namespace="payments",
        name="refund",
        version="1.0.0",
        context=CONTEXT,
        depth=1,
        problems=("${context.x} has no value",),
    ),
    events.ChildCancelRequested(**_NAMED, child_task_id=TASK_ID, reason="its parent was cancelled"),
    events.CompensationStarted(
        **_TASK,
        failed_steps=("greet",),
        error_message="boom",
        error_code="E",
        steps=("reserve", "charge"),
        handlers={"tell_them": "greet"},
    ),
    events.CompensationCompleted(
        **_STEP, compensates="reserve", result=CONTEXT, worker_id="w-1", requires_manual_cleanup=True
    ),
    events.CompensationFailed(**_STEP, **_FAULT, compensates="reserve", failure_reason="permanent"),
    events.ConcurrencyRequested(**_STEP, **_GATE, group="customer", value='"c-7"', limit=3),
    events.ConcurrencyRequested(
        step_name="", step_uuid=TASK_ID, attempt=1, **_GATE, group="task:greeting", value="null", limit=1
    ),
    events.ConcurrencyGranted(**_NAMED, **_GATE),
    events.ConcurrencyReleased(**_NAMED, **_GATE),
    events.CircuitHeld(**_STEP, **_GATE, service="bank"),
    events.CircuitAdmitted(**_NAMED, **_GATE, is_probe=True),
    events.CircuitLeft(**_NAMED, **_GATE, outcome="failure"),
    events.RateHeld(**_STEP, **_GATE, per_second=0.5),
    events.RateAdmitted(**_NAMED, **_GATE),
    events.RateLeft(**_NAMED, **_GATE),
    events.SlotsOpened(namespace="default", group="customer", value='"c-7"'),
    events.SlotsQueued(**_WAITER, limit=3, priority=-5, held_at_ms=1),
    events.SlotsGranted(**_WAITER, limit=3),
    events.SlotsFreed(**_WAITER),
    events.BreakerWatched(namespace="default", service="bank"),
    events.BreakerFailureCounted(
        task_id=TASK_ID,
        step_name="greet",
        step_uuid=STEP_UUID,
        attempt=1,
        error_type="timeout",
        error_message="no answer",
        failed_at_ms=1,
        window_ms=60_000,
    ),
    events.BreakerOpened(
        cause="threshold",
        failures_count=5,
        open_until_ms=2,
        half_open_max=1,
        open_ms=1,
        reason="no answer",
    ),
    events.BreakerHalfOpened(),
    events.BreakerClosed(cause="operator", reason="the bank called", closed_by="ada"),
    events.BreakerQueued(**_WAITER, priority=1, held_at_ms=1),
    events.BreakerPassed(**_WAITER, is_probe=True),
    events.BreakerDequeued(**_WAITER, outcome="success"),
    events.ThrottleOpened(namespace="default"),
    events.ThrottleQueued(**_WAITER, per_second=2.0, priority=1, held_at_ms=1),
    events.ThrottlePassed(**_WAITER, per_second=2.0, next_due_us=1_000),
    events.ThrottleDequeued(**_WAITER),
    events.TemplateRegistered(
        namespace="default", name="greeting", version="1.0.0", hash="sha256:00ff", content=CONTEXT
    ),
    events.ShardAcquired(shard=0, epoch=1, owner="one"),
    events.ShardReleased(shard=7, epoch=2, owner="one"),
    events.TaskCreated(
        template=_REF,
        context=CONTEXT,
        request_digest="sha256:11",
        schedule=events.ScheduleLink(schedule_id=SCHEDULE_ID, nominal_at_ms=1),
    ),
    events.ScheduleCreated(namespace="default", name="daily", spec=_SPEC, next_at_ms=1, created_by="ada"),
    events.ScheduleUpdated(spec=_SPEC),
    events.SchedulePaused(note="stock-taking", paused_by="ada"),
    events.ScheduleResumed(next_at_ms=1),
    events.ScheduleFired(
        task_id=TASK_ID, nominal_at_ms=1, cause="backfill", next_at_ms=2, request_id="b1", fired_by="ada"
    ),
    events.ScheduleDeferred(task_id=TASK_ID, nominal_at_ms=1, cause="regular"),
    events.ScheduleSkipped(reason="missed", count=100_000, first_at_ms=1, until_ms=2, next_at_ms=3),
    events.ScheduleFiringFailed(task_id=TASK_ID, nominal_at_ms=1, error_code="E", error_message="boom"),
    events.ScheduleTaskEnded(task_id=TASK_ID, nominal_at_ms=1, status="complete"),
    events.ScheduleTaskCancelRequested(task_id=TASK_ID, reason="overtaken"),
    events.ScheduleBackfillRequested(backfill_id="b1", from_ms=1, until_ms=9, count=2, concurrency=1),
    events.ScheduleBackfillCompleted(backfill_id="b1", fired_count=2),
    events.ScheduleDeleted(reason="moved", deleted_by="ada"),
    events.BulkRequested(
        bulk_id=TASK_ID,
        action="retry",
        filter=BulkFilter(namespace="default", status=("blocked_by_failures",), tag="a"),
        rate_per_second=2.5,
        tasks_max=100,
        reason="mended",
        requested_by="ada",
    ),
    events.BulkSelected(number=1, task_ids=(TASK_ID,), cursor_created_ms=1, cursor_task_id=TASK_ID),
    events.BulkProgressed(
        number=1,
        applied_count=0,
        refused=(events.BulkRefused(task_id=TASK_ID, code="CONFLICT", reason="no"),),
    ),
    events.BulkCompleted(applied_count=0, refused_count=1, limit_reached=True),
    events.BulkCancelled(reason="enough", cancelled_by="ada"),
]

ENVELOPES: Final = [
    Envelope(
        shard=3,
        position=position,
        task_id=TASK_ID,
        version=position,
        type=event.TYPE,
        schema_version=1,
        recorded_at=timestamp(1_769_860_800_000),
        correlation_id=TASK_ID,
        causation_id=TASK_ID,
        actor="",
        data=msgspec.Raw(msgspec.json.encode(event)),
    )
    for position, event in enumerate(EVENTS, start=1)
]

_ORDER: Final[dict[str, Any]] = {
    **_STEP,
    **_TASK,
    "task_id": TASK_ID,
    "max_attempts": 3,
    "lease_token": "token",
    "template_version": "1.0.0",
    "handler": "say_hello",
    "correlation_id": TASK_ID,
    "result_subject": f"sw.res.billing_x2eeu.3.{TASK_ID}",
    "enqueued_at_ms": 1,
}
DISPATCHES: Final = [
    Dispatch(**_ORDER),
    Dispatch(
        **_ORDER,
        context=CONTEXT,
        initialization=CONTEXT,
        dependency_results={"a": msgspec.Raw(b"null"), "b": CONTEXT},
        dependency_results_complete=False,
        timeout_ms=5_000,
    ),
    Dispatch(
        **_ORDER,
        step_inputs=msgspec.Raw(b'{"cursor":1,"batch_id":"001","batch_count":2,"is_no_op":false}'),
        checkpoint=StepCheckpoint(
            cursor=msgspec.Raw(b"250"), items_processed=250, accumulated_results=CONTEXT
        ),
        compensates="reserve",
        compensates_step_uuid=STEP_UUID,
    ),
]

_TRY: Final[dict[str, Any]] = {**_STEP, "task_id": TASK_ID, "lease_token": "token", "worker_id": "w-1"}

OUTCOMES: Final[list[result.AnyOutcome]] = [
    result.Started(**_TRY, started_at_ms=1),
    result.Success(**_TRY),
    result.Success(**_TRY, result=CONTEXT, metadata=CONTEXT, started_at_ms=1, duration_ms=0),
    result.Success(
        **_TRY,
        domain_events=(
            result.DomainEvent(name="order.paid", payload=CONTEXT),
            result.DomainEvent(name="order.paid", problem="it is no JSON"),
        ),
    ),
    result.Failure(**_TRY, error_message="boom"),
    result.Failure(
        **_TRY,
        error_message="x" * result.ERROR_MESSAGE_CHARS_MAX,
        error_type="permanent_error",
        error_code="E",
        retryable=False,
        retry_after_ms=10,
        compensation_steps=("reserve",),
    ),
    result.Decided(**_TRY),
    result.Decided(**_TRY, create_steps=("a", "b"), result=CONTEXT, metadata=CONTEXT, duration_ms=1),
    result.Decided(**_TRY, reason="nothing to route"),
    result.Batches(**_TRY),
    result.Batches(
        **_TRY,
        cursors=(msgspec.Raw(b"1"), msgspec.Raw(b'"2026-01-31"'), CONTEXT),
        worker_template="import",
        result=CONTEXT,
        started_at_ms=1,
    ),
    result.Checkpointed(**_TRY),
    result.Checkpointed(**_TRY, cursor=msgspec.Raw(b"250"), items_processed=250, accumulated_results=CONTEXT),
    result.Released(**_TRY),
    result.Released(**_TRY, reason=result.HANDLER_MISSING),
    result.Lost(**_TRY, deliveries=2),
]

_CREATE = api.CreateTask(name="greeting", context=CONTEXT, tags=("a",), task_id=TASK_ID)

REQUESTS: Final[dict[str, list[api.Request]]] = {
    "task.create": [api.CreateTask(name="greeting"), _CREATE],
    "task.create_many": [api.CreateMany(tasks=(_CREATE, _CREATE))],
    "task.get": [api.GetTask(task_id=TASK_ID)],
    "task.list": [api.ListTasks(), api.ListTasks(status=("complete",), per_page=200)],
    "task.cancel": [api.CancelTask(task_id=TASK_ID, reason="no need")],
    "task.signal": [
        api.SignalTask(task_id=TASK_ID, signal="approval"),
        api.SignalTask(
            task_id=TASK_ID, signal="approval", payload=CONTEXT, signal_id="mail-17", sent_by="ada"
        ),
    ],
    "task.fork": [
        api.ForkTask(task_id=TASK_ID),
        api.ForkTask(task_id=TASK_ID, from_steps=("greet",), version="latest", context=CONTEXT, dry_run=True),
    ],
    "task.pause": [api.PauseTask(task_id=TASK_ID), api.PauseTask(task_id=TASK_ID, request_id=TASK_ID)],
    "task.resume": [api.ResumeTask(task_id=TASK_ID, resumed_by="ada")],
    "task.retry": [api.RetryTask(task_id=TASK_ID, reset_by="ada", reason="it is mended")],
    "task.give_up": [api.GiveUpTask(task_id=TASK_ID)],
    "task.resolve": [api.ResolveTask(task_id=TASK_ID, resolved_by="ada")],
    "step.update": [
        api.UpdateStep(task_id=TASK_ID, step="greet", action=action)
        for action in (
            api.ResetForRetry(reason="it is mended", reset_by="ada"),
            api.ResolveManually(),
            api.CompleteManually(completion_data=api.CompletionData(result=msgspec.Raw(b"7"))),
            api.Skip(skipped_by="ada"),
        )
    ],
    "task.results": [api.GetResults(task_id=TASK_ID), api.GetResults(task_id=TASK_ID, offset=9)],
    "task.events": [api.GetEvents(task_id=TASK_ID, limit=1_000)],
    "task.explain": [api.ExplainTask(task_id=TASK_ID), api.ExplainTask(task_id=TASK_ID, step="greet")],
    "gate.list": [api.ListGates(kind="slots"), api.ListGates(kind="circuit", status=("open",), page=2)],
    "gate.get": [api.GetGate(gate_id=TASK_ID)],
    "circuit.open": [api.OpenCircuit(namespace="default", service="bank", open_seconds=0.5, reason="moved")],
    "circuit.close": [api.CloseCircuit(namespace="default", service="bank", closed_by="ada")],
    "dlq.list": [
        api.ListDeadLetters(),
        api.ListDeadLetters(dlq_reason=("failures",), resolution_status=("pending",), is_open=True),
    ],
    "dlq.get": [api.GetDeadLetters(task_id=TASK_ID, dlq_entry_uuid=STEP_UUID)],
    "dlq.stats": [api.GetDeadLetterStats(namespace="default")],
    "dlq.investigation_queue": [api.GetInvestigationQueue(), api.GetInvestigationQueue(page=2, per_page=200)],
    "dlq.staleness": [api.GetStaleness(namespace="default")],
    "dlq.update": [
        api.UpdateDeadLetter(
            dlq_entry_uuid=STEP_UUID,
            resolution_status="manually_resolved",
            resolution_notes="paid by hand",
            resolved_by="ada",
            metadata=CONTEXT,
        )
    ],
    "template.register": [api.RegisterTemplate(content="name: greeting")],
    "template.validate": [api.ValidateTemplate(content="name: greeting", source="greeting.yaml")],
    "template.get": [api.GetTemplate(namespace="default", name="greeting")],
    "template.list": [api.ListTemplates()],
    "schedule.create": [api.CreateSchedule(name="daily", spec=_SPEC, replace=True, created_by="ada")],
    "schedule.get": [api.GetSchedule(name="daily")],
    "schedule.events": [api.GetScheduleEvents(name="daily", before_version=9, limit=3)],
    "schedule.list": [api.ListSchedules(), api.ListSchedules(namespace="jobs", status=("active",), limit=1)],
    "schedule.pause": [api.PauseSchedule(name="daily", note="stock-taking")],
    "schedule.resume": [api.ResumeSchedule(name="daily")],
    "schedule.trigger": [api.TriggerSchedule(name="daily", allow_overlap=True, trigger_id="t1")],
    "schedule.backfill": [
        api.BackfillSchedule(name="daily", from_at="2026-01-01T00:00:00Z", concurrency=3, dry_run=True)
    ],
    "schedule.delete": [api.DeleteSchedule(name="daily", reason="moved")],
    "bulk.start": [
        api.StartBulk(action="cancel", every_task=True, dry_run=True),
        api.StartBulk(
            action="retry",
            filter=BulkFilter(
                name="n",
                version="1.0.0",
                initiator="i",
                source_system="s",
                created_from="2026-01-31T12:00:00Z",
                created_before="2026-02-01T12:00:00Z",
            ),
            bulk_id=TASK_ID,
        ),
    ],
    "bulk.get": [api.GetBulk(bulk_id=TASK_ID)],
    "bulk.list": [api.ListBulks(), api.ListBulks(namespace="n", status=("running",), limit=1)],
    "bulk.tasks": [
        api.ListBulkTasks(bulk_id=TASK_ID),
        api.ListBulkTasks(bulk_id=TASK_ID, outcome="refused", from_version=7),
    ],
    "bulk.cancel": [api.CancelBulk(bulk_id=TASK_ID, reason="enough")],
    "schedule.preview": [api.PreviewSchedule(timing=ClosedTiming(every_seconds=60), count=3)],
}

_SUMMARY = api.StepSummary(
    workflow_step_uuid=STEP_UUID,
    task_uuid=TASK_ID,
    named_step_uuid=STEP_UUID,
    name="greet",
    current_state="waiting_for_retry",
    dependencies_satisfied=True,
    retry_eligible=True,
    ready_for_execution=False,
    last_failure_at=timestamp(0),
    next_retry_at=None,
    total_parents=0,
    completed_parents=0,
    attempts=1,
    max_attempts=3,
    backoff_request_seconds=0.5,
    last_attempted_at=None,
    child_task_uuid=TASK_ID,
    waiting_for_signal="approval",
    items_processed=250,
    requires_manual_cleanup=True,
    missing_handler="say_hello",
)
_COMMON: Final[dict[str, Any]] = {
    "task_uuid": TASK_ID,
    "name": "greeting",
    "namespace": "default",
    "version": "1.0.0",
    "status": "complete",
    "created_at": timestamp(0),
    "updated_at": timestamp(0),
    "completed_at": None,
    "initiator": "",
    "source_system": "",
    "reason": "",
    "priority": 0,
    "tags": ("a",),
    "correlation_id": TASK_ID,
    "parent_correlation_id": None,
    "total_steps": 1,
    "completed_steps": 1,
    "failed_steps": 0,
    "completion_percentage": 100.0,
}
_TASK_RESPONSE = api.TaskResponse(
    **_COMMON,
    context=CONTEXT,
    pending_steps=0,
    in_progress_steps=0,
    ready_steps=0,
    execution_status="all_complete",
    recommended_action=None,
    health_status="healthy",
    stream_version=4,
    compensation_status="partial",
    parent_task_uuid=TASK_ID,
    depth=1,
    forked_from=api.ForkedFrom(task_uuid=TASK_ID, stream_version=7, from_steps=("greet",)),
    signals_kept=("approval",),
    dlq_entry_uuid=STEP_UUID,
    stuck="no worker serves say_hello, for more than 60 s",
    steps=(_SUMMARY,),
)
_TEMPLATE = api.TemplateReply(
    namespace="default", name="greeting", version="1.0.0", hash="sha256:00", content=CONTEXT, created=True
)
_PAGINATION = api.Pagination(
    page=1, per_page=50, total_count=1, total_pages=1, has_next=False, has_previous=False
)
_LISTED_TEMPLATE = api.TemplateListItem(
    namespace="default",
    name="greeting",
    version="1.0.0",
    hash="sha256:00",
    description="",
    total_steps=1,
    registered_at=timestamp(0),
    registered_by="",
)

_GATE_ITEM = api.GateItem(
    gate_id=TASK_ID,
    kind="slots",
    namespace="default",
    name='customer="c-7"',
    status="full",
    updated_at=timestamp(0),
    summary={"limit": 1, "running": 1, "waiting": 1},
)
_GATE_REPLY = api.GateReply(
    gate=_GATE_ITEM,
    holders=(api.GateHolder(task_uuid=TASK_ID, step_name="", since=timestamp(0)),),
    waiting=(api.GateWaiter(task_uuid=TASK_ID, step_name="greet", since=timestamp(0), priority=-1),),
    holders_count=1,
    waiting_count=1,
    next_at=timestamp(0),
)
_ENTRY = api.DeadLetterEntry(
    dlq_entry_uuid=STEP_UUID,
    task_uuid=TASK_ID,
    namespace="default",
    name="greeting",
    version="1.0.0",
    priority=0,
    correlation_id=TASK_ID,
    dlq_reason="staleness",
    original_state="steps_in_process",
    stream_version=4,
    dlq_timestamp=timestamp(0),
    age_seconds=60.0,
    priority_score=0.017,
    is_open=True,
    is_listed=True,
    error_message="boom",
    error_code=None,
    steps=("greet",),
    missing_handlers=("say_hello",),
    threshold="max_duration_seconds",
    since=timestamp(0),
    limit_seconds=60.0,
    resolution_status="pending",
    updated_at=timestamp(0),
    metadata=CONTEXT,
)
_ENTRIES = api.DeadLetterPage(entries=(_ENTRY,), pagination=_PAGINATION)
_FIRING: Final = api.FiringTime(at="2026-01-01T05:00:00.000Z", local="2026-01-01T06:00:00+01:00")
_RUN: Final = api.ScheduledRun(
    task_uuid=TASK_ID, at="2026-01-01T05:00:00.000Z", cause="regular", status="complete"
)
_SCHEDULE: Final = api.ScheduleResponse(
    schedule_id=SCHEDULE_ID,
    namespace="default",
    name="daily",
    status="paused",
    spec=_SPEC,
    created_at="2026-01-01T05:00:00.000Z",
    created_by="ada",
    updated_at="2026-01-01T05:00:00.000Z",
    paused_at="2026-01-01T05:00:00.000Z",
    paused_by="ada",
    note="stock-taking",
    next_firings=(_FIRING,),
    running=(_RUN,),
    running_count=1,
    waiting=_RUN,
    backfills=(
        api.BackfillView(
            backfill_id="b1",
            from_at="2026-01-01T05:00:00.000Z",
            until_at="2026-01-02T05:00:00.000Z",
            count=1,
            fired_count=0,
            concurrency=1,
        ),
    ),
    runs=(_RUN,),
    fired_count=1,
    skipped_count=0,
    failed_count=0,
    stream_version=2,
)
_BULK: Final = api.BulkResponse(
    bulk_id=TASK_ID,
    stream_id=SCHEDULE_ID,
    action="retry",
    filter=BulkFilter(namespace="default"),
    rate_per_second=2.0,
    tasks_max=10,
    status="running",
    refused=(api.BulkRefusal(task_uuid=TASK_ID, code="CONFLICT", reason="no"),),
    created_at="2026-01-01T00:00:00.000Z",
    updated_at="2026-01-01T00:00:00.000Z",
)
_LISTED_BULK: Final = api.BulkListItem(
    bulk_id=TASK_ID,
    action="retry",
    status="running",
    selected_count=1,
    applied_count=0,
    refused_count=1,
    created_at="2026-01-01T00:00:00.000Z",
)
_BULK_PREVIEW: Final = api.BulkPreview(
    matching_count=1,
    first=(
        api.BulkPreviewTask(
            task_uuid=TASK_ID, namespace="n", name="t", status="paused", refusal="it is paused"
        ),
    ),
)
_LISTED_SCHEDULE: Final = api.ScheduleListItem(
    schedule_id=SCHEDULE_ID,
    namespace="default",
    name="daily",
    status="active",
    when="0 6 * * * (Europe/Berlin)",
    template="default/greeting",
    next_at="2026-01-01T05:00:00.000Z",
)

_EXPLANATION = api.TaskExplanation(
    task_uuid=TASK_ID,
    status="waiting_for_retry",
    summary="default/greeting:1.0.0 is waiting_for_retry, 0 of 1 step done. Step greet waits for its retry.",
    findings=(
        api.ExplanationItem(
            code="waiting_for_retry",
            sentence="Step greet waits for its retry.",
            commands=(f"stepweave step reset {TASK_ID} greet",),
            step="greet",
            since=timestamp(0),
            until=None,
            alike_count=0,
            waiting_count=1,
            undecided_count=0,
            details={"error_code": "BUSY", "tries": 3},
        ),
    ),
    shard=api.ExplainedShard(
        shard=3, owner="orchestrator-1", lease_seconds=12.5, answered=True, commands_waiting=None
    ),
    from_ledger=False,
    unknown=("which workers are alive: NATS did not answer",),
    stream_version=4,
    explained_at=timestamp(0),
)

REPLIES: Final[dict[str, list[msgspec.Struct]]] = {
    "task.create": [api.CreateTaskReply(task=_TASK_RESPONSE, replayed=True)],
    "task.create_many": [
        api.CreateManyReply(
            tasks=(
                api.CreatedRef(task_id=TASK_ID),
                api.CreatedRef(error=api.ApiError("CONFLICT", "it exists").body()["error"]),
            )
        )
    ],
    "task.get": [_TASK_RESPONSE],
    "task.list": [api.TaskPage(tasks=(api.TaskListItem(**_COMMON),), pagination=_PAGINATION)],
    "task.cancel": [_TASK_RESPONSE],
    "task.signal": [
        api.SignalReply(task=_TASK_RESPONSE, signal_id="mail-17"),
        api.SignalReply(task=_TASK_RESPONSE, signal_id="mail-17", taken_by="approve", replayed=True),
    ],
    "task.fork": [
        api.ForkReply(
            task=_TASK_RESPONSE,
            forked_from=api.ForkedFrom(task_uuid=TASK_ID, stream_version=7),
            version="1.0.0",
            reused=("look_up",),
            reused_count=1,
            run=(api.StepToRun(step="greet", why="not_done"),),
            run_count=1,
        )
    ],
    "task.pause": [_TASK_RESPONSE],
    "task.resume": [_TASK_RESPONSE],
    "task.retry": [_TASK_RESPONSE],
    "task.give_up": [_TASK_RESPONSE],
    "task.resolve": [_TASK_RESPONSE],
    "step.update": [api.UpdateStepReply(task=_TASK_RESPONSE, step=_SUMMARY)],
    "task.results": [api.ResultsReply(results={"greet": CONTEXT}, next_offset=1)],
    "task.events": [api.EventsReply(events=(msgspec.Raw(msgspec.json.encode(ENVELOPES[0])),))],
    "task.explain": [_EXPLANATION],
    "gate.list": [api.GatePage(gates=(_GATE_ITEM,), has_next=True)],
    "gate.get": [_GATE_REPLY],
    "circuit.open": [_GATE_REPLY],
    "circuit.close": [_GATE_REPLY],
    "dlq.list": [_ENTRIES],
    "dlq.get": [
        api.TaskDeadLetters(entries=()),
        api.TaskDeadLetters(entries=(_ENTRY,), dlq_entry_uuid=STEP_UUID, task_snapshot=_TASK_RESPONSE),
    ],
    "dlq.stats": [
        api.DeadLetterStats(
            total_count=1,
            open_count=1,
            oldest_open_age_seconds=60.0,
            by_reason={"staleness": 1},
            by_resolution_status={"pending": 1},
            kinds=(
                api.DeadLetterKind(
                    namespace="default",
                    name="greeting",
                    dlq_reason="staleness",
                    resolution_status="pending",
                    count=1,
                    open_count=1,
                    oldest_open_at=timestamp(0),
                    oldest_open_age_seconds=60.0,
                    mean_seconds_to_resolution=None,
                ),
            ),
            missing_handlers=(
                api.MissingHandler(
                    namespace="default",
                    handler="greet",
                    task_count=2,
                    oldest_at=timestamp(0),
                    oldest_age_seconds=60.0,
                ),
            ),
        )
    ],
    "dlq.investigation_queue": [_ENTRIES],
    "dlq.staleness": [_ENTRIES],
    "dlq.update": [_ENTRY],
    "template.register": [_TEMPLATE],
    "template.validate": [api.ValidationReply(valid=False, problems=({"code": "UNKNOWN_KEY"},))],
    "template.get": [_TEMPLATE],
    "template.list": [api.TemplatePage(templates=(_LISTED_TEMPLATE,))],
    "schedule.create": [api.ScheduleReply(schedule=_SCHEDULE, created=True)],
    "schedule.get": [_SCHEDULE],
    "schedule.events": [api.ScheduleEventsReply(events=(msgspec.Raw(msgspec.json.encode(ENVELOPES[0])),))],
    "schedule.list": [api.SchedulePage(schedules=(_LISTED_SCHEDULE,), next_offset=1)],
    "schedule.pause": [_SCHEDULE],
    "schedule.resume": [_SCHEDULE],
    "schedule.trigger": [api.TriggerReply(schedule=_SCHEDULE, trigger_id="t1", run=_RUN)],
    "schedule.backfill": [api.BackfillReply(count=2, first=(_FIRING,), backfill_id="b1")],
    "schedule.delete": [api.DeletedReply(schedule_id=SCHEDULE_ID, running_count=1)],
    "bulk.start": [
        api.StartBulkReply(bulk=_BULK, replayed=True),
        api.StartBulkReply(preview=_BULK_PREVIEW),
    ],
    "bulk.get": [_BULK],
    "bulk.list": [api.BulkPage(bulks=(_LISTED_BULK,), next_offset=1)],
    "bulk.tasks": [
        api.BulkTasks(
            tasks=(
                api.BulkTask(task_uuid=TASK_ID, outcome="applied"),
                api.BulkTask(task_uuid=TASK_ID, outcome="refused", code="CONFLICT", reason="it has ended"),
            ),
            next_version=7,
        ),
        api.BulkTasks(tasks=()),
    ],
    "bulk.cancel": [_BULK],
    "schedule.preview": [api.PreviewReply(firings=(_FIRING,))],
}

_TEMPLATE_FILE: Final = {
    "namespace": "default",
    "name": "greeting",
    "version": "1.0.0",
    "steps": [
        {"name": "look_up", "handler": {"callable": "look_up"}},
        {"name": "greet", "handler": {"callable": "say_hello"}, "dependencies": ["look_up"]},
    ],
}


@pytest.fixture(scope="session")
def samples() -> dict[str, list[Any]]:
    """Messages by the name of the document that describes them, as decoded JSON."""
    found: dict[str, list[Any]] = {}
    for event in EVENTS:
        found.setdefault(f"event.{event.TYPE}", []).append(event)
    found["envelope"] = list(ENVELOPES)
    found["log_feed"] = [ENVELOPES]
    found["dispatch"] = list(DISPATCHES)
    found["outcome"] = list(OUTCOMES)
    found["outcomes"] = [OUTCOMES]
    found["cancel_notice"] = [{"task_id": TASK_ID, "step_uuids": [STEP_UUID]}]
    found["template"] = [_TEMPLATE_FILE]
    found["api.error"] = [
        api.ApiError("NOT_FOUND", "no such task").body(),
        api.ApiError("VALIDATION_FAILED", "two problems", violations=[{"pointer": "/name"}]).body(),
    ]
    for operation, requests in REQUESTS.items():
        found[f"api.{operation}.request"] = list(requests)
    for operation, replies in REPLIES.items():
        found[f"api.{operation}.reply"] = list(replies)
    return {name: msgspec.json.decode(msgspec.json.encode(values)) for name, values in found.items()}
