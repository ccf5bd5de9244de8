"""The order to run one try of a step, as a worker of any language receives it."""

from __future__ import annotations

import msgspec

_EMPTY_OBJECT = msgspec.Raw(b"{}")


class Dispatch(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="dispatch"
):
    """One message on `sw.disp.<namespace>.<queue>.<class>`.

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
    method: str = "call"
    resolver: str | None = None
    #: The template's `handler.initialization`, a JSON object.
    initialization: msgspec.Raw = _EMPTY_OBJECT
    #: The task's context, a JSON object.
    context: msgspec.Raw = _EMPTY_OBJECT
    #: Results of ancestors by step name, the nearest first.
    dependency_results: dict[str, msgspec.Raw] = {}
    #: False where more ancestors have results than fit; ask `sw.api.v1.task.results` for the rest.
    dependency_results_complete: bool = True
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
