"""OpenTelemetry: one trace from the client's request to the handler. Nothing is done where nobody records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from stepweave_schemas.dispatch import Dispatch

from .results import StepHandlerResult

_propagator = TraceContextTextMapPropagator()


def tracing_enabled() -> bool:
    """Whether this process has set up a tracer provider."""
    provider = trace.get_tracer_provider()
    return not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def current_traceparent() -> str | None:
    """The W3C `traceparent` of the span that is open here; None where there is none."""
    if not trace.get_current_span().get_span_context().is_valid:
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


class HandlerSpans:
    """Opens a span around each handler that continues the trace of the task's request."""

    def __init__(self) -> None:
        self.enabled = tracing_enabled()
        self._tracer = trace.get_tracer("stepweave") if self.enabled else None

    @contextmanager
    def span(self, dispatch: Dispatch) -> Iterator[Span]:
        """A span for one try; only where `enabled`."""
        assert self._tracer is not None, "spans are opened only where they are recorded"
        parent = None
        if dispatch.traceparent:
            parent = _propagator.extract({"traceparent": dispatch.traceparent})
        with self._tracer.start_as_current_span(
            f"step {dispatch.step_name}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={
                "stepweave.namespace": dispatch.namespace,
                "stepweave.task_name": dispatch.task_name,
                "stepweave.task_uuid": dispatch.task_id,
                "stepweave.step_name": dispatch.step_name,
                "stepweave.step_uuid": dispatch.step_uuid,
                "stepweave.handler": dispatch.handler,
                "stepweave.attempt": dispatch.attempt,
                "stepweave.correlation_id": dispatch.correlation_id,
            },
        ) as span:
            yield span

    def finish(self, span: Span, result: StepHandlerResult) -> None:
        """Say on the span how the try ended."""
        if result.is_success:
            span.set_status(StatusCode.OK)
            return
        span.set_status(StatusCode.ERROR, result.error_message[:500])
        if result.error_type is not None:
            span.set_attribute("stepweave.error_type", result.error_type.value)
        if result.error_code is not None:
            span.set_attribute("stepweave.error_code", result.error_code)
        span.set_attribute("stepweave.retryable", result.retryable)
