"""The order to run one try of a step, as a worker of any language receives it."""

from __future__ import annotations

import msgspec

#: The default of the fields that hold an object. One object for all: what is equal to it by identity is left out.
EMPTY_OBJECT = msgspec.Raw(b"{}")


class StepCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where an earlier try, or an earlier part of this one, saved its progress."""

    #: Where to go on: any JSON value.
    cursor: msgspec.Raw
    items_processed: int
    #: What the items done so far have come to: any JSON value.
    accumulated_results: msgspec.Raw


class Dispatch(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="dispatch"
):
    """One message on `sw.disp.<namespace>.<queue>.<class>.<lease_token>`.

    `(step_uuid, attempt)` names the try and `lease_token` proves that it was given out; a result carries all
    three. `step_uuid` alone is the idempotency key for effects outside.
    """

    task_id: str
    step_uuid: str
    step_name: str
    #: From 1; the try's number.
    attempt: int
    max_attempts: int
    lease_token: str
    namespace: str
    task_name: str
    template_version: str
    handler: str
    correlation_id: str
    #: Publish the result here.
    result_subject: str
    #: Milliseconds since the Unix epoch.
    enqueued_at_ms: int
    #: When the try was given out for the first time, where it was handed back since or goes on after a checkpoint.
    waiting_since_ms: int = 0
    method: str = "call"
    resolver: str | None = None
    #: The template's `handler.initialization`, a JSON object.
    initialization: msgspec.Raw = EMPTY_OBJECT
    #: The task's context, a JSON object.
    context: msgspec.Raw = EMPTY_OBJECT
    #: Results of ancestors by step name, the nearest first.
    dependency_results: dict[str, msgspec.Raw] = {}
    #: False where more ancestors have results than fit; ask `sw.api.v1.task.results` for the rest.
    dependency_results_complete: bool = True
    #: What this step works on besides the context, a JSON object. Of a batch worker: `cursor` (the analyser's value),
    #: `batch_id` (`001` …), `batch_count` and `is_no_op`; of it and of a batchable step: the template's `batch_config`.
    step_inputs: msgspec.Raw = EMPTY_OBJECT
    #: The step's last checkpoint; absent where there is none.
    checkpoint: StepCheckpoint | None = None
    #: The step that this one undoes; empty where it is no compensation.
    compensates: str = ""
    #: That step's uuid: the idempotency key that its effects outside were made with.
    compensates_step_uuid: str = ""
    priority: int = 0
    parent_correlation_id: str | None = None
    #: The worker cancels the handler after so many milliseconds; absent: no limit.
    timeout_ms: int | None = None
    traceparent: str | None = None


#: A worker refuses to be sent more than this; the orchestrator never sends more.
DISPATCH_BYTES_MAX = 960 * 1024
#: Bound of a task's context.
CONTEXT_BYTES_MAX = 256 * 1024
#: Bound of one step's result together with its metadata.
RESULT_BYTES_MAX = 256 * 1024
#: Bound of the ancestors' results that travel inside a dispatch.
INLINE_RESULTS_BYTES_MAX = 256 * 1024
#: Bound of the results of ancestors that are not direct dependencies, inside a dispatch.
INLINE_TRANSITIVE_RESULTS_MAX = 64
