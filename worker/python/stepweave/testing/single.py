"""Running one handler without any server, through the code that the worker uses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from stepweave.context import StepContext
from stepweave.decisions import Decision
from stepweave.decorators import notes_of
from stepweave.encoding import encode_json
from stepweave.error_types import ErrorType
from stepweave.invocation import Invocation, invocation_of
from stepweave.published import as_read
from stepweave.results import StepHandlerResult
from stepweave.tracing import HandlerSpans
from stepweave.worker.execution import outcome_of
from stepweave.worker.held import HeldTry
from stepweave.worker.pool import TryPool
from stepweave_schemas.dispatch import Dispatch, StepCheckpoint
from stepweave_schemas.identity import step_uuid as step_uuid_of
from stepweave_schemas.mint import entropy, now_ms, uuid7
from stepweave_schemas.result import Batches, Checkpointed, Decided, Failure, Success

_WORKER_ID = "test-worker"


def make_dispatch(
    inputs: Any = None,
    *,
    dependencies: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    attempt: int = 1,
    max_attempts: int = 3,
    handler: str = "handler",
    method: str = "call",
    step_name: str = "step",
    task_name: str = "task",
    namespace: str = "default",
    task_uuid: str | None = None,
    correlation_id: str | None = None,
    priority: int = 0,
    timeout_seconds: float | None = None,
    step_inputs: Mapping[str, Any] | None = None,
    checkpoint: Mapping[str, Any] | StepHandlerResult | None = None,
    compensates: str = "",
) -> Dispatch:
    """A dispatch as the orchestrator would send it; raises `NotJson` where a value has no JSON form.

    `step_inputs` is what a batch works on (`{"cursor": ...}` is enough). `checkpoint` is what an earlier try saved:
    the result of that try, or `cursor`, `items_processed` and `accumulated_results` in a dict.
    """
    task_id = task_uuid or uuid7()
    return Dispatch(
        task_id=task_id,
        step_uuid=step_uuid_of(task_id, step_name),
        step_name=step_name,
        attempt=attempt,
        max_attempts=max_attempts,
        lease_token=entropy(),
        namespace=namespace,
        task_name=task_name,
        template_version="1.0.0",
        handler=handler,
        method=method,
        correlation_id=correlation_id or uuid7(),
        result_subject="sw.res.test.0.test",
        enqueued_at_ms=now_ms(),
        initialization=msgspec.Raw(encode_json({} if config is None else config, "config")),
        context=msgspec.Raw(encode_json({} if inputs is None else inputs, "inputs")),
        dependency_results={
            step: msgspec.Raw(encode_json(value, f"dependencies.{step}"))
            for step, value in (dependencies or {}).items()
        },
        priority=priority,
        timeout_ms=None if timeout_seconds is None else round(timeout_seconds * 1000),
        step_inputs=msgspec.Raw(encode_json({} if step_inputs is None else step_inputs, "step_inputs")),
        checkpoint=None if checkpoint is None else _checkpoint(checkpoint),
        compensates=compensates,
        compensates_step_uuid=step_uuid_of(task_id, compensates) if compensates else "",
    )


def _checkpoint(saved: Mapping[str, Any] | StepHandlerResult) -> StepCheckpoint:
    if not isinstance(saved, StepHandlerResult):
        saved = StepHandlerResult.checkpoint(**{"cursor": None, "items_processed": 0, **saved})
    elif not saved.is_checkpoint:
        raise ValueError(f"the result that is given as the checkpoint is none: {saved!r}")
    return StepCheckpoint(
        cursor=msgspec.Raw(encode_json(saved.checkpoint_cursor, "checkpoint.cursor")),
        items_processed=saved.checkpoint_items_processed,
        accumulated_results=msgspec.Raw(
            encode_json(saved.accumulated_results, "checkpoint.accumulated_results")
        ),
    )


def make_context(inputs: Any = None, **fields: Any) -> StepContext:
    """A context to call a handler with directly; takes what `make_dispatch` takes."""
    return StepContext(make_dispatch(inputs, **fields), worker_id=_WORKER_ID)


async def run_handler_async(
    handler: Any, inputs: Any = None, *, method: str | None = None, **fields: Any
) -> StepHandlerResult:
    """Run one try of a handler on this event loop; see `run_handler`."""
    notes = notes_of(handler)
    name = getattr(handler, "handler_name", None) or (notes.name if notes else None) or "handler"
    invocation = invocation_of(handler, name=name, method=method)
    dispatch = make_dispatch(inputs, handler=name, method=method or "call", **fields)
    return await run_dispatch(dispatch, invocation)


def run_handler(
    handler: Any, inputs: Any = None, *, method: str | None = None, **fields: Any
) -> StepHandlerResult:
    """Run one try of a handler, plain or async, function or class, and say how it ended.

        result = run_handler(charge_card, {"amount": 5}, dependencies={"validate_cart": {"total": 5}})
        assert result.is_success and result.result["status"] == "charged"

    `inputs` is the task's context; further arguments are those of `make_dispatch`: `dependencies` (results of
    earlier steps by name), `config`, `attempt`, `max_attempts`, `timeout_seconds`, `step_inputs` (of a batch),
    `checkpoint`, `compensates` and so on. The result has been to JSON and back, as dependent steps would read it:
    `is_decision` and `decision_steps` say what a decision chose, `is_batches` and `cursors` what an analyser cut,
    `is_checkpoint` and `checkpoint_cursor` what was saved, `compensation_steps` what a failure wants undone,
    `domain_events` what the handler published. Works inside a running event loop too, which then
    waits; use `run_handler_async` where the handler needs that loop.
    """

    def run() -> StepHandlerResult:
        return asyncio.run(run_handler_async(handler, inputs, method=method, **fields))

    if asyncio._get_running_loop() is None:
        return run()
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()


async def run_dispatch(dispatch: Dispatch, invocation: Invocation) -> StepHandlerResult:
    """Run one dispatch with a handler, as a worker with one slot would."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[StepHandlerResult] = loop.create_future()
    pool = TryPool(
        concurrency=1,
        threads_max=1,
        only_threads=False,
        announce_after_seconds=3600.0,
        spans=HandlerSpans(),
        on_result=lambda _, result: ended.set_result(result),
        on_dropped=lambda _: None,
        on_started=lambda _: None,
        on_room=lambda: None,
    )
    context = StepContext(dispatch, worker_id=_WORKER_ID)
    pool.add([HeldTry(dispatch, "", invocation, context, loop.time())])
    try:
        result = await ended
    finally:
        pool.close()
    domain_events = context.domain_events()
    return _as_read(outcome_of(dispatch, result, worker_id=_WORKER_ID, domain_events=domain_events))


def _as_read(outcome: Success | Failure | Decided | Batches | Checkpointed) -> StepHandlerResult:
    """An outcome as others read it: from its JSON."""
    read = _without_events(outcome)
    events = as_read(outcome.domain_events)
    return msgspec.structs.replace(read, domain_events=events) if events else read


def _without_events(outcome: Success | Failure | Decided | Batches | Checkpointed) -> StepHandlerResult:
    if isinstance(outcome, Checkpointed):
        return StepHandlerResult.checkpoint(
            msgspec.json.decode(outcome.cursor),
            outcome.items_processed,
            msgspec.json.decode(outcome.accumulated_results),
        )
    metadata = msgspec.json.decode(outcome.metadata) if len(bytes(outcome.metadata)) else {}
    if isinstance(outcome, Success):
        return StepHandlerResult.success(msgspec.json.decode(outcome.result), metadata)
    if isinstance(outcome, Decided):
        return Decision(
            is_success=True,
            result=msgspec.json.decode(outcome.result),
            metadata=metadata,
            decision_steps=list(outcome.create_steps),
            reason=outcome.reason,
        )
    if isinstance(outcome, Batches):
        return StepHandlerResult(
            is_success=True,
            result=msgspec.json.decode(outcome.result),
            metadata=metadata,
            cursors=[msgspec.json.decode(cursor) for cursor in outcome.cursors],
            worker_template=outcome.worker_template,
            reason=outcome.reason,
        )
    return StepHandlerResult.failure(
        outcome.error_message,
        ErrorType(outcome.error_type),
        outcome.retryable,
        error_code=outcome.error_code,
        metadata=metadata,
        retry_after=None if outcome.retry_after_ms is None else outcome.retry_after_ms / 1000,
        compensation_steps=outcome.compensation_steps,
    )
